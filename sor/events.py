"""Market data in memory: a block of parsed rows, the checks every row must pass, and the typed event arrays.

A row comes from a CSV file (`sor.feed`) or from a message (`sor.contract`); both end here, so that both transports
apply the same checks and give the same events.

    RowBlock   the columns of some rows, as parsed; lives as long as a block does
    check_rows names the first thing that is wrong with each row
    RejectLog  counts the rows set aside, by kind, with the first line of each
    Events     the typed arrays (36 bytes a row) on which book and replay work
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import numpy as np

from sor.errors import FeedError

PX_SCALE = 10_000  # quote prices are whole multiples of 0.0001 USD: int32 arithmetic, no rounding, no ties by rounding
MAX_INT32 = 2**31 - 1
LONGEST_SYMBOL = 31  # bytes; `sor.feed` reads 32, so that a longer one is not taken for its beginning
NO_TIME = np.iinfo(np.int64).min
FIRST_CAPACITY = 262_144  # rows; the 9 MB are only address space until rows come, and copying while growing costs more
LOOK_AHEAD = 8  # rows by which a time that leaps forward is judged

QUOTE, TRADE, CLEAR, UNKNOWN = 0, 1, 2, -1
ACTION_OF_LETTER = np.full(256, UNKNOWN, np.int8)  # Databento's action, by the code of its letter
ACTION_OF_LETTER[[ord(letter) for letter in "ACM"]] = QUOTE  # add, cancel, modify: the row shows the book after it
ACTION_OF_LETTER[ord("T")] = TRADE
ACTION_OF_LETTER[ord("R")] = CLEAR
NO_AGGRESSOR, BUYER, SELLER = 0, 1, 2
AGGRESSOR_OF_LETTER = np.zeros(256, np.int8)  # Databento's side of a trade; N, or anything else: not given
AGGRESSOR_OF_LETTER[ord("B")] = BUYER
AGGRESSOR_OF_LETTER[ord("A")] = SELLER

REJECT_KINDS = {  # kind: what a row must be
    "blank_line": "a row must hold values",
    "undecodable": "a message must be one JSON object with the fields of the contract",
    "unreadable_time": "ts_event must be ISO-8601 or whole nanoseconds since 1970",
    "unreadable_number": "publisher_id must be a number; price, size, sequence, bid and ask fields numbers or empty",
    "unknown_action": "action must be one of A, C, M (quote), T (trade), R (clear)",
    "no_symbol": "symbol must be 1 to 31 bytes of printable text",
    "negative_or_infinite": "numbers must be finite and not negative",
    "out_of_range": "a price must be at most 214748.3647 USD, a size 2147483647 shares, publisher_id 65535, sequence 2**53",
    "finer_than_tick": "bid and ask prices must be multiples of 0.0001 USD; sizes, publisher_id and sequence whole numbers",
    "price_without_size": "a side with a price must have a size, a trade both price and size",
    "crossed": "a venue's own bid must not be above its own ask",
    "out_of_order": "ts_event must not be more than max_disorder before an earlier row, nor ahead of most of the next 8",
}
KIND_NAMES = tuple(REJECT_KINDS)
KIND_CODE = {kind: code for code, kind in enumerate(KIND_NAMES, start=1)}  # 0: the row is good


@dataclass(frozen=True)
class RowBlock:
    """Columns of some rows in the order they came, before any check. All arrays but `later_ns` have the shape (n,).

    A number that is empty is NaN. What could not be parsed at all is marked in `parse_kind` (a code of `KIND_CODE`, else 0).
    """

    line: np.ndarray  # int64: line of the file (the header is line 1), or row number of the run
    ts_ns: np.ndarray  # int64 UTC nanoseconds
    publisher_id: np.ndarray  # float64: Databento's id of the venue
    symbol: np.ndarray  # int64 index into symbols
    action: np.ndarray  # uint8 code of the letter, 0 if it is not one letter
    side: np.ndarray  # uint8, likewise
    price: np.ndarray  # float64 USD per share: of the trade, or of the order that changed the book
    size: np.ndarray  # float64 shares
    bid_px: np.ndarray  # float64 USD per share
    ask_px: np.ndarray
    bid_sz: np.ndarray  # float64 shares
    ask_sz: np.ndarray
    sequence: np.ndarray  # float64
    parse_kind: np.ndarray  # uint8
    symbols: tuple[str, ...]
    later_ns: np.ndarray = field(
        default_factory=lambda: np.empty(0, np.int64)
    )  # times of the next LOOK_AHEAD rows, if known

    def __len__(self) -> int:
        return len(self.line)

    def select(self, mask: np.ndarray) -> RowBlock:
        """The rows where `mask` is true."""
        if mask.all():
            return self
        return replace(self, **{name: getattr(self, name)[mask] for name in _ROW_ARRAYS})


_ROW_ARRAYS = tuple(f.name for f in fields(RowBlock) if f.name not in ("symbols", "later_ns"))
_PRICES, _SIZES = ("price", "bid_px", "ask_px"), ("size", "bid_sz", "ask_sz")
_LARGEST = {
    "publisher_id": 65_535,
    **dict.fromkeys(_PRICES, MAX_INT32 / PX_SCALE),
    **dict.fromkeys(_SIZES, MAX_INT32),
    "sequence": 2**53,  # the largest up to which float64 holds every whole number
}


def check_rows(rows: RowBlock, newest_ns: int, max_disorder_ns: int) -> tuple[np.ndarray, int, int]:
    """What is wrong with each row.

    Parameters
    ----------
    rows : RowBlock
    newest_ns : int
        Newest ts_event of the good rows before this block (`NO_TIME` if none).
    max_disorder_ns : int
        How far back a row's time may go; less is normal in merged feeds.

    Returns
    -------
    kind : uint8 array (n,)
        0 for a good row, else the code (`KIND_CODE`) of the first check it fails.
    newest_ns : int
        The same, after this block.
    disordered : int
        Good rows whose time is before that of an earlier good row.
    """
    kind = rows.parse_kind.copy()

    def mark(name: str, wrong: np.ndarray) -> None:
        kind[(kind == 0) & wrong] = KIND_CODE[name]

    action = ACTION_OF_LETTER[rows.action]
    is_quote = action == QUOTE
    mark("unreadable_number", np.isnan(rows.publisher_id))
    mark("unknown_action", action == UNKNOWN)
    nameless = [not (1 <= len(symbol.encode()) <= LONGEST_SYMBOL and symbol.isprintable()) for symbol in rows.symbols]
    if any(nameless):
        mark("no_symbol", np.array(nameless)[rows.symbol])
    mark("negative_or_infinite", _any_number(rows, lambda numbers, largest: (numbers < 0) | (numbers == np.inf)))
    mark("out_of_range", _any_number(rows, lambda numbers, largest: numbers > largest))
    mark("finer_than_tick", _finer_than_tick(rows, is_quote))
    mark("price_without_size", _price_without_size(rows, is_quote, action == TRADE))
    mark("crossed", is_quote & (rows.ask_px > 0) & (rows.bid_px > rows.ask_px))
    mark("out_of_order", _too_far_ahead(rows.ts_ns, rows.later_ns, max_disorder_ns))
    return kind, *_check_order(rows.ts_ns, kind, newest_ns, max_disorder_ns)


def _any_number(rows: RowBlock, wrong: Callable[[np.ndarray, float], np.ndarray]) -> np.ndarray:
    """Rows of which a number is wrong, given its column and the largest it may be."""
    found = np.zeros(len(rows), bool)
    for name, largest in _LARGEST.items():
        found |= wrong(getattr(rows, name), largest)
    return found


def _finer_than_tick(rows: RowBlock, is_quote: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):  # infinite prices have been marked before
        finer = [is_quote & _is_fraction(px * PX_SCALE, 1e-3) for px in (rows.bid_px, rows.ask_px)]
        finer += [_is_fraction(getattr(rows, name)) for name in ("publisher_id", "sequence", *_SIZES)]
    return np.logical_or.reduce(finer)


def _is_fraction(values: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
    return np.abs(values - np.rint(values)) > tolerance


def _price_without_size(rows: RowBlock, is_quote: np.ndarray, is_trade: np.ndarray) -> np.ndarray:
    empty_side = ((rows.bid_px > 0) & ~(rows.bid_sz > 0)) | ((rows.ask_px > 0) & ~(rows.ask_sz > 0))
    return (is_quote & empty_side) | (is_trade & ~((rows.price > 0) & (rows.size > 0)))


def _too_far_ahead(ts_ns: np.ndarray, later_ns: np.ndarray, max_disorder_ns: int) -> np.ndarray:
    """Rows that more than half of the next LOOK_AHEAD lie before by more than `max_disorder_ns`: their own time is wrong.

    Without this, one row with a time in the future would make every row after it out of order. Of the rows that remain
    after both checks none lies so far before an earlier one: checked again, all of them pass, whatever the blocks.
    """
    readable = ts_ns != NO_TIME
    times_ns = np.append(ts_ns[readable], later_ns)
    wrong = np.zeros(len(ts_ns), bool)
    if (times_ns[1:] < times_ns[:-1]).any():
        before = np.zeros(len(times_ns), np.int8)
        for step in range(1, LOOK_AHEAD + 1):
            before[:-step] += times_ns[step:] < times_ns[:-step] - max_disorder_ns
        wrong[readable] = before[: len(times_ns) - len(later_ns)] > LOOK_AHEAD // 2
    return wrong


def _check_order(ts_ns: np.ndarray, kind: np.ndarray, newest_ns: int, max_disorder_ns: int) -> tuple[int, int]:
    """Mark rows too far back in `kind`; return the newest time and the number of good rows that are a little back."""
    newest = np.maximum.accumulate(np.append(newest_ns, np.where(kind == 0, ts_ns, NO_TIME)))
    before = newest[:-1]
    back = (kind == 0) & (ts_ns < before)
    too_far = back & (ts_ns < np.maximum(before, NO_TIME + max_disorder_ns) - max_disorder_ns)
    kind[too_far] = KIND_CODE["out_of_order"]
    return int(newest[-1]), int((back & ~too_far).sum())


def describe(rows: RowBlock, i: int, kind: str, place: str) -> str:
    """One sentence about row `i`: where it is, what it holds, and what it must be."""
    action = chr(rows.action[i]) if rows.action[i] else "not one letter"
    time = f"{np.datetime64(int(rows.ts_ns[i]), 'ns')}Z" if rows.ts_ns[i] != NO_TIME else "unreadable"
    numbers = {name: getattr(rows, name)[i] for name in _LARGEST}
    held = ", ".join(f"{name} {value:.10g}" for name, value in numbers.items() if not np.isnan(value))
    found = f"ts_event {time}, action {action}{', ' if held else ''}{held}"
    return f"{place} {rows.line[i]}: {kind.replace('_', ' ')} ({found}): {REJECT_KINDS[kind]}"


@dataclass
class RejectLog:
    """Rows set aside: the lines of each kind, and a sentence on the first of each."""

    place: str = "line"  # of a file; "row" of a run
    lines: dict[str, array] = field(default_factory=dict)  # int64 numbers, ascending
    first: dict[str, str] = field(default_factory=dict)

    def add(self, rows: RowBlock, kind: np.ndarray) -> None:
        """Record the rows whose `kind` is not 0."""
        for code in np.unique(kind[kind != 0]):
            name, at = KIND_NAMES[code - 1], np.flatnonzero(kind == code)
            self.first.setdefault(name, describe(rows, at[0], name, self.place))
            self.lines.setdefault(name, array("q")).extend(rows.line[at].tolist())

    @property
    def total(self) -> int:
        """Number of rows set aside."""
        return sum(map(len, self.lines.values()))

    def earliest(self) -> str:
        """The sentence on the first row of all that was set aside."""
        return self.first[min(self.lines, key=lambda name: self.lines[name][0])]

    def hint(self) -> str:
        """`; ` and the sentence on the first rejected row, or nothing if there is none: the end of an error message."""
        return f"; {self.earliest()}" if self.lines else ""

    def summary(self) -> dict[str, dict[str, int]]:
        """{kind: {"count", "first_line"}}, in the order of `REJECT_KINDS`."""
        kept = {name: self.lines[name] for name in KIND_NAMES if name in self.lines}
        return {name: {"count": len(lines), "first_line": lines[0]} for name, lines in kept.items()}

    def kind_of_line(self) -> dict[int, str]:
        """{line: kind} of every row set aside."""
        return {line: name for name, lines in self.lines.items() for line in lines}


@dataclass
class Checker:
    """Applies `check_rows` block after block and counts what it sets aside; with `strict` the first bad row raises FeedError."""

    max_disorder_ns: int
    strict: bool = False
    rejects: RejectLog = field(default_factory=RejectLog)
    disordered: int = 0
    newest_ns: int = NO_TIME

    def good(self, rows: RowBlock) -> RowBlock:
        """The good rows of a block."""
        kind, self.newest_ns, disordered = check_rows(rows, self.newest_ns, self.max_disorder_ns)
        self.disordered += disordered
        if kind.any():
            self.rejects.add(rows, kind)
            if self.strict:
                raise FeedError(f"strict: {self.rejects.earliest()}")
        return rows.select(kind == 0)


@dataclass(frozen=True)
class Events:
    """Market data of one symbol as a structure of arrays, in file order; 36 bytes a row. All arrays have the shape (T,).

    A side with price 0 is absent: the venue shows nothing there.
    """

    ts_ns: np.ndarray  # int64 UTC nanoseconds (ts_event)
    venue: np.ndarray  # int16 index into publisher_ids
    action: np.ndarray  # int8 QUOTE, TRADE or CLEAR
    side: np.ndarray  # int8 aggressor of a trade: NO_AGGRESSOR, BUYER or SELLER
    bid_px_e4: np.ndarray  # int32 1e-4 USD per share
    ask_px_e4: np.ndarray
    bid_sz: np.ndarray  # int32 shares
    ask_sz: np.ndarray
    trade_px_e4: np.ndarray  # int32 1e-4 USD per share, rounded: off-exchange prints can be finer
    trade_sz: np.ndarray
    publisher_ids: tuple[int, ...]  # Databento's ids of the venues, ascending

    def __len__(self) -> int:
        return len(self.ts_ns)

    def slice(self, start: int, stop: int) -> Events:
        """Rows start to stop, as views."""
        arrays = [getattr(self, name)[start:stop] for name, _ in EVENT_DTYPES]
        return Events(*arrays, self.publisher_ids)


EVENT_DTYPES = (
    ("ts_ns", np.int64),
    ("venue", np.int16),
    ("action", np.int8),
    ("side", np.int8),
    ("bid_px_e4", np.int32),
    ("ask_px_e4", np.int32),
    ("bid_sz", np.int32),
    ("ask_sz", np.int32),
    ("trade_px_e4", np.int32),
    ("trade_sz", np.int32),
)


def _shown_side(is_quote: np.ndarray, px: np.ndarray, sz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Price in 1e-4 USD and size of a quoted side; both 0 where either is 0 or empty: the venue has left that side."""
    px_e4 = np.rint(px * PX_SCALE)
    shown = is_quote & (px_e4 > 0) & (sz > 0)
    return np.where(shown, px_e4, 0), np.where(shown, sz, 0)


class EventBuffer:
    """Grows the event arrays block by block; only these arrays grow with the file."""

    def __init__(self) -> None:
        self._arrays = {name: _pages(FIRST_CAPACITY, dtype) for name, dtype in EVENT_DTYPES if name != "venue"}
        self._publisher_id = _pages(FIRST_CAPACITY, np.uint16)
        self._seen = np.zeros(65536, bool)
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def append(self, rows: RowBlock) -> None:
        """Add good rows (those for which `check_rows` gave 0)."""
        start, stop = self._rows, self._rows + len(rows)
        self._reserve(stop)
        self._rows = stop
        action = ACTION_OF_LETTER[rows.action]
        is_quote, is_trade = action == QUOTE, action == TRADE
        publisher_id = rows.publisher_id.astype(np.uint16)
        self._publisher_id[start:stop] = publisher_id
        self._seen[publisher_id] = True
        bid_px_e4, bid_sz = _shown_side(is_quote, rows.bid_px, rows.bid_sz)
        ask_px_e4, ask_sz = _shown_side(is_quote, rows.ask_px, rows.ask_sz)
        columns = {
            "ts_ns": rows.ts_ns,
            "action": action,
            "side": AGGRESSOR_OF_LETTER[rows.side] * is_trade,
            "bid_px_e4": bid_px_e4,
            "ask_px_e4": ask_px_e4,
            "bid_sz": bid_sz,
            "ask_sz": ask_sz,
            "trade_px_e4": np.where(is_trade, np.rint(rows.price * PX_SCALE), 0),
            "trade_sz": np.where(is_trade, rows.size, 0),
        }
        for name, column in columns.items():
            self._arrays[name][start:stop] = column

    def events(self) -> Events:
        """What has been appended so far, as read-only views (venue indices apart, which are made anew)."""
        publisher_ids = np.flatnonzero(self._seen)
        index = np.zeros(65536, np.int16)
        index[publisher_ids] = np.arange(len(publisher_ids))
        views = {name: column[: self._rows] for name, column in self._arrays.items()}
        views["venue"] = index[self._publisher_id[: self._rows]]
        for view in views.values():
            view.flags.writeable = False
        return Events(**views, publisher_ids=tuple(publisher_ids.tolist()))

    def _reserve(self, rows: int) -> None:
        capacity = len(self._publisher_id)
        if rows <= capacity:
            return
        capacity = max(rows, capacity + capacity // 2)
        for name, column in self._arrays.items():  # one after another: only one column is there twice
            self._arrays[name] = _grown(column, capacity, self._rows)
        self._publisher_id = _grown(self._publisher_id, capacity, self._rows)


def _pages(capacity: int, dtype: type | np.dtype) -> np.ndarray:
    """An array in pages of its own: the system has them back at once when it goes, which an allocator may put off."""
    size = capacity * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype)


def _grown(column: np.ndarray, capacity: int, used: int) -> np.ndarray:
    grown = _pages(capacity, column.dtype)
    grown[:used] = column[:used]
    return grown


class Intake:
    """Collects the events of one symbol from blocks of rows, whichever way they come.

    Parameters
    ----------
    checker : Checker
    symbol : str, optional
        The symbol to keep; without it the data must hold just one.
    """

    def __init__(self, checker: Checker, symbol: str | None = None) -> None:
        self.checker = checker
        self.symbol = symbol
        self.chosen = symbol is not None
        self.other_symbol_rows = 0
        self.buffer = EventBuffer()

    def take_events(self) -> Events:
        """What has been collected; it is forgotten here, so that it lives as long as the caller needs it."""
        events = self.buffer.events()
        self.buffer = EventBuffer()
        return events

    def add(self, rows: RowBlock) -> RowBlock:
        """Check a block, keep its good rows and return them; FeedError if it holds a second symbol and none was chosen."""
        good = self.checker.good(rows)
        chosen = self._rows_of_symbol(good) if len(good) else good
        self.other_symbol_rows += len(good) - len(chosen)
        self.buffer.append(chosen)
        return chosen

    def _rows_of_symbol(self, rows: RowBlock) -> RowBlock:
        present = sorted({rows.symbols[code] for code in np.flatnonzero(np.bincount(rows.symbol))})
        if self.symbol is None and len(present) == 1:
            self.symbol = present[0]
        if present == [self.symbol]:
            return rows
        if self.symbol is None or not self.chosen:
            held = ", ".join(sorted({*present, self.symbol} - {None}))
            raise FeedError(f"the data hold several symbols ({held}): choose one with --symbol")
        return rows.select(np.array([symbol == self.symbol for symbol in rows.symbols], bool)[rows.symbol])
