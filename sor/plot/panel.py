"""What panels share: headings, fine print, axes of signed bps, values beside rows, legends."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from sor.plot.style import GREY, INK
from sor.plot.text import signed

VALUE_POINTS = 54  # width of a column of values beside bars
CHARACTERS_PER_IN = 14  # of fine print


def heading(figure: Figure, down_in: float, text: str) -> None:
    """A line across the figure and a text below it, `down_in` inches from the top."""
    y = 1 - down_in / figure.get_figheight()
    figure.add_artist(Line2D([0.03, 0.97], [y, y], color=GREY, linewidth=0.8))
    figure.text(0.03, y - 0.08 / figure.get_figheight(), text, fontsize=12.5, fontweight="bold", va="top")


def fine_print(figure: Figure, y: float, va: str, sentences: list[str]) -> None:
    """Small text across the figure from, or down to, the height `y` (its share of the figure)."""
    lines = textwrap.fill(" ".join(sentences), int(CHARACTERS_PER_IN * figure.get_figwidth()))
    figure.text(0.03, y, lines, fontsize=9.5, va=va, linespacing=1.35)


def bars(ax: Axes, bps: dict[str, float], colors: list[str], hatches: list[str]) -> None:
    """Horizontal bars from 0, the first on top, their signed values in a column to the right of them."""
    values = np.array(list(bps.values()))
    ax.barh(list(bps), values, height=0.62, color=colors, edgecolor=INK, linewidth=0.7, hatch=hatches)
    for row, value in enumerate(values):
        beside(ax, 0, row, signed(value))
    low, high = values.min(initial=0), values.max(initial=0)
    if low == high:
        low, high = -1.0, 1.0
    room = high - low
    ax.set_xlim(low - 0.06 * room, high + 0.06 * room)
    ax.invert_yaxis()
    bare(ax)


def bare(ax: Axes) -> None:
    """An axis of signed bps around 0, rows without lines."""
    ax.axvline(0, color=INK, linewidth=1.1, zorder=1.5)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(5 if np.ptp(ax.get_xlim()) < 1000 else 3, steps=(1, 2, 2.5, 5, 10)))
    ax.xaxis.set_major_formatter(lambda value, _: signed(value, ",.10g"))
    for side in ("left", "right"):
        ax.spines[side].set_visible(False)


def beside(ax: Axes, column: int, y: float, text: str, points: float = VALUE_POINTS, **how: object) -> None:
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


def legend(ax: Axes, handles: list[Line2D | Patch]) -> None:
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
