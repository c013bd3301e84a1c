"""The command scripts/bench.py: which benchmarks run, what is printed, the exit code."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import psutil
import psycopg

from benchmarks import backlog, cached, jobs, latency, load, memory, misses, relay
from benchmarks.stage import FULL, MEGABYTE, QUICK, Scale, Stage, WrongAnswerError, open_database
from benchmarks.table import Row, text
from broker.processes import Interrupted, catch_signals
from local import ROOT
from sor.errors import SorError, UsageError

BENCHES: dict[str, Callable[[Stage], list[Row]]] = {
    "cached": cached.rows,
    "consumer": backlog.rows,
    "relay": relay.rows,
    "latency": latency.rows,
    "misses": misses.rows,
    "memory": memory.rows,
    "jobs": jobs.rows,
}
WITH_WRK = {"cached", "memory"}


def main(description: str | None, argv: Sequence[str] | None = None) -> int:
    """Run what the flags ask for; see scripts/bench.py."""
    flags = _parser(description).parse_args(argv)
    catch_signals()
    try:
        return _run(flags)
    except Interrupted as interrupted:
        return interrupted.exit_code
    except (SorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, SorError) else 1


def _run(flags: argparse.Namespace) -> int:
    names = flags.only or list(BENCHES)
    if flags.json and not flags.json.parent.is_dir():
        raise UsageError(f"--json is {flags.json}; {flags.json.parent} must be a folder")
    if WITH_WRK & set(names):
        load.program()
    with tempfile.TemporaryDirectory(prefix="market-data-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with Stage(Path(folder), QUICK if flags.quick else FULL, say=_say) as stage:
            before = os.getloadavg()[0]
            found = [row for name in names for row in measured(stage, name)]
            machine = f"{_machine(stage)}; load {before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end"
    if flags.json:
        flags.json.write_text(json.dumps(kept(found, machine, stage.scale), indent=1) + "\n")
    return report(found, machine)


def report(found: Sequence[Row], machine: str) -> int:
    """Print the table; 1 if a bar is missed."""
    print(f"{text(found)}\n\n{machine}")
    return 0 if all(row.is_met for row in found) else 1


def kept(found: Sequence[Row], machine: str, scale: Scale) -> dict[str, object]:
    """What --json holds."""
    return {"machine": machine, "scale": asdict(scale), "rows": [asdict(row) for row in found]}


def measured(stage: Stage, name: str) -> list[Row]:
    """The rows of a benchmark; where its answers were wrong, or it could not be run, one row that says what."""
    stage.say(f"measuring {name}, load {os.getloadavg()[0]:.1f}")
    try:
        return BENCHES[name](stage)
    except (SorError, OSError, psycopg.Error) as error:
        what = "wrong" if isinstance(error, WrongAnswerError) else "failed"
        return [Row(name, f"{what}: {error}", "", None, "right answers", False)]


def _machine(stage: Stage) -> str:
    with open_database(stage.settings("postgres", with_kafka=False)) as db:
        version = db.execute("SHOW server_version").fetchone()
    kafka = next(iter((ROOT / ".kafka" / "libs").glob("kafka-clients-*.jar")), None)
    parts = [
        f"{os.cpu_count()} cores",
        f"{psutil.virtual_memory().total / (1000 * MEGABYTE):.0f} GB",
        f"Python {platform.python_version()}",
        f"PostgreSQL {version['server_version'] if version else '?'}",
        f"Kafka {kafka.stem.removeprefix('kafka-clients-') if kafka else '?'}",
    ]
    return ", ".join(parts)


def _say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every other error of a user."""
        self.exit(2, f"error: {message}; --help shows what there is\n")


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="one round of less: a minute or two")
    parser.add_argument("--only", action="append", choices=list(BENCHES), metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    return parser
