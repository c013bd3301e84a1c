"""The relay on a full outbox: the program scripts/outbox_relay.py, beside a bare kafka-python producer that sends the same bytes.

Ours is timed by PostgreSQL's clock from the commit of its first batch to that of its last, without the first batch's
events: claiming, sending, waiting for every acknowledgement and marking are in it, the program's start is not. The
reference sends from memory with the same guarantees (idempotent, acks=all), and is timed until all is acknowledged.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from time import perf_counter

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from app import relay
from app.database import Connection
from app.events import PriceEvent
from app.kafka import BATCH_BYTES, Message, Record
from app.settings import Settings
from benchmarks.series import fill_outbox, messages, series
from benchmarks.stage import END_S, BenchError, Stage, alternate, check, median_ratio, open_database
from benchmarks.table import Row

LEAST_RATE = 5_000
LINGER_MS = 10

_BATCHES = """
SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at, count(*) AS events
FROM outbox GROUP BY 1 ORDER BY 1
"""


def rows(stage: Stage) -> list[Row]:
    """The rate."""
    prices = series(stage.scale.events)
    found = alternate(
        stage.scale.rounds,
        ours=lambda: publish(stage, prices),
        bare=lambda: send_bare(stage, prices),
    )
    ours, ratio = statistics.median(found["ours"]), median_ratio(found["ours"], found["bare"])
    beside = f"bare kafka-python {statistics.median(found['bare']):,.0f}/s"
    name = f"relay, {len(prices):,} events in the outbox"
    bar, is_met = f">= {LEAST_RATE:,}/s", ours >= LEAST_RATE
    return [Row(name, f"{ours:,.0f} events/s", beside, ratio, bar, is_met, {"events_per_s": found})]


def publish(stage: Stage, prices: Sequence[PriceEvent]) -> float:
    """Run the relay until the outbox is empty; events a second. Every message is read back and compared."""
    with stage.database() as name:
        given = stage.settings(name)
        with open_database(given) as db:
            fill_outbox(db, prices, given.kafka_topic)
            stage.flush()
            with stage.program("relay", "scripts/outbox_relay.py", settings=given) as watched:
                watched.wait(lambda: not relay.waiting(db)["pending"], "the end of the outbox", END_S)
            rate = _rate(db)
        compare(given, list(messages(prices, given.kafka_topic)))
    return rate


def _rate(db: Connection) -> float:
    first, *others = db.execute(_BATCHES).fetchall()
    if not others:
        raise BenchError(f"{first['events']} events are one batch: too few to time")
    return sum(each["events"] for each in others) / (others[-1]["at"] - first["at"])


def send_bare(stage: Stage, prices: Sequence[PriceEvent]) -> float:
    """Send the same messages to a topic of their own; a second's."""
    given = stage.settings("postgres")
    wanted = list(messages(prices, given.kafka_topic))
    options = {"acks": "all", "enable_idempotence": True, "batch_size": BATCH_BYTES, "linger_ms": LINGER_MS}
    with KafkaProducer(bootstrap_servers=given.kafka_bootstrap_servers, **options) as producer:
        producer.partitions_for(given.kafka_topic)
        began = perf_counter()
        sent = [producer.send(each.topic, each.value, each.key, each.headers) for each in wanted]
        producer.flush()
        seconds = perf_counter() - began
        check(all(each.succeeded() for each in sent), "the reference lost messages")
    compare(given, wanted)
    return len(wanted) / seconds


def compare(given: Settings, wanted: Sequence[Message]) -> None:
    """The topic must hold these messages, each once, those of a key in this order."""
    found = read(given)
    check(len(found) == len(wanted), f"{len(found)} messages on the topic, not {len(wanted)}")
    wrong = sum((_counted(found) - _counted(wanted)).values())
    check(not wrong, f"{wrong} of {len(wanted)} messages are wrong")
    check(_by_key(found) == _by_key(wanted), "messages of a key are not in the order of the outbox")


def read(given: Settings) -> list[Record]:
    """All that is on the topic of events."""
    reader = KafkaConsumer(bootstrap_servers=given.kafka_bootstrap_servers, auto_offset_reset="earliest")
    try:
        where = [TopicPartition(given.kafka_topic, each) for each in reader.partitions_for_topic(given.kafka_topic)]
        reader.assign(where)
        ends = reader.end_offsets(where)
        found: list[Record] = []
        while any(reader.position(each) < end for each, end in ends.items()):
            for records in reader.poll(timeout_ms=200).values():
                found += records
        return found
    finally:
        reader.close()


def _counted(some: Sequence[Message | Record]) -> Counter[tuple]:
    return Counter((each.key, each.value, tuple(each.headers)) for each in some)


def _by_key(some: Sequence[Message | Record]) -> dict[bytes | None, list[bytes | None]]:
    found: dict[bytes | None, list[bytes | None]] = defaultdict(list)
    for each in some:
        found[each.key].append(each.value)
    return found
