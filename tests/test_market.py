"""The market of a day: what it is made of, the window an order lives in, and the price at the end."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pytest

from sor import market as markets
from sor.errors import ReplayError, UsageError
from sor.market import Market
from sor.replay import Terminal
from tests.helpers import DARK, T0_NS, Row, ask, clear, events, market, ns, quote, trade, venue_table, window

NEW_YORK = "America/New_York"


def utc_s(text: str) -> float:
    """Seconds after T0 of a UTC time."""
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp() - T0_NS / 1e9


def session(day: str, first: str = "13:00", last: str = "21:30", *rows: Row) -> Market:
    """A book from `first` to `last` UTC of a day."""
    return market(ask(utc_s(f"{day}T{first}:00"), 2, 10.0, 100), *rows, ask(utc_s(f"{day}T{last}:00"), 2, 10.0, 100))


def clocks(day: Market, start: str = "09:30", end: str = "16:00", zone: str = NEW_YORK) -> tuple[str, str]:
    """The order's window as UTC times."""
    when = markets.order_window(day, start, end, zone)
    return tuple(str(np.datetime64(at, "ms")) for at in (when.start_ns // 10**6, when.end_ns // 10**6))


# --- build --------------------------------------------------------------------------------------------------------------


def test_market_knows_fees_names_and_trades_of_every_venue():
    rows = [ask(0, 2, 10.0, 1), trade(1, DARK, 300), trade(2, 2, 100), ask(3, 3, 10.1, 1)]
    day = market(*rows, fees_e6={2: 3000, 3: -500})
    assert day.fees_e6.tolist() == [3000, -500, 0]
    assert day.venue_names == ("V2", "V3", f"V{DARK}")
    assert day.trade_ns.tolist() == [ns(1), ns(2)]
    assert day.trade_sz.tolist() == [300, 100]  # off-exchange prints are volume
    assert (day.rows, day.has_trades) == (4, True)


def test_book_is_usable_where_both_sides_stand_and_do_not_cross():
    day = market(
        quote(0, 2, 0, 0, 10.0, 1), ask(1, 2, 10.0, 1), quote(2, 3, 10.5, 1, 11.0, 1), clear(3, 3), clear(4, 2)
    )
    assert day.usable.tolist() == [False, True, False, True, False]


def test_quotes_of_dark_venues_alone_are_refused():
    with pytest.raises(ReplayError, match="no quote of a venue that orders can be routed to"):
        market(ask(0, DARK, 10.0, 1), trade(1, 2, 5))


def test_old_quotes_leave_the_book_when_an_age_is_set():
    day = events(ask(0, 2, 10.0, 1), ask(9, 3, 10.1, 1))
    kept, dropped = markets.build(day, venue_table()), markets.build(day, venue_table(), 4 * 10**9)
    assert kept.nbbo.ask_px_e4.tolist() == [100_000, 100_000]
    assert dropped.updates.ts_ns.tolist() == [ns(0), ns(4), ns(9)]
    assert dropped.nbbo.ask_px_e4.tolist() == [100_000, 0, 101_000]
    assert dropped.rows == 2


# --- the window ---------------------------------------------------------------------------------------------------------


def test_window_is_the_clock_of_the_exchange_in_summer_and_winter_time():
    assert clocks(session("2024-08-05")) == ("2024-08-05T13:30:00.000", "2024-08-05T20:00:00.000")
    assert clocks(session("2024-01-02")) == ("2024-01-02T14:30:00.000", "2024-01-02T21:00:00.000")


@pytest.mark.parametrize(("day", "start"), [("2024-03-10", "13:30"), ("2024-11-03", "14:30")])
def test_window_on_the_day_the_clock_changes(day: str, start: str):
    assert clocks(session(day))[0] == f"{day}T{start}:00.000"


def test_fractions_of_a_second_are_kept():
    assert clocks(session("2024-08-05"), "10:00:00.25", "10:00:01.5") == (
        "2024-08-05T14:00:00.250",
        "2024-08-05T14:00:01.500",
    )


def test_file_shorter_than_the_window_is_used_as_far_as_it_goes():
    short = session("2024-08-05", "14:00", "15:00")
    assert clocks(short) == ("2024-08-05T14:00:00.000", "2024-08-05T15:00:00.000")


def test_window_begins_when_the_book_can_first_be_traded():
    at = "2024-08-05T13:31:00"
    day = market(
        quote(utc_s("2024-08-05T13:00:00"), 2, 10.1, 1, 10.2, 1),
        quote(utc_s("2024-08-05T13:10:00"), 3, 10.3, 1, 10.4, 1),  # crossed until 13:31
        quote(utc_s(at), 3, 10.1, 1, 10.4, 1),
        ask(utc_s("2024-08-05T14:00:00"), 3, 10.3, 1),
    )
    assert clocks(day)[0] == at + ".000"


def test_day_is_that_of_the_first_book_not_of_a_clearing_at_midnight_utc():
    cleared = clear(utc_s("2024-08-05T00:00:00"), 2)  # 20:00 on the 4th in New York
    day = market(cleared, ask(utc_s("2024-08-05T13:00:00"), 2, 10, 1), ask(utc_s("2024-08-05T15:00:00"), 2, 10, 1))
    assert clocks(day) == ("2024-08-05T13:30:00.000", "2024-08-05T15:00:00.000")


@pytest.mark.parametrize(("start", "end"), [("17:45", "18:00"), ("05:00", "06:00"), ("12:00", "12:00")])
def test_window_without_a_book_is_refused_with_the_span_of_the_data(start: str, end: str):
    with pytest.raises(ReplayError) as caught:
        clocks(session("2024-08-05"), start, end)
    assert f"between {start} and {end} {NEW_YORK} on 2024-08-05" in str(caught.value)
    assert "cover 2024-08-05T13:00:00 to 2024-08-05T21:30:00 UTC" in str(caught.value)


def test_book_that_is_never_two_sided_is_refused():
    with pytest.raises(ReplayError, match="never show a bid and an ask"):
        clocks(market(quote(0, 2, 0, 0, 10, 1), quote(9, 2, 0, 0, 10, 1)))


@pytest.mark.parametrize("zone", ["America/Gotham", "../etc/passwd", ""])
def test_unknown_time_zone_is_a_wrong_setting(zone: str):
    with pytest.raises(UsageError, match=r"time_zone is .*; it must be a name like America/New_York"):
        clocks(session("2024-08-05"), zone=zone)


# --- arrival and end ----------------------------------------------------------------------------------------------------


def test_arrival_mid_is_that_of_the_book_when_the_order_starts():
    day = market(quote(0, 2, 10.0, 1, 10.02, 1), quote(5, 2, 10.0, 1, 10.04, 1), quote(6, 2, 10, 1, 10.06, 1))
    assert markets.arrival_mid_px(day, window(5, 9)) == pytest.approx(10.02, rel=1e-15)


def test_terminal_price_is_the_cheapest_ask_with_its_fee_and_the_spread():
    rows = [quote(0, 2, 9.99, 1, 10.02, 1), quote(0, 3, 9.98, 1, 10.01, 1), ask(8, 2, 1.0, 1)]
    day = market(*rows, fees_e6={2: 0, 3: 20_000})
    # 10.02 is cheaper than 10.01 + 0.02; the spread is 10.01 - 9.99
    assert markets.terminal(day, window(0, 5), None) == Terminal(10_050_000, 9_970_000)
    assert markets.terminal(day, window(0, 5), 0.5) == Terminal(10_530_000, 9_970_000)


def test_terminal_price_is_of_the_last_book_that_could_be_traded():
    day = market(quote(0, 2, 9.99, 1, 10.02, 1), quote(3, 3, 10.5, 1, 10.6, 1))
    assert markets.terminal(day, window(0, 5), None) == Terminal(10_050_000, 9_990_000)


def test_terminal_price_before_any_book_is_refused():
    with pytest.raises(ReplayError, match="no usable book by 2024-08-05T13:30:01"):
        markets.terminal(market(ask(3, 2, 10, 1)), window(0, 1), None)
