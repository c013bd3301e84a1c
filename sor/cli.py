"""How a program of ours ends: one line on stderr for what went wrong, and the exit code.

0 done, 1 failed, 2 wrong usage, 130 interrupted (Ctrl-C), 143 terminated.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sor.errors import SorError


class Terminated(KeyboardInterrupt):
    """SIGTERM came; handled like Ctrl-C but for the exit code."""


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated


def run(work: Callable[[], int]) -> int:
    """Do the work of a program and return its exit code; a traceback is for our own mistakes only."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _make_writable()
    try:
        code = work()
        sys.stdout.flush()  # what cannot be written must fail here, not at the interpreter's end
        return code
    except SorError as error:
        say(f"error: {error}")
        return error.exit_code
    except Terminated:
        say("terminated")
        return 143
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our stdout has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's own flush at exit
        return 1
    except OSError as error:
        say(f"error: {error.filename2 or error.filename or 'file'}: {error.strerror or error}")
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)


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


def say(text: str) -> None:
    """One line for the person at the terminal, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
