"""Trading through time with everything that takes time: limit orders in queues, orders on their way to a venue.

`Execution` holds many lanes of one order. A policy advances it to a moment, looks, and sends: shares to take now, limit
orders to rest. What is decided at time t on the book of t arrives at venue k at t + latency_k and meets the book of then;
an order to take pays no more than the ask it was decided on, and comes back unfilled where that is gone.
`sor.replay.take` is the same for takers without latency, twenty times faster or more; tests hold the two together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from sor.book import asks_after, bids_after
from sor.market import Market, Tape
from sor.orders import (
    AT_DEADLINE,
    CHILD_DTYPE,
    DEADLINE,
    FILL_DTYPE,
    FILLED,
    LIMIT,
    REJECTED,
    RESET,
    SHORT,
    SLICE_COMPLETE,
    SLICE_OVER,
    TAKE,
    Taken,
    Terminal,
    Window,
)
from sor.queue import on_print, on_quote
from sor.replay import (
    CASH,
    FEES,
    PX,
    SZ,
    TOUCHED,
    apply_quotes,
    cross,
    cross_lanes,
    sort_candidates,
)

NEVER = 2**62  # ns
REBATES, PASSIVE = 2, 3  # rows of `paid` beyond those of sor.replay
BID, BID_SZ = 0, 1  # rows of `bids`
NEXT_BATCH, NEXT_PRINT, FILL_ROWS, CHILD_ROWS = 0, 1, 2, 3  # of `cursor`
DECISIONS, BATCH_NS, RETRY = 0, 1, 2  # of `moment`
_SLICE, _KIND, _VENUE, _PX, _SZ, _SENT, _ARRIVED, _ENDED, _AHEAD, _AHEAD_END, _FILLED, _END = range(len(CHILD_DTYPE))


class _Rules(NamedTuple):
    """Everything that does not change: the venues' terms, (K,), and the switches of `Execution`."""

    fees_e6: np.ndarray  # micro-dollars per share
    rebates_e6: np.ndarray
    latency_ns: np.ndarray
    reset: bool
    optimistic: bool
    cancel_on_fill: bool
    persistent: bool
    best_only: bool
    lot_sz: int
    record: bool


class _State(NamedTuple):
    """Everything that changes, all of it in arrays; K venues, P lanes."""

    cursor: np.ndarray  # (4,): NEXT_BATCH and NEXT_PRINT of the tape, FILL_ROWS and CHILD_ROWS logged
    moment: np.ndarray  # (3,): DECISIONS made, BATCH_NS of the last batch, RETRY: no decision has been made on it
    book: np.ndarray  # (4, K): rows PX, SZ, TOUCHED, SPENT of sor.replay
    bids: np.ndarray  # (2, K): rows BID, BID_SZ
    taken_sz: np.ndarray  # (K, P) of the size displayed
    pending_sz: np.ndarray  # (K, P) market shares on their way
    arrive_ns: np.ndarray  # (K,) when they arrive
    most_px_e4: np.ndarray  # (K,) the ask they were decided on, and the most they pay
    limit_px_e4: np.ndarray  # (K,) of resting limit orders, 0: none
    ahead_sz: np.ndarray  # (K,) shares before them in the queue
    shown_sz: np.ndarray  # (K,) displayed at their price
    left_sz: np.ndarray  # (K, P) not filled
    dies_ns: np.ndarray  # (K, P) last moment at which they may fill
    next_px_e4: np.ndarray  # (K,) of limit orders on their way
    next_sz: np.ndarray  # (K, P)
    next_ns: np.ndarray  # (K,) when they replace those that rest
    cancel_ns: np.ndarray  # (P,) when the lane decided to cancel the orders of this slice
    due_sz: np.ndarray  # (P,) shares that complete this slice
    bought_sz: np.ndarray  # (P,)
    paid: np.ndarray  # (4, P): rows CASH in 1e-4 USD, FEES and REBATES in micro-dollars, PASSIVE in shares
    child_of_limit: np.ndarray  # (K,) row of lane 0's resting order, -1: none, or its record has ended
    child_of_take: np.ndarray  # (K,) row of lane 0's market order on its way


class Execution:
    """P lanes of one order under way.

    Parameters
    ----------
    market : Market
    window : Window
    lanes : int
    rule : SHADOW or RESET
    optimistic : bool
        Cancelled shares come off the queue ahead in proportion.
    cancel_on_fill : bool
        Limit orders are cancelled when the lane has what is due.
    persistent, best_only, lot_sz
        As in `sor.replay.Schedule`: how shares are taken; persistent ones are tried again whenever nothing is under way.
    record : bool
        Keep fills and child orders of lane 0.
    """

    def __init__(
        self,
        market: Market,
        window: Window,
        lanes: int,
        *,
        rule: int,
        optimistic: bool = False,
        cancel_on_fill: bool = True,
        persistent: bool = False,
        best_only: bool = False,
        lot_sz: int = 1,
        record: bool = False,
    ) -> None:
        self._tape: Tape = market.tape
        self._end_ns, self._known_ns = window.end_ns, market.last_ns
        self._rules = _Rules(
            market.fees_e6.astype(np.int32), market.rebates_e6, market.latency_ns, rule == RESET, optimistic,
            cancel_on_fill, persistent, best_only, lot_sz, record,
        )  # fmt: skip
        self._state = _fresh(market, window.start_ns, lanes)
        self._fills = np.empty((0, len(FILL_DTYPE)), np.int64)
        self._children = np.empty((0, len(CHILD_DTYPE)), np.int64)
        self._posted_sz = np.zeros(lanes, np.int64)

    @property
    def bought_sz(self) -> np.ndarray:
        """Shares bought so far, int64 (P,), taken or filled passively."""
        return self._state.bought_sz.copy()

    @property
    def asks(self) -> tuple[np.ndarray, np.ndarray]:
        """Ask price (1e-4 USD per share) and size displayed by every venue now, int32 (K,)."""
        return self._state.book[PX].copy(), self._state.book[SZ].copy()

    def ready(self) -> bool:
        """The consolidated book of this moment can be traded on."""
        return bool(_usable(self._tape.usable, self._state.cursor[NEXT_BATCH]))

    def advance(self, until_ns: int) -> None:
        """Let everything happen that is stamped by then."""
        self._with_room(_advance, until_ns)

    def send(self, now_ns: int, market_sz: np.ndarray, limit_px_e4: int, limit_sz: np.ndarray, due_sz: int) -> None:
        """Decide at the moment advanced to; what an earlier decision sent must have arrived, else ValueError.

        Parameters
        ----------
        now_ns : int
        market_sz : int (P,)
            Shares to take, not below 0; none are where the book cannot be traded on.
        limit_px_e4 : int
            Price of all limit orders, 1e-4 USD per share.
        limit_sz : int (K, P)
            Shares to rest at every venue from now on, in place of what rests there.
        due_sz : int
            Shares bought in all with which the slice is complete.
        """
        arrives_ns = min(self._state.arrive_ns.min(), self._state.next_ns.min())
        if arrives_ns < NEVER:
            raise ValueError(
                f"orders that arrive at {arrives_ns} ns are still on their way at {now_ns} ns: a decision must come "
                "later than the one before it by the venues' latency at least"
            )
        self._posted_sz += limit_sz.sum(axis=0)
        self._state.due_sz[:] = due_sz
        self._with_room(_send, now_ns, market_sz.astype(np.int32), limit_px_e4, limit_sz.astype(np.int32))

    def complete(self, size: int, terminal: Terminal, *, sweep: bool = True) -> Taken:
        """Advance to the window's end and complete every lane; without `sweep`, only to what the data know of it."""
        self.advance(self._end_ns if sweep else min(self._end_ns, self._known_ns))
        state, filled_sz = self._state, self.bought_sz
        open_sz = np.maximum(size - filled_sz, 0)
        missing_sz = open_sz.astype(np.int32)
        if sweep:
            self._with_room(_deadline, self._end_ns, missing_sz)
        priced_sz = missing_sz.astype(np.int64) * sweep
        surplus_sz = np.maximum(filled_sz - size, 0) * sweep
        return Taken(
            cash_e6=state.paid[CASH] * 100,
            fees_e6=state.paid[FEES],
            rebates_e6=state.paid[REBATES],
            filled_sz=filled_sz,
            passive_sz=state.paid[PASSIVE],
            posted_sz=self._posted_sz,
            swept_sz=open_sz - missing_sz,
            priced_sz=priced_sz,
            priced_e6=priced_sz * terminal.missing_e6,
            surplus_sz=surplus_sz,
            surplus_e6=surplus_sz * terminal.surplus_e6,
            fills=_named(self._fills[: state.cursor[FILL_ROWS]], FILL_DTYPE),
            children=_named(self._children[: state.cursor[CHILD_ROWS]], CHILD_DTYPE),
        )

    def _with_room(self, step, *args) -> None:
        """Run a kernel; when the logs are full it stops between two events, and goes on after they have grown."""
        venues = self._state.book.shape[1]
        while True:
            self._fills = _grown(self._fills, self._state.cursor[FILL_ROWS], venues)
            self._children = _grown(self._children, self._state.cursor[CHILD_ROWS], venues)
            if step(self._tape, self._rules, self._state, self._fills, self._children, *args):
                return


def _fresh(market: Market, start_ns: int, lanes: int) -> _State:
    """The state at a window's start: the book as it is, nothing sent."""
    batches = int(market.updates.batches_by(start_ns))
    venues = market.updates.venues
    book = np.zeros((4, venues), np.int32)
    book[PX], book[SZ] = asks_after(market.updates, batches)
    prints = int(np.searchsorted(market.prints.ts_ns, start_ns, side="right"))

    def zeros(*shape: int, dtype: type = np.int64, fill: int = 0) -> np.ndarray:
        return np.full(shape, fill, dtype)

    return _State(
        cursor=np.array([batches, prints, 0, 0]),
        moment=np.array([0, start_ns, 0]),
        book=book,
        bids=np.array(bids_after(market.updates, batches), np.int32),
        taken_sz=zeros(venues, lanes, dtype=np.int32),
        pending_sz=zeros(venues, lanes, dtype=np.int32),
        arrive_ns=zeros(venues, fill=NEVER),
        most_px_e4=zeros(venues, dtype=np.int32),
        limit_px_e4=zeros(venues, dtype=np.int32),
        ahead_sz=zeros(venues),
        shown_sz=zeros(venues),
        left_sz=zeros(venues, lanes, dtype=np.int32),
        dies_ns=zeros(venues, lanes, fill=NEVER),
        next_px_e4=zeros(venues, dtype=np.int32),
        next_sz=zeros(venues, lanes, dtype=np.int32),
        next_ns=zeros(venues, fill=NEVER),
        cancel_ns=zeros(lanes, fill=NEVER),
        due_sz=zeros(lanes),
        bought_sz=zeros(lanes),
        paid=zeros(4, lanes),
        child_of_limit=zeros(venues, fill=-1),
        child_of_take=zeros(venues, fill=-1),
    )


def _grown(rows: np.ndarray, used: int, venues: int) -> np.ndarray:
    """The log with room for what one event or decision can add."""
    if _has_room(rows, used, venues):
        return rows
    return np.concatenate([rows[:used], np.empty((len(rows) + 16 * venues + 64, rows.shape[1]), np.int64)])


def _named(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The same rows with the columns' names and types."""
    named = np.empty(len(rows), dtype)
    for column, name in enumerate(dtype.names):
        named[name] = rows[:, column]
    return named


@njit(cache=True)
def _has_room(rows, used, venues):  # pragma: no cover
    """At every venue an order to take and one to rest can begin at once: a decision, or the deadline."""
    return len(rows) - used >= 2 * venues


@njit(cache=True)
def _usable(usable, batches):  # pragma: no cover
    """The consolidated book after so many batches can be traded on."""
    return batches > 0 and usable[batches - 1]


@njit(cache=True)
def _advance(tape, rules, s, fills, children, until_ns):  # pragma: no cover
    """Arrivals and events in order of time, arrivals after the events of their moment; False: the logs are full."""
    venues = len(s.limit_px_e4)
    while True:
        if rules.record and not (
            _has_room(fills, s.cursor[FILL_ROWS], venues) and _has_room(children, s.cursor[CHILD_ROWS], venues)
        ):
            return False
        arrival_ns = min(s.arrive_ns.min(), s.next_ns.min())
        if rules.persistent and s.moment[RETRY] and arrival_ns == NEVER:
            s.moment[RETRY] = 0
            s.moment[DECISIONS] += 1
            if _usable(tape.usable, s.cursor[NEXT_BATCH]) and (s.bought_sz < s.due_sz).any():
                open_sz = (s.due_sz - s.bought_sz).astype(np.int32)
                _decide_take(s.moment[BATCH_NS], open_sz, rules, s, fills, children)
                continue
        is_print, event_ns = _next_event(tape, s)
        if arrival_ns < event_ns and arrival_ns <= until_ns:
            _arrivals(arrival_ns, rules, s, fills, children)
            if arrival_ns > s.moment[BATCH_NS]:
                s.moment[RETRY] = 0  # the next batch is awaited
        elif event_ns > until_ns:
            return True
        elif is_print:
            _print(event_ns, s.cursor[NEXT_PRINT], tape, rules, s, fills, children)
            s.cursor[NEXT_PRINT] += 1
        else:
            _quotes(event_ns, s.cursor[NEXT_BATCH], tape, rules, s, fills, children)
            s.cursor[NEXT_BATCH] += 1
            s.moment[BATCH_NS], s.moment[RETRY] = event_ns, 1


@njit(cache=True)
def _next_event(tape, s):  # pragma: no cover
    """Whether a print comes next, and when; NEVER after the last event."""
    b, i = s.cursor[NEXT_BATCH], s.cursor[NEXT_PRINT]
    if i < len(tape.print_ns) and tape.print_before[i] <= b:
        return True, tape.print_ns[i]
    return False, tape.ts_ns[b] if b < len(tape.ts_ns) else np.int64(NEVER)


@njit(cache=True)
def _print(now_ns, i, tape, rules, s, fills, children):  # pragma: no cover
    """A trade meets the limit orders of its venue."""
    v = tape.print_venue[i]
    if s.limit_px_e4[v] == 0:
        return
    _end_cancelled(now_ns, v, rules, s, children)
    hit, s.ahead_sz[v], s.shown_sz[v] = on_print(
        tape.print_px_e4[i], tape.print_sz[i], s.limit_px_e4[v], s.ahead_sz[v], s.shown_sz[v]
    )
    if hit:
        _fill_limits(now_ns, v, hit, rules, s, fills, children)


@njit(cache=True)
def _quotes(now_ns, b, tape, rules, s, fills, children):  # pragma: no cover
    """A batch of quotes meets the limit orders of its venues, then becomes the book."""
    for row in range(tape.first[b], tape.first[b + 1]):
        v = tape.venue[row]
        if s.limit_px_e4[v]:
            _end_cancelled(now_ns, v, rules, s, children)
            hit, s.ahead_sz[v], s.shown_sz[v] = on_quote(
                tape.bid_px_e4[row], tape.bid_sz[row], tape.ask_px_e4[row],
                s.limit_px_e4[v], s.ahead_sz[v], s.shown_sz[v], rules.optimistic,
            )  # fmt: skip
            if hit:
                _fill_limits(now_ns, v, hit, rules, s, fills, children)
        s.bids[BID, v], s.bids[BID_SZ, v] = tape.bid_px_e4[row], tape.bid_sz[row]
    apply_quotes(
        tape.first[b], tape.first[b + 1], tape.venue, tape.ask_px_e4, tape.ask_sz, s.book, s.taken_sz, rules.reset
    )


@njit(cache=True)
def _end_cancelled(now_ns, v, rules, s, children):  # pragma: no cover
    """End the record of lane 0's order if its cancellation has arrived: what comes now is no longer part of its life."""
    if rules.record and s.child_of_limit[v] >= 0 and s.dies_ns[v, 0] < now_ns:
        _end_child(s.child_of_limit[v], s.dies_ns[v, 0], s.ahead_sz[v], SLICE_COMPLETE, children)
        s.child_of_limit[v] = -1


@njit(cache=True)
def _fill_limits(now_ns, v, hit, rules, s, fills, children):  # pragma: no cover
    """Every lane's live order at the venue gets what the event offers."""
    for p in range(s.left_sz.shape[1]):
        if s.left_sz[v, p] == 0 or now_ns > s.dies_ns[v, p]:
            continue
        got = np.int32(min(np.int64(s.left_sz[v, p]), hit))
        s.left_sz[v, p] -= got
        s.paid[CASH, p] += np.int64(got) * s.limit_px_e4[v]
        s.paid[REBATES, p] += np.int64(got) * rules.rebates_e6[v]
        s.paid[PASSIVE, p] += got
        if p == 0 and rules.record:
            _log_fill(now_ns, v, s.limit_px_e4[v], got, LIMIT, s, fills)
            child = s.child_of_limit[v]
            children[child, _FILLED] += got
            if s.left_sz[v, 0] == 0:
                _end_child(child, now_ns, s.ahead_sz[v], FILLED, children)
                s.child_of_limit[v] = -1
        _count(now_ns, p, got, rules, s)


@njit(cache=True)
def _count(now_ns, p, got, rules, s):  # pragma: no cover
    """Add to what the lane has; when that is all that is due, its limit orders are cancelled."""
    s.bought_sz[p] += got
    if rules.cancel_on_fill and s.cancel_ns[p] == NEVER and s.bought_sz[p] >= s.due_sz[p]:
        s.cancel_ns[p] = now_ns
        for k in range(len(s.limit_px_e4)):
            if s.next_ns[k] == NEVER:  # the order that rests there is one of this slice
                s.dies_ns[k, p] = min(s.dies_ns[k, p], now_ns + rules.latency_ns[k])


@njit(cache=True)
def _send(tape, rules, s, fills, children, now_ns, market_sz, limit_px_e4, limit_sz):  # pragma: no cover
    """A decision: market orders and the replacement of every limit order leave now. True: there was room."""
    s.moment[DECISIONS] += 1
    s.cancel_ns[:] = NEVER
    for k in range(len(s.limit_px_e4)):
        s.next_px_e4[k] = limit_px_e4
        s.next_sz[k, :] = limit_sz[k, :]
        if s.limit_px_e4[k] or (limit_sz[k] > 0).any():
            s.next_ns[k] = now_ns + rules.latency_ns[k]
    if _usable(tape.usable, s.cursor[NEXT_BATCH]) and (market_sz > 0).any():
        _decide_take(now_ns, market_sz, rules, s, fills, children)
    s.moment[RETRY] = 0
    _arrivals(now_ns, rules, s, fills, children)
    return True


@njit(cache=True)
def _decide_take(now_ns, want_sz, rules, s, fills, children):  # pragma: no cover
    """Split what every lane wants over the venues, on the book of now; what needs no time arrives at once."""
    book, taken, open_sz = s.book.copy(), s.taken_sz.copy(), want_sz.copy()
    order = np.empty(book.shape[1], np.int64)
    paid = np.zeros((2, len(open_sz)), np.int64)
    nothing = np.empty((0, 4), np.int64)
    candidates, _ = sort_candidates(s.book, rules.fees_e6, order)
    ranked = order[:candidates].copy()
    cross(book, rules.fees_e6, taken, order, open_sz, paid, rules.best_only, rules.lot_sz, 0, nothing, 0)
    for v in ranked:
        asked = taken[v] - s.taken_sz[v]
        if not (asked > 0).any():
            continue
        s.pending_sz[v, :] = asked
        s.arrive_ns[v] = now_ns + rules.latency_ns[v]
        s.most_px_e4[v] = s.book[PX, v]
        if rules.record and asked[0] > 0:
            s.child_of_take[v] = _new_child(s.moment[DECISIONS], TAKE, v, 0, asked[0], now_ns, s, children)
        if rules.latency_ns[v] == 0:
            _take_at(now_ns, v, rules, s, fills, children)


@njit(cache=True)
def _take_at(now_ns, v, rules, s, fills, children):  # pragma: no cover
    """Orders reach a venue: they take what it shows and the lane has not taken yet, unless it became dearer meanwhile."""
    s.arrive_ns[v] = NEVER
    px_e4 = s.book[PX, v]
    can_take = 0 < px_e4 <= s.most_px_e4[v]
    for p in range(s.pending_sz.shape[1]):
        if s.pending_sz[v, p] == 0:
            continue
        got = np.int32(max(min(s.pending_sz[v, p], s.book[SZ, v] - s.taken_sz[v, p]), 0)) if can_take else np.int32(0)
        if p == 0 and rules.record:
            child = s.child_of_take[v]
            children[child, _ARRIVED], children[child, _FILLED] = now_ns, got
            children[child, _PX] = px_e4 if got else 0
            _end_child(child, now_ns, 0, FILLED if got == s.pending_sz[v, 0] else SHORT, children)
            if got:
                _log_fill(now_ns, v, px_e4, got, TAKE, s, fills)
        s.pending_sz[v, p] = 0
        s.taken_sz[v, p] += got
        s.paid[CASH, p] += np.int64(got) * px_e4
        s.paid[FEES, p] += np.int64(got) * rules.fees_e6[v]
        _count(now_ns, p, got, rules, s)
    s.book[TOUCHED, v] = 1


@njit(cache=True)
def _arrivals(now_ns, rules, s, fills, children):  # pragma: no cover
    """Everything that reaches a venue at this moment."""
    for v in range(len(s.limit_px_e4)):
        if s.arrive_ns[v] <= now_ns:
            _take_at(now_ns, v, rules, s, fills, children)
    for v in range(len(s.limit_px_e4)):
        if s.next_ns[v] <= now_ns:
            _post(now_ns, v, rules, s, children)


@njit(cache=True)
def _post(now_ns, v, rules, s, children):  # pragma: no cover
    """The limit orders on their way replace those that rest; an order that would lock the venue's book is refused."""
    _end_cancelled(now_ns, v, rules, s, children)
    if rules.record and s.child_of_limit[v] >= 0:
        _end_child(s.child_of_limit[v], now_ns, s.ahead_sz[v], SLICE_OVER, children)
    s.child_of_limit[v] = -1
    s.next_ns[v] = NEVER
    px_e4 = s.next_px_e4[v]
    refused = 0 < s.book[PX, v] <= px_e4
    wanted = (s.next_sz[v] > 0).any()
    s.limit_px_e4[v] = px_e4 if wanted and not refused else 0
    s.ahead_sz[v] = s.bids[BID_SZ, v] if s.bids[BID, v] == px_e4 else 0
    s.shown_sz[v] = s.ahead_sz[v]
    for p in range(s.left_sz.shape[1]):
        s.left_sz[v, p] = np.int32(0) if refused else s.next_sz[v, p]
        s.dies_ns[v, p] = s.cancel_ns[p] + rules.latency_ns[v] if s.cancel_ns[p] < NEVER else NEVER
    if rules.record and s.next_sz[v, 0] > 0:
        sent_ns = now_ns - rules.latency_ns[v]
        child = _new_child(s.moment[DECISIONS], LIMIT, v, px_e4, s.next_sz[v, 0], sent_ns, s, children)
        children[child, _ARRIVED], children[child, _AHEAD] = now_ns, s.ahead_sz[v]
        if refused:
            _end_child(child, now_ns, s.ahead_sz[v], REJECTED, children)
        else:
            s.child_of_limit[v] = child


@njit(cache=True)
def _deadline(tape, rules, s, fills, children, end_ns, open_sz):  # pragma: no cover
    """Everything that rests or is on its way is void; what is open is swept over the book of this moment. True, as above."""
    for v in range(len(s.limit_px_e4)):
        _end_cancelled(end_ns, v, rules, s, children)
        if rules.record and s.child_of_limit[v] >= 0:
            _end_child(s.child_of_limit[v], end_ns, s.ahead_sz[v], AT_DEADLINE, children)
        if rules.record and s.next_ns[v] < NEVER and s.next_sz[v, 0] > 0:
            sent_ns = s.next_ns[v] - rules.latency_ns[v]
            child = _new_child(s.moment[DECISIONS], LIMIT, v, s.next_px_e4[v], s.next_sz[v, 0], sent_ns, s, children)
            _end_child(child, end_ns, 0, AT_DEADLINE, children)
        if rules.record and s.pending_sz[v, 0] > 0:
            _end_child(s.child_of_take[v], end_ns, 0, AT_DEADLINE, children)
    if not _usable(tape.usable, s.cursor[NEXT_BATCH]):
        return True
    order = np.empty(len(s.limit_px_e4), np.int64)
    found = np.empty((len(s.limit_px_e4) if rules.record else 0, 4), np.int64)
    used = cross_lanes(s.book, rules.fees_e6, s.taken_sz, order, open_sz, s.paid, False, 1, 0, found, 0)
    for i in range(used if rules.record else 0):
        v, px_e4, sz = found[i, 1], found[i, 2], found[i, 3]
        _log_fill(end_ns, v, px_e4, sz, DEADLINE, s, fills)
        child = _new_child(s.moment[DECISIONS], DEADLINE, v, px_e4, sz, end_ns, s, children)
        children[child, _ARRIVED], children[child, _FILLED] = end_ns, sz
        _end_child(child, end_ns, 0, FILLED, children)
    return True


@njit(cache=True)
def _log_fill(now_ns, v, px_e4, sz, kind, s, fills):  # pragma: no cover
    row = s.cursor[FILL_ROWS]
    fills[row, 0], fills[row, 1], fills[row, 2], fills[row, 3], fills[row, 4] = now_ns, v, px_e4, sz, kind
    s.cursor[FILL_ROWS] += 1


@njit(cache=True)
def _new_child(decision, kind, v, px_e4, sz, sent_ns, s, children):  # pragma: no cover
    row = s.cursor[CHILD_ROWS]
    children[row, :] = 0
    children[row, _SLICE], children[row, _KIND], children[row, _VENUE] = decision, kind, v
    children[row, _PX], children[row, _SZ], children[row, _SENT] = px_e4, sz, sent_ns
    s.cursor[CHILD_ROWS] += 1
    return row


@njit(cache=True)
def _end_child(row, now_ns, ahead_sz, end, children):  # pragma: no cover
    children[row, _ENDED], children[row, _AHEAD_END], children[row, _END] = now_ns, ahead_sz, end
