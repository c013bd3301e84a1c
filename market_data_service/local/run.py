"""What scripts/run_local.py does: its servers and programs, started one after the other, watched, and stopped in order."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from app import settings
from app.errors import SettingsError
from app.settings import Settings
from broker import ports
from broker.errors import AlreadyRunningError, BrokerError
from broker.processes import Interrupted
from local import HOME, SERVICE
from local.kafka import KAFKA_PORT, MODES, ZOOKEEPER_PORT, LocalBroker
from local.postgres import EmbeddedPostgres, PostgresError
from local.programs import Program, stop_in_order
from sor.errors import SorError, UsageError

LOOPBACK = "127.0.0.1"
METRICS_PORT = 9101
WORKERS = {"relay": "outbox_relay.py", "consumer": "kafka_consumer.py", "poller": "poller.py"}
STAND_IN = "yahoo"
STAGES = (("poller", "api"), ("relay",), ("consumer",), (STAND_IN,))  # of the end: first what takes work
START_S = 60.0
READY_S = 20.0
_WATCH_S = 0.2
_POLL_S = 0.05
_EXPORT = re.compile(r"^export (HTTPS_PROXY|REQUESTS_CA_BUNDLE)=(.*)$", re.MULTILINE)
_WOULD_WIN = ("https_proxy", "no_proxy", "NO_PROXY")  # over the stand-in's HTTPS_PROXY
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NotInTimeError(SorError):
    """Something did not come about in its time."""


@dataclass(frozen=True)
class Plan:
    """What is to run.

    Parameters
    ----------
    settings
        Of the service, as the user has set them.
    folder
        Data, logs, the password that was made up.
    own_postgres, own_kafka
        Whether they are started here; else they are there already.
    mode, kafka_port, zookeeper_port
        Of our own Kafka.
    metrics_port
        The relay's; the consumer and the poller have the two above it.
    replay
        yfinance asks a stand-in.
    """

    settings: Settings
    folder: Path
    own_postgres: bool
    own_kafka: bool
    mode: str
    kafka_port: int
    zookeeper_port: int
    metrics_port: int
    replay: bool

    @property
    def ports(self) -> list[tuple[str, str, int]]:
        """What is listened on: the variable that changes it, host, port."""
        host = self.settings.api_host
        found = [("API_PORT", host, self.settings.api_port)]
        if self.own_postgres:
            found.append(("POSTGRES_PORT", LOOPBACK, self.settings.postgres_port))
        if self.own_kafka:
            found.append(("KAFKA_PORT", LOOPBACK, self.kafka_port))
        if self.own_kafka and self.mode == "zookeeper":
            found.append(("ZOOKEEPER_PORT", LOOPBACK, self.zookeeper_port))
        return found + [("METRICS_PORT", host, self.metrics_port + n) for n in range(len(WORKERS))]


def main(description: str | None, argv: Sequence[str] | None = None) -> int:
    """Run until a signal comes; see scripts/run_local.py."""
    flags = _parser(description).parse_args(argv)
    try:
        asked = plan(flags)
        _make(asked.folder)
        with _alone(asked.folder):
            Local(asked).run()
    except Interrupted as interrupted:
        return 0 if interrupted.number == signal.SIGTERM else interrupted.exit_code
    except SettingsError as error:
        return _failed(error, 2)
    except SorError as error:
        return _failed(error, error.exit_code)
    return 0


def plan(flags: argparse.Namespace) -> Plan:
    """What the flags, the environment and .env ask for.

    Raises
    ------
    SettingsError
        If a value is not what it must be.
    """
    env_file = SERVICE / ".env"
    given = {name: text for name, text in {**settings.read_file(env_file), **os.environ}.items() if text}
    return Plan(
        settings=settings.load(env_file=env_file),
        folder=flags.dir.resolve(),
        own_postgres=not given.keys() & {"DATABASE_URL", "POSTGRES_HOST"},
        own_kafka="KAFKA_BOOTSTRAP_SERVERS" not in given,
        mode=flags.mode,
        kafka_port=_port(given, "KAFKA_PORT", KAFKA_PORT),
        zookeeper_port=_port(given, "ZOOKEEPER_PORT", ZOOKEEPER_PORT),
        metrics_port=_port(given, "METRICS_PORT", METRICS_PORT),
        replay=flags.replay,
    )


class Local:
    """Our servers and the programs of the service.

    Parameters
    ----------
    plan
        What is to run. Its folder is ours alone.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.given = plan.settings  # what the programs get
        self.postgres = self._own_postgres() if plan.own_postgres else None
        self.kafka = self._own_kafka() if plan.own_kafka else None
        self.programs: dict[str, Program] = {}
        self._is_ending = False

    def run(self) -> None:
        """Start everything and watch it; whatever ends this, nothing is left running.

        Raises
        ------
        Interrupted
            When a signal came.
        SorError, SettingsError
            When something did not start, or ended by itself.
        """
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(kind, self._on_signal)
        try:
            self._stop_leftovers()
            for name, host, port in self.plan.ports:
                ports.check_free(host, port, f"; another one: {name}")
            self._start()
            print(self._addresses(), flush=True)
            while True:
                self._check()
                time.sleep(_WATCH_S)
        finally:
            self._is_ending = True
            self._stop()

    def _on_signal(self, number: int, _frame: object) -> None:
        """The first signal stops everything in order; one that comes while that goes on, at once."""
        if self._is_ending:
            self._kill()
            os._exit(128 + number)
        self._is_ending = True
        raise Interrupted(number)

    def _own_postgres(self) -> EmbeddedPostgres:
        given = self.plan.settings
        password = given.postgres_password or _kept_password(self.plan.folder / "postgres.password")
        self.given = replace(self.given, postgres_host=LOOPBACK, postgres_password=password)
        login = {"user": given.postgres_user, "password": password, "database": given.postgres_db}
        return EmbeddedPostgres(self.plan.folder / "postgres", port=given.postgres_port, **login, say=_say)

    def _own_kafka(self) -> LocalBroker:
        at = {"host": LOOPBACK, "port": self.plan.kafka_port, "zookeeper_port": self.plan.zookeeper_port}
        broker = LocalBroker(self.plan.folder / "kafka", mode=self.plan.mode, **at, say=_say)
        self.given = replace(self.given, kafka_bootstrap_servers=broker.bootstrap, kafka_security_protocol="PLAINTEXT")
        return broker

    def _stop_leftovers(self) -> None:
        left = [self.postgres.stop()] if self.postgres else []
        left += self.kafka.stop() if self.kafka else []
        for line in filter(None, left):
            _say(f"left by a run that was killed: {line}")

    def _start(self) -> None:
        if self.postgres:
            _say(f"starting PostgreSQL on {LOOPBACK}:{self.postgres.port}")
            self.postgres.start()
        if self.kafka:
            _say(f"starting Kafka on {self.kafka.bootstrap} ({self.plan.mode})")
            self.kafka.start()
        _say(_create_tables(self._environment()))
        environment = self._environment() | (self._start_stand_in() if self.plan.replay else {})
        self._spawn("api", ["-m", "app.main"], environment | {"METRICS_PORT": "0"})
        for n, (name, script) in enumerate(WORKERS.items()):
            port = self.plan.metrics_port + n
            self._spawn(name, [f"scripts/{script}"], environment | {"METRICS_PORT": str(port)})
        self._wait_until_ready()

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.given.environment(), "PYTHONUNBUFFERED": "1"}

    def _spawn(self, name: str, words: Sequence[str], environment: Mapping[str, str]) -> None:
        logs = self.plan.folder / "logs"
        logs.mkdir(exist_ok=True)
        self.programs[name] = Program(name, words, environment, logs)

    def _start_stand_in(self) -> dict[str, str]:
        """Start what stands for Yahoo's servers; what the programs need in their environment to ask it."""
        if importlib.util.find_spec("cryptography") is None or importlib.util.find_spec("pytest") is None:
            raise UsageError("--replay needs the packages of requirements-dev.txt: make setup")
        self._spawn(STAND_IN, ["-m", "tests.yahoo"], self._environment())
        found = self._wait_for("the stand-in for Yahoo", self._exports)
        _say("yfinance asks a stand-in for Yahoo's servers on this machine: its prices are simulated")
        return found | dict.fromkeys(_WOULD_WIN, "")

    def _exports(self) -> dict[str, str]:
        """The environment that the stand-in has told; empty until it has told it all."""
        found = dict(_EXPORT.findall(self.programs[STAND_IN].log))
        return found if len(found) == 2 else {}

    def _wait_until_ready(self) -> None:
        """Wait for the API, and for the others as far as they do not lack a server that is not ours."""
        self._wait_for("the API", lambda: _get(f"{self._base}/health"))
        try:
            self._wait_for("everything", lambda: _get(f"{self._base}/ready").get("status") == "ready", READY_S)
        except NotInTimeError:
            _say(f"not everything is ready yet: {self._base}/ready tells what")

    @property
    def _base(self) -> str:
        host = self.given.api_host
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.given.api_port}"

    def _wait_for(self, what: str, found: Callable[[], Any], timeout_s: float = START_S) -> Any:
        """The first answer of `found` that is true, while all programs run."""
        deadline = time.monotonic() + timeout_s
        while not (answer := found()):
            self._check()
            if time.monotonic() > deadline:
                raise NotInTimeError(
                    f"{what} did not answer within {timeout_s:.0f} s; logs: {self.plan.folder / 'logs'}"
                )
            time.sleep(_POLL_S)
        return answer

    def _check(self) -> None:
        """Raise if something has ended by itself."""
        for program in self.programs.values():
            program.check()
        if self.postgres and not self.postgres.is_running:
            raise PostgresError(f"PostgreSQL ended; the end of its log:\n{self.postgres.log_tail()}")
        for jvm in self._jvms():
            if jvm.pid is None:
                raise BrokerError(f"{jvm.role} ended; the end of its log:\n{jvm.log_tail()}")

    def _jvms(self) -> Iterable[Any]:
        if self.kafka is None:
            return ()
        return (self.kafka.kafka, self.kafka.zookeeper) if self.plan.mode == "zookeeper" else (self.kafka.kafka,)

    def _stop(self) -> None:
        stages = [[self.programs[name] for name in names if name in self.programs] for names in STAGES]
        stop_in_order(stages, _say)
        lines = self.kafka.stop() if self.kafka else []
        for line in (*lines, self.postgres.stop() if self.postgres else None):
            if line:
                _say(line)

    def _kill(self) -> None:
        for program in self.programs.values():
            program.kill()
        for jvm in self._jvms():
            jvm.kill()
        if self.postgres:
            self.postgres.kill()

    def _addresses(self) -> str:
        given, metrics = self.given, self.plan.metrics_port
        database = (
            "the one of DATABASE_URL"
            if given.given_database_url
            else (
                f"{given.postgres_host}:{given.postgres_port}, database {given.postgres_db}, user {given.postgres_user}"
            )
        )
        workers = ", ".join(f"http://{given.api_host}:{metrics + n}/metrics ({name})" for n, name in enumerate(WORKERS))
        return "\n".join(
            [
                f"API         {self._base}   /docs /health /ready /metrics",
                f"PostgreSQL  {database}",
                f"Kafka       {given.kafka_bootstrap_servers}, topic {given.kafka_topic}",
                f"Metrics     {workers}",
                f"Logs        {self.plan.folder / 'logs'}",
                f"Try         curl '{self._base}/prices/latest?symbol=AAPL&provider=yfinance'",
                "Ctrl-C stops everything.",
            ]
        )


def _create_tables(environment: Mapping[str, str]) -> str:
    """What scripts/create_tables.py says."""
    command = [sys.executable, "scripts/create_tables.py"]
    done = subprocess.run(command, cwd=SERVICE, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        raise PostgresError(done.stderr.strip().removeprefix("error: "))
    return done.stdout.strip()


def _kept_password(file: Path) -> str:
    """The password of our own PostgreSQL, where the user has set none: made up once."""
    if not file.exists():
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as made:
            made.write(secrets.token_urlsafe(18))
        _say(f"POSTGRES_PASSWORD is not set: one was made up, and is kept in {file}")
    return file.read_text()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock for the block."""
    with (folder / "run.lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(f"a service of {folder} is running already; another one: --dir") from None
        yield


def _get(url: str) -> dict[str, Any]:
    """What a GET answers, whatever its status; nothing where there is no answer."""
    try:
        with _DIRECT.open(url, timeout=5) as response:
            return json.load(response)
    except (OSError, ValueError):
        return {}


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"--dir: {folder} cannot be made: {error.strerror}") from None


def _port(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name, str(default))
    if not (text.isdecimal() and 0 < int(text) < 65_534):
        raise SettingsError(f"{name} is {text!r}; it must be a whole number from 1 to 65533")
    return int(text)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"run: {line}", file=sys.stderr, flush=True)


def _failed(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every other error of a user."""
        self.exit(2, f"error: {message}; --help shows what there is\n")


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--mode", choices=MODES, default="kraft", help="of our own Kafka")
    parser.add_argument("--replay", action="store_true", help="yfinance asks a stand-in, with simulated prices")
    parser.add_argument("--dir", type=Path, default=HOME, help="data and logs; default .local")
    return parser
