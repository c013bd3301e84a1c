"""A price that is not fresh enough is asked of its provider and stored: once, however many ask for it.

In this process callers of one symbol and provider share one fetch. Of several processes the first holds a lock in the
database, and the others look again when they get it. At most PROVIDER_MAX_CONCURRENCY fetches run at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from psycopg.errors import LockNotAvailable

from app import metrics, prices
from app.connections import STATEMENT_S, Connections, Session
from app.database import Steps
from app.errors import ProviderTimeoutError, RateLimitedError, UnknownSymbolError
from app.events import key_of
from app.prices import Latest
from app.providers.base import Quote
from app.refusals import Refusals
from app.settings import Settings
from app.single_flight import SingleFlight

BUSY_RETRY_S = 1.0
LOCK_EXTRA_S = 5.0  # another process holds the lock for a call and a transaction

_WAIT = "SELECT set_config('lock_timeout', %(most)s, true), set_config('statement_timeout', '0', true)"
_LOCK = "SELECT pg_advisory_lock(hashtextextended(%(key)s, 1))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended(%(key)s, 1))"


class Providers(Protocol):
    """Whom prices are asked of: app.providers.process.ProviderProcess, or what a test has instead."""

    async def latest(self, provider: str, symbol: str) -> Quote:
        """The newest price; raises ProviderError."""

    async def close(self) -> None:
        """End what it runs."""


@dataclass(frozen=True)
class Answer:
    """A price, and whether the provider was asked for it."""

    latest: Latest
    cache: Literal["HIT", "MISS"]


class Fetcher:
    """Fetches and stores prices."""

    def __init__(self, given: Settings, connections: Connections, providers: Providers) -> None:
        self._given, self._connections, self._providers = given, connections, providers
        self._flights: SingleFlight[Answer] = SingleFlight()
        self._places = asyncio.Semaphore(given.provider_max_concurrency)
        self._refusals = Refusals()

    async def fetch(self, symbol: str, provider: str, max_age_s: float, traceparent: str | None) -> Answer:
        """A price not older than `max_age_s`, or fetched since this was called or by the fetch that was under way then.

        Raises
        ------
        ProviderError
            If the provider gave none, or is not asked since it refused just now.
        psycopg.OperationalError, DatabaseSilentError
            If it could not be stored.
        """
        return await self._flights.do((provider, symbol), lambda: self._fetch(symbol, provider, max_age_s, traceparent))

    async def close(self) -> None:
        """Give up the fetches that are under way."""
        await self._flights.close()

    async def _fetch(self, symbol: str, provider: str, max_age_s: float, traceparent: str | None) -> Answer:
        began = time.monotonic()
        self._refusals.check(provider, symbol)
        async with self._place(provider), self._connections.session() as session:
            newest, looked = await self._lock(session, symbol, provider)
            self._refusals.check(provider, symbol)
            if newest is not None and newest.age_s < max(max_age_s, looked - began):
                answer = Answer(newest, "HIT")
            else:
                quote = await self._ask(symbol, provider)
                stored = await session.run(prices.store(quote, topic=self._given.kafka_topic, traceparent=traceparent))
                answer = Answer(stored.latest, "MISS")
            await session.rows(_UNLOCK, {"key": key_of(provider, symbol)})
        return answer

    @asynccontextmanager
    async def _place(self, provider: str) -> AsyncIterator[None]:
        """One of PROVIDER_MAX_CONCURRENCY."""
        wait_s = self._given.provider_timeout_seconds
        try:
            await asyncio.wait_for(self._places.acquire(), wait_s)
        except asyncio.TimeoutError:
            message = (
                f"{self._given.provider_max_concurrency} fetches are under way, and none ended within {wait_s:g} s"
            )
            raise RateLimitedError(provider, message, BUSY_RETRY_S) from None
        try:
            yield
        finally:
            self._places.release()

    async def _lock(self, session: Session, symbol: str, provider: str) -> tuple[Latest | None, float]:
        """Have no other process fetch the symbol until the session unlocks, or ends with an error; the price by then."""
        wait_s = self._given.provider_timeout_seconds + LOCK_EXTRA_S
        try:
            return await session.run(_look_locked(symbol, provider, wait_s), wait_s + STATEMENT_S)
        except LockNotAvailable:
            raise ProviderTimeoutError(provider, f"another process asks it, for more than {wait_s:g} s") from None

    async def _ask(self, symbol: str, provider: str) -> Quote:
        asked = self._refusals.clock()
        try:
            with metrics.fetching(provider):
                quote = await self._providers.latest(provider, symbol)
        except UnknownSymbolError as error:
            self._refusals.answered(provider)
            self._refusals.unknown(symbol, error)
            raise
        except RateLimitedError as error:
            raise self._refusals.limited(error, asked) from None
        self._refusals.answered(provider)
        return quote


def _look_locked(symbol: str, provider: str, wait_s: float) -> Steps[tuple[Latest | None, float]]:
    """The latest price, once the session has the lock of the symbol; it keeps it after the transaction."""
    yield _WAIT, {"most": f"{wait_s:.3f}s"}
    yield _LOCK, {"key": key_of(provider, symbol)}
    looked = time.monotonic()  # before the age is taken: what is younger than this was fetched since then
    row = yield prices.LATEST, {"symbols": [symbol], "providers": [provider]}
    return (None if row is None else Latest(**row)), looked
