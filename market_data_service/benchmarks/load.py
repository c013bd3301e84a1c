"""Load over HTTP with wrk, which compares every answer with the one that is expected.

wrk is the machine's, else Debian's package, which is unpacked into .venv/wrk and not installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.stage import BenchError, check
from local import SERVICE

CONNECTIONS = 16
SCRIPT = Path(__file__).with_name("wrk.lua")
UNPACKED = SERVICE / ".venv" / "wrk"
PACKAGES = ("wrk", "libluajit-5.1-2", "libluajit-5.1-common")


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw; latencies are those that wrk tells with --latency.

    `cpu_us` is the processor time that the server's process spent on a request.
    """

    requests: int
    seconds: float
    wrong: int
    errors: int
    p50_ms: float
    p99_ms: float
    cpu_us: float = 0.0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def put(url: str, body: str, seconds: int, x_cache: str = "") -> Load:
    """Ask for `url` over CONNECTIONS connections; every answer must be a 200 with this body, and this X-Cache if it is given.

    Raises
    ------
    WrongAnswerError
        If one was not, or there was none.
    BenchError
        If there is no wrk.
    """
    words = [program(), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(SCRIPT), url, "--", body]
    done = subprocess.run([*words, *filter(None, [x_cache])], env=_environment(), capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"wrk failed: {(done.stderr or done.stdout).strip()}")
    load = Load(**json.loads(done.stdout.splitlines()[-1]))
    check(load.requests > 0, f"{url} gave no answer")
    check(load.wrong + load.errors == 0, f"{load.wrong} of {load.requests} answers were wrong, {load.errors} failed")
    return load


@cache
def program() -> str:
    """Where wrk is. Raises BenchError where there is none."""
    own = UNPACKED / "usr" / "bin" / "wrk"
    found = shutil.which("wrk") or (str(own) if own.exists() else None)
    if found is None and shutil.which("apt-get"):
        _unpack()
        found = str(own) if own.exists() else None
    if found is None:
        raise BenchError("wrk is missing, and apt-get could not download it: install the package wrk")
    return found


def _unpack() -> None:
    """Debian's packages into UNPACKED; the lists of packages are fetched where there are none yet, which needs root."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
    with tempfile.TemporaryDirectory() as folder:
        for words in (["download"], ["update"], ["download"]):
            names = PACKAGES if words == ["download"] else ()
            subprocess.run(["apt-get", "-qq", *words, *names], cwd=folder, **quiet)
            if files := list(Path(folder).glob("*.deb")):
                break
        for each in files:
            subprocess.run(["dpkg", "-x", each, UNPACKED], **quiet)


def _environment() -> dict[str, str]:
    libraries = {str(each.parent) for each in UNPACKED.glob("usr/lib/*/libluajit*.so.*")}
    places = [*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return os.environ | ({"LD_LIBRARY_PATH": os.pathsep.join(places)} if places else {})
