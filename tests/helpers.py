"""Small markets written by hand or drawn at random, and a plain-Python replay that the kernels are held against.

Times are seconds after T0, 09:30 in New York on 2024-08-05; prices USD per share, 0: the side is absent.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

import numpy as np

from sor import market as markets
from sor.events import CLEAR, EVENT_DTYPES, QUOTE, TRADE, Events
from sor.market import Market
from sor.orders import DEADLINE, RESET, SHADOW, TAKE, Taken, Terminal, Window
from sor.replay import Schedule
from sor.venues import Venue, VenueTable

SECOND_NS = 10**9
T0_NS = 1_722_864_600 * SECOND_NS  # 2024-08-05T13:30:00Z
DARK = 17  # a publisher that is never routed to


class Row(NamedTuple):
    """One row of market data."""

    at_s: float
    publisher_id: int
    action: int = QUOTE
    bid_px: float = 0.0
    bid_sz: int = 0
    ask_px: float = 0.0
    ask_sz: int = 0
    trade_sz: int = 0


def quote(at_s: float, publisher_id: int, bid_px: float, bid_sz: int, ask_px: float, ask_sz: int) -> Row:
    return Row(at_s, publisher_id, QUOTE, bid_px, bid_sz, ask_px, ask_sz)


def ask(at_s: float, publisher_id: int, px: float, sz: int) -> Row:
    """A quote whose bid of 1 share at 1.00 USD never matters but makes the book two-sided."""
    return quote(at_s, publisher_id, 1.0, 1, px, sz)


def trade(at_s: float, publisher_id: int, sz: int) -> Row:
    return Row(at_s, publisher_id, TRADE, trade_sz=sz)


def clear(at_s: float, publisher_id: int) -> Row:
    return Row(at_s, publisher_id, CLEAR)


def ns(at_s: float) -> int:
    return T0_NS + round(at_s * SECOND_NS)


def events(*rows: Row) -> Events:
    """Rows in the order given; venues by ascending publisher id."""
    publisher_ids = tuple(sorted({row.publisher_id for row in rows}))
    columns = {
        "ts_ns": [ns(row.at_s) for row in rows],
        "venue": [publisher_ids.index(row.publisher_id) for row in rows],
        "action": [row.action for row in rows],
        "bid_px_e4": [round(row.bid_px * 1e4) for row in rows],
        "ask_px_e4": [round(row.ask_px * 1e4) for row in rows],
        "bid_sz": [row.bid_sz for row in rows],
        "ask_sz": [row.ask_sz for row in rows],
        "trade_sz": [row.trade_sz for row in rows],
    }
    empty = [0] * len(rows)
    arrays = {name: np.array(columns.get(name, empty), dtype) for name, dtype in EVENT_DTYPES}
    return Events(**arrays, publisher_ids=publisher_ids)


def venue_table(fees_e6: dict[int, int] | None = None) -> VenueTable:
    """Venues with these fees (micro-dollars per share), DARK not routable, every other one free."""

    def venue(publisher_id: int, fee_e6: int, routable: bool = True) -> Venue:
        return Venue(publisher_id, f"V{publisher_id}", fee_e6, 0, date(2024, 8, 5), "made up", routable)

    listed = [venue(publisher_id, fee) for publisher_id, fee in (fees_e6 or {}).items()]
    return VenueTable((*listed, venue(DARK, 0, routable=False)), venue(-1, 0))


def market(*rows: Row, fees_e6: dict[int, int] | None = None) -> Market:
    return markets.build(events(*rows), venue_table(fees_e6))


def window(start_s: float, end_s: float) -> Window:
    return Window(ns(start_s), ns(end_s))


def random_rows(draw: random.Random, rows: int, *, disorder: bool = True) -> list[Row]:
    """A small day of up to four venues and a dark one: ties, shared time stamps, one-sided, locked and crossed books."""
    at_s, made = 0.0, []
    lowest = draw.choice((1_000, 99_990))
    for _ in range(rows):
        at_s += draw.choice((0, 0, 1, 1, 2, 5))
        stamp = max(0.0, at_s - draw.choice((0, 0, 0, 0, 1))) if disorder else at_s
        publisher_id = draw.choice((2, 2, 3, 3, 5, 9, DARK))
        kind = draw.random()
        if kind < 0.1:
            made.append(trade(stamp, publisher_id, draw.randrange(1, 500)))
        elif kind < 0.14:
            made.append(clear(stamp, publisher_id))
        else:
            made.append(_random_quote(draw, stamp, publisher_id, lowest))
    return made


def _random_quote(draw: random.Random, stamp: float, publisher_id: int, lowest_e4: int) -> Row:
    bid_e4 = lowest_e4 + 100 * draw.choice((0, 0, 0, 1, 2))
    ask_e4 = max(bid_e4, lowest_e4 + 100 * draw.choice((1, 2, 2, 3, 4)))
    bid_sz = draw.choice((0, 1, 100, 100, 100, 100))
    ask_sz = draw.choice((0, 3, 50, 100, 100, 150, 200, 300, 250))
    return quote(stamp, publisher_id, bid_e4 / 1e4 * (bid_sz > 0), bid_sz, ask_e4 / 1e4 * (ask_sz > 0), ask_sz)


# --- the plain replay: one lane, dicts, straight from the rules ---------------------------------------------------------


class Fill(NamedTuple):
    ts_ns: int
    venue: int
    px_e4: int
    sz: int
    kind: int


@dataclass
class PlainResult:
    """What became of one lane's order."""

    fills: list[Fill] = field(default_factory=list)
    filled_sz: int = 0
    swept_sz: int = 0
    priced_sz: int = 0
    priced_e6: int = 0
    cash_e6: int = 0
    fees_e6: int = 0


def plain_batches(day: Events, routable: np.ndarray) -> list[tuple[int, dict[int, tuple[int, int, int, int]]]]:
    """(time, {venue: last quote of the batch as bid, bid size, ask, ask size}) of every batch that holds a quote."""
    batches, previous, newest = [], None, 0
    for i in range(len(day)):
        ts_ns = int(day.ts_ns[i])
        newest = max(newest, ts_ns)
        if ts_ns != previous:
            batches.append((newest, {}))
        previous = ts_ns
        v = int(day.venue[i])
        if day.action[i] == QUOTE and routable[v]:
            batches[-1][1][v] = tuple(int(getattr(day, c)[i]) for c in ("bid_px_e4", "bid_sz", "ask_px_e4", "ask_sz"))
        elif day.action[i] == CLEAR and routable[v]:
            batches[-1][1][v] = (0, 0, 0, 0)
    return [batch for batch in batches if batch[1]]


def plain_nbbo(book: dict[int, tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    """Best bid, best ask (0: none) and the shares shown at each."""
    bid = max((q[0] for q in book.values()), default=0)
    asks = [q[2] for q in book.values() if q[2]]
    best = min(asks, default=0)
    return bid, best, sum(q[1] for q in book.values() if q[0] == bid), sum(q[3] for q in book.values() if q[2] == best)


class PlainReplay:
    """One lane's order replayed batch by batch."""

    def __init__(self, fees_e6: np.ndarray, schedule: Schedule, rule: int) -> None:
        self.fees_e6 = [int(fee) for fee in fees_e6]
        self.schedule, self.rule = schedule, rule
        self.book: dict[int, tuple[int, int, int, int]] = {}
        self.consumed: dict[int, int] = {}
        self.open_sz = 0
        self.result = PlainResult()

    def update(self, quotes: dict[int, tuple[int, int, int, int]]) -> None:
        for v, new in quotes.items():
            same_px = v in self.book and self.book[v][2] == new[2]
            keeps = min(self.consumed.get(v, 0), new[3]) if same_px and self.rule == SHADOW else 0
            self.book[v], self.consumed[v] = new, keeps

    def usable(self) -> bool:
        bid, best, *_ = plain_nbbo(self.book)
        return 0 < bid <= best

    def cost_e6(self, v: int) -> int:
        return self.book[v][2] * 100 + self.fees_e6[v]

    def left(self, v: int) -> int:
        return self.book[v][3] - self.consumed[v]

    def cross(self, at_ns: int, *, sweep: bool = False) -> None:
        if not self.usable():
            return
        shown = sorted((v for v in self.book if self.book[v][2]), key=lambda v: (self.cost_e6(v), -v))
        lot, venues = self.schedule.lot_sz, shown
        if self.schedule.best_only and not sweep:
            at_best = [v for v in shown if self.cost_e6(v) == self.cost_e6(shown[0]) and self.left(v)]
            venues = at_best[:1]
        in_lots = sum(self.left(v) // lot * lot for v in venues)
        if sweep or self.open_sz % lot or in_lots < self.open_sz:
            lot = 1
        for v in venues:
            self.take(v, min(self.open_sz, self.left(v) // lot * lot), at_ns, sweep)

    def take(self, v: int, sz: int, at_ns: int, sweep: bool) -> None:
        if not sz:
            return
        self.open_sz -= sz
        self.consumed[v] += sz
        self.result.fills.append(Fill(at_ns, v, self.book[v][2], sz, DEADLINE if sweep else TAKE))
        self.result.cash_e6 += sz * self.book[v][2] * 100
        self.result.fees_e6 += sz * self.fees_e6[v]

    def complete(self, end_ns: int, terminal: Terminal) -> None:
        self.result.swept_sz = self.open_sz
        self.cross(end_ns, sweep=True)
        self.result.swept_sz -= self.open_sz
        self.result.priced_sz = self.open_sz
        self.result.priced_e6 = self.open_sz * terminal.missing_e6


def plain_take(
    day: Events,
    table: VenueTable,
    when: Window,
    schedule: Schedule,
    terminal: Terminal,
    *,
    rule: int = SHADOW,
    lane: int = 0,
) -> PlainResult:
    """The same as `sor.replay.take` for one lane."""
    batches = plain_batches(day, table.routable(day.publisher_ids))
    replay = PlainReplay(table.fees_e6(day.publisher_ids), schedule, rule)
    moments = [(ts_ns, 0, i, quotes) for i, (ts_ns, quotes) in enumerate(batches) if ts_ns <= when.end_ns]
    moments += [(int(at), 1, j, int(schedule.release_sz[j, lane])) for j, at in enumerate(schedule.clock_ns)]
    for at_ns, is_release, _, what in sorted(moments, key=lambda moment: moment[:3]):
        if is_release:
            replay.open_sz += what
            replay.cross(at_ns)
        else:
            replay.update(what)
            if schedule.persistent and replay.open_sz:
                replay.cross(at_ns)
    replay.result.filled_sz = int(schedule.release_sz[:, lane].sum()) - replay.open_sz
    replay.complete(when.end_ns, terminal)
    return replay.result


def assert_same(taken: Taken, plain: PlainResult, lane: int = 0, *, fills: bool = True) -> None:
    """The kernel's lane is the plain result, fill by fill for lane 0 (unless fills were not recorded)."""
    for name in ("filled_sz", "swept_sz", "priced_sz", "priced_e6", "cash_e6", "fees_e6"):
        assert getattr(taken, name)[lane] == getattr(plain, name), name
    if lane == 0 and fills:
        assert [Fill(*fill) for fill in taken.fills.tolist()] == plain.fills


RULES = (SHADOW, RESET)
