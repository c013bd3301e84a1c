"""Branch and bound over boxes of the limit orders: a proof that no placement is better, for few venues (MATH 1.6).

Splitting the box of a venue brings chord and fill together, and the bound up. Best bound first; the market order needs
no splitting, since the cost is convex in it.
"""

from __future__ import annotations

import heapq
from itertools import count

import numpy as np

from sor.placement.costs import Canonical
from sor.placement.local import tighten
from sor.placement.objective import value_only
from sor.placement.relaxation import lower_bound

MOST_VENUES = 5
BOX_WORK = 6_000  # what a box costs beside its iterations, in the same unit
WORK_PER_S = 2e7  # entries times iterations of the interior point method in a nominal second of one core


def prove(
    c: np.ndarray, start: np.ndarray, form: Canonical, allowed: float, tol: float, budget: float
) -> tuple[np.ndarray, float, float]:
    """Raise the bound, and lower the cost, until they meet or the work is used up.

    Parameters
    ----------
    c : float (K, N)
        Fillable flow in units of the order.
    start : float (K + 1,)
        Best point known.
    form : Canonical
    allowed : float
        Stop when cost - bound is below it, canonical units.
    tol : float
        Of the programs, likewise.
    budget : float
        Entries times iterations; counted, not timed, so that equal calls give equal answers.

    Returns
    -------
    x : float (K + 1,)
    value, bound : float
        Cost of x; no point of the unit box costs less than the bound.
    """
    size = len(start)
    best, value = start, cost(c, start, form)
    ticket = count()
    open_boxes = [(-np.inf, next(ticket), [(np.zeros(size), np.ones(size))])]
    closed = np.inf  # lowest bound of a box that needs no splitting
    while open_boxes and value - open_boxes[0][0] > allowed and budget > 0:
        parent, _, children = heapq.heappop(open_boxes)
        for low, high in children:
            x, bound, _, refused, used = lower_bound(c, low, high, *form.terms, tol, 80, value, 0.02)
            budget -= used * (c.size + 20 * c.shape[1]) + BOX_WORK
            best, value = better(c, best, value, x, form, tol)
            bound = max(bound, parent)
            if value - bound > allowed:
                heapq.heappush(open_boxes, (bound, next(ticket), halves(low, high, x, refused, form)))
            else:
                closed = min(closed, bound)
    return best, value, min([closed] + [bound for bound, *_ in open_boxes])


def cost(c: np.ndarray, x: np.ndarray, form: Canonical) -> float:
    """Canonical value at x."""
    return value_only(c, x, *form.terms, np.empty(c.shape[1]))


def better(
    c: np.ndarray, best: np.ndarray, value: float, x: np.ndarray, form: Canonical, tol: float
) -> tuple[np.ndarray, float]:
    """The best point known after x, and what is found around it where x promises something, are tried."""
    if cost(c, x, form) > value + 0.01 * (abs(value) + abs(form.over)):
        return best, value
    found, found_value = tighten(c, x, *form.terms, 0.003, tol, 20)
    return (found, found_value) if found_value < value else (best, value)


def halves(
    low: np.ndarray, high: np.ndarray, x: np.ndarray, refused: np.ndarray, form: Canonical
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The two parts of a box, split where most is refused that costs; at x, but not close to an edge."""
    k = 1 + int(np.argmax(np.maximum(form.fill, 0.0) * refused))
    width = high[k] - low[k]
    cut = min(max(x[k], low[k] + 0.1 * width), high[k] - 0.1 * width)
    upper, lower = low.copy(), high.copy()
    upper[k] = lower[k] = cut
    return [(low, lower), (upper, high)]
