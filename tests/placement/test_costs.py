"""Costs: what is refused, which assumption fails, and the canonical form against the definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from placement_cases import paper_costs, problems, usd

from sor.errors import PlacementError, SorError
from sor.placement import AssumptionWarning, Costs, place
from sor.placement.costs import canonical
from sor.placement.objective import value_gradient, value_only


def test_the_papers_baseline_breaks_no_assumption() -> None:
    assert paper_costs(3).violated == ()


@pytest.mark.parametrize(
    ("costs", "name"),
    [
        (Costs(0.01, 0.003, [-0.02], 0, 0.05, 0.05), "A1: half_spread"),
        (Costs(0.02, 0.003, [0.002], 0, 0.05, 0.022), "A2: lambda_over is 0.022"),
        (Costs(0.02, 0.003, [0.002], 0, 0.023, 0.05), "A3: lambda_under is 0.023"),
    ],
)
def test_an_assumption_that_fails_is_a_warning_with_its_name_and_numbers(costs: Costs, name: str) -> None:
    with pytest.warns(AssumptionWarning, match=name):
        place([[100.0, 20.0]], 50, costs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((float("nan"), 0.003, [0.002], 0, 0.05, 0.05), "half_spread is nan; it must be a finite number"),
        ((0.02, "x", [0.002], 0, 0.05, 0.05), "taker_fee is 'x'"),
        ((0.02, 0.003, [float("inf")], 0, 0.05, 0.05), "rebates is .*; it must be K finite numbers"),
        ((0.02, 0.003, 0.002, 0, 0.05, 0.05), "rebates is 0.002"),
        ((0.02, 0.003, ["x"], 0, 0.05, 0.05), "rebates is .*numbers"),
        ((0.02, 0.003, [0.002], None, 0.05, 0.05), "theta_queue is None"),
    ],
)
def test_an_impossible_cost_is_refused_with_what_it_must_be(arguments: tuple, message: str) -> None:
    with pytest.raises(PlacementError, match=message) as caught:
        Costs(*arguments)
    assert isinstance(caught.value, SorError)


def test_costs_do_not_change_after_birth() -> None:
    with pytest.raises(ValueError, match="read-only"):
        paper_costs(2).rebates[0] = 1.0


@given(problems(keep_assumptions=False), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_the_canonical_form_is_the_papers_cost(problem, point: list[float]) -> None:
    c, order_sz, costs = problem
    x, form = np.array(point[: 1 + len(c)]), canonical(costs)
    value = value_only(np.minimum(c / order_sz, 1.0), x, *form.terms, np.empty(c.shape[1]))
    scale = order_sz * form.scale_px
    assert value * scale == pytest.approx(usd(x[0] * order_sz, x[1:] * order_sz, c, order_sz, costs), abs=1e-9 * scale)


@given(problems(), st.lists(st.floats(0.01, 0.99), min_size=4, max_size=4))
def test_the_gradient_is_the_slope_of_the_value(problem, point: list[float]) -> None:
    c, order_sz, costs = problem
    flows, form = np.minimum(c / order_sz, 1.0), canonical(costs)
    x = np.array(point[: 1 + len(c)])
    spare, gradient = np.empty(c.shape[1]), np.empty(len(x))
    value = value_gradient(flows, x, *form.terms, gradient, spare)
    assert value == pytest.approx(value_only(flows, x, *form.terms, spare), abs=1e-12)
    short = 1 - x[0] - np.minimum(flows, x[1:, None]).sum(axis=0)
    step = 1e-6
    if np.abs(short).min() < 10 * step or np.abs(flows - x[1:, None]).min() < 10 * step:
        return  # in a kink the slopes to both sides differ
    for i in range(len(x)):
        moved = x.copy()
        moved[i] += step
        slope = (value_only(flows, moved, *form.terms, spare) - value) / step
        assert slope == pytest.approx(gradient[i], abs=1e-7)
