"""Good points, no promise: descent along a subgradient, then a sequence of linear programs that ends at a local minimum.

`descend` is a projected L-BFGS on the sampled cost, which is nearly smooth for many scenarios. It stalls where the
minimum sits in a kink (often M + sum L = S). `tighten` goes on from there: it replaces the concave part of the cost by
its tangent at the point, which makes a linear program that is never below the cost, solves it in a small box with the
interior point method of `relaxation`, and repeats; every step lowers the cost (a DC algorithm, MATH 1.5).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sor.placement.objective import value_gradient, value_only
from sor.placement.relaxation import lower_bound

MEMORY = 8  # pairs of the L-BFGS
GAIN = 3e-6  # of the cost scale: a smaller improvement is none


@njit(cache=True, error_model="numpy")
def descend(c, start, market, theta, fill, short, over, rounds):
    """Projected L-BFGS from `start` in the unit box; returns the best point and its value."""
    size = len(start)
    x = np.minimum(np.maximum(start, 0.0), 1.0)
    gradient, new_gradient = np.empty(size), np.empty(size)
    open_sz = np.empty(c.shape[1])
    moves, turns = np.empty((MEMORY, size)), np.empty((MEMORY, size))
    used = 0
    value = value_gradient(c, x, market, theta, fill, short, over, gradient, open_sz)
    for _ in range(rounds):
        free = ~(((x <= 0.0) & (gradient >= 0.0)) | ((x >= 1.0) & (gradient <= 0.0)))
        direction = quasi_newton(gradient, free, moves, turns, used)
        slope = (direction * gradient).sum()
        if not slope < 0.0:
            if used == 0:
                break
            used = 0
            continue
        step = 1.0 if used else 0.1 / np.abs(direction).max()
        accepted = False
        for _ in range(12):
            trial = np.minimum(np.maximum(x + step * direction, 0.0), 1.0)
            new_value = value_gradient(c, trial, market, theta, fill, short, over, new_gradient, open_sz)
            if new_value < value + 1e-4 * (gradient * (trial - x)).sum():
                accepted = True
                break
            step *= 0.4
        if not accepted or value - new_value < GAIN:
            if accepted:
                x, value = trial, new_value
                gradient[:] = new_gradient
            if used == 0:
                break
            used = 0
            continue
        at = used % MEMORY
        moves[at], turns[at] = trial - x, new_gradient - gradient
        if (moves[at] * turns[at]).sum() > 1e-14:
            used += 1
        x, value = trial, new_value
        gradient[:] = new_gradient
    return x, value


@njit(cache=True, error_model="numpy")
def quasi_newton(gradient, free, moves, turns, used):
    """Minus the inverse Hessian of the last pairs times the gradient, on the coordinates that are free to move."""
    direction = np.where(free, -gradient, 0.0)
    first = max(0, used - MEMORY)
    weights = np.zeros(MEMORY)
    for i in range(used - 1, first - 1, -1):
        move, turn = moves[i % MEMORY], turns[i % MEMORY]
        curve = 0.0
        dot = 0.0
        for p in range(len(free)):
            if free[p]:
                curve += move[p] * turn[p]
                dot += move[p] * direction[p]
        if curve > 1e-14:
            weights[i % MEMORY] = dot / curve
            direction -= weights[i % MEMORY] * np.where(free, turn, 0.0)
    if used:
        move, turn = moves[(used - 1) % MEMORY], turns[(used - 1) % MEMORY]
        direction *= max((move * turn).sum(), 1e-14) / max((turn * turn).sum(), 1e-300)
    for i in range(first, used):
        move, turn = moves[i % MEMORY], turns[i % MEMORY]
        curve = 0.0
        dot = 0.0
        for p in range(len(free)):
            if free[p]:
                curve += move[p] * turn[p]
                dot += turn[p] * direction[p]
        if curve > 1e-14:
            direction += (weights[i % MEMORY] - dot / curve) * np.where(free, move, 0.0)
    return direction


def tighten(c, start, market, theta, fill, short, over, radius, tol, rounds):
    """Linear programs in boxes of half-width `radius` around the best point until none improves by `tol`.

    The tangent replaces what is concave (fill > 0); convex parts stay exact. A box whose side the program runs into
    grows. Returns the best point and its value. (Not compiled: around `lower_bound` that would double its compile time.)
    """
    form = market, theta, fill, short, over
    open_sz = np.empty(c.shape[1])
    x = np.minimum(np.maximum(start, 0.0), 1.0)
    value = value_only(c, x, *form, open_sz)
    for _ in range(rounds):
        low, high = np.maximum(x - radius, 0.0), np.minimum(x + radius, 1.0)
        price, kept, constant = tangent(c, x, theta, fill)
        program = market, price, kept, short, over - constant
        found = lower_bound(c, low, high, *program, 0.1 * tol, 60, np.inf, 0.0)[0]
        found = snap(c, found, low, high, *form, open_sz)
        new_value = value_only(c, found, *form, open_sz)
        gain = value - new_value
        if gain > 0.0:
            x, value = found, new_value
        if not gain > tol:
            break
        inside = (found > 1e-6) & (found < 1.0 - 1e-6)
        if (inside & (np.minimum(found - low, high - found) < 1e-3 * radius)).any():
            radius = min(4.0 * radius, 1.0)
        elif gain < 100.0 * tol:
            radius = max(0.5 * radius, 1e-4)
    return x, value


@njit(cache=True, error_model="numpy")
def tangent(c, x, theta, fill):
    """Cost per share posted with the concave parts at their tangent, the costs kept as they are, and the constant."""
    venues, n_all = c.shape
    price, kept = theta.copy(), np.minimum(fill, 0.0)
    constant = 0.0
    for k in range(venues):
        if fill[k] > 0.0:
            beyond, filled = 0, 0.0
            for n in range(n_all):
                beyond += c[k, n] > x[k + 1]
                filled += min(c[k, n], x[k + 1])
            slope = fill[k] * beyond / n_all
            price[k] += slope
            constant += fill[k] * filled / n_all - slope * x[k + 1]
    return price, kept, constant


@njit(cache=True, error_model="numpy")
def snap(c, x, low, high, market, theta, fill, short, over, open_sz):
    """x with what all but touches 0 or 1 moved there, if that costs no more: interior points never reach the edge."""
    moved = x.copy()
    for i in range(len(x)):
        if x[i] < 1e-5 and low[i] <= 0.0:
            moved[i] = 0.0
        elif x[i] > 1.0 - 1e-5 and high[i] >= 1.0:
            moved[i] = 1.0
    before = value_only(c, x, market, theta, fill, short, over, open_sz)
    after = value_only(c, moved, market, theta, fill, short, over, open_sz)
    return moved if after <= before else x
