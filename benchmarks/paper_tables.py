"""Tables 1 and 2 of Cont and Kukanov (arXiv 1210.1625v4, p. 26) beside ours: their SGD again, and the solver.

    python -m benchmarks.paper_tables                                  both tables, about 40 s
    python -m benchmarks.paper_tables --figure docs/placement.png      and the first as a picture

For each order size and number of venues: `SGD` averages the paper's algorithm over SEEDS samples of 1,000 scenarios, as
in the paper; `place` solves on one larger sample. Both are then evaluated on the same FRESH scenarios that neither has
seen, as are the two simple allocations: all at one venue (X_L) and equal parts (X_E). The paper's own figures are printed
to two decimals, with noise of the 1,000 scenarios they were evaluated on. `proved` is the gap that branch and bound
leaves on 1,000 scenarios. The second table splits the costs; without a mark ours, with ' the paper's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import utils
from sor import cli, plot
from sor.placement import Costs, Evaluation, evaluate, place, simulate_flows

MEAN_FLOW_SZ, COMMON_SHARE, QUEUE_SZ = 2_200, 0.6, 2_000
SEEDS = 20
SAMPLE, TRAINING, FRESH = 1_000, 20_000, 100_000
BETTER_BY, SGD_WITHIN = 0.02, 0.05  # cents per share: the bars
PRINTED = {  # (S, K): W of X*, of X_L, of X_E; then fees, impact, penalty, under, over, p_under, p_over of X*
    (500, 1): (1.54, 2.19, 0.83, 1.49, 0.05, 0.00, 0, 0, 100, 0),
    (500, 2): (-0.85, 2.22, -0.57, -1.35, 0.06, 0.44, 40, 4, 71, 29),
    (500, 3): (-1.99, 2.21, -1.02, -2.18, 0.05, 0.14, 6, 9, 20, 80),
    (500, 4): (-2.06, 2.20, -1.25, -2.23, 0.05, 0.11, 0, 11, 3, 97),
    (500, 5): (-2.05, 2.22, -1.40, -2.24, 0.05, 0.14, 0, 14, 1, 100),
    (1000, 1): (2.07, 3.65, 2.27, 2.02, 0.05, 0.00, 0, 0, 100, 0),
    (1000, 2): (0.77, 3.64, 1.28, 0.41, 0.06, 0.30, 51, 9, 74, 26),
    (1000, 3): (-0.07, 3.65, 0.09, -0.48, 0.06, 0.36, 64, 7, 73, 27),
    (1000, 4): (-0.90, 3.64, -0.88, -1.38, 0.06, 0.42, 71, 12, 67, 34),
    (1000, 5): (-1.64, 3.65, -1.29, -2.07, 0.06, 0.38, 55, 21, 51, 49),
    (5000, 1): (2.22, 4.81, 3.44, 2.17, 0.05, 0.00, 2, 0, 100, 0),
    (5000, 2): (2.10, 4.81, 3.60, 1.85, 0.05, 0.19, 192, 0, 100, 0),
    (5000, 3): (1.95, 4.81, 3.55, 1.66, 0.06, 0.23, 230, 0, 99, 1),
    (5000, 4): (1.79, 4.81, 3.39, 1.46, 0.06, 0.26, 256, 1, 98, 2),
    (5000, 5): (1.62, 4.82, 3.22, 1.30, 0.07, 0.26, 257, 2, 96, 4),
}
COLORS = 128  # of the picture: enough for its smooth edges
CAPTION = (
    f"Flows are simulated, as in the paper: Poisson, {MEAN_FLOW_SZ:,} shares a venue, {100 * COMMON_SHARE:.0f} % of it common "
    f"to all, behind a queue of {QUEUE_SZ:,}. Below 0 rebates and half-spreads earn more than is paid. X* is printed to two "
    f"decimals, evaluated on {SAMPLE:,} scenarios; SGD is the mean of {SEEDS} runs, it and all else evaluated on the same "
    f"{FRESH:,} fresh ones. Equal parts: to market and to every venue. Each panel has its own scale."
)


@dataclass(frozen=True)
class Result:
    """What one row of the tables needs, cents per share."""

    order_sz: int
    venues: int
    ours: Evaluation
    sgd: float
    one_venue: float
    equal: float
    market_part: float
    limit_part: float
    proved: float

    @property
    def paper(self) -> tuple[float, ...]:
        return PRINTED[self.order_sz, self.venues]

    @property
    def ok(self) -> bool:
        return self.ours.total <= self.paper[0] + BETTER_BY and abs(self.sgd - self.paper[0]) <= SGD_WITHIN


def main(argv: Sequence[str] | None = None) -> int:
    """Print both tables and draw the first if asked to; 1 if a row misses a bar, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--figure", type=_png, metavar="FILE.png", help="draw Table 1 to this file")
    path = parser.parse_args(argv).figure
    results = [solve(order_sz, venues) for order_sz, venues in PRINTED]
    print(table_1(results))
    print()
    print(table_2(results))
    if path:
        draw(results, path)
    return 0 if all(result.ok for result in results) else 1


def _png(name: str) -> Path:
    """A file that can be drawn to."""
    path = Path(name)
    if path.suffix != ".png" or path.is_dir():
        raise argparse.ArgumentTypeError(f"{name!r} must be a file whose name ends in .png")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{name!r}: there is no folder {str(path.parent)!r}")
    return path


def draw(results: Sequence[Result], path: Path) -> None:
    """Table 1 as a picture, whole or not at all."""
    picture = plot.placement_figure(cents_of_lines(results), CAPTION)
    with utils.atomic(path) as temporary, open(temporary, "wb") as file:
        plot.save(picture, file, "png", colors=COLORS)


def cents_of_lines(results: Sequence[Result]) -> dict[str, dict[tuple[int, int], float]]:
    """Cents per share of every line of the picture, by order size and venues."""
    rows = {(x.order_sz, x.venues): x for x in results}
    return {
        "paper": {key: x.paper[0] for key, x in rows.items()},
        "sgd": {key: x.sgd for key, x in rows.items()},
        "place": {key: x.ours.total for key, x in rows.items()},
        "equal": {key: x.equal for key, x in rows.items()},
    }


def paper_costs(venues: int) -> Costs:
    """The paper's baseline (p. 21), USD per share."""
    return Costs(0.02, 0.003, np.full(venues, 0.002), 0.0005, 0.05, 0.05)


def fillable(venues: int, scenarios: int, seed: int) -> np.ndarray:
    """Fillable flow of the paper's baseline, shares (venues, scenarios)."""
    return np.maximum(simulate_flows(venues, scenarios, MEAN_FLOW_SZ, COMMON_SHARE, seed) - QUEUE_SZ, 0.0)


def solve(order_sz: int, venues: int) -> Result:
    """One row: train, prove, and evaluate on fresh scenarios."""
    costs = paper_costs(venues)
    fresh = fillable(venues, FRESH, 10_000 + venues)
    best = place(fillable(venues, TRAINING, 1), order_sz, costs, certify="none")
    proof = place(fillable(venues, SAMPLE, 0), order_sz, costs, certify="bnb", tol=1e-5, time_limit=60)

    def cents(market_sz: float, limit_sz: np.ndarray) -> float:
        return evaluate(market_sz, limit_sz, fresh, order_sz, costs).total

    descents = [
        place(fillable(venues, SAMPLE, seed), order_sz, costs, method="sgd", certify="none") for seed in range(SEEDS)
    ]
    return Result(
        order_sz=order_sz,
        venues=venues,
        ours=evaluate(best.market_sz, best.limit_sz, fresh, order_sz, costs),
        sgd=float(np.mean([cents(x.market_sz, x.limit_sz) for x in descents])),
        one_venue=cents(0.0, np.append(order_sz, np.zeros(venues - 1))),
        equal=cents(order_sz / (venues + 1), np.full(venues, order_sz / (venues + 1))),
        market_part=100 * best.market_sz / order_sz,
        limit_part=100 * float(best.limit_sz.mean()) / order_sz,
        proved=proof.gap,
    )


def table_1(results: list[Result]) -> str:
    """Cost of the allocations, cents per share, and ours in % of the order."""
    lines = [
        "Table 1: cents per share; M and mean L_k of place in % of the order",
        "| S | K | X* paper | SGD | place | M % | L_k % | proved | X_L paper | X_L | X_E paper | X_E | ok |",
        "| --- " * 13 + "|",
    ]
    for x in results:
        lines.append(
            f"| {x.order_sz} | {x.venues} | {x.paper[0]:.2f} | {x.sgd:.3f} | {x.ours.total:.3f} | {x.market_part:.1f} | "
            f"{x.limit_part:.1f} | {x.proved:.0e} | {x.paper[1]:.2f} | {x.one_venue:.3f} | {x.paper[2]:.2f} | {x.equal:.3f} | "
            f"{x.ok} |"
        )
    return "\n".join(lines)


def table_2(results: list[Result]) -> str:
    """Parts of the cost of the optimum, ours and the paper's; a different point, so different parts."""
    lines = [
        "Table 2: of place, and (') of the paper's X*; cents per share, shares, %",
        "| S | K | fees | ' | impact | ' | penalty | ' | under | ' | over | ' | P(under) | ' | P(over) | ' |",
        "| --- " * 16 + "|",
    ]
    for x in results:
        ours, paper = x.ours, x.paper[3:]
        cents = zip((ours.fees, ours.impact, ours.penalty), paper[:3], strict=True)
        rest = zip((ours.under_sz, ours.over_sz, 100 * ours.p_under, 100 * ours.p_over), paper[3:], strict=True)
        cells = [f"{a:.2f} | {b:.2f}" for a, b in cents] + [f"{a:.0f} | {b:.0f}" for a, b in rest]
        lines.append(f"| {x.order_sz} | {x.venues} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(cli.run(main))
