"""The TWAP of the replay on hftbacktest: one asset and one HashMap book per venue, orders without latency.

Import it only where hftbacktest is installed (benchmarks/requirements.txt). A quote becomes up to four events: the old
level of a side that moved is cleared, then the new one is set, so that each book stays what the feed shows, the top.
hftbacktest fills a taker from what is displayed and leaves the display as it is: what one release has taken the next
finds again. The order is one limit order per venue and release, at its best ask, immediate or cancel. A HashMap book
drops the other side where a venue's own bid meets its ask; these data have no such quote, and the checks would show it.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
from hftbacktest import (
    BUY_EVENT,
    DEPTH_EVENT,
    EXCH_EVENT,
    LIMIT,
    LOCAL_EVENT,
    SELL_EVENT,
    BacktestAsset,
    HashMapMarketDepthBacktest,
    __version__,
)
from hftbacktest.order import IOC
from hftbacktest.types import event_dtype
from numba import njit

from sor.book import QuoteUpdates
from sor.market import Market
from sor.replay import Schedule

VERSION = __version__
CENT_PX, CENT_E6 = 0.01, 10_000
UNSET_TICK = 2**62  # beyond it, either way: the side is empty
END_OF_DATA = 1  # what it returns there; larger codes are errors


def events_by_venue(updates: QuoteUpdates, *, bids: bool = True) -> dict[int, np.ndarray]:
    """The quotes as hftbacktest's events, one array for each venue that quotes; prices must be whole cents.

    Parameters
    ----------
    updates : QuoteUpdates
    bids : bool
        Bids too; else asks alone.
    """
    prices = (updates.bid_px_e4, updates.ask_px_e4)
    if any((px_e4 % 100).any() for px_e4 in prices):
        raise ValueError("a price is finer than a cent, which the books here are made of")
    ts_ns = np.repeat(updates.ts_ns, np.diff(updates.first))
    sides = [(SELL_EVENT, updates.ask_px_e4, updates.ask_sz), (BUY_EVENT, updates.bid_px_e4, updates.bid_sz)][
        : 1 + bids
    ]
    made = {}
    for venue in np.unique(updates.venue):
        own = updates.venue == venue
        parts = [_events_of_side(flag, ts_ns[own], px_e4[own], sz[own]) for flag, px_e4, sz in sides]
        events, keys = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        made[int(venue)] = events[np.argsort(keys, kind="stable")]
    return made


def _events_of_side(flag: int, ts_ns: np.ndarray, px_e4: np.ndarray, sz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The changes of one side, and what orders them: first the row, then what is cleared before what is set."""
    before_e4, before_sz = np.append(0, px_e4[:-1]), np.append(0, sz[:-1])
    cleared = np.flatnonzero((before_e4 > 0) & (before_e4 != px_e4))
    put = np.flatnonzero((px_e4 > 0) & ((before_e4 != px_e4) | (before_sz != sz)))
    row = np.append(cleared, put)
    made = np.zeros(len(row), event_dtype)
    made["ev"] = DEPTH_EVENT | EXCH_EVENT | LOCAL_EVENT | flag
    made["exch_ts"] = made["local_ts"] = ts_ns[row]
    made["px"] = np.append(before_e4[cleared], px_e4[put]) / 10_000
    made["qty"][len(cleared) :] = sz[put]
    return made, 2 * row + (np.arange(len(row)) >= len(cleared))


class Replay:
    """A day as hftbacktest's events, to be traded as often as wanted.

    Parameters
    ----------
    market : Market
    end_ns : int
        The day is replayed up to then.
    bids : bool
        The books have bids, and show themselves whether they can be traded on; else they have asks alone, and are told.
    """

    def __init__(self, market: Market, end_ns: int, *, bids: bool = True) -> None:
        self.market, self.end_ns, self.bids = market, end_ns, bids
        self.events = events_by_venue(market.updates, bids=bids)

    def run(self, schedule: Schedule) -> tuple[np.ndarray, float]:
        """Trade lane 0 of the schedule.

        Returns
        -------
        int64 array (3, 1)
            Cash and fees in micro-dollars, and shares.
        float
            Seconds of the replay, in which neither conversion nor the making of the assets is counted.
        """
        at = self.market.updates.batches_by(schedule.clock_ns) - 1
        usable = np.empty(0, np.bool_) if self.bids else self.market.usable[at]
        fees_e6 = self.market.fees_e6[list(self.events)]
        orders = (schedule.clock_ns, schedule.release_sz[:, 0], fees_e6, usable, self.end_ns)
        assets = [_asset(events, fee) for events, fee in zip(self.events.values(), fees_e6, strict=True)]
        backtest = HashMapMarketDepthBacktest(assets)
        start = perf_counter()
        code, *account = _run(backtest, *orders)
        took_s = perf_counter() - start
        backtest.close()
        if code > END_OF_DATA:
            raise RuntimeError(f"hftbacktest returned the error {code}")
        balance, fee, position = account
        return np.array([[round(-balance * 1e6)], [round(fee * 1e6)], [round(position)]]), took_s


def _asset(events: np.ndarray, fee_e6: int) -> BacktestAsset:
    """Data are in memory, so nothing is loaded in parallel: one core, as ours."""
    return (
        BacktestAsset()
        .data(events)
        .linear_asset(1.0)
        .constant_order_latency(0, 0)
        .risk_adverse_queue_model()
        .partial_fill_exchange()
        .trading_qty_fee_model(0.0, fee_e6 / 1e6)
        .tick_size(CENT_PX)
        .lot_size(1.0)
        .parallel_load(False)
    )


@njit
def _run(backtest, clock_ns, release_sz, fees_e6, usable, end_ns):  # pragma: no cover
    """Where `usable` is empty it is found from the books. Returns the largest code met; balance and fees in USD; shares."""
    cost_e6 = np.empty(len(fees_e6), np.int64)
    open_sz, order_id = 0, 1
    code = backtest.elapse(0)  # the clock has no time before
    for j in range(len(clock_ns)):
        code = max(code, backtest.elapse(clock_ns[j] - backtest.current_timestamp))
        open_sz += release_sz[j]
        best_bid, best_ask = _look(backtest, fees_e6, cost_e6)
        tradable = usable[j] if len(usable) else -UNSET_TICK < best_bid <= best_ask < UNSET_TICK
        while tradable and open_sz > 0:
            v = _cheapest(cost_e6)
            if cost_e6[v] == UNSET_TICK:
                break
            depth = backtest.depth(v)
            shares = min(open_sz, np.int64(depth.best_ask_qty))
            code = max(code, backtest.submit_buy_order(v, order_id, depth.best_ask, shares, IOC, LIMIT, False))
            open_sz -= shares
            order_id += 1
            cost_e6[v] = UNSET_TICK
    code = max(code, backtest.elapse(end_ns - backtest.current_timestamp))
    balance, fee, position = 0.0, 0.0, 0.0
    for v in range(len(fees_e6)):
        state = backtest.state_values(v)
        balance += state.balance
        fee += state.fee
        position += state.position
    return code, balance, fee, position


@njit
def _look(backtest, fees_e6, cost_e6):  # pragma: no cover
    """Fill in each venue's ask plus fee; returns best bid and ask, in ticks."""
    best_bid, best_ask = -UNSET_TICK, UNSET_TICK
    for v in range(len(fees_e6)):
        depth = backtest.depth(v)
        ask = depth.best_ask_tick
        best_bid, best_ask = max(best_bid, depth.best_bid_tick), min(best_ask, ask)
        cost_e6[v] = ask * CENT_E6 + fees_e6[v] if ask < UNSET_TICK else UNSET_TICK
    return best_bid, best_ask


@njit
def _cheapest(cost_e6):  # pragma: no cover
    """The venue of the least ask plus fee, the later of two."""
    cheapest = 0
    for v in range(1, len(cost_e6)):
        if cost_e6[v] <= cost_e6[cheapest]:
            cheapest = v
    return cheapest
