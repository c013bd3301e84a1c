"""What every strategy did with the one order, as numbers to draw."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from sor.experiment import Experiment
from sor.market import Market
from sor.orders import LIMIT, Taken
from sor.plot.clock import NS
from sor.plot.style import LOOKS, Look


@dataclass(frozen=True)
class Trace:
    """What one strategy did, F fills; times are seconds after the window's start."""

    name: str
    look: Look
    after_s: np.ndarray  # float64 (F,)
    px: np.ndarray  # float64 (F,) USD per share, without fee
    sz: np.ndarray  # int64 (F,) shares
    cost_s: np.ndarray  # float64 (F + 2,) when the running cost changes: start, every fill, end
    cost_usd: np.ndarray  # float64 (F + 2,) running cost from then on, USD above the arrival mid
    done: int  # index of the corner from which the whole order is bought


def traces(experiment: Experiment, market: Market) -> list[Trace]:
    """Fills and running cost of every strategy, the policy first."""
    named = zip(experiment.taken.items(), itertools.cycle(LOOKS), strict=False)
    return [_trace(name, look, taken, experiment, market) for (name, taken), look in named]


def _trace(name: str, look: Look, taken: Taken, experiment: Experiment, market: Market) -> Trace:
    window, mid_px, fills = experiment.order.window, experiment.arrival_mid_px, taken.fills
    sz = fills["sz"].astype(np.int64)
    after_s = (fills["ts_ns"] - window.start_ns) / NS
    fees_e6 = np.where(fills["kind"] == LIMIT, -market.rebates_e6[fills["venue"]], market.fees_e6[fills["venue"]])
    paid_e6 = np.cumsum(sz * (fills["px_e4"] * np.int64(100) + fees_e6))
    total_usd = int(taken.total_e6[0]) / 1e6 - experiment.order.size * mid_px
    return Trace(
        name=name,
        look=look,
        after_s=after_s,
        px=fills["px_e4"] / 1e4,
        sz=sz,
        cost_s=np.concatenate(([0.0], after_s, [(window.end_ns - window.start_ns) / NS])),
        cost_usd=np.concatenate(([0.0], paid_e6 / 1e6 - np.cumsum(sz) * mid_px, [total_usd])),
        done=-1 if taken.priced_sz[0] else 1 + int(np.searchsorted(np.cumsum(sz), experiment.order.size)),
    )
