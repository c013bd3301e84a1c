"""Placements of many lanes on the same scenarios, in whole shares: the speed that a backtest of the router needs.

A lane is an order size and three costs. Scenarios that are equal once cut at the order's size are one scenario with a
weight; recorded flow leaves about 150 of 500. What is bought of the market is bought in every scenario, so the market is
a venue whose flow never ends; a slack that costs and fills nothing makes every step the same: shares move from one row
to another. Along such a move the cost is piecewise linear, convex between two sizes that some scenario fills exactly. A
search looks at several of these sizes over the whole range, then halves its way to the bottom beside the best. Single
moves in turn, then the move that falls most steeply until none falls, from a few starts: a local minimum, no bound.

Shares are whole, so every sum over scenarios is exact in whatever order a processor adds. Dollars are not: they are summed by
`plus` alone, outside of fast arithmetic, or a processor that multiplies and adds in one step would choose another of two equals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from sor.errors import PlacementError
from sor.placement.costs import finite, float_array
from sor.placement.objective import FAST

LEVELS = 3  # sizes looked at per row in one search
WORK = 300_000  # entries that the descents of a lane read, about, after which no further one begins
MOVES = 200  # of one descent, at most
NOTHING = 1e-12  # of the largest cost of the order: rounding
ROUGH, FINE = 3e-4, 1e-5  # of the same: a descent ends after two moves running that save less
LARGEST_SZ = 2**50  # shares: sums over venues are exact in float64


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
    n_all = flow_sz.shape[1]
    terms = fill_px / n_all, costs.sum(axis=1) / n_all, costs[:, 2].copy()
    every, once = distinct(flow_sz[live], len(live), np.ones(n_all), float(size_sz.max(initial=0)))
    sorted_sz, turn = np.sort(flow_sz[live], axis=1), np.argsort(size_sz, kind="stable")
    points = place_lanes(every, once, sorted_sz, size_sz, turn, *terms)
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
    scale: float  # USD: the order at its largest cost


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
def place_lanes(every, once, sorted_c, order_sz, turn, fill, short, theta):
    """Whole shares (P, R) of every lane: different scenarios, their counts, rows sorted, lanes by size, costs of Lane."""
    rows, n_all = len(sorted_c) + 2, sorted_c.shape[1]
    points = np.zeros((len(order_sz), rows), np.int64)
    flow, weight, levels, used = every, once, np.empty((0, 0)), np.empty(0, np.int64)
    ready = np.int64(0)
    for p in turn:
        size = float(order_sz[p])
        if order_sz[p] == 0:
            continue
        if order_sz[p] != ready:
            ready = order_sz[p]
            flow, weight = distinct(every, rows - 2, once, size)
            levels, used = levels_of(sorted_c, size)
        largest = max(abs(short[p]) * n_all, abs(theta[p]))
        for i in range(rows - 1):
            largest = max(largest, abs(fill[p, i]) * n_all)
        lane = Lane(flow, weight, levels, used, fill[p], short[p], theta[p], size, largest * size)
        x = best_point(lane)
        for i in range(rows - 1):
            useful = size if i == rows - 2 or theta[p] < 0.0 else np.ceil(sorted_c[i, -1])
            points[p, i] = np.int64(min(x[i], useful))
    return points


@njit(cache=True, error_model="numpy")
def distinct(c, rows, count, size):
    """Different columns of the first rows of c cut at `size`, rows for market and slack below; how often each occurs."""
    n_all, slots = len(count), 2
    while slots < 2 * n_all:
        slots *= 2
    held = np.zeros(slots, np.int64)  # open addressing: the column of each slot, plus 1
    flow, weight, found = np.zeros((rows + 2, n_all)), np.zeros(n_all), np.int64(0)
    for n in range(n_all):
        key = np.uint64(14695981039346656037)
        for i in range(rows):
            flow[i, found] = min(c[i, n], size)
            key = (key ^ np.uint64(flow[i, found] * 1024.0)) * np.uint64(1099511628211)
            key ^= key >> np.uint64(29)
        at = np.int64(key & np.uint64(slots - 1))
        while held[at] and not same_column(flow, rows, held[at] - 1, found):
            at = (at + 1) % slots
        if not held[at]:
            flow[rows, found] = size
            found += 1
            held[at] = found
        weight[held[at] - 1] += count[n]
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
    """The cheapest of the simple allocations and of rough descents, as many as `WORK` allows, brought to the bottom."""
    rows = len(lane.fill)
    starts = 2 * rows - 1
    x, best, open_sz = np.zeros(rows), np.zeros(rows), np.empty(len(lane.weight))
    value, work, per_search = np.inf, 0, (rows + 25) * (len(open_sz) + 60)
    for turn in range(2 * starts + 1):
        last = turn == 2 * starts
        if turn > starts + 1 and work > WORK and not last:
            continue
        start_at(turn % starts, x, lane.size)
        if last:
            copy(best, x)
        found = value_of(lane, x, open_sz)
        if turn >= starts:
            saved, searches = descend_whole(lane, x, open_sz, FINE if last else ROUGH)
            found -= saved
            work += searches * per_search
        if found < value:
            value = found
            copy(x, best)
    return best


@njit(cache=True, error_model="numpy")
def copy(source, target):
    """All of `source` into `target`."""
    for i in range(len(source)):
        target[i] = source[i]


@njit(cache=True, error_model="numpy")
def start_at(number, x, size):
    """Equal parts; size / 1, 2, .. K at every venue; nothing (all in the slack), all to market, all at one venue."""
    rows = len(x)
    for i in range(rows):
        if number == 0:
            x[i] = np.floor(size / (rows - 1))
        elif number < rows - 1:
            x[i] = np.ceil(size / number) if i < rows - 2 else 0.0
        else:
            x[i] = size if i == 2 * (rows - 1) - number else 0.0
    x[rows - 1] = size


@njit(cache=True, error_model="numpy", fastmath=False)  # without the word numba takes over the caller's
def plus(cash, price, sz, other_price, other_sz):
    """Cash and two amounts, USD, added in this order and rounded after every step on every processor."""
    return cash + price * sz + other_price * other_sz


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
        value = plus(value, lane.theta, limit, lane.fill[i], filled)
    for n in range(len(weight)):
        missing += weight[n] * max(open_sz[n], 0.0)
    return plus(value, lane.short, missing, 0.0, 0.0)


@njit(cache=True, error_model="numpy")
def descend_whole(lane, x, open_sz, small):
    """Moves x downhill: every row alone, then the steepest pairs; returns what that saves, USD, and the searches."""
    slack = len(x) - 1
    tried = np.zeros((slack + 1, slack + 1), np.int64)  # how many moves had been made when it failed
    moves, idle, saved = np.int64(1), 0, 0.0  # of a plain 1 numba would compile `steepest` twice
    for turn in range(MOVES):
        if turn <= slack:  # the market first and last
            down, up = slack, (slack - 1 - turn) % slack
        else:
            down, up = steepest(lane, x, open_sz, tried, moves)
            if down < 0 or idle == 2:
                break
        gain = search(lane, x, open_sz, down, up)
        saved += gain
        if gain > 0.0:
            moves += 1
        else:
            tried[down, up] = moves
        idle = idle + 1 if turn > slack and gain < small * lane.scale else 0
    return saved, turn


@njit(cache=True, error_model="numpy")
def steepest(lane, x, open_sz, tried, moves):
    """The two rows between which the cost falls fastest for the first share moved, (-1, -1) if it does not fall."""
    slack = len(x) - 1
    slopes, ties = slopes_at(lane, x, open_sz)
    lowest, best_down, best_up = -1e-9 * lane.scale / lane.size, -1, -1
    for down in range(slack + 1):
        if x[down] <= 0.0:
            continue
        for up in range(slack + 1):
            slope = slopes[0, down] + slopes[1, up]  # without what ties add, never below 0
            full = up != slack and x[up] >= lane.size
            if slope >= lowest or up == down or full or tried[down, up] == moves:
                continue
            if down != slack:
                slope += lane.short * tied_weight(lane, x, ties, down, up)
            if slope < lowest:
                lowest, best_down, best_up = slope, down, up
    return best_down, best_up


@njit(cache=True, error_model="numpy", fastmath=FAST)
def slopes_at(lane, x, open_sz):
    """Cost of a share less and of a share more in each row, the slack's 0, and the scenarios filled to the share."""
    flow, weight = lane.flow, lane.weight
    slopes = np.zeros((2, len(x)))
    open_weight, ties, tied = np.empty(len(weight)), np.empty(len(weight), np.int64), 0
    for n in range(len(weight)):
        open_weight[n] = weight[n] if open_sz[n] > 0.0 else 0.0
        if open_sz[n] == 0.0:
            ties[tied] = n
            tied += 1
    for i in range(len(x) - 1):
        limit, row = x[i], flow[i]
        more, more_open, less, less_open = 0.0, 0.0, 0.0, 0.0
        for n in range(len(weight)):
            more += weight[n] if row[n] > limit else 0.0
            more_open += open_weight[n] if row[n] > limit else 0.0
            less += weight[n] if row[n] >= limit else 0.0
            less_open += open_weight[n] if row[n] >= limit else 0.0
        slopes[0, i] = plus(-lane.theta, lane.short, less_open, lane.fill[i], -less)
        slopes[1, i] = plus(lane.theta, lane.fill[i], more, lane.short, -more_open)
    return slopes, ties[:tied]


@njit(cache=True, error_model="numpy")
def tied_weight(lane, x, ties, down, up):
    """Scenarios filled to the share that lose one when it moves from row `down` to row `up`."""
    lost, slack = 0.0, len(x) - 1
    for n in ties:
        if lane.flow[down, n] >= x[down] and (up == slack or lane.flow[up, n] <= x[up]):
            lost += lane.weight[n]
    return lost


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
    at, gain = cheapest(lane, line, down, up, now, low, high)
    if gain <= 0.0:
        return 0.0
    x[up] = at
    if down != slack:
        x[down] = total - at
    for n in range(len(open_sz)):
        open_sz[n] = base[n] - min(come[n], at) - min(gone[n], total - at)
    return gain


@njit(cache=True, error_model="numpy")
def cheapest(lane, line, down, up, now, low, high):
    """Best of the present size, the ends and the levels of both rows, and what halving finds beside it; and its gain."""
    total, nothing = line[-1], NOTHING * lane.scale
    at, left, right, value, before = now, low, high, np.inf, 0.0
    count = lane.used[up] + lane.used[down] + 3
    for q in range(count):
        sz = level_of(lane, down, up, total, now, low, high, q)
        if low <= sz <= high:
            found = along(line, sz)
            if q == 0:
                before = value = found
            elif found < value - nothing:
                at, value = sz, found
    for q in range(count):
        sz = level_of(lane, down, up, total, now, low, high, q)
        if left < sz < at:
            left = sz
        if at < sz < right:
            right = sz
    sz = bottom(line, at, left, right)
    if sz != at:
        found = along(line, sz)
        if found < value - nothing:
            at, value = sz, found
    return at, before - value


@njit(cache=True, error_model="numpy")
def level_of(lane, down, up, total, now, low, high, q):
    """Size number q of row `up` to look at: now, the ends, its own levels, those of row `down` as seen from here."""
    if q < 3:
        return now if q == 0 else low if q == 1 else high
    q -= 3
    return lane.levels[up, q] if q < lane.used[up] else total - lane.levels[down, q - lane.used[up]]


@njit(cache=True, error_model="numpy")
def bottom(line, at, left, right):
    """Where between `left` and `right` the cost stops falling, seen from `at`, by halving."""
    probe = at if at < right else at - 1.0
    while left < right:
        if rise(line, probe) < 0.0:
            left = probe + 1.0
        else:
            right = probe
        probe = at - 1.0 if right == at else np.floor(0.5 * (left + right))
    return left


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
    return plus(plus(0.0, slope, sz, fill_come, filled), fill_gone, left, short, missing)


@njit(cache=True, error_model="numpy", fastmath=FAST)
def rise(line, sz):
    """What `along` grows by when one share more moves, in one pass."""
    come, gone, base, weight, fill_come, fill_gone, short, slope, total = line
    rest, filled, left, missing = total - sz, 0.0, 0.0, 0.0
    for n in range(len(base)):
        a, b = min(come[n], sz), min(gone[n], rest)
        a_next, b_next = min(come[n], sz + 1.0), min(gone[n], rest - 1.0)
        filled += weight[n] * (a_next - a)
        left += weight[n] * (b_next - b)
        missing += weight[n] * (max(base[n] - a_next - b_next, 0.0) - max(base[n] - a - b, 0.0))
    return plus(plus(slope, fill_come, filled, fill_gone, left), short, missing, 0.0, 0.0)
