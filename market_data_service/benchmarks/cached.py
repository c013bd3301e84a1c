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
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from app.events import PriceEvent
from app.settings import Settings
from benchmarks import load
from benchmarks.load import Load
from benchmarks.series import SIX, T0, fill_prices
from benchmarks.stage import BenchError, Stage, Watched, alternate, check, median_ratio, open_database
from benchmarks.table import Row

SYMBOL, PROVIDER = "AAPL", "yfinance"
SHORT = 200
PATH = f"/prices/latest?symbol={SYMBOL}&provider={PROVIDER}&max_age=86400"
Sides = dict[str, list[float]]
LEAST_RATE, MOST_P99, MOST_GROWTH = 0.5, 3.0, 0.1


@dataclass(frozen=True)
class Server:
    """A program that answers a URL, always with this body and this X-Cache (empty: whatever it is)."""

    watched: Watched
    url: str
    body: str
    x_cache: str

    def load(self, seconds: int) -> Load:
        """Run wrk against it."""
        before_s = self.watched.cpu_s
        found = load.put(self.url, self.body, seconds, self.x_cache)
        return replace(found, cpu_us=1e6 * (self.watched.cpu_s - before_s) / found.requests)


def rows(stage: Stage) -> list[Row]:
    """The rate, its p99, and the rate with a short history."""
    long = stage.scale.history
    with (
        serving(stage, long) as long_api,
        serving(stage, SHORT) as short_api,
        bare(stage, long_api.body) as constant,
    ):
        seconds = stage.scale.load_s
        found = alternate(
            stage.scale.loads,
            long=lambda: long_api.load(seconds),
            bare=lambda: constant.load(seconds),
            short=lambda: short_api.load(seconds),
        )
    rate = {side: [each.rate for each in runs] for side, runs in found.items()}
    p99 = {side: [each.p99_ms for each in runs] for side, runs in found.items()}
    cpu = {side: [each.cpu_us for each in runs] for side, runs in found.items()}
    return _rows(long, rate, p99, {"requests_per_s": rate, "p99_ms": p99, "cpu_us": cpu})


def _rows(long: int, rate: Sides, p99: Sides, figures: dict[str, Any]) -> list[Row]:
    ratio, late, even = (
        median_ratio(rate["long"], rate["bare"]),
        median_ratio(p99["long"], p99["bare"]),
        median_ratio(rate["short"], rate["long"]),
    )
    per_s = {side: f"{statistics.median(each):,.0f}/s" for side, each in rate.items()}
    ms = {side: f"{statistics.median(each):.1f} ms" for side, each in p99.items()}
    name = f"GET cached, {long:,} rows, {load.CONNECTIONS} connections"
    return [
        Row(name, per_s["long"], f"bare FastAPI route {per_s['bare']}",
            ratio, f">= {LEAST_RATE}x", ratio >= LEAST_RATE, figures),
        Row(f"{name}: p99", ms["long"], f"bare FastAPI route {ms['bare']}", late, f"<= {MOST_P99:.0f}x", late <= MOST_P99),
        Row(f"GET cached, {SHORT} rows", per_s["short"], f"{long:,} rows {per_s['long']}",
            even, "within 10 %", abs(even - 1) <= MOST_GROWTH),
    ]  # fmt: skip


@contextlib.contextmanager
def serving(stage: Stage, history: int, **environment: str) -> Iterator[Server]:
    """An API whose symbol has so many prices."""
    with stage.database() as name:
        given = stage.settings(name, with_kafka=False)
        newest = fill(given, history)
        stage.flush()
        with stage.serving("api", "-m", "app.main", settings=given, PYTHONHASHSEED="0", **environment) as watched:
            url = f"http://127.0.0.1:{given.api_port}{PATH}"
            yield Server(watched, url, _first_answer(url, newest), "HIT")


@contextlib.contextmanager
def bare(stage: Stage, body: str) -> Iterator[Server]:
    """The reference: a FastAPI that answers with the same bytes."""
    given = stage.settings("postgres", with_kafka=False)
    words = ("-m", "benchmarks.bare_route", str(given.api_port))
    with stage.serving("bare", *words, settings=given, PYTHONHASHSEED="0", BENCH_CONSTANT=body) as watched:
        yield Server(watched, f"http://127.0.0.1:{given.api_port}{PATH}", body, "")


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
