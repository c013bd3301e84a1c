"""Small tools without a domain word in them: JSON text, atomic files, timer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import glob
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def json_text(value: Any) -> str:
    """`value` as indented JSON, keys in the order given, ending with a line feed; ValueError for NaN and infinity."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved over it when the block succeeds: the file is whole, or as it was.

    A process that is killed leaves its temporary file. The next one that writes the same file removes it: whoever still
    works on a temporary file holds a lock on it, which ends with the process. The file has the rights that the umask leaves.
    An OSError names the file, also if there is something else than a file, such as a folder or a device.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "it is no file that could be replaced", str(path))
    _remove_abandoned(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with _made_and_locked(temporary):
            yield temporary
            os.replace(temporary, path)
    except BaseException as error:  # wherever it came up: the file's name was known before there was a file
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def _made_and_locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # waits for who just looks whether it is abandoned
        yield
    finally:
        os.close(handle)


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files of `path` that no process holds; those that cannot be judged are left."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            handle = os.open(left, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(handle)


def write_atomic(path: str | Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def rare_collections(objects: int = 100_000) -> Iterator[None]:
    """Python looks for unreachable cycles once in `objects` new ones, not once in 700: thousands of messages in memory are none."""
    usual = gc.get_threshold()
    gc.set_threshold(objects, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


class Timer:
    """Seconds since it was made, by a clock that never goes back."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._start = clock()

    @property
    def seconds(self) -> float:
        """Elapsed time."""
        return self._clock() - self._start


def utc_text(ns: int) -> str:
    """ISO-8601 UTC with nanoseconds, of nanoseconds since 1970."""
    return f"{np.datetime64(int(ns), 'ns')}Z"
