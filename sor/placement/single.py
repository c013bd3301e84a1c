"""One venue: the optimal split in closed form (the paper's Proposition 3, p. 14)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sor.errors import PlacementError
from sor.placement.costs import Costs, finite


def quantile_level(costs: Costs) -> float:
    """(2h + f + r) / (lambda_under + h + r + theta): how likely a fill must fail before a market order is better.

    Raises
    ------
    PlacementError
        `costs` is not of one venue, or the denominator is not above 0 (A1 and A3 fail together).
    """
    if len(costs.rebates) != 1:
        raise PlacementError(f"costs has {len(costs.rebates)} rebates; the closed form is for exactly 1 venue")
    h, r = costs.half_spread, float(costs.rebates[0])
    below = costs.lambda_under + h + r + costs.theta_queue
    if not below > 0:
        raise PlacementError(
            f"lambda_under + half_spread + rebate + theta_queue is {below:g}; the closed form needs it above 0"
        )
    return (2 * h + costs.taker_fee + r) / below


def place_single(
    order_sz: float, queue_sz: float, inverse_cdf: Callable[[float], float], costs: Costs
) -> tuple[float, float]:
    """Shares to market and to post: L = F^-1(q) - Q cut to [0, S], M = S - L. Exact under A1, A2 and A3.

    Parameters
    ----------
    order_sz : float
        S, shares to buy.
    queue_sz : float
        Q, shares ahead in the queue.
    inverse_cdf : callable
        Left inverse F^-1 of the distribution of the flow, at levels inside (0, 1); shares.
    costs : Costs
        Of one venue. AssumptionWarning where A1, A2 or A3 fails.

    Returns
    -------
    market_sz, limit_sz : float

    Raises
    ------
    PlacementError
        See `quantile_level`; or a size is not a number of 0 or more.
    """
    order_sz, queue_sz = finite("order_sz", order_sz, "shares"), finite("queue_sz", queue_sz, "shares")
    if order_sz < 0 or queue_sz < 0:
        raise PlacementError(f"order_sz is {order_sz:g} and queue_sz {queue_sz:g}; both must be 0 or more shares")
    costs.warn()
    level = quantile_level(costs)
    if level <= 0:
        limit_sz = 0.0
    elif level >= 1:
        limit_sz = order_sz
    else:
        limit_sz = min(max(float(inverse_cdf(level)) - queue_sz, 0.0), order_sz)
    return order_sz - limit_sz, limit_sz


def single_limit(c: np.ndarray, level: float) -> float:
    """The same on scenarios c (N,) of fillable flow in units of the order: the empirical quantile, cut to [0, 1]."""
    if level <= 0:
        return 0.0
    if level >= 1:
        return 1.0
    return float(min(np.quantile(c, level, method="inverted_cdf"), 1.0))
