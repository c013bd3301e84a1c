"""A JVM that outlives the command that started it: its pid file, its identity, its end.

A pid alone proves nothing, for pids are used again: each JVM carries its folder and role on its command line, and is
signalled only while the command line of the recorded pid still shows them.
"""

import contextlib
import datetime
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from broker.errors import BrokerError

NOBODY = 2**31 - 1  # no process has this pid
KEPT = 2  # older logs; MaxBackupIndex of log4j.properties, which numbers them the same way
_POLL_S = 0.05
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked this program to end; not an Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def exit_code(self) -> int:
        """As a shell gives it."""
        return 128 + self.number


def catch_signals() -> None:
    """Turn Ctrl-C, SIGTERM and SIGHUP into Interrupted; later ones are ignored, for the cleaning up takes its time."""
    for kind in _ENDING:
        signal.signal(kind, _interrupt)


def _interrupt(number: int, _frame: object) -> None:
    for kind in _ENDING:
        signal.signal(kind, signal.SIG_IGN)
    raise Interrupted(number)


def command_line(pid: int) -> str:
    """The command line of a process; empty if there is none (a zombie has none either)."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""
    ps = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip()


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Hold back Ctrl-C, SIGTERM and SIGHUP for the length of the block, so that a child is never started unrecorded."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {kind: signal.signal(kind, lambda number, _frame: held.append(number)) for kind in _ENDING}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        for number in held[:1]:
            signal.raise_signal(number)


class Jvm:
    """One JVM of a folder.

    Parameters
    ----------
    folder
        Where it runs: its pid file, `logs/` and relative paths of its settings are there.
    role
        `kafka` or `zookeeper`; names the pid file and the log.
    """

    def __init__(self, folder: Path, role: str) -> None:
        self.folder, self.role = folder, role
        self.pid_file = folder / f"{role}.pid"
        self.log_file = folder / "logs" / f"{role}.log"
        self.out_file = folder / "logs" / f"{role}.out"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def marker(self) -> list[str]:
        """The options that tell this JVM from every other process."""
        return [f"-Dlocal.kafka.dir={self.folder}", f"-Dlocal.kafka.role={self.role}"]

    @property
    def recorded_pid(self) -> int | None:
        """What the pid file says, true or stale."""
        try:
            return int(self.pid_file.read_text())
        except (OSError, ValueError):
            return None

    @property
    def pid(self) -> int | None:
        """The pid of the running JVM; None if it is not running."""
        pid = self.recorded_pid
        if pid is None:
            return None
        if self._child is not None and self._child.pid == pid:  # its command line is empty for a moment during exec
            return pid if self._child.poll() is None else None
        return pid if " ".join(self.marker) in command_line(pid) else None

    @property
    def listens(self) -> str | None:
        """What the running JVM was told to listen on, from its command line."""
        return self._told("listens")

    @property
    def secure(self) -> bool:
        """Whether the running JVM is of a secured broker, from its command line."""
        return self._told("secure") == "true"

    def _told(self, name: str) -> str | None:
        words = command_line(self.pid).split() if self.pid else []
        return next((word.split("=", 1)[1] for word in words if word.startswith(f"-Dlocal.kafka.{name}=")), None)

    def spawn(
        self, java: str, options: Sequence[str], main: Sequence[str], listens: str, *, secure: bool = False
    ) -> None:
        """Start the JVM in a session of its own (a Ctrl-C in the terminal does not reach it) and record its pid.

        What a `secure` one writes, nobody but its owner can read.
        """
        self.out_file.parent.mkdir(parents=True, exist_ok=True)
        self.log_file.unlink(missing_ok=True)  # a failure shows the end of the log: of this attempt, not of an old one
        told = [f"-Dlocal.kafka.listens={listens}", f"-Dlocal.kafka.secure={str(secure).lower()}"]
        command = [java, *self.marker, *told, *options, *main]
        with signals_deferred(), self.out_file.open("wb") as out:
            self._child = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077 if secure else -1,
            )
            self.pid_file.write_text(f"{self._child.pid}\n")

    def keep_logs(self) -> None:
        """Before a start: what the last one wrote moves on by one number, so that why it ended can still be read."""
        for path in (self.log_file, self.out_file):
            for number in range(KEPT, 0, -1):
                older, newer = (path.with_name(f"{path.name}.{n}" if n else path.name) for n in (number, number - 1))
                if newer.exists():
                    newer.replace(older)

    def wait_ready(self, ready, timeout_s: float) -> None:
        """Wait until `ready()` is true; BrokerError with the end of the log if the JVM ends or `timeout_s` passes."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.pid is None:
                raise BrokerError(f"{self.role} ended while starting; the end of its log:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"{self.role} gave no answer in {timeout_s:.0f} s; the end of its log:\n{self.log_tail()}"
                )
            time.sleep(_POLL_S)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines that the JVM wrote, to its log and to its output."""
        texts = [path.read_text(errors="replace") for path in (self.log_file, self.out_file) if path.exists()]
        return "\n".join(f"  {line}" for text in texts for line in text.splitlines()[-lines:])

    def load(self) -> str:
        """How long the running JVM has been up, and the memory it holds."""
        import psutil

        try:
            process = psutil.Process(self.pid or NOBODY)
            up_s = int(time.time() - process.create_time())
            return f"up {datetime.timedelta(seconds=up_s)}, {process.memory_info().rss / (1 << 20):.0f} MiB"
        except psutil.Error:
            return "ended just now"

    def stop(self, grace_s: float) -> str | None:
        """End the JVM: SIGTERM, after `grace_s` SIGKILL; a line on what was done, None if nothing was recorded."""
        recorded, pid = self.recorded_pid, self.pid
        if pid is None:
            self.pid_file.unlink(missing_ok=True)
            return recorded and f"{self.role}: stale pid file removed (pid {recorded} is not this {self.role})"
        self._signal(pid, signal.SIGTERM)
        if self._gone_within(grace_s):
            return f"{self.role}: stopped (pid {pid})"
        self.kill()
        return f"{self.role}: killed (pid {pid}), for it did not stop within {grace_s:.0f} s"

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone. Its pid file goes too."""
        if (pid := self.pid) is not None:
            self._signal(pid, signal.SIGKILL)
            self._gone_within(30)

    def _signal(self, pid: int, kind: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, kind)

    def _gone_within(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.pid is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        self.pid_file.unlink(missing_ok=True)
        return True
