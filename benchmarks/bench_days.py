"""Sixteen days evaluated by two local Dask workers beside a bare multiprocessing pool of two, starting and ending both included.

python -m benchmarks.bench_days
"""

from __future__ import annotations

import gzip
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from time import perf_counter

import backtest
import config
import utils
from benchmarks.table import Row, show
from sor import days

ROOT = Path(__file__).resolve().parents[1]
FILES = 16
PROCESSES = 2
ROUNDS = 2
LEAST = 0.9  # of the pool's speed
FIRST = date(2024, 8, 5)  # the day of l1_day.csv


def rows() -> list[Row]:
    """One row: ours, what it stands beside, their ratio, the bar, and ok: answer right and bar met."""
    with tempfile.TemporaryDirectory() as folder:
        _make_files(Path(folder))
        runs = [{how: _measured(how, folder) for how in ("dask", "pool")} for _ in range(ROUNDS)]
    ours, beside = (min((each[how] for each in runs), key=lambda run: run["all_s"]) for how in ("dask", "pool"))
    ratio = beside["all_s"] / ours["all_s"]
    right = len({run["result"] for each in runs for run in each.values()}) == 1
    return [
        {
            "name": f"--days, {FILES} files of {ours['rows']} rows in all, {PROCESSES} workers, speed",
            "ours": f"Dask {ours['all_s']:.1f} s, of which starting and ending {ours['idle_s']:.1f} s",
            "beside": f"pool {beside['all_s']:.1f} s, of which starting and ending {beside['idle_s']:.1f} s",
            "ratio": round(ratio, 3),
            "bar": f"ratio >= {LEAST}",
            "ok": right and ratio >= LEAST,
        }
    ]


def main(argv: list[str]) -> int:
    """Print the row as a markdown table, 1 if it is not ok; with arguments, measure one way in this process."""
    if not argv:
        return show(rows())
    print(json.dumps(_measure(*argv)))
    return 0


def _make_files(folder: Path) -> None:
    """The simulated day under sixteen dates."""
    text = (ROOT / "l1_day.csv").read_bytes()
    for i in range(FILES):
        day = str(FIRST + timedelta(i))
        packed = gzip.compress(text.replace(str(FIRST).encode(), day.encode()), 6, mtime=0)
        (folder / f"{day}.csv.gz").write_bytes(packed)


def _measured(how: str, folder: str) -> dict:
    """Times and result of one way, each of its two runs in a process of its own that may use two cores."""
    idle, whole = (
        json.loads(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.bench_days", how, what, folder],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
        )
        for what in ("idle", "evaluate")
    )
    return {**whole, "idle_s": idle["all_s"]}


def _measure(how: str, what: str, folder: str) -> dict:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:PROCESSES])
    settings = config.settings("backtest", [], "", {})
    plan = backtest._plan(settings, backtest._venue_table(settings))
    files = days.find(f"{folder}/*.csv.gz")
    task = partial(days.evaluate_file, plan=plan) if what == "evaluate" else _nothing
    start_s = perf_counter()
    found = days.run(files, task, days.LOCAL) if how == "dask" else _pool(files, task)
    all_s = perf_counter() - start_s
    if what == "idle":
        return {"all_s": all_s}
    result = utils.json_text([days.section(found, plan), days.data_section(found)])
    return {
        "all_s": all_s,
        "rows": days.data_section(found)["rows"],
        "result": hashlib.sha256(result.encode()).hexdigest(),
    }


def _pool(files: list[days.File], task: days.Task) -> list[days.Day]:
    with multiprocessing.Pool(PROCESSES) as pool:
        return sorted(pool.imap_unordered(task, files), key=lambda day: day.name)


def _nothing(file: days.File) -> days.Day:
    return days.Day(file.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
