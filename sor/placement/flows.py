"""Simulated order flow: the paper's correlated Poisson arrivals (section 4.1)."""

from __future__ import annotations

import numpy as np


def simulate_flows(K: int, N: int, mu: float = 2200.0, alpha: float = 0.6, seed: int = 0) -> np.ndarray:
    """Shares that leave each queue in N scenarios: xi_k = alpha xi_0 + (1 - alpha) eps_k, all Poisson(mu).

    Parameters
    ----------
    K, N : int
        Venues, scenarios.
    mu : float
        Mean flow per venue, shares.
    alpha : float
        Weight of the flow that the venues have in common.
    seed : int

    Returns
    -------
    float (K, N)
        Subtract the shares queued ahead and cut at 0 to get the fillable flow that `place` takes.
    """
    draw = np.random.default_rng(seed)
    common = draw.poisson(mu, N)
    own = draw.poisson(mu, (K, N))
    return alpha * common + (1.0 - alpha) * own
