"""How everything is drawn: colors, looks of the strategies, matplotlib's settings; and how a figure is written to a file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

DPI = 150
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
WIDTH_IN, ORDER_IN, WINDOWS_IN, FOOT_IN = 12.0, 8.15, 5.1, 1.0  # of the page, its two blocks and what is below
METADATA = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}


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


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib's defaults and STYLE, whatever is set; afterwards it is set again."""
    defaults = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
    with mpl.rc_context({**defaults, **STYLE}):
        yield


def save(figure: Figure, file: BinaryIO, kind: str, *, colors: int | None = None) -> None:
    """Write the figure to an open file as "png", at 150 dots per inch, or as "pdf"; the same bytes every time.

    A png of at most 256 `colors` has a third of the size.
    """
    with styled():
        if colors is None:
            figure.savefig(file, format=kind, metadata=METADATA[kind])
            return
        whole = io.BytesIO()
        figure.savefig(whole, format=kind, metadata=METADATA[kind])
    small = Image.open(whole).convert("RGB").quantize(colors, dither=Image.Dither.NONE)
    small.save(file, "png", optimize=True, dpi=(DPI, DPI))


def marker(look: Look) -> dict[str, object]:
    """How matplotlib is told of the look's marker."""
    face, edge = ("white", look.color) if look.hollow else (look.color, "white")
    return {"marker": look.marker, "markersize": 7.5, "markerfacecolor": face, "markeredgecolor": edge}
