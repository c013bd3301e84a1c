"""Whole files, CSV or Parquet: their rows in blocks, what they hold, and the lines that were set aside."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from sor.errors import FeedError, UsageError
from sor.events import LOOK_AHEAD, NO_TIME, Checker, Intake, RejectLog, RowBlock
from sor.feed import csv_rows
from sor.feed.cells import CHUNK_ROWS
from sor.feed.files import is_parquet


@dataclass
class FileSummary:
    """What a file holds, found in one pass that keeps no row."""

    rows: int = 0  # good rows
    timestamps: int = 0  # runs of rows with equal ts_event
    first_ns: int = NO_TIME
    last_ns: int = NO_TIME
    symbols: dict[str, int] = field(default_factory=dict)  # good rows of each
    venues: dict[int, int] = field(default_factory=dict)  # good rows of each publisher id


def read_blocks(path: str | Path, *, chunk_rows: int = CHUNK_ROWS) -> Iterator[RowBlock]:
    """The rows of a CSV or Parquet file, parsed but not checked, a block at a time.

    Raises
    ------
    FeedError
        The file cannot be read, is truncated, or lacks a column; the message names it.
    """
    yield from _knowing_later_times(_format_of(path).blocks(path, chunk_rows))


def _format_of(path: str | Path) -> ModuleType:
    """The module that reads such a file."""
    if not is_parquet(path):
        return csv_rows
    from sor.feed import parquet_rows  # loads pyarrow

    return parquet_rows


def _knowing_later_times(blocks: Iterable[RowBlock]) -> Iterator[RowBlock]:
    """The same blocks, each with the times of the LOOK_AHEAD rows after it."""
    waiting: deque[RowBlock] = deque()
    for block in blocks:
        waiting.append(block)
        while len(later_ns := _later_times(waiting)) == LOOK_AHEAD:
            yield replace(waiting.popleft(), later_ns=later_ns)
    while waiting:
        later_ns = _later_times(waiting)
        yield replace(waiting.popleft(), later_ns=later_ns)


def _later_times(blocks: deque[RowBlock]) -> np.ndarray:
    """The first LOOK_AHEAD readable times after the first of `blocks`."""
    times_ns = [block.ts_ns[block.ts_ns != NO_TIME][:LOOK_AHEAD] for block in list(blocks)[1:]]
    return np.concatenate([np.empty(0, np.int64), *times_ns])[:LOOK_AHEAD]


def good_blocks(path: str | Path, checker: Checker) -> Iterator[RowBlock]:
    """Blocks of the rows of a CSV or Parquet file that pass the checks; the others are counted in `checker`."""
    for rows in read_blocks(path):
        good = checker.good(rows)
        if len(good):
            yield good


def summarise(path: str | Path, checker: Checker) -> FileSummary:
    """Count what a file holds; FeedError if it holds no usable row."""
    summary = FileSummary()
    previous_ns = NO_TIME
    for rows in good_blocks(path, checker):
        summary.rows += len(rows)
        summary.timestamps += int((np.diff(rows.ts_ns, prepend=previous_ns) != 0).sum())
        previous_ns = rows.ts_ns[-1]
        summary.first_ns = int(rows.ts_ns[0]) if summary.first_ns == NO_TIME else summary.first_ns
        _count(summary.symbols, np.array(rows.symbols, object)[rows.symbol])
        _count(summary.venues, rows.publisher_id.astype(np.int64))
    if not summary.rows:
        raise FeedError(f"{path}: holds no usable row{checker.rejects.hint()}")
    summary.last_ns = checker.newest_ns
    return summary


def _count(table: dict, values: np.ndarray) -> None:
    for value, count in zip(*np.unique(values, return_counts=True), strict=True):
        key = value.item() if hasattr(value, "item") else value
        table[key] = table.get(key, 0) + int(count)


def load(path: str | Path, intake: Intake) -> None:
    """Read a whole CSV or Parquet file into `intake`; FeedError if it holds no usable row."""
    for rows in read_blocks(path):
        intake.add(rows)
    if not len(intake.buffer):
        wanted = f" of symbol {intake.symbol}" if intake.other_symbol_rows else ""
        raise FeedError(f"{path}: holds no usable row{wanted}{intake.checker.rejects.hint()}")


def write_rejects(path: str | Path, rejects: RejectLog, out: str | Path) -> None:
    """Write every rejected line of `path`, with its number and kind, to the CSV file `out`.

    A line of a CSV file as it stands there; of a Parquet file the line it keeps, else its values as Databento writes them.
    NULs (csv of Python 3.10 cannot write them) and bytes that are no UTF-8 are shown as U+FFFD.
    """
    kinds = rejects.kind_of_line()
    lines = _format_of(path).lines(path, kinds)
    try:
        copy = open(out, "w", newline="", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"rejects: {out} cannot be written: {error.strerror}; it must be a file") from None
    with copy:
        writer = csv.writer(copy, lineterminator="\n")
        writer.writerow(("line", "kind", "row"))
        writer.writerows((at, kinds[at], line.replace("\0", "\ufffd")) for at, line in lines)
