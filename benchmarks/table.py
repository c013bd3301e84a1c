"""How a benchmark reports: rows of claims, printed as a markdown table."""

from __future__ import annotations

from collections.abc import Sequence

Row = dict[str, str | float | bool]  # name, ours, beside, ratio, bar, ok: answer right and bar met


def show(rows: Sequence[Row]) -> int:
    """Print the table; 1 if one of its rows is not ok."""
    print("| " + " | ".join(rows[0]) + " |")
    print("| --- " * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row.values()) + " |")
    return 0 if all(row["ok"] for row in rows) else 1
