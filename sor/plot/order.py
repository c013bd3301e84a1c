"""The panels of the one order: running cost, total cost, quotes with fills (prices.py), shares by venue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from sor import metrics
from sor.experiment import BASELINES, Experiment
from sor.market import Market
from sor.orders import DEADLINE, LIMIT, TAKE, Window
from sor.plot.clock import NS, clock_ticks
from sor.plot.panel import bars, beside, heading, legend
from sor.plot.prices import draw_prices
from sor.plot.style import ASK, BID, DIM, GAIN, GREY, INK, LOSS, ORDER_IN, marker
from sor.plot.text import MINUS, TIMES, signed
from sor.plot.trace import Trace

PLACES = {"left": 0.09, "right": 0.873, "hspace": 0.54, "wspace": 0.4, "width_ratios": (2.6, 1)}
EARLY_SHARE = 0.05  # of the window: strategies done by then are shown on a time axis of their own
TICK_CHARACTERS = {1: 50, 2: 32}  # room for clock times under the whole window, by how many axes share the row
MOST_VENUES = 12  # rows of the venue panel
KINDS = ((TAKE, "market", "#0072B2", ""), (LIMIT, "limit", "#A6D8F5", "///"), (DEADLINE, "deadline", "white", "xxx"))
_TIME_UNITS = (("seconds", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9), ("ns", 0.0))
_CASH_UNITS = (("million USD", 1e6, 1e9), ("thousand USD", 1e3, 1e6), ("USD", 1, 0))  # the last: from there on
_BEGINNINGS_S = (
    *(m * 10.0**k for k in range(-9, 0) for m in (1, 2, 5)),
    *(1, 2, 5, 10, 20, 30, 60, 90, *range(120, 86_401, 60)),
)


def draw(
    figure: Figure, experiment: Experiment, market: Market, drawn: list[Trace], time_zone: str, simulated: bool
) -> list[str]:
    """The panels of the one order, at the top; returns what is to be said of them."""
    height, window, ends_s = figure.get_figheight(), experiment.order.window, axis_ends_s(experiment)
    heading(figure, 0.86, f"One order over the whole window: one draw{', simulated data' if simulated else ''}")
    grid = figure.add_gridspec(2, 2, top=1 - 1.95 / height, bottom=1 - (ORDER_IN - 0.65) / height, **PLACES)
    rows = [_time_axes(figure, grid[row, 0], ends_s) for row in range(2)]
    for axes in rows:
        _label_times(axes, window, time_zone)
    _draw_costs(rows[0], drawn)
    notes = draw_prices(rows[1], drawn, window, market)
    _draw_shortfall(figure.add_subplot(grid[0, 1]), experiment, drawn)
    _draw_venues(figure.add_subplot(grid[1, 1]), experiment, market)
    _draw_legend(figure, drawn)
    return notes


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
        ax.set_xlabel(f"beginning: {unit} after start")


def _draw_legend(figure: Figure, drawn: list[Trace]) -> None:
    """One row for all panels."""
    handles = [
        Line2D([], [], color=t.look.color, linestyle=t.look.line, linewidth=1.8, label=t.name, **marker(t.look))
        for t in drawn
    ]
    handles += [
        Line2D([], [], color=color, linewidth=5, label=text) for color, text in ((ASK, "NBBO ask"), (BID, "NBBO bid"))
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.022, 1 - 1.13 / figure.get_figheight()),
        ncols=len(handles),
        frameon=False,
        fontsize=11,
        handlelength=3.2,
        columnspacing=1.8,
    )


def _draw_costs(axes: list[Axes], drawn: list[Trace]) -> None:
    """Running cost: a step at every fill, the strategy's marker where all is bought."""
    corners_usd = np.concatenate([trace.cost_usd for trace in drawn])
    pad = 0.06 * max(np.ptp(corners_usd), 0.01)
    unit, unit_usd = next((text, usd) for text, usd, from_usd in _CASH_UNITS if np.abs(corners_usd).max() >= from_usd)
    for ax in axes:
        ax.axhline(0, color=GREY, linewidth=0.9)
        ax.set_ylim(corners_usd.min() - pad, corners_usd.max() + pad)
        ax.yaxis.set_major_formatter(lambda value, _: signed(value / unit_usd, ",.10g"))
        for trace in drawn:
            color, line = trace.look.color, trace.look.line
            ax.plot(trace.cost_s, trace.cost_usd, drawstyle="steps-post", color=color, linestyle=line, linewidth=1.8)
            ax.plot(trace.cost_s[trace.done], trace.cost_usd[trace.done], linestyle="", zorder=4, **marker(trace.look))
    axes[0].set_title(f"Cumulative execution cost: cash paid, less arrival mid {TIMES} shares bought so far")
    axes[0].set_ylabel(f"{unit}, fees and rebates included")


def _draw_shortfall(ax: Axes, experiment: Experiment, drawn: list[Trace]) -> None:
    """Total cost of every strategy, the floor under them, and beside it what the policy saved."""
    size, mid_px = experiment.order.size, experiment.arrival_mid_px
    bps = {n: metrics.shortfall_bps(int(t.total_e6[0]) / 1e6, size, mid_px) for n, t in experiment.taken.items()}
    floor_bps = metrics.shortfall_bps(experiment.floor_e6 / 1e6, size, mid_px)
    colors = [*(trace.look.color for trace in drawn), "white"]
    bars(ax, {**bps, "clairvoyant": floor_bps}, colors, [""] * len(colors))
    saved = {name: value for name, value in _savings_bps(experiment).items() if name != experiment.policy}
    for column, text in enumerate(("cost", "saved")):
        beside(ax, column, -0.72, text, color=DIM)
    for row, name in enumerate(bps):
        beside(ax, 1, row, signed(saved[name]) if name in saved else "")
    ax.axvline(floor_bps, color=INK, linestyle=(0, (3, 2)), linewidth=1.3, zorder=3)
    ax.set_title(f"Total cost, and saved by {experiment.policy}", pad=22)
    ax.set_xlabel("bps of arrival mid (dashed: floor of all takers)")


def draw_savings(ax: Axes, experiment: Experiment) -> None:
    """What the policy saved on the order against every baseline; losses in another color, hatched."""
    bps = _savings_bps(experiment)
    lost = [value < 0 for value in bps.values()]
    bars(
        ax,
        {f"vs {name}": value for name, value in bps.items()},
        [LOSS if loss else GAIN for loss in lost],
        ["///" if loss else "" for loss in lost],
    )
    ax.set_title(f"Savings of {experiment.policy}")
    ax.set_xlabel(f"bps of arrival mid (+ cheaper, {MINUS} dearer)")


def _savings_bps(experiment: Experiment) -> dict[str, float]:
    """What the policy saved on the order against every baseline."""
    size, mid_px = experiment.order.size, experiment.arrival_mid_px
    cash = {name: int(taken.total_e6[0]) / 1e6 for name, taken in experiment.taken.items()}
    return {name: metrics.savings_bps(cash[experiment.policy], cash[name], size, mid_px) for name in BASELINES}


def savings_text(experiment: Experiment) -> str:
    """The savings in a sentence."""
    saved = ", ".join(f"{name} {signed(bps)}" for name, bps in _savings_bps(experiment).items())
    return f"Of the one order, bps: {saved}."


def beyond_book(experiment: Experiment) -> list[str]:
    """Which strategies were charged for shares that nobody showed, and whether the policy bought too many."""
    missing = [
        f"{name} {int(taken.priced_sz[0]):,} shares" for name, taken in experiment.taken.items() if taken.priced_sz[0]
    ]
    notes = (
        [f"Not on the book even at the end, charged at the terminal price: {', '.join(missing)}."] if missing else []
    )
    if surplus_sz := int(experiment.taken[experiment.policy].surplus_sz[0]):
        notes.append(f"{experiment.policy} bought {surplus_sz:,} shares too many, sold at the end.")
    return notes


def _draw_venues(ax: Axes, experiment: Experiment, market: Market) -> None:
    """Shares of the policy's order at every venue, by how they were bought."""
    taken = experiment.taken[experiment.policy]
    shares = shares_by_venue(taken.fills, market.venue_names)
    sz, before, used = np.array(list(shares.values())).reshape(-1, len(KINDS)), np.zeros(len(shares), np.int64), []
    for kind, (_, name, color, hatch) in enumerate(KINDS):
        look = {"facecolor": color, "hatch": hatch, "edgecolor": INK, "linewidth": 0.7}
        some = np.flatnonzero(sz[:, kind])
        if len(some):
            ax.barh(some, sz[some, kind], left=before[some], height=0.7, **look)
            used.append(Patch(label=f"{name} {sz[:, kind].sum():,}", **look))
        before += sz[:, kind]
    for row, total in enumerate(before):
        beside(ax, 0, row, f"{total:,}", fontsize=9.5)
    ax.set_yticks(range(len(shares)), list(shares), fontsize=9.5)
    ax.set_ylim(max(len(shares), 5) - 0.4, -0.6)
    ax.set_xlim(0, 1.04 * before.max(initial=1))
    ax.spines["right"].set_visible(False)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    missing_sz = int(taken.priced_sz[0])
    ax.set_xlabel("shares bought" + (f"; {missing_sz:,} nowhere on the book" if missing_sz else ""))
    ax.set_title(f"Where the shares of {experiment.policy} went", pad=22)
    legend(ax, used)


def shares_by_venue(fills: np.ndarray, venue_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Shares taken, filled in a queue and swept at the deadline, int64 (3,), at every venue that has some.

    The most shares first; feeds of one name count together; what is beyond MOST_VENUES rows is added up in the last.
    """
    shares: dict[str, np.ndarray] = {}
    for venue, name in enumerate(venue_names):
        here = fills[fills["venue"] == venue]
        found = np.array([here["sz"][here["kind"] == kind].sum(dtype=np.int64) for kind, *_ in KINDS])
        shares[name] = shares.get(name, 0) + found
    ranked = sorted(((n, sz) for n, sz in shares.items() if sz.any()), key=lambda each: (-each[1].sum(), each[0]))
    if len(ranked) <= MOST_VENUES:
        return dict(ranked)
    rest = ranked[MOST_VENUES - 1 :]
    return {**dict(ranked[: MOST_VENUES - 1]), f"{len(rest)} others": sum(sz for _, sz in rest)}
