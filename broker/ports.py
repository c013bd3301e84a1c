"""TCP ports of this machine: which are free, and which program holds the others."""

import errno
import random
import shutil
import socket
import subprocess
from pathlib import Path

from broker.errors import BrokerError, PortTakenError
from broker.processes import command_line

# Below the range from which systems take the ports of outgoing connections: there a client that keeps retrying could
# take the port of a broker that is down for a moment, or connect to itself.
_FREE_PORTS = range(20_000, 32_000)
_LISTENING = "0A"


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on now; nothing keeps it free."""
    choose = random.SystemRandom().choice
    for _ in range(100):
        port = choose(_FREE_PORTS)
        if not is_taken(host, port):
            return port
    raise BrokerError(f"no free port found on {host} between {_FREE_PORTS.start} and {_FREE_PORTS.stop - 1}")


def is_taken(host: str, port: int) -> bool:
    """Whether a program listens on `host` and `port` already.

    Raises
    ------
    BrokerError
        If this machine cannot listen there at all: not an address of its own, or a port below 1024 without the right.
    """
    try:
        with socket.socket(_family(host)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return True
        raise BrokerError(
            f"cannot listen on {host}:{port}: {error.strerror}; it must be an address of this machine"
        ) from None
    return answers(host, port)  # macOS lets a second program bind beside one on all addresses


def answers(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether a TCP connection to the port succeeds."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def check_free(host: str, port: int, hint: str = "") -> None:
    """Raise PortTakenError, naming the holder, if a program listens on `host` and `port`."""
    if is_taken(host, port):
        raise PortTakenError(f"port {port} is taken by {holder(port)}{hint}")


def holder(port: int) -> str:
    """The program that listens on `port`: its pid and command line, or "another program" where that cannot be read."""
    pid = _holder_by_proc(port) or _holder_by_lsof(port)
    if pid is None:
        return "another program"
    return f"pid {pid} ({_shortened(command_line(pid)) or 'command not readable'})"


def _shortened(text: str, length: int = 100) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _listening_inodes(port: int) -> set[str]:
    """Inodes of the sockets that listen on `port`, from /proc/net (proc(5): fields 1, 3 and 9 of each row)."""
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        rows = table.read_text().splitlines()[1:] if table.exists() else []
        for row in map(str.split, rows):
            if row[3] == _LISTENING and int(row[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(row[9])
    return inodes


def _holder_by_proc(port: int) -> int | None:
    wanted = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not wanted:
        return None
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(fd.readlink()) in wanted:
                return int(fd.parts[2])
        except OSError:  # the process ended meanwhile, or belongs to another user
            continue
    return None


def _holder_by_lsof(port: int) -> int | None:
    if not shutil.which("lsof"):
        return None
    command = ["lsof", "-nP", "-t", f"-iTCP:{port}", "-sTCP:LISTEN"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return int(found[0]) if found else None
