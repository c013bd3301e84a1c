"""The picture: its numbers by hand, what it says in words, equal bytes, and nothing left behind in matplotlib."""

from __future__ import annotations

import io
import itertools
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from sor import experiment as experiments
from sor import plot
from sor.errors import ReplayError
from sor.experiment import Experiment
from sor.market import Market, order_window
from sor.plot import MINUS, Source
from sor.policies import Order
from sor.replay import Window
from tests.helpers import Row, market, ns, quote, random_rows, window

NEW_YORK = "America/New_York"
TRIPLES = ((0.01, 0.02, 0.0), (0.03, 0.05, 0.0005))
SOURCE = Source("day.csv", "ABC", simulated=False, time_zone=NEW_YORK)
PANELS = 4


def bought(day: Market, size: int, end_s: float = 600, slice_s: float = 300, policy: str = "allocate") -> Experiment:
    return experiments.run(day, Order(size, window(0, end_s), round(slice_s * 1e9)), policy, TRIPLES)


def falling() -> Market:
    """The ask is 10.01 (100 shares) and 10.03, from 100 s on 9.91; the mid at the start is 10.00."""
    return market(
        quote(0, 2, 9.99, 100, 10.01, 100),
        quote(0, 3, 9.88, 100, 10.03, 400),
        quote(100, 2, 9.89, 100, 9.91, 500),
        quote(600, 3, 9.88, 100, 9.95, 400),
        fees_e6={2: 3000, 3: 0},
    )


def rising() -> Market:
    """The ask is 10.01 and from 100 s on 10.11; no fees."""
    return market(
        quote(0, 2, 9.99, 100, 10.01, 500), quote(100, 2, 10.09, 100, 10.11, 500), quote(600, 2, 10.09, 100, 10.11, 900)
    )


def with_stub() -> Market:
    """As `falling`, but all that venue 3 shows is far away: 10.03 becomes 25.00."""
    return market(
        quote(0, 2, 9.99, 100, 10.01, 100),
        quote(0, 3, 9.88, 100, 25.00, 400),
        quote(100, 2, 9.89, 100, 9.91, 500),
        quote(600, 2, 9.88, 100, 9.90, 500),
    )


def done_after(at_s: float, end_s: float) -> Market:
    """100 shares at once and 100 more at `at_s`."""
    return market(*(quote(at, venue, 9.99, 100, 10.01, 100) for venue, at in ((2, 0), (3, at_s), (2, end_s))))


def texts(figure: Figure) -> list[str]:
    """Everything that is written in the figure, once it is drawn."""
    FigureCanvasAgg(figure).draw()
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def saved(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    plot.save(figure, file, kind)
    return file.getvalue()


def axes_titled(figure: Figure, start: str) -> Axes:
    return next(ax for ax in figure.axes if ax.get_title(loc="left").startswith(start))


# --- numbers ------------------------------------------------------------------------------------------------------


def test_running_cost_is_cash_and_fees_less_arrival_mid_of_the_shares_bought_so_far():
    allocate, best_ask, *_ = plot.traces(bought(falling(), 200), falling())
    assert (allocate.name, best_ask.name) == ("allocate", "best_ask")
    np.testing.assert_allclose(allocate.cost_usd, [0, 1.3, 4.3, 4.3])  # 100 x (0.01 + 0.003), 100 x 0.03
    np.testing.assert_allclose(best_ask.cost_usd, [0, 1.3, -7.4, -7.4])  # 100 x (-0.09 + 0.003) at 100 s
    np.testing.assert_allclose(best_ask.cost_s, [0, 0, 100, 600])
    assert best_ask.px.tolist() == [10.01, 9.91]


def test_running_cost_ends_at_the_total_with_shares_that_were_nowhere_on_the_book():
    result = bought(falling(), 5000)
    for trace, taken in zip(plot.traces(result, falling()), result.taken.values(), strict=True):
        assert taken.priced_sz[0] > 0
        assert trace.cost_usd[-1] == pytest.approx(taken.total_e6[0] / 1e6 - 5000 * 10)
        assert trace.cost_s[trace.done] == 600


def test_envelope_keeps_carried_prices_and_extremes_within_a_bin():
    ts_ns, px = np.array([10, 12, 13, 14, 35]), np.array([5.0, 9.0, 1.0, 6.0, np.nan])
    lowest, highest = plot.envelope(ts_ns, px, np.array([0, 10, 20, 30, 40, 50]))
    np.testing.assert_array_equal(lowest, [np.nan, 1, 6, 6, np.nan])
    np.testing.assert_array_equal(highest, [np.nan, 9, 6, 6, np.nan])


def in_force(ts_ns: list[int], px: list[float], begin: int, end: int) -> list[float]:
    """Prices in force at any of the whole nanoseconds from begin to end."""
    until = [*ts_ns[1:], 10**9]
    held = [p for at, to, p in zip(ts_ns, until, px, strict=True) if max(at, begin) < min(to, end) or begin <= at < end]
    return [p for p in held if not np.isnan(p)]


@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from([1.0, 2.0, 3.0, 4.0, np.nan])), min_size=1, max_size=30),
    st.lists(st.integers(0, 80), min_size=2, max_size=12, unique=True),
)
def test_envelope_is_that_of_a_search_through_all_prices(quotes: list[tuple[int, float]], edges: list[int]):
    ts_ns, px = sorted(at for at, _ in quotes), [p for _, p in quotes]
    edges.sort()
    lowest, highest = plot.envelope(np.array(ts_ns), np.array(px), np.array(edges))
    for i, (begin, end) in enumerate(itertools.pairwise(edges)):
        held = in_force(ts_ns, px, begin, end) or [np.nan]
        np.testing.assert_array_equal([lowest[i], highest[i]], [min(held), max(held)])


def test_price_axis_holds_near_fills_and_leaves_far_ones_out():
    lowest, highest = np.full(200, 10.0), np.full(200, 11.0)
    assert plot.price_range(lowest, highest, np.array([])) == pytest.approx((9.92, 11.08))
    assert plot.price_range(lowest, highest, np.array([11.5, 190.0])) == pytest.approx((9.88, 11.62))
    assert plot.price_range(lowest, lowest, np.array([10.0])) == pytest.approx((9.9984, 10.0016))


def test_price_axis_is_not_stretched_by_a_quote_of_a_moment():
    lowest, highest = np.full(1000, 10.0), np.full(1000, 11.0)
    lowest[0], highest[1], highest[5] = 1.0, 190.0, np.nan
    assert plot.price_range(lowest, highest, np.array([])) == pytest.approx((9.92, 11.08))


def test_strategies_that_are_done_early_get_a_time_axis_of_their_own():
    assert plot.axis_ends_s(bought(falling(), 200)) == [600]  # best_ask is done at 100 s, more than 5 % of it
    long = done_after(30, 7200)
    assert plot.axis_ends_s(bought(long, 200, 7200)) == [60, 7200]  # 1.04 x 30 s, the next round time
    assert plot.axis_ends_s(bought(long, 100, 7200)) == [7200]  # at once: a time axis would show nothing


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.34, "+12.3"), (-12.34, f"{MINUS}12.3"), (0.04, "0.0"), (-0.04, "0.0"), (-1234.5, f"{MINUS}1,234.5")],
)
def test_signs_are_always_written(value: float, text: str):
    assert plot.signed(value) == text


def test_prices_are_written_in_cents_where_they_are_whole():
    assert [plot.px_text(px) for px in (158.0, 0.1234, 158.155)] == ["158.00", "0.1234", "158.1550"]


def test_clock_ticks_are_round_times_of_the_exchange():
    ticks_s, labels = plot.clock_ticks(ns(0.5), ns(6.5 * 3600), NEW_YORK, 32)
    assert labels == ["10:00", "12:00", "14:00", "16:00"]  # every hour would be 35 characters
    np.testing.assert_allclose(ticks_s, [1799.5, 8999.5, 16_199.5, 23_399.5])
    assert plot.clock_ticks(ns(0), ns(2), NEW_YORK, 32)[1] == ["09:30:00", "09:30:01", "09:30:02"]
    assert plot.clock_ticks(ns(0.01), ns(0.02), "UTC", 40)[1] == ["13:30:00.010", "13:30:00.015", "13:30:00.020"]


def test_window_is_written_on_the_clock_of_the_exchange():
    assert plot.window_text(window(0, 23_400), NEW_YORK) == "2024-08-05, 09:30:00 to 16:00:00 America/New_York"
    assert plot.window_text(window(0, 2.5), "UTC") == "2024-08-05, 13:30:00.000 to 13:30:02.500 UTC"
    assert plot.window_text(window(0, 60), "Asia/Tokyo").startswith("2024-08-05, 22:30:00")


# --- what it says -------------------------------------------------------------------------------------------------


def test_every_panel_has_a_title_and_units():
    figure = plot.results_figure(bought(falling(), 200), falling(), SOURCE)
    titled = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert len(titled) == PANELS
    assert axes_titled(figure, "Cumulative execution cost").get_ylabel() == "USD, taker fees included"
    assert axes_titled(figure, "NBBO and fills").get_ylabel() == "USD per share, without fees"
    for start in ("Cumulative", "NBBO"):
        assert axes_titled(figure, start).get_xlabel() == "whole window: America/New_York time"
    for start in ("Total cost", "Savings of allocate"):
        assert axes_titled(figure, start).get_xlabel().startswith("bps of arrival mid")


def test_beginning_says_its_unit_of_time():
    day = done_after(0.03, 600)
    figure = plot.results_figure(bought(day, 200), day, SOURCE)
    assert [ax.get_xlabel() for ax in figure.axes[:2]] == [
        "beginning: ms after the start",
        "whole window: America/New_York time",
    ]


def test_title_names_order_data_window_and_arrival_mid():
    said = texts(plot.results_figure(bought(falling(), 200), falling(), SOURCE))
    assert "Buy 200 shares of ABC · day.csv" in said
    assert "2024-08-05, 09:30:00 to 09:40:00 America/New_York; arrival mid 10.0000 USD" in said
    assert any(text.startswith("One order on one day: one draw, not evidence") for text in said)


@pytest.mark.parametrize("simulated", [True, False])
@pytest.mark.parametrize("draw", [plot.results_figure, plot.savings_figure])
def test_simulated_data_are_called_so_and_others_are_not(draw, simulated: bool):
    said = texts(draw(bought(falling(), 200), falling(), replace(SOURCE, simulated=simulated)))
    assert ("simulated" in " ".join(said)) == simulated


def test_losses_have_a_minus_sign_and_another_color_than_gains():
    # allocate pays 4.30 USD above the mid, every baseline 7.40 below it; 2000 USD: -58.5 bps
    losses = plot.savings_figure(bought(falling(), 200), falling(), SOURCE)
    assert texts(losses).count(f"{MINUS}58.5") == 3
    # allocate buys all at 10.01, twap half of it at 10.11: 10 of 2000 USD
    gains = plot.savings_figure(bought(rising(), 200), rising(), SOURCE)
    assert {"0.0", "+50.0"} <= set(texts(gains))
    loss, gain = losses.axes[0].patches[1], gains.axes[0].patches[1]
    assert (loss.get_hatch(), gain.get_hatch() or "") == ("///", "")
    assert loss.get_facecolor() != gain.get_facecolor()


def test_shortfall_of_every_strategy_and_the_floor_are_written():
    figure = plot.results_figure(bought(falling(), 200), falling(), SOURCE)
    texts(figure)
    panel = axes_titled(figure, "Total cost")
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        *("allocate", "best_ask", "twap", "vwap"),
        "clairvoyant",
    ]
    # the floor: 200 shares at 9.91 + 0.003, or 17.40 USD below the mid
    assert [text.get_text() for text in panel.texts] == ["+21.5", *[f"{MINUS}37.0"] * 3, f"{MINUS}87.0"]


def test_far_fill_is_marked_with_its_price_counted_and_does_not_squash_the_axis():
    day = with_stub()
    figure = plot.results_figure(bought(day, 200), day, SOURCE)
    said = " ".join(" ".join(texts(figure)).split())
    assert "↑ 25.00" in said
    assert "Fills beyond a price axis stand at its edge with their price: allocate 1 of 2 (to 25.00 USD)." in said
    low, high = axes_titled(figure, "NBBO and fills").get_ylim()
    assert (low > 9.8, high < 10.2) == (True, True)


def test_nothing_is_said_of_far_fills_where_there_are_none():
    assert "beyond" not in " ".join(texts(plot.results_figure(bought(falling(), 200), falling(), SOURCE)))


def test_shares_that_were_nowhere_on_the_book_are_counted():
    said = " ".join(" ".join(texts(plot.results_figure(bought(rising(), 5000), rising(), SOURCE))).split())
    missing = bought(rising(), 5000).taken["twap"].priced_sz[0]
    assert "Not on the book even at the end, charged at the terminal price:" in said
    assert f"twap {missing:,} shares" in said


def test_strategy_without_a_fill_is_drawn():
    result = bought(falling(), 200)
    unfilled = replace(result.taken["vwap"], fills=result.taken["vwap"].fills[:0], priced_sz=np.array([200]))
    result = replace(result, taken={**result.taken, "vwap": unfilled})
    assert saved(plot.results_figure(result, falling(), SOURCE), "png")


def test_one_baseline_can_be_the_policy():
    said = texts(plot.results_figure(bought(falling(), 200, policy="twap"), falling(), SOURCE))
    assert "Savings of twap" in said
    assert "0.0" in said


def test_names_from_outside_are_written_as_they_are_or_with_question_marks():
    source = Source("a_$x^2$_b\n数.csv" + "y" * 90, "S$M", simulated=False, time_zone="UTC")
    said = texts(plot.savings_figure(bought(falling(), 200), falling(), source))
    assert f"Buy 200 shares of S$M · a_$x^2$_b??.cs...{'y' * 15}" in said
    assert "Buy 200 shares · day.csv" in texts(
        plot.savings_figure(bought(falling(), 200), falling(), replace(SOURCE, symbol=""))
    )


@pytest.mark.parametrize(("day", "size"), [(falling(), 200), (with_stub(), 200), (rising(), 5000)])
@pytest.mark.parametrize("draw", [plot.results_figure, plot.savings_figure])
def test_all_text_lies_within_the_figure_and_is_not_small(draw, day: Market, size: int):
    figure = draw(bought(day, size), day, replace(SOURCE, file="x" * 80, simulated=True))
    texts(figure)
    drawn = figure.get_tightbbox()
    assert (drawn.min >= 0).all()
    assert (drawn.max <= figure.get_size_inches()).all()
    assert min(text.get_fontsize() for text in figure.findobj(Text)) >= 9


# --- the files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "pdf"])
@pytest.mark.parametrize("draw", [plot.results_figure, plot.savings_figure])
def test_equal_results_give_equal_bytes_without_date_or_version(draw, kind: str):
    figure = draw(bought(with_stub(), 200), with_stub(), SOURCE)
    content = saved(figure, kind)
    assert content == saved(figure, kind) == saved(draw(bought(with_stub(), 200), with_stub(), SOURCE), kind)
    assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF"}[kind])
    for mark in (b"tEXt", b"CreationDate", b"Matplotlib", b"matplotlib"):
        assert mark not in content


def test_png_has_150_dots_per_inch():
    header = saved(plot.results_figure(bought(falling(), 200), falling(), SOURCE), "png")[16:24]
    assert (int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")) == (1800, 1350)


def test_settings_of_the_user_change_nothing_and_are_kept():
    before = saved(plot.savings_figure(bought(falling(), 200), falling(), SOURCE), "png")
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.bbox": "tight", "hatch.linewidth": 9}):
        own = dict(mpl.rcParams)
        assert saved(plot.savings_figure(bought(falling(), 200), falling(), SOURCE), "png") == before
        assert dict(mpl.rcParams) == own


def test_pyplot_is_not_loaded_and_no_backend_is_chosen():
    program = (
        "import sys, matplotlib, sor.plot; assert 'matplotlib.pyplot' not in sys.modules;"
        "assert matplotlib.get_backend(auto_select=False) is None"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=Path(plot.__file__).parents[1])


# --- any day ------------------------------------------------------------------------------------------------------


def any_window(day: Market) -> Window:
    return order_window(day, "09:30", "16:00", NEW_YORK)


def any_market(rows: list[Row]) -> tuple[Market, Window] | None:
    try:
        day = market(*rows)
        return day, any_window(day)
    except ReplayError:
        return None


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_small_day_can_be_drawn_without_a_warning(seed: int):
    draw = random.Random(seed)
    found = any_market(random_rows(draw, draw.choice((3, 20, 200))))
    if found is None:
        return
    day, when = found
    result = experiments.run(day, Order(draw.choice((1, 100, 5000)), when, 10 * 10**9), "allocate", TRIPLES)
    assert saved(plot.results_figure(result, day, SOURCE), "png")
