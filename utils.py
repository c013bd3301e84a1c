"""Small tools without a domain word in them: JSON text, atomic files, progress bar, timer."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm


def json_text(value: Any) -> str:
    """`value` as indented JSON, keys in the order given, ending with a line feed; ValueError for NaN and infinity."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved over it when the block succeeds: the file is whole, or as it was."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        yield Path(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_atomic(path: str | Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def progress(total: int | None, unit: str, description: str) -> tqdm:
    """A progress bar on stderr; without a terminal it writes a line every few seconds at most."""
    interval_s = 0.2 if sys.stderr.isatty() else 5.0
    return tqdm(
        total=total, unit=unit, desc=description, file=sys.stderr, mininterval=interval_s, unit_scale=True, leave=True
    )


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
