"""results.png, results.pdf and savings_plot.png: one order and the evaluation as pictures; the only module that imports matplotlib.

A figure is made of numbers and text only and written to a file that the caller has opened: no clock, no display, no pyplot.
What the user has set in matplotlib is neither used nor changed, and no date or version is written: equal results, equal files.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
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
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from sor import metrics
from sor.experiment import BASELINES, Experiment
from sor.market import Market
from sor.orders import DEADLINE, LIMIT, TAKE, Taken, Window

DPI = 150
BINS = 900  # of time on one axis: not fewer than it has pixels
EARLY_SHARE = 0.05  # of the window: strategies done by then are shown on a time axis of their own
MIN_RANGE_PX = 0.02  # USD per share
LABEL_POINTS, LABEL_SHARE = 13, 0.075  # height of a line of text, and its share of the price axis
SMALLEST_AREA, LARGEST_AREA = 8.0, 130.0  # of a marker, square points
TICK_CHARACTERS = {1: 50, 2: 32}  # room for clock times under the whole window, by how many axes share the row
VALUE_POINTS, MARK_POINTS, NARROW_POINTS = 54, 46, 36  # width of a column of values beside bars and marks
FAR = 5  # an interval that reaches so many times as far as the middle one does not stretch its axis
MOST_VENUES = 12  # rows of the venue panel
PAIR = 0.19  # of a row: how far two marks of one row are from its middle
MINUS, TIMES, UP, DOWN = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"

INK, GREY, ASK, BID, FAINT, SHADE = "#222222", "#888888", "#333333", "#A0A0A0", "#E6E6E6", "#F5F5F5"
DIM = "#666666"  # text that is not a claim
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
WIDTH_IN, ORDER_IN, WINDOWS_IN, FOOT_IN = 12.0, 8.15, 5.1, 1.0  # of the figure, its two blocks and what is below
ORDER_PLACES = {"left": 0.09, "right": 0.873, "hspace": 0.54, "wspace": 0.4, "width_ratios": (2.6, 1)}
WINDOWS_PLACES = ((0.086, 0.258), (0.4, 0.562), (0.728, 0.806), (0.862, 0.94))  # left and right of its panels
GROUP_POINTS = 89  # from a panel to the name of a group of its rows
METADATA = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}
CAVEAT = "One order on one day: one draw, not evidence that a strategy is better."
READING = (
    "Shortfall: total cost with fees and rebates against the mid at arrival. Clairvoyant: the floor for whoever only "
    "takes displayed shares, found with the whole day known."
)
IN_SAMPLE = "in-sample, not a claim"
KINDS = ((TAKE, "market", "#0072B2", ""), (LIMIT, "limit", "#A6D8F5", "///"), (DEADLINE, "deadline", "white", "xxx"))
FILL_MODELS = {"risk_averse": "risk-averse", "optimistic_cancels": "optimistic\ncancels", "reset": "reset"}

NS = 10**9
_TIME_UNITS = (("seconds", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9), ("ns", 0.0))
_CASH_UNITS = (("million USD", 1e6, 1e9), ("thousand USD", 1e3, 1e6), ("USD", 1, 0))  # the last: from there on
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
FLOOR_LOOK, IN_SAMPLE_LOOK = Look(INK, "-", "d", hollow=True), Look(DIM, "-", "o", hollow=True)


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


@dataclass(frozen=True)
class Mark:
    """A measure of the windows, bps, with its intervals where there are enough windows."""

    bps: float
    ci95: Sequence[float] | None
    ci99: Sequence[float] | None
    look: Look

    @property
    def span(self) -> tuple[float, float]:
        """From the lowest to the highest of all that is drawn."""
        values = (self.bps, *(self.ci95 or ()), *(self.ci99 or ()))
        return min(values), max(values)


@dataclass(frozen=True)
class Row:
    """A line of a panel of marks."""

    label: str
    y: float
    marks: list[Mark]


def results_figure(
    experiment: Experiment, market: Market, source: Source, evaluated: Mapping[str, object] | None = None
) -> Figure:
    """The whole picture: the one order, and below it the windows of the evaluation.

    Of the order: running cost, total cost, quotes with fills, shares by venue. Of the windows: shortfall of every
    strategy, savings walk-forward and in-sample, sensitivity of the savings.

    Parameters
    ----------
    experiment : Experiment
        Its policy is the one compared with the baselines.
    market : Market
        What the experiment was run on.
    source : Source
    evaluated : mapping or None
        `evaluation` of output.json (sor.evaluation.section). Without it, and where no window is scored, the figure ends
        with the order; without intervals the windows' points stand alone.

    Returns
    -------
    matplotlib.figure.Figure
        12 inches wide; hand it to `save`.
    """
    scored = evaluated if _is_scored(evaluated) else None
    drawn = traces(experiment, market)
    with _style():
        figure = Figure(figsize=(WIDTH_IN, ORDER_IN + FOOT_IN + (WINDOWS_IN if scored else 0)))
        notes = _draw_order(figure, experiment, market, source, drawn)
        if scored:
            _draw_windows(figure, scored, source, _looks(scored, drawn))
        _frame(
            figure,
            experiment,
            source,
            [READING, *notes, *_beyond_book(experiment), *([] if scored else _evaluation_notes(evaluated))],
        )
    return figure


def savings_figure(
    experiment: Experiment, market: Market, source: Source, evaluated: Mapping[str, object] | None = None
) -> Figure:
    """The savings alone, walk-forward where a window is scored and else of the one order; parameters as for `results_figure`."""
    with _style():
        if _is_scored(evaluated):
            figure = Figure(figsize=(9, 5.6))
            ax = figure.add_axes((0.13, 0.3, 0.76, 0.41))
            _draw_window_savings(ax, evaluated, _looks(evaluated, traces(experiment, market)))
            figure.text(0.03, 1 - 0.76 / 5.6, _windows_text(evaluated, source), fontsize=11, va="top")
            notes = [f"{_order_savings(experiment)}.", *_evaluation_notes(evaluated)]
        else:
            figure = Figure(figsize=(9, 4))
            _draw_savings(figure.add_axes((0.13, 0.32, 0.76, 0.39)), experiment)
            notes = [*_beyond_book(experiment), *_evaluation_notes(evaluated)]
        _frame(figure, experiment, source, notes)
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
    fees_e6 = np.where(fills["kind"] == LIMIT, -market.rebates_e6[fills["venue"]], market.fees_e6[fills["venue"]])
    paid_e6 = np.cumsum(sz * (fills["px_e4"] * np.int64(100) + fees_e6))
    total_usd = int(taken.total_e6[0]) / 1e6 - experiment.order.size * mid_px
    return Trace(
        name=name,
        look=look,
        after_s=after_s,
        px=fills["px_e4"] / 1e4,
        sz=sz,
        cost_s=np.concatenate(([0.0], after_s, [(window.end_ns - window.start_ns) / NS])),
        cost_usd=np.concatenate(([0.0], paid_e6 / 1e6 - np.cumsum(sz) * mid_px, [total_usd])),
        done=-1 if taken.priced_sz[0] else 1 + int(np.searchsorted(np.cumsum(sz), experiment.order.size)),
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


def _order_savings(experiment: Experiment) -> str:
    saved = ", ".join(f"{name} {signed(bps)}" for name, bps in _savings_bps(experiment).items())
    return f"Of the one order, bps: {saved}"


def _savings_bps(experiment: Experiment) -> dict[str, float]:
    """What the policy saved on the order against every baseline."""
    size, mid_px = experiment.order.size, experiment.arrival_mid_px
    cash = {name: int(taken.total_e6[0]) / 1e6 for name, taken in experiment.taken.items()}
    return {name: metrics.savings_bps(cash[experiment.policy], cash[name], size, mid_px) for name in BASELINES}


# --- numbers and texts of the evaluation --------------------------------------------------------------------------


def _is_scored(evaluated: Mapping[str, object] | None) -> bool:
    """Whether there is a window to show."""
    return evaluated is not None and evaluated["walk_forward"]["shortfall_bps"] is not None


def _looks(evaluated: Mapping[str, object], drawn: list[Trace]) -> dict[str, Look]:
    """The look of every strategy of the evaluation: that of the time panels, and of the others the next ones."""
    looks = {trace.name: trace.look for trace in drawn}
    others = [name for name in (evaluated["policy"], *evaluated["strategies"]) if name not in looks]
    unused = itertools.cycle(LOOKS[len(looks) % len(LOOKS) :] + LOOKS[: len(looks) % len(LOOKS)])
    return {**looks, **dict(zip(others, unused, strict=False)), "clairvoyant": FLOOR_LOOK}


def _marks(entries: Sequence[tuple[Mapping[str, object], Look]], key: str) -> list[Mark]:
    """A mark for every entry of the evaluation whose `key` is known."""
    return [Mark(entry[key], entry["ci95"], entry["ci99"], look) for entry, look in entries if entry[key] is not None]


def shortfall_rows(evaluated: Mapping[str, object], looks: Mapping[str, Look]) -> list[Row]:
    """Shortfall of the policy, walk-forward, then of every other strategy and of the floor."""
    policy = evaluated["policy"]
    arms = {policy: evaluated["walk_forward"]}
    arms.update((name, arm) for name, arm in evaluated["strategies"].items() if name != policy)
    return [Row(name, y, _marks([(arm, looks[name])], "shortfall_bps")) for y, (name, arm) in enumerate(arms.items())]


def savings_rows(evaluated: Mapping[str, object], looks: Mapping[str, Look]) -> list[Row]:
    """Savings against every baseline but the policy itself: walk-forward, then in-sample."""
    policy, in_sample = evaluated["policy"], evaluated["in_sample"]["savings"]
    others = {name: saving for name, saving in evaluated["walk_forward"]["savings"].items() if name != policy}
    return [
        Row(f"vs {name}", y, _marks([(saving, looks[policy]), (in_sample[name], IN_SAMPLE_LOOK)], "saved_bps"))
        for y, (name, saving) in enumerate(others.items())
    ]


def sensitivity_rows(evaluated: Mapping[str, object], baseline: str, looks: Mapping[str, Look]) -> list[Row]:
    """Savings against a baseline at every latency, then, a little apart, under every fill model."""
    latencies, models = evaluated["sensitivity"]["latency_ms"], evaluated["fill_models"]
    labels = [*(f"{to} ms" for to in latencies), *(FILL_MODELS.get(to, to) for to in models)]
    places = [*range(len(latencies)), *(len(latencies) + 0.4 + y for y in range(len(models)))]
    savings = [arm["savings"][baseline] for arm in (*latencies.values(), *models.values())]
    return [
        Row(label, y, _marks([(saving, looks[baseline])], "saved_bps"))
        for label, y, saving in zip(labels, places, savings, strict=True)
    ]


def compared(policy: str) -> tuple[str, ...]:
    """The two baselines of the sensitivity panel."""
    return tuple(name for name in ("twap", "best_ask", "vwap") if name != policy)[:2]


def near_ends(
    spans: Sequence[tuple[float, float]], always: Sequence[float] = (), far: float = FAR
) -> tuple[float, float]:
    """Ends of an axis, bps, that holds 0, the values of `always` and every span but those that would squash the others.

    A span is left out if it reaches more than `far` times as far from 0 as the middle one of all.
    """
    spans = np.array(spans, float).reshape(-1, 2)
    reach = np.abs(spans).max(axis=1)
    known = np.sort(reach[reach > 0])
    kept = spans[reach <= far * known[(len(known) - 1) // 2]] if len(known) else spans
    low, high = (float(end) for end in (min((0, *always, *kept[:, 0])), max((0, *always, *kept[:, 1]))))
    pad = 0.06 * (high - low)
    return (low - pad, high + pad) if pad else (-1.0, 1.0)


def bps_text(bps: float) -> str:
    """A measure with as many decimals as it deserves: two below 100 bps, one below 1,000."""
    return signed(bps, ",.2f" if abs(bps) < 100 else ",.1f" if abs(bps) < 1000 else ",.0f")


def _windows_text(evaluated: Mapping[str, object], source: Source) -> str:
    """What the windows are, in a line."""
    seconds, days = evaluated["protocol"]["window_s"], evaluated["days"]
    length = f"{seconds / 60:g} min" if seconds % 60 == 0 else f"{seconds:g} s"
    text = f"Walk-forward over {evaluated['scored_windows']:,} windows of {length}"
    text += f" of {days:,} days" if days > 1 else ""
    text += f", {evaluated['order_size']:,} shares each{', simulated data' if source.simulated else ''}"
    return text if evaluated["walk_forward"]["ci95"] else f"{text}: too few for intervals"


def _evaluation_notes(evaluated: Mapping[str, object] | None) -> list[str]:
    """How the windows are to be read."""
    if evaluated is None:
        return []
    note = evaluated["note"][:1].upper() + evaluated["note"][1:]
    if not _is_scored(evaluated):
        return [f"No walk-forward panels: 0 of {evaluated['windows']} windows could be scored. {note}."]
    notes = [
        f"Windows: {evaluated['scored_windows']:,} of {evaluated['windows']:,} are scored, with parameters tuned on earlier "
        "windows only; in-sample, on the very windows they are scored on."
    ]
    if evaluated["walk_forward"]["ci95"]:
        protocol = evaluated["protocol"]
        what = "whole days" if evaluated["days"] > 1 else f"blocks of {protocol['block_windows']} windows"
        notes.append(
            f"Lines: 95 % (thick) and 99 % (thin) bootstrap intervals, {protocol['resamples']:,} resamples of {what}."
        )
    return [*notes, f"{note}."]


# --- panels -------------------------------------------------------------------------------------------------------


def _draw_order(
    figure: Figure, experiment: Experiment, market: Market, source: Source, drawn: list[Trace]
) -> list[str]:
    """The panels of the one order, at the top; returns what is to be said of them."""
    height, window, ends_s = figure.get_figheight(), experiment.order.window, axis_ends_s(experiment)
    _heading(figure, 0.86, f"One order over the whole window: one draw{', simulated data' if source.simulated else ''}")
    grid = figure.add_gridspec(2, 2, top=1 - 1.95 / height, bottom=1 - (ORDER_IN - 0.65) / height, **ORDER_PLACES)
    rows = [_time_axes(figure, grid[row, 0], ends_s) for row in range(2)]
    for axes in rows:
        _label_times(axes, window, source.time_zone)
    _draw_costs(rows[0], drawn)
    notes = _draw_prices(rows[1], drawn, window, market)
    _draw_shortfall(figure.add_subplot(grid[0, 1]), experiment, drawn)
    _draw_venues(figure.add_subplot(grid[1, 1]), experiment, market)
    _legend(figure, drawn)
    return notes


def _draw_windows(figure: Figure, evaluated: Mapping[str, object], source: Source, looks: Mapping[str, Look]) -> None:
    """The panels of the evaluation, below those of the order."""
    height = figure.get_figheight()
    _heading(figure, ORDER_IN + 0.05, _windows_text(evaluated, source))
    caption = textwrap.fill(" ".join(_evaluation_notes(evaluated)), int(14 * WIDTH_IN))
    figure.text(0.03, 1 - (ORDER_IN + 0.42) / height, caption, fontsize=9.5, va="top", linespacing=1.35)
    bottom, top = (FOOT_IN + 0.55) / height, 1 - (ORDER_IN + 1.65) / height
    axes = [figure.add_axes((left, bottom, right - left, top - bottom)) for left, right in WINDOWS_PLACES]
    _draw_window_shortfall(axes[0], evaluated, looks)
    _draw_window_savings(axes[1], evaluated, looks)
    _draw_sensitivity(axes[2:], evaluated, looks)


def _heading(figure: Figure, down_in: float, text: str) -> None:
    """A line across the figure and a text below it, `down_in` inches from the top."""
    y = 1 - down_in / figure.get_figheight()
    figure.add_artist(Line2D([0.03, 0.97], [y, y], color=GREY, linewidth=0.8))
    figure.text(0.03, y - 0.08 / figure.get_figheight(), text, fontsize=12.5, fontweight="bold", va="top")


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
            ax.plot(trace.cost_s[trace.done], trace.cost_usd[trace.done], linestyle="", zorder=4, **_marker(trace.look))
    axes[0].set_title(f"Cumulative execution cost: cash paid, less arrival mid {TIMES} shares bought so far")
    axes[0].set_ylabel(f"{unit}, fees and rebates included")


def _draw_prices(axes: list[Axes], drawn: list[Trace], window: Window, market: Market) -> list[str]:
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
    """Total cost of every strategy, the floor under them, and beside it what the policy saved."""
    size, mid_px = experiment.order.size, experiment.arrival_mid_px
    bps = {n: metrics.shortfall_bps(int(t.total_e6[0]) / 1e6, size, mid_px) for n, t in experiment.taken.items()}
    floor_bps = metrics.shortfall_bps(experiment.floor_e6 / 1e6, size, mid_px)
    colors = [*(trace.look.color for trace in drawn), "white"]
    _bars(ax, {**bps, "clairvoyant": floor_bps}, colors, [""] * len(colors))
    saved = {name: value for name, value in _savings_bps(experiment).items() if name != experiment.policy}
    for column, text in enumerate(("cost", "saved")):
        _beside(ax, column, -0.72, text, color=DIM)
    for row, name in enumerate(bps):
        _beside(ax, 1, row, signed(saved[name]) if name in saved else "")
    ax.axvline(floor_bps, color=INK, linestyle=(0, (3, 2)), linewidth=1.3, zorder=3)
    ax.set_title(f"Total cost, and saved by {experiment.policy}", pad=22)
    ax.set_xlabel("bps of arrival mid (dashed: floor of all takers)")


def _draw_savings(ax: Axes, experiment: Experiment) -> None:
    """What the policy saved on the order against every baseline; losses in another color, hatched."""
    bps = _savings_bps(experiment)
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
        _beside(ax, 0, row, signed(value))
    low, high = values.min(initial=0), values.max(initial=0)
    if low == high:
        low, high = -1.0, 1.0
    room = high - low
    ax.set_xlim(low - 0.06 * room, high + 0.06 * room)
    ax.invert_yaxis()
    _bare(ax)


def _bare(ax: Axes) -> None:
    """An axis of signed bps around 0, rows without lines."""
    ax.axvline(0, color=INK, linewidth=1.1, zorder=1.5)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(5 if np.ptp(ax.get_xlim()) < 1000 else 3, steps=(1, 2, 2.5, 5, 10)))
    ax.xaxis.set_major_formatter(lambda value, _: signed(value, ",.10g"))
    for side in ("left", "right"):
        ax.spines[side].set_visible(False)


def _beside(ax: Axes, column: int, y: float, text: str, points: float = VALUE_POINTS, **how: object) -> None:
    """A text in a column to the right of the panel, columns `points` wide."""
    ax.annotate(
        text,
        (1, y),
        xycoords=ax.get_yaxis_transform(),
        xytext=(points * (column + 1), 0),
        textcoords="offset points",
        ha="right",
        va="center",
        annotation_clip=False,
        **how,
    )


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
        _beside(ax, 0, row, f"{total:,}", fontsize=9.5)
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
    _panel_legend(ax, used)


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


def _draw_window_shortfall(ax: Axes, evaluated: Mapping[str, object], looks: Mapping[str, Look]) -> None:
    """Shortfall of every strategy over the windows; the floor as a line through all of them."""
    floor_bps = evaluated["strategies"]["clairvoyant"]["shortfall_bps"]
    _draw_rows(ax, shortfall_rows(evaluated, looks), always=(floor_bps,))
    ax.axvline(floor_bps, color=INK, linestyle=(0, (3, 2)), linewidth=1.3, zorder=1.5)
    ax.set_title("Shortfall per strategy", pad=22)
    ax.set_xlabel("bps of arrival mid (dashed: floor of takers)")
    if evaluated["walk_forward"]["ci95"]:
        lines = [
            Line2D([], [], color=INK, linewidth=width, label=text) for width, text in ((3.4, "95 %"), (1.1, "99 %"))
        ]
        _panel_legend(ax, lines)


def _draw_window_savings(ax: Axes, evaluated: Mapping[str, object], looks: Mapping[str, Look]) -> None:
    """Savings against every baseline over the windows, those of in-sample tuning beside."""
    _draw_rows(ax, savings_rows(evaluated, looks))
    _shade_losses(ax)
    ax.set_title(f"Savings of {evaluated['policy']}", pad=22)
    ax.set_xlabel(f"bps of arrival mid ({MINUS} dearer, + cheaper)")
    _panel_legend(ax, [_entry(looks[evaluated["policy"]], "walk-forward"), _entry(IN_SAMPLE_LOOK, IN_SAMPLE)])


def _draw_sensitivity(axes: list[Axes], evaluated: Mapping[str, object], looks: Mapping[str, Look]) -> None:
    """Savings at every latency and under every fill model, each baseline on an axis of its own."""
    latencies = len(evaluated["sensitivity"]["latency_ms"])
    for ax, name in zip(axes, compared(evaluated["policy"]), strict=True):
        rows = sensitivity_rows(evaluated, name, looks)
        _draw_rows(ax, rows, far=np.inf, value_points=NARROW_POINTS)  # a row that stands out is what is looked for
        _shade_losses(ax)
        ax.axhline(rows[latencies].y - 0.7, color=GREY, linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(2, steps=(1, 2, 2.5, 5, 10)))
        _panel_legend(ax, [_entry(looks[name], f"vs {name}")])
        ax.set_xlabel("bps of arrival mid")
    axes[0].set_title("Sensitivity of the savings", pad=22)
    axes[1].tick_params(axis="y", labelleft=False)
    for text, group in (("latency", rows[:latencies]), ("fill model", rows[latencies:])):
        axes[0].annotate(
            text,
            (0, np.mean([row.y for row in group])),
            xycoords=axes[0].get_yaxis_transform(),
            xytext=(-GROUP_POINTS, 0),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="center",
            color=DIM,
        )


def _draw_rows(
    ax: Axes,
    rows: list[Row],
    *,
    always: Sequence[float] = (),
    far: float = FAR,
    value_points: float = MARK_POINTS,
) -> None:
    """A mark with its intervals in every row, or two; at the edge with an arrow where it would squash the others."""
    ax.set_xlim(*near_ends([mark.span for row in rows for mark in row.marks], always, far))
    ax.set_ylim(rows[-1].y + 0.6, -0.6)
    ax.set_yticks([row.y for row in rows], [row.label for row in rows])
    for row in rows:
        for place, mark in enumerate(row.marks):
            y = row.y + (2 * place - 1) * PAIR * (len(row.marks) > 1)
            _draw_mark(ax, y, mark)
            _beside(ax, 0, y, bps_text(mark.bps), value_points, color=_ink(mark.look), fontsize=9.5)
    _bare(ax)


def _draw_mark(ax: Axes, y: float, mark: Mark) -> None:
    """99 % thin, 95 % thick, the point; beyond the axis an arrow at its end, with the numbers."""
    low, high = ax.get_xlim()
    for interval, width in ((mark.ci99, 1.1), (mark.ci95, 3.4)):
        if interval:
            ax.plot(np.clip(interval, low, high), [y, y], color=mark.look.color, linewidth=width, solid_capstyle="butt")
    if low <= mark.bps <= high:
        ax.plot(mark.bps, y, zorder=4, **_marker(mark.look))
    for side, beyond in enumerate((mark.span[0] < low, mark.span[1] > high)):
        if beyond:
            arrow = {"marker": "<>"[side], "markersize": 6, "color": mark.look.color}
            ax.plot((low, high)[side], y, clip_on=False, zorder=4, **arrow)
            _label_far(ax, y, side, far_text(mark, low, high, side), _ink(mark.look))


def far_text(mark: Mark, low: float, high: float, side: int) -> str:
    """What is written at the lower (0) or upper (1) end of an axis: what a mark's 95 % interval does beyond it.

    The interval of a point that is out there, the end of it that is out there, or nothing.
    """
    shown = mark.ci95 or ()
    if low <= mark.bps <= high:
        shown = [end for end in shown[side : side + 1] if not low <= end <= high]
    elif (mark.bps > high) != bool(side):
        shown = ()
    return " to ".join(signed(end, ",.1f" if abs(end) < 100 else ",.0f") for end in shown)


def _label_far(ax: Axes, y: float, side: int, text: str, color: str) -> None:
    """A text at the lower (0) or upper end of the axis."""
    ax.annotate(
        text,
        (ax.get_xlim()[side], y),
        xytext=(-8 if side else 8, 0),
        textcoords="offset points",
        ha="right" if side else "left",
        va="center",
        color=color,
        fontsize=9.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8} if text else None,
        zorder=5,
    )


def _ink(look: Look) -> str:
    return DIM if look is IN_SAMPLE_LOOK else INK


def _shade_losses(ax: Axes) -> None:
    """What is left of 0 costs more than the baseline."""
    ax.axvspan(ax.get_xlim()[0], 0, color=SHADE, zorder=0)


def _entry(look: Look, label: str) -> Line2D:
    return Line2D([], [], color=look.color, linewidth=3.4, label=label, **_marker(look))


def _panel_legend(ax: Axes, handles: list[Line2D | Patch]) -> None:
    """A row between the title and the panel; a long one begins above the labels of the rows."""
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.42 if len(handles) > 2 else 0, 1),
        bbox_transform=ax.transAxes,
        ncols=len(handles),
        frameon=False,
        fontsize=9.5,
        borderpad=0.2,
        borderaxespad=0,
        handlelength=1.8,
        columnspacing=1.1,
        handletextpad=0.5,
    )


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
        bbox_to_anchor=(0.022, 1 - 1.13 / figure.get_figheight()),
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
