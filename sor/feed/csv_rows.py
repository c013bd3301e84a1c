"""The rows of a CSV file, plain or gzip's.

One line is one row, whatever it holds. Without quotes in the header line quotes have no meaning; with them, those of a line in
which they do not come in pairs around whole fields have none. So a stray one cannot swallow lines.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
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

LONGEST_LINE = 1 << 24  # bytes; without a bound a file that never ends its line would be read into memory whole
_FIELD = r'(?:"[^"\r\n]*(?:""[^"\r\n]*)*"|[^",\r\n]*)'
_QUOTED_LINE = re.compile(f"{_FIELD}(?:,{_FIELD})*[\r\n]*".encode())
_QUOTED_NAME = re.compile(f"(?:^|,)({_FIELD})")


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
    """FeedError if a column is missing, or there more than once."""
    count = Counter(column_names(header))
    for wrong, found in ((0, "the header lacks"), (2, "the header has more than once")):
        if columns := [column for column in COLUMNS if min(count[column], 2) == wrong]:
            found = f"{found} {', '.join(columns)}" if header else "there is no header"
            raise FeedError(f"{path}: {found}; it must be a Databento MBP-1 or MBP-10 CSV, comma-separated")


def column_names(header: str) -> list[str]:
    """The names of the columns."""
    if not _is_quoted(header):
        return header.split(",")
    return [name[1:-1] if name.startswith('"') else name for name in _QUOTED_NAME.findall(header)]


def _is_quoted(header: str) -> bool:
    return '"' in header and _QUOTED_LINE.fullmatch(header.encode("utf-8", "replace")) is not None


def frames(file: BinaryIO, header: str, columns: Iterable[str], chunk_rows: int) -> pd.io.parsers.TextFileReader:
    """Chunks of a file: `columns`, texts and times as bytes, numbers as pandas finds them."""
    quoted = _is_quoted(header)
    return pd.read_csv(
        _Rows(file, quoted),
        usecols=list(columns),
        dtype={**TEXT_COLUMNS, "ts_recv": TEXT_COLUMNS["ts_event"]},
        index_col=False,
        keep_default_na=False,
        na_values=[""],
        skip_blank_lines=False,
        low_memory=False,
        encoding_errors="replace",
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        chunksize=chunk_rows,
    )


class _Rows:
    """A binary file in which what would end a field or go on beyond its line unseen is a character no number or time can hold:
    NULs, and in a `quoted` file the quotes of a line that are not in pairs around whole fields."""

    def __init__(self, file: BinaryIO, quoted: bool) -> None:
        self._file, self._quoted = file, quoted
        self._unended = 0  # bytes since a line has ended

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        if self._quoted:
            piece = _in_pairs(piece + self._file.readline(LONGEST_LINE))
        self._unended = 0 if b"\n" in piece or b"\r" in piece else self._unended + len(piece)
        if self._unended > LONGEST_LINE:
            raise OSError(f"a line is longer than {LONGEST_LINE:,} bytes")
        return piece.replace(b"\0", b"?")

    def __iter__(self) -> Iterator[bytes]:  # pandas asks whether there is one
        return iter(self.read, b"")


def _in_pairs(lines: bytes) -> bytes:
    closed = _QUOTED_LINE.fullmatch
    return b"".join(line if closed(line) else line.replace(b'"', b"?") for line in lines.splitlines(keepends=True))


def parse(frame: pd.DataFrame) -> Cells:
    """The cells of a chunk."""
    text = {name: frame[name].to_numpy().astype(width, copy=False) for name, width in TEXT_COLUMNS.items()}
    parse_kind = np.zeros(len(frame), np.uint8)
    numbers = {name: to_numbers(frame[column], parse_kind) for column, name in NUMBER_COLUMNS.items()}
    times = text.pop("ts_event")
    return Cells(parse_times(times), text, numbers, parse_kind).marked(times == b"")
