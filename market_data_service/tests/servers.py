"""The PostgreSQL and the Kafka of a test run: started once, on free loopback ports, in a folder of their own; no internet.

Where the repository's `broker` is missing (the image holds this folder alone), those of the settings are used, as given
when the run began: POSTGRES_HOST, POSTGRES_USER, POSTGRES_PASSWORD, KAFKA_BOOTSTRAP_SERVERS ... The user must be allowed to
make databases. What needs servers that can be killed is skipped there, and files that need `broker` are not collected.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

import local
from app import settings

if TYPE_CHECKING:
    from local.kafka import LocalBroker
    from local.postgres import EmbeddedPostgres

HAVE_BROKER = importlib.util.find_spec("broker") is not None
NEED_BROKER = {"broker", "local.account", "local.kafka", "local.postgres", "local.programs", "local.run"}
_GIVEN = dict(os.environ)


class Given:
    """A server that is there already, in place of EmbeddedPostgres or LocalBroker: it can be used, but not killed."""

    is_running = True

    def __init__(self) -> None:
        self.settings = settings.load(_GIVEN, local.SERVICE / ".env")
        self.bootstrap = self.settings.kafka_bootstrap_servers
        self.password = self.settings.postgres_password

    def url_of(self, database: str) -> str:
        """The URL of a database of the PostgreSQL."""
        return replace(self.settings, given_database_url="", postgres_db=database).database_url

    def is_ready(self) -> bool:
        """Taken for granted."""
        return True

    def __getattr__(self, name: str) -> NoReturn:
        pytest.skip(f"needs ../broker for a server that can be told: {name}")


@contextmanager
def reachable_folder(name: str) -> Iterator[Path]:
    """A temporary folder that PostgreSQL's user can go to, too: pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix=f"market-data-{name}-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def a_postgres() -> Iterator[EmbeddedPostgres | Given]:
    """A PostgreSQL for the length of the block."""
    if not HAVE_BROKER:
        yield Given()
        return
    from local.postgres import EmbeddedPostgres

    with reachable_folder("postgres") as folder:
        server = EmbeddedPostgres(folder, password=uuid.uuid4().hex, fsync=False)
        server.start()
        try:
            yield server
        finally:
            server.remove()


@contextmanager
def a_kafka() -> Iterator[LocalBroker | Given]:
    """A Kafka in KRaft mode for the length of the block."""
    if not HAVE_BROKER:
        yield Given()
        return
    from local.kafka import LocalBroker

    with reachable_folder("kafka") as folder, LocalBroker(folder, port=0, host="127.0.0.1") as broker:
        yield broker


def files_that_need_broker(folder: Path) -> list[str]:
    """The test files that import it, directly or through `local`."""
    return [path.name for path in sorted(folder.glob("test_*.py")) if _imported(path) & NEED_BROKER]


def _imported(path: Path) -> set[str]:
    """The modules that a file imports at its top; what only type checkers see does not count."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found | {name.partition(".")[0] for name in found if not name.startswith("local")}
