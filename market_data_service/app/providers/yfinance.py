"""Provider `yfinance`: prices of Yahoo through the package of that name. Import it in the worker process only: pandas is 70 MB.

The latest price is the Close of the newest one-minute bar of the day, where there is none of the newest daily bar; its time
is the bar's. Minutes in which nothing was traded are passed over. Prices are as traded (not adjusted for dividends).

What failed is told apart by Yahoo's own answer, which yfinance hides: an unknown symbol is only what Yahoo answers with its
own "Not Found", or with a chart that holds no bar. A lost connection, a page in HTML or a status of 500 never is.
"""

from __future__ import annotations

import contextvars
import datetime
import email.utils
import functools
import logging
import math
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import yfinance as yf
from curl_cffi.requests import Response, Session
from curl_cffi.requests.exceptions import RequestException, Timeout
from yfinance.cache import get_cookie_cache, get_tz_cache
from yfinance.data import YfData
from yfinance.exceptions import YFPricesMissingError, YFRateLimitError

from app.errors import (
    BadPriceError,
    ProviderError,
    ProviderNetworkError,
    ProviderTimeoutError,
    RateLimitedError,
    UnknownSymbolError,
)
from app.providers.base import ProviderSettings, Quote, checked, remaining_s

NAME = "yfinance"
BARS_KEPT = 3  # of the response, with the raw response
FINEST = (("1m", 7), ("5m", 59), ("1d", math.inf))  # Yahoo's bars and the days it has them for
_PRICES = ["Open", "High", "Low", "Close"]
_METADATA = (
    "symbol",
    "currency",
    "exchangeName",
    "instrumentType",
    "exchangeTimezoneName",
    "priceHint",
    "regularMarketPrice",
    "regularMarketTime",
    "previousClose",
)
_CHART = "/v8/finance/chart/"
_NO_DATA = re.compile(r"no data|data doesn't exist|data not available", re.IGNORECASE)
_ISIN = re.compile(r"[A-Z]{2}[A-Z0-9]{9}[0-9]")
_CURL = re.compile(r"curl: \(\d+\) (.*?)\.? See https")


@dataclass
class _Asked:
    """Yahoo's last answer about prices during one call."""

    answer: Response | None = None

    @property
    def status(self) -> int:
        return self.answer.status_code if self.answer is not None else 0

    @property
    def chart(self) -> dict[str, Any]:
        """The answer's `chart`; empty where there is none."""
        try:
            return dict(self.answer.json()["chart"]) if self.answer is not None else {}
        except (ValueError, TypeError, KeyError):
            return {}

    @property
    def says_unknown(self) -> bool:
        error = self.chart.get("error")
        return self.status == 404 and isinstance(error, dict) and error.get("code") == "Not Found"

    @property
    def says_no_bars(self) -> bool:
        """Whether this is a chart without bars, or Yahoo's word that it has none for the time asked."""
        chart = self.chart
        if error := chart.get("error"):
            return self.status in (400, 422) and bool(_NO_DATA.search(str(error)))
        return self.status == 200 and "result" in chart and not _has_bars(chart["result"])


_asked: contextvars.ContextVar[_Asked] = contextvars.ContextVar("asked")


class _Session(Session):  # type: ignore[misc]
    """yfinance's HTTP session, which keeps the time limit of the call and Yahoo's answer."""

    def request(self, method: Any, url: str, **options: Any) -> Response:
        """A request that takes no longer than the call may; those for cookies take at most a third of it."""
        is_chart = _CHART in url
        left_s = remaining_s() if is_chart else remaining_s() / 3
        if left_s <= 0:
            raise Timeout("no time is left for another request")
        response = super().request(method, url, **options | {"timeout": min(options.get("timeout") or left_s, left_s)})
        if is_chart:
            asked = _asked.get()
            asked.answer = response
            if asked.says_unknown:  # yfinance would ask three more times
                raise UnknownSymbolError(NAME, f"it has no symbol {url.rpartition('/')[2]}")
        return response


@functools.cache
def _set_up() -> tempfile.TemporaryDirectory[str]:
    """Have yfinance raise what goes wrong, say nothing, and keep its caches in the folder that is returned; once a process."""
    folder = tempfile.TemporaryDirectory(prefix="yfinance-")
    yf.set_tz_cache_location(folder.name)
    for cache in (get_tz_cache(), get_cookie_cache()):
        cache.lookup("")  # opens it, which several threads must not do at once
    yf.config.debug.hide_exceptions = False
    logging.getLogger("yfinance").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="yfinance")
    return folder


class YahooProvider:
    """Yahoo's prices. Time zones, cookies and caches are the process's: yfinance keeps them."""

    name = NAME

    def __init__(self, settings: ProviderSettings | None = None) -> None:
        _set_up()
        self._session = _Session(impersonate="chrome")

    def latest(self, symbol: str) -> Quote:
        """The newest price."""
        bars = 0
        with _asking(symbol):
            for period, interval in (("1d", "1m"), ("5d", "1d")):
                ticker = yf.Ticker(symbol, session=self._session)
                frame = _frame(ticker, period=period, interval=interval)
                traded = frame.dropna(how="all", subset=_PRICES)
                if len(traded):
                    return _newest(symbol, traded, ticker, interval)
                bars += len(frame)
            if bars:
                raise BadPriceError(NAME, f"none of its {bars} bars of {symbol} holds a price")
            raise UnknownSymbolError(NAME, f"it has no price of {symbol}")

    def history(self, symbol: str, start: datetime.datetime) -> list[Quote]:
        """The Close of each bar since `start`: of minutes up to 7 days back, of five minutes up to 59, beyond of days.

        Bars whose price cannot be stored are left out.
        """
        age = datetime.datetime.now(datetime.timezone.utc) - start
        if age < datetime.timedelta(0):
            return []
        interval = next(name for name, days in FINEST if age / datetime.timedelta(days=1) <= days)
        with _asking(symbol):
            frame = _frame(yf.Ticker(symbol, session=self._session), start=start, interval=interval)
            quotes = [_bar_quote(symbol, bar, interval) for bar in _bars(frame)]
        return [quote for quote in quotes if quote is not None and quote.ts >= start]


@contextmanager
def _asking(symbol: str) -> Iterator[None]:
    """A call about a symbol: whatever yfinance raises in it becomes a ProviderError.

    Raises UnknownSymbolError for what Yahoo's addresses cannot hold, and for an ISIN, which yfinance would search for.
    """
    if not any(character.isalnum() for character in symbol) or _ISIN.fullmatch(symbol):
        raise UnknownSymbolError(NAME, f"it has no symbol {symbol}")
    asked = _Asked()
    token = _asked.set(asked)
    try:
        yield
    except Exception as error:
        YfData.cache_get.cache_clear()  # it would give a broken answer again
        raise _provider_error(error, asked) from error
    finally:
        _asked.reset(token)


def _provider_error(error: Exception, asked: _Asked) -> ProviderError:
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, YFRateLimitError) or asked.status == 429:
        wait = asked.answer.headers.get("retry-after") if asked.answer is not None else None
        return RateLimitedError(NAME, "it refuses further calls for now", _seconds(wait))
    if isinstance(error, (Timeout, TimeoutError)):
        return ProviderTimeoutError(NAME, "it did not answer in time")
    if isinstance(error, RequestException):
        return ProviderNetworkError(NAME, f"it cannot be reached: {_reason(error)}")
    if asked.status >= 400:
        return ProviderNetworkError(NAME, f"it answered with HTTP status {asked.status}")
    return ProviderNetworkError(NAME, f"its answer cannot be read: {_kind(asked)}, {type(error).__name__}")


def _reason(error: RequestException) -> str:
    """Why a request failed, without curl's advice to read its manual."""
    found = _CURL.search(str(error))
    return found[1] if found else str(error)


def _kind(asked: _Asked) -> str:
    answer = asked.answer
    return f"HTTP status {answer.status_code}, {answer.headers.get('content-type')}" if answer is not None else "none"


def _seconds(retry_after: str | None) -> float | None:
    """Seconds from now of a Retry-After header, which has a number or a date; None where it has neither."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        then = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, then.timestamp() - datetime.datetime.now(datetime.timezone.utc).timestamp())


def _frame(ticker: yf.Ticker, **span: Any) -> pd.DataFrame:
    """The bars of a span; an empty frame where Yahoo says that it has none."""
    try:
        return ticker.history(**span, auto_adjust=False, actions=False, keepna=True)
    except YFPricesMissingError:
        if _asked.get().says_no_bars:
            return pd.DataFrame(columns=_PRICES)
        raise


def _has_bars(result: Any) -> bool:
    return bool(result and result[0]["indicators"]["quote"][0])


def _newest(symbol: str, traded: pd.DataFrame, ticker: yf.Ticker, interval: str) -> Quote:
    bars = list(_bars(traded.tail(BARS_KEPT)))
    metadata = ticker.get_history_metadata()
    body = {
        "interval": interval,
        "metadata": {key: _plain(metadata[key]) for key in _METADATA if key in metadata},
        "bars": bars,
    }
    price = checked(_exact(float(traded["Close"].iloc[-1])), NAME)
    return Quote(symbol, NAME, price, traded.index[-1].to_pydatetime(), body)


def _bars(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Bars as JSON: time in UTC and prices, None for what is missing."""
    for row in frame.itertuples():
        ts = row.Index.tz_convert("UTC").isoformat()
        yield {"ts": ts, **{name.lower(): _plain(getattr(row, name)) for name in _PRICES}}


def _bar_quote(symbol: str, bar: dict[str, Any], interval: str) -> Quote | None:
    """The quote of a bar, None where its price cannot be stored."""
    try:
        price = checked(_exact(bar["close"]), NAME)
    except BadPriceError:
        return None
    return Quote(symbol, NAME, price, datetime.datetime.fromisoformat(bar["ts"]), {"interval": interval, "bar": bar})


def _exact(price: float | None) -> str:
    """The price that Yahoo rounded to a 32-bit number: 196.45 where JSON has 196.4499969482422. Others stay."""
    if price is None:
        return "nan"
    with np.errstate(over="ignore"):
        short = np.float32(price)
    return str(short) if float(short) == price else str(price)


def _plain(value: Any) -> Any:
    """A value as JSON has it, None for NaN."""
    if isinstance(value, pd.Timestamp):
        return value.tz_convert("UTC").isoformat()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, (str, int)) else None
