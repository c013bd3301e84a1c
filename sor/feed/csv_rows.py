"""The rows of a CSV file, plain or gzip's.

One line is one row: without quotes in the header line quotes have no meaning, so that a stray one cannot swallow lines.
"""

from __future__ import annotations

import csv
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sor.errors import FeedError
from sor.events import RowBlock
from sor.feed.cells import COLUMNS, NUMBER_COLUMNS, TEXT_COLUMNS, Cells, to_numbers
from sor.feed.files import opened, opened_text
from sor.feed.lean_pandas import pd
from sor.feed.times import parse_times


def blocks(path: str | Path, chunk_rows: int) -> Iterator[RowBlock]:
    """The rows of a file, `chunk_rows` at a time; FeedError if it cannot be read or lacks a column."""
    header = read_header(path)
    with opened(path) as file, frames(file, header, COLUMNS, chunk_rows) as chunks:
        for frame in chunks:
            yield parse(frame).block(int(frame.index[0]) if len(frame) else 0)


def lines(path: str | Path, wanted: Container[int]) -> Iterator[tuple[int, str]]:
    """(line number, line) of the lines of a file that are `wanted`."""
    with opened_text(path) as text:
        yield from ((at, line.rstrip("\n")) for at, line in enumerate(text, start=1) if at in wanted)


def read_header(path: str | Path) -> str:
    """The header line of a file; FeedError if a column is missing."""
    with opened_text(path) as text:
        header = text.readline(1 << 20).rstrip("\n")
    check_header(path, header)
    return header


def check_header(path: str | Path, header: str) -> None:
    """FeedError if a column is missing."""
    missing = [column for column in COLUMNS if column not in column_names(header)]
    if missing:
        found = f"the header lacks {', '.join(missing)}" if header else "there is no header"
        raise FeedError(f"{path}: {found}; it must be a Databento MBP-1 or MBP-10 CSV, comma-separated")


def column_names(header: str) -> list[str]:
    """The names of the columns."""
    return [name.strip('"') for name in header.split(",")]


def frames(file: BinaryIO, header: str, columns: Iterable[str], chunk_rows: int) -> pd.io.parsers.TextFileReader:
    """Chunks of a file: `columns`, texts and times as bytes, numbers as pandas finds them."""
    return pd.read_csv(
        _NulsShown(file),
        usecols=list(columns),
        dtype={**TEXT_COLUMNS, "ts_recv": TEXT_COLUMNS["ts_event"]},
        index_col=False,
        keep_default_na=False,
        na_values=[""],
        skip_blank_lines=False,
        low_memory=False,
        encoding_errors="replace",
        quoting=csv.QUOTE_MINIMAL if '"' in header else csv.QUOTE_NONE,
        chunksize=chunk_rows,
    )


class _NulsShown:
    """A binary file in which a NUL, which would end a field unseen, is a character that no number or time can hold."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size).replace(b"\0", b"?")

    def __iter__(self) -> Iterator[bytes]:  # pandas asks whether there is one
        return iter(self.read, b"")


def parse(frame: pd.DataFrame) -> Cells:
    """The cells of a chunk."""
    text = {name: frame[name].to_numpy().astype(width, copy=False) for name, width in TEXT_COLUMNS.items()}
    parse_kind = np.zeros(len(frame), np.uint8)
    numbers = {name: to_numbers(frame[column], parse_kind) for column, name in NUMBER_COLUMNS.items()}
    times = text.pop("ts_event")
    return Cells(parse_times(times), text, numbers, parse_kind).marked(times == b"")
