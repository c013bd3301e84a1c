"""Producing and consuming l1_day.csv over a real broker, beside bare kafka-python loops with the same settings.

python -m benchmarks.bench_stream

The sides take turns in one process, on a topic of their own each, and the fastest round of each counts: a shared
machine's noise only ever adds. The bare producer sends one constant payload of the rows' mean size, without the headers
that ours carries; the bare consumer polls the topic that ours decodes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

import utils
from benchmarks.table import Row, show
from broker.local import LocalBroker
from kafka_producer import Pace, RunSender
from sor import contract, feed, stream
from sor.audit import RunAudit
from sor.contract import SCHEMA_VERSION, START, StartRecord
from sor.events import Checker, EventBuffer, Events, Intake

CSV = Path(__file__).resolve().parent.parent / "l1_day.csv"
RUN_ID = "20240801-133000-0123abcd"
MAX_DISORDER_NS = 10**9
ROUNDS = 4


def rows() -> list[Row]:
    """Producer, consumer, and the JSON of both."""
    with tempfile.TemporaryDirectory() as folder, LocalBroker(folder, port=0) as broker:
        return [*_producing(broker.bootstrap), _consuming(broker.bootstrap), *_json_rows()]


def main() -> int:
    """Print the rows as a markdown table; 1 if one of them is not ok."""
    return show(rows())


def _producing(servers: str) -> list[Row]:
    payloads, expected = _payloads()
    size = round(sum(map(len, payloads)) / len(payloads))
    sides = {
        "ours": lambda: _produce(servers),
        "bare": lambda: _produce_bare(servers, len(payloads), b"x" * size, None),
        "headers": lambda: _produce_bare(
            servers, len(payloads), b"x" * size, contract.row_headers(RUN_ID, len(payloads))
        ),
    }
    best = _best(sides)
    right = best["ours"].answer == expected
    return [
        _row(
            "kafka_producer --speed 0",
            best["ours"].s,
            "a constant, no headers",
            best["bare"].s,
            len(payloads),
            0.75,
            right,
        ),
        _row("the same", best["ours"].s, "a constant with headers", best["headers"].s, len(payloads), 0.75, right),
    ]


def _consuming(servers: str) -> Row:
    topic = _new_topic(servers)
    with stream.Sender(topic) as sender:
        run = _send_all(sender)
    messages = run.rows + 2
    best = _best({"ours": lambda: _consume(topic), "bare": lambda: _poll_bare(topic, messages)})
    intake = Intake(Checker(MAX_DISORDER_NS))
    feed.load(CSV, intake)
    right = _same(best["ours"].answer, intake.buffer.events()) and best["bare"].answer == messages
    return _row("consume, audit, decode, check", best["ours"].s, "a bare poll", best["bare"].s, messages, 0.65, right)


def _json_rows() -> list[Row]:
    blocks = list(feed.good_blocks(CSV, Checker(MAX_DISORDER_NS)))
    payloads = [contract.encode_rows(rows) for rows in blocks]
    dicts = [[msgspec.json.decode(payload) for payload in block] for block in payloads]
    count = sum(map(len, payloads))
    best = _best(
        {
            "encode": lambda: [contract.encode_rows(rows) for rows in blocks],
            "dumps": lambda: [[json.dumps(row).encode() for row in block] for block in dicts],
            "decode": lambda: [contract.decode_rows(block, 0) for block in payloads],
            "loads": lambda: [[json.loads(payload) for payload in block] for block in payloads],
        }
    )
    same = [[json.loads(payload) for payload in block] for block in payloads] == dicts
    encoded, decoded = (EventBuffer(), EventBuffer())
    for ours, rows in zip(best["decode"].answer, blocks, strict=True):
        encoded.append(rows)
        decoded.append(ours)
    right = same and _same(decoded.events(), encoded.events())
    return [
        _row("encode arrays to JSON", best["encode"].s, "json.dumps of ready dicts", best["dumps"].s, count, 1, same),
        _row("decode JSON to arrays", best["decode"].s, "json.loads to dicts", best["loads"].s, count, 1, right),
    ]


class _Best:
    """Seconds of the fastest round, and what the last one returned."""

    def __init__(self) -> None:
        self.s, self.answer = float("inf"), None


def _best(sides: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, _Best]:
    """Every side in turn, `rounds` times. A side may return (seconds, answer) where not all of it is timed."""
    best = {name: _Best() for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start_s = perf_counter()
            answer = side()
            spent_s = perf_counter() - start_s
            if isinstance(answer, tuple):
                spent_s, answer = answer
            best[name].s, best[name].answer = min(best[name].s, spent_s), answer
    return best


def _row(name: str, ours_s: float, beside: str, beside_s: float, count: int, bar: float, right: bool) -> Row:
    ratio = beside_s / ours_s
    return {
        "name": f"{name}, {count:,} rows",
        "ours": f"{ours_s / count * 1e6:.1f} µs a row",
        "beside": f"{beside}: {beside_s / count * 1e6:.1f} µs",
        "ratio": round(ratio, 2),
        "bar": f"ratio >= {bar:g}",
        "ok": right and ratio >= bar,
    }


def _payloads() -> tuple[list[bytes], tuple[int, int]]:
    """Every payload, and (rows, CRC-32) of them."""
    blocks = [contract.encode_rows(rows) for rows in feed.good_blocks(CSV, Checker(MAX_DISORDER_NS))]
    payloads = [payload for block in blocks for payload in block]
    return payloads, (len(payloads), contract.crc32(payloads))


def _new_topic(servers: str) -> stream.Topic:
    topic = stream.Topic(servers, f"bench-{uuid.uuid4().hex[:12]}")
    stream.ensure_topic(topic)
    return topic


def _send_all(sender: stream.Sender) -> RunSender:
    """What kafka_producer does from the start record to the end record."""
    start = StartRecord(
        run_id=RUN_ID, file=CSV.name, sha256="", schema_version=SCHEMA_VERSION, symbols=[], rows=10**9, speed=0.0
    )
    sender.send([(contract.encode_record(start), contract.record_headers(RUN_ID, START))])
    run, checker, pace = RunSender(RUN_ID, sender), Checker(MAX_DISORDER_NS), Pace(0, 1.0)
    with utils.rare_collections():
        for rows in feed.good_blocks(CSV, checker):
            for _ in run.send_block(rows, pace):
                pass
        run.finish(checker)
    return run


def _produce(servers: str) -> tuple[float, tuple[int, int]]:
    with stream.Sender(_new_topic(servers)) as sender:
        start_s = perf_counter()
        run = _send_all(sender)
        return perf_counter() - start_s, (run.rows, run.crc32)


def _produce_bare(
    servers: str, count: int, payload: bytes, headers: list[tuple[str, bytes]] | None
) -> tuple[float, int]:
    topic = _new_topic(servers)
    settings = {
        "acks": "all",
        "enable_idempotence": True,
        "batch_size": stream.BATCH_BYTES,
        "linger_ms": stream.LINGER_MS,
    }
    with KafkaProducer(**topic.client, **settings) as producer:
        start_s = perf_counter()
        for _ in range(count):
            producer.send(topic.name, payload, headers=headers, partition=stream.PARTITION)
        producer.flush()
        return perf_counter() - start_s, count


def _consume(topic: stream.Topic) -> tuple[float, Events]:
    with stream.Reader(topic, f"bench-{uuid.uuid4().hex[:12]}") as reader, utils.rare_collections():
        start_s = perf_counter()
        audit, intake = RunAudit(reader.next_unreported(10)), Intake(Checker(MAX_DISORDER_NS))
        while not audit.ended:
            records = reader.poll()
            first_row = audit.received
            if payloads := audit.accept(records):
                intake.add(contract.decode_rows(payloads, first_row))
        return perf_counter() - start_s, intake.buffer.events()


def _poll_bare(topic: stream.Topic, messages: int) -> tuple[float, int]:
    settings = {"max_poll_records": stream.POLL_RECORDS, "max_partition_fetch_bytes": 4 * stream.BATCH_BYTES}
    partition = TopicPartition(topic.name, stream.PARTITION)
    consumer = KafkaConsumer(**topic.client, group_id=None, auto_offset_reset="earliest", **settings)
    try:
        consumer.assign([partition])
        start_s, count = perf_counter(), 0
        while count < messages:
            count += len(consumer.poll(timeout_ms=stream.POLL_MS).get(partition, ()))
        return perf_counter() - start_s, count
    finally:
        consumer.close()


def _same(ours: Events, theirs: Events) -> bool:
    pairs = (
        (getattr(ours, name), getattr(theirs, name)) for name in ("ts_ns", "bid_px_e4", "ask_px_e4", "bid_sz", "ask_sz")
    )
    return ours.publisher_ids == theirs.publisher_ids and all((left == right).all() for left, right in pairs)


if __name__ == "__main__":
    sys.exit(main())
