"""The panel of quotes and fills, and what its price axes leave out."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from sor.market import Market
from sor.orders import Window
from sor.plot.clock import NS
from sor.plot.style import ASK, BID
from sor.plot.text import DOWN, UP, px_text, range_text
from sor.plot.trace import Trace

BINS = 900  # of time on one axis: not fewer than it has pixels
MIN_RANGE_PX = 0.02  # USD per share
LABEL_POINTS, LABEL_SHARE = 13, 0.075  # height of a line of text, and its share of the price axis
SMALLEST_AREA, LARGEST_AREA = 8.0, 130.0  # of a marker, square points


def draw_prices(axes: list[Axes], drawn: list[Trace], window: Window, market: Market) -> list[str]:
    """NBBO and fills on every time axis; returns what is to be said about what the price axes leave out."""
    beyond, hidden_px = [np.zeros(len(trace.px), bool) for trace in drawn], []
    largest_sz = max(trace.sz.max(initial=1) for trace in drawn)
    for ax in axes:
        here = [trace.after_s <= ax.get_xlim()[1] for trace in drawn]
        quotes_px = _draw_quotes(ax, window, market)
        ax.yaxis.get_major_formatter().set_useOffset(False)
        ax.set_ylim(_with_headroom(*price_range(*quotes_px, _at(drawn, here)), drawn, here))
        low, high = ax.get_ylim()
        hidden_px += [px for bound in quotes_px for px in bound[(bound < low) | (bound > high)]]
        outside = [shown & ((trace.px < low) | (trace.px > high)) for trace, shown in zip(drawn, here, strict=True)]
        beyond = [before | now for before, now in zip(beyond, outside, strict=True)]
        for trace, shown in zip(drawn, here, strict=True):
            _draw_fills(ax, trace, shown, largest_sz)
        _label_beyond(ax, drawn, outside)
    axes[0].set_title("NBBO and fills (area of a marker: shares)")
    axes[0].set_ylabel("USD per share, without fees")
    return _beyond_notes(drawn, beyond, hidden_px)


def envelope(ts_ns: np.ndarray, px: np.ndarray, edges_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest price in force within each bin of time, so that no extreme is lost however wide the bins are.

    Parameters
    ----------
    ts_ns : int64 (B,)
        When each price came, never going back; it is in force until the next.
    px : float64 (B,)
        NaN: from then on there is none.
    edges_ns : int64 (M + 1,)
        Bin i goes from edge i up to, not including, edge i + 1; ascending.

    Returns
    -------
    lowest, highest : float64 (M,)
        NaN where there is no price anywhere in the bin.
    """
    padded = np.concatenate(([np.nan], px, [np.nan]))  # no price before the first; the last is never within a bin
    before, by = (np.searchsorted(ts_ns, edges_ns[:-1], side=side) for side in ("left", "right"))
    first = np.minimum(before + 1, by)  # the carried price, or the first of those that come at the edge itself
    stop = np.searchsorted(ts_ns, edges_ns[1:], side="left") + 1
    bounds = np.stack((first, stop), axis=1).ravel()
    return np.fmin.reduceat(padded, bounds)[::2], np.fmax.reduceat(padded, bounds)[::2]


def price_range(lowest: np.ndarray, highest: np.ndarray, fill_px: np.ndarray) -> tuple[float, float]:
    """Ends of the price axis, USD per share: the quotes of 99 % of the time, and all that is up to half of that range away.

    Parameters
    ----------
    lowest, highest : float64 (M,)
        Envelope of the quotes, USD per share; NaN where there are none.
    fill_px : float64 (F,)
    """
    low, high = np.nanquantile(lowest, 0.005), np.nanquantile(highest, 0.995)
    reach = max(high - low, MIN_RANGE_PX) / 2
    px = np.concatenate((fill_px, lowest, highest))
    near = px[(px >= low - reach) & (px <= high + reach)]
    low, high = near.min(initial=low), near.max(initial=high)
    pad = 0.08 * max(high - low, MIN_RANGE_PX)
    return float(low - pad), float(high + pad)


def _at(drawn: list[Trace], shown: list[np.ndarray]) -> np.ndarray:
    """Prices of all fills shown."""
    return np.concatenate([trace.px[some] for trace, some in zip(drawn, shown, strict=True)])


def _with_headroom(low: float, high: float, drawn: list[Trace], shown: list[np.ndarray]) -> tuple[float, float]:
    """Room at the top for a line of text for every strategy with fills above."""
    lines = sum((trace.px[some] > high).any() for trace, some in zip(drawn, shown, strict=True))
    return low, high + LABEL_SHARE * lines * (high - low)


def _draw_quotes(ax: Axes, window: Window, market: Market) -> tuple[np.ndarray, np.ndarray]:
    """Bid and ask, each from its lowest to its highest price within every pixel; returns these (2 M,)."""
    end_ns = min(window.end_ns - window.start_ns, int(ax.get_xlim()[1] * NS))
    edges_ns = np.unique(np.linspace(0, end_ns, BINS + 1).astype(np.int64))
    bin_edges_ns = window.start_ns + edges_ns
    bin_edges_ns[-1] += 1  # the window's end is part of it
    bounds = []
    for px_e4, color in ((market.nbbo.ask_px_e4, ASK), (market.nbbo.bid_px_e4, BID)):
        lowest, highest = envelope(market.updates.ts_ns, np.where(px_e4 > 0, px_e4 / 1e4, np.nan), bin_edges_ns)
        corners = (edges_ns / NS, np.append(lowest, lowest[-1]), np.append(highest, highest[-1]))
        ax.fill_between(*corners, step="post", color=color, linewidth=0.8, zorder=3)
        bounds.append((lowest, highest))
    return tuple(np.concatenate(side) for side in zip(*bounds, strict=True))


def _draw_fills(ax: Axes, trace: Trace, shown: np.ndarray, largest_sz: int) -> None:
    """A marker for every fill, at the edge of the axis for those beyond it."""
    low, high = ax.get_ylim()
    look = trace.look
    ax.scatter(
        trace.after_s[shown],
        np.clip(trace.px[shown], low, high),
        s=SMALLEST_AREA + LARGEST_AREA * trace.sz[shown] / largest_sz,
        marker=look.marker,
        facecolors="none" if look.hollow else look.color,
        edgecolors=look.color if look.hollow else "white",
        linewidths=0.8 if look.hollow else 0.4,
        zorder=2.5,
        clip_on=False,
    )


def _label_beyond(ax: Axes, drawn: list[Trace], outside: list[np.ndarray]) -> None:
    """Prices of each strategy's fills beyond the axis, at the edge beside the first of them."""
    low, high = ax.get_ylim()
    for y, arrow, side in (
        (1, UP, [trace.px > high for trace in drawn]),
        (0, DOWN, [trace.px < low for trace in drawn]),
    ):
        some = [(t, out & here) for t, out, here in zip(drawn, outside, side, strict=True) if (out & here).any()]
        for line, (trace, out) in enumerate(some):
            _label_edge(ax, y, line, trace.after_s[out][0], f"{arrow} {range_text(trace.px[out])}", trace.look.color)


def _label_edge(ax: Axes, y: int, line: int, at_s: float, text: str, color: str) -> None:
    """A line of text at the lower (y = 0) or upper edge, away from the nearer end of the axis."""
    right, up = (1 if at_s < np.mean(ax.get_xlim()) else -1), (1 if y == 0 else -1)
    ax.annotate(
        text,
        (at_s, y),
        xycoords=ax.get_xaxis_transform(),
        xytext=(8 * right, up * (6 + LABEL_POINTS * line)),
        textcoords="offset points",
        ha="left" if right > 0 else "right",
        va="bottom" if y == 0 else "top",
        color=color,
        fontsize=9.5,
    )


def _beyond_notes(drawn: list[Trace], beyond: list[np.ndarray], hidden_px: list[float]) -> list[str]:
    """What the price axes leave out, in words."""
    counts = [
        f"{trace.name} {outside.sum():,} of {len(outside):,} (to {px_text(trace.px[outside].max())} USD)"
        for trace, outside in zip(drawn, beyond, strict=True)
        if outside.any()
    ]
    notes = [f"Fills beyond a price axis stand at its edge with their price: {', '.join(counts)}."] if counts else []
    if hidden_px:
        notes.append(f"NBBO beyond a price axis for moments: {range_text(np.array(hidden_px))} USD.")
    return notes
