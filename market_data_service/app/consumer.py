"""The consumer: reads events of prices, keeps the moving averages, sets aside what is no event.

A batch's averages, its dead letters and the offsets behind it go into one transaction, which only the process that the
stored offsets belong to can commit: whatever is killed, and whenever, the tables are those of an undisturbed run. Offsets
are committed to Kafka afterwards, for tools that show lag.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import time
from collections.abc import Mapping

import psycopg

from app import averages, dead_letters, events, kafka, service
from app.averages import Touched
from app.database import Connection
from app.dead_letters import Failure
from app.kafka import Group, KafkaAwayError, Publisher, Record, Unreadable
from app.metrics import AVERAGES_UPSERTED, CONSUMER_LAG, DLQ_MESSAGES, EVENTS_CONSUMED
from app.service import Heart, Stop
from app.settings import Settings

BATCH = 2_000
POLL_S = 0.2
BUSY_S = 1.0
PATIENCE_S = 20.0  # without an answer; then the clients are made anew

log = logging.getLogger(__name__)

_SESSION = "SET idle_in_transaction_session_timeout = '60s'"

_STORED = """
SELECT partition, next_offset FROM consumer_offsets
WHERE consumer_group = %(group)s AND topic = %(topic)s AND partition = ANY(%(partitions)s)
"""

_BEGIN = """
INSERT INTO consumer_offsets (consumer_group, topic, partition, next_offset)
SELECT %(group)s, %(topic)s, partition, next_offset
FROM unnest(%(partitions)s::int[], %(befores)s::bigint[]) AS new (partition, next_offset)
ON CONFLICT DO NOTHING
"""

# the lock is taken before the statement that computes averages: it sees what others wrote under theirs
_ADVANCE = """
WITH advanced AS (
    UPDATE consumer_offsets AS kept SET next_offset = new.next_offset
    FROM unnest(%(partitions)s::int[], %(befores)s::bigint[], %(offsets)s::bigint[]) AS new (partition, before, next_offset)
    WHERE kept.consumer_group = %(group)s AND kept.topic = %(topic)s
      AND kept.partition = new.partition AND kept.next_offset = new.before
    RETURNING kept.partition
)
SELECT count(*) AS advanced, pg_advisory_xact_lock(%(lock)s) FROM advanced
"""

_ANEW = "partition %d ends at %d, before the stored offset %d: the topic was made anew; reading it from the beginning"
_DELETED = "partition %d: %d messages were deleted before they were read; run scripts/recompute_averages.py"


class _Fenced(Exception):  # noqa: N818 -- not an error: another process goes on with the partition
    """The stored offsets are not those that this process left."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's own flags."""
    parser.add_argument("--once", action="store_true", help="work on what is on the topic now, then end")
    parser.add_argument("--from-beginning", action="store_true", help="work on the whole topic again")


def work(settings: Settings, stop: Stop, flags: argparse.Namespace) -> int:
    """Consume until `stop` is set, with --once until the topic is drained; PostgreSQL and Kafka may come and go."""
    consumer = Consumer(settings, stop, once=flags.once, from_beginning=flags.from_beginning)
    try:
        service.keep_connected(settings, stop, "consumer", consumer.run)
    finally:
        consumer.close()
    return 0


class Consumer:
    """One process of the consumer group.

    Parameters
    ----------
    once
        End when all that is on the topic at the beginning has been worked on; a broker that does not answer is an error.
    from_beginning
        Work once on all messages there are, whatever has been worked on before.
    """

    def __init__(self, settings: Settings, stop: Stop, *, once: bool = False, from_beginning: bool = False) -> None:
        self._settings, self._stop, self._once = settings, stop, once
        self._from_beginning = from_beginning
        self._heart = Heart("consumer", settings)
        self._group: Group | None = None
        self._publisher: Publisher | None = None
        self._positions: dict[int, int] = {}  # of each partition that was placed: the offset stored for it
        self._goals: dict[int, int] = {}  # with --once: where each partition ended
        self._rewound: set[int] = set()
        self._failures = 0
        self._failing_since = 0.0
        self._next_look = 0.0

    def run(self, connection: Connection) -> None:
        """Consume with this connection until it breaks, `stop` is set or, with `once`, the topic is drained."""
        connection.execute(_SESSION)
        averages.prepare(connection)
        if self._group:
            self._group.displace()  # a transaction may have been committed although its connection broke
        while not self._is_done():
            try:
                self._step(connection)
                self._look(connection)
            except KafkaAwayError as error:
                self._wait_for_kafka(error)
                self._heart.beat(connection, lag=None, partitions=0)
        self._heart.end(connection)

    def close(self) -> None:
        """Leave the group."""
        self._drop_publisher()
        if self._group:
            self._group.close()
            self._group = None

    def _drop_publisher(self) -> None:
        if self._publisher:
            self._publisher.close()
            self._publisher = None

    def _is_done(self) -> bool:
        if self._stop.is_set() or not self._once:
            return self._stop.is_set()
        group = self._group
        if group is None or not group.is_member or group.unplaced:
            return False
        return all(group.position(each) >= self._goals[each] for each in group.partitions)

    def _step(self, connection: Connection) -> None:
        """Poll once, and work on what came."""
        group = self._group = self._group or Group(self._settings, BATCH)
        try:
            if group.unplaced:
                self._place(connection, group)
            if batch := self._poll(group):
                self._work(connection, group, batch)
        except _Fenced:
            log.warning("another process works on the same partitions; reading the stored offsets again")
            group.displace()
        except psycopg.errors.QueryCanceled as error:
            log.warning("database: %s; trying again", str(error).splitlines()[0])
            group.displace()
            self._stop.wait(BUSY_S)

    def _poll(self, group: Group) -> dict[int, list[Record]]:
        try:
            return group.poll(POLL_S)
        except KafkaAwayError:
            self.close()
            raise

    def _place(self, connection: Connection, group: Group) -> None:
        """Let the partitions that stand still go on from the stored offsets."""
        bounds = group.bounds(group.unplaced)
        befores = self._stored(connection, {each: first for each, (first, _) in bounds.items()})
        offsets = {each: self._start(each, before, *bounds[each]) for each, before in befores.items()}
        with connection.transaction():
            self._advance(connection, befores, offsets)
        self._rewound |= offsets.keys()
        for each, offset in offsets.items():
            self._positions[each] = offset
            self._goals.setdefault(each, bounds[each][1])
            group.place(each, offset)

    def _stored(self, connection: Connection, firsts: Mapping[int, int]) -> dict[int, int]:
        """The stored offset of each partition; what has none begins at its first message."""
        values = {"partitions": list(firsts), "befores": list(firsts.values()), **self._names}
        connection.execute(_BEGIN, values)
        return {row["partition"]: row["next_offset"] for row in connection.execute(_STORED, values)}

    def _start(self, partition: int, stored: int, first: int, end: int) -> int:
        """Where to go on with a partition that holds the messages from `first` to before `end`."""
        if self._from_beginning and partition not in self._rewound:
            return first
        if stored > end:
            log.warning(_ANEW, partition, end, stored)
            return first
        if stored < first:
            log.warning(_DELETED, partition, first - stored)
        return max(stored, first)

    def _work(self, connection: Connection, group: Group, batch: Mapping[int, list[Record]]) -> None:
        """Keep what a batch says, all of it or nothing."""
        now = datetime.datetime.now(datetime.timezone.utc)
        touched, sources, failures = _decode(batch, now)
        befores = {each: self._positions[each] for each in batch}
        offsets = {each: records[-1].offset + 1 for each, records in batch.items()}
        with connection.transaction():
            self._advance(connection, befores, offsets)
            updated = averages.update(connection, touched, self._settings.ma_window)
            failures += [_unknown(sources[number], touched[number]) for number in updated.unknown]
            if failures:
                self._set_aside(connection, failures, now)
        self._positions |= offsets
        group.commit(offsets)
        EVENTS_CONSUMED.inc(sum(map(len, batch.values())))
        AVERAGES_UPSERTED.inc(updated.written)
        for each in failures:
            DLQ_MESSAGES.labels(each.reason).inc()

    def _advance(self, connection: Connection, befores: Mapping[int, int], offsets: Mapping[int, int]) -> None:
        """Move the stored offsets on, and hold the averages' lock; _Fenced unless all stood where this process left them."""
        values = {"partitions": list(offsets), "befores": [befores[each] for each in offsets], "lock": averages.LOCK}
        row = connection.execute(_ADVANCE, {**values, "offsets": list(offsets.values()), **self._names}).fetchone()
        if not row or row["advanced"] != len(offsets):
            raise _Fenced

    def _set_aside(self, connection: Connection, failures: list[Failure], now: datetime.datetime) -> None:
        """Put messages on the dead-letter topic, acknowledged, and into the table."""
        self._publisher = self._publisher or Publisher(self._settings)
        topic = self._settings.kafka_topic
        letters = [dead_letters.letter(each, topic, now) for each in failures]
        self._publisher.publish([each.message(self._settings.kafka_dlq_topic) for each in letters], self._stop.is_set)
        dead_letters.keep(connection, letters)
        log.warning("%d messages set aside, the first: %s", len(failures), failures[0])

    @property
    def _names(self) -> dict[str, str]:
        return {"group": self._settings.kafka_group, "topic": self._settings.kafka_topic}

    def _look(self, connection: Connection) -> None:
        """Every two seconds: how many messages wait, for metrics and for `GET /ready`."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + service.BEAT_S
        group = self._group
        if not group or not group.is_member or group.unplaced:
            self._heart.beat(connection, lag=None, partitions=0)
            return
        bounds = group.bounds(group.partitions)
        lag = sum(end - group.position(each) for each, (_, end) in bounds.items())
        CONSUMER_LAG.set(lag)
        self._heart.beat(connection, lag=lag, partitions=len(bounds))
        if self._failures:
            log.info("Kafka is back")
        self._failures = 0

    def _wait_for_kafka(self, error: KafkaAwayError) -> None:
        """The clients find a broker that comes back; if it takes long, new ones are surer to."""
        if self._once:
            raise error
        if not self._failures:
            log.warning("%s; waiting for it", error)
            self._failing_since = time.monotonic()
        self._drop_publisher()
        if self._group:
            self._group.displace()
        if time.monotonic() - self._failing_since > PATIENCE_S:
            self.close()
        self._stop.wait(kafka.wait_s(self._failures))
        self._failures += 1


def _decode(
    batch: Mapping[int, list[Record]], now: datetime.datetime
) -> tuple[list[Touched], list[Record], list[Failure]]:
    """The prices that the events of a batch tell of, the message of each, and the messages that are no events."""
    touched: list[Touched] = []
    sources: list[Record] = []
    failures: list[Failure] = []
    for records in batch.values():
        for record in records:
            if isinstance(record, Unreadable):
                failures.append(Failure(record, dead_letters.UNREADABLE, record.detail))
                continue
            try:
                event = events.decode(record.value, record.headers, now)
            except events.BadEventError as error:
                failures.append(Failure(record, error.reason, error.detail))
            else:
                touched.append((event.symbol, event.provider, event.timestamp))
                sources.append(record)
    return touched, sources, failures


def _unknown(record: Record, touched: Touched) -> Failure:
    symbol, provider, ts = touched
    return Failure(record, "unknown_price", f"no price of {symbol} by {provider} is stored for {ts.isoformat()}")
