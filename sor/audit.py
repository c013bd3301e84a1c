"""Is this run whole? Follows one run through the messages of the topic and counts whatever is not as it must be.

A run is whole when its end record is there and does not say aborted, every row came exactly once after duplicates are
dropped, in order, and count and CRC-32 are those of the end record. Nothing is concluded from silence. The first end
record ends the run: what comes after it is not looked at, so that no verdict depends on how messages were polled.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sor import contract
from sor.contract import HEADER_RECORD, HEADER_ROW, HEADER_RUN, EndRecord, StartRecord
from sor.errors import StreamError


class Message(Protocol):
    """What is read of a Kafka record."""

    offset: int
    headers: Sequence[tuple[str, bytes]]
    value: bytes | None


@dataclass(frozen=True)
class Envelope:
    """The headers of a message: the run it belongs to, and its row number or the record it is. Empty where not of a run."""

    run_id: str = ""
    row: int = -1
    record: bytes = b""


def envelope(message: Message) -> Envelope:
    """Read a message's headers; an empty Envelope if they are not those of the contract, or one of them is there twice."""
    try:
        ours = [(key, value) for key, value in message.headers if key in _OURS]
        headers = dict(ours)
        if len(headers) < len(ours):
            return Envelope()
        run_id = headers[HEADER_RUN].decode()
        row = int(headers[HEADER_ROW]) if HEADER_ROW in headers else -1
    except (KeyError, ValueError, TypeError, AttributeError):
        return Envelope()
    return Envelope(run_id, row, headers.get(HEADER_RECORD) or b"")


_OURS = (HEADER_RUN, HEADER_ROW, HEADER_RECORD)


@dataclass
class RunAudit:
    """Follows the run announced by `start`."""

    start: StartRecord
    expected: int = 0  # the next row
    received: int = 0
    duplicate: int = 0
    reordered: int = 0
    foreign: int = 0  # messages that belong to no run or to another one
    gaps: list[range] = field(default_factory=list)  # rows below `expected` that have not come, ascending
    crc32: int = 0
    end: EndRecord | None = None
    damaged_end: str = ""

    def __post_init__(self) -> None:
        self._tag = (HEADER_RUN, self.start.run_id.encode())

    def accept(self, messages: Sequence[Message]) -> list[bytes]:
        """Payloads of the run's rows among `messages`, in the order they came, each row once; nothing after the end."""
        payloads = self._all_in_order(messages)
        if payloads is None:
            payloads = [message.value or b"" for message in messages if not self.ended and self._is_new_row(message)]
        self.received += len(payloads)
        self.crc32 = contract.crc32(payloads, self.crc32)
        return payloads

    def _all_in_order(self, messages: Sequence[Message]) -> list[bytes] | None:
        """The usual case, quickly: every message is the run's next row. None if not so."""
        try:
            headers = [message.headers for message in messages]
            rows = [int(row) for (run, (key, row)) in headers if run == self._tag and key == HEADER_ROW]
        except (ValueError, TypeError):
            return None
        after = self.expected + len(messages)
        if self.ended or after > self.start.rows or rows != list(range(self.expected, after)):
            return None
        self.expected = after
        return [message.value or b"" for message in messages]

    def _is_new_row(self, message: Message) -> bool:
        head = envelope(message)
        is_row = not head.record and 0 <= head.row < self.start.rows
        if head.run_id != self.start.run_id or not (is_row or head.record in (contract.START, contract.END)):
            self.foreign += 1
        elif head.record == contract.END:
            self._take_end(message.value or b"")
        elif is_row and head.row >= self.expected:
            if head.row > self.expected:
                self.gaps.append(range(self.expected, head.row))
            self.expected = head.row + 1
            return True
        elif is_row and self._was_missing(head.row):
            self.reordered += 1
            return True
        else:
            self.duplicate += 1
        return False

    def _was_missing(self, row: int) -> bool:
        """Take a row out of the gaps; False if it is in none."""
        at = bisect_right(self.gaps, row, key=lambda gap: gap.start) - 1
        if at < 0 or row not in self.gaps[at]:
            return False
        gap = self.gaps[at]
        self.gaps[at : at + 1] = [part for part in (range(gap.start, row), range(row + 1, gap.stop)) if part]
        return True

    def _take_end(self, payload: bytes) -> None:
        try:
            self.end = contract.decode_record(payload, EndRecord)
        except StreamError as error:
            self.damaged_end = str(error)

    @property
    def missing(self) -> int:
        """Rows that have not come though a later one has."""
        return sum(gap.stop - gap.start for gap in self.gaps)

    @property
    def ended(self) -> bool:
        """The end record, readable or not, has come."""
        return self.end is not None or bool(self.damaged_end)

    def faults(self) -> list[str]:
        """Why the run is not whole, one phrase each; empty for a whole run."""
        if self.end is None:
            return [self.damaged_end or f"no end record after {self.received} of {self.start.rows} rows"]
        checks = {
            f"aborted by the producer: {_one_line(self.end.aborted)}": self.end.aborted,
            f"{self.missing} rows missing before row {self.expected}": self.missing,
            f"{self.reordered} rows out of order": self.reordered,
            f"{self.received} rows came, {self.end.rows_sent} were sent": self.received != self.end.rows_sent,
            f"{self.end.rows_sent} rows were sent, {self.start.rows} announced": not self.end.aborted
            and self.end.rows_sent != self.start.rows,
            f"CRC-32 is {self.crc32:08x}, sent was {self.end.crc32:08x}": self.crc32 != self.end.crc32,
        }
        return [fault for fault, found in checks.items() if found]

    def verified(self) -> str:
        """Rows that came of rows announced, and what was wrong with them, in one line."""
        absent = self.start.rows - self.received
        parts = [f"verified {self.received}/{self.start.rows} rows", f"{self.duplicate} duplicate"]
        parts.append(f"{absent} missing" if absent else "0 gap")
        parts += [f"{self.reordered} out of order"] if self.reordered else []
        return ", ".join(parts)

    def counts(self) -> dict[str, int]:
        """What came, for the report."""
        return {
            "rows": self.received,
            "duplicate": self.duplicate,
            "missing": self.missing,
            "reordered": self.reordered,
            "foreign": self.foreign,
        }


def _one_line(text: str) -> str:
    """What a terminal can show of a text that came on the topic."""
    return "".join(each if each.isprintable() else " " for each in text[:1000])


def next_commit(
    starts: Sequence[tuple[int, str]], committed: int, reported: set[str], position: int
) -> tuple[int, list[str]]:
    """Where the consumer group continues after a report.

    Parameters
    ----------
    starts : sequence of (offset, run id)
        All start records from `committed` (or before) to `position`, in any order, repetitions allowed.
    committed : int
        The group's committed offset until now.
    reported : set of str
        Ids of the runs reported now, and of those that the metadata of the last commit names.
    position : int
        The offset after the last message read.

    Returns
    -------
    offset : int
        That of the first run not reported, or `position`.
    beyond : list of str
        Reported runs not known to start before it; kept as the commit's metadata, so that they are not reported twice.
    """
    waiting = [offset for offset, run_id in starts if offset >= committed and run_id not in reported]
    offset = min(waiting, default=max(position, committed))
    passed = {run_id for at, run_id in starts if at < offset} - {run_id for at, run_id in starts if at >= offset}
    return offset, sorted(reported - passed)
