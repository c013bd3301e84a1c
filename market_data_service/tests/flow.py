"""The way of a price for tests: stored, published, averaged; and what the tables must hold then, worked out in Python."""

from __future__ import annotations

import argparse
import datetime
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import UnsupportedCodecError
from kafka.record.default_records import DefaultRecordBatch

from app import averages, consumer, database, events, prices, relay
from app.database import Connection
from app.events import PriceEvent
from app.kafka import Message, Publisher, Record, ensure_topics
from app.prices import Stored
from app.providers.base import Quote
from app.service import Stop
from app.settings import Settings

if TYPE_CHECKING:
    import pytest

T0 = datetime.datetime(2025, 6, 15, 13, 30, tzinfo=datetime.timezone.utc)
TOPIC = "price-events"

Averages = dict[tuple[str, str, float], Decimal]  # by symbol, provider and seconds after T0


def at(second: int) -> datetime.datetime:
    """So many seconds after T0."""
    return T0 + datetime.timedelta(seconds=second)


def store(
    db: Connection, symbol: str, second: int, price: str | Decimal, provider: str = "replay", topic: str = TOPIC
) -> Stored:
    """Store a price as the API and the poller do."""
    quote = Quote(symbol, provider, Decimal(price), at(second), {"simulated": True})
    with db.transaction():
        return database.run(db, prices.store(quote, topic=topic))


def store_many(db: Connection, settings: Settings, points: Iterable[tuple[str, int, Decimal]]) -> None:
    """Store new prices (symbol, second, price) with their events, as many calls of `store` would, but faster."""
    made = [PriceEvent(symbol, price, at(second), "replay", "1") for symbol, second, price in points]
    with db.transaction(), db.cursor() as cursor:
        with cursor.copy("COPY market_prices (symbol, provider, price, ts) FROM STDIN") as copy:
            for each in made:
                copy.write_row((each.symbol, each.provider, each.price, each.timestamp))
        with cursor.copy("COPY outbox (topic, key, payload, event_id) FROM STDIN") as copy:
            for each in made:
                copy.write_row((settings.kafka_topic, each.key, events.encode(each), each.event_id))


def publish(settings: Settings, db: Connection) -> int:
    """Publish all that waits in the outbox, in this process; how many events."""
    with Publisher(settings) as publisher:
        return sum(iter(lambda: relay.publish_batch(db, publisher), 0))


def send(settings: Settings, *messages: Message) -> None:
    """Put messages on a topic."""
    with Publisher(settings) as publisher:
        publisher.publish(messages)


@contextmanager
def foreign(settings: Settings, **options: Any) -> Iterator[KafkaProducer]:
    """A producer of somebody else, who may send anything; all of it is acknowledged when the block ends."""
    ensure_topics(settings)
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, **options)
    try:
        yield producer
        producer.flush()
    finally:
        producer.close()


class NotUtf8(str):
    """A header's name that any client in another language could send, and kafka-python cannot read."""

    def encode(self, *_: str) -> bytes:
        return b"\xff\xfe"


def take_codecs_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process unpack nothing, as where the codec of a message is not installed."""

    def lacks(_batch: DefaultRecordBatch, _codec: int) -> None:
        raise UnsupportedCodecError("gzip")

    monkeypatch.setattr(DefaultRecordBatch, "_assert_has_codec", lacks)


def consume(settings: Settings, *, from_beginning: bool = False) -> int:
    """Drain the topic, in this process; the exit code."""
    flags = argparse.Namespace(once=True, from_beginning=from_beginning)
    return consumer.work(settings, Stop(), flags)


def messages(settings: Settings, topic: str) -> list[Record]:
    """All that is on a topic, partition by partition."""
    reader = KafkaConsumer(bootstrap_servers=settings.kafka_bootstrap_servers, auto_offset_reset="earliest")
    try:
        where = [TopicPartition(topic, each) for each in sorted(reader.partitions_for_topic(topic))]
        reader.assign(where)
        ends = reader.end_offsets(where)
        found: dict[TopicPartition, list[Record]] = {each: [] for each in where}
        while any(reader.position(each) < end for each, end in ends.items()):
            for each, records in reader.poll(timeout_ms=100).items():
                found[each] += records
        return [record for each in where for record in found[each]]
    finally:
        reader.close()


def length(settings: Settings) -> int:
    """How many messages were ever put on the topic of events."""
    reader = KafkaConsumer(bootstrap_servers=settings.kafka_bootstrap_servers)
    try:
        where = [
            TopicPartition(settings.kafka_topic, each) for each in reader.partitions_for_topic(settings.kafka_topic)
        ]
        return sum(reader.end_offsets(where).values())
    finally:
        reader.close()


def kept_averages(db: Connection, window: int = 5) -> Averages:
    """The table."""
    rows = db.execute("SELECT symbol, provider, ts, avg_price FROM moving_averages WHERE window_size = %s", [window])
    return {(row["symbol"], row["provider"], _second(row["ts"])): row["avg_price"] for row in rows}


def expected_averages(db: Connection, window: int = 5) -> Averages:
    """What the table must hold, by the definition, from the stored prices."""
    series: dict[tuple[str, str], list[tuple[float, Decimal]]] = defaultdict(list)
    for row in db.execute("SELECT symbol, provider, ts, price FROM market_prices ORDER BY ts"):
        series[row["symbol"], row["provider"]].append((_second(row["ts"]), row["price"]))
    return {
        (*key, each[-1][0]): mean([price for _, price in each])
        for key, points in series.items()
        for each in (points[start : start + window] for start in range(len(points) - window + 1))
    }


def mean(some: Sequence[Decimal]) -> Decimal:
    """The mean to six decimals, halves away from zero."""
    return (sum(some, Decimal(0)) / len(some)).quantize(Decimal("0.000001"), ROUND_HALF_UP)


def bytes_of(db: Connection, window: int = 5) -> list[str]:
    """The rows of the averages as text, every column of them."""
    sql = "SELECT kept::text AS line FROM moving_averages AS kept WHERE window_size = %s ORDER BY symbol, provider, ts"
    return [row["line"] for row in db.execute(sql, [window])]


def recomputed(db: Connection, window: int = 5) -> list[str]:
    """`bytes_of` the averages if they were computed anew from nothing; the table stays as it is."""
    with db.transaction(force_rollback=True):
        db.execute("DELETE FROM moving_averages")
        averages.recompute(db, window)
        return bytes_of(db, window)


def touch(db: Connection, touched: Iterable[tuple[str, int]], window: int = 5) -> averages.Updated:
    """Update the averages as the consumer does for events of these symbols and seconds."""
    with db.transaction():
        averages.prepare(db)
        return averages.update(db, [(symbol, "replay", at(second)) for symbol, second in touched], window)


def _second(ts: datetime.datetime) -> float:
    return (ts - T0).total_seconds()
