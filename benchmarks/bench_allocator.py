"""Speed of allocator.allocate, each time beside a slower way to the same answer, which is checked.

python -m benchmarks.bench_allocator
"""

import random
import sys
from collections.abc import Callable
from time import perf_counter

from allocator import Venue, allocate, allocate_exhaustive, split_cost
from benchmarks.table import Row, show

PENALTIES = (0.4, 0.6, 0.3)
STEP = 100


def rows() -> list[Row]:
    """One row per claim: ours, what it stands beside, their ratio, the bar, and ok: answer right and bar met."""
    return [_against_exhaustive(), _twelve_venues()]


def main() -> int:
    """Print the rows as a markdown table; 1 if one of them is not ok."""
    return show(rows())


def _against_exhaustive() -> Row:
    """Five venues of 2,000 shares: 21**5 splits in lots, those above the order pruned."""
    venues = [Venue(226.80 + cents / 100, 2_000, 0.003, 0.002) for cents in (3, 1, 4, 0, 2)]
    start = perf_counter()
    answer = allocate_exhaustive(5_000, venues, *PENALTIES, step=STEP)
    beside_s = perf_counter() - start
    ours_s = _best_s(lambda: allocate(5_000, venues, *PENALTIES, step=STEP))
    ratio = beside_s / ours_s
    right = allocate(5_000, venues, *PENALTIES, step=STEP) == answer
    return {
        "name": "allocate, 5 venues of 2,000 shares",
        "ours": f"{ours_s * 1e6:.1f} µs",
        "beside": f"allocate_exhaustive {beside_s:.2f} s",
        "ratio": round(ratio),
        "bar": "ratio >= 10000",
        "ok": right and ratio >= 10_000,
    }


def _twelve_venues() -> Row:
    """Twelve venues, as many as the consolidated books of our data have; the order takes two thirds of the display."""
    draw = random.Random(7)
    venues = [Venue(226.80 + draw.randrange(10) / 100, 100 * draw.randrange(1, 13), 0.003, 0.002) for _ in range(12)]
    order_sz = sum(venue.ask_size for venue in venues) // 300 * 200
    ours_s = _best_s(lambda: allocate(order_sz, venues, *PENALTIES, step=STEP))
    beside_s = _best_s(lambda: _lot_by_lot(order_sz, venues), calls=200)
    right = allocate(order_sz, venues, *PENALTIES, step=STEP) == _lot_by_lot(order_sz, venues)
    return {
        "name": f"allocate, 12 venues, {order_sz:,} shares",
        "ours": f"{ours_s * 1e6:.1f} µs",
        "beside": f"sorting every lot {beside_s * 1e6:.1f} µs",
        "ratio": round(beside_s / ours_s, 1),
        "bar": "ours <= 20 µs",
        "ok": right and ours_s <= 20e-6,
    }


def _lot_by_lot(order_sz: int, venues: list[Venue]) -> tuple[list[int], float]:
    """The same answer another way: every displayed lot is priced by itself, and the cheapest are taken."""
    lots = [(round((v.ask + v.fee) * 1e6), -i) for i, v in enumerate(venues) for _ in range(v.ask_size // STEP)]
    split = [0] * len(venues)
    for _, minus_i in sorted(lots)[: order_sz // STEP]:
        split[-minus_i] += STEP
    return split, split_cost(split, order_sz, venues, *PENALTIES)


def _best_s(call: Callable[[], object], calls: int = 2_000, repeats: int = 7) -> float:
    """Seconds per call in the fastest of `repeats` rounds: the machine's noise only ever adds."""
    rounds = []
    for _ in range(repeats):
        start = perf_counter()
        for _ in range(calls):
            call()
        rounds.append(perf_counter() - start)
    return min(rounds) / calls


if __name__ == "__main__":
    sys.exit(main())
