"""GET /prices/latest of a price that is stored and fresh, with wrk: beside a bare FastAPI route, and by length of history.

Two databases differ in the length of the symbol's history alone; each has an API of its own, and the reference is a third
process. They take turns, the other two being idle.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import random
import statistics
import urllib.request
from collections.abc import Iterator
from decimal import Decimal

from app.events import PriceEvent
from app.settings import Settings
from benchmarks import load
from benchmarks.series import SIX, T0, fill_prices
from benchmarks.stage import BenchError, Stage, alternate, check, median_ratio, open_database
from benchmarks.table import Row

SYMBOL, PROVIDER = "AAPL", "yfinance"
SHORT = 200
PATH = f"/prices/latest?symbol={SYMBOL}&provider={PROVIDER}&max_age=86400"
LEAST_RATE, MOST_P99, MOST_GROWTH = 0.5, 3.0, 0.1


def rows(stage: Stage) -> list[Row]:
    """The rate, its p99, and the rate with a short history."""
    long = stage.scale.history
    with (
        serving(stage, long) as (long_url, long_body),
        serving(stage, SHORT) as (short_url, short_body),
        bare(stage, long_body) as bare_url,
    ):
        seconds = stage.scale.load_s
        found = alternate(
            stage.scale.rounds,
            long=lambda: load.put(long_url, long_body, seconds, "HIT"),
            bare=lambda: load.put(bare_url, long_body, seconds),
            short=lambda: load.put(short_url, short_body, seconds, "HIT"),
        )
    rate = {side: [each.rate for each in runs] for side, runs in found.items()}
    p99 = {side: [each.p99_ms for each in runs] for side, runs in found.items()}
    return _rows(long, rate, p99)


def _rows(long: int, rate: dict[str, list[float]], p99: dict[str, list[float]]) -> list[Row]:
    ratio, late, even = (
        median_ratio(rate["long"], rate["bare"]),
        median_ratio(p99["long"], p99["bare"]),
        median_ratio(rate["short"], rate["long"]),
    )
    per_s = {side: f"{statistics.median(each):,.0f}/s" for side, each in rate.items()}
    ms = {side: f"{statistics.median(each):.1f} ms" for side, each in p99.items()}
    name = f"GET cached, {long:,} rows of history"
    figures = {"requests_per_s": rate, "p99_ms": p99}
    return [
        Row(f"{name}, {load.CONNECTIONS} connections", per_s["long"], f"bare FastAPI route {per_s['bare']}",
            ratio, f">= {LEAST_RATE}x", ratio >= LEAST_RATE, figures),
        Row("its p99", ms["long"], f"bare FastAPI route {ms['bare']}", late, f"<= {MOST_P99:.0f}x", late <= MOST_P99),
        Row(f"GET cached, {SHORT} rows of history", per_s["short"], f"{long:,} rows {per_s['long']}",
            even, "within 10 %", abs(even - 1) <= MOST_GROWTH),
    ]  # fmt: skip


@contextlib.contextmanager
def serving(stage: Stage, history: int) -> Iterator[tuple[str, str]]:
    """An API whose symbol has so many prices: the URL that asks for the newest, and the answer that must come."""
    with stage.database() as name:
        given = stage.settings(name, with_kafka=False)
        newest = fill(given, history)
        with stage.serving("api", "-m", "app.main", settings=given, PYTHONHASHSEED="0"):
            url = f"http://127.0.0.1:{given.api_port}{PATH}"
            yield url, _first_answer(url, newest)


@contextlib.contextmanager
def bare(stage: Stage, body: str) -> Iterator[str]:
    """The reference: its URL. It answers with the same bytes."""
    with stage.database() as name:
        given = stage.settings(name, with_kafka=False)
        words = ("-m", "benchmarks.bare_route", str(given.api_port))
        with stage.serving("bare", *words, settings=given, PYTHONHASHSEED="0", BENCH_CONSTANT=body):
            yield f"http://127.0.0.1:{given.api_port}{PATH}"


def fill(given: Settings, history: int) -> PriceEvent:
    """Store a history of simulated prices; the newest one."""
    rng = random.Random(2)
    prices = [
        PriceEvent(
            SYMBOL,
            Decimal(rng.randint(100_000_000, 300_000_000)) * SIX,
            T0 + datetime.timedelta(seconds=number - history),
            PROVIDER,
            "1",
        )
        for number in range(history)
    ]
    with open_database(given) as db:
        fill_prices(db, prices)
    return prices[-1]


def _first_answer(url: str, newest: PriceEvent) -> str:
    """The body of the first answer, which must tell the newest price; the others are compared with it byte by byte."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            body = response.read().decode()
    except OSError as error:
        raise BenchError(f"{url}: {error}") from None
    told = json.loads(body, parse_float=Decimal)
    told["timestamp"] = datetime.datetime.fromisoformat(told["timestamp"])
    stored = {"symbol": SYMBOL, "price": newest.price, "timestamp": newest.timestamp, "provider": PROVIDER}
    check(told == stored, f"the API answers {body}; stored is {stored}")
    return body
