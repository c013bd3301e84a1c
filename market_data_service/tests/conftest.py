"""Fixtures: a PostgreSQL and a Kafka for the run (servers.py), a database, topics and programs for each test.

Tests do not see each other's rows, and several runs may go on at once. Under CI a skipped test is a failure, unless what
it needs is the seed, which a clone does not have.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from databases import Databases, execute, new_name
from programs import OURS, READY_S, Program, end
from psycopg.rows import dict_row
from servers import HAVE_BROKER, a_kafka, a_postgres, files_that_need_broker

from app.settings import Settings
from scripts.create_tables import create_tables
from tests.yahoo import yahoo  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from local.kafka import LocalBroker
    from local.postgres import EmbeddedPostgres


MAY_BE_MISSING = "../shared"
collect_ignore = [] if HAVE_BROKER else files_that_need_broker(Path(__file__).parent)


def pytest_report_header() -> list[str]:
    """Say which tests a folder without the repository around it cannot run."""
    return [f"without ../broker, not run: {name}" for name in collect_ignore]


def pytest_configure(config: pytest.Config) -> None:
    """A run that is ended with SIGTERM stops its servers, too."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("SIGTERM", returncode=143))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Turn a skip into a failure when CI is set and the reason is not that ../shared is missing."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if MAY_BE_MISSING not in reason:
            report.outcome, report.longrepr = "failed", f"{reason}: under CI nothing else may be skipped"
    return report


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no DATABASE_URL, KAFKA_TOPIC ... of whoever runs them."""
    for name in OURS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The PostgreSQL of this run. A test that kills it starts it again: it keeps its port and its data."""
    with a_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def kafka() -> Iterator[LocalBroker]:
    """The Kafka of this run. A test that kills it starts it again: it keeps its port and its data."""
    with a_kafka() as broker:
        yield broker


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The name of a database with the schema and no row, which others are copied from."""
    name = new_name()
    execute(postgres, "CREATE DATABASE {}", name)
    create_tables(postgres.url_of(name))
    yield name
    execute(postgres, "DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture(scope="session")
def databases(postgres: EmbeddedPostgres, template: str) -> Iterator[Databases]:
    """Hands out empty databases: `with databases.one() as url`, where a test needs several."""
    made = Databases(postgres, template)
    yield made
    made.drop()


@pytest.fixture
def database_url(databases: Databases, programs: list[Program]) -> Iterator[str]:
    """An empty database with the schema, for one test. The test's programs have ended before it is taken away."""
    with databases.one() as url:
        yield url
        end(programs)


@pytest.fixture
def db(database_url: str) -> Iterator[psycopg.Connection[dict]]:
    """A connection to the test's database: autocommit, UTC, rows as dicts."""
    options = "-c timezone=UTC"
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row, options=options) as connection:
        yield connection


@pytest.fixture
def database_settings(database_url: str) -> Settings:
    """Settings with the test's database, topics of its own, and no broker (nothing listens on its port)."""
    own = uuid.uuid4().hex[:12]
    return Settings(
        given_database_url=database_url,
        kafka_bootstrap_servers="127.0.0.1:1",
        kafka_topic=f"price-events-{own}",
        kafka_dlq_topic=f"price-events-dlq-{own}",
        kafka_group=f"moving-average-calc-{own}",
    )


@pytest.fixture
def settings(database_settings: Settings, kafka: LocalBroker) -> Settings:
    """Settings with the test's database and the run's Kafka; topics and group are the test's own, and not made yet."""
    if not kafka.is_ready():  # a test has killed it
        kafka.start()
    return replace(database_settings, kafka_bootstrap_servers=kafka.bootstrap)


@pytest.fixture
def topics(settings: Settings) -> Callable[..., None]:
    """A function that makes topics: `topics()` the two of the settings, `topics("name", partitions=3)` others."""
    from kafka import KafkaAdminClient

    def create(*names: str, partitions: int = 1) -> None:
        wanted = names or (settings.kafka_topic, settings.kafka_dlq_topic)
        admin = KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
        try:
            form = {"num_partitions": partitions, "replication_factor": 1}
            admin.create_topics(dict.fromkeys(wanted, form), wait_for_metadata=True)
        finally:
            admin.close()

    return create


@pytest.fixture
def programs() -> list[Program]:
    """The programs that the test has started."""
    return []


@pytest.fixture
def start(request: pytest.FixtureRequest, programs: list[Program], tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """A function that starts a program of the service; what still runs after the test is ended.

    `start("scripts/outbox_relay.py", "--once", settings=..., LOG_LEVEL="DEBUG")` runs a script;
    `start("-m", "uvicorn", "app.main:app")` a module. Without `settings` the fixture `settings` is used.
    """

    def begin(*words: str, settings: Settings | None = None, **environment: str) -> Program:
        given = settings or request.getfixturevalue("settings")
        programs.append(Program([sys.executable, *words], given.environment() | environment, tmp_path))
        return programs[-1]

    yield begin
    end(programs)


@pytest.fixture
def eventually() -> Callable[..., object]:
    """A function that calls another until its answer is true, and returns it; fails after `timeout_s`."""

    def wait(found: Callable[[], object], timeout_s: float = READY_S) -> object:
        deadline = time.monotonic() + timeout_s
        while not (answer := found()):
            assert time.monotonic() < deadline, f"not within {timeout_s} s; last answer: {answer!r}"
            time.sleep(0.02)
        return answer

    return wait
