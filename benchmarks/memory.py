"""The whole pipeline in one memory group of 900 MiB without swap: broker, producer and backtest, then a file ten times as long.

    python -m benchmarks.memory                  both modes of the broker; a few minutes          (make bench-memory)
    python -m benchmarks.memory --real-ten       the real day ten times too
    python -m benchmarks.memory --setup          set-up from nothing and a first `make run`, in a copy in a temporary folder

Needs Linux and a memory group, which as a rule needs root (benchmarks/memory_group.py). Pages of files that the group uses
are taken out of the page cache before each run where nothing else uses them, so that they are charged to the group. Ten
times as long is a day ten times as dense, the same day played ten times within its own session, each time ten times as fast;
and ten days one after another, of which the backtest trades the first. Prints Markdown tables; 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import memory_group
from benchmarks.memory_group import NoMemoryGroupError, Report
from benchmarks.table import Row, show
from broker import jars, pipeline, ports
from broker.local import MODES, LocalBroker

ROOT = Path(__file__).resolve().parent.parent
DAY = ROOT / "l1_day.csv"
REAL_DAY = ROOT.parent / "shared" / "data" / "real_dev.csv.gz"
LIMIT_MIB = 900.0
TIMES = 10
MOST_GROWTH = 1.2
NS = 10**9
PROGRAMS = {
    "kafka JVM": "Kafka",
    "zookeeper JVM": "ZooKeeper",
    "kafka_producer.py": "producer",
    "backtest.py": "backtest",
}


@dataclass(frozen=True)
class Run:
    """One run of the pipeline in a group."""

    mode: str
    path: Path
    report: Report
    rows: int  # of the file
    whole: bool  # every row of it is in output.json, or counted there as set aside
    output: dict  # but for `run`

    @property
    def good(self) -> bool:
        """Whole, and nothing was killed."""
        return self.whole and self.report.code == 0 and self.report.oom_kills == 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see the top of the file."""
    flags = _parser().parse_args(argv)
    if flags.inside:
        return _inside(*flags.inside)
    try:
        with tempfile.TemporaryDirectory() as name:
            return _setup(Path(name)) if flags.setup else _pipelines(Path(name), flags.limit_mib, flags.real_ten)
    except NoMemoryGroupError as error:
        sys.stderr.write(f"memory: {error}\n")
        return 2


def _pipelines(folder: Path, limit_mib: float, real_ten: bool) -> int:
    if not REAL_DAY.exists():
        sys.stderr.write(f"memory: {REAL_DAY.name} is left out: a clone has no ../shared/data\n")
    subprocess.run(  # whatever is measured finds its kernels compiled
        [sys.executable, "backtest.py", "--csv", str(DAY), "--out", str(folder / "warm-up")],
        cwd=ROOT, env=_environment(), check=True, capture_output=True,
    )  # fmt: skip
    runs = []
    for path in _files(folder, real_ten):
        for mode in MODES:
            sys.stderr.write(f"memory: {path.name}, {mode}\n")
            runs.append(measured(mode, path, folder / f"{mode}-{path.name}", limit_mib))
        if path.parent == folder:
            path.unlink()
    return show([_row(run, runs) for run in runs])


def _files(folder: Path, real_ten: bool) -> Iterator[Path]:
    """What is measured, made when it is asked for; each plain file before what is compared with it."""
    yield DAY
    yield dense(DAY, folder / "l1_day, 10 times as dense.csv")
    yield days(DAY, folder / "l1_day, 10 days.csv")
    if REAL_DAY.exists():
        yield REAL_DAY
        if real_ten:
            yield dense(REAL_DAY, folder / "real_dev, 10 times as dense.csv")


def measured(mode: str, path: Path, folder: Path, limit_mib: float | None = LIMIT_MIB) -> Run:
    """Broker, producer and backtest over one file, in a group of their own.

    Parameters
    ----------
    mode : str
        Of the broker: kraft or zookeeper.
    path : Path
        The market data.
    folder : Path
        For broker and results; it is removed in the end.
    limit_mib : float, optional
        None: without a group; processes are watched one by one.

    Raises
    ------
    NoMemoryGroupError
        No group can be made here.
    """
    _forget(_cached_files())
    folder.mkdir()
    words = [sys.executable, "-m", "benchmarks.memory", "--inside", mode, str(folder)]
    environment = _environment(SOR_CSV_PATH=str(path), SOR_OUT_PATH=str(folder))
    with open(folder / "log", "w+b") as log:
        options = {"cwd": ROOT, "env": environment, "stdout": log, "stderr": log}
        report = memory_group.run(words, limit_mib, **options) if limit_mib else memory_group.watch(words, **options)
        if report.code:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-2000:])
    rows = _line_count(path) - 1
    run = Run(mode, path, report, rows, *_output(folder / "output.json", rows))
    shutil.rmtree(folder)
    return run


def _inside(mode: str, folder: str) -> int:
    """What the group holds: as `make run`, with a broker of its own."""
    return pipeline.run(ROOT, LocalBroker(Path(folder) / "broker", mode=mode, port=0), "0")


def _output(path: Path, rows: int) -> tuple[bool, dict]:
    """Whether all rows came through, and what was found."""
    if not path.exists():
        return False, {}
    output = json.loads(path.read_text(encoding="utf-8"))
    run, found = output.pop("run"), output["data"]
    aside = sum(kind["count"] for kind in found["rejects"].values())
    return run["whole"] and found["rows"] + found["rows_of_other_symbols"] + aside == rows, output


def _row(run: Run, runs: Iterable[Run]) -> Row:
    report, peaks = run.report, run.report.peaks()
    same = all(other.output == run.output for other in runs if other.path == run.path)
    growth = _growth(run, runs)
    return {
        "file": run.path.name,
        "mode": run.mode,
        "rows": f"{run.rows}{'' if run.whole else ', not whole'}",
        "time, s": round(report.wall_s, 1),
        "group, with page cache": round(report.peak_mib),
        "group, all but page cache": round(report.peak_held_mib),
        "group, anonymous": round(report.peak_anonymous_mib),
        **{title: round(peaks[name]) if name in peaks else "" for name, title in PROGRAMS.items()},
        "limit met": report.hits,
        "killed": report.oom_kills,
        "most growth": "" if growth is None else f"{growth[1]:.2f} ({growth[0]})",
        "ok": run.good and same and (growth is None or growth[1] <= MOST_GROWTH),
    }


def _growth(run: Run, runs: Iterable[Run]) -> tuple[str, float] | None:
    """(what, ratio) of what grew most over the plain file in the same mode, the group or one process."""
    plain = {path.name.split(".")[0]: path for path in (DAY, REAL_DAY)}.get(run.path.name.split(",")[0])
    base = next((each.report for each in runs if each.path == plain and each.mode == run.mode), None)
    if base is None or plain == run.path:
        return None
    before, after = base.peaks(), run.report.peaks()
    ratios = {title: after[name] / before[name] for name, title in PROGRAMS.items() if name in before and name in after}
    ratios["group"] = run.report.peak_anonymous_mib / base.peak_anonymous_mib
    return max(ratios.items(), key=lambda item: item[1])


def _environment(**more: str) -> dict[str, str]:
    """Ours without settings of the programs, nor the folder of compiled kernels, which importing sor has put there."""
    ours = ("SOR_", "KAFKA_", "NUMBA_CACHE_DIR")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


def _cached_files() -> Iterator[Path]:
    """What the programs load: Java, Kafka's jars, Python and its packages."""
    java = shutil.which("java")
    home = [Path(java).resolve().parent.parent] if java else []
    for folder in (jars.LIBS, *home, Path(sys.prefix), Path(sys.base_prefix) / "lib", ROOT / "sor"):
        yield from (Path(name) / file for name, _, files in os.walk(folder) for file in files)


def _forget(paths: Iterable[Path]) -> None:
    """Take files out of the page cache, but for pages that another program has mapped."""
    for path in paths:
        try:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            continue


def _line_count(path: Path) -> int:
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        return sum(1 for _ in file)


# --- files ten times as long -------------------------------------------------------------------------------------------


def dense(source: Path, path: Path, times: int = TIMES) -> Path:
    """The day `times` times within its own session, each time `times` times as fast: as many times the rows."""
    header, rows, at = _day(source)
    stamps_ns = [_ns(row[at]) for row in rows]
    first_ns, span_ns = min(stamps_ns), max(stamps_ns) - min(stamps_ns) + 1
    with open(path, "w", encoding="utf-8") as file:
        file.write(header)
        for each in range(times):
            for row, stamp_ns in zip(rows, stamps_ns, strict=True):
                row[at] = _text(first_ns + (each * span_ns + stamp_ns - first_ns) // times)
                file.write(",".join(row))
    return path


def days(source: Path, path: Path, times: int = TIMES) -> Path:
    """The day, and after it the same again and again, each a day later."""
    header, rows, at = _day(source)
    stamps_ns = [_ns(row[at]) for row in rows]
    with open(path, "w", encoding="utf-8") as file:
        file.write(header)
        for each in range(times):
            for row, stamp_ns in zip(rows, stamps_ns, strict=True):
                row[at] = _text(stamp_ns + each * 86_400 * NS)
                file.write(",".join(row))
    return path


def _day(source: Path) -> tuple[str, list[list[str]], int]:
    """Header, rows as their values, and which of these is the time."""
    with (
        gzip.open(source, "rt", encoding="utf-8") if source.suffix == ".gz" else open(source, encoding="utf-8") as file
    ):
        header = next(file)
        return header, [line.split(",") for line in file], header.split(",").index("ts_event")


def _ns(text: str) -> int:
    """2024-08-05T13:30:00.032578798Z as nanoseconds since 1970."""
    return int(datetime.fromisoformat(f"{text[:19]}+00:00").timestamp()) * NS + int(text[20:29])


def _text(stamp_ns: int) -> str:
    whole, rest = divmod(stamp_ns, NS)
    return f"{datetime.fromtimestamp(whole, timezone.utc):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


# --- set-up ------------------------------------------------------------------------------------------------------------


def _setup(folder: Path) -> int:
    """Each step of the set-up in a group of its own, then a first `make run` from nothing in one."""
    python = {"PYTHON": str(Path(sys.base_prefix) / "bin" / "python3"), "PIP_NO_CACHE_DIR": "1"}
    maven = {"MAVEN_OPTS": f"-Dmaven.repo.local={folder / 'maven'}"}
    steps = {
        "./setup.sh: venv and packages": ["./setup.sh"],
        "Maven: Kafka's jars": [".venv/bin/python", "-m", "broker.local", "jars"],
        "kernels: the first compile": ["make", ".venv/.kernels-compiled"],
    }
    listen = {"KAFKA_LISTEN": f"127.0.0.1:{ports.free_port()}"}
    apart, whole = _copy(folder / "apart"), _copy(folder / "whole")
    rows = [_step(name, words, apart, _environment(**python, **maven)) for name, words in steps.items()]
    shutil.rmtree(folder / "maven")
    rows.append(
        _step("make run, all of it from nothing", ["make", "run"], whole, _environment(**python, **maven, **listen))
    )
    return show(rows)


def _copy(folder: Path) -> Path:
    """The files that git knows or would take, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def _step(name: str, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Row:
    sys.stderr.write(f"memory: {name}\n")
    with open(folder / "memory.log", "w+b") as log:
        report = memory_group.run(words, LIMIT_MIB, cwd=folder, env=dict(environment), stdout=log, stderr=log)
        if report.code:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-2000:])
    largest = sorted(report.peaks().items(), key=lambda item: -item[1])[:3]
    return {
        "step": name,
        "time, s": round(report.wall_s, 1),
        "group, with page cache": round(report.peak_mib),
        "group, all but page cache": round(report.peak_held_mib),
        "group, anonymous": round(report.peak_anonymous_mib),
        "largest processes": ", ".join(f"{process} {peak:.0f}" for process, peak in largest),
        "limit met": report.hits,
        "killed": report.oom_kills,
        "ok": report.code == 0 and report.oom_kills == 0,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit-mib", type=float, default=LIMIT_MIB, help="of the group; default 900")
    parser.add_argument(
        "--real-ten", action="store_true", help="the real day ten times as dense, 2.6 million rows, too"
    )
    parser.add_argument(
        "--setup", action="store_true", help="measure the set-up instead; it downloads everything twice"
    )
    parser.add_argument("--inside", nargs=2, metavar=("MODE", "FOLDER"), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
