"""The policies that also queue: by hand, then what holds of every policy on any day, then against the plain replay.

Times of days written by hand are seconds after T0_NS, prices 1e-4 USD: BID is 99.99 USD, ASK 100.00 USD. In a note like
"ahead 100 -> 40" the first number is the shares before an order, the second those after the event.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sor import feed, policies, routing
from sor import market as markets
from sor.clairvoyant import clairvoyant
from sor.events import TRADE, Checker, Events, Intake
from sor.market import Market
from sor.orders import (
    AT_DEADLINE,
    DEADLINE,
    LIMIT,
    REJECTED,
    SHADOW,
    SHORT,
    SLICE_COMPLETE,
    SLICE_OVER,
    TAKE,
    Order,
    Taken,
    Window,
    slice_starts,
    whole_shares,
)
from sor.placement.many import place_many
from sor.policies import POLICIES, Policy
from sor.queue import Flows
from sor.venues import parse_venues
from tests import routing_oracle as oracle
from tests.routing_oracle import RULES, T0_NS, UNIT_NS, Day, Print, Quote
from tests.test_execution import assert_same, assert_same_children

SEEDS = st.integers(0, 10**6)
TAKERS = [name for name, policy in POLICIES.items() if policy.schedule]
QUEUERS = [name for name, policy in POLICIES.items() if policy.place]
TRIPLES = ((0.02, 0.03, 0.0005), (0.0, 0.05, 0.0), (0.03, 0.008, 0.002), (0.02, 0.03, 0.0005), (0.0, 0.0, 0.0))
COSTS = [
    "cash_e6", "fees_e6", "rebates_e6", "filled_sz", "passive_sz", "posted_sz", "swept_sz", "priced_sz", "priced_e6",
    "surplus_sz", "surplus_e6", "total_e6",
]  # fmt: skip
SECOND_NS = 10**9
BID, ASK, TICK = 999_900, 1_000_000, 100
ROOT = Path(__file__).parents[1]


# --- markets and runs ---------------------------------------------------------------------------------------------------


def quote(
    at_s: float, venue: int = 0, *, bid: int = BID, bid_sz: int = 100, ask: int = ASK, ask_sz: int = 100
) -> Quote:
    return Quote(ns(at_s), venue, bid, bid_sz, ask, ask_sz)


def sell(at_s: float, sz: int, px: int = BID, venue: int = 0) -> Print:
    return Print(ns(at_s), venue, px, sz)


def traded_before() -> Print:
    """A trade before the order, above every limit price: the feed has trades, and nothing comes of this one."""
    return sell(-11, 1, ASK + 9 * TICK)


def ns(at_s: float) -> int:
    return T0_NS + round(at_s * SECOND_NS)


def order(size: int, end_s: float, slice_s: float = 10, start_s: float = 0, **how: object) -> Order:
    """An order whose past intervals begin every second."""
    how = {"scenario_step_ns": SECOND_NS, **how}
    return Order(size, Window(ns(start_s), ns(end_s)), round(slice_s * SECOND_NS), **how)


def market_of(day: Day) -> Market:
    built = markets.build(oracle.events_of(day), oracle.venue_table_of(day))
    return replace(built, latency_ns=np.array(day.latency_ns, np.int64))


def buy(
    policy: str | routing.Rule, market: Market, wanted: Order, triples: routing.Triples = TRIPLES[:1], *, fewest: int = 1,
    **how: object,
) -> Taken:  # fmt: skip
    """Run a policy by its name, or a placement rule; it queues with few scenarios already: small days have no fifty."""
    name = policy if isinstance(policy, str) else "a rule of this test"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "FEWEST_SCENARIOS", fewest)
        patch.setitem(POLICIES, "a rule of this test", Policy(place=policy))
        return policies.run(name, market, wanted, triples, **how)


def everywhere(moment: routing.Moment, slice_sz: int, triples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A placement rule that buys too much when it can: the whole slice at every venue, nothing to market."""
    limit_sz = np.repeat((moment.market.routable * slice_sz)[:, None], len(triples), axis=1)
    return np.zeros(len(triples), np.int64), limit_sz


class Fill(NamedTuple):
    """A fill as recorded."""

    ts_ns: int
    venue: int
    px_e4: int
    sz: int
    kind: int


def fills_of(taken: Taken, *kinds: int) -> list[Fill]:
    fills = [Fill(*row) for row in taken.fills.tolist()]
    return [fill for fill in fills if not kinds or fill.kind in kinds]


def timed(taken: Taken, *kinds: int) -> list[tuple[float, int, int, int]]:
    """(second, venue, price, shares) of the fills."""
    return [((fill.ts_ns - T0_NS) / SECOND_NS, *fill[1:4]) for fill in fills_of(taken, *kinds)]


def children_of(taken: Taken, *kinds: int) -> list[np.void]:
    return [child for child in taken.children if child["kind"] in kinds]


def placed(name: str, moment: routing.Moment, slice_sz: int, triple: tuple[float, float, float]) -> tuple[int, list]:
    """Shares to market and to post, of one lane."""
    market_sz, limit_sz = POLICIES[name].place(moment, slice_sz, np.array([triple]))
    return int(market_sz[0]), limit_sz[:, 0].tolist()


# --- the rules by hand --------------------------------------------------------------------------------------------------


def moment_of(
    fill_sz: list[list[int]],
    moved_px: list[float] | None = None,
    *,
    ask_px_e4: tuple[int, ...] = (),
    ask_sz: tuple[int, ...] = (),
    weight: float = 0.0,
    **venues: list,
) -> routing.Moment:
    """A slice begins with these past intervals; half spread 0.005 USD, every venue shows 1,000 at ASK unless said otherwise."""
    count = len(fill_sz)
    market = market_of(oracle.make_day([quote(0, venue) for venue in range(count)], [], **venues))
    recent = Flows(
        np.arange(len(fill_sz[0])), np.array(fill_sz, np.int32), np.array(moved_px or [0.0] * len(fill_sz[0]))
    )
    shown = [np.array(each, np.int32) for each in (ask_px_e4 or (ASK,) * count, ask_sz or (1000,) * count)]
    return routing.Moment(market, order(100, 10, adverse_weight=weight), ns(0), *shown, 0.005, recent)


TENS = [list(range(0, 100, 10))]  # one venue filled 0, 10, ... 90 in ten intervals
TRIPLE = (0.02, 0.02, 0.0005)  # lambda_over, lambda_under, theta_queue
FEE = {"fees_e6": [3000]}


def test_router_posts_the_quantile_of_the_flow_at_one_venue():
    """MATH 1.2: q = (2 h + f + r) / (lambda_under + h + r + theta) = .015 / .0275 = .545; six in ten flows are <= 50."""
    assert placed("router", moment_of(TENS, rebates_e6=[2000], **FEE), 100, TRIPLE) == (50, [50])


def test_router_posts_less_where_a_fill_costs_a_fee():
    """An inverted venue, r = -.001: q = .012 / .0245 = .490; five in ten flows are <= 40."""
    assert placed("router", moment_of(TENS, rebates_e6=[-1000], **FEE), 100, TRIPLE) == (60, [40])


def test_router_posts_less_where_fills_come_with_falling_mids():
    """The mid fell 2 cents in every interval, a quarter of it counts: r = .002 - .005, q = .010 / .0225 = .444: 40."""
    falling = moment_of(TENS, [-0.02] * 10, weight=0.25, rebates_e6=[2000], **FEE)
    assert placed("router", falling, 100, TRIPLE) == (60, [40])


def test_router_leaves_out_venues_that_never_fill_or_cannot_be_reached():
    how = {"fees_e6": [3000] * 3, "rebates_e6": [2000] * 3, "routable": [True, True, False]}
    assert placed("router", moment_of([TENS[0], [0] * 10, [100] * 10], **how), 100, TRIPLE) == (50, [50, 0, 0])


def test_move_of_the_mid_is_weighted_by_fills_and_bounded():
    """100 at -1 cent and 50 at +2 cents: 0. 10 at -8 cents: bounded at -3. Nothing filled: 0."""
    flow_sz = np.array([[100, 0, 50, 0], [0, 0, 0, 10], [0, 0, 0, 0]])
    moved = routing._mid_move_of_fills(flow_sz, np.array([-0.01, 0.05, 0.02, -0.08]))
    assert moved == pytest.approx([0.0, -routing.MOST_ADVERSE_PX, 0.0], abs=1e-15)


def test_fee_is_the_mean_of_what_a_sweep_of_the_slice_would_pay():
    """By ask plus fee: venue 1 (50 at 100.0007), then 0 (100 at 100.003), then 2 (100.01, free)."""
    how = {"ask_px_e4": (ASK, ASK, ASK + TICK), "ask_sz": (100, 50, 100), "fees_e6": [3000, 700, 0]}
    shown = moment_of([[0]] * 3, **how)
    assert routing.sweep_fee_px(shown, 120) == pytest.approx((50 * 0.0007 + 70 * 0.003) / 120)
    assert routing.sweep_fee_px(shown, 5000) == pytest.approx((50 * 0.0007 + 100 * 0.003) / 250)
    assert routing.sweep_fee_px(replace(shown, ask_px_e4=np.zeros(3, np.int32)), 120) == 0.0


def test_fee_of_venues_that_cost_the_same_is_that_of_the_later_one():
    """100.003 for free and 100.00 plus 0.003: the later venue is swept first, as an order would."""
    tied = moment_of([[0]] * 2, ask_px_e4=(ASK + 30, ASK), ask_sz=(100, 100), fees_e6=[0, 3000])
    assert [routing.sweep_fee_px(tied, size) for size in (100, 200)] == pytest.approx([0.003, 0.0015])


def test_equal_gives_the_rest_to_market_and_nothing_to_venues_it_cannot_reach():
    assert placed("equal", moment_of([[0]] * 4, routable=[True, True, False, True]), 103, TRIPLE) == (
        28,
        [25, 25, 0, 25],
    )
    assert placed("equal", moment_of([[0]] * 4), 4, TRIPLE) == (4, [0, 0, 0, 0])


def test_limit_only_posts_where_most_of_the_slice_was_filled():
    """Cut at 60 shares a slice the second venue filled 60 + 50, the first 60 + 0: of equals the first is taken."""
    assert placed("limit_only", moment_of([[9000, 0], [60, 50]]), 60, TRIPLE) == (0, [0, 60])
    assert placed("limit_only", moment_of([[0, 0], [0, 0]]), 60, TRIPLE) == (0, [60, 0])
    assert placed("limit_only", moment_of([[0], [9]], routable=[True, False]), 60, TRIPLE) == (0, [60, 0])


# --- orders by hand -----------------------------------------------------------------------------------------------------


def test_equal_order_takes_queues_and_completes():
    """90 shares: 30 taken at venue 0, 30 posted at each. 3 s: 60 at venue 1, ahead 50: 10 ours. 4 s: 25 a tick lower: 25."""
    terms = {"fees_e6": [3000, 700], "rebates_e6": [2000, 1500]}
    quotes = [quote(-11), quote(-11, 1, bid_sz=50, ask=ASK + TICK)]
    day = oracle.make_day(quotes, [traded_before(), sell(3, 60, venue=1), sell(4, 25, BID - TICK)], **terms)
    taken = buy("equal", market_of(day), order(90, 10))
    assert timed(taken) == [(0, 0, ASK, 30), (3, 1, BID, 10), (4, 0, BID, 25), (10, 0, ASK, 25)]
    assert taken.cash_e6[0] == 35 * 99_990_000 + 55 * 100_000_000
    assert (taken.fees_e6[0], taken.rebates_e6[0]) == (55 * 3000, 10 * 1500 + 25 * 2000)
    assert (taken.filled_sz[0], taken.passive_sz[0], taken.swept_sz[0], taken.posted_sz[0]) == (65, 35, 25, 60)
    assert taken.total_e6[0] == taken.cash_e6[0] + 165_000 - 65_000


def test_limit_only_order_goes_where_the_past_filled():
    """Before the order 150 traded at venue 1, 50 beyond the 100 ahead. 3 s: 130 there: 30 ours, the other 30 at the deadline."""
    day = oracle.make_day([quote(-20), quote(-20, 1)], [sell(-15, 150, venue=1), sell(3, 130, venue=1)])
    taken = buy("limit_only", market_of(day), order(60, 10))
    assert timed(taken, LIMIT, TAKE) == [(3, 1, BID, 30)]
    assert [child["sz"] for child in children_of(taken, LIMIT)] == [60]
    assert taken.cash_e6[0] == 30 * 99_990_000 + 30 * 100_000_000


def test_inverted_venue_pays_for_the_taker_and_charges_the_maker():
    """Equal, 100 shares: 50 taken with 0.0002 back each, 50 filled passively at 0.0018 each."""
    day = oracle.make_day([quote(-11)], [traded_before(), sell(3, 500)], fees_e6=[-200], rebates_e6=[-1800])
    taken = buy("equal", market_of(day), order(100, 10))
    assert taken.total_e6[0] == 50 * 100_000_000 - 50 * 200 + 50 * 99_990_000 + 50 * 1800


@pytest.mark.parametrize(("catch_up", "second", "last"), [("slice", 50, 25), ("carry", 38, 37)])
def test_what_a_slice_missed_is_swept_at_the_next_or_joins_it(catch_up: str, second: int, last: int):
    """100 in two slices, one venue, half of each posted, no fills. Slice 2: 25 missed + 25 of 50; or 38 of 25 + 50."""
    day = oracle.make_day([quote(-11, ask_sz=1000), quote(30)], [sell(-5, 1)])
    taken = buy("equal", market_of(day), order(100, 20, catch_up=catch_up))
    assert timed(taken) == [(0, 0, ASK, 25), (10, 0, ASK, second), (20, 0, ASK, last)]
    assert [child["sz"] for child in children_of(taken, LIMIT)] == [25, last]


def test_orders_without_limit_orders_until_there_are_fifty_intervals():
    """One interval of 10 s ends every 5 s from 10 s on: 46 by 235 s, 48 by 245 s, 50 by 255 s."""
    quotes = [quote(0, ask_sz=1000), quote(300, ask_sz=1000)]
    wanted = order(80, 275, start_s=235, scenario_step_ns=5 * SECOND_NS)
    taken = policies.run("equal", market_of(oracle.make_day(quotes, [sell(1, 1)])), wanted)
    assert (taken.market_only_slices, taken.posted_sz[0]) == (2, 20)
    assert [at_s for at_s, *_ in timed(taken, TAKE)] == [235, 245, 255, 265]
    assert [child["sent_ns"] for child in children_of(taken, LIMIT)] == [ns(255), ns(265)]


def test_locked_book_refuses_the_limit_order_of_the_venue_that_asks_the_bid():
    """Venue 0 bids what venue 1 asks, 100.00. 30 taken there, 30 queue at venue 0 behind 100, 30 refused; 3 s: 20 ours."""
    quotes = [quote(-11, bid=ASK, ask=ASK + TICK), quote(-11, 1)]
    prints = [traded_before(), sell(3, 120, ASK), sell(3, 120, ASK, venue=1)]
    day = oracle.make_day(quotes, prints)
    taken = buy("equal", market_of(day), order(90, 10))
    assert timed(taken) == [(0, 1, ASK, 30), (3, 0, ASK, 20), (10, 1, ASK, 40)]
    assert [(child["venue"], child["end"]) for child in children_of(taken, LIMIT)] == [(0, AT_DEADLINE), (1, REJECTED)]


def test_slice_that_begins_on_a_crossed_book_sends_nothing_and_cancels():
    """Crossed at 10 s: the orders of slice 1 are cancelled, so 15 s fills none. 20 s: 50 swept, 10 + 10 + 10 placed."""
    quotes = [
        quote(-11, ask_sz=500),
        quote(-11, 1, ask=ASK + TICK),
        quote(9, 1, bid=ASK + TICK, ask=ASK + 2 * TICK),
        quote(12, 1, ask=ASK + TICK),
    ]
    prints = [traded_before(), sell(15, 900, BID - TICK), sell(15, 900, BID - TICK, venue=1)]
    taken = buy("equal", market_of(oracle.make_day(quotes, prints)), order(90, 30))
    assert timed(taken) == [(0, 0, ASK, 10), (20, 0, ASK, 60), (30, 0, ASK, 20)]
    assert (taken.skipped_slices, taken.market_only_slices) == (1, 0)
    ends = [(child["ended_ns"], child["end"]) for child in children_of(taken, LIMIT)]
    assert ends == [(ns(10), SLICE_OVER)] * 2 + [(ns(30), AT_DEADLINE)] * 2


def test_order_of_fewer_shares_than_slices_posts_them_one_by_one():
    """2 shares in 4 slices: 1, 0, 1, 0. What slices 1 and 3 post is not filled, slices 2 and 4 sweep it."""
    market = market_of(oracle.make_day([quote(-11), quote(50)], [sell(-5, 1)]))
    taken = buy("limit_only", market, order(2, 40))
    assert timed(taken) == [(10, 0, ASK, 1), (30, 0, ASK, 1)]
    assert [child["sent_ns"] for child in children_of(taken, LIMIT)] == [ns(0), ns(20)]


@pytest.mark.parametrize("name", QUEUERS)
def test_order_of_one_share_buys_one_share(name: str):
    market = market_of(oracle.make_day([quote(-30), quote(-30, 1)], [sell(-5, 300), sell(3, 300)]))
    taken = buy(name, market, order(1, 40))
    assert taken.fills["sz"].tolist() == [1]
    assert taken.surplus_sz[0] == 0


def both_fill(second_at_s: float, latency_s: float = 0, *, cancel_on_fill: bool = True) -> Taken:
    """50 shares posted at each of two venues: 2 s fills those of venue 0, `second_at_s` could fill those of venue 1."""
    how = {"fees_e6": [3000, 700], "rebates_e6": [2000, 2000], "latency_ns": [0, round(latency_s * SECOND_NS)]}
    prints = [traded_before(), sell(2, 150), sell(second_at_s, 150, venue=1)]
    day = oracle.make_day([quote(-11), quote(-11, 1)], prints, **how)
    return buy(everywhere, market_of(day), order(50, 10, cancel_on_fill=cancel_on_fill))


def test_slice_that_is_complete_cancels_its_other_orders():
    taken = both_fill(4)
    assert timed(taken) == [(2, 0, BID, 50)]
    cancelled = children_of(taken, LIMIT)[1]
    assert (cancelled["ended_ns"], cancelled["end"], cancelled["filled_sz"]) == (ns(2), SLICE_COMPLETE, 0)


def test_queue_of_a_cancelled_order_is_that_of_its_end():
    """Cancelled at 2 s behind 100; what trades at 4 s is none of its business."""
    assert [child["ahead_at_end_sz"] for child in children_of(both_fill(4), LIMIT)] == [0, 100]


def test_without_cancels_a_surplus_is_bought_counted_and_sold():
    """100 bought for 50: the surplus brings the bid less the dearest fee, 99.99 - 0.003."""
    taken = both_fill(4, cancel_on_fill=False)
    assert timed(taken) == [(2, 0, BID, 50), (4, 1, BID, 50)]
    assert (taken.surplus_sz[0], taken.surplus_e6[0]) == (50, 50 * (99_990_000 - 3000))
    assert taken.total_e6[0] == 100 * (99_990_000 - 2000) - taken.surplus_e6[0]


def test_orders_that_fill_in_one_moment_make_a_surplus_in_spite_of_cancels():
    assert both_fill(2).surplus_sz[0] == 50


@pytest.mark.parametrize(("latency_s", "last_s"), [(1, 3), (3, 5)])
def test_cancel_takes_as_long_as_an_order_to_arrive(latency_s: float, last_s: float):
    """Decided at 2 s, when the order already rests at venue 1 or is still on its way there: it dies after 2 s + latency."""
    assert [both_fill(at_s, latency_s).surplus_sz[0] for at_s in (last_s, last_s + 0.5)] == [50, 0]


@pytest.mark.parametrize("name", [*QUEUERS, "twap", "best_ask"])
def test_what_does_not_arrive_in_time_is_bought_at_the_deadline(name: str):
    """11 s on its way, 10 s to go: all 90 are swept, 70 at venue 0, which shows no more, 20 at venue 1."""
    quotes = [quote(-30, ask_sz=70), quote(-30, 1, ask=ASK + TICK)]
    day = oracle.make_day(quotes, [sell(-15, 300), sell(5, 500)], latency_ns=[11 * SECOND_NS] * 2)
    taken = buy(name, market_of(day), order(90, 10, slice_s=12))
    assert timed(taken) == [(10, 0, ASK, 70), (10, 1, ASK + TICK, 20)]
    assert (taken.filled_sz[0], taken.swept_sz[0]) == (0, 90)
    sent = children_of(taken, TAKE, LIMIT)
    assert sent
    assert {(child["filled_sz"], child["ended_ns"], child["end"]) for child in sent} == {(0, ns(10), AT_DEADLINE)}


def test_order_on_its_way_does_not_pay_an_ask_that_became_dearer():
    """Both venues are 3 s away. At 1 s venue 0 asks a tick more, venue 1 half a tick less: 20 of 50 + 20 come."""
    quotes = [quote(-30, ask_sz=50), quote(-30, 1), quote(1, ask=ASK + TICK), quote(1, 1, ask=ASK - TICK // 2)]
    day = oracle.make_day(quotes, [], fees_e6=[0, 100], latency_ns=[3 * SECOND_NS] * 2)
    taken = buy("twap", market_of(day), order(70, 10))
    assert timed(taken, TAKE) == [(3, 1, ASK - TICK // 2, 20)]
    assert taken.swept_sz[0] == 50


def test_order_on_its_way_meets_what_is_left_of_the_size_then():
    """3 s away. Slice 1 takes 60 of 100, slice 2 asks for 40 more; at 11 s 70 are shown, 60 of them taken: 10 come."""
    quotes = [quote(-30), quote(11, ask_sz=70)]
    taken = buy("twap", market_of(oracle.make_day(quotes, [], latency_ns=[3 * SECOND_NS])), order(120, 20))
    assert timed(taken, TAKE) == [(3, 0, ASK, 60), (13, 0, ASK, 10)]
    assert [(child["sz"], child["filled_sz"], child["end"]) for child in children_of(taken, TAKE)][1] == (40, 10, SHORT)


def test_what_arrives_at_the_deadline_still_trades():
    day = oracle.make_day([quote(-30), quote(-30, 1)], [sell(-15, 300)], latency_ns=[10 * SECOND_NS] * 2)
    taken = buy("equal", market_of(day), order(90, 10, slice_s=12))
    assert timed(taken, TAKE) == [(10, 1, ASK, 30)]
    assert taken.swept_sz[0] == 60


# --- the rule against the oracle ----------------------------------------------------------------------------------------


def random_order(seed: int, *, latency: bool = True, **how: object) -> tuple[Day, Market, Order]:
    """A day of one to three venues, one of which may be dark, and an order on it."""
    venues = 1 + seed % 3
    case = oracle.random_case(seed, venues=venues, dark=venues > 1 and seed % 2 > 0, latency=latency)
    how = {"scenario_step_ns": UNIT_NS * (1 + seed % 2), "scenarios": (5, 500)[seed % 5 > 0], **how}
    return case.day, market_of(case.day), Order(case.size, case.window, case.slice_ns, **how)


class Spy:
    """A placement rule that notes what it is asked and what it answers."""

    def __init__(self, rule: routing.Rule) -> None:
        self.rule, self.seen = rule, []

    def __call__(self, moment: routing.Moment, slice_sz: int, triples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answer = self.rule(moment, slice_sz, triples)
        self.seen.append((moment, slice_sz, triples, answer))
        return answer


def placements(seed: int) -> Iterator[tuple]:
    """What the router was asked over a random order of several lanes, what it answered, and the oracle's view of it."""
    day, market, wanted = random_order(seed, scenario_step_ns=3 * UNIT_NS)
    spy = Spy(routing.router)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "FEWEST_SCENARIOS", 1)
        routing.route(spy, market, wanted, TRIPLES, routing.flows_of(market, wanted), sweep=True, record=False)
    flows = oracle.fillable_flows(day, wanted.slice_ns, wanted.scenario_step_ns)
    for moment, slice_sz, triples, answer in spy.seen:
        known = oracle.scenarios_at(flows, wanted.slice_ns, moment.now_ns, wanted.scenarios)
        book = oracle.book_at(day, moment.now_ns)
        yield moment, triples, answer, oracle.Situation(day, moment.now_ns, 0, slice_sz, book, known)


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_router_places_whole_shares_on_the_inputs_of_the_oracle(seed: int):
    for moment, triples, (market_sz, limit_sz), situation in placements(seed):
        size, venues = situation.slice_sz, np.flatnonzero(moment.market.routable)
        inputs = oracle.router_inputs(situation, moment.order.adverse_weight)
        flow_sz = np.array(situation.fillable_sz)[venues]
        moved_px = routing._mid_move_of_fills(np.minimum(moment.recent.fill_sz, size), moment.recent.mid_move_px)
        rebates_px = moment.market.rebates_e6 / 1e6 + moment.order.adverse_weight * moved_px
        assert rebates_px[venues] == pytest.approx(np.array(inputs.rebates_px)[venues], abs=1e-12)
        assert moment.half_spread_px == pytest.approx(inputs.half_spread_px, abs=1e-12)
        assert routing.sweep_fee_px(moment, size) == pytest.approx(inputs.taker_fee_px, abs=1e-12)
        fee_px, rebates_px = routing.sweep_fee_px(moment, size), rebates_px[venues]
        alone = place_many(flow_sz, [size] * len(triples), moment.half_spread_px, fee_px, rebates_px, triples)
        assert market_sz.tolist() == alone[0].tolist()
        assert limit_sz[venues].tolist() == alone[1].tolist()
        assert limit_sz.dtype.kind == market_sz.dtype.kind == "i"
        assert not limit_sz[~moment.market.routable].any()
        assert 0 <= min(market_sz.min(), limit_sz.min()) <= max(market_sz.max(), limit_sz.max()) <= size


def place_by_oracle(policy: str | routing.Rule, wanted: Order, triple: tuple[float, float, float]) -> oracle.Place:
    """The same rule for the plain replay; the solver is the one part that they share."""

    def router(situation: oracle.Situation) -> tuple[int, list[int]]:
        inputs = oracle.router_inputs(situation, wanted.adverse_weight)
        venues = np.flatnonzero(situation.day.routable)
        costs = inputs.half_spread_px, inputs.taker_fee_px, np.array(inputs.rebates_px)[venues]
        market_sz, posted_sz = place_many(
            np.array(situation.fillable_sz)[venues], [situation.slice_sz], *costs, [triple]
        )
        limit_sz = np.zeros(situation.day.venues, np.int64)
        limit_sz[venues] = posted_sz[:, 0]
        return int(market_sz[0]), limit_sz.tolist()

    def of_test(situation: oracle.Situation) -> tuple[int, list[int]]:
        return 0, [situation.slice_sz * each for each in situation.day.routable]

    return {"router": router, "equal": oracle.equal, "limit_only": oracle.limit_only, everywhere: of_test}[policy]


HOW = st.fixed_dictionaries(
    {
        "rule": st.sampled_from(RULES),
        "catch_up": st.sampled_from(("slice", "carry")),
        "cancel_on_fill": st.booleans(),
        "optimistic_cancels": st.booleans(),
    }
)


def bought_by_oracle(policy: str | routing.Rule, day: Day, wanted: Order, fewest: int) -> oracle.Result:
    clock_ns = slice_starts(wanted).tolist()
    return oracle.buy(
        day, wanted.size, wanted.window, clock_ns, oracle.equal_cum(wanted.size, len(clock_ns)),
        place_by_oracle(policy, wanted, TRIPLES[0]), slice_ns=wanted.slice_ns, step_ns=wanted.scenario_step_ns,
        scenarios=wanted.scenarios, min_scenarios=fewest, rule=wanted.rule, catch_up=wanted.catch_up,
        cancel_on_fill=wanted.cancel_on_fill, optimistic=wanted.optimistic_cancels,
    )  # fmt: skip


@given(SEEDS, st.sampled_from([*QUEUERS, everywhere]), HOW)
@settings(max_examples=300, deadline=None)
def test_policies_that_queue_trade_as_the_oracle_says(seed: int, policy: str | routing.Rule, how: dict):
    day, market, wanted = random_order(seed, **{"scenario_step_ns": 3 * UNIT_NS, **how})
    plain = bought_by_oracle(policy, day, wanted, fewest=3)
    taken = buy(policy, market, wanted, fewest=3)
    assert_same(taken, plain)
    assert_same_children(taken, plain)
    assert queues_of(taken) == [
        (child.venue, child.arrives_ns, child.ahead_on_arrival_sz, child.ahead_at_end_sz)
        for child in sorted(plain.children, key=lambda child: (child.venue, child.arrives_ns))
        if child.kind == "limit" and child.ahead_on_arrival_sz is not None
    ]
    hows = [each.how for each in plain.slices]
    assert taken.skipped_slices == hows.count("not usable")
    assert sum(taken.posted_sz) == sum(sum(each.limit_sz) for each in plain.slices)


def queues_of(taken: Taken) -> list[tuple[int, int, int, int]]:
    """(venue, arrival, shares ahead on arrival and at the end) of every limit order that joined a queue."""
    joined = [child for child in children_of(taken, LIMIT) if child["end"] != REJECTED and child["arrived_ns"]]
    names = ("venue", "arrived_ns", "ahead_sz", "ahead_at_end_sz")
    return sorted(tuple(int(child[each]) for each in names) for child in joined)


# --- what holds of every policy -----------------------------------------------------------------------------------------


def assert_adds_up(day: Day, wanted: Order, taken: Taken) -> None:
    """Lane 0: totals are the sums of its fills, fills those of its child orders, and it bought what was ordered."""
    crossed, passive = fills_of(taken, TAKE, DEADLINE), fills_of(taken, LIMIT)
    at_end = oracle.terminal(day, wanted.window.end_ns)
    assert taken.cash_e6[0] == sum(fill.sz * fill.px_e4 * 100 for fill in crossed + passive)
    assert taken.fees_e6[0] == sum(fill.sz * day.fees_e6[fill.venue] for fill in crossed)
    assert taken.rebates_e6[0] == sum(fill.sz * day.rebates_e6[fill.venue] for fill in passive)
    assert taken.surplus_e6[0] == taken.surplus_sz[0] * at_end.surplus_e6
    assert (taken.priced_e6[0] == 0) == (taken.priced_sz[0] == 0)
    assert taken.passive_sz[0] == sum(fill.sz for fill in passive)
    assert taken.swept_sz[0] == sum(fill.sz for fill in fills_of(taken, DEADLINE))
    assert taken.filled_sz[0] == sum(fill.sz for fill in fills_of(taken, TAKE, LIMIT))
    parts = [getattr(taken, name) for name in ("cash_e6", "fees_e6", "rebates_e6", "priced_e6", "surplus_e6")]
    cash_e6, fees_e6, rebates_e6, priced_e6, surplus_e6 = parts
    assert (taken.total_e6 == cash_e6 + fees_e6 - rebates_e6 + priced_e6 - surplus_e6).all()
    assert (taken.filled_sz + taken.swept_sz + taken.priced_sz == wanted.size + taken.surplus_sz).all()
    assert not (taken.surplus_sz * (taken.swept_sz + taken.priced_sz)).any()


def assert_children_add_up(taken: Taken) -> None:
    """Every fill is of one child order, which it fills no more than it is long."""
    assert (taken.children["filled_sz"] <= taken.children["sz"]).all()
    for kind in (TAKE, LIMIT, DEADLINE):
        filled, ordered = defaultdict(int), defaultdict(int)
        for fill in fills_of(taken, kind):
            filled[fill.venue] += fill.sz
        for child in children_of(taken, kind):
            ordered[child["venue"]] += child["filled_sz"]
        assert filled == {venue: sz for venue, sz in ordered.items() if sz}


def assert_takes_were_on_display(day: Day, taken: Taken, rule: int) -> None:
    """Every share across the spread was shown then, at that price, and no share shown was taken twice."""
    book, used, takes = {}, defaultdict(int), fills_of(taken, TAKE, DEADLINE)
    for at_ns in sorted({batch.ts_ns for batch in day.batches} | {fill.ts_ns for fill in takes}):
        for venue, new in [item for batch in day.batches if batch.ts_ns == at_ns for item in batch.quotes.items()]:
            same_px = venue in book and book[venue].ask_px_e4 == new.ask_px_e4
            used[venue] = min(used[venue], new.ask_sz) if same_px and rule == SHADOW else 0
            book[venue] = new
        for fill in takes:
            if fill.ts_ns == at_ns:
                used[fill.venue] += fill.sz
                assert fill.px_e4 == book[fill.venue].ask_px_e4 > 0
                assert 0 < used[fill.venue] <= book[fill.venue].ask_sz
                assert fill.kind == TAKE or oracle.is_usable(book)


def assert_takes_are_no_dearer_than_decided(day: Day, taken: Taken) -> None:
    """A market order is decided on a usable book, for shares shown then, and pays no more than the ask it saw."""
    for child in children_of(taken, TAKE):
        book = oracle.book_at(day, child["sent_ns"])
        assert oracle.is_usable(book)
        assert child["px_e4"] <= book[child["venue"]].ask_px_e4
        assert 0 < child["sz"] <= book[child["venue"]].ask_sz


def assert_limits_were_reached(day: Day, taken: Taken) -> None:
    """A limit order stands at the best bid of its decision; a trade or an ask at its price or below fills it, no more."""
    of_child = defaultdict(int)
    for child in children_of(taken, LIMIT):
        book = oracle.book_at(day, child["sent_ns"])
        assert oracle.is_usable(book)
        assert child["px_e4"] == oracle.best_bid_e4(book)
        assert day.routable[child["venue"]]
    for fill in fills_of(taken, LIMIT):
        child = only(child for child in children_of(taken, LIMIT) if may_fill(child, fill))
        assert fill.px_e4 == child["px_e4"]
        of_child[(child["venue"], child["sent_ns"])] += fill.sz
        asked, traded_sz = what_reached(day, fill.venue, fill.px_e4, fill.ts_ns - 1, fill.ts_ns)
        assert asked or 0 < fill.sz <= traded_sz
    for child in children_of(taken, LIMIT):
        assert of_child[(child["venue"], child["sent_ns"])] == child["filled_sz"]
        asked, traded_sz = what_reached(day, child["venue"], child["px_e4"], child["arrived_ns"], child["ended_ns"])
        assert asked or child["filled_sz"] <= traded_sz


def may_fill(child: np.void, fill: Fill) -> bool:
    return child["venue"] == fill.venue and 0 < child["arrived_ns"] < fill.ts_ns <= child["ended_ns"]


def only(found: Iterator[np.void]) -> np.void:
    (one,) = found
    return one


def what_reached(day: Day, venue: int, px_e4: int, after_ns: int, until_ns: int) -> tuple[bool, int]:
    """Whether a quote of the venue asked this price or less in that time, and how many shares traded at it or below."""
    quotes = [
        batch.quotes[venue] for batch in day.batches if venue in batch.quotes and after_ns < batch.ts_ns <= until_ns
    ]
    prints = [each for each in day.prints if each.venue == venue and after_ns < each.ts_ns <= until_ns]
    return any(0 < each.ask_px_e4 <= px_e4 for each in quotes), sum(each.sz for each in prints if each.px_e4 <= px_e4)


def assert_surplus_was_outstanding(wanted: Order, taken: Taken) -> None:
    """A decision asks of the market no more than is missing: what is bought too many stood in limit orders by then."""
    sent = children_of(taken, TAKE, LIMIT)
    last_ns = max((child["sent_ns"] for child in sent), default=0)
    outstanding_sz = 0
    for child in children_of(taken, LIMIT):
        if child["sent_ns"] == last_ns or child["sent_ns"] < last_ns < child["ended_ns"]:
            filled = [fill.sz for fill in fills_of(taken, LIMIT) if may_fill(child, fill) and fill.ts_ns <= last_ns]
            outstanding_sz += child["sz"] - sum(filled)
    assert taken.surplus_sz[0] <= outstanding_sz
    assert taken.surplus_sz[0] == max(taken.filled_sz[0] - wanted.size, 0)


def assert_complete_slices_fill_no_more(day: Day, wanted: Order, taken: Taken) -> None:
    """Once a lane has what is due, its limit orders are filled until the word reaches the venue, not later."""
    clock_ns = slice_starts(wanted)
    due_sz = np.cumsum(whole_shares(np.ones(len(clock_ns)), wanted.size))
    bought, complete_ns, j = 0, None, -1
    for fill in sorted(fills_of(taken, TAKE, LIMIT), key=lambda fill: (fill.ts_ns, fill.kind == TAKE)):
        begun = bisect_right(clock_ns.tolist(), fill.ts_ns - (fill.kind == LIMIT)) - 1
        if begun > j:
            j, complete_ns = begun, clock_ns[begun] if bought >= due_sz[begun] else None
        if fill.kind == LIMIT and complete_ns is not None:
            assert fill.ts_ns <= complete_ns + day.latency_ns[fill.venue]
        bought += fill.sz
        if complete_ns is None and bought >= due_sz[j]:
            complete_ns = fill.ts_ns


@given(SEEDS, st.sampled_from([*POLICIES, everywhere]), HOW, st.booleans())
@settings(max_examples=600, deadline=None)
def test_nothing_fills_that_the_rules_do_not_allow_and_everything_adds_up(
    seed: int, policy: str | routing.Rule, how: dict, latency: bool
):
    day, market, wanted = random_order(seed, latency=latency, **how)
    taken = buy(policy, market, wanted, TRIPLES[seed % 5 :])
    assert_adds_up(day, wanted, taken)
    assert_takes_were_on_display(day, taken, wanted.rule)
    if policy not in TAKERS or any(day.latency_ns):
        assert_children_add_up(taken)
        assert_takes_are_no_dearer_than_decided(day, taken)
    if policy in TAKERS:
        assert not taken.surplus_sz.any()
        assert not taken.posted_sz.any()
        return
    assert_limits_were_reached(day, taken)
    assert_surplus_was_outstanding(wanted, taken)
    if wanted.cancel_on_fill:
        assert_complete_slices_fill_no_more(day, wanted, taken)


@pytest.mark.parametrize("policy", ["router", everywhere])
def test_random_days_bring_about_what_the_invariants_speak_of(policy: str | routing.Rule):
    """Fills of every kind, child orders that end in every way, surplus, shares nowhere on the book, skipped slices."""
    runs = [buy(policy, *random_order(seed, cancel_on_fill=seed % 2 > 0)[1:], TRIPLES[1:2]) for seed in range(150)]
    assert {kind for taken in runs for kind in taken.fills["kind"].tolist()} == {TAKE, LIMIT, DEADLINE}
    assert {end for taken in runs for end in taken.children["end"].tolist()} == set(range(6))
    for name in ("surplus_sz", "priced_sz", "skipped_slices", "market_only_slices"):
        assert sum(int(np.max(getattr(taken, name)) > 0) for taken in runs) >= 5, name


# --- lanes --------------------------------------------------------------------------------------------------------------


@given(SEEDS, st.sampled_from(QUEUERS), HOW)
@settings(max_examples=150, deadline=None)
def test_lane_of_a_grid_is_the_run_of_its_triple_alone(seed: int, name: str, how: dict):
    _, market, wanted = random_order(seed, **how)
    grid = buy(name, market, wanted, TRIPLES, record=False)
    for lane, triple in enumerate(TRIPLES):
        assert_lane_alike(grid, lane, buy(name, market, wanted, (triple,)))


def assert_lane_alike(grid: Taken, lane: int, alone: Taken) -> None:
    assert [getattr(grid, name)[lane] for name in COSTS] == [getattr(alone, name)[0] for name in COSTS]
    counts = [(taken.market_only_slices, taken.skipped_slices) for taken in (grid, alone)]
    assert counts[0] == counts[1]


@given(SEEDS, st.sampled_from(QUEUERS), HOW)
@settings(max_examples=60, deadline=None)
def test_intervals_of_a_longer_order_around_it_serve_as_well(seed: int, name: str, how: dict):
    _, market, wanted = random_order(seed, **how)
    start_ns, end_ns = wanted.window.start_ns, wanted.window.end_ns
    longer = replace(wanted, window=Window(start_ns - 7 * UNIT_NS, end_ns + 30 * UNIT_NS))
    own, others = (buy(name, market, wanted, flows=flows) for flows in (None, routing.flows_of(market, longer)))
    assert_lane_alike(own, 0, others)
    assert known_of(own, end_ns) == known_of(others, end_ns)


def test_costs_that_lanes_are_compared_by_are_all_there_are():
    apart = {"fills", "children", "market_only_slices", "skipped_slices"}
    assert {each.name for each in fields(Taken)} - apart == set(COSTS) - {"total_e6"}


# --- no look-ahead ------------------------------------------------------------------------------------------------------


def known_of(taken: Taken, at_ns: int) -> tuple[list, list]:
    """Fills stamped by then, and of the child orders sent by then what had become of them."""
    fills = sorted(fill for fill in fills_of(taken) if fill.ts_ns <= at_ns)
    return fills, sorted(_known_of_child(child, at_ns) for child in taken.children if child["sent_ns"] <= at_ns)


def _known_of_child(child: np.void, at_ns: int) -> tuple[tuple, ...]:
    sent = tuple(child[["slice", "kind", "venue", "sz", "sent_ns"]].tolist())
    limit = (int(child["px_e4"]),) if child["kind"] == LIMIT else ()
    arrived = tuple(child[["px_e4", "arrived_ns", "ahead_sz"]].tolist()) if child["arrived_ns"] <= at_ns else ()
    ended = tuple(child[["ended_ns", "ahead_at_end_sz", "filled_sz", "end"]].tolist())
    return sent, limit, arrived, ended if child["ended_ns"] <= at_ns else ()


def changed_after(day: Day, at_ns: int, draw: random.Random) -> Day:
    """The same day until then; after it rows are dropped, altered, added or all replaced by those of another day."""
    known = [row for row in day.rows if row.ts_ns <= at_ns]
    later = [row for row in day.rows if row.ts_ns > at_ns]
    others = oracle.random_day(draw.randrange(10**6), venues=day.venues, dark=False).rows
    strange = [row for row in others if row.ts_ns > at_ns]
    how = draw.choice(("none", "drop", "alter", "add", "replace"))
    if how in ("none", "replace"):
        later = strange if how == "replace" else []
    elif how == "add":
        later = sorted([*later, *strange], key=lambda row: row.ts_ns)
    elif how == "drop":
        later = [row for row in later if draw.random() < 0.5]
    else:
        later = [altered(row, draw) for row in later]
    return rebuilt(day, [*known, *later])


def altered(row: Quote | Print, draw: random.Random) -> Quote | Print:
    """Another price, another size."""
    move_e4 = TICK * draw.choice((-2, -1, 0, 1, 2))
    if isinstance(row, Print):
        return row._replace(px_e4=row.px_e4 + move_e4, sz=draw.choice((1, 30, 900)))
    bid, ask = (px_e4 + move_e4 * (px_e4 > 0) for px_e4 in (row.bid_px_e4, row.ask_px_e4))
    sizes = [draw.choice((1, 30, 900)) * (px_e4 > 0) for px_e4 in (bid, ask)]
    return Quote(row.ts_ns, row.venue, bid, sizes[0], ask, sizes[1])


def rebuilt(day: Day, rows: list[Quote | Print]) -> Day:
    terms = {name: getattr(day, name) for name in ("fees_e6", "rebates_e6", "latency_ns", "routable")}
    return oracle.day_of_rows(rows, **terms)


def lasting(day: Day, wanted: Order) -> Day:
    """The day with a quote after the order's end, so that the data cover the order whatever becomes of its rows."""
    end_ns = max(day.rows[-1].ts_ns, wanted.window.end_ns) + UNIT_NS
    return rebuilt(day, [*day.rows, Quote(end_ns, 0, BID, 10, ASK, 10)])


@given(SEEDS, st.sampled_from([*POLICIES, everywhere]), HOW, st.booleans())
@settings(max_examples=700, deadline=None)
def test_no_decision_depends_on_what_comes_after_it(seed: int, policy: str | routing.Rule, how: dict, latency: bool):
    day, _, wanted = random_order(seed, latency=latency, **how)
    draw = random.Random(f"future {seed}")
    at_ns = draw.randrange(wanted.window.start_ns, wanted.window.end_ns + 1, UNIT_NS)
    assume(day.prints and day.prints[0].ts_ns <= at_ns)
    changed = changed_after(day, at_ns, draw)
    taken, other = (buy(policy, market_of(lasting(each, wanted)), wanted, TRIPLES[:2]) for each in (day, changed))
    assert known_of(taken, at_ns) == known_of(other, at_ns)


@pytest.mark.parametrize("name", ["vwap", *QUEUERS])
def test_no_decision_depends_on_whether_the_first_trade_is_yet_to_come(name: str):
    quotes = [quote(at_s, ask_sz=50 + 7 * at_s % 60) for at_s in range(-30, 42, 2)]
    days = [oracle.make_day(quotes, prints) for prints in ([], [sell(35, 500)])]
    quiet, traded = (buy(name, market_of(day), order(100, 40)) for day in days)
    assert known_of(quiet, ns(34)) == known_of(traded, ns(34))


def test_profile_of_the_whole_day_is_found_out_and_that_of_the_past_is_not():
    quotes = [quote(at_s, ask_sz=1000) for at_s in (-5, 5, 15, 25)]
    days = [oracle.make_day(quotes, [sell(1, 10), sell(12, sz)]) for sz in (10, 900)]
    for volume, alike in (("past", True), ("day", False)):
        calm, busy = (buy("vwap", market_of(day), order(100, 20, volume=volume)) for day in days)
        assert (known_of(calm, ns(9)) == known_of(busy, ns(9))) == alike


def test_order_that_knows_a_trade_beforehand_is_found_out():
    """A rule that posts only when the whole day has a trade to come: the test must see the difference."""

    def prophet(moment: routing.Moment, slice_sz: int, triples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        to_come = (moment.market.prints.ts_ns > moment.now_ns).any()
        return np.array([0 if to_come else slice_sz]), np.array([[slice_sz if to_come else 0]])

    days = [oracle.make_day([quote(-11), quote(15)], [sell(-5, 5), *later]) for later in ([], [sell(8, 500)])]
    without, with_it = (buy(prophet, market_of(day), order(50, 10), fewest=0) for day in days)
    assert known_of(without, ns(7)) != known_of(with_it, ns(7))


@given(SEEDS, st.sampled_from(QUEUERS), HOW)
@settings(max_examples=150, deadline=None)
def test_order_under_way_has_bought_what_the_finished_one_had_by_then(seed: int, name: str, how: dict):
    day, market, wanted = random_order(seed, **how)
    draw = random.Random(f"now {seed}")
    now_ns = draw.choice([batch.ts_ns for batch in day.batches])
    assume(now_ns >= wanted.window.start_ns and day.prints and day.prints[0].ts_ns <= now_ns)
    so_far = market_of(rebuilt(day, [row for row in day.rows if row.ts_ns <= now_ns]))
    under_way = buy(name, so_far, wanted, sweep=False)
    finished = buy(name, market, wanted)
    at_ns = min(now_ns, wanted.window.end_ns)
    had = [fill for fill in fills_of(finished, TAKE, LIMIT) if fill.ts_ns <= at_ns]
    assert [fill for fill in fills_of(under_way) if fill.ts_ns <= at_ns] == had


@given(SEEDS, st.sampled_from([*QUEUERS, *TAKERS]))
@settings(max_examples=150, deadline=None)
def test_order_under_way_has_bought_nothing_later_than_the_data(seed: int, name: str):
    day, _, wanted = random_order(seed)
    draw = random.Random(f"now {seed}")
    now_ns = draw.choice([batch.ts_ns for batch in day.batches])
    assume(now_ns >= wanted.window.start_ns)
    so_far = market_of(rebuilt(day, [row for row in day.rows if row.ts_ns <= now_ns]))
    under_way = buy(name, so_far, wanted, sweep=False)
    assert all(fill.ts_ns <= now_ns for fill in fills_of(under_way))


# --- the floor ----------------------------------------------------------------------------------------------------------


@given(SEEDS, st.sampled_from(list(POLICIES)), HOW)
@settings(max_examples=400, deadline=None)
def test_no_policy_takes_cheaper_than_the_clairvoyant(seed: int, name: str, how: dict):
    """The whole order of those that only take, and of the others what they took."""
    day, market, wanted = random_order(seed, latency=False, **how)
    taken = buy(name, market, wanted)
    terminal = markets.terminal(market, wanted.window, wanted.penalty_px)
    crossed = fills_of(taken, TAKE, DEADLINE)
    took_sz = sum(fill.sz for fill in crossed)
    paid_e6 = sum(fill.sz * (fill.px_e4 * 100 + day.fees_e6[fill.venue]) for fill in crossed)

    def floor_e6(size: int) -> int:
        return clairvoyant(market.updates, market.fees_e6, wanted.window, size, terminal, wanted.rule)[0]

    assert paid_e6 >= floor_e6(took_sz)
    if name in TAKERS:
        assert taken.total_e6[0] == paid_e6 + taken.priced_e6[0] >= floor_e6(wanted.size)


# --- feeds without trades, one venue ------------------------------------------------------------------------------------


def assert_sweeps_like_twap(name: str, market: Market, wanted: Order) -> None:
    """Without trades a policy that queues is twap with what a slice missed swept at the next."""
    taken, twap = (buy(each, market, wanted) for each in (name, "twap"))
    assert not taken.posted_sz.any()
    assert not children_of(taken, LIMIT)
    assert taken.market_only_slices + taken.skipped_slices == len(slice_starts(wanted))
    assert [getattr(taken, each).tolist() for each in COSTS] == [getattr(twap, each).tolist() for each in COSTS]
    assert fills_of(taken) == fills_of(twap)


@given(SEEDS, st.sampled_from(QUEUERS), HOW, st.booleans())
@settings(max_examples=200, deadline=None)
def test_feed_stripped_of_trades_is_swept_like_twap(seed: int, name: str, how: dict, latency: bool):
    day, _, wanted = random_order(seed, latency=latency, **how)
    stripped = rebuilt(day, [row for row in day.rows if isinstance(row, Quote)])
    assert_sweeps_like_twap(name, market_of(stripped), wanted)


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_run_with_one_venue_trades_there_or_nowhere(seed: int):
    case = oracle.random_case(seed, venues=1, dark=False, latency=False)
    wanted = Order(case.size, case.window, case.slice_ns, scenario_step_ns=UNIT_NS)
    for name in POLICIES:
        taken = buy(name, market_of(case.day), wanted)
        assert set(taken.fills["venue"].tolist()) <= {0}
        assert_adds_up(case.day, wanted, taken)
        assert_limits_were_reached(case.day, taken)


# --- the shipped day ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> Events:
    """The first 10,000 rows of the day that comes with the project, 46 minutes."""
    intake = Intake(Checker(10**9))
    feed.load(ROOT / "l1_day.csv", intake)
    return intake.buffer.events().slice(0, 10_000)


def shipped_market(events: Events, latency_ms: float = 0) -> Market:
    built = markets.build(events, parse_venues((ROOT / "sor" / "venues.toml").read_text(encoding="utf-8")))
    return replace(built, latency_ns=np.full_like(built.latency_ns, round(latency_ms * 1e6)))


def minutes(events: Events, first: float, last: float, size: int = 5000, **how: object) -> Order:
    start_ns = int(events.ts_ns[0])
    return Order(size, Window(*(start_ns + round(at * 60e9) for at in (first, last))), **how)


def rearranged(events: Events, at_ns: int, how: str) -> Events:
    """The rows after a time dropped, their contents shuffled among their times, or all prices halved and sizes doubled."""
    later = np.flatnonzero(events.ts_ns > at_ns)
    columns = {each.name: getattr(events, each.name).copy() for each in fields(events) if each.name != "publisher_ids"}
    shuffled = np.random.default_rng(later[0]).permutation(later)
    for name, column in columns.items():
        if how == "shuffled" and name != "ts_ns":
            column[later] = column[shuffled]
        elif how == "scaled" and name.endswith(("_px_e4", "_sz")):
            column[later] = column[later] // 2 if name.endswith("_px_e4") else column[later] * 2
    keep = np.ones(len(events), bool)
    keep[later[:-1]] = how != "dropped"
    return replace(events, **{name: column[keep] for name, column in columns.items()})


@pytest.mark.parametrize("how", ["shuffled", "scaled", "dropped"])
@pytest.mark.parametrize("latency_ms", [0, 5])
def test_no_decision_of_the_shipped_day_depends_on_what_comes_after_it(shipped: Events, how: str, latency_ms: float):
    wanted = minutes(shipped, 10, 40)
    day = shipped_market(shipped, latency_ms)
    for at_ns in (wanted.window.start_ns + int(at * 60e9) for at in (1.5, 7.5, 20)):
        changed = shipped_market(rearranged(shipped, at_ns, how), latency_ms)
        for name in POLICIES:
            taken, other = (policies.run(name, each, wanted, TRIPLES[:1]) for each in (day, changed))
            assert known_of(taken, at_ns) == known_of(other, at_ns), name
            assert known_of(taken, at_ns)[0], name


def test_profile_of_the_whole_shipped_day_is_found_out(shipped: Events):
    wanted = minutes(shipped, 10, 40, volume="day")
    at_ns = wanted.window.start_ns + int(7.5 * 60e9)
    changed = shipped_market(rearranged(shipped, at_ns, "shuffled"))
    taken, other = (policies.run("vwap", each, wanted) for each in (shipped_market(shipped), changed))
    assert known_of(taken, at_ns) != known_of(other, at_ns)


@pytest.mark.parametrize("latency_ms", [0, 5])
def test_lane_of_a_grid_is_the_run_of_its_triple_alone_on_the_shipped_day(shipped: Events, latency_ms: float):
    day, wanted = shipped_market(shipped, latency_ms), minutes(shipped, 10, 40)
    grid = policies.run("router", day, wanted, TRIPLES, record=False)
    for lane, triple in enumerate(TRIPLES):
        assert_lane_alike(grid, lane, policies.run("router", day, wanted, (triple,)))
    assert len(set(grid.total_e6.tolist())) > 1


@pytest.mark.parametrize("name", QUEUERS)
def test_shipped_day_stripped_of_trades_is_swept_like_twap(shipped: Events, name: str):
    quotes = shipped.action != TRADE
    columns = {each.name: getattr(shipped, each.name) for each in fields(shipped) if each.name != "publisher_ids"}
    stripped = replace(shipped, **{each: column[quotes] for each, column in columns.items()})
    assert_sweeps_like_twap(name, shipped_market(stripped), minutes(shipped, 10, 40))
