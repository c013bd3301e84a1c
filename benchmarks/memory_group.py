"""Run a command in a memory group of the kernel, without swap, and report what it needed at most.

    python -m benchmarks.memory_group --limit-mib 900 [--json FILE] -- make run

Everything the command starts is in the group, services it leaves behind too: these are killed when it has ended. Linux only,
control groups of version 1 or 2, usually as root. stdout and stderr are the command's; the last line of stderr is the report.
Exit codes: the command's, 128 + n if signal n ended it; 2 where no such group can be made.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

MIB = 1 << 20
_POLL_S = 0.05
_JOIN = 'echo $$ >"$0/cgroup.procs" && exec "$@"'  # of sh: by its own pid, so that no byte is allocated outside


@dataclass(frozen=True)
class Version:
    """How the files of a control group's memory are called."""

    limit: str
    swap: str  # limit of swap; in version 1 of both together
    usage: str
    peak: str
    anonymous: tuple[str, ...]  # keys of memory.stat
    reclaimable: tuple[str, ...]
    events: str
    oom_kill: str = "oom_kill"


V1 = Version(
    "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.usage_in_bytes", "memory.max_usage_in_bytes",
    ("total_rss", "total_shmem"), ("total_active_file", "total_inactive_file"), "memory.oom_control",
)  # fmt: skip
V2 = Version(
    "memory.max", "memory.swap.max", "memory.current", "memory.peak",
    ("anon", "shmem"), ("active_file", "inactive_file", "slab_reclaimable"), "memory.events",
)  # fmt: skip


@dataclass
class Process:
    """A process that was in the group."""

    name: str
    pid: int
    command: str
    peak_rss_mib: float = 0.0  # VmHWM: pages of its files too
    peak_anonymous_mib: float = 0.0


@dataclass
class Report:
    """What a group needed; peaks but `peak_mib` are of samples every 50 ms."""

    limit_mib: float
    code: int = 0
    wall_s: float = 0.0
    peak_mib: float = 0.0  # of everything charged to the group, page cache too: the kernel drops that when it must
    peak_anonymous_mib: float = 0.0  # what cannot be dropped without swap
    peak_held_mib: float = 0.0  # all but page cache: the same, and the kernel's own for sockets and page tables
    oom_kills: int = 0
    # how often the limit was met, and page cache dropped; None: met, but the kernel did not count
    limit_hits: int | None = 0
    left_behind: int = 0  # processes killed at the end
    processes: list[Process] = field(default_factory=list)

    @property
    def hits(self) -> str:
        """`limit_hits` in words."""
        return "uncounted" if self.limit_hits is None else str(self.limit_hits)

    def line(self) -> str:
        """The whole in one line."""
        peaks = ", ".join(f"{name} {peak:.0f}" for name, peak in self.peaks().items())
        return (
            f"memory: peak {self.peak_mib:.0f} of {self.limit_mib:.0f} MiB with page cache, anonymous "
            f"{self.peak_anonymous_mib:.0f}; limit met {self.hits} times, killed for memory {self.oom_kills}; "
            f"exit code {self.code} after {self.wall_s:.1f} s; MiB of each: {peaks}"
        )

    def peaks(self) -> dict[str, float]:
        """{name: peak resident MiB}, of the largest process of each name."""
        found: dict[str, float] = {}
        for each in self.processes:
            found[each.name] = max(found.get(each.name, 0.0), each.peak_rss_mib)
        return found


class NoMemoryGroupError(Exception):
    """This machine, or this user, cannot make a memory group. Not of sor.errors: importing sor would tell the command's
    programs, through the environment, where to keep compiled kernels."""


class MemoryGroup:
    """A memory group as a context manager; what is in it at the end is killed.

    Parameters
    ----------
    limit_mib : float
        Of everything: anonymous memory, page cache, the kernel's own. There is no swap.

    Raises
    ------
    NoMemoryGroupError
        On entering, where none can be made; with what was tried.
    """

    def __init__(self, limit_mib: float) -> None:
        self.limit_mib = limit_mib
        self.name = f"memory-group-{os.getpid()}-{time.monotonic_ns() % 10**6}"
        self.left_behind = 0

    def __enter__(self) -> MemoryGroup:
        tried = []
        for version, parent in _parents():
            self._version, self._folder = version, parent / self.name
            try:
                self._make()
            except OSError as error:
                tried.append(f"{error.filename or self._folder}: {error.strerror}")
                with suppress(OSError):
                    self._folder.rmdir()
            else:
                return self
        raise NoMemoryGroupError(
            f"no memory group can be made here ({'; '.join(tried) or 'no control groups of memory are mounted'}); "
            "it needs Linux and, as a rule, root"
        )

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.left_behind = self._kill_all()
        self._folder.rmdir()

    def command(self, words: Sequence[str]) -> list[str]:
        """The words that run a command within the group."""
        return ["sh", "-c", _JOIN, str(self._folder), *words]

    @property
    def pids(self) -> list[int]:
        """Processes in the group now."""
        return [int(pid) for pid in self._read("cgroup.procs").split()]

    @property
    def peak_bytes(self) -> int | None:
        """Most that was charged; None where the kernel does not count it (version 2 before Linux 5.19)."""
        with suppress(FileNotFoundError):
            return int(self._read(self._version.peak))
        return None

    @property
    def oom_kills(self) -> int:
        """Processes that were killed for the limit."""
        return self._table(self._version.events).get(self._version.oom_kill, 0)

    @property
    def limit_hits(self) -> int:
        """How often the limit was met."""
        if self._version is V2:
            return self._table("memory.events")["max"]
        # where the limit of memory and swap is the same, it counts first
        counters = self._folder.glob("memory*.failcnt")
        return sum(int(path.read_text()) for path in counters if ".kmem." not in path.name)

    def usage_bytes(self) -> tuple[int, int, int]:
        """Now: all, what is anonymous, and all but page cache."""
        usage, stat = int(self._read(self._version.usage)), self._table("memory.stat")
        anonymous, reclaimable = (
            sum(stat.get(key, 0) for key in keys) for keys in (self._version.anonymous, self._version.reclaimable)
        )
        return usage, anonymous, max(usage - reclaimable, anonymous)

    def _make(self) -> None:
        self._folder.mkdir()
        limit = str(round(self.limit_mib * MIB))
        (self._folder / self._version.limit).write_text(limit)
        swap = self._folder / self._version.swap
        if swap.exists():  # else the kernel keeps no account of swap
            swap.write_text(limit if self._version is V1 else "0")
        elif self._version is V1:
            (self._folder / "memory.swappiness").write_text("0")
        if subprocess.run(self.command(["true"]), check=False, stderr=subprocess.DEVNULL).returncode:
            raise PermissionError(errno.EPERM, "a process may not be moved into it", str(self._folder))

    def _kill_all(self) -> int:
        killed: set[int] = set()
        deadline_s = time.monotonic() + 10
        while (pids := self.pids) and time.monotonic() < deadline_s:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed.update(pids)
            time.sleep(_POLL_S)
        return len(killed)

    def _read(self, name: str) -> str:
        return (self._folder / name).read_text()

    def _table(self, name: str) -> dict[str, int]:
        return {key: int(value) for key, value in (line.split() for line in self._read(name).splitlines())}


class ProcessTree:
    """Stands in for a group where none can be made: a process and what descends from it, without a limit; needs /proc.

    What it counts is the sum over processes: pages that two of them share count twice.
    """

    limit_mib = float("inf")
    peak_bytes = None
    oom_kills = limit_hits = left_behind = 0

    def __init__(self, root: int) -> None:
        self._root = root

    @property
    def pids(self) -> list[int]:
        """The process and its descendants; one whose parent has ended is not found any more."""
        children: dict[int, list[int]] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                children.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(
                    int(path.parent.name)
                )
        found = [self._root]
        for pid in found:
            found += children.get(pid, [])
        return found

    def usage_bytes(self) -> tuple[int, int, int]:
        """Now: all, what is anonymous, and that again."""
        resident = anonymous = 0
        for pid in self.pids:
            with suppress(OSError):
                status = memory_of(pid)
                resident += status.get("VmRSS", 0) << 10
                anonymous += status.get("RssAnon", 0) << 10
        return resident, anonymous, anonymous


def _parents() -> Iterator[tuple[Version, Path]]:
    """Folders in which a group may be made: our own group's, then those above it; version 1 first where both are mounted."""
    for version, kind, folder in _hierarchies():
        own = folder / _own_path(kind).lstrip("/")
        for parent in (own, *own.parents):
            if parent.is_dir() and (version is V1 or "memory" in _controllers(parent)):
                yield version, parent
            if parent == folder:
                break


def _hierarchies() -> Iterator[tuple[Version, str, Path]]:
    """(version, its name in /proc/self/cgroup, mount point) of the hierarchies that know memory."""
    mounts = Path("/proc/mounts")
    for line in mounts.read_text().splitlines() if mounts.exists() else ():
        _, folder, kind, options, *_ = line.split()
        if kind == "cgroup" and "memory" in options.split(","):
            yield V1, "memory", Path(folder)
        elif kind == "cgroup2":
            yield V2, "", Path(folder)


def _own_path(controller: str) -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return "/"


def _controllers(folder: Path) -> list[str]:
    """What children of a version 2 group can be limited in."""
    try:
        return (folder / "cgroup.subtree_control").read_text().split()
    except OSError:
        return []


# --- watching ----------------------------------------------------------------------------------------------------------


class Watch:
    """Samples a group and its processes on a thread of its own, outside the group."""

    def __init__(self, group: MemoryGroup | ProcessTree, report: Report) -> None:
        self._group, self._report = group, report
        self._processes: dict[int, Process] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self._sample()
        report, group = self._report, self._group
        report.peak_mib = max(report.peak_mib, (group.peak_bytes or 0) / MIB)
        met = report.peak_mib >= group.limit_mib
        report.oom_kills, report.limit_hits = group.oom_kills, group.limit_hits or (None if met else 0)
        report.processes = sorted(self._processes.values(), key=lambda each: -each.peak_rss_mib)

    def _run(self) -> None:
        while not self._ended.wait(_POLL_S):
            self._sample()

    def _sample(self) -> None:
        usage, anonymous, held = (each / MIB for each in self._group.usage_bytes())
        report = self._report
        report.peak_mib = max(report.peak_mib, usage)
        report.peak_anonymous_mib = max(report.peak_anonymous_mib, anonymous)
        report.peak_held_mib = max(report.peak_held_mib, held)
        for pid in self._group.pids:
            with suppress(OSError):  # it has ended
                self._look_at(pid)

    def _look_at(self, pid: int) -> None:
        status, command = memory_of(pid), Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        words = command.split("\0")[:-1]
        if not words or "VmHWM" not in status:  # a zombie
            return
        known = self._processes.get(pid)
        if known is None or known.command != " ".join(words):  # an exec begins anew
            known = self._processes[pid] = Process(name_of(words), pid, " ".join(words))
        known.peak_rss_mib = max(known.peak_rss_mib, status["VmHWM"] / 1024)
        known.peak_anonymous_mib = max(known.peak_anonymous_mib, status.get("RssAnon", 0) / 1024)


def memory_of(pid: int | str) -> dict[str, int]:
    """{VmHWM, RssAnon, ...: KiB} of a process; empty for a zombie."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) == 3 and words[2] == "kB"}


def name_of(words: Sequence[str]) -> str:
    """A short name of a command: the script or module of a Python, the role of a JVM of ours, else the program.

    Examples
    --------
    >>> name_of(["/usr/bin/python3", "-u", "backtest.py", "--csv", "x"]), name_of(["python", "-m", "broker.local", "start"])
    ('backtest.py', 'broker.local')
    >>> name_of(["java", "-Dlocal.kafka.role=kafka", "kafka.Kafka"]), name_of(["/bin/sh", "setup.sh"])
    ('kafka JVM', 'sh')
    """
    role = next((word.split("=")[1] for word in words if word.startswith("-Dlocal.kafka.role=")), None)
    if role:
        return f"{role} JVM"
    program = Path(words[0]).name
    if not program.startswith("python"):
        return program
    for i, word in enumerate(words[1:], 1):
        if word == "-m":
            return words[i + 1]
        if word == "-c":
            return f"{program} -c"
        if not word.startswith("-") and words[i - 1] not in ("-W", "-X"):
            return Path(word).name
    return program


def run(words: Sequence[str], limit_mib: float, **options: object) -> Report:
    """Run a command in a group of its own to its end, and report; `options` are those of `subprocess.Popen`.

    Raises
    ------
    NoMemoryGroupError
        No group can be made.
    """
    report = Report(limit_mib)
    group = MemoryGroup(limit_mib)
    with group, Watch(group, report), _started(group.command(words), options) as child:
        _wait(child, report)
    report.left_behind = group.left_behind
    return report


def watch(words: Sequence[str], **options: object) -> Report:
    """The same without a group and its limit, where none can be made; needs /proc."""
    report = Report(ProcessTree.limit_mib)
    with _started(words, options) as child, Watch(ProcessTree(child.pid), report):
        _wait(child, report)
    return report


def _wait(child: subprocess.Popen[bytes], report: Report) -> None:
    start_s = time.perf_counter()
    code = child.wait()
    report.wall_s = time.perf_counter() - start_s
    report.code = 128 - code if code < 0 else code


@contextmanager
def _started(words: Sequence[str], options: Mapping[str, object]) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a session of its own; SIGINT, SIGTERM and SIGHUP that reach us are handed on to it."""
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if threading.current_thread() is not threading.main_thread():
        kinds = ()
    with subprocess.Popen(words, start_new_session=True, **options) as child:
        before = {kind: signal.signal(kind, lambda number, _frame: child.send_signal(number)) for kind in kinds}
        try:
            yield child
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see the top of the file."""
    parser = _parser()
    flags = parser.parse_args(argv)
    if not flags.command:
        parser.error("there is no command; it must follow after --")
    try:
        report = run(flags.command, flags.limit_mib)
    except NoMemoryGroupError as error:
        sys.stderr.write(f"memory_group: {error}\n")
        return 2
    if flags.json:
        flags.json.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    sys.stderr.write(f"{report.line()}\n")
    return report.code


def _mebibytes(text: str) -> float:
    value = float(text)
    if not 1 <= value < 2**40:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more mebibytes")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory_group",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--limit-mib", type=_mebibytes, default=900.0, help="of the whole group; default 900")
    parser.add_argument("--json", type=Path, help="write the report there, every process with its command line")
    parser.add_argument("command", nargs="*", help="what to run, after --")
    return parser


if __name__ == "__main__":
    sys.exit(main())
