"""Programs of the service as processes of their own, for tests."""

from __future__ import annotations

import os
import re
import subprocess
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from app.settings import Settings
from local import SERVICE

OURS = {each.metadata["env"] for each in fields(Settings)}
READY_S = 30.0
END_S = 15.0


class Program:
    """A script of the service as a process of its own; what it writes is kept.

    Parameters
    ----------
    command
        What is run, from the service's folder.
    environment
        Added to this process's, from which the service's own variables are taken away.
    folder
        Where its output is kept.
    """

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.stdout_file, self.stderr_file = (folder / f"{uuid.uuid4().hex}.{kind}" for kind in ("out", "err"))
        kept = {name: text for name, text in os.environ.items() if name not in OURS}
        with self.stdout_file.open("wb") as out, self.stderr_file.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                cwd=SERVICE,
                env=kept | {"PYTHONUNBUFFERED": "1"} | environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        """What it wrote to stdout so far."""
        return self.stdout_file.read_text(errors="replace")

    @property
    def err(self) -> str:
        """What it wrote to stderr so far."""
        return self.stderr_file.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, text: str, timeout_s: float = READY_S) -> str:
        """The first match of the pattern `text` in what it writes; fails if it ends first, or in `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            ended = not self.is_running
            if found := re.search(text, self.out + self.err):
                return found[0]
            told = f"{text!r} not seen; stdout:\n{self.out}\nstderr:\n{self.err}"
            assert not ended, f"ended with {self.process.returncode}, {told}"
            assert time.monotonic() < deadline, told
            time.sleep(0.02)

    def finish(self, timeout_s: float = READY_S) -> int:
        """Wait for its end; its exit code (a negative signal number if it was killed)."""
        return self.process.wait(timeout_s)

    def stop(self, timeout_s: float = END_S) -> int:
        """SIGTERM, and its exit code; fails if it has not ended after `timeout_s`."""
        self.process.terminate()
        return self.finish(timeout_s)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(END_S)


def end(programs: Sequence[Program]) -> None:
    """End all that still run: SIGTERM, and SIGKILL to those that have not ended after END_S."""
    for program in programs:
        program.process.terminate()
    for program in programs:
        with suppress(subprocess.TimeoutExpired):
            program.finish(END_S)
        program.kill()
