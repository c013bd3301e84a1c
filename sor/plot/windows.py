"""The panels of the evaluation: shortfall and savings over the windows, sensitivity of the savings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sor.plot.panel import fine_print, heading, legend
from sor.plot.rows import Mark, Row, draw_rows
from sor.plot.style import DIM, FLOOR_LOOK, FOOT_IN, GREY, IN_SAMPLE_LOOK, INK, LOOKS, ORDER_IN, SHADE, Look, marker
from sor.plot.text import MINUS
from sor.plot.trace import Trace

PLACES = ((0.086, 0.258), (0.4, 0.562), (0.728, 0.806), (0.862, 0.94))  # left and right of its panels
NARROW_POINTS = 36  # width of the column of values beside the panels of sensitivity
GROUP_POINTS = 89  # from a panel to the name of a group of its rows
IN_SAMPLE = "in-sample, not a claim"
FILL_MODELS = {"risk_averse": "risk-averse", "optimistic_cancels": "optimistic\ncancels", "reset": "reset"}


def draw(figure: Figure, evaluated: Mapping[str, object], looks: Mapping[str, Look], simulated: bool) -> None:
    """The panels of the evaluation, below those of the order."""
    height = figure.get_figheight()
    heading(figure, ORDER_IN + 0.05, subject(evaluated, simulated))
    fine_print(figure, 1 - (ORDER_IN + 0.42) / height, "top", notes(evaluated))
    bottom, top = (FOOT_IN + 0.55) / height, 1 - (ORDER_IN + 1.65) / height
    axes = [figure.add_axes((left, bottom, right - left, top - bottom)) for left, right in PLACES]
    _draw_shortfall(axes[0], evaluated, looks)
    draw_savings(axes[1], evaluated, looks)
    _draw_sensitivity(axes[2:], evaluated, looks)


def _draw_shortfall(ax: Axes, evaluated: Mapping[str, object], looks: Mapping[str, Look]) -> None:
    """Shortfall of every strategy over the windows; the floor as a line through all of them."""
    floor_bps = evaluated["strategies"]["clairvoyant"]["shortfall_bps"]
    draw_rows(ax, shortfall_rows(evaluated, looks), always=(floor_bps,))
    ax.axvline(floor_bps, color=INK, linestyle=(0, (3, 2)), linewidth=1.3, zorder=1.5)
    ax.set_title("Shortfall per strategy", pad=22)
    ax.set_xlabel("bps of arrival mid (dashed: floor of takers)")
    if evaluated["walk_forward"]["ci95"]:
        lines = [
            Line2D([], [], color=INK, linewidth=width, label=text) for width, text in ((3.4, "95 %"), (1.1, "99 %"))
        ]
        legend(ax, lines)


def draw_savings(ax: Axes, evaluated: Mapping[str, object], looks: Mapping[str, Look]) -> None:
    """Savings against every baseline over the windows, those of in-sample tuning beside."""
    draw_rows(ax, savings_rows(evaluated, looks))
    _shade_losses(ax)
    ax.set_title(f"Savings of {evaluated['policy']}", pad=22)
    ax.set_xlabel(f"bps of arrival mid ({MINUS} dearer, + cheaper)")
    legend(ax, [_entry(looks[evaluated["policy"]], "walk-forward"), _entry(IN_SAMPLE_LOOK, IN_SAMPLE)])


def _draw_sensitivity(axes: list[Axes], evaluated: Mapping[str, object], looks: Mapping[str, Look]) -> None:
    """Savings at every latency and under every fill model, each baseline on an axis of its own."""
    latencies = len(evaluated["sensitivity"]["latency_ms"])
    for ax, name in zip(axes, compared(evaluated["policy"]), strict=True):
        rows = sensitivity_rows(evaluated, name, looks)
        draw_rows(ax, rows, far=np.inf, value_points=NARROW_POINTS)  # a row that stands out is what is looked for
        _shade_losses(ax)
        ax.axhline(rows[latencies].y - 0.7, color=GREY, linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(2, steps=(1, 2, 2.5, 5, 10)))
        legend(ax, [_entry(looks[name], f"vs {name}")])
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


def _shade_losses(ax: Axes) -> None:
    """What is left of 0 costs more than the baseline."""
    ax.axvspan(ax.get_xlim()[0], 0, color=SHADE, zorder=0)


def _entry(look: Look, label: str) -> Line2D:
    """A line of the legend."""
    return Line2D([], [], color=look.color, linewidth=3.4, label=label, **marker(look))


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


def strategy_looks(evaluated: Mapping[str, object], drawn: list[Trace]) -> dict[str, Look]:
    """The look of every strategy of the evaluation: that of the time panels, and of the others the next ones."""
    looks = {trace.name: trace.look for trace in drawn}
    others = [name for name in (evaluated["policy"], *evaluated["strategies"]) if name not in looks]
    unused = itertools.cycle(LOOKS[len(looks) % len(LOOKS) :] + LOOKS[: len(looks) % len(LOOKS)])
    return {**looks, **dict(zip(others, unused, strict=False)), "clairvoyant": FLOOR_LOOK}


def is_scored(evaluated: Mapping[str, object] | None) -> bool:
    """Whether there is a window to show."""
    return evaluated is not None and evaluated["walk_forward"]["shortfall_bps"] is not None


def subject(evaluated: Mapping[str, object], simulated: bool) -> str:
    """What the windows are, in a line."""
    seconds, days = evaluated["protocol"]["window_s"], evaluated["days"]
    length = f"{seconds / 60:g} min" if seconds % 60 == 0 else f"{seconds:g} s"
    text = f"Walk-forward over {evaluated['scored_windows']:,} windows of {length}"
    text += f" of {days:,} days" if days > 1 else ""
    text += f", {evaluated['order_size']:,} shares each{', simulated data' if simulated else ''}"
    return text if evaluated["walk_forward"]["ci95"] else f"{text}: too few for intervals"


def notes(evaluated: Mapping[str, object] | None) -> list[str]:
    """How the windows are to be read."""
    if evaluated is None:
        return []
    note = evaluated["note"][:1].upper() + evaluated["note"][1:]
    if not is_scored(evaluated):
        return [f"No walk-forward panels: 0 of {evaluated['windows']} windows could be scored. {note}."]
    said = [
        f"Windows: {evaluated['scored_windows']:,} of {evaluated['windows']:,} are scored, with parameters tuned on earlier "
        "windows only; in-sample, on the very windows they are scored on."
    ]
    if evaluated["walk_forward"]["ci95"]:
        protocol = evaluated["protocol"]
        what = "whole days" if evaluated["days"] > 1 else f"blocks of {protocol['block_windows']} windows"
        said.append(
            f"Lines: 95 % (thick) and 99 % (thin) bootstrap intervals, {protocol['resamples']:,} resamples of {what}."
        )
    return [*said, f"{note}."]
