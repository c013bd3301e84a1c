"""Rows of marks with their intervals: the form of all panels of the evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from sor.plot.panel import bare, beside
from sor.plot.style import DIM, IN_SAMPLE_LOOK, INK, Look, marker
from sor.plot.text import bps_text, signed

FAR = 5  # an interval that reaches so many times as far as the middle one does not stretch its axis
MARK_POINTS = 46  # width of the column of values beside the marks
PAIR = 0.19  # of a row: how far two marks of one row are from its middle


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


def draw_rows(
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
            beside(ax, 0, y, bps_text(mark.bps), value_points, color=_ink(mark.look), fontsize=9.5)
    bare(ax)


def _draw_mark(ax: Axes, y: float, mark: Mark) -> None:
    """99 % thin, 95 % thick, the point; beyond the axis an arrow at its end, with the numbers."""
    low, high = ax.get_xlim()
    for interval, width in ((mark.ci99, 1.1), (mark.ci95, 3.4)):
        if interval:
            ax.plot(np.clip(interval, low, high), [y, y], color=mark.look.color, linewidth=width, solid_capstyle="butt")
    if low <= mark.bps <= high:
        ax.plot(mark.bps, y, zorder=4, **marker(mark.look))
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
