"""What relay, consumer and poller share: flags, settings, logging, the metrics port, signals, the wait for the database, heartbeats.

A program is `sys.exit(service.main("poller", __doc__, work))`. The first SIGTERM or SIGINT sets `stop`, and `work` returns
within SHUTDOWN_S; the second ends the process at once.
Exit codes: 0 stopped or done, 1 failed, 2 wrong usage, a bad setting or a taken port, 130 and 143 at the second signal.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import prometheus_client
import psycopg
from psycopg.types.json import Jsonb

from app import database, logs, settings
from app.database import Connection
from app.errors import ServiceError, SettingsError
from app.settings import Settings

SHUTDOWN_S = 9.0
BEAT_S = 2.0
WAIT_S = (0.2, 5.0)
AGAIN_S = 0.5

log = logging.getLogger(__name__)


class Bell:
    """Wakes whoever polls `fileno`; may be rung from any thread and in a signal's handler, where threading.Event may not."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        for each in (self._read, self._write):
            os.set_blocking(each, False)
        weakref.finalize(self, _close, self._read, self._write)

    def fileno(self) -> int:
        """Readable from the first `ring` to the next `silence`."""
        return self._read

    def ring(self) -> None:
        """Wake them."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"!")

    def silence(self) -> None:
        """Forget that it rang."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)


class Stop:
    """Whether the process was asked to end."""

    def __init__(self) -> None:
        self._bell = Bell()
        self._is_set = False

    def fileno(self) -> int:
        """Readable once it is set, so that a program can wait for this and for a socket together."""
        return self._bell.fileno()

    def is_set(self) -> bool:
        """It was asked to end."""
        return self._is_set

    def set(self) -> None:
        """Ask it to end."""
        self._is_set = True
        self._bell.ring()

    def wait(self, seconds: float | None) -> bool:
        """Wait at most so long (None: for ever) and say whether it is set; it wakes at once when it is."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        poll.poll(None if seconds is None else max(0.0, seconds) * 1000)
        return self._is_set


class Stopped(Exception):  # noqa: N818 -- not an error: a wait that a signal cut short
    """The process was asked to end while it waited; `main` ends it with 0."""


Work = Callable[[Settings, Stop, argparse.Namespace], "int | None"]


def main(
    name: str,
    description: str,
    work: Work,
    argv: Sequence[str] | None = None,
    add_flags: Callable[[argparse.ArgumentParser], None] | None = None,
    *,
    has_metrics: bool = True,
) -> int:
    """Run `work(settings, stop, flags)`; its exit code, which is 0 where it returns None.

    Parameters
    ----------
    name
        What logs call the program.
    description
        The text of `--help`.
    argv
        The words of the command line after the program's name; None takes the process's.
    add_flags
        Adds the program's own flags.
    has_metrics
        Whether they are served on METRICS_PORT: not those of a tool, which runs beside the program that has the port.
    """
    flags = _flags(description, argv, add_flags)
    try:
        given = settings.load()
        _log_to_stderr(name, given.log_level)
        with _metrics(given.metrics_port if has_metrics else 0, given.api_host):
            return _run(work, given, flags)
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    except psycopg.Error as error:
        print(f"error: database: {first_line(error)}", file=sys.stderr)
        return 1


def connect(given: Settings, stop: Stop, name: str) -> Connection:
    """A connection to the database, whose tables are there; says so once where it has to wait. Raises Stopped."""
    pause_s, most_s = WAIT_S
    said: type[Exception] | None = None
    while not stop.is_set():
        try:
            return _connect(given, name)
        except (psycopg.OperationalError, _NoTablesError) as error:
            if type(error) is not said:
                log.warning("database: %s; waiting for it", first_line(error))
            said = type(error)
        stop.wait(pause_s)
        pause_s = min(2 * pause_s, most_s)
    raise Stopped


def keep_connected(given: Settings, stop: Stop, name: str, loop: Callable[[Connection], Any]) -> None:
    """Call `loop(connection)`, again on a new connection whenever the database went away; until it returns or `stop` is set.

    A statement that the server cancelled, for it took too long, is a database that does not answer.
    """
    while not stop.is_set():
        connection = connect(given, stop, name)
        try:
            return loop(connection)
        except database.AWAY as error:
            log.warning("database went away: %s", first_line(error))
        finally:
            connection.close()
        stop.wait(AGAIN_S)
    return None


class Heart:
    """Writes every BEAT_S that this process works, for `GET /ready`.

    Parameters
    ----------
    name
        `relay`, `consumer` or `poller`.
    given
        The settings.
    """

    def __init__(self, name: str, given: Settings) -> None:
        self.name = name
        self.instance = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._next_beat = 0.0

    def beat(self, connection: Connection, **details: Any) -> None:
        """Write `details` if BEAT_S have passed since the last time; outside a transaction. Rows a day old are removed."""
        if time.monotonic() < self._next_beat:
            return
        values = {"name": self.name, "instance": self.instance, "details": Jsonb(details)}
        connection.execute(_BEAT, values)
        self._next_beat = time.monotonic() + BEAT_S

    def end(self, connection: Connection) -> None:
        """Remove the row: this process has ended as it should."""
        connection.execute("DELETE FROM heartbeats WHERE name = %s AND instance = %s", (self.name, self.instance))


def first_line(error: BaseException) -> str:
    """What an error says, without the lines that libraries add."""
    return (str(error) or type(error).__name__).splitlines()[0]


_BEAT = """
WITH dead AS (
    DELETE FROM heartbeats
    WHERE beat_at < now() - interval '1 day' AND NOT (name = %(name)s AND instance = %(instance)s)
)
INSERT INTO heartbeats (name, instance, beat_at, details) VALUES (%(name)s, %(instance)s, now(), %(details)s)
ON CONFLICT (name, instance) DO UPDATE SET beat_at = excluded.beat_at, details = excluded.details
"""


class _NoTablesError(ServiceError):
    """The database was not set up yet."""

    def __str__(self) -> str:
        return "it has no tables yet; scripts/create_tables.py makes them"


def _connect(given: Settings, name: str) -> Connection:
    connection = database.connect(given, name)
    try:
        row = connection.execute("SELECT to_regclass('heartbeats') IS NULL AS is_empty").fetchone()
        if row and row["is_empty"]:
            raise _NoTablesError
    except BaseException:
        connection.close()
        raise
    return connection


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every other error of a user."""
        self.exit(2, f"error: {message}; --help shows what there is\n")


def _flags(
    description: str, argv: Sequence[str] | None, add_flags: Callable[[argparse.ArgumentParser], None] | None
) -> argparse.Namespace:
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    if add_flags:
        add_flags(parser)
    return parser.parse_args(argv)


def _log_to_stderr(name: str, level: str) -> None:
    logs.to_stderr(name, level, replace=True)
    logging.getLogger("kafka").setLevel(max(logging.getLevelName(level), logging.WARNING))
    logging.getLogger("psycopg").setLevel(logging.ERROR)


@contextlib.contextmanager
def _metrics(port: int, host: str) -> Iterator[None]:
    """Metrics are served on the port for the block, where that is not 0."""
    if not port:
        yield
        return
    try:
        server, thread = prometheus_client.start_http_server(port, host)
    except OSError as error:
        raise SettingsError(f"METRICS_PORT: {host}:{port} cannot be listened on: {error.strerror}") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _run(work: Work, given: Settings, flags: argparse.Namespace) -> int:
    stop, done = Stop(), threading.Event()
    threading.Thread(target=_end_in_time, args=(stop, done), name="shutdown", daemon=True).start()
    with _signals(stop):
        try:
            return work(given, stop, flags) or 0
        except Stopped:
            return 0
        finally:
            done.set()
            stop.set()


def _end_in_time(stop: Stop, done: threading.Event) -> None:
    """What is committed is committed, and the rest is done again by the next process: nothing is worth a longer wait."""
    stop.wait(None)
    if not done.wait(SHUTDOWN_S):
        print(f"error: did not stop within {SHUTDOWN_S:.0f} s; what was under way is given up", file=sys.stderr)
        os._exit(1)


@contextlib.contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    """For the block the first SIGTERM or SIGINT sets `stop`, and the second ends the process."""

    def ask(number: int, _frame: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _close(*files: int) -> None:
    for each in files:
        os.close(each)
