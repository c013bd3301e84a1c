"""place: the paper's cases, edge cases, brute force, what is refused, and properties over random problems."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import cheapest_whole, paper_costs, paper_flows, problems, usd

from sor.errors import PlacementError
from sor.placement import AssumptionWarning, Costs, place, whole_shares


def simple_costs(c: np.ndarray, order_sz: float, costs: Costs) -> list[float]:
    """All to market, equal parts, all at one venue, all everywhere, USD."""
    venues = len(c)
    part = order_sz / (venues + 1)
    posts = [*(order_sz * np.eye(venues)), np.full(venues, order_sz / venues), np.full(venues, order_sz)]
    return [
        usd(order_sz, np.zeros(venues), c, order_sz, costs),
        usd(part, np.full(venues, part), c, order_sz, costs),
        *(usd(0.0, post, c, order_sz, costs) for post in posts),
    ]


@pytest.mark.parametrize(
    ("order_sz", "venues", "printed"),
    [(500, 1, 1.54), (500, 3, -1.99), (1_000, 2, 0.77), (1_000, 5, -1.64), (5_000, 4, 1.79)],
)
def test_better_than_the_papers_table_1_on_fresh_scenarios(order_sz: int, venues: int, printed: float) -> None:
    costs = paper_costs(venues)
    answer = place(paper_flows(venues, 5_000), order_sz, costs, certify="none")
    fresh = usd(answer.market_sz, answer.limit_sz, paper_flows(venues, 20_000, seed=1), order_sz, costs)
    assert 100 * fresh / order_sz <= printed + 0.02


def test_the_papers_sgd_gives_its_table_1() -> None:
    cents = []
    for seed in range(20):
        answer = place(paper_flows(1, seed=seed), 500, paper_costs(1), method="sgd", certify="none")
        cents.append(usd(answer.market_sz, answer.limit_sz, paper_flows(1, 20_000, 99), 500, paper_costs(1)) / 5)
    assert np.mean(cents) == pytest.approx(1.54, abs=0.05)
    assert place(paper_flows(1), 500, paper_costs(1)).per_share_cents < 0.75


def test_with_an_interior_market_order_the_shortfall_has_the_papers_probability() -> None:
    # eq. (10): P(A < S) = (h + f + theta + lambda_over) / (lambda_under + lambda_over + theta) = 0.7313
    answer = place(paper_flows(3), 1_000, paper_costs(3))
    bought = answer.market_sz + np.minimum(paper_flows(3), answer.limit_sz[:, None]).sum(axis=0)
    assert (bought < 1_000 - 1e-6).mean() <= 0.0735 / 0.1005 <= (bought < 1_000 + 1e-2).mean()


@pytest.mark.parametrize("venues", [2, 3])
def test_branch_and_bound_certifies_the_papers_case(venues: int) -> None:
    answer = place(paper_flows(venues, 300), 1_000, paper_costs(venues), certify="bnb", time_limit=30)
    assert (answer.status, answer.method) == ("certified", "bnb")
    assert 0 <= answer.gap <= 1e-6


def test_twelve_venues_are_certified_when_the_relaxation_is_tight() -> None:
    answer = place(paper_flows(12), 1_000, paper_costs(12))
    assert answer.certified
    assert answer.per_share_cents == pytest.approx(-2.15, abs=1e-4)  # every share filled passively


def test_twelve_venues_are_certified_when_the_cost_is_convex() -> None:
    with pytest.warns(AssumptionWarning, match="A2"):
        answer = place(paper_flows(12), 3_000, paper_costs(12, lambda_over=0.02))
    assert answer.certified


def test_a_gap_that_stays_open_is_not_called_certified() -> None:
    answer = place(paper_flows(12), 3_000, paper_costs(12))
    assert answer.status == "bounded"
    assert not answer.certified
    assert 0.001 < answer.gap < 0.05
    assert answer.lower_bound < answer.value


def test_no_bound_is_asked_for() -> None:
    answer = place(paper_flows(3), 500, paper_costs(3), certify="none")
    assert (answer.status, answer.certified, answer.lower_bound, answer.gap) == ("local", False, -np.inf, np.inf)


def test_sgd_keeps_its_point_and_gets_an_honest_gap() -> None:
    best = place(paper_flows(2), 500, paper_costs(2), certify="bnb", tol=1e-5, time_limit=20)
    sgd = place(paper_flows(2), 500, paper_costs(2), method="sgd", certify="bnb", tol=1e-5, time_limit=20)
    assert (sgd.method, sgd.certified) == ("sgd", False)
    assert sgd.lower_bound == pytest.approx(best.lower_bound, rel=1e-4)
    assert sgd.value > best.value


def test_many_scenarios_are_bounded_in_batches_if_time_allows() -> None:
    c, costs = paper_flows(2, 5_000), paper_costs(2)
    batched, skipped = place(c, 1_000, costs, time_limit=5), place(c, 1_000, costs, time_limit=0)
    assert batched.status == "bounded"
    assert batched.lower_bound < batched.value == skipped.value
    assert skipped.status == "local"


def test_equal_calls_give_equal_answers() -> None:
    calls = [place(paper_flows(4), 1_000, paper_costs(4), starts=8, seed=3) for _ in range(2)]
    assert calls[0].value == calls[1].value
    assert (calls[0].limit_sz == calls[1].limit_sz).all()


class TestEdges:
    def test_no_flow_anywhere_goes_to_market(self) -> None:
        answer = place(np.zeros((3, 10)), 500, paper_costs(3))
        assert (answer.market_sz, answer.limit_sz.tolist()) == (500, [0, 0, 0])
        assert answer.certified
        assert answer.per_share_cents == pytest.approx(2.35)

    def test_no_flow_and_no_price_of_posting_posts_nothing(self) -> None:
        answer = place(np.zeros((2, 3)), 500, Costs(0.02, 0.003, [0.002] * 2, 0.0, 0.05, 0.05))
        assert (answer.market_sz, answer.limit_sz.tolist()) == (500, [0, 0])

    def test_an_order_of_nothing(self) -> None:
        answer = place(paper_flows(2, 10), 0, paper_costs(2))
        assert (answer.market_sz, answer.limit_sz.tolist(), answer.value) == (0, [0, 0], 0)
        assert answer.certified

    def test_no_venue(self) -> None:
        answer = place(np.zeros((0, 5)), 100, paper_costs(0))
        assert (answer.market_sz, answer.limit_sz.shape, answer.certified) == (100, (0,), True)
        assert answer.value == pytest.approx(2.35)

    def test_where_missing_shares_are_cheap_they_are_left_and_the_warning_says_so(self) -> None:
        with pytest.warns(AssumptionWarning, match=r"A3: .*leaving shares unfilled is cheaper"):
            answer = place(np.zeros((2, 4)), 100, Costs(0.02, 0.003, [0.002] * 2, 0.0005, 0.01, 0.05))
        assert answer.market_sz == pytest.approx(0, abs=1e-3)
        assert answer.certified

    def test_missing_shares_that_are_rewarded(self) -> None:
        with pytest.warns(AssumptionWarning):
            answer = place(paper_flows(2, 50), 100, Costs(0.02, 0.003, [0.002] * 2, 0.0, -0.1, 0.05))
        assert answer.lower_bound <= answer.value
        assert answer.value <= -0.1 * 100 + 1e-9

    def test_one_scenario_is_filled_exactly(self) -> None:
        answer = place([[30.0], [50.0]], 100, paper_costs(2), certify="bnb")
        assert answer.certified
        assert (answer.market_sz, *answer.limit_sz) == pytest.approx((20, 30, 50), abs=1e-3)

    def test_paying_to_post_is_allowed(self) -> None:
        answer = place(paper_flows(2), 500, Costs(0.02, 0.003, [-0.01, 0.002], 0.0005, 0.05, 0.05))
        assert answer.limit_sz[0] < answer.limit_sz[1]

    def test_whole_shares(self) -> None:
        c, costs = paper_flows(3), paper_costs(3)
        exact = place(c, 1_000, costs)
        whole = whole_shares(exact, c, 1_000, costs)
        sizes = np.append(whole.market_sz, whole.limit_sz)
        assert (sizes == np.round(sizes)).all()
        assert np.abs(sizes - np.append(exact.market_sz, exact.limit_sz)).max() <= 1
        assert whole.value == pytest.approx(usd(whole.market_sz, whole.limit_sz, c, 1_000, costs))
        assert exact.lower_bound <= whole.value <= exact.value + 0.05 * 4
        assert whole_shares(place(c, 0, costs), c, 0, costs).market_sz == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": [[1.0, np.nan]]}, r"c\[0, 1\] is nan; it must be a finite number of shares >= 0"),
        ({"c": [[np.inf, 1.0]]}, r"c\[0, 0\] is inf"),
        ({"c": [[1.0, -2.0]]}, r"c\[0, 1\] is -2"),
        ({"c": [1.0, 2.0]}, r"c has shape \(2,\); it must be \(K, N\) with K = 1"),
        ({"c": [[1.0], [2.0]]}, r"c has shape \(2, 1\)"),
        ({"c": np.zeros((1, 0))}, r"c has shape \(1, 0\).*N >= 1"),
        ({"c": [["x"]]}, "c is .*; it must hold numbers"),
        ({"order_sz": -1}, "order_sz is -1; it must be 0 or more"),
        ({"order_sz": np.nan}, "order_sz is nan"),
        ({"method": "best"}, "method is 'best'; it must be one of auto, local, sgd, single"),
        ({"certify": "yes"}, "certify is 'yes'"),
        ({"tol": 0}, "tol is 0"),
        ({"starts": 0}, "starts is 0"),
        ({"time_limit": -1}, "time_limit is -1"),
        ({"c": np.ones((6, 2)), "costs": paper_costs(6), "certify": "bnb"}, "at most 5 venues"),
        ({"c": np.ones((2, 2)), "costs": paper_costs(2), "method": "single"}, "exactly 1"),
    ],
)
def test_what_is_refused_says_what_it_must_be(change: dict, message: str) -> None:
    call = {"c": [[10.0, 20.0]], "order_sz": 100, "costs": paper_costs(1)} | change
    with pytest.raises(PlacementError, match=message):
        place(**call)


@settings(deadline=None, max_examples=80)
@given(problems(most_venues=2, keep_assumptions=False))
def test_small_cases_equal_brute_force_over_whole_shares(problem) -> None:
    # with one or two venues every kink of the cost is at whole numbers (the rows of ones are intervals), so the
    # continuous optimum of whole flows is whole
    c, _, costs = problem
    order_sz = 6
    c = np.minimum(c, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        answer = place(c, order_sz, costs, certify="bnb", time_limit=20)
    assert answer.certified
    assert answer.value == pytest.approx(cheapest_whole(c, order_sz, costs), abs=2e-6 * order_sz * 0.12)


@settings(deadline=None, max_examples=80)
@given(problems())
def test_never_above_a_simple_allocation_nor_below_the_bound(problem) -> None:
    c, order_sz, costs = problem
    answer = place(c, order_sz, costs)
    slack = 1e-9 * order_sz
    assert answer.lower_bound <= answer.value <= min(simple_costs(c, order_sz, costs)) + slack
    assert answer.value == pytest.approx(usd(answer.market_sz, answer.limit_sz, c, order_sz, costs), abs=slack)
    assert 0 <= answer.market_sz <= order_sz
    assert answer.limit_sz.min() >= 0
    assert answer.limit_sz.max() <= order_sz
    assert answer.certified == (answer.gap <= 1e-6)


@settings(deadline=None, max_examples=60)
@given(problems(), st.data())
def test_no_placement_costs_less_than_the_bound(problem, data) -> None:
    c, order_sz, costs = problem
    answer = place(c, order_sz, costs)
    point = [data.draw(st.floats(0, 1)) * order_sz for _ in range(len(c) + 1)]
    assert usd(point[0], point[1:], c, order_sz, costs) >= answer.lower_bound - 1e-9 * order_sz


@settings(deadline=None, max_examples=40)
@given(problems(convex=True))
def test_convex_cases_are_certified(problem) -> None:
    c, order_sz, costs = problem
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        assert place(c, order_sz, costs).certified


@settings(deadline=None, max_examples=30)
@given(problems(), st.sampled_from([0.5, 2.0, 1024.0]))
def test_shares_and_money_have_no_unit(problem, factor: float) -> None:
    c, order_sz, costs = problem
    answer = place(c, order_sz, costs)
    more_shares = place(factor * c, factor * order_sz, costs)
    assert more_shares.value == pytest.approx(factor * answer.value, rel=1e-9)
    assert more_shares.limit_sz == pytest.approx(factor * answer.limit_sz)
    h, f, r, *rest = (getattr(costs, name) for name in costs.__dataclass_fields__)
    dearer = place(c, order_sz, Costs(factor * h, factor * f, factor * r, *(factor * price for price in rest)))
    assert dearer.value == pytest.approx(factor * answer.value, rel=1e-9)
    assert dearer.gap == pytest.approx(answer.gap, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(problems(), st.randoms())
def test_the_order_of_venues_and_scenarios_does_not_matter(problem, random) -> None:
    c, order_sz, costs = problem
    venues, scenarios = list(range(c.shape[0])), list(range(c.shape[1]))
    random.shuffle(venues)
    random.shuffle(scenarios)
    h, f, r, *rest = (getattr(costs, name) for name in costs.__dataclass_fields__)
    answer = place(c, order_sz, costs, certify="bnb", time_limit=20)
    moved = place(c[venues][:, scenarios], order_sz, Costs(h, f, r[venues], *rest), certify="bnb", time_limit=20)
    assert moved.value == pytest.approx(answer.value, abs=3e-6 * order_sz * 0.12)


@settings(deadline=None, max_examples=40)
@given(problems(most_venues=2), st.integers(0, 1), st.integers(1, 5))
def test_a_higher_rebate_never_costs_more(problem, venue: int, more: int) -> None:
    c, order_sz, costs = problem
    h, f, r, *rest = (getattr(costs, name) for name in costs.__dataclass_fields__)
    higher = r.copy()
    higher[venue % len(c)] += more / 1e3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        before = place(c, order_sz, costs, certify="bnb", time_limit=20)
        after = place(c, order_sz, Costs(h, f, higher, *rest), certify="bnb", time_limit=20)
    assert after.value <= before.value + 2e-6 * order_sz * 0.13
