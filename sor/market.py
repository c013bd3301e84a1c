"""Everything about the market that policies and kernels read of one day: quotes, NBBO, fees, traded volume. Read-only.

Built once from the events of a symbol; an order's window and its terminal price are taken from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cached_property
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from sor.book import Nbbo, QuoteUpdates, asks_after, expire_quotes, nbbo, quote_updates
from sor.errors import ReplayError, UsageError
from sor.events import BUYER, TRADE, Events
from sor.orders import Terminal, Window
from sor.venues import VenueTable


@dataclass(frozen=True)
class Prints:
    """Trades that a resting buy order could have met: at routable venues, the aggressor not known to be the buyer. V of them."""

    ts_ns: np.ndarray  # int64 (V,) never going back
    venue: np.ndarray  # int16 (V,)
    px_e4: np.ndarray  # int32 (V,)
    sz: np.ndarray  # int32 (V,)


class Tape(NamedTuple):
    """Quotes and prints as the kernels of limit orders read them, in one order of time.

    A print comes before every batch of quotes stamped at or after it: within one moment trades act first.
    """

    ts_ns: np.ndarray  # of the batches
    first: np.ndarray
    venue: np.ndarray
    bid_px_e4: np.ndarray
    ask_px_e4: np.ndarray
    bid_sz: np.ndarray
    ask_sz: np.ndarray
    usable: np.ndarray
    print_ns: np.ndarray
    print_before: np.ndarray  # int64 (V,) batches that come before the print
    print_venue: np.ndarray
    print_px_e4: np.ndarray
    print_sz: np.ndarray
    routable: np.ndarray


@dataclass(frozen=True)
class Market:
    """One symbol's day. K venues, B batches, V trades."""

    updates: QuoteUpdates
    nbbo: Nbbo  # arrays (B,)
    usable: np.ndarray  # bool (B,): a policy may trade
    routable: np.ndarray  # bool (K,): an order may be sent there
    fees_e6: np.ndarray  # int64 (K,) micro-dollars per share taken
    rebates_e6: np.ndarray  # int64 (K,) micro-dollars per share filled passively
    latency_ns: np.ndarray  # int64 (K,) from a decision to its arrival at the venue
    venue_names: tuple[str, ...]
    prints: Prints
    trade_ns: np.ndarray  # int64 (V,) when, never going back
    trade_sz: np.ndarray  # int64 (V,) shares, off-exchange prints included
    rows: int  # events it was made of

    @property
    def has_trades(self) -> bool:
        """The feed says what was traded."""
        return len(self.trade_sz) > 0

    @cached_property
    def tape(self) -> Tape:
        """Quotes and prints in one order of time."""
        quotes, prints = self.updates, self.prints
        before = np.searchsorted(quotes.ts_ns, prints.ts_ns, side="left")
        return Tape(
            quotes.ts_ns, quotes.first, quotes.venue, quotes.bid_px_e4, quotes.ask_px_e4, quotes.bid_sz, quotes.ask_sz,
            self.usable, prints.ts_ns, before, prints.venue, prints.px_e4, prints.sz, self.routable,
        )  # fmt: skip

    @property
    def last_ns(self) -> int:
        """Time of the last quote or print, UTC nanoseconds."""
        return max(int(self.updates.ts_ns[-1]), int(self.prints.ts_ns[-1]) if len(self.prints.ts_ns) else 0)

    @cached_property
    def newest_usable(self) -> np.ndarray:
        """The last batch up to each batch after which the book was usable, int64 (B,); -1 before the first."""
        return np.maximum.accumulate(np.where(self.usable, np.arange(len(self.usable)), -1))

    @cached_property
    def last_mid_px(self) -> np.ndarray:
        """Mid of the last usable book up to each batch, float (B,) USD per share; NaN before the first."""
        return np.where(self.newest_usable >= 0, self.nbbo.mid_px[self.newest_usable], np.nan)


def build(events: Events, venues: VenueTable, max_quote_age_ns: int = 0) -> Market:
    """The market of `events`; ReplayError if no routable venue ever quotes. Orders arrive without delay."""
    rows = len(events)
    if max_quote_age_ns:
        events = expire_quotes(events, max_quote_age_ns)
    ids = events.publisher_ids
    routable = venues.routable(ids)
    trades = _trades(events, routable)  # before the updates: what it needs on the way is gone by then
    updates = quote_updates(events, routable)
    if not len(updates.ts_ns):
        raise ReplayError("the data hold no quote of a venue that orders can be routed to")
    best = nbbo(updates)
    return Market(
        updates=updates,
        nbbo=best,
        usable=best.usable,
        routable=routable,
        fees_e6=venues.fees_e6(ids),
        rebates_e6=venues.rebates_e6(ids),
        latency_ns=np.zeros(len(ids), np.int64),
        venue_names=venues.names(ids),
        **trades,
        rows=rows,
    )


def _trades(events: Events, routable: np.ndarray) -> dict[str, object]:
    """Those fields of a market that are made of its trades."""
    at = np.flatnonzero(events.action == TRADE)
    newest_ns = np.maximum.accumulate(events.ts_ns)[at]
    met = routable[events.venue[at]] & (events.side[at] != BUYER)
    limit = at[met]
    return {
        "prints": Prints(newest_ns[met], events.venue[limit], events.trade_px_e4[limit], events.trade_sz[limit]),
        "trade_ns": newest_ns,
        "trade_sz": events.trade_sz[at].astype(np.int64),
    }


def order_window(
    market: Market, start_time: str, end_time: str, time_zone: str, *, still_coming: bool = False
) -> Window:
    """The part of start_time to end_time, on the day of the first usable book, that the data cover.

    Parameters
    ----------
    start_time, end_time : str
        HH:MM[:SS[.fraction]] on the clock of `time_zone`.
    still_coming : bool
        More data will come: the window is not cut where they end now.

    Returns
    -------
    Window
        From start_time, or the first usable book after it, to end_time, or the last batch of the day if that is earlier.

    Raises
    ------
    UsageError
        There is no such time zone.
    ReplayError
        The data hold no usable book in that time; the message says what they cover.
    """
    ts_ns = market.updates.ts_ns
    zone = _zone(time_zone)
    first = int(market.usable.argmax())  # feeds clear their books at midnight UTC, the evening before in New York
    day = datetime.fromtimestamp(int(ts_ns[first]) // 10**9, zone).date()
    start_ns, end_ns = (_clock_ns(day, clock, zone) for clock in (start_time, end_time))
    known, stop = int(market.updates.batches_by(start_ns)), int(market.updates.batches_by(end_ns))
    if not (known and market.usable[known - 1]):
        usable = np.flatnonzero(market.usable[known:stop])
        start_ns = int(ts_ns[known + usable[0]]) if len(usable) else end_ns
    last = int(market.updates.batches_by(_midnight_after_ns(day, zone) - 1)) - 1
    end_ns = end_ns if still_coming else min(end_ns, int(ts_ns[last]))
    if not market.usable.any():
        raise ReplayError("the data never show a bid and an ask that do not cross: no order can be traded on them")
    if start_ns >= end_ns:
        span = " to ".join(str(np.datetime64(int(at) // 10**9, "s")) for at in (ts_ns[0], ts_ns[-1]))
        raise ReplayError(
            f"no usable book between {start_time} and {end_time} {time_zone} on {day}; the data cover {span} UTC: "
            "choose another --start-time and --end-time"
        )
    return Window(start_ns, end_ns)


def _zone(time_zone: str) -> ZoneInfo:
    try:
        return ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"time_zone is {time_zone!r}; it must be a name like America/New_York") from None


def _clock_ns(day: date, clock: str, zone: ZoneInfo) -> int:
    whole, _, fraction = clock.partition(".")
    seconds = int(datetime.combine(day, time.fromisoformat(whole), zone).timestamp())
    return seconds * 10**9 + int(fraction.ljust(9, "0"))


def _midnight_after_ns(day: date, zone: ZoneInfo) -> int:
    return int(datetime.combine(day + timedelta(days=1), time(), zone).timestamp()) * 10**9


def rows_after_the_day(market: Market, window: Window, time_zone: str) -> int:
    """Quote updates later than the order's day, which is the only one that is traded."""
    zone = _zone(time_zone)
    day = datetime.fromtimestamp(window.start_ns // 10**9, zone).date()
    return int(
        len(market.updates.venue) - market.updates.first[market.updates.batches_by(_midnight_after_ns(day, zone) - 1)]
    )


def terminal(market: Market, window: Window, penalty_px: float | None) -> Terminal:
    """What a share costs that is nowhere on the book at the window's end, and what one bought too many brings.

    The first is the dearest ask plus fee of the last usable book by then plus the penalty, the second its best bid less the
    dearest taker fee.

    Parameters
    ----------
    penalty_px : float or None
        USD per share on top of the dearest ask; None: the consolidated spread then.

    Raises
    ------
    ReplayError
        There is no usable book before the window's end.
    """
    usable = _last_usable(market, window.end_ns)
    px_e4, _ = asks_after(market.updates, usable + 1)
    shown = px_e4 > 0
    dearest_e6 = int((px_e4[shown].astype(np.int64) * 100 + market.fees_e6[shown]).max())
    bid_px_e4, ask_px_e4 = int(market.nbbo.bid_px_e4[usable]), int(market.nbbo.ask_px_e4[usable])
    penalty = (ask_px_e4 - bid_px_e4) / 10_000 if penalty_px is None else penalty_px
    return Terminal(
        missing_e6=dearest_e6 + round(penalty * 1e6),
        surplus_e6=bid_px_e4 * 100 - int(market.fees_e6[market.routable].max()),
    )


def _last_usable(market: Market, at_ns: int) -> int:
    """The last batch by then after which the book is usable."""
    known = int(market.updates.batches_by(at_ns))
    usable = int(market.newest_usable[known - 1]) if known else -1
    if usable < 0:
        raise ReplayError(f"no usable book by {np.datetime64(at_ns, 'ns')} UTC; an order must end after the first one")
    return usable


def arrival_mid_px(market: Market, window: Window) -> float:
    """Consolidated mid, USD per share, at the window's start."""
    return float(market.last_mid_px[int(market.updates.batches_by(window.start_ns)) - 1])
