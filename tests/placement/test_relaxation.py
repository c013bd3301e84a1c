"""The lower bound: against HiGHS on the same program, convex cases, boxes, and shares of every kind."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import paper_costs, paper_flows, problems

from benchmarks.relaxation_lp import solve_with_highs
from sor.placement.costs import canonical
from sor.placement.objective import value_only
from sor.placement.relaxation import lower_bound


def bound(c: np.ndarray, low: np.ndarray, high: np.ndarray, form, tol: float = 1e-9):
    return lower_bound(c, low, high, *form.terms, tol, 100, np.inf, 0.0)


def unit_box(venues: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(venues + 1), np.ones(venues + 1)


@pytest.mark.parametrize("lambda_over", [0.05, 0.02])
@pytest.mark.parametrize(("venues", "order_sz"), [(1, 500), (3, 1_000), (5, 2_000)])
def test_the_bound_is_that_of_highs(venues: int, order_sz: int, lambda_over: float) -> None:
    c, form = np.minimum(paper_flows(venues, 150) / order_sz, 1.0), canonical(paper_costs(venues, lambda_over))
    _, ours, primal, _, _ = bound(c, *unit_box(venues), form)
    assert ours == pytest.approx(solve_with_highs(c, *unit_box(venues), form), abs=2e-8)
    assert ours <= primal


@settings(deadline=None, max_examples=60)
@given(problems(), st.data())
def test_on_any_box_the_bound_is_that_of_highs_and_below_the_cost(problem, data) -> None:
    c, order_sz, costs = problem
    flows, form = np.minimum(c / order_sz, 1.0), canonical(costs)
    edges = (
        np.array(
            [sorted(data.draw(st.sampled_from([(0, 4), (1, 2), (0, 1), (3, 4), (1, 4)]))) for _ in range(len(c) + 1)]
        )
        / 4
    )
    low, high = edges[:, 0].copy(), edges[:, 1].copy()
    x, ours, _, refused, _ = bound(flows, low, high, form)
    assert ours == pytest.approx(solve_with_highs(flows, low, high, form), abs=1e-7)
    assert (x >= low).all() and (x <= high).all() and (refused >= 0).all()  # noqa: PT018
    inside = low + np.array([data.draw(st.floats(0, 1)) for _ in low]) * (high - low)
    assert ours <= value_only(flows, inside, *form.terms, np.empty(c.shape[1])) + 1e-9


@settings(deadline=None, max_examples=60)
@given(problems(convex=True))
def test_without_a_concave_part_point_and_bound_meet(problem) -> None:
    c, order_sz, costs = problem
    flows, form = np.minimum(c / order_sz, 1.0), canonical(costs)
    if form.short <= 0:
        return
    x, ours, *_ = bound(flows, *unit_box(len(c)), form)
    assert value_only(flows, x, *form.terms, np.empty(c.shape[1])) - ours <= 1e-7


def test_the_bound_holds_wherever_the_iterations_stop() -> None:
    c, form = np.minimum(paper_flows(4, 300) / 1_000, 1.0), canonical(paper_costs(4))
    exact = bound(c, *unit_box(4), form)[1]
    early = [lower_bound(c, *unit_box(4), *form.terms, 1e-12, rounds, np.inf, 0.0)[1] for rounds in range(12)]
    assert max(early) <= exact + 1e-9
    assert early[0] < early[-1]


def test_a_rival_that_the_bound_cannot_reach_ends_the_iterations_early() -> None:
    c, form = np.minimum(paper_flows(3) / 500, 1.0), canonical(paper_costs(3))
    full = lower_bound(c, *unit_box(3), *form.terms, 1e-9, 100, np.inf, 0.0)
    short = lower_bound(c, *unit_box(3), *form.terms, 1e-9, 100, full[1] + 0.01, 0.02)
    assert short[-1] < full[-1]
    assert full[1] - 0.02 * 0.011 <= short[1] <= full[1]
