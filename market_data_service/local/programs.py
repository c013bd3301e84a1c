"""Programs that run beside each other: each with a log of its own, ended in order, and missed when one ends by itself."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from broker.packages import Say
from broker.processes import signals_deferred
from local import SERVICE
from sor.errors import SorError

GRACE_S = 12.0  # a program of the service ends within 10
LINES = 15
_PR_SET_PDEATHSIG = 1
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it


class EndedError(SorError):
    """A program that should have gone on has ended. The message holds the last lines it wrote."""


class Program:
    """One program, running in the service's folder and in a session of its own: a Ctrl-C in the terminal does not reach it.

    Parameters
    ----------
    name
        What it is called; its log is `<name>.log`, and of the run before `<name>.log.1`.
    words
        The words after the interpreter's.
    environment
        All of it.
    logs
        The folder of the log.
    """

    def __init__(self, name: str, words: Sequence[str], environment: Mapping[str, str], logs: Path) -> None:
        self.name, self.log_file = name, logs / f"{name}.log"
        if self.log_file.exists():
            self.log_file.replace(logs / f"{name}.log.1")
        with signals_deferred(), self.log_file.open("wb") as log:
            self.log_file.chmod(0o600)
            self._process = subprocess.Popen(
                [sys.executable, *words],
                cwd=SERVICE,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return self.log_file.read_text(errors="replace")

    def check(self) -> None:
        """Raise EndedError if it has ended."""
        if (code := self._process.poll()) is not None:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise EndedError(f"{self.name} {how}; the end of its log:\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(f"  {line}" for line in self.log.splitlines()[-LINES:])

    def ask(self) -> None:
        """SIGTERM, if it runs."""
        if self._process.poll() is None:
            self._process.terminate()

    def finish(self, grace_s: float = GRACE_S) -> str | None:
        """Wait for its end, SIGKILL after `grace_s`; a line if it came to that."""
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"{self.name} did not end within {grace_s:.0f} s: killed"
        return None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait()


def stop_in_order(stages: Sequence[Sequence[Program]], say: Say) -> None:
    """End programs, one stage after the other; those of a stage at once."""
    for stage in stages:
        for program in stage:
            program.ask()
        deadline = time.monotonic() + GRACE_S
        for program in stage:
            if line := program.finish(max(0.0, deadline - time.monotonic())):
                say(line)


def _end_with_parent() -> None:
    """In the child: SIGTERM once its parent is gone, killed perhaps."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)
