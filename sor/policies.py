"""The strategies: each buys one order in a market, by taking what is shown or by queueing too.

    best_ask    all that remains to the one venue with the cheapest ask plus fee, at every batch until done
    twap        equal slices, each swept over the whole book at its start; what it leaves moves on to the next slice
    vwap        slices in proportion to volume, otherwise like twap
    allocate    the trial's allocator at every batch: the cheapest displayed lots for all that remains
    router, equal, limit_only    slices that are partly posted: see sor.routing

A taker is a `Schedule`; `take` executes it, or `Execution` where orders need time to arrive. Fills, fees, rounding and how
an order is completed are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sor import market as markets
from sor import routing
from sor.events import Events
from sor.execution import Execution
from sor.market import Market
from sor.orders import Order, Taken, rounded_slices, slice_starts, whole_shares
from sor.queue import Flows
from sor.replay import Schedule, take
from sor.routing import Triples
from sor.venues import VenueTable

LOT_SZ = 100  # the trial's step


@dataclass(frozen=True)
class Policy:
    """A strategy: how it schedules an order, or how it places a slice, and which of the grid's parameters it reads."""

    schedule: Callable[[Market, Order], Schedule] | None = None
    place: routing.Rule | None = None
    reads: tuple[str, ...] = ()


def _at_once(order: Order) -> tuple[np.ndarray, np.ndarray]:
    return np.array([order.window.start_ns]), np.array([[order.size]])


def _best_ask(market: Market, order: Order) -> Schedule:
    return Schedule(*_at_once(order), persistent=True, best_only=True)


def _allocate(market: Market, order: Order) -> Schedule:
    return Schedule(*_at_once(order), persistent=True, lot_sz=LOT_SZ)


def _twap(market: Market, order: Order) -> Schedule:
    clock_ns = slice_starts(order)
    return Schedule(clock_ns, whole_shares(np.ones(len(clock_ns)), order.size)[:, None])


def _vwap(market: Market, order: Order) -> Schedule:
    clock_ns = slice_starts(order)
    profile = _past_profile if order.volume == "past" else _day_profile
    return Schedule(clock_ns, profile(market, order, clock_ns)[:, None])


POLICIES = {
    "best_ask": Policy(_best_ask),
    "twap": Policy(_twap),
    "vwap": Policy(_vwap),
    "allocate": Policy(_allocate),
    "equal": Policy(place=routing.equal),
    "limit_only": Policy(place=routing.limit_only),
    "router": Policy(place=routing.router, reads=("lambda_over", "lambda_under", "theta_queue")),
}


def _traded_between(market: Market, edges_ns: np.ndarray) -> np.ndarray:
    """Shares traded from each edge up to the next, (J,) for J + 1 edges."""
    total = np.append(0, np.cumsum(market.trade_sz))
    return np.diff(total[np.searchsorted(market.trade_ns, edges_ns, side="left")])


def _displayed_at(market: Market, times_ns: np.ndarray) -> np.ndarray:
    """Shares shown at the best ask at each time; what vwap goes by where the feed has no trades."""
    return market.nbbo.ask_sz[np.maximum(market.updates.batches_by(times_ns) - 1, 0)]


def _day_profile(market: Market, order: Order, clock_ns: np.ndarray) -> np.ndarray:
    """Slices in proportion to the volume traded in them: known only after the day (look-ahead)."""
    edges_ns = np.append(clock_ns, order.window.end_ns)
    volume = _traded_between(market, edges_ns) if market.has_trades else _displayed_at(market, clock_ns)
    return whole_shares(volume if volume.any() else np.ones(len(clock_ns)), order.size)


def _past_profile(market: Market, order: Order, clock_ns: np.ndarray) -> np.ndarray:
    """Slices in proportion to volume as far as it is known when each begins.

    The slice that begins expects the volume of the slice before it, every later one the mean of all slices so far; of
    what remains it takes its part of the volume it expects in all. Only volume since the order began counts: that of the
    hours before the opening would make every minute after it look like a burst. Until the first trade of the feed is
    known, the size displayed when the slice begins stands in for volume.
    """
    traded = np.append(0, _traded_between(market, clock_ns))
    slices = np.arange(len(clock_ns))
    seen = np.searchsorted(market.trade_ns, clock_ns, side="left") > 0
    part = np.where(
        seen,
        _part_of_volume(traded, np.maximum(slices, 1)),
        _part_of_volume(_displayed_at(market, clock_ns), slices + 1),
    )
    return rounded_slices(1 - np.cumprod(1 - part), order.size)


def _part_of_volume(known: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Part of what remains that each slice takes, (J,): `known` of all it expects, later slices at the mean so far."""
    mean = np.cumsum(known) / intervals
    now, later = np.where(mean > 0, (known, mean), 1)
    expected = now + later * np.arange(len(known))[::-1]
    return np.append(now[:-1] / expected[:-1], 1)


def run(
    name: str,
    market: Market,
    order: Order,
    triples: Triples = ((0.0, 0.0, 0.0),),
    *,
    flows: Flows | None = None,
    sweep: bool = True,
    record: bool = True,
) -> Taken:
    """Buy the order with the policy of this name, in one lane for every parameter triple.

    Parameters
    ----------
    name : str
        One of POLICIES.
    market, order
    triples : ((lambda_over, lambda_under, theta_queue), ...)
        USD per share.
    flows : Flows or None
        `routing.flows_of` the order or of a longer one around it, where they are known already.
    sweep : bool
        Complete the order at its end; without it the order is under way, and slices beyond the data wait.
    record : bool
        Keep the fills of lane 0, and where orders take time or queue, its child orders.
    """
    policy = POLICIES[name]
    if policy.place:
        flows = routing.flows_of(market, order) if flows is None else flows
        return routing.route(policy.place, market, order, triples, flows, sweep=sweep, record=record)
    schedule = policy.schedule(market, order)
    begun = sweep | (schedule.clock_ns <= market.last_ns)
    release_sz = np.repeat(schedule.release_sz[begun], len(triples), axis=1)
    schedule = replace(schedule, clock_ns=schedule.clock_ns[begun], release_sz=release_sz)
    execute = execute_late if market.latency_ns.any() else execute_at_once
    return execute(market, order, schedule, sweep=sweep, record=record)


def execute_at_once(
    market: Market, order: Order, schedule: Schedule, *, sweep: bool = True, record: bool = True
) -> Taken:
    """Trade a schedule in a market without latency."""
    return take(
        market.updates,
        market.usable,
        market.fees_e6,
        order.window,
        schedule,
        markets.terminal(market, order.window, order.penalty_px),
        rule=order.rule,
        sweep=sweep,
        record=record,
    )


def execute_late(market: Market, order: Order, schedule: Schedule, *, sweep: bool = True, record: bool = True) -> Taken:
    """Trade a schedule whose orders take the venue's latency to arrive; without latency the same as `execute_at_once`.

    Every lane of the schedule releases the same shares, and two releases are further apart than any latency.
    """
    lanes = schedule.release_sz.shape[1]
    desk = Execution(
        market,
        order.window,
        lanes,
        rule=order.rule,
        persistent=schedule.persistent,
        best_only=schedule.best_only,
        lot_sz=schedule.lot_sz,
        record=record,
    )
    no_limits = np.zeros((market.updates.venues, lanes), np.int64)
    for now_ns, due_sz in zip(schedule.clock_ns.tolist(), np.cumsum(schedule.release_sz, axis=0), strict=True):
        desk.advance(now_ns)
        desk.send(now_ns, due_sz - desk.bought_sz, 0, no_limits, int(due_sz[0]))
    return desk.complete(order.size, markets.terminal(market, order.window, order.penalty_px), sweep=sweep)


def _cost(name: str, events: Events, venues: VenueTable, order: Order) -> tuple[float, float]:
    total_cash = float(run(name, markets.build(events, venues), order).total_e6[0]) / 1e6
    return total_cash, total_cash / order.size


def best_ask(events: Events, venues: VenueTable, order: Order) -> tuple[float, float]:
    """Total cash in USD, and average price per share, of buying at the best ask until done."""
    return _cost("best_ask", events, venues, order)


def twap(events: Events, venues: VenueTable, order: Order) -> tuple[float, float]:
    """Total cash in USD, and average price per share, of buying in equal slices over time."""
    return _cost("twap", events, venues, order)


def vwap(events: Events, venues: VenueTable, order: Order) -> tuple[float, float]:
    """Total cash in USD, and average price per share, of buying in slices in proportion to volume."""
    return _cost("vwap", events, venues, order)
