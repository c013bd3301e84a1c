"""The ten mistakes of earlier attempts at this trial, one test each: what the right answer is, and what the mistake gives.

Those about runs and messages are tested here on the pure parts; tests/integration has them on a broker.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from allocator import Venue, allocate, allocate_exhaustive
from sor import contract, experiment, policies
from sor.audit import RunAudit, next_commit
from sor.book import nbbo, quote_updates
from sor.contract import EndRecord, StartRecord, record_headers, row_headers
from sor.events import SELLER, Checker, Intake
from sor.policies import POLICIES, Order
from tests.helpers import ask, events, market, quote, trade, venue_table, window


def run(name: str, day: object, size: int, end_s: float) -> list[tuple[int, float, int]]:
    """(venue index, price, shares) of every fill."""
    rows = policies.run(name, day, Order(size, window(0, end_s))).fills.tolist()
    return [(venue, px / 1e4, sz) for _, venue, px, sz, _ in rows]


# --- the book and the order ---------------------------------------------------------------------------------------------


def test_mistake_rows_of_one_venue_at_one_timestamp_counted_as_several_venues():
    day = market(ask(0, 2, 10.00, 100), ask(0, 2, 10.01, 200), ask(0, 2, 10.02, 300), ask(5, 2, 10.02, 300))
    assert np.diff(day.updates.first).tolist() == [1, 1]
    assert day.nbbo.ask_sz.tolist() == [300, 300]
    assert run("allocate", day, 600, 1) == [(0, 10.02, 300)]  # not 100 + 200 + 300 of "three venues"


def test_mistake_venues_never_carried_forward_so_asynchronous_venues_are_never_compared():
    day = market(ask(0, 2, 10.00, 100), ask(1, 3, 10.05, 100), ask(2, 5, 10.03, 100), ask(9, 5, 10.03, 100))
    assert day.nbbo.ask_px_e4.tolist() == [
        100_000,
        100_000,
        100_000,
        100_000,
    ]  # venue 2 still stands when the others speak
    schedule = policies.Schedule(np.array([day.updates.ts_ns[2]]), np.array([[300]]))
    taken = policies.execute_at_once(day, Order(300, window(0, 5)), schedule)
    assert taken.fills["venue"].tolist() == [0, 2, 1]


def test_mistake_same_displayed_size_bought_again_at_every_message():
    day = market(*(ask(at_s, 2, 10.0, 100) for at_s in range(50)))
    for name in POLICIES:
        fills = run(name, day, 5000, 49)
        assert sum(sz for *_, sz in fills) == 100, name  # not 100 at each of 50 messages


def test_mistake_whole_order_bought_again_at_each_snapshot():
    day = market(*(ask(at_s, 2, 10.0 + at_s / 100, 5000) for at_s in range(50)))
    for name in POLICIES:
        taken = policies.run(name, day, Order(5000, window(0, 49), slice_ns=10**9))
        assert taken.fills["sz"].sum() == 5000, name


def test_mistake_exact_sum_rule_buys_nothing_unless_the_order_is_displayed_at_once():
    offers = [Venue(10.0, 300, 0.003, 0.002), Venue(10.1, 450, 0.003, 0.002)]
    assert allocate_exhaustive(5000, offers, 0.4, 0.6, 0.3)[0] == []  # the trial's search finds nothing to do
    assert allocate(5000, offers, 0.4, 0.6, 0.3)[0] == [300, 450]
    day = market(ask(0, 2, 10.0, 300), ask(0, 3, 10.1, 450), ask(3, 2, 10.2, 5000), ask(9, 2, 10.2, 1))
    assert run("allocate", day, 5000, 5) == [(0, 10.0, 300), (1, 10.1, 450), (0, 10.2, 4250)]


def test_mistake_totals_of_different_share_counts_compared():
    quotes = [quote(at_s, 2, 9.98, 100, 10.0 + at_s / 1000, 10) for at_s in range(0, 400, 40)]
    day = market(*quotes, trade(1, 2, 100), ask(400, 3, 10.5, 200))
    result = experiment.run(day, Order(1000, window(0, 400)), "allocate", ((0.0, 0.0, 0.0),))
    sections = experiment.seed_sections(result, day)
    arms = [sections["optimized"], *sections["baselines"].values()]
    assert {arm["shares_filled"] for arm in arms} == {1000}
    for taken in result.taken.values():  # on the book, in the sweep, or priced: every arm pays for 1,000 shares
        assert taken.filled_sz[0] + taken.swept_sz[0] + taken.priced_sz[0] == 1000
    assert any(arm["completed_at_deadline"] for arm in arms)


def test_mistake_keep_first_instead_of_keep_last_within_a_timestamp():
    # at second 1 both venues step down together: each venue's first row still has the other's old price across it
    rows = [
        quote(0, 2, 10.00, 100, 10.02, 100),
        quote(0, 3, 10.00, 100, 10.02, 100),
        quote(1, 2, 10.00, 50, 10.02, 100),
        quote(1, 3, 9.97, 100, 9.99, 100),
        quote(1, 2, 9.97, 100, 9.99, 100),
    ]
    best = nbbo(quote_updates(events(*rows), venue_table().routable((2, 3))))
    assert best.bid_px_e4.tolist() == [100_000, 99_700]
    assert best.ask_px_e4.tolist() == [100_200, 99_900]
    assert best.usable.all()  # keep-first leaves venue 2's bid of 10.00 above venue 3's ask of 9.99: crossed


# --- runs and messages --------------------------------------------------------------------------------------------------


@dataclass
class Message:
    """What Kafka hands over."""

    offset: int
    headers: list[tuple[str, bytes]]
    value: bytes | None = field(default=b"{}")


def messages(run_id: str, rows: range, first_offset: int = 0) -> list[Message]:
    return [Message(first_offset + i, row_headers(run_id, row), b"%d" % row) for i, row in enumerate(rows)]


def start(run_id: str, rows: int) -> StartRecord:
    return StartRecord(run_id=run_id, file="d.csv", sha256="", schema_version=1, symbols=["SIM"], rows=rows, speed=0.0)


def end(run_id: str, payloads: list[bytes]) -> Message:
    crc32 = contract.crc32(payloads)
    record = EndRecord(run_id=run_id, rows_sent=len(payloads), rejects={}, disordered=0, crc32=crc32)
    return Message(99, record_headers(run_id, contract.END), contract.encode_record(record))


def test_mistake_rerun_reads_the_messages_of_the_old_run():
    audit = RunAudit(start("new", 2))
    old, new = messages("old", range(3)), messages("new", range(2), first_offset=3)
    assert audit.accept([*old, *new]) == [b"0", b"1"]
    audit.accept([end("new", [b"0", b"1"])])
    assert audit.faults() == []
    assert audit.foreign == 3


def test_mistake_rerun_reads_nothing():
    starts = [(0, "old"), (10, "new")]  # the old run is reported, the new one was sent since
    assert next_commit(starts, 0, {"old"}, position=20) == (10, [])
    # nothing is committed past a run that is not reported, whatever has been polled
    assert next_commit(starts, 0, {"new"}, position=20) == (0, ["new"])


def test_mistake_end_of_stream_guessed_from_silence():
    audit = RunAudit(start("r", 3))
    audit.accept(messages("r", range(2)))
    for _ in range(100):
        audit.accept([])  # silence
    assert not audit.ended
    assert audit.faults() == ["no end record after 2 of 3 rows"]
    audit.accept(messages("r", range(2, 3)))
    assert not audit.ended  # even with every row here, only the end record says so
    audit.accept([end("r", [b"0", b"1", b"2"])])
    assert audit.ended
    assert audit.faults() == []


GOOD = (
    b'{"ts_event":"2024-08-05T13:30:0%d.000000000Z","publisher_id":2,"symbol":"SIM","action":"A","side":"N","price":10.0,'
    b'"size":1,"bid_px_00":9.99,"ask_px_00":10.0,"bid_sz_00":100,"ask_sz_00":100,"sequence":1}'
)


@pytest.mark.parametrize(
    ("damaged", "kind"),
    [
        (GOOD.replace(b'"ask_px_00":10.0', b'"ask_px_00":NaN') % 1, "undecodable"),
        (GOOD.replace(b'"ask_sz_00":100', b'"ask_sz_00":0') % 1, "price_without_size"),
        (GOOD.replace(b'"ask_sz_00":100', b'"ask_sz_00":null') % 1, "price_without_size"),
        (GOOD.replace(b'"bid_px_00":9.99', b'"bid_px_00":-1.0') % 1, "negative_or_infinite"),
        (GOOD[:70] % 1, "undecodable"),
        (b"", "undecodable"),
        (b"[1, 2]", "undecodable"),
        (b"\xff\xfe", "undecodable"),
        (GOOD.replace(b"2024-08-05", b"2024-13-45") % 1, "unreadable_time"),
    ],
)
def test_mistake_nan_zero_size_or_malformed_json_crashes_or_silently_ends_the_read(damaged: bytes, kind: str):
    intake = Intake(Checker(10**9))
    intake.add(contract.decode_rows([GOOD % 0, damaged, GOOD % 2], first_row=7))
    assert len(intake.buffer) == 2  # the rows on both sides of it
    assert intake.checker.rejects.summary() == {kind: {"count": 1, "first_line": 8}}


def test_mistake_zero_price_read_as_a_quote_at_zero_or_as_no_change():
    """Of the same family: an empty side is neither free shares nor the old quote."""
    intake = Intake(Checker(10**9))
    gone = GOOD.replace(b'"ask_px_00":10.0', b'"ask_px_00":0').replace(b'"ask_sz_00":100', b'"ask_sz_00":0')
    intake.add(contract.decode_rows([GOOD % 0, gone % 1, GOOD.replace(b'"side":"N"', b'"side":"A"') % 2], first_row=0))
    day = intake.buffer.events()
    assert day.ask_px_e4.tolist() == [100_000, 0, 100_000]
    assert day.side.max() < SELLER  # a quote's side is not an aggressor
