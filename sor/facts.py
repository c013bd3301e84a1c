"""Stylised facts of a stream of venue quotes and trades, and what one real day gives for each.

One definition serves three readers: the test of the simulated day, the table in docs/synthetic.md, and a check that the
same code finds the published figures on the real day. Pure: columns in, figures out.

Clock: every figure in seconds is in market seconds, file seconds divided by `stretch`. The simulated day runs slower
than the market it is calibrated to, by that one factor; a real day has `stretch` 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

VENUE_NAMES = {
    2: "XNAS",
    3: "XBOS",
    4: "XPSX",
    5: "BATS",
    6: "BATY",
    7: "EDGA",
    8: "EDGX",
    9: "XNYS",
    11: "XASE",
    12: "XCHI",
    38: "IEXG",
    43: "ARCX",
}
OFF_EXCHANGE_IDS = (17, 19)
LOT_SZ = 100
NO_ASK_E4 = 2**40  # above any price, so that an absent ask is never the best
CENT_E4 = 100
N_HALF_HOURS = 13


class Columns(NamedTuple):
    """Events in file order, one array per field; a quote row carries both sides of its venue.

    `ts_ns` UTC ns, non-decreasing; `publisher_id`; `is_trade`; bid and ask prices in 1e-4 USD and sizes in shares
    (0 = side absent, ignored on trade rows); `trade_px_e4`, `trade_sz` (ignored on quote rows). All shape (rows,).
    """

    ts_ns: np.ndarray
    publisher_id: np.ndarray
    is_trade: np.ndarray
    bid_px_e4: np.ndarray
    ask_px_e4: np.ndarray
    bid_sz: np.ndarray
    ask_sz: np.ndarray
    trade_px_e4: np.ndarray
    trade_sz: np.ndarray


class Session(NamedTuple):
    """The measured window [start_ns, end_ns) and the file seconds that make one market second."""

    start_ns: int
    end_ns: int
    stretch: float = 1.0

    def market_s(self, ns: np.ndarray) -> np.ndarray:
        """Duration in market seconds."""
        return ns / (1e9 * self.stretch)


class Book(NamedTuple):
    """Consolidated book after each quote row; matrices have shape (rows, venues), the rest (rows,).

    An absent bid has price 0, an absent ask `NO_ASK_E4`. `hold_s` is the part of the session, in market seconds, in
    which the row is the newest; `inside` says whether the row's stamp is in the session; `changed` whether it differs
    from its venue's row before.
    """

    ts_ns: np.ndarray
    column: np.ndarray
    ids: np.ndarray
    bid: np.ndarray
    ask: np.ndarray
    bid_sz: np.ndarray
    ask_sz: np.ndarray
    nbb: np.ndarray
    nbo: np.ndarray
    hold_s: np.ndarray
    inside: np.ndarray
    changed: np.ndarray


def _carry_forward(values: np.ndarray, column: np.ndarray, n_columns: int) -> np.ndarray:
    """Newest value of each column at each row, shape (rows, n_columns); 0 before the first."""
    newest = np.zeros((len(values), n_columns), np.int64)
    newest[np.arange(len(values)), column] = np.arange(1, len(values) + 1)
    np.maximum.accumulate(newest, axis=0, out=newest)
    return np.concatenate([[0], values])[newest]


def _differs_from_own_last(fields: Sequence[np.ndarray], column: np.ndarray) -> np.ndarray:
    changed = np.ones(len(column), bool)
    order = np.argsort(column, kind="stable")
    same_venue = np.diff(column[order]) == 0
    equal = np.logical_and.reduce([np.diff(f[order]) == 0 for f in fields])
    changed[order[1:]] = ~(same_venue & equal)
    return changed


def build_book(columns: Columns, session: Session) -> Book:
    """Carry every venue's newest quote forward; rows before the session are used, as the opening book needs them."""
    quotes = Columns(*(field[~columns.is_trade] for field in columns))
    ids, column = np.unique(quotes.publisher_id, return_inverse=True)
    has_bid = (quotes.bid_px_e4 > 0) & (quotes.bid_sz > 0)
    has_ask = (quotes.ask_px_e4 > 0) & (quotes.ask_sz > 0)
    fields = (quotes.bid_px_e4 * has_bid, quotes.ask_px_e4 * has_ask, quotes.bid_sz * has_bid, quotes.ask_sz * has_ask)
    bid, ask, bid_sz, ask_sz = (_carry_forward(f, column, len(ids)) for f in fields)
    ask[ask == 0] = NO_ASK_E4
    edges = np.clip(np.append(quotes.ts_ns, session.end_ns), session.start_ns, session.end_ns)
    inside = (quotes.ts_ns >= session.start_ns) & (quotes.ts_ns < session.end_ns)
    hold_s = session.market_s(np.diff(edges))
    changed = _differs_from_own_last(fields, column)
    return Book(quotes.ts_ns, column, ids, bid, ask, bid_sz, ask_sz, bid.max(1), ask.min(1), hold_s, inside, changed)


# --- figures ------------------------------------------------------------------------------------------------------
def _percent(condition: np.ndarray) -> float:
    return 100.0 * float(np.mean(condition))


def _time_percent(condition: np.ndarray, hold_s: np.ndarray) -> float:
    return 100.0 * float(hold_s[condition].sum() / hold_s.sum())


def _time_quantiles(values: np.ndarray, hold_s: np.ndarray, shares: Iterable[float]) -> list[float]:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(hold_s[order])
    return [float(values[order][np.searchsorted(total, p * total[-1])]) for p in shares]


def _quantiles(values: np.ndarray, shares: Sequence[float]) -> list[float]:
    return np.quantile(values, shares).tolist()


def _autocorrelation(values: np.ndarray, lag: int) -> float:
    return float(np.corrcoef(values[lag:], values[:-lag])[0, 1])


def _venue_figures(book: Book, session: Session, j: int) -> dict[str, float]:
    rows = book.inside & (book.column == j)
    two_sided = rows & (book.bid[:, j] > 0) & (book.ask[:, j] < NO_ASK_E4)
    own_cents = (book.ask[two_sided, j] - book.bid[two_sided, j]) / CENT_E4
    sizes = np.concatenate([book.bid_sz[rows, j], book.ask_sz[rows, j]])
    life_s = session.market_s(np.diff(book.ts_ns[rows & book.changed]))
    at_front = (book.bid[:, j] == book.nbb, book.ask[:, j] == book.nbo)
    figures = {
        "share of updates, %": 100.0 * rows.sum() / book.inside.sum(),
        "repeats without change, %": _percent(~book.changed[rows]),
        "time at the NBBO, %": sum(_time_percent(at, book.hold_s) for at in at_front) / 2,
        "quote life mean, s": float(life_s.mean()),
    }
    figures |= _named("quote life q{}, s", (75, 95), _quantiles(life_s, (0.75, 0.95)))
    figures |= _named("own spread q{}, cents", (25, 50, 75, 95), _quantiles(own_cents, (0.25, 0.5, 0.75, 0.95)))
    return figures | _named("size q{}, shares", (50, 75, 95, 99), _quantiles(sizes[sizes > 0], (0.5, 0.75, 0.95, 0.99)))


def _named(pattern: str, keys: Iterable[object], values: Iterable[float]) -> dict[str, float]:
    return {pattern.format(k): v for k, v in zip(keys, values, strict=True)}


def venue_facts(book: Book, session: Session) -> dict[str, float]:
    """Per venue: share of updates, repeats, time at the NBBO (mean of the two sides), quote life, own spread, size."""
    return {
        f"{VENUE_NAMES[int(i)]} {name}": figure
        for j, i in enumerate(book.ids)
        for name, figure in _venue_figures(book, session, j).items()
    }


def spread_facts(book: Book) -> dict[str, float]:
    """NBBO spread weighted by time, in cents."""
    cents = (book.nbo - book.nbb) / CENT_E4
    out = {"NBBO spread mean, cents": float(np.average(cents, weights=book.hold_s))}
    out |= {f"NBBO spread {c}c, % of time": _time_percent(cents == c, book.hold_s) for c in range(1, 11)}
    out["NBBO spread >10c, % of time"] = _time_percent(cents > 10, book.hold_s)
    out["NBBO locked, % of time"] = _time_percent(cents == 0, book.hold_s)
    out["NBBO crossed, % of time"] = _time_percent(cents < 0, book.hold_s)
    return out


def _front_figures(px: np.ndarray, best: np.ndarray, sz: np.ndarray, hold_s: np.ndarray) -> list[float]:
    at_best = px == best[:, None]
    venues, shares = at_best.sum(1), (sz * at_best).sum(1)
    counts = [_time_percent(venues == n, hold_s) for n in range(1, 5)] + [_time_percent(venues >= 5, hold_s)]
    sizes = _time_quantiles(shares, hold_s, (0.05, 0.25, 0.5, 0.75, 0.95, 0.99))
    means = [float(np.average(x, weights=hold_s)) for x in (venues, shares)]
    return counts + sizes + means


def front_facts(book: Book) -> dict[str, float]:
    """Venues and shares at the best price weighted by time, mean of the bid and the ask side."""
    sides = (
        _front_figures(book.bid, book.nbb, book.bid_sz, book.hold_s),
        _front_figures(book.ask, book.nbo, book.ask_sz, book.hold_s),
    )
    names = [f"venues at the best price: {n}, % of time" for n in ("1", "2", "3", "4", "5 or more")]
    names += [f"shares at the best price q{q}" for q in (5, 25, 50, 75, 95, 99)]
    names += ["venues at the best price, mean", "shares at the best price, mean"]
    return dict(zip(names, np.mean(sides, axis=0).tolist(), strict=True))


def stamp_facts(book: Book, session: Session) -> dict[str, float]:
    """How quotes gather on time stamps."""
    ts_ns, column = book.ts_ns[book.inside], book.column[book.inside]
    stamps, rows = np.unique(ts_ns, return_counts=True)
    out = {
        "consecutive quotes with equal stamp, %": _percent(np.diff(ts_ns) == 0),
        "next quote from another venue, %": _percent(np.diff(column) != 0),
        "rows per stamp, mean": float(rows.mean()),
        "rows per stamp, max": float(rows.max()),
    }
    out |= _named("rows per stamp q{}", (50, 90, 99), _quantiles(rows, (0.5, 0.9, 0.99)))
    gaps_s = session.market_s(np.diff(stamps))
    return out | _named("gap between stamps q{}, s", (25, 50, 75, 95), _quantiles(gaps_s, (0.25, 0.5, 0.75, 0.95)))


def half_hour_shares(ts_ns: np.ndarray, session: Session) -> np.ndarray:
    """Share of the rows in each thirteenth of the session, in percent."""
    edges = np.linspace(session.start_ns, session.end_ns, N_HALF_HOURS + 1)
    counts = np.histogram(ts_ns, bins=edges)[0]
    return 100.0 * counts / counts.sum()


def count_facts(book: Book, session: Session) -> dict[str, float]:
    """Quotes per market second, and over the day."""
    ts_ns = book.ts_ns[book.inside]
    n_seconds = int(session.market_s(session.end_ns - session.start_ns))
    second = session.market_s(ts_ns - session.start_ns).astype(np.int64)
    counts = np.bincount(second[second < n_seconds], minlength=n_seconds)
    out = {
        "quotes per s": len(ts_ns) / session.market_s(session.end_ns - session.start_ns),
        "quotes per s, variance/mean": float(counts.var() / counts.mean()),
        "quotes per s, autocorrelation 1 s": _autocorrelation(counts, 1),
        "seconds without a quote, %": _percent(counts == 0),
        "repeats without change, %": _percent(~book.changed[book.inside]),
    }
    shares = half_hour_shares(ts_ns, session)
    return out | _named("half hour {}, % of quotes", range(1, N_HALF_HOURS + 1), shares.tolist())


def trade_facts(columns: Columns, book: Book, session: Session) -> dict[str, float]:
    """Trade rate, size, venue, and price against the NBBO strictly before the trade's stamp."""
    inside = columns.is_trade & (columns.ts_ns >= session.start_ns) & (columns.ts_ns < session.end_ns)
    ts_ns, ids, sz = columns.ts_ns[inside], columns.publisher_id[inside], columns.trade_sz[inside]
    px = columns.trade_px_e4[inside]
    off = np.isin(ids, OFF_EXCHANGE_IDS)
    return {
        "trades per s": len(sz) / session.market_s(session.end_ns - session.start_ns),
        "quotes per trade": book.inside.sum() / len(sz),
        "consecutive trades with equal stamp, %": _percent(np.diff(ts_ns) == 0),
        "trades off exchange, %": _percent(off),
        "shares traded off exchange, %": 100.0 * sz[off].sum() / sz.sum(),
        "trades at sub-penny prices, %": _percent(px % CENT_E4 != 0),
        **_trade_size_figures(sz),
        **_trade_venue_figures(ids),
        **_trade_place_figures(px, np.searchsorted(book.ts_ns, ts_ns) - 1, off, book),
    }


def _trade_size_figures(sz: np.ndarray) -> dict[str, float]:
    return {
        "trade size mean, shares": float(sz.mean()),
        "trades under 100 shares, %": _percent(sz < LOT_SZ),
        "trades of exactly 100 shares, %": _percent(sz == LOT_SZ),
        "shares in trades under 100, %": 100.0 * sz[sz < LOT_SZ].sum() / sz.sum(),
        **_named("trade size q{}, shares", (25, 50, 75, 95, 99), _quantiles(sz, (0.25, 0.5, 0.75, 0.95, 0.99))),
    }


def _trade_venue_figures(ids: np.ndarray) -> dict[str, float]:
    return {f"{name} share of trades, %": _percent(ids == i) for i, name in VENUE_NAMES.items()}


def _trade_place_figures(px: np.ndarray, row: np.ndarray, off: np.ndarray, book: Book) -> dict[str, float]:
    known = row >= 0
    nbb, nbo = book.nbb[row], book.nbo[row]
    at, between = known & ((px == nbb) | (px == nbo)), known & (px > nbb) & (px < nbo)
    return {
        "exchange trades at the NBBO, %": _percent(at[~off]),
        "exchange trades inside the NBBO, %": _percent(between[~off]),
        "off-exchange trades at the NBBO, %": _percent(at[off]),
        "off-exchange trades inside the NBBO, %": _percent(between[off]),
    }


def mid_cents(book: Book) -> np.ndarray:
    """NBBO mid after each quote row, in cents, shape (rows,)."""
    return (book.nbb + book.nbo) / (2 * CENT_E4)


def change_facts(book: Book, session: Session) -> dict[str, float]:
    """Changes of the NBBO row by row, and how long it stays."""
    known = (book.nbb > 0) & (book.nbo < NO_ASK_E4)
    moved = (np.diff(book.nbb) != 0) | (np.diff(book.nbo) != 0)
    moved = np.append(False, moved & known[1:] & known[:-1]) & book.inside
    step = np.append(0.0, np.diff(mid_cents(book)))[moved]
    step = step[step != 0]
    size = np.abs(step)
    life_s = session.market_s(np.diff(book.ts_ns[moved]))
    return {
        "NBBO changes per s": moved.sum() / session.market_s(session.end_ns - session.start_ns),
        "NBBO changes per 100 quotes": 100.0 * moved.sum() / book.inside.sum(),
        "mid changes of half a cent, %": _percent(size == 0.5),
        "mid changes of one cent, %": _percent(size == 1.0),
        "mid changes that reverse the last, %": _percent(step[1:] * step[:-1] < 0),
        **_named("mid change q{}, cents", (95, 99), _quantiles(size, (0.95, 0.99))),
        **_named("mid changes, autocorrelation lag {}", (1, 2, 3), [_autocorrelation(step, k) for k in (1, 2, 3)]),
        **_named("NBBO unchanged q{}, s", (50, 75, 95), _quantiles(life_s, (0.5, 0.75, 0.95))),
    }


def sample_rows(book: Book, session: Session, step_s: float) -> np.ndarray:
    """Index of the newest quote row at every whole multiple of `step_s` market seconds after the session's start.

    The start itself is left out: the first moments of a real session are the opening, not a move of the mid.
    """
    first = int(np.argmax(book.inside))
    n = int(session.market_s(session.end_ns - session.start_ns) / step_s)
    grid_ns = session.start_ns + np.rint(np.arange(1, n + 1) * (step_s * 1e9 * session.stretch)).astype(np.int64)
    return np.maximum(np.searchsorted(book.ts_ns, grid_ns, side="right") - 1, first)


def sampled_mid_facts(book: Book, session: Session) -> dict[str, float]:
    """Mid moves on a clock."""
    mid = mid_cents(book)
    moves = {step_s: np.diff(mid[sample_rows(book, session, step_s)]) for step_s in (0.01, 0.1, 1, 10, 60)}
    out = {f"mid move over {step_s} s, standard deviation, cents": float(m.std()) for step_s, m in moves.items()}
    out["mid moves within 1 s, % of seconds"] = _percent(moves[1] != 0)
    out["mid moves over 1 s, autocorrelation"] = _autocorrelation(moves[1], 1)
    return out


def follow_through_cents(columns: Columns, book: Book, session: Session, horizon_s: float) -> np.ndarray:
    """Mid change from just before a trade to `horizon_s` market seconds after it, in the trade's direction, in cents.

    One entry per exchange trade of the session at the NBB (a sell) or the NBO (a buy) strictly before its stamp. Its
    mean is what a resting order on that side loses on average: positive means adverse selection.
    """
    inside = columns.is_trade & (columns.ts_ns >= session.start_ns) & (columns.ts_ns < session.end_ns)
    inside &= ~np.isin(columns.publisher_id, OFF_EXCHANGE_IDS)
    ts_ns, px = columns.ts_ns[inside], columns.trade_px_e4[inside]
    before = np.searchsorted(book.ts_ns, ts_ns) - 1
    direction = (px == book.nbo[before]).astype(int) - (px == book.nbb[before])
    after = np.searchsorted(book.ts_ns, ts_ns + int(horizon_s * 1e9 * session.stretch), side="right") - 1
    mid = mid_cents(book)
    return ((mid[after] - mid[before]) * direction)[(direction != 0) & (before >= 0)]


def follow_through_facts(columns: Columns, book: Book, session: Session) -> dict[str, float]:
    """Adverse selection of resting orders at the NBBO."""
    name = "mid change {} s after a trade at the NBBO, in its direction, cents"
    return {name.format(h): float(follow_through_cents(columns, book, session, h).mean()) for h in (1, 10, 60)}


def refill_delay_s(book: Book, session: Session, horizon_s: float = 10.0) -> np.ndarray:
    """Market seconds until the NBO is back at or below the level it was lifted from; inf beyond the horizon.

    One entry per row inside the session at which the NBO rises.
    """
    lifted = np.flatnonzero(np.append(False, np.diff(book.nbo) > 0) & book.inside)
    until_ns = book.ts_ns[lifted] + int(horizon_s * 1e9 * session.stretch)
    ends = np.searchsorted(book.ts_ns, until_ns, side="right")
    delay_s = np.full(len(lifted), np.inf)
    for n, (row, end) in enumerate(zip(lifted.tolist(), ends.tolist(), strict=True)):
        back = book.nbo[row:end] <= book.nbo[row - 1]
        if back.any():
            delay_s[n] = session.market_s(book.ts_ns[row + int(back.argmax())] - book.ts_ns[row])
    return delay_s


def refill_facts(book: Book, session: Session) -> dict[str, float]:
    """How soon the NBO is back after it has been lifted."""
    delay_s = refill_delay_s(book, session)
    return {f"NBO back within {h} s of its lift, %": _percent(delay_s <= h) for h in (0.001, 0.01, 0.1, 1, 10)}


def measure(columns: Columns, session: Session) -> dict[str, float]:
    """Every fact of the stream, by name.

    Raises
    ------
    ValueError
        If the session holds no quote or no trade.
    """
    book = build_book(columns, session)
    if not book.inside.any() or not columns.is_trade.any():
        raise ValueError("the session holds no quote or no trade; facts need both")
    return {
        **venue_facts(book, session),
        **spread_facts(book),
        **front_facts(book),
        **stamp_facts(book, session),
        **count_facts(book, session),
        **trade_facts(columns, book, session),
        **change_facts(book, session),
        **sampled_mid_facts(book, session),
        **refill_facts(book, session),
        **follow_through_facts(columns, book, session),
    }


# --- real day -----------------------------------------------------------------------------------------------------
class Tolerance(NamedTuple):
    """Allowed distance from the real figure: the larger of an absolute part and a share of the figure."""

    absolute: float
    relative: float = 0.0

    def around(self, real: float) -> float:
        return max(self.absolute, self.relative * abs(real))


class Target(NamedTuple):
    """A figure of the real day, and how far a simulated one may be from it."""

    real: float
    tolerance: float


# Real figures: 2018-01-02, one NYSE-listed stock of about 157 dollars, 09:30-16:00 New York. Venue by venue, in the
# order of VENUE_NAMES; the venues of `SLOW_VENUES` update so rarely (60 to 560 rows in the simulated day) that their
# durations and spreads are allowed twice the relative tolerance.
SLOW_VENUES = ("XASE", "XCHI", "IEXG")
VENUE_TARGETS: dict[str, tuple[Tolerance, tuple[float, ...]]] = {
    "share of updates, %": (
        Tolerance(0.25, 0.12),
        (12.5, 13.9, 3.83, 10.2, 11.5, 3.05, 8.58, 23.2, 0.564, 0.119, 1.1, 11.4),
    ),
    "repeats without change, %": (Tolerance(2), (0, 15, 0, 27.7, 57.3, 37.6, 24.3, 13.7, 0, 0, 0.213, 0.381)),
    "time at the NBBO, %": (
        Tolerance(2.5, 0.1),
        (60.5, 39.3, 3.78, 35.7, 18.8, 9.97, 46.8, 78.9, 6.09, 0.882, 6.16, 50.1),
    ),
    "quote life mean, s": (
        Tolerance(0, 0.25),
        (0.874, 0.931, 2.87, 1.48, 2.24, 5.77, 1.69, 0.547, 19.4, 90.9, 10, 0.963),
    ),
    "quote life q75, s": (Tolerance(0.15, 0.35), (0.6, 0.49, 1.19, 1.23, 1.33, 4.79, 1.62, 0.26, 7.87, 47.5, 11, 0.75)),
    "quote life q95, s": (Tolerance(0, 0.3), (4.83, 4.91, 15.5, 7.87, 10.1, 28, 8.55, 3.06, 51.1, 372, 44.2, 5.18)),
    "own spread q25, cents": (Tolerance(1.5, 0.3), (2, 16, 28, 4, 18, 19, 3, 2, 11, 22, 9, 3)),
    "own spread q50, cents": (Tolerance(1.5, 0.3), (4, 86, 42, 6, 62, 75, 6, 4, 23, 23, 358, 5)),
    "own spread q75, cents": (Tolerance(1.5, 0.3), (7, 646, 798, 10, 624, 639, 9, 6, 6573, 26, 403, 8)),
    "own spread q95, cents": (Tolerance(1.5, 0.3), (14, 1292, 1622, 19, 1206, 1274, 18, 13, 7020, 29.4, 807, 15)),
    "size q50, shares": (Tolerance(0), (100, 100, 100, 100, 100, 100, 100, 200, 100, 100, 100, 100)),
    "size q75, shares": (Tolerance(100), (200, 100, 600, 100, 100, 100, 200, 200, 100, 100, 100, 200)),
    "size q95, shares": (Tolerance(100, 0.25), (400, 200, 700, 300, 200, 200, 300, 500, 300, 200, 100, 300)),
    "size q99, shares": (Tolerance(100, 0.25), (600, 300, 1000, 600, 300, 300, 1000, 900, 300, 300, 300, 500)),
    "share of trades, %": (
        Tolerance(0.5, 0.15),
        (16, 4.62, 0.564, 7.59, 4.11, 1.08, 9.25, 14.8, 0.486, 0.005, 2.33, 7.84),
    ),
}
DOUBLED_FOR_SLOW = ("quote life", "own spread")
TARGETS_OF_THE_DAY: dict[str, tuple[float, Tolerance]] = {
    "NBBO spread mean, cents": (3.7, Tolerance(0, 0.12)),
    "NBBO spread 1c, % of time": (17.2, Tolerance(3)),
    "NBBO spread 2c, % of time": (27.3, Tolerance(3)),
    "NBBO spread 3c, % of time": (20, Tolerance(3)),
    "NBBO spread 4c, % of time": (9.28, Tolerance(1.5)),
    "NBBO spread 5c, % of time": (6.21, Tolerance(1.5)),
    "NBBO spread 6c, % of time": (5.53, Tolerance(1.5)),
    "NBBO spread 7c, % of time": (4.09, Tolerance(1.5)),
    "NBBO spread 8c, % of time": (2.58, Tolerance(1.5)),
    "NBBO spread 9c, % of time": (2.64, Tolerance(1.5)),
    "NBBO spread 10c, % of time": (1.74, Tolerance(1.5)),
    "NBBO spread >10c, % of time": (3.54, Tolerance(1.5)),
    "NBBO locked, % of time": (0.002, Tolerance(0.01)),
    "NBBO crossed, % of time": (0, Tolerance(0.01)),
    "venues at the best price: 1, % of time": (14.9, Tolerance(4)),
    "venues at the best price: 2, % of time": (18.6, Tolerance(4)),
    "venues at the best price: 3, % of time": (20.4, Tolerance(4)),
    "venues at the best price: 4, % of time": (17.8, Tolerance(4)),
    "venues at the best price: 5 or more, % of time": (28.3, Tolerance(4)),
    "shares at the best price q5": (100, Tolerance(50, 0.2)),
    "shares at the best price q25": (300, Tolerance(50, 0.2)),
    "shares at the best price q50": (450, Tolerance(50, 0.2)),
    "shares at the best price q75": (750, Tolerance(50, 0.2)),
    "shares at the best price q95": (1400, Tolerance(50, 0.2)),
    "shares at the best price q99": (2050, Tolerance(50, 0.2)),
    "venues at the best price, mean": (3.57, Tolerance(0, 0.1)),
    "shares at the best price, mean": (577, Tolerance(0, 0.12)),
    "consecutive quotes with equal stamp, %": (70.4, Tolerance(3)),
    "next quote from another venue, %": (77.1, Tolerance(3)),
    "rows per stamp, mean": (3.38, Tolerance(0, 0.1)),
    "rows per stamp, max": (120, Tolerance(0, 0.3)),
    "rows per stamp q50": (1, Tolerance(0)),
    "rows per stamp q90": (6, Tolerance(1)),
    "rows per stamp q99": (35, Tolerance(0, 0.3)),
    "gap between stamps q25, s": (0.02, Tolerance(0, 0.25)),
    "gap between stamps q50, s": (0.094, Tolerance(0, 0.25)),
    "gap between stamps q75, s": (0.41, Tolerance(0, 0.25)),
    "gap between stamps q95, s": (1.63, Tolerance(0, 0.25)),
    "quotes per s": (9.12, Tolerance(0, 0.05)),
    "quotes per s, variance/mean": (42.2, Tolerance(0, 0.25)),
    "quotes per s, autocorrelation 1 s": (0.185, Tolerance(0.08)),
    "seconds without a quote, %": (28.2, Tolerance(3)),
    "repeats without change, %": (18, Tolerance(3)),
    "half hour 1, % of quotes": (13, Tolerance(2)),
    "half hour 2, % of quotes": (8.58, Tolerance(2)),
    "half hour 3, % of quotes": (9.33, Tolerance(2)),
    "half hour 4, % of quotes": (6.61, Tolerance(2)),
    "half hour 5, % of quotes": (6.1, Tolerance(2)),
    "half hour 6, % of quotes": (5.9, Tolerance(2)),
    "half hour 7, % of quotes": (4.65, Tolerance(2)),
    "half hour 8, % of quotes": (5.35, Tolerance(2)),
    "half hour 9, % of quotes": (5.68, Tolerance(2)),
    "half hour 10, % of quotes": (6.49, Tolerance(2)),
    "half hour 11, % of quotes": (6.27, Tolerance(2)),
    "half hour 12, % of quotes": (7.14, Tolerance(2)),
    "half hour 13, % of quotes": (14.9, Tolerance(2)),
    "trades per s": (1.66, Tolerance(0, 0.05)),
    "quotes per trade": (5.49, Tolerance(0, 0.05)),
    "consecutive trades with equal stamp, %": (53, Tolerance(3)),
    "trades off exchange, %": (31.3, Tolerance(3)),
    "shares traded off exchange, %": (43.3, Tolerance(3)),
    "trades at sub-penny prices, %": (19.8, Tolerance(3)),
    "trade size mean, shares": (110, Tolerance(0, 0.1)),
    "trades under 100 shares, %": (44.6, Tolerance(3)),
    "trades of exactly 100 shares, %": (42.3, Tolerance(3)),
    "shares in trades under 100, %": (13.6, Tolerance(3)),
    "trade size q25, shares": (32, Tolerance(10, 0.25)),
    "trade size q50, shares": (100, Tolerance(0)),
    "trade size q75, shares": (100, Tolerance(10, 0.25)),
    "trade size q95, shares": (250, Tolerance(10, 0.25)),
    "trade size q99, shares": (900, Tolerance(10, 0.25)),
    "exchange trades at the NBBO, %": (72, Tolerance(3)),
    "exchange trades inside the NBBO, %": (15.3, Tolerance(3)),
    "off-exchange trades at the NBBO, %": (25.2, Tolerance(3)),
    "off-exchange trades inside the NBBO, %": (71.5, Tolerance(3)),
    "NBBO changes per s": (0.734, Tolerance(0, 0.15)),
    "NBBO changes per 100 quotes": (8.05, Tolerance(0, 0.15)),
    "mid changes of half a cent, %": (80.5, Tolerance(3)),
    "mid changes of one cent, %": (10.7, Tolerance(3)),
    "mid changes that reverse the last, %": (41.7, Tolerance(3)),
    "mid change q95, cents": (1.5, Tolerance(0.5)),
    "mid change q99, cents": (3.5, Tolerance(1)),
    "mid changes, autocorrelation lag 1": (-0.043, Tolerance(0.08)),
    "mid changes, autocorrelation lag 2": (0.127, Tolerance(0.08)),
    "mid changes, autocorrelation lag 3": (0.037, Tolerance(0.08)),
    "NBBO unchanged q50, s": (0.005, Tolerance(0.02)),
    "NBBO unchanged q75, s": (0.65, Tolerance(0, 0.3)),
    "NBBO unchanged q95, s": (7.77, Tolerance(0, 0.3)),
    "mid move over 0.01 s, standard deviation, cents": (0.091, Tolerance(0, 0.15)),
    "mid move over 0.1 s, standard deviation, cents": (0.288, Tolerance(0, 0.15)),
    "mid move over 1 s, standard deviation, cents": (0.932, Tolerance(0, 0.15)),
    "mid move over 10 s, standard deviation, cents": (3.22, Tolerance(0, 0.15)),
    "mid move over 60 s, standard deviation, cents": (8.41, Tolerance(0, 0.25)),
    "mid moves within 1 s, % of seconds": (18.2, Tolerance(3)),
    "mid moves over 1 s, autocorrelation": (0.032, Tolerance(0.08)),
    "NBO back within 0.001 s of its lift, %": (17.9, Tolerance(4)),
    "NBO back within 0.01 s of its lift, %": (21.8, Tolerance(4)),
    "NBO back within 0.1 s of its lift, %": (26.1, Tolerance(4)),
    "NBO back within 1 s of its lift, %": (33, Tolerance(4)),
    "NBO back within 10 s of its lift, %": (54.7, Tolerance(4)),
    "mid change 1 s after a trade at the NBBO, in its direction, cents": (1.47, Tolerance(0, 0.3)),
    "mid change 10 s after a trade at the NBBO, in its direction, cents": (1.93, Tolerance(0, 0.3)),
    "mid change 60 s after a trade at the NBBO, in its direction, cents": (2.05, Tolerance(0, 0.3)),
}


def _venue_target(venue: str, figure: str, real: float) -> Target:
    tolerance = VENUE_TARGETS[figure][0]
    if venue in SLOW_VENUES and figure.startswith(DOUBLED_FOR_SLOW):
        tolerance = tolerance._replace(relative=2 * tolerance.relative)
    return Target(real, tolerance.around(real))


def targets() -> dict[str, Target]:
    """Every fact of `measure` with its real value and its tolerance."""
    by_venue = {
        f"{venue} {figure}": _venue_target(venue, figure, real)
        for figure, (_, reals) in VENUE_TARGETS.items()
        for venue, real in zip(VENUE_NAMES.values(), reals, strict=True)
    }
    return by_venue | {name: Target(real, t.around(real)) for name, (real, t) in TARGETS_OF_THE_DAY.items()}


def outside(figures: dict[str, float]) -> dict[str, float]:
    """Facts that miss their tolerance, with their deviation from the real figure."""
    wanted = targets()
    apart = {name: figures.get(name, np.nan) - target.real for name, target in wanted.items()}
    return {name: by for name, by in apart.items() if not abs(by) <= wanted[name].tolerance + 1e-9}


def _number(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 100 or x == round(x) else f"{x:.2f}" if abs(x) >= 1 else f"{x:.3f}"


def fact_table(figures: dict[str, float]) -> str:
    """Markdown: facts of the day, facts by venue as real / simulated, and those outside their tolerance (✗)."""
    missed = outside(figures)
    lines = ["| fact | real | simulated | tolerance |", "| --- | ---: | ---: | ---: |"]
    for name, (real, tolerance) in TARGETS_OF_THE_DAY.items():
        cells = _number(real), _number(figures[name]) + " ✗" * (name in missed), "±" + _number(tolerance.around(real))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_venue_lines(figures, missed), "", *_missed_lines(figures, missed)]) + "\n"


def _missed_lines(figures: dict[str, float], missed: dict[str, float]) -> list[str]:
    wanted = targets()
    lines = ["| outside its tolerance | real | simulated | deviation | tolerance |", "| --- |" + " ---: |" * 4]
    for name, by in missed.items():
        cells = _number(wanted[name].real), _number(figures[name]), f"{by:+.3g}", "±" + _number(wanted[name].tolerance)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _venue_lines(figures: dict[str, float], missed: dict[str, float]) -> list[str]:
    venues = list(VENUE_NAMES.values())
    lines = [f"| real / simulated | {' | '.join(venues)} | tolerance |", "| --- |" + " ---: |" * (len(venues) + 1)]
    for figure, (tolerance, reals) in VENUE_TARGETS.items():
        names = [f"{venue} {figure}" for venue in venues]
        cells = [
            f"{_number(r)} / {_number(figures[n])}{' ✗' * (n in missed)}" for n, r in zip(names, reals, strict=True)
        ]
        lines.append(f"| {figure} | {' | '.join(cells)} | {_tolerance_text(tolerance)} |")
    return lines


def _tolerance_text(tolerance: Tolerance) -> str:
    parts = [_number(tolerance.absolute)] * (tolerance.absolute > 0 or tolerance.relative == 0)
    parts += [f"{100 * tolerance.relative:.0f} %"] * (tolerance.relative > 0)
    return "±" + " or ".join(parts)
