"""Policies that also queue: at the start of every slice some of it is taken and the rest posted at the best bid.

    router      the split of Cont and Kukanov (`sor.placement`) on what limit orders were filled in the recent past
    equal       equal parts to market and to every venue
    limit_only  everything at the venue where most was filled

Scheduling and placement are separate: the slices are those of twap, so that the difference between the two is placement.
A placement rule sees the book of the moment and intervals that have ended by then, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sor import market as markets
from sor.execution import Execution
from sor.market import Market
from sor.orders import Order, Taken, slice_starts, whole_shares
from sor.placement.many import place_many
from sor.queue import Flows, fillable_flows

DAY_NS = 86_400 * 10**9
FEWEST_SCENARIOS = 50  # with fewer, or before the feed's first trade, only market orders are sent
MOST_ADVERSE_PX = 0.03  # USD per share: bound on the estimate of how fills move the mid
Triples = tuple[tuple[float, float, float], ...]  # (lambda_over, lambda_under, theta_queue), USD per share


@dataclass(frozen=True)
class Moment:
    """What a placement rule knows when a slice begins. K venues, N intervals."""

    market: Market  # for what does not change: fees, rebates, who can be routed to
    order: Order
    now_ns: int
    ask_px_e4: np.ndarray  # int32 (K,) as displayed now
    ask_sz: np.ndarray  # int32 (K,) shares
    half_spread_px: float  # USD per share
    recent: Flows  # the last intervals that have ended by now


# (moment, shares of the slice, triples (P, 3)) -> shares to market (P,), shares to post (K, P)
Rule = Callable[[Moment, int, np.ndarray], tuple[np.ndarray, np.ndarray]]


def router(moment: Moment, slice_sz: int, triples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The placement of least expected cost under the recent intervals: shares to market (P,), to post (K, P).

    Parameters
    ----------
    moment : Moment
    slice_sz : int
        Shares of the slice.
    triples : float (P, 3)
        lambda_over, lambda_under and theta_queue of every lane, USD per share.
    """
    market = moment.market
    venues = np.flatnonzero(market.routable)
    flow_sz = np.minimum(moment.recent.fill_sz[venues], slice_sz)
    rebates_px = market.rebates_e6[venues] / 1e6
    rebates_px = rebates_px + moment.order.adverse_weight * _mid_move_of_fills(flow_sz, moment.recent.mid_move_px)
    limit_sz = np.zeros((len(market.routable), len(triples)), np.int64)
    market_sz, limit_sz[venues] = place_many(
        flow_sz,
        np.full(len(triples), slice_sz),
        moment.half_spread_px,
        sweep_fee_px(moment, slice_sz),
        rebates_px,
        triples,
    )
    return market_sz, limit_sz


def equal(moment: Moment, slice_sz: int, triples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal parts to market and to every venue, what is left over to market: the paper's naive allocation."""
    routable = moment.market.routable
    part_sz = slice_sz // (int(routable.sum()) + 1)
    limit_sz = np.repeat((routable * part_sz)[:, None], len(triples), axis=1)
    return slice_sz - limit_sz.sum(axis=0), limit_sz


def limit_only(moment: Moment, slice_sz: int, triples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Everything posted at the venue where, on average, most of it was filled; the first of equals."""
    expected_sz = np.minimum(moment.recent.fill_sz, slice_sz).mean(axis=1)
    best = int(np.argmax(np.where(moment.market.routable, expected_sz, -1.0)))
    limit_sz = np.zeros((len(expected_sz), len(triples)), np.int64)
    limit_sz[best] = slice_sz
    return np.zeros(len(triples), np.int64), limit_sz


def _mid_move_of_fills(flow_sz: np.ndarray, mid_move_px: np.ndarray) -> np.ndarray:
    """How the mid moved over intervals, weighted by what each venue filled in them; (K,) USD per share.

    Negative where fills come with falling mids: the adverse selection of the paper's effective rebate (p. 8).
    """
    filled_sz = flow_sz.sum(axis=1)
    moved_px = np.sum(flow_sz * mid_move_px, axis=1) / np.maximum(filled_sz, 1)  # BLAS adds as the processor likes
    return np.clip(moved_px, -MOST_ADVERSE_PX, MOST_ADVERSE_PX)


def sweep_fee_px(moment: Moment, size: int) -> float:
    """Mean taker fee, USD per share, of taking `size` shares of what is displayed, cheapest ask plus fee first."""
    shown = np.flatnonzero(moment.ask_px_e4 > 0)
    fees_e6 = moment.market.fees_e6[shown]
    order = np.lexsort((-shown, moment.ask_px_e4[shown].astype(np.int64) * 100 + fees_e6))
    shown_sz = moment.ask_sz[shown][order].astype(np.int64)
    took_sz = np.clip(size - (np.cumsum(shown_sz) - shown_sz), 0, shown_sz)
    return float(took_sz @ fees_e6[order]) / max(int(took_sz.sum()), 1) / 1e6


def flows_of(market: Market, order: Order) -> Flows:
    """The intervals that an order's placements can be based on: those of the day before its end."""
    window = order.window
    return fillable_flows(
        market,
        window.start_ns - DAY_NS,
        window.end_ns,
        order.slice_ns,
        order.scenario_step_ns,
        optimistic=order.optimistic_cancels,
    )


def route(
    rule: Rule, market: Market, order: Order, triples: Triples, flows: Flows, *, sweep: bool, record: bool
) -> Taken:
    """Buy the order slice by slice with a placement rule, one lane for every triple.

    Parameters
    ----------
    rule : Rule
    market, order
    triples : P parameter triples
    flows : Flows
        As of `flows_of`; only what has ended when a slice begins is used for it.
    sweep : bool
        Complete the order at its end; without it the order is under way, and slices beyond the data wait.
    record : bool
        Keep fills and child orders of lane 0.
    """
    lanes = np.array(triples)
    desk = Execution(
        market,
        order.window,
        len(lanes),
        rule=order.rule,
        optimistic=order.optimistic_cancels,
        cancel_on_fill=order.cancel_on_fill,
        record=record,
    )
    clock_ns = slice_starts(order)
    due_sz = np.cumsum(whole_shares(np.ones(len(clock_ns)), order.size))
    known = market.updates.batches_by(clock_ns)
    no_limits = np.zeros((market.updates.venues, len(lanes)), np.int64)
    market_only = skipped = 0
    for j, now_ns in enumerate(clock_ns.tolist()):
        if not sweep and now_ns > market.last_ns:
            break
        desk.advance(now_ns)
        missed_sz, slice_sz = _shares(desk.bought_sz, due_sz[j - 1] if j else 0, due_sz[j], order.catch_up)
        recent = flows.known_by(now_ns, order.scenarios)
        if not desk.ready():
            skipped += 1
            market_sz, limit_sz = np.zeros_like(slice_sz), no_limits
        elif can_queue(market, recent, now_ns):
            moment = Moment(market, order, now_ns, *desk.asks, _half_spread_px(market, known[j]), recent)
            market_sz, limit_sz = _place(rule, moment, slice_sz, lanes)
            market_sz += missed_sz
        else:
            market_only += 1
            market_sz, limit_sz = slice_sz + missed_sz, no_limits
        desk.send(now_ns, market_sz, int(market.nbbo.bid_px_e4[known[j] - 1]), limit_sz, int(due_sz[j]))
    taken = desk.complete(order.size, markets.terminal(market, order.window, order.penalty_px), sweep=sweep)
    return replace(taken, market_only_slices=market_only, skipped_slices=skipped)


def can_queue(market: Market, recent: Flows, now_ns: int) -> bool:
    """Enough of the past is known to post on: intervals that have ended, and that the feed reports trades."""
    return len(recent.end_ns) >= FEWEST_SCENARIOS and bool((market.prints.ts_ns[:1] <= now_ns).any())


def _shares(bought_sz: np.ndarray, due_before: int, due_sz: int, catch_up: str) -> tuple[np.ndarray, np.ndarray]:
    """Shares to take at once because the slice before missed them, and shares to place now; (P,) each."""
    short_sz = due_before - bought_sz
    if catch_up == "carry":
        return np.zeros_like(short_sz), np.maximum(due_sz - bought_sz, 0)
    return np.maximum(short_sz, 0), np.maximum(due_sz - due_before + np.minimum(short_sz, 0), 0)


def _place(rule: Rule, moment: Moment, slice_sz: np.ndarray, triples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rule's placement in every lane; lanes of equal size are placed together."""
    market_sz = np.zeros(len(triples), np.int64)
    limit_sz = np.zeros((len(moment.ask_sz), len(triples)), np.int64)
    for size in np.unique(slice_sz[slice_sz > 0]):
        of_size = slice_sz == size
        market_sz[of_size], limit_sz[:, of_size] = rule(moment, int(size), triples[of_size])
    return market_sz, limit_sz


def _half_spread_px(market: Market, batches: int) -> float:
    """Half the consolidated spread after so many batches, USD per share."""
    best = market.nbbo
    return float(best.ask_px_e4[batches - 1] - best.bid_px_e4[batches - 1]) / 2e4
