"""Provider `replay`: recorded prices of a file, played in a loop that never ends, for demonstrations, benches and tests.

The file is REPLAY_FILE, by default data/simulated.csv beside this module: simulated prices (simulate.py), not a market's.
Its columns are symbol,ts,price; ts is ISO-8601 with an offset.

What is on at a time depends on the file and the clock only, so every process sees the same prices and no state is kept:
each symbol's recording repeats since 1970, one round being as long as the recording (from its first row to its last, and
once more its mean step). A price's time is the recorded one moved into the present round.
"""

from __future__ import annotations

import bisect
import csv
import datetime
import itertools
import operator
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from app.errors import SettingsError, UnknownSymbolError
from app.providers.base import ProviderSettings, Quote, checked

SIMULATED = Path(__file__).resolve().parent / "data" / "simulated.csv"
COLUMNS = ["symbol", "ts", "price"]
MOST = 10_000  # quotes of one history, the newest
_US = 1_000_000
_SYMBOL_AND_TIME = operator.itemgetter(0, 1)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


@dataclass(frozen=True)
class Recording:
    """One symbol's rows, oldest first: microseconds since the first one, recorded times and prices as the file has them."""

    offsets_us: list[int]
    times: list[str]
    prices: list[str]

    @property
    def round_us(self) -> int:
        """Length of one round in microseconds: the span and a mean step, a second where all rows have one time."""
        steps = len(self.offsets_us) - 1
        return self.offsets_us[-1] * (steps + 1) // steps if self.offsets_us[-1] else _US

    def at(self, now_us: int) -> tuple[int, int]:
        """The row that is on at a time since 1970, counted over all rounds, and the time it came on."""
        rounds, offset_us = divmod(now_us, self.round_us)
        row = bisect.bisect_right(self.offsets_us, offset_us) - 1
        return rounds * len(self.offsets_us) + row, rounds * self.round_us + self.offsets_us[row]

    def back_from(self, now_us: int) -> Iterator[tuple[int, int]]:
        """Row and time of what was on at `now_us` and of everything before it, newest first."""
        count, _ = self.at(now_us)
        size = len(self.offsets_us)
        for each in range(count, -1, -1):
            rounds, row = divmod(each, size)
            yield row, rounds * self.round_us + self.offsets_us[row]


class ReplayProvider:
    """Plays a recording; `clock` gives the seconds since 1970."""

    name = "replay"

    def __init__(self, settings: ProviderSettings, clock: Callable[[], float] = time.time) -> None:
        self.file = Path(settings.replay_file) if settings.replay_file else SIMULATED
        self.clock = clock
        self._recordings = read(self.file)

    def latest(self, symbol: str) -> Quote:
        """What is on now. A bad price in the file is a BadPriceError when its turn comes."""
        row, ts_us = next(self._recording(symbol).back_from(self._now_us()))
        return self._quote(symbol, row, ts_us)

    def history(self, symbol: str, start: datetime.datetime) -> list[Quote]:
        """What was on since `start`, at most the newest 10,000."""
        start_us = (start - _EPOCH) // datetime.timedelta(microseconds=1)
        quotes: list[Quote] = []
        for row, ts_us in self._recording(symbol).back_from(self._now_us()):
            if ts_us < start_us or len(quotes) == MOST:
                break
            quotes.append(self._quote(symbol, row, ts_us))
        return quotes[::-1]

    def _now_us(self) -> int:
        return int(self.clock() * _US)

    def _recording(self, symbol: str) -> Recording:
        try:
            return self._recordings[symbol]
        except KeyError:
            raise UnknownSymbolError(self.name, f"{self.file.name} has no symbol {symbol}") from None

    def _quote(self, symbol: str, row: int, ts_us: int) -> Quote:
        recording = self._recordings[symbol]
        price = checked(recording.prices[row], self.name)
        ts = _EPOCH + datetime.timedelta(microseconds=ts_us)
        body = {"file": self.file.name, "recorded": {"ts": recording.times[row], "price": recording.prices[row]}}
        return Quote(symbol, self.name, price, ts, body)


def read(path: Path) -> dict[str, Recording]:
    """The recordings of a file by symbol.

    Raises
    ------
    SettingsError
        If it cannot be read, has other columns, a broken line, or no line at all.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = sorted(_rows(path, file), key=_SYMBOL_AND_TIME)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"REPLAY_FILE {path} cannot be read: {error}") from None
    if not rows:
        raise SettingsError(f"REPLAY_FILE {path} holds no price")
    return {symbol: _recording(list(group)) for symbol, group in itertools.groupby(rows, operator.itemgetter(0))}


def _recording(rows: list[tuple[str, datetime.datetime, str, str]]) -> Recording:
    first = rows[0][1]
    offsets_us = [(ts - first) // datetime.timedelta(microseconds=1) for _, ts, _, _ in rows]
    return Recording(offsets_us, [row[2] for row in rows], [row[3] for row in rows])


def _rows(path: Path, file: TextIO) -> Iterator[tuple[str, datetime.datetime, str, str]]:
    lines = csv.reader(file)
    header = next(lines, [])
    if header != COLUMNS:
        raise SettingsError(f"REPLAY_FILE {path} begins with {','.join(header)!r}; it must be {','.join(COLUMNS)}")
    for values in lines:
        try:
            symbol, ts, price = values
            yield symbol, _time(ts), ts, price
        except ValueError as error:
            raise SettingsError(f"REPLAY_FILE {path}, line {lines.line_num}: {error}") from None


def _time(text: str) -> datetime.datetime:
    # Python 3.10 reads no Z.
    ts = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    if ts.utcoffset() is None:
        raise ValueError(f"ts is {text}; it must have an offset")
    return ts
