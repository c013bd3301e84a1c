"""Replay of marketable orders on the consolidated book: many parameter lanes in one pass over the events.

What a policy wants is a `Schedule`; `take` executes it. Displayed size can be taken once (the shadow rule): for every
venue and lane the kernel keeps the shares already taken from the price shown; an update to another price forgets them,
an update at the same price keeps min(taken, new size), so that only increases are new. With the reset rule every update
makes the whole size fresh. Prices are int32 in 1e-4 USD, cash int64 in micro-dollars: every code path gives equal fills.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from sor.book import QuoteUpdates, asks_after
from sor.orders import CHILD_DTYPE, DEADLINE, FILL_DTYPE, RESET, SHADOW, TAKE, Taken, Terminal, Window


@dataclass(frozen=True)
class Schedule:
    """When a policy releases shares to the market, and how it takes; P lanes, J releases.

    Attributes
    ----------
    clock_ns : int64 (J,)
        Times of release, ascending; a release sees the book of all batches stamped at or before it.
    release_sz : int64 (J, P)
        Shares released then.
    persistent : bool
        Shares released and not filled are tried again at every batch; otherwise at the next release.
    best_only : bool
        Take from one venue at a time, the first of those at the best ask plus fee.
    lot_sz : int
        Take whole lots of this size where they suffice for all that is open, single shares otherwise; not with best_only.
    """

    clock_ns: np.ndarray
    release_sz: np.ndarray
    persistent: bool = False
    best_only: bool = False
    lot_sz: int = 1


def take(
    updates: QuoteUpdates,
    usable: np.ndarray,
    fees_e6: np.ndarray,
    window: Window,
    schedule: Schedule,
    terminal: Terminal,
    *,
    rule: int = SHADOW,
    sweep: bool = True,
    record: bool = True,
) -> Taken:
    """Execute a schedule by crossing the spread.

    Parameters
    ----------
    updates : QuoteUpdates
    usable : bool (B,)
        Whether trading is possible after each batch (`Nbbo.usable`).
    fees_e6 : int64 (K,)
        Taker fee of each venue, micro-dollars per share.
    window, schedule, terminal
        See there; the schedule's times lie in the window.
    rule : SHADOW or RESET
    sweep : bool
        Complete the order at the window's end; without it shares may stay unfilled (`filled_sz` says how many are not).
    record : bool
        Keep the fills of lane 0.

    Returns
    -------
    Taken
    """
    start, stop = int(updates.batches_by(window.start_ns)), int(updates.batches_by(window.end_ns))
    release_sz = np.ascontiguousarray(schedule.release_sz, dtype=np.int32)
    kernel_args = (
        updates.first,
        updates.venue,
        updates.ask_px_e4,
        updates.ask_sz,
        usable,
        np.ascontiguousarray(fees_e6, dtype=np.int32),
        np.stack(asks_after(updates, start)),
        start,
        np.append(np.minimum(updates.batches_by(schedule.clock_ns), stop), stop),
        release_sz,
        (schedule.persistent, schedule.best_only, schedule.lot_sz, rule == RESET, sweep),
    )
    capacity = 4096 if record else 0
    paid, open_sz, missing_sz, fills, used = _take(*kernel_args, capacity)
    if record and used > capacity:
        paid, open_sz, missing_sz, fills, used = _take(*kernel_args, used)
    open_sz, missing_sz = open_sz.astype(np.int64), missing_sz.astype(np.int64)
    none = np.zeros_like(missing_sz)
    priced_sz = missing_sz if sweep else none
    return Taken(
        cash_e6=paid[CASH] * 100,
        fees_e6=paid[FEES],
        rebates_e6=none,
        filled_sz=release_sz.sum(axis=0) - open_sz,
        passive_sz=none,
        posted_sz=none,
        swept_sz=open_sz - missing_sz,
        priced_sz=priced_sz,
        priced_e6=priced_sz * terminal.missing_e6,
        surplus_sz=none,
        surplus_e6=none,
        fills=_named_fills(fills[:used], updates, window, schedule),
        children=np.empty(0, CHILD_DTYPE),
    )


def _named_fills(fills: np.ndarray, updates: QuoteUpdates, window: Window, schedule: Schedule) -> np.ndarray:
    """The kernel's fills as FILL_DTYPE. Their first column is a batch, or -1 - j for the j-th release (the last: the sweep)."""
    at = fills[:, 0]
    named = np.empty(len(fills), FILL_DTYPE)
    released_ns = np.append(schedule.clock_ns, window.end_ns)
    of_release = at < 0
    named["ts_ns"][of_release] = released_ns[-1 - at[of_release]]
    named["ts_ns"][~of_release] = updates.ts_ns[at[~of_release]]
    named["venue"], named["px_e4"], named["sz"] = fills[:, 1], fills[:, 2], fills[:, 3]
    named["kind"] = np.where(at == -1 - len(schedule.clock_ns), DEADLINE, TAKE)
    return named


# Rows of the kernel's book (4, K): ask in 1e-4 USD; shares shown; some lane has taken; every lane has taken all.
PX, SZ, TOUCHED, SPENT = 0, 1, 2, 3
# Rows of what a lane has paid (2, P): cash in 1e-4 USD; fees in micro-dollars.
CASH, FEES = 0, 1


@njit(cache=True)
def _take(
    first, venue, ask_px_e4, ask_sz, usable, fees_e6, carried, start, batches, release_sz, how, capacity
):  # pragma: no cover
    """Between two releases batches are applied, and crossed one by one while a persistent policy has shares open."""
    persistent, best_only, lot_sz, reset, sweep = how
    releases, lanes = release_sz.shape
    book = np.zeros((4, len(fees_e6)), np.int32)
    book[:2] = carried
    taken = np.zeros((len(fees_e6), lanes), np.int32)
    order = np.empty(len(fees_e6), np.int64)
    open_sz = np.zeros(lanes, np.int32)  # released and not filled
    paid = np.zeros((2, lanes), np.int64)
    fills = np.empty((capacity, 4), np.int64)
    used, b = 0, start
    for j in range(releases + 1):
        while b < batches[j]:
            step = persistent and _any(open_sz)
            until = b + 1 if step else batches[j]
            apply_quotes(first[b], first[until], venue, ask_px_e4, ask_sz, book, taken, reset)
            b = until
            if step and usable[b - 1]:
                used = cross(book, fees_e6, taken, order, open_sz, paid, best_only, lot_sz, b - 1, fills, used)
        if j < releases:
            open_sz += release_sz[j]
            if b > 0 and usable[b - 1]:
                used = cross(book, fees_e6, taken, order, open_sz, paid, best_only, lot_sz, -1 - j, fills, used)
    missing_sz = open_sz.copy()
    if sweep and b > 0 and usable[b - 1]:
        used = cross_lanes(book, fees_e6, taken, order, missing_sz, paid, False, 1, -1 - releases, fills, used)
    return paid, open_sz, missing_sz, fills, used


@njit(cache=True)
def apply_quotes(begin, end, venue, ask_px_e4, ask_sz, book, taken, reset):  # pragma: no cover
    """Apply quote updates to the book, and forget of the shares taken what the rule makes new."""
    for i in range(begin, end):
        v = venue[i]
        if book[TOUCHED, v]:
            if reset or ask_px_e4[i] != book[PX, v]:
                taken[v, :] = 0
                book[TOUCHED, v], book[SPENT, v] = 0, 0
            elif ask_sz[i] > book[SZ, v]:
                book[SPENT, v] = 0
            elif ask_sz[i] < book[SZ, v]:  # equal sizes, the usual case, change nothing
                for p in range(taken.shape[1]):
                    taken[v, p] = min(taken[v, p], ask_sz[i])
        book[PX, v], book[SZ, v] = ask_px_e4[i], ask_sz[i]


@njit(cache=True)
def cross(book, fees_e6, taken, order, open_sz, paid, best_only, lot_sz, at, fills, used):  # pragma: no cover
    """Take what is open from the cheapest venues on; ties in ask plus fee go to the later venue, as in the trial."""
    if best_only or lot_sz > 1:
        return cross_lanes(book, fees_e6, taken, order, open_sz, paid, best_only, lot_sz, at, fills, used)
    candidates, _ = sort_candidates(book, fees_e6, order)
    for rank in range(candidates):
        v = order[rank]
        before_sz = taken[v, 0]
        left = _take_from(v, book[PX, v], book[SZ, v], fees_e6[v], taken, open_sz, paid)
        book[TOUCHED, v], book[SPENT, v] = 1, not left
        used = _record(fills, used, at, v, book[PX, v], taken[v, 0] - before_sz)
        if left and not _any(open_sz):
            break
    return used


@njit(cache=True)
def _take_from(v, px_e4, sz, fee_e6, taken, open_sz, paid):  # pragma: no cover
    """Every lane takes what it has open of what it has not yet taken from venue v; returns whether a lane left shares there."""
    any_left = np.int32(0)
    for p in range(len(open_sz)):
        got = np.int32(min(open_sz[p], np.int32(sz - taken[v, p])))
        taken[v, p] += got
        open_sz[p] -= got
        paid[CASH, p] += np.int64(got) * np.int64(px_e4)
        paid[FEES, p] += np.int64(got) * np.int64(fee_e6)
        any_left |= np.int32(sz - taken[v, p])
    return any_left > 0


@njit(cache=True)
def cross_lanes(book, fees_e6, taken, order, open_sz, paid, best_only, lot_sz, at, fills, used):  # pragma: no cover
    """The same lane by lane: for what differs between lanes beyond the shares they take."""
    candidates, best_e6 = sort_candidates(book, fees_e6, order)
    for p in range(len(open_sz)):
        used = _cross_lane(
            p, book, fees_e6, taken, order, candidates, best_e6, open_sz, paid, best_only, lot_sz, at, fills, used
        )
    return used


@njit(cache=True)
def _cross_lane(
    p, book, fees_e6, taken, order, candidates, best_e6, open_sz, paid, best_only, lot_sz, at, fills, used
):  # pragma: no cover
    """One lane's crossing where it is restricted: to one venue at the best ask plus fee, or to whole lots."""
    unit_sz = _unit(p, book, taken, order, candidates, open_sz[p], lot_sz)
    for rank in range(candidates):
        v = order[rank]
        cost_e6 = _cost_e6(book, fees_e6, v)
        if open_sz[p] == 0 or (best_only and cost_e6 > best_e6):
            break
        got = np.int32(min(open_sz[p], (book[SZ, v] - taken[v, p]) // unit_sz * unit_sz))
        if got == 0:
            continue
        taken[v, p] += got
        open_sz[p] -= got
        paid[CASH, p] += np.int64(got) * np.int64(book[PX, v])
        paid[FEES, p] += np.int64(got) * np.int64(fees_e6[v])
        book[TOUCHED, v] = 1
        if p == 0:
            used = _record(fills, used, at, v, book[PX, v], got)
        if best_only:
            break
    return used


@njit(cache=True)
def _unit(p, book, taken, order, candidates, open_sz, lot_sz):  # pragma: no cover
    """The lot size if whole lots on display fill all that is open exactly, else one share."""
    in_lots_sz = 0
    for rank in range(candidates):
        v = order[rank]
        in_lots_sz += (book[SZ, v] - taken[v, p]) // lot_sz * lot_sz
    return lot_sz if open_sz % lot_sz == 0 and in_lots_sz >= open_sz else 1


@njit(cache=True)
def _record(fills, used, at, v, px_e4, sz):  # pragma: no cover
    """Note a fill of lane 0 if there is room; returns how many fills there have been."""
    if sz == 0:
        return used
    if used < len(fills):
        fills[used, 0], fills[used, 1], fills[used, 2], fills[used, 3] = at, v, px_e4, sz
    return used + 1


@njit(cache=True)
def _cost_e6(book, fees_e6, v):  # pragma: no cover
    """Ask plus fee, micro-dollars per share."""
    return book[PX, v] * np.int64(100) + fees_e6[v]


@njit(cache=True)
def sort_candidates(book, fees_e6, order):  # pragma: no cover
    """Put the venues with shares left into `order`, by ask plus fee, ties by later venue.

    Returns their number, and the best ask plus fee of all venues.
    """
    candidates, best_e6 = 0, np.int64(2**62)
    for v in range(len(order)):
        if book[PX, v] == 0:
            continue
        cost_e6 = _cost_e6(book, fees_e6, v)
        best_e6 = min(best_e6, cost_e6)
        if book[SPENT, v]:
            continue
        k = candidates
        while k > 0 and _cost_e6(book, fees_e6, order[k - 1]) >= cost_e6:
            order[k] = order[k - 1]
            k -= 1
        order[k] = v
        candidates += 1
    return candidates, best_e6


@njit(cache=True)
def _any(shares):  # pragma: no cover
    """Whether some lane has shares; a loop, since numba's max() costs more than a crossing."""
    some = np.int32(0)
    for p in range(len(shares)):
        some |= shares[p]
    return some > 0
