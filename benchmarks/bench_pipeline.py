"""Time and memory of the two programs as they are started by hand, on one core.

python -m benchmarks.bench_pipeline

The ratio is to the bar, or to the other side. Peak memory is the child's ru_maxrss; every child is started by a small
interpreter of its own, since Linux counts what the starting process held before the exec.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from subprocess import run

from benchmarks.table import Row, show
from broker.local import LocalBroker

ROOT = Path(__file__).resolve().parent.parent
CSV = ROOT / "l1_day.csv"
REAL_DAY = ROOT.parent / "shared" / "data" / "real_dev.csv.gz"
EVALUATION_S = {CSV: 10, REAL_DAY: 30}  # the bars
DAYS = 10
LEVEL = 1.2  # one day ends a little before memory is level: measured 109 MB, and 119, 121, 122 at 5, 10, 20 days
_LAUNCHER = """
import json, os, sys, time
start_s = time.perf_counter()
if hasattr(os, "sched_setaffinity"):  # every program on one core, always the same
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - start_s, usage.ru_maxrss / 1024]))
"""


@dataclass(frozen=True)
class Ended:
    """A program that has ended."""

    code: int
    wall_s: float
    peak_mb: float
    stderr: str


def rows() -> list[Row]:
    """Wall time and memory of backtest.py, memory of kafka_producer.py."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [*_backtest_rows(folder), *_evaluation_rows(folder), *_producer_rows(folder)]


def main() -> int:
    """Print the rows as a markdown table; 1 if one of them is not ok."""
    return show(rows())


def _backtest_rows(folder: Path) -> list[Row]:
    words = ("--csv", str(CSV), "--out", str(folder), "--evaluate", "off")
    cold, *warm = (_started("backtest.py", *words, NUMBA_CACHE_DIR=str(folder / "compiled")) for _ in range(4))
    wall_s, peak_mb = min(ended.wall_s for ended in warm), max(ended.peak_mb for ended in warm)
    output = json.loads((folder / "output.json").read_text(encoding="utf-8"))
    right = all(ended.code == 0 for ended in (cold, *warm)) and output["optimized"]["shares_filled"] == 5_000
    right = right and output["data"]["rows"] == _line_count(CSV) - 1
    name, compiling = "backtest.py --csv --evaluate off, plots included", "the first run, which compiles the kernels"
    return [
        _row(name, f"{wall_s:.2f} s", f"{compiling}: {cold.wall_s:.1f} s", wall_s / 5, "ours <= 5 s", right),
        _row(
            f"{name}, peak memory",
            f"{peak_mb:.0f} MB",
            f"{compiling}: {cold.peak_mb:.0f} MB",
            peak_mb / 300,
            "ours <= 300 MB",
            right,
        ),
    ]


def _evaluation_rows(folder: Path) -> list[Row]:
    """What the evaluation adds to a run, and the peak memory of the whole, on each of the two days that is there."""
    found = []
    for path in filter(Path.exists, EVALUATION_S):
        words = ("--csv", str(path), "--out", str(folder))
        without = min(_started("backtest.py", *words, "--evaluate", "off").wall_s for _ in range(2))
        runs = [_started("backtest.py", *words) for _ in range(2)]
        output = json.loads((folder / "output.json").read_text(encoding="utf-8"))
        evaluated = output["evaluation"]
        right = all(ended.code == 0 for ended in runs) and evaluated["scored_windows"] > 30
        right = (
            right
            and evaluated["sensitivity"]["latency_ms"]["0"]["shortfall_bps"]
            == (evaluated["walk_forward"]["shortfall_bps"])
        )
        wall_s, peak_mb = min(ended.wall_s for ended in runs), max(ended.peak_mb for ended in runs)
        name = f"evaluation of {path.name}: {evaluated['windows']} windows x 27 triples, baselines, 20 variants"
        bar_s = EVALUATION_S[path]
        beside = f"whole run {wall_s:.1f} s"
        found += [
            _row(name, f"{wall_s - without:.1f} s", beside, (wall_s - without) / bar_s, f"ours <= {bar_s} s", right),
            _row(
                f"{path.name}, whole run, peak memory", f"{peak_mb:.0f} MB", "", peak_mb / 400, "ours <= 400 MB", right
            ),
        ]
    return found


def _producer_rows(folder: Path) -> list[Row]:
    long_csv = folder / "long.csv"
    _write_days(long_csv)
    with LocalBroker(folder / "broker", port=0) as broker:
        day, days = (_produced(broker.bootstrap, path) for path in (CSV, long_csv))
    right, long_right = (
        ended.code == 0 and f"sent {_line_count(path) - 1} rows" in ended.stderr
        for ended, path in ((day, CSV), (days, long_csv))
    )
    name = "kafka_producer.py --speed 0, peak memory"
    grown = days.peak_mb / day.peak_mb
    return [
        _row(name, f"{day.peak_mb:.0f} MB", "", day.peak_mb / 150, "ours <= 150 MB", right),
        _row(
            f"the same, {DAYS} days",
            f"{days.peak_mb:.0f} MB",
            f"one day {day.peak_mb:.0f} MB",
            grown,
            "ratio <= 1.2",
            long_right and days.peak_mb <= 150,
            LEVEL,
        ),
    ]


def _row(name: str, ours: str, beside: str, ratio: float, bar: str, right: bool, most: float = 1.0) -> Row:
    return {
        "name": name,
        "ours": ours,
        "beside": beside,
        "ratio": round(ratio, 2),
        "bar": bar,
        "ok": right and ratio <= most,
    }


def _produced(servers: str, path: Path) -> Ended:
    words = ["--csv", str(path), "--kafka-bootstrap-servers", servers, "--kafka-topic", path.stem]
    return _started("kafka_producer.py", "--speed", "0", *words)


def _started(program: str, *words: str, **environment: str) -> Ended:
    command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, sys.executable, str(ROOT / program), *words]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SOR_", "KAFKA_"))}
    env |= environment
    done = run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    code, wall_s, peak_mb = json.loads(done.stdout.splitlines()[-1])
    return Ended(code, wall_s, peak_mb, done.stderr)


def _write_days(path: Path) -> None:
    """l1_day.csv, and after it the same day again and again, each a day later."""
    header, *lines = CSV.read_text(encoding="utf-8").splitlines(keepends=True)
    at = header.rstrip("\n").split(",").index("ts_event")
    first = lines[0].split(",")[at][:10]
    body = "".join(lines)
    with open(path, "w", encoding="utf-8") as file:
        file.write(header)
        file.writelines(body.replace(first, f"{first[:8]}{int(first[8:]) + day:02}") for day in range(DAYS))


def _line_count(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)


if __name__ == "__main__":
    sys.exit(main())
