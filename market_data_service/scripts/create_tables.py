"""Bring the database's schema to the newest migration, and say what was done; safe to run again, and twice at once.

    PYTHONPATH=. python scripts/create_tables.py

The database is that of DATABASE_URL, or of POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, POSTGRES_HOST and POSTGRES_PORT,
from the environment or the file .env. It must exist.
Exit codes: 0 done, 1 the database cannot be reached or holds something else, 2 wrong usage or a bad setting.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

SERVICE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SERVICE))

from alembic import command  # noqa: E402
from alembic.config import Config  # noqa: E402
from alembic.runtime.migration import MigrationContext  # noqa: E402
from alembic.util import CommandError  # noqa: E402
from sqlalchemy import Connection, create_engine, func, inspect, select  # noqa: E402
from sqlalchemy.exc import DBAPIError  # noqa: E402
from sqlalchemy.pool import NullPool  # noqa: E402

from app import settings  # noqa: E402
from app.errors import SettingsError  # noqa: E402

LOCK = 0x6D61726B6574  # "market": one program migrates at a time
CONNECT_S = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    try:
        print(create_tables(settings.load().database_url))
    except SettingsError as error:
        return _failed(error, 2)
    except DBAPIError as error:
        return _failed(error.orig or error, 1)
    except CommandError as error:
        return _failed(error, 1)
    return 0


def create_tables(database_url: str, revision: str = "head") -> str:
    """Upgrade, and a line on what that did, such as `schema at 0002 (was: empty); 9 tables`.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
        If the database cannot be reached, or has tables of these names that no migration made.
    """
    url = "postgresql+psycopg://" + database_url.split("://", 1)[1]
    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": CONNECT_S})
    with engine.connect() as connection:
        connection.execute(select(func.pg_advisory_lock(LOCK)))  # let go of with the connection
        before = revision_of(connection)
        connection.commit()
        command.upgrade(config(connection), revision)
        tables = set(inspect(connection).get_table_names()) - {"alembic_version"}
        return f"schema at {revision_of(connection)} (was: {before}); {len(tables)} tables"


def config(connection: Connection) -> Config:
    """Alembic's settings, for commands on an open connection."""
    made = Config(SERVICE / "alembic.ini")
    made.attributes["connection"] = connection
    return made


def revision_of(connection: Connection) -> str:
    """The migration that the database is at; `empty` before the first."""
    return MigrationContext.configure(connection).get_current_revision() or "empty"


def _failed(error: BaseException, code: int) -> int:
    print(f"error: {str(error).strip().splitlines()[0]}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
