"""Speed of sor.placement.place and place_many, beside the paper's SGD and beside HiGHS on the same linear program.

OPENBLAS_NUM_THREADS=1 python -m benchmarks.bench_placement

Scenarios are the paper's (benchmarks/paper_tables.py). Of each problem the fastest of several calls counts, of several
problems the median; HiGHS is called once on one problem, for the relaxation alone.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from itertools import product
from statistics import median
from time import perf_counter
from typing import TypeVar

import numpy as np

from benchmarks.paper_tables import fillable, paper_costs
from benchmarks.relaxation_lp import solve_with_highs
from benchmarks.table import Row, show
from sor.placement import AssumptionWarning, Costs, Placement, evaluate, place, place_many
from sor.placement.costs import canonical
from sor.placement.relaxation import lower_bound

LANES = tuple(product((0.01, 0.03, 0.05), (0.02, 0.05, 0.10), (0.0002, 0.0005, 0.001)))  # the grid of config.py
LANE_SIZES, LANE_MS = (13, 500, 5_000), 0.30
EXCESS_MEAN, EXCESS_WORST = 0.1, 1.0  # per cent of the order at its largest cost
SIZES = (1_000, 2_000, 3_000)
Answer = TypeVar("Answer")
VENUES, SCENARIOS = 12, 1_000
BOUND_MS, LOCAL_MS, LARGE_MS = 15.0, 3.0, 200.0


def rows() -> list[Row]:
    """One row per claim: ours, what it stands beside, their ratio, the bar, and ok: answer right and bar met."""
    problems = [(fillable(VENUES, SCENARIOS, seed), order_sz) for order_sz in SIZES for seed in range(4)]
    return [_with_bound(problems), _without_bound(problems), _convex(problems), _tight(), _large(), *_many()]


def _with_bound(problems: list[tuple[np.ndarray, int]]) -> Row:
    """The default call; HiGHS solves the relaxation of one of the problems, whose bound must agree."""
    costs = paper_costs(VENUES)
    ms = [_best_ms(lambda c=c, s=s: place(c, s, costs))[0] for c, s in problems]
    c, order_sz = problems[-1]
    beside_ms, difference = _highs(np.minimum(c / order_sz, 1.0), costs)
    return {
        "name": "place, 12 venues, 1,000 scenarios, with bound",
        "ours": f"{median(ms):.1f} ms (slowest {max(ms):.1f})",
        "beside": f"HiGHS interior point, the bound alone {beside_ms:.0f} ms",
        "ratio": round(beside_ms / median(ms)),
        "bar": f"ours <= {BOUND_MS:g} ms",
        "ok": median(ms) <= BOUND_MS and difference <= 1e-6,
    }


def _without_bound(problems: list[tuple[np.ndarray, int]]) -> Row:
    """The same problems without a bound, and how far the paper's SGD stays above."""
    costs = paper_costs(VENUES)
    ours = [_best_ms(lambda c=c, s=s: place(c, s, costs, certify="none")) for c, s in problems]
    sgd = [_best_ms(lambda c=c, s=s: place(c, s, costs, method="sgd", certify="none")) for c, s in problems]
    excess = [(b.value - a.value) / abs(a.value) for (_, a), (_, b) in zip(ours, sgd, strict=True)]
    ms, sgd_ms = median(x for x, _ in ours), median(x for x, _ in sgd)
    return {
        "name": "place, 12 venues, 1,000 scenarios, no bound",
        "ours": f"{ms:.2f} ms (slowest {max(x for x, _ in ours):.2f})",
        "beside": f"SGD {sgd_ms:.2f} ms, {100 * median(excess):.1f} % dearer",
        "ratio": round(sgd_ms / ms, 2),
        "bar": f"ours <= {LOCAL_MS:g} ms",
        "ok": ms <= LOCAL_MS and min(excess) >= 0,
    }


def _convex(problems: list[tuple[np.ndarray, int]]) -> Row:
    """lambda_over below half_spread + rebate (A2 fails): convex, so every answer must be certified."""
    costs = paper_costs(VENUES)
    costs = Costs(costs.half_spread, costs.taker_fee, costs.rebates, costs.theta_queue, costs.lambda_under, 0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        found = [_best_ms(lambda c=c, s=s: place(c, s, costs)) for c, s in problems]
    return _certified_row("place, 12 venues, convex costs", found)


def _tight() -> Row:
    """An order small enough to be filled passively: the relaxation refuses nothing."""
    costs = paper_costs(VENUES)
    flows = [fillable(VENUES, SCENARIOS, seed) for seed in range(4)]
    return _certified_row(
        "place, 12 venues, tight relaxation", [_best_ms(lambda c=c: place(c, 1_000, costs)) for c in flows]
    )


def _certified_row(name: str, found: list[tuple[float, Placement]]) -> Row:
    """A row whose bar is that every answer is certified."""
    gaps = [answer.gap for _, answer in found]
    return {
        "name": name,
        "ours": f"{median(ms for ms, _ in found):.1f} ms, largest gap {max(gaps):.0e}",
        "beside": "",
        "ratio": "",
        "bar": "gap <= 1e-6, all",
        "ok": all(answer.certified for _, answer in found),
    }


def _large() -> Row:
    """50 venues, 10,000 scenarios: a local optimum."""
    c, costs = fillable(50, 10_000, 1), paper_costs(50)
    ms, answer = _best_ms(lambda: place(c, 12_000, costs, certify="none"))
    sgd_ms, sgd = _best_ms(lambda: place(c, 12_000, costs, method="sgd", certify="none"))
    return {
        "name": "place, 50 venues, 10,000 scenarios, no bound",
        "ours": f"{ms:.0f} ms",
        "beside": f"SGD {sgd_ms:.1f} ms, {100 * (sgd.value - answer.value) / abs(answer.value):.1f} % dearer",
        "ratio": round(sgd_ms / ms, 2),
        "bar": f"ours <= {LARGE_MS:g} ms",
        "ok": ms <= LARGE_MS and answer.value <= sgd.value,
    }


def _many() -> list[Row]:
    """Lanes of a router's grid: flow as it is recorded, in lots and often equal, and the paper's, no two alike."""
    lots = [_in_lots(seed) for seed in range(4)]
    paper = [np.floor(fillable(VENUES, 500, seed)) for seed in range(4)]
    return [_many_row("flow in lots", lots), _many_row("the paper's flow", paper)]


def _many_row(name: str, flows: list[np.ndarray]) -> Row:
    """27 lanes a call; beside it `place` with 10 starts, lane by lane, whose fractions of a share cost us the excess."""
    rebates, triples = np.linspace(-0.001, 0.003, VENUES), np.array(LANES)
    found, excess, beside_ms = {}, [], []
    for order_sz, c in product(LANE_SIZES, flows):
        sizes = np.full(len(LANES), order_sz)
        ms, (market_sz, limit_sz) = _best_ms(lambda c=c, s=sizes: place_many(c, s, 0.01, 0.003, rebates, triples))
        found.setdefault(order_sz, []).append(ms / len(LANES))
        for p in range(0, len(LANES), 4):
            over, under, theta = LANES[p]
            costs = Costs(0.01, 0.003, rebates, theta, under, over)
            start = perf_counter()
            best = _quietly(c, order_sz, costs)
            beside_ms.append(1e3 * (perf_counter() - start))
            ours = evaluate(market_sz[p], limit_sz[:, p], c, order_sz, costs).total
            excess.append((ours - best.per_share_cents) / canonical(costs).scale_px)
    slowest = max(median(ms) for ms in found.values())
    return {
        "name": f"place_many, 12 venues, 500 scenarios, {name}, {'/'.join(str(s) for s in LANE_SIZES)} shares",
        "ours": f"{'/'.join(f'{median(ms):.2f}' for ms in found.values())} ms per lane",
        "beside": f"place {median(beside_ms):.1f} ms; excess {np.mean(excess):.3f} %, worst {max(excess):.2f} %",
        "ratio": round(median(beside_ms) / slowest),
        "bar": f"<= {LANE_MS:g} ms, excess <= {EXCESS_MEAN:g} %, worst <= {EXCESS_WORST:g} %",
        "ok": slowest <= LANE_MS and np.mean(excess) <= EXCESS_MEAN and max(excess) <= EXCESS_WORST,
    }


def _in_lots(seed: int) -> np.ndarray:
    """Fillable flow like that of a recorded day: nothing, a few lots, or no end where the price fell through."""
    draw = np.random.default_rng(seed)
    pressure = np.repeat(draw.normal(size=125), 4)  # windows that overlap are alike
    own = np.repeat(draw.normal(size=(VENUES, 125)), 4, axis=1)
    strength = pressure + 0.6 * own
    lots = 100 * np.ceil(np.exp(draw.normal(size=own.shape)))
    return np.where(strength > 0.7, 2.0**31 - 1, np.where(strength > 0.1, lots, 0.0))


def _quietly(c: np.ndarray, order_sz: int, costs: Costs) -> Placement:
    """`place` from ten starts, with none of its warnings: many triples of a grid break A2 or A3."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        return place(c, order_sz, costs, starts=10, certify="none")


def _highs(c: np.ndarray, costs: Costs) -> tuple[float, float]:
    """Time of HiGHS on the relaxation, ms, and how far its optimum is from our bound, canonical units."""
    form, low, high = canonical(costs), np.zeros(len(c) + 1), np.ones(len(c) + 1)
    start = perf_counter()
    theirs = solve_with_highs(c, low, high, form)
    elapsed_ms = 1e3 * (perf_counter() - start)
    return elapsed_ms, abs(theirs - lower_bound(c, low, high, *form.terms, 1e-8, 100, np.inf, 0.0)[1])


def _best_ms(call: Callable[[], Answer], repeats: int = 7) -> tuple[float, Answer]:
    """Fastest of several calls, ms, after one to warm up: the machine's noise only ever adds."""
    answer, fastest = call(), np.inf
    for _ in range(repeats):
        start = perf_counter()
        call()
        fastest = min(fastest, perf_counter() - start)
    return 1e3 * fastest, answer


if __name__ == "__main__":
    sys.exit(show(rows()))
