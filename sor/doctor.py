"""Does this machine have what the pipeline needs? One line a check: ok, warn or fail, what was found, and what to do.

    python backtest.py --doctor

Loads nothing beyond the standard library before a check needs it, so that it tells which package is missing; waits for no answer
longer than a few seconds; shows no secret. Only the broker's topic is looked at, never changed; a temporary file shows
whether the output folder can be written.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sor import cli, log
from sor.errors import SorError

OK, WARN, FAIL = "ok", "warn", "fail"
ROOT = Path(__file__).resolve().parent.parent
LONGEST_S = 12.0  # a check; what listens and never answers takes the broker's ten
ALL_S = 14.0
CONNECT_S = 1.0
JAVA_S = 3.0
SURVEY_S = 3.0
NEEDED_MB = 700  # broker, producer and backtest together
LEAST_DISK_MB, KAFKA_DISK_MB = 100, 1500  # results; a topic at its size limit, the jars, logs
PORTS = {9092: "kafka", 2181: "zookeeper"}
MiB = 1 << 20


class Finding(NamedTuple):
    """The outcome of one check."""

    name: str
    status: str
    found: str
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.status:<5} {self.name:<10} {self.found}" + (f": {self.todo}" if self.todo else "")


Check = Callable[[Any], Iterator[Finding]]


def main(settings: Any) -> int:
    """Print every finding as it is made, as JSON objects if logs are; 1 if one is a failure."""
    with log.on_stderr("backtest", settings.log_level, settings.log_json, settings.kafka_sasl_password):
        return cli.run(lambda: _examine(settings))


def _examine(settings: Any) -> int:
    failed = False
    for finding in findings(settings):
        print(json.dumps(finding._asdict()) if settings.log_json else finding, flush=True)
        failed |= finding.status == FAIL
    return int(failed)


def findings(settings: Any) -> Iterator[Finding]:
    """What every check finds; one that fails itself, or takes too long, is a warning."""
    end_s = time.monotonic() + ALL_S
    for check in CHECKS:
        yield from _made(check, settings, min(LONGEST_S, end_s - time.monotonic()))


def _made(check: Check, settings: Any, timeout_s: float) -> list[Finding]:
    made: list[Finding] = []

    def make() -> None:
        try:
            made.extend(check(settings))
        except Exception as error:  # whatever it is: the other checks are wanted too
            said = str(error).partition("\n")[0]
            status = FAIL if isinstance(error, ImportError) else WARN
            made.append(Finding(check.__name__, status, f"could not be checked ({type(error).__name__}: {said})"))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    thread.join(max(0.1, timeout_s))
    if thread.is_alive():
        return [*made, Finding(check.__name__, WARN, f"no answer within {timeout_s:.0f} s")]
    return made


# --- this machine -------------------------------------------------------------------------------------------------------


def python(settings: Any) -> Iterator[Finding]:
    """3.10 to 3.13."""
    found = f"{platform.python_version()} ({sys.executable})"
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        yield Finding("python", OK, found)
    else:
        yield Finding("python", FAIL, found, "use 3.10 to 3.13, as ./setup.sh chooses one for .venv")


def packages(settings: Any) -> Iterator[Finding]:
    """Those of requirements.txt, in the versions it allows; those of the tests may be missing."""
    needed, _, others = (ROOT / "requirements.txt").read_text(encoding="utf-8").partition("# tests")
    install = f"{sys.executable} -m pip install -r requirements.txt (make setup makes a .venv)"
    missing, wrong, right = _versions(needed)
    missing_of_tests, wrong_of_tests, right_of_tests = _versions(others)
    if missing:
        yield Finding("packages", FAIL, f"missing: {', '.join(missing)}", install)
    if wrong:
        yield Finding("packages", WARN, f"not as in requirements.txt: {', '.join(wrong)}", install)
    if missing_of_tests or wrong_of_tests:
        yield Finding("packages", WARN, f"for the tests: {', '.join(missing_of_tests + wrong_of_tests)}", install)
    if right:
        yield Finding("packages", OK, f"{right + right_of_tests} as in requirements.txt")


def _versions(text: str) -> tuple[list[str], list[str], int]:
    """Of the requirements in a text: missing ones, ones of another version, and how many are right."""
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        from pip._vendor.packaging.requirements import InvalidRequirement, Requirement
    missing, wrong, right = [], [], 0
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # the rest of a comment
            continue
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            right += 1
        else:
            wrong.append(f"{requirement.name} {version}, must be {requirement.specifier}")
    return missing, wrong, right


def java(settings: Any) -> Iterator[Finding]:
    """11 or later, for the local broker; JAVA_HOME, if set, must lead to it."""
    home = os.environ.get("JAVA_HOME")
    if home and not _java_version(f"{home}/bin/java"):
        yield Finding(
            "java", WARN, f"JAVA_HOME is {home!r}, which holds no bin/java that runs", "correct it, or unset it"
        )
    for path in filter(None, (f"{home}/bin/java" if home else None, shutil.which("java"))):
        if version := _java_version(path):
            todo = "" if version >= 11 else "install Java 11 or later for the local broker"
            yield Finding("java", WARN if todo else OK, f"{version} ({path})", todo)
            return
    yield Finding(
        "java", WARN, "not found", "install Java 11 or later for the local broker; one elsewhere needs none here"
    )


def _java_version(path: str) -> int:
    """The major version; 0 if it does not run."""
    try:
        done = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=JAVA_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr)
    return int(found[1]) if found and done.returncode == 0 else 0


def memory(settings: Any) -> Iterator[Finding]:
    """What is available, the limit of the container or cgroup included."""
    import psutil

    available_mb = psutil.virtual_memory().available / MiB
    limit_mb = _cgroup_limit_mb()
    found = f"{available_mb:,.0f} MiB available" + (f", this cgroup may have {limit_mb:,.0f}" if limit_mb else "")
    if min(available_mb, limit_mb or available_mb) >= NEEDED_MB:
        yield Finding("memory", OK, found)
        return
    todo = f"broker and programs together need about {NEEDED_MB} MiB: end others, add swap, or use a broker elsewhere"
    yield Finding("memory", WARN, found, todo)


def _cgroup_limit_mb() -> float | None:
    """The least limit of this process's cgroups, of version 2 or 1, and of those above them; None where there is none."""
    limits_mb = []
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            base, name = ("memory", "memory.limit_in_bytes") if controllers else ("", "memory.max")
            files = (
                Path("/sys/fs/cgroup", base, str(each).lstrip("/"), name) for each in (Path(path), *Path(path).parents)
            )
            limits_mb += [int(word) / MiB for file in files for word in _lines(file)[:1] if word.isdigit()]
    return min((limit for limit in limits_mb if limit < 1 << 40), default=None)  # version 1 writes 2^63 for none


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def disk(settings: Any) -> Iterator[Finding]:
    """Room for the results, and for the local broker's data and jars."""
    for folder, needed_mb in ((Path(settings.out_path), LEAST_DISK_MB), (ROOT / ".kafka", KAFKA_DISK_MB)):
        there = _existing(folder)
        free_mb = shutil.disk_usage(there).free / MiB
        found = f"{free_mb:,.0f} MiB free for {folder}"
        if free_mb >= needed_mb:
            yield Finding("disk", OK, found)
        else:
            yield Finding("disk", FAIL if free_mb < LEAST_DISK_MB else WARN, found, f"have {needed_mb} MiB free")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def output(settings: Any) -> Iterator[Finding]:
    """The folder results go to can be written, or be made."""
    folder = _existing(Path(settings.out_path))
    try:
        with tempfile.TemporaryFile(dir=folder):
            yield Finding("output", OK, f"{folder} can be written")
    except OSError as error:
        yield Finding("output", FAIL, f"{folder}: {error.strerror}", "choose another folder with --out")


def clock(settings: Any) -> Iterator[Finding]:
    """Time zone data, and a clock that is not behind this program's own files."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        zoneinfo.ZoneInfo(settings.time_zone)
    except Exception:  # KeyError, ValueError, OSError, as the name is
        todo = "choose one such as America/New_York with --time-zone, or install tzdata"
        yield Finding("clock", FAIL, f"no time zone {settings.time_zone!r}", todo)
        return
    if time.time() < Path(__file__).stat().st_mtime - 86_400:
        yield Finding("clock", WARN, f"it says {now}, before these files were written", "set the clock")
    else:
        yield Finding("clock", OK, f"{now}, time zone {settings.time_zone}")


def kernels(settings: Any) -> Iterator[Finding]:
    """Compiled already?"""
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    compiled = any(folder.rglob("*.nbi")) if folder.exists() else False
    yield Finding(
        "kernels", OK, "compiled" if compiled else "to be compiled by the first run, which takes about a minute"
    )


def data(settings: Any) -> Iterator[Finding]:
    """The market data can be read and are of a known format."""
    from sor import feed

    path = settings.offline_csv or settings.csv_path
    try:
        rows = next(iter(feed.read_blocks(path)))
        if not len(rows):
            raise SorError(f"{path}: holds no row")
    except SorError as error:  # without --csv it is the producer that needs them
        status = FAIL if settings.offline_csv else WARN
        yield Finding("data", status, str(error), "give a Databento MBP-1 or MBP-10 file with --csv")
        return
    yield Finding("data", OK, f"{path}, {os.path.getsize(path) / MiB:.1f} MiB, the first {len(rows)} rows read")


# --- the broker ---------------------------------------------------------------------------------------------------------


def ports(settings: Any) -> Iterator[Finding]:
    """Free, or held by what belongs there."""
    for port, role in PORTS.items():
        name = f"port {port}"
        if not _listens("127.0.0.1", port):
            yield Finding(name, OK, "free")
            continue
        holder, is_right = _holder(port, role)
        todo = "" if is_right else "stop it, or give the local broker another port: KAFKA_LISTEN=127.0.0.1:9192"
        yield Finding(name, WARN if todo else OK, f"held by {holder}", todo)


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), CONNECT_S):
            return True
    except OSError:
        return False


def _holder(port: int, role: str) -> tuple[str, bool]:
    """Pid and name of what listens on `port`, and whether it may be a Kafka or ZooKeeper; its flags are not shown."""
    import psutil

    try:
        connections = psutil.net_connections("tcp")
        pid = next(c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.laddr.port == port and c.pid)
        process = psutil.Process(pid)
        words = " ".join([process.name(), *process.cmdline()]).lower()
        return f"pid {pid} ({process.name()})", role in words or "docker" in words
    except (StopIteration, psutil.Error):
        return "a program of another user", True


def broker(settings: Any) -> Iterator[Finding]:
    """It answers, lets us in, and has the topic."""
    servers = settings.kafka_bootstrap_servers
    split = (server.rpartition(":") for server in servers.split(","))
    if not any(_listens(host.strip("[]"), int(port)) for host, _, port in split):
        todo = "make broker-start, or set KAFKA_BOOTSTRAP_SERVERS to the host:port of yours"
        yield Finding("broker", FAIL, f"nothing listens at {servers}", todo)
        return
    from sor import stream

    try:
        seen = stream.survey(stream.topic_of(settings), settings.kafka_group, SURVEY_S)
    except SorError as error:
        yield Finding("broker", FAIL, str(error))
        return
    yield Finding("broker", OK, f"answers at {servers} ({settings.kafka_security_protocol})")
    yield _topic(settings.kafka_topic, settings.kafka_group, seen)


def _topic(name: str, group: str, seen: Any) -> Finding:
    if not seen.partitions:
        return Finding("topic", OK, f"{name} is not there yet; either program makes it")
    runs = f"{seen.whole} whole and {seen.broken} broken or unfinished runs, {seen.unreported} of them not reported"
    more = "" if seen.seen_all else " (more than could be looked at)"
    found = f"{name}: {runs} by group {group}{more}, {seen.messages} messages, lag {seen.lag}"
    if seen.partitions > 1:
        return Finding("topic", WARN, f"{found}, {seen.partitions} partitions", "only partition 0 is used")
    return Finding("topic", OK, found)


CHECKS: tuple[Check, ...] = (
    python, packages, java, memory, disk, output, clock, kernels, data, ports, broker,
)  # fmt: skip
