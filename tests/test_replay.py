"""The kernel: what can be taken, by hand; its ledger over random days; and a plain-Python replay as oracle."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sor.book import quote_updates
from sor.events import Events
from sor.market import Market
from sor.orders import DEADLINE, FILL_DTYPE, RESET, SHADOW, TAKE, Taken, Terminal, Window
from sor.replay import Schedule, take
from tests.helpers import (
    RULES,
    Fill,
    Row,
    ask,
    assert_same,
    clear,
    events,
    market,
    ns,
    plain_batches,
    plain_take,
    quote,
    random_rows,
    venue_table,
    window,
)

FEES_E6 = {2: 3000, 3: 700, 5: -2000, 9: 3000}
TERMINAL = Terminal(missing_e6=10_020_000)
SEEDS = st.integers(0, 2**32 - 1)


def schedule(*releases: tuple[float, int], **how: object) -> Schedule:
    """Releases of one lane as (second, shares)."""
    clock_ns = np.array([ns(at_s) for at_s, _ in releases])
    return Schedule(clock_ns, np.array([[sz] for _, sz in releases]), **how)


def taken(day: Market, when: Window, plan: Schedule, *, rule: int = SHADOW, **how: object) -> Taken:
    return take(day.updates, day.usable, day.fees_e6, when, plan, TERMINAL, rule=rule, **how)


def fills(result: Taken) -> list[tuple[int, float, int]]:
    """(venue index, price, shares) of every fill of lane 0."""
    return [(fill.venue, fill.px_e4 / 1e4, fill.sz) for fill in (Fill(*row) for row in result.fills.tolist())]


# --- worked by hand -----------------------------------------------------------------------------------------------------


def test_sweep_at_a_release_takes_the_cheapest_after_fees_first():
    day = market(ask(0, 2, 10.000, 300), ask(0, 3, 10.002, 300), fees_e6=FEES_E6)
    result = taken(day, window(0, 9), schedule((1, 400)))
    # 10.002 + 0.0007 is cheaper than 10.000 + 0.003
    assert fills(result) == [(1, 10.002, 300), (0, 10.0, 100)]
    assert result.cash_e6[0] == 300 * 10_002_000 + 100 * 10_000_000
    assert result.fees_e6[0] == 300 * 700 + 100 * 3000
    assert (result.filled_sz[0], result.swept_sz[0], result.priced_sz[0]) == (400, 0, 0)


def test_fills_carry_the_time_of_the_decision_the_venue_and_the_price():
    day = market(ask(0, 2, 10.0, 100), ask(4, 3, 10.01, 300))
    result = taken(day, window(0, 9), schedule((1, 300), persistent=True))
    assert result.fills.dtype == FILL_DTYPE
    assert result.fills.tolist() == [(ns(1), 0, 100_000, 100, False), (ns(4), 1, 100_100, 200, False)]


def test_displayed_size_is_taken_once_however_often_it_is_sent_again():
    day = market(*(ask(at_s, 2, 10.0, 100) for at_s in range(6)))
    result = taken(day, window(0, 5), schedule((0, 500), persistent=True))
    assert fills(result) == [(0, 10.0, 100)]
    assert (result.filled_sz[0], result.swept_sz[0], result.priced_sz[0]) == (100, 0, 400)


def test_reset_rule_makes_every_update_fresh():
    day = market(*(ask(at_s, 2, 10.0, 100) for at_s in range(6)))
    result = taken(day, window(0, 5), schedule((0, 500), persistent=True), rule=RESET)
    assert fills(result) == [(0, 10.0, 100)] * 5


def test_only_the_increase_over_what_was_taken_is_new():
    sizes = [100, 250, 150, 200, 40, 100]  # taken 100; +150; shrinks to 150: all ours; +50; shrinks to 40; +60
    day = market(*(ask(at_s, 2, 10.0, sz) for at_s, sz in enumerate(sizes)))
    result = taken(day, window(0, 5), schedule((0, 1000), persistent=True), sweep=False)
    assert [sz for *_, sz in fills(result)] == [100, 150, 50, 60]


def test_return_to_an_earlier_price_counts_as_new():
    day = market(ask(0, 2, 10.0, 100), ask(1, 2, 10.01, 100), ask(2, 2, 10.0, 100))
    result = taken(day, window(0, 5), schedule((0, 1000), persistent=True), sweep=False)
    assert fills(result) == [(0, 10.0, 100), (0, 10.01, 100), (0, 10.0, 100)]


@pytest.mark.parametrize("gone", [clear(1, 2), quote(1, 2, 1.0, 1, 0.0, 0)])
def test_venue_that_left_and_came_back_is_new(gone: Row):
    day = market(ask(0, 2, 10.0, 100), ask(0, 3, 10.5, 1), gone, ask(2, 2, 10.0, 100))
    result = taken(day, window(0, 5), schedule((0, 201), persistent=True), sweep=False)
    assert fills(result) == [(0, 10.0, 100), (1, 10.5, 1), (0, 10.0, 100)]


def test_venue_that_left_sells_nothing():
    day = market(ask(0, 2, 10.0, 100), ask(0, 3, 10.5, 300), quote(1, 2, 9.0, 100, 0.0, 0))
    assert fills(taken(day, window(0, 5), schedule((2, 200)))) == [(1, 10.5, 200)]


def test_nothing_is_bought_on_a_crossed_book():
    crossed = quote(0, 3, 10.02, 100, 10.03, 100)
    day = market(ask(0, 2, 10.0, 500), crossed, quote(3, 3, 10.0, 100, 10.03, 100))
    result = taken(day, window(0, 5), schedule((1, 100), (2, 100), persistent=True))
    assert result.fills.tolist() == [(ns(3), 0, 100_000, 200, False)]  # locked from second 3 on: traded


def test_nothing_is_bought_on_a_book_without_bids():
    day = market(quote(0, 2, 0.0, 0, 10.0, 100), ask(2, 3, 10.1, 100))
    result = taken(day, window(0, 5), schedule((1, 100), persistent=True))
    assert result.fills["ts_ns"].tolist() == [ns(2)]


def test_release_sees_the_whole_batch_of_its_own_moment_and_nothing_later():
    day = market(ask(0, 2, 10.0, 100), ask(1, 2, 10.5, 100), ask(1, 2, 10.2, 100), ask(2, 2, 9.0, 100))
    assert fills(taken(day, window(0, 5), schedule((1, 100)))) == [(0, 10.2, 100)]


def test_what_a_slice_leaves_moves_on_to_the_next():
    day = market(ask(0, 2, 10.0, 100), ask(2, 2, 10.5, 500))
    result = taken(day, window(0, 5), schedule((1, 300), (3, 50)))
    assert result.fills.tolist() == [(ns(1), 0, 100_000, 100, False), (ns(3), 0, 105_000, 250, False)]


def test_best_only_takes_one_venue_at_a_time_and_never_a_dearer_one():
    day = market(
        ask(0, 2, 10.0, 100), ask(0, 3, 10.0, 100), ask(0, 5, 10.1, 500), ask(1, 5, 10.1, 500), ask(2, 5, 9.9, 90)
    )
    result = taken(day, window(0, 3), schedule((0, 400), persistent=True, best_only=True), sweep=False)
    # of equals the later; the second at the next batch; 10.10 is never the best
    assert result.fills.tolist() == [
        (ns(0), 1, 100_000, 100, False),
        (ns(1), 0, 100_000, 100, False),
        (ns(2), 2, 99_000, 90, False),
    ]


def test_whole_lots_skip_odd_remainders_where_lots_suffice():
    day = market(ask(0, 2, 10.0, 150), ask(0, 3, 10.1, 300))
    assert fills(taken(day, window(0, 3), schedule((0, 300), lot_sz=100))) == [(0, 10.0, 100), (1, 10.1, 200)]


@pytest.mark.parametrize(("size", "expected"), [(350, [150, 200]), (400, [150, 250]), (600, [150, 350])])
def test_single_shares_where_lots_do_not_suffice(size: int, expected: list[int]):
    # 350 is no whole number of lots; 400 is, and 100 + 300 would do; 600 exceeds what is shown
    day = market(ask(0, 2, 10.0, 150), ask(0, 3, 10.1, 350))
    got = [sz for *_, sz in fills(taken(day, window(0, 3), schedule((0, size), lot_sz=100), sweep=False))]
    assert got == ([100, 300] if size == 400 else expected)


def test_deadline_sweep_completes_the_order_on_the_book():
    day = market(ask(0, 2, 10.0, 100), ask(0, 3, 11.0, 500))
    result = taken(day, window(0, 5), schedule((0, 300), best_only=True, persistent=True))
    assert result.fills.tolist() == [(ns(0), 0, 100_000, 100, TAKE), (ns(5), 1, 110_000, 200, DEADLINE)]
    assert (result.filled_sz[0], result.swept_sz[0], result.priced_sz[0]) == (100, 200, 0)


@pytest.mark.parametrize("shown_sz", [500, 0])
def test_shares_nowhere_on_the_book_cost_the_terminal_price_whatever_was_swept(shown_sz: int):
    day = market(ask(0, 2, 10.0, 100), ask(0, 3, 11.0, 500 if shown_sz else 1), fees_e6=FEES_E6)
    result = taken(day, window(0, 5), schedule((0, 1000), best_only=True, persistent=True))
    swept_sz = shown_sz or 1
    assert (result.filled_sz[0], result.swept_sz[0], result.priced_sz[0]) == (100, swept_sz, 900 - swept_sz)
    assert result.priced_e6[0] == (900 - swept_sz) * 10_020_000


def test_without_the_sweep_shares_stay_unfilled_and_cost_nothing():
    day = market(ask(0, 2, 10.0, 100))
    result = taken(day, window(0, 5), schedule((0, 300)), sweep=False)
    assert (result.filled_sz[0], result.swept_sz[0], result.priced_sz[0], result.total_e6[0]) == (
        100,
        0,
        0,
        100 * 10**7,
    )


def test_lanes_are_independent():
    day = market(ask(0, 2, 10.0, 100), ask(2, 2, 10.0, 180), ask(4, 3, 10.2, 500))
    lanes = Schedule(np.array([ns(1)]), np.array([[100, 40, 1000]]), persistent=True)
    result = taken(day, window(0, 5), lanes)
    # lane 1 takes 40 of 100 at once; lane 2 100, then the 80 that are new, then 500 at 10.20
    assert result.cash_e6.tolist() == [100 * 10**7, 40 * 10**7, 180 * 10**7 + 500 * 10_200_000]
    assert result.priced_sz.tolist() == [0, 0, 320]
    assert fills(result) == [(0, 10.0, 100)]  # of lane 0 alone


def test_fills_beyond_the_first_buffer_are_all_kept():
    day = market(*(ask(at_s, 2, 10.0 + at_s % 2 / 100, 1) for at_s in range(5_000)))
    result = taken(day, window(0, 5_000), schedule((0, 10_000), persistent=True))
    assert len(result.fills) == 5_000
    assert result.fills["sz"].sum() == result.filled_sz[0]


def test_fills_are_not_recorded_unless_asked_for():
    day = market(ask(0, 2, 10.0, 100))
    assert len(taken(day, window(0, 5), schedule((0, 100)), record=False).fills) == 0


def test_window_that_begins_before_the_first_quote_waits_for_it():
    day = market(ask(3, 2, 10.0, 100))
    assert taken(day, window(0, 5), schedule((0, 100), persistent=True)).fills["ts_ns"].tolist() == [ns(3)]
    assert taken(day, window(0, 2), schedule((0, 100))).priced_sz[0] == 100


# --- random days --------------------------------------------------------------------------------------------------------

HOWS = (
    {},
    {"persistent": True},
    {"best_only": True},
    {"persistent": True, "best_only": True},
    {"lot_sz": 100},
    {"persistent": True, "lot_sz": 100},
    {"persistent": True, "lot_sz": 3},
)


def random_case(seed: int, lanes: int, *, disorder: bool = True) -> tuple[list[Row], Window, Schedule]:
    draw = random.Random(seed)
    rows = [ask(-1, 2, 10.0, 100), *random_rows(draw, draw.randrange(2, 60), disorder=disorder)]
    last_s = max(row.at_s for row in rows)
    start_s = draw.choice((0, 0, draw.uniform(0, last_s)))
    when = window(start_s, start_s + draw.uniform(0.5, last_s + 2))
    clock = sorted(draw.uniform(start_s, (when.end_ns - ns(0)) / 1e9) for _ in range(draw.randrange(1, 6)))
    clock[0] = draw.choice((start_s, clock[0]))
    clock_ns = np.array([ns(round(at_s)) if ns(round(at_s)) >= when.start_ns else ns(at_s) for at_s in clock])
    clock_ns = np.minimum(np.sort(clock_ns), when.end_ns)
    sizes = [[draw.choice((0, 1, 50, 100, 130, 300, 1000)) for _ in range(lanes)] for _ in clock_ns]
    return rows, when, Schedule(clock_ns, np.array(sizes), **draw.choice(HOWS))


@given(SEEDS, st.sampled_from(RULES))
@settings(max_examples=1000, deadline=None)
def test_every_code_path_fills_like_the_plain_replay(seed: int, rule: int):
    rows, when, plan = random_case(seed, lanes=seed % 3 + 1)
    day, table = market(*rows, fees_e6=FEES_E6), venue_table(FEES_E6)
    result = taken(day, when, plan, rule=rule)
    unrecorded = taken(day, when, plan, rule=rule, record=False)
    for lane in range(plan.release_sz.shape[1]):
        plain = plain_take(events(*rows), table, when, plan, TERMINAL, rule=rule, lane=lane)
        assert_same(result, plain, lane)
        assert_same(unrecorded, plain, lane, fills=False)


@given(SEEDS, st.sampled_from(RULES))
@settings(max_examples=150, deadline=None)
def test_ledger_adds_up_to_the_micro_dollar_and_every_share_is_accounted_for(seed: int, rule: int):
    rows, when, plan = random_case(seed, lanes=2)
    day = market(*rows, fees_e6=FEES_E6)
    result = taken(day, when, plan, rule=rule)
    book = result.fills
    paid = (book["sz"].astype(np.int64) * (book["px_e4"].astype(np.int64) * 100 + day.fees_e6[book["venue"]])).sum()
    assert paid + result.priced_e6[0] == result.total_e6[0]
    assert (result.filled_sz + result.swept_sz + result.priced_sz).tolist() == plan.release_sz.sum(axis=0).tolist()
    assert book["sz"].sum() == result.filled_sz[0] + result.swept_sz[0]
    assert book["sz"][book["kind"] == DEADLINE].sum() == result.swept_sz[0]
    assert (book["sz"] > 0).all()
    assert ((book["ts_ns"] >= when.start_ns) & (book["ts_ns"] <= when.end_ns)).all()
    assert (np.diff(book["ts_ns"]) >= 0).all()


@given(SEEDS)
@settings(max_examples=150, deadline=None)
def test_no_more_is_taken_of_a_spell_than_its_first_size_and_every_increase(seed: int):
    rows, when, plan = random_case(seed, lanes=1, disorder=False)
    day = market(*rows, fees_e6=FEES_E6)
    capacity, spell_at = spells(events(*rows), when)
    for at_ns, v, _, sz, _ in taken(day, when, plan).fills.tolist():
        spell = max(start_ns for start_ns in spell_at[v] if start_ns <= at_ns)
        capacity[v, spell] -= sz
    assert min(capacity.values(), default=0) >= 0


def spells(day: Events, when: Window) -> tuple[dict[tuple[int, int], int], dict[int, list[int]]]:
    """Shares that can be taken of each spell as {(venue, start): shares}, and when the spells of each venue start."""
    capacity: dict[tuple[int, int], int] = {}
    spell_at: dict[int, list[int]] = {}
    last: dict[int, tuple[int, int]] = {}
    for at_ns, batch in plain_batches(day, venue_table().routable(day.publisher_ids)):
        for v, (*_, px, sz) in batch.items():
            old_px, old_sz = last.get(v, (-1, 0))
            if px != old_px:
                spell_at.setdefault(v, []).append(at_ns)
            key = v, spell_at[v][-1]
            first = px != old_px or at_ns <= when.start_ns
            capacity[key] = sz if first else capacity[key] + max(sz - old_sz, 0)
            last[v] = px, sz
    return capacity, spell_at


@given(SEEDS, st.sampled_from(RULES))
@settings(max_examples=60, deadline=None)
def test_a_lane_fares_the_same_alone_and_among_a_hundred(seed: int, rule: int):
    rows, when, plan = random_case(seed, lanes=1)
    day = market(*rows, fees_e6=FEES_E6)
    others = np.random.default_rng(seed).integers(0, 500, (len(plan.clock_ns), 99))
    alone = taken(day, when, plan, rule=rule)
    among = taken(day, when, replace(plan, release_sz=np.hstack([plan.release_sz, others])), rule=rule)
    assert among.total_e6[0] == alone.total_e6[0]
    assert among.fills.tolist() == alone.fills.tolist()


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_dark_venues_and_trades_change_no_fill(seed: int):
    rows, when, plan = random_case(seed, lanes=1)
    day = market(*rows, fees_e6=FEES_E6)
    lit = quote_updates(events(*rows), venue_table().routable(day.updates.publisher_ids))
    assert set(lit.venue.tolist()) <= {v for v, pid in enumerate(lit.publisher_ids) if pid != 17}
    dark_at = day.updates.publisher_ids.index(17) if 17 in day.updates.publisher_ids else -1
    assert dark_at not in taken(day, when, plan).fills["venue"]
