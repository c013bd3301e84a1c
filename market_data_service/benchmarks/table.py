"""How benchmarks report: rows with a bar, printed as one aligned table (markdown, too), and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

HEADER = ("benchmark", "ours", "beside it", "ratio", "bar", "met")


@dataclass(frozen=True)
class Row:
    """One claim.

    Attributes
    ----------
    name
        What was measured.
    ours, beside
        The figures as text: the service's, and the reference's of the same run.
    ratio
        The one that the bar is about, where it is about one.
    bar
        What was asked for.
    is_met
        Whether it was met, by answers that were right.
    figures
        All rounds, for --json.
    """

    name: str
    ours: str
    beside: str
    ratio: float | None
    bar: str
    is_met: bool
    figures: dict[str, object] = field(default_factory=dict)

    @property
    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return self.name, self.ours, self.beside, ratio, self.bar, "yes" if self.is_met else "NO"


def text(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [HEADER, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    shown = [_line(line, widths) for line in lines]
    return "\n".join([shown[0], _line(["-" * width for width in widths], widths), *shown[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
