"""Kafka: the topic's producing and consuming edge. The only module that imports kafka; it moves bytes and knows no market.

One partition (number 0) carries everything, so that order is kept. Nothing here retries for ever: a broker that cannot be
reached, a message that is not acknowledged and a topic that stays silent are a StreamError with a hint.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError, TopicAlreadyExistsError
from kafka.structs import OffsetAndMetadata

from sor import contract
from sor.audit import envelope, next_commit
from sor.contract import END, START, EndRecord, StartRecord
from sor.errors import StreamError

PARTITION = 0
BATCH_BYTES = 256 * 1024
LINGER_MS = 10
UNACKNOWLEDGED = 20_000  # messages in flight before the sender looks back whether old ones arrived
POLL_MS = 200
POLL_RECORDS = 4_000

logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what goes wrong is said once, in our words


@dataclass(frozen=True)
class Topic:
    """Where the messages go: `servers` as host:port, comma-separated, and the topic's name."""

    servers: str
    name: str

    @property
    def client(self) -> dict[str, object]:
        """What every Kafka client of ours is opened with."""
        return {"bootstrap_servers": self.servers.split(","), "bootstrap_timeout_ms": 10_000}

    def unreachable(self, error: Exception) -> StreamError:
        """The error for a broker that does not answer."""
        return StreamError(
            f"no Kafka broker answers at {self.servers} ({type(error).__name__}): start one with `make broker-start`, "
            "or set KAFKA_BOOTSTRAP_SERVERS to the host:port of yours"
        )


def ensure_topic(topic: Topic) -> None:
    """Create the topic with one partition if it is not there."""
    try:
        admin = KafkaAdminClient(**topic.client)
        try:
            admin.create_topics({topic.name: {"num_partitions": 1, "replication_factor": -1}}, wait_for_metadata=True)
        except TopicAlreadyExistsError:
            pass
        finally:
            admin.close()
    except KafkaError as error:
        raise topic.unreachable(error) from None


class Sender:
    """Sends messages in order, idempotently, and knows whether each was acknowledged. Use in a `with`."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self._in_flight: deque = deque()
        try:
            self._producer = KafkaProducer(
                **topic.client, acks="all", enable_idempotence=True, batch_size=BATCH_BYTES, linger_ms=LINGER_MS
            )
        except KafkaError as error:
            raise topic.unreachable(error) from None

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *failure: object) -> None:
        self._producer.close(timeout=5)

    def send(self, payload: bytes, headers: list[tuple[str, bytes]]) -> None:
        """Queue one message; blocks while the buffer is full, StreamError if an earlier one was not acknowledged."""
        try:
            future = self._producer.send(self.topic.name, payload, headers=headers, partition=PARTITION)
        except KafkaError as error:
            raise self._not_acknowledged(error) from None
        self._in_flight.append(future)
        if len(self._in_flight) >= 2 * UNACKNOWLEDGED:
            self._look_back(UNACKNOWLEDGED)

    def flush(self, timeout_s: float) -> None:
        """Wait until every message is acknowledged; StreamError if one was not."""
        try:
            self._producer.flush(timeout=timeout_s)
        except KafkaError as error:
            raise self._not_acknowledged(error) from None
        self._look_back(0)

    def _look_back(self, keep: int) -> None:
        while len(self._in_flight) > keep:
            future = self._in_flight.popleft()
            if future.failed():
                raise self._not_acknowledged(future.exception)
            if not future.succeeded() and keep == 0:
                raise self._not_acknowledged(TimeoutError())
            if not future.succeeded():
                self._in_flight.appendleft(future)
                return

    def _not_acknowledged(self, error: Exception) -> StreamError:
        return StreamError(
            f"a message was not acknowledged by the broker at {self.topic.servers} ({type(error).__name__}): "
            "the run is not whole; send it again"
        )


class Reader:
    """Reads runs from the topic for a consumer group. Use in a `with`.

    Offsets are committed by `commit_reported` only: a crash before it repeats the run.
    """

    def __init__(self, topic: Topic, group: str) -> None:
        self.topic = topic
        self._partition = TopicPartition(topic.name, PARTITION)
        self._starts: list[tuple[int, str]] = []
        self._pending: list[ConsumerRecord] = []
        self._position = 0
        try:
            self._consumer = KafkaConsumer(
                **topic.client,
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                max_poll_records=POLL_RECORDS,
                max_partition_fetch_bytes=4 * BATCH_BYTES,
            )
            self._consumer.assign([self._partition])
            committed = self._consumer.committed(self._partition, metadata=True)
        except KafkaError as error:
            raise topic.unreachable(error) from None
        self._committed = committed.offset if committed else 0
        self._reported = set(filter(None, committed.metadata.split(","))) if committed else set()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *failure: object) -> None:
        self._consumer.close()

    def poll(self) -> list[ConsumerRecord]:
        """The next messages, in order; empty if none came within a fraction of a second."""
        if self._pending:
            records, self._pending = self._pending, []
            return records
        try:
            records = self._consumer.poll(timeout_ms=POLL_MS).get(self._partition, [])
        except KafkaError as error:
            raise StreamError(f"reading topic {self.topic.name} failed: {type(error).__name__}: {error}") from None
        if records:
            self._position = records[-1].offset + 1
            self._starts += [(r.offset, envelope(r).run_id) for r in records if is_start(r)]
        return records

    def next_unreported(self, timeout_s: float) -> StartRecord:
        """The first run this group has not reported yet; waits for one."""
        self._seek(self._committed)
        return self._find(lambda run_id: run_id not in self._reported, timeout_s)

    def run(self, run_id: str, timeout_s: float) -> StartRecord:
        """The run of this id; waits for it."""
        self._seek(0)
        return self._find(lambda found: found == run_id, timeout_s)

    def newest_whole(self) -> StartRecord:
        """The newest run on the topic that is complete, whether reported or not."""
        self._seek(0)
        starts: dict[str, StartRecord] = {}
        rows: Counter[bytes] = Counter()
        newest = None
        for records in self._until_end():
            rows.update(r.headers[0][1] for r in records if r.headers)
            starts |= {start.run_id: start for start in map(start_record, records) if start}
            for end in filter(None, map(end_record, records)):
                framed = end.rows_sent + 2  # the start and the end record carry the run's id too
                if end.run_id in starts and not end.aborted and rows[end.run_id.encode()] >= framed:
                    newest = starts[end.run_id]
        if newest is None:
            raise StreamError(f"topic {self.topic.name} holds no complete run: start `python kafka_producer.py`")
        return self.run(newest.run_id, timeout_s=0)

    def commit_reported(self, run_id: str) -> None:
        """Remember that the group has reported this run."""
        self._reported.add(run_id)
        offset, beyond = next_commit(self._starts, self._committed, self._reported, self._position)
        try:
            self._consumer.commit({self._partition: OffsetAndMetadata(offset, ",".join(beyond), -1)})
        except KafkaError as error:
            raise StreamError(f"the run is reported, but the group's offset was not committed: {error}") from None

    def waiting_runs(self) -> int:
        """Runs seen on the topic that this group has not reported."""
        return len({run_id for offset, run_id in self._starts if offset >= self._committed} - self._reported)

    def caught_up(self) -> bool:
        """Every message now on the topic has been read."""
        try:
            return self._position >= self._consumer.end_offsets([self._partition])[self._partition]
        except KafkaError:
            return False

    def _seek(self, offset: int) -> None:
        try:
            first = self._consumer.beginning_offsets([self._partition])[self._partition]
            end = self._consumer.end_offsets([self._partition])[self._partition]
            self._position = offset if first <= offset <= end else first  # beyond the end: the topic was made anew
            self._consumer.seek(self._partition, self._position)
        except KafkaError as error:
            raise self.topic.unreachable(error) from None

    def _until_end(self) -> Iterator[list[ConsumerRecord]]:
        while not self.caught_up():
            yield self.poll()

    def _find(self, wanted: Callable[[str], bool], timeout_s: float) -> StartRecord:
        """Read up to and including the start record of the first run whose id is `wanted`; what follows stays pending."""
        deadline = time.monotonic() + timeout_s
        while True:
            records = self.poll()
            for i, record in enumerate(records):
                start = start_record(record)
                if start and wanted(start.run_id):
                    self._pending = records[i + 1 :]
                    return start
            if not records and time.monotonic() >= deadline and self.caught_up():
                raise StreamError(
                    f"no run to report came on topic {self.topic.name} within {timeout_s:g} s: start "
                    "`python kafka_producer.py`, or use --replay to take the newest complete run again"
                )


_START_HEADER = [(contract.HEADER_RECORD, START)]
_END_HEADER = [(contract.HEADER_RECORD, END)]


def is_start(record: ConsumerRecord) -> bool:
    """The message opens a run."""
    return record.headers[-1:] == _START_HEADER


def start_record(record: ConsumerRecord) -> StartRecord | None:
    """The start record a message holds, if it is one."""
    return _framing(record, StartRecord) if is_start(record) else None


def end_record(record: ConsumerRecord) -> EndRecord | None:
    """The end record a message holds, if it is one."""
    return _framing(record, EndRecord) if record.headers[-1:] == _END_HEADER else None


def _framing(record: ConsumerRecord, kind: type) -> StartRecord | EndRecord | None:
    try:
        framing = contract.decode_record(record.value or b"", kind)
    except StreamError:
        return None
    return framing if framing.run_id == envelope(record).run_id else None


class Silence:
    """Has nothing of a run come for too long? Messages that waited on the topic are judged by when they were sent."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._heard_s = time.monotonic()
        self._sent_s: float | None = None

    def heard(self, records: Sequence[ConsumerRecord]) -> None:
        """Messages of the run have come."""
        self._heard_s = time.monotonic()
        self._sent_s = records[-1].timestamp / 1000

    def too_long(self, others: Sequence[ConsumerRecord], caught_up: Callable[[], bool]) -> bool:
        """Judge after a poll that brought nothing of the run, but perhaps messages of others."""
        if time.monotonic() - self._heard_s > self._timeout_s:
            return True
        if self._sent_s is None:
            return False
        now_s = others[-1].timestamp / 1000 if others else time.time()
        return now_s - self._sent_s > self._timeout_s and (bool(others) or caught_up())
