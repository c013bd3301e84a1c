"""The process that asks providers, started by app/providers/process.py: JSON lines in on stdin, JSON lines out on stdout.

    python -m app.providers.worker < requests

First line    {"parent": PID, "concurrency": 4, "replay_file": ""}
A request     {"id": 1, "call": "latest" or "history", "provider": "replay", "symbol": "AAPL", "timeout_s": 10.0, "start": ISO-8601}
Answers       {"id": 1, "quotes": [...]} or {"id": 1, "error": {"kind", "provider", "message", "retry_after_s"}}
Besides       {"loaded": "replay"} once a provider's library is imported

It ends when stdin does, and with its parent. SIGINT does nothing: the parent decides. What libraries print goes to stderr.
"""

from __future__ import annotations

import ctypes
import datetime
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn, TextIO

from app import providers
from app.errors import BadPriceError, ProviderError, ServiceError
from app.events import MOST_AHEAD
from app.providers.base import Provider, Quote, within

_PR_SET_PDEATHSIG = 1

Answer = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """The first line: the parent's process id, and what is set for the providers."""

    parent: int
    concurrency: int
    replay_file: str


class Worker:
    """Answers requests through `answer`, which any thread calls with a whole answer."""

    def __init__(self, setup: Setup, answer: Callable[[Answer], None]) -> None:
        self.setup, self.answer = setup, answer
        self.pool = ThreadPoolExecutor(setup.concurrency)
        self._providers: dict[str, Provider] = {}
        self._loading = threading.Lock()

    def take(self, request: dict[str, Any]) -> None:
        """Have a thread of the pool answer a request."""
        self.pool.submit(self._serve, request)

    def _serve(self, request: dict[str, Any]) -> None:
        try:
            self.answer({"id": request["id"], "quotes": self._ask(**request)})
        except ProviderError as error:
            self.answer({"id": request["id"], "error": told(error)})
        except Exception as error:  # a provider's fault must reach its caller, whatever it is
            cause = str(error) if isinstance(error, ServiceError) else f"{type(error).__name__}: {error}"
            self.answer({"id": request["id"], "error": told(ProviderError(request["provider"], cause))})

    def _ask(
        self, *, call: str, provider: str, symbol: str, timeout_s: float, start: str = "", **_: Any
    ) -> list[Answer]:
        asked = self._provider(provider)
        with within(timeout_s):
            if call == "latest":
                return [plain(timely(asked.latest(symbol)))]
            return [plain(timely(quote)) for quote in asked.history(symbol, datetime.datetime.fromisoformat(start))]

    def _provider(self, name: str) -> Provider:
        with self._loading:
            if name not in self._providers:
                self._providers[name] = providers.get(name, self.setup)
                self.answer({"loaded": name})
            return self._providers[name]


def told(error: ProviderError) -> Answer:
    """An error as JSON."""
    return {
        "kind": type(error).__name__,
        "provider": error.provider,
        "message": error.message,
        "retry_after_s": getattr(error, "retry_after_s", None),
    }


def timely(quote: Quote) -> Quote:
    """The quote. Raises BadPriceError where it is ahead of the time: it would stay the newest one, whatever came after it."""
    now = datetime.datetime.now(datetime.timezone.utc)
    if quote.ts > now + MOST_AHEAD:
        message = f"its price is of {quote.ts.isoformat()}; now it is {now.isoformat()}"
        raise BadPriceError(quote.provider, message)
    return quote


def plain(quote: Quote) -> Answer:
    """A quote as JSON; the price stays exact as text."""
    return {
        "symbol": quote.symbol,
        "provider": quote.provider,
        "price": str(quote.price),
        "ts": quote.ts.isoformat(),
        "body": quote.body,
        "status": quote.status,
    }


def main() -> NoReturn:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = _take_pipes()
    setup = Setup(**json.loads(requests.readline()))
    _end_with(setup.parent)
    writing = threading.Lock()

    def answer(message: Answer) -> None:
        line = json.dumps(message, allow_nan=False) + "\n"
        with writing:
            answers.write(line)
            answers.flush()

    worker = Worker(setup, answer)
    for line in requests:
        worker.take(json.loads(line))
    os._exit(0)  # without waiting for calls that hang


def _take_pipes() -> tuple[TextIO, TextIO]:
    """The parent's pipes, out of reach of libraries: these find stdin empty, and what they print goes to stderr."""
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull, encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return requests, answers


def _end_with(parent: int) -> None:
    """Have the kernel end this process with the parent's thread that started it; Linux only, elsewhere stdin's end does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


if __name__ == "__main__":
    main()
