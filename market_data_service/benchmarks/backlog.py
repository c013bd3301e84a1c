"""The consumer on a backlog: the program scripts/kafka_consumer.py, beside bare upserts of the same averages with psycopg.

Ours is timed from the moment that the program is given its partitions to its last commit, both by PostgreSQL's clock; the
program's start and Kafka's rebalance before it are not in it. Reading, decoding, checking and computing the averages are;
the reference only writes averages that are ready, in batches of the same size.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter

from app import averages, consumer
from app.database import Connection
from app.kafka import Message, Publisher
from app.settings import Settings
from benchmarks.series import PROVIDER, SYMBOLS, Averages, averages_of, fill_prices, kept_averages, messages, series
from benchmarks.stage import END_S, Stage, alternate, check, median_ratio, open_database
from benchmarks.table import Row

LEAST_RATIO, LEAST_RATE, MOST_MB = 0.4, 10_000, 100
BATCH = consumer.BATCH

_NOTE_START = """
CREATE TABLE bench_placed (at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION bench_note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO bench_placed DEFAULT VALUES; RETURN NULL; END';
CREATE TRIGGER bench_placed AFTER INSERT ON consumer_offsets FOR EACH STATEMENT EXECUTE FUNCTION bench_note();
"""

_SPENT = """
SELECT extract(epoch FROM max(pg_xact_commit_timestamp(xmin)) - (SELECT min(at) FROM bench_placed))::float8 AS seconds
FROM consumer_offsets
"""

_UPSERT = """
INSERT INTO moving_averages (symbol, provider, window_size, ts, avg_price, price_id)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (symbol, provider, window_size, ts) DO UPDATE SET avg_price = excluded.avg_price, price_id = excluded.price_id
"""


@dataclass(frozen=True)
class Drained:
    """One round of ours."""

    seconds: float
    peak_mb: float


def rows(stage: Stage) -> list[Row]:
    """The rate, and the memory."""
    count = stage.scale.events
    prices = series(count)
    with stage.database() as template:
        given = stage.settings(template)
        expected = averages_of(prices, given.ma_window)
        with open_database(given) as db:
            fill_prices(db, prices)
        publish(given, messages(prices, given.kafka_topic))
        found = alternate(
            stage.scale.rounds,
            ours=lambda: drain(stage, template, given, count, expected),
            bare=lambda: upsert(stage, template, given.ma_window, expected),
        )
    rate = {"ours": [count / each.seconds for each in found["ours"]], "bare": [count / each for each in found["bare"]]}
    return _rows(count, rate, [each.peak_mb for each in found["ours"]])


def _rows(count: int, rate: dict[str, list[float]], peaks_mb: list[float]) -> list[Row]:
    ratio, ours, peak_mb = median_ratio(rate["ours"], rate["bare"]), statistics.median(rate["ours"]), max(peaks_mb)
    beside = f"bare psycopg upserts {statistics.median(rate['bare']):,.0f}/s"
    bar = f">= {LEAST_RATIO}x and >= {LEAST_RATE:,}/s"
    is_met = ratio >= LEAST_RATIO and ours >= LEAST_RATE
    return [
        Row(f"consumer, backlog of {count:,} events, {SYMBOLS} symbols", f"{ours:,.0f} events/s", beside,
            ratio, bar, is_met, {"events_per_s": rate}),
        Row("consumer: memory", f"{peak_mb:.0f} MB", "", None, f"<= {MOST_MB} MB", peak_mb <= MOST_MB, {"mb": peaks_mb}),
    ]  # fmt: skip


def publish(given: Settings, letters: Iterator[Message]) -> None:
    """Put them on the topic, as the relay does: batches, each acknowledged."""
    with Publisher(given) as publisher:
        while batch := list(islice(letters, BATCH)):
            publisher.publish(batch)


def drain(stage: Stage, template: str, given: Settings, count: int, expected: Averages) -> Drained:
    """Run the consumer over the whole topic, in a new database and a new group; every average is compared."""
    with stage.database(template) as name:
        own = stage.settings_like(given, name)
        with open_database(own) as db:
            db.execute(_NOTE_START)
            stage.flush()
            with stage.program("consumer", "scripts/kafka_consumer.py", settings=own) as watched:
                watched.wait(lambda: worked_on(db) >= count, "the end of the backlog", END_S)
            compare(db, expected, given.ma_window)
            spent = db.execute(_SPENT).fetchone()
    assert spent is not None
    return Drained(spent["seconds"], watched.peak_mb)


def upsert(stage: Stage, template: str, window: int, expected: Averages) -> float:
    """Write the same averages, each batch a transaction; the seconds."""
    with stage.database(template) as name, open_database(stage.settings(name, with_kafka=False)) as db:
        ids = {(row["symbol"], row["ts"]): row["id"] for row in db.execute("SELECT symbol, ts, id FROM market_prices")}
        values = [(key[0], PROVIDER, window, key[1], mean, ids[key]) for key, mean in expected.items()]
        stage.flush()
        seconds = _upsert(db, values)
        compare(db, expected, window)
    return seconds


def _upsert(db: Connection, values: Sequence[tuple]) -> float:
    began = perf_counter()
    with db.cursor() as cursor:
        for start in range(0, len(values), BATCH):
            with db.transaction():
                cursor.executemany(_UPSERT, values[start : start + BATCH])
    return perf_counter() - began


def compare(db: Connection, expected: Averages, window: int) -> None:
    """Every average of the table must be as expected, and as the service computes it anew."""
    kept = kept_averages(db, window)
    wrong = sum(kept.get(key) != mean for key, mean in expected.items()) + len(kept.keys() - expected.keys())
    check(not wrong, f"{wrong} of {len(expected)} averages are wrong")
    again = averages.compare(db, window)
    check(again.averages == len(expected) and not again.differences, f"the recomputation says {again}")


def worked_on(db: Connection) -> int:
    """How many messages the consumer has committed."""
    row = db.execute("SELECT coalesce(sum(next_offset), 0)::int AS total FROM consumer_offsets").fetchone()
    assert row is not None
    return row["total"]
