"""The result of one day in a few lines for the terminal, and what the reader of the numbers must know first.

Pure: `output.json` as a mapping in, text out. Many days have theirs in sor/days.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sor import evaluation

MANY_REJECTS = 0.1  # of the rows: worth a warning


def table(output: Mapping[str, Any]) -> str:
    """The result in a few lines for the terminal."""
    strategies = {output["optimized"]["policy"] + " (optimized)": output["optimized"], **output["baselines"]}
    lines = [f"{'strategy':<22}{'total cash, USD':>18}{'avg px':>12}{'shortfall, bps':>16}{'at deadline':>13}"]
    for name, taken in strategies.items():
        lines.append(
            f"{name:<22}{taken['total_cash']:>18,.2f}{taken['avg_fill_px']:>12.4f}{taken['shortfall_bps']:>16.2f}"
            f"{taken['completed_at_deadline']:>13}"
        )
    floor = output["clairvoyant"]
    lines.append(
        f"{'clairvoyant (floor)':<22}{floor['total_cash']:>18,.2f}{floor['avg_fill_px']:>12.4f}{floor['shortfall_bps']:>16.2f}"
    )
    savings = ", ".join(f"{name} {bps:+.2f}" for name, bps in output["savings_vs_baselines_bps"].items())
    simulated = "simulated data; " if output["data"]["simulated"] else ""
    lines.append(f"saved, bps: {savings} ({simulated}one order on one day: one draw)")
    lines.append(f"grid: {output['grid']['note']}")
    if output["evaluation"]:
        lines.append(_claim(output["evaluation"]))
    return "\n".join(lines)


def _claim(evaluated: Mapping[str, Any]) -> str:
    """The walk-forward savings in one line."""
    savings = evaluated["walk_forward"]["savings"]
    said = (
        f"{name} {_bps(saving['saved_bps'])}"
        + (" [{:+.2f}, {:+.2f}]".format(*saving["ci95"]) if saving["ci95"] else "")
        for name, saving in savings.items()
    )
    head = f"walk-forward, {evaluated['scored_windows']} orders of {evaluated['order_size']}"
    found = f"{head}: saved, bps [95 %]: {', '.join(said)}"
    return found if evaluated["note"] == evaluation.INTERVALS else f"{found}\n{head}: {evaluated['note']}"


def _bps(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def warnings(output: Mapping[str, Any]) -> list[str]:
    """What the reader of the numbers must know first."""
    warnings = []
    data = output["data"]
    rejected = sum(kind["count"] for kind in data["rejects"].values())
    if rejected:
        kinds = ", ".join(
            f"{name} {kind['count']} from line {kind['first_line']}" for name, kind in data["rejects"].items()
        )
        much = ": a large part of the data" if rejected > MANY_REJECTS * (rejected + data["rows"]) else ""
        warnings.append(f"{rejected} rows of the file were set aside ({kinds}){much}")
    if data["rows_after_the_day"]:
        warnings.append(f"{data['rows_after_the_day']} quotes of later days were not used: an order lives on one day")
    if not data["trades"] and output["optimized"]["slices_market_only"]:
        warnings.append("the feed holds no trades: limit orders are never filled, so only market orders were sent")
    priced = {name: taken["priced_beyond_book"] for name, taken in output["baselines"].items()}
    priced[output["optimized"]["policy"]] = output["optimized"]["priced_beyond_book"]
    if most := max(priced.values()):
        warnings.append(
            f"up to {most} shares were nowhere on the book and are priced by rule: the totals depend on that price"
        )
    return warnings
