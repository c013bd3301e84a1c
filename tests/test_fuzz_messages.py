"""Any bytes as a message: each payload is a row, good or counted; each message is the run's next, or counted; never a traceback."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import GOOD, NONSENSE
from sor import contract
from sor.audit import RunAudit, envelope
from sor.contract import END, START, EndRecord, StartRecord
from sor.errors import StreamError
from sor.events import Checker, Intake
from tests.test_audit import Message, end, row, rows, start
from tests.test_fuzz_feed import assert_one_line

SECOND_NS = 10**9
bounded = settings(max_examples=200, deadline=2_000)

numbers = st.one_of(
    st.integers(-(2**80), 2**80),
    st.floats().map(json.dumps).map(lambda text: text.encode()),  # NaN and Infinity too
    st.sampled_from([b"1e400", b"-1e400", b"1e-400", b"9" * 5_000, b"0x10", b"01", b"+1", b"1_0", b".5", b"--1"]),
).map(lambda number: number if isinstance(number, bytes) else b"%d" % number)
values = st.one_of(
    numbers,
    st.text(max_size=50).map(lambda text: json.dumps(text).encode()),
    st.sampled_from(
        [b"null", b"true", b"[]", b"{}", b'"\\ud800"', b'"\xff"', b"[" * 3_000, b"", b'"' + b"x" * 100_000 + b'"']
    ),
)


@st.composite
def nearly_rows(draw: st.DrawFn) -> bytes:
    """The contract's object with some values replaced by anything, fields left out, doubled or put in."""
    fields = [(name.encode(), json.dumps(value).encode()) for name, value in json.loads(GOOD).items()]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(fields) - 1))
        fields[at] = (fields[at][0], draw(values))
    if draw(st.booleans()):
        fields.insert(draw(st.integers(0, len(fields))), (draw(st.sampled_from([b"price", b"x", b""])), draw(values)))
    if draw(st.integers(0, 3)) == 0:
        del fields[draw(st.integers(0, len(fields) - 1))]
    return b"{" + b",".join(b'"%s":%s' % field for field in fields) + b"}"


payloads = st.one_of(
    st.binary(max_size=100), nearly_rows(), st.just(GOOD), st.sampled_from([p or b"" for _, p in NONSENSE.values()])
)


@bounded
@given(st.lists(payloads, max_size=12))
def test_every_payload_is_a_row_kept_or_counted(sent):
    intake = Intake(Checker(SECOND_NS), "SIM")
    intake.add(contract.decode_rows(sent, 0))
    log = intake.checker.rejects
    assert len(sent) == len(intake.buffer) + log.total + intake.other_symbol_rows
    assert all(sentence.isprintable() for sentence in log.first.values())


@bounded
@given(st.lists(payloads, max_size=6), st.integers(0, 6))
def test_good_payloads_are_kept_whatever_comes_with_them(bad, at):
    sent = [*bad[:at], GOOD, *bad[at:]]
    checker = Checker(SECOND_NS)
    checker.good(contract.decode_rows(sent, 0))
    kinds = checker.rejects.kind_of_line()
    assert (
        kinds.get(min(at, len(bad)), "out_of_order") == "out_of_order"
    )  # the time of another may lie before or after it


RECORDS = {
    StartRecord: json.loads(contract.encode_record(start())),
    EndRecord: {**json.loads(end().value), "rejects": {"crossed": {"count": 1, "first_line": 2}}},
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


@bounded
@given(kind=st.sampled_from([StartRecord, EndRecord]), data=st.data())
def test_framing_record_is_right_or_a_stream_error(kind, data):
    held = dict(RECORDS[kind])
    for name in data.draw(st.lists(st.sampled_from(sorted(held)), max_size=3)):
        held[name] = data.draw(anything)
    try:
        record = contract.decode_record(json.dumps(held).encode(), kind)
    except StreamError as error:
        assert_one_line(error)
        return
    assert record.run_id.replace("-", "").isalnum()
    if kind is StartRecord:
        assert record.rows >= 0
        assert (record.file + "".join(record.symbols)).isprintable() or not (
            record.file + "".join(record.symbols)
        ).isascii()
    else:
        assert all(found.keys() == {"count", "first_line"} for found in record.rejects.values())


@bounded
@given(st.binary(max_size=200), st.sampled_from([StartRecord, EndRecord]))
def test_any_bytes_as_a_framing_record(payload, kind):
    with pytest.raises(StreamError):
        contract.decode_record(payload, kind)


# --- headers ------------------------------------------------------------------------------------------------------------

keys = st.one_of(st.sampled_from(["run", "row", "record"]), st.text(max_size=5), st.none())
contents = st.one_of(
    st.sampled_from(
        [b"r1", b"r2", b"0", b"3", b"5", b"6", b"-1", b"start", b"end", b"\xff", b"9" * 5_000, b"1e3", None]
    ),
    st.integers(-10, 2**70).map(lambda number: b"%d" % number),
    st.binary(max_size=8),
)
headers = st.lists(st.tuples(keys, contents), max_size=4) | st.lists(st.tuples(keys), max_size=2)
values_of_messages = st.none() | st.binary(max_size=50) | st.just(end().value)
hostile = st.builds(Message, values_of_messages, headers)


@bounded
@given(st.lists(st.one_of(hostile, st.integers(0, 5).map(row)), max_size=30), st.integers(1, 7))
def test_every_message_before_the_end_is_counted_once(messages, poll):
    audit, came = RunAudit(start()), 0
    for first in range(0, len(messages), poll):
        came += len(audit.accept(messages[first : first + poll]))
    counts = audit.counts()
    counted = counts["rows"] + counts["duplicate"] + counts["foreign"]
    assert came == counts["rows"] <= audit.start.rows
    assert counted == len(messages) or (audit.ended and counted < len(messages))
    assert all(fault.isprintable() for fault in audit.faults())
    assert audit.verified().isprintable()


@bounded
@given(st.lists(st.tuples(st.integers(1, 6), hostile), max_size=20))
def test_hostile_messages_between_the_rows_of_a_run_leave_it_whole(between):
    """Those that neither name a row yet to come nor end the run: nobody could tell these from the run's own."""
    messages = rows(*range(6))
    for at, message in sorted(between, key=lambda pair: -pair[0]):
        head = envelope(message)
        if head.run_id == "r1" and (head.record == END or (not head.record and at <= head.row < 6)):
            continue
        messages.insert(at, message)
    audit = RunAudit(start())
    taken = audit.accept([*messages, end()])
    assert (audit.faults(), taken) == ([], [b"row%d" % n for n in range(6)])
    assert audit.foreign + audit.duplicate == len(messages) - 6


@pytest.mark.parametrize("key", ["run", "row"])
def test_header_given_twice_makes_a_message_foreign(key):
    doubled = Message(b"x", [("run", b"r1"), ("row", b"3"), (key, b"r1" if key == "run" else b"5")])
    audit = RunAudit(start())
    audit.accept([*rows(0, 1, 2), doubled, *rows(3, 4, 5), end()])
    assert (audit.faults(), audit.foreign) == ([], 1)


# --- what was found by the above ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 2, 99, -1])
def test_start_of_another_schema_version_says_so(version):
    payload = contract.encode_record(start()).replace(b'"schema_version":1', b'"schema_version":%d' % version)
    with pytest.raises(StreamError, match=f"a StartRecord is of schema version {version}; it must be 1"):
        contract.decode_record(payload, StartRecord)


@pytest.mark.parametrize(
    "changed",
    [
        *({"run_id": ""}, {"run_id": "a,b"}, {"run_id": "a\n"}, {"run_id": "x" * 65}, {"rows": -1}, {"rows": 2**70}),
        *({"file": "\x1b[2J"}, {"file": "a\nb"}, {"symbols": ["S\x07"]}, {"sha256": "\x00"}),
    ],
)
def test_start_that_no_producer_of_ours_sends_is_refused(changed):
    with pytest.raises(StreamError, match="a StartRecord cannot be decoded"):
        contract.decode_record(json.dumps({**RECORDS[StartRecord], **changed}).encode(), StartRecord)


@pytest.mark.parametrize(
    "rejects",
    [{"a": {}}, {"a": {"count": 1}}, {"a": {"count": "1", "first_line": 2}}, {"\x1b": {"count": 1, "first_line": 2}}],
)
def test_end_with_counts_that_are_none_is_refused(rejects):
    with pytest.raises(StreamError, match="a EndRecord cannot be decoded"):
        contract.decode_record(json.dumps({**RECORDS[EndRecord], "rejects": rejects}).encode(), EndRecord)


def test_reason_of_an_aborted_run_is_shown_in_one_line():
    audit = RunAudit(start())
    audit.accept([end(0, aborted="disk\nfull \x1b[31m")])
    assert audit.faults()[0] == "aborted by the producer: disk full  [31m"


def test_second_start_record_with_other_content_changes_nothing():
    other = Message(contract.encode_record(start(rows=99)), contract.record_headers("r1", START))
    audit = RunAudit(start())
    audit.accept([*rows(0, 1), other, *rows(2, 3, 4, 5), end()])
    assert (audit.faults(), audit.duplicate) == ([], 1)
