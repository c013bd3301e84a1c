"""The relaxation of sor.placement as a sparse linear program for HiGHS: the oracle of its tests and benchmarks."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array, vstack

from sor.placement.costs import Canonical


def solve_with_highs(
    c: np.ndarray, low: np.ndarray, high: np.ndarray, form: Canonical, method: str = "highs-ipm"
) -> float:
    """Least cost of the relaxation on a box, canonical units; variables (M, L_k, z_kn, u_n).

    chord(L_k) <= z_kn <= min(c_kn, L_k), u_n >= 1 - M - sum_k z_kn, u_n >= 0.
    """
    venues, scenarios = c.shape
    size = c.size
    flow, venue = c.ravel(), np.repeat(np.arange(venues), scenarios)
    lowest, highest = low[1:][venue], high[1:][venue]
    slope = np.clip((flow - lowest) / (highest - lowest), 0.0, 1.0)
    base = np.minimum(flow, lowest) - slope * lowest
    fill = 1 + venues + np.arange(size)
    short = 1 + venues + size + np.arange(scenarios)
    columns = 1 + venues + size + scenarios
    each, row = np.arange(size), np.arange(scenarios)
    one = np.ones(size)
    below_limit = _matrix((one, each, fill), (-one, each, 1 + venue), shape=(size, columns))
    above_chord = _matrix((-one, each, fill), (slope, each, 1 + venue), shape=(size, columns))
    ones = np.ones(scenarios)
    shortfall = _matrix(
        (-ones, row, 0 * row), (-ones, row, short), (-one, np.tile(row, venues), fill), shape=(scenarios, columns)
    )
    prices = np.concatenate(
        [[form.market], form.theta, form.fill[venue] / scenarios, np.full(scenarios, form.short / scenarios)]
    )
    bounds = [*zip(low, high, strict=True), *((0.0, most) for most in flow), *((0.0, None) for _ in row)]
    limits = np.concatenate([np.zeros(size), -base, -ones])
    found = linprog(prices, vstack([below_limit, above_chord, shortfall]), limits, bounds=bounds, method=method)
    if not found.success:
        raise ArithmeticError(found.message)
    return float(found.fun - form.over)


def _matrix(*parts: tuple[np.ndarray, np.ndarray, np.ndarray], shape: tuple[int, int]) -> coo_array:
    """Sparse matrix from (values, rows, columns)."""
    values, rows, columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return coo_array((values, (rows, columns)), shape=shape)
