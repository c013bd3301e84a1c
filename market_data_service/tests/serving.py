"""The API for tests: the real application on a real uvicorn in a thread, and a stand-in for the providers."""

from __future__ import annotations

import asyncio
import datetime
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import httpx
import psutil
import psycopg
import uvicorn

from app.errors import ProviderError, UnknownSymbolError
from app.main import create_app
from app.providers.base import Quote
from app.settings import Settings
from local.postgres import EmbeddedPostgres

Db = psycopg.Connection[dict[str, Any]]

PROBLEM = "application/problem+json"
START_S = 10.0
TIME = datetime.datetime(2025, 6, 15, 20, 30, 27, 283671, tzinfo=datetime.timezone.utc)


class StubProviders:
    """Answers from a dict of symbols to prices or errors; a symbol that is not there is unknown to every provider.

    Attributes
    ----------
    calls
        How often each symbol was asked for.
    delay_s
        How long an answer takes.
    most_at_once
        How many calls were under way at the same time.
    """

    def __init__(self, **answers: str | Quote | ProviderError) -> None:
        self.answers: dict[str, str | Quote | ProviderError] = dict(answers)
        self.calls: Counter[str] = Counter()
        self.delay_s = 0.0
        self.most_at_once = self._under_way = 0
        self.is_closed = False

    async def latest(self, provider: str, symbol: str) -> Quote:
        """The answer that is set for the symbol."""
        self.calls[symbol] += 1
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self._under_way -= 1
        found = self.answers.get(symbol)
        if found is None:
            raise UnknownSymbolError(provider, f"there is no symbol {symbol}")
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, Quote) else quote(symbol, found, provider=provider)

    async def close(self) -> None:
        """Remembered."""
        self.is_closed = True


def quote(symbol: str, price: str, ts: datetime.datetime = TIME, provider: str = "yfinance") -> Quote:
    """What a provider tells, in short."""
    return Quote(symbol, provider, Decimal(price), ts, {"price": price})


@contextmanager
def serving(settings: Settings, providers: StubProviders | None = None) -> Iterator[httpx.Client]:
    """A client of the API, which runs for the length of the block; without `providers` it has the real ones."""
    app = create_app(settings, providers)
    with listener() as sock:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + START_S
        while not server.started and thread.is_alive():
            assert time.monotonic() < deadline, "the API did not start"
            time.sleep(0.005)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}", timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(START_S)
            assert not thread.is_alive(), "the API did not stop"


def listener() -> socket.socket:
    """A socket on a free port of the loopback."""
    return socket.create_server(("127.0.0.1", 0), backlog=512)


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with listener() as sock:
        return sock.getsockname()[1]


def latest(api: httpx.Client, symbol: str = "AAPL", **more: object) -> httpx.Response:
    """`GET /prices/latest`."""
    return api.get("/prices/latest", params={"symbol": symbol, **more})


def age(db: Db, seconds: float) -> None:
    """Have all prices be fetched so long ago."""
    db.execute("UPDATE latest_prices SET fetched_at = now() - make_interval(secs => %s)", [seconds])


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The answer is a problem document of that status and code, and tells nothing of our insides."""
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM), response.text
    document = response.json()
    assert (document["status"], document["code"]) == (status, code)
    assert document["title"]
    assert document["detail"]
    assert "Traceback" not in response.text
    assert "psycopg" not in response.text
    return document


@contextmanager
def hung(postgres: EmbeddedPostgres) -> Iterator[None]:
    """Every process of the server stands still for the length of the block."""
    main = psutil.Process(postgres.pid)
    processes = [main, *main.children(recursive=True)]
    for each in processes:
        each.suspend()
    try:
        yield
    finally:
        for each in processes:
            if each.is_running():
                each.resume()
