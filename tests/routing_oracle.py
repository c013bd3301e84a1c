"""A plain-Python replay of limit orders, latency and the routers that the kernels are held against.

One lane, one event at a time, ints, lists and dicts, straight from the rules; slow on purpose. A day is a list of quotes
and prints, so that tests write tiny ones by hand; `random_day` draws them.

    day = make_day([Quote(0, 0, 999_900, 100, 1_000_000, 100)], [Print(5, 0, 999_900, 250)])
    buy(day, 100, Window(0, 60), clock_ns=[0], cum=[100], place=limit_only, flows=[], min_scenarios=0).passive_sz

Order of one moment t: prints stamped t, batches stamped t, arrivals at t, decisions at t (with the arrivals of no latency),
cancellation of what has become too much, the deadline.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

import numpy as np

from sor.events import BUYER, CLEAR, EVENT_DTYPES, NO_AGGRESSOR, QUOTE, SELLER, TRADE, Events
from sor.replay import RESET, SHADOW, Window
from sor.venues import Venue, VenueTable

UNBOUNDED_SZ = 2**31 - 1
STEP_NS = 5 * 10**9
MAX_ADVERSE_PX = 0.03


# --- the day ------------------------------------------------------------------------------------------------------------


class Quote(NamedTuple):
    """What a venue shows from ts_ns on; price 0: the side is absent."""

    ts_ns: int
    venue: int
    bid_px_e4: int
    bid_sz: int
    ask_px_e4: int
    ask_sz: int


class Print(NamedTuple):
    """A trade; only those whose aggressor is not the buyer count."""

    ts_ns: int
    venue: int
    px_e4: int
    sz: int
    aggressor: int = SELLER


class Batch(NamedTuple):
    """The last quote of each venue that updates in it, in order of the venues' first rows."""

    ts_ns: int
    quotes: dict[int, Quote]


Book = dict[int, Quote]


@dataclass(frozen=True)
class Day:
    """Rows as they came, and the batches and prints of routable venues that they make; K venues."""

    rows: list[Quote | Print]
    batches: list[Batch]
    prints: list[Print]
    fees_e6: list[int]
    rebates_e6: list[int]
    latency_ns: list[int]
    routable: list[bool]

    @property
    def venues(self) -> int:
        return len(self.fees_e6)

    @property
    def last_ns(self) -> int:
        """Time of the last batch or print that counts."""
        return max([batch.ts_ns for batch in self.batches] + [each.ts_ns for each in self.prints], default=0)


def make_day(quotes: list[Quote], prints: list[Print], **venues: list) -> Day:
    """A day of quotes and prints, each list in the order of time. The keywords are those of `day_of_rows`."""
    return day_of_rows(sorted([*quotes, *prints], key=lambda row: row.ts_ns), **venues)


def day_of_rows(
    rows: list[Quote | Print],
    *,
    fees_e6: list[int] | None = None,
    rebates_e6: list[int] | None = None,
    latency_ns: list[int] | None = None,
    routable: list[bool] | None = None,
) -> Day:
    """A day of rows in file order, whose times may go back; venues are free, instant and routable unless said otherwise."""
    given = [each for each in (fees_e6, rebates_e6, latency_ns, routable) if each is not None]
    venues = len(given[0]) if given else 1 + max((row.venue for row in rows), default=0)
    assert all(len(each) == venues for each in given)
    routable = routable or [True] * venues
    batches, prints = _batches_and_prints(rows, routable)
    zeros = [0] * venues
    return Day(rows, batches, prints, fees_e6 or zeros, rebates_e6 or zeros, latency_ns or zeros, routable)


def _batches_and_prints(rows: list[Quote | Print], routable: list[bool]) -> tuple[list[Batch], list[Print]]:
    """Rows of one stamp that stand together form a batch; a time that goes back becomes the newest so far."""
    batches: list[Batch] = []
    prints: list[Print] = []
    previous_ns, newest_ns = None, None
    for row in rows:
        newest_ns = row.ts_ns if newest_ns is None else max(newest_ns, row.ts_ns)
        if row.ts_ns != previous_ns:
            batches.append(Batch(newest_ns, {}))
        previous_ns = row.ts_ns
        if not routable[row.venue]:
            continue
        if isinstance(row, Quote):
            batches[-1].quotes[row.venue] = row._replace(ts_ns=newest_ns)
        elif row.aggressor != BUYER:
            prints.append(row._replace(ts_ns=newest_ns))
    return [batch for batch in batches if batch.quotes], prints


class Moment(NamedTuple):
    """Everything that is stamped with one time."""

    ts_ns: int
    prints: list[Print]
    batches: list[Batch]


def moments(day: Day) -> Iterator[Moment]:
    """The day's prints and batches, moment after moment."""
    for ts_ns in sorted({each.ts_ns for each in day.prints} | {each.ts_ns for each in day.batches}):
        at_once = [[each for each in stamped if each.ts_ns == ts_ns] for stamped in (day.prints, day.batches)]
        yield Moment(ts_ns, *at_once)


# --- the consolidated book ----------------------------------------------------------------------------------------------


def best_bid_e4(book: Book) -> int:
    return max((quote.bid_px_e4 for quote in book.values()), default=0)


def best_ask_e4(book: Book) -> int:
    return min((quote.ask_px_e4 for quote in book.values() if quote.ask_px_e4), default=0)


def is_usable(book: Book) -> bool:
    """Both sides exist and are not crossed."""
    return 0 < best_bid_e4(book) <= best_ask_e4(book)


def mid_px(book: Book) -> float:
    return (best_bid_e4(book) + best_ask_e4(book)) / 20_000


def cost_e6(day: Day, quote: Quote) -> int:
    """Ask plus fee, micro-dollars per share."""
    return quote.ask_px_e4 * 100 + day.fees_e6[quote.venue]


def by_cost(day: Day, book: Book) -> list[int]:
    """The venues that show an ask, by ask plus fee, ties to the later venue."""
    shown = [quote for quote in book.values() if quote.ask_px_e4]
    return [quote.venue for quote in sorted(shown, key=lambda quote: (cost_e6(day, quote), -quote.venue))]


def book_at(day: Day, at_ns: int) -> Book:
    """The book after all batches stamped at or before a time."""
    book: Book = {}
    for batch in day.batches:
        if batch.ts_ns <= at_ns:
            book.update(batch.quotes)
    return book


def last_usable_book(day: Day, at_ns: int) -> Book:
    """The book after the last batch by then that leaves it usable; empty if there is none."""
    book: Book = {}
    usable: Book = {}
    for batch in day.batches:
        if batch.ts_ns <= at_ns:
            book.update(batch.quotes)
            usable = dict(book) if is_usable(book) else usable
    return usable


# --- the queue ----------------------------------------------------------------------------------------------------------


@dataclass
class Queue:
    """What stands before a limit buy order at one venue, and what reaches it."""

    px_e4: int
    ahead_sz: int = 0
    shown_sz: int = 0
    done: bool = False

    def join(self, quote: Quote | None) -> bool:
        """Arrive at a venue that shows this; False: rejected, the order would have taken."""
        if quote and 0 < quote.ask_px_e4 <= self.px_e4:
            self.done = True
            return False
        at_px = quote is not None and quote.bid_px_e4 == self.px_e4
        self.ahead_sz = self.shown_sz = quote.bid_sz if at_px else 0
        return True

    def on_print(self, px_e4: int, sz: int) -> int:
        """Shares of a trade that reach the order."""
        if self.done or px_e4 > self.px_e4:
            return 0
        if px_e4 < self.px_e4:
            self.ahead_sz = self.shown_sz = 0
            return sz
        hit_sz = max(sz - self.ahead_sz, 0)
        self.ahead_sz = max(self.ahead_sz - sz, 0)
        self.shown_sz = max(self.shown_sz - sz, 0)
        return hit_sz

    def on_quote(self, quote: Quote, optimistic: bool) -> int:
        """Shares that a quote of the venue makes fill: all, once its ask comes down to the order."""
        if self.done:
            return 0
        if 0 < quote.ask_px_e4 <= self.px_e4:
            self.done = True
            return UNBOUNDED_SZ
        if quote.bid_px_e4 == self.px_e4:
            if optimistic and quote.bid_sz < self.shown_sz:
                self.ahead_sz = -(-self.ahead_sz * quote.bid_sz // self.shown_sz)
            self.ahead_sz = min(self.ahead_sz, quote.bid_sz)
            self.shown_sz = quote.bid_sz
        elif 0 < quote.bid_px_e4 < self.px_e4:
            self.ahead_sz = self.shown_sz = 0
        return 0


class Flow(NamedTuple):
    """One past interval: what an unbounded order posted at its start would have filled at each venue by its end."""

    start_ns: int
    fill_sz: list[int]
    mid_move_px: float


def fillable_flows(day: Day, length_ns: int, step_ns: int = STEP_NS, optimistic: bool = False) -> list[Flow]:
    """All intervals of this length that start at multiples of step_ns with a usable book and end within the data."""
    if not day.batches:
        return []
    first_ns = -(-day.batches[0].ts_ns // step_ns) * step_ns
    starts_ns = range(first_ns, day.last_ns - length_ns + 1, step_ns)
    return [
        _flow(day, start_ns, start_ns + length_ns, optimistic)
        for start_ns in starts_ns
        if is_usable(book_at(day, start_ns))
    ]


def _flow(day: Day, start_ns: int, end_ns: int, optimistic: bool) -> Flow:
    book = book_at(day, start_ns)
    queues = [Queue(best_bid_e4(book)) for _ in range(day.venues)]
    for venue, queue in enumerate(queues):
        queue.join(book.get(venue))
    fill_sz = [0] * day.venues
    for moment in moments(day):
        if not start_ns < moment.ts_ns <= end_ns:
            continue
        for each in moment.prints:
            fill_sz[each.venue] += queues[each.venue].on_print(each.px_e4, each.sz)
        for batch in moment.batches:
            for venue, quote in batch.quotes.items():
                fill_sz[venue] += queues[venue].on_quote(quote, optimistic)
    move_px = mid_px(last_usable_book(day, end_ns)) - mid_px(book)
    return Flow(start_ns, [min(sz, UNBOUNDED_SZ) for sz in fill_sz], move_px)


def scenarios_at(flows: list[Flow], length_ns: int, tau_ns: int, count: int = 500) -> list[Flow]:
    """The last `count` intervals that end by tau_ns."""
    return [flow for flow in flows if flow.start_ns + length_ns <= tau_ns][-count:]


# --- what becomes of an order -------------------------------------------------------------------------------------------


class Fill(NamedTuple):
    """One fill; kind is "take", "limit" or "deadline"."""

    ts_ns: int
    venue: int
    px_e4: int
    sz: int
    kind: str


@dataclass
class Child:
    """The life of one child order.

    kind is "market", "limit" or "deadline"; px_e4 the limit, or the ask that a market order was decided on. outcome is "filled",
    "rejected" (limit, on arrival), "cancelled" (limit), "partial" or "missed" (market), "void" (at the deadline); until then
    "in flight" or "resting". The queue's sizes are None where the order never joined it.
    """

    slice: int
    venue: int
    kind: str
    px_e4: int
    sz: int
    decided_ns: int
    arrives_ns: int
    cancel_ns: int | None = None
    ahead_on_arrival_sz: int | None = None
    ahead_at_end_sz: int | None = None
    filled_sz: int = 0
    outcome: str = "in flight"
    queue: Queue | None = None


@dataclass
class Slice:
    """One decision of a slice policy.

    how is "placed", "market only" (too few scenarios, or no print yet), "nothing to place" or "not usable".
    """

    number: int
    tau_ns: int
    how: str
    bought_sz: int
    px_e4: int = 0
    swept_sz: int = 0
    slice_sz: int = 0
    market_sz: int = 0
    limit_sz: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Terminal:
    """Micro-dollars per share at the deadline: of what the sweep does not find, and of a surplus."""

    missing_e6: int
    surplus_e6: int


def terminal(day: Day, end_ns: int, penalty_e6: int | None = None) -> Terminal:
    """Terminal prices of the last usable book; the penalty is its spread unless given. ValueError if there is none."""
    book = last_usable_book(day, end_ns)
    if not book:
        raise ValueError("no usable book by the deadline")
    spread_e6 = (best_ask_e4(book) - best_bid_e4(book)) * 100
    dearest_fee_e6 = max(fee for fee, routable in zip(day.fees_e6, day.routable, strict=True) if routable)
    return Terminal(
        missing_e6=max(cost_e6(day, book[venue]) for venue in by_cost(day, book))
        + (spread_e6 if penalty_e6 is None else penalty_e6),
        surplus_e6=best_bid_e4(book) * 100 - dearest_fee_e6,
    )


@dataclass
class Result:
    """What became of the order; cash_e6 and fees_e6 include the deadline sweep, taken_sz does not."""

    cash_e6: int = 0
    fees_e6: int = 0
    rebates_e6: int = 0
    taken_sz: int = 0
    passive_sz: int = 0
    swept_sz: int = 0
    priced_sz: int = 0
    priced_e6: int = 0
    surplus_sz: int = 0
    surplus_e6: int = 0
    fills: list[Fill] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)

    @property
    def bought_sz(self) -> int:
        """Before the deadline."""
        return self.taken_sz + self.passive_sz

    @property
    def total_e6(self) -> int:
        return self.cash_e6 + self.fees_e6 - self.rebates_e6 + self.priced_e6 - self.surplus_e6


class Lane:
    """One lane's book, what it has taken from it, and its child orders."""

    def __init__(self, day: Day, rule: int, optimistic: bool) -> None:
        self.day, self.rule, self.optimistic = day, rule, optimistic
        self.book: Book = {}
        self.taken_sz: dict[int, int] = {}  # by venue, of the size shown now
        self.result = Result()

    # what the market does

    def see_print(self, each: Print) -> None:
        for child in self._resting(each.venue, each.ts_ns):
            self._fill_limit(child, each.ts_ns, child.queue.on_print(each.px_e4, each.sz))

    def see_batch(self, batch: Batch) -> None:
        for venue, quote in batch.quotes.items():
            for child in self._resting(venue, batch.ts_ns):
                self._fill_limit(child, batch.ts_ns, child.queue.on_quote(quote, self.optimistic))
            self._show(venue, quote)

    def _show(self, venue: int, quote: Quote) -> None:
        same_px = venue in self.book and self.book[venue].ask_px_e4 == quote.ask_px_e4
        keeps = same_px and self.rule == SHADOW
        self.taken_sz[venue] = min(self.taken_sz.get(venue, 0), quote.ask_sz) if keeps else 0
        self.book[venue] = quote

    def _resting(self, venue: int, at_ns: int) -> list[Child]:
        return [
            child
            for child in self.result.children
            if child.outcome == "resting"
            and child.venue == venue
            and (child.cancel_ns is None or at_ns <= child.cancel_ns)
        ]

    # what the lane does

    def left_sz(self, venue: int) -> int:
        """Shares shown at the ask that the lane has not taken."""
        quote = self.book.get(venue)
        return quote.ask_sz - self.taken_sz[venue] if quote and quote.ask_px_e4 else 0

    def plan(self, want_sz: int, *, best_only: bool = False, lot_sz: int = 1) -> list[tuple[int, int]]:
        """Which shares to send where, as (venue, shares), cheapest first."""
        venues = by_cost(self.day, self.book)
        if best_only:
            best_e6 = cost_e6(self.day, self.book[venues[0]]) if venues else 0
            at_best = [each for each in venues if cost_e6(self.day, self.book[each]) == best_e6]
            venues = [each for each in at_best if self.left_sz(each)][:1]
        in_lots_sz = sum(self.left_sz(each) // lot_sz * lot_sz for each in venues)
        unit_sz = lot_sz if want_sz % lot_sz == 0 and in_lots_sz >= want_sz else 1
        planned = []
        for venue in venues:
            sz = min(want_sz, self.left_sz(venue) // unit_sz * unit_sz)
            want_sz -= sz
            if sz:
                planned.append((venue, sz))
        return planned

    def send_market(self, at_ns: int, number: int, planned: list[tuple[int, int]]) -> None:
        for venue, sz in planned:
            px_e4 = self.book[venue].ask_px_e4
            arrives_ns = at_ns + self.day.latency_ns[venue]
            self.result.children.append(Child(number, venue, "market", px_e4, sz, at_ns, arrives_ns))
        self.arrive(at_ns)

    def send_limits(self, at_ns: int, number: int, px_e4: int, limit_sz: list[int]) -> None:
        for venue, sz in enumerate(limit_sz):
            if sz:
                arrives_ns = at_ns + self.day.latency_ns[venue]
                child = Child(number, venue, "limit", px_e4, sz, at_ns, arrives_ns, queue=Queue(px_e4))
                self.result.children.append(child)
        self.arrive(at_ns)

    def cancel_limits(self, at_ns: int) -> None:
        """Decide now that no limit order is wanted; each lives until the word reaches its venue."""
        for child in self.result.children:
            if child.kind == "limit" and child.outcome in ("in flight", "resting"):
                reaches_ns = at_ns + self.day.latency_ns[child.venue]
                child.cancel_ns = reaches_ns if child.cancel_ns is None else min(child.cancel_ns, reaches_ns)

    def in_flight_sz(self) -> int:
        return sum(
            child.sz for child in self.result.children if child.kind == "market" and child.outcome == "in flight"
        )

    def arrive(self, at_ns: int) -> bool:
        """Let what is due reach its venue; True if a market order did."""
        due = [child for child in self.result.children if child.outcome == "in flight" and child.arrives_ns == at_ns]
        for child in due:
            if child.kind == "market":
                self._take(child, at_ns)
            else:
                self._join(child)
        return any(child.kind == "market" for child in due)

    def _take(self, child: Child, at_ns: int) -> None:
        quote = self.book.get(child.venue)
        dearer = quote is None or quote.ask_px_e4 > child.px_e4  # it is limited to the ask it was decided on
        sz = 0 if dearer else min(child.sz, self.left_sz(child.venue))
        child.outcome = "filled" if sz == child.sz else "partial" if sz else "missed"
        if sz:
            self._pay_taker(child, at_ns, sz, "take")
            self.result.taken_sz += sz

    def _pay_taker(self, child: Child, at_ns: int, sz: int, kind: str) -> None:
        px_e4 = self.book[child.venue].ask_px_e4
        child.filled_sz = sz
        self.taken_sz[child.venue] += sz
        self.result.cash_e6 += sz * px_e4 * 100
        self.result.fees_e6 += sz * self.day.fees_e6[child.venue]
        self.result.fills.append(Fill(at_ns, child.venue, px_e4, sz, kind))

    def _join(self, child: Child) -> None:
        joined = child.queue.join(self.book.get(child.venue))
        child.outcome = "resting" if joined else "rejected"
        if joined:
            child.ahead_on_arrival_sz = child.queue.ahead_sz

    def _fill_limit(self, child: Child, at_ns: int, hit_sz: int) -> None:
        sz = min(child.sz - child.filled_sz, hit_sz)
        child.ahead_at_end_sz = child.queue.ahead_sz
        if not sz:
            return
        child.filled_sz += sz
        if child.filled_sz == child.sz:
            child.outcome = "filled"
        self.result.passive_sz += sz
        self.result.cash_e6 += sz * child.px_e4 * 100
        self.result.rebates_e6 += sz * self.day.rebates_e6[child.venue]
        self.result.fills.append(Fill(at_ns, child.venue, child.px_e4, sz, "limit"))

    # the deadline

    def finish(self, end_ns: int, size: int, at_end: Terminal) -> None:
        """Void what is left, sweep what is missing, price what is not on the book, sell what is too much."""
        for child in self.result.children:
            _close(child, end_ns)
        missing_sz = max(size - self.result.bought_sz, 0)
        self.result.surplus_sz = max(self.result.bought_sz - size, 0)
        self.result.surplus_e6 = self.result.surplus_sz * at_end.surplus_e6
        for venue, sz in self.plan(missing_sz) if is_usable(self.book) else []:
            quote = self.book[venue]
            child = Child(-1, venue, "deadline", quote.ask_px_e4, sz, end_ns, end_ns, outcome="filled")
            self.result.children.append(child)
            self._pay_taker(child, end_ns, sz, "deadline")
            self.result.swept_sz += sz
        self.result.priced_sz = missing_sz - self.result.swept_sz
        self.result.priced_e6 = self.result.priced_sz * at_end.missing_e6


def _close(child: Child, end_ns: int) -> None:
    """The outcome of an order that neither filled nor was rejected."""
    if child.outcome == "resting":
        child.outcome = "cancelled" if child.cancel_ns is not None and child.cancel_ns <= end_ns else "void"
    elif child.outcome == "in flight":
        child.outcome = "void"
    if child.ahead_on_arrival_sz is not None and child.ahead_at_end_sz is None:
        child.ahead_at_end_sz = child.ahead_on_arrival_sz


# --- policies that only take --------------------------------------------------------------------------------------------


@dataclass
class Taker:
    """Buys what has been released: at each release, or (persistent) at every batch too when nothing is in flight."""

    lane: Lane
    releases: list[tuple[int, int]]
    persistent: bool = False
    best_only: bool = False
    lot_sz: int = 1
    each_batch: bool = True
    released_sz: int = 0

    def times_ns(self) -> list[int]:
        return [at_ns for at_ns, _ in self.releases]

    def after_batch(self, at_ns: int) -> None:
        if self.persistent and self.each_batch:
            self._try(at_ns)

    def decide(self, at_ns: int, batches: int, arrived: bool) -> None:
        if self.persistent and batches and (arrived or not self.each_batch):
            self._try(at_ns)
        for release_ns, sz in self.releases:
            if release_ns == at_ns:
                self.released_sz += sz
                self._try(at_ns)

    def after(self, at_ns: int) -> None:
        pass

    def _try(self, at_ns: int) -> None:
        in_flight_sz = self.lane.in_flight_sz()
        if not is_usable(self.lane.book) or (self.persistent and in_flight_sz):
            return
        want_sz = self.released_sz - self.lane.result.bought_sz - in_flight_sz
        planned = self.lane.plan(want_sz, best_only=self.best_only, lot_sz=self.lot_sz)
        self.lane.send_market(at_ns, -1, planned)


def take(
    day: Day,
    window: Window,
    releases: list[tuple[int, int]],
    *,
    persistent: bool = False,
    best_only: bool = False,
    lot_sz: int = 1,
    each_batch: bool = True,
    rule: int = SHADOW,
    at_end: Terminal | None = None,
    penalty_e6: int | None = None,
) -> Result:
    """Buy what `releases`, (time, shares) in ascending order, ask for by crossing the spread.

    `each_batch` says whether a persistent taker decides after every batch, as `sor.replay.take` does, or once a moment: the
    same, unless several batches share a time because the feed went back.
    """
    lane = Lane(day, rule, optimistic=False)
    taker = Taker(lane, releases, persistent, best_only, lot_sz, each_batch)
    size = sum(sz for _, sz in releases)
    return _replay(lane, taker, window, size, at_end or terminal(day, window.end_ns, penalty_e6))


# --- policies in slices -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Situation:
    """What a placement rule may look at when a slice begins."""

    day: Day
    tau_ns: int
    number: int
    slice_sz: int
    book: Book
    scenarios: list[Flow]

    @property
    def fillable_sz(self) -> list[list[int]]:
        """c of shape (K, N): the scenarios capped at the slice."""
        return [[min(flow.fill_sz[k], self.slice_sz) for flow in self.scenarios] for k in range(self.day.venues)]


Place = Callable[[Situation], tuple[int, list[int]]]  # -> shares to market, and to post at each venue


def equal(situation: Situation) -> tuple[int, list[int]]:
    """The same at every routable venue and to market; the remainder to market."""
    routable = situation.day.routable
    part_sz = situation.slice_sz // (sum(routable) + 1)
    limit_sz = [part_sz if each else 0 for each in routable]
    return situation.slice_sz - sum(limit_sz), limit_sz


def limit_only(situation: Situation) -> tuple[int, list[int]]:
    """All at the routable venue with the largest mean fillable flow, the first of equals."""
    means = [sum(flows) for flows in situation.fillable_sz]
    candidates = [k for k in range(situation.day.venues) if situation.day.routable[k]]
    chosen = max(candidates, key=lambda k: (means[k], -k))
    return 0, [situation.slice_sz if k == chosen else 0 for k in range(situation.day.venues)]


def market_only(situation: Situation) -> tuple[int, list[int]]:
    return situation.slice_sz, [0] * situation.day.venues


def in_eighths(parts: list[tuple[int, list[int]]]) -> Place:
    """A placement rule: of slice j parts[j] eighths, (to market, [to post at each venue]), rounded down."""

    def place(situation: Situation) -> tuple[int, list[int]]:
        market, limits = parts[situation.number]
        return situation.slice_sz * market // 8, [situation.slice_sz * each // 8 for each in limits]

    return place


class RouterInputs(NamedTuple):
    """What the router's placement is solved for, beside the scenarios: USD per share."""

    half_spread_px: float
    taker_fee_px: float
    rebates_px: list[float]


def router_inputs(situation: Situation, adverse_weight: float) -> RouterInputs:
    """Half the spread, the mean fee of sweeping the slice over what is displayed, and the effective rebates."""
    day, book = situation.day, situation.book
    rebates_px = [
        day.rebates_e6[k] / 1e6 + adverse_weight * adverse_px(flows_sz, situation.scenarios)
        for k, flows_sz in enumerate(situation.fillable_sz)
    ]
    half_spread_px = (best_ask_e4(book) - best_bid_e4(book)) / 20_000
    return RouterInputs(half_spread_px, sweep_fee_px(situation), rebates_px)


def sweep_fee_px(situation: Situation) -> float:
    """Mean taker fee over the slice, or over all that is displayed if that is less."""
    left_sz, swept_sz, fees_e6 = situation.slice_sz, 0, 0
    for venue in by_cost(situation.day, situation.book):
        sz = min(left_sz, situation.book[venue].ask_sz)
        left_sz, swept_sz = left_sz - sz, swept_sz + sz
        fees_e6 += sz * situation.day.fees_e6[venue]
    return fees_e6 / swept_sz / 1e6 if swept_sz else 0.0


def adverse_px(flows_sz: list[int], scenarios: list[Flow]) -> float:
    """Mean move of the mid per share filled, within 3 cents either way; 0 if nothing fills."""
    if not sum(flows_sz):
        return 0.0
    moved = sum(sz * flow.mid_move_px for sz, flow in zip(flows_sz, scenarios, strict=True))
    return min(max(moved / sum(flows_sz), -MAX_ADVERSE_PX), MAX_ADVERSE_PX)


@dataclass
class Slicer:
    """Sends market and limit orders at every slice's start, as a placement rule says."""

    lane: Lane
    clock_ns: list[int]
    cum: list[int]  # scheduled shares through each slice
    place: Place
    flows: list[Flow]
    length_ns: int
    catch_up: str
    cancel_on_fill: bool
    scenarios: int
    min_scenarios: int
    number: int = -1  # of the slice that has begun

    def times_ns(self) -> list[int]:
        return self.clock_ns

    def after_batch(self, at_ns: int) -> None:
        pass

    def decide(self, at_ns: int, batches: int, arrived: bool) -> None:
        if at_ns in self.clock_ns:
            self.number = self.clock_ns.index(at_ns)
            self.lane.cancel_limits(at_ns)
            decision = self._decision(at_ns)
            self.lane.result.slices.append(decision)
            planned = self.lane.plan(decision.swept_sz + decision.market_sz)
            self.lane.send_market(at_ns, self.number, planned)
            self.lane.send_limits(at_ns, self.number, decision.px_e4, decision.limit_sz)

    def after(self, at_ns: int) -> None:
        """Cancel limit orders once everything due is bought."""
        if self.cancel_on_fill and self.number >= 0 and self.lane.result.bought_sz >= self.cum[self.number]:
            self.lane.cancel_limits(at_ns)

    def _decision(self, at_ns: int) -> Slice:
        bought_sz = self.lane.result.bought_sz
        decision = Slice(self.number, at_ns, "not usable", bought_sz)
        if not is_usable(self.lane.book):
            return decision
        decision.px_e4 = best_bid_e4(self.lane.book)
        decision.swept_sz, decision.slice_sz = self._due(bought_sz)
        known = scenarios_at(self.flows, self.length_ns, at_ns, self.scenarios)
        situation = Situation(self.lane.day, at_ns, self.number, decision.slice_sz, dict(self.lane.book), known)
        if not decision.slice_sz:
            decision.how, rule = "nothing to place", market_only
        elif self.min_scenarios and (
            len(known) < self.min_scenarios or not any(each.ts_ns <= at_ns for each in self.lane.day.prints)
        ):
            decision.how, rule = "market only", market_only
        else:
            decision.how, rule = "placed", self.place
        decision.market_sz, decision.limit_sz = rule(situation)
        return decision

    def _due(self, bought_sz: int) -> tuple[int, int]:
        """What slices before have left over, to be swept, and the shares to place."""
        before_sz = self.cum[self.number - 1] if self.number else 0
        due_sz = self.cum[self.number]
        if self.catch_up == "carry":
            return 0, max(due_sz - bought_sz, 0)
        short_sz = before_sz - bought_sz
        return max(short_sz, 0), max(due_sz - before_sz + min(short_sz, 0), 0)


def buy(
    day: Day,
    size: int,
    window: Window,
    clock_ns: list[int],
    cum: list[int],
    place: Place,
    *,
    flows: list[Flow] | None = None,
    slice_ns: int = 0,
    step_ns: int = STEP_NS,
    scenarios: int = 500,
    min_scenarios: int = 50,
    rule: int = SHADOW,
    catch_up: str = "slice",
    cancel_on_fill: bool = True,
    optimistic: bool = False,
    at_end: Terminal | None = None,
    penalty_e6: int | None = None,
) -> Result:
    """Buy `size` shares in slices that start at clock_ns; cum[j] shares are scheduled through slice j, cum[-1] == size.

    `flows` are the scenarios of the whole day, intervals of slice_ns (made from the day if None); `place` is given those that
    end by the slice's start. min_scenarios=0 lets a rule that needs none place from the first slice on.
    """
    assert cum[-1] == size
    assert catch_up in ("slice", "carry")
    if flows is None:
        flows = fillable_flows(day, slice_ns, step_ns, optimistic)
    lane = Lane(day, rule, optimistic)
    slicer = Slicer(lane, clock_ns, cum, place, flows, slice_ns, catch_up, cancel_on_fill, scenarios, min_scenarios)
    return _replay(lane, slicer, window, size, at_end or terminal(day, window.end_ns, penalty_e6))


def _replay(lane: Lane, policy: Taker | Slicer, window: Window, size: int, at_end: Terminal) -> Result:
    """Moment after moment, in the order that the head of this file gives."""
    stamped = {moment.ts_ns: moment for moment in moments(lane.day)}
    acts_ns = {*stamped, *policy.times_ns()}
    acts_ns |= {at_ns + latency_ns for at_ns in acts_ns for latency_ns in lane.day.latency_ns}
    for at_ns in sorted(acts_ns):
        if at_ns > window.end_ns:
            break
        moment = stamped.get(at_ns, Moment(at_ns, [], []))
        for each in moment.prints:
            lane.see_print(each)
        for batch in moment.batches:
            lane.see_batch(batch)
            policy.after_batch(at_ns)
        arrived = lane.arrive(at_ns)
        policy.decide(at_ns, len(moment.batches), arrived)
        policy.after(at_ns)
    lane.finish(window.end_ns, size, at_end)
    return lane.result


def equal_cum(size: int, slices: int) -> list[int]:
    """Shares scheduled through each of equal slices, whole ones (`sor.policies.whole_shares`)."""
    return [math.floor((j + 1) / slices * size + 0.5) for j in range(slices)]


def assert_adds_up(day: Day, size: int, result: Result) -> None:
    """What holds of any result: the totals are the sums of the fills, the fills those of the child orders."""

    def shares(kind: str) -> int:
        return sum(fill.sz for fill in result.fills if fill.kind == kind)

    assert (shares("take"), shares("limit"), shares("deadline")) == (
        result.taken_sz,
        result.passive_sz,
        result.swept_sz,
    )
    assert result.cash_e6 == sum(fill.sz * fill.px_e4 * 100 for fill in result.fills)
    taker = [fill for fill in result.fills if fill.kind != "limit"]
    assert result.fees_e6 == sum(fill.sz * day.fees_e6[fill.venue] for fill in taker)
    maker = [fill for fill in result.fills if fill.kind == "limit"]
    assert result.rebates_e6 == sum(fill.sz * day.rebates_e6[fill.venue] for fill in maker)
    assert sum(fill.sz for fill in result.fills) + result.priced_sz == size + result.surplus_sz
    assert not (result.surplus_sz and (result.swept_sz or result.priced_sz))
    for kind, of_fill in (("market", "take"), ("limit", "limit"), ("deadline", "deadline")):
        for venue in range(day.venues):
            children = [child for child in result.children if (child.kind, child.venue) == (kind, venue)]
            filled = [fill.sz for fill in result.fills if (fill.kind, fill.venue) == (of_fill, venue)]
            assert sum(child.filled_sz for child in children) == sum(filled)
    for child in result.children:
        assert 0 <= child.filled_sz <= child.sz
        assert child.outcome not in ("in flight", "resting")
        assert (child.outcome == "filled") == (child.filled_sz == child.sz)


# --- days drawn at random, and the same days as arrays ------------------------------------------------------------------

UNIT_NS = 10**9 // 2
T0_NS = 1_722_864_600 * 10**9  # a multiple of 5 s
BASE_E4, TICK_E4 = 1_000_000, 100


def random_day(
    seed: int, *, rows: int = 80, venues: int = 3, latency: bool = True, dark: bool = True, disorder: bool = False
) -> Day:
    """A tiny day from T0_NS on, all times multiples of UNIT_NS so that events, decisions and arrivals often coincide.

    Prices around 100.00 USD; locked and crossed moments, absent sides, equal time stamps, prints at, below and above the bid,
    of buyers too, and at moments without a quote. With `dark` the last venue is not routable; with `disorder` times go back.
    """
    draw = random.Random(seed)
    at, level, made = 0, 0, []
    for _ in range(rows):
        at += draw.choice((0, 0, 0, 1, 1, 1, 2, 4))
        level += draw.choice((0,) * 8 + (-1, 1))
        stamp_ns = T0_NS + UNIT_NS * max(0, at - (draw.choice((0, 0, 0, 1)) if disorder else 0))
        make = _random_print if draw.random() < 0.35 else _random_quote
        made.append(make(draw, stamp_ns, draw.randrange(venues), BASE_E4 + TICK_E4 * level))
    return day_of_rows(
        made,
        fees_e6=[draw.choice((-200, 0, 700, 3000, 3000)) for _ in range(venues)],
        rebates_e6=[draw.choice((-100, 0, 2000, 3200)) for _ in range(venues)],
        latency_ns=[UNIT_NS * draw.choice((0, 0, 1, 2, 3)) * latency for _ in range(venues)],
        routable=[k < venues - 1 or not dark for k in range(venues)],
    )


def _random_quote(draw: random.Random, stamp_ns: int, venue: int, level_e4: int) -> Quote:
    bid_e4 = level_e4 - TICK_E4 * draw.choice((1, 1, 1, 1, 2, 0))
    ask_e4 = bid_e4 + TICK_E4 * draw.choice((1, 1, 1, 2, 2, 0))
    bid_sz, ask_sz = (draw.choice((0, 1, 3, 10, 50, 100, 100, 200)) for _ in range(2))
    if draw.random() < 0.03:
        bid_sz = ask_sz = 0
    return Quote(stamp_ns, venue, bid_e4 * (bid_sz > 0), bid_sz, ask_e4 * (ask_sz > 0), ask_sz)


def _random_print(draw: random.Random, stamp_ns: int, venue: int, level_e4: int) -> Print:
    px_e4 = level_e4 + TICK_E4 * draw.choice((-3, -2, -1, -1, -1, 0, 0, 1))
    aggressor = draw.choice((SELLER, SELLER, SELLER, NO_AGGRESSOR, BUYER))
    return Print(stamp_ns, venue, px_e4, draw.choice((1, 5, 20, 100, 300)), aggressor)


class Case(NamedTuple):
    """An order on a day, in slices of slice_ns, and a placement rule's parts (`in_eighths`)."""

    day: Day
    size: int
    window: Window
    slice_ns: int
    clock_ns: list[int]
    cum: list[int]
    parts: list[tuple[int, list[int]]]


def random_case(seed: int, **day: int | bool) -> Case:
    """A random day, and an order on it whose deadline finds a usable book behind it; the parts may add up to over 1."""
    draw = random.Random(f"order {seed}")
    drawn = random_day(seed, **day)
    usable_ns = [batch.ts_ns for batch in drawn.batches if is_usable(book_at(drawn, batch.ts_ns))]
    if not usable_ns:
        return random_case(seed + 1_000_003, **day)
    start_ns = usable_ns[0] + UNIT_NS * draw.choice((0, 1, 5, 10, 20))
    slice_ns, slices = UNIT_NS * draw.choice((4, 6, 10)), draw.choice((1, 2, 3, 5))
    end_ns = start_ns + slice_ns * slices - UNIT_NS * draw.choice((0, 0, 1, 2))
    size = draw.choice((1, 7, 60, 300, 800))
    parts = [
        (draw.choice((0, 0, 2, 4, 8)), [draw.choice((0, 2, 4, 8)) * each for each in drawn.routable])
        for _ in range(slices)
    ]
    clock_ns = [start_ns + j * slice_ns for j in range(slices)]
    return Case(drawn, size, Window(start_ns, end_ns), slice_ns, clock_ns, equal_cum(size, slices), parts)


def events_of(day: Day) -> Events:
    """The day's rows as event arrays; the publisher of venue k is k + 1."""
    columns = {name: np.zeros(len(day.rows), dtype) for name, dtype in EVENT_DTYPES}
    for i, row in enumerate(day.rows):
        columns["ts_ns"][i], columns["venue"][i] = row.ts_ns, row.venue
        if isinstance(row, Print):
            columns["action"][i], columns["side"][i] = TRADE, row.aggressor
            columns["trade_px_e4"][i], columns["trade_sz"][i] = row.px_e4, row.sz
        else:
            columns["action"][i] = QUOTE if row.bid_px_e4 or row.ask_px_e4 else CLEAR
            for name in ("bid_px_e4", "bid_sz", "ask_px_e4", "ask_sz"):
                columns[name][i] = getattr(row, name)
    return Events(**columns, publisher_ids=tuple(range(1, day.venues + 1)))


def venue_table_of(day: Day) -> VenueTable:
    """Fees, rebates and routability of the day's venues as `events_of` numbers them."""
    terms = zip(day.fees_e6, day.rebates_e6, day.routable, strict=True)
    listed = [
        Venue(k + 1, f"V{k + 1}", fee_e6, rebate_e6, date(2024, 8, 5), "made up", routable)
        for k, (fee_e6, rebate_e6, routable) in enumerate(terms)
    ]
    return VenueTable(tuple(listed), Venue(-1, "other", 0, 0, date(2024, 8, 5), "made up"))


RULES = (SHADOW, RESET)
