"""Simulated prices, the averages they must lead to, and their way into tables and onto a topic without the service's help."""

from __future__ import annotations

import datetime
import random
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal

from app import events
from app.database import Connection
from app.events import PriceEvent
from app.kafka import Message

SYMBOLS = 50
PROVIDER = "replay"
T0 = datetime.datetime(2025, 6, 16, 13, 30, tzinfo=datetime.timezone.utc)
SIX = Decimal("0.000001")

Averages = dict[tuple[str, datetime.datetime], Decimal]

_NEWEST = """
INSERT INTO latest_prices (symbol, provider, price, ts, fetched_at, price_id)
SELECT DISTINCT ON (symbol, provider) symbol, provider, price, ts, now(), id
FROM market_prices ORDER BY symbol, provider, ts DESC
"""


def series(count: int, symbols: int = SYMBOLS, seed: int = 1) -> list[PriceEvent]:
    """So many prices, the symbols in turn, a second between two prices of a symbol; the same for the same seed."""
    rng = random.Random(seed)
    return [
        PriceEvent(
            f"S{number % symbols:03}",
            Decimal(rng.randint(1_000_000, 500_000_000)) * SIX,
            T0 + datetime.timedelta(seconds=number // symbols),
            PROVIDER,
            str(number + 1),
        )
        for number in range(count)
    ]


def averages_of(prices: Sequence[PriceEvent], window: int) -> Averages:
    """The moving averages by definition, of prices that are in order of time."""
    last: dict[str, deque[Decimal]] = defaultdict(lambda: deque(maxlen=window))
    found: Averages = {}
    for each in prices:
        kept = last[each.symbol]
        kept.append(each.price)
        if len(kept) == window:
            found[each.symbol, each.timestamp] = (sum(kept, Decimal(0)) / window).quantize(SIX, ROUND_HALF_UP)
    return found


def kept_averages(db: Connection, window: int) -> Averages:
    """Those of the table."""
    rows = db.execute("SELECT symbol, ts, avg_price FROM moving_averages WHERE window_size = %s", [window])
    return {(row["symbol"], row["ts"]): row["avg_price"] for row in rows}


def fill_prices(db: Connection, prices: Sequence[PriceEvent]) -> None:
    """Into market_prices and latest_prices."""
    with (
        db.transaction(),
        db.cursor() as cursor,
        cursor.copy("COPY market_prices (symbol, provider, price, ts) FROM STDIN") as copy,
    ):
        for each in prices:
            copy.write_row((each.symbol, each.provider, each.price, each.timestamp))
    db.execute(_NEWEST)
    db.execute("VACUUM ANALYZE market_prices")


def fill_outbox(db: Connection, prices: Sequence[PriceEvent], topic: str) -> None:
    """An event of each price into the outbox."""
    names = "topic, key, payload, event_id"
    with db.transaction(), db.cursor() as cursor, cursor.copy(f"COPY outbox ({names}) FROM STDIN") as copy:
        for each in prices:
            copy.write_row((topic, each.key, events.encode(each), each.event_id))
    db.execute("VACUUM ANALYZE outbox")


def messages(prices: Sequence[PriceEvent], topic: str) -> Iterator[Message]:
    """What the relay makes of them."""
    for each in prices:
        yield Message(topic, each.key.encode(), events.encode(each).encode(), events.headers(each.event_id, None))
