"""app/prices.py: the four rules of storing a price, alone and when two store the same one, and what may be read of it."""

from __future__ import annotations

import datetime
import json
import threading
import uuid
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app import database, prices
from app.database import Connection
from app.errors import ServiceError
from app.events import NAMESPACE
from app.prices import Stored
from app.providers.base import Quote

T0 = datetime.datetime(2025, 6, 15, 20, 30, 27, 283671, tzinfo=datetime.timezone.utc)
SECOND = datetime.timedelta(seconds=1)
TOPIC = "price-events-of-the-test"


def store(
    db: Connection, price: str, at_s: float = 0.0, symbol: str = "AAPL", provider: str = "replay", **more: Any
) -> Stored:
    """Store a price of T0 + `at_s`, in a transaction of its own."""
    traceparent = more.pop("traceparent", None)
    quote = Quote(symbol, provider, Decimal(price), T0 + at_s * SECOND, **{"body": {"price": price}} | more)
    with db.transaction():
        return database.run(db, prices.store(quote, topic=TOPIC, traceparent=traceparent))


def history(db: Connection) -> list[tuple[float, str]]:
    """(seconds after T0, price) of market_prices, oldest first."""
    rows = db.execute("SELECT ts, price::text AS price FROM market_prices ORDER BY ts").fetchall()
    return [((row["ts"] - T0).total_seconds(), row["price"]) for row in rows]


def latest(db: Connection) -> tuple[float, str]:
    """(seconds after T0, price) of latest_prices, which says the same as the price it points to."""
    row, pointed = db.execute(
        "SELECT ts, price::text AS price FROM latest_prices UNION ALL "
        "SELECT market_prices.ts, market_prices.price::text FROM latest_prices JOIN market_prices ON price_id = id"
    ).fetchall()
    assert row == pointed
    return (row["ts"] - T0).total_seconds(), row["price"]


def events(db: Connection) -> list[tuple[float, str]]:
    """(seconds after T0, price) of the outbox's events, in the order in which they are published."""
    rows = db.execute(
        "SELECT payload::json ->> 'timestamp' AS ts, payload::json ->> 'price' AS price FROM outbox ORDER BY id"
    )
    return [
        ((datetime.datetime.fromisoformat(row["ts"].replace("Z", "+00:00")) - T0).total_seconds(), row["price"])
        for row in rows
    ]


def count(db: Connection, table: str) -> int:
    return db.execute(f"SELECT count(*) AS n FROM {table}").fetchone()["n"]


# --- the four rules --------------------------------------------------------------------------------------------------


def test_rule_1_a_new_timestamp_is_a_row_and_an_event(db):
    first, second = store(db, "196.45"), store(db, "196.46", 1)
    assert (first.did, second.did) == ("new", "new")
    assert history(db) == [(0, "196.450000"), (1, "196.460000")]
    assert events(db) == [(0, "196.45"), (1, "196.46")]
    assert latest(db) == (1, "196.460000")
    assert (second.latest.price, second.latest.ts) == (Decimal("196.46"), T0 + SECOND)


def test_rule_2_the_same_price_again_is_no_row_and_no_event_but_is_fresh(db):
    store(db, "196.45")
    db.execute("UPDATE latest_prices SET fetched_at = now() - interval '1 hour'")
    again = store(db, "196.450")
    assert again.did == "same"
    assert history(db) == [(0, "196.450000")]
    assert events(db) == [(0, "196.45")]
    assert count(db, "raw_responses") == 2
    assert age_s(db) < 60


def test_rule_3_another_price_at_the_same_timestamp_corrects_the_row_and_its_event_carries_the_new_price(db):
    store(db, "196.45")
    before = db.execute("SELECT id, raw_response_id FROM market_prices").fetchone()
    corrected = store(db, "196.40")
    after = db.execute("SELECT id, raw_response_id FROM market_prices").fetchone()
    assert corrected.did == "corrected"
    assert history(db) == [(0, "196.400000")]
    assert events(db) == [(0, "196.45"), (0, "196.4")]
    assert latest(db) == (0, "196.400000")
    assert after["id"] == before["id"]
    assert after["raw_response_id"] == before["raw_response_id"] + 1


def test_rule_4_a_late_price_is_a_row_and_an_event_and_the_latest_stays(db):
    store(db, "196.45", 10)
    late = store(db, "190.00", 5)
    assert late.did == "new"
    assert (late.latest.price, late.latest.ts) == (Decimal("196.45"), T0 + 10 * SECOND)
    assert history(db) == [(5, "190.000000"), (10, "196.450000")]
    assert events(db) == [(10, "196.45"), (5, "190")]
    assert latest(db) == (10, "196.450000")


def test_a_correction_of_a_late_price_leaves_the_latest_too(db):
    store(db, "196.45", 10)
    store(db, "190", 5)
    assert store(db, "191", 5).did == "corrected"
    assert latest(db) == (10, "196.450000")
    assert events(db)[-1] == (5, "191")


def test_a_price_that_was_corrected_and_set_back_has_three_events(db):
    for price in ("196.45", "196.40", "196.45"):
        store(db, price)
    assert events(db) == [(0, "196.45"), (0, "196.4"), (0, "196.45")]
    ids = [row["event_id"] for row in db.execute("SELECT event_id FROM outbox ORDER BY id")]
    assert ids[0] == ids[2] != ids[1]


def test_a_late_price_makes_the_latest_fresh_for_the_provider_was_asked_now(db):
    store(db, "196.45", 10)
    db.execute("UPDATE latest_prices SET fetched_at = now() - interval '1 hour'")
    store(db, "190", 5)
    assert age_s(db) < 60


def test_symbols_and_providers_do_not_touch_each_other(db):
    store(db, "1", symbol="AAPL", provider="replay")
    store(db, "2", symbol="AAPL", provider="yfinance")
    store(db, "3", symbol="MSFT", provider="replay")
    assert count(db, "market_prices") == count(db, "latest_prices") == count(db, "outbox") == 3


def test_a_timestamp_is_the_same_in_whatever_offset_it_is_given(db):
    store(db, "196.45")
    tokyo = T0.astimezone(datetime.timezone(datetime.timedelta(hours=9)))
    with db.transaction():
        quote = Quote("AAPL", "replay", Decimal("196.45"), tokyo, {})
        assert database.run(db, prices.store(quote, topic=TOPIC)).did == "same"


# --- what is stored --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "text"),
    [
        ("0.000001", "0.000001"),
        ("196.450001", "196.450001"),
        ("0.1", "0.1"),
        ("200", "200"),
        ("1E+3", "1000"),
        ("105412.999999", "105412.999999"),
        ("999999999999.999999", "999999999999.999999"),
    ],
)
def test_prices_are_exact_to_six_decimals_in_the_table_and_in_the_event(db, price, text):
    stored = store(db, price)
    row = db.execute("SELECT price FROM market_prices").fetchone()
    payload = db.execute("SELECT payload FROM outbox").fetchone()["payload"]
    assert row["price"] == stored.latest.price == Decimal(price)
    assert f'"price":{text},' in payload


@pytest.mark.parametrize("price", ["0", "-1", "NaN", "1E+12", "Infinity"])
def test_a_price_that_is_none_is_refused_and_leaves_nothing(db, price):
    with pytest.raises((psycopg.Error, ServiceError)):
        store(db, price)
    tables = ("raw_responses", "market_prices", "latest_prices", "outbox")
    assert [count(db, table) for table in tables] == [0, 0, 0, 0]


def test_the_event_is_the_seed_s_five_fields_with_the_response_it_came_from(db):
    store(db, "196.45", status=206, traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    raw = db.execute("SELECT * FROM raw_responses").fetchone()
    event = db.execute("SELECT * FROM outbox").fetchone()
    assert (raw["provider"], raw["symbol"], raw["status"], raw["body"]) == ("replay", "AAPL", 206, {"price": "196.45"})
    assert json.loads(event["payload"]) == {
        "symbol": "AAPL",
        "price": 196.45,
        "timestamp": "2025-06-15T20:30:27.283671Z",
        "provider": "replay",
        "raw_response_id": str(raw["id"]),
    }
    assert (event["topic"], event["key"], event["published_at"]) == (TOPIC, "replay:AAPL", None)
    assert event["traceparent"].startswith("00-0af7")
    name = "replay|AAPL|2025-06-15T20:30:27.283671+00:00|196.450000"
    assert event["event_id"] == uuid.uuid5(NAMESPACE, name)


def test_the_relay_is_told_of_an_event_and_of_nothing_else(db, database_settings):
    with database.connect(database_settings, "listener") as listener:
        listener.execute(f"LISTEN {prices.OUTBOX_CHANNEL}")
        store(db, "196.45")
        assert len(list(listener.notifies(timeout=2, stop_after=1))) == 1
        store(db, "196.45")
        assert list(listener.notifies(timeout=0.2)) == []


def test_a_caller_s_transaction_that_fails_leaves_nothing(db):
    with pytest.raises(ZeroDivisionError):
        fail_after_storing(db)
    assert [count(db, table) for table in ("raw_responses", "market_prices", "latest_prices", "outbox")] == [0, 0, 0, 0]


def fail_after_storing(db: Connection) -> None:
    with db.transaction():
        store(db, "196.45")
        raise ZeroDivisionError


# --- in any order ----------------------------------------------------------------------------------------------------

TICKS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["1", "2", "2.5"])), min_size=1, max_size=12)


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ticks=TICKS)
def test_whatever_comes_in_whatever_order_the_tables_are_what_the_rules_say(db, ticks):
    db.execute("TRUNCATE market_prices, latest_prices, raw_responses, outbox")
    kept: dict[int, str] = {}
    told, newest = [], -1
    for at_s, price in ticks:
        was = kept.get(at_s)
        did = store(db, price, at_s)
        kept[at_s] = price
        newest = max(newest, at_s)
        assert did.did == ("new" if was is None else "same" if was == price else "corrected")
        assert latest(db) == (newest, f"{Decimal(kept[newest]):.6f}")
        told += [] if was == price else [(at_s, price)]
    assert history(db) == [(at_s, f"{Decimal(price):.6f}") for at_s, price in sorted(kept.items())]
    assert events(db) == told


# --- two at once -----------------------------------------------------------------------------------------------------


def test_a_second_writer_of_a_key_waits_for_the_first_and_its_event_comes_after(db, database_settings):
    order: list[str] = []
    with database.connect(database_settings, "first") as first:
        with first.transaction():
            database.run(first, prices.store(Quote("AAPL", "replay", Decimal(1), T0, {}), topic=TOPIC))
            second = threading.Thread(target=lambda: (store(db, "2"), order.append("second")))
            second.start()
            second.join(0.5)
            assert second.is_alive()
            with database.connect(database_settings, "other key") as other:
                store(other, "3", symbol="MSFT")  # another key does not wait
            order.append("first")
        second.join(10)
    assert order == ["first", "second"]
    assert [price for _, price in events(db)] == ["1", "3", "2"]
    assert latest_of(db, "AAPL") == Decimal(2)


def latest_of(db: Connection, symbol: str) -> Decimal:
    return db.execute("SELECT price FROM latest_prices WHERE symbol = %s", (symbol,)).fetchone()["price"]


def test_writers_of_one_key_at_once_lose_nothing_and_events_are_in_the_order_of_commits(db, database_settings):
    """Every writer notes the outbox id of its event and, still inside the lock, what was committed before."""
    writers, each = 4, 25
    seen: list[tuple[int, int]] = []

    def write(number: int) -> None:
        with database.connect(database_settings, f"writer {number}") as connection:
            for at in range(each):
                seen.append(store_and_look(connection, number * each + at))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(history(db)) == len(events(db)) == count(db, "raw_responses") == writers * each
    assert latest(db)[0] == writers * each - 1
    assert len(seen) == writers * each
    assert all(own == newest_before + 1 for newest_before, own in number_by_id(seen))


def store_and_look(connection: Connection, at_s: int) -> tuple[int, int]:
    """Store; the newest id of the outbox that was committed before this one's, and its own."""
    steps = prices.store(Quote("AAPL", "replay", Decimal(1), T0 + at_s * SECOND, {}), topic=TOPIC)
    with connection.transaction():
        database.run(connection, steps)
        own, before = (
            connection.execute(
                "SELECT max(id) AS own, coalesce(max(id) FILTER (WHERE id < (SELECT max(id) FROM outbox)), 0) AS before FROM outbox"
            )
            .fetchone()
            .values()
        )
    return before, own


def number_by_id(seen: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same with ids counted from 1, in the order of ids, without the gaps of the sequence."""
    place = {own: number for number, (_, own) in enumerate(sorted(seen, key=lambda pair: pair[1]), 1)}
    return [(place.get(before, 0), place[own]) for before, own in seen]


def test_two_writers_of_the_same_new_price_make_one_row_and_one_event(db, database_settings):
    gate = threading.Barrier(2)
    did: list[str] = []

    def write() -> None:
        with database.connect(database_settings, "writer") as connection:
            for at_s in range(20):
                gate.wait(10)
                did.append(store(connection, "196.45", at_s).did)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(did) == ["new"] * 20 + ["same"] * 20
    assert len(history(db)) == len(events(db)) == 20


# --- what may be read ------------------------------------------------------------------------------------------------


def test_latest_of_several_symbols_is_read_at_once_and_what_is_not_there_is_left_out(db):
    store(db, "196.45", symbol="AAPL")
    store(db, "470", symbol="MSFT")
    db.execute("UPDATE latest_prices SET fetched_at = now() - interval '90 s' WHERE symbol = 'MSFT'")
    values = {"symbols": ["AAPL", "MSFT", "NONE", "AAPL"], "providers": ["replay", "replay", "replay", "yfinance"]}
    rows = {row["symbol"]: row for row in db.execute(prices.LATEST, values).fetchall()}
    assert {symbol: row["price"] for symbol, row in rows.items()} == {"AAPL": Decimal("196.45"), "MSFT": Decimal(470)}
    assert 0 <= rows["AAPL"]["age_s"] < 30
    assert 90 <= rows["MSFT"]["age_s"] < 120


@pytest.mark.parametrize(
    ("bounds", "seconds"),
    [
        ({}, [4, 3, 2, 1, 0]),
        ({"limit": 2}, [4, 3]),
        ({"from_ts": T0 + 3 * SECOND}, [4, 3]),
        ({"to_ts": T0 + 3 * SECOND}, [2, 1, 0]),
        ({"before_ts": T0 + 3 * SECOND, "limit": 2}, [2, 1]),
        ({"from_ts": T0 + 1 * SECOND, "to_ts": T0 + 4 * SECOND, "before_ts": T0 + 3 * SECOND}, [2, 1]),
    ],
)
def test_history_is_newest_first_from_a_time_to_before_a_time(db, bounds, seconds):
    for at_s in range(5):
        store(db, "1", at_s)
    store(db, "1", 2, symbol="MSFT")
    values = {"symbol": "AAPL", "provider": "replay", "from_ts": None, "to_ts": None, "before_ts": None, "limit": 100}
    rows = db.execute(prices.HISTORY, values | bounds).fetchall()
    assert [(row["ts"] - T0).total_seconds() for row in rows] == seconds


def test_the_read_path_is_one_row_whatever_the_history(db):
    db.execute(
        "INSERT INTO market_prices (symbol, provider, price, ts) "
        "SELECT 'AAPL', 'replay', 1, '2025-01-01'::timestamptz + n * interval '1 s' FROM generate_series(1, 5000) AS n"
    )
    store(db, "196.45")
    db.execute("ANALYZE")
    plan = db.execute(
        "EXPLAIN (FORMAT JSON) " + prices.LATEST, {"symbols": ["AAPL"], "providers": ["replay"]}
    ).fetchone()
    assert "market_prices" not in json.dumps(plan)


def age_s(db: Connection) -> float:
    (row,) = db.execute(prices.LATEST, {"symbols": ["AAPL"], "providers": ["replay"]}).fetchall()
    return row["age_s"]
