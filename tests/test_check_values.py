"""Every figure of ../shared/data/CHECK.md, which plain pandas found, from our own reader, book and replay."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from sor import feed
from sor.book import CROSSED, EMPTY, LOCKED, Nbbo, QuoteUpdates, asks_after, nbbo, quote_updates
from sor.events import CLEAR, QUOTE, TRADE, Checker, Events, Intake
from sor.replay import FILL_DTYPE, RESET, Schedule, Taken, Terminal, Window, take

DATA = Path(__file__).parents[2] / "shared" / "data" / "real_dev.csv.gz"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="../shared/data/real_dev.csv.gz is not here")
REGULAR = tuple(int(np.datetime64(at, "ns").astype(np.int64)) for at in ("2018-01-02T14:30", "2018-01-02T21:00"))


@dataclass(frozen=True)
class Snapshots:
    """The consolidated book after every distinct time, under CHECK's choices."""

    updates: QuoteUpdates

    @cached_property
    def best(self) -> Nbbo:
        return nbbo(self.updates)

    def spans(self, regular: bool) -> tuple[np.ndarray, np.ndarray]:
        """Which snapshots, and how many nanoseconds each stands; the book carried into regular hours is their first."""
        ts_ns = self.updates.ts_ns
        start_ns, end_ns = REGULAR if regular else (ts_ns[self.best.usable.argmax()], ts_ns[-1])
        inside = np.arange(len(ts_ns)) >= self.updates.batches_by(start_ns) - 1
        if regular:
            inside &= ts_ns < end_ns
        return inside, np.diff(np.clip(ts_ns, start_ns, end_ns), append=end_ns)

    def figures(self, regular: bool) -> dict[str, float]:
        inside, stands_ns = self.spans(regular)
        best, usable = self.best, inside & self.best.usable
        spread = best.spread_px[usable]
        crossed, locked = ((best.state == state) & inside for state in (CROSSED, LOCKED))
        return {
            "snapshots": int((inside & (best.state != EMPTY)).sum()),
            "usable": int(usable.sum()),
            "crossed": int(crossed.sum()),
            "crossed_s": round(stands_ns[crossed].sum() / 1e9, 3),
            "locked": int(locked.sum()),
            "locked_s": round(stands_ns[locked].sum() / 1e9, 3),
            **_distribution(best.ask_px_e4[usable] / 1e4),
            "weighted_spread": round(float((spread * stands_ns[usable]).sum() / stands_ns[usable].sum()), 8),
            "usable_s": round(stands_ns[usable].sum() / 1e9, 3),
            "mean_spread": round(float(spread.mean()), 8),
        }


def _distribution(nbo_px: np.ndarray) -> dict[str, float]:
    return {
        "nbo_min": float(nbo_px.min()),
        "nbo_median": float(np.median(nbo_px)),
        "nbo_mean": round(float(nbo_px.mean()), 6),
        "nbo_max": float(nbo_px.max()),
    }


@pytest.fixture(scope="module")
def day() -> Events:
    intake = Intake(Checker(10**9))
    feed.load(DATA, intake)
    assert intake.checker.rejects.total == 0
    return intake.buffer.events()


def one_sided(day: Events) -> np.ndarray:
    """Quote rows that CHECK calls invalid: no bid or no ask."""
    return (day.action == QUOTE) & ((day.bid_px_e4 == 0) | (day.ask_px_e4 == 0))


def withdrawn(day: Events) -> Events:
    """CHECK's reading WITHDRAW: with a side missing the whole venue is out, not only that side."""
    return replace(day, action=np.where(one_sided(day), CLEAR, day.action).astype(np.int8))


def skipped(day: Events) -> Events:
    """CHECK's reading SKIP: such a row is ignored, the older quote stays."""
    return replace(day, action=np.where(one_sided(day), TRADE, day.action).astype(np.int8))


def snapshots(day: Events) -> Snapshots:
    return Snapshots(quote_updates(day, np.ones(len(day.publisher_ids), bool)))


@pytest.fixture(scope="module")
def withdraw(day: Events) -> Snapshots:
    return snapshots(withdrawn(day))


@pytest.fixture(scope="module")
def skip(day: Events) -> Snapshots:
    return snapshots(skipped(day))


# --- rows ---------------------------------------------------------------------------------------------------------------


def test_file_is_the_one_that_was_checked():
    digest = hashlib.sha256(DATA.read_bytes()).hexdigest()
    assert digest == "eee93af25677fd26fd9232dd72887cfcd7f39881f233143cf45d86a229fb7805"


def test_rows_trades_and_publishers(day: Events):
    quotes = day.action == QUOTE
    assert (len(day), int((day.action == TRADE).sum()), int(quotes.sum())) == (259_621, 39_064, 220_557)
    publishers = np.array(day.publisher_ids)
    quoting = set(publishers[np.unique(day.venue[quotes])].tolist())
    assert quoting == {2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 38, 43}
    assert set(publishers.tolist()) - quoting == {17, 19}


def test_distinct_times_and_rows_that_keep_one_removes(day: Events, withdraw: Snapshots):
    quotes = day.action == QUOTE
    assert (np.diff(day.ts_ns) >= 0).all()
    assert len(np.unique(day.ts_ns)) == 78_306
    assert len(np.unique(day.ts_ns[quotes])) == 69_661 == len(withdraw.updates.ts_ns)
    assert len(withdraw.updates.venue) == 131_288
    assert int(quotes.sum()) - len(withdraw.updates.venue) == 89_269


def test_missing_sides_locked_and_crossed_rows(day: Events):
    quotes = day.action == QUOTE
    bid, ask = day.bid_px_e4[quotes] > 0, day.ask_px_e4[quotes] > 0
    assert (int((~bid & ask).sum()), int((bid & ~ask).sum()), int((~bid & ~ask).sum())) == (76, 247, 127)
    assert (int((bid & ask).sum()), int(one_sided(day).sum())) == (220_107, 450)
    both = day.bid_px_e4[quotes][bid & ask], day.ask_px_e4[quotes][bid & ask]
    assert (int((both[0] == both[1]).sum()), int((both[0] > both[1]).sum())) == (0, 0)


def test_quote_rows_that_repeat_the_venues_last(day: Events):
    quotes = np.flatnonzero(day.action == QUOTE)
    by_venue = quotes[np.argsort(day.venue[quotes], kind="stable")]
    columns = [getattr(day, name)[by_venue] for name in ("venue", "bid_px_e4", "ask_px_e4", "bid_sz", "ask_sz")]
    assert int(np.logical_and.reduce([column[1:] == column[:-1] for column in columns]).sum()) == 38_371


def test_first_valid_quote(day: Events):
    first = np.flatnonzero((day.action == QUOTE) & ~one_sided(day))[0]
    assert str(np.datetime64(int(day.ts_ns[first]), "ns")) == "2018-01-02T09:00:00.030000000"
    assert day.publisher_ids[day.venue[first]] == 43


# --- the consolidated book ----------------------------------------------------------------------------------------------


def test_first_usable_snapshot(withdraw: Snapshots, skip: Snapshots):
    for book in (withdraw, skip):
        first = book.best.usable.argmax()
        assert str(np.datetime64(int(book.updates.ts_ns[first]), "ns")) == "2018-01-02T09:00:00.030000000"
        assert (book.best.bid_px_e4[first], book.best.ask_px_e4[first]) == (1_365_000, 1_759_000)


COLUMNS = (
    *("snapshots", "usable", "crossed", "crossed_s", "locked", "locked_s"),
    *("nbo_min", "nbo_median", "nbo_mean", "nbo_max", "weighted_spread", "usable_s", "mean_spread"),
)
WITHDRAW_FULL = (
    69_660,
    69_597,
    63,
    7184.470,
    43,
    1329.231,
    156.06,
    156.78,
    157.275961,
    175.9,
    0.68851564,
    50417.08,
    0.24670015,
)
WITHDRAW_REGULAR = (
    63_206,
    63_206,
    0,
    0.0,
    30,
    0.387,
    156.06,
    156.73,
    157.133333,
    159.4,
    0.03704037,
    23400.0,
    0.0431459,
)
SKIP_FULL = (
    69_493,
    28_740,
    40_753,
    24927.45,
    274,
    1411.951,
    156.65,
    158.49,
    158.200584,
    175.9,
    1.04817368,
    32674.1,
    0.56179088,
)
SKIP_REGULAR = (
    63_052,
    22_360,
    40_692,
    17742.98,
    261,
    83.107,
    156.65,
    158.32,
    158.061453,
    159.4,
    0.07104943,
    5657.02,
    0.07632961,
)


@pytest.mark.parametrize(("regular", "expected"), [(False, WITHDRAW_FULL), (True, WITHDRAW_REGULAR)])
def test_book_where_a_missing_side_withdraws_the_venue(withdraw: Snapshots, regular: bool, expected: tuple[float, ...]):
    assert withdraw.figures(regular) == dict(zip(COLUMNS, expected, strict=True))


@pytest.mark.parametrize(("regular", "expected"), [(False, SKIP_FULL), (True, SKIP_REGULAR)])
def test_book_where_such_rows_are_skipped(skip: Snapshots, regular: bool, expected: tuple[float, ...]):
    assert skip.figures(regular) == dict(zip(COLUMNS, expected, strict=True))


def test_our_own_reading_withdraws_the_missing_side_only(day: Events):
    """What the pipeline does: in regular hours it differs from WITHDRAW in nothing that CHECK counts."""
    ours = snapshots(day).figures(regular=True)
    assert (ours["crossed"], ours["nbo_min"], ours["nbo_max"]) == (0, 156.06, 159.4)


def test_keeping_the_first_row_of_a_time_instead_of_the_last_crosses_the_book(day: Events):
    day = withdrawn(day)
    quotes = np.flatnonzero(day.action != TRADE)
    first = quotes[np.unique([day.ts_ns[quotes], day.venue[quotes]], axis=1, return_index=True)[1]]
    kept = replace(day, action=np.where(np.isin(np.arange(len(day)), first), day.action, TRADE).astype(np.int8))
    book = snapshots(kept)
    inside = (book.updates.ts_ns >= REGULAR[0]) & (book.updates.ts_ns < REGULAR[1])  # here without the carried book
    assert (int(inside.sum()), int((inside & (book.best.state == CROSSED)).sum())) == (63_205, 911)
    nbo_px = book.best.ask_px_e4[inside & book.best.usable] / 1e4
    assert list(_distribution(nbo_px).values()) == [156.06, 156.73, 157.13983, 159.4]


def test_venues_that_turn_stale_under_skip(withdraw: Snapshots, skip: Snapshots):
    expected = {11: 16.01, 12: 63.39}
    stale = stale_share(withdraw, skip)
    assert {
        publisher: share for publisher, share in stale.items() if share >= 0.05 or publisher in expected
    } == expected


def stale_share(withdraw: Snapshots, skip: Snapshots) -> dict[int, float]:
    """Percent of SKIP's snapshots in regular hours in which a venue of SKIP lies across the market of WITHDRAW."""
    times_ns = skip.updates.ts_ns
    times_ns = times_ns[(times_ns >= REGULAR[0]) & (times_ns < REGULAR[1])]
    at, market_at = skip.updates.batches_by(times_ns) - 1, withdraw.updates.batches_by(times_ns) - 1
    nbb, nbo = withdraw.best.bid_px_e4[market_at], withdraw.best.ask_px_e4[market_at]
    shares = {}
    for v, publisher in enumerate(skip.updates.publisher_ids):
        bid, ask = (carried(skip.updates, v, name)[at] for name in ("bid_px_e4", "ask_px_e4"))
        across = ((ask > 0) & (ask < nbb)) | ((nbo > 0) & (bid > nbo))
        shares[publisher] = round(100 * float(across.mean()), 2)
    return shares


def carried(updates: QuoteUpdates, v: int, name: str) -> np.ndarray:
    """A venue's price after every batch."""
    rows = np.flatnonzero(updates.venue == v)
    batch = np.searchsorted(updates.first, rows, side="right") - 1
    last = np.searchsorted(batch, np.arange(len(updates.ts_ns)), side="right")
    return np.append(0, getattr(updates, name)[rows])[last]


# --- the order of 5,000 shares ------------------------------------------------------------------------------------------


FROM_FILE = (5000, 796_300.00, 49, 49, "2018-01-02T09:00:00.030", "2018-01-02T09:13:03.165", 158.85, 175.90)
FROM_REGULAR = (5000, 792_055.00, 6, 9, "2018-01-02T14:30:00.000", "2018-01-02T14:30:00.115", 158.30, 158.63)


@pytest.mark.parametrize(("regular", "expected"), [(False, FROM_FILE), (True, FROM_REGULAR)])
@pytest.mark.parametrize("reading", ["withdraw", "skip"])
def test_order_of_5000_shares_from_one_venue_at_a_time(reading, regular: bool, expected: tuple, request):
    """SINGLE is our best_ask without fees under the reset rule; of equal asks CHECK takes the first venue, we the last."""
    book = request.getfixturevalue(reading)
    taken = single(book, start_ns(book, regular))
    assert account(book, taken.fills) == expected
    assert taken.cash_e6[0] == round(expected[1] * 1e6)


@pytest.mark.parametrize(("regular", "expected"), [(False, FROM_FILE), (True, FROM_REGULAR)])
@pytest.mark.parametrize("reading", ["withdraw", "skip"])
def test_order_of_5000_shares_from_every_venue_at_the_best_offer(reading, regular: bool, expected: tuple, request):
    book = request.getfixturevalue(reading)
    assert account(book, sweep(book, start_ns(book, regular))) == expected


def start_ns(book: Snapshots, regular: bool) -> int:
    return REGULAR[0] if regular else int(book.updates.ts_ns[book.best.usable.argmax()])


def single(book: Snapshots, at_ns: int) -> Taken:
    schedule = Schedule(np.array([at_ns]), np.array([[5000]]), persistent=True, best_only=True)
    until = Window(at_ns, int(book.updates.ts_ns[-1]))
    free = np.zeros(book.updates.venues, np.int64)
    return take(book.updates, book.best.usable, free, until, schedule, Terminal(0), rule=RESET, sweep=False)


def sweep(book: Snapshots, at_ns: int) -> np.ndarray:
    """SWEEP, which no strategy of ours is: whatever is fresh at the best offer, and nothing dearer, batch by batch."""
    updates, b, missing, fills = book.updates, int(book.updates.batches_by(at_ns)) - 1, 5000, []
    px_e4, fresh_sz = asks_after(updates, b + 1)
    while missing:
        at_ns = max(at_ns, int(updates.ts_ns[b]))
        for v in np.flatnonzero(px_e4 == book.best.ask_px_e4[b]) if book.best.usable[b] else ():
            sz = min(missing, int(fresh_sz[v]))
            fresh_sz[v] -= sz
            missing -= sz
            fills += [(at_ns, v, px_e4[v], sz, False)] * (sz > 0)
        b += 1
        rows = slice(updates.first[b], updates.first[b + 1])
        px_e4[updates.venue[rows]], fresh_sz[updates.venue[rows]] = updates.ask_px_e4[rows], updates.ask_sz[rows]
    return np.array(fills, FILL_DTYPE)


def account(book: Snapshots, fills: np.ndarray) -> tuple:
    """Shares, cash, fills, usable snapshots from the first fill to the last, their times, lowest and highest price."""
    cash = int((fills["px_e4"].astype(np.int64) * fills["sz"]).sum()) / 1e4
    times_ns = fills["ts_ns"][[0, -1]]
    first, last = book.updates.batches_by(times_ns)
    seen = book.best.usable[first - 1 : last]
    first, last = np.datetime_as_string(times_ns.view("datetime64[ns]"), unit="ms").tolist()
    prices = fills["px_e4"].min() / 1e4, fills["px_e4"].max() / 1e4
    return int(fills["sz"].sum()), cash, len(fills), int(seen.sum()), first, last, *prices
