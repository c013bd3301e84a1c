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
DAY_NS = 86_400 * 10**9


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
def on_print(px_e4, sz, order_px_e4, ahead, shown):  # pragma: no cover
    """A trade at the order's venue by a seller: (shares for us, shares still ahead, shares shown at our price)."""
    if px_e4 < order_px_e4:
        return np.int64(sz), np.int64(0), np.int64(0)
    if px_e4 == order_px_e4:
        return max(np.int64(sz) - ahead, np.int64(0)), max(ahead - sz, np.int64(0)), max(shown - sz, np.int64(0))
    return np.int64(0), ahead, shown


@njit(cache=True)
def on_quote(bid_px_e4, bid_sz, ask_px_e4, order_px_e4, ahead, shown, optimistic):  # pragma: no cover
    """A quote of the order's venue: the same three; an ask at our price or below must have filled us."""
    if 0 < ask_px_e4 <= order_px_e4:
        return np.int64(UNBOUNDED), ahead, shown
    if bid_px_e4 == order_px_e4:
        if optimistic and bid_sz < shown:
            ahead = -(-ahead * bid_sz // shown)
        return np.int64(0), min(ahead, np.int64(bid_sz)), np.int64(bid_sz)
    if 0 < bid_px_e4 < order_px_e4:
        return np.int64(0), np.int64(0), np.int64(0)
    return np.int64(0), ahead, shown


@njit(cache=True)
def _flows(tape, best_bid_px_e4, starts_ns, known, length_ns, venues, optimistic):  # pragma: no cover
    """One pass over the events; the intervals under way at any time stand in a window that moves along."""
    count = len(starts_ns)
    fill_sz = np.zeros((venues, count), np.int32)
    px_e4 = np.zeros((venues, count), np.int32)  # 0: no order of that interval rests there
    ahead = np.zeros((venues, count), np.int64)
    shown = np.zeros((venues, count), np.int64)
    bids = np.zeros((3, venues), np.int32)  # bid, its size, ask
    oldest, started, b, i = 0, 0, 0, 0
    while True:
        is_print = i < len(tape.print_ns) and tape.print_before[i] <= b
        if not is_print and b == len(tape.ts_ns):
            break
        now_ns = tape.print_ns[i] if is_print else tape.ts_ns[b]
        while started < count and starts_ns[started] < now_ns:
            px = best_bid_px_e4[known[started] - 1]
            for v in range(venues):
                if tape.routable[v] and not 0 < bids[2, v] <= px:
                    px_e4[v, started] = px
                    ahead[v, started] = bids[1, v] if bids[0, v] == px else 0
                    shown[v, started] = ahead[v, started]
            started += 1
        while oldest < started and starts_ns[oldest] + length_ns < now_ns:
            oldest += 1
        begin, end = (i, i + 1) if is_print else (tape.first[b], tape.first[b + 1])
        for row in range(begin, end):
            v = tape.print_venue[row] if is_print else tape.venue[row]
            for n in range(oldest, started):
                order_px = px_e4[v, n]
                if order_px == 0:
                    continue
                if is_print:
                    hit, ahead[v, n], shown[v, n] = on_print(
                        tape.print_px_e4[row], tape.print_sz[row], order_px, ahead[v, n], shown[v, n]
                    )
                else:
                    hit, ahead[v, n], shown[v, n] = on_quote(
                        tape.bid_px_e4[row], tape.bid_sz[row], tape.ask_px_e4[row],
                        order_px, ahead[v, n], shown[v, n], optimistic,
                    )  # fmt: skip
                fill_sz[v, n] = min(fill_sz[v, n] + hit, UNBOUNDED)
                if hit == UNBOUNDED:
                    px_e4[v, n] = 0
            if not is_print:
                bids[0, v], bids[1, v], bids[2, v] = tape.bid_px_e4[row], tape.bid_sz[row], tape.ask_px_e4[row]
        if is_print:
            i += 1
        else:
            b += 1
    return fill_sz
