"""Runs the migrations on the database of the settings, or on the connection that scripts/create_tables.py hands over."""

from __future__ import annotations

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from app import settings
from app.models import Base


def engine_url(database_url: str) -> str:
    """A URL of ours as SQLAlchemy wants it: with the driver named."""
    return "postgresql+psycopg://" + database_url.split("://", 1)[1]


def migrate(connection: Connection) -> None:
    """Each revision in a transaction of its own: whole or not at all."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    if context.is_offline_mode():
        raise CommandError("these migrations look at the rows that are there; --sql cannot show them")
    given = context.config.attributes.get("connection")
    if given is not None:
        return migrate(given)
    with create_engine(engine_url(settings.load().database_url), poolclass=NullPool).connect() as connection:
        migrate(connection)
    return None


main()
