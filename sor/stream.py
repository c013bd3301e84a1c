"""Kafka: the topic's producing and consuming edge. The only module that imports kafka; it moves bytes and knows no market.

One partition (number 0) carries everything, so that order is kept. Nothing here retries for ever: a broker that cannot be
reached, a message that is not acknowledged and a topic that stays silent are a StreamError with a hint.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError, TopicAlreadyExistsError
from kafka.future import Future
from kafka.structs import OffsetAndMetadata

from sor import contract
from sor.audit import envelope, next_commit
from sor.contract import END, START, EndRecord, StartRecord
from sor.errors import StreamError

Message = tuple[bytes, list[tuple[str, bytes]]]  # payload and headers

PARTITION = 0
BATCH_BYTES = 256 * 1024
LINGER_MS = 10
DELIVERY_MS = 120_000  # a message not acknowledged by then fails the run
FLUSH_S = DELIVERY_MS / 1000 + 10
MOST_IN_FLIGHT = 8_000  # messages; about 4 MB, and more than the broker can have before it
POLL_MS = 200
POLL_RECORDS = 4_000
GRACE_S = 3.0  # waited in any case, since the clock of a live producer may be wrong
ANSWER_MS = 10_000  # by then the broker must have answered a reader's question
MOST_METADATA = 4_000  # bytes kept with a committed offset; a broker takes 4096

logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what goes wrong is said once, in our words


@dataclass(frozen=True)
class Security:
    """How a broker is spoken to: the protocol, and for SASL and TLS who we are and whose word we take.

    `protocol` is PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL; `mechanism` PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; an empty
    `ca_file` stands for the authorities of the system.
    """

    protocol: str = "PLAINTEXT"
    mechanism: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""

    @property
    def client(self) -> dict[str, object]:
        """The part of a Kafka client's settings."""
        options: dict[str, object] = {"security_protocol": self.protocol}
        if self.protocol.startswith("SASL_"):
            options |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return options | ({"ssl_cafile": self.ca_file} if self.ca_file else {})


@dataclass(frozen=True)
class Topic:
    """Where the messages go: `servers` as host:port, comma-separated, the topic's name, and how the broker is spoken to."""

    servers: str
    name: str
    security: Security = Security()

    @property
    def client(self) -> dict[str, object]:
        """What every Kafka client of ours is opened with."""
        return {
            "bootstrap_servers": self.servers.split(","),
            "bootstrap_timeout_ms": 10_000,
            "reconnect_backoff_max_ms": 1_000,
            **self.security.client,
        }

    def unreachable(self, error: Exception) -> StreamError:
        """The error for a broker that does not answer."""
        return StreamError(
            f"no Kafka broker answers at {self.servers} ({type(error).__name__}): start one with `make broker-start`, "
            "or set KAFKA_BOOTSTRAP_SERVERS to the host:port of yours"
        )


def topic_of(settings: Any) -> Topic:
    """The topic that the kafka_ fields of a program's settings name."""
    security = Security(
        protocol=settings.kafka_security_protocol,
        mechanism=settings.kafka_sasl_mechanism,
        username=settings.kafka_sasl_username,
        password=settings.kafka_sasl_password,
        ca_file=settings.kafka_ssl_cafile,
    )
    return Topic(settings.kafka_bootstrap_servers, settings.kafka_topic, security)


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
        self._in_flight: list[Future] = []
        try:
            self._producer = KafkaProducer(
                **topic.client,
                acks="all",
                enable_idempotence=True,
                batch_size=BATCH_BYTES,
                linger_ms=LINGER_MS,
                delivery_timeout_ms=DELIVERY_MS,
            )
        except KafkaError as error:
            raise topic.unreachable(error) from None

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *failure: object) -> None:
        try:
            self._producer.close(timeout=1)
        except KafkaError:  # messages wait for a broker that has gone; `flush` has said so
            self._producer._sender.force_close()
            self._producer.close(timeout=5)

    def send(self, messages: Iterable[Message]) -> None:
        """Queue messages in order, without waiting: call `make_room` now and then."""
        send, name, in_flight = self._producer.send, self.topic.name, self._in_flight
        try:
            for payload, headers in messages:
                in_flight.append(send(name, payload, headers=headers, partition=PARTITION))
        except KafkaError as error:
            raise self._not_acknowledged(error) from None

    def make_room(self) -> None:
        """Wait while too many messages are on their way; StreamError if an earlier one was not acknowledged."""
        if len(self._in_flight) > MOST_IN_FLIGHT:
            self._settle(len(self._in_flight) - MOST_IN_FLIGHT // 2, FLUSH_S)

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait until every message is acknowledged; StreamError if one was not."""
        try:
            self._producer.flush(timeout=timeout_s)
        except KafkaError as error:
            raise self._not_acknowledged(error) from None
        self._settle(len(self._in_flight), timeout_s)

    def _settle(self, count: int, timeout_s: float) -> None:
        """Wait for the oldest `count` messages; StreamError if one of them was not acknowledged."""
        try:
            for future in self._in_flight[:count]:
                if not future.is_done or future.exception:  # asking first takes a tenth of the time of `get`
                    future.get(timeout_s)
        except KafkaError as error:
            raise self._not_acknowledged(error) from None
        finally:
            del self._in_flight[:count]

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
                request_timeout_ms=ANSWER_MS,
                max_poll_records=POLL_RECORDS,
                max_partition_fetch_bytes=4 * BATCH_BYTES,
            )
            self._consumer.assign([self._partition])
            committed = self._consumer.committed(self._partition, metadata=True, timeout_ms=ANSWER_MS)
        except KafkaError as error:
            raise topic.unreachable(error) from None
        self._committed = committed.offset if committed else 0
        self._reported = set(filter(None, committed.metadata.split(","))) if committed else set()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *failure: object) -> None:
        self._consumer.close(timeout_ms=1_000)

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
            self._starts += [(r.offset, start.run_id) for r in records if (start := start_record(r))]
        return records

    def next_unreported(self, timeout_s: float) -> StartRecord:
        """The first run this group has not reported yet; waits for one."""
        self._seek(self._committed)
        return self._find(lambda run_id: run_id not in self._reported, "no run to report", timeout_s)

    def run(self, run_id: str, timeout_s: float) -> StartRecord:
        """The run of this id; waits for it."""
        self._seek(0)
        return self._find(lambda found: found == run_id, f"no run {run_id}", timeout_s)

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
        while len(",".join(beyond)) > MOST_METADATA and offset < self._position:  # gives up the oldest unreported run
            offset, beyond = next_commit(self._starts, offset + 1, self._reported, self._position)
        try:
            self._consumer.commit(
                {self._partition: OffsetAndMetadata(offset, ",".join(beyond), -1)}, timeout_ms=ANSWER_MS
            )
        except KafkaError as error:
            raise StreamError(f"the run is reported, but the group's offset was not committed: {error}") from None

    def waiting_runs(self) -> int:
        """Runs seen on the topic that this group has not reported."""
        return len({run_id for offset, run_id in self._starts if offset >= self._committed} - self._reported)

    def caught_up(self) -> bool:
        """Every message now on the topic has been read; StreamError if the broker cannot be asked."""
        return not self._pending and self._position >= self._end_offset()

    def _end_offset(self) -> int:
        try:
            return self._consumer.end_offsets([self._partition], timeout_ms=ANSWER_MS)[self._partition]
        except KafkaError as error:
            raise self.topic.unreachable(error) from None

    def _seek(self, offset: int) -> None:
        try:
            first = self._consumer.beginning_offsets([self._partition], timeout_ms=ANSWER_MS)[self._partition]
            end = self._end_offset()
            if self._committed > end:  # the topic was made anew
                self._committed = first
            self._move(offset if first <= offset <= end else first)
        except KafkaError as error:
            raise self.topic.unreachable(error) from None

    def _until_end(self) -> Iterator[list[ConsumerRecord]]:
        while not self.caught_up():
            yield self.poll()

    def _find(self, wanted: Callable[[str], bool], missing: str, timeout_s: float) -> StartRecord:
        """Read up to and including the start record of the first run whose id is `wanted`; what follows stays pending."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            records = self.poll()
            for i, record in enumerate(records):
                start = start_record(record)
                if start and wanted(start.run_id):
                    self._pending = records[i + 1 :]
                    return start
                if start and self._skip(record.offset, start):
                    break
            if time.monotonic() >= deadline_s and self.caught_up():
                raise StreamError(
                    f"{missing} came on topic {self.topic.name} within {timeout_s:g} s: start "
                    "`python kafka_producer.py`, or use --replay to take the newest complete run again"
                )

    def _skip(self, offset: int, start: StartRecord) -> bool:
        """Go on behind the end record of a run that is not wanted, if it stands where a whole run alone would have it."""
        end_offset = offset + start.rows + 1
        if self._position > end_offset or end_offset >= self._end_offset():
            return False
        after = self._position
        self._move(end_offset)
        records = self.poll()
        end = end_record(records[0]) if records and records[0].offset == end_offset else None
        if end and end.run_id == start.run_id:
            self._pending = records[1:]
            return True
        self._move(after)
        return False

    def _move(self, offset: int) -> None:
        self._consumer.seek(self._partition, offset)
        self._position, self._pending = offset, []


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

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._heard_s = clock()
        self._sent_s = float("inf")

    def heard(self, records: Sequence[ConsumerRecord]) -> None:
        """Messages of the run have come."""
        self._heard_s = self._clock()
        self._sent_s = records[-1].timestamp / 1000

    def too_long(self, caught_up: Callable[[], bool]) -> bool:
        """Judge after a poll that brought nothing of the run."""
        waited_s = self._clock() - self._heard_s
        silent_s = waited_s if waited_s < GRACE_S else max(waited_s, time.time() - self._sent_s)
        return silent_s > self._timeout_s and caught_up()
