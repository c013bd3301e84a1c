"""Databento MBP-1 and MBP-10 files, CSV (plain or .gz) or Parquet, into blocks of rows and typed event arrays.

    for rows in feed.read_blocks("day.csv.gz"): ...
    python -m sor.feed --to-parquet day.csv.gz

    reading       whole files: blocks of rows, what they hold, the lines set aside
    files         their bytes: identity, format, decompression, the error of what cannot be read
    csv_rows      the rows of a CSV file
    parquet_rows  the rows of a Parquet file, ours or another program's
    cells, times  columns as parsed: what both formats become
    convert       CSV to Parquet
    lean_pandas   pandas without pyarrow
    arrow         pyarrow, where Parquet is read or written

Columns are found by name, in any order; an unnamed index column and extra ones are ignored. Times are ISO-8601 or whole
nanoseconds. A CSV file is parsed in chunks by pandas' C engine, a Parquet file in batches of a row group, so that memory
does not grow with the file.
"""

from sor.feed.cells import CHUNK_ROWS, COLUMNS
from sor.feed.files import FileIdentity, identify, is_parquet
from sor.feed.reading import FileSummary, good_blocks, load, read_blocks, summarise, write_rejects
from sor.feed.times import parse_times

__all__ = [
    "CHUNK_ROWS",
    "COLUMNS",
    "FileIdentity",
    "FileSummary",
    "good_blocks",
    "identify",
    "is_parquet",
    "load",
    "parse_times",
    "read_blocks",
    "summarise",
    "write_rejects",
]
