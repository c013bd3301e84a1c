"""The picture of docs/model.md: what an order costs with few venues and with many, a panel for every order size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sor.plot.panel import fine_print
from sor.plot.style import DIM, GREY, INK, LOOKS, Look, marker, styled
from sor.plot.text import MINUS, signed

SIZE_IN = (10.0, 4.7)
PANELS = {"left": 0.105, "right": 0.985, "top": 0.83, "bottom": 0.325, "wspace": 0.18}
ROOM = 0.4  # venues, beside the outermost points
BELOW_POINTS = -44  # from the axis to the row of differences


@dataclass(frozen=True)
class Line:
    """A way to place: how it is drawn, and its name beside the point of so many venues, in the first panel."""

    drawn: Mapping[str, object]
    name: str
    ink: str
    venues: int
    away: tuple[float, float]  # points, from the point to the near end of the name


def _drawn(look: Look) -> dict[str, object]:
    """A look as matplotlib is told of it."""
    return {"color": look.color, "linestyle": look.line, "linewidth": 1.8, **marker(look)}


SGD, SOLVER = LOOKS[1], LOOKS[0]
RING = {"marker": "o", "markersize": 12, "markerfacecolor": "none", "markeredgecolor": INK, "linestyle": ""}
LINES = {
    "equal": Line({"color": GREY, "linewidth": 1.2}, "equal parts", DIM, 3, (8, 8)),
    "sgd": Line(_drawn(SGD), "its SGD, run again", SGD.color, 1, (12, -11)),
    "place": Line(_drawn(SOLVER), "our solver", SOLVER.color, 3, (-11, -2)),
    "paper": Line(RING, "the paper's X*, as printed", INK, 1, (12, 3)),
}


def placement_figure(cents: Mapping[str, Mapping[tuple[int, int], float]], caption: str) -> Figure:
    """Cost against the number of venues, a panel for every order size; below it the solver's cost less that of SGD.

    Parameters
    ----------
    cents : mapping
        For each name in LINES the costs, cents per share, by (shares to buy, venues): all for the same ones, as in
        Table 1 of Cont and Kukanov (arXiv 1210.1625).
    caption : str
        Where the numbers are from.

    Returns
    -------
    matplotlib.figure.Figure
        10 inches wide; hand it to `save`.
    """
    sizes = sorted({order_sz for order_sz, _ in cents["place"]})
    with styled():
        figure = Figure(figsize=SIZE_IN)
        title = "Cost of an order by number of venues: the paper's Table 1 and ours (simulated flows)"
        figure.text(0.03, 0.97, title, fontsize=13, fontweight="bold", va="top")
        panels = figure.subplots(1, len(sizes), squeeze=False, gridspec_kw=PANELS)[0]
        for ax, order_sz in zip(panels, sizes, strict=True):
            _draw_size(ax, order_sz, {name: _by_venues(costs, order_sz) for name, costs in cents.items()})
        _label_first(panels[0], cents, sizes[0])
        fine_print(figure, 0.025, "bottom", [caption])
    return figure


def _by_venues(costs: Mapping[tuple[int, int], float], order_sz: int) -> dict[int, float]:
    """The costs of one order size by the number of venues."""
    return {venues: costs[size, venues] for size, venues in sorted(costs) if size == order_sz}


def _draw_size(ax: Axes, order_sz: int, cents: Mapping[str, Mapping[int, float]]) -> None:
    """The lines of one order size, and the row of differences."""
    for name, line in LINES.items():
        ax.plot(list(cents[name]), list(cents[name].values()), **line.drawn)
    venues = list(cents["place"])
    ax.set_title(f"S = {order_sz:,} shares")
    ax.set_xlim(venues[0] - ROOM, venues[-1] + ROOM)
    ax.set_xticks(venues)
    ax.set_xlabel("venues")
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
    ax.yaxis.set_major_formatter(lambda value, _: signed(value, ".10g"))
    ax.spines["right"].set_visible(False)
    for count in venues:
        saved = signed(cents["place"][count] - cents["sgd"][count], ".2f")
        _write(ax, saved, (count, 0), (0, BELOW_POINTS), "center", SOLVER.color, xycoords=ax.get_xaxis_transform())


def _label_first(ax: Axes, cents: Mapping[str, Mapping[tuple[int, int], float]], order_sz: int) -> None:
    """Names of the axis, of the lines and of the row of differences."""
    ax.set_ylabel("cost, cents per share")
    for name, line in LINES.items():
        side = "left" if line.away[0] > 0 else "right"
        _write(ax, line.name, (line.venues, cents[name][order_sz, line.venues]), line.away, side, line.ink)
    _write(ax, f"solver\n{MINUS} SGD", (0, 0), (-8, BELOW_POINTS), "right", SOLVER.color, xycoords="axes fraction")


def _write(
    ax: Axes, text: str, at: tuple[float, float], away: tuple[float, float], side: str, color: str, **how: object
) -> None:
    """A text some points away from a place of the panel, from its `side` on."""
    place = {"textcoords": "offset points", "ha": side, "va": "center", "annotation_clip": False}
    ax.annotate(text, at, xytext=away, fontsize=10, color=color, **place, **how)
