"""Connections to PostgreSQL, for programs that wait (`connect`) and for the API (`connect_async`), and which errors mean it is away.

Statements that belong together are written once, as a generator that yields (SQL, parameters) and is sent the first row
of each (None: there was none); `run` and `run_async` drive it on either kind of connection, inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.rows import DictRow, dict_row

from app.settings import Settings

Row = Mapping[str, Any]
Result = TypeVar("Result")
Steps = Generator[tuple[str, Mapping[str, Any]], Row | None, Result]
Connection = psycopg.Connection[DictRow]
AsyncConnection = psycopg.AsyncConnection[DictRow]

CONNECT_S = 5
OPTIONS = "-c timezone=UTC -c statement_timeout=30s"
AWAY = (psycopg.OperationalError, psycopg.InterfaceError)


def connect(settings: Settings, name: str) -> Connection:
    """A connection with rows as dicts and no transaction open between `with connection.transaction()` blocks.

    `name` is what the server lists it under. Raises psycopg.OperationalError where there is no server.
    """
    return psycopg.connect(settings.database_url, row_factory=dict_row, **_options(name))


async def connect_async(settings: Settings, name: str) -> AsyncConnection:
    """The same for asyncio."""
    return await psycopg.AsyncConnection.connect(settings.database_url, row_factory=dict_row, **_options(name))


def _options(name: str) -> dict[str, Any]:
    return {"autocommit": True, "connect_timeout": CONNECT_S, "options": OPTIONS, "application_name": name}


def is_away(error: BaseException) -> bool:
    """The error tells of a database that cannot be reached or went away, not of a wrong statement."""
    return isinstance(error, AWAY) and not isinstance(error, psycopg.errors.QueryCanceled)


def run(connection: Connection, steps: Steps[Result]) -> Result:
    """What the steps return, each executed on `connection`."""
    row: Row | None = None
    while True:
        try:
            sql, values = steps.send(row)
        except StopIteration as end:
            return end.value
        cursor = connection.execute(sql, values)
        row = cursor.fetchone() if cursor.description else None


async def run_async(connection: AsyncConnection, steps: Steps[Result]) -> Result:
    """What the steps return, each executed on `connection`."""
    row: Row | None = None
    while True:
        try:
            sql, values = steps.send(row)
        except StopIteration as end:
            return end.value
        cursor = await connection.execute(sql, values)
        row = await cursor.fetchone() if cursor.description else None
