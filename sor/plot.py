"""results.png, results.pdf and savings_plot.png: the results of one order as pictures; the only module that imports matplotlib.

A figure is made of numbers and text only and written to a file that the caller has opened: no clock, no display, no pyplot.
What the user has set in matplotlib is neither used nor changed, and no date or version is written: equal results, equal files.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO
from zoneinfo import ZoneInfo

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from sor import metrics
from sor.experiment import BASELINES, Experiment
from sor.market import Market
from sor.replay import Taken, Window

DPI = 150
BINS = 900  # of time on one axis: not fewer than it has pixels
EARLY_SHARE = 0.05  # of the window: strategies done by then are shown on a time axis of their own
MIN_RANGE_PX = 0.02  # USD per share
LABEL_POINTS, LABEL_SHARE = 13, 0.075  # height of a line of text, and its share of the price axis
SMALLEST_AREA, LARGEST_AREA = 8.0, 130.0  # of a marker, square points
TICK_CHARACTERS = {1: 50, 2: 32}  # room for clock times under the whole window, by how many axes share the row
VALUE_POINTS = 54  # width of the column of values beside the bars
MINUS, TIMES, UP, DOWN = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"

INK, GREY, ASK, BID, FAINT = "#222222", "#888888", "#333333", "#A0A0A0", "#E6E6E6"
GAIN, LOSS = "#56B4E9", "#E69F00"  # of Okabe and Ito's palette, as are the colors of LOOKS
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10.5,
    "text.parse_math": False,  # a $ in a file name is a $
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "hatch.linewidth": 1.5,
    "savefig.dpi": DPI,
}
PLACES = {
    "left": 0.08,
    "right": 0.925,
    "top": 0.825,
    "bottom": 0.155,
    "hspace": 0.42,
    "wspace": 0.38,
    "width_ratios": (2.5, 1),
}
METADATA = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}
CAVEAT = "One order on one day: one draw, not evidence that a strategy is better."
READING = (
    "Shortfall: total cost with taker fees against the mid at arrival. Clairvoyant: the floor for whoever only takes "
    "displayed shares, found with the whole day known."
)

NS = 10**9
_TIME_UNITS = (("seconds", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9), ("ns", 0.0))
_BEGINNINGS_S = (
    *(m * 10.0**k for k in range(-9, 0) for m in (1, 2, 5)),
    *(1, 2, 5, 10, 20, 30, 60, 90, *range(120, 86_401, 60)),
)
_TICK_STEPS_NS = (
    *(m * 10**k for k in range(9) for m in (1, 2, 5)),
    *(s * NS for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 86_400)),
)


@dataclass(frozen=True)
class Source:
    """What the data are; for the title."""

    file: str
    symbol: str
    simulated: bool
    time_zone: str  # of the exchange, IANA name


@dataclass(frozen=True)
class Look:
    """How a strategy is drawn, the same in every panel."""

    color: str
    line: str | tuple[float, tuple[float, ...]]
    marker: str
    hollow: bool = False


LOOKS = (
    Look("#D55E00", "-", "s"),
    Look("#0072B2", (0, (5, 1.5)), "^"),
    Look("#009E73", (0, (1, 1)), "o"),
    Look("#B0578D", (0, (4, 1, 1, 1)), "D", hollow=True),  # the palette's purple, darker: its lines are thin
    Look("#000000", (0, (2, 1)), "v"),
    Look("#56B4E9", (0, (6, 1, 1, 1, 1, 1)), "P"),
    Look("#E69F00", (0, (8, 2)), "X"),
)


@dataclass(frozen=True)
class Trace:
    """What one strategy did, F fills; times are seconds after the window's start."""

    name: str
    look: Look
    after_s: np.ndarray  # float64 (F,)
    px: np.ndarray  # float64 (F,) USD per share, without fee
    sz: np.ndarray  # int64 (F,) shares
    cost_s: np.ndarray  # float64 (F + 2,) when the running cost changes: start, every fill, end
    cost_usd: np.ndarray  # float64 (F + 2,) running cost from then on, USD above the arrival mid
    done: int  # index of the corner from which the whole order is bought


def results_figure(experiment: Experiment, market: Market, source: Source) -> Figure:
    """The whole picture: running cost, shortfall, quotes with fills, savings.

    Parameters
    ----------
    experiment : Experiment
        Its policy is the one compared with the baselines.
    market : Market
        What the experiment was run on.
    source : Source

    Returns
    -------
    matplotlib.figure.Figure
        12 by 9 inches; hand it to `save`.
    """
    window, drawn, ends_s = experiment.order.window, traces(experiment, market), axis_ends_s(experiment)
    with _style():
        figure = Figure(figsize=(12, 9))
        grid = figure.add_gridspec(2, 2, **PLACES)
        rows = [_time_axes(figure, grid[row, 0], ends_s) for row in range(2)]
        for axes in rows:
            _label_times(axes, window, source.time_zone)
        _draw_costs(rows[0], drawn)
        notes = _draw_prices(rows[1], drawn, window, market)
        _draw_shortfall(figure.add_subplot(grid[0, 1]), experiment, drawn)
        _draw_savings(figure.add_subplot(grid[1, 1]), experiment)
        _legend(figure, drawn)
        _frame(figure, experiment, source, [READING, *notes, *_beyond_book(experiment)])
    return figure


def savings_figure(experiment: Experiment, market: Market, source: Source) -> Figure:
    """The savings panel alone, 9 by 4 inches; parameters as for `results_figure`."""
    with _style():
        figure = Figure(figsize=(9, 4))
        _draw_savings(figure.add_axes((0.13, 0.29, 0.76, 0.42)), experiment)
        _frame(figure, experiment, source, _beyond_book(experiment))
    return figure


def save(figure: Figure, file: BinaryIO, kind: str) -> None:
    """Write the figure to an open file as "png", at 150 dots per inch, or as "pdf"; the same bytes every time."""
    with _style():
        figure.savefig(file, format=kind, metadata=METADATA[kind])


@contextmanager
def _style() -> Iterator[None]:
    """matplotlib's defaults and STYLE, whatever is set; afterwards it is set again."""
    defaults = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
    with mpl.rc_context({**defaults, **STYLE}):
        yield


# --- numbers and texts --------------------------------------------------------------------------------------------


def traces(experiment: Experiment, market: Market) -> list[Trace]:
    """Fills and running cost of every strategy, the policy first."""
    named = zip(experiment.taken.items(), itertools.cycle(LOOKS), strict=False)
    return [_trace(name, look, taken, experiment, market) for (name, taken), look in named]


def _trace(name: str, look: Look, taken: Taken, experiment: Experiment, market: Market) -> Trace:
    window, mid_px, fills = experiment.order.window, experiment.arrival_mid_px, taken.fills
    sz = fills["sz"].astype(np.int64)
    after_s = (fills["ts_ns"] - window.start_ns) / NS
    paid_e6 = np.cumsum(sz * (fills["px_e4"] * np.int64(100) + market.fees_e6[fills["venue"]]))
    total_usd = int(taken.total_e6[0]) / 1e6 - experiment.order.size * mid_px
    return Trace(
        name=name,
        look=look,
        after_s=after_s,
        px=fills["px_e4"] / 1e4,
        sz=sz,
        cost_s=np.concatenate(([0.0], after_s, [(window.end_ns - window.start_ns) / NS])),
        cost_usd=np.concatenate(([0.0], paid_e6 / 1e6 - np.cumsum(sz) * mid_px, [total_usd])),
        done=-1 if taken.priced_sz[0] else -2,
    )


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


def axis_ends_s(experiment: Experiment) -> list[float]:
    """Length of every time axis in seconds: the whole window, and before it one for strategies that are done early."""
    window = experiment.order.window
    length_s = (window.end_ns - window.start_ns) / NS
    last_s = [
        (int(taken.fills["ts_ns"][-1]) - window.start_ns) / NS
        for taken in experiment.taken.values()
        if len(taken.fills) and not taken.priced_sz[0]
    ]
    early_s = max((at_s for at_s in last_s if at_s <= EARLY_SHARE * length_s), default=0.0)
    return [next(end_s for end_s in _BEGINNINGS_S if end_s >= 1.04 * early_s), length_s] if early_s else [length_s]


def clock_ticks(start_ns: int, end_ns: int, time_zone: str, room: int) -> tuple[np.ndarray, list[str]]:
    """Round times on the clock of `time_zone`, as close as `room` characters allow: seconds after `start_ns`, and texts."""
    local_ns = np.array([_local_ns(at_ns, time_zone) for at_ns in (start_ns, end_ns)])
    for step_ns in _TICK_STEPS_NS:
        ticks_ns = range(-(-local_ns[0] // step_ns) * step_ns, local_ns[1] + 1, step_ns)
        if len(ticks_ns) * len(_clock_text(0, step_ns)) <= room:
            break
    return (np.array(ticks_ns) - local_ns[0]) / NS, [_clock_text(int(at_ns), step_ns) for at_ns in ticks_ns]


def _local_ns(at_ns: int, time_zone: str) -> int:
    """Nanoseconds since 1970 as the clocks of the time zone show them."""
    offset = datetime.fromtimestamp(at_ns // NS, ZoneInfo(time_zone)).utcoffset()
    return at_ns + round(offset.total_seconds()) * NS


def _clock_text(local_ns: int, unit_ns: int) -> str:
    """HH:MM, with the seconds and decimals that multiples of `unit_ns` need."""
    seconds, fraction_ns = divmod(local_ns, NS)
    text = f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}"
    if unit_ns % (60 * NS):
        text += f":{seconds % 60:02}"
    decimals = len(f"{unit_ns % NS:09}".rstrip("0"))
    return text + (f".{fraction_ns:09}"[: 1 + decimals] if decimals else "")


def window_text(window: Window, time_zone: str) -> str:
    """Date and times of the window on the clock of the time zone; milliseconds where it is shorter than a minute."""
    unit_ns = NS if window.end_ns - window.start_ns >= 60 * NS else NS // 1000
    start_ns, end_ns = (_local_ns(at_ns, time_zone) for at_ns in (window.start_ns, window.end_ns))
    day = np.datetime64(start_ns // NS, "s").astype("datetime64[D]")
    return f"{day}, {_clock_text(start_ns, unit_ns)} to {_clock_text(end_ns, unit_ns)} {time_zone}"


def signed(value: float, form: str = ",.1f") -> str:
    """A number with its sign, + or a true minus; without one if it is zero as written."""
    text = f"{abs(value):{form}}"
    return text if not text.strip("0.,") else ("+" if value > 0 else MINUS) + text


def px_text(px: float) -> str:
    """A price in whole cents if it is, with four decimals otherwise."""
    return f"{px:.4f}".removesuffix("00")


def _plain(text: str, most: int) -> str:
    """What the font can draw of a name from outside, on one line and not too long."""
    text = "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in text)
    return text if len(text) <= most else f"{text[: most // 2 - 2]}...{text[-most // 2 + 1 :]}"


def _beyond_notes(drawn: list[Trace], beyond: list[np.ndarray], hidden_px: list[float]) -> list[str]:
    """What the price axes leave out, in words."""
    counts = [
        f"{trace.name} {outside.sum():,} of {len(outside):,} (to {px_text(trace.px[outside].max())} USD)"
        for trace, outside in zip(drawn, beyond, strict=True)
        if outside.any()
    ]
    notes = [f"Fills beyond a price axis stand at its edge with their price: {', '.join(counts)}."] if counts else []
    if hidden_px:
        notes.append(f"NBBO beyond a price axis for moments: {_range_text(np.array(hidden_px))} USD.")
    return notes


def _beyond_book(experiment: Experiment) -> list[str]:
    """Which strategies were charged for shares that nobody showed."""
    missing = [
        f"{name} {int(taken.priced_sz[0]):,} shares" for name, taken in experiment.taken.items() if taken.priced_sz[0]
    ]
    return [f"Not on the book even at the end, charged at the terminal price: {', '.join(missing)}."] if missing else []


# --- panels -------------------------------------------------------------------------------------------------------


def _time_axes(figure: Figure, cell: SubplotSpec, ends_s: list[float]) -> list[Axes]:
    """An axes for each length of time, side by side; the right one of two has its numbers on the right."""
    widths = (1, 1.5)[-len(ends_s) :]
    axes = [figure.add_subplot(part) for part in cell.subgridspec(1, len(ends_s), wspace=0.05, width_ratios=widths)]
    for ax, end_s in zip(axes, ends_s, strict=True):
        ax.set_xlim(-0.02 * end_s, (1.02 if ax is axes[-1] else 1.0) * end_s)
    axes[0].spines["right"].set_visible(False)
    across = blended_transform_factory(figure.transFigure, axes[0].transAxes)
    axes[0].yaxis.set_label_coords(0.02, 0.5, transform=across)
    for ax in axes[1:]:
        ax.spines["left"].set_visible(False)
        ax.yaxis.tick_right()
    return axes


def _label_times(axes: list[Axes], window: Window, time_zone: str) -> None:
    """Clock times under the whole window, time since the start under its beginning."""
    *beginning, whole = axes
    whole.set_xticks(*clock_ticks(window.start_ns, window.end_ns, time_zone, TICK_CHARACTERS[len(axes)]))
    whole.set_xlabel(f"whole window: {time_zone} time")
    for ax in beginning:
        unit, unit_s = next(unit for unit in _TIME_UNITS if ax.get_xlim()[1] >= unit[1])
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10), prune="upper"))
        ax.xaxis.set_major_formatter(lambda value, _, unit_s=unit_s: f"{value / unit_s:g}")
        ax.set_xlabel(f"beginning: {unit} after the start")


def _draw_costs(axes: list[Axes], drawn: list[Trace]) -> None:
    """Running cost: a step at every fill, the strategy's marker where all is bought."""
    corners_usd = np.concatenate([trace.cost_usd for trace in drawn])
    pad = 0.06 * max(np.ptp(corners_usd), 0.01)
    for ax in axes:
        ax.axhline(0, color=GREY, linewidth=0.9)
        ax.set_ylim(corners_usd.min() - pad, corners_usd.max() + pad)
        ax.yaxis.set_major_formatter(lambda value, _: signed(value, ",.10g"))
        for trace in drawn:
            color, line = trace.look.color, trace.look.line
            ax.plot(trace.cost_s, trace.cost_usd, drawstyle="steps-post", color=color, linestyle=line, linewidth=1.8)
            ax.plot(trace.cost_s[trace.done], trace.cost_usd[trace.done], linestyle="", zorder=4, **_marker(trace.look))
    axes[0].set_title(f"Cumulative execution cost: cash paid, less arrival mid {TIMES} shares bought so far")
    axes[0].set_ylabel("USD, taker fees included")


def _draw_prices(axes: list[Axes], drawn: list[Trace], window: Window, market: Market) -> list[str]:
    """NBBO and fills on every time axis; returns what is to be said about what the price axes leave out."""
    beyond, hidden_px = [np.zeros(len(trace.px), bool) for trace in drawn], []
    largest_sz = max(trace.sz.max(initial=1) for trace in drawn)
    for ax in axes:
        here = [trace.after_s <= ax.get_xlim()[1] for trace in drawn]
        quotes_px = _draw_quotes(ax, window, market)
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
            _label_edge(ax, y, line, trace.after_s[out][0], f"{arrow} {_range_text(trace.px[out])}", trace.look.color)


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


def _range_text(px: np.ndarray) -> str:
    low, high = px_text(px.min()), px_text(px.max())
    return low if low == high else f"{low} to {high}"


def _marker(look: Look) -> dict[str, object]:
    face, edge = ("white", look.color) if look.hollow else (look.color, "white")
    return {"marker": look.marker, "markersize": 7.5, "markerfacecolor": face, "markeredgecolor": edge}


def _draw_shortfall(ax: Axes, experiment: Experiment, drawn: list[Trace]) -> None:
    """Total cost of every strategy, and the floor under them."""
    size, mid_px = experiment.order.size, experiment.arrival_mid_px
    bps = {n: metrics.shortfall_bps(int(t.total_e6[0]) / 1e6, size, mid_px) for n, t in experiment.taken.items()}
    floor_bps = metrics.shortfall_bps(experiment.floor_e6 / 1e6, size, mid_px)
    colors = [*(trace.look.color for trace in drawn), "white"]
    _bars(ax, {**bps, "clairvoyant": floor_bps}, colors, [""] * len(colors))
    ax.axvline(floor_bps, color=INK, linestyle=(0, (3, 2)), linewidth=1.3, zorder=3)
    ax.set_title("Total cost: shortfall per strategy")
    ax.set_xlabel("bps of arrival mid (dashed: floor of all takers)")


def _draw_savings(ax: Axes, experiment: Experiment) -> None:
    """What the policy saved against every baseline; losses in another color, hatched."""
    size, mid_px = experiment.order.size, experiment.arrival_mid_px
    cash = {name: int(taken.total_e6[0]) / 1e6 for name, taken in experiment.taken.items()}
    bps = {name: metrics.savings_bps(cash[experiment.policy], cash[name], size, mid_px) for name in BASELINES}
    lost = [value < 0 for value in bps.values()]
    _bars(
        ax,
        {f"vs {name}": value for name, value in bps.items()},
        [LOSS if loss else GAIN for loss in lost],
        ["///" if loss else "" for loss in lost],
    )
    ax.set_title(f"Savings of {experiment.policy}")
    ax.set_xlabel(f"bps of arrival mid (+ cheaper, {MINUS} dearer)")


def _bars(ax: Axes, bps: dict[str, float], colors: list[str], hatches: list[str]) -> None:
    """Horizontal bars from 0, the first on top, their signed values in a column to the right of them."""
    values = np.array(list(bps.values()))
    ax.barh(list(bps), values, height=0.62, color=colors, edgecolor=INK, linewidth=0.7, hatch=hatches)
    for row, value in enumerate(values):
        ax.annotate(
            signed(value),
            (1, row),
            xycoords=ax.get_yaxis_transform(),
            xytext=(VALUE_POINTS, 0),
            textcoords="offset points",
            ha="right",
            va="center",
        )
    low, high = values.min(initial=0), values.max(initial=0)
    if low == high:
        low, high = -1.0, 1.0
    room = high - low
    ax.set_xlim(low - 0.06 * room, high + 0.06 * room)
    ax.invert_yaxis()
    ax.axvline(0, color=INK, linewidth=0.9)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    ax.xaxis.set_major_formatter(lambda value, _: signed(value, ",.10g"))
    for side in ("left", "right"):
        ax.spines[side].set_visible(False)


# --- around the panels --------------------------------------------------------------------------------------------


def _legend(figure: Figure, drawn: list[Trace]) -> None:
    """One row for all panels."""
    handles = [
        Line2D([], [], color=t.look.color, linestyle=t.look.line, linewidth=1.8, label=t.name, **_marker(t.look))
        for t in drawn
    ]
    handles += [
        Line2D([], [], color=color, linewidth=5, label=text) for color, text in ((ASK, "NBBO ask"), (BID, "NBBO bid"))
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.022, 0.908),
        ncols=len(handles),
        frameon=False,
        fontsize=11,
        handlelength=3.2,
        columnspacing=1.8,
    )


def _frame(figure: Figure, experiment: Experiment, source: Source, notes: list[str]) -> None:
    """Title and subtitle, and below the caveat and the notes."""
    width, height = figure.get_size_inches()
    what = f"{experiment.order.size:,} shares" + (f" of {_plain(source.symbol, 12)}" if source.symbol else "")
    title = f"Buy {what} \N{MIDDLE DOT} {_plain(source.file, 32)}{' (simulated data)' if source.simulated else ''}"
    subtitle = (
        f"{window_text(experiment.order.window, source.time_zone)}; arrival mid {experiment.arrival_mid_px:.4f} USD"
    )
    figure.text(0.03, 1 - 0.16 / height, title, fontsize=14, fontweight="bold", va="top")
    figure.text(0.03, 1 - 0.48 / height, subtitle, fontsize=11, va="top")
    lines = textwrap.wrap(" ".join([CAVEAT, *notes]), int(14 * width))
    figure.text(0.03, 0.12 / height, "\n".join(lines), fontsize=9.5, va="bottom", linespacing=1.35)
