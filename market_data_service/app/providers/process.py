"""Providers are asked in a child process: their libraries stay out of this one, and a call that hangs can be ended.

    process = SyncProviderProcess(settings)             from any thread: process.latest("yfinance", "AAPL")
    process = ProviderProcess(settings)                 in asyncio: await process.latest("yfinance", "AAPL")

The child (app/providers/worker.py) starts with the first call. At most PROVIDER_MAX_CONCURRENCY calls run at once, others
wait. Every call has PROVIDER_TIMEOUT_SECONDS from the moment it is asked, waiting included; only the time in which the
provider's library is imported is not counted. A call that is late fails with ProviderTimeoutError and keeps its place until
the child has answered it. When all places are held so, the child is ended, and the waiting calls get a new one. When the
child dies, its calls fail with ProviderNetworkError, and the next call starts a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from app import errors
from app.errors import ProviderError, ProviderNetworkError, ProviderTimeoutError, RateLimitedError
from app.providers.base import ProviderSettings, Quote

HERE = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "app.providers.worker")
LOADING_S = 60.0  # more than a call has, while its provider's library is not imported yet
CLOSING_S = 2.0
SHARE = 0.95

log = logging.getLogger(__name__)


class ProcessSettings(ProviderSettings, Protocol):
    """The settings that this module reads; app.settings.Settings has them."""

    @property
    def provider_timeout_seconds(self) -> float: ...

    @property
    def provider_max_concurrency(self) -> int: ...


@dataclass(eq=False)
class _Call:
    id: int
    request: dict[str, Any]
    deadline: float
    future: Future[list[Quote]] = field(default_factory=Future)
    is_over: bool = False  # its future is settled, or about to be

    @property
    def provider(self) -> str:
        return str(self.request["provider"])


@dataclass(eq=False)
class _Child:
    """One worker process: the calls that it has, and the providers that it has imported."""

    popen: subprocess.Popen[str] | None = None  # None while it starts
    calls: dict[int, _Call] = field(default_factory=dict)
    loaded: set[str] = field(default_factory=set)

    def send(self, message: dict[str, Any]) -> None:
        """Write a line, far shorter than a pipe's buffer; to a child that is dead it goes nowhere, and its end is seen soon."""
        if self.popen is not None and self.popen.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                os.write(self.popen.stdin.fileno(), json.dumps(message).encode() + b"\n")

    def hang_up(self) -> None:
        """Have it end by itself."""
        if self.popen is not None and self.popen.stdin is not None:
            self.popen.stdin.close()

    def kill(self) -> None:
        if self.popen is not None:
            self.popen.kill()


class SyncProviderProcess:
    """The child process, for threads: every method may be called from any of them.

    Parameters
    ----------
    settings
        PROVIDER_TIMEOUT_SECONDS, PROVIDER_MAX_CONCURRENCY and what the providers need.
    command
        Starts the child.
    """

    def __init__(self, settings: ProcessSettings, *, command: tuple[str, ...] = COMMAND) -> None:
        self.settings, self.command = settings, command
        self._ids = itertools.count(1)
        self._changed = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self._child: _Child | None = None
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        with self._changed:
            return self._child.popen.pid if self._child is not None and self._child.popen is not None else None

    def latest(self, provider: str, symbol: str) -> Quote:
        """The newest price; raises ProviderError."""
        return self.submit("latest", provider, symbol).result()[0]

    def history(self, provider: str, symbol: str, start: datetime.datetime) -> list[Quote]:
        """The prices since `start`, oldest first; raises ProviderError."""
        return self.submit("history", provider, symbol, start).result()

    def submit(
        self, call: str, provider: str, symbol: str, start: datetime.datetime | None = None
    ) -> Future[list[Quote]]:
        """Ask, and return at once; the future cannot be cancelled, and fails with a ProviderError only."""
        request = {"call": call, "provider": provider, "symbol": symbol}
        if start is not None:
            request["start"] = start.isoformat()
        asked = _Call(next(self._ids), request, time.monotonic() + self.settings.provider_timeout_seconds)
        asked.future.set_running_or_notify_cancel()
        with self._changed:
            is_closed = self._is_closed
            if not is_closed:
                self._enqueue(asked)
        if is_closed:
            asked.future.set_exception(ProviderNetworkError(provider, "this program is shutting down"))
        return asked.future

    def close(self) -> None:
        """End the child, and fail the calls that it has."""
        with self._changed:
            self._is_closed = True
            calls = _claim(self._calls())
            child, self._child = self._child, None
            self._waiting.clear()
            self._changed.notify_all()
            if child is not None:
                child.hang_up()
        _fail(calls, ProviderNetworkError, "this program is shutting down")
        for thread in self._threads:
            thread.join(CLOSING_S)
        if child is not None:
            child.kill()

    def _enqueue(self, call: _Call) -> None:
        if self._child is None or call.provider not in self._child.loaded:
            call.deadline += LOADING_S
        self._waiting.append(call)
        self._hand_over()
        if not any(thread.name == "provider-deadlines" for thread in self._threads):
            self._start(self._watch, "provider-deadlines")
        self._changed.notify_all()

    def _start(self, target: Callable[..., None], name: str, *args: Any) -> None:
        self._threads = [each for each in self._threads if each.is_alive()]
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _hand_over(self) -> None:
        """Give waiting calls to the child while it has places; starts it where there is none."""
        if self._waiting and self._child is None:
            self._child = _Child()
            self._start(self._serve, "provider-process", self._child)
        while self._waiting and self._child is not None and self._has_place(self._child):
            call = self._waiting.popleft()
            self._child.calls[call.id] = call
            self._send(self._child, call)

    def _has_place(self, child: _Child) -> bool:
        return len(child.calls) < self.settings.provider_max_concurrency

    def _send(self, child: _Child, call: _Call) -> None:
        """A provider may take a little less time than its caller waits, so that it ends first and its place is free."""
        left_s = min(self.settings.provider_timeout_seconds, call.deadline - time.monotonic())
        child.send(call.request | {"id": call.id, "timeout_s": left_s * SHARE})

    def _calls(self) -> list[_Call]:
        """Those that wait, and those that the child has."""
        return [*self._waiting, *(self._child.calls.values() if self._child is not None else ())]

    def _serve(self, child: _Child) -> None:
        """A thread as long as the child lives; it starts it, since Linux ends a child with the thread that did."""
        try:
            with tempfile.TemporaryDirectory(prefix="providers-", ignore_cleanup_errors=True) as folder:
                self._bury(child, self._lifetime(child, folder))
        except OSError as error:
            self._bury(child, f"its process did not start: {error}")

    def _lifetime(self, child: _Child, folder: str) -> str:
        """From the child's start to its end, which is told."""
        with self._popen(folder) as popen:
            self._begin(child, popen)
            for line in popen.stdout or ():
                if line.endswith("\n"):
                    self._take(child, json.loads(line))
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(CLOSING_S)
            popen.kill()
        return f"its process {_ending(popen.returncode)}"

    def _popen(self, folder: str) -> subprocess.Popen[str]:
        """The worker; its temporary files go to `folder`."""
        path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path, "TMPDIR": folder}
        pipe = subprocess.PIPE
        return subprocess.Popen(self.command, stdin=pipe, stdout=pipe, env=environment, encoding="utf-8")

    def _begin(self, child: _Child, popen: subprocess.Popen[str]) -> None:
        """Send the first line and the calls that came in the meantime."""
        setup = {
            "parent": os.getpid(),
            "concurrency": self.settings.provider_max_concurrency,
            "replay_file": self.settings.replay_file and str(Path(self.settings.replay_file).resolve()),
        }
        with self._changed:
            child.popen = popen
            if self._child is not child:
                child.hang_up()
            child.send(setup)
            for call in child.calls.values():
                self._send(child, call)

    def _take(self, child: _Child, answer: dict[str, Any]) -> None:
        """One line of the child."""
        with self._changed:
            if "loaded" in answer:
                self._note_loaded(child, answer["loaded"])
                return
            calls = _claim([child.calls.pop(answer["id"])])
            if self._child is child:
                self._hand_over()
        for call in calls:
            _answer(call, answer)

    def _note_loaded(self, child: _Child, provider: str) -> None:
        child.loaded.add(provider)
        latest = time.monotonic() + self.settings.provider_timeout_seconds
        for call in self._calls():
            if call.provider == provider:
                call.deadline = min(call.deadline, latest)
        self._changed.notify_all()

    def _bury(self, child: _Child, cause: str) -> None:
        """Fail the calls of a child that has ended."""
        with self._changed:
            calls = _claim(child.calls.values())
            is_sudden = self._child is child
            if is_sudden:
                self._child = None
                self._hand_over()
        if is_sudden:
            log.warning("providers: %s, with %d calls", cause, len(calls))
        _fail(calls, ProviderNetworkError, cause)

    def _watch(self) -> None:
        """A thread that fails late calls."""
        while True:
            with self._changed:
                if self._is_closed:
                    return
                late, hung = self._late_calls(), self._hung_child()
                if not late and hung is None:
                    self._changed.wait(self._sleep_s())
                    continue
            self._fail_late(late, hung)

    def _fail_late(self, late: list[_Call], hung: _Child | None) -> None:
        if hung is not None:
            log.warning("providers: all %d calls of the process hang; it is ended", len(hung.calls))
            hung.kill()
        _fail(late, ProviderTimeoutError, f"no answer within {self.settings.provider_timeout_seconds:g} s")

    def _late_calls(self) -> list[_Call]:
        now = time.monotonic()
        late = _claim(call for call in self._calls() if call.deadline <= now)
        self._waiting = deque(call for call in self._waiting if not call.is_over)
        return late

    def _hung_child(self) -> _Child | None:
        """The child, where every place of it is held by a late call; it is given up."""
        child = self._child
        if child is None or self._has_place(child) or not all(call.is_over for call in child.calls.values()):
            return None
        self._child = None
        self._hand_over()
        return child

    def _sleep_s(self) -> float | None:
        """Until the next call is late; None without one."""
        next_one = min((call.deadline for call in self._calls() if not call.is_over), default=None)
        return None if next_one is None else max(0.0, next_one - time.monotonic())


class ProviderProcess:
    """The same for asyncio. A caller that is cancelled leaves its call to end by itself."""

    def __init__(self, settings: ProcessSettings, *, command: tuple[str, ...] = COMMAND) -> None:
        self.sync = SyncProviderProcess(settings, command=command)

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self.sync.pid

    async def latest(self, provider: str, symbol: str) -> Quote:
        """The newest price; raises ProviderError."""
        return (await asyncio.wrap_future(self.sync.submit("latest", provider, symbol)))[0]

    async def history(self, provider: str, symbol: str, start: datetime.datetime) -> list[Quote]:
        """The prices since `start`, oldest first; raises ProviderError."""
        return await asyncio.wrap_future(self.sync.submit("history", provider, symbol, start))

    async def close(self) -> None:
        """End the child, and fail the calls that it has."""
        await asyncio.to_thread(self.sync.close)


def _claim(calls: Iterable[_Call]) -> list[_Call]:
    """Those of the calls that nothing has settled yet; settling them is the caller's from now on, where no lock is held."""
    mine = [call for call in calls if not call.is_over]
    for call in mine:
        call.is_over = True
    return mine


def _fail(calls: Iterable[_Call], kind: type[ProviderError], message: str) -> None:
    for call in calls:
        call.future.set_exception(kind(call.provider, message))


def _answer(call: _Call, answer: dict[str, Any]) -> None:
    if "error" in answer:
        call.future.set_exception(_error(answer["error"]))
    else:
        call.future.set_result([_quote(each) for each in answer["quotes"]])


def _error(told: dict[str, Any]) -> ProviderError:
    kind = getattr(errors, told["kind"])
    if kind is RateLimitedError:
        return RateLimitedError(told["provider"], told["message"], told["retry_after_s"])
    error: ProviderError = kind(told["provider"], told["message"])
    return error


def _quote(plain: dict[str, Any]) -> Quote:
    ts = datetime.datetime.fromisoformat(plain["ts"])
    return Quote(**plain | {"price": Decimal(plain["price"]), "ts": ts})


def _ending(code: int) -> str:
    return f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
