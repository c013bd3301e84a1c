"""The real yfinance against the stand-in for Yahoo (tests/yahoo.py): what each of its answers becomes."""

from __future__ import annotations

import datetime
import email.utils
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from decimal import Decimal
from pathlib import Path

import pytest

from app import providers
from app.errors import (
    BadPriceError,
    ProviderError,
    ProviderNetworkError,
    ProviderTimeoutError,
    RateLimitedError,
    UnknownSymbolError,
)
from app.providers.base import Provider, Quote, checked, remaining_s, within
from app.settings import Settings
from tests.yahoo import ELSE, FIXTURES, MINUTE_S, NEW_YORK, Yahoo, yahoo  # noqa: F401

# yfinance calls pandas in a way that pandas 4 will not have.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:yfinance")

SERVICE = Path(__file__).resolve().parents[1]
UTC = datetime.timezone.utc
ERRORS = {
    "empty": (UnknownSymbolError, "it has no price of TSLA"),
    "nan": (BadPriceError, "none of its 35 bars of TSLA holds a price"),
    "zero": (BadPriceError, "its price is 0.0; it must be above zero and below 10^12"),
    "404": (UnknownSymbolError, "it has no symbol TSLA"),
    "429": (RateLimitedError, "it refuses further calls for now"),
    "500": (ProviderNetworkError, "it answered with HTTP status 500"),
    "slow": (ProviderTimeoutError, "it did not answer in time"),
    "half-close": (ProviderNetworkError, "it cannot be reached: Connection closed abruptly"),
    "consent": (ProviderNetworkError, "its answer cannot be read: HTTP status 200, text/html, JSONDecodeError"),
}


@pytest.fixture
def provider(yahoo: Yahoo) -> Provider:  # noqa: F811
    """The real provider, in this process, which speaks to the stand-in."""
    return providers.get("yfinance", Settings())


def failure(provider: Provider, symbol: str) -> ProviderError:
    with pytest.raises(ProviderError) as caught, within(5):
        provider.latest(symbol)
    return caught.value


def test_every_fixture_of_the_stand_in_is_covered_here() -> None:
    assert set(ERRORS) | {"normal", "daily"} == set(FIXTURES)


def test_the_latest_price_is_the_close_of_the_newest_minute(provider: Provider, yahoo: Yahoo) -> None:  # noqa: F811
    yahoo.price("AAPL", 196.45)
    before = time.time()
    quote = provider.latest("AAPL")
    assert (quote.symbol, quote.provider, quote.price, quote.status) == ("AAPL", "yfinance", Decimal("196.45"), 200)
    minutes = [int(t // MINUTE_S * MINUTE_S) for t in (before, time.time())]
    assert minutes[0] <= quote.ts.timestamp() <= minutes[1]
    assert quote.ts.tzinfo is UTC


def test_the_raw_response_is_kept_as_json(provider: Provider, yahoo: Yahoo) -> None:  # noqa: F811
    yahoo.price("AAPL", 196.45)
    body = json.loads(json.dumps(provider.latest("AAPL").body, allow_nan=False))
    assert (body["interval"], body["metadata"]["currency"], len(body["bars"])) == ("1m", "USD", 3)
    assert body["bars"][-1]["close"] == pytest.approx(196.45)
    assert datetime.datetime.fromisoformat(body["bars"][-1]["ts"]).utcoffset() == datetime.timedelta(0)


def test_a_fund_without_minutes_has_the_price_of_its_newest_day(provider: Provider, yahoo: Yahoo) -> None:  # noqa: F811
    yahoo.answer("VFIAX", "daily")
    yahoo.price("VFIAX", 512.07)
    quote = provider.latest("VFIAX")
    assert (quote.price, quote.body["interval"]) == (Decimal("512.07"), "1d")
    assert quote.ts.astimezone(NEW_YORK).time() == datetime.time()


@pytest.mark.parametrize("symbol", ["^GSPC", "EURUSD=X", "BRK-B", "BF.B", "BTC-USD"])
def test_symbols_with_every_allowed_sign_reach_yahoo_as_they_are(
    provider: Provider,
    yahoo: Yahoo,  # noqa: F811
    symbol: str,
) -> None:
    assert provider.latest(symbol).symbol == symbol
    assert yahoo.counts[f"chart {symbol}"] >= 1


@pytest.mark.parametrize("fixture", ERRORS)
def test_each_answer_that_is_no_price_is_its_own_error(provider: Provider, yahoo: Yahoo, fixture: str) -> None:  # noqa: F811
    kind, message = ERRORS[fixture]
    yahoo.answer("TSLA", fixture)
    with pytest.raises(ProviderError) as caught, within(1.5 if fixture == "slow" else 10):
        provider.latest("TSLA")
    assert (type(caught.value), caught.value.provider, caught.value.message) == (kind, "yfinance", message)


@pytest.mark.parametrize("fixture", ERRORS)
def test_after_a_failure_the_symbol_works_again(provider: Provider, yahoo: Yahoo, fixture: str) -> None:  # noqa: F811
    symbol = f"T{fixture.upper()}"
    yahoo.answer(symbol, fixture)
    with pytest.raises(ProviderError), within(0.5 if fixture == "slow" else 10):
        provider.latest(symbol)
    yahoo.answer(symbol, "normal")
    assert provider.latest(symbol).price > 0


def test_a_slow_answer_takes_no_longer_than_the_call_may(provider: Provider, yahoo: Yahoo) -> None:  # noqa: F811
    yahoo.answer("TSLA", "slow")
    began = time.monotonic()
    with pytest.raises(ProviderTimeoutError), within(0.5):
        provider.latest("TSLA")
    assert 0.4 < time.monotonic() - began < 1.5


def test_an_unknown_symbol_costs_one_request(provider: Provider, yahoo: Yahoo) -> None:  # noqa: F811
    provider.latest("AAPL")
    yahoo.counts.clear()
    yahoo.answer("NOSUCH", "404")
    assert isinstance(failure(provider, "NOSUCH"), UnknownSymbolError)
    assert yahoo.counts == {"chart": 1, "chart NOSUCH": 1}


@pytest.mark.parametrize("symbol", [".", "..", "-", "^", "US0378331005"])
def test_what_cannot_be_a_ticker_is_not_asked_for(provider: Provider, yahoo: Yahoo, symbol: str) -> None:  # noqa: F811
    assert isinstance(failure(provider, symbol), UnknownSymbolError)
    assert not yahoo.counts


def test_minutes_without_a_trade_are_passed_over(
    provider: Provider,
    yahoo: Yahoo,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    yahoo.price("AAPL", 196.45)
    columns = yahoo._columns

    def with_gaps(symbol: str, fixture: str, times: list[int]) -> dict[str, list[float | None]]:
        return {name: [*values[:-2], None, None] for name, values in columns(symbol, fixture, times).items()}

    monkeypatch.setattr(yahoo, "_columns", with_gaps)
    quote = provider.latest("AAPL")
    assert quote.price == Decimal("196.45")
    assert 2 * MINUTE_S <= time.time() - quote.ts.timestamp() < 4 * MINUTE_S


@pytest.mark.parametrize(
    ("given", "wait_s"),
    [("30", 30.0), ("0", 0.0), ("soon", None), (None, None), ("-1", None)],
)
def test_the_wait_that_yahoo_names_is_kept(
    provider: Provider,
    yahoo: Yahoo,  # noqa: F811
    given: str | None,
    wait_s: float | None,
) -> None:
    yahoo.retry_after = given
    yahoo.answer("TSLA", "429")
    error = failure(provider, "TSLA")
    assert isinstance(error, RateLimitedError)
    assert error.retry_after_s == wait_s


def test_a_wait_given_as_a_date_is_counted_from_now(provider: Provider, yahoo: Yahoo) -> None:  # noqa: F811
    yahoo.retry_after = email.utils.formatdate(time.time() + 90, usegmt=True)
    yahoo.answer("TSLA", "429")
    error = failure(provider, "TSLA")
    assert isinstance(error, RateLimitedError)
    assert error.retry_after_s == pytest.approx(90, abs=3)


def test_a_storm_of_429_ends(provider: Provider, yahoo: Yahoo) -> None:  # noqa: F811
    yahoo.storm(True)
    assert isinstance(failure(provider, "AAPL"), RateLimitedError)
    yahoo.storm(False)
    assert provider.latest("AAPL").price > 0


@pytest.mark.parametrize("fixture", ["429", "slow"])
def test_without_cookies_and_crumbs_prices_still_come(provider: Provider, yahoo: Yahoo, fixture: str) -> None:  # noqa: F811
    """yfinance asks for a cookie and a crumb first, and would wait 30 s for each."""
    from yfinance.data import YfData

    YfData()._crumb = YfData()._cookie = None
    cookies, crumbs = yahoo.counts["cookie"], yahoo.counts["crumb"]
    yahoo.answer(ELSE, fixture)
    with within(3):
        assert provider.latest(f"C{fixture}").price > 0
    assert yahoo.counts["cookie"] + yahoo.counts["crumb"] > cookies + crumbs


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("HTTPS_PROXY", "http://127.0.0.1:1", "it cannot be reached: "),
        ("REQUESTS_CA_BUNDLE", os.devnull, "it cannot be reached: "),
    ],
)
def test_no_network_is_never_an_unknown_symbol(
    provider: Provider,
    yahoo: Yahoo,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    reason: str,
) -> None:
    monkeypatch.setenv(name, value)
    error = failure(providers.get("yfinance", Settings()), f"NEW{name[:3]}")
    assert type(error) is ProviderNetworkError
    assert error.message.startswith(reason)
    assert "https://" not in error.message


def test_yfinance_says_nothing_of_its_own(
    provider: Provider,
    yahoo: Yahoo,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    for fixture in ("404", "500", "consent", "half-close", "429"):
        yahoo.answer("TSLA", fixture)
        failure(provider, "TSLA")
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name == "yfinance"] == []


@pytest.mark.parametrize(
    ("back", "interval", "most"),
    [
        (datetime.timedelta(minutes=12), "1m", datetime.timedelta(minutes=1)),
        (datetime.timedelta(days=20), "5m", datetime.timedelta(minutes=5)),
        (datetime.timedelta(days=80), "1d", datetime.timedelta(days=1, hours=1)),
    ],
)
def test_a_history_has_the_finest_bars_that_yahoo_keeps(
    provider: Provider,
    yahoo: Yahoo,  # noqa: F811
    back: datetime.timedelta,
    interval: str,
    most: datetime.timedelta,
) -> None:
    start = datetime.datetime.now(UTC) - back
    quotes = provider.history("AAPL", start)
    steps = [after.ts - before.ts for before, after in itertools.pairwise(quotes)]
    assert {quote.body["interval"] for quote in quotes} == {interval}
    assert start <= quotes[0].ts < start + 2 * most
    assert datetime.timedelta(0) < min(steps) <= max(steps) <= most
    assert len(quotes) >= back / most - 2


def test_the_newest_of_a_history_is_the_latest_price(provider: Provider, yahoo: Yahoo) -> None:  # noqa: F811
    now = int(time.time())
    yahoo.clock = lambda: now
    latest = provider.latest("AAPL")
    newest = provider.history("AAPL", datetime.datetime.now(UTC) - datetime.timedelta(hours=1))[-1]
    assert (newest.ts, newest.price) == (latest.ts, latest.price)


@pytest.mark.parametrize("fixture", ["nan", "zero", "empty"])
def test_a_history_without_usable_prices_is_empty(provider: Provider, yahoo: Yahoo, fixture: str) -> None:  # noqa: F811
    yahoo.answer("TSLA", fixture)
    assert provider.history("TSLA", datetime.datetime.now(UTC) - datetime.timedelta(hours=1)) == []


def test_a_history_from_the_future_is_empty_and_not_asked_for(provider: Provider, yahoo: Yahoo) -> None:  # noqa: F811
    assert provider.history("AAPL", datetime.datetime.now(UTC) + datetime.timedelta(hours=1)) == []
    assert not yahoo.counts


@pytest.mark.parametrize("fixture", ["404", "429", "500", "half-close", "consent"])
def test_a_history_fails_as_a_price_does(provider: Provider, yahoo: Yahoo, fixture: str) -> None:  # noqa: F811
    yahoo.answer("TSLA", fixture)
    with pytest.raises(ERRORS[fixture][0]), within(10):
        provider.history("TSLA", datetime.datetime.now(UTC) - datetime.timedelta(hours=1))


@pytest.mark.parametrize(
    ("price", "stored"),
    [
        (196.4499969482422, "196.45"),  # 196.45 as a 32-bit number
        (0.10000000149011612, "0.1"),
        (105_412.0078125, "105412.01"),
        (1.0843219999, "1.084322"),  # more exact than 32 bits
        (1e-6, "0.000001"),
    ],
)
def test_the_noise_of_32_bit_numbers_is_taken_off(price: float, stored: str) -> None:
    from app.providers.yfinance import _exact

    assert checked(_exact(price), "yfinance") == Decimal(stored)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (196.45, "196.450000"),
        ("0.0000005000001", "0.000001"),
        (Decimal("1.0000005"), "1.000000"),
        (Decimal("1.0000015"), "1.000002"),
        ("999999999999.999999", "999999999999.999999"),
        (7, "7.000000"),
    ],
)
def test_a_price_is_rounded_to_six_decimals_half_to_even(given: object, stored: str) -> None:
    assert str(checked(given, "any")) == stored


@pytest.mark.parametrize(
    "price",
    [
        float("nan"),
        float("inf"),
        "-inf",
        0,
        -37.63,
        "0.0000005",
        1e12,
        "999999999999.9999999",
        None,
        "abc",
        "",
        True,
        "sNaN",
    ],
)
def test_a_price_that_cannot_be_stored_is_refused(price: object) -> None:
    with pytest.raises(BadPriceError):
        checked(price, "any")


def test_a_quote_has_its_time_in_utc() -> None:
    paris = datetime.timezone(datetime.timedelta(hours=2))
    quote = Quote("A", "any", Decimal(1), datetime.datetime(2025, 6, 15, 22, 30, tzinfo=paris), {})
    assert quote.ts.isoformat() == "2025-06-15T20:30:00+00:00"
    with pytest.raises(ValueError, match="it must have an offset"):
        Quote("A", "any", Decimal(1), datetime.datetime(2025, 6, 15, 22, 30), {})


def test_outside_of_a_limit_a_call_has_all_the_time() -> None:
    assert remaining_s() == float("inf")
    with within(5):
        assert 4 < remaining_s() <= 5


def put(port: int, path: str, value: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=value.encode(), method="PUT")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return int(error.code)


def test_the_stand_in_is_directed_over_http(provider: Provider, yahoo: Yahoo) -> None:  # noqa: F811
    asked = {"/symbols/TSLA": "404", "/prices/AAPL": "196.45", "/storm": "off"}
    assert [put(yahoo.port, path, value) for path, value in asked.items()] == [204] * 3
    assert isinstance(failure(provider, "TSLA"), UnknownSymbolError)
    assert provider.latest("AAPL").price == Decimal("196.45")
    wrong = {"/symbols/TSLA": "418", "/prices/AAPL": "much", "/storm": "maybe", "/else": "1"}
    assert [put(yahoo.port, path, value) for path, value in wrong.items()] == [422] * 4


def test_the_stand_in_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "tests.yahoo", "--price", "EURUSD=X=1.0843", "--symbol", "TSLA=404"]
    with subprocess.Popen(command, cwd=SERVICE, stdout=subprocess.PIPE, text=True) as stand_in:
        lines = [stand_in.stdout.readline().split("=", 1) for _ in range(2)]
        environment = {name.removeprefix("export "): value.strip() for name, value in lines}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        provider = providers.get("yfinance", Settings())
        assert provider.latest("EURUSD=X").price == Decimal("1.0843")
        assert isinstance(failure(provider, "TSLA"), UnknownSymbolError)
        stand_in.send_signal(signal.SIGINT)
        assert stand_in.wait(5) == 130
    assert not Path(environment["REQUESTS_CA_BUNDLE"]).exists()


@pytest.mark.parametrize("wrong", [["--symbol", "TSLA=418"], ["--price", "AAPL=x"], ["--port", "70000"], ["--what"]])
def test_the_command_refuses_what_it_does_not_know(wrong: list[str]) -> None:
    command = [sys.executable, "-m", "tests.yahoo", *wrong]
    done = subprocess.run(command, cwd=SERVICE, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_one_line(yahoo: Yahoo) -> None:  # noqa: F811
    command = [sys.executable, "-m", "tests.yahoo", "--port", str(yahoo.port)]
    done = subprocess.run(command, cwd=SERVICE, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr.count("\n"), done.stderr[:7]) == (2, 1, "error: ")
