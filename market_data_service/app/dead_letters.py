"""Messages that were set aside: what goes to the dead-letter topic and into the table, and how they are sent again.

A letter on the topic is the message as it was, with headers that say where it was, why it was set aside, when it first
was, and how often it has been tried. The table tells what became of it: `waiting`, `replayed` (sent again; if it fails
again, that is a letter of its own), `quarantined` (tried too often). What is sent again is the table's payload, so that
it can be corrected there.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from app import events
from app.database import Connection
from app.errors import ServiceError
from app.kafka import MOST_VALUE, Headers, Message, Publisher, Reader, Record
from app.settings import Settings

LOCK = 0x6D61_0003  # advisory: one replay at a time
BATCH = 200
UNREADABLE = "unreadable"  # by Kafka's client: its bytes are on its topic only, so there is nothing to send again
MOST_MS = 253_402_300_799_000  # the last second of the year 9999
MOST_KEY, MOST_HEADER, MOST_DETAIL = 1_000, 200, 500

TOPIC, PARTITION, OFFSET = "original_topic", "original_partition", "original_offset"
REASON, DETAIL, FIRST_FAILED_AT, ATTEMPTS = "reason", "detail", "first_failed_at", "attempts"
_KEPT = (events.EVENT_ID, events.VERSION, events.TRACEPARENT)

Place = tuple[str, int, int]  # topic, partition, offset of a message when it was set aside


@dataclass(frozen=True)
class Failure:
    """A message and why it is no event: one of events.REASONS or UNREADABLE, and what was and what must be."""

    record: Record
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"partition {self.record.partition}, offset {self.record.offset}: {self.reason}: {self.detail}"


@dataclass(frozen=True)
class Letter:
    """A message that is set aside; `attempts` counts how often it has been tried, this time included."""

    place: Place
    key: bytes | None
    payload: bytes
    reason: str
    detail: str
    first_failed_at: datetime.datetime
    attempts: int
    headers: Headers = field(default_factory=list)

    def message(self, topic: str) -> Message:
        """The message for the dead-letter topic; of a payload too large for it, the beginning."""
        told = {
            TOPIC: self.place[0],
            PARTITION: str(self.place[1]),
            OFFSET: str(self.place[2]),
            REASON: self.reason,
            DETAIL: self.detail,
            FIRST_FAILED_AT: self.first_failed_at.isoformat(),
            ATTEMPTS: str(self.attempts),
        }
        return Message(topic, self.key, self.payload[:MOST_VALUE], [*_bytes(told), *self.headers])

    def again(self) -> Message:
        """The message as it is sent again."""
        told = {FIRST_FAILED_AT: self.first_failed_at.isoformat(), ATTEMPTS: str(self.attempts + 1)}
        return Message(self.place[0], self.key, self.payload, [*_bytes(told), *self.headers])


def _bytes(headers: Mapping[str, str]) -> Headers:
    return [(name, text.encode()) for name, text in headers.items()]


def letter(failure: Failure, topic: str, now: datetime.datetime) -> Letter:
    """The letter of a message that failed on `topic`; what it says of earlier attempts is carried on."""
    record, told = failure.record, _texts(failure.record)
    return Letter(
        (topic, record.partition, record.offset),
        None if record.key is None else record.key[:MOST_KEY],
        record.value or b"",
        failure.reason,
        _printable(failure.detail),
        _time(told.get(FIRST_FAILED_AT, ""), now),
        _count(told.get(ATTEMPTS, ""), 1),
        _kept(told),
    )


def keep(connection: Connection, letters: Sequence[Letter]) -> None:
    """Enter letters into the table, in the caller's transaction; the newer of two messages from one place counts."""
    with connection.cursor() as cursor:
        cursor.executemany(_KEEP, [_row(each) for each in letters])


def _row(each: Letter) -> dict[str, Any]:
    columns = dataclasses.asdict(each)
    del columns["headers"]
    return columns | dict(zip(("topic", "partition", "offset"), columns.pop("place"), strict=True))


_KEEP = """
INSERT INTO dead_letters (topic, partition, "offset", key, payload, reason, detail, first_failed_at, attempts)
VALUES (%(topic)s, %(partition)s, %(offset)s, %(key)s, %(payload)s, %(reason)s, %(detail)s, %(first_failed_at)s, %(attempts)s)
ON CONFLICT (topic, partition, "offset") DO UPDATE
SET key = excluded.key, payload = excluded.payload, reason = excluded.reason, detail = excluded.detail,
    first_failed_at = excluded.first_failed_at, attempts = excluded.attempts, status = 'waiting'
"""

_LOOK_UP = """
SELECT topic, partition, "offset", key, payload, attempts, status
FROM dead_letters
JOIN unnest(%(topics)s::text[], %(partitions)s::int[], %(offsets)s::bigint[]) AS asked (topic, partition, "offset")
    USING (topic, partition, "offset")
"""

_MARK = """
UPDATE dead_letters AS kept SET status = %(status)s
FROM unnest(%(topics)s::text[], %(partitions)s::int[], %(offsets)s::bigint[]) AS done (topic, partition, "offset")
WHERE kept.topic = done.topic AND kept.partition = done.partition AND kept."offset" = done."offset"
"""

Fate = Literal["passed", "sent", "left", "quarantined"]


@dataclass(frozen=True)
class Choice:
    """Which letters to send again.

    Parameters
    ----------
    reason
        Those of this reason; None: of all.
    since
        Those that first failed then or later; None: all.
    most
        At most so many; None: all.
    max_attempts
        One that has been tried as often as this is quarantined instead.
    is_dry_run
        Only tell what would be done.
    """

    reason: str | None = None
    since: datetime.datetime | None = None
    most: int | None = None
    max_attempts: int = 5
    is_dry_run: bool = False

    def takes(self, each: Letter) -> bool:
        """The letter is of the chosen reason and time."""
        return self.reason in (None, each.reason) and (self.since is None or each.first_failed_at >= self.since)


@dataclass
class Report:
    """What a replay found: letters by reason, how many it sent again, how many it left, and which stay for good."""

    reasons: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    left: int = 0
    quarantined: list[Letter] = field(default_factory=list)


def replay(
    settings: Settings, connection: Connection, choice: Choice, is_stopped: Callable[[], bool] = lambda: False
) -> Report:
    """Send letters again to the topic they came from, each with its attempts raised by one.

    The group's offset is committed up to the first letter that stays, after what was sent is acknowledged and noted: a
    crash in between sends letters twice, which readers bear.

    Raises
    ------
    ServiceError
        Another replay is at work.
    KafkaAwayError
        The broker does not answer; what was noted stays noted.
    """
    row = connection.execute("SELECT pg_try_advisory_lock(%s) AS is_ours", [LOCK]).fetchone()
    if not (row and row["is_ours"]):
        raise ServiceError("another replay is at work")
    group = f"{settings.kafka_group}-replay"
    with Reader(settings, settings.kafka_dlq_topic, group) as reader, Publisher(settings) as publisher:
        work = _Replay(settings.kafka_topic, connection, reader, publisher, choice)
        for records in _blocks(reader.read()):
            if is_stopped():
                break
            work.settle(records)
    return work.report


class _Replay:
    """One pass over the dead-letter topic."""

    def __init__(
        self, topic: str, connection: Connection, reader: Reader, publisher: Publisher, choice: Choice
    ) -> None:
        self._topic, self._connection, self._reader = topic, connection, reader
        self._publisher, self._choice = publisher, choice
        self.report = Report()
        self._seen: set[Place] = set()
        self._offsets: dict[int, int] = {}  # where the group may stand
        self._held: set[int] = set()  # partitions where a letter stays

    def settle(self, records: Sequence[Record]) -> None:
        """Decide what becomes of some letters, and do it."""
        letters = [_read(each, self._topic) for each in records]
        rows = self._look_up([each.place for each in letters if each])
        fates: list[tuple[Fate, Letter | None]] = []
        for each in letters:
            row = rows.get(each.place) if each else None
            whole = _corrected(each, row) if each else None
            fates.append((self._fate(whole, bool(row and row["status"] == "replayed")), whole))
        if not self._choice.is_dry_run:
            self._carry_out([(fate, each) for fate, each in fates if each])
            self._move_on(records, [fate for fate, _ in fates])

    def _fate(self, each: Letter | None, is_replayed: bool) -> Fate:
        if each is None or is_replayed or each.place in self._seen:
            return "passed"
        self._seen.add(each.place)
        self.report.reasons[each.reason] += 1
        if not self._choice.takes(each) or self.report.sent == self._choice.most:
            self.report.left += 1
            return "left"
        is_lost = each.reason == UNREADABLE and not each.payload
        if is_lost or each.attempts >= self._choice.max_attempts or len(each.payload) > MOST_VALUE:
            self.report.quarantined.append(each)
            return "quarantined"
        self.report.sent += 1
        return "sent"

    def _carry_out(self, fates: Sequence[tuple[Fate, Letter]]) -> None:
        sent = [each for fate, each in fates if fate == "sent"]
        self._publisher.publish([each.again() for each in sent])
        self._mark("replayed", sent)
        self._mark("quarantined", [each for fate, each in fates if fate == "quarantined"])

    def _move_on(self, records: Sequence[Record], fates: Sequence[Fate]) -> None:
        for record, fate in zip(records, fates, strict=True):
            if fate in ("left", "quarantined"):
                self._held.add(record.partition)
            elif record.partition not in self._held:
                self._offsets[record.partition] = record.offset + 1
        if self._offsets:
            self._reader.commit(self._offsets)

    def _look_up(self, places: Sequence[Place]) -> dict[Place, dict[str, Any]]:
        rows = self._connection.execute(_LOOK_UP, _columns(places)).fetchall()
        return {(row["topic"], row["partition"], row["offset"]): row for row in rows}

    def _mark(self, status: str, letters: Sequence[Letter]) -> None:
        if letters:
            self._connection.execute(_MARK, {"status": status, **_columns([each.place for each in letters])})


def _columns(places: Sequence[Place]) -> dict[str, list[Any]]:
    names = ("topics", "partitions", "offsets")
    return {name: [place[number] for place in places] for number, name in enumerate(names)}


def _corrected(each: Letter, row: Mapping[str, Any] | None) -> Letter:
    """The letter with what the table holds of it."""
    if row is None:
        return each
    return dataclasses.replace(each, key=row["key"], payload=row["payload"] or b"", attempts=row["attempts"])


def _read(record: Record, topic: str) -> Letter | None:
    """The letter that a message holds; None if it is none, or of another topic."""
    told = _texts(record)
    try:
        place = told[TOPIC], int(told[PARTITION]), int(told[OFFSET])
    except (KeyError, ValueError):
        return None
    if place[0] != topic or not (0 <= place[1] < 2**31 and 0 <= place[2] < 2**63):
        return None
    failed_at = datetime.datetime.fromtimestamp(min(max(record.timestamp, 0), MOST_MS) / 1000, datetime.timezone.utc)
    return Letter(
        place,
        record.key,
        record.value or b"",
        told.get(REASON, ""),
        told.get(DETAIL, ""),
        _time(told.get(FIRST_FAILED_AT, ""), failed_at),
        _count(told.get(ATTEMPTS, ""), 1),
        _kept(told),
    )


def _texts(record: Record) -> dict[str, str]:
    """The headers of a message; of several with one name the first."""
    texts: dict[str, str] = {}
    for name, value in record.headers:
        texts.setdefault(name, (value or b"").decode(errors="replace"))
    return texts


def _kept(told: Mapping[str, str]) -> Headers:
    """The headers of the event itself."""
    return [(name, told[name].encode()[:MOST_HEADER]) for name in _KEPT if name in told]


def _printable(text: str) -> str:
    """The text as it can be shown in one line, and stored."""
    return "".join(each if each.isprintable() else "?" for each in text[:MOST_DETAIL])


def _time(text: str, otherwise: datetime.datetime) -> datetime.datetime:
    """A time with an offset."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return otherwise
    return otherwise if time.tzinfo is None else time


def _count(text: str, otherwise: int) -> int:
    """A number of attempts."""
    return int(text) if re.fullmatch("[1-9][0-9]{0,5}", text) else otherwise


def _blocks(records: Iterator[Record]) -> Iterator[list[Record]]:
    while block := list(itertools.islice(records, BATCH)):
        yield block
