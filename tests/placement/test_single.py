"""The closed form for one venue: Poisson, exponential and Pareto flow, and the empirical quantile."""

from math import exp, lgamma, log

import numpy as np
import pytest
from hypothesis import given, settings
from placement_cases import cheapest_whole, paper_costs, paper_flows, problems

from sor.errors import PlacementError
from sor.placement import AssumptionWarning, Costs, place, place_single


def poisson_inverse(mean: float):
    def inverse_cdf(level: float) -> int:
        count = int(mean - 20 * mean**0.5)  # what lies below weighs nothing, and exp(-mean) may be 0
        total = 0.0
        while True:
            total += exp(count * log(mean) - mean - lgamma(count + 1))
            if total >= level:
                return count
            count += 1

    return inverse_cdf


@pytest.mark.parametrize(("lambda_under", "expected"), [(0.05, (786, 214)), (0.0258, (730, 270))])
def test_poisson_flow_of_the_paper(lambda_under: float, expected: tuple[int, int]) -> None:
    # the paper prints (730, 270) but not its lambda_under; at the baseline's 0.05 formula (9) gives (786, 214)
    costs = paper_costs(1, lambda_under=lambda_under)
    assert place_single(1_000, 2_000, poisson_inverse(2_200), costs) == expected


def test_exponential_flow() -> None:
    # q = (0.04 + 0.003 + 0.002) / (0.05 + 0.02 + 0.002 + 0.0005) = 0.6206897; F^-1(q) = -2500 log(1 - q) = 2423.50
    market_sz, limit_sz = place_single(1_000, 2_000, lambda q: -2_500 * log(1 - q), paper_costs(1))
    assert limit_sz == pytest.approx(2_500 * log(0.0725 / 0.0275) - 2_000)
    assert market_sz + limit_sz == 1_000


def test_pareto_flow() -> None:
    # mean 2200, tail 5: scale 1760, F^-1(q) = 1760 (1 - q)^(-1/5) = 1760 * 2.636364^0.2
    _, limit_sz = place_single(1_000, 2_000, lambda q: 1_760 * (1 - q) ** -0.2, paper_costs(1))
    assert limit_sz == pytest.approx(1_760 * (29 / 11) ** 0.2 - 2_000)


@pytest.mark.parametrize(("queue_sz", "expected"), [(0, (0.0, 100.0)), (900, (100.0, 0.0))])
def test_the_limit_order_stays_between_nothing_and_everything(queue_sz: float, expected: tuple) -> None:
    assert place_single(100, queue_sz, lambda q: 500.0, paper_costs(1)) == expected


def test_a_level_outside_0_and_1_asks_for_no_quantile() -> None:
    def never(level: float) -> float:
        raise AssertionError(level)

    with pytest.warns(AssumptionWarning, match="A3"):
        assert place_single(100, 10, never, Costs(0.02, 0.003, [0.002], 0, 0.0, 0.05)) == (0.0, 100.0)
    with pytest.warns(AssumptionWarning, match="A1"):
        assert place_single(100, 10, never, Costs(0.001, 0.0, [-0.01], 0, 0.05, 0.05)) == (100.0, 0.0)


def test_what_the_closed_form_cannot_answer_is_refused() -> None:
    with pytest.raises(PlacementError, match="2 rebates; the closed form is for exactly 1 venue"):
        place_single(100, 10, lambda q: 0, paper_costs(2))
    with pytest.raises(PlacementError, match="both must be 0 or more"):
        place_single(-1, 10, lambda q: 0, paper_costs(1))
    with pytest.warns(AssumptionWarning), pytest.raises(PlacementError, match="needs it above 0"):
        place_single(1, 10, lambda q: 0, Costs(0.01, 0.003, [-0.05], 0, 0.0, 0.05))


def test_the_empirical_quantile_solves_the_sampled_problem() -> None:
    c = paper_flows(1)
    single, proved = place(c, 500, paper_costs(1)), place(c, 500, paper_costs(1), method="local", certify="bnb")
    assert (single.method, single.certified, single.gap) == ("single", True, 0)
    assert proved.certified
    assert single.value == pytest.approx(proved.value, rel=1e-5)


@settings(deadline=None)
@given(problems(most_venues=1))
def test_the_closed_form_is_never_beaten_by_whole_shares(problem) -> None:
    c, _, costs = problem
    answer = place(np.minimum(c, 12), 10, costs)
    assert answer.method == "single"
    assert answer.value == pytest.approx(cheapest_whole(np.minimum(c, 12), 10, costs), abs=1e-8)
