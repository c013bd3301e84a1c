"""Speed of the grid replay against the same TWAP by other means; every answer is checked before it is timed.

python -m benchmarks.bench_against

What is in the timings (fastest of several rounds in which all take turns):

- from the rows: everything from the typed rows in memory on; ours builds the market, then replays. All follow the same rules
  for all lanes at once, and give the same cash, fees and shares in every lane.
- the replay: `sor.replay.take` on a market built before. The floor is a book update that does nothing else.
- hftbacktest: its replay after its data have been converted to the events of one asset per venue, its assets made and its
  strategy compiled. It trades one order, ours every lane. What is converted and made before is not in either time; ours
  includes the NBBO of every batch, theirs does not. So it is measured twice more: given the asks alone and told when the
  book is usable, which is all that `take` reads; and against `take` with our NBBO of all batches in our time.

hftbacktest wants an older numpy than the pipeline has. Where it is not importable but benchmarks/requirements.txt has been
installed into .venv/bench, its rows come from a process of their own, which times ours and theirs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.table import Row, show
from benchmarks.twap_otherwise import frame_of, grouped, plain, plain_rows
from sor import feed
from sor import market as markets
from sor.book import nbbo, update_only
from sor.events import Checker, Events, Intake
from sor.market import Market
from sor.orders import Order, Terminal, Window, slice_starts, whole_shares
from sor.replay import Schedule, take
from sor.venues import VenueTable, parse_venues

ROOT = Path(__file__).parents[1]
REAL, SIMULATED = ROOT.parent / "shared" / "data" / "real_dev.csv.gz", ROOT / "l1_day.csv"
SEPARATE = ROOT / ".venv" / "bench"
INSTALL = (
    "not installed; `.venv/bin/python -m pip install --no-deps --upgrade --target .venv/bench "
    "-r benchmarks/requirements.txt` (Python 3.11 or later)"
)
FROM_THE_ROWS = (
    "import json; from benchmarks import bench_against as b; print(json.dumps(b.hftbacktest_rows(b.days())))"
)
SLICES, LANES, FEWER_LANES, FIRST_SZ = 390, 125, 27, 5_000
FLOOR_BAR, HFT_BAR, NO_BAR = 3, 15, ("", True)
Answer = Callable[[Schedule], np.ndarray]  # cash and fees in micro-dollars, and shares, of every lane: int64 (3, P)
Clock = Callable[[Schedule], float]  # seconds that it takes


@dataclass(frozen=True)
class Day:
    """A day's rows, the market made of them, and our answers: cash, fees and shares of every lane, int64 (3, P)."""

    name: str
    events: Events
    venues: VenueTable

    @property
    def is_real(self) -> bool:
        return self.name == REAL.name

    @property
    def routable(self) -> np.ndarray:
        return self.venues.routable(self.events.publisher_ids)

    @cached_property
    def market(self) -> Market:
        return markets.build(self.events, self.venues)

    @cached_property
    def window(self) -> Window:
        """From the first usable book to the last batch."""
        ts_ns = self.market.updates.ts_ns
        return Window(int(ts_ns[self.market.usable.argmax()]), int(ts_ns[-1]))

    @cached_property
    def grids(self) -> list[Schedule]:
        """Orders that differ by 40 shares from lane to lane, in all lanes and in fewer."""
        return [self.twap([FIRST_SZ + 40 * lane for lane in range(lanes)]) for lanes in (LANES, FEWER_LANES)]

    @cached_property
    def one_share_a_slice(self) -> Schedule:
        """So few that no display is used up."""
        return self.twap([SLICES])

    def twap(self, sizes: list[int]) -> Schedule:
        """Equal slices of an order in each lane."""
        clock_ns = slice_starts(Order(0, self.window, -(-(self.window.end_ns - self.window.start_ns) // SLICES)))
        return Schedule(clock_ns, np.stack([whole_shares(np.ones(len(clock_ns)), size) for size in sizes], axis=1))

    def answer(self, schedule: Schedule) -> np.ndarray:
        return self._answer(self.market, self.market.usable, schedule)

    def answer_from_rows(self, schedule: Schedule) -> np.ndarray:
        market = markets.build(self.events, self.venues)
        return self._answer(market, market.usable, schedule)

    def answer_with_nbbo(self, schedule: Schedule) -> np.ndarray:
        return self._answer(self.market, nbbo(self.market.updates).usable, schedule)

    def _answer(self, market: Market, usable: np.ndarray, schedule: Schedule) -> np.ndarray:
        taken = take(
            market.updates, usable, market.fees_e6, self.window, schedule, Terminal(0), sweep=False, record=False
        )
        return np.array([taken.cash_e6, taken.fees_e6, taken.filled_sz])


def rows() -> list[Row]:
    """One row per comparison: ours, what it stands beside, their ratio, the bar, and ok: answer right and bar met."""
    found = days()
    missing = [] if REAL.exists() else [_not_run(REAL.name, f"../shared/data/{REAL.name} is not there")]
    return [row for day in found for row in own_rows(day)] + _rows_against_hftbacktest(found) + missing


def main() -> int:
    """Print the rows as a markdown table; 1 if one of them is not ok."""
    return show(rows())


def days() -> list[Day]:
    """The simulated day, and the real one where it is there."""
    venues = parse_venues((ROOT / "sor" / "venues.toml").read_text(encoding="utf-8"))
    return [Day(path.name, _read(path), venues) for path in (REAL, SIMULATED) if path.exists()]


def own_rows(day: Day) -> list[Row]:
    """Against plain Python, pandas and the bare book update."""
    listed, frame, known = plain_rows(day.events), frame_of(day.events), (day.routable, day.market.fees_e6)
    others: dict[str, Answer] = {
        "plain Python, one loop with dicts": lambda s: plain(listed, *known, s),
        "pandas, group-bys and one sweep a slice": lambda s: grouped(frame, *known, s),
    }
    right = [all(np.array_equal(call(s), day.answer(s)) for s in day.grids) for call in others.values()]
    ours_s, *others_s = _fastest_s([_clock(day.answer_from_rows), *map(_clock, others.values())], day.grids, rounds=4)
    replay_s, floor_s = _fastest_s([_clock(day.answer, 5), _clock(_bare_update(day.market), 5)], day.grids, rounds=15)
    ours = f"{_ms(ours_s)}, the replay in it {replay_s[0] * 1e3:.2f}"
    from_rows = [
        _row(day, "from the rows", ours, f"{other}: {_ms(took_s)}", took_s[0] / ours_s[0], NO_BAR, ok)
        for other, took_s, ok in zip(others, others_s, right, strict=True)
    ]
    ratio, floor = replay_s[0] / floor_s.min(), f"bare book update: {floor_s.min() * 1e3:.2f} ms"
    held = f"ratio <= {FLOOR_BAR} on {REAL.name}", ratio <= FLOOR_BAR or not day.is_real
    return [*from_rows, _row(day, "the replay", _ms(replay_s), floor, ratio, held, all(right))]


def hftbacktest_rows(found: list[Day]) -> list[Row]:
    """Against hftbacktest, in this process."""
    return [row for day in found for row in _hftbacktest_rows(day)]


def _hftbacktest_rows(day: Day) -> list[Row]:
    from benchmarks import twap_hftbacktest as hft  # not everywhere installed

    books = hft.Replay(day.market, day.window.end_ns)
    asks = hft.Replay(day.market, day.window.end_ns, bids=False)
    right, difference = _agreement(day, [lambda s, each=each: each.run(s)[0] for each in (books, asks)])
    clocks = [lambda s, each=each: each.run(s)[1] for each in (books, asks)]
    ours = [_clock(day.answer, 5), _clock(day.answer_with_nbbo, 5)]
    replay_s, nbbo_s, *theirs_s = _fastest_s([*ours, *clocks], day.grids, rounds=10)
    books_s, asks_s = (took_s.min() for took_s in theirs_s)
    shown = f"hftbacktest {hft.VERSION}, {len(books.events)} HashMap books, one order: {books_s * 1e3:.1f} ms"
    strict = f"the same, asks alone and told when the book is usable: {asks_s * 1e3:.1f} ms"
    ratio, strict_ratio = books_s / replay_s[0], asks_s / replay_s[0]
    held = f"ratio >= {HFT_BAR}", ratio >= HFT_BAR
    strictly_held = f"ratio >= {HFT_BAR} on {REAL.name}", strict_ratio >= HFT_BAR or not day.is_real
    return [
        _row(day, "the replay", _ms(replay_s), f"{shown}, {difference}", ratio, held, right),
        _row(day, "the replay", _ms(replay_s), strict, strict_ratio, strictly_held, right),
        _row(day, "the replay and our NBBO of every batch", _ms(nbbo_s), shown, books_s / nbbo_s[0], NO_BAR, right),
    ]


def _agreement(day: Day, theirs: list[Answer]) -> tuple[bool, str]:
    """Whether their answers are what they must be, and how the order of lane 0 differs from ours.

    An order that uses up no display must be ours exactly. The real one must be that of the plain loop, exactly, if that
    too forgets at each slice what it has taken; ours is checked against the loop that remembers.
    """
    first = day.twap([FIRST_SZ])
    ours = day.answer(first)
    rows, known = plain_rows(day.events), (day.routable, day.market.fees_e6)
    forgetful = plain(rows, *known, first, remember=False)
    right = np.array_equal(ours, plain(rows, *known, first))
    for answer in theirs:
        right &= np.array_equal(answer(day.one_share_a_slice), day.answer(day.one_share_a_slice))
        right &= np.array_equal(answer(first), forgetful)
    return right, _difference(ours[:, 0], forgetful[:, 0])


def _rows_against_hftbacktest(found: list[Day]) -> list[Row]:
    """In this process where hftbacktest can be imported, else in one that finds it in .venv/bench."""
    if find_spec("hftbacktest"):
        return hftbacktest_rows(found)
    if not (SEPARATE / "hftbacktest").exists():
        return [_not_run("hftbacktest", INSTALL)]
    path = os.pathsep.join(filter(None, (str(SEPARATE), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", FROM_THE_ROWS]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return [
            {**_not_run("hftbacktest", f"failed: {(done.stderr.splitlines() or [done.returncode])[-1]}"), "ok": False}
        ]
    return json.loads(done.stdout)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    """What the display costs that hftbacktest lets be taken again and again, for the order of lane 0."""
    (cash_e6, fees_e6, filled_sz), less_e6 = ours, int((ours - theirs)[:2].sum())
    if not less_e6:
        return "same cash, fees and shares"
    less_bps = less_e6 / (cash_e6 + fees_e6) * 1e4
    same = "same" if filled_sz == theirs[2] else "other"
    return f"{less_e6 / 1e6:.2f} USD ({less_bps:.2f} bps) cheaper, {same} shares: it finds again what it has taken"


def _read(path: Path) -> Events:
    intake = Intake(Checker(10**9))
    feed.load(path, intake)
    return intake.buffer.events()


def _bare_update(market: Market) -> Callable[[Schedule], object]:
    u = market.updates
    return lambda _: update_only(u.first, u.venue, u.bid_px_e4, u.ask_px_e4, u.bid_sz, u.ask_sz, u.venues)


def _clock(call: Callable[[Schedule], object], repeats: int = 1) -> Clock:
    """The seconds of a call, of several the fastest."""

    def seconds(schedule: Schedule) -> float:
        took = []
        for _ in range(repeats):
            start = perf_counter()
            call(schedule)
            took.append(perf_counter() - start)
        return min(took)

    return seconds


def _fastest_s(clocks: list[Clock], schedules: list[Schedule], rounds: int) -> np.ndarray:
    """Of each clock and schedule the fastest round, all taking turns: noise only ever adds, and adds to all."""
    return np.min([[[clock(s) for s in schedules] for clock in clocks] for _ in range(rounds)], axis=0)


def _ms(took_s: np.ndarray) -> str:
    return f"{took_s[0] * 1e3:.2f} ms ({FEWER_LANES} triples: {took_s[1] * 1e3:.2f})"


def _row(day: Day, what: str, ours: str, beside: str, ratio: float, bar: tuple[str, bool], right: bool) -> Row:
    name = f"TWAP, {LANES} triples, {what}, {day.name}"
    return {
        "name": name,
        "ours": ours,
        "beside": beside,
        "ratio": round(ratio, 1),
        "bar": bar[0],
        "ok": bool(right and bar[1]),
    }


def _not_run(name: str, why: str) -> Row:
    return {"name": f"TWAP, {name}", "ours": "", "beside": why, "ratio": "", "bar": "", "ok": "not run"}


if __name__ == "__main__":
    sys.exit(main())
