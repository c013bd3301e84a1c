"""The simulated prices that the provider `replay` plays by default: random walks in cents, the same at every run.

    python -m app.providers.simulate > app/providers/data/simulated.csv

These are no market's prices. A price a second, 120 of them for each symbol.
"""

from __future__ import annotations

import csv
import datetime
import random
import sys
from collections.abc import Iterator

START = datetime.datetime(2025, 6, 13, 13, 30, tzinfo=datetime.timezone.utc)
FIRST_CENTS = {"AAPL": 19_645, "AMZN": 21_210, "BTC-USD": 10_541_200, "MSFT": 47_496, "SPY": 59_700}
ROWS = 120
SEED = 6


def rows() -> Iterator[tuple[str, str, str]]:
    """Symbol, time and price, symbol by symbol; a walk's step is up to one part in 2,000, and at least a cent."""
    generator = random.Random(SEED)
    for symbol, cents in FIRST_CENTS.items():
        widest = max(1, cents // 2_000)
        for second in range(ROWS):
            ts = START + datetime.timedelta(seconds=second)
            yield symbol, ts.isoformat(), f"{cents / 100:.2f}"
            cents = max(1, cents + generator.randint(-widest, widest))


def main() -> int:
    """Write the file to stdout."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["symbol", "ts", "price"])
    writer.writerows(rows())
    return 0


if __name__ == "__main__":
    sys.exit(main())
