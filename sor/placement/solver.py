"""Where to place an order: how much to market, how much to post at each venue (Cont and Kukanov, arXiv 1210.1625).

The cost is a difference of convex functions (the paper's convexity proposition is false under its own assumptions), so
a point where no small move helps need not be optimal. Every answer therefore carries a lower bound, and `certified` says
whether the two meet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sor.errors import PlacementError
from sor.placement.costs import Canonical, Costs, canonical, finite, float_array
from sor.placement.local import descend, tighten
from sor.placement.relaxation import lower_bound
from sor.placement.search import MOST_VENUES, WORK_PER_S, cost, prove
from sor.placement.sgd import average_iterate, paper_step
from sor.placement.single import quantile_level, single_limit

METHODS = ("auto", "local", "sgd", "single")
CERTIFICATES = ("root", "bnb", "none")
BATCH = 1000  # scenarios in one relaxation: beyond 2,000 the interior point method stalls
GUESSED_ROUNDS = 40  # of the interior point method, to foresee its work
RADIUS = 0.001  # of the boxes around a descended point, in units of the order


@dataclass(frozen=True, eq=False)
class Placement:
    """An order's placement, its cost on the given scenarios, and how good that is known to be.

    Attributes
    ----------
    market_sz : float
        Shares to send to market now.
    limit_sz : float (K,)
        Shares to post at each venue.
    value : float
        Mean cost, USD against the mid; negative where spread and rebates earned exceed it.
    per_share_cents : float
        100 value / order size.
    lower_bound : float
        No placement with 0 <= M, L_k <= order size costs less on these scenarios, USD; -inf if none was computed.
    gap : float
        (value - lower_bound) / max(|value|, 1 % of the order size times the largest cost per share).
    certified : bool
        gap <= tol: optimal on these scenarios, to that tolerance. Of the flow's law they are a sample, whose error is
        far larger: evaluate on fresh scenarios before comparing.
    status : str
        "certified", "bounded" (a bound, but not close enough) or "local" (no bound).
    method : str
        What found the point: "nothing", "single", "relaxation", "local", "bnb" or "sgd".
    """

    market_sz: float
    limit_sz: np.ndarray
    value: float
    per_share_cents: float
    lower_bound: float
    gap: float
    certified: bool
    status: str
    method: str


@dataclass(frozen=True, eq=False)
class _Problem:
    """Scenarios in units of the order, costs in canonical form, and what is wanted."""

    c: np.ndarray
    costs: Costs
    form: Canonical
    tol: float

    def scale(self, value: float) -> float:
        """What a gap is measured against, canonical units."""
        return max(abs(value), 0.01)


@dataclass(frozen=True, eq=False)
class _Answer:
    """A point, its cost and the bound, canonical units."""

    x: np.ndarray
    value: float
    bound: float
    method: str


def place(
    c: np.ndarray,
    order_sz: float,
    costs: Costs,
    *,
    method: str = "auto",
    tol: float = 1e-6,
    starts: int = 5,
    certify: str = "root",
    time_limit: float = 1.0,
    seed: int = 0,
) -> Placement:
    """Split an order between the market and limit orders at K venues, at the least mean cost over N scenarios.

    Parameters
    ----------
    c : float (K, N)
        Fillable flow, shares: what a limit order of any size at venue k would have been given in scenario n, that is
        max(flow - queue ahead, 0). Venues of one scenario belong together.
    order_sz : float
        Shares to buy.
    costs : Costs
        With K rebates. An assumption of the paper that fails is an AssumptionWarning, never an error.
    method : {"auto", "local", "sgd", "single"}
        "auto": the closed form for one venue if A1 to A3 hold, else several local searches and the relaxation's point;
        "local": local searches only; "sgd": the paper's algorithm; "single": the closed form.
    tol : float
        Relative gap at which an answer counts as certified.
    starts : int
        Local searches: five fixed points, then random ones.
    certify : {"root", "bnb", "none"}
        "root": bound by one relaxation (beyond 2,000 scenarios by the mean of many, if `time_limit` lasts for them);
        "bnb": branch and bound, at most 5 venues and 2,000 scenarios; "none": no bound, faster.
    time_limit : float
        For the bound, nominal seconds of one core: work is counted, not timed, so that equal calls give equal answers.
    seed : int
        Of the random starts.

    Returns
    -------
    Placement

    Raises
    ------
    PlacementError
        Wrong shape, a number that is not finite, a negative size, an unknown or impossible option.
    """
    flow_sz, order_sz = _checked(c, order_sz, costs)
    _check_options(method, certify, tol, starts, time_limit, flow_sz.shape)
    costs.warn()
    form = canonical(costs)
    if order_sz == 0:
        return _report(np.zeros(len(flow_sz) + 1), 0.0, 0.0, "nothing", 0.0, form, tol)
    problem = _Problem(np.minimum(flow_sz / order_sz, 1.0), costs, form, tol)
    answer = _solve(problem, method, starts, seed)
    if certify != "none" and answer.bound == -np.inf:
        answer = _bounded(problem, answer, certify, time_limit, method)
    x = _useful(problem, answer.x)
    return _report(x, cost(problem.c, x, form), answer.bound, answer.method, order_sz, form, tol)


def whole_shares(placement: Placement, c: np.ndarray, order_sz: float, costs: Costs, tol: float = 1e-6) -> Placement:
    """The placement in whole shares: limit orders to the nearest, the market order down or up, whichever costs less.

    Cost and gap are those of the rounded sizes; the bound stands.
    """
    flow_sz, order_sz = _checked(c, order_sz, costs)
    form = canonical(costs)
    if order_sz == 0:
        return placement
    limit_sz = np.round(placement.limit_sz)
    scenarios = flow_sz / order_sz
    candidates = [
        np.append(market_sz, limit_sz) / order_sz
        for market_sz in (np.floor(placement.market_sz), np.ceil(placement.market_sz))
    ]
    value, x = min(((cost(scenarios, x, form), x) for x in candidates), key=lambda pair: pair[0])
    bound = placement.lower_bound / (order_sz * form.scale_px)
    rounded = _report(x, value, bound, placement.method, order_sz, form, tol)
    return replace(rounded, market_sz=float(np.round(rounded.market_sz)), limit_sz=limit_sz)


def _solve(problem: _Problem, method: str, starts: int, seed: int) -> _Answer:
    """A good point by the method asked for; a bound only where the method proves its point."""
    venues = len(problem.c)
    single = venues == 1 and (method == "single" or (method == "auto" and not problem.costs.violated))
    if venues == 0:
        x = np.array([1.0 if problem.form.market < problem.form.short else 0.0])
        value = cost(problem.c, x, problem.form)
        return _Answer(x, value, value, "nothing")
    if single:
        limit = single_limit(problem.c[0], quantile_level(problem.costs))
        x = np.array([1.0 - limit, limit])
        value = cost(problem.c, x, problem.form)
        return _Answer(x, value, -np.inf if problem.costs.violated else value, "single")
    if method == "sgd":
        x = _sgd(problem)
        return _Answer(x, cost(problem.c, x, problem.form), -np.inf, "sgd")
    return _local(problem, starts, seed)


def _local(problem: _Problem, starts: int, seed: int) -> _Answer:
    """Descend from several points, tighten at the best, and be no worse than any simple allocation."""
    form = problem.form
    found = [descend(problem.c, x, *form.terms, 200) for x in _starts(problem, starts, seed)]
    found += [(x, cost(problem.c, x, form)) for x in _simple(len(problem.c))]
    x, value = min(found, key=lambda pair: pair[1])
    if form.short > 0:
        tol = 0.1 * problem.tol * problem.scale(value)
        x, value = tighten(problem.c, x, *form.terms, RADIUS, tol, 30)
    return _Answer(x, value, -np.inf, "local")


def _starts(problem: _Problem, starts: int, seed: int) -> list[np.ndarray]:
    """Points to descend from; none lies on M + sum L = S, a kink in which descents get stuck."""
    venues = len(problem.c)
    fixed = [
        np.append(0.0, np.ones(venues)),
        _sgd(problem),
        np.append(0.0, np.full(venues, 1.2 / venues)),
        np.full(venues + 1, 1.1 / (venues + 1)),
        np.append(0.5, np.full(venues, 0.7 / venues)),
    ]
    draw = np.random.default_rng(seed)
    return [*fixed, *(draw.random(venues + 1) for _ in range(starts - len(fixed)))][:starts]


def _simple(venues: int) -> list[np.ndarray]:
    """All to market, equal parts with and without a market order, all at one venue, all at every venue, nothing."""
    one_venue = list(np.eye(venues + 1))
    equal = [np.full(venues + 1, 1 / (venues + 1)), np.append(0.0, np.full(venues, 1 / venues))]
    return [*one_venue, *equal, np.append(0.0, np.ones(venues)), np.zeros(venues + 1)]


def _sgd(problem: _Problem) -> np.ndarray:
    """The paper's answer, canonical units."""
    form, costs = problem.form, problem.costs
    lambdas = costs.theta_queue + costs.lambda_under + costs.lambda_over
    market_px = (costs.half_spread + costs.taker_fee + lambdas) / form.scale_px
    fill_px = (costs.half_spread + costs.rebates + lambdas) / form.scale_px
    step = paper_step(problem.c.shape[1], market_px, fill_px)
    return average_iterate(problem.c, *form.terms, step)


def _bounded(problem: _Problem, answer: _Answer, certify: str, time_limit: float, method: str) -> _Answer:
    """The answer with a lower bound, and with a better point where the search for the bound met one."""
    c, form = problem.c, problem.form
    if form.short <= 0:
        return replace(answer, bound=_trivial_bound(problem))
    allowed = problem.tol * problem.scale(answer.value)
    work = c.size * GUESSED_ROUNDS
    if c.shape[1] > 2 * BATCH:
        affordable = work <= time_limit * WORK_PER_S
        return replace(answer, bound=_batch_bound(problem, allowed)) if affordable else answer
    if certify == "bnb":
        x, value, bound = prove(c, answer.x, form, 0.9 * allowed, 0.05 * allowed, time_limit * WORK_PER_S)
        return replace(answer, bound=bound) if method == "sgd" else _Answer(x, value, bound, "bnb")
    box = np.zeros(len(c) + 1), np.ones(len(c) + 1)
    x, bound, *_ = lower_bound(c, *box, *form.terms, 0.2 * allowed, 100, answer.value, 0.02)
    value = cost(c, x, form)
    if value < answer.value and method == "auto":
        return _Answer(x, value, bound, "relaxation")
    return replace(answer, bound=bound)


def _batch_bound(problem: _Problem, allowed: float) -> float:
    """Mean of the bounds of disjoint batches: the minimum of a mean is not below the mean of the minima."""
    c, form = problem.c, problem.form
    box = np.zeros(len(c) + 1), np.ones(len(c) + 1)
    parts = np.array_split(np.arange(c.shape[1]), -(-c.shape[1] // BATCH))
    total = 0.0
    for part in parts:
        batch = np.ascontiguousarray(c[:, part])
        total += len(part) * lower_bound(batch, *box, *form.terms, allowed, 100, np.inf, 0.0)[1]
    return total / c.shape[1]


def _trivial_bound(problem: _Problem) -> float:
    """Every term at its least: for costs under which missing shares are rewarded, where the relaxation has no sense."""
    form = problem.form
    fills = np.minimum(form.fill, 0.0) @ problem.c.mean(axis=1)
    return float(min(form.market, 0.0) + np.minimum(form.theta, 0.0).sum() + fills + form.short - form.over)


def _useful(problem: _Problem, x: np.ndarray) -> np.ndarray:
    """x without the part of a limit order that no scenario would fill, where posting is not rewarded."""
    if not len(problem.c) or problem.costs.theta_queue < 0:
        return x
    return np.append(x[0], np.minimum(x[1:], problem.c.max(axis=1)))


def _report(
    x: np.ndarray, value: float, bound: float, method: str, order_sz: float, form: Canonical, tol: float
) -> Placement:
    """The answer in shares and USD."""
    bound = min(bound, value)  # they may cross by rounding
    gap = (value - bound) / max(abs(value), 0.01) if order_sz else 0.0
    limit_sz = x[1:] * order_sz
    limit_sz.flags.writeable = False
    status = "certified" if gap <= tol else "bounded" if np.isfinite(bound) else "local"
    per_share = form.scale_px if order_sz else 0.0
    return Placement(
        market_sz=float(x[0] * order_sz),
        limit_sz=limit_sz,
        value=float(value * order_sz * form.scale_px),
        per_share_cents=float(100 * value * per_share),
        lower_bound=float(bound * order_sz * form.scale_px),
        gap=float(gap),
        certified=status == "certified",
        status=status,
        method=method,
    )


def _checked(c: np.ndarray, order_sz: float, costs: Costs) -> tuple[np.ndarray, float]:
    """Scenarios and order size if they can be used together with the costs."""
    order_sz = finite("order_sz", order_sz, "shares")
    if order_sz < 0:
        raise PlacementError(f"order_sz is {order_sz:g}; it must be 0 or more shares")
    flow_sz = float_array("c", c)
    venues = len(costs.rebates)
    if flow_sz.ndim != 2 or flow_sz.shape[0] != venues or not (flow_sz.shape[1] or not venues):
        raise PlacementError(
            f"c has shape {flow_sz.shape}; it must be (K, N) with K = {venues}, one row per rebate, and N >= 1 scenarios"
        )
    if not flow_sz.size:
        return np.zeros((venues, 1)), order_sz
    least = flow_sz.min()  # NaN if any is
    if not (least >= 0 and flow_sz.max() < np.inf):
        bad = np.argwhere(~(np.isfinite(flow_sz) & (flow_sz >= 0)))[0]
        raise PlacementError(
            f"c[{bad[0]}, {bad[1]}] is {flow_sz[tuple(bad)]}; it must be a finite number of shares >= 0"
        )
    return flow_sz, order_sz


def _check_options(
    method: str, certify: str, tol: float, starts: int, time_limit: float, shape: tuple[int, ...]
) -> None:
    """Refuse options that do not exist or do not fit the scenarios."""
    if method not in METHODS:
        raise PlacementError(f"method is {method!r}; it must be one of {', '.join(METHODS)}")
    if certify not in CERTIFICATES:
        raise PlacementError(f"certify is {certify!r}; it must be one of {', '.join(CERTIFICATES)}")
    if certify == "bnb" and (shape[0] > MOST_VENUES or shape[1] > 2 * BATCH):
        raise PlacementError(
            f"c has shape {shape}; certify='bnb' is for at most {MOST_VENUES} venues and {2 * BATCH} scenarios"
        )
    if method == "single" and shape[0] != 1:
        raise PlacementError(f"c has {shape[0]} venues; method='single' is for exactly 1")
    if not finite("tol", tol, "relative gap") > 0:
        raise PlacementError(f"tol is {tol!r}; it must be above 0")
    if not (isinstance(starts, int | np.integer) and starts >= 1):
        raise PlacementError(f"starts is {starts!r}; it must be a whole number of 1 or more")
    if not finite("time_limit", time_limit, "seconds") >= 0:
        raise PlacementError(f"time_limit is {time_limit!r}; it must be 0 or more seconds")
