"""The strategies: each turns a market, an order and settings into a `Schedule`, and one function trades it.

No policy can differ from another in fills, fees, rounding or in how its order is completed: `execute` is the same for all.

    best_ask   all that remains to the one venue with the cheapest ask plus fee, at every batch until done
    twap       equal slices, each swept over the whole book at its start; what it leaves moves on to the next slice
    vwap       slices in proportion to volume, otherwise like twap
    allocate   the trial's allocator at every batch: the cheapest displayed lots for all that remains
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sor import market as markets
from sor.events import Events
from sor.market import Market
from sor.replay import SHADOW, Schedule, Taken, Window, take
from sor.venues import VenueTable

LOT_SZ = 100  # the trial's step


@dataclass(frozen=True)
class Order:
    """Shares to buy within a window, and how time is sliced for the policies that slice it."""

    size: int  # shares
    window: Window
    slice_ns: int = 60 * 10**9
    volume: str = "past"  # profile of vwap: "past" is known at the time, "day" looks ahead
    penalty_px: float | None = None  # USD per share that is nowhere on the book at the end; None: the spread then
    rule: int = SHADOW


@dataclass(frozen=True)
class Policy:
    """A strategy: how it schedules an order, and which of the grid's parameters it reads."""

    schedule: Callable[[Market, Order], Schedule]
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
}


def slice_starts(order: Order) -> np.ndarray:
    """Start of every slice, int64 (J,) UTC nanoseconds; the last slice may be shorter."""
    return np.arange(order.window.start_ns, order.window.end_ns, order.slice_ns, dtype=np.int64)


def whole_shares(weights: np.ndarray, size: int) -> np.ndarray:
    """Split `size` in proportion to `weights` (J,) into whole shares, int64 (J,), that add up to it exactly.

    The running total is rounded, so that no slice is more than one share off its part.
    """
    running = np.cumsum(weights)
    return _rounded_slices(running / running[-1], size)


def _rounded_slices(running: np.ndarray, size: int) -> np.ndarray:
    """Whole shares of every slice, given the part of the order, (J,) rising to 1, that is due when it begins."""
    return np.diff(np.floor(running * size + 0.5).astype(np.int64), prepend=0)


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
    hours before the opening would make every minute after it look like a burst. Where the feed has no trades, the size
    displayed when the slice begins stands in for volume.
    """
    if market.has_trades:
        known = np.append(0, _traded_between(market, clock_ns))
        intervals = np.maximum(np.arange(len(clock_ns)), 1)
    else:
        known = _displayed_at(market, clock_ns)
        intervals = np.arange(len(clock_ns)) + 1
    mean = np.cumsum(known) / intervals
    now, later = np.where(mean > 0, (known, mean), 1)
    expected = now + later * np.arange(len(clock_ns))[::-1]
    part = np.append(now[:-1] / expected[:-1], 1)
    return _rounded_slices(1 - np.cumprod(1 - part), order.size)


def execute(market: Market, order: Order, schedule: Schedule, *, sweep: bool = True, record: bool = True) -> Taken:
    """Trade a schedule; the one way in which any policy's shares are bought and its order completed."""
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


def lanes(schedule: Schedule, count: int) -> Schedule:
    """The same schedule in `count` parameter lanes."""
    return replace(schedule, release_sz=np.repeat(schedule.release_sz, count, axis=1))


def run(name: str, market: Market, order: Order) -> Taken:
    """Trade the whole order with the policy of this name."""
    return execute(market, order, POLICIES[name].schedule(market, order))


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
