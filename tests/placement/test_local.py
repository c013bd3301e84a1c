"""Local search, and the spurious minimum that it must not be left in."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from placement_cases import paper_costs, paper_flows, problems, usd

from sor.placement import Costs, place
from sor.placement.costs import canonical
from sor.placement.local import descend, tighten
from sor.placement.search import cost

# The paper claims the cost is convex, so that no such case could exist; A1, A2 and A3 hold. Three scenarios:
TRAP_FLOWS = np.array([[40.0, 80.0, 100.0], [150.0, 40.0, 0.0]])
TRAP_COSTS = Costs(0.02, 0.003, [0.002, 0.002], 0.0005, 0.05, 0.1)
# (0, 100, 20): bought 60, 100, 100; -0.022 * 86.667 + 0.0005 * (120 + 13.333) + 0.05 * 13.333 = -1.17333
# (0, 100, 60): bought 100, 120, 100; -0.022 * 106.667 + 0.0005 * 160 + 0.1 * 6.667 = -1.6
TRAP, OPTIMUM = np.array([0.0, 1.0, 0.2]), -1.6


def test_no_small_move_leaves_the_spurious_minimum() -> None:
    at = usd(0, [100, 20], TRAP_FLOWS, 100, TRAP_COSTS)
    assert at == pytest.approx(-1.1733333)
    moves = product(range(4), range(-3, 1), range(-3, 4))  # M >= 0 and L_1 <= 100
    around = [usd(m, [100 + a, 20 + b], TRAP_FLOWS, 100, TRAP_COSTS) for m, a, b in moves]
    assert min(around) == pytest.approx(at)


def test_a_local_search_stays_in_the_spurious_minimum_and_place_does_not() -> None:
    form, flows = canonical(TRAP_COSTS), np.minimum(TRAP_FLOWS / 100, 1.0)
    _, stuck = tighten(flows, TRAP, *form.terms, 0.01, 1e-9, 20)
    assert stuck * 100 * form.scale_px == pytest.approx(-1.1733333)
    answer = place(TRAP_FLOWS, 100, TRAP_COSTS, certify="bnb")
    assert answer.certified
    assert answer.value == pytest.approx(OPTIMUM)
    assert (answer.market_sz, *answer.limit_sz) == pytest.approx((0, 100, 60), abs=1e-3)
    assert place(TRAP_FLOWS, 100, TRAP_COSTS, certify="none").value == pytest.approx(OPTIMUM)


def test_branch_and_bound_leaves_it_even_from_there() -> None:
    from sor.placement.search import prove

    form, flows = canonical(TRAP_COSTS), np.minimum(TRAP_FLOWS / 100, 1.0)
    _, value, bound = prove(flows, TRAP, form, 1e-7, 1e-8, 1e8)
    assert value * 100 * form.scale_px == pytest.approx(OPTIMUM, abs=1e-5)
    assert value - bound <= 1e-7


@pytest.mark.parametrize(("venues", "order_sz"), [(3, 500), (5, 1_000), (12, 1_000), (12, 3_000)])
def test_both_steps_only_ever_improve(venues: int, order_sz: int) -> None:
    c, form = np.minimum(paper_flows(venues) / order_sz, 1.0), canonical(paper_costs(venues))
    start = np.append(0.0, np.ones(venues))
    x, descended = descend(c, start, *form.terms, 200)
    y, tightened = tighten(c, x, *form.terms, 0.001, 1e-8, 30)
    assert tightened <= descended < cost(c, start, form)
    assert cost(c, y, form) == pytest.approx(tightened)
    assert (y >= 0).all()
    assert (y <= 1).all()


@settings(deadline=None, max_examples=60)
@given(problems())
def test_local_searches_end_in_the_box_with_the_value_they_report(problem) -> None:
    c, order_sz, costs = problem
    flows, form = np.minimum(c / order_sz, 1.0), canonical(costs)
    for point in (np.append(0.0, np.ones(len(c))), np.append(1.0, np.zeros(len(c))), np.full(len(c) + 1, 0.3)):
        x, value = descend(flows, point, *form.terms, 100)
        assert value == pytest.approx(cost(flows, x, form), abs=1e-12)
        y, tighter = tighten(flows, x, *form.terms, 0.01, 1e-9, 20)
        assert tighter - 1e-12 <= value <= cost(flows, point, form) + 1e-12
        assert tighter == pytest.approx(cost(flows, y, form), abs=1e-12)
        assert y.min() >= 0
        assert y.max() <= 1
