"""The paper's stochastic approximation (section 3.3), the variant that reproduces its Table 1.

The paper prints no projection and no start. Starting at equal parts, clipping M to [0, S] and then each L_k to
[0, S - M] after every step, charging neither lambda where M and the fills meet S exactly, and averaging all iterates
gives its allocations. For one venue the iterates stick to M + L = S, where that rule decides; they stop far from the
optimum.
"""

from __future__ import annotations

import numpy as np
from numba import njit

TIE = 1e-12  # of the order: rounding


@njit(cache=True, error_model="numpy")
def average_iterate(c, market, theta, fill, short, over, step):
    """Plain average of the iterates over the scenarios in order; canonical units, x = (M, L_1..L_K)."""
    venues, n_all = c.shape
    x = np.full(venues + 1, 1.0 / (venues + 1))
    total = np.zeros(venues + 1)
    for n in range(n_all):
        bought = x[0]
        for k in range(venues):
            bought += min(c[k, n], x[k + 1])
        price = 0.0  # of a share more, against that of a share too much
        if abs(bought - 1.0) < TIE:
            price = over
        elif bought < 1.0:
            price = short
        x[0] = min(max(x[0] - step * (market - price), 0.0), 1.0)
        for k in range(venues):
            slope = theta[k] + (fill[k] - price if c[k, n] > x[k + 1] else 0.0)
            x[k + 1] = min(max(x[k + 1] - step * slope, 0.0), 1.0 - x[0])
        total += x
    return total / n_all


def paper_step(n_all: int, market_px: float, fill_px: np.ndarray) -> float:
    """The paper's step (p. 18) in canonical units.

    Parameters
    ----------
    n_all : int
        Number of scenarios N.
    market_px : float
        h + f + theta + lambda_under + lambda_over.
    fill_px : float (K,)
        h + r_k + theta + lambda_under + lambda_over.
    """
    norm = market_px**2 + float(np.sum(fill_px**2))
    return float(np.sqrt(len(fill_px) / (n_all * norm))) if norm else 0.0
