"""Migrations: the schema is that of app/models.py, and an old dump with data goes up, down and up again without losing a row."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from databases import new_database
from programs import Program
from sqlalchemy import Connection, Engine, create_engine

from app.models import Base
from app.settings import Settings
from local import SERVICE
from scripts.create_tables import config, create_tables

if TYPE_CHECKING:
    from local.postgres import EmbeddedPostgres

OLD_DUMP = SERVICE / "tests" / "data" / "dump_0001.sql"
SCRIPT = "scripts/create_tables.py"
NEW_TABLES = {"outbox", "consumer_offsets", "dead_letters", "latest_prices", "heartbeats"}
Rows = dict[str, list[dict[str, Any]]]

# Everything that a column, a constraint or an index says, whatever the order of columns.
CATALOG = """
SELECT 'column' AS kind, format('%I.%I', table_name, column_name) AS name,
       concat_ws(' ', udt_name, numeric_precision, numeric_scale, is_nullable, is_identity, column_default) AS says
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL
SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
ORDER BY 1, 2
"""


@pytest.fixture
def empty_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database without any table."""
    with new_database(postgres) as url:
        yield url


@pytest.fixture
def old_url(empty_url: str) -> str:
    """A database restored from the dump of revision 0001."""
    with psycopg.connect(empty_url) as connection:
        connection.execute(OLD_DUMP.read_text())
    return empty_url


def engine_of(url: str) -> Engine:
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


def migrate(url: str, step: Callable[..., None], revision: str) -> None:
    """`command.upgrade` or `command.downgrade` to a revision."""
    engine = engine_of(url)
    with engine.connect() as connection:
        step(config(connection), revision)
    engine.dispose()


def drift(connection: Connection) -> list[Any]:
    """What alembic would have to change for the database to be as the models say."""
    return compare_metadata(
        MigrationContext.configure(connection, opts={"compare_server_default": True}), Base.metadata
    )


def catalog(url: str) -> list[tuple[str, ...]]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(CATALOG).fetchall()
    return [row for row in rows if "alembic_version" not in row[1]]


def contents(url: str, schema: str = "public") -> Rows:
    """All rows of all tables of a schema, sorted; columns by name. NaN, which equals nothing, as text."""
    with psycopg.connect(url, options="-c timezone=UTC", row_factory=psycopg.rows.dict_row) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema]).fetchall()
        tables = sorted({row["tablename"] for row in found} - {"alembic_version"})
        rows = {table: connection.execute(f"SELECT * FROM {schema}.{table}").fetchall() for table in tables}
    return sort(
        {table: [{name: comparable(row[name]) for name in sorted(row)} for row in rows[table]] for table in tables}
    )


def comparable(value: Any) -> Any:
    return "NaN" if isinstance(value, Decimal) and value.is_nan() else value


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return sorted(row["id"] for row in rows)


def only_old_columns(new: Rows, old: Rows) -> Rows:
    """Of `new` the tables and columns that `old` has."""
    columns = {table: old[table][0].keys() for table in old}
    return {table: [{name: row[name] for name in columns[table]} for row in new[table]] for table in old}


def without_lost_response(rows: Rows) -> Rows:
    """The one value that changes: a response that is not there is not pointed to any more."""
    for row in rows["market_prices"]:
        if row["raw_response_id"] == 999:
            row["raw_response_id"] = None
    return rows


def sort(rows: Rows) -> Rows:
    return {table: sorted(found, key=repr) for table, found in rows.items()}


def at(clock: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(f"2025-06-13T{clock}+00:00")


def test_the_newest_migration_is_what_the_models_say(empty_url: str, postgres: EmbeddedPostgres) -> None:
    create_tables(empty_url)
    with new_database(postgres) as by_models:
        engine = engine_of(by_models)
        Base.metadata.create_all(engine)
        engine.dispose()
        assert catalog(empty_url) == catalog(by_models)


def test_alembic_sees_no_drift_and_sees_one_that_is_there(empty_url: str) -> None:
    create_tables(empty_url)
    engine = engine_of(empty_url)
    with engine.connect() as connection:
        assert drift(connection) == []
        connection.exec_driver_sql("ALTER TABLE outbox DROP COLUMN traceparent")
        assert [change[0] for change in drift(connection)] == ["add_column"]
    engine.dispose()


def test_down_to_nothing_and_up_again_gives_the_same_schema(empty_url: str) -> None:
    create_tables(empty_url)
    first = catalog(empty_url)
    migrate(empty_url, command.downgrade, "base")
    assert catalog(empty_url) == []
    migrate(empty_url, command.upgrade, "head")
    assert catalog(empty_url) == first


def test_one_step_down_is_the_schema_of_the_first_revision(empty_url: str, postgres: EmbeddedPostgres) -> None:
    create_tables(empty_url)
    migrate(empty_url, command.downgrade, "0001")
    with new_database(postgres) as fresh:
        create_tables(fresh, "0001")
        assert catalog(empty_url) == catalog(fresh)


def test_an_old_dump_goes_up_with_every_row(old_url: str) -> None:
    before = contents(old_url)
    assert {table: len(rows) for table, rows in before.items()} == {
        "market_prices": 44, "moving_averages": 26, "polling_job_configs": 6, "raw_responses": 36,
    }  # fmt: skip
    assert create_tables(old_url) == "schema at 0002 (was: 0001); 9 tables"
    after, aside = contents(old_url), contents(old_url, "set_aside")
    kept = only_old_columns(after, before)
    both = {table: kept[table] + aside.get(table, []) for table in before}
    assert sort(both) == sort(without_lost_response(before))


def test_what_constraints_do_not_allow_waits_aside(old_url: str) -> None:
    create_tables(old_url)
    aside = contents(old_url, "set_aside")
    assert set(aside) == {"market_prices", "moving_averages", "polling_job_configs"}
    # doubled: 4 and 37 (38 counts); corrected: 13 (39 counts); not above zero: 40, 41; NaN: 42
    assert ids(aside["market_prices"]) == [4, 13, 37, 40, 41, 42]
    assert sorted(row["avg_price"] for row in aside["moving_averages"]) == [Decimal("1.5"), 10]
    assert ids(aside["polling_job_configs"]) == [1, 4, 6]  # AAPL's first interval, one of 0 minutes, an unknown status


def test_latest_prices_are_filled_from_the_prices(old_url: str) -> None:
    create_tables(old_url)
    rows = contents(old_url)["latest_prices"]
    newest = {
        (row["symbol"], row["provider"]): (row["price_id"], row["price"], row["ts"], row["fetched_at"]) for row in rows
    }
    fetched = at("14:25:40")  # 40 s after the price's time, as its raw response says
    assert newest == {
        ("AAPL", "yfinance"): (12, Decimal("195.991900"), at("14:25:00"), fetched),
        ("BRK-B", "yfinance"): (24, Decimal("486.691900"), at("14:25:00"), fetched),
        ("^GSPC", "yfinance"): (36, Decimal("5976.561900"), at("14:25:00"), fetched),
        ("AAPL", "replay"): (43, Decimal("196.500000"), at("13:32:00"), at("13:32:00")),
        ("TSLA", "yfinance"): (44, Decimal("325.310000"), at("13:30:00"), at("13:30:00")),
    }


def test_averages_and_jobs_get_what_the_new_columns_need(old_url: str) -> None:
    create_tables(old_url)
    rows = contents(old_url)
    prices = {row["id"]: row for row in rows["market_prices"]}
    assert len(rows["moving_averages"]) == 24
    for average in rows["moving_averages"]:
        price = prices[average["price_id"]]
        assert average["window_size"] == 5
        assert (price["symbol"], price["provider"], price["ts"]) == (
            average["symbol"],
            average["provider"],
            average["ts"],
        )
    jobs = {job["symbol"]: job for job in rows["polling_job_configs"]}
    assert {symbol: (job["interval_minutes"], job["status"]) for symbol, job in jobs.items()} == {
        "AAPL": (15, "active"), "BRK-B": (5, "paused"), "^GSPC": (1440, "active"),
    }  # fmt: skip
    assert all(job["failures"] == 0 and job["lease_until"] is None for job in jobs.values())


def test_an_old_dump_goes_down_again_as_it_was(old_url: str) -> None:
    before = contents(old_url)
    create_tables(old_url)
    migrate(old_url, command.downgrade, "0001")
    assert contents(old_url) == sort(without_lost_response(before))


def test_an_old_dump_is_the_same_after_up_down_and_up(old_url: str) -> None:
    create_tables(old_url)
    tables, aside = contents(old_url), contents(old_url, "set_aside")
    migrate(old_url, command.downgrade, "0001")
    create_tables(old_url)
    assert contents(old_url) == tables
    assert contents(old_url, "set_aside") == aside


WORK = """
INSERT INTO outbox (topic, key, payload, event_id, traceparent, published_at) VALUES
    ('price-events', 'yfinance:AAPL', '{"price": 1}', gen_random_uuid(), 'trace', now()),
    ('price-events', 'yfinance:AAPL', '{"price": 2}', gen_random_uuid(), NULL, NULL);
INSERT INTO consumer_offsets VALUES ('moving-average-calc', 'price-events', 0, 1234);
INSERT INTO dead_letters (topic, partition, "offset", key, payload, reason, detail, first_failed_at, attempts, status)
    VALUES ('price-events', 0, 7, 'k', '\\xff', 'not_utf8', 'byte 0', now(), 3, 'quarantined');
INSERT INTO moving_averages (symbol, provider, window_size, ts, avg_price, price_id)
    SELECT symbol, provider, 3, ts, price, id FROM market_prices WHERE id = 12;
UPDATE market_prices SET fetched_at = now() WHERE id = 12;
UPDATE polling_job_configs SET failures = 4, last_error = 'yfinance: 429', backfill = true, last_run_at = now(),
    next_run_at = now() + interval '7 minutes' WHERE symbol = 'AAPL';
UPDATE latest_prices SET fetched_at = (SELECT fetched_at FROM market_prices WHERE id = 12)
    WHERE symbol = 'AAPL' AND provider = 'yfinance';
"""


def test_what_the_service_wrote_survives_a_downgrade(old_url: str) -> None:
    create_tables(old_url)
    with psycopg.connect(old_url) as connection:
        connection.execute(WORK)
    before = contents(old_url)
    migrate(old_url, command.downgrade, "0001")
    assert not NEW_TABLES & set(contents(old_url))
    create_tables(old_url)
    assert contents(old_url) == before
    assert set(contents(old_url, "set_aside")) == {"market_prices", "moving_averages", "polling_job_configs"}


def test_ids_go_on_where_they_were_after_a_downgrade(old_url: str) -> None:
    create_tables(old_url)
    add = "INSERT INTO outbox (topic, key, payload, event_id) VALUES ('t', 'k', '', gen_random_uuid()) RETURNING id"
    with psycopg.connect(old_url) as connection:
        first = connection.execute(add).fetchone()[0]
    migrate(old_url, command.downgrade, "0001")
    create_tables(old_url)
    with psycopg.connect(old_url) as connection:
        assert connection.execute(add).fetchone()[0] == first + 1


def test_without_such_rows_nothing_is_set_aside(empty_url: str) -> None:
    create_tables(empty_url)
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("SELECT to_regnamespace('set_aside')").fetchone() == (None,)


def test_a_migration_that_fails_leaves_the_database_as_it_was(old_url: str) -> None:
    with psycopg.connect(old_url) as connection:
        connection.execute("CREATE TABLE outbox (id bigint)")
    before = contents(old_url)
    with pytest.raises(Exception, match='relation "outbox" already exists'):
        create_tables(old_url)
    assert contents(old_url) == before


# --- the script --------------------------------------------------------------------------------------------------------


def run_script(url: str, tmp_path: Path, **environment: str) -> Program:
    return Program([sys.executable, SCRIPT], {"DATABASE_URL": url, **environment}, tmp_path)


def test_the_script_says_what_it_did_and_may_be_run_again(empty_url: str, tmp_path: Path) -> None:
    first = run_script(empty_url, tmp_path, PYTHONPATH=".")
    assert (first.finish(), first.out, first.err) == (0, "schema at 0002 (was: empty); 9 tables\n", "")
    again = run_script(empty_url, tmp_path)  # without PYTHONPATH, too
    assert (again.finish(), again.out, again.err) == (0, "schema at 0002 (was: 0002); 9 tables\n", "")


def test_the_script_may_run_several_times_at_once(empty_url: str, tmp_path: Path) -> None:
    programs = [run_script(empty_url, tmp_path) for _ in range(3)]
    assert [program.finish() for program in programs] == [0, 0, 0], [program.err for program in programs]
    said = sorted(program.out for program in programs)
    assert said == ["schema at 0002 (was: 0002); 9 tables\n"] * 2 + ["schema at 0002 (was: empty); 9 tables\n"]


@pytest.mark.parametrize(
    ("url", "code", "line"),
    [
        ("postgresql://u:secret@127.0.0.1:1/marketdata", 1, r"error: .*port 1.*refused"),
        ("mysql://u:secret@127.0.0.1/x", 2, r"error: DATABASE_URL is .*must be"),
    ],
)
def test_the_script_fails_with_one_line(tmp_path: Path, url: str, code: int, line: str) -> None:
    program = run_script(url, tmp_path)
    assert program.finish() == code
    program.wait_for(line)
    assert program.err.count("\n") == 1
    assert "secret" not in program.err


def test_the_script_leaves_tables_alone_that_no_migration_made(empty_url: str, tmp_path: Path) -> None:
    with psycopg.connect(empty_url) as connection:
        connection.execute("CREATE TABLE market_prices (id bigint)")
    program = run_script(empty_url, tmp_path)
    assert program.finish() == 1
    assert program.err == 'error: relation "market_prices" already exists\n'


def test_the_script_refuses_a_database_of_a_newer_service(empty_url: str, tmp_path: Path) -> None:
    create_tables(empty_url)
    with psycopg.connect(empty_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    program = run_script(empty_url, tmp_path)
    assert program.finish() == 1
    assert program.err == "error: Can't locate revision identified by '9999'\n"


def test_alembic_itself_works_from_the_folder(empty_url: str) -> None:
    given = Settings(given_database_url=empty_url).environment()
    for words in (["upgrade", "head"], ["check"], ["downgrade", "-1"], ["upgrade", "head"]):
        line = [sys.executable, "-m", "alembic", *words]
        done = subprocess.run(line, cwd=SERVICE, env=given, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
