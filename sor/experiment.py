"""One order, every strategy, the parameter grid and the floor: everything `output.json` and the picture are made of.

Pure: market and order in, results out. Cash is exact, in micro-dollars, until it is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sor import market as markets
from sor import metrics, policies, routing
from sor.book import CROSSED, EMPTY, LOCKED
from sor.clairvoyant import clairvoyant
from sor.errors import ReplayError
from sor.market import Market
from sor.orders import LIMIT, Order, Taken
from sor.policies import POLICIES
from sor.queue import Flows
from sor.routing import Triples

BASELINES = ("best_ask", "twap", "vwap")
MOST_CASH = 9e12  # USD; 2**63 micro-dollars are a little more
ONE_DRAW = "one order on one day, with the best of the grid for that very order: one draw, not a claim; see evaluation"
SEED_SECTIONS = ("best_parameters", "optimized", "baselines", "savings_vs_baselines_bps")  # of the trial's output
PARAMETERS = ("lambda_over", "lambda_under", "theta_queue")


@dataclass(frozen=True)
class Grid:
    """The policy's cost at every parameter triple, G of them."""

    triples: Triples
    total_e6: np.ndarray  # int64 (G,) micro-dollars
    candidates: int  # triples that differ in what the policy reads: the columns that were replayed

    @property
    def best(self) -> int:
        """Index of the cheapest triple, the first of equals."""
        return int(np.argmin(self.total_e6))

    @property
    def distinct_outcomes(self) -> int:
        """How many different costs there are."""
        return len(np.unique(self.total_e6))


@dataclass(frozen=True)
class Experiment:
    """The results of one order."""

    policy: str
    order: Order
    arrival_mid_px: float  # USD per share
    taken: dict[str, Taken]  # of the policy and of every baseline
    grid: Grid
    floor_e6: int  # clairvoyant cost, micro-dollars
    floor_filled_sz: int


def run(market: Market, order: Order, policy: str, triples: Triples) -> Experiment:
    """Trade the order with the policy at every triple, with every baseline, and find the floor."""
    refuse_overflow(market, order)
    flows = routing.flows_of(market, order)
    grid = search(market, order, policy, triples, flows)
    terminal = markets.terminal(market, order.window, order.penalty_px)
    floor_e6, floor_sz = clairvoyant(market.updates, market.fees_e6, order.window, order.size, terminal, order.rule)
    return Experiment(
        policy=policy,
        order=order,
        arrival_mid_px=markets.arrival_mid_px(market, order.window),
        taken={
            policy: policies.run(policy, market, order, (triples[grid.best],), flows=flows),
            **{name: policies.run(name, market, order, flows=flows) for name in BASELINES if name != policy},
        },
        grid=grid,
        floor_e6=floor_e6,
        floor_filled_sz=floor_sz,
    )


def refuse_overflow(market: Market, order: Order) -> None:
    """ReplayError where the dearest way to buy the order is beyond the int64 micro-dollars that cash is counted in.

    Limit orders at every venue may fill together: then it is bought once more at each of them.
    """
    dearest_px = (
        int(market.updates.ask_px_e4.max()) / 1e4 + (order.penalty_px or float(np.nanmax(market.nbbo.spread_px))) + 1
    )
    most_cash = order.size * dearest_px * (1 + int(market.routable.sum()))
    if most_cash >= MOST_CASH:
        raise ReplayError(
            f"buying {order.size} shares could cost {most_cash:,.0f} USD at the dearest ask shown, all limit orders filled; "
            f"it must stay below {MOST_CASH:,.0f} USD: choose a smaller --order-size"
        )


def search(market: Market, order: Order, policy: str, triples: Triples, flows: Flows) -> Grid:
    """Cost of the policy at every triple, in one pass over the events; triples it cannot tell apart are replayed once."""
    reads = [PARAMETERS.index(name) for name in POLICIES[policy].reads]
    _, first, column = np.unique(np.array(triples)[:, reads], axis=0, return_index=True, return_inverse=True)
    lanes = tuple(triples[i] for i in first)
    total_e6 = policies.run(policy, market, order, lanes, flows=flows, record=False).total_e6
    return Grid(triples, total_e6[column.ravel()], len(lanes))


def section(taken: Taken, experiment: Experiment, market: Market) -> dict[str, object]:
    """One strategy's part of output.json; its fields are those of docs/output.schema.json."""
    size, mid = experiment.order.size, experiment.arrival_mid_px
    total_cash = int(taken.total_e6[0]) / 1e6
    return {
        "total_cash": total_cash,
        "avg_fill_px": round(total_cash / size, 8),
        "shares_filled": size,
        "fees": int(taken.fees_e6[0]) / 1e6,
        "rebates": int(taken.rebates_e6[0]) / 1e6,
        "shortfall_bps": round(metrics.shortfall_bps(total_cash, size, mid), 6),
        "shortfall_cents_per_share": round(metrics.shortfall_cents_per_share(total_cash, size, mid), 6),
        "fills": len(taken.fills),
        "shares_taken": int(taken.filled_sz[0] - taken.passive_sz[0] + taken.swept_sz[0]),
        "shares_filled_passively": int(taken.passive_sz[0]),
        "shares_posted": int(taken.posted_sz[0]),
        "queue_fill_rate": _fill_rate(int(taken.passive_sz[0]), int(taken.posted_sz[0])),
        "completed_at_deadline": int(taken.swept_sz[0] + taken.priced_sz[0]),
        "priced_beyond_book": int(taken.priced_sz[0]),
        "surplus_shares": int(taken.surplus_sz[0]),
        "slices_market_only": taken.market_only_slices,
        "slices_skipped": taken.skipped_slices,
        "by_venue": _by_venue(taken, market),
    }


def _fill_rate(filled_sz: int, posted_sz: int) -> float | None:
    """Part of the posted shares that was filled; None where nothing was posted."""
    return round(filled_sz / posted_sz, 6) if posted_sz else None


def _by_venue(taken: Taken, market: Market) -> dict[str, dict[str, object]]:
    """What lane 0 did at each venue; publishers of one name, such as two feeds of an exchange, count together."""
    passive = taken.fills["kind"] == LIMIT
    posted = taken.children[taken.children["kind"] == LIMIT]
    names = np.array(market.venue_names)
    rows = {}
    for name in dict.fromkeys(market.venue_names):
        here = names[taken.fills["venue"]] == name
        bought, filled = taken.fills[here & ~passive], taken.fills[here & passive]
        posted_sz = int(posted["sz"][names[posted["venue"]] == name].sum())
        if len(bought) or len(filled) or posted_sz:
            filled_sz = int(filled["sz"].sum())
            rows[name] = {
                "shares_taken": int(bought["sz"].sum()),
                "shares_filled_passively": filled_sz,
                "shares_posted": posted_sz,
                "queue_fill_rate": _fill_rate(filled_sz, posted_sz),
                "fees": int(bought["sz"] @ market.fees_e6[bought["venue"]]) / 1e6,
                "rebates": int(filled["sz"] @ market.rebates_e6[filled["venue"]]) / 1e6,
            }
    return rows


def seed_sections(experiment: Experiment, market: Market) -> dict[str, object]:
    """The four sections the trial asks for, SEED_SECTIONS."""
    size, mid = experiment.order.size, experiment.arrival_mid_px
    optimized = section(experiment.taken[experiment.policy], experiment, market)
    baselines = {name: section(experiment.taken[name], experiment, market) for name in BASELINES}
    cash = optimized["total_cash"]
    return {
        "best_parameters": dict(zip(PARAMETERS, experiment.grid.triples[experiment.grid.best], strict=True)),
        "optimized": {"policy": experiment.policy, "note": ONE_DRAW, **optimized},
        "baselines": baselines,
        "savings_vs_baselines_bps": {
            name: round(metrics.savings_bps(cash, baseline["total_cash"], size, mid), 6)
            for name, baseline in baselines.items()
        },
    }


def grid_section(experiment: Experiment) -> dict[str, object]:
    """Size of the grid and how many of its triples differ; a note where the parameters do not matter."""
    grid = experiment.grid
    note = f"{grid.distinct_outcomes} different costs; best_parameters is the first of the cheapest"
    if len(grid.triples) == 1:
        note = "one triple: nothing was searched"
    elif grid.distinct_outcomes == 1:
        note = (
            f"the parameters do not matter for the policy {experiment.policy}: every triple costs the same; "
            "best_parameters is the first"
        )
    return {"size": len(grid.triples), "distinct_outcomes": grid.distinct_outcomes, "note": note}


def grid_rows(experiment: Experiment) -> list[dict[str, float]]:
    """grid_results.json: every triple with its cost."""
    size, mid = experiment.order.size, experiment.arrival_mid_px
    return [
        {
            **dict(zip(PARAMETERS, triple, strict=True)),
            "total_cash": int(total_e6) / 1e6,
            "shortfall_bps": round(metrics.shortfall_bps(int(total_e6) / 1e6, size, mid), 6),
        }
        for triple, total_e6 in zip(experiment.grid.triples, experiment.grid.total_e6, strict=True)
    ]


def floor_section(experiment: Experiment) -> dict[str, float]:
    """The clairvoyant floor: no strategy that only takes can cost less under the same rule."""
    size, mid = experiment.order.size, experiment.arrival_mid_px
    total_cash = experiment.floor_e6 / 1e6
    return {
        "total_cash": total_cash,
        "avg_fill_px": round(total_cash / size, 8),
        "shares_filled": experiment.floor_filled_sz,
        "shortfall_bps": round(metrics.shortfall_bps(total_cash, size, mid), 6),
    }


def book_section(market: Market) -> dict[str, int]:
    """The consolidated book over the whole data: batches, and how many of them no policy trades on."""
    state = market.nbbo.state
    return {
        "batches": len(state),
        "one_sided": int((state == EMPTY).sum()),
        "locked": int((state == LOCKED).sum()),
        "crossed": int((state == CROSSED).sum()),
    }
