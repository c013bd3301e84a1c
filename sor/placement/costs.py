"""What a placement costs per share, the assumptions of the paper about it, and the form every solver here works in."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import numpy as np

from sor.errors import PlacementError


class AssumptionWarning(UserWarning):
    """The costs break an assumption of the paper; the answer is still that of the model, over the same box."""


@dataclass(frozen=True, eq=False)
class Costs:
    """Prices of Cont and Kukanov (arXiv 1210.1625, section 2), all in USD per share, all relative to the mid.

    Parameters
    ----------
    half_spread : float
        h: what a market order pays and a filled limit order earns.
    taker_fee : float
        f: fee of a market order.
    rebates : sequence of float (K,)
        r_k: effective rebate of a filled limit order at venue k; negative where posting costs.
    theta_queue : float
        Charged on every share submitted, filled or not, and on the shortfall.
    lambda_under : float
        Full cost of a share still missing at the end (not an addition to h + f).
    lambda_over : float
        Cost of a share bought too much.

    Raises
    ------
    PlacementError
        A cost is not a finite number, or `rebates` is not one-dimensional.
    """

    half_spread: float
    taker_fee: float
    rebates: np.ndarray
    theta_queue: float
    lambda_under: float
    lambda_over: float

    def __post_init__(self) -> None:
        for name in ("half_spread", "taker_fee", "theta_queue", "lambda_under", "lambda_over"):
            object.__setattr__(self, name, finite(name, getattr(self, name), "USD per share"))
        rebates = float_array("rebates", self.rebates)
        if rebates.ndim != 1 or not np.isfinite(rebates).all():
            raise PlacementError(f"rebates is {self.rebates!r}; it must be K finite numbers, USD per share")
        rebates.flags.writeable = False
        object.__setattr__(self, "rebates", rebates)

    @property
    def violated(self) -> tuple[str, ...]:
        """Which of the paper's assumptions A1, A2, A3 (p. 13) do not hold, each with the numbers."""
        h, f, r = self.half_spread, self.taker_fee, self.rebates
        low, high = (r.min(), r.max()) if len(r) else (-h + 1.0, -h - 1.0)
        found = []
        if h + low <= 0:
            found.append(f"A1: half_spread + min(rebates) is {h + low:g}; it should be above 0")
        if self.lambda_over <= h + high or self.lambda_over <= -(h + f):
            found.append(
                f"A2: lambda_over is {self.lambda_over:g}; it should be above half_spread + max(rebates) = {h + high:g} "
                "(buying too much pays: limit orders are held to the order's size)"
            )
        if self.lambda_under <= h + f:
            found.append(
                f"A3: lambda_under is {self.lambda_under:g}; it should be above half_spread + taker_fee = {h + f:g} "
                "(leaving shares unfilled is cheaper than a market order)"
            )
        return tuple(found)

    def warn(self) -> None:
        """One AssumptionWarning for each violated assumption."""
        for sentence in self.violated:
            warnings.warn(sentence, AssumptionWarning, stacklevel=3)


class Canonical(NamedTuple):
    """The cost as a difference of convex functions, in units of `order_sz` shares and `scale_px` USD per share.

    v(M, L) = market M + sum_k theta_k L_k + sum_k fill_k mean_n z_kn + short mean_n (1 - A_n)+ - over,
    z_kn = min(c_kn, L_k), A_n = M + sum_k z_kn. The part of `fill_k` above 0 is what makes v non-convex.
    """

    market: float
    theta: np.ndarray
    fill: np.ndarray
    short: float
    over: float
    scale_px: float

    @property
    def terms(self) -> tuple[float, np.ndarray, np.ndarray, float, float]:
        """What the kernels take: market, theta, fill, short, over."""
        return self[:5]


def canonical(costs: Costs) -> Canonical:
    """Coefficients of the canonical form (no cost at all: scale 1, so that nothing divides by 0)."""
    h, r = costs.half_spread, costs.rebates
    theta, over = costs.theta_queue, costs.lambda_over
    market = h + costs.taker_fee
    scale_px = max(abs(market), abs(theta), abs(over), abs(costs.lambda_under), np.abs(h + r).max(initial=0.0)) or 1.0
    return Canonical(
        market=(market + theta + over) / scale_px,
        theta=np.full(len(r), theta / scale_px),
        fill=np.ascontiguousarray((over - h - r) / scale_px),
        short=(costs.lambda_under + over + theta) / scale_px,
        over=over / scale_px,
        scale_px=scale_px,
    )


def finite(name: str, number: float, unit: str) -> float:
    """`number` as a float, refused if it is not a finite number."""
    try:
        value = float(number)
    except (TypeError, ValueError):
        value = float("nan")
    if not isfinite(value):
        raise PlacementError(f"{name} is {number!r}; it must be a finite number ({unit})")
    return value


def float_array(name: str, numbers: object) -> np.ndarray:
    """A float64 copy of `numbers`, refused if they are not numbers."""
    try:
        return np.array(numbers, dtype=np.float64)
    except (TypeError, ValueError):
        raise PlacementError(f"{name} is {numbers!r}; it must hold numbers") from None
