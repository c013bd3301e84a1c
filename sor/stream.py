"""Kafka: the topic's producing and consuming edge. The only module that imports kafka; it moves bytes and knows no market.

One partition (number 0) carries everything, so that order is kept. Nothing here retries for ever: a broker that cannot be
reached, a message that is not acknowledged and a topic that stays silent are a StreamError with a hint.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import (
    AuthorizationError,
    CorruptRecordError,
    GroupAuthorizationFailedError,
    KafkaError,
    KafkaTimeoutError,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
    for_code,
)
from kafka.future import Future
from kafka.net.sasl import get_sasl_mechanism
from kafka.structs import OffsetAndMetadata

from sor import contract, ledger, log
from sor.audit import envelope, next_commit
from sor.contract import END, START, EndRecord, StartRecord
from sor.errors import StreamError
from sor.ledger import Claim, Notes
from sor.security import Security

Message = tuple[bytes, list[tuple[str, bytes]]]  # payload and headers

PARTITION = 0
BATCH_BYTES = 256 * 1024
LINGER_MS = 10
DELIVERY_MS = 120_000  # a message not acknowledged by then fails the run
MOST_BLOCK_MS = 20_000  # a send waits no longer for a topic that the broker does not know
FLUSH_S = DELIVERY_MS / 1000 + 10
MOST_IN_FLIGHT = 8_000  # messages; about 4 MB, and more than the broker can have before it
POLL_MS = 200
POLL_RECORDS = 4_000
GRACE_S = 3.0  # waited in any case, since the clock of a live producer may be wrong
SURVEY_MS = 4_000
ANSWER_MS = 10_000  # by then the broker must have answered a reader's first question
PATIENCE_MS = 60_000  # the same once it has answered one: a broker may restart, or stand still for half a minute
RELEASE_MS = 1_000
RETRY_S = 0.2
COMMITS = 5  # tried until no other process of the group commits in between
MOST_METADATA = 4_000  # bytes kept with a committed offset; a broker takes 4096

logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what goes wrong is said once, in our words


@dataclass(frozen=True)
class Topic:
    """Where the messages go: `servers` as host:port, comma-separated, the topic's name, and how the broker is spoken to."""

    servers: str
    name: str
    security: Security = field(default_factory=Security)

    @property
    def client(self) -> dict[str, object]:
        """What every Kafka client of ours is opened with."""
        return {
            "bootstrap_servers": self.servers.split(","),
            "bootstrap_timeout_ms": 10_000,
            "reconnect_backoff_max_ms": 1_000,
            **self.security.client,
        }

    @property
    def _who(self) -> str:
        user = self.security.username
        return f"user {user!r}" if user else "a client without a user name"

    def refused(self, error: Exception) -> StreamError | None:
        """The error for a broker that knows what we ask and does not allow it; None if it is something else."""
        if isinstance(error, GroupAuthorizationFailedError):
            return StreamError(
                f"{self._who} is not allowed to use this consumer group: set KAFKA_GROUP (--kafka-group) to one it may use, "
                "or have Read on it granted"
            )
        if isinstance(error, AuthorizationError):
            return StreamError(
                f"{self._who} is not allowed to use topic {self.name}: set KAFKA_TOPIC to one it may use, or have Write "
                "(for kafka_producer.py) and Read (for backtest.py) on it granted"
            )
        return None

    def obstacle(self) -> StreamError | None:
        """Why no broker lets us in; None where one does, or none answers."""
        settings = self.security.client
        return self.security.obstacle(self.servers, lambda: get_sasl_mechanism(self.security.mechanism)(**settings))

    def unreachable(self, error: Exception) -> StreamError:
        """The error for a broker that does not answer, does not understand us, or refuses."""
        return (
            self.refused(error)
            or self.obstacle()
            or StreamError(
                f"no Kafka broker answers at {self.servers} ({type(error).__name__}): start one with `make broker-start`, "
                "or set KAFKA_BOOTSTRAP_SERVERS to the host:port of yours"
            )
        )

    def led_astray(self, error: Exception, told: str) -> StreamError:
        """The error for a broker that answers and tells its clients to use `told` (host:port, comma-separated) instead."""
        if told in ("", self.servers) or self.refused(error):
            return self.unreachable(error)
        sent = f"the broker at {self.servers} sends its clients on to {told} (its advertised.listeners)"
        found = replace(self, servers=told).obstacle()
        return StreamError(f"{sent}: {found}" if found else f"{sent}, which does not answer ({type(error).__name__})")


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


def ensure_topic(topic: Topic, right: str = "") -> None:
    """Create the topic with one partition if it is not there; one that is there needs no right to create it.

    Parameters
    ----------
    topic
        The topic.
    right
        READ or WRITE: what the user must be allowed to do with it, as far as the broker tells.

    Raises
    ------
    StreamError
        No broker answers, none lets us in, or the user may not see, use or create the topic.
    UsageError
        The CA file is none.
    """
    if obstacle := topic.obstacle():
        raise obstacle
    told = ""
    try:
        admin = KafkaAdminClient(**topic.client)
        try:
            told = _told(admin)
            if not _is_there(admin, topic.name, right):
                _create(admin, topic)
        finally:
            admin.close()
    except KafkaError as error:
        raise topic.led_astray(error, told) from None


def _told(admin: KafkaAdminClient) -> str:
    """Where the brokers say that they are, as host:port, comma-separated."""
    brokers = admin._manager.cluster.brokers()
    return ",".join(
        f"[{each.host}]:{each.port}" if ":" in each.host else f"{each.host}:{each.port}" for each in brokers
    )


def _is_there(admin: KafkaAdminClient, name: str, right: str) -> bool:
    (found,) = admin.describe_topics([name])
    kind = for_code(found["error_code"])
    allowed = found.get("authorized_operations")  # brokers before 2.3 do not tell
    if kind is NoError and right and allowed and right not in allowed:
        raise TopicAuthorizationFailedError(name)
    if issubclass(kind, AuthorizationError):
        raise kind(name)
    return kind is NoError


def _create(admin: KafkaAdminClient, topic: Topic) -> None:
    try:
        admin.create_topics({topic.name: {"num_partitions": 1, "replication_factor": -1}}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        pass
    except AuthorizationError:
        raise StreamError(
            f"topic {topic.name} does not exist, and {topic._who} is not allowed to create it: set KAFKA_TOPIC to one that "
            "exists, have it created with one partition, or have Create on it granted"
        ) from None


def _is_gone(topic: Topic) -> bool:
    """The broker answers, and has no such topic."""
    try:
        admin = KafkaAdminClient(**topic.client | {"bootstrap_timeout_ms": SURVEY_MS})
        try:
            return topic.name not in admin.list_topics()
        finally:
            admin.close()
    except KafkaError:
        return False


def _gone(topic: Topic) -> StreamError:
    return StreamError(
        f"topic {topic.name} is not on the broker at {topic.servers} any more: it was deleted while it was in use; "
        "start `python kafka_producer.py`, which makes it anew"
    )


@dataclass(frozen=True)
class Survey:
    """What is on a topic, seen without changing anything."""

    partitions: int = 0  # none: there is no such topic
    messages: int = 0  # that can still be read
    whole: int = 0  # runs that are complete
    broken: int = 0  # others: aborted, cut off, or being sent just now
    unreported: int = 0  # of both, those that the group has not reported
    lag: int = 0  # messages from the group's offset to the end
    seen_all: bool = True  # False: there was more than could be looked at in time


def survey(topic: Topic, group: str, timeout_s: float) -> Survey:
    """Look at the topic and its runs for at most about `timeout_s`; StreamError as `ensure_topic`. Nothing is created."""
    if obstacle := topic.obstacle():
        raise obstacle
    try:
        admin = KafkaAdminClient(**topic.client | {"bootstrap_timeout_ms": SURVEY_MS})
        try:
            if not _is_there(admin, topic.name, "READ"):
                return Survey()
            (found,) = admin.describe_topics([topic.name])
        finally:
            admin.close()
    except KafkaError as error:
        raise topic.unreachable(error) from None
    with Reader(topic, group) as reader:
        return replace(reader.survey(timeout_s), partitions=len(found["partitions"]))


class Sender:
    """Sends messages in order, idempotently, and knows whether each was acknowledged. Use in a `with`."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self._in_flight: list[Future] = []
        self._is_gone = False
        try:
            self._producer = KafkaProducer(
                **topic.client,
                acks="all",
                enable_idempotence=True,
                batch_size=BATCH_BYTES,
                linger_ms=LINGER_MS,
                delivery_timeout_ms=DELIVERY_MS,
                max_block_ms=MOST_BLOCK_MS,
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
        if self._is_gone:
            raise _gone(self.topic)
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
        self._is_gone = isinstance(error, KafkaTimeoutError) and _is_gone(self.topic)
        if self._is_gone:
            return _gone(self.topic)
        return self.topic.refused(error) or StreamError(
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
        self._useless_starts = 0  # start records that are damaged, or of another version of the contract
        self._first, self._lost = 0, False  # the oldest message there is; did the group miss older ones?
        self._group = group
        self._claim: Claim | None = None
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
            self._committed, notes = self._remembered(ANSWER_MS)
        except KafkaError as error:
            raise topic.unreachable(error) from None
        self._reported = set(notes.reported)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *failure: object) -> None:
        try:
            self._release()
        except KafkaError:
            pass  # the next process of the group finds the claim and sees that this one is gone
        finally:
            self._consumer.close(timeout_ms=1_000)

    def poll(self) -> list[ConsumerRecord]:
        """The next messages, in order; empty if none came within a fraction of a second."""
        if self._pending:
            records, self._pending = self._pending, []
            return records
        try:
            records = self._consumer.poll(timeout_ms=POLL_MS).get(self._partition, [])
        except KafkaError as error:
            raise self.topic.refused(error) or self._unreadable(error) from None
        if records:
            self._position = records[-1].offset + 1
            starts = [(r.offset, start_record(r)) for r in records if is_start(r)]
            self._starts += [(offset, start.run_id) for offset, start in starts if start]
            self._useless_starts += sum(start is None for _, start in starts)
        return records

    def _unreadable(self, error: KafkaError) -> StreamError:
        found = f"{type(error).__name__}: {error}".partition("\n")[0]
        text = f"reading topic {self.topic.name} failed at offset {self._position}: {found}"
        if isinstance(error, (CorruptRecordError, UnsupportedCodecError)):
            text += "; a message there or soon after it cannot be unpacked: have it deleted, or use another topic (KAFKA_TOPIC)"
        return StreamError(text)

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

    def survey(self, timeout_s: float) -> Survey:
        """Go through the runs on the topic, from end record to end record where they stand alone."""
        deadline_s = time.monotonic() + timeout_s
        self._seek(0)
        started, whole, rows = {}, set(), Counter()
        while not (seen_all := self.caught_up()) and time.monotonic() < deadline_s:
            for record in self.poll():
                rows[envelope(record).run_id] += 1
                if start := start_record(record):
                    started[start.run_id] = record.offset
                    if self._skip(record.offset, start):
                        whole.add(start.run_id)
                        break
                end = end_record(record)
                if end and not end.aborted and rows[end.run_id] >= end.rows_sent + 2:  # and the two that frame them
                    whole.add(end.run_id)
        end_offset = self._end_offset()
        unreported = {run_id for run_id, offset in started.items() if offset >= self._committed} - self._reported
        return Survey(
            messages=end_offset - self._first,
            whole=len(whole),
            broken=len(started.keys() - whole),
            unreported=len(unreported),
            lag=end_offset - max(self._committed, self._first),
            seen_all=seen_all,
        )

    def claim(self) -> Claim | None:
        """Take the group's next run for this process; what is returned is the claim it takes over, of one that did not finish.

        Raises
        ------
        StreamError
            If that process is seen to work still, or the broker does not answer.
        """
        try:
            offset, notes = self._remembered(PATIENCE_MS)
            if notes.claim and ledger.is_at_work(notes.claim):
                raise StreamError(
                    f"a backtest.py of group {self._group} is at work already ({notes.claim}): wait for it, end it, or give "
                    "this one a group of its own with --kafka-group"
                )
            self._claim, self._committed, self._reported = ledger.claim_of_this_process(), offset, set(notes.reported)
            self._commit(offset, Notes(notes.reported, self._claim), PATIENCE_MS)
        except KafkaError as error:
            raise self._failed(error) from None
        return notes.claim

    def check_claim(self, then: str = "this one writes nothing") -> None:
        """StreamError, which says what follows, if another process has taken over what this one claimed."""
        if self._claim is None:
            return
        try:
            claim = self._remembered(PATIENCE_MS)[1].claim
        except KafkaError as error:
            raise self._failed(error) from None
        if claim != self._claim:
            self._claim = None
            who = f" ({claim})" if claim else ""
            raise StreamError(f"another backtest.py took over group {self._group}{who}; {then}")

    @log.stage("commit")
    def commit_reported(self, run_id: str) -> None:
        """Remember that the group has reported this run, beside what others have reported meanwhile; ends the claim.

        Raises
        ------
        StreamError
            If another process took over the claim, or the broker does not take the commit.
        """
        self.check_claim("the run is reported, and is not marked as such")
        self._reported.add(run_id)
        try:
            for _ in range(COMMITS):
                offset, beyond, claim = self._merged(*self._remembered(PATIENCE_MS))
                self._commit(offset, Notes(beyond, claim), PATIENCE_MS)
                kept, notes = self._remembered(PATIENCE_MS)
                if kept >= offset and set(beyond) <= set(notes.reported):
                    break
            else:
                raise _not_committed("others of the group commit at the same time")
        except KafkaError as error:
            raise _not_committed(type(error).__name__) from None
        self._claim = None

    def _merged(self, committed: int, notes: Notes) -> tuple[int, list[str], Claim | None]:
        """The offset, reported ids and claim to commit, given those that are committed now."""
        self._committed = committed if committed <= self._end_offset() else self._committed  # a topic made anew
        self._reported |= set(notes.reported)
        claim = None if notes.claim == self._claim else notes.claim
        offset, beyond = next_commit(self._starts, self._committed, self._reported, self._position)
        while len(Notes(beyond, claim).text()) > MOST_METADATA and offset < self._position:
            offset += 1  # gives up the oldest run that waits
            offset, beyond = next_commit(self._starts, offset, self._reported, self._position)
        return offset, beyond, claim

    def _release(self) -> None:
        """Take back the claim of a process that ends without a report."""
        if self._claim:
            offset, notes = self._remembered(RELEASE_MS)
            if notes.claim == self._claim:
                self._commit(offset, Notes(notes.reported), RELEASE_MS)

    def _remembered(self, timeout_ms: int) -> tuple[int, Notes]:
        """The group's offset, and the notes beside it."""
        committed = _patiently(
            lambda left_ms: self._consumer.committed(self._partition, metadata=True, timeout_ms=left_ms), timeout_ms
        )
        return (committed.offset, ledger.notes_of(committed.metadata or "")) if committed else (0, Notes())

    def _commit(self, offset: int, notes: Notes, timeout_ms: int) -> None:
        kept = {self._partition: OffsetAndMetadata(offset, notes.text(), -1)}
        _patiently(lambda left_ms: self._consumer.commit(kept, timeout_ms=left_ms), timeout_ms)

    def waiting_runs(self) -> int:
        """Runs seen on the topic that this group has not reported."""
        return len({run_id for offset, run_id in self._starts if offset >= self._committed} - self._reported)

    def caught_up(self) -> bool:
        """Every message now on the topic has been read; StreamError if the broker cannot be asked."""
        return not self._pending and self._position >= self._end_offset()

    def _end_offset(self) -> int:
        return self._offset(self._consumer.end_offsets)

    def _offset(self, ask: Callable[..., dict[TopicPartition, int]]) -> int:
        try:
            return _patiently(lambda left_ms: ask([self._partition], timeout_ms=left_ms), PATIENCE_MS)[self._partition]
        except KafkaError as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> StreamError:
        return _gone(self.topic) if _is_gone(self.topic) else self.topic.unreachable(error)

    def _seek(self, offset: int) -> None:
        first = self._offset(self._consumer.beginning_offsets)
        end = self._end_offset()
        if self._committed > end:  # the topic was made anew
            self._committed = first
        self._first, self._lost = first, offset < first
        self._move(offset if first <= offset <= end else first)

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
                if self._lost and (end := self._beheaded(record)) and wanted(end.run_id):
                    return self._stand_in(end)
            if time.monotonic() >= deadline_s and self.caught_up():
                gone = f" (the messages before offset {self._first} are deleted)" if self._lost else ""
                if self._useless_starts:
                    gone += (
                        f" ({self._useless_starts} start record(s) are damaged, or of another version of this program)"
                    )
                raise StreamError(
                    f"{missing} came on topic {self.topic.name} within {timeout_s:g} s{gone}: start "
                    "`python kafka_producer.py`, or use --replay to take the newest complete run again"
                )

    def _beheaded(self, record: ConsumerRecord) -> EndRecord | None:
        """The end record a message holds, if that of the start was deleted before it was read."""
        end = end_record(record)
        return None if end is None or end.run_id in {run_id for _, run_id in self._starts} else end

    def _stand_in(self, end: EndRecord) -> StartRecord:
        """A start record for what is left of a run; its rows are read from the first message there is."""
        self._starts.append((self._first, end.run_id))
        self._move(self._first)
        return StartRecord(
            run_id=end.run_id,
            file="(start record deleted)",
            sha256="",
            schema_version=contract.SCHEMA_VERSION,
            symbols=[],
            rows=end.rows_sent,
            speed=0.0,
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


def _not_committed(why: str) -> StreamError:
    return StreamError(
        f"the run is reported, but the group's offset was not committed ({why}): the next backtest.py reports it again"
    )


def _patiently(ask: Callable[[int], Any], timeout_ms: int) -> Any:
    """What `ask(milliseconds left)` returns, asked again after errors that pass, such as a connection that is lost."""
    deadline_s = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            return ask(max(1, round(1000 * (deadline_s - time.monotonic()))))
        except KafkaError as error:
            if not error.retriable or time.monotonic() >= deadline_s:
                raise
            time.sleep(RETRY_S)


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
