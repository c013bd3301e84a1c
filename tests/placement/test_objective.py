"""evaluate: a hand-worked example, and the independent package slippage-tca where its model is ours."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slippage.routing import Allocation, Outflow, RoutingProblem, Venue, allocation_cost, exhaustive_route

from sor.placement import Costs, evaluate, place


def test_every_column_of_table_2_by_hand() -> None:
    # A = 10 + (30, 50) + (20, 0) = 60, 60 of 50: then 10 too much twice; fills 40 and 10 on the mean
    parts = evaluate(
        10, [60, 20], np.array([[30.0, 50.0], [25.0, 0.0]]), 50, Costs(0.02, 0.003, [0.002, 0.001], 0.0005, 0.05, 0.04)
    )
    assert parts.fees == pytest.approx(2 * (0.023 * 10 - 0.022 * 40 - 0.021 * 10))
    assert parts.impact == pytest.approx(2 * 0.0005 * 90)
    assert parts.penalty == pytest.approx(2 * 0.04 * 10)
    assert parts.total == pytest.approx(parts.fees + parts.impact + parts.penalty)
    assert (parts.under_sz, parts.over_sz, parts.p_under, parts.p_over) == (0, 10, 0, 1)


def test_market_only_costs_spread_fee_and_theta() -> None:
    parts = evaluate(500, [0.0], np.array([[7.0, 9.0]]), 500, Costs(0.02, 0.003, [0.002], 0.0005, 0.05, 0.05))
    assert parts.total == pytest.approx(2.35)  # X^M of Table 1


def test_an_order_of_nothing_costs_nothing_per_share() -> None:
    assert evaluate(0, [0.0], np.array([[7.0]]), 0, Costs(0.02, 0.003, [0.002], 0, 0.05, 0.05)).total == 0


outflows = st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=4).filter(lambda weights: sum(weights) > 0)


@st.composite
def routing_problems(draw):
    """The package's problem with two independent venues, and ours: every pair of lots as often as it is likely."""
    weights = [draw(outflows), draw(outflows)]
    h, f, sweep, unwind = 0.02, 0.003, draw(st.integers(24, 90)) / 1e3, draw(st.integers(26, 90)) / 1e3
    rebates = [draw(st.integers(-5, 5)) / 1e3 for _ in weights]
    target = draw(st.integers(1, 5))
    venues = tuple(
        Venue(str(k), Outflow.from_counts(w), h + r) for k, (w, r) in enumerate(zip(weights, rebates, strict=True))
    )
    theirs = RoutingProblem(target, venues, taker_cost=h + f, sweep_cost=sweep, unwind_cost=unwind)
    lots = [[lot for lot, weight in enumerate(w) for _ in range(weight)] for w in weights]
    c = np.array(list(product(*lots)), dtype=float).T
    return theirs, c, target, Costs(h, f, rebates, 0.0, sweep, unwind)


@settings(deadline=None, max_examples=60)
@given(routing_problems(), st.integers(0, 5), st.integers(0, 3), st.integers(0, 3))
def test_the_parts_agree_with_slippage_tca(problem, market: int, first: int, second: int) -> None:
    theirs, c, order_sz, costs = problem
    expected = allocation_cost(theirs, Allocation(market, (first, second)))
    ours = evaluate(market, [first, second], c, order_sz, costs)
    assert ours.fees * order_sz / 100 == pytest.approx(expected.cross + expected.rebate, abs=1e-12)
    assert ours.penalty * order_sz / 100 == pytest.approx(expected.sweep + expected.unwind, abs=1e-12)
    assert ours.under_sz == pytest.approx(expected.expected_shortfall, abs=1e-12)
    assert ours.over_sz == pytest.approx(expected.expected_excess, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(routing_problems())
def test_the_optimum_agrees_with_the_exhaustive_search_of_slippage_tca(problem) -> None:
    theirs, c, order_sz, costs = problem
    answer = place(c, order_sz, costs, certify="bnb", time_limit=10)
    assert answer.certified
    assert answer.value == pytest.approx(exhaustive_route(theirs).cost.total, abs=2e-6 * order_sz)
