"""The replays that the benchmarks measure ours against follow the same rules: by hand, and over random days."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.twap_otherwise import frame_of, grouped, plain, plain_rows
from sor import market as markets
from sor.orders import Terminal, Window
from sor.replay import Schedule, take
from tests.helpers import Row, ask, events, ns, random_rows, venue_table

FEES_E6 = {2: 3000, 3: 700, 5: -2000, 9: 3000}


def answers(rows: list[Row], schedule: Schedule) -> dict[str, list[list[int]]]:
    """Cash, fees and shares of every lane, by each means."""
    day, venues = events(*rows), venue_table(FEES_E6)
    known = (venues.routable(day.publisher_ids), venues.fees_e6(day.publisher_ids), schedule)
    market = markets.build(day, venues)
    window = Window(int(schedule.clock_ns[0]), int(day.ts_ns.max()) + 1)
    ours = take(market.updates, market.usable, market.fees_e6, window, schedule, Terminal(0), sweep=False)
    found = {
        "ours": np.array([ours.cash_e6, ours.fees_e6, ours.filled_sz]),
        "plain": plain(plain_rows(day), *known),
        "grouped": grouped(frame_of(day), *known),
        "forgetful": plain(plain_rows(day), *known, remember=False),
    }
    return {name: answer.tolist() for name, answer in found.items()}


def test_size_that_stays_displayed_is_taken_once_by_all_but_the_forgetful():
    rows = [ask(0, 2, 10.0, 100), ask(0, 3, 10.1, 500), ask(5, 2, 10.0, 100)]
    found = answers(rows, Schedule(np.array([ns(1), ns(6)]), np.array([[80], [80]])))
    # 80 at 10.00 + 0.003, then the 20 left there and 60 at 10.10 + 0.0007; the forgetful finds all 100 again
    once = [[100 * 10_000_000 + 60 * 10_100_000], [100 * 3000 + 60 * 700], [160]]
    assert found["ours"] == found["plain"] == found["grouped"] == once
    assert found["forgetful"] == [[160 * 10_000_000], [160 * 3000], [160]]


def test_a_price_that_went_away_and_came_back_is_new_to_all():
    rows = [ask(0, 2, 10.0, 100), ask(0, 3, 10.1, 500), ask(2, 2, 10.2, 100), ask(3, 2, 10.0, 70)]
    found = answers(rows, Schedule(np.array([ns(1), ns(4)]), np.array([[80], [80]])))
    back = [[150 * 10_000_000 + 10 * 10_100_000], [150 * 3000 + 10 * 700], [160]]
    assert found == dict.fromkeys(found, back)


def test_of_equal_costs_the_later_venue_is_taken_first():
    rows = [ask(0, 2, 10.0, 100), ask(0, 9, 10.0, 50)]
    found = answers(rows, Schedule(np.array([ns(1), ns(1)]), np.array([[50, 60], [10, 0]])))
    assert found["ours"] == found["plain"] == found["grouped"]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_lane_of_every_means_is_ours_on_random_days(seed):
    draw = random.Random(seed)
    rows = [ask(0, 2, 10.0, 100), *random_rows(draw, 60)]
    last_s = max(row.at_s for row in rows)
    clock_s = sorted(draw.uniform(0, last_s + 2) for _ in range(draw.randrange(1, 12)))
    release_sz = np.array([[draw.choice((0, 1, 60, 400)) for _ in range(3)] for _ in clock_s])
    found = answers(rows, Schedule(np.array([ns(at_s) for at_s in clock_s]), release_sz))
    assert found["plain"] == found["ours"]
    assert found["grouped"] == found["ours"]
