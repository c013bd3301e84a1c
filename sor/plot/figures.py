"""results.png, results.pdf and savings_plot.png: one order and the evaluation as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from sor.experiment import Experiment
from sor.market import Market
from sor.plot import order, windows
from sor.plot.clock import window_text
from sor.plot.panel import fine_print
from sor.plot.style import FOOT_IN, ORDER_IN, WIDTH_IN, WINDOWS_IN, styled
from sor.plot.text import plain
from sor.plot.trace import traces

CAVEAT = "One order on one day: one draw, not evidence that a strategy is better."
READING = (
    "Shortfall: total cost with fees and rebates against the mid at arrival. Clairvoyant: the floor for whoever only "
    "takes displayed shares, found with the whole day known."
)


@dataclass(frozen=True)
class Source:
    """What the data are; for the title."""

    file: str
    symbol: str
    simulated: bool
    time_zone: str  # of the exchange, IANA name


def results_figure(
    experiment: Experiment, market: Market, source: Source, evaluated: Mapping[str, object] | None
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
    scored = windows.is_scored(evaluated)
    drawn = traces(experiment, market)
    with styled():
        figure = Figure(figsize=(WIDTH_IN, ORDER_IN + FOOT_IN + (WINDOWS_IN if scored else 0)))
        notes = order.draw(figure, experiment, market, drawn, source.time_zone, source.simulated)
        if scored:
            windows.draw(figure, evaluated, windows.strategy_looks(evaluated, drawn), source.simulated)
        notes = [READING, *notes, *order.beyond_book(experiment), *([] if scored else windows.notes(evaluated))]
        _frame(figure, experiment, source, notes)
    return figure


def savings_figure(
    experiment: Experiment, market: Market, source: Source, evaluated: Mapping[str, object] | None
) -> Figure:
    """The savings alone, walk-forward where a window is scored and else of the one order; parameters as for `results_figure`."""
    with styled():
        if windows.is_scored(evaluated):
            figure = Figure(figsize=(9, 5.6))
            looks = windows.strategy_looks(evaluated, traces(experiment, market))
            windows.draw_savings(figure.add_axes((0.13, 0.3, 0.76, 0.41)), evaluated, looks)
            figure.text(0.03, 1 - 0.76 / 5.6, windows.subject(evaluated, source.simulated), fontsize=11, va="top")
            notes = [order.savings_text(experiment), *windows.notes(evaluated)]
        else:
            figure = Figure(figsize=(9, 4))
            order.draw_savings(figure.add_axes((0.13, 0.32, 0.76, 0.39)), experiment)
            notes = [*order.beyond_book(experiment), *windows.notes(evaluated)]
        _frame(figure, experiment, source, notes)
    return figure


def _frame(figure: Figure, experiment: Experiment, source: Source, notes: list[str]) -> None:
    """Title and subtitle, and below the caveat and the notes."""
    height = figure.get_figheight()
    what = f"{experiment.order.size:,} shares" + (f" of {plain(source.symbol, 12)}" if source.symbol else "")
    title = f"Buy {what} \N{MIDDLE DOT} {plain(source.file, 32)}{' (simulated data)' if source.simulated else ''}"
    subtitle = (
        f"{window_text(experiment.order.window, source.time_zone)}; arrival mid {experiment.arrival_mid_px:.4f} USD"
    )
    figure.text(0.03, 1 - 0.16 / height, title, fontsize=14, fontweight="bold", va="top")
    figure.text(0.03, 1 - 0.48 / height, subtitle, fontsize=11, va="top")
    fine_print(figure, 0.12 / height, "bottom", [CAVEAT, *notes])
