"""The strategies: their schedules by hand, what every one of them owes, and the trial's allocator at one snapshot."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator import Venue, plan
from sor import feed, policies
from sor import market as markets
from sor.events import Checker, Events, Intake
from sor.market import Market
from sor.orders import Order, slice_starts, whole_shares
from sor.policies import POLICIES
from sor.replay import SHADOW, Window
from sor.venues import parse_venues
from tests.helpers import (
    RULES,
    Row,
    ask,
    assert_same,
    events,
    market,
    ns,
    plain_take,
    random_rows,
    trade,
    venue_table,
    window,
)

FEES_E6 = {2: 3000, 3: 700, 5: -2000, 9: 3000}
ROOT = Path(__file__).parents[1]
SEEDS = st.integers(0, 2**32 - 1)
TAKERS = [name for name, policy in POLICIES.items() if policy.schedule]
MINUTE_NS = 60 * 10**9


def order(size: int, end_s: float, slice_s: float = 60, **how: object) -> Order:
    return Order(size, window(0, end_s), round(slice_s * 1e9), **how)


def releases(name: str, day: Market, wanted: Order) -> list[int]:
    return POLICIES[name].schedule(day, wanted).release_sz[:, 0].tolist()


def fills(name: str, day: Market, wanted: Order) -> list[tuple[float, int, float, int, bool]]:
    """(second, venue index, price, shares, at deadline)."""
    rows = policies.run(name, day, wanted).fills.tolist()
    return [((at - ns(0)) / 1e9, venue, px / 1e4, sz, late) for at, venue, px, sz, late in rows]


# --- slices -------------------------------------------------------------------------------------------------------------


def test_slices_start_every_minute_and_the_last_may_be_shorter():
    starts = slice_starts(order(100, 150))
    assert ((starts - ns(0)) // 10**9).tolist() == [0, 60, 120]


def test_whole_shares_of_a_thousand_in_three_thirds():
    assert whole_shares(np.ones(3), 1000).tolist() == [333, 334, 333]  # running 333.3, 666.7, 1000


def test_whole_shares_of_fewer_shares_than_slices():
    assert whole_shares(np.ones(4), 2).tolist() == [1, 0, 1, 0]  # running .5, 1, 1.5, 2


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=400).filter(any), st.integers(1, 2 * 10**9))
@settings(max_examples=200, deadline=None)
def test_whole_shares_add_up_exactly_and_are_a_share_off_at_most(weights: list[float], size: int):
    parts = whole_shares(np.array(weights), size)
    assert parts.sum() == size
    assert parts.min() >= 0
    exact = np.cumsum(weights) / sum(weights) * size
    assert np.abs(np.cumsum(parts) - exact).max() <= 0.5 + 1e-6 * size**0.5


# --- each strategy by hand ----------------------------------------------------------------------------------------------


def test_best_ask_takes_the_one_cheapest_venue_of_every_batch():
    day = market(
        ask(0, 2, 10.0, 100), ask(0, 3, 10.1, 500), ask(1, 2, 10.2, 50), ask(2, 2, 10.05, 80), ask(9, 2, 11, 1)
    )
    assert fills("best_ask", day, order(690, 5)) == [
        (0, 0, 10.0, 100, False),
        (1, 1, 10.1, 500, False),
        (2, 0, 10.05, 80, False),
    ]  # the 10 missing at second 5 are nowhere on the book


def test_allocate_takes_the_whole_display_at_once():
    day = market(ask(0, 2, 10.0, 100), ask(0, 3, 10.1, 500), ask(2, 2, 10.05, 80), ask(9, 2, 11, 1))
    assert fills("allocate", day, order(640, 5)) == [
        (0, 0, 10.0, 100, False),
        (0, 1, 10.1, 500, False),
        (2, 0, 10.05, 40, False),
    ]


def test_twap_buys_equal_slices_and_catches_up():
    day = market(ask(0, 2, 10.0, 20), ask(100, 2, 10.1, 500), ask(300, 2, 10.1, 500))
    assert fills("twap", day, order(90, 180)) == [(0, 0, 10.0, 20, False), (120, 0, 10.1, 70, False)]


def test_vwap_of_the_past_expects_the_volume_of_the_slice_before():
    rows = [
        ask(0, 2, 10.0, 1),
        trade(10, 2, 300),
        trade(70, 2, 100),
        trade(130, 2, 999),
        trade(239, 2, 7),
        ask(240, 2, 10, 1),
    ]
    # slice 0: nothing known, 1/4 of 1000. Slice 1: 300 now, 300 in each of 2 later: 1/3 of 750.
    # slice 2: 100 now, (300 + 100) / 2 in one later: 1/3 of 500 = 166.7. Slice 3: the rest
    assert releases("vwap", market(*rows), order(1000, 240)) == [250, 250, 167, 333]


def test_vwap_of_the_day_goes_by_what_is_traded_in_each_slice():
    rows = [
        ask(0, 2, 10.0, 1),
        trade(0, 2, 30),
        trade(59.9, 2, 70),
        trade(60, 2, 100),
        trade(180, 2, 5000),
        ask(240, 2, 10, 1),
    ]
    assert releases("vwap", market(*rows), order(1000, 180, volume="day")) == [500, 500, 0]


def test_vwap_of_a_day_without_volume_in_the_window_is_twap():
    day = market(trade(-50, 2, 100), ask(0, 2, 10.0, 1), ask(240, 2, 10, 1), trade(300, 2, 10))
    for volume in ("past", "day"):
        assert releases("vwap", day, order(1000, 240, volume=volume)) == [250, 250, 250, 250]


def test_volume_before_the_order_does_not_count():
    rows = [ask(0, 2, 10.0, 1), trade(10, 2, 300), trade(70, 2, 100), ask(180, 2, 10, 1)]
    early = [trade(-4000, 2, 1), trade(-30, 2, 90_000)]
    wanted = order(1000, 180)
    assert releases("vwap", market(*early, *rows), wanted) == releases("vwap", market(*rows), wanted)


def test_vwap_without_trades_goes_by_displayed_size():
    day = market(ask(0, 2, 10.0, 100), ask(60, 2, 10.0, 300), ask(120, 2, 10.0, 600), ask(180, 2, 10, 1))
    assert not day.has_trades
    # 100 now and 100 in each of 2 later: 1/3; 300 now and 200 later: 3/5 of 667; the rest
    assert releases("vwap", day, order(1000, 180)) == [333, 400, 267]
    assert releases("vwap", day, order(1000, 180, volume="day")) == [100, 300, 600]


def test_small_order_is_not_put_off_by_rounding():
    day = market(ask(0, 2, 10.0, 1), *(trade(at_s, 2, 100) for at_s in range(0, 2400, 60)), ask(2400, 2, 10, 1))
    running = np.cumsum(releases("vwap", day, order(4, 2400)))
    assert running[[0, 9, 19, 29, 39]].tolist() == [0, 1, 2, 3, 4]


@given(SEEDS, st.integers(1, 9), st.booleans())
@settings(max_examples=120, deadline=None)
def test_vwap_of_the_past_uses_no_future(seed: int, upto: int, trades: bool):
    draw = random.Random(seed)
    rows = [ask(0, 2, 10.0, 100)]
    for at_s in range(0, 600, 20):
        rows.append(ask(at_s, 2, 10.0, draw.randrange(1, 500)))
        rows += [trade(at_s + 1, 2, draw.randrange(1, 500))] * trades
    changed = [row if row.at_s <= upto * 60 else other(row, draw) for row in rows]
    before, after = (releases("vwap", market(*some), order(5000, 600)) for some in (rows, changed))
    assert before[: upto + 1] == after[: upto + 1]
    assert sum(before) == sum(after) == 5000
    assert min(before) >= 0


def other(row: Row, draw: random.Random) -> Row:
    """The same row with other sizes."""
    return row._replace(
        ask_sz=row.ask_sz and draw.randrange(1, 9_000), trade_sz=row.trade_sz and draw.randrange(1, 9_000)
    )


def test_every_strategy_is_a_plain_function_of_events():
    day, table = events(ask(0, 2, 10.0, 100), ask(60, 2, 10.2, 500), ask(130, 2, 10.2, 500)), venue_table({2: 10_000})
    wanted = order(200, 120)
    assert policies.best_ask(day, table, wanted) == pytest.approx((100 * 10.01 + 100 * 10.21, 10.11), rel=1e-12)
    assert policies.twap(day, table, wanted) == pytest.approx((100 * 10.01 + 100 * 10.21, 10.11), rel=1e-12)
    assert policies.vwap(day, table, wanted) == policies.twap(day, table, wanted)  # nothing traded: equal display
    assert policies.run("twap", markets.build(day, table), wanted).total_e6.tolist() == [2_022_000_000]


# --- what every strategy owes -------------------------------------------------------------------------------------------


def random_order(seed: int, rule: int = SHADOW) -> tuple[list[Row], Order]:
    draw = random.Random(seed)
    rows = [ask(-1, 2, 10.0, 100), *random_rows(draw, draw.randrange(5, 60))]
    size = draw.choice((1, 90, 100, 300, 1000, 1234, 5000))
    slice_s, penalty_px = draw.choice((1, 7, 30)), draw.choice((None, 0.0, 0.07))
    end_s = draw.uniform(1, max(row.at_s for row in rows) + 5)
    return rows, order(size, end_s, slice_s, volume=draw.choice(("past", "day")), penalty_px=penalty_px, rule=rule)


@given(SEEDS, st.sampled_from(RULES), st.sampled_from(TAKERS))
@settings(max_examples=800, deadline=None)
def test_every_strategy_trades_like_the_plain_replay_and_buys_the_whole_order(seed: int, rule: int, name: str):
    rows, wanted = random_order(seed, rule)
    day, table = market(*rows, fees_e6=FEES_E6), venue_table(FEES_E6)
    schedule = POLICIES[name].schedule(day, wanted)
    taken = policies.execute_at_once(day, wanted, schedule)
    terminal = markets.terminal(day, wanted.window, wanted.penalty_px)
    plain = plain_take(events(*rows), table, wanted.window, schedule, terminal, rule=rule)
    assert_same(taken, plain)
    assert taken.filled_sz[0] + taken.swept_sz[0] + taken.priced_sz[0] == wanted.size
    assert schedule.release_sz.sum() == wanted.size
    paid = sum(fill.sz * (fill.px_e4 * 100 + int(day.fees_e6[fill.venue])) for fill in plain.fills)
    assert paid + int(taken.priced_e6[0]) == taken.total_e6[0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", TAKERS)
def test_every_strategy_trades_like_the_plain_replay_on_the_shipped_day(shipped: Events, name: str, rule: int):
    table = parse_venues((ROOT / "sor" / "venues.toml").read_text(encoding="utf-8"))
    day = markets.build(shipped, table)
    wanted = Order(5000, Window(int(shipped.ts_ns[3_000]), int(shipped.ts_ns[-1])), rule=rule)
    schedule = POLICIES[name].schedule(day, wanted)
    terminal = markets.terminal(day, wanted.window, None)
    plain = plain_take(shipped, table, wanted.window, schedule, terminal, rule=rule)
    assert_same(policies.execute_at_once(day, wanted, schedule), plain)
    assert len(plain.fills) > 1


@pytest.fixture(scope="module")
def shipped() -> Events:
    """The first 10,000 rows of the day that comes with the project."""
    intake = Intake(Checker(10**9))
    feed.load(ROOT / "l1_day.csv", intake)
    return intake.buffer.events().slice(0, 10_000)


@given(SEEDS, st.sampled_from(TAKERS))
@settings(max_examples=100, deadline=None)
def test_lanes_of_one_strategy_all_fare_alike(seed: int, name: str):
    rows, wanted = random_order(seed)
    day = market(*rows, fees_e6=FEES_E6)
    alone = policies.run(name, day, wanted)
    many = policies.run(name, day, wanted, ((0.0, 0.0, 0.0),) * 7)
    assert many.total_e6.tolist() == alone.total_e6.tolist() * 7
    assert many.fills.tolist() == alone.fills.tolist()


# --- the trial's allocator at one snapshot ------------------------------------------------------------------------------


@given(SEEDS)
@settings(max_examples=800, deadline=None)
def test_allocate_crosses_one_snapshot_as_the_allocator_splits_it(seed: int):
    draw = random.Random(seed)
    publisher_ids = sorted(draw.sample(range(20, 40), draw.randrange(1, 7)))
    fees_e6 = {each: draw.choice((3000, 3000, 700, -2000, 0)) for each in publisher_ids}
    shown = {
        each: (draw.choice((10.0, 10.0, 10.01, 10.0023, 9.99)), draw.choice((30, 100, 150, 200, 400)))
        for each in fees_e6
    }
    size = draw.choice((100, 200, 500, 1000, 130, 1999))
    rows = [ask(0, each, px, sz) for each, (px, sz) in shown.items()]
    draw.shuffle(rows)
    day = market(*rows, fees_e6=fees_e6)
    taken = policies.execute_at_once(
        day, order(size, 1), POLICIES["allocate"].schedule(day, order(size, 1)), sweep=False
    )
    offers = [Venue(*shown[each], fees_e6[each] / 1e6, 0.0) for each in publisher_ids]
    account = plan(size, offers, 0.4, 0.6, 0.3, reserve=0.0)
    split = np.bincount(taken.fills["venue"], taken.fills["sz"], len(offers)).astype(int)
    assert tuple(split) == account.split
    assert taken.filled_sz[0] == account.executed
    missing = account.shortfall * (0.6 + 0.3)
    assert (taken.cash_e6[0] + taken.fees_e6[0]) / 1e6 == pytest.approx(account.cost - missing, abs=1e-6)


def test_ties_go_to_the_later_venue_as_in_the_trial():
    day = market(ask(0, 2, 10.0, 200), ask(0, 3, 10.0, 200), ask(0, 5, 10.0, 200), ask(5, 2, 10, 200))
    assert [(venue, sz) for _, venue, _, sz, _ in fills("allocate", day, order(300, 1))] == [(2, 200), (1, 100)]
    assert plan(300, [Venue(10.0, 200, 0, 0)] * 3, 0.4, 0.6, 0.3).split == (0, 100, 200)
