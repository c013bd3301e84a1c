"""The TWAP of the replay by other means, many lanes at once and from the rows on: a plain-Python loop, and pandas.

Both follow the rules of `sor.replay.take` without a deadline sweep: the last quote of a venue within a batch counts; trading
needs a book that is not crossed; the cheapest ask plus fee is taken first, ties by the later venue; size is taken once.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from sor.events import QUOTE, TRADE, Events
from sor.replay import Schedule

COLUMNS = ("ts_ns", "venue", "action", "bid_px_e4", "ask_px_e4", "ask_sz")
QUOTED = ["bid_px_e4", "ask_px_e4", "ask_sz"]
NEVER = 2**31 - 1  # more shares than a venue can show, dearer than any price


def plain_rows(events: Events) -> list[tuple[int, ...]]:
    """The rows as tuples of Python's integers, in the order of COLUMNS."""
    return list(zip(*(getattr(events, name).tolist() for name in COLUMNS), strict=True))


def frame_of(events: Events) -> pd.DataFrame:
    """The rows as a table with COLUMNS."""
    return pd.DataFrame({name: getattr(events, name) for name in COLUMNS})


def plain(
    rows: Iterable[tuple[int, ...]],
    routable: np.ndarray,
    fees_e6: np.ndarray,
    schedule: Schedule,
    *,
    remember: bool = True,
) -> np.ndarray:
    """Trade the schedule in one loop over the rows, with dicts and lists.

    Parameters
    ----------
    rows : see `plain_rows`
    routable : bool (K,)
    fees_e6 : int64 (K,) micro-dollars per share
    schedule : Schedule
        Neither persistent nor of lots.
    remember : bool
        Size is taken once (the shadow rule); otherwise every release finds all that is displayed.

    Returns
    -------
    int64 array (3, P)
        Cash and fees in micro-dollars, and shares, of every lane.
    """
    clock_ns, release_sz = schedule.clock_ns.tolist(), schedule.release_sz.tolist()
    may_route, lanes = routable.tolist(), _PlainLanes(fees_e6.tolist(), schedule.release_sz.shape[1], remember)
    due, newest_ns, batch_ns = 0, 0, None
    batch: dict[int, tuple[int, int, int]] = {}
    for ts_ns, venue, action, bid_px_e4, ask_px_e4, ask_sz in rows:
        if ts_ns != batch_ns:
            lanes.show(batch)
            batch, batch_ns, newest_ns = {}, ts_ns, max(newest_ns, ts_ns)
            while due < len(clock_ns) and clock_ns[due] < newest_ns:
                lanes.release(release_sz[due])
                due += 1
        if action != TRADE and may_route[venue]:
            batch[venue] = (bid_px_e4, ask_px_e4, ask_sz) if action == QUOTE else (0, 0, 0)
    lanes.show(batch)
    for shares in release_sz[due:]:
        lanes.release(shares)
    return np.array([lanes.cash_e6, lanes.fees_paid_e6, lanes.filled_sz])


class _PlainLanes:
    """The book and what every lane has open, has paid and has taken from the price a venue shows."""

    def __init__(self, fees_e6: list[int], lanes: int, remember: bool) -> None:
        self.fees_e6, self.remember = fees_e6, remember
        self.shown: dict[int, tuple[int, int, int]] = {}  # venue: bid, ask, shares at the ask
        self.gone: dict[int, list[int]] = {}  # venue: shares each lane has taken
        self.open_sz, self.filled_sz, self.cash_e6, self.fees_paid_e6 = ([0] * lanes for _ in range(4))

    def show(self, batch: dict[int, tuple[int, int, int]]) -> None:
        for venue, quote in batch.items():
            if venue in self.gone:
                if quote[1] != self.shown[venue][1]:
                    del self.gone[venue]
                elif quote[2] < self.shown[venue][2]:
                    self.gone[venue] = [min(sz, quote[2]) for sz in self.gone[venue]]
            self.shown[venue] = quote

    def release(self, shares: list[int]) -> None:
        if not self.remember:
            self.gone.clear()
        self.open_sz = [open_sz + more for open_sz, more in zip(self.open_sz, shares, strict=True)]
        if self._usable():
            asked = [(px * 100 + self.fees_e6[v], -v, px, sz) for v, (_, px, sz) in self.shown.items() if px]
            offers = [(-v, px, sz, self.gone.setdefault(-v, [0] * len(shares))) for _, v, px, sz in sorted(asked)]
            for lane in range(len(shares)):
                self._cross(lane, offers)

    def _usable(self) -> bool:
        asks = [quote[1] for quote in self.shown.values() if quote[1]]
        return bool(asks) and 0 < max(quote[0] for quote in self.shown.values()) <= min(asks)

    def _cross(self, lane: int, offers: list[tuple[int, int, int, list[int]]]) -> None:
        for venue, px_e4, sz, gone in offers:
            if not self.open_sz[lane]:
                break
            got = min(self.open_sz[lane], sz - gone[lane])
            gone[lane] += got
            self.open_sz[lane] -= got
            self.filled_sz[lane] += got
            self.cash_e6[lane] += got * px_e4 * 100
            self.fees_paid_e6[lane] += got * self.fees_e6[venue]


def grouped(frame: pd.DataFrame, routable: np.ndarray, fees_e6: np.ndarray, schedule: Schedule) -> np.ndarray:
    """Trade the schedule with group-bys over the table, then one sweep of all lanes a release; returns as `plain`.

    No release may come before the first quote.
    """
    last = _last_quotes(frame, routable)
    books = last.pivot(index="batch", columns="venue", values=QUOTED).ffill().fillna(0).astype(np.int64)
    stamps_ns = last.groupby("batch").newest_ns.last()
    at = stamps_ns.searchsorted(schedule.clock_ns, side="right") - 1
    moved, lowest_sz = _between(last, books, at)
    bid_px_e4, ask_px_e4, ask_sz = (books[name].to_numpy()[at] for name in QUOTED)
    fees = fees_e6[books[QUOTED[0]].columns]
    nearest_e4 = np.where(ask_px_e4 > 0, ask_px_e4, NEVER).min(axis=1)
    best_bid_e4 = bid_px_e4.max(axis=1)
    usable = (best_bid_e4 > 0) & (best_bid_e4 <= nearest_e4) & (nearest_e4 < NEVER)
    lanes = schedule.release_sz.shape[1]
    account, open_sz, taken = (
        np.zeros((3, lanes), np.int64),
        np.zeros(lanes, np.int64),
        np.zeros((lanes, len(fees)), int),
    )
    for j, shares in enumerate(schedule.release_sz):
        taken[:, moved[j]] = 0
        np.minimum(taken, lowest_sz[j], out=taken)
        open_sz += shares
        if usable[j]:
            got = _sweep(open_sz, ask_px_e4[j] * 100 + fees, np.where(ask_px_e4[j] > 0, ask_sz[j], 0) - taken)
            taken += got
            open_sz -= got.sum(axis=1)
            account += [got @ (ask_px_e4[j] * 100), got @ fees, got.sum(axis=1)]
    return account


def _last_quotes(frame: pd.DataFrame, routable: np.ndarray) -> pd.DataFrame:
    """The last quote of each venue in each batch, by batch."""
    frame = frame.assign(batch=(frame.ts_ns.diff() != 0).cumsum(), newest_ns=frame.ts_ns.cummax())
    quotes = frame[(frame.action != TRADE) & frame.venue.isin(np.flatnonzero(routable))]
    shown = quotes[QUOTED].where(quotes.action == QUOTE, 0)
    return quotes.assign(**shown).groupby(["batch", "venue"], as_index=False).last()


def _between(last: pd.DataFrame, books: pd.DataFrame, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Since the release before, for each release and venue: did the ask move, and the least shown; (J, K) each."""
    part = np.searchsorted(at, books.index.get_indexer(last.batch), side="left")
    moved = last.groupby("venue").ask_px_e4.diff() != 0
    groups = last.assign(part=part, moved=moved).groupby(["part", "venue"])
    per_part = groups.agg(moved=("moved", "any"), lowest_sz=("ask_sz", "min"))
    shape = {"index": range(len(at)), "columns": books[QUOTED[0]].columns}
    return tuple(
        per_part[name].unstack(fill_value=missing).reindex(**shape, fill_value=missing).to_numpy()
        for name, missing in (("moved", False), ("lowest_sz", NEVER))
    )


def _sweep(open_sz: np.ndarray, cost_e6: np.ndarray, room_sz: np.ndarray) -> np.ndarray:
    """What each lane takes from each venue, (P, K)."""
    order = np.lexsort((-np.arange(len(cost_e6)), cost_e6))
    room_sz = room_sz[:, order]
    got = np.empty_like(room_sz)
    got[:, order] = np.clip(open_sz[:, None] - (room_sz.cumsum(axis=1) - room_sz), 0, room_sz)
    return got
