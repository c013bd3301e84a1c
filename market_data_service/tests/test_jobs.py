"""app/jobs.py on a real database: whom a job belongs to, when it is due, and that nobody stores what another has taken over."""

from __future__ import annotations

import datetime
import threading
from typing import Any

import psycopg
import pytest

from app import database, jobs
from app.database import Connection, Steps
from app.jobs import Job, LeaseLostError

MINUTE = datetime.timedelta(minutes=1)
INTERVAL_MIN = 10
WAITERS = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def run(connection: Connection, steps: Steps[Any]) -> Any:
    """What the steps return, in a transaction of their own."""
    with connection.transaction():
        return database.run(connection, steps)


def add(db: Connection, symbol: str = "AAPL", due_s: float = 0.0, **columns: Any) -> Job:
    """A job with an interval of ten minutes that is due in `due_s` seconds, with some columns set."""
    (job,) = run(db, jobs.upsert([symbol], "replay", INTERVAL_MIN, False))
    change(db, job.id, next_run_at=now(db) + datetime.timedelta(seconds=due_s), **columns)
    return get(db, job.id)


def change(db: Connection, job_id: int, **columns: Any) -> None:
    """Set columns of a job."""
    for name, value in columns.items():
        db.execute(f"UPDATE polling_job_configs SET {name} = %s WHERE id = %s", (value, job_id))


def get(db: Connection, job_id: int) -> Job:
    job = run(db, jobs.get(job_id))
    assert job is not None
    return job


def lease(db: Connection, owner: str = "one", limit: int = 10) -> list[Job]:
    return run(db, jobs.lease(owner, limit))


def now(db: Connection) -> datetime.datetime:
    """The database's clock."""
    return db.execute("SELECT clock_timestamp() AS now").fetchone()["now"]


def wait_s(db: Connection, job_id: int) -> float:
    """Seconds until the job is due."""
    return (get(db, job_id).next_run_at - now(db)).total_seconds()


# --- making, changing, removing ------------------------------------------------------------------------------------


def test_a_new_job_is_active_and_due_at_once(db):
    (job,) = run(db, jobs.upsert(["AAPL"], "replay", 60, True))
    assert (job.symbol, job.provider, job.interval_minutes, job.status, job.backfill) == (
        "AAPL",
        "replay",
        60,
        "active",
        True,
    )
    assert (job.failures, job.last_run_at, job.last_error, job.lease_owner, job.lease_until) == (
        0,
        None,
        None,
        None,
        None,
    )
    assert [each.id for each in lease(db)] == [job.id]


def test_pollers_are_told_of_new_and_of_resumed_jobs(db):
    db.execute(f"LISTEN {jobs.CHANNEL}")
    (job,) = run(db, jobs.upsert(["AAPL"], "replay", 60, False))
    assert len(list(db.notifies(timeout=1, stop_after=1))) == 1
    run(db, jobs.set_status(job.id, "active"))
    assert len(list(db.notifies(timeout=1, stop_after=1))) == 1


def test_the_same_symbol_and_provider_again_keeps_the_id_and_takes_the_new_interval(db):
    (first,) = run(db, jobs.upsert(["AAPL"], "replay", 60, False))
    (again,) = run(db, jobs.upsert(["AAPL"], "replay", 5, True))
    (other,) = run(db, jobs.upsert(["AAPL"], "yfinance", 5, False))
    assert (again.id, again.interval_minutes, again.backfill) == (first.id, 5, True)
    assert other.id != first.id
    assert len(run(db, jobs.listing(10))) == 2


def test_several_symbols_come_back_in_the_order_given_each_once(db):
    made = run(db, jobs.upsert(["MSFT", "AAPL", "SPY", "AAPL"], "replay", 60, False))
    assert [job.symbol for job in made] == ["MSFT", "AAPL", "SPY"]
    assert run(db, jobs.upsert([], "replay", 60, False)) == []


def test_several_symbols_are_stored_all_or_none(db):
    (kept,) = run(db, jobs.upsert(["MSFT"], "replay", 60, False))
    with pytest.raises(psycopg.errors.CheckViolation):
        run(db, jobs.upsert(["AAPL", "MSFT"], "replay", 0, False))
    assert run(db, jobs.listing(10)) == [kept]


def test_two_requests_for_the_same_symbols_in_opposite_orders_do_not_block_each_other(
    db, database_settings, eventually
):
    """Both wait for the row in the middle: whoever took rows in the order of its request would hold what the other needs."""
    symbols = [f"S{number}" for number in range(9)]
    run(db, jobs.upsert(symbols, "replay", 60, False))
    done: list[str] = []

    def post(order: list[str]) -> None:
        with database.connect(database_settings, "test") as connection:
            done.extend(job.symbol for job in run(connection, jobs.upsert(order, "replay", 30, False)))

    threads = [threading.Thread(target=post, args=(order,)) for order in (symbols, symbols[::-1])]
    with database.connect(database_settings, "holder") as holder, holder.transaction():
        holder.execute("SELECT FROM polling_job_configs WHERE symbol = 'S4' FOR UPDATE")
        for thread in threads:
            thread.start()
        eventually(lambda: db.execute(WAITERS).fetchone()["n"] == 2)
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted(2 * symbols)


def test_a_shorter_interval_brings_the_next_run_nearer_a_longer_one_leaves_it(db):
    job = add(db, due_s=500)
    run(db, jobs.upsert(["AAPL"], "replay", 1, False))
    assert 58 < wait_s(db, job.id) <= 60
    run(db, jobs.upsert(["AAPL"], "replay", 600, False))
    assert 57 < wait_s(db, job.id) <= 60


def test_a_job_that_failed_keeps_its_wait_when_it_is_posted_again(db):
    job = add(db, due_s=1_700, failures=8)
    run(db, jobs.upsert(["AAPL"], "replay", 1, False))
    assert wait_s(db, job.id) > 1_690


def test_posting_a_paused_job_resumes_it(db):
    job = add(db, status="paused")
    run(db, jobs.upsert(["AAPL"], "replay", 60, False))
    assert [each.id for each in lease(db)] == [job.id]


def test_listing_goes_on_after_an_id(db):
    ids = [job.id for job in run(db, jobs.upsert(["A", "B", "C", "D", "E"], "replay", 60, False))]
    pages = [[job.id for job in run(db, jobs.listing(2, after))] for after in (0, ids[1], ids[3], ids[4])]
    assert pages == [ids[:2], ids[2:4], ids[4:], []]


def test_a_job_that_is_not_there_cannot_be_read_removed_or_paused(db):
    job = add(db)
    assert run(db, jobs.remove(job.id)) is True
    for unknown in (job.id, 0, 10**30):
        assert run(db, jobs.get(unknown)) is None
        assert run(db, jobs.remove(unknown)) is False
        assert run(db, jobs.set_status(unknown, "paused")) is None


def test_a_paused_job_is_not_leased_and_a_resumed_one_is(db):
    job = add(db)
    assert run(db, jobs.set_status(job.id, "paused")).status == "paused"
    assert lease(db) == []
    assert run(db, jobs.set_status(job.id, "active")).status == "active"
    assert [each.id for each in lease(db)] == [job.id]


# --- leases ----------------------------------------------------------------------------------------------------------


def test_what_is_due_longest_is_leased_first_and_what_is_not_due_stays(db):
    add(db, "SOON", due_s=5)
    recent, old = add(db, "RECENT", due_s=-10), add(db, "OLD", due_s=-20)
    assert [job.id for job in lease(db, limit=1)] == [old.id]
    assert [job.id for job in lease(db)] == [recent.id]
    assert lease(db) == []


def test_a_lease_names_its_owner_its_slot_and_its_end(db):
    made = add(db, due_s=-7)
    (job,) = run(db, jobs.lease("one", 1, seconds=30))
    assert (job.lease_owner, job.next_run_at) == ("one", made.next_run_at)
    assert 29 < (job.lease_until - now(db)).total_seconds() <= 30


def test_a_job_is_leased_again_only_when_its_lease_has_ended(db):
    job = add(db)
    assert len(lease(db, "one")) == 1
    assert lease(db, "two") == []
    change(db, job.id, lease_until=now(db) - datetime.timedelta(milliseconds=1))
    assert [each.lease_owner for each in lease(db, "two")] == ["two"]


def test_jobs_that_the_poller_still_works_on_are_left_out(db):
    first, second = add(db, "A", due_s=-2), add(db, "B", due_s=-1)
    leased = run(db, jobs.lease("one", 10, except_ids=[first.id]))
    assert [job.id for job in leased] == [second.id]


def test_a_row_that_another_transaction_holds_is_not_waited_for(db, database_settings):
    held, free = add(db, "A", due_s=-2), add(db, "B", due_s=-1)
    db.execute("SET lock_timeout = '2s'")
    with database.connect(database_settings, "test") as other, other.transaction():
        assert [job.id for job in database.run(other, jobs.lease("two", 1))] == [held.id]
        assert [job.id for job in lease(db)] == [free.id]


def test_four_pollers_that_lease_at_once_share_a_thousand_jobs_without_a_duplicate(db, database_settings):
    run(db, jobs.upsert([f"S{number}" for number in range(1_000)], "replay", 60, False))
    leased: dict[str, list[int]] = {owner: [] for owner in ("one", "two", "three", "four")}

    def take(owner: str) -> None:
        with database.connect(database_settings, owner) as connection:
            while got := lease(connection, owner, limit=7):
                leased[owner] += [job.id for job in got]

    in_threads(take, *leased)
    ids = [each for ids in leased.values() for each in ids]
    assert len(ids) == len(set(ids)) == 1_000
    assert all(leased.values())


def test_a_lease_is_renewed_by_its_owner_only(db):
    job = add(db)
    lease(db, "one")
    change(db, job.id, lease_until=now(db) + datetime.timedelta(seconds=1))
    run(db, jobs.renew("two", [job.id], 60))
    assert (get(db, job.id).lease_until - now(db)).total_seconds() < 1
    run(db, jobs.renew("one", [job.id], 60))
    assert (get(db, job.id).lease_until - now(db)).total_seconds() > 59


def test_a_lease_that_is_given_back_is_another_poller_s_at_once(db):
    job = add(db)
    lease(db, "one")
    run(db, jobs.give_back("two", [job.id]))
    assert lease(db, "two") == []
    run(db, jobs.give_back("one", [job.id]))
    assert [each.id for each in lease(db, "two")] == [job.id]


def test_the_next_due_time_is_that_of_the_first_active_job_in_the_future(db):
    assert run(db, jobs.next_due()) is None
    add(db, "DUE", due_s=-5)
    add(db, "PAUSED", due_s=5, status="paused")
    add(db, "LATER", due_s=50)
    add(db, "NEXT", due_s=20)
    assert 19 < run(db, jobs.next_due()) <= 20


# --- the end of a run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("late_min", "slots"),
    [
        pytest.param(0.0, 1, id="in time"),
        pytest.param(9.9, 1, id="almost an interval late"),
        pytest.param(10.1, 2, id="one slot missed"),
        pytest.param(36.0, 4, id="three slots missed are one run"),
        pytest.param(60 * 24 * 365, 52_561, id="a year of downtime"),
        pytest.param(-45.0, 1, id="the database's clock jumped back 45 minutes"),
    ],
)
def test_the_next_slot_is_the_first_in_the_future_on_the_same_grid(db, late_min, slots):
    job = add(db)
    lease(db)
    slot = now(db) - late_min * MINUTE
    change(db, job.id, next_run_at=slot)
    next_slot = run(db, jobs.complete(get(db, job.id)))
    assert next_slot == get(db, job.id).next_run_at == slot + slots * INTERVAL_MIN * MINUTE
    assert lease(db) == []


def test_a_good_run_clears_the_lease_and_the_failures(db):
    job = add(db, failures=3, last_error="replay: no answer")
    run(db, jobs.complete(*lease(db)))
    after = get(db, job.id)
    assert (after.failures, after.last_error, after.lease_owner, after.lease_until) == (0, None, None, None)
    assert after.last_run_at is not None


def store_and(end: Steps[Any]) -> Steps[Any]:
    """Store a response, then end the run."""
    yield "INSERT INTO raw_responses (provider, symbol, status, body) VALUES ('replay', 'AAPL', 200, '{}')", {}
    yield from end


@pytest.mark.parametrize("end", [jobs.complete, lambda job: jobs.fail(job, "no answer")], ids=["complete", "fail"])
@pytest.mark.parametrize(
    "lost",
    [
        pytest.param({"lease_owner": "two"}, id="another poller has it"),
        pytest.param({"lease_owner": None, "lease_until": None}, id="it was given back"),
        pytest.param({"next_run_at": "2040-01-01T00:00:00Z"}, id="its slot has been run"),
        pytest.param({}, id="it was removed"),
    ],
)
def test_a_poller_that_lost_its_lease_stores_nothing(db, end, lost):
    made = add(db)
    (job,) = lease(db, "one")
    change(db, made.id, **lost)
    if not lost:
        run(db, jobs.remove(made.id))
    before = run(db, jobs.get(made.id))
    with pytest.raises(LeaseLostError):
        run(db, store_and(end(job)))
    assert db.execute("SELECT count(*) AS n FROM raw_responses").fetchone()["n"] == 0
    assert run(db, jobs.get(made.id)) == before


def test_a_run_whose_lease_ended_still_counts_while_nobody_has_taken_the_job(db):
    made = add(db)
    (job,) = lease(db, "one")
    change(db, made.id, lease_until=now(db) - MINUTE)
    assert run(db, jobs.complete(job)) > now(db)


def test_a_job_that_is_paused_or_posted_again_while_it_runs_ends_as_usual(db):
    made = add(db)
    (job,) = lease(db, "one")
    run(db, jobs.upsert(["AAPL"], "replay", 30, False))
    run(db, jobs.set_status(made.id, "paused"))
    assert run(db, jobs.complete(job)) == made.next_run_at + 30 * MINUTE
    assert get(db, made.id).status == "paused"


@pytest.mark.parametrize(
    ("failures", "least_s", "most_s"),
    [
        (0, 8, 12),
        (1, 16, 24),
        (2, 32, 48),
        (6, 512, 768),
        (7, 1_024, 1_536),
        (8, 1_200, 1_800),
        (2_000_000_000, 1_200, 1_800),
    ],
)
def test_waits_after_failures_double_up_to_half_an_hour(db, failures, least_s, most_s):
    job = add(db, failures=failures)
    run(db, jobs.fail(*lease(db), "replay: no answer"))
    assert least_s - 1 < wait_s(db, job.id) <= most_s
    after = get(db, job.id)
    assert (after.failures, after.last_error, after.lease_owner) == (failures + 1, "replay: no answer", None)


def test_waits_differ_from_job_to_job(db):
    for number in range(20):
        add(db, f"S{number}")
    waits = {round((run(db, jobs.fail(job, "no answer")) - now(db)).total_seconds(), 1) for job in lease(db, limit=20)}
    assert len(waits) > 5


@pytest.mark.parametrize(
    ("asked_s", "least_s", "most_s"),
    [(None, 8, 12), (1.0, 8, 12), (90.0, 90, 90), (3_600.0, 3_600, 3_600), (1e12, 86_400, 86_400)],
)
def test_a_job_is_not_tried_before_the_provider_allows_it(db, asked_s, least_s, most_s):
    job = add(db)
    run(db, jobs.fail(*lease(db), "replay: too many requests", asked_s))
    assert least_s - 1 < wait_s(db, job.id) <= most_s


def test_after_a_failure_the_slots_go_on_from_the_good_run(db):
    job = add(db)
    run(db, jobs.fail(*lease(db), "no answer"))
    retry = now(db) - MINUTE / 2
    change(db, job.id, next_run_at=retry)
    assert run(db, jobs.complete(*lease(db))) == retry + INTERVAL_MIN * MINUTE


# --- what was missed -------------------------------------------------------------------------------------------------


def add_price(db: Connection, ago_min: float, fetched_ago_min: float) -> datetime.datetime:
    """A stored price of AAPL; its provider's time."""
    ts, fetched_at = (now(db) - each * MINUTE for each in (ago_min, fetched_ago_min))
    db.execute(
        "INSERT INTO market_prices (symbol, provider, price, ts, fetched_at) VALUES ('AAPL', 'replay', 1, %s, %s)",
        (ts, fetched_at),
    )
    return ts


def test_nothing_was_missed_when_the_last_run_is_one_interval_ago(db):
    job = add(db, last_run_at=now(db) - (INTERVAL_MIN + 1) * MINUTE)
    add_price(db, ago_min=500, fetched_ago_min=400)
    assert run(db, jobs.missed_since(job)) is None


def test_after_missed_slots_it_is_the_last_price_of_the_job_s_own_runs(db):
    job = add(db, last_run_at=now(db) - 60 * MINUTE)
    add_price(db, ago_min=100, fetched_ago_min=90)
    own = add_price(db, ago_min=61, fetched_ago_min=60.01)
    add_price(db, ago_min=5, fetched_ago_min=5)  # by a request, after the poller was gone
    assert run(db, jobs.missed_since(job)) == own


def test_a_job_that_never_ran_goes_on_from_the_newest_price_if_there_is_one(db):
    job = add(db)
    assert run(db, jobs.missed_since(job)) is None
    ts = add_price(db, ago_min=5, fetched_ago_min=5)
    assert run(db, jobs.missed_since(job)) == ts


def in_threads(target: Any, *arguments: Any) -> None:
    """Call `target` with each argument, at once, and wait."""
    threads = [threading.Thread(target=target, args=(each,)) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
