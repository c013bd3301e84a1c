"""What a consumer group keeps beside its offset: the runs it has reported, and which backtest.py works for it now.

Kafka stores a text with every committed offset. Ours is JSON; the comma-separated run ids of earlier versions are read.
A claim names the process that has taken the group's next run. It is no lock: a process that was killed leaves it behind,
the next one finds it and takes over, and whoever has lost its claim writes nothing.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import uuid
from pathlib import Path

import msgspec


class Claim(msgspec.Struct, frozen=True):
    """A process that works for the group; `born` tells it from a later one of the same pid."""

    id: str
    host: str
    pid: int
    born: str
    since: str

    def __str__(self) -> str:
        return f"{self.host}, pid {self.pid}, since {self.since}"


class Notes(msgspec.Struct, frozen=True):
    """The text beside an offset: ids of runs that are reported though they start behind it, and the claim."""

    reported: list[str] = []
    claim: Claim | None = None

    def text(self) -> str:
        """As it is committed."""
        return msgspec.json.encode(self).decode()


def notes_of(text: str) -> Notes:
    """Read a committed text; one that is not ours, or of an earlier version, is a list of run ids."""
    try:
        return msgspec.json.decode(text, type=Notes)
    except msgspec.MsgspecError:
        return Notes(list(filter(None, text.split(","))))


def claim_of_this_process() -> Claim:
    """A new claim."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Claim(uuid.uuid4().hex[:12], socket.gethostname(), os.getpid(), _born(os.getpid()), since)


def is_at_work(claim: Claim) -> bool:
    """Is the process of a claim seen to run? False also where that cannot be told: on another host, in another container."""
    here = claim.host == socket.gethostname() and claim.pid != os.getpid()
    return here and bool(claim.born) and _born(claim.pid) == claim.born


def _born(pid: int) -> str:
    """When a process was started, as the system words it; empty if it is gone or cannot be seen."""
    if Path("/proc/self/stat").exists():
        return _born_by_proc(pid)
    ps = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip()


def _born_by_proc(pid: int) -> str:
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else fields[18]  # field 22 of proc(5): ticks after the machine's start
