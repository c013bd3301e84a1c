"""How a program of ours ends: one line on stderr for what went wrong, and the exit code.

0 done, 1 failed, 2 wrong usage, 130 interrupted (Ctrl-C), 143 terminated.
"""

from __future__ import annotations

import os
import signal
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sor import log
from sor.errors import SorError

REPEAT_S = 0.05  # after an interruption was swallowed
MOST_SIGNALS = 3  # with this one the program ends at once


class Interrupted(KeyboardInterrupt):
    """Ctrl-C came. As a KeyboardInterrupt it passes every `except Exception` of a library."""

    exit_code, word = 130, "interrupted"

    def __str__(self) -> str:
        return self.word


class Terminated(Interrupted):
    """SIGTERM came; handled like Ctrl-C but for the exit code."""

    exit_code, word = 143, "terminated"


class _Signals:
    """Ctrl-C and SIGTERM, raised as exceptions in a `with`, each time again until one has ended the work.

    A signal's exception can come up where Python prints and drops whatever is raised (finalizers, callbacks from C) or
    inside code that catches everything. So the exception is watched: when it dies and nobody has said that the work is
    over, it is raised again. While it lives somebody is cleaning up, and a second signal is not let in between.
    """

    def __init__(self) -> None:
        self.kind: type[Interrupted] | None = None
        self._count = 0
        self._flying: weakref.ref[Interrupted] | None = None
        self._before: dict[int, object] = {}
        self._hook = sys.unraisablehook

    def __enter__(self) -> _Signals:
        sys.unraisablehook = self._unraisable
        handlers = {signal.SIGALRM: self._again, signal.SIGINT: self._came, signal.SIGTERM: self._came}
        for number, handler in handlers.items():
            self._before[number] = signal.getsignal(number)
            signal.signal(number, handler)
        return self

    def __exit__(self, *failure: object) -> None:
        self._flying = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in reversed(self._before.items()):
            signal.signal(number, handler)
        sys.unraisablehook = self._hook

    def _came(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count >= MOST_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.kind = self.kind or (Terminated if number == signal.SIGTERM else Interrupted)
        self.check()

    def _new(self) -> Interrupted:  # held by no frame of the traceback, which would keep it alive
        error = self.kind()
        self._flying = weakref.ref(error, self._died)
        return error

    def _died(self, reference: weakref.ref) -> None:
        if reference is self._flying:
            signal.setitimer(signal.ITIMER_REAL, REPEAT_S)

    def _again(self, number: int, frame: FrameType | None) -> None:
        if signal.getsignal(signal.SIGINT) != self._came:  # signals are deferred just now
            signal.setitimer(signal.ITIMER_REAL, REPEAT_S)
        else:
            self.check()

    def check(self) -> None:
        """Raise what has come, unless somebody is just cleaning up after it."""
        if self.kind and (self._flying is None or self._flying() is None):
            raise self._new()

    def _unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, Interrupted):
            self._hook(unraisable)


_signals = _Signals()  # of the program that runs


def run(work: Callable[[], int]) -> int:
    """Do the work of a program and return its exit code; a traceback is for our own mistakes only."""
    global _signals
    _make_writable()
    try:
        with _Signals() as _signals:
            code = _ended(work)
            return _said(_signals.kind) if _signals.kind else code
    except KeyboardInterrupt as interruption:
        return _said(_signals.kind or interruption)


def _ended(work: Callable[[], int]) -> int:
    """The exit code of the work; what went wrong is said, unless a signal is what it went wrong of."""
    try:
        code = work()
        sys.stdout.flush()  # what cannot be written must fail here, not at the interpreter's end
        return code
    except SorError as error:
        if not _signals.kind:
            log.error(str(error))
        return error.exit_code
    except BrokenPipeError:  # the reader of our stdout has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's own flush at exit
        return 1
    except OSError as error:
        if not _signals.kind:
            log.error(f"{error.filename2 or error.filename or 'file'}: {error.strerror or error}")
        return 1


def _said(interruption: object) -> int:
    log.say(getattr(interruption, "word", Interrupted.word))
    return getattr(interruption, "exit_code", Interrupted.exit_code)


def checkpoint() -> None:
    """End here if a signal has come: called before what must not happen after one."""
    _signals.check()


def _make_writable() -> None:
    """Standard streams that were closed are /dev/null, and take any text."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  open as long as the program runs
        getattr(sys, name).reconfigure(errors="backslashreplace")


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block: a library's locks are not left taken in the middle of a step."""
    came: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)
