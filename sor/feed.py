"""Databento MBP-1 and MBP-10 CSV files (plain or .gz) into blocks of rows and typed event arrays.

Columns are found by name, in any order; an unnamed index column and extra ones are ignored. Times are ISO-8601 or whole
nanoseconds. The file is parsed in chunks by pandas' C engine, so that memory does not grow with the file.

One line is one row: without quotes in the header line quotes have no meaning, so that a stray one cannot swallow lines.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np
import pandas as pd

from sor.errors import FeedError, UsageError
from sor.events import KIND_CODE, LOOK_AHEAD, NO_TIME, Checker, Intake, RejectLog, RowBlock

CHUNK_ROWS = 24_576  # about 15 MB at a time; larger chunks are hardly faster
TEXT_COLUMNS = {"ts_event": "S40", "symbol": "S32", "action": "S2", "side": "S2"}  # bytes: a third of the time of str
NUMBER_COLUMNS = {  # CSV column: name in a RowBlock
    "publisher_id": "publisher_id",
    "price": "price",
    "size": "size",
    "bid_px_00": "bid_px",
    "ask_px_00": "ask_px",
    "bid_sz_00": "bid_sz",
    "ask_sz_00": "ask_sz",
    "sequence": "sequence",
}
COLUMNS = (*TEXT_COLUMNS, *NUMBER_COLUMNS)
_CANNOT_READ = (OSError, EOFError, zlib.error, pd.errors.ParserError)
_ISO_NS = b"0000-00-00T00:00:00.000000000Z"  # the form Databento writes, every digit shown as 0
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
_FIRST_YEAR, _AFTER_LAST_YEAR = 1700, 2200  # int64 nanoseconds hold 1677 to 2262


@dataclass(frozen=True)
class FileIdentity:
    """Which file this is, whatever it is called: name and SHA-256 of its bytes."""

    name: str
    sha256: str


def identify(path: str | Path) -> FileIdentity:
    """Name and SHA-256 of a file; FeedError if it cannot be read."""
    digest = hashlib.sha256()
    with _no_os_error(path), open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return FileIdentity(os.fsencode(Path(path).name).decode("utf-8", "replace"), digest.hexdigest())


@contextmanager
def _no_os_error(path: str | Path) -> Iterator[None]:
    """Turns whatever reading `path` can raise into a FeedError that names it."""
    try:
        yield
    except _CANNOT_READ as error:
        found = getattr(error, "strerror", None) or error
        raise FeedError(f"{path}: cannot be read to its end: {found}; it must be a CSV file, plain or .gz") from None


@contextmanager
def _opened(path: str | Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed if they are gzip's, whatever the file is called."""
    with open(path, "rb") as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            with gzip.open(file) as text:
                yield text
        else:
            yield file


@contextmanager
def _text(path: str | Path) -> Iterator[TextIO]:
    """The same as text; FeedError if it cannot be read."""
    with _no_os_error(path), _opened(path) as file, io.TextIOWrapper(file, "utf-8-sig", errors="replace") as text:
        yield text


def parse_times(texts: np.ndarray) -> np.ndarray:
    """UTC nanoseconds of time stamps given as text.

    Parameters
    ----------
    texts : array of bytes (n,)
        ISO-8601, without offset meaning UTC, or whole nanoseconds since 1970.

    Returns
    -------
    int64 array (n,), NO_TIME where a text is neither. Equal neighbours are parsed once.
    """
    first = _run_starts(texts)
    distinct = texts[first]
    times = _iso_ns_times(distinct)
    if times is None:
        times = _any_times(distinct)
    return np.repeat(times, np.diff(first, append=len(texts)))


def _iso_ns_times(texts: np.ndarray) -> np.ndarray | None:
    """The usual case, quickly: every text is of the form `_ISO_NS` and a valid time. None if not so."""
    forms = np.frombuffer(texts.tobytes().translate(_DIGITS_TO_ZERO), texts.dtype)
    in_range = (texts >= b"%d" % _FIRST_YEAR) & (texts < b"%d" % _AFTER_LAST_YEAR)
    if not ((forms == _ISO_NS) & in_range).all():
        return None
    try:
        return texts.astype(f"S{len(_ISO_NS) - 1}").astype("datetime64[ns]").astype(np.int64)  # numpy takes no Z
    except ValueError:
        return None


def _any_times(texts: np.ndarray) -> np.ndarray:
    texts = np.char.strip(np.char.decode(texts, "ascii", "replace"))
    whole = np.char.isdecimal(texts)
    iso = ~whole & np.char.isdecimal(texts.astype("U1"))  # pandas would take the words now and today
    times = np.full(len(texts), NO_TIME, np.int64)
    times[whole] = [ns if (ns := int(text)) < 2**63 else NO_TIME for text in texts[whole]]
    parsed = pd.to_datetime(texts[iso], utc=True, format="ISO8601", errors="coerce")
    parsed = parsed.where((parsed.year >= _FIRST_YEAR) & (parsed.year < _AFTER_LAST_YEAR))
    times[iso] = parsed.as_unit("ns").asi8  # NaT is NO_TIME
    return times


def read_blocks(path: str | Path, *, chunk_rows: int = CHUNK_ROWS) -> Iterator[RowBlock]:
    """The rows of a CSV file, parsed but not checked, a block at a time.

    Raises
    ------
    FeedError
        The file cannot be read, is truncated, or lacks a column; the message names it.
    """
    quoting = _check_header(path)
    options = {
        "usecols": list(COLUMNS),
        "dtype": TEXT_COLUMNS,
        "index_col": False,
        "keep_default_na": False,
        "na_values": [""],
        "skip_blank_lines": False,
        "low_memory": False,
        "encoding_errors": "replace",
        "quoting": quoting,
        "chunksize": chunk_rows,
    }
    with _no_os_error(path), _opened(path) as file, pd.read_csv(_NulsShown(file), **options) as chunks:
        yield from _knowing_later_times(map(_block, chunks))


class _NulsShown:
    """A binary file in which a NUL, which would end a field unseen, is a character that no number or time can hold."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size).replace(b"\0", b"?")

    def __iter__(self) -> Iterator[bytes]:  # pandas asks whether there is one
        return iter(self.read, b"")


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


def _check_header(path: str | Path) -> int:
    """Quoting mode of the file, from its header line; FeedError if a column is missing."""
    with _text(path) as text:
        header = text.readline(1 << 20).rstrip("\n")
    names = [name.strip('"') for name in header.split(",")]
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        found = f"the header lacks {', '.join(missing)}" if header else "there is no header"
        raise FeedError(f"{path}: {found}; it must be a Databento MBP-1 or MBP-10 CSV, comma-separated")
    return csv.QUOTE_MINIMAL if '"' in header else csv.QUOTE_NONE


def _block(frame: pd.DataFrame) -> RowBlock:
    text = {name: frame[name].to_numpy().astype(width, copy=False) for name, width in TEXT_COLUMNS.items()}
    parse_kind = np.zeros(len(frame), np.uint8)
    numbers = {name: _number(frame[column], parse_kind) for column, name in NUMBER_COLUMNS.items()}
    ts_ns = parse_times(text["ts_event"])
    parse_kind[ts_ns == NO_TIME] = KIND_CODE["unreadable_time"]
    blank = (text["ts_event"] == b"") & (text["action"] == b"") & np.isnan(numbers["publisher_id"])
    parse_kind[blank] = KIND_CODE["blank_line"]
    symbols, symbol = _distinct(text["symbol"])
    return RowBlock(
        line=frame.index.to_numpy(np.int64) + 2,
        ts_ns=ts_ns,
        symbol=symbol,
        action=_letters(text["action"]),
        side=_letters(text["side"]),
        parse_kind=parse_kind,
        symbols=tuple(symbol.decode("utf-8", "replace") for symbol in symbols.tolist()),
        **numbers,
    )


def _run_starts(texts: np.ndarray) -> np.ndarray:
    """Index of the first text of every run of equal neighbours."""
    words = texts.view(np.uint64).reshape(
        len(texts), texts.itemsize // 8
    )  # comparing words is five times as fast as comparing bytes
    starts = np.zeros(len(texts), bool)
    starts[:1] = True
    for column in words.T:
        starts[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(starts)


def _distinct(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct texts, and the index into them of every text."""
    first = _run_starts(texts)
    distinct, index = np.unique(texts[first], return_inverse=True)
    return distinct, np.repeat(index, np.diff(first, append=len(texts)))


def _letters(column: np.ndarray) -> np.ndarray:
    """Code of the one letter of each text, 0 where it is not one letter."""
    pairs = column.view(np.uint8).reshape(-1, 2)
    return np.where(pairs[:, 1] == 0, pairs[:, 0], 0).astype(np.uint8)


def _number(column: pd.Series, parse_kind: np.ndarray) -> np.ndarray:
    """The column as float64, NaN where empty; marks in `parse_kind` what is not a number."""
    if column.dtype.kind in "iuf":
        return column.to_numpy(np.float64)
    texts = column.astype(object)  # also of a column that pandas took for booleans
    values = pd.to_numeric(texts.astype(str), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    parse_kind[np.isnan(values) & texts.notna().to_numpy()] = KIND_CODE["unreadable_number"]
    return values


@dataclass
class FileSummary:
    """What a file holds, found in one pass that keeps no row."""

    rows: int = 0  # good rows
    timestamps: int = 0  # runs of rows with equal ts_event
    first_ns: int = NO_TIME
    last_ns: int = NO_TIME
    symbols: dict[str, int] = field(default_factory=dict)  # good rows of each
    venues: dict[int, int] = field(default_factory=dict)  # good rows of each publisher id


def good_blocks(path: str | Path, checker: Checker) -> Iterator[RowBlock]:
    """Blocks of the rows of a CSV file that pass the checks; the others are counted in `checker`."""
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
    """Read a whole CSV file into `intake`; FeedError if it holds no usable row."""
    for rows in read_blocks(path):
        intake.add(rows)
    if not len(intake.buffer):
        wanted = f" of symbol {intake.symbol}" if intake.other_symbol_rows else ""
        raise FeedError(f"{path}: holds no usable row{wanted}{intake.checker.rejects.hint()}")


def write_rejects(path: str | Path, rejects: RejectLog, out: str | Path) -> None:
    """Write every rejected line of `path` as it stands there, with its number and kind, to the CSV file `out`."""
    kinds = rejects.kind_of_line()
    try:
        copy = open(out, "w", newline="", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"rejects: {out} cannot be written: {error.strerror}; it must be a file") from None
    with copy, _text(path) as lines:
        writer = csv.writer(copy, lineterminator="\n")
        writer.writerow(("line", "kind", "row"))
        writer.writerows((at, kinds[at], line.rstrip("\n")) for at, line in enumerate(lines, start=1) if at in kinds)
