"""Reads of the latest price, batched: requests that come while a SELECT is under way share the next one.

Every read is exact, since it never begins before its request; and sixteen connections cost two statements, not sixteen.
"""

from __future__ import annotations

import asyncio

from app.connections import Connect, DatabaseSilentError
from app.database import AWAY, AsyncConnection
from app.prices import LATEST, Latest

READ_S = 3.0
CLOSE_S = 1.0

Key = tuple[str, str]
Batch = dict[Key, list["asyncio.Future[Latest | None]"]]


class LatestReads:
    """The latest price of a symbol, read over a connection of its own, which `connect` makes with the first read."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._line = _Line(connect)
        self._waiting: Batch = {}
        self._task: asyncio.Task[None] | None = None
        self._under_way: dict[asyncio.Task[None], _Line] = {}

    async def get(self, symbol: str, provider: str) -> Latest | None:
        """The latest stored price, None if there is none.

        Raises psycopg.OperationalError, or DatabaseSilentError, where the database cannot be read.
        """
        future: asyncio.Future[Latest | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((symbol, provider), []).append(future)
        if self._task is None:
            self._begin()
        return await future

    async def close(self) -> None:
        """End what is under way, and close the connection."""
        tasks = dict(self._under_way)
        for task, line in tasks.items():
            line.cut()
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        await self._line.close()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._work(self._line))
        self._under_way[self._task] = self._line
        self._task.add_done_callback(self._under_way.pop)

    async def _work(self, line: _Line) -> None:
        """One batch after the other, until nobody waits or this is given up."""
        while self._waiting and self._line is line:
            await asyncio.sleep(0)  # those that came at the same time as the first are served with it
            await self._serve(line)
        if self._line is line:
            self._task = None
        else:
            await line.close()

    async def _serve(self, line: _Line) -> None:
        """Answer all that wait now."""
        batch, self._waiting = self._waiting, {}
        late = asyncio.get_running_loop().call_later(READ_S, self._give_up, line, batch)
        try:
            _answer(batch, await line.select(batch))
        except Exception as error:  # whatever it is, those that wait must have it
            _fail(batch, error)
            await line.close()
        finally:
            late.cancel()

    def _give_up(self, line: _Line, batch: Batch) -> None:
        """Leave a read that hangs to end by itself; the next ones get a connection of their own."""
        _fail(batch, DatabaseSilentError(f"the database did not answer within {READ_S:g} s"))
        if self._line is line:
            self._line = _Line(self._connect)
            self._begin()


class _Line:
    """A connection that is made with its first use, and anew when it broke."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: AsyncConnection | None = None

    async def select(self, batch: Batch) -> dict[Key, Latest]:
        """The latest prices that the batch asks for."""
        if self._connection is not None:
            try:
                return await _select(self._connection, batch)
            except AWAY:  # the server may be back since
                await self.close()
        self._connection = await self._connect()
        return await _select(self._connection, batch)

    def cut(self) -> None:
        """Take the socket away from what is under way: psycopg would wait for the server to agree to its end."""
        if self._connection is not None:
            self._connection.pgconn.finish()

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


async def _select(connection: AsyncConnection, batch: Batch) -> dict[Key, Latest]:
    symbols, providers = zip(*batch, strict=True)
    cursor = await connection.execute(LATEST, {"symbols": list(symbols), "providers": list(providers)})
    return {(row["symbol"], row["provider"]): Latest(**row) for row in await cursor.fetchall()}


def _answer(batch: Batch, found: dict[Key, Latest]) -> None:
    for key, futures in batch.items():
        for future in futures:
            if not future.done():
                future.set_result(found.get(key))


def _fail(batch: Batch, error: Exception) -> None:
    for futures in batch.values():
        for future in futures:
            if not future.done():
                future.set_exception(error)
