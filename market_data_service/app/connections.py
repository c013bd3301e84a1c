"""The API's connections to PostgreSQL: made when they are needed, kept for the next use, every statement bounded in time.

psycopg_pool was measured first: while the database is away it lets every request wait for its whole time-out, and it
finds out that the database is back up to nine seconds later. Here a request is told at once, and the next one tries again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from app import database
from app.database import AsyncConnection, Row, Steps
from app.errors import ServiceError

PLACE_S = 3.0
STATEMENT_S = 5.0

Result = TypeVar("Result")
Connect = Callable[[], Awaitable[AsyncConnection]]


class DatabaseSilentError(ServiceError):
    """The database did not answer in time, or every connection to it is in use."""


class Session:
    """A connection while it is lent. What does not end in time is left to end by itself, and the connection with it."""

    def __init__(self) -> None:
        self.connection: AsyncConnection | None = None
        self.is_spoilt = False
        self._task: asyncio.Task[Any] | None = None

    async def run(self, steps: Steps[Result], seconds: float = STATEMENT_S) -> Result:
        """What the steps return, executed in one transaction."""
        return await self.bounded(self._run(steps), seconds)

    async def rows(self, sql: str, values: Mapping[str, Any]) -> list[Row]:
        """The rows of one statement."""
        return await self.bounded(self._rows(sql, values))

    async def bounded(self, work: Coroutine[Any, Any, Result], seconds: float = STATEMENT_S) -> Result:
        """The work's result. Raises DatabaseSilentError when there is none after so many seconds."""
        self._task = asyncio.create_task(work)
        done, _ = await asyncio.wait({self._task}, timeout=seconds)
        if not done:
            raise DatabaseSilentError(f"the database did not answer within {seconds:g} s")
        return self._task.result()

    def when_over(self, then: Callable[[], None]) -> None:
        """Call `then` once nothing uses the connection any more."""
        if self._task is None or self._task.done():
            then()
        else:
            self._task.add_done_callback(lambda task: (task.cancelled() or task.exception(), then()))

    def abandon(self) -> None:
        """End what is under way at once: without its socket psycopg does not wait for the server to agree."""
        if self.connection is not None:
            self.connection.pgconn.finish()
        if self._task is not None:
            self._task.cancel()

    async def _run(self, steps: Steps[Result]) -> Result:
        assert self.connection is not None
        async with self.connection.transaction():
            return await database.run_async(self.connection, steps)

    async def _rows(self, sql: str, values: Mapping[str, Any]) -> list[Row]:
        assert self.connection is not None
        return await (await self.connection.execute(sql, values)).fetchall()


class Connections:
    """At most `most` connections, which `connect` makes; `async with connections.session() as session` lends one."""

    def __init__(self, connect: Connect, most: int) -> None:
        self._connect = connect
        self._places = asyncio.Semaphore(most)
        self._free: list[AsyncConnection] = []
        self._lent: set[Session] = set()
        self._is_closed = False

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A connection for the block. Raises psycopg.OperationalError, or DatabaseSilentError, where there is none."""
        await self._place()
        lent = Session()
        self._lent.add(lent)
        try:
            await lent.bounded(self._fill(lent))
            yield lent
        except BaseException:
            lent.is_spoilt = True
            raise
        finally:
            lent.when_over(lambda: self._take_back(lent))

    async def close(self) -> None:
        """Close them all, and end what is under way."""
        self._is_closed = True
        for lent in list(self._lent):
            lent.abandon()
        while self._free:
            await self._free.pop().close()

    async def _place(self) -> None:
        try:
            await asyncio.wait_for(self._places.acquire(), PLACE_S)
        except asyncio.TimeoutError:
            raise DatabaseSilentError(f"no connection to the database came free within {PLACE_S:g} s") from None

    async def _fill(self, lent: Session) -> None:
        """With a free connection that still answers: the server may have been restarted since it was used."""
        while self._free and lent.connection is None:
            connection = self._free.pop()
            try:
                await connection.execute("")
                lent.connection = connection
            except psycopg.Error:
                await connection.close()
        lent.connection = lent.connection or await self._connect()

    def _take_back(self, lent: Session) -> None:
        self._places.release()
        self._lent.discard(lent)
        connection = lent.connection
        if connection is None:
            return
        idle = connection.info.transaction_status == TransactionStatus.IDLE
        if idle and not lent.is_spoilt and not self._is_closed:
            self._free.append(connection)
        else:
            connection.pgconn.finish()
