"""The cost of a placement on N joint scenarios of fillable flow: its value, a subgradient, and its parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from sor.placement.costs import Costs

# Sums may be reordered (that is what makes them vectors); NaN tests must survive, so not the full fastmath.
FAST = {"reassoc", "contract", "arcp", "nsz"}


@dataclass(frozen=True)
class Evaluation:
    """Mean cost of one placement and its parts: the columns of the paper's Table 2.

    Attributes
    ----------
    fees, impact, penalty : float
        Cents per share of the order: spread, fees and rebates; theta on what is submitted; lambda on misses.
    total : float
        Their sum, W of the paper.
    under_sz, over_sz : float
        Mean shares missing, bought too much.
    p_under, p_over : float
        Share of the scenarios in which anything is missing, bought too much.
    """

    fees: float
    impact: float
    penalty: float
    total: float
    under_sz: float
    over_sz: float
    p_under: float
    p_over: float


def evaluate(market_sz: float, limit_sz: np.ndarray, c: np.ndarray, order_sz: float, costs: Costs) -> Evaluation:
    """Cost of a placement as the paper states it (eq. 5), straight from the definition.

    Parameters
    ----------
    market_sz, limit_sz : float, float (K,)
        Shares sent to market, posted at each venue.
    c : float (K, N)
        Fillable flow: shares that a limit order of any size would have been given, per venue and scenario.
    order_sz : float
        Shares to buy.
    costs : Costs

    Returns
    -------
    Evaluation
        An order of 0 shares costs 0 per share.
    """
    limit_sz = np.asarray(limit_sz, dtype=np.float64)
    fill_sz = np.minimum(c, limit_sz[:, None])
    bought_sz = market_sz + fill_sz.sum(axis=0)
    under, over = np.maximum(order_sz - bought_sz, 0.0), np.maximum(bought_sz - order_sz, 0.0)
    under_sz, over_sz = float(under.mean()), float(over.mean())
    earned = (costs.half_spread + costs.rebates) @ fill_sz.mean(axis=1)
    cents = 100.0 / order_sz if order_sz else 0.0
    fees = cents * ((costs.half_spread + costs.taker_fee) * market_sz - earned)
    impact = cents * costs.theta_queue * (market_sz + limit_sz.sum() + under_sz)
    penalty = cents * (costs.lambda_under * under_sz + costs.lambda_over * over_sz)
    touch = 1e-9 * order_sz  # shares that differ by rounding only are not missing
    return Evaluation(
        fees=float(fees),
        impact=float(impact),
        penalty=float(penalty),
        total=float(fees + impact + penalty),
        under_sz=under_sz,
        over_sz=over_sz,
        p_under=float((under > touch).mean()),
        p_over=float((over > touch).mean()),
    )


@njit(cache=True, error_model="numpy", fastmath=FAST)
def value_gradient(c, x, market, theta, fill, short, over, gradient, open_sz):
    """Canonical value at x = (M, L_1..L_K) and a subgradient into `gradient`; `open_sz` (N,) is overwritten."""
    venues, n_all = c.shape
    value = market * x[0] - over
    for n in range(n_all):
        open_sz[n] = 1.0 - x[0]
    for k in range(venues):
        limit, filled = x[k + 1], 0.0
        row = c[k]
        for n in range(n_all):
            got = min(row[n], limit)
            filled += got
            open_sz[n] -= got
        value += theta[k] * limit + fill[k] * filled / n_all
    missing, misses = 0.0, 0.0
    for n in range(n_all):
        missing += max(open_sz[n], 0.0)
        open_sz[n] = 1.0 if open_sz[n] > 0.0 else 0.0
        misses += open_sz[n]
    gradient[0] = market - short * misses / n_all
    for k in range(venues):
        limit, partly, both = x[k + 1], 0.0, 0.0
        row = c[k]
        for n in range(n_all):
            beyond = 1.0 if row[n] > limit else 0.0
            partly += beyond
            both += beyond * open_sz[n]
        gradient[k + 1] = theta[k] + (fill[k] * partly - short * both) / n_all
    return value + short * missing / n_all


@njit(cache=True, error_model="numpy", fastmath=FAST)
def value_only(c, x, market, theta, fill, short, over, open_sz):
    """Canonical value at x; `open_sz` (N,) is overwritten."""
    venues, n_all = c.shape
    value = market * x[0] - over
    for n in range(n_all):
        open_sz[n] = 1.0 - x[0]
    for k in range(venues):
        limit, filled = x[k + 1], 0.0
        row = c[k]
        for n in range(n_all):
            got = min(row[n], limit)
            filled += got
            open_sz[n] -= got
        value += theta[k] * limit + fill[k] * filled / n_all
    missing = 0.0
    for n in range(n_all):
        missing += max(open_sz[n], 0.0)
    return value + short * missing / n_all
