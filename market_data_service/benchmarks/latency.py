"""300 prices a second through the whole way: stored, outbox, relay, topic, consumer, average committed.

A price is stored as the API and the poller store it, on schedule whether the one before is done or not. The times of its
commit and of the average's are PostgreSQL's; the time of publishing is the message's own, given when the relay's producer
takes it. The first prices are of a pipeline that has just come up: nothing is left out.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from app import database, events, prices
from app.database import Connection
from app.events import PriceEvent
from app.providers.base import Quote
from app.settings import Settings
from benchmarks import backlog, relay
from benchmarks.series import SYMBOLS, averages_of, fill_prices, series
from benchmarks.stage import END_S, BenchError, Stage, check, open_database
from benchmarks.table import Row

RATE, WRITERS = 300, 4
MOST_STORED_MS, MOST_PUBLISHED_MS = 200.0, 50.0
SLACK = 1.05  # the last price may be stored so much later than planned

_COMMITS = """
SELECT price.symbol, price.ts,
       extract(epoch FROM pg_xact_commit_timestamp(price.xmin))::float8 AS stored_at,
       extract(epoch FROM pg_xact_commit_timestamp(average.xmin))::float8 AS averaged_at
FROM market_prices AS price JOIN moving_averages AS average USING (symbol, provider, ts)
WHERE price.ts >= %(first)s
"""


@dataclass(frozen=True)
class Delays:
    """Of one round, milliseconds: of each price from its commit, and from its message's time, to its average's commit."""

    stored_ms: list[float]
    published_ms: list[float]


def rows(stage: Stage) -> list[Row]:
    """The 99th percentiles."""
    found = [flow(stage) for _ in range(stage.scale.rounds)]
    name = f"{RATE} prices/s for {stage.scale.stream_s:g} s"
    return [
        _row(f"{name}: stored to average, p99", [each.stored_ms for each in found], MOST_STORED_MS),
        _row(f"{name}: published to average, p99", [each.published_ms for each in found], MOST_PUBLISHED_MS),
    ]


def _row(name: str, rounds: list[list[float]], most_ms: float) -> Row:
    p50, p99 = ([_percentile(each, percent) for each in rounds] for percent in (50, 99))
    ours = statistics.median(p99)
    text = f"{ours:.0f} ms (p50 {statistics.median(p50):.0f})"
    return Row(name, text, "", None, f"<= {most_ms:.0f} ms", ours <= most_ms, {"p50_ms": p50, "p99_ms": p99})


def flow(stage: Stage) -> Delays:
    """One round."""
    with stage.database() as name:
        given = stage.settings(name)
        before = SYMBOLS * (given.ma_window - 1)  # with these each price that follows has an average
        stream = series(before + round(RATE * stage.scale.stream_s))
        with open_database(given) as db:
            fill_prices(db, stream[:before])
            stage.flush()
            with pipeline(stage, given, db):
                store(given, stream[before:])
                _wait_for_averages(db, len(stream) - before)
            return _delays(given, db, stream, before)


@contextlib.contextmanager
def pipeline(stage: Stage, given: Settings, db: Connection) -> Iterator[None]:
    """A relay and a consumer at work."""
    with (
        stage.program("relay", "scripts/outbox_relay.py", settings=given) as first,
        stage.program("consumer", "scripts/kafka_consumer.py", settings=given) as second,
    ):
        for each, key in ((first, "pending"), (second, "lag")):
            each.wait(lambda key=key: _beats(db, key), "its heartbeat")
        yield


def _beats(db: Connection, key: str) -> bool:
    return db.execute("SELECT FROM heartbeats WHERE details ->> %s = '0'", [key]).fetchone() is not None


def store(given: Settings, stream: Sequence[PriceEvent]) -> None:
    """Store the prices at RATE a second, over WRITERS connections. Raises BenchError where that is too fast."""
    began = time.monotonic()
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda first: _store_some(given, stream, first, began), range(WRITERS)))
    rate = len(stream) / (time.monotonic() - began)
    if rate < RATE / SLACK:
        raise BenchError(f"{rate:.0f} prices a second could be stored, not {RATE}: the machine is too busy")


def _store_some(given: Settings, stream: Sequence[PriceEvent], first: int, began: float) -> None:
    """Those of every WRITERS-th symbol, each in a transaction, when it is its turn."""
    with open_database(given) as db:
        for number, each in enumerate(stream):
            if number % SYMBOLS % WRITERS != first:
                continue
            time.sleep(max(0.0, began + number / RATE - time.monotonic()))
            quote = Quote(each.symbol, each.provider, each.price, each.timestamp, {"simulated": True})
            with db.transaction():
                database.run(db, prices.store(quote, topic=given.kafka_topic))


def _wait_for_averages(db: Connection, count: int) -> None:
    deadline = time.monotonic() + END_S
    while backlog.worked_on(db) < count:
        check(time.monotonic() < deadline, f"{backlog.worked_on(db)} of {count} events were worked on")
        time.sleep(0.1)


def _delays(given: Settings, db: Connection, stream: Sequence[PriceEvent], before: int) -> Delays:
    """How long each took, once every message and every average was compared."""
    expected = averages_of(stream, given.ma_window)
    backlog.compare(db, expected, given.ma_window)
    published = _published(given, stream[before:])
    commits = db.execute(_COMMITS, {"first": stream[before].timestamp}).fetchall()
    check(len(commits) == len(published), f"{len(commits)} averages of {len(published)} prices")
    stored_ms = [1000 * (each["averaged_at"] - each["stored_at"]) for each in commits]
    published_ms = [1000 * each["averaged_at"] - published[each["symbol"], each["ts"]] for each in commits]
    return Delays(stored_ms, published_ms)


def _published(given: Settings, stream: Sequence[PriceEvent]) -> dict[tuple, float]:
    """The time of each price's message, milliseconds of Unix time; each must be there once and tell the price."""
    now = stream[-1].timestamp
    found = [(events.decode(each.value, each.headers, now), each.timestamp) for each in relay.read(given)]
    wanted = {(each.symbol, each.timestamp, each.price) for each in stream}
    check(len(found) == len(wanted), f"{len(found)} messages of {len(wanted)} prices")
    check({(each.symbol, each.timestamp, each.price) for each, _ in found} == wanted, "messages tell other prices")
    return {(each.symbol, each.timestamp): at_ms for each, at_ms in found}


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
