"""sor.explain: the lives of child orders add up to the order's cost, and say why each ended."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sor import explain, policies, routing
from sor import market as markets
from sor.market import Market
from sor.orders import Order
from sor.policies import POLICIES
from tests import routing_oracle as oracle

PARTS = ("px", "cash", "fee", "rebate", "cost")


def lives(market: Market, order: Order, name: str) -> tuple[list[dict], int]:
    """The lines, and the total cost in micro-dollars."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "FEWEST_SCENARIOS", 1)
        taken = policies.run(name, market, order, ((0.01, 0.05, 0.0),))
    return list(explain.lines(taken, market, order)), int(taken.total_e6[0])


@given(st.integers(0, 10**6), st.sampled_from(sorted(POLICIES)), st.booleans())
@settings(max_examples=300, deadline=None)
def test_costs_and_shares_of_all_lives_add_up_to_those_of_the_order(seed: int, name: str, latency: bool):
    case = oracle.random_case(seed, latency=latency)
    market = markets.build(oracle.events_of(case.day), oracle.venue_table_of(case.day))
    market = replace(market, latency_ns=np.array(case.day.latency_ns, np.int64))
    order = Order(case.size, case.window, case.slice_ns, scenario_step_ns=oracle.UNIT_NS, cancel_on_fill=bool(seed % 2))
    lines, total_e6 = lives(market, order, name)
    assert sum(round(line["cost"] * 1e6) for line in lines) == total_e6
    bought = sum(line["filled"] for line in lines if "filled" in line)
    priced = sum(line["shares"] for line in lines if line["kind"] == "priced")
    surplus = sum(line["shares"] for line in lines if line["kind"] == "surplus")
    assert bought + priced - surplus == case.size
    for line in lines:
        if "child" in line:
            assert 0 <= line["filled"] <= line["shares"]
            assert line["sent"] <= (line["arrived"] or line["ended"]) <= line["ended"]
            assert (line["why"] == "filled") == (line["filled"] == line["shares"]) or "void" in line["why"]


def rest_at_one_venue(prints: list[oracle.Print], ask_e4: int = 1_000_300) -> list[dict]:
    """40 shares posted at 100.00 behind 100 at 10:00:00 for ten units; the last quote of the venue shows 60 there."""
    unit = oracle.UNIT_NS
    quotes = [
        oracle.Quote(0, 0, 1_000_000, 100, ask_e4, 500),
        oracle.Quote(5 * unit, 0, 1_000_000, 60, ask_e4, 500),
        oracle.Quote(40 * unit, 0, 1_000_000, 60, ask_e4, 500),
    ]
    day = oracle.make_day(quotes, prints, fees_e6=[3000], rebates_e6=[2000], latency_ns=[0], routable=[True])
    market = markets.build(oracle.events_of(day), oracle.venue_table_of(day))
    order = Order(40, oracle.Window(unit, 11 * unit), 10 * unit)

    def all_posted(moment: routing.Moment, slice_sz: int, triples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.array([0]), np.array([[slice_sz]])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "can_queue", lambda *_: True)
        flows = routing.flows_of(market, order)
        taken = routing.route(all_posted, market, order, ((0, 0, 0),), flows, sweep=True, record=True)
    return list(explain.lines(taken, market, order))


def test_a_limit_order_that_waits_behind_others_and_is_completed_at_the_deadline():
    """100 ahead; 30 traded at 100.00 leave 70, the quote of 60 leaves 60. Then 40 are swept at 100.03 + 0.003."""
    limit, sweep = rest_at_one_venue([oracle.Print(3 * oracle.UNIT_NS, 0, 1_000_000, 30)])
    assert (limit["kind"], limit["queue_ahead"], limit["queue_ahead_at_end"], limit["filled"]) == ("limit", 100, 60, 0)
    assert limit["why"] == "void at the deadline, 40 not filled: 60 shares were still ahead of it"
    assert (sweep["kind"], sweep["filled"], sweep["cost"]) == ("deadline sweep", 40, pytest.approx(40 * 100.033))


def test_a_limit_order_that_is_traded_through_is_filled_and_earns_the_rebate():
    limit, sweep = rest_at_one_venue([oracle.Print(3 * oracle.UNIT_NS, 0, 999_900, 25)])
    assert (limit["filled"], limit["rebate"], limit["cost"]) == (25, 0.05, 2499.95)
    assert limit["why"] == "void at the deadline, 15 not filled: nothing was ahead of it, and no more was sold there"
    assert sweep["filled"] == 15
