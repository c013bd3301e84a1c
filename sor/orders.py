"""What is asked of the market and what became of it: the order's window, what ends it, fills and child orders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHADOW, RESET = 0, 1  # displayed size is taken once (see sor.replay); every update makes all of it fresh


@dataclass(frozen=True)
class Window:
    """The part of the day an order lives in: from start_ns, and completed at end_ns; UTC nanoseconds."""

    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class Order:
    """Shares to buy within a window, how time is sliced, how fills are modelled, and how limit orders are handled."""

    size: int  # shares
    window: Window
    slice_ns: int = 60 * 10**9
    volume: str = "past"  # profile of vwap: "past" is known at the time, "day" looks ahead
    penalty_px: float | None = None  # USD per share that is nowhere on the book at the end; None: the spread then
    rule: int = SHADOW  # or RESET
    optimistic_cancels: bool = False  # shares cancelled at our price come off the queue ahead in proportion
    cancel_on_fill: bool = True  # a slice that is complete cancels its other limit orders
    catch_up: str = "slice"  # "slice": what a slice missed is swept when it ends, "carry": it joins the next
    scenarios: int = 500  # past intervals that placements are based on, at most
    scenario_step_ns: int = 5 * 10**9  # an interval begins every so often
    adverse_weight: float = 0.25  # how far the mid's move during fills enters the rebate


TAKE, LIMIT, DEADLINE = 0, 1, 2  # across the spread; resting; in the sweep that completes every order
FILL_DTYPE = np.dtype(  # one fill of one lane
    [
        ("ts_ns", np.int64),  # when, UTC nanoseconds
        ("venue", np.int16),  # index into publisher_ids
        ("px_e4", np.int32),  # 1e-4 USD per share, without fee
        ("sz", np.int32),  # shares
        ("kind", np.int8),  # TAKE, LIMIT or DEADLINE
    ]
)
# Why a child order ended: filled in full; replaced at the next slice; its slice complete; it would have locked the
# venue's book on arrival; the deadline; for a market order, the venue showed less than was sent for, or became dearer.
FILLED, SLICE_OVER, SLICE_COMPLETE, REJECTED, AT_DEADLINE, SHORT = range(6)
CHILD_DTYPE = np.dtype(  # one child order of lane 0
    [
        ("slice", np.int64),  # number of the decision that sent it
        ("kind", np.int64),  # TAKE, LIMIT or DEADLINE
        ("venue", np.int64),  # index into publisher_ids
        ("px_e4", np.int64),  # 1e-4 USD per share: limit price, or price taken at; 0: nothing taken
        ("sz", np.int64),  # shares sent for
        ("sent_ns", np.int64),  # UTC nanoseconds
        ("arrived_ns", np.int64),  # 0: never
        ("ended_ns", np.int64),
        ("ahead_sz", np.int64),  # shares before it in the queue on arrival
        ("ahead_at_end_sz", np.int64),
        ("filled_sz", np.int64),
        ("end", np.int64),  # FILLED ... SHORT
    ]
)


@dataclass(frozen=True)
class Terminal:
    """What a share costs that the deadline sweep did not find, and what one bought too many brings; micro-dollars.

    The same for every strategy, whatever it took before: totals of orders that exceed the book stay comparable.
    """

    missing_e6: int
    surplus_e6: int = 0


@dataclass(frozen=True)
class Taken:
    """What became of each lane; int64 arrays of shape (P,), cash in micro-dollars."""

    cash_e6: np.ndarray  # paid for shares, fees not included
    fees_e6: np.ndarray  # of shares taken
    rebates_e6: np.ndarray  # of shares filled passively
    filled_sz: np.ndarray  # before the deadline, taken or passively
    passive_sz: np.ndarray  # of these, filled in a queue
    posted_sz: np.ndarray  # shares of limit orders sent
    swept_sz: np.ndarray  # on the book in the deadline sweep
    priced_sz: np.ndarray  # nowhere on the book: priced by `Terminal`
    priced_e6: np.ndarray  # what they are charged, in all
    surplus_sz: np.ndarray  # bought too many, by limit orders that filled together
    surplus_e6: np.ndarray  # what they bring when sold at the deadline
    fills: np.ndarray  # FILL_DTYPE (F,): the fills of lane 0
    children: np.ndarray  # CHILD_DTYPE (D,): its child orders; none where every fill is a child order of its own
    market_only_slices: int = 0  # slices placed without limit orders: no trades in the feed, or too short a past
    skipped_slices: int = 0  # slices that began on a book that no policy trades on

    @property
    def total_e6(self) -> np.ndarray:
        """Cash, fees and what was priced, less rebates and what a surplus brings: the cost of the whole order."""
        return self.cash_e6 + self.fees_e6 - self.rebates_e6 + self.priced_e6 - self.surplus_e6


def slice_starts(order: Order) -> np.ndarray:
    """Start of every slice, int64 (J,) UTC nanoseconds; the last slice may be shorter."""
    return np.arange(order.window.start_ns, order.window.end_ns, order.slice_ns, dtype=np.int64)


def whole_shares(weights: np.ndarray, size: int) -> np.ndarray:
    """Split `size` in proportion to `weights` (J,) into whole shares, int64 (J,), that add up to it exactly.

    The running total is rounded, so that no slice is more than one share off its part.
    """
    running = np.cumsum(weights)
    return rounded_slices(running / running[-1], size)


def rounded_slices(running: np.ndarray, size: int) -> np.ndarray:
    """Whole shares of every slice, given the part of the order, (J,) rising to 1, that is due when it begins."""
    return np.diff(np.floor(running * size + 0.5).astype(np.int64), prepend=0)
