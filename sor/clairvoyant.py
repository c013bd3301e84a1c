"""The floor no taker can beat: the cheapest way to buy the order for someone who knows the whole day.

Under the shadow rule the shares that can be taken from a spell, a run of updates of one venue at one price, add up to at
most its first size plus every later increase, and taking everything at once attains that. The price is constant in a spell,
so the cheapest order fills the cheapest of these capacities first. With the reset rule every update is fresh in full.
The bound holds for every taker under the same rule, not for limit orders, which earn rebates. It also counts what is
shown while the consolidated book is crossed, when no policy trades: then it is a little lower than it could be.
"""

from __future__ import annotations

import numpy as np

from sor.book import QuoteUpdates, asks_after
from sor.orders import RESET, SHADOW, Terminal, Window


def clairvoyant(
    updates: QuoteUpdates, fees_e6: np.ndarray, window: Window, size: int, terminal: Terminal, rule: int = SHADOW
) -> tuple[int, int]:
    """Least cost of buying `size` shares within the window by crossing the spread.

    Parameters
    ----------
    updates, fees_e6, window, terminal, rule
        As for `sor.replay.take`.
    size : int
        Shares.

    Returns
    -------
    cost_e6 : int
        Micro-dollars, fees included. Leaving a share to the terminal price is allowed where that is cheaper, as it is
        for every policy.
    filled_sz : int
        Shares bought on the book.
    """
    cost_e6, capacity_sz = _capacities(updates, fees_e6, window, rule)
    terminal_e6 = terminal.missing_e6
    cheapest = np.argsort(cost_e6, kind="stable")
    cost_e6, capacity_sz = cost_e6[cheapest], capacity_sz[cheapest] * (cost_e6[cheapest] < terminal_e6)
    before_sz = np.cumsum(capacity_sz) - capacity_sz
    bought_sz = np.clip(size - before_sz, 0, capacity_sz)
    filled_sz = int(bought_sz.sum())
    return int((bought_sz * cost_e6).sum()) + (size - filled_sz) * terminal_e6, filled_sz


def _capacities(updates: QuoteUpdates, fees_e6: np.ndarray, window: Window, rule: int) -> tuple[np.ndarray, np.ndarray]:
    """Ask plus fee (micro-dollars) and new shares of every update in the window, the carried quotes first."""
    start, stop = int(updates.batches_by(window.start_ns)), int(updates.batches_by(window.end_ns))
    rows = slice(updates.first[start], updates.first[stop])
    carried_px_e4, carried_sz = asks_after(updates, start)
    venue = np.append(np.arange(updates.venues), updates.venue[rows])
    px_e4 = np.append(carried_px_e4, updates.ask_px_e4[rows]).astype(np.int64)
    sz = np.append(carried_sz, updates.ask_sz[rows]).astype(np.int64)
    by_venue = np.argsort(venue, kind="stable")
    venue, px_e4, sz = venue[by_venue], px_e4[by_venue], sz[by_venue]
    same_spell = np.append(False, (venue[1:] == venue[:-1]) & (px_e4[1:] == px_e4[:-1]))
    already = np.where(same_spell, np.append(0, sz[:-1]), 0) if rule != RESET else 0
    new_sz = np.maximum(sz - already, 0) * (px_e4 > 0)
    return px_e4 * 100 + fees_e6[venue], new_sz
