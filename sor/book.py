"""The consolidated book: the last quote of every venue, carried forward, one state per batch of equal ts_event.

Rows of one ts_event that stand together form a batch; within it the last row of a venue counts. A venue that shows no
price on a side has left that side. `quote_updates` keeps just these last rows; everything after it works on batches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from sor.events import CLEAR, QUOTE, TRADE, Events

EMPTY, OPEN, LOCKED, CROSSED = 0, 1, 2, 3  # state of the consolidated book; EMPTY: a side is missing


@dataclass(frozen=True)
class QuoteUpdates:
    """The rows that count, batch after batch. B batches, R updates, K venues.

    Batch b holds the updates first[b] to first[b + 1]. Venues that no order can be routed to are left out.
    """

    ts_ns: np.ndarray  # int64 (B,) UTC nanoseconds; where the feed goes back a little, the newest time so far
    first: np.ndarray  # int64 (B + 1,)
    venue: np.ndarray  # int16 (R,) index into publisher_ids
    bid_px_e4: np.ndarray  # int32 (R,) 1e-4 USD per share, 0: no bid
    ask_px_e4: np.ndarray
    bid_sz: np.ndarray  # int32 (R,) shares
    ask_sz: np.ndarray
    publisher_ids: tuple[int, ...]

    @property
    def venues(self) -> int:
        """K, the number of venues."""
        return len(self.publisher_ids)

    def batches_by(self, ts_ns: np.ndarray | int) -> np.ndarray:
        """How many batches are known at a time: those stamped at or before it."""
        return np.searchsorted(self.ts_ns, ts_ns, side="right")


@dataclass(frozen=True)
class Nbbo:
    """National best bid and offer after each batch, arrays of shape (B,); price 0 where a side is missing."""

    bid_px_e4: np.ndarray  # int32 1e-4 USD per share
    ask_px_e4: np.ndarray
    bid_sz: np.ndarray  # int64 shares at that price, over all venues
    ask_sz: np.ndarray
    state: np.ndarray  # int8 EMPTY, OPEN, LOCKED or CROSSED

    @property
    def usable(self) -> np.ndarray:
        """Both sides exist and are not crossed; only then does a policy trade."""
        return (self.state == OPEN) | (self.state == LOCKED)

    @property
    def mid_px(self) -> np.ndarray:
        """Mid price in USD per share; NaN where the book is not usable."""
        mid = (self.bid_px_e4.astype(np.float64) + self.ask_px_e4) / 20_000
        return np.where(self.usable, mid, np.nan)

    @property
    def spread_px(self) -> np.ndarray:
        """Spread in USD per share; NaN where the book is not usable."""
        spread = (self.ask_px_e4 - self.bid_px_e4) / 10_000
        return np.where(self.usable, spread, np.nan)


def quote_updates(events: Events, routable: np.ndarray) -> QuoteUpdates:
    """Batches of quotes, keeping the last row of each venue within a batch.

    Parameters
    ----------
    events : Events
    routable : bool array (K,)
        Venues whose quotes count; off-exchange publishers do not.
    """
    columns = (events.ts_ns, events.action, events.venue)
    sides = (events.bid_px_e4, events.ask_px_e4, events.bid_sz, events.ask_sz)
    batches, rows = _update_batches(*columns, sides, routable, *_room(0, 0, 0))
    ts_ns, first, venue, book = _room(batches, batches + 1, rows)
    _update_batches(*columns, sides, routable, ts_ns, first, venue, book)
    return QuoteUpdates(ts_ns, first, venue, *book, events.publisher_ids)


def _room(batches: int, firsts: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Arrays to write to: times and first updates of batches, venues of updates, and their bid, ask and sizes (4, R)."""
    return (
        np.empty(batches, np.int64),
        np.empty(firsts, np.int64),
        np.empty(rows, np.int16),
        np.empty((4, rows), np.int32),
    )


@njit(cache=True)
def _update_batches(ts_ns, action, venue, sides, routable, at_ns, first, of_venue, book):  # pragma: no cover
    """Number of batches with an update, and of updates, in file order within a batch; with room in `first` they are written.

    Twice over the rows, to count and to write, needs no memory beyond the result's.
    """
    bid_px_e4, ask_px_e4, bid_sz, ask_sz = sides
    newest_batch = np.full(len(routable), -1, np.int64)  # of each venue
    slot = np.zeros(len(routable), np.int64)
    batch, written, kept, newest_ns = -1, -1, 0, np.int64(0)
    batches = 0
    for i in range(len(ts_ns)):
        if i == 0 or ts_ns[i] != ts_ns[i - 1]:
            batch += 1
        newest_ns = ts_ns[i] if i == 0 else max(newest_ns, ts_ns[i])
        v = venue[i]
        if action[i] == TRADE or not routable[v]:
            continue
        if written != batch:
            written = batch
            if len(first):
                at_ns[batches], first[batches] = newest_ns, kept
            batches += 1
        if newest_batch[v] != batch:
            newest_batch[v], slot[v] = batch, kept
            kept += 1
        if len(first):
            row, shown = slot[v], np.int32(action[i] == QUOTE)
            of_venue[row] = v
            book[0, row], book[1, row] = bid_px_e4[i] * shown, ask_px_e4[i] * shown
            book[2, row], book[3, row] = bid_sz[i] * shown, ask_sz[i] * shown
    if len(first):
        first[batches] = kept
    return batches, kept


def expire_quotes(events: Events, max_age_ns: int) -> Events:
    """The same events with a CLEAR inserted wherever a venue has not updated its quote for `max_age_ns`.

    The CLEAR stands at the moment the quote expires, so that no kernel has to know about ages.
    """
    quotes = np.flatnonzero(events.action != TRADE)
    order = quotes[np.argsort(events.venue[quotes], kind="stable")]
    following = np.append(order[1:], -1)
    same_venue = np.append(events.venue[order[1:]] == events.venue[order[:-1]], False)
    newest_ns = np.maximum.accumulate(events.ts_ns)
    expiry_ns = newest_ns[order] + max_age_ns
    next_ns = np.where(same_venue, newest_ns[following], newest_ns[-1:] + 1)
    expires = (events.action[order] == QUOTE) & (expiry_ns < next_ns)
    at_ns, of = expiry_ns[expires], order[expires]
    by_time = np.argsort(at_ns, kind="stable")
    at_ns, of = at_ns[by_time], of[by_time]
    where = np.searchsorted(newest_ns, at_ns, side="left")
    inserted = {"ts_ns": at_ns, "venue": events.venue[of], "action": np.full(len(of), CLEAR, np.int8)}
    columns = {
        name: np.insert(getattr(events, name), where, inserted.get(name, 0))
        for name in events.__dataclass_fields__
        if name != "publisher_ids"
    }
    return replace(events, **columns)


def nbbo(updates: QuoteUpdates) -> Nbbo:
    """Best bid and offer over all venues after each batch, and the shares shown there."""
    return Nbbo(
        *_nbbo(
            updates.first,
            updates.venue,
            updates.bid_px_e4,
            updates.ask_px_e4,
            updates.bid_sz,
            updates.ask_sz,
            updates.venues,
        )
    )


@njit(cache=True)
def _nbbo(first, venue, bid_px_e4, ask_px_e4, bid_sz, ask_sz, venues):  # pragma: no cover
    batches = len(first) - 1
    bid, ask = np.zeros(venues, np.int32), np.zeros(venues, np.int32)
    bid_shown, ask_shown = np.zeros(venues, np.int32), np.zeros(venues, np.int32)
    best_bid, best_ask = np.zeros(batches, np.int32), np.zeros(batches, np.int32)
    best_bid_sz, best_ask_sz = np.zeros(batches, np.int64), np.zeros(batches, np.int64)
    state = np.zeros(batches, np.int8)
    for b in range(batches):
        for i in range(first[b], first[b + 1]):
            v = venue[i]
            bid[v], ask[v], bid_shown[v], ask_shown[v] = bid_px_e4[i], ask_px_e4[i], bid_sz[i], ask_sz[i]
        for v in range(venues):
            if bid[v] > best_bid[b]:
                best_bid[b], best_bid_sz[b] = bid[v], bid_shown[v]
            elif bid[v] == best_bid[b]:
                best_bid_sz[b] += bid_shown[v]
            if ask[v] > 0 and (ask[v] < best_ask[b] or best_ask[b] == 0):
                best_ask[b], best_ask_sz[b] = ask[v], ask_shown[v]
            elif ask[v] == best_ask[b]:
                best_ask_sz[b] += ask_shown[v]
        if best_bid[b] > 0 and best_ask[b] > 0:
            spread = best_ask[b] - best_bid[b]
            state[b] = OPEN if spread > 0 else (LOCKED if spread == 0 else CROSSED)
    return best_bid, best_ask, best_bid_sz, best_ask_sz, state


def asks_after(updates: QuoteUpdates, batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Ask price (int32, 1e-4 USD per share) and size of every venue, shape (K,), after the first `batches` batches."""
    last, known = _newest_rows(updates, batches)
    return updates.ask_px_e4[last] * known, updates.ask_sz[last] * known


def bids_after(updates: QuoteUpdates, batches: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of the bids."""
    last, known = _newest_rows(updates, batches)
    return updates.bid_px_e4[last] * known, updates.bid_sz[last] * known


def _newest_rows(updates: QuoteUpdates, batches: int) -> tuple[np.ndarray, np.ndarray]:
    """The last row of every venue in the first `batches` batches, and whether there is one."""
    last = _newest_row_of_venue(updates.venue, updates.first[batches], updates.venues)
    return last, last >= 0


@njit(cache=True)
def _newest_row_of_venue(venue, stop, venues):  # pragma: no cover
    """Looked for from the end: all venues that quote at all are soon found."""
    last = np.full(venues, -1, np.int64)
    found = 0
    for i in range(stop - 1, -1, -1):
        if last[venue[i]] < 0:
            last[venue[i]] = i
            found += 1
            if found == venues:
                break
    return last


@njit(cache=True)
def update_only(first, venue, bid_px_e4, ask_px_e4, bid_sz, ask_sz, venues):  # pragma: no cover
    """The bare book update, nothing else: the floor that benchmarks measure kernels against. Returns the last book (4, K)."""
    book = np.zeros((4, venues), np.int32)
    for i in range(first[0], first[-1]):
        v = venue[i]
        book[0, v], book[1, v], book[2, v], book[3, v] = bid_px_e4[i], ask_px_e4[i], bid_sz[i], ask_sz[i]
    return book
