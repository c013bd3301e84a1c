"""scripts/retention.py deletes what is old and not needed, and nothing else."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest

from app import database, prices
from app.database import Connection
from app.providers.base import Quote
from app.service import Stop
from app.settings import Settings
from scripts import retention

DAYS = (0, 6, 8, 29, 31, 400)
START = datetime.datetime(2025, 6, 13, 13, 30, tzinfo=datetime.timezone.utc)


def store(db: Connection, number: int, days: int, published_days: int | None) -> None:
    """A price whose response is `days` old and whose event was published so many days ago, or not at all."""
    quote = Quote("AAPL", "replay", Decimal(number + 1), START + datetime.timedelta(minutes=number), {"n": number})
    with db.transaction():
        database.run(db, prices.store(quote, topic="t"))
    ago = "now() - make_interval(days => %(days)s, mins => 1)"
    db.execute(
        f"UPDATE raw_responses SET fetched_at = {ago} WHERE body = %(body)s::jsonb",
        {"days": days, "body": f'{{"n": {number}}}'},
    )
    if published_days is not None:
        newest = "id = (SELECT max(id) FROM outbox)"
        db.execute(
            f"UPDATE outbox SET created_at = {ago}, published_at = {ago} WHERE {newest}", {"days": published_days}
        )
    else:
        db.execute("UPDATE outbox SET created_at = '2000-01-01' WHERE id = (SELECT max(id) FROM outbox)")


@pytest.fixture
def filled(db: Connection) -> Connection:
    """Six prices whose responses and events are of the ages DAYS, and one with an event of the year 2000 that waits."""
    for number, days in enumerate(DAYS):
        store(db, number, days, days)
    store(db, len(DAYS), 0, None)
    return db


def left(db: Connection) -> dict[str, int]:
    tables = ("raw_responses", "outbox", "market_prices", "latest_prices")
    return {table: db.execute(f"SELECT count(*) AS n FROM {table}").fetchone()["n"] for table in tables}


@pytest.fixture
def run(start, database_settings: Settings) -> Any:
    """A function that runs the script to its end: exit code, stdout, stderr."""

    def done(*words: str, **environment: str) -> tuple[int, str, str]:
        program = start("scripts/retention.py", *words, settings=database_settings, **environment)
        code = program.finish()
        return code, program.out, program.err

    return done


def test_responses_of_30_days_and_published_events_of_7_are_deleted(filled, run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "responses of providers older than 30 days: 2 deleted",
        "published events older than 7 days: 4 deleted",
    ]
    assert left(filled) == {"raw_responses": 5, "outbox": 3, "market_prices": 7, "latest_prices": 1}
    code, out, _ = run()
    assert [line.split(": ")[1] for line in out.splitlines()] == ["0 deleted", "0 deleted"]


def test_an_event_that_waits_is_kept_however_old_it_is(filled, run):
    run("--outbox-days", "1", "--raw-days", "1")
    rows = filled.execute("SELECT payload::jsonb -> 'price' AS price, published_at FROM outbox ORDER BY id").fetchall()
    assert [(row["price"], row["published_at"] is None) for row in rows] == [(1, False), (7, True)]


def test_a_dry_run_counts_and_deletes_nothing(filled, run):
    before = left(filled)
    code, out, _ = run("--dry-run", "--raw-days", "7", "--outbox-days", "30")
    assert code == 0
    assert out.splitlines() == [
        "responses of providers older than 7 days: 4 would be deleted",
        "published events older than 30 days: 2 would be deleted",
    ]
    assert left(filled) == before


def test_a_price_whose_response_is_deleted_keeps_its_row(filled, run):
    run("--raw-days", "1")
    rows = filled.execute("SELECT price, raw_response_id FROM market_prices ORDER BY ts").fetchall()
    assert [row["raw_response_id"] is None for row in rows] == [False, True, True, True, True, True, False]
    assert [row["price"] for row in rows] == [Decimal(number + 1) for number in range(7)]


def test_it_deletes_in_chunks_and_stops_between_two_of_them(filled):
    stop, chunks = Stop(), []

    class Watched(retention.Kind):
        def delete(self, connection, days, most):
            chunks.append(super().delete(connection, days, most))
            if len(chunks) == 2:
                stop.set()
            return chunks[-1]

    kind = Watched("rows", "raw_responses", "fetched_at")
    assert retention.delete_all(filled, kind, 1, stop, chunk=2) == 4
    assert chunks == [2, 2]
    assert retention.delete_all(filled, retention.RESPONSES, 1, Stop(), chunk=2) == 1


def test_a_row_that_is_in_use_is_left_for_the_next_time(filled, database_settings):
    with database.connect(database_settings, "other") as other, other.transaction():
        other.execute("SELECT FROM outbox WHERE payload::jsonb -> 'price' = '6' FOR UPDATE")
        assert retention.delete_all(filled, retention.EVENTS, 7, Stop()) == 3
    assert retention.delete_all(filled, retention.EVENTS, 7, Stop()) == 1


@pytest.mark.parametrize(
    "words", [["--raw-days", "0"], ["--outbox-days", "-1"], ["--raw-days", "1.5"], ["--raw-days", "x"], ["all"]]
)
def test_wrong_usage_is_one_line_and_exit_2(run, words):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_without_a_database_it_fails_with_one_line(run):
    code, out, err = run(DATABASE_URL="postgresql://u:geheim@127.0.0.1:1/d")
    assert (code, out) == (1, "")
    assert err.startswith("error: database: connection failed")
    assert err.count("\n") == 1
    assert "geheim" not in err
