"""The real worker with a stub for its provider, whose symbols say what it does; tests/test_provider_process.py starts it."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import threading
import time
from decimal import Decimal

from app import errors, providers
from app.providers import worker
from app.providers.base import Quote

AT = datetime.datetime(2025, 6, 15, 20, 30, 27, 283671, tzinfo=datetime.timezone.utc)
LOADING_S = 0.8
SLOW_S = 0.2


class Stub:
    """Answers 1.5 at AT, and before that does what the symbol says."""

    name = "stub"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0

    def latest(self, symbol: str) -> Quote:
        with self._lock:
            self._running += 1
            running = self._running
        try:
            body = getattr(self, f"_{symbol.partition(':')[0].lower()}")(symbol) or {}
            return Quote(symbol, self.name, Decimal("1.5"), body.pop("ts", AT), {"running": running, **body})
        finally:
            with self._lock:
                self._running -= 1

    def history(self, symbol: str, start: datetime.datetime) -> list[Quote]:
        return [Quote(symbol, self.name, Decimal(n), start + datetime.timedelta(minutes=n), {}) for n in range(1, 4)]

    def _plain(self, symbol: str) -> None:
        """Nothing else."""

    def _slow(self, symbol: str) -> None:
        time.sleep(SLOW_S)

    def _hang(self, symbol: str) -> None:
        time.sleep(60)

    def _die(self, symbol: str) -> None:
        os._exit(3)

    def _break(self, symbol: str) -> None:
        raise RuntimeError("a fault of the library")

    def _ahead(self, symbol: str) -> dict[str, datetime.datetime]:
        """Of a time that comes in as many seconds as the symbol says."""
        ahead = datetime.timedelta(seconds=float(symbol.partition(":")[2]))
        return {"ts": datetime.datetime.now(datetime.timezone.utc) + ahead}

    def _nan(self, symbol: str) -> dict[str, float]:
        return {"close": float("nan")}

    def _print(self, symbol: str) -> dict[str, str]:
        """What libraries do to a process's streams."""
        print("noise of a library", flush=True)
        os.write(1, b"noise of C code\n")
        subprocess.run(["/bin/echo", "noise of a program"], check=True)
        return {"stdin": sys.stdin.readline() + os.read(0, 10).decode()}

    def _raise(self, symbol: str) -> None:
        kind = getattr(errors, symbol.partition(":")[2])
        raise kind(self.name, "as asked", 7.5) if kind is errors.RateLimitedError else kind(self.name, "as asked")


def get(name: str, settings: object) -> Stub:
    """The stub under any name; `heavy` takes its time."""
    time.sleep(LOADING_S if name == "heavy" else 0)
    return Stub()


if __name__ == "__main__":
    providers.get = get
    worker.main()
