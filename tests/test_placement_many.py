"""Many lanes at once: hand-worked answers, what must hold for every lane, and `place` and brute force as oracles."""

import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sor.errors import PlacementError
from sor.placement import AssumptionWarning, Costs, evaluate, place, place_many

H, F = 0.02, 0.003  # the paper's half spread and taker fee
PAPER = (0.05, 0.05, 0.0005)  # lambda_over, lambda_under, theta_queue
A3_FAILS = (0.05, 0.02, 0.0005)  # lambda_under below h + f
GRID = tuple(product((0.01, 0.03, 0.05), (0.02, 0.05, 0.10), (0.0002, 0.0005, 0.001)))
NO_END = 2.0**31 - 1  # the price fell through: an order of any size is filled


def one(c, order_sz: int, triple=PAPER, rebates=None, half_spread: float = H, taker_fee: float = F) -> list[int]:
    """The answer for one lane: market first, then the venues."""
    rebates = [0.002] * len(c) if rebates is None else rebates
    market_sz, limit_sz = place_many(c, [order_sz], half_spread, taker_fee, rebates, [triple])
    return [int(market_sz[0]), *map(int, limit_sz[:, 0])]


def cents(x, c, order_sz: int, costs: Costs) -> float:
    """Cost per share of a placement (M, L_1, .. L_K)."""
    return evaluate(x[0], np.asarray(x[1:], float), np.asarray(c, float), order_sz, costs).total


def priced(triple, rebates, half_spread: float = H, taker_fee: float = F) -> Costs:
    over, under, theta = triple
    return Costs(half_spread, taker_fee, rebates, theta, under, over)


def largest_cents(costs: Costs) -> float:
    """The unit of every excess: 100 times the largest cost per share."""
    h, f = costs.half_spread, costs.taker_fee
    each = (h + f, costs.theta_queue, costs.lambda_over, costs.lambda_under, *(h + costs.rebates))
    return 100 * max(map(abs, each))


def best_of_place(c, order_sz: int, costs: Costs) -> float:
    """Cents per share of `place`, proven where it can be; its sizes are no whole shares."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        certify = "bnb" if len(c) <= 3 else "none"
        return place(c, order_sz, costs, starts=10, certify=certify).per_share_cents


def in_lots(seed: int, venues: int = 12, scenarios: int = 500) -> np.ndarray:
    """Nothing, a few lots or no end, venues correlated: flow as it is recorded, many scenarios equal."""
    draw = np.random.default_rng(seed)
    strength = draw.normal(size=scenarios) + 0.6 * draw.normal(size=(venues, scenarios))
    lots = 100 * np.ceil(np.exp(draw.normal(size=(venues, scenarios))))
    return np.where(strength > 0.7, NO_END, np.where(strength > 0.1, lots, 0.0))


def heavy_tailed(seed: int, venues: int = 12, scenarios: int = 500) -> np.ndarray:
    """Log-normal flow, venues correlated, many zeros: hardly two scenarios equal."""
    draw = np.random.default_rng(seed)
    flow = 0.6 * draw.normal(size=scenarios) + 0.8 * draw.normal(size=(venues, scenarios))
    filled = draw.random((venues, scenarios)) < draw.uniform(0.1, 0.8, (venues, 1))
    return np.floor(draw.uniform(50, 400, (venues, 1)) * np.exp(1.5 * flow)) * filled


def test_a_venue_that_always_fills_gets_the_whole_order() -> None:
    assert one([[100, 150, NO_END]], 100) == [0, 100]


def test_flow_that_never_comes_leaves_the_market_and_no_limit_order() -> None:
    assert one(np.zeros((2, 5)), 100) == [100, 0, 0]
    assert one([[0, 0], [70, 70]], 100, rebates=[0.03, 0.002]) == [30, 0, 70]


def test_one_venue_is_the_closed_form() -> None:
    # q = (2h + f + r) / (lambda_under + h + r + theta) = 0.045 / 0.0725 = 0.62: 2 of 4 scenarios fill less than 30, 3 at most 30
    assert one([[10, 20, 30, 40]], 100) == [70, 30]
    assert one([[40, 10, 30, 20]], 25) == [0, 25]


def test_where_missing_shares_cost_less_than_the_market_nothing_is_bought_there() -> None:
    assert one(np.zeros((2, 3)), 100, A3_FAILS) == [0, 0, 0]
    assert one([[60, 60]], 100, A3_FAILS) == [0, 60]


def test_it_leaves_the_spurious_minimum() -> None:
    # tests/placement/test_local.py: (0, 100, 20) is a local minimum, (0, 100, 60) costs -1.6 USD
    assert one([[40, 80, 100], [150, 40, 0]], 100, (0.1, 0.05, 0.0005)) == [0, 100, 60]


def test_equal_scenarios_count_as_often_as_they_come() -> None:
    # as above q = 0.62: of 0, 50 the quantile is 50; of 0, 0, 50 it is 0
    assert one([[0, 50]], 80) == [30, 50]
    assert one([[0, 50] * 50], 80) == [30, 50]
    assert one([[0, 0, 50] * 50], 80) == [80, 0]


def test_order_of_nothing() -> None:
    market_sz, limit_sz = place_many([[5.0, 9.0]], [0, 4, 0], H, F, [0.002], [PAPER] * 3)
    assert market_sz.tolist() == [0, 0, 0]
    assert limit_sz.tolist() == [[0, 4, 0]]


def test_no_venue_no_lane() -> None:
    market_sz, limit_sz = place_many(np.zeros((0, 7)), [50, 50], H, F, [], [PAPER, A3_FAILS])
    assert market_sz.tolist() == [50, 0]
    assert limit_sz.shape == (0, 2)
    market_sz, limit_sz = place_many([[1.0, 2.0]], [], H, F, [0.002], [])
    assert (market_sz.shape, limit_sz.shape) == ((0,), (1, 0))
    assert market_sz.dtype == limit_sz.dtype == np.int64


def test_an_order_of_two_billion_shares() -> None:
    size = 2_000_000_000
    assert one([[NO_END, NO_END], [0, 5_000]], size) == [0, size, 0]
    # 0.62 as above, in units of 100 million shares
    assert one(1e8 * np.array([[10, 20, 30, 40]]), size) == [0, size]
    assert one(1e8 * np.array([[2, 4, 6, 8]]), size) == [14 * 10**8, 6 * 10**8]


def test_flow_in_fractions_of_a_share_is_answered_in_whole_shares() -> None:
    # (70, 30): 0.023 * 70 - 0.022 * 30 + 0.0005 * 100 = 1.0
    # (69, 31) with 30.4: 0.023 * 69 - 0.022 * 30.4 + 0.0005 * 100.6 + 0.05 * 0.6 = 0.9985; with 30.1: 1.02025
    assert one([[30.4, 30.4]], 100) == [69, 31]
    assert one([[30.1, 30.1]], 100) == [70, 30]


def test_costs_of_nothing_and_rewards_for_missing_shares_are_answered() -> None:
    assert min(one([[10, 20]], 30, (0.0, 0.0, 0.0), half_spread=0.0, taker_fee=0.0, rebates=[0.0])) >= 0
    assert one([[10, 20]], 30, (0.02, -0.05, 0.0), rebates=[-0.03]) == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": [[1.0, -1.0]]}, "negative"),
        ({"c": [[1.0, np.nan]]}, "not finite"),
        ({"c": [1.0, 2.0]}, "shape"),
        ({"c": np.zeros((1, 0))}, "N >= 1"),
        ({"c": np.zeros((2, 4))}, "one row per rebate"),
        ({"rebates": [np.inf]}, "finite"),
        ({"rebates": 0.1}, "finite numbers"),
        ({"order_sz": [10.5]}, "whole number"),
        ({"order_sz": [-1]}, "whole number"),
        ({"order_sz": [2**51]}, "whole number"),
        ({"order_sz": [np.nan]}, "whole number"),
        ({"order_sz": 10}, "one size per lane"),
        ({"triples": [PAPER, PAPER]}, "one triple per order size"),
        ({"triples": [(0.05, np.nan, 0.0)]}, "not finite"),
        ({"half_spread": np.nan}, "half_spread"),
        ({"taker_fee": "free"}, "taker_fee"),
    ],
)
def test_what_cannot_be_placed_is_refused(change: dict, message: str) -> None:
    good = {"c": [[1.0, 2.0]], "order_sz": [10], "half_spread": H, "taker_fee": F, "rebates": [0.0], "triples": [PAPER]}
    with pytest.raises(PlacementError, match=message):
        place_many(**{**good, **change})


milli = st.integers(0, 120).map(lambda n: n / 1e3)
triples = st.tuples(milli, milli, st.sampled_from([0.0, 0.0002, 0.001, 0.003]))


@st.composite
def flows(draw):
    """Scenarios (K, N) with many zeros and ties, and rebates."""
    venues, scenarios = draw(st.integers(1, 4)), draw(st.integers(1, 10))
    row = st.lists(st.sampled_from([0, 0, 1, 3, 10, 40, 55.5, 100, NO_END]), min_size=scenarios, max_size=scenarios)
    rebates = st.lists(st.integers(-6, 6), min_size=venues, max_size=venues)
    return np.array([draw(row) for _ in range(venues)], float), np.array(draw(rebates)) / 1e3


@settings(deadline=None, max_examples=100)
@given(flows(), st.sampled_from([1, 7, 50, 1_000, 2_000_000_000]), triples, st.integers(1, 30), st.integers(-2, 4))
def test_whole_shares_in_the_box_never_dearer_than_simple_allocations(problem, order_sz, triple, h, f) -> None:
    c, rebates = problem
    x = one(c, order_sz, triple, rebates, h / 1e3, f / 1e3)
    assert min(x) >= 0
    assert max(x) <= order_sz
    assert all(limit == 0 for limit, row in zip(x[1:], c, strict=True) if not row.any())
    costs = priced(triple, rebates, h / 1e3, f / 1e3)
    ours = cents(x, c, order_sz, costs)
    rows = len(c) + 1
    simple = [*np.eye(rows), np.append(0, np.ones(len(c))), np.zeros(rows)]
    equal = np.full(rows, order_sz // rows)
    assert ours <= min(cents(order_sz * y, c, order_sz, costs) for y in simple) + 1e-9
    assert ours <= cents(equal, c, order_sz, costs) + 1e-9


@settings(deadline=None, max_examples=40)
@given(flows(), st.lists(st.tuples(st.sampled_from([0, 1, 7, 50, 1_000]), triples), min_size=1, max_size=6))
def test_a_lane_alone_is_the_lane_among_others(problem, lanes) -> None:
    c, rebates = problem
    market_sz, limit_sz = place_many(c, [s for s, _ in lanes], H, F, rebates, [t for _, t in lanes])
    for p, (order_sz, triple) in enumerate(lanes):
        assert [market_sz[p], *limit_sz[:, p]] == one(c, order_sz, triple, rebates)


@pytest.mark.parametrize("scenarios", [in_lots, heavy_tailed])
def test_a_lane_of_the_grid_alone_is_the_lane_among_others(scenarios) -> None:
    c, rebates = scenarios(3), np.linspace(-0.002, 0.003, 12)
    sizes = np.random.default_rng(0).choice([13, 500, 4_999, 5_000], len(GRID))
    market_sz, limit_sz = place_many(c, sizes, H, F, rebates, GRID)
    for p in range(0, len(GRID), 5):
        assert [market_sz[p], *limit_sz[:, p]] == one(c, int(sizes[p]), GRID[p], rebates)
    again = place_many(c, sizes, H, F, rebates, GRID)
    assert (again[0] == market_sz).all()
    assert (again[1] == limit_sz).all()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([13, 200, 1_000]), triples, st.integers(1, 30))
def test_close_to_what_branch_and_bound_proves(seed, venues, order_sz, triple, h) -> None:
    c = in_lots(seed, venues, 60)
    rebates = np.random.default_rng(seed).integers(-5, 5, venues) / 1e3
    costs = priced(triple, rebates, h / 1e3)
    ours = cents(one(c, order_sz, triple, rebates, h / 1e3), c, order_sz, costs)
    whole = 0.5 * (venues + 1) / order_sz  # rounding to whole shares alone
    assert ours - best_of_place(c, order_sz, costs) <= (0.01 + whole) * largest_cents(costs)


@pytest.mark.parametrize("scenarios", [in_lots, heavy_tailed])
def test_twelve_venues_come_close_to_the_slow_solver(scenarios) -> None:
    excess = []
    for seed, order_sz in product(range(4), (13, 500, 5_000)):
        c, rebates = scenarios(seed), np.random.default_rng(seed).uniform(-0.003, 0.003, 12)
        for triple in GRID[seed::9]:
            costs = priced(triple, rebates, 0.01)
            ours = cents(one(c, order_sz, triple, rebates, 0.01), c, order_sz, costs)
            excess.append((ours - best_of_place(c, order_sz, costs)) / largest_cents(costs))
    assert np.mean(excess) <= 0.001
    assert max(excess) <= 0.01


def test_tiny_orders_against_all_placements_in_whole_shares() -> None:
    draw = np.random.default_rng(5)
    excess = []
    for _ in range(300):
        venues, order_sz = draw.integers(1, 4), int(draw.integers(1, 6))
        c = draw.choice([0, 0, 1, 2, 3, 5, 9], (venues, draw.integers(1, 7))).astype(float)
        triple, rebates = (draw.integers([0, 1, 0], [121, 121, 4])) / 1e3, draw.integers(-3, 5, venues) / 1e3
        ours, least = in_whole_shares(one(c, order_sz, triple, rebates), c, order_sz, priced(triple, rebates))
        excess.append((ours - least) / largest_cents(priced(triple, rebates)))
    assert np.mean(np.array(excess) > 1e-9) <= 0.02
    assert np.mean(excess) <= 0.001
    assert max(excess) <= 0.05


def in_whole_shares(x: list[int], c: np.ndarray, order_sz: int, costs: Costs) -> tuple[float, float]:
    """Cents per share of x, and the least of all placements in whole shares."""
    grid = np.array(list(product(range(order_sz + 1), repeat=len(c) + 1)), float)
    fills = np.minimum(c, grid[:, 1:, None])
    missing = order_sz - grid[:, :1] - fills.sum(axis=1)
    under, over = np.maximum(missing, 0).mean(axis=1), np.maximum(-missing, 0).mean(axis=1)
    usd = (costs.half_spread + costs.taker_fee) * grid[:, 0] - fills.mean(axis=2) @ (costs.half_spread + costs.rebates)
    usd += costs.theta_queue * (grid.sum(axis=1) + under) + costs.lambda_under * under + costs.lambda_over * over
    at = int(np.flatnonzero((grid == x).all(axis=1))[0])
    assert cents(x, c, order_sz, costs) == pytest.approx(100 * usd[at] / order_sz)
    return 100 * usd[at] / order_sz, 100 * usd.min() / order_sz
