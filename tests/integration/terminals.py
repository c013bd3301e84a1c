"""The programs as processes around a broker, the way people start them; used by the tests of this folder and by chaos.py."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PY = sys.executable
ROWS = 4_000
GRID = ["--lambda-over", "0.01", "--lambda-under", "0.02", "--theta-queue", "0"]


def write_morning(path: Path) -> Path:
    """The first rows of l1_day.csv, and a bad one."""
    with open(ROOT / "l1_day.csv", encoding="utf-8") as whole:
        lines = [next(whole) for _ in range(ROWS)]
    columns = next(csv.reader(lines[:1]))
    bad = lines[100].rstrip("\n").split(",")
    bad[columns.index("action")] = "X"
    path.write_text("".join([*lines, ",".join(bad) + "\n"]), encoding="utf-8")
    return path


class Terminals:
    """Starts the programs against one broker and topic, and ends those that are left."""

    def __init__(self, broker, topic, folder, python=(PY,)):
        self.broker, self.topic, self.folder, self.python = broker, topic, folder, list(python)
        self.started = []

    def start(self, program, *words, python=None, **environment):
        env = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap, "KAFKA_TOPIC": self.topic, **environment}
        process = subprocess.Popen(
            [*(python or self.python), str(ROOT / program), *map(str, words)],
            cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def producer(self, day, *words, **environment):
        words = ["--speed", "0", *words] if "--speed" not in words else words
        return self.start("kafka_producer.py", "--csv", day, *words, **environment)

    def backtest(self, out, *words, **environment):
        words = words if "--timeout" in words else ["--timeout", "60", *words]
        return self.start("backtest.py", "--out", self.folder / out, *GRID, *words, **environment)

    def output(self, out):
        return json.loads((self.folder / out / "output.json").read_text())

    def end(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def done(process, code=0):
    """(stdout, stderr) of a process that ends with `code`."""
    out, err = process.communicate(timeout=150)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    return out, err


def but_run(output):
    """output.json as text without its section `run`."""
    return json.dumps({name: section for name, section in output.items() if name != "run"})


def wait_for(process, text):
    """Read a process's stderr until a line holds `text`."""
    seen = ""
    while text not in seen:
        piece = process.stderr.readline()
        assert piece, f"ended before it said {text!r}: {seen}"
        seen += piece
    return seen
