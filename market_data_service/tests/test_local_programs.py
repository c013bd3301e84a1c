"""local/programs.py: logs, the order of the end, and what happens to programs whose parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from local import SERVICE, programs
from local.programs import EndedError, Program, stop_in_order

NOTES = "import os, signal, sys, time\n"
ENDS_LATE = """
def end(number, frame):
    with open(sys.argv[1], "a") as notes: notes.write(f"{sys.argv[2]} asked\\n")
    time.sleep(0.3)
    with open(sys.argv[1], "a") as notes: notes.write(f"{sys.argv[2]} ended\\n")
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(60)
"""
IGNORES = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
Begin = Callable[..., Program]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """A function that starts a program of some lines of Python."""
    started: list[Program] = []

    def start(name: str, script: str, *words: str) -> Program:
        started.append(Program(name, ["-c", NOTES + script, *words], os.environ, tmp_path))
        return started[-1]

    yield start
    for program in started:
        program.kill()


def is_up(program: Program) -> None:
    deadline = time.monotonic() + 20
    while "up" not in program.log:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(program: Program) -> str:
    """What `check` says once it has ended."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            program.check()
        except EndedError as error:
            return str(error)
        time.sleep(0.02)
    raise AssertionError(f"{program.name} goes on")


def test_a_program_that_ended_is_named_with_the_last_lines_it_wrote(begin: Begin) -> None:
    program = begin("relay", "print(*range(20), sep='\\n', flush=True); sys.stderr.write('why\\n'); sys.exit(3)")
    first, *rest = ended(program).splitlines()
    assert first == "relay ended with exit code 3; the end of its log:"
    assert rest == [f"  {n}" for n in range(6, 20)] + ["  why"]


def test_the_signal_that_ended_a_program_is_named(begin: Begin) -> None:
    program = begin("poller", "os.kill(os.getpid(), signal.SIGKILL)")
    assert ended(program).startswith("poller was ended by SIGKILL;")


def test_a_program_that_runs_is_fine_and_its_log_is_private(begin: Begin) -> None:
    program = begin("api", IGNORES)
    is_up(program)
    program.check()
    assert program.log == "up\n"
    assert program.log_file.stat().st_mode & 0o777 == 0o600


def test_the_log_of_the_run_before_is_kept(begin: Begin, tmp_path: Path) -> None:
    ended(begin("api", "print('first')"))
    ended(begin("api", "print('second')"))
    assert (tmp_path / "api.log.1").read_text() == "first\n"
    assert (tmp_path / "api.log").read_text() == "second\n"


def test_a_stage_ends_before_the_next_one_is_asked(begin: Begin, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    api, poller, relay = (begin(name, ENDS_LATE, str(notes), name) for name in ("api", "poller", "relay"))
    for program in (api, poller, relay):
        is_up(program)
    said: list[str] = []
    stop_in_order([[poller, api], [relay]], said.append)
    lines = notes.read_text().splitlines()
    assert sorted(lines[:2]) == ["api asked", "poller asked"]
    assert lines[4:] == ["relay asked", "relay ended"]
    assert said == []


def test_a_program_that_does_not_end_is_killed_and_said_to_be(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "GRACE_S", 0.3)
    program = begin("consumer", IGNORES)
    is_up(program)
    said: list[str] = []
    stop_in_order([[program]], said.append)
    assert [line.split(" within")[0] for line in said] == ["consumer did not end"]
    assert not psutil.pid_exists(program.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_programs_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, pathlib, time
from local.programs import Program
program = Program("child", ["-c", "import time; time.sleep(60)"], os.environ, pathlib.Path({str(tmp_path)!r}))
print(program.pid, flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=SERVICE, stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    _, left = psutil.wait_procs([child], timeout=10)
    assert left == [] or left[0].status() == psutil.STATUS_ZOMBIE
