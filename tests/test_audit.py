"""Whole or not: what happens to the messages of a run on their way, and where a consumer group goes on after a report."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sor import contract
from sor.audit import Envelope, RunAudit, envelope, next_commit
from sor.contract import END, START, EndRecord, StartRecord

ROWS = 6


@dataclass
class Message:
    """A Kafka record, as far as it is read."""

    value: bytes | None
    headers: list = field(default_factory=list)
    offset: int = 0


def start(run_id: str = "r1", rows: int = ROWS) -> StartRecord:
    return StartRecord(
        run_id=run_id, file="day.csv", sha256="ab", schema_version=1, symbols=["SIM"], rows=rows, speed=0.0
    )


def row(number: int, run_id: str = "r1", value: bytes | None = None) -> Message:
    return Message(b"row%d" % number if value is None else value, contract.row_headers(run_id, number))


def end(rows: int = ROWS, run_id: str = "r1", **changed: object) -> Message:
    """The right end record of a run of `rows` rows, but for what is changed."""
    record = EndRecord(
        run_id=run_id,
        rows_sent=rows,
        rejects={},
        disordered=0,
        crc32=contract.crc32([b"row%d" % n for n in range(rows)]),
    )
    return Message(
        contract.encode_record(msgspec.structs.replace(record, **changed)), contract.record_headers(run_id, END)
    )


def rows(*numbers: int) -> list[Message]:
    return [row(number) for number in numbers]


def audited(messages: list[Message], poll: int = 1_000, **announced: object) -> tuple[RunAudit, list[bytes]]:
    audit = RunAudit(start(**announced))
    payloads = []
    for first in range(0, len(messages), poll):
        payloads += audit.accept(messages[first : first + poll])
    return audit, payloads


# --- one run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poll", [1, 2, 3, 100])
def test_whole_run_has_no_fault(poll):
    audit, payloads = audited([*rows(*range(ROWS)), end()], poll)
    assert payloads == [b"row%d" % n for n in range(ROWS)]
    assert audit.ended
    assert audit.faults() == []
    assert audit.counts() == {"rows": 6, "duplicate": 0, "missing": 0, "reordered": 0, "foreign": 0}


def test_run_of_no_rows_is_whole():
    audit, _ = audited([end(0)], rows=0)
    assert audit.faults() == []


def test_run_without_its_end_is_not_whole_and_silence_says_nothing():
    audit, _ = audited(rows(*range(ROWS)))
    assert not audit.ended
    assert audit.faults() == ["no end record after 6 of 6 rows"]


@pytest.mark.parametrize("poll", [1, 4, 100])
def test_duplicates_are_dropped_and_the_run_stays_whole(poll):
    audit, payloads = audited([*rows(0, 1, 1, 2, 0, 3, 4, 4, 5, 5), end()], poll)
    assert payloads == [b"row%d" % n for n in range(ROWS)]
    assert (audit.faults(), audit.duplicate) == ([], 4)


@pytest.mark.parametrize("poll", [1, 4, 100])
def test_gap_is_counted(poll):
    audit, _ = audited([*rows(0, 3, 5), end()], poll)
    assert audit.missing == 3
    assert audit.faults()[:2] == ["3 rows missing before row 6", "3 rows came, 6 were sent"]
    assert audit.faults()[2].startswith("CRC-32 is ")


def test_last_rows_missing_is_a_wrong_count():
    audit, _ = audited([*rows(0, 1, 2, 3), end()])
    assert audit.missing == 0
    assert audit.faults()[0] == "4 rows came, 6 were sent"


@pytest.mark.parametrize("poll", [1, 4, 100])
def test_reordered_rows_are_taken_once_and_the_run_is_not_whole(poll):
    audit, payloads = audited([*rows(0, 2, 1, 5, 3, 4, 3), end()], poll)
    assert payloads == [b"row0", b"row2", b"row1", b"row5", b"row3", b"row4"]
    assert audit.counts() == {"rows": 6, "duplicate": 1, "missing": 0, "reordered": 3, "foreign": 0}
    assert audit.faults()[0] == "3 rows out of order"


@pytest.mark.parametrize("poll", [1, 4, 100])
def test_other_runs_between_the_rows_are_counted_and_ignored(poll):
    other = [Message(b"", contract.record_headers("r2", START)), *(row(n, "r2") for n in range(3)), end(3, "r2")]
    mixed = [message for pair in zip(rows(*range(5)), other, strict=True) for message in pair]
    audit, payloads = audited([*mixed, row(5), end()], poll)
    assert (audit.faults(), audit.foreign, len(payloads)) == ([], 5, 6)


HOSTILE = {
    "no headers": [],
    "run only": [("run", b"r1")],
    "row only": [("row", b"3")],
    "run None": [("run", None), ("row", b"3")],
    "run no UTF-8": [("run", b"\xff"), ("row", b"3")],
    "row None": [("run", b"r1"), ("row", None)],
    "row a word": [("run", b"r1"), ("row", b"three")],
    "row empty": [("run", b"r1"), ("row", b"")],
    "row negative": [("run", b"r1"), ("row", b"-1")],
    "row beyond the run": [("run", b"r1"), ("row", b"6")],
    "row 10**18": [("run", b"r1"), ("row", b"1000000000000000000")],
    "row of 10,000 digits": [("run", b"r1"), ("row", b"9" * 10_000)],
    "unknown record": [("run", b"r1"), ("record", b"middle")],
    "record None": [("run", b"r1"), ("record", None)],
    "headers of another program": [("traceparent", b"00-1"), ("x", b"")],
    "headers that are no pairs": [("run", b"r1", 1), ("row",)],
}


@pytest.mark.parametrize("headers", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("poll", [1, 100])
def test_message_with_hostile_headers_is_foreign(headers, poll):
    audit, payloads = audited([*rows(0, 1, 2), Message(b"x", headers), *rows(3, 4, 5), end()], poll)
    assert (audit.faults(), audit.foreign, len(payloads)) == ([], 1, 6)


def test_headers_in_another_order_or_with_others_between_are_read():
    shuffled = Message(b"row1", [("row", b"1"), ("traceparent", b"00-1"), ("run", b"r1")])
    audit, _ = audited([row(0), shuffled, *rows(2, 3, 4, 5), end()])
    assert (audit.faults(), audit.foreign) == ([], 0)


def test_far_row_of_a_huge_run_costs_no_memory():
    audit, _ = audited([row(10**17), row(10**15), row(10**16), row(10**15)], rows=10**18)
    assert audit.counts() == {"rows": 3, "duplicate": 1, "missing": 10**17 - 2, "reordered": 2, "foreign": 0}


def test_message_without_a_value_counts_as_a_row_with_an_empty_payload():
    tombstone = Message(None, contract.row_headers("r1", 1))
    audit, payloads = audited([row(0), tombstone, *rows(2, 3, 4, 5), end()])
    assert payloads[1] == b""
    assert len(audit.faults()) == 1
    assert audit.faults()[0].startswith("CRC-32 is ")


@pytest.mark.parametrize("poll", [1, 100])
def test_second_start_record_is_a_duplicate(poll):
    again = Message(contract.encode_record(start()), contract.record_headers("r1", START))
    audit, _ = audited([row(0), again, *rows(1, 2, 3, 4, 5), end()], poll)
    assert (audit.faults(), audit.duplicate) == ([], 1)


# --- the end record -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"", b"{}", b"\xff", None])
def test_unreadable_end_ends_the_run_as_not_whole(value):
    audit, _ = audited([*rows(*range(ROWS)), Message(value, contract.record_headers("r1", END))])
    assert audit.ended
    assert len(audit.faults()) == 1
    assert audit.faults()[0].startswith("a EndRecord cannot be decoded")


def test_aborted_end_says_why():
    audit, _ = audited([*rows(0, 1, 2), end(3, aborted="Ctrl-C")])
    assert audit.faults() == ["aborted by the producer: Ctrl-C"]


def test_wrong_count():
    audit, _ = audited([*rows(*range(ROWS)), end(rows_sent=7)])
    assert audit.faults() == ["6 rows came, 7 were sent", "7 rows were sent, 6 announced"]


def test_fewer_rows_sent_than_announced():
    audit, _ = audited([*rows(0, 1), end(2)])
    assert audit.faults() == ["2 rows were sent, 6 announced"]


def test_wrong_checksum():
    audit, _ = audited([*rows(0, 1, 2), row(3, value=b"changed"), *rows(4, 5), end()])
    assert audit.faults() == [f"CRC-32 is {audit.crc32:08x}, sent was {json.loads(end().value)['crc32']:08x}"]


@pytest.mark.parametrize("poll", [1, 2, 100])
def test_nothing_after_the_first_end_counts(poll):
    messages = [*rows(*range(ROWS)), end(), end(aborted="later"), row(5), row(2, "r2"), end(7)]
    audit, payloads = audited(messages, poll)
    assert (audit.faults(), len(payloads)) == ([], 6)
    assert audit.counts() == {"rows": 6, "duplicate": 0, "missing": 0, "reordered": 0, "foreign": 0}


@pytest.mark.parametrize("poll", [1, 2, 100])
def test_row_after_the_end_is_missing(poll):
    audit, _ = audited([*rows(0, 1, 2, 3, 4), end(), row(5)], poll)
    assert audit.faults()[0] == "5 rows came, 6 were sent"


def test_end_of_another_run_does_not_end_this_one():
    audit, _ = audited([*rows(0, 1), end(2, "r2")])
    assert not audit.ended


@given(st.data(), st.integers(1, 5))
def test_verdict_does_not_depend_on_how_messages_are_polled(data, poll):
    numbers = data.draw(st.lists(st.integers(-1, ROWS), max_size=20))
    messages = rows(*numbers)
    messages.insert(data.draw(st.integers(0, len(messages))), end())
    at_once, payloads = audited(messages)
    in_polls, same = audited(messages, poll)
    assert payloads == same
    assert (at_once.faults(), at_once.counts(), at_once.crc32) == (in_polls.faults(), in_polls.counts(), in_polls.crc32)
    sent_before_end = {
        m.value for m in messages[: next(i for i, m in enumerate(messages) if m.headers[1][0] == "record")]
    }
    inside = {b"row%d" % n for n in range(ROWS)}
    assert sorted(payloads) == sorted(sent_before_end & inside)
    in_order = [int(payload[3:]) for payload in payloads] == list(range(ROWS))
    assert (at_once.faults() == []) == in_order


def test_envelope_reads_run_row_and_record():
    assert envelope(row(4)) == Envelope("r1", 4, b"")
    assert envelope(end()) == Envelope("r1", -1, END)
    assert envelope(Message(b"")) == Envelope()


# --- where a group goes on ------------------------------------------------------------------------------------------

A, B, C = (10, "a"), (20, "b"), (30, "c")


def test_after_the_only_run_the_group_goes_on_behind_what_it_read():
    assert next_commit([A], 0, {"a"}, 19) == (19, [])


def test_run_that_began_inside_the_reported_one_comes_next():
    assert next_commit([A, (12, "b")], 0, {"a"}, 40) == (12, [])


def test_run_picked_out_of_order_is_remembered_beyond_the_offset():
    assert next_commit([A, B, C], 0, {"b"}, 29) == (10, ["b"])


def test_remembered_run_stays_so_though_this_read_did_not_reach_it():
    assert next_commit([A], 0, {"a", "c"}, 15) == (15, ["c"])


def test_remembered_runs_are_passed_when_the_ones_before_them_are_reported():
    assert next_commit([A, B, C], 0, {"a", "b"}, 35) == (30, [])
    assert next_commit([A, B, C], 10, {"a", "b", "c"}, 35) == (35, [])


def test_offset_never_goes_back():
    assert next_commit([A, B], 20, {"a"}, 15) == (20, [])
    assert next_commit([A], 20, {"a"}, 15) == (20, [])


def test_starts_read_twice_or_out_of_order_change_nothing():
    assert next_commit([C, A, B, A, C], 0, {"a"}, 35) == (20, [])


def test_run_id_started_again_later_is_not_reported_again():
    assert next_commit([A, B, (30, "a")], 0, {"a"}, 35) == (20, ["a"])


class ReportingGroup(RuleBasedStateMachine):
    """Producers append whole runs, possibly interleaved; a group reports the next one, or one it is told to.

    The group knows only what a real one knows: its committed offset and metadata, and what it reads from there on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, str]] = []  # of (run id, "start", "row" or "end"), by offset
        self.open: list[str] = []
        self.runs = 0
        self.committed, self.metadata = 0, []
        self.reports: list[str] = []

    @rule()
    def producer_starts(self) -> None:
        run_id = f"run{self.runs}"
        self.runs += 1
        self.log.append((run_id, "start"))
        self.open.append(run_id)

    @rule(which=st.integers(0, 9))
    def producer_sends_a_row(self, which: int) -> None:
        if self.open:
            self.log.append((self.open[which % len(self.open)], "row"))

    @rule(which=st.integers(0, 9))
    def producer_ends(self, which: int) -> None:
        if self.open:
            self.log.append((self.open.pop(which % len(self.open)), "end"))

    @rule(read_ahead=st.integers(0, 5))
    def group_reports_the_next_run(self, read_ahead: int) -> None:
        starts = self._starts(self.committed, len(self.log))
        waiting = [run_id for _, run_id in starts if run_id not in self.metadata]
        expected = [run_id for run_id, what in self.log if what == "start" and run_id not in self.reports]
        assert waiting[:1] == expected[:1]  # never a run twice, never one skipped
        if waiting:
            self._report(waiting[0], self.committed, read_ahead)

    @rule(which=st.integers(0, 9), read_ahead=st.integers(0, 5))
    def group_reports_a_run_by_id(self, which: int, read_ahead: int) -> None:
        if self.runs:
            self._report(f"run{which % self.runs}", 0, read_ahead)

    @invariant()
    def no_metadata_for_runs_that_were_passed(self) -> None:
        ids = {run_id for _, run_id in self._starts(self.committed, len(self.log))}
        assert set(self.metadata) <= ids

    def _starts(self, first: int, stop: int) -> list[tuple[int, str]]:
        return [(at, run_id) for at, (run_id, what) in enumerate(self.log[:stop]) if what == "start" and at >= first]

    def _report(self, run_id: str, read_from: int, read_ahead: int) -> None:
        if run_id in self.open:
            return
        position = min(self.log.index((run_id, "end")) + 1 + read_ahead, len(self.log))
        reported = {*self.metadata, run_id}
        starts = self._starts(read_from, position)
        self.committed, self.metadata = next_commit(starts, self.committed, reported, position)
        self.reports.append(run_id)


TestReportingGroup = ReportingGroup.TestCase


@given(st.sets(st.integers(0, 30), max_size=8), st.integers(0, 30), st.data())
def test_commit_lies_before_every_unreported_run_and_behind_every_reported_one_not_named(offsets, committed, data):
    starts = [(at, f"r{at}") for at in sorted(offsets)]
    reported = data.draw(st.sets(st.sampled_from(starts).map(lambda pair: pair[1]))) if starts else set()
    position = data.draw(st.integers(max(offsets, default=0) + 1, 40))
    assume(committed <= position)
    offset, beyond = next_commit(starts, committed, reported, position)
    assert committed <= offset <= position
    for at, run_id in starts:
        if at >= committed and run_id not in reported:
            assert offset <= at
        if run_id in reported:
            assert (run_id in beyond) == (at >= offset)


def test_one_line_says_how_much_of_the_run_came():
    followed = RunAudit(start(rows=5))
    followed.expected = followed.received = 5
    assert followed.verified() == "verified 5/5 rows, 0 duplicate, 0 gap"
    followed.received, followed.duplicate, followed.reordered = 3, 2, 1
    assert followed.verified() == "verified 3/5 rows, 2 duplicate, 2 missing, 1 out of order"
