"""Row checks and event arrays, on rows written by hand; every number here is worked out beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sor.errors import FeedError
from sor.events import (
    ACTION_OF_LETTER,
    BUYER,
    CLEAR,
    FIRST_CAPACITY,
    KIND_NAMES,
    LOOK_AHEAD,
    NO_AGGRESSOR,
    NO_TIME,
    QUOTE,
    REJECT_KINDS,
    SELLER,
    TRADE,
    Checker,
    EventBuffer,
    Intake,
    RejectLog,
    RowBlock,
    check_rows,
)

SECOND_NS = 10**9
EMPTY = float("nan")
GOOD_QUOTE = {
    "publisher_id": 2,
    "price": 10.0,
    "size": 300,
    "bid_px": 10.0,
    "ask_px": 10.02,
    "bid_sz": 300,
    "ask_sz": 400,
    "sequence": 1,
    "action": "A",
    "side": "N",
    "symbol": "SIM",
}


def block(*rows: dict, first_line: int = 2) -> RowBlock:
    """Rows a second apart from second 100 on, unless a row says `ts_ns`; what a row does not say is a good quote."""
    full = [{"ts_ns": (100 + i) * SECOND_NS, **GOOD_QUOTE, **row} for i, row in enumerate(rows)]
    symbols = tuple(sorted({row["symbol"] for row in full}))
    letters = {
        name: np.array([ord(row[name]) if len(row[name]) == 1 else 0 for row in full], np.uint8)
        for name in ("action", "side")
    }
    numbers = ("publisher_id", "price", "size", "bid_px", "ask_px", "bid_sz", "ask_sz", "sequence")
    return RowBlock(
        line=np.arange(first_line, first_line + len(full)),
        ts_ns=np.array([row["ts_ns"] for row in full], np.int64),
        symbol=np.array([symbols.index(row["symbol"]) for row in full], np.int64),
        parse_kind=np.zeros(len(full), np.uint8),
        symbols=symbols,
        **letters,
        **{name: np.array([row[name] for row in full], np.float64) for name in numbers},
    )


def kinds(rows: RowBlock, max_disorder_ns: int = SECOND_NS) -> list[str]:
    codes, _, _ = check_rows(rows, NO_TIME, max_disorder_ns)
    return [KIND_NAMES[code - 1] if code else "" for code in codes]


def at_seconds(*seconds: float) -> RowBlock:
    return block(*({"ts_ns": round(second * SECOND_NS)} for second in seconds))


def events_of(*rows: dict):
    intake = Intake(Checker(SECOND_NS))
    intake.add(block(*rows))
    return intake.buffer.events()


# --- what a row may be ----------------------------------------------------------------------------------------------

GOOD = {
    "quote": {},
    "modify": {"action": "M"},
    "cancel": {"action": "C"},
    "locked": {"bid_px": 10.02},
    "bid price 0": {"bid_px": 0.0, "bid_sz": 0},
    "bid price 0 with a size left over": {"bid_px": 0.0},
    "ask empty": {"ask_px": EMPTY, "ask_sz": EMPTY},
    "both sides empty": {"bid_px": EMPTY, "ask_px": EMPTY, "bid_sz": 0, "ask_sz": 0},
    "one tick of 0.0001": {"bid_px": 0.0001, "ask_px": 0.0002},
    "dearest price that fits": {"bid_px": 214748.3646, "ask_px": 214748.3647},
    "order's own price empty": {"price": EMPTY, "size": EMPTY},
    "trade at a sub-penny price": {"action": "T", "price": 10.012345},
    "trade while the book is empty": {"action": "T", "bid_px": EMPTY, "ask_px": EMPTY, "bid_sz": 0, "ask_sz": 0},
    "trade while the book is crossed": {"action": "T", "bid_px": 10.03},
    "clear": {"action": "R", "price": EMPTY, "size": 0, "bid_px": EMPTY, "ask_px": EMPTY, "bid_sz": 0, "ask_sz": 0},
    "no sequence": {"sequence": EMPTY},
    "off-exchange publisher": {"publisher_id": 19, "action": "T"},
}
BAD = {
    "publisher empty": ({"publisher_id": EMPTY}, "unreadable_number"),
    "publisher 2.5": ({"publisher_id": 2.5}, "finer_than_tick"),
    "publisher negative": ({"publisher_id": -1}, "negative_or_infinite"),
    "publisher above 16 bits": ({"publisher_id": 65_536}, "out_of_range"),
    "action X": ({"action": "X"}, "unknown_action"),
    "action of two letters": ({"action": "AB"}, "unknown_action"),
    "fill F, not a state of the book": ({"action": "F"}, "unknown_action"),
    "no symbol": ({"symbol": ""}, "no_symbol"),
    "bid price negative": ({"bid_px": -10.0}, "negative_or_infinite"),
    "ask size negative": ({"ask_sz": -1}, "negative_or_infinite"),
    "trade price infinite": ({"action": "T", "price": float("inf")}, "negative_or_infinite"),
    "ask infinite": ({"ask_px": float("inf")}, "negative_or_infinite"),
    "ask minus infinite": ({"ask_px": -float("inf")}, "negative_or_infinite"),
    "sequence infinite": ({"sequence": float("inf")}, "negative_or_infinite"),
    "price in Databento's 1e-9 integers": ({"ask_px": 10_020_000_000.0}, "out_of_range"),
    "size above 32 bits": ({"bid_sz": 2**31}, "out_of_range"),
    "sequence that float64 cannot hold": ({"sequence": 2.0**60}, "out_of_range"),
    "quote finer than a tick": ({"ask_px": 10.02005}, "finer_than_tick"),
    "half a share": ({"ask_sz": 100.5}, "finer_than_tick"),
    "bid price without size": ({"bid_sz": 0}, "price_without_size"),
    "ask price with size empty": ({"ask_sz": EMPTY}, "price_without_size"),
    "trade without price": ({"action": "T", "price": 0.0}, "price_without_size"),
    "trade with price empty": ({"action": "T", "price": EMPTY}, "price_without_size"),
    "trade without size": ({"action": "T", "size": 0}, "price_without_size"),
    "own bid above own ask": ({"bid_px": 10.03}, "crossed"),
}


@pytest.mark.parametrize("row", GOOD.values(), ids=GOOD.keys())
def test_row_is_good(row):
    assert kinds(block({}, row, {})) == ["", "", ""]


@pytest.mark.parametrize(("row", "kind"), BAD.values(), ids=BAD.keys())
def test_row_is_set_aside_under_its_kind_and_its_neighbours_are_not(row, kind):
    assert kinds(block({}, row, {})) == ["", kind, ""]


def test_first_failed_check_names_the_row():
    assert kinds(block({"action": "X", "bid_px": -1.0})) == ["unknown_action"]


def test_what_parsing_marked_is_not_checked_again():
    rows = replace(block({"bid_px": -1.0}), parse_kind=np.array([1], np.uint8))
    assert kinds(rows) == ["blank_line"]


# --- time -----------------------------------------------------------------------------------------------------------


def test_disorder_up_to_the_bound_is_kept_in_file_order_and_counted():
    rows = at_seconds(100, 101, 100, 100.5, 102)  # back by 1 s and 0.5 s
    codes, newest_ns, disordered = check_rows(rows, NO_TIME, SECOND_NS)
    assert not codes.any()
    assert (newest_ns, disordered) == (102 * SECOND_NS, 2)


def test_row_a_nanosecond_beyond_the_bound_is_out_of_order():
    rows = block({"ts_ns": 5 * SECOND_NS}, {"ts_ns": 4 * SECOND_NS - 1}, {"ts_ns": 4 * SECOND_NS})
    assert kinds(rows) == ["", "out_of_order", ""]


def test_bound_counts_from_the_newest_row_not_from_the_one_before():
    assert kinds(at_seconds(100, 99.4, 98.8)) == ["", "", "out_of_order"]


def test_disorder_is_judged_across_blocks():
    checker = Checker(SECOND_NS)
    checker.good(at_seconds(100))
    assert len(checker.good(at_seconds(98, 99.5, 101))) == 2
    assert (checker.rejects.total, checker.disordered, checker.newest_ns) == (1, 1, 101 * SECOND_NS)


def test_time_of_a_bad_row_does_not_count():
    rows = block({"ts_ns": 1}, {"ts_ns": 10 * SECOND_NS, "action": "X"}, {"ts_ns": 2})
    assert kinds(rows) == ["", "unknown_action", ""]


@pytest.mark.parametrize("wrong", [1, 2, 3, 4])
def test_a_few_rows_in_the_future_do_not_put_the_rest_out_of_order(wrong):
    rows = at_seconds(100, *[9e8] * wrong, *range(101, 120))
    assert kinds(rows) == ["", *["out_of_order"] * wrong, *[""] * 19]


def test_first_row_in_the_future_is_set_aside_too():
    assert kinds(at_seconds(9e8, *range(100, 110))) == ["out_of_order", *[""] * 10]


def test_night_between_two_days_is_no_leap():
    assert not any(kinds(at_seconds(*range(100, 110), *range(90_000, 90_010))))


def test_five_of_the_next_eight_rows_must_testify_against_a_time():
    later = [101, 300, 102, 301, 103, 302, 104]  # four of seven lie before second 299: not more than half of eight
    assert kinds(at_seconds(100, 300, *later))[1] == ""
    assert kinds(at_seconds(100, 300, *later, 105))[1] == "out_of_order"


def test_rows_of_the_next_block_testify_if_they_are_known():
    rows = at_seconds(100, 9e8)
    assert kinds(rows) == ["", ""]
    assert kinds(replace(rows, later_ns=at_seconds(*range(101, 106)).ts_ns)) == ["", "out_of_order"]


def kinds_one_by_one(times: list[int], bound: int) -> tuple[list[bool], int]:
    """The two time checks as they are said, one row at a time: which rows are out of order, and the disordered count."""
    wrong, newest, disordered = [], None, 0
    for i, time in enumerate(times):
        witnesses = sum(later < time - bound for later in times[i + 1 : i + 1 + LOOK_AHEAD])
        bad = witnesses > LOOK_AHEAD / 2 or (newest is not None and time < newest - bound)
        wrong.append(bad)
        if not bad:
            disordered += newest is not None and time < newest
            newest = time if newest is None else max(newest, time)
    return wrong, disordered


times_lists = st.lists(st.one_of(st.integers(0, 12), st.integers(0, 60)), min_size=1, max_size=40)


@given(times_lists, st.integers(0, 10))
def test_time_checks_equal_the_row_by_row_reading(times, bound):
    codes, _, disordered = check_rows(block(*({"ts_ns": time} for time in times)), NO_TIME, bound)
    assert ((codes > 0).tolist(), disordered) == kinds_one_by_one(times, bound)


@given(times_lists, st.integers(0, 10))
def test_good_rows_checked_again_are_all_good_in_any_blocks(times, bound):
    first = Checker(bound)
    good = first.good(block(*({"ts_ns": time} for time in times)))
    again = Checker(bound)
    for i in range(len(good)):
        again.good(good.select(np.arange(len(good)) == i))
    assert (again.rejects.total, again.disordered, again.newest_ns) == (0, first.disordered, first.newest_ns)


# --- the account of rejected rows -----------------------------------------------------------------------------------


def test_rejects_are_counted_by_kind_with_the_first_line_of_each():
    checker = Checker(SECOND_NS)
    checker.good(block({}, {"action": "X"}, {"bid_px": 10.03}, {"action": "Y"}))  # lines 2 to 5
    checker.good(block({"bid_px": 10.04, "ts_ns": 104 * SECOND_NS}, first_line=6))
    assert checker.rejects.total == 4
    assert checker.rejects.summary() == {
        "unknown_action": {"count": 2, "first_line": 3},
        "crossed": {"count": 2, "first_line": 4},
    }
    assert checker.rejects.kind_of_line() == {3: "unknown_action", 4: "crossed", 5: "unknown_action", 6: "crossed"}
    assert checker.rejects.earliest().startswith(
        "line 3: unknown action (ts_event 1970-01-01T00:01:41.000000000Z, action X,"
    )


def test_strict_stops_at_the_first_bad_row_and_says_what_it_holds_and_must_be():
    with pytest.raises(FeedError) as caught:
        Checker(SECOND_NS, strict=True).good(block({}, {"bid_px": 10.03}, {"action": "X"}))
    assert str(caught.value) == (
        "strict: line 3: crossed (ts_event 1970-01-01T00:01:41.000000000Z, action A, publisher_id 2, price 10, "
        "bid_px 10.03, ask_px 10.02, size 300, bid_sz 300, ask_sz 400, sequence 1): "
        "a venue's own bid must not be above its own ask"
    )


def test_log_without_rejects_adds_nothing_to_a_message():
    assert RejectLog().hint() == ""
    assert RejectLog().summary() == {}


def test_every_kind_says_what_must_be():
    assert all("must" in rule for rule in REJECT_KINDS.values())


# --- event arrays ---------------------------------------------------------------------------------------------------


def test_quote_becomes_integer_prices_and_shares():
    events = events_of({"bid_px": 158.52, "ask_px": 158.5301, "bid_sz": 200, "ask_sz": 100})
    assert events.action.tolist() == [QUOTE]
    assert (events.bid_px_e4[0], events.ask_px_e4[0]) == (1_585_200, 1_585_301)
    assert (events.bid_sz[0], events.ask_sz[0]) == (200, 100)
    assert (events.trade_px_e4[0], events.trade_sz[0]) == (0, 0)
    assert events.ts_ns[0] == 100 * SECOND_NS


def test_trade_is_never_a_quote():
    events = events_of({"action": "T", "side": "B", "price": 10.01, "size": 50})
    quoted = [events.bid_px_e4[0], events.ask_px_e4[0], events.bid_sz[0], events.ask_sz[0]]
    assert quoted == [0, 0, 0, 0]
    assert (events.action[0], events.trade_px_e4[0], events.trade_sz[0]) == (TRADE, 100_100, 50)


def test_side_of_a_trade_is_its_aggressor_and_that_of_a_quote_is_nothing():
    events = events_of(*({"action": "T", "side": side} for side in ("B", "A", "N", "")), {"action": "A", "side": "B"})
    assert events.side.tolist() == [BUYER, SELLER, NO_AGGRESSOR, NO_AGGRESSOR, NO_AGGRESSOR]


@pytest.mark.parametrize(
    "gone", [{"bid_px": 0.0}, {"bid_px": EMPTY}, {"bid_px": 0.0, "bid_sz": 0}, {"bid_px": EMPTY, "bid_sz": EMPTY}]
)
def test_side_with_price_0_or_empty_is_withdrawn_and_the_other_stays(gone):
    events = events_of({}, gone)
    assert (events.bid_px_e4.tolist(), events.bid_sz.tolist()) == ([100_000, 0], [300, 0])
    assert (events.ask_px_e4.tolist(), events.ask_sz.tolist()) == ([100_200, 100_200], [400, 400])


def test_clear_empties_the_venue_whatever_the_row_shows():
    events = events_of({"action": "R"})
    assert events.action.tolist() == [CLEAR]
    assert not any(getattr(events, name)[0] for name in ("bid_px_e4", "ask_px_e4", "bid_sz", "ask_sz", "trade_sz"))


def test_sub_penny_trade_is_rounded_to_the_nearest_tick():
    assert events_of({"action": "T", "price": 10.01236}).trade_px_e4[0] == 100_124


def test_venues_are_indices_into_ascending_publisher_ids():
    events = events_of({"publisher_id": 43}, {"publisher_id": 2}, {"publisher_id": 43}, {"publisher_id": 9})
    assert events.publisher_ids == (2, 9, 43)
    assert events.venue.tolist() == [2, 0, 2, 1]


def test_events_are_36_bytes_a_row_and_read_only():
    events = events_of({}, {})
    arrays = [array for array in vars(events).values() if isinstance(array, np.ndarray)]
    assert sum(array.nbytes for array in arrays) == 36 * 2
    with pytest.raises(ValueError, match="read-only"):
        events.ts_ns[0] = 1


def test_slice_holds_the_rows_between():
    part = events_of({"bid_sz": 100}, {"bid_sz": 200}, {"bid_sz": 300}).slice(1, 3)
    assert (len(part), part.bid_sz.tolist(), part.publisher_ids) == (2, [200, 300], (2,))


def test_events_taken_before_more_rows_come_do_not_change():
    buffer = EventBuffer()
    buffer.append(block({"bid_sz": 100}))
    early = buffer.events()
    buffer.append(block({"bid_sz": 200, "publisher_id": 1}))
    assert (early.bid_sz.tolist(), early.publisher_ids) == ([100], (2,))
    assert (buffer.events().bid_sz.tolist(), buffer.events().venue.tolist()) == ([100, 200], [1, 0])


def test_buffer_grows_past_its_first_capacity():
    buffer = EventBuffer()
    many = block(*({"bid_sz": 1 + i, "ts_ns": i} for i in range(1000)))
    rounds = FIRST_CAPACITY // 1000 + 2
    for _ in range(rounds):
        buffer.append(many)
    assert (buffer.events().bid_sz == np.tile(np.arange(1, 1001), rounds)).all()


@given(st.integers(1, 2**31 - 1))
def test_every_price_in_ticks_survives_exactly(px_e4):
    px = float(f"{px_e4 // 10_000}.{px_e4 % 10_000:04d}")
    events = events_of({"bid_px": EMPTY, "bid_sz": 0, "ask_px": px})
    assert events.ask_px_e4[0] == px_e4


def test_letters_that_are_an_action():
    known = {chr(code): ACTION_OF_LETTER[code] for code in range(256) if ACTION_OF_LETTER[code] >= 0}
    assert known == {"A": QUOTE, "C": QUOTE, "M": QUOTE, "T": TRADE, "R": CLEAR}


# --- symbols --------------------------------------------------------------------------------------------------------


def test_two_symbols_and_none_chosen_is_one_clear_error():
    with pytest.raises(FeedError, match=r"several symbols \(AAA, BBB\): choose one with --symbol"):
        Intake(Checker(SECOND_NS)).add(block({"symbol": "AAA"}, {"symbol": "BBB"}))


def test_second_symbol_in_a_later_block_is_the_same_error():
    intake = Intake(Checker(SECOND_NS))
    intake.add(block({"symbol": "BBB"}))
    with pytest.raises(FeedError, match=r"several symbols \(AAA, BBB\)"):
        intake.add(block({"symbol": "AAA", "ts_ns": 200 * SECOND_NS}))


def test_chosen_symbol_is_kept_and_the_others_are_counted():
    intake = Intake(Checker(SECOND_NS), "BBB")
    intake.add(block({"symbol": "AAA"}, {"symbol": "BBB", "bid_sz": 7}, {"symbol": "CCC"}))
    assert (intake.buffer.events().bid_sz.tolist(), intake.other_symbol_rows) == ([7], 2)


def test_symbol_of_a_bad_row_does_not_count():
    intake = Intake(Checker(SECOND_NS))
    intake.add(block({"symbol": "AAA"}, {"symbol": "BBB", "action": "X"}))
    assert (intake.symbol, len(intake.buffer)) == ("AAA", 1)
