"""Columns as parsed, which both formats end in, and the block of rows they make."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sor.events import KIND_CODE, NO_TIME, RowBlock
from sor.feed.lean_pandas import pd

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


class Cells(NamedTuple):
    """Some rows, parsed; all arrays have the shape (n,)."""

    ts_ns: np.ndarray
    text: dict[str, np.ndarray]  # symbol, action and side as bytes, as wide as `TEXT_COLUMNS` says
    numbers: dict[str, np.ndarray]  # by their names in a RowBlock
    parse_kind: np.ndarray

    def marked(self, no_time: np.ndarray) -> Cells:
        """The same, unreadable times and blank lines marked; `no_time` is true where the time is empty."""
        self.parse_kind[self.ts_ns == NO_TIME] = KIND_CODE["unreadable_time"]
        blank = no_time & (self.text["action"] == b"") & np.isnan(self.numbers["publisher_id"])
        self.parse_kind[blank] = KIND_CODE["blank_line"]
        return self

    def replaced(self, at: np.ndarray, other: Cells) -> Cells:
        """The same, rows `at` taken from `other`."""
        pairs = [(self.ts_ns, other.ts_ns), (self.parse_kind, other.parse_kind)]
        pairs += [(self.text[name], column) for name, column in other.text.items()]
        pairs += [(self.numbers[name], column) for name, column in other.numbers.items()]
        for mine, theirs in pairs:
            mine[at] = theirs
        return self

    def block(self, first_row: int) -> RowBlock:
        """The rows of a file from `first_row` on, counted from 0: that one is line 2, after the header."""
        symbols, symbol = distinct(self.text["symbol"])
        return RowBlock(
            line=np.arange(first_row + 2, first_row + 2 + len(symbol), dtype=np.int64),
            ts_ns=self.ts_ns,
            symbol=symbol,
            action=_letters(self.text["action"]),
            side=_letters(self.text["side"]),
            parse_kind=self.parse_kind,
            symbols=tuple(symbol.decode("utf-8", "replace") for symbol in symbols.tolist()),
            **self.numbers,
        )


def run_starts(texts: np.ndarray) -> np.ndarray:
    """Index of the first text of every run of equal neighbours; their width must be a multiple of 8 bytes."""
    words = texts.view(np.uint64).reshape(len(texts), texts.itemsize // 8)  # five times as fast to compare as bytes
    starts = np.zeros(len(texts), bool)
    starts[:1] = True
    for column in words.T:
        starts[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(starts)


def distinct(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct texts, and the index into them of every text."""
    first = run_starts(texts)
    values, index = np.unique(texts[first], return_inverse=True)
    return values, np.repeat(index, np.diff(first, append=len(texts)))


def _letters(column: np.ndarray) -> np.ndarray:
    """Code of the one letter of each text, 0 where it is not one letter."""
    pairs = column.view(np.uint8).reshape(-1, 2)
    return np.where(pairs[:, 1] == 0, pairs[:, 0], 0).astype(np.uint8)


def to_numbers(column: pd.Series, parse_kind: np.ndarray) -> np.ndarray:
    """The column as float64, NaN where empty; marks in `parse_kind` what is not a number."""
    if column.dtype.kind in "iuf":
        return column.to_numpy(np.float64)
    texts = column.astype(object)  # also of a column that pandas took for booleans
    values = pd.to_numeric(texts.astype(str), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    held = texts.notna() & (texts != "")  # beside a whole number beyond 64 bits pandas leaves empty cells as they are
    parse_kind[np.isnan(values) & held.to_numpy(bool)] = KIND_CODE["unreadable_number"]
    return values
