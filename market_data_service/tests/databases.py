"""Databases for tests: made as a copy of a template, emptied and handed out again under a new name.

Emptying costs a tenth of a copy. A database whose schema a test has changed, or that a program still holds, is dropped.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from local.postgres import EmbeddedPostgres

MANY_BYTES = 1 << 20  # up to here deleting rows is quicker than new files
QUIET_S = 2.0

_OTHERS = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
_OURS = "relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'"
_SHAPE = """
SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_attribute WHERE NOT attisdropped),
       (SELECT count(*) FROM pg_constraint), (SELECT count(*) FROM pg_trigger), (SELECT count(*) FROM pg_proc),
       (SELECT count(*) FROM pg_namespace)
"""
_TABLES = f"SELECT relname, pg_relation_size(oid) FROM pg_class WHERE relkind = 'r' AND {_OURS}"
_RESTART = f"SELECT setval(oid, 1, false) FROM pg_class WHERE relkind = 'S' AND {_OURS}"


class Databases:
    """The databases of one server that are copies of one template.

    Parameters
    ----------
    server
        Started again where a test has killed it.
    template
        Name of the database they are copies of.
    """

    def __init__(self, server: EmbeddedPostgres, template: str) -> None:
        self.server, self.template = server, template
        self._idle: list[str] = []
        self._shape = self._shape_of(template)

    @contextmanager
    def one(self) -> Iterator[str]:
        """The URL of an empty database, for the length of the block."""
        start(self.server)
        name = new_name()
        if self._idle:
            execute(self.server, "ALTER DATABASE {} RENAME TO {}", self._idle.pop(), name)
        else:
            execute(self.server, "CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", name, self.template)
        try:
            yield self.server.url_of(name)
        finally:
            start(self.server)
            self._take_back(name)

    def drop(self) -> None:
        """Drop those that nobody has."""
        while self._idle:
            execute(self.server, "DROP DATABASE {} WITH (FORCE)", self._idle.pop())

    def _take_back(self, name: str) -> None:
        """A new name first: what still runs of the test does not find the database any more."""
        kept = new_name()
        disconnect(self.server, name)
        with suppress(psycopg.Error):
            execute(self.server, "ALTER DATABASE {} RENAME TO {}", name, kept)
            if self._shape_of(kept) == self._shape:
                self._empty(kept)
                return self._idle.append(kept)
        for each in (name, kept):
            execute(self.server, "DROP DATABASE IF EXISTS {} WITH (FORCE)", each)
        return None

    def _shape_of(self, name: str) -> tuple[int, ...] | None:
        with psycopg.connect(self.server.url_of(name)) as connection:
            return connection.execute(_SHAPE).fetchone()

    def _empty(self, name: str) -> None:
        with psycopg.connect(self.server.url_of(name)) as connection:
            tables = dict(connection.execute(_TABLES).fetchall())
            if sum(tables.values()) > MANY_BYTES:
                names = sql.SQL(", ").join(map(sql.Identifier, tables))
                connection.execute(sql.SQL("TRUNCATE {}").format(names))
            else:
                connection.execute("SET session_replication_role = replica")  # no look at foreign keys
                for table in tables:
                    connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
            connection.execute(_RESTART)


@contextmanager
def new_database(server: EmbeddedPostgres, template: str = "template0") -> Iterator[str]:
    """The URL of a database for the length of the block, a copy of `template`, dropped afterwards."""
    start(server)
    name = new_name()
    execute(server, "CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", name, template)
    try:
        yield server.url_of(name)
    finally:
        start(server)
        execute(server, "DROP DATABASE {} WITH (FORCE)", name)


def new_name() -> str:
    return f"test_{uuid.uuid4().hex[:12]}"


def start(server: EmbeddedPostgres) -> None:
    """Start the server again where a test has killed it."""
    if not server.is_running:
        server.start()


def execute(server: EmbeddedPostgres, statement: str, *names: str) -> None:
    """Run a statement that no transaction may hold, with the names of databases put in."""
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def disconnect(server: EmbeddedPostgres, name: str) -> None:
    """End all connections to a database, and wait until they have ended."""
    deadline = time.monotonic() + QUIET_S
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as admin:
        while admin.execute(_OTHERS, [name]).fetchall() and time.monotonic() < deadline:
            time.sleep(0.002)
