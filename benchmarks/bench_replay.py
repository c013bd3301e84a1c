"""Speed of sor.replay.take on a whole day, beside the bare update of the book it needs; a plain replay checks the answers.

python -m benchmarks.bench_replay

The floor of the bars is the update of the rows that count (the last of every venue in a batch), which is what `take` reads.
The update of all rows of the file, trades included, takes longer and is shown too. The bars are meant for the real day: the
simulated one has a fifth of its batches, on which the same 390 slices weigh more; there only the answers are checked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.table import Row, show
from sor import feed, policies
from sor import market as markets
from sor.book import update_only
from sor.events import Checker, Events, Intake
from sor.market import Market
from sor.orders import Order
from sor.replay import Schedule, Taken, Terminal, Window, take
from sor.venues import parse_venues

ROOT = Path(__file__).parents[1]
REAL, SIMULATED = ROOT.parent / "shared" / "data" / "real_dev.csv.gz", ROOT / "l1_day.csv"
SLICES, LANES, CHECKED_LANES = 390, 125, (0, 62, 124)
NEVER_SZ = 10**8  # more shares than a day displays


@dataclass(frozen=True)
class Day:
    """A day's events, its market, and the window all orders have: from the first usable book to the last batch."""

    name: str
    events: Events
    market: Market

    @property
    def window(self) -> Window:
        ts_ns = self.market.updates.ts_ns
        return Window(int(ts_ns[self.market.usable.argmax()]), int(ts_ns[-1]))

    def take(self, schedule: Schedule) -> Taken:
        day = self.market
        terminal = Terminal(0)
        return take(day.updates, day.usable, day.fees_e6, self.window, schedule, terminal, sweep=False, record=False)


def rows() -> list[Row]:
    """One row per claim: ours, what it stands beside, their ratio, the bar, and ok: answer right and bar met."""
    day = _day()
    return [
        _row(day, f"TWAP of {SLICES} slices, 1 triple", _twap(day, 1), 2.5),
        _row(day, f"TWAP of {SLICES} slices, {LANES} triples", _twap(day, LANES), 3),
        _row(day, f"{LANES} triples that never finish", _never(day), 40),
    ]


def main() -> int:
    """Print the rows as a markdown table; 1 if one of them is not ok."""
    return show(rows())


def _day() -> Day:
    path = REAL if REAL.exists() else SIMULATED
    intake = Intake(Checker(10**9))
    feed.load(path, intake)
    venues = parse_venues((ROOT / "sor" / "venues.toml").read_text(encoding="utf-8"))
    events = intake.buffer.events()
    return Day(path.name, events, markets.build(events, venues))


def _twap(day: Day, lanes: int) -> Schedule:
    """Equal slices of orders that differ by 40 shares from lane to lane."""
    window = day.window
    clock_ns = policies.slice_starts(Order(0, window, -(-(window.end_ns - window.start_ns) // SLICES)))
    sizes = [policies.whole_shares(np.ones(len(clock_ns)), 5_000 + 40 * lane) for lane in range(lanes)]
    return Schedule(clock_ns, np.stack(sizes, axis=1))


def _never(day: Day) -> Schedule:
    """Orders that take all there is at every batch and are never done."""
    return Schedule(np.array([day.window.start_ns]), NEVER_SZ + 40 * np.arange(LANES)[None, :], persistent=True)


def _row(day: Day, name: str, schedule: Schedule, bar: float) -> Row:
    ours_s, floor_s, all_rows_s = _best_s(lambda: day.take(schedule), _bare_update(day), _bare_update_of_all_rows(day))
    ratio = ours_s / floor_s
    batches = len(day.market.updates.ts_ns)
    return {
        "name": f"{name}, {day.name}, {batches:,} batches",
        "ours": f"{ours_s * 1e3:.2f} ms",
        "beside": f"bare book update {floor_s * 1e3:.2f} ms (of all rows {all_rows_s * 1e3:.2f} ms: {ours_s / all_rows_s:.1f})",
        "ratio": round(ratio, 1),
        "bar": f"ratio <= {bar:g} on {REAL.name}",
        "ok": _is_right(day, schedule) and (ratio <= bar or day.name != REAL.name),
    }


def _bare_update(day: Day) -> Callable[[], object]:
    u = day.market.updates
    return lambda: update_only(u.first, u.venue, u.bid_px_e4, u.ask_px_e4, u.bid_sz, u.ask_sz, u.venues)


def _bare_update_of_all_rows(day: Day) -> Callable[[], object]:
    names = ("venue", "bid_px_e4", "ask_px_e4", "bid_sz", "ask_sz")
    columns = [getattr(day.events, name).copy() for name in names]  # writable, as the kernel was compiled for
    return lambda: update_only(np.array([0, len(day.events)]), *columns, len(day.events.publisher_ids))


def _best_s(*calls: Callable[[], object], rounds: int = 15) -> list[float]:
    """Seconds of each call in its fastest round, the calls taking turns: noise only ever adds, and adds to all."""
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            call()
            start = perf_counter()
            call()
            best[i] = min(best[i], perf_counter() - start)
    return best


def _is_right(day: Day, schedule: Schedule) -> bool:
    """Cash, fees and shares of some lanes are those of a replay in plain Python."""
    taken = day.take(schedule)
    got = np.stack([taken.cash_e6, taken.fees_e6, taken.filled_sz], axis=1)
    lanes = [lane for lane in CHECKED_LANES if lane < len(got)]
    return all(tuple(got[lane]) == _plain(day, schedule, lane) for lane in lanes)


def _plain(day: Day, schedule: Schedule, lane: int) -> tuple[int, int, int]:
    """Cash and fees in micro-dollars and shares bought by one lane, with dicts and the shadow rule."""
    updates, usable = day.market.updates, day.market.usable.tolist()
    first = updates.first.tolist()
    venue, px, sz = updates.venue.tolist(), updates.ask_px_e4.tolist(), updates.ask_sz.tolist()
    release_at: dict[int, int] = {}
    for b, shares in zip(updates.batches_by(schedule.clock_ns) - 1, schedule.release_sz[:, lane], strict=True):
        release_at[int(b)] = release_at.get(int(b), 0) + int(shares)
    shown: dict[int, tuple[int, int]] = {}
    gone: dict[int, int] = {}
    account, open_sz = (0, 0, 0), 0
    for b in range(len(usable)):
        for i in range(first[b], first[b + 1]):
            v, quote = venue[i], (px[i], sz[i])
            gone[v] = min(gone[v], quote[1]) if v in shown and shown[v][0] == quote[0] else 0
            shown[v] = quote
        open_sz += release_at.get(b, 0)
        if open_sz and usable[b] and (schedule.persistent or b in release_at):
            account, open_sz = _plain_cross(shown, gone, day.market.fees_e6.tolist(), open_sz, account)
    return account


def _plain_cross(
    shown: dict[int, tuple[int, int]],
    gone: dict[int, int],
    fees_e6: list[int],
    open_sz: int,
    account: tuple[int, int, int],
) -> tuple[tuple[int, int, int], int]:
    """Take what is open from the cheapest venues on."""
    cash_e6, taken_fees_e6, filled_sz = account
    asked = [(px * 100 + fees_e6[v], -v, v) for v, (px, sz) in shown.items() if px and sz > gone[v]]
    for *_, v in sorted(asked):
        got = min(open_sz, shown[v][1] - gone[v])
        gone[v] += got
        open_sz -= got
        cash_e6, taken_fees_e6, filled_sz = (
            cash_e6 + got * shown[v][0] * 100,
            taken_fees_e6 + got * fees_e6[v],
            filled_sz + got,
        )
    return (cash_e6, taken_fees_e6, filled_sz), open_sz


if __name__ == "__main__":
    sys.exit(main())
