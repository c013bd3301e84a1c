"""The floor: by hand, against every way of taking on tiny days, and never above a strategy."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sor import market as markets
from sor import policies
from sor.clairvoyant import clairvoyant
from sor.market import Market
from sor.policies import POLICIES
from sor.replay import RESET, SHADOW, Terminal, Window
from tests.helpers import RULES, Row, ask, clear, events, market, plain_batches, venue_table, window
from tests.test_policies import FEES_E6, random_order

SEEDS = st.integers(0, 2**32 - 1)
DEAR = Terminal(missing_e6=100_000_000)


def floor(day: Market, when: Window, size: int, rule: int = SHADOW, terminal: Terminal = DEAR) -> tuple[float, int]:
    """Cost in USD and shares filled."""
    cost_e6, filled_sz = clairvoyant(day.updates, day.fees_e6, when, size, terminal, rule)
    return cost_e6 / 1e6, filled_sz


# --- worked by hand -----------------------------------------------------------------------------------------------------


def test_cheapest_moments_of_the_day_fill_the_order():
    day = market(ask(0, 2, 10.0, 100), ask(2, 2, 9.0, 100), ask(4, 3, 9.5, 100), ask(6, 2, 11.0, 100))
    assert floor(day, window(0, 9), 150) == (100 * 9.0 + 50 * 9.5, 150)


def test_fee_counts():
    day = market(ask(0, 2, 10.0, 100), ask(0, 3, 10.001, 100), fees_e6={2: 3000, 3: 700})
    assert floor(day, window(0, 9), 100) == (100 * 10.0017, 100)


def test_size_shown_again_is_not_new_but_an_increase_is():
    day = market(*(ask(at_s, 2, 10.0, sz) for at_s, sz in enumerate((100, 100, 40, 90, 90))))
    assert floor(day, window(0, 9), 500) == (150 * 10.0 + 350 * 100.0, 150)  # 100, and 50 more from 40 to 90
    assert floor(day, window(0, 9), 500, RESET) == (420 * 10.0 + 80 * 100.0, 420)


def test_return_to_an_earlier_price_is_new():
    day = market(ask(0, 2, 10.0, 100), clear(1, 2), ask(2, 2, 10.0, 100))
    assert floor(day, window(0, 9), 200) == (2000.0, 200)


def test_quotes_carried_into_the_window_count_once_and_those_after_it_do_not():
    day = market(ask(0, 2, 10.0, 300), ask(1, 2, 10.0, 100), ask(5, 2, 10.0, 100), ask(9, 2, 1.0, 900))
    assert floor(day, window(3, 8), 300) == (100 * 10.0 + 200 * 100.0, 100)


def test_share_is_left_to_the_terminal_price_where_that_is_cheaper():
    day = market(ask(0, 2, 10.0, 100), ask(1, 3, 10.3, 100))
    assert floor(day, window(0, 9), 200, terminal=Terminal(10_200_000)) == (100 * 10.0 + 100 * 10.2, 100)


def test_nothing_to_buy_costs_nothing():
    assert floor(market(ask(0, 2, 10.0, 100)), window(0, 9), 0) == (0.0, 0)


# --- oracles ------------------------------------------------------------------------------------------------------------


def tiny_day(seed: int) -> list[Row]:
    draw = random.Random(seed)
    rows, at_s = [ask(0, 2, 10.0, draw.randrange(1, 4))], 0
    for _ in range(draw.randrange(1, 8)):
        at_s += draw.randrange(2)
        px, sz = draw.choice((9.99, 10.0, 10.0, 10.01)), draw.randrange(1, 4)
        rows.append(clear(at_s, 2) if draw.random() < 0.1 else ask(at_s, draw.choice((2, 3)), px, sz))
    return rows


def cheapest_by_trying_all(rows: list[Row], fees_e6: dict[int, int], when: Window, size: int, rule: int) -> int:
    """Least cost over every number of shares taken from every venue at every moment."""
    day = events(*rows)
    fees = venue_table(fees_e6).fees_e6(day.publisher_ids).tolist()
    venues = range(len(fees))
    states = {(0, (0,) * len(fees)): 0}  # (bought, taken of each venue's quote): least cost
    quotes = [(0, 0)] * len(fees)
    batches = plain_batches(day, venue_table().routable(day.publisher_ids))
    for i, (at_ns, batch) in enumerate(batches):
        if at_ns > when.end_ns:
            break
        old, quotes = quotes, [batch[v][2:] if v in batch else quotes[v] for v in venues]
        states = best(((n, updated(t, old, quotes, batch, rule)), cost) for (n, t), cost in states.items())
        if i + 1 == len(batches) or batches[i + 1][0] > when.start_ns:
            states = best(step for state, cost in states.items() for step in takes(state, cost, quotes, fees, size))
    return min(cost + (size - n) * DEAR.missing_e6 for (n, _), cost in states.items())


def updated(taken, old, quotes, batch, rule):
    keeps = [v not in batch or (rule == SHADOW and old[v][0] == quotes[v][0]) for v in range(len(taken))]
    return tuple(min(taken[v], quotes[v][1]) if keeps[v] else 0 for v in range(len(taken)))


def takes(state, cost, quotes, fees, size):
    bought, taken = state
    left = [range(quotes[v][1] - taken[v] + 1) if quotes[v][0] else range(1) for v in range(len(taken))]
    for more in itertools.product(*left):
        if bought + sum(more) <= size:
            paid = sum(n * (quotes[v][0] * 100 + fees[v]) for v, n in enumerate(more))
            yield (bought + sum(more), tuple(map(sum, zip(taken, more, strict=True)))), cost + paid


def best(pairs):
    """The least cost of every state."""
    least = {}
    for state, cost in pairs:
        least[state] = min(cost, least.get(state, cost))
    return least


@given(SEEDS, st.sampled_from(RULES))
@settings(max_examples=120, deadline=None)
def test_floor_is_the_best_of_all_ways_to_take(seed: int, rule: int):
    rows, draw = tiny_day(seed), random.Random(seed)
    last = max(row.at_s for row in rows)
    start = draw.randrange(last + 1)
    when, size = window(start, start + draw.randrange(1, 6)), draw.randrange(1, 7)
    fees_e6 = {2: 3000, 3: draw.choice((3000, -8000))}
    day = market(*rows, fees_e6=fees_e6)
    cost_e6, _ = clairvoyant(day.updates, day.fees_e6, when, size, DEAR, rule)
    assert cost_e6 == cheapest_by_trying_all(rows, fees_e6, when, size, rule)


@given(SEEDS, st.sampled_from(RULES))
@settings(max_examples=500, deadline=None)
def test_no_strategy_beats_the_floor(seed: int, rule: int):
    rows, wanted = random_order(seed, rule)
    day = market(*rows, fees_e6=FEES_E6)
    terminal = markets.terminal(day, wanted.window, wanted.penalty_px)
    cost_e6, filled_sz = clairvoyant(day.updates, day.fees_e6, wanted.window, wanted.size, terminal, rule)
    assert 0 <= filled_sz <= wanted.size
    for name in POLICIES:
        assert cost_e6 <= policies.run(name, day, wanted).total_e6[0], name


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_floor_of_the_reset_rule_is_not_above_that_of_the_shadow_rule(seed: int):
    rows, wanted = random_order(seed)
    day = market(*rows, fees_e6=FEES_E6)
    reset, shadow = (floor(day, wanted.window, wanted.size, rule)[0] for rule in (RESET, SHADOW))
    assert reset <= shadow + 1e-9


def test_floor_of_a_day_without_increases_is_reached_by_taking_everything_at_once():
    day = market(ask(0, 2, 10.0, 100), ask(0, 3, 10.1, 100), ask(9, 3, 10.5, 100))
    assert floor(day, window(0, 5), 200)[0] == pytest.approx(
        policies.run("allocate", day, policies.Order(200, window(0, 5))).total_e6[0] / 1e6
    )
