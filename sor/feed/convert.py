"""A CSV file into a Parquet file that gives the same rows, checks and line numbers.

The columns of Databento's MBP-1 and MBP-10 with a type each; the other columns are left out. A row with a cell that its column's
type cannot hold exactly (a number that is not one, a fraction of a share) has its whole line in the column csv_line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sor.errors import FeedError, UsageError
from sor.events import NO_TIME
from sor.feed import csv_rows
from sor.feed.arrow import pa, pq
from sor.feed.cells import CHUNK_ROWS, TEXT_COLUMNS, distinct, to_numbers
from sor.feed.files import opened, opened_text
from sor.feed.lean_pandas import pd
from sor.feed.parquet_rows import CSV_HEADER, CSV_LINE, seal_footer
from sor.feed.times import parse_times

ROW_GROUP_ROWS = 5 * CHUNK_ROWS  # 20 MB while written (MBP-10: 75); larger groups are hardly smaller on disk
TIME, TEXT = pa.timestamp("ns", "UTC"), pa.string()
_LEVELS = [f"{side}_{{}}_{level:02d}" for side in ("bid", "ask") for level in range(10)]
TYPES: dict[str, pa.DataType] = {  # of the columns of a converted file
    **dict.fromkeys(("ts_recv", "ts_event"), TIME),
    **dict.fromkeys(("action", "side", "symbol"), TEXT),
    **dict.fromkeys(("rtype", "depth", "flags"), pa.uint8()),
    **{"publisher_id": pa.uint16(), "instrument_id": pa.uint32(), "sequence": pa.int64()},
    **{"price": pa.float64(), "size": pa.uint32(), "ts_in_delta": pa.int32()},
    **{level.format("px"): pa.float64() for level in _LEVELS},
    **{level.format(what): pa.uint32() for level in _LEVELS for what in ("sz", "ct")},
}
_ASCENDING = ("ts_recv", "ts_event", "sequence")  # columns of which differences are stored: a third of the size


def to_parquet(path: str | Path, out: str | Path) -> tuple[int, int]:
    """Write the rows of a CSV file to the Parquet file `out`, which appears whole or not at all.

    Returns
    -------
    (rows, rows that are kept as their line)

    Raises
    ------
    FeedError
        The CSV file cannot be read, or holds no row.
    UsageError
        `out` cannot be written.
    """
    header = csv_rows.read_header(path)
    names = [name for name in dict.fromkeys(csv_rows.column_names(header)) if name in TYPES]
    schema = pa.schema([*((name, TYPES[name]) for name in names), (CSV_LINE, pa.binary())], {CSV_HEADER: header})
    options = {
        "compression": "zstd",
        "use_dictionary": [name for name in names if name not in _ASCENDING],
        "column_encoding": {name: "DELTA_BINARY_PACKED" for name in names if name in _ASCENDING},
        "write_page_checksum": True,
    }
    rows = kept = 0
    with _drafted(Path(out)) as draft:
        with pq.ParquetWriter(draft, schema, **options) as writer:
            for table in _row_groups(_batches(path, header, schema)):
                writer.write_table(table)
                rows, kept = rows + len(table), kept + len(table) - table[CSV_LINE].null_count
        seal_footer(draft)
        if not rows:
            raise FeedError(f"{path}: holds no row; it must hold at least one to be converted")
    return rows, kept


@contextmanager
def _drafted(out: Path) -> Iterator[BinaryIO]:
    """A temporary file beside `out`, moved over it when the block succeeds; UsageError if it cannot be written."""
    draft = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        with open(draft, "w+b") as file:
            yield file
        os.replace(draft, out)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror or error}; it must be a file") from None
    finally:
        draft.unlink(missing_ok=True)


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    batches = iter(batches)
    while group := list(islice(batches, ROW_GROUP_ROWS // CHUNK_ROWS)):
        yield pa.Table.from_batches(group)


def _batches(path: str | Path, header: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of a CSV file, CHUNK_ROWS at a time, as they stand in Parquet."""
    columns = schema.names[:-1]
    with _lines(path) as lines, opened(path) as file, csv_rows.frames(file, header, columns, CHUNK_ROWS) as frames:
        for frame in frames:
            if len(frame):
                yield _batch(frame, list(islice(lines, len(frame))), schema)


@contextmanager
def _lines(path: str | Path) -> Iterator[Iterator[bytes]]:
    """The lines of a CSV file after its header, to the byte, without their ends."""
    with opened_text(path, "latin-1") as text:
        next(text, None)
        yield (line.rstrip("\n").encode("latin-1") for line in text)


def _batch(frame: pd.DataFrame, lines: list[bytes], schema: pa.Schema) -> pa.RecordBatch:
    fits = np.ones(len(frame), bool)
    columns = [_column(frame[name], fits) for name in schema.names[:-1]]
    kept = [None if fit else line for fit, line in zip(fits.tolist(), lines, strict=True)]
    return pa.record_batch([*columns, pa.array(kept, pa.binary())], schema)


def _column(cells: pd.Series, fits: np.ndarray) -> pa.Array:
    """A column of a CSV file as it stands in Parquet, null where a cell is empty or does not fit, as noted in `fits`."""
    kind = TYPES[cells.name]
    if kind == TIME:
        return _times(cells, fits)
    return _texts(cells, fits) if kind == TEXT else _numbers(cells, np.dtype(kind.to_pandas_dtype()), fits)


def _times(cells: pd.Series, fits: np.ndarray) -> pa.Array:
    texts = cells.to_numpy().astype(TEXT_COLUMNS["ts_event"], copy=False)
    times_ns = parse_times(texts)
    fits &= (times_ns != NO_TIME) | (texts == b"")
    return pa.array(times_ns, mask=times_ns == NO_TIME).view(TIME)


def _texts(cells: pd.Series, fits: np.ndarray) -> pa.Array:
    width = np.dtype(TEXT_COLUMNS[cells.name]).itemsize
    values, index = distinct(cells.to_numpy().astype(f"S{max(8, width)}"))
    texts = [_whole_text(text, width) for text in values.tolist()]
    fits &= np.array([text is not None for text in texts], bool)[index]
    return pa.DictionaryArray.from_arrays(index, pa.array([text or None for text in texts], TEXT)).cast(TEXT)


def _whole_text(text: bytes, width: int) -> str | None:
    """None if it fills its width, and so may have been cut, or is no UTF-8."""
    try:
        return text.decode() if len(text) < width else None
    except UnicodeDecodeError:
        return None


def _numbers(cells: pd.Series, dtype: np.dtype, fits: np.ndarray) -> pa.Array:
    unreadable = np.zeros(len(cells), np.uint8)
    values = to_numbers(cells, unreadable)
    held = ~np.isnan(values)
    if dtype.kind != "f":
        bounds = np.iinfo(dtype)
        held &= (values == np.rint(values)) & (values >= bounds.min) & (values <= min(bounds.max, 2**53))
    fits &= (held | np.isnan(values)) & (unreadable == 0)
    return pa.array(np.where(held, values, 0).astype(dtype), mask=~held)
