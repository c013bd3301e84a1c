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

from benchmarks import paper_tables
from sor import evaluation, plot
from sor import experiment as experiments
from sor.errors import ReplayError
from sor.experiment import Experiment
from sor.market import Market, order_window
from sor.orders import DEADLINE, FILL_DTYPE, LIMIT, TAKE, Order, Window
from sor.placement import Evaluation
from sor.plot import Source
from sor.plot.clock import clock_ticks, window_text
from sor.plot.order import KINDS, axis_ends_s, shares_by_venue
from sor.plot.prices import envelope, price_range
from sor.plot.rows import Mark, far_text, near_ends
from sor.plot.style import FLOOR_LOOK, IN_SAMPLE_LOOK, LOOKS
from sor.plot.text import MINUS, bps_text, px_text, signed
from sor.plot.trace import traces
from sor.plot.windows import compared, savings_rows, shortfall_rows
from tests.helpers import Row, market, ns, quote, random_rows, trade, window

NEW_YORK = "America/New_York"
TRIPLES = ((0.01, 0.02, 0.0), (0.03, 0.05, 0.0005))
SOURCE = Source("day.csv", "ABC", simulated=False, time_zone=NEW_YORK)
ORDER_PANELS, WINDOW_PANELS = 4, 3
NOTE = "intervals are of this sample of days"


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


def many_windows() -> tuple[Market, Order, dict[str, object]]:
    """Half an hour of two venues whose quotes come back every 20 s, prints on one, and its evaluation in 28 windows of 60 s."""
    rows = []
    for at in range(0, 1801, 20):
        px = 10 + 0.01 * (at // 20 % 3)
        rows += [quote(at, 2, px - 0.01, 300, px, 300), quote(at, 3, px - 0.01, 300, px + 0.01, 400)]
        rows.append(trade(at + 5, 2, 200))
    day = market(*rows)
    order = Order(500, window(0, 1800), 20 * 10**9)
    protocol = evaluation.Protocol(window_s=60, stride_s=60, skip_s=60, resamples=50)
    result = evaluation.replay_day(day, order, "router", TRIPLES, protocol, day="2024-08-05")
    return day, order, evaluation.section([result], "router", TRIPLES, protocol)


def arm(bps: float, half: float | None = 1.0) -> dict[str, object]:
    """A measure with a 95 % interval of `half` to both sides and a 99 % one twice as wide."""
    ends = None if half is None else ([bps - half, bps + half], [bps - 2 * half, bps + 2 * half])
    return {"shortfall_bps": bps, "saved_bps": bps, "ci95": ends and ends[0], "ci99": ends and ends[1]}


def evaluated(
    policy: str = "allocate", windows: int = 31, *, half: float | None = 1.0, far_bps: float = 60.0, days: int = 1
) -> dict[str, object]:
    """An `evaluation` of output.json, worked by hand: what the figure reads of it. limit_only costs `far_bps`."""
    others = {"best_ask": 3.0, "twap": 4.0, "vwap": 5.0, "equal": 4.5, "limit_only": far_bps, "allocate": 3.5}
    savings = {name: arm(bps - 3.5, half) for name, bps in others.items()}
    varied = {"savings": {name: arm(others[name] - 4, half) for name in ("best_ask", "twap", "vwap")}}
    return {
        "policy": policy,
        "order_size": 5000,
        "days": days,
        "windows": windows + 6,
        "scored_windows": windows,
        "protocol": {"window_s": 600.0, "resamples": 2000, "block_windows": 4},
        "walk_forward": {**arm(3.5, half), "savings": savings},
        "in_sample": {"savings": {name: arm(others[name] - 3.25, half) for name in others}},
        "strategies": {**{name: arm(bps, half) for name, bps in others.items()}, "clairvoyant": arm(-2.5, half)},
        "sensitivity": {"latency_ms": dict.fromkeys(("0", "1", "5", "20"), varied)},
        "fill_models": dict.fromkeys(("risk_averse", "optimistic_cancels", "reset"), varied),
        "note": NOTE if half is not None else f"too few windows for an interval: {windows}, at least 20 are needed",
    }


def unscored() -> dict[str, object]:
    """An evaluation of a file that is too short for a window."""
    found = evaluated(windows=0, half=None)
    return {**found, "windows": 0, "walk_forward": {"shortfall_bps": None, "ci95": None, "savings": {}}}


def row_labels(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def words(figure: Figure) -> str:
    """All that is written, on one line."""
    return " ".join(" ".join(texts(figure)).split())


def texts(figure: Figure) -> list[str]:
    """Everything that is written in the figure, once it is drawn."""
    FigureCanvasAgg(figure).draw()
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def saved(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    plot.save(figure, file, kind)
    return file.getvalue()


def assert_readable(figure: Figure) -> None:
    texts(figure)
    drawn = figure.get_tightbbox()
    assert (drawn.min >= 0).all()
    assert (drawn.max <= figure.get_size_inches()).all()
    assert min(text.get_fontsize() for text in figure.findobj(Text)) >= 9


def axes_titled(figure: Figure, start: str) -> Axes:
    return next(ax for ax in figure.axes if ax.get_title(loc="left").startswith(start))


# --- numbers ------------------------------------------------------------------------------------------------------


def test_running_cost_is_cash_and_fees_less_arrival_mid_of_the_shares_bought_so_far():
    allocate, best_ask, *_ = traces(bought(falling(), 200), falling())
    assert (allocate.name, best_ask.name) == ("allocate", "best_ask")
    np.testing.assert_allclose(allocate.cost_usd, [0, 1.3, 4.3, 4.3])  # 100 x (0.01 + 0.003), 100 x 0.03
    np.testing.assert_allclose(best_ask.cost_usd, [0, 1.3, -7.4, -7.4])  # 100 x (-0.09 + 0.003) at 100 s
    np.testing.assert_allclose(best_ask.cost_s, [0, 0, 100, 600])
    assert best_ask.px.tolist() == [10.01, 9.91]


def test_running_cost_of_a_passive_fill_has_its_rebate_and_no_fee():
    result = bought(falling(), 200)
    fills = np.array([(ns(1), 0, 99_900, 100, LIMIT), (ns(2), 1, 100_300, 100, TAKE)], FILL_DTYPE)
    result = replace(result, taken={"allocate": replace(result.taken["allocate"], fills=fills)})
    day = replace(falling(), rebates_e6=np.array([2000, 0]))
    [trace] = traces(result, day)
    np.testing.assert_allclose(trace.cost_usd[:-1], [0, -1.2, 1.8])  # 100 x (-0.01 - 0.002), 100 x 0.03


def test_all_is_bought_at_the_fill_that_completes_the_order_though_more_follow():
    result = bought(falling(), 200)
    fills = np.array([(ns(at), 0, 99_900, 100, LIMIT) for at in (1, 2, 3)], FILL_DTYPE)
    result = replace(result, taken={"allocate": replace(result.taken["allocate"], fills=fills)})
    [trace] = traces(result, falling())
    assert trace.cost_s[trace.done] == 2


def test_shares_by_venue_add_up_by_kind_with_feeds_of_one_name_together():
    rows = [(0, 0, 1, 100, TAKE), (0, 1, 1, 30, LIMIT), (0, 2, 1, 50, LIMIT), (0, 2, 1, 7, DEADLINE)]
    shares = shares_by_venue(np.array(rows, FILL_DTYPE), ("A", "B", "A", "none"))
    assert {name: sz.tolist() for name, sz in shares.items()} == {"A": [100, 50, 7], "B": [0, 30, 0]}
    assert list(shares) == ["A", "B"]


def test_venues_beyond_the_rows_of_the_panel_are_added_up():
    fills = np.array([(0, venue, 1, 100 - venue, TAKE) for venue in range(15)], FILL_DTYPE)
    shares = shares_by_venue(fills, [f"V{venue:02}" for venue in range(15)])
    assert list(shares)[-2:] == ["V10", "4 others"]
    assert (len(shares), shares["4 others"].tolist()) == (12, [89 + 88 + 87 + 86, 0, 0])


def test_axis_of_bps_leaves_a_far_interval_out_and_holds_zero_and_what_it_must():
    near = [(-1.0, 2.0), (0.5, 1.0), (0.0, 1.5)]
    assert near_ends([*near, (40.0, 80.0)]) == pytest.approx((-1.18, 2.18))
    assert near_ends([*near, (40.0, 80.0)], far=100) == pytest.approx((-5.86, 84.86))
    assert near_ends([*near, (40.0, 80.0)], always=(-8,)) == pytest.approx((-8.6, 2.6))
    assert near_ends([(40.0, 80.0)] * 3) == pytest.approx((-4.8, 84.8))  # all far: none is
    assert near_ends([(0.0, 0.0)] * 3) == near_ends([]) == (-1, 1)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)).map(lambda ends: tuple(sorted(ends)))))
def test_axis_of_bps_shows_zero_and_at_least_half_of_the_spans_whole(spans: list[tuple[float, float]]):
    low, high = near_ends(spans)
    assert low <= 0 <= high
    assert 2 * sum(low <= a and b <= high for a, b in spans) >= len(spans)


def test_interval_beyond_the_axis_is_written_at_the_end_it_leaves_by():
    look = LOOKS[0]
    assert far_text(Mark(60, [40.04, 80], [30, 90], look), -1, 5, 1) == "+40.0 to +80.0"
    assert far_text(Mark(60, [-40, 800], [-50, 900], look), -1, 5, 0) == ""  # written at the upper end
    assert far_text(Mark(2, [-40, 800], [-50, 900], look), -1, 5, 0) == f"{MINUS}40.0"
    assert far_text(Mark(2, [-40, 800], [-50, 900], look), -1, 5, 1) == "+800"
    assert far_text(Mark(2, [0, 3], [-50, 9], look), -1, 5, 1) == ""  # only the thin line goes on
    assert far_text(Mark(60, None, None, look), -1, 5, 1) == ""  # its value stands beside the panel


def test_measures_have_fewer_decimals_the_larger_they_are():
    assert [bps_text(bps) for bps in (-0.054, 99.9, 998.62, 1155.67)] == [
        f"{MINUS}0.05",
        "+99.90",
        "+998.6",
        "+1,156",
    ]


def test_rows_of_the_evaluation_leave_the_policy_out_of_its_own_baselines():
    found = evaluated("twap")
    looks = dict.fromkeys((*found["strategies"], "twap"), LOOKS[0])
    assert [row.label for row in shortfall_rows(found, looks)] == [
        *("twap", "best_ask", "vwap", "equal", "limit_only", "allocate"),
        "clairvoyant",
    ]
    saved = savings_rows(found, looks)
    assert [row.label for row in saved] == ["vs best_ask", "vs vwap", "vs equal", "vs limit_only", "vs allocate"]
    assert [mark.bps for mark in saved[1].marks] == [1.5, 1.75]  # 5.0 less 3.5 walk-forward, less 3.25 in-sample
    assert [mark.look for mark in saved[1].marks] == [LOOKS[0], IN_SAMPLE_LOOK]
    assert (compared("twap"), compared("router")) == (("best_ask", "vwap"), ("twap", "best_ask"))


def test_running_cost_ends_at_the_total_with_shares_that_were_nowhere_on_the_book():
    result = bought(falling(), 5000)
    for trace, taken in zip(traces(result, falling()), result.taken.values(), strict=True):
        assert taken.priced_sz[0] > 0
        assert trace.cost_usd[-1] == pytest.approx(taken.total_e6[0] / 1e6 - 5000 * 10)
        assert trace.cost_s[trace.done] == 600


def test_envelope_keeps_carried_prices_and_extremes_within_a_bin():
    ts_ns, px = np.array([10, 12, 13, 14, 35]), np.array([5.0, 9.0, 1.0, 6.0, np.nan])
    lowest, highest = envelope(ts_ns, px, np.array([0, 10, 20, 30, 40, 50]))
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
    lowest, highest = envelope(np.array(ts_ns), np.array(px), np.array(edges))
    for i, (begin, end) in enumerate(itertools.pairwise(edges)):
        held = in_force(ts_ns, px, begin, end) or [np.nan]
        np.testing.assert_array_equal([lowest[i], highest[i]], [min(held), max(held)])


def test_price_axis_holds_near_fills_and_leaves_far_ones_out():
    lowest, highest = np.full(200, 10.0), np.full(200, 11.0)
    assert price_range(lowest, highest, np.array([])) == pytest.approx((9.92, 11.08))
    assert price_range(lowest, highest, np.array([11.5, 190.0])) == pytest.approx((9.88, 11.62))
    assert price_range(lowest, lowest, np.array([10.0])) == pytest.approx((9.9984, 10.0016))


def test_price_axis_is_not_stretched_by_a_quote_of_a_moment():
    lowest, highest = np.full(1000, 10.0), np.full(1000, 11.0)
    lowest[0], highest[1], highest[5] = 1.0, 190.0, np.nan
    assert price_range(lowest, highest, np.array([])) == pytest.approx((9.92, 11.08))


def test_strategies_that_are_done_early_get_a_time_axis_of_their_own():
    assert axis_ends_s(bought(falling(), 200)) == [600]  # best_ask is done at 100 s, more than 5 % of it
    long = done_after(30, 7200)
    assert axis_ends_s(bought(long, 200, 7200)) == [60, 7200]  # 1.04 x 30 s, the next round time
    assert axis_ends_s(bought(long, 100, 7200)) == [7200]  # at once: a time axis would show nothing


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.34, "+12.3"), (-12.34, f"{MINUS}12.3"), (0.04, "0.0"), (-0.04, "0.0"), (-1234.5, f"{MINUS}1,234.5")],
)
def test_signs_are_always_written(value: float, text: str):
    assert signed(value) == text


def test_prices_are_written_in_cents_where_they_are_whole():
    assert [px_text(px) for px in (158.0, 0.1234, 158.155)] == ["158.00", "0.1234", "158.1550"]


def test_clock_ticks_are_round_times_of_the_exchange():
    ticks_s, labels = clock_ticks(ns(0.5), ns(6.5 * 3600), NEW_YORK, 32)
    assert labels == ["10:00", "12:00", "14:00", "16:00"]  # every hour would be 35 characters
    np.testing.assert_allclose(ticks_s, [1799.5, 8999.5, 16_199.5, 23_399.5])
    assert clock_ticks(ns(0), ns(2), NEW_YORK, 32)[1] == ["09:30:00", "09:30:01", "09:30:02"]
    assert clock_ticks(ns(0.01), ns(0.02), "UTC", 40)[1] == ["13:30:00.010", "13:30:00.015", "13:30:00.020"]


def test_window_is_written_on_the_clock_of_the_exchange():
    assert window_text(window(0, 23_400), NEW_YORK) == "2024-08-05, 09:30:00 to 16:00:00 America/New_York"
    assert window_text(window(0, 2.5), "UTC") == "2024-08-05, 13:30:00.000 to 13:30:02.500 UTC"
    assert window_text(window(0, 60), "Asia/Tokyo").startswith("2024-08-05, 22:30:00")


# --- what it says -------------------------------------------------------------------------------------------------


def test_every_panel_has_a_title_and_units():
    figure = plot.results_figure(bought(falling(), 200), falling(), SOURCE, None)
    titled = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert len(titled) == ORDER_PANELS
    assert axes_titled(figure, "Cumulative execution cost").get_ylabel() == "USD, fees and rebates included"
    assert axes_titled(figure, "NBBO and fills").get_ylabel() == "USD per share, without fees"
    for start in ("Cumulative", "NBBO"):
        assert axes_titled(figure, start).get_xlabel() == "whole window: America/New_York time"
    assert axes_titled(figure, "Total cost").get_xlabel().startswith("bps of arrival mid")
    assert axes_titled(figure, "Where the shares of allocate went").get_xlabel() == "shares bought"


def test_every_panel_of_the_evaluation_has_a_title_and_units():
    figure = plot.results_figure(bought(falling(), 200), falling(), SOURCE, evaluated())
    assert len([ax for ax in figure.axes if ax.get_title(loc="left")]) == ORDER_PANELS + WINDOW_PANELS
    for start in ("Shortfall per strategy", "Savings of allocate", "Sensitivity of the savings"):
        assert axes_titled(figure, start).get_xlabel().startswith("bps of arrival mid")


def test_beginning_says_its_unit_of_time():
    day = done_after(0.03, 600)
    figure = plot.results_figure(bought(day, 200), day, SOURCE, None)
    assert [ax.get_xlabel() for ax in figure.axes[:2]] == [
        "beginning: ms after start",
        "whole window: America/New_York time",
    ]


def test_title_names_order_data_window_and_arrival_mid():
    said = texts(plot.results_figure(bought(falling(), 200), falling(), SOURCE, None))
    assert "Buy 200 shares of ABC · day.csv" in said
    assert "2024-08-05, 09:30:00 to 09:40:00 America/New_York; arrival mid 10.0000 USD" in said
    assert any(text.startswith("One order on one day: one draw, not evidence") for text in said)


@pytest.mark.parametrize("simulated", [True, False])
@pytest.mark.parametrize("found", [None, evaluated()])
@pytest.mark.parametrize("draw", [plot.results_figure, plot.savings_figure])
def test_simulated_data_are_called_so_and_others_are_not(draw, found, simulated: bool):
    said = words(draw(bought(falling(), 200), falling(), replace(SOURCE, simulated=simulated), found))
    assert ("simulated" in said) == simulated


def test_losses_have_a_minus_sign_and_another_color_than_gains():
    # allocate pays 4.30 USD above the mid, every baseline 7.40 below it; 2000 USD: -58.5 bps
    losses = plot.savings_figure(bought(falling(), 200), falling(), SOURCE, None)
    assert texts(losses).count(f"{MINUS}58.5") == 3
    # allocate buys all at 10.01, twap half of it at 10.11: 10 of 2000 USD
    gains = plot.savings_figure(bought(rising(), 200), rising(), SOURCE, None)
    assert {"0.0", "+50.0"} <= set(texts(gains))
    loss, gain = losses.axes[0].patches[1], gains.axes[0].patches[1]
    assert (loss.get_hatch(), gain.get_hatch() or "") == ("///", "")
    assert loss.get_facecolor() != gain.get_facecolor()


def test_shortfall_of_every_strategy_and_the_floor_are_written():
    figure = plot.results_figure(bought(falling(), 200), falling(), SOURCE, None)
    texts(figure)
    panel = axes_titled(figure, "Total cost")
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        *("allocate", "best_ask", "twap", "vwap"),
        "clairvoyant",
    ]
    # the floor: 200 shares at 9.91 + 0.003, or 17.40 USD below the mid
    costs, saved = ["+21.5", *[f"{MINUS}37.0"] * 3, f"{MINUS}87.0"], [*[f"{MINUS}58.5"] * 3]
    assert [text.get_text() for text in panel.texts if text.get_text()] == [*costs, "cost", "saved", *saved]


def test_shares_of_the_policy_are_drawn_by_venue_and_kind():
    # best_ask: 100 at 10.01 and 500 at 9.91 of V2, then the sweep takes the 400 of V3; 4000 are nowhere
    figure = plot.results_figure(bought(falling(), 5000, policy="best_ask"), falling(), SOURCE, None)
    said, panel = texts(figure), axes_titled(figure, "Where the shares of best_ask went")
    assert {"market 600", "deadline 400"} <= set(said)
    assert not any(text.startswith("limit ") for text in said)
    assert panel.get_xlabel() == "shares bought; 4,000 nowhere on the book"
    assert [(bar.get_y() > 0.5, bar.get_width()) for bar in panel.patches] == [(False, 600), (True, 400)]
    assert row_labels(panel) == ["V2", "V3"]


def test_limit_orders_are_told_from_market_orders_in_grey():
    colors = [mpl.colors.to_rgb(color) for _, _, color, _ in KINDS]
    lightness = sorted(0.3 * red + 0.59 * green + 0.11 * blue for red, green, blue in colors)
    assert min(b - a for a, b in itertools.pairwise(lightness)) > 0.15
    assert len({hatch for *_, hatch in KINDS}) == len(KINDS)


def test_windows_show_every_strategy_with_intervals_and_the_floor():
    figure = plot.results_figure(bought(falling(), 200), falling(), SOURCE, evaluated(far_bps=4.0))
    said, panel = texts(figure), axes_titled(figure, "Shortfall per strategy")
    assert row_labels(panel) == ["allocate", "best_ask", "twap", "vwap", "equal", "limit_only", "clairvoyant"]
    assert {"+3.50", "+4.00", f"{MINUS}2.50", "95 %", "99 %"} <= set(said)
    low, high = panel.get_xlim()
    assert (low < -4.5, high > 7.0) == (True, True)  # the floor's and vwap's 99 % intervals
    dashed = [
        line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == "--" and len(line.get_xdata()) == 2
    ]
    assert -2.5 in dashed


def test_strategy_that_is_far_dearer_stands_at_the_edge_with_its_interval_and_squashes_nothing():
    figure = plot.results_figure(bought(falling(), 200), falling(), SOURCE, evaluated(far_bps=60.0))
    said = texts(figure)
    for start, interval, value in (
        ("Shortfall", "+59.0 to +61.0", "+60.00"),
        ("Savings", "+55.5 to +57.5", "+56.50"),
    ):
        assert {interval, value} <= set(said)
        assert axes_titled(figure, start).get_xlim()[1] < 10


def test_windows_are_counted_and_intervals_explained():
    said = words(plot.results_figure(bought(falling(), 200), falling(), SOURCE, evaluated()))
    assert "Walk-forward over 31 windows of 10 min, 5,000 shares each" in said
    assert "31 of 37 are scored, with parameters tuned on earlier windows only" in said
    assert "2,000 resamples of blocks of 4 windows" in said
    assert "Intervals are of this sample of days." in said
    assert "in-sample, not a claim" in said
    assert "One order on one day: one draw" in said
    assert "too few" not in said


def test_windows_of_many_days_are_said_to_be_resampled_by_day():
    said = words(plot.results_figure(bought(falling(), 200), falling(), SOURCE, evaluated(windows=496, days=16)))
    assert "Walk-forward over 496 windows of 10 min of 16 days" in said
    assert "2,000 resamples of whole days" in said


@pytest.mark.parametrize("draw", [plot.results_figure, plot.savings_figure])
def test_too_few_windows_have_points_and_no_intervals(draw):
    figure = draw(bought(falling(), 200), falling(), SOURCE, evaluated(windows=7, half=None))
    said = words(figure)
    assert "7 windows of 10 min, 5,000 shares each: too few for intervals" in said
    assert "Too few windows for an interval: 7, at least 20 are needed." in said
    assert f"{MINUS}0.50" in said
    panel = axes_titled(figure, "Savings of allocate")
    assert max(line.get_linewidth() for line in panel.lines if len(line.get_xdata()) == 2) < 2


@pytest.mark.parametrize("draw", [plot.results_figure, plot.savings_figure])
def test_without_a_scored_window_the_order_stands_alone_and_it_is_said_why(draw):
    figure = draw(bought(falling(), 200), falling(), SOURCE, unscored())
    alone = draw(bought(falling(), 200), falling(), SOURCE, None)
    assert len(figure.axes) == len(alone.axes)
    assert "0 of 0 windows could be scored. Too few windows" in words(figure)
    assert "walk-forward" not in words(alone).lower()


def test_savings_of_the_windows_have_losses_as_plain_as_gains_and_name_the_one_order():
    figure = plot.savings_figure(bought(falling(), 200), falling(), SOURCE, evaluated())
    said, panel = words(figure), axes_titled(figure, "Savings of allocate")
    assert f"Of the one order, bps: best_ask {MINUS}58.5, twap {MINUS}58.5, vwap {MINUS}58.5." in said
    assert row_labels(panel) == [f"vs {name}" for name in ("best_ask", "twap", "vwap", "equal", "limit_only")]
    sizes = {line.get_markersize() for line in panel.lines if line.get_marker() == LOOKS[0].marker}
    assert len(sizes) == 1
    assert panel.get_xlim()[0] < -2.5  # 3.0 less 3.5, and twice 1.0 for 99 %


def test_sensitivity_has_a_row_for_every_latency_and_fill_model():
    figure = plot.results_figure(bought(falling(), 200), falling(), SOURCE, evaluated())
    said, panel = texts(figure), axes_titled(figure, "Sensitivity")
    assert row_labels(panel) == ["0 ms", "1 ms", "5 ms", "20 ms", "risk-averse", "optimistic\ncancels", "reset"]
    assert {"latency", "fill model", "vs twap", "vs best_ask"} <= set(said)
    assert f"{MINUS}1.00" in said  # against best_ask


def test_strategies_keep_their_looks_from_panel_to_panel():
    figure = plot.results_figure(bought(falling(), 200), falling(), SOURCE, evaluated(far_bps=4.0))
    points = [line for line in axes_titled(figure, "Shortfall").lines if line.get_marker() not in ("None", None, "")]
    drawn = [(line.get_marker(), line.get_color()) for line in points]
    assert [marker for marker, _ in drawn] == [*(look.marker for look in LOOKS[:6]), FLOOR_LOOK.marker]


def test_evaluation_as_it_is_computed_can_be_drawn():
    day, order, found = many_windows()
    assert found["walk_forward"]["ci95"] is not None
    result = experiments.run(day, order, "router", TRIPLES)
    figure = plot.results_figure(result, day, SOURCE, found)
    assert saved(figure, "png")
    said = texts(figure)
    assert bps_text(found["walk_forward"]["shortfall_bps"]) in said
    assert bps_text(found["walk_forward"]["savings"]["twap"]["saved_bps"]) in said
    assert bps_text(found["strategies"]["clairvoyant"]["shortfall_bps"]) in said


def test_prices_beside_the_axis_are_whole_prices():
    day = market(*(quote(at, 2, 1000.0001, 100, 1000.0003, 100) for at in range(0, 601, 60)))
    figure = plot.results_figure(bought(day, 200), day, SOURCE, None)
    texts(figure)
    assert axes_titled(figure, "NBBO and fills").yaxis.get_offset_text().get_text() == ""


def test_far_fill_is_marked_with_its_price_counted_and_does_not_squash_the_axis():
    day = with_stub()
    figure = plot.results_figure(bought(day, 200), day, SOURCE, None)
    said = " ".join(" ".join(texts(figure)).split())
    assert "↑ 25.00" in said
    assert "Fills beyond a price axis stand at its edge with their price: allocate 1 of 2 (to 25.00 USD)." in said
    low, high = axes_titled(figure, "NBBO and fills").get_ylim()
    assert (low > 9.8, high < 10.2) == (True, True)


def test_nothing_is_said_of_far_fills_where_there_are_none():
    assert "beyond" not in " ".join(texts(plot.results_figure(bought(falling(), 200), falling(), SOURCE, None)))


def test_shares_that_were_nowhere_on_the_book_are_counted():
    said = " ".join(" ".join(texts(plot.results_figure(bought(rising(), 5000), rising(), SOURCE, None))).split())
    missing = bought(rising(), 5000).taken["twap"].priced_sz[0]
    assert "Not on the book even at the end, charged at the terminal price:" in said
    assert f"twap {missing:,} shares" in said


def test_strategy_without_a_fill_is_drawn():
    result = bought(falling(), 200)
    unfilled = replace(result.taken["vwap"], fills=result.taken["vwap"].fills[:0], priced_sz=np.array([200]))
    result = replace(result, taken={**result.taken, "vwap": unfilled})
    assert saved(plot.results_figure(result, falling(), SOURCE, None), "png")


def test_one_baseline_can_be_the_policy():
    result = bought(falling(), 200, policy="twap")
    assert "Total cost, and saved by twap" in texts(plot.results_figure(result, falling(), SOURCE, evaluated("twap")))
    assert {"Savings of twap", "0.0"} <= set(texts(plot.savings_figure(result, falling(), SOURCE, None)))


def test_names_from_outside_are_written_as_they_are_or_with_question_marks():
    source = Source("a_$x^2$_b\n数.csv" + "y" * 90, "S$M", simulated=False, time_zone="UTC")
    said = texts(plot.savings_figure(bought(falling(), 200), falling(), source, None))
    assert f"Buy 200 shares of S$M · a_$x^2$_b??.cs...{'y' * 15}" in said
    assert "Buy 200 shares · day.csv" in texts(
        plot.savings_figure(bought(falling(), 200), falling(), replace(SOURCE, symbol=""), None)
    )


@pytest.mark.parametrize(
    ("day", "size", "found"),
    [
        (falling(), 200, None),
        (falling(), 200, unscored()),
        (with_stub(), 200, evaluated()),
        (rising(), 5000, evaluated(far_bps=6000.0, half=3000.0)),
    ],
)
@pytest.mark.parametrize("draw", [plot.results_figure, plot.savings_figure])
def test_all_text_lies_within_the_figure_and_is_not_small(draw, day: Market, size: int, found):
    figure = draw(bought(day, size), day, replace(SOURCE, file="x" * 80, simulated=True), found)
    assert_readable(figure)


# --- the paper's Table 1 ------------------------------------------------------------------------------------------


def table() -> list[paper_tables.Result]:
    """Rows of all order sizes: the solver costs what is printed less 0.25, SGD what is printed."""
    parts = Evaluation(0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0)
    rows = [((sz, venues), printed[0], printed[2]) for (sz, venues), printed in paper_tables.PRINTED.items()]
    return [
        paper_tables.Result(sz, venues, replace(parts, total=cents - 0.25), cents, 3.0, equal, 50.0, 10.0, 0.0)
        for (sz, venues), cents, equal in rows
    ]


def table_figure() -> Figure:
    return plot.placement_figure(paper_tables.cents_of_lines(table()), paper_tables.CAPTION)


def test_costs_of_the_table_stand_beside_what_is_printed_a_panel_for_every_order_size():
    figure = table_figure()
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "S = 500 shares",
        "S = 1,000 shares",
        "S = 5,000 shares",
    ]
    equal, sgd, solver, paper = (line.get_ydata() for line in figure.axes[2].lines)
    np.testing.assert_allclose(paper, [2.22, 2.10, 1.95, 1.79, 1.62])
    np.testing.assert_allclose(equal, [3.44, 3.60, 3.55, 3.39, 3.22])
    np.testing.assert_allclose(solver, sgd - 0.25)
    said = texts(figure)
    assert said.count(f"{MINUS}0.25") == len(paper_tables.PRINTED)
    assert {"our solver", "the paper's X*, as printed", "its SGD, run again", "equal parts"} <= set(said)
    assert "Flows are simulated, as in the paper: Poisson, 2,200 shares a venue" in words(figure)


def test_all_text_of_the_table_lies_within_the_figure_and_is_not_small():
    assert_readable(table_figure())


def test_table_is_drawn_small_to_the_same_bytes_every_time(tmp_path: Path):
    for name in ("a.png", "b.png"):
        paper_tables.draw(table(), tmp_path / name)
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert b"tEXt" not in content
    assert len(content) < 120_000


@pytest.mark.parametrize("name", ["table.pdf", "folder.png", "nowhere/table.png", ""])
def test_file_that_the_table_cannot_be_drawn_to_is_wrong_usage(name: str, tmp_path: Path, capsys):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(SystemExit) as end:
        paper_tables.main(["--figure", str(tmp_path / name)])
    assert end.value.code == 2
    assert "--figure" in capsys.readouterr().err


# --- the files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "pdf"])
@pytest.mark.parametrize("draw", [plot.results_figure, plot.savings_figure])
def test_equal_results_give_equal_bytes_without_date_or_version(draw, kind: str):
    figure = draw(bought(with_stub(), 200), with_stub(), SOURCE, evaluated())
    content = saved(figure, kind)
    again = draw(bought(with_stub(), 200), with_stub(), SOURCE, evaluated())
    assert content == saved(figure, kind) == saved(again, kind)
    assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF"}[kind])
    for mark in (b"tEXt", b"CreationDate", b"Matplotlib", b"matplotlib"):
        assert mark not in content


@pytest.mark.parametrize(("found", "height_in"), [(None, 9.15), (evaluated(), 14.25)])
def test_png_has_150_dots_per_inch(found, height_in: float):
    header = saved(plot.results_figure(bought(falling(), 200), falling(), SOURCE, found), "png")[16:24]
    size = (int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big"))
    assert size == (1800, int(150 * height_in))


def test_settings_of_the_user_change_nothing_and_are_kept():
    before = saved(plot.savings_figure(bought(falling(), 200), falling(), SOURCE, None), "png")
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.bbox": "tight", "hatch.linewidth": 9}):
        own = dict(mpl.rcParams)
        assert saved(plot.savings_figure(bought(falling(), 200), falling(), SOURCE, None), "png") == before
        assert dict(mpl.rcParams) == own


def test_pyplot_is_not_loaded_and_no_backend_is_chosen():
    program = (
        "import sys, matplotlib, sor.plot; assert 'matplotlib.pyplot' not in sys.modules;"
        "assert matplotlib.get_backend(auto_select=False) is None"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=Path(plot.__file__).parents[2])


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
    assert saved(plot.results_figure(result, day, SOURCE, None), "png")
