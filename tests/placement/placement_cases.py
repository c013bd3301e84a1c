"""Costs, scenarios and oracles that the tests of sor.placement share."""

from itertools import product

import numpy as np
from hypothesis import strategies as st

from sor.placement import Costs, evaluate, simulate_flows


def paper_costs(venues: int, lambda_over: float = 0.05, lambda_under: float = 0.05) -> Costs:
    """The paper's baseline (p. 21)."""
    return Costs(0.02, 0.003, [0.002] * venues, 0.0005, lambda_under, lambda_over)


def paper_flows(venues: int, scenarios: int = 1_000, seed: int = 0) -> np.ndarray:
    """Fillable flow of the paper's baseline, shares."""
    return np.maximum(simulate_flows(venues, scenarios, 2_200, 0.6, seed) - 2_000, 0.0)


def usd(market_sz: float, limit_sz, c: np.ndarray, order_sz: float, costs: Costs) -> float:
    """Mean cost by the paper's definition, USD."""
    return evaluate(market_sz, limit_sz, c, order_sz, costs).total * order_sz / 100


def cheapest_whole(c: np.ndarray, order_sz: int, costs: Costs) -> float:
    """Least cost of all placements in whole shares, 0 <= M, L_k <= order_sz: brute force, USD."""
    sizes = range(order_sz + 1)
    return min(usd(m, np.array(limits), c, order_sz, costs) for m, *limits in product(sizes, repeat=1 + len(c)))


@st.composite
def problems(draw, most_venues: int = 3, convex: bool = False, keep_assumptions: bool = True):
    """Scenarios (K, N) with many ties and zeros, an order size, and costs in milli-dollars per share."""
    venues = draw(st.integers(1, most_venues))
    scenarios = draw(st.integers(1, 8))
    flows = st.lists(st.sampled_from([0, 0, 1, 3, 10, 40, 55, 100, 250]), min_size=scenarios, max_size=scenarios)
    c = np.array([draw(flows) for _ in range(venues)], dtype=float)
    h, f, theta = draw(st.integers(1, 20)), draw(st.integers(-1, 5)), draw(st.integers(0, 3))
    rebates = [draw(st.integers(-min(h, 4) + 1, 4)) for _ in range(venues)]
    over = draw(st.integers(-h, h + min(rebates)) if convex else st.integers(h + max(rebates) + 1, 120))
    under = draw(st.integers(max(h + f, 0) + 1, 120))
    if not keep_assumptions:
        over, under = draw(st.integers(0, 60)), draw(st.integers(1, 60))
    costs = Costs(h / 1e3, f / 1e3, np.array(rebates) / 1e3, theta / 1e3, under / 1e3, over / 1e3)
    return c, draw(st.sampled_from([1, 7, 50, 100, 1_000])), costs
