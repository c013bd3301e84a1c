"""What benchmarks run on: a PostgreSQL and a Kafka of their own, databases on it, and the service's programs as processes.

PostgreSQL is the one of `make run`: it waits for the disk at every commit. It keeps the time of each commit besides
(track_commit_timestamp), so that what programs did when can be read from the tables afterwards.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import psutil
import psycopg
from psycopg import sql

from app import database
from app.database import Connection
from app.kafka import ensure_topics
from app.settings import Settings
from broker.ports import free_port
from local.kafka import LocalBroker
from local.postgres import EmbeddedPostgres
from local.programs import Program
from scripts.create_tables import create_tables
from sor.errors import SorError

MEGABYTE = 1_000_000
READY_S = 30.0
END_S = 120.0
LOOK_S = 0.05
OURS = {each.metadata["env"] for each in fields(Settings)}

Answer = TypeVar("Answer")
Say = Callable[[str], None]


class BenchError(SorError):
    """A benchmark could not be run."""


class WrongAnswerError(BenchError):
    """What was timed gave a wrong answer: its time means nothing."""


@dataclass(frozen=True)
class Scale:
    """How much is measured. Seconds where a name says so.

    Attributes
    ----------
    rounds
        How often each side is measured; the sides take turns.
    loads, load_s
        How often each side is put under load by wrk, and for how long: short and often evens out what other programs do.
    history
        Stored prices of the symbol with a long history.
    events
        On the topic of the consumer, in the outbox of the relay.
    stream_s
        How long prices are stored at 300 a second.
    misses
        Requests that fetch, one after the other.
    jobs, jobs_s
        Polling jobs, and the time over which they become due.
    """

    rounds: int = 3
    loads: int = 15
    load_s: int = 1
    history: int = 200_000
    events: int = 20_000
    stream_s: float = 10.0
    misses: int = 300
    jobs: int = 10_000
    jobs_s: float = 60.0


FULL = Scale()
QUICK = Scale(rounds=1, loads=5, history=20_000, stream_s=4.0, misses=100, jobs=1_000, jobs_s=6.0)


class Stage:
    """Servers that start when they are first asked for, and end with the `with` block, programs and all.

    Parameters
    ----------
    folder
        For data and logs; PostgreSQL's user must be able to go there.
    scale
        How much is to be measured.
    broker
        A Kafka that is there already; it is not stopped at the end.
    say
        Receives a line on each step.
    """

    def __init__(
        self, folder: Path, scale: Scale, *, broker: LocalBroker | None = None, say: Say = lambda line: None
    ) -> None:
        self.folder, self.scale, self.say = folder, scale, say
        self._given_broker = broker
        self._end = contextlib.ExitStack()
        self._programs: list[Program] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *failure: object) -> None:
        self._end.close()

    @cached_property
    def postgres(self) -> EmbeddedPostgres:
        """The running PostgreSQL."""
        server = EmbeddedPostgres(self.folder / "postgres", password=uuid.uuid4().hex)
        self._end.callback(server.remove)
        server.start()
        self._execute(server, "ALTER SYSTEM SET track_commit_timestamp = on")
        server.stop()
        server.start()
        return server

    @cached_property
    def kafka(self) -> LocalBroker:
        """The running Kafka."""
        if self._given_broker is not None:
            return self._given_broker
        return self._end.enter_context(LocalBroker(self.folder / "kafka", port=0, host="127.0.0.1"))

    @cached_property
    def _empty(self) -> str:
        """The name of a database with the schema and no row."""
        name = "bench_empty"
        self._execute(self.postgres, "CREATE DATABASE {}", name)
        create_tables(self.postgres.url_of(name))
        return name

    @contextlib.contextmanager
    def database(self, template: str = "") -> Iterator[str]:
        """The name of a new database for the block: a copy of `template`, else one with the schema and no row."""
        name = f"bench_{uuid.uuid4().hex[:12]}"
        self._execute(self.postgres, "CREATE DATABASE {} TEMPLATE {}", name, template or self._empty)
        try:
            yield name
        finally:
            self._execute(self.postgres, "DROP DATABASE {} WITH (FORCE)", name)

    def settings(self, name: str, *, with_kafka: bool = True) -> Settings:
        """Settings for the database of that name; topics of their own, made already, and a group of its own."""
        own = uuid.uuid4().hex[:12]
        given = Settings(
            given_database_url=self.postgres.url_of(name),
            kafka_bootstrap_servers=self.kafka.bootstrap if with_kafka else "127.0.0.1:1",
            kafka_topic=f"price-events-{own}",
            kafka_dlq_topic=f"price-events-dlq-{own}",
            kafka_group=f"bench-{own}",
            api_port=free_port(),
            log_level="WARNING",
        )
        if with_kafka:
            ensure_topics(given)
        return given

    def settings_like(self, given: Settings, name: str) -> Settings:
        """The same for another database: the same topics, another group."""
        return replace(
            given, given_database_url=self.postgres.url_of(name), kafka_group=f"bench-{uuid.uuid4().hex[:12]}"
        )

    @contextlib.contextmanager
    def program(self, name: str, *words: str, settings: Settings, **environment: str) -> Iterator[Watched]:
        """A program for the block: `words` follow `python` on the command line, `name` names its log."""
        inherited = {name: text for name, text in os.environ.items() if name not in OURS}
        given = {**inherited, **settings.environment(), **environment}
        program = Program(f"{name}-{uuid.uuid4().hex[:6]}", words, given, self.folder)
        try:
            with Watched(program) as watched:
                yield watched
        finally:
            program.ask()
            program.finish()

    @contextlib.contextmanager
    def serving(self, name: str, *words: str, settings: Settings, **environment: str) -> Iterator[Watched]:
        """The same for one that serves HTTP on `settings.api_port`: it answers already."""
        url = f"http://127.0.0.1:{settings.api_port}/health"
        with self.program(name, *words, settings=settings, **environment) as watched:
            watched.wait(lambda: _answers(url), "an answer")
            yield watched

    def flush(self) -> None:
        """Have PostgreSQL write what it has put off, so that it does not do so while something is timed."""
        self._execute(self.postgres, "CHECKPOINT")

    @staticmethod
    def _execute(server: EmbeddedPostgres, statement: str, *names: str) -> None:
        with psycopg.connect(server.url_of("postgres"), autocommit=True) as admin:
            admin.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


class Watched:
    """A running program; in a `with` the most memory that it holds is noted, looked at every LOOK_S."""

    def __init__(self, program: Program) -> None:
        self.program, self.process = program, psutil.Process(program.pid)
        self.peak_bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def peak_mb(self) -> float:
        """The most resident memory of the process itself so far; a megabyte is a million bytes."""
        return self.peak_bytes / MEGABYTE

    @property
    def cpu_s(self) -> float:
        """Processor time of the process so far, user and system, without its children."""
        times = self.process.cpu_times()
        return times.user + times.system

    @property
    def main_thread_s(self) -> float:
        """The same of its main thread."""
        return sum(each.user_time + each.system_time for each in self.process.threads() if each.id == self.program.pid)

    def children(self) -> list[psutil.Process]:
        """The processes that it has started."""
        return self.process.children(recursive=True)

    def wait(self, found: Callable[[], Answer], what: str, timeout_s: float = READY_S) -> Answer:
        """The first answer of `found` that is true. Raises if there is none in time, or the program ends."""
        deadline = time.monotonic() + timeout_s
        while not (answer := found()):
            self.program.check()
            if time.monotonic() > deadline:
                raise BenchError(f"{self.program.name}: {what} did not come within {timeout_s:.0f} s")
            time.sleep(LOOK_S)
        return answer

    def _look(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while not self._over.wait(LOOK_S):
                self.peak_bytes = max(self.peak_bytes, self.process.memory_info().rss)


def alternate(rounds: int, **sides: Callable[[], Answer]) -> dict[str, list[Answer]]:
    """What each side returned, round by round. The sides take turns: forth, back, forth."""
    found: dict[str, list[Answer]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            found[name].append(sides[name]())
    return found


def median_ratio(above: list[float], below: list[float]) -> float:
    """The median of the rounds' ratios: what drifts from round to round is in both sides of each."""
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


def open_database(settings: Settings) -> Connection:
    """A connection for the benchmark's own statements."""
    return database.connect(settings, "bench")


def check(is_right: bool, what: str) -> None:
    """Raise WrongAnswerError unless it is right."""
    if not is_right:
        raise WrongAnswerError(what)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
