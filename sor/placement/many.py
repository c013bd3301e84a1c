"""Placements of many lanes on the same scenarios, in whole shares: the speed that a backtest of the router needs.

A lane is an order size and three costs. Scenarios that are equal once cut at the order's size are one scenario with a
weight; recorded flow leaves about 150 of 500. What is bought of the market is bought in every scenario, so the market is
a venue whose flow never ends; a slack that costs and fills nothing makes every step the same: shares move from one row
to another. Along such a move the cost is piecewise linear, convex between two sizes that some scenario fills exactly. A
search looks at several of these sizes over the whole range, then halves its way to the bottom beside the best. Single
moves in turn, then the move that falls most steeply until none falls, from a few starts: a local minimum, no bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from sor.errors import PlacementError
from sor.placement.costs import finite, float_array
from sor.placement.objective import FAST

LEVELS = 4  # sizes looked at per row in one search
STEEPEST = 200  # moves along the steepest pair, at most, between two rounds of single moves
ROUNDS = 2
PATIENCE = 3
ROUGH = 1e8
FINE = 1e6
STARTS = 2
STARTS = 2
LARGEST_SZ = 2**50  # shares: sums over venues are exact in float64
NOTHING = 1e-12  # of the largest cost: rounding


def place_many(
    c: np.ndarray,
    order_sz: Sequence[int] | np.ndarray,
    half_spread: float,
    taker_fee: float,
    rebates: Sequence[float] | np.ndarray,
    triples: Sequence[Sequence[float]] | np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Whole shares to market and to post at K venues, for P orders on the same N scenarios (MATH 1).

    Parameters
    ----------
    c : (K, N) of numbers
        Fillable flow, shares, as `place` takes it; not cut at the order's size.
    order_sz : int (P,)
        Shares to buy, lane by lane; 0 is allowed.
    half_spread, taker_fee : float
        USD per share, the same for all lanes.
    rebates : float (K,)
        USD per share.
    triples : float (P, 3)
        lambda_over, lambda_under, theta_queue of each lane, USD per share.

    Returns
    -------
    market_sz : int64 (P,)
    limit_sz : int64 (K, P)
        0 <= both <= order_sz; 0 at a venue that no scenario fills. A lane's answer depends on its own size and costs and
        on the scenarios, on no other lane. It costs no more than all to market, all at one venue or at every venue, or
        nothing at all, which is the model's answer where A3 fails.

    Raises
    ------
    PlacementError
        Wrong shape, a number that is not finite, negative flow, a size that is no whole number of 0 to 2**50 shares.

    Notes
    -----
    No bound and no AssumptionWarning: see `place`.
    """
    size_sz = _sizes(order_sz)
    costs = _triples(triples, len(size_sz))
    rebate_px = float_array("rebates", rebates)
    flow_sz = _flows(c, rebate_px)
    spread_px = finite("half_spread", half_spread, "USD per share")
    fee_px = finite("taker_fee", taker_fee, "USD per share")
    live = np.flatnonzero(flow_sz.max(axis=1) > 0)
    fill_px = np.zeros((len(size_sz), len(live) + 2))
    fill_px[:, :-2] = costs[:, :1] - spread_px - rebate_px[live]
    fill_px[:, -2] = costs[:, 0] + spread_px + fee_px
    n_all, turn = flow_sz.shape[1], np.argsort(size_sz, kind="stable")
    terms = fill_px / n_all, costs.sum(axis=1) / n_all, costs[:, 2].copy()
    points = place_lanes(flow_sz[live], np.sort(flow_sz[live], axis=1), size_sz, turn, *terms)
    limit_sz = np.zeros((len(flow_sz), len(size_sz)), np.int64)
    limit_sz[live] = points[:, :-2].T
    return points[:, -2].copy(), limit_sz


class Lane(NamedTuple):
    """One order: R rows, the venues that ever fill anything, then market and slack; D different scenarios of N.

    Its cost, but for a constant, is theta sum x + sum_n weight_n (sum_i fill_i min(flow_in, x_i) + short (size - fills)+),
    x without the slack: MATH 1.1, fill and short divided by N.
    """

    flow: np.ndarray  # (R, N) shares, cut at `size`; the first D columns
    weight: np.ndarray  # (D,) how many scenarios it stands for
    levels: np.ndarray  # (R, LEVELS) shares
    used: np.ndarray  # int64 (R,) how many of them
    fill: np.ndarray  # (R,) USD
    short: float
    theta: float
    size: float
    rounding: float  # USD: a smaller gain is none


def _sizes(order_sz: Sequence[int] | np.ndarray) -> np.ndarray:
    """Order sizes as int64 (P,), refused if one is no whole number of shares."""
    size_sz = float_array("order_sz", order_sz)
    if size_sz.ndim != 1:
        raise PlacementError(f"order_sz has shape {size_sz.shape}; it must be (P,), one size per lane")
    whole = (size_sz >= 0) & (size_sz <= LARGEST_SZ) & (size_sz == np.floor(size_sz))
    if not whole.all():
        p = int(np.argmin(whole))
        raise PlacementError(f"order_sz[{p}] is {size_sz[p]}; it must be a whole number of shares, 0 to 2**50")
    return size_sz.astype(np.int64)


def _triples(triples: Sequence[Sequence[float]] | np.ndarray, lanes: int) -> np.ndarray:
    """Costs of the lanes as float64 (P, 3)."""
    costs = float_array("triples", triples)
    if costs.shape != (lanes, 3) and not (lanes == 0 and costs.size == 0):
        raise PlacementError(f"triples has shape {costs.shape}; it must be ({lanes}, 3), one triple per order size")
    if not np.isfinite(costs).all():
        raise PlacementError(
            "triples holds a number that is not finite; lambda_over, lambda_under, theta_queue are USD per share"
        )
    return costs.reshape(lanes, 3)


def _flows(c: np.ndarray, rebate_px: np.ndarray) -> np.ndarray:
    """Scenarios as float64 (K, N), N >= 1."""
    if rebate_px.ndim != 1 or not np.isfinite(rebate_px).all():
        raise PlacementError(f"rebates is {rebate_px!r}; it must be K finite numbers, USD per share")
    venues, flow_sz = len(rebate_px), float_array("c", c)
    if not venues and not flow_sz.size:
        return np.zeros((0, 1))
    if flow_sz.ndim != 2 or len(flow_sz) != venues or not flow_sz.shape[1]:
        raise PlacementError(
            f"c has shape {flow_sz.shape}; it must be (K, N) with K = {venues}, one row per rebate, and N >= 1"
        )
    if not (flow_sz.min() >= 0 and flow_sz.max() < np.inf):
        raise PlacementError("c holds a number that is negative or not finite; it must be shares >= 0")
    return flow_sz


@njit(cache=True, error_model="numpy")
def place_lanes(c, sorted_c, order_sz, turn, fill, short, theta):
    """Whole shares (P, R) of every lane: c (R - 2, N), its rows sorted, lanes by size, costs as in Lane."""
    n_all = c.shape[1]
    points = np.zeros((len(order_sz), len(c) + 2), np.int64)
    if not len(order_sz):
        return points
    every, once = distinct(c, len(c), np.ones(n_all), float(order_sz[turn[-1]]))
    flow, weight, levels, used = every, once, np.empty((0, 0)), np.empty(0, np.int64)
    ready = np.int64(0)
    for p in turn:
        size = float(order_sz[p])
        if order_sz[p] == 0:
            continue
        if order_sz[p] != ready:
            ready = order_sz[p]
            flow, weight = distinct(every, len(c), once, size)
            levels, used = levels_of(sorted_c, size)
        largest = max(abs(short[p]) * n_all, abs(theta[p]))
        for i in range(len(c) + 1):
            largest = max(largest, abs(fill[p, i]) * n_all)
        lane = Lane(flow, weight, levels, used, fill[p], short[p], theta[p], size, NOTHING * largest * size)
        x = best_point(lane)
        for i in range(len(x)):
            points[p, i] = np.int64(x[i])
    return points


@njit(cache=True, error_model="numpy")
def distinct(c, rows, count, size):
    """Different columns of the first rows of c cut at `size`, with rows for market and slack below, and how many each stands for."""
    n_all, slots = len(count), 2
    while slots < 2 * n_all:
        slots *= 2
    held = np.full(slots, -1, np.int64)  # open addressing: the column of each slot
    flow, weight, found = np.zeros((rows + 2, n_all)), np.zeros(n_all), 0
    for n in range(n_all):
        key = np.uint64(14695981039346656037)
        for i in range(rows):
            flow[i, found] = min(c[i, n], size)
            key = (key ^ np.uint64(flow[i, found] * 1024.0)) * np.uint64(1099511628211)
            key ^= key >> np.uint64(29)
        at = np.int64(key & np.uint64(slots - 1))
        while held[at] >= 0 and not same_column(flow, rows, held[at], found):
            at = (at + 1) % slots
        if held[at] < 0:
            held[at] = found
            flow[rows, found] = size
            found += 1
        weight[held[at]] += count[n]
    return flow, weight[:found]


@njit(cache=True, error_model="numpy")
def same_column(flow, rows, m, n):
    """The first `rows` of columns m and n are equal."""
    for i in range(rows):  # noqa: SIM110 (numba)
        if flow[i, m] != flow[i, n]:
            return False
    return True


@njit(cache=True, error_model="numpy")
def levels_of(sorted_c, size):
    """Sizes at which to look, per row: whole shares that scenarios fill, spread evenly over the different ones."""
    rows, n_all = sorted_c.shape
    levels, used = np.zeros((rows + 2, LEVELS)), np.zeros(rows + 2, np.int64)
    different = np.empty(n_all)
    for i in range(rows):
        found, last = 0, 0.0
        for n in range(n_all):
            level = np.floor(min(sorted_c[i, n], size))
            if level > last:
                different[found] = last = level
                found += 1
        used[i] = min(found, LEVELS)
        for q in range(used[i]):
            levels[i, q] = different[q if found <= LEVELS else q * (found - 1) // (LEVELS - 1)]
    return levels, used


@njit(cache=True, error_model="numpy")
def best_point(lane):
    """The cheapest that rough descents find and the simple allocations, brought to the bottom."""
    rows = len(lane.fill)
    x, best, open_sz = np.zeros(rows), np.zeros(rows), np.empty(len(lane.weight))
    value = np.inf
    for start in range(-STARTS, rows + 2):
        if start <= rows:
            start_at(start, x, lane.size)
        else:
            x[:] = best
        if start < 0 or start > rows:
            descend_whole(lane, x, open_sz, ROUGH if start < 0 else FINE)
        found = value_of(lane, x, open_sz)
        if found < value:
            value = found
            best[:] = x
    return best


@njit(cache=True, error_model="numpy")
def start_at(start, x, size):
    """Simple allocations: equal parts, all at every venue, all in one row (the slack's: nothing), by number."""
    rows = len(x)
    for i in range(rows):
        x[i] = 0.0
        if start == -1:
            x[i] = np.floor(size / (rows - 1))
        elif i == start or (start == -3 and i == rows - 2) or ((start == -2 or start == rows) and i < rows - 2):
            x[i] = size
    x[rows - 1] = size


@njit(cache=True, error_model="numpy", fastmath=FAST)
def value_of(lane, x, open_sz):
    """Cost at x, USD; into `open_sz` (D,) the shares each scenario leaves unbought, below 0 where it buys too much."""
    flow, weight = lane.flow, lane.weight
    value, missing = 0.0, 0.0
    for n in range(len(weight)):
        open_sz[n] = lane.size
    for i in range(len(x) - 1):
        limit, row, filled = x[i], flow[i], 0.0
        for n in range(len(weight)):
            fill = min(row[n], limit)
            filled += weight[n] * fill
            open_sz[n] -= fill
        value += lane.theta * limit + lane.fill[i] * filled
    for n in range(len(weight)):
        missing += weight[n] * max(open_sz[n], 0.0)
    return value + lane.short * missing


@njit(cache=True, error_model="numpy")
def descend_whole(lane, x, open_sz, small):
    """Moves x downhill in whole shares until neither a single move nor one between two rows is downhill, or hardly."""
    slack = len(x) - 1
    value_of(lane, x, open_sz)
    for i in range(slack - 1, -2, -1):
        search(lane, x, open_sz, slack, i if i >= 0 else slack - 1)
    tried = np.zeros((slack + 1, slack + 1), np.int64)  # how many moves had been made when it failed
    moves, small = 1, 0
    for _ in range(STEEPEST):
        down, up = steepest(lane, x, open_sz, tried, moves)
        if down < 0 or small >= PATIENCE:
            break
        gain = search(lane, x, open_sz, down, up)
        small = small + 1 if gain < small * lane.rounding else 0
        if gain > 0.0:
            moves += 1
        else:
            tried[down, up] = moves


@njit(cache=True, error_model="numpy", fastmath=FAST)
def steepest(lane, x, open_sz, tried, moves):
    """The two rows between which the cost falls fastest for the first share moved, (-1, -1) if it does not fall."""
    flow, weight, slack = lane.flow, lane.weight, len(x) - 1
    open_weight, ties, tied = np.empty(len(weight)), np.empty(len(weight), np.int64), 0
    slopes = np.zeros((2, slack + 1))
    for n in range(len(weight)):
        open_weight[n] = weight[n] if open_sz[n] > 0.0 else 0.0
        if open_sz[n] == 0.0:
            ties[tied] = n
            tied += 1
    for i in range(slack):
        limit, row = x[i], flow[i]
        more, more_open, less, less_open = 0.0, 0.0, 0.0, 0.0
        for n in range(len(weight)):
            more += weight[n] if row[n] > limit else 0.0
            more_open += open_weight[n] if row[n] > limit else 0.0
            less += weight[n] if row[n] >= limit else 0.0
            less_open += open_weight[n] if row[n] >= limit else 0.0
        slopes[0, i] = lane.short * less_open - lane.fill[i] * less - lane.theta
        slopes[1, i] = lane.fill[i] * more - lane.short * more_open + lane.theta
    lowest, best_down, best_up = -1e3 * lane.rounding / lane.size, -1, -1
    for down in range(slack + 1):
        for up in range(slack + 1):
            slope = slopes[0, down] + slopes[1, up]
            if slope >= lowest or up == down or x[down] <= 0.0 or tried[down, up] == moves:
                continue
            if up != slack and x[up] >= lane.size:
                continue
            for i in range(tied if down != slack else 0):
                n = ties[i]
                if flow[down, n] >= x[down] and (up == slack or flow[up, n] <= x[up]):
                    slope += lane.short * weight[n]
            if slope < lowest:
                lowest, best_down, best_up = slope, down, up
    return best_down, best_up


@njit(cache=True, error_model="numpy")
def search(lane, x, open_sz, down, up):
    """Moves shares between two rows to the cheapest sizes found; returns what that saves, USD."""
    slack = len(x) - 1
    if up == slack:
        down, up = slack, down
    now = x[up]
    total = 2.0 * lane.size if down == slack else x[down] + now
    low, high = max(0.0, total - lane.size), min(lane.size, total)
    if down == slack:
        low = 0.0
    slope = lane.theta if down == slack else 0.0
    base, come, gone = np.empty(len(open_sz)), lane.flow[up], lane.flow[down]
    for n in range(len(open_sz)):
        base[n] = open_sz[n] + min(come[n], now) + min(gone[n], total - now)
    line = come, gone, base, lane.weight, lane.fill[up], lane.fill[down], lane.short, slope, total
    at = bottom(line, *best_level(lane, line, down, up, now, low, high), lane.rounding)
    if at == now:
        return 0.0
    gain = along(line, now) - along(line, at)
    x[up] = at
    if down != slack:
        x[down] = total - at
    for n in range(len(open_sz)):
        open_sz[n] = base[n] - min(come[n], at) - min(gone[n], total - at)
    return gain


@njit(cache=True, error_model="numpy")
def best_level(lane, line, down, up, now, low, high):
    """The cheapest size among the present one, the ends and the levels of both rows, its neighbours, and its cost."""
    total = line[-1]
    at, value = now, along(line, now)
    count = lane.used[up] + lane.used[down]
    for q in range(count + 2):
        sz = level_of(lane, down, up, total, low, high, q)
        if low <= sz <= high and sz != now:
            found = along(line, sz)
            if found < value - lane.rounding:
                at, value = sz, found
    left, right = low, high
    for q in range(count + 2):
        sz = level_of(lane, down, up, total, low, high, q)
        if left < sz < at:
            left = sz
        if at < sz < right:
            right = sz
    return at, left, right, value


@njit(cache=True, error_model="numpy")
def level_of(lane, down, up, total, low, high, q):
    """Size number q of row `up` to look at: its own levels, those of row `down` as seen from here, the ends."""
    if q < lane.used[up]:
        return lane.levels[up, q]
    q -= lane.used[up]
    if q < lane.used[down]:
        return total - lane.levels[down, q]
    return low if q == lane.used[down] else high


@njit(cache=True, error_model="numpy")
def bottom(line, at, left, right, value, rounding):
    """Where the cost stops falling beside `at`, by halving; `at` where that is no improvement."""
    if at < right and rise(line, at) < 0.0:
        left = at + 1.0
    elif at > left and rise(line, at - 1.0) > 0.0:
        right = at - 1.0
    else:
        return at
    while left < right:
        middle = np.floor(0.5 * (left + right))
        if rise(line, middle) < 0.0:
            left = middle + 1.0
        else:
            right = middle
    return left if along(line, left) < value - rounding else at


@njit(cache=True, error_model="numpy", fastmath=FAST)
def along(line, sz):
    """Cost of the two rows and of misses with `sz` shares in the first row, the rest of the total in the second."""
    come, gone, base, weight, fill_come, fill_gone, short, slope, total = line
    rest, filled, left, missing = total - sz, 0.0, 0.0, 0.0
    for n in range(len(base)):
        a, b = min(come[n], sz), min(gone[n], rest)
        filled += weight[n] * a
        left += weight[n] * b
        missing += weight[n] * max(base[n] - a - b, 0.0)
    return slope * sz + fill_come * filled + fill_gone * left + short * missing


@njit(cache=True, error_model="numpy", fastmath=FAST)
def rise(line, sz):
    """What `along` grows by when one share more moves, in one pass."""
    come, gone, base, weight, fill_come, fill_gone, short, slope, total = line
    rest, filled, left, missing = total - sz, 0.0, 0.0, 0.0
    for n in range(len(base)):
        a, b = min(come[n], sz), min(gone[n], rest)
        c, d = min(come[n], sz + 1.0), min(gone[n], rest - 1.0)
        filled += weight[n] * (c - a)
        left += weight[n] * (d - b)
        missing += weight[n] * (max(base[n] - c - d, 0.0) - max(base[n] - a - b, 0.0))
    return slope + fill_come * filled + fill_gone * left + short * missing
