"""The SQL of the moving averages: the mean of the `window` newest prices of a symbol and provider up to a time, exact to six decimals.

They are always computed from market_prices, never from what happens to be in memory, and depend on nothing else: whatever
order events come in, and however often, the table ends the same. Fewer than `window` prices up to a time: no row.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.database import Connection

Touched = tuple[str, str, datetime.datetime]  # symbol, provider, ts of a price that is new or was corrected
LOCK = 0x6D61_0001  # advisory: who writes averages does so alone, or an older snapshot could win

_PLANS = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off"

# A touched price changes its own average and those of the next window - 1 prices. `near` holds these, and before each of
# them enough prices for its window: of every gap between two touched times the first `window` and the last `window - 1`
# prices. Of a price that is in both, the first copy counts.
_UPDATE = """
WITH asked AS MATERIALIZED (
    SELECT symbol, provider, ts, number
    FROM unnest(%(symbols)b::text[], %(providers)b::text[], %(times)b::timestamptz[])
        WITH ORDINALITY AS given (symbol, provider, ts, number)
), touched AS MATERIALIZED (
    SELECT symbol, provider, ts, lag(ts, 1, '-infinity') OVER here AS before_ts, lead(ts, 1, 'infinity') OVER here AS after_ts
    FROM (SELECT DISTINCT symbol, provider, ts FROM asked) AS once
    WINDOW here AS (PARTITION BY symbol, provider ORDER BY ts)
), near AS MATERIALIZED (
    SELECT symbol, provider, found.*
    FROM touched CROSS JOIN LATERAL (
        (SELECT id, ts, price, true AS is_affected FROM market_prices AS each
         WHERE each.symbol = touched.symbol AND each.provider = touched.provider
           AND each.ts >= touched.ts AND each.ts < touched.after_ts
         ORDER BY each.ts LIMIT %(window)s)
        UNION ALL
        (SELECT id, ts, price, false FROM market_prices AS each
         WHERE each.symbol = touched.symbol AND each.provider = touched.provider
           AND each.ts < touched.ts AND each.ts > touched.before_ts
         ORDER BY each.ts DESC LIMIT %(window)s - 1)
    ) AS found
), once AS (
    SELECT DISTINCT ON (symbol, provider, ts) * FROM near ORDER BY symbol, provider, ts, is_affected DESC
), averages AS (
    SELECT symbol, provider, ts, id, is_affected, count(*) OVER upto AS prices, round(avg(price) OVER upto, 6) AS avg_price
    FROM once
    WINDOW upto AS (PARTITION BY symbol, provider ORDER BY ts ROWS BETWEEN %(window)s - 1 PRECEDING AND CURRENT ROW)
), written AS (
    INSERT INTO moving_averages AS kept (symbol, provider, window_size, ts, avg_price, price_id)
    SELECT symbol, provider, %(window)s, ts, avg_price, id FROM averages WHERE is_affected AND prices = %(window)s
    ON CONFLICT (symbol, provider, window_size, ts) DO UPDATE
    SET avg_price = excluded.avg_price, price_id = excluded.price_id
    WHERE (kept.avg_price, kept.price_id) IS DISTINCT FROM (excluded.avg_price, excluded.price_id)
    RETURNING ts
)
SELECT (SELECT count(*) FROM written) AS written,
       ARRAY(SELECT number - 1 FROM asked WHERE (symbol, provider, ts) NOT IN (SELECT symbol, provider, ts FROM near)
             ORDER BY number) AS unknown
"""

_ALL = """
WITH averages AS (
    SELECT symbol, provider, ts, id, count(*) OVER upto AS prices, round(avg(price) OVER upto, 6) AS avg_price
    FROM market_prices
    WHERE symbol = %(symbol)s AND provider = %(provider)s
    WINDOW upto AS (PARTITION BY symbol, provider ORDER BY ts, id ROWS BETWEEN %(window)s - 1 PRECEDING AND CURRENT ROW)
), wanted AS MATERIALIZED (
    SELECT * FROM averages WHERE prices = %(window)s
), kept AS MATERIALIZED (
    SELECT * FROM moving_averages WHERE symbol = %(symbol)s AND provider = %(provider)s AND window_size = %(window)s
), differences AS MATERIALIZED (
    SELECT wanted.ts AS wanted_ts, kept.ts AS kept_ts, wanted.avg_price, wanted.id
    FROM wanted FULL JOIN kept USING (ts)
    WHERE (wanted.avg_price, wanted.id) IS DISTINCT FROM (kept.avg_price, kept.price_id)
)
"""

_COMPARE = """
SELECT (SELECT count(*) FROM wanted) AS averages,
       count(*) FILTER (WHERE kept_ts IS NULL) AS missing,
       count(*) FILTER (WHERE wanted_ts IS NOT NULL AND kept_ts IS NOT NULL) AS wrong,
       count(*) FILTER (WHERE wanted_ts IS NULL) AS surplus
FROM differences
"""

_REPAIR = f"""
, removed AS (
    DELETE FROM moving_averages
    WHERE symbol = %(symbol)s AND provider = %(provider)s AND window_size = %(window)s
      AND ts IN (SELECT kept_ts FROM differences WHERE wanted_ts IS NULL)
), written AS (
    INSERT INTO moving_averages (symbol, provider, window_size, ts, avg_price, price_id)
    SELECT %(symbol)s, %(provider)s, %(window)s, wanted_ts, avg_price, id FROM differences WHERE wanted_ts IS NOT NULL
    ON CONFLICT (symbol, provider, window_size, ts) DO UPDATE
    SET avg_price = excluded.avg_price, price_id = excluded.price_id
)
{_COMPARE}
"""

# pairs of symbol and provider one after another along the index, whatever the length of the history
_KEYS = """
WITH RECURSIVE key AS (
    (SELECT symbol, provider FROM {table} ORDER BY symbol, provider LIMIT 1)
    UNION ALL
    SELECT next.symbol, next.provider
    FROM key CROSS JOIN LATERAL (
        SELECT symbol, provider FROM {table} WHERE (symbol, provider) > (key.symbol, key.provider)
        ORDER BY symbol, provider LIMIT 1
    ) AS next
)
SELECT symbol, provider FROM key
"""


@dataclass(frozen=True)
class Updated:
    """What an update did: how many averages it wrote or changed, and which of the touched (by position) are no stored price."""

    written: int
    unknown: Sequence[int]


@dataclass(frozen=True)
class Compared:
    """How the table of averages differs from what the prices say: averages there must be, and of the kept ones the faulty."""

    averages: int = 0
    missing: int = 0
    wrong: int = 0
    surplus: int = 0

    @property
    def differences(self) -> int:
        """Averages that are not as they must be."""
        return self.missing + self.wrong + self.surplus

    def __add__(self, other: Compared) -> Compared:
        return Compared(
            self.averages + other.averages,
            self.missing + other.missing,
            self.wrong + other.wrong,
            self.surplus + other.surplus,
        )


def prepare(connection: Connection) -> None:
    """Once a connection, before `update`: a few rows by index are wanted, whatever the planner believes of the tables."""
    connection.execute(_PLANS)


def update(connection: Connection, touched: Sequence[Touched], window: int) -> Updated:
    """Make the averages of touched prices, and of those that follow them, what the prices now say; in the caller's transaction.

    The caller holds LOCK since an earlier statement of the transaction: what others wrote under it is seen then.

    Parameters
    ----------
    touched
        In any order, the same more than once if it comes to that.
    window
        How many prices an average is of.
    """
    symbols, providers, times = zip(*touched, strict=True) if touched else ((), (), ())
    values = {"symbols": list(symbols), "providers": list(providers), "times": list(times), "window": window}
    row = connection.execute(_UPDATE, values).fetchone()
    assert row is not None
    return Updated(row["written"], row["unknown"])


def compare(connection: Connection, window: int) -> Compared:
    """How the averages differ from a recomputation of all; nothing is changed."""
    return _each(connection, _ALL + _COMPARE, window)


def recompute(connection: Connection, window: int) -> Compared:
    """Make all averages what the prices say, symbol by symbol, each in a transaction; what was found. Consumers may be at work."""
    return _each(connection, _ALL + _REPAIR, window)


def _each(connection: Connection, sql: str, window: int) -> Compared:
    return sum((_one(connection, sql, *key, window) for key in sorted(_keys(connection))), Compared())


def _keys(connection: Connection) -> Iterable[tuple[str, str]]:
    return {
        (row["symbol"], row["provider"])
        for table in ("market_prices", "moving_averages")
        for row in connection.execute(_KEYS.format(table=table))
    }


def _one(connection: Connection, sql: str, symbol: str, provider: str, window: int) -> Compared:
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        row = connection.execute(sql, {"symbol": symbol, "provider": provider, "window": window}).fetchone()
    assert row is not None
    return Compared(**row)
