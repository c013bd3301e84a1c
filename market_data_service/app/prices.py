"""The SQL of prices: the one place that says what a new, a repeated, a corrected and a late price do.

a timestamp that is new              a row, an event
the same timestamp, the same price   no row and no event; only the time of the last fetch moves on
the same timestamp, another price    the row is corrected, and the event carries the new price
a timestamp older than the newest    a row and an event; the latest price stays
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from psycopg.types.json import Jsonb

from app import events
from app.database import Steps
from app.events import PriceEvent
from app.providers.base import Quote

OUTBOX_CHANNEL = "outbox"
MOST_COUNTED = 100_000

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%(key)s, 0))"

_WRITE = """
WITH raw AS (
    INSERT INTO raw_responses (provider, symbol, status, body) VALUES (%(provider)s, %(symbol)s, %(status)s, %(body)s)
    RETURNING id
), old AS (
    SELECT id FROM market_prices WHERE symbol = %(symbol)s AND provider = %(provider)s AND ts = %(ts)s
), written AS (
    INSERT INTO market_prices AS kept (symbol, provider, price, ts, raw_response_id)
    SELECT %(symbol)s, %(provider)s, %(price)s, %(ts)s, id FROM raw
    ON CONFLICT (symbol, provider, ts) DO UPDATE
    SET price = excluded.price, fetched_at = excluded.fetched_at, raw_response_id = excluded.raw_response_id
    WHERE kept.price <> excluded.price
    RETURNING id
), newest AS (
    INSERT INTO latest_prices AS kept (symbol, provider, price, ts, fetched_at, price_id)
    SELECT %(symbol)s, %(provider)s, %(price)s, %(ts)s, now(), coalesce((SELECT id FROM written), (SELECT id FROM old))
    ON CONFLICT (symbol, provider) DO UPDATE
    SET price = CASE WHEN excluded.ts >= kept.ts THEN excluded.price ELSE kept.price END,
        price_id = CASE WHEN excluded.ts >= kept.ts THEN excluded.price_id ELSE kept.price_id END,
        ts = greatest(excluded.ts, kept.ts),
        fetched_at = greatest(excluded.fetched_at, kept.fetched_at)
    RETURNING price, ts, fetched_at
)
SELECT raw.id AS raw_id, EXISTS (SELECT FROM old) AS was_there, EXISTS (SELECT FROM written) AS is_written,
       newest.price, newest.ts, newest.fetched_at
FROM raw, newest
"""

_EVENT = f"""
WITH event AS (
    INSERT INTO outbox (topic, key, payload, event_id, traceparent)
    VALUES (%(topic)s, %(key)s, %(payload)s, %(event_id)s, %(traceparent)s)
)
SELECT pg_notify('{OUTBOX_CHANNEL}', '')
"""

OUTBOX_WAITING = f"""
SELECT (SELECT count(*) FROM (SELECT FROM outbox WHERE published_at IS NULL LIMIT {MOST_COUNTED}) AS waiting) AS pending,
       coalesce((SELECT extract(epoch FROM clock_timestamp() - created_at) FROM outbox
                 WHERE published_at IS NULL ORDER BY id LIMIT 1), 0)::float8 AS oldest_age_s
"""

LATEST = """
SELECT symbol, provider, price, ts, fetched_at, extract(epoch FROM clock_timestamp() - fetched_at)::float8 AS age_s
FROM unnest(%(symbols)s::text[], %(providers)s::text[]) AS wanted (symbol, provider)
JOIN latest_prices USING (symbol, provider)
"""

HISTORY = """
SELECT id, symbol, provider, price, ts, fetched_at
FROM market_prices
WHERE symbol = %(symbol)s AND provider = %(provider)s
  AND ts >= coalesce(%(from_ts)s::timestamptz, '-infinity') AND ts < coalesce(%(to_ts)s::timestamptz, 'infinity')
  AND ts < coalesce(%(before_ts)s::timestamptz, 'infinity')
ORDER BY ts DESC
LIMIT %(limit)s
"""

MOVING_AVERAGE = """
SELECT symbol, provider, window_size, ts, avg_price
FROM moving_averages
WHERE symbol = %(symbol)s AND provider = %(provider)s AND window_size = %(window)s
ORDER BY ts DESC
LIMIT 1
"""


@dataclass(frozen=True)
class Latest:
    """The newest price of a symbol: `ts` is the provider's time, `fetched_at` and `age_s` tell when it was last asked for."""

    symbol: str
    provider: str
    price: Decimal
    ts: datetime.datetime
    fetched_at: datetime.datetime
    age_s: float


@dataclass(frozen=True)
class Stored:
    """What storing a price did, and the latest price afterwards."""

    did: Literal["new", "corrected", "same"]
    latest: Latest


def store(quote: Quote, *, topic: str, traceparent: str | None = None) -> Steps[Stored]:
    """Keep a price, the response it came in and its event, in the caller's transaction (see `app.database.run`).

    Prices of one symbol and provider are stored one at a time, so that ids in the outbox are in the order of commits.

    Parameters
    ----------
    topic
        Where the event is to be published.
    traceparent
        The request's, to be handed on with the event.
    """
    symbol, provider, price, ts = quote.symbol, quote.provider, quote.price, quote.ts
    key = events.key_of(provider, symbol)
    yield _LOCK, {"key": key}
    values = {"symbol": symbol, "provider": provider, "price": price, "ts": ts}
    row = yield _WRITE, values | {"status": quote.status, "body": Jsonb(quote.body)}
    assert row is not None
    if row["is_written"]:
        event = PriceEvent(symbol, price, ts, provider, str(row["raw_id"]))
        message = {"payload": events.encode(event), "event_id": event.event_id, "traceparent": traceparent}
        yield _EVENT, {"topic": topic, "key": key, **message}
    did = "same" if not row["is_written"] else "corrected" if row["was_there"] else "new"
    return Stored(did, Latest(symbol, provider, row["price"], row["ts"], row["fetched_at"], 0.0))
