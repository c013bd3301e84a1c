"""Kafka: the only module that imports it. Moves bytes; knows no price.

    ensure_topics(settings)                              both topics are there
    with Publisher(settings) as publisher: ...           messages out, each acknowledged or KafkaAwayError
    with Group(settings) as group: ...                   messages in, from where `place` says, as one of a consumer group
    with Reader(settings, topic, group_id) as reader:    all partitions of a topic, from where the group stands

Nothing here retries for ever: a broker that does not answer is a KafkaAwayError, and the caller waits.
"""

from __future__ import annotations

import contextlib
import logging
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import (
    AuthorizationError,
    CorruptRecordError,
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    UnsupportedCodecError,
)
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.record import default_records
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.util import decode_varint
from kafka.structs import OffsetAndMetadata

from app.errors import ServiceError
from app.settings import Settings

PARTITIONS = 6  # of a topic that has to be made: as many consumers can share the work
BATCH_BYTES = 512 * 1024
LINGER_MS = 1_000  # `publish` flushes: what is handed over at once goes out as one batch a partition
REQUEST_MS = 5_000
DELIVERY_MS = 8_000
BOOTSTRAP_MS = 5_000
ASK_MS = 2_000
SESSION_MS = 6_000  # the least a broker allows: so long nobody works on the partitions of a process that was killed
POLL_INTERVAL_MS = 60_000
JOIN_MS = 3_000
MOST_OUTSIDE_S = 90.0  # longer than others of the group may keep it waiting
METADATA_MS = 30_000  # by then a partition that was added is seen
FETCH_BYTES = 256 * 1024
FETCH_WAIT_MS = 50  # one fetch is under way at a time: while it waits at drained partitions, the others wait, too
FLUSH_S = 0.5
CLOSE_S = 2.0
READ_S = 0.2
MOST_UNPACKED = 64 * 1024 * 1024  # bytes of a batch, of which a broker takes a megabyte
MOST_VALUE = 900_000  # bytes; with headers it stays below the megabyte that brokers take

Headers = list[tuple[str, bytes]]
_NO_POSITION = (OffsetOutOfRangeError, LogTruncationError, NoOffsetForPartitionError)
_UNREADABLE = (CorruptRecordError, UnsupportedCodecError)


class KafkaAwayError(ServiceError):
    """The broker does not answer, does not acknowledge, or refuses."""


class Record(Protocol):
    """What is read of a message; `timestamp` in milliseconds, Unix time."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True)
class Unreadable:
    """A Record that Kafka's client cannot take apart: `detail` says why; its bytes are on its topic only."""

    partition: int
    offset: int
    detail: str
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()


@dataclass(frozen=True)
class Message:
    """A message to be sent; those of one key keep their order."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers = field(default_factory=list)


def ensure_topics(settings: Settings) -> None:
    """Make the topic of events (PARTITIONS) and of dead letters (one partition) where they are missing, and wait for them."""
    wanted = {settings.kafka_topic: PARTITIONS, settings.kafka_dlq_topic: 1}
    with _opening(settings) as options:
        admin = KafkaAdminClient(**options)
        try:
            missing = [name for name in wanted if name not in admin.list_topics()]
            for name in missing:
                _create(admin, name, wanted[name])
        finally:
            admin.close()


def _create(admin: KafkaAdminClient, name: str, partitions: int) -> None:
    try:
        admin.create_topics({name: {"num_partitions": partitions, "replication_factor": -1}}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        admin.wait_for_topics([name])


class Publisher:
    """Sends messages idempotently, acks=all. Use in a `with`; after a KafkaAwayError only a new one can send.

    Raises KafkaAwayError where no broker answers.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        ensure_topics(settings)
        with _opening(settings) as options:
            self._producer = KafkaProducer(
                **options,
                acks="all",
                enable_idempotence=True,
                batch_size=BATCH_BYTES,
                linger_ms=LINGER_MS,
                request_timeout_ms=REQUEST_MS,
                delivery_timeout_ms=DELIVERY_MS,
                max_block_ms=BOOTSTRAP_MS,
            )

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def publish(self, messages: Sequence[Message], is_stopped: Callable[[], bool] = lambda: False) -> None:
        """Send messages, in order for each key, and return when every one is acknowledged.

        Parameters
        ----------
        is_stopped
            The wait for a broker that does not answer ends when this is true, too.

        Raises
        ------
        KafkaAwayError
            At least one was not acknowledged; each of them may be on the topic or not.
        """
        send = self._producer.send
        with _as_away(self._settings):
            sent = [send(each.topic, each.value, each.key, each.headers) for each in messages]
            deadline = time.monotonic() + DELIVERY_MS / 1000 + 1  # kafka-python now and then forgets its own
            while not self._is_sent(sent) and not is_stopped() and time.monotonic() < deadline:
                time.sleep(0.001)
            for future in sent:
                future.get(0)

    def _is_sent(self, sent: Sequence[Future]) -> bool:
        """Wait up to FLUSH_S for the broker's answers; whether all are there, good or bad."""
        with contextlib.suppress(KafkaTimeoutError):
            self._producer.flush(timeout=FLUSH_S)
        return all(future.is_done for future in sent)

    def close(self) -> None:
        """Give up what is not acknowledged."""
        self._producer._sender.force_close()  # `close` alone would wait for a broker that has gone
        self._producer._sender.join(CLOSE_S)
        with contextlib.suppress(KafkaError):
            self._producer.close(timeout=0)


class Group:
    """One of a consumer group that shares a topic. A partition it is given stands still until `place` says where to go on.

    Parameters
    ----------
    batch
        The most messages that `poll` returns.

    Raises KafkaAwayError where no broker answers.
    """

    def __init__(self, settings: Settings, batch: int) -> None:
        self._settings = settings
        self._topic = settings.kafka_topic
        self.unplaced: set[int] = set()
        self.is_member = False
        self._outside_since = time.monotonic()
        ensure_topics(settings)
        with _opening(settings) as options:
            self._consumer = KafkaConsumer(
                **options,
                group_id=settings.kafka_group,
                enable_auto_commit=False,
                auto_offset_reset="none",  # what is stored decides, and what `place` makes of it
                max_poll_records=batch,
                max_partition_fetch_bytes=FETCH_BYTES,
                fetch_max_wait_ms=FETCH_WAIT_MS,
                request_timeout_ms=REQUEST_MS,
                session_timeout_ms=SESSION_MS,
                heartbeat_interval_ms=SESSION_MS // 4,
                max_poll_interval_ms=POLL_INTERVAL_MS,
                metadata_max_age_ms=METADATA_MS,
                metrics_enabled=False,
            )
            self._consumer.subscribe([self._topic], listener=_Listener(self))
            self._consumer.partitions_for_topic(
                self._topic
            )  # else the first to join shares out no partitions, then all

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    @property
    def partitions(self) -> set[int]:
        """The partitions this process has been given."""
        return {each.partition for each in self._consumer.assignment()}

    def poll(self, timeout_s: float) -> dict[int, list[Record]]:
        """The next messages by partition, in order; empty if none came in time. KafkaAwayError: only a new Group can go on.

        All partitions are `unplaced` afterwards if one turns out to be cut short, or made anew.
        """
        with _as_away(self._settings):
            try:
                if not self.is_member and self._has_joined():
                    return {}
                found = _poll(self._consumer, timeout_s)
            except _NO_POSITION:
                self.displace()
                found = {}
        return {each.partition: records for each, records in found.items() if each.partition not in self.unplaced}

    def _has_joined(self) -> bool:
        """Wait for the group to share out its partitions, up to JOIN_MS.

        kafka-python forgets a join that outlasts the poll that began it, if the reason was a change of the topic's
        partitions, and stays outside for ever: it is reminded.
        """
        coordinator = self._consumer._coordinator
        if coordinator.rejoining and not coordinator.need_rejoin():
            coordinator.request_rejoin()
        coordinator.poll(timeout_ms=JOIN_MS)
        if not self.is_member and time.monotonic() - self._outside_since > MOST_OUTSIDE_S:
            raise KafkaAwayError(
                f"the group {self._settings.kafka_group} shared out no partitions for {MOST_OUTSIDE_S:.0f} s"
            )
        return self.is_member

    def position(self, partition: int) -> int:
        """The offset behind what `poll` has returned of a placed partition, and behind the marks of transactions after it."""
        return int(self._consumer.position(TopicPartition(self._topic, partition)))

    def displace(self) -> None:
        """Let every partition stand still until it is placed again."""
        self._hold(self._consumer.assignment())

    def place(self, partition: int, offset: int) -> None:
        """Go on with a partition at this offset."""
        where = TopicPartition(self._topic, partition)
        if where in self._consumer.assignment():
            self._consumer.seek(where, offset)
            self._consumer.resume(where)
        self.unplaced.discard(partition)

    def bounds(self, partitions: set[int]) -> dict[int, tuple[int, int]]:
        """The offset of the oldest message, and the one behind the newest, of each partition; KafkaAwayError."""
        where = [TopicPartition(self._topic, each) for each in partitions]
        with _as_away(self._settings):
            first = self._consumer.beginning_offsets(where, timeout_ms=ASK_MS)
            end = self._consumer.end_offsets(where, timeout_ms=ASK_MS)
        return {each.partition: (first[each], end[each]) for each in where}

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Tell the broker, for tools that show a group's lag; nothing depends on it, and nobody waits for it."""
        self._consumer.commit_async(
            {TopicPartition(self._topic, each): OffsetAndMetadata(offset, "", -1) for each, offset in offsets.items()}
        )

    def close(self) -> None:
        """Leave the group."""
        with contextlib.suppress(KafkaError):
            self._consumer.close(autocommit=False, timeout_ms=1000 * CLOSE_S)

    def _leave(self) -> None:
        self.unplaced = set()
        self.is_member = False
        self._outside_since = time.monotonic()

    def _hold(self, partitions: set[TopicPartition]) -> None:
        self.unplaced = {each.partition for each in partitions}
        _drop_fetched(self._consumer)
        for each in partitions:
            self._consumer.pause(each)
            self._consumer.seek(each, 0)  # a position, so that none is asked for


class _Listener(ConsumerRebalanceListener):
    """Called while `poll` waits, by the thread that also keeps this process in the group: must not wait for anything."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Others may have them from now on; what is under way with them is refused by the stored offsets."""
        self._group._leave()

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """These are all that this process has now."""
        self._group._hold(assigned)
        self._group.is_member = True


class Reader:
    """Reads all partitions of a topic, from where a group stands, alone. Use in a `with`.

    Raises KafkaAwayError where no broker answers.
    """

    def __init__(self, settings: Settings, topic: str, group_id: str) -> None:
        self._settings = settings
        ensure_topics(settings)
        with _opening(settings) as options:
            self._consumer = KafkaConsumer(
                **options,
                group_id=group_id,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                request_timeout_ms=REQUEST_MS,
                metrics_enabled=False,
            )
            self._where = [TopicPartition(topic, each) for each in sorted(self._consumer.partitions_for_topic(topic))]
            self._consumer.assign(self._where)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *failure: object) -> None:
        with contextlib.suppress(KafkaError):
            self._consumer.close(autocommit=False, timeout_ms=1000 * CLOSE_S)

    def read(self) -> Iterator[Record]:
        """The messages up to those that were the newest when this began; KafkaAwayError."""
        with _as_away(self._settings):
            ends = self._consumer.end_offsets(self._where, timeout_ms=REQUEST_MS)
            while any((self._consumer.position(each, timeout_ms=REQUEST_MS) or 0) < end for each, end in ends.items()):
                for where, records in _poll(self._consumer, READ_S).items():
                    yield from (each for each in records if each.offset < ends[where])

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Have the group stand at these offsets; KafkaAwayError."""
        topic = self._where[0].topic
        kept = {TopicPartition(topic, each): OffsetAndMetadata(offset, "", -1) for each, offset in offsets.items()}
        with _as_away(self._settings):
            self._consumer.commit(kept, timeout_ms=REQUEST_MS)


def _poll(consumer: KafkaConsumer, timeout_s: float) -> dict[TopicPartition, Sequence[Record]]:
    """The next messages; if one of them cannot be taken apart that one alone, and its partition goes on behind it."""
    try:
        found: dict[TopicPartition, Sequence[Record]] = consumer.poll(timeout_ms=round(1000 * timeout_s))
    except _UNREADABLE as error:
        broken = consumer._fetcher._next_partition_records
        if not broken:
            raise
        where = broken.topic_partition
        offset = max(consumer.position(where), broken.next_fetch_offset)
        _drop_fetched(consumer)
        consumer.seek(where, offset + 1)
        found = {where: [Unreadable(where.partition, offset, f"{type(error).__name__}: {error}")]}
    return found


def _drop_fetched(consumer: KafkaConsumer) -> None:
    """Have what `poll` has not returned fetched again: kafka-python would read on for ever where it failed to read."""
    fetcher = consumer._fetcher
    fetcher._next_partition_records = fetcher._next_in_line_exception_metadata = None
    for kept in (fetcher._completed_fetches, fetcher._paused_completed_fetches, fetcher._paused_partition_records):
        kept.clear()


_unpack_strictly, _read_strictly = DefaultRecordBatch._maybe_uncompress, DefaultRecordBatch._read_msg


def _unpack_leniently(batch: DefaultRecordBatch) -> None:
    """Unpack a batch; whatever its codec raises says that the batch is damaged, not that the program is."""
    try:
        _unpack_strictly(batch)
    except KafkaError:
        raise
    except Exception as error:
        raise CorruptRecordError(f"{type(error).__name__}: {error}") from error


def _gunzip(packed: bytes) -> bytes:
    """The content of gzip's members, at most MOST_UNPACKED bytes: a small message must not fill the memory."""
    content, rest = bytearray(), bytes(packed)
    while rest:
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        content += member.decompress(rest, MOST_UNPACKED + 1 - len(content))
        if len(content) > MOST_UNPACKED:
            raise ValueError(f"more than {MOST_UNPACKED} bytes when unpacked")
        if not member.eof:
            raise ValueError("the packed data end too early")
        rest = member.unused_data
    return bytes(content)


def _read_leniently(batch: DefaultRecordBatch) -> DefaultRecord:
    """The next record of a batch; of one with a header whose name is not UTF-8, all its bytes for a value, which is no JSON."""
    start = batch._pos
    try:
        return _read_strictly(batch)
    except UnicodeDecodeError:
        length, start = decode_varint(batch._buffer, start)
        batch._pos = start + length
        whole = bytes(batch._buffer[start : batch._pos])
        _attributes, at = decode_varint(whole, 0)
        _time, at = decode_varint(whole, at)
        delta, at = decode_varint(whole, at)
        size, at = decode_varint(whole, at)
        key = None if size < 0 else whole[at : at + size]
        offset, time = batch.base_offset + delta, batch.max_timestamp
        return DefaultRecord(length, offset, time, batch.timestamp_type, key, whole, [])


DefaultRecordBatch._maybe_uncompress, DefaultRecordBatch._read_msg = _unpack_leniently, _read_leniently
default_records.gzip_decode = _gunzip


def _client(settings: Settings) -> dict[str, Any]:
    """What every client is opened with."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what goes wrong is said once, in our words
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers.split(","),
        "bootstrap_timeout_ms": BOOTSTRAP_MS,
        "reconnect_backoff_max_ms": 1_000,
        "security_protocol": protocol,
    }
    if protocol.endswith("SSL"):
        options["ssl_cafile"] = settings.kafka_ssl_cafile or None
    if protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = settings.kafka_sasl_password
    return options


@contextlib.contextmanager
def _opening(settings: Settings) -> Iterator[dict[str, Any]]:
    """The options to open a client with in the block. If that fails, its thread and sockets, which it would leave, are closed."""
    made: list[KafkaNetClient] = []

    def make(**options: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(**options))
        return made[-1]

    with _as_away(settings):
        try:
            yield {**_client(settings), "kafka_client": make}
        except KafkaError:
            for each in made:
                each.close()
            raise


@contextlib.contextmanager
def _as_away(settings: Settings) -> Iterator[None]:
    """An error of Kafka's client in the block is a KafkaAwayError."""
    try:
        yield
    except KafkaError as error:
        raise _away(settings, error) from None


def _away(settings: Settings, error: KafkaError) -> KafkaAwayError:
    name = type(error).__name__
    where = settings.kafka_bootstrap_servers
    if isinstance(error, AuthorizationError):
        return KafkaAwayError(f"the broker at {where} does not allow what is needed ({name}: {error})")
    return KafkaAwayError(f"no Kafka broker answers at {where} as it must ({name})")


def wait_s(attempt: int) -> float:
    """How long to wait before the next attempt: 0.2 s, doubled each time, at most 5 s."""
    return min(0.2 * 2 ** min(attempt, 10), 5.0)
