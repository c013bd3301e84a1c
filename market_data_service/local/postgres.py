"""A PostgreSQL of a folder of its own: TCP on 127.0.0.1, one user with a password, one database.

    with EmbeddedPostgres(folder, password="...") as postgres:
        psycopg.connect(postgres.url)

Sorting and case are those of the C locale, whatever the machine's: symbols sort by their characters' codes. Memory is
held small (shared_buffers 32 MB). Data stay in the folder; a start after a kill recovers from the write-ahead log.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from broker import ports
from broker.errors import AlreadyRunningError
from broker.packages import Say
from broker.processes import command_line, signals_deferred
from local.account import Account, PostgresError, place_data, programs

HOST = "127.0.0.1"
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "max_wal_size": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}
UNSAFE = {"fsync": "off", "full_page_writes": "off"}  # of a machine that loses power; a kill -9 loses nothing
_READY_S = 60.0
_GRACE_S = 15.0
_POLL_S = 0.02
_PORT_TRIES = 5
_IN_USE = "Address already in use"
_ORPHANS = "shared memory block"  # processes of a killed server that have not noticed yet


class EmbeddedPostgres:
    """A PostgreSQL of its own folder.

    Parameters
    ----------
    folder
        Data and log; made if missing. One server a folder. `data` may become a link (local/account.py).
    port
        Where it listens on 127.0.0.1; 0 takes a free port, which it keeps over `kill` and `start`.
    user, password
        The only login, a superuser.
    database
        Made if missing.
    fsync
        False: commits do not wait for the disk. For tests.
    say
        Receives one line per step that takes its time.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        password: str,
        port: int = 0,
        user: str = "postgres",
        database: str = "marketdata",
        fsync: bool = True,
        say: Say = lambda line: None,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.user, self.password, self.database, self.say = user, password, database, say
        self._any_port = port == 0
        self.port = port or ports.free_port()
        self._settings = SETTINGS | ({} if fsync else UNSAFE)
        self._child: subprocess.Popen[bytes] | None = None
        self.log_file = self.folder / "postgres.log"

    @property
    def data(self) -> Path:
        """Where the server keeps its files."""
        return (self.folder / "data").resolve()

    @property
    def url(self) -> str:
        """For clients on this machine; it holds the password."""
        return self.url_of(self.database)

    def url_of(self, database: str) -> str:
        """The same for another database of this server."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"postgresql://{login}@{HOST}:{self.port}/{quote(database, safe='')}"

    @property
    def pid(self) -> int | None:
        """The pid of the folder's running server, which another program may have started; None if it is not running."""
        if self._child is not None:
            return self._child.pid if self._child.poll() is None else None
        recorded = self._recorded_pid()
        return recorded if recorded and str(self.data) in command_line(recorded) else None

    @property
    def is_running(self) -> bool:
        """Whether the folder's server is there, ready or not."""
        return self.pid is not None

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and return when the database answers; whatever ends this early leaves no server behind.

        Raises
        ------
        AlreadyRunningError, PortTakenError
            The folder's server is up; another program listens on the port.
        PostgresError
            It did not start, with the end of its log; or its data are of another user or password.
        """
        if (pid := self.pid) is not None:
            raise AlreadyRunningError(f"a PostgreSQL of {self.folder} is running already, pid {pid}")
        self._child = None
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._any_port:
            ports.check_free(HOST, self.port, "; another one: POSTGRES_PORT")
        account = Account.for_data(self.data)
        place_data(self.folder, account)
        atexit.register(self.stop)
        try:
            self._make_data(account)
            self._serve(account)
            self._make_database()
        except BaseException:
            self.stop(grace_s=2.0)
            raise

    def stop(self, grace_s: float = _GRACE_S) -> str | None:
        """Disconnect clients and shut down, after `grace_s` with SIGKILL; a line on what was done, None if nothing was."""
        atexit.unregister(self.stop)
        if (pid := self.pid) is None:
            return None
        _signal(pid, signal.SIGINT)
        if self._is_gone_within(grace_s):
            return f"postgres: stopped (pid {pid})"
        self.kill()
        return f"postgres: killed (pid {pid}), for it did not stop within {grace_s:.0f} s"

    def kill(self) -> None:
        """SIGKILL to the server and all its processes at once. `start` brings it back, on the same port and data."""
        if (pid := self.pid) is None:
            return
        family = [psutil.Process(pid)]
        with contextlib.suppress(psutil.NoSuchProcess):
            family += family[0].children(recursive=True)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._is_gone_within(_GRACE_S)
        deadline = time.monotonic() + _GRACE_S
        while any(map(_is_alive, family)) and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def remove(self) -> None:
        """Stop, and remove the data, wherever they are."""
        self.stop()
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def tool(self, name: str, *words: str, database: str = "", stdin: str = "") -> str:
        """What one of PostgreSQL's client programs (psql, pg_dump) wrote about a database of this server.

        Raises
        ------
        PostgresError
            If it failed.
        """
        account = Account.for_data(self.data)
        started = account.popen
        started["env"] |= {"PGPASSWORD": self.password}
        where = ["-h", HOST, "-p", str(self.port), "-U", self.user, "-d", database or self.database]
        return _output_of([str(programs(account) / name), *where, *words], started, stdin)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines that the server wrote."""
        text = self.log_file.read_text(errors="replace") if self.log_file.exists() else ""
        return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])

    def _make_data(self, account: Account) -> None:
        """Write an empty cluster, at the first start; whole or not at all."""
        data = self.data
        if (data / "PG_VERSION").exists():
            return
        self.say(f"making PostgreSQL's data in {data}")
        with tempfile.TemporaryDirectory(dir=data.parent, prefix=".initdb-") as made:
            work, fresh, secret = Path(made), Path(made) / "data", Path(made) / "password"
            secret.write_text(f"{self.password}\n")
            for path in (work, secret):
                account.owns(path)
            login = [f"--username={self.user}", f"--pwfile={secret}", "--auth=scram-sha-256"]
            form = ["--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
            _output_of([str(programs(account) / "initdb"), "-D", str(fresh), *login, *form], account.popen)
            shutil.rmtree(data, ignore_errors=True)
            fresh.rename(data)

    def _serve(self, account: Account) -> None:
        deadline = time.monotonic() + _READY_S
        tries = _PORT_TRIES
        while not self._spawn(account, deadline):
            tail = self.log_tail()
            if _ORPHANS in tail and time.monotonic() < deadline:
                time.sleep(0.1)
            elif _IN_USE in tail and self._any_port and (tries := tries - 1):
                self.port = ports.free_port()
            else:
                raise PostgresError(f"PostgreSQL did not start; the end of its log:\n{tail}")

    def _spawn(self, account: Account, deadline: float) -> bool:
        """Start the server; whether it came to be ready before it ended or `deadline` passed."""
        self._remove_foreign_pid_file()
        settings = self._settings | {"port": str(self.port)}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(programs(account) / "postgres"), "-D", str(self.data), *words]
        with signals_deferred(), self.log_file.open("wb") as log:
            self.log_file.chmod(0o600)
            started = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True}
            self._child = subprocess.Popen(command, cwd=self.data, **started, **account.popen)
        while self._child.poll() is None and time.monotonic() < deadline:
            if self._is_ready():
                return True
            time.sleep(_POLL_S)
        return False

    def _is_ready(self) -> bool:
        """What the server says of itself in the eighth line of postmaster.pid."""
        lines = self._pid_lines()
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _make_database(self) -> None:
        try:
            with psycopg.connect(self.url_of("postgres"), autocommit=True, connect_timeout=10) as admin:
                if admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [self.database]).fetchone() is None:
                    admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))
        except psycopg.OperationalError as error:
            if "password authentication failed" not in str(error):
                raise PostgresError(f"PostgreSQL on port {self.port} gives no answer: {error}") from None
            raise PostgresError(
                f"the data in {self.folder} were made with another POSTGRES_USER or POSTGRES_PASSWORD than {self.user!r} "
                "and what is set now; set those, or remove that folder"
            ) from None

    def _remove_foreign_pid_file(self) -> None:
        """After a crash the pid in postmaster.pid may be another program's by now; the server would not start then."""
        recorded = self._recorded_pid()
        if recorded and psutil.pid_exists(recorded) and str(self.data) not in command_line(recorded):
            (self.data / "postmaster.pid").unlink()

    def _recorded_pid(self) -> int | None:
        lines = self._pid_lines()
        return int(lines[0]) if lines and lines[0].isdigit() else None

    def _pid_lines(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _is_gone_within(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.pid is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True


def _signal(pid: int, kind: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, kind)


def _is_alive(process: psutil.Process) -> bool:
    """Not ended; one that nobody has waited for yet counts as ended."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _output_of(command: list[str], started: dict[str, object], stdin: str = "") -> str:
    run = subprocess.run
    done = run(command, cwd="/", input=stdin, capture_output=True, text=True, timeout=120, check=False, **started)
    if done.returncode:
        raise PostgresError(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
