"""Limit orders in the queue, from top-of-book data: what a buy order resting at one price would have been filled.

The rules are risk-averse (docs/model.md): a trade at our price first serves what was displayed ahead of us, a cancelled
share counts as ahead of us only when it must, and nothing fills without a trade or an ask that reaches us. They do not
depend on the order's own size, so that one queue serves every lane, and the fills of an order of unbounded size over
past intervals are the scenarios that `sor.placement` decides on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from sor.market import Market

UNBOUNDED = 2**31 - 1  # shares: an order of any size is filled in full


@dataclass(frozen=True)
class Flows:
    """What limit orders of unbounded size, posted at every venue at the best bid, were filled over I past intervals."""

    end_ns: np.ndarray  # int64 (I,) ascending
    fill_sz: np.ndarray  # int32 (K, I) shares, at most UNBOUNDED
    mid_move_px: np.ndarray  # float (I,) mid at the interval's end minus mid at its start, USD per share

    def known_by(self, at_ns: int, count: int) -> Flows:
        """The last `count` intervals that have ended by then."""
        stop = int(np.searchsorted(self.end_ns, at_ns, side="right"))
        part = slice(max(0, stop - count), stop)
        return Flows(self.end_ns[part], self.fill_sz[:, part], self.mid_move_px[part])


def fillable_flows(
    market: Market, since_ns: int, until_ns: int, length_ns: int, step_ns: int, *, optimistic: bool = False
) -> Flows:
    """Fillable flow of every interval of `length_ns` that starts at a multiple of `step_ns`.

    Parameters
    ----------
    market : Market
    since_ns, until_ns : int
        Intervals start at or after the one and end by the other, and within the data.
    length_ns, step_ns : int
        Of an interval, and from the start of one to the next.
    optimistic : bool
        Every cancelled share at our price comes off the queue ahead in proportion.

    Returns
    -------
    Flows
        Of the intervals at whose start the consolidated book was usable.
    """
    updates = market.updates
    since_ns = max(since_ns, int(updates.ts_ns[0]))
    first_ns = -(-since_ns // step_ns) * step_ns
    starts_ns = np.arange(first_ns, min(until_ns, market.last_ns) - length_ns + 1, step_ns, dtype=np.int64)
    known = updates.batches_by(starts_ns)
    starts_ns, known = starts_ns[market.usable[known - 1]], known[market.usable[known - 1]]
    fill_sz = _flows(market.tape, market.nbbo.bid_px_e4, starts_ns, known, length_ns, updates.venues, optimistic)
    mid_px = market.last_mid_px
    end_ns = starts_ns + length_ns
    moved_px = mid_px[updates.batches_by(end_ns) - 1] - mid_px[known - 1]
    return Flows(end_ns, fill_sz, moved_px)


@njit(cache=True)
def on_print(px_e4, sz, order_px_e4, ahead_sz, shown_sz):  # pragma: no cover
    """A trade at the order's venue by a seller: (shares for us, shares still ahead, shares shown at our price)."""
    if px_e4 < order_px_e4:
        return np.int64(sz), np.int64(0), np.int64(0)
    if px_e4 == order_px_e4:
        none = np.int64(0)
        return max(np.int64(sz) - ahead_sz, none), max(ahead_sz - sz, none), max(shown_sz - sz, none)
    return np.int64(0), ahead_sz, shown_sz


@njit(cache=True)
def on_quote(bid_px_e4, bid_sz, ask_px_e4, order_px_e4, ahead_sz, shown_sz, optimistic):  # pragma: no cover
    """A quote of the order's venue: the same three; an ask at our price or below must have filled us."""
    if 0 < ask_px_e4 <= order_px_e4:
        return np.int64(UNBOUNDED), ahead_sz, shown_sz
    if bid_px_e4 == order_px_e4:
        if optimistic and bid_sz < shown_sz:
            ahead_sz = -(-ahead_sz * bid_sz // shown_sz)
        return np.int64(0), min(ahead_sz, np.int64(bid_sz)), np.int64(bid_sz)
    if 0 < bid_px_e4 < order_px_e4:
        return np.int64(0), np.int64(0), np.int64(0)
    return np.int64(0), ahead_sz, shown_sz


@njit(cache=True)
def _flows(tape, best_bid_px_e4, starts_ns, known, length_ns, venues, optimistic):  # pragma: no cover
    """One pass over the events; the intervals under way at any time stand in a window that moves along."""
    count = len(starts_ns)
    fill_sz = np.zeros((venues, count), np.int32)
    px_e4 = np.zeros((venues, count), np.int32)  # 0: no order of that interval rests there
    ahead_sz = np.zeros((venues, count), np.int64)
    shown_sz = np.zeros((venues, count), np.int64)
    quotes = np.zeros((3, venues), np.int32)  # bid, its size, ask
    oldest, started, b, i = 0, 0, 0, 0
    while True:
        is_print = i < len(tape.print_ns) and tape.print_before[i] <= b
        if not is_print and b == len(tape.ts_ns):
            break
        now_ns = tape.print_ns[i] if is_print else tape.ts_ns[b]
        while started < count and starts_ns[started] < now_ns:
            _join(started, best_bid_px_e4[known[started] - 1], tape.routable, quotes, px_e4, ahead_sz, shown_sz)
            started += 1
        while oldest < started and starts_ns[oldest] + length_ns < now_ns:
            oldest += 1
        if is_print:
            v = tape.print_venue[i]
            _meet_print(
                tape.print_px_e4[i], tape.print_sz[i], px_e4[v], ahead_sz[v], shown_sz[v], fill_sz[v], oldest, started
            )
            i += 1
            continue
        for row in range(tape.first[b], tape.first[b + 1]):
            v = tape.venue[row]
            bid_px_e4, bid_sz, ask_px_e4 = tape.bid_px_e4[row], tape.bid_sz[row], tape.ask_px_e4[row]
            _meet_quote(
                bid_px_e4, bid_sz, ask_px_e4,
                px_e4[v], ahead_sz[v], shown_sz[v], fill_sz[v], oldest, started, optimistic,
            )  # fmt: skip
            quotes[0, v], quotes[1, v], quotes[2, v] = bid_px_e4, bid_sz, ask_px_e4
        b += 1
    return fill_sz


@njit(cache=True)
def _join(n, best_px_e4, routable, quotes, px_e4, ahead_sz, shown_sz):  # pragma: no cover
    """The order of interval n joins the queue of every venue that does not refuse it."""
    for v in range(len(routable)):
        if routable[v] and not 0 < quotes[2, v] <= best_px_e4:
            px_e4[v, n] = best_px_e4
            ahead_sz[v, n] = quotes[1, v] if quotes[0, v] == best_px_e4 else 0
            shown_sz[v, n] = ahead_sz[v, n]


@njit(cache=True)
def _meet_print(px_e4, sz, order_px_e4, ahead_sz, shown_sz, fill_sz, oldest, started):  # pragma: no cover
    """A trade meets the orders at its venue of the intervals under way; their arrays are (I,)."""
    for n in range(oldest, started):
        if order_px_e4[n]:
            hit_sz, ahead_sz[n], shown_sz[n] = on_print(px_e4, sz, order_px_e4[n], ahead_sz[n], shown_sz[n])
            fill_sz[n] = min(fill_sz[n] + hit_sz, UNBOUNDED)


@njit(cache=True)
def _meet_quote(
    bid_px_e4, bid_sz, ask_px_e4, order_px_e4, ahead_sz, shown_sz, fill_sz, oldest, started, optimistic
):  # pragma: no cover
    """The same of a quote; what fills an order of unbounded size ends it."""
    for n in range(oldest, started):
        if order_px_e4[n]:
            hit_sz, ahead_sz[n], shown_sz[n] = on_quote(
                bid_px_e4, bid_sz, ask_px_e4, order_px_e4[n], ahead_sz[n], shown_sz[n], optimistic
            )
            if hit_sz:
                fill_sz[n], order_px_e4[n] = UNBOUNDED, 0
