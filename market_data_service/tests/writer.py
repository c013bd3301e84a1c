"""Stands in for pollers in the crash test: stores COUNT simulated prices through app.prices, as fast as it can.

    PYTHONPATH=. python tests/writer.py COUNT

Price number n is the same in every run: 50 symbols, times that come late now and then, and corrections. Killed and started
again, it goes on behind the last number that is stored. It fails if a commit that has returned is not there any more.
"""

from __future__ import annotations

import random
import sys
import time
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psycopg

from app import database, prices, settings
from app.database import Connection
from app.providers.base import Quote
from app.settings import Settings
from tests.flow import at

BATCH = 20
SYMBOLS = 50

_DONE = "SELECT coalesce(max((body->>'number')::int), 0) AS number FROM raw_responses"


def price_of(number: int) -> tuple[str, int, Decimal]:
    """The symbol, second and price of a number; no two numbers have the same price."""
    chance = random.Random(number)
    second = number // SYMBOLS - (chance.randint(1, 12) if chance.random() < 0.1 else 0)
    return f"S{number % SYMBOLS:02}", second, Decimal(number) / 1000 + chance.randint(1, 400)


def write(given: Settings, connection: Connection, count: int, told: list[int]) -> None:
    """Store the prices behind the last one that is stored; `told` holds the numbers whose commit has returned."""
    row = connection.execute(_DONE).fetchone()
    done = row["number"] if row else 0
    if told and done < told[-1]:
        sys.exit(f"number {told[-1]} was committed, and {done} is the last one there: commits were lost")
    for start in range(done + 1, count + 1, BATCH):
        numbers = range(start, min(start + BATCH, count + 1))
        with connection.transaction():
            for number in numbers:
                symbol, second, price = price_of(number)
                quote = Quote(symbol, "replay", price, at(second), {"number": number})
                database.run(connection, prices.store(quote, topic=given.kafka_topic))
        told.append(numbers[-1])


def main() -> None:
    """Go on until all are stored, whatever the database does."""
    given = settings.load()
    told: list[int] = []
    while True:
        try:
            with database.connect(given, "writer") as connection:
                return write(given, connection, int(sys.argv[1]), told)
        except psycopg.OperationalError:
            time.sleep(0.1)


if __name__ == "__main__":
    main()
