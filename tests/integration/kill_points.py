"""Send a program a signal at one step after the other, each time in a new process, until a run of it is not reached by one.

    python -m tests.integration.kill_points {backtest,kafka_producer} {SIGKILL,SIGTERM,SIGINT} FLAG...

Every line of stdout is a JSON object: the step, how the process ended, its stderr, and the temporary files in --out. The
steps are functions of the programs and of their libraries, wrapped in the process that is going to end.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import backtest
import kafka_producer
from sor import contract, experiment, plot, stream

BEFORE, AFTER = ("before",), ("after",)
BOTH = BEFORE + AFTER
STEPS = {
    "backtest": [
        (stream, "ensure_topic", AFTER),
        (stream.Reader, "claim", AFTER),
        (stream.Reader, "next_unreported", AFTER),
        (backtest, "_from_kafka", AFTER),
        (experiment, "run", AFTER),
        (plot, "results_figure", AFTER),
        (stream.Reader, "check_claim", BOTH),
        (plot, "save", BEFORE),  # an empty temporary file is there
        (Path, "write_text", BEFORE),
        (os, "replace", BOTH),  # it is written; it is the result file
        (stream.Reader, "_commit", BOTH),
        (stream.Reader, "commit_reported", AFTER),
        (stream.Reader, "__exit__", AFTER),
    ],
    "kafka_producer": [
        (stream, "ensure_topic", AFTER),
        (contract, "encode_record", BEFORE),  # of the start, of the end
        (kafka_producer.RunSender, "send_block", BEFORE),
        (stream.Sender, "flush", BOTH),
        (kafka_producer.RunSender, "finish", AFTER),
        (stream.Sender, "__exit__", AFTER),
    ],
}
ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {"backtest": backtest, "kafka_producer": kafka_producer}


class Steps:
    """Counts where the wrapped functions begin and end; the signal comes at the n-th count."""

    def __init__(self, number: int, at: int, report: Path) -> None:
        self.number, self.at, self.report = number, at, report
        self.count = 0

    def wrap(self, owner: object, name: str, sides: tuple[str, ...]) -> None:
        """Count the beginnings, the ends or both of the calls of `owner.name` from now on."""
        wrapped = getattr(owner, name)

        def counted(*args: object, **options: object) -> object:
            if "before" in sides:
                self.passed(f"before {name}")
            result = wrapped(*args, **options)
            if "after" in sides:
                self.passed(f"after {name}")
            return result

        setattr(owner, name, counted)

    def passed(self, step: str) -> None:
        """One more step is reached."""
        self.count += 1
        if self.count == self.at:
            self.report.write_text(step)
            os.kill(os.getpid(), self.number)


def ended_at(program: str, number: int, at: int, flags: list[str], folder: Path) -> dict[str, object]:
    """Run the program in a process of its own, which gets the signal at its `at`-th step."""
    report, stderr = folder / "step", folder / "stderr"
    report.write_text("")
    child = os.fork()
    if child == 0:
        _become(program, Steps(number, at, report), flags, stderr)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"step": report.read_text(), "code": code, "stderr": stderr.read_text()}


def _load_kernels(folder: Path) -> None:
    """So that not every process has to."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        backtest.main(["--csv", str(ROOT / "l1_day.csv"), "--out", str(folder), "--evaluate", "off"])


def _become(program: str, steps: Steps, flags: list[str], stderr: Path) -> None:
    code = 70
    try:
        os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for owner, name, sides in STEPS[program]:
            steps.wrap(owner, name, sides)
        code = PROGRAMS[program].main(flags)
        sys.stderr.flush()
    finally:
        os._exit(code)


def main(program: str, number: str, *flags: str) -> None:
    """Go through the steps; a line for each, the last for the run that got no signal."""
    with tempfile.TemporaryDirectory() as folder:
        _go_through(program, number, flags, Path(folder))


def _go_through(program: str, number: str, flags: tuple[str, ...], folder: Path) -> None:
    out = Path(flags[flags.index("--out") + 1]) if "--out" in flags else folder
    if program == "backtest":
        _load_kernels(folder)
    for at in itertools.count(1):
        ended = ended_at(program, getattr(signal, number), at, list(flags), folder)
        ended["temporary"] = sum(1 for _ in out.glob(".*.tmp"))
        print(json.dumps(ended), flush=True)
        sys.stdin.readline()  # whoever reads the lines says when to go on
        if not ended["step"]:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
