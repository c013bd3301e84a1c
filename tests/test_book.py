"""The consolidated book: batches, NBBO and expiry by hand, then against a book kept in a plain dict."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sor.book import (
    CROSSED,
    EMPTY,
    LOCKED,
    OPEN,
    QuoteUpdates,
    asks_after,
    expire_quotes,
    nbbo,
    quote_updates,
    update_only,
)
from sor.events import CLEAR, QUOTE, Events
from tests.helpers import (
    DARK,
    Row,
    ask,
    clear,
    events,
    ns,
    plain_batches,
    plain_nbbo,
    quote,
    random_rows,
    trade,
    venue_table,
)

SEEDS = st.integers(0, 2**32 - 1)


def updates_of(*rows: Row) -> QuoteUpdates:
    day = events(*rows)
    return quote_updates(day, venue_table().routable(day.publisher_ids))


def seconds(updates: QuoteUpdates) -> list[float]:
    return [(at - ns(0)) / 1e9 for at in updates.ts_ns.tolist()]


# --- batches ------------------------------------------------------------------------------------------------------------


def test_rows_of_one_time_are_one_batch_and_the_last_row_of_a_venue_counts():
    updates = updates_of(ask(0, 2, 10.0, 1), ask(0, 3, 10.1, 2), ask(0, 2, 10.2, 3), ask(1, 3, 10.3, 4))
    assert seconds(updates) == [0, 1]
    assert updates.first.tolist() == [0, 2, 3]
    assert updates.venue.tolist() == [0, 1, 1]
    assert updates.ask_px_e4.tolist() == [102_000, 101_000, 103_000]
    assert updates.ask_sz.tolist() == [3, 2, 4]


def test_trades_and_dark_venues_never_touch_the_book():
    updates = updates_of(ask(0, 2, 10.0, 1), trade(1, 2, 500), ask(2, DARK, 9.0, 100), ask(3, 2, 10.1, 1))
    assert seconds(updates) == [0, 3]
    assert updates.venue.tolist() == [0, 0]


def test_clear_takes_both_sides_of_the_venue():
    best = nbbo(updates_of(quote(0, 2, 9.9, 5, 10.0, 5), quote(0, 3, 9.8, 7, 10.1, 7), clear(1, 2), clear(2, 3)))
    assert best.bid_px_e4.tolist() == [99_000, 98_000, 0]
    assert best.ask_px_e4.tolist() == [100_000, 101_000, 0]


def test_rows_a_little_back_in_time_are_batches_of_their_own_under_the_newest_time():
    updates = updates_of(ask(0, 2, 10.0, 1), ask(2, 2, 10.1, 1), ask(1, 3, 10.2, 1), ask(2, 2, 10.3, 1))
    assert seconds(updates) == [0, 2, 2, 2]
    assert np.diff(updates.first).tolist() == [1, 1, 1, 1]


def test_batches_known_at_a_time_are_those_stamped_by_then():
    updates = updates_of(ask(0, 2, 10.0, 1), ask(2, 2, 10.1, 1))
    assert updates.batches_by(np.array([ns(-1), ns(0), ns(1.9), ns(2), ns(9)])).tolist() == [0, 1, 1, 2, 2]


def test_no_rows_give_no_batches():
    updates = quote_updates(events().slice(0, 0), np.zeros(0, bool))
    assert len(updates.ts_ns) == len(updates.venue) == 0
    assert len(nbbo(updates).state) == 0


# --- NBBO ---------------------------------------------------------------------------------------------------------------


def test_nbbo_of_three_venues_carried_forward():
    best = nbbo(
        updates_of(
            quote(0, 2, 9.98, 100, 10.02, 200),
            quote(1, 3, 9.99, 300, 10.02, 50),  # both at the offer: 250 shares
            quote(2, 5, 9.99, 400, 10.01, 70),  # both at the bid: 700
            quote(3, 3, 9.97, 10, 10.05, 10),
        )
    )
    assert best.bid_px_e4.tolist() == [99_800, 99_900, 99_900, 99_900]
    assert best.ask_px_e4.tolist() == [100_200, 100_200, 100_100, 100_100]
    assert best.bid_sz.tolist() == [100, 300, 700, 400]
    assert best.ask_sz.tolist() == [200, 250, 70, 70]
    assert best.mid_px.tolist() == pytest.approx([10.0, 10.005, 10.0, 10.0], rel=1e-15)
    assert best.spread_px.tolist() == pytest.approx([0.04, 0.03, 0.02, 0.02], rel=1e-12)


def test_open_locked_crossed_and_one_sided_books_are_told_apart():
    best = nbbo(
        updates_of(
            quote(0, 2, 0.0, 0, 10.02, 100),
            quote(1, 2, 10.0, 100, 10.02, 100),
            quote(2, 3, 10.02, 100, 10.03, 100),
            quote(3, 3, 10.03, 100, 10.04, 100),
            quote(4, 3, 0.0, 0, 0.0, 0),
        )
    )
    assert best.state.tolist() == [EMPTY, OPEN, LOCKED, CROSSED, OPEN]
    assert best.usable.tolist() == [False, True, True, False, True]
    assert np.isnan(best.mid_px).tolist() == [True, False, False, True, False]
    assert best.spread_px[2] == 0
    assert np.isnan(best.spread_px[3])


@given(SEEDS)
@settings(max_examples=150, deadline=None)
def test_nbbo_and_asks_are_those_of_a_book_kept_in_a_dict(seed: int):
    rows = random_rows(random.Random(seed), 40)
    day = events(*rows)
    updates = updates_of(*rows)
    best, book = nbbo(updates), {}
    batches = plain_batches(day, venue_table().routable(day.publisher_ids))
    assert updates.ts_ns.tolist() == [at_ns for at_ns, _ in batches]
    for b, (_, quotes) in enumerate(batches):
        book |= quotes
        got = best.bid_px_e4[b], best.ask_px_e4[b], best.bid_sz[b], best.ask_sz[b]
        assert got == plain_nbbo(book)
        px_e4, sz = asks_after(updates, b + 1)
        assert {v: (px_e4[v], sz[v]) for v in book} == {v: q[2:] for v, q in book.items()}
        assert not px_e4[[v for v in range(updates.venues) if v not in book]].any()


def test_asks_before_the_first_batch_are_all_absent():
    px_e4, sz = asks_after(updates_of(ask(0, 2, 10.0, 1), ask(0, 3, 10.1, 2)), 0)
    assert px_e4.tolist() == sz.tolist() == [0, 0]


def test_bare_update_ends_with_the_last_quote_of_every_venue():
    updates = updates_of(*random_rows(random.Random(3), 60))
    columns = updates.first, updates.venue, updates.bid_px_e4, updates.ask_px_e4, updates.bid_sz, updates.ask_sz
    book = update_only(*columns, updates.venues)
    px_e4, sz = asks_after(updates, len(updates.ts_ns))
    assert book[1].tolist() == px_e4.tolist()
    assert book[3].tolist() == sz.tolist()


# --- expiry -------------------------------------------------------------------------------------------------------------


def expired(age_s: float, *rows: Row) -> list[tuple[float, int, int]]:
    """(second, publisher id, action) of every row after expiry."""
    day = expire_quotes(events(*rows), round(age_s * 1e9))
    pairs = zip(day.ts_ns.tolist(), day.venue.tolist(), day.action.tolist(), strict=True)
    return [((at - ns(0)) / 1e9, day.publisher_ids[v], action) for at, v, action in pairs]


def test_quote_expires_at_its_age_and_returns_with_the_next_one():
    assert expired(5, ask(0, 2, 10.0, 1), ask(3, 3, 10.1, 1), ask(7, 2, 10.0, 1)) == [
        (0, 2, QUOTE),
        (3, 3, QUOTE),
        (5, 2, CLEAR),
        (7, 2, QUOTE),
    ]


def test_quote_renewed_in_time_does_not_expire():
    assert len(expired(5, ask(0, 2, 10.0, 1), ask(5, 2, 10.0, 1), ask(10, 2, 10.0, 1))) == 3


def test_trade_does_not_renew_a_quote():
    assert expired(5, ask(0, 2, 10.0, 1), trade(4, 2, 100), ask(6, 3, 10.0, 1))[2] == (5, 2, CLEAR)


def test_quote_whose_age_is_reached_with_the_last_row_has_expired():
    best = nbbo(
        quote_updates(expire_quotes(events(ask(0, 2, 10.0, 1), ask(5, 3, 10.2, 1)), 5 * 10**9), np.array([True, True]))
    )
    assert best.ask_px_e4.tolist() == [100_000, 102_000]


def test_nothing_expires_where_nothing_is_old():
    day = events(ask(0, 2, 10.0, 1), ask(1, 3, 10.1, 1))
    assert len(expire_quotes(day, 10**12)) == 2


@given(SEEDS, st.sampled_from([1, 2, 4, 9]))
@settings(max_examples=150, deadline=None)
def test_expired_book_is_that_of_quotes_younger_than_the_age(seed: int, age_s: int):
    day = events(*random_rows(random.Random(seed), 40))
    routable = venue_table().routable(day.publisher_ids)
    after = quote_updates(expire_quotes(day, age_s * 10**9), routable)
    assert_dtypes_kept(day, expire_quotes(day, age_s * 10**9))
    for b, at_ns in enumerate(after.ts_ns.tolist()):
        if after.batches_by(at_ns) == b + 1:  # of batches with one time, the last
            assert after_book(after, b + 1) == young_asks(day, routable, at_ns, age_s * 10**9)


def assert_dtypes_kept(before: Events, after: Events) -> None:
    for name in ("ts_ns", "venue", "action", "ask_px_e4", "trade_sz"):
        assert getattr(after, name).dtype == getattr(before, name).dtype


def after_book(updates: QuoteUpdates, batches: int) -> dict[int, tuple[int, int]]:
    px_e4, sz = asks_after(updates, batches)
    return {v: (px_e4[v], sz[v]) for v in range(updates.venues) if px_e4[v]}


def young_asks(day: Events, routable: np.ndarray, at_ns: int, age_ns: int) -> dict[int, tuple[int, int]]:
    """Asks of the quotes that at `at_ns` stand and are younger than the age."""
    book = {}
    for stamp, quotes in plain_batches(day, routable):
        if stamp <= at_ns:
            book |= {v: (stamp, *q[2:]) for v, q in quotes.items()}
    return {v: (px, sz) for v, (stamp, px, sz) in book.items() if px and at_ns < stamp + age_ns}
