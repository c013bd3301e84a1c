"""Polling: every due slot of a job is run once, whatever happens to pollers, the provider and the database.

Where a scenario needs answers of its own, the poller runs in this process and asks `StandIn`; else scripts/poller.py runs
and asks the provider `replay`, which plays simulated prices.
"""

from __future__ import annotations

import datetime
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from app import database, jobs
from app import poller as polling
from app.database import Connection
from app.errors import BadPriceError, ProviderNetworkError, RateLimitedError
from app.jobs import Job
from app.poller import Poller
from app.providers.base import Quote
from app.service import Stop
from app.settings import Settings

MINUTE = datetime.timedelta(minutes=1)
UTC = datetime.timezone.utc
IDLE_S = 0.4  # long enough for a poller to do what it must not do


class StandIn:
    """Stands in for the provider process. A call takes `takes_s`, or until `go` is set; `answers` are raised or given first."""

    def __init__(self, takes_s: float = 0.0, *answers: Exception | Decimal) -> None:
        self.takes_s, self.answers = takes_s, list(answers)
        self.calls: list[str] = []
        self.histories: list[tuple[str, datetime.datetime]] = []
        self.bars: list[Quote] | Exception = []
        self.go = threading.Event()
        self.go.set()
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()

    def latest(self, provider: str, symbol: str) -> Quote:
        with self._lock:
            self.calls.append(symbol)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            answer = self.answers.pop(0) if self.answers else Decimal("196.45")
        time.sleep(self.takes_s)
        self.go.wait(30)
        with self._lock:
            self._now -= 1
        if isinstance(answer, Exception):
            raise answer
        return Quote(symbol, provider, answer, datetime.datetime.now(UTC), {"stand-in": len(self.calls)})

    def history(self, provider: str, symbol: str, start: datetime.datetime) -> list[Quote]:
        self.histories.append((symbol, start))
        if isinstance(self.bars, Exception):
            raise self.bars
        return self.bars

    def close(self) -> None:
        """Nothing to end: a call that hangs goes on hanging."""


class Running:
    """A poller at work in a thread of this process."""

    def __init__(self, settings: Settings, asked: StandIn, lease_s: float) -> None:
        self.stop = Stop()
        self.poller = Poller(settings, self.stop, asked, lease_s)
        self.thread = threading.Thread(target=self.poller.run)
        self.thread.start()

    def end(self, timeout_s: float = 10.0) -> None:
        self.stop.set()
        self.thread.join(timeout_s)
        assert not self.thread.is_alive(), f"the poller did not stop within {timeout_s} s"


@pytest.fixture
def poll(database_settings: Settings, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., Running]]:
    """A function that starts a poller here; nothing may happen in it that it does not know."""
    started: list[Running] = []
    caplog.set_level(logging.INFO)

    def begin(asked: StandIn, most: int = 4, lease_s: float = 60.0) -> Running:
        started.append(Running(replace(database_settings, provider_max_concurrency=most), asked, lease_s))
        return started[-1]

    yield begin
    for each in started:
        each.poller.source.go.set()
        each.end()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def add(db: Connection, *symbols: str, late_min: float = 0.0, backfill: bool = False, **columns: Any) -> list[Job]:
    """Jobs with an interval of ten minutes that have been due for `late_min`, with some columns set; unannounced."""
    with db.transaction():
        made = database.run(db, jobs.upsert(symbols or ["AAPL"], "replay", 10, backfill))
        columns = {"next_run_at": now(db) - late_min * MINUTE} | columns
        for name, value in columns.items():
            db.execute(
                f"UPDATE polling_job_configs SET {name} = %s WHERE id = ANY (%s)", (value, [job.id for job in made])
            )
    return [get(db, job.id) for job in made]


def get(db: Connection, job_id: int) -> Job | None:
    return database.run(db, jobs.get(job_id))


def now(db: Connection) -> datetime.datetime:
    """The database's clock."""
    return db.execute("SELECT clock_timestamp() AS now").fetchone()["now"]


def due_again(db: Connection) -> None:
    """Make every job due now, as if its interval had passed, and tell pollers."""
    with db.transaction():
        db.execute("UPDATE polling_job_configs SET next_run_at = clock_timestamp()")
        db.execute(f"NOTIFY {jobs.CHANNEL}")


def count(db: Connection, what: str) -> int:
    return db.execute(f"SELECT count(*) AS n FROM {what}").fetchone()["n"]


def runs(db: Connection) -> Counter[str]:
    """How many runs were stored, by symbol: each stores one response."""
    rows = db.execute("SELECT symbol, count(*) AS n FROM raw_responses GROUP BY symbol").fetchall()
    return Counter({row["symbol"]: row["n"] for row in rows})


def is_idle(db: Connection) -> bool:
    """Nothing is due, and nobody works on anything."""
    return count(db, "polling_job_configs WHERE lease_owner IS NOT NULL OR next_run_at <= now()") == 0


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


# --- it polls --------------------------------------------------------------------------------------------------------


def test_the_seed_s_service_never_polls_here_a_new_job_is_run_at_once_and_at_every_slot(
    db, database_settings, start, eventually
):
    program = start("scripts/poller.py", settings=database_settings)
    program.wait_for("at most 4 calls at once")
    (job,) = database.run(db, jobs.upsert(["AAPL"], "replay", 1, False))
    for times in (1, 2, 3):
        eventually(lambda times=times: runs(db)["AAPL"] == times and is_idle(db))
        after = get(db, job.id)
        assert after.last_error is None
        assert now(db) < after.next_run_at <= now(db) + MINUTE
        db.execute("UPDATE polling_job_configs SET next_run_at = next_run_at - interval '1 minute'")
    eventually(lambda: runs(db)["AAPL"] == 4 and is_idle(db))
    prices = db.execute("SELECT symbol, provider, price::float8, raw_response_id FROM market_prices").fetchall()
    assert {(row["symbol"], row["provider"]) for row in prices} == {("AAPL", "replay")}
    assert count(db, "outbox") == len(prices) >= 1
    assert count(db, "heartbeats WHERE name = 'poller'") == 1
    assert program.stop(10) == 0
    assert count(db, "heartbeats") == 0
    assert "Traceback" not in program.err


def test_an_idle_poller_is_woken_by_a_new_job(db, poll, monkeypatch, eventually):
    monkeypatch.setattr(polling, "LOOK_S", 60.0)
    asked = StandIn()
    poll(asked)
    eventually(lambda: count(db, "heartbeats") == 1)
    time.sleep(IDLE_S)
    database.run(db, jobs.upsert(["AAPL"], "replay", 60, False))
    eventually(lambda: runs(db)["AAPL"] == 1, 10)


def test_an_idle_poller_wakes_when_the_next_job_is_due(db, poll, monkeypatch, eventually):
    monkeypatch.setattr(polling, "LOOK_S", 60.0)
    (job,) = add(db, late_min=-1.5 / 60)
    poll(StandIn())
    eventually(lambda: runs(db)["AAPL"] == 1, 10)
    late_s = (get(db, job.id).last_run_at - job.next_run_at).total_seconds()
    assert 0 <= late_s < 1


def test_a_job_that_nobody_announced_is_found_within_a_second(db, poll, eventually):
    poll(StandIn())
    eventually(lambda: count(db, "heartbeats") == 1)
    db.execute("INSERT INTO polling_job_configs (symbol, provider, interval_minutes) VALUES ('AAPL', 'replay', 1)")
    eventually(lambda: runs(db)["AAPL"] == 1, polling.LOOK_S + 2)


def test_a_run_is_stored_whole_price_response_event_and_next_slot(db, database_settings, poll, eventually):
    (job,) = add(db, late_min=3, failures=2, last_error="replay: no answer")
    before = (
        sample("polling_runs_total", result="stored"),
        sample("prices_fetched_total", provider="replay", result="ok"),
    )
    poll(StandIn(0.0, Decimal("196.450001")))
    eventually(lambda: is_idle(db))
    after = get(db, job.id)
    assert (after.next_run_at, after.failures, after.last_error) == (job.next_run_at + 10 * MINUTE, 0, None)
    price = db.execute("SELECT * FROM market_prices").fetchone()
    response = db.execute("SELECT * FROM raw_responses").fetchone()
    event = db.execute("SELECT topic, key, payload FROM outbox").fetchone()
    assert (price["price"], price["raw_response_id"]) == (Decimal("196.450001"), response["id"])
    assert response["body"] == {"stand-in": 1}
    assert (event["topic"], event["key"]) == (database_settings.kafka_topic, "replay:AAPL")
    assert '"price":196.450001' in event["payload"]
    eventually(lambda: sample("polling_runs_total", result="stored") == before[0] + 1)
    assert sample("prices_fetched_total", provider="replay", result="ok") == before[1] + 1
    assert sample("polling_lag_seconds") >= 180


# --- demonstrations --------------------------------------------------------------------------------------------------


def test_demonstration_3_three_pollers_one_killed_in_the_middle_every_due_slot_ran_once(
    db, database_settings, start, eventually, tmp_path
):
    symbols = [f"S{number}" for number in range(400)]
    settings = replace(database_settings, replay_file=str(recording(tmp_path / "replay.csv", symbols)))
    programs = [start("scripts/poller.py", "--lease-seconds", "3", settings=settings) for _ in range(3)]
    for program in programs:
        program.wait_for("at most 4 calls at once")
    add(db, *symbols)
    eventually(lambda: is_idle(db))
    assert runs(db) == dict.fromkeys(symbols, 1)

    due_again(db)
    eventually(lambda: count(db, "raw_responses") > 450)
    died_with = kill_with_leases(db, programs[0])
    eventually(lambda: is_idle(db))
    assert runs(db) == dict.fromkeys(symbols, 2)

    due_again(db)
    eventually(lambda: is_idle(db))
    assert runs(db) == dict.fromkeys(symbols, 3)
    assert count(db, "polling_job_configs WHERE failures > 0") == 0
    assert [program.stop(10) for program in programs[1:]] == [0, 0]
    print(
        f"\ndemonstration 3: 3 pollers, 400 jobs, 3 slots each; one poller killed with {died_with} leases: "
        f"{count(db, 'raw_responses')} of 1200 slots run, each once"
    )


def recording(path: Path, symbols: list[str]) -> Path:
    """A file for the provider `replay` with one price of each symbol: simulated."""
    rows = [f"{symbol},2025-06-13T13:30:00+00:00,{100 + place}.5" for place, symbol in enumerate(symbols)]
    path.write_text("\n".join(["symbol,ts,price", *rows, ""]))
    return path


def kill_with_leases(db: Connection, program: Any) -> int:
    """SIGKILL to a poller while it holds leases; how many."""
    mine = f"polling_job_configs WHERE lease_owner LIKE '%-{program.pid}-%'"
    for _ in range(200):
        os.kill(program.pid, signal.SIGSTOP)
        if held := count(db, mine):
            program.kill()
            return held
        os.kill(program.pid, signal.SIGCONT)
    raise AssertionError("the poller never held a lease")


def test_demonstration_8_restart_with_1000_jobs_nothing_forgotten_never_above_the_limit(db, poll, eventually):
    symbols = [f"S{number}" for number in range(1_000)]
    add(db, *symbols)
    first, second = StandIn(0.003), StandIn(0.003)
    running = poll(first, most=4)
    eventually(lambda: len(first.calls) > 300)
    running.end()
    assert count(db, "polling_job_configs WHERE lease_owner IS NOT NULL") == 0
    assert runs(db) == dict.fromkeys(first.calls, 1)
    running = poll(second, most=4)
    eventually(lambda: is_idle(db))
    assert runs(db) == dict.fromkeys(symbols, 1)
    assert sorted(first.calls + second.calls) == sorted(symbols)
    assert max(first.most_at_once, second.most_at_once) <= 4
    print(
        f"\ndemonstration 8: 1000 jobs, stopped after {len(first.calls)} and started again: 0 forgotten, 0 run twice, "
        f"at most {max(first.most_at_once, second.most_at_once)} calls at once (limit 4)"
    )


def test_jobs_due_at_10000_a_minute_are_leased_without_a_duplicate_by_a_quarter_of_a_core(
    db, poll, monkeypatch, eventually
):
    due, period_s = 2_500, 15.0
    add(db, *(f"S{number}" for number in range(due)))
    cpu_s = cpu_times_of_schedulers(monkeypatch)
    asked = StandIn()
    began = time.monotonic()
    pollers = [poll(asked, most=4) for _ in range(2)]
    eventually(lambda: count(db, "polling_job_configs WHERE last_run_at IS NULL") == 0, 4 * period_s)
    took_s = time.monotonic() - began
    for each in pollers:
        each.end()
    duplicates = len(asked.calls) - len(set(asked.calls))
    share = sum(cpu_s) / period_s
    print(
        f"\n{due} jobs due at once, two pollers: all run in {took_s:.1f} s, {duplicates} twice; their schedulers took "
        f"{sum(cpu_s):.2f} s of processor time, at 10,000 jobs a minute {share:.1%} of a core"
    )
    assert (len(asked.calls), duplicates) == (due, 0)
    assert asked.most_at_once <= 8
    assert share <= 0.25


def cpu_times_of_schedulers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Gets the processor seconds of each scheduler's thread when it ends."""
    kept: list[float] = []
    schedule = Poller._schedule

    def measured(self: Poller, connection: Connection) -> None:
        began = time.thread_time()
        try:
            schedule(self, connection)
        finally:
            kept.append(time.thread_time() - began)

    monkeypatch.setattr(Poller, "_schedule", measured)
    return kept


# --- slots -----------------------------------------------------------------------------------------------------------


def test_slots_missed_in_a_downtime_are_one_run(db, poll, eventually):
    missed = 10 * 24 * 6  # ten days, six slots an hour
    (job,) = add(db, late_min=10 * missed + 4)
    asked = StandIn()
    poll(asked)
    eventually(lambda: is_idle(db))
    time.sleep(IDLE_S)
    assert asked.calls == ["AAPL"]
    assert get(db, job.id).next_run_at == job.next_run_at + (missed + 1) * 10 * MINUTE


def test_a_backfill_stores_what_was_missed_in_the_order_of_time_with_the_newest_price_last(db, poll, eventually):
    add(db, late_min=50, backfill=True)
    last, bars = missed_hour(db)
    asked = StandIn()
    asked.bars = bars
    poll(asked)
    eventually(lambda: is_idle(db))
    assert asked.histories == [("AAPL", last)]
    prices = [row["price"] for row in db.execute("SELECT price FROM market_prices ORDER BY ts").fetchall()]
    assert prices == [Decimal(1), *(Decimal(100 + number) for number in range(5)), Decimal("196.45")]
    events = db.execute("SELECT payload::jsonb ->> 'price' AS price FROM outbox ORDER BY id").fetchall()
    assert [Decimal(row["price"]) for row in events] == prices[1:]
    due_again(db)
    eventually(lambda: len(asked.calls) == 2)
    assert len(asked.histories) == 1


def test_without_backfill_nothing_is_asked_but_the_newest_price(db, poll, eventually):
    add(db, late_min=50, backfill=False)
    missed_hour(db)
    asked = StandIn()
    poll(asked)
    eventually(lambda: is_idle(db))
    assert (asked.calls, asked.histories) == (["AAPL"], [])


def test_a_backfill_that_cannot_be_had_does_not_keep_the_newest_price_away(db, poll, caplog, eventually):
    add(db, late_min=50, backfill=True)
    missed_hour(db)
    asked = StandIn()
    asked.bars = BadPriceError("replay", "its price is nan")
    poll(asked)
    eventually(lambda: is_idle(db))
    assert runs(db) == {"AAPL": 1}
    assert "cannot be had: replay: its price is nan" in caplog.text


def test_a_backfill_that_finds_no_provider_is_tried_again_whole(db, poll, eventually):
    (job,) = add(db, late_min=50, backfill=True)
    _, bars = missed_hour(db)
    asked = StandIn()
    asked.bars = ProviderNetworkError("replay", "hung up")
    poll(asked)
    eventually(lambda: get(db, job.id).failures == 1)
    assert asked.calls == []
    asked.bars = bars
    due_again(db)
    eventually(lambda: runs(db)["AAPL"] == 6)


def missed_hour(db: Connection) -> tuple[datetime.datetime, list[Quote]]:
    """The job last ran an hour ago: the time of the price it stored, and bars since then, one of them newer than now."""
    last = now(db) - 60 * MINUTE
    row = ("AAPL", "replay", 1, last, last)
    db.execute("INSERT INTO market_prices (symbol, provider, price, ts, fetched_at) VALUES (%s, %s, %s, %s, %s)", row)
    db.execute("UPDATE polling_job_configs SET last_run_at = %s", (last,))
    times = [last + 10 * number * MINUTE for number in range(1, 6)] + [last + 90 * MINUTE]
    return last, [Quote("AAPL", "replay", Decimal(100 + at), ts, {}) for at, ts in enumerate(times)]


def test_the_database_s_clock_jumps_back_and_no_slot_is_run_twice(db, poll, eventually):
    (job,) = add(db)
    asked = StandIn()
    poll(asked)
    eventually(lambda: is_idle(db))
    jump_back(db)
    time.sleep(polling.LOOK_S + IDLE_S)
    assert asked.calls == ["AAPL"]
    assert get(db, job.id).next_run_at > now(db) + 50 * MINUTE


def test_the_database_s_clock_jumps_back_while_a_job_runs(db, poll, eventually):
    (job,) = add(db)
    asked = StandIn()
    asked.go.clear()
    poll(asked)
    eventually(lambda: asked.calls)
    db.execute("UPDATE polling_job_configs SET lease_until = lease_until + interval '45 min'")
    asked.go.set()
    eventually(lambda: is_idle(db))
    time.sleep(polling.LOOK_S + IDLE_S)
    assert asked.calls == ["AAPL"]
    assert get(db, job.id).next_run_at == job.next_run_at + 10 * MINUTE


def jump_back(db: Connection) -> None:
    """What is stored is 45 minutes nearer to the future: the same as a clock that jumped back."""
    for name in ("next_run_at", "lease_until", "last_run_at"):
        db.execute(f"UPDATE polling_job_configs SET {name} = {name} + interval '45 min'")


@pytest.mark.parametrize("jump_s", [-7_200.0, 7_200.0])
def test_the_poller_s_own_clock_does_not_matter(db, poll, monkeypatch, eventually, jump_s):
    (job,) = add(db)
    asked = StandIn()
    poll(asked)
    eventually(lambda: is_idle(db))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    time.sleep(polling.LOOK_S + IDLE_S)
    assert asked.calls == ["AAPL"]
    due_again(db)
    eventually(lambda: runs(db)["AAPL"] == 2 and is_idle(db))
    assert 9 * MINUTE < get(db, job.id).next_run_at - now(db) <= 10 * MINUTE


# --- leases ----------------------------------------------------------------------------------------------------------


def test_a_poller_that_lost_its_lease_while_it_asked_stores_nothing(db, poll, caplog, eventually):
    (job,) = add(db)
    asked = StandIn()
    asked.go.clear()
    poll(asked)
    eventually(lambda: asked.calls)
    db.execute("UPDATE polling_job_configs SET lease_owner = 'another'")
    held = get(db, job.id)
    before = sample("polling_runs_total", result="lost")
    asked.go.set()
    eventually(lambda: sample("polling_runs_total", result="lost") == before + 1)
    assert [count(db, table) for table in ("raw_responses", "market_prices", "latest_prices", "outbox")] == [0, 0, 0, 0]
    assert get(db, job.id) == held
    assert "nothing was stored" in caplog.text


def test_a_poller_leases_no_more_than_it_has_threads_for(db, poll, eventually):
    add(db, *(f"S{number}" for number in range(10)))
    asked = StandIn()
    asked.go.clear()
    poll(asked, most=3)
    eventually(lambda: len(asked.calls) == 3)
    time.sleep(polling.LOOK_S + IDLE_S)
    assert count(db, "polling_job_configs WHERE lease_owner IS NOT NULL") == 3
    asked.go.set()
    eventually(lambda: is_idle(db))
    assert len(runs(db)) == 10
    assert asked.most_at_once == 3


def test_a_call_longer_than_a_lease_keeps_its_job(db, poll, eventually):
    add(db)
    asked, other = StandIn(2.5), StandIn()
    poll(asked, lease_s=1.0)
    eventually(lambda: asked.calls)
    poll(other, lease_s=1.0)
    eventually(lambda: is_idle(db))
    assert (asked.calls, other.calls, runs(db)) == (["AAPL"], [], {"AAPL": 1})


def test_a_job_of_a_dead_poller_is_run_by_another_when_its_lease_has_ended(db, poll, eventually):
    (job,) = add(db)
    database.run(db, jobs.lease("dead", 1, seconds=2.0))
    asked = StandIn()
    poll(asked)
    time.sleep(IDLE_S)
    assert asked.calls == []
    eventually(lambda: is_idle(db), 10)
    assert runs(db) == {"AAPL": 1}
    assert get(db, job.id).last_run_at >= job.next_run_at + datetime.timedelta(seconds=2)


def test_a_job_that_is_paused_while_it_runs_ends_and_is_not_run_again_until_it_is_resumed(db, poll, eventually):
    (job,) = add(db)
    asked = StandIn()
    asked.go.clear()
    poll(asked)
    eventually(lambda: asked.calls)
    database.run(db, jobs.set_status(job.id, "paused"))
    asked.go.set()
    eventually(lambda: runs(db)["AAPL"] == 1)
    due_again(db)
    time.sleep(polling.LOOK_S + IDLE_S)
    assert asked.calls == ["AAPL"]
    database.run(db, jobs.set_status(job.id, "active"))
    eventually(lambda: runs(db)["AAPL"] == 2)


def test_a_job_that_is_removed_while_it_runs_stores_nothing(db, poll, eventually):
    (job,) = add(db)
    asked = StandIn()
    asked.go.clear()
    poll(asked)
    eventually(lambda: asked.calls)
    database.run(db, jobs.remove(job.id))
    before = sample("polling_runs_total", result="lost")
    asked.go.set()
    eventually(lambda: sample("polling_runs_total", result="lost") == before + 1)
    assert count(db, "raw_responses") == count(db, "market_prices") == 0


# --- the provider fails ----------------------------------------------------------------------------------------------


def test_429_the_wait_grows_to_half_an_hour_and_ends_with_the_first_price(db, poll, eventually):
    (job,) = add(db)
    failures = 10
    asked = StandIn(0.0, *(RateLimitedError("replay", "too many requests") for _ in range(failures)))
    limited = sample("prices_fetched_total", provider="replay", result="rate_limited")
    poll(asked)
    waits = []
    for number in range(1, failures + 1):
        eventually(lambda number=number: get(db, job.id).failures == number)
        waits.append((get(db, job.id).next_run_at - now(db)).total_seconds())
        due_again(db)
    eventually(lambda: runs(db)["AAPL"] == 1)
    means = [min(5 * 2**number, 1_500) for number in range(1, failures + 1)]
    assert all(0.8 * mean - 2 < wait <= 1.2 * mean for wait, mean in zip(waits, means, strict=True)), waits
    assert max(waits) <= 1_800
    assert get(db, job.id).failures == 0
    assert sample("prices_fetched_total", provider="replay", result="rate_limited") == limited + failures


def test_429_with_a_wait_that_the_provider_names(db, poll, eventually):
    (job,) = add(db)
    poll(StandIn(0.0, RateLimitedError("replay", "too many requests", 600.0)))
    eventually(lambda: get(db, job.id).failures == 1)
    assert 590 < (get(db, job.id).next_run_at - now(db)).total_seconds() <= 600
    assert get(db, job.id).last_error == "replay: too many requests"


def test_one_symbol_that_fails_does_not_hold_up_the_others(db, poll, eventually):
    made = add(db, "BAD", "GOOD", "MORE")
    asked = StandIn(0.0, ProviderNetworkError("replay", "hung up"))
    poll(asked, most=1)
    eventually(lambda: is_idle(db))
    failed = {job.symbol for job in (get(db, job.id) for job in made) if job.failures}
    assert len(failed) == 1
    assert runs(db) == dict.fromkeys({"BAD", "GOOD", "MORE"} - failed, 1)


def test_a_price_that_the_database_refuses_is_a_failure_of_that_job_only(db, poll, eventually):
    bad, _ = add(db, "BAD", "GOOD")
    db.execute("UPDATE polling_job_configs SET next_run_at = next_run_at - interval '1 s' WHERE id = %s", (bad.id,))
    poll(StandIn(0.0, Decimal(10) ** 13), most=1)
    eventually(lambda: is_idle(db))
    assert runs(db) == {"GOOD": 1}
    assert get(db, bad.id).failures == 1
    assert "overflow" in get(db, bad.id).last_error


def test_a_symbol_the_provider_does_not_know_is_kept_with_its_error(db, database_settings, start, eventually):
    (job,) = add(db, "NOSUCH")
    program = start("scripts/poller.py", settings=database_settings)
    eventually(lambda: get(db, job.id).failures == 1)
    assert get(db, job.id).last_error == "replay: simulated.csv has no symbol NOSUCH"
    assert program.stop(10) == 0


# --- the database goes away, the poller ends -------------------------------------------------------------------------


def test_the_database_is_away_when_a_price_is_to_be_stored(db, postgres, database_settings, poll, eventually):
    add(db)
    asked = StandIn()
    asked.go.clear()
    poll(asked)
    eventually(lambda: asked.calls)
    postgres.kill()
    asked.go.set()
    time.sleep(IDLE_S)
    postgres.start()
    with database.connect(database_settings, "test") as again:
        eventually(lambda: is_idle(again))
        assert (asked.calls, runs(again)) == (["AAPL"], {"AAPL": 1})
        database.run(again, jobs.upsert(["MSFT"], "replay", 60, False))
        eventually(lambda: runs(again)["MSFT"] == 1)


def test_the_database_is_away_for_longer_than_a_lease_and_the_slot_is_run_again(
    db, postgres, database_settings, poll, caplog, eventually
):
    add(db)
    asked = StandIn()
    asked.go.clear()
    poll(asked, lease_s=1.0)
    eventually(lambda: asked.calls)
    postgres.kill()
    asked.go.set()
    eventually(lambda: "ends with its lease" in caplog.text)
    postgres.start()
    with database.connect(database_settings, "test") as again:
        eventually(lambda: is_idle(again))
        assert (asked.calls, runs(again)) == (["AAPL", "AAPL"], {"AAPL": 1})
        assert count(again, "polling_job_configs WHERE failures > 0") == 0


def test_a_poller_ends_although_the_database_is_away(db, postgres, database_settings, start, eventually):
    program = start("scripts/poller.py", settings=database_settings)
    eventually(lambda: count(db, "heartbeats") == 1)
    postgres.kill()
    program.wait_for("waiting for it")
    began = time.monotonic()
    assert program.stop() == 0
    assert time.monotonic() - began < 10
    assert "Traceback" not in program.err
    postgres.start()


def test_a_poller_that_is_stopped_finishes_what_it_asked(db, poll, eventually):
    add(db, *(f"S{number}" for number in range(50)))
    asked = StandIn(0.5)
    running = poll(asked, most=4)
    eventually(lambda: len(asked.calls) == 4)
    running.end()
    assert len(asked.calls) == 4
    assert runs(db) == dict.fromkeys(asked.calls, 1)
    assert count(db, "polling_job_configs WHERE lease_owner IS NOT NULL") == 0
    assert count(db, "heartbeats") == 0


def test_a_poller_that_is_stopped_gives_back_what_hangs(db, poll, monkeypatch, eventually):
    monkeypatch.setattr(polling, "FINISH_S", 0.3)
    (job,) = add(db)
    hangs, other = StandIn(), StandIn()
    hangs.go.clear()
    running = poll(hangs)
    eventually(lambda: hangs.calls)
    running.end()
    assert get(db, job.id) == job
    poll(other)
    eventually(lambda: is_idle(db))
    lost = sample("polling_runs_total", result="lost")
    hangs.go.set()
    eventually(lambda: sample("polling_runs_total", result="lost") == lost + 1)
    assert runs(db) == {"AAPL": 1}


# --- the program -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["--lease-seconds", "2"], ["--lease-seconds", "61"], ["--lease-seconds", "x"], ["now"]]
)
def test_wrong_usage_is_one_line_and_exit_2(start, database_settings, words):
    program = start("scripts/poller.py", *words, settings=database_settings)
    assert program.finish() == 2
    assert program.err.startswith("error: ")
    assert program.err.count("\n") == 1


def test_a_bad_setting_is_one_line_and_exit_2(start, database_settings):
    program = start("scripts/poller.py", settings=database_settings, PROVIDER_MAX_CONCURRENCY="many")
    assert program.finish() == 2
    assert program.err.startswith("error: PROVIDER_MAX_CONCURRENCY is 'many'; it must be")
