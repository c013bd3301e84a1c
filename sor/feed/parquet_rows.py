"""The rows of a Parquet file, read as the CSV file of its values would be.

Row n is line n + 1, a null or NaN is an empty cell, and any type will do that holds the values (a time: a timestamp, whole
nanoseconds or text; a number: integer, floating, decimal or text). A row of a converted file that was kept as its line is read
by the parser of CSV files.
"""

from __future__ import annotations

import io
import os
import zlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sor.errors import FeedError
from sor.events import NO_TIME, RowBlock
from sor.feed import csv_rows
from sor.feed.arrow import pa, pq
from sor.feed.cells import CHUNK_ROWS, COLUMNS, NUMBER_COLUMNS, TEXT_COLUMNS, Cells, to_numbers
from sor.feed.files import opened_as_is
from sor.feed.lean_pandas import pd
from sor.feed.times import parse_times

CSV_LINE = "csv_line"  # column of a converted file: the line of a row that the other columns cannot hold
CSV_HEADER = b"sor.csv_header"  # metadata of a converted file: the header of those lines
# before the footer of a converted file, with the CRC-32 of all that follows: Parquet has none of it
FOOTER_SUM = b"sor.crc\0"
_FOOTER_END = 8  # bytes after a footer: its length and Parquet's magic
_CODED = ("symbol", "action", "side")  # texts of which there are few


def blocks(path: str | Path, chunk_rows: int) -> Iterator[RowBlock]:
    """The rows of a file, at most `chunk_rows` at a time; FeedError if it cannot be read or lacks a column."""
    with _opened(path) as parquet:
        schema = parquet.schema_arrow
    header = _kept_header(schema)
    columns = COLUMNS if header is None else (*COLUMNS, CSV_LINE)
    _check_schema(path, schema, columns)
    if header is not None:
        csv_rows.check_header(path, header)
    with _opened(path, _CODED) as parquet:
        for first_row, batch in _batches(parquet, columns, chunk_rows):
            cells = _parse(batch)
            if header is not None and batch.column(CSV_LINE).null_count < len(batch):
                cells = _with_lines(cells, header, batch.column(CSV_LINE).to_pylist())
            yield cells.block(first_row)


def lines(path: str | Path, wanted: Container[int]) -> Iterator[tuple[int, str]]:
    """(line number, line) of the rows of a file that are `wanted`: the line kept, or the values as Databento writes them."""
    with _opened(path) as parquet:
        keeps_lines = _kept_header(parquet.schema_arrow) is not None
        for first_row, batch in _batches(parquet, parquet.schema_arrow.names, CHUNK_ROWS):
            rows = [row for row in range(len(batch)) if first_row + row + 2 in wanted]
            if rows:
                texts = _row_texts(batch.take(np.array(rows)), keeps_lines)
                yield from ((first_row + row + 2, text) for row, text in zip(rows, texts, strict=True))


@contextmanager
def _opened(path: str | Path, coded: Iterable[str] = ()) -> Iterator[pq.ParquetFile]:
    """An open Parquet file, its texts `coded` read as dictionaries; FeedError for whatever reading it can raise."""
    with opened_as_is(path) as file:
        _check_footer(file)
        try:
            with pq.ParquetFile(file, read_dictionary=list(coded), page_checksum_verification=True) as parquet:
                yield parquet
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise OSError(str(error)) from None


def seal_footer(file: BinaryIO) -> None:
    """Put the footer's checksum before it; `file` is a whole Parquet file that was just written."""
    start = _footer_start(file)
    file.seek(start)
    footer = file.read()
    file.seek(start)
    file.write(FOOTER_SUM + zlib.crc32(footer).to_bytes(4, "little") + footer)


def _check_footer(file: BinaryIO) -> None:
    """OSError if the footer is not the one its checksum was made of; other programs' files have no checksum."""
    seal = _footer_start(file) - len(FOOTER_SUM) - 4
    if seal < 0:
        return
    file.seek(seal)
    if file.read(len(FOOTER_SUM)) != FOOTER_SUM:
        return
    if file.read(4) != zlib.crc32(file.read()).to_bytes(4, "little"):
        raise OSError("the footer is damaged: its CRC-32 is another than when it was written")


def _footer_start(file: BinaryIO) -> int:
    """Where the footer begins, by the length that is said after it; below 0 if that cannot be."""
    size = file.seek(0, os.SEEK_END)
    if size < _FOOTER_END:
        return -1
    file.seek(size - _FOOTER_END)
    return size - _FOOTER_END - int.from_bytes(file.read(4), "little")


def _kept_header(schema: pa.Schema) -> str | None:
    """The header of the lines in CSV_LINE; None if the file was not converted here."""
    kept = (schema.metadata or {}).get(CSV_HEADER)
    return None if kept is None else kept.decode("utf-8", "replace")


def _check_schema(path: str | Path, schema: pa.Schema, columns: Sequence[str]) -> None:
    """FeedError if a column is missing or cannot hold what it must."""
    count = Counter(schema.names)
    for wrong, found in ((0, "the schema lacks"), (2, "the schema has more than once")):
        names = [column for column in columns if min(count[column], 2) == wrong]
        if names:
            raise FeedError(f"{path}: {found} {', '.join(names)}; it must have the columns of a Databento MBP-1 CSV")
    for column in columns:
        if (held := schema.field(column).type).num_fields:
            raise FeedError(f"{path}: {column} is {held}; it must be one number, text or time a row")


def _batches(parquet: pq.ParquetFile, columns: Iterable[str], chunk_rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(row number of its first row from 0, rows), row group by row group, in one thread: memory, not time, is scarce."""
    row = 0
    for group in range(parquet.num_row_groups):
        for batch in parquet.iter_batches(chunk_rows, [group], list(columns), use_threads=False):
            yield row, batch
            row += len(batch)
    if row != parquet.metadata.num_rows:
        raise OSError(f"it holds {row} rows, its footer says {parquet.metadata.num_rows}")


# --- columns into cells ---------------------------------------------------------------------------------------------


def _parse(batch: pa.RecordBatch) -> Cells:
    text = {name: _texts(batch.column(name), TEXT_COLUMNS[name]) for name in _CODED}
    parse_kind = np.zeros(len(batch), np.uint8)
    numbers = {name: _numbers(batch.column(column), parse_kind) for column, name in NUMBER_COLUMNS.items()}
    ts_ns, no_time = _times(batch.column("ts_event"))
    return Cells(ts_ns, text, numbers, parse_kind).marked(no_time)


def _with_lines(cells: Cells, header: str, kept: list[bytes | None]) -> Cells:
    """The same, the rows that have a line read from it as from a CSV file of their own."""
    at = np.array([row for row, line in enumerate(kept) if line is not None])
    text = b"\n".join((header.encode(), *(kept[row] for row in at), b""))
    with csv_rows.frames(io.BytesIO(text), header, COLUMNS, len(at)) as frames:
        return cells.replaced(at, csv_rows.parse(next(iter(frames))))


def _texts(column: pa.Array, width: str) -> np.ndarray:
    """The column as bytes, as wide as those of a CSV file."""
    texts, index = _distinct_texts(column)
    return np.array(texts, width)[index]


def _distinct_texts(column: pa.Array) -> tuple[list[bytes], np.ndarray]:
    """Texts of the values of a column, empty for null, and the index into them of every row."""
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    texts = [_cell(value).replace(b"\0", b"?") for value in coded.dictionary.to_pylist()]
    return [*texts, b""], coded.indices.fill_null(len(texts)).to_numpy()


def _numbers(column: pa.Array, parse_kind: np.ndarray) -> np.ndarray:
    """The column as float64, NaN where null; marks in `parse_kind` what is not a number."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)
        shortest = values.astype("U") if values.dtype in (np.float16, np.float32) else values  # 157.98, not 157.979996
        return shortest.astype(np.float64)
    texts, index = _distinct_texts(column)
    kind = np.zeros(len(texts), np.uint8)
    cells = [text.decode("utf-8", "replace") or np.nan for text in texts]
    values = to_numbers(pd.Series(cells, dtype=object), kind)
    np.maximum(parse_kind, kind[index], out=parse_kind)
    return values[index]


def _times(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """UTC nanoseconds, NO_TIME where there is no time, and where the cell is empty."""
    if pa.types.is_timestamp(column.type):
        times = column.to_numpy(zero_copy_only=False)
        return _as_ns(times), np.isnat(times)
    if pa.types.is_integer(column.type):
        times = column.fill_null(0).to_numpy()
        empty = column.is_null().to_numpy(zero_copy_only=False)
        return np.where(~empty & (times >= 0) & (times < 2**63), times.astype(np.int64), NO_TIME), empty
    texts = _texts(column, TEXT_COLUMNS["ts_event"])
    return parse_times(texts), texts == b""


def _as_ns(times: np.ndarray) -> np.ndarray:
    """datetime64 of any unit as int64 nanoseconds, NO_TIME where they cannot be."""
    per_unit = int(np.ones(1, times.dtype.str.replace("M", "m")).astype("m8[ns]").view(np.int64)[0])
    whole = times.view(np.int64)
    fits = np.abs(whole) <= (2**63 - 1) // per_unit  # the smallest int64, a time that is not, is its own negative
    return np.where(fits & (whole != NO_TIME), whole * per_unit, NO_TIME)


# --- rows into lines ------------------------------------------------------------------------------------------------


def _row_texts(batch: pa.RecordBatch, keeps_lines: bool) -> list[str]:
    columns = [_cell_texts(column) for column in batch.columns]
    kept = columns.pop(batch.schema.names.index(CSV_LINE)) if keeps_lines else [""] * len(batch)
    rows = zip(*columns, strict=True)
    return [line or (",".join(row) if any(row) else "") for line, row in zip(kept, rows, strict=True)]


def _cell_texts(column: pa.Array) -> list[str]:
    if pa.types.is_timestamp(column.type):
        return [f"{np.datetime64(ns, 'ns')}Z" if ns != NO_TIME else "" for ns in _times(column)[0].tolist()]
    return [_cell(value).decode("utf-8", "replace") for value in column.to_pylist()]


def _cell(value: object) -> bytes:
    """A value as Databento writes it, nothing for null."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, float):
        return b"%.9f" % value
    return b"" if value is None else str(value).encode()
