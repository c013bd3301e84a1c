"""sor.execution, sor.queue and sor.routing against the plain-Python oracle, and the invariants of every policy."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sor import market as markets
from sor import policies, routing
from sor.execution import Execution
from sor.market import Market
from sor.orders import (
    AT_DEADLINE,
    DEADLINE,
    FILLED,
    LIMIT,
    REJECTED,
    RESET,
    SHADOW,
    SHORT,
    SLICE_COMPLETE,
    SLICE_OVER,
    TAKE,
    Order,
    Taken,
    Window,
)
from sor.queue import Flows, fillable_flows
from tests import routing_oracle as oracle

SEEDS = st.integers(0, 10**6)
FREE = ((0.0, 0.0, 0.0),)
NO_FLOWS = Flows(np.zeros(0, np.int64), np.zeros((0, 0), np.int32), np.zeros(0))
KIND_OF = {"take": TAKE, "market": TAKE, "limit": LIMIT, "deadline": DEADLINE}
END_OF = {
    "filled": {FILLED},
    "rejected": {REJECTED},
    "cancelled": {SLICE_OVER, SLICE_COMPLETE, AT_DEADLINE},
    "partial": {SHORT},
    "missed": {SHORT},
    "void": {AT_DEADLINE, SLICE_COMPLETE, SLICE_OVER},
}


def market_of(day: oracle.Day) -> Market:
    built = markets.build(oracle.events_of(day), oracle.venue_table_of(day))
    return replace(built, latency_ns=np.array(day.latency_ns, np.int64))


def assert_same(taken: Taken, plain: oracle.Result) -> None:
    assert taken.cash_e6[0] == plain.cash_e6
    assert (taken.fees_e6[0], taken.rebates_e6[0]) == (plain.fees_e6, plain.rebates_e6)
    assert (taken.passive_sz[0], taken.filled_sz[0]) == (plain.passive_sz, plain.passive_sz + plain.taken_sz)
    assert (taken.swept_sz[0], taken.priced_sz[0]) == (plain.swept_sz, plain.priced_sz)
    assert (taken.priced_e6[0], taken.surplus_sz[0]) == (plain.priced_e6, plain.surplus_sz)
    assert (taken.surplus_e6[0], taken.total_e6[0]) == (plain.surplus_e6, plain.total_e6)
    expected = [(fill.ts_ns, fill.venue, fill.px_e4, fill.sz, KIND_OF[fill.kind]) for fill in plain.fills]
    assert sorted(taken.fills.tolist()) == sorted(expected)


def assert_same_children(taken: Taken, plain: oracle.Result) -> None:
    mine = sorted((c["kind"], c["venue"], c["sent_ns"], c["sz"], c["filled_sz"], c["end"]) for c in taken.children)
    theirs = sorted(
        (KIND_OF[c.kind], c.venue, c.decided_ns, c.sz, c.filled_sz, END_OF[c.outcome]) for c in plain.children
    )
    assert [row[:5] for row in mine] == [row[:5] for row in theirs]
    assert all(end in ends for (*_, end), (*_, ends) in zip(mine, theirs, strict=True))


@given(SEEDS, st.booleans())
@settings(max_examples=150, deadline=None)
def test_fillable_flows_are_those_of_the_oracle(seed: int, optimistic: bool):
    day = oracle.random_day(seed, disorder=bool(seed % 2))
    market = market_of(day)
    step_ns, length_ns = oracle.UNIT_NS * (1 + seed % 3), oracle.UNIT_NS * (2 + seed % 9)
    flows = fillable_flows(market, 0, 2**61, length_ns, step_ns, optimistic=optimistic)
    plain = oracle.fillable_flows(day, length_ns, step_ns, optimistic)
    assert flows.end_ns.tolist() == [flow.start_ns + length_ns for flow in plain]
    assert flows.fill_sz.T.tolist() == [list(flow.fill_sz) for flow in plain]
    assert flows.mid_move_px == pytest.approx(np.array([flow.mid_move_px for flow in plain]), abs=1e-9)


@given(SEEDS, st.booleans(), st.booleans(), st.sampled_from(("slice", "carry")), st.sampled_from((SHADOW, RESET)))
@settings(max_examples=800, deadline=None)
def test_orders_in_slices_trade_as_the_oracle_says(
    seed: int, optimistic: bool, cancel_on_fill: bool, catch_up: str, rule: int
):
    case = oracle.random_case(seed, disorder=bool(seed % 2), latency=bool(seed % 3))
    plain = oracle.buy(
        case.day, case.size, case.window, case.clock_ns, case.cum, oracle.in_eighths(case.parts), flows=[],
        min_scenarios=0, slice_ns=case.slice_ns, rule=rule, catch_up=catch_up, cancel_on_fill=cancel_on_fill,
        optimistic=optimistic,
    )  # fmt: skip
    oracle.assert_adds_up(case.day, case.size, plain)

    def in_eighths(moment: routing.Moment, slice_sz: int, triples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        to_market, to_post = case.parts[case.clock_ns.index(moment.now_ns)]
        return np.array([slice_sz * to_market // 8]), np.array([[slice_sz * part // 8] for part in to_post])

    order = Order(
        case.size, case.window, case.slice_ns, rule=rule, optimistic_cancels=optimistic, catch_up=catch_up,
        cancel_on_fill=cancel_on_fill,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "can_queue", lambda *_: True)
        taken = routing.route(in_eighths, market_of(case.day), order, FREE, NO_FLOWS, sweep=True, record=True)
    assert_same(taken, plain)
    assert_same_children(taken, plain)


@given(SEEDS, st.sampled_from((SHADOW, RESET)), st.sampled_from(("twap", "best_ask", "allocate")))
@settings(max_examples=400, deadline=None)
def test_takers_with_latency_trade_as_the_oracle_says(seed: int, rule: int, name: str):
    case = oracle.random_case(seed, disorder=bool(seed % 2), latency=True)
    how = {
        "twap": {},
        "best_ask": {"persistent": True, "best_only": True},
        "allocate": {"persistent": True, "lot_sz": policies.LOT_SZ},
    }[name]
    order = Order(case.size, case.window, case.slice_ns, rule=rule)
    market = market_of(case.day)
    schedule = policies.POLICIES[name].schedule(market, order)
    releases = list(zip(schedule.clock_ns.tolist(), schedule.release_sz[:, 0].tolist(), strict=True))
    plain = oracle.take(case.day, case.window, releases, rule=rule, **how)
    taken = policies.execute_late(market, order, schedule)
    assert_same(taken, plain)
    assert_same_children(taken, plain)


@given(SEEDS, st.sampled_from((SHADOW, RESET)), st.sampled_from(("twap", "best_ask", "allocate", "vwap")))
@settings(max_examples=300, deadline=None)
def test_without_latency_the_fast_path_and_the_general_one_trade_alike(seed: int, rule: int, name: str):
    case = oracle.random_case(seed, disorder=bool(seed % 2), latency=False)
    order = Order(case.size, case.window, case.slice_ns, rule=rule)
    market = market_of(case.day)
    schedule = policies.POLICIES[name].schedule(market, order)
    fast, general = policies.execute_at_once(market, order, schedule), policies.execute_late(market, order, schedule)
    assert fast.fills.tolist() == general.fills.tolist()
    assert (fast.total_e6.tolist(), fast.priced_sz.tolist()) == (general.total_e6.tolist(), general.priced_sz.tolist())


# --- by hand ------------------------------------------------------------------------------------------------------------

AT_NS, SECOND_NS = oracle.T0_NS, 10**9
MOST_SZ = 2_000_000_000  # of an order


def two_venues(ask_sz: int, latency_s: int = 0, *later: oracle.Quote) -> Market:
    """99.99 x 100 / 100.00 x ask_sz at both venues, one second before AT_NS."""
    first = [oracle.Quote(AT_NS - SECOND_NS, venue, 999_900, 100, 1_000_000, ask_sz) for venue in (0, 1)]
    return market_of(oracle.make_day([*first, *later], [], latency_ns=[latency_s * SECOND_NS] * 2))


def test_decision_is_refused_while_orders_of_the_one_before_are_on_their_way():
    desk = Execution(two_venues(50, 3), Window(AT_NS, AT_NS + 60 * SECOND_NS), 1, rule=SHADOW)
    one, none = np.ones(1, np.int64), np.zeros((2, 1), np.int64)
    desk.send(AT_NS, one, 0, none, 1)
    desk.advance(AT_NS + 2 * SECOND_NS)
    with pytest.raises(ValueError, match="still on their way"):
        desk.send(AT_NS + 2 * SECOND_NS, one, 0, none, 2)
    desk.advance(AT_NS + 3 * SECOND_NS)
    desk.send(AT_NS + 3 * SECOND_NS, one, 0, none, 2)
    desk.advance(AT_NS + 6 * SECOND_NS)
    assert desk.bought_sz.tolist() == [2]


def test_market_order_that_is_void_at_the_deadline_never_arrived():
    market = two_venues(50, 3)
    order = Order(40, Window(AT_NS, AT_NS + 2 * SECOND_NS), 60 * SECOND_NS)
    taken = policies.run("twap", market, order)
    assert taken.children[["kind", "arrived_ns", "ended_ns", "filled_sz", "end"]].tolist() == [
        (TAKE, 0, order.window.end_ns, 0, AT_DEADLINE),
        (DEADLINE, order.window.end_ns, order.window.end_ns, 40, FILLED),
    ]


@pytest.mark.parametrize("latency_s", [0, 1])
def test_largest_order_is_bought_to_the_share(latency_s: int):
    """Both venues show the most an int32 holds, 2,147,483,647: all at the later, or half in each of two slices."""
    market = two_venues(2**31 - 1, latency_s)
    order = Order(MOST_SZ, Window(AT_NS, AT_NS + 60 * SECOND_NS), 30 * SECOND_NS)
    for name in ("twap", "best_ask", "allocate"):
        taken = policies.run(name, market, order)
        assert (taken.filled_sz[0], taken.priced_sz[0]) == (MOST_SZ, 0)
        assert taken.total_e6[0] == MOST_SZ * 100_000_000


def test_surplus_of_the_largest_order_does_not_overflow():
    """Asks come down to both limit orders of 2e9 shares: 4e9 are bought, 2e9 too many, sold at 99.97 less no fee."""
    down = [oracle.Quote(AT_NS + SECOND_NS, venue, 999_700, 100, 999_800, 100) for venue in (0, 1)]
    market = two_venues(100, 0, *down)

    def everywhere(moment: routing.Moment, slice_sz: int, triples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(1, np.int64), np.full((2, 1), slice_sz)

    order = Order(MOST_SZ, Window(AT_NS, AT_NS + 60 * SECOND_NS), 60 * SECOND_NS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "can_queue", lambda *_: True)
        taken = routing.route(everywhere, market, order, FREE, NO_FLOWS, sweep=True, record=True)
    assert [(fill["venue"], fill["px_e4"], fill["sz"]) for fill in taken.fills] == [
        (0, 999_900, MOST_SZ),
        (1, 999_900, MOST_SZ),
    ]
    assert (taken.posted_sz[0], taken.passive_sz[0], taken.surplus_sz[0]) == (2 * MOST_SZ, 2 * MOST_SZ, MOST_SZ)
    assert taken.total_e6[0] == 2 * MOST_SZ * 99_990_000 - MOST_SZ * 99_970_000


@pytest.mark.parametrize("record", [True, False])
def test_logs_have_room_for_everything_that_one_moment_can_bring(record: bool):
    """Sixteen venues, each taken from and posted at in every slice, filled by one batch, and swept at the deadline."""
    venues, slices = 16, 9
    quotes = [oracle.Quote(AT_NS - SECOND_NS, venue, 999_900, 0, 1_000_000, 100) for venue in range(venues)]
    for j in range(slices):
        for second, ask_e4 in ((5, 999_900), (7, 1_000_000)):
            at_ns = AT_NS + (10 * j + second) * SECOND_NS
            quotes += [
                oracle.Quote(at_ns, venue, 999_800 + 100 * (second == 7), 5, ask_e4, 100) for venue in range(venues)
            ]
    market = market_of(oracle.make_day(quotes, [], latency_ns=[0] * venues))

    def everywhere(moment: routing.Moment, slice_sz: int, triples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(triples), 80 * venues), np.full((venues, len(triples)), 5)

    order = Order(10**6, Window(AT_NS, AT_NS + 10 * slices * SECOND_NS), 10 * SECOND_NS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "can_queue", lambda *_: True)
        patch.setattr(routing, "_shares", lambda *_: (np.zeros(1, np.int64), np.array([10**5])))
        taken = routing.route(everywhere, market, order, FREE, NO_FLOWS, sweep=True, record=record)
    per_slice = [80 * venues, 5 * venues]
    assert (taken.filled_sz[0], taken.passive_sz[0]) == (slices * sum(per_slice), slices * per_slice[1])
    if record:
        assert taken.fills["sz"].sum() == taken.filled_sz[0] + taken.swept_sz[0]
        assert np.bincount(taken.children["kind"]).min() >= venues
        assert taken.children["filled_sz"].sum() == taken.filled_sz[0] + taken.swept_sz[0]
