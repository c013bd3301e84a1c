"""allocator.py: hand-worked orders, the trial's degenerate cases, invariants, and its exhaustive search as oracle."""

import random
from math import inf, nan
from time import perf_counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator import Allocation, Venue, allocate, allocate_exhaustive, plan, split_cost
from sor.errors import AllocationError

PENALTIES = (0.4, 0.6, 0.3)  # lambda_over, lambda_under, theta_queue


def offers(*asks_and_sizes, fee=0.0, rebate=0.0):
    return [Venue(ask, size, fee, rebate) for ask, size in asks_and_sizes]


# --- worked by hand ---------------------------------------------------------------------------------------------------


def test_cheapest_ask_after_fees_is_emptied_first():
    venues = [Venue(226.80, 3000, 0.003, 0.002), Venue(226.81, 4000, 0.003, 0.002)]
    split, cost = allocate(5000, venues, *PENALTIES)
    assert split == [3000, 2000]
    assert cost == pytest.approx(1_134_035.0, rel=1e-15)  # 3,000 x 226.803 = 680,409 and 2,000 x 226.813 = 453,626


def test_fee_can_outweigh_a_lower_ask():
    # 10.000 + 0.005 > 10.002 + 0.001
    split, cost = allocate(200, [Venue(10.000, 200, 0.005, 0.0), Venue(10.002, 200, 0.001, 0.0)], *PENALTIES)
    assert split == [0, 200]
    assert cost == pytest.approx(2000.6, rel=1e-15)


def test_negative_fee_makes_a_dearer_ask_the_cheaper_one():
    # 10.01 - 0.02 = 9.99 < 10.00
    split, cost = allocate(300, [Venue(10.00, 300, 0.0, 0.0), Venue(10.01, 200, -0.02, 0.0)], *PENALTIES)
    assert split == [100, 200]
    assert cost == pytest.approx(100 * 10.00 + 200 * 9.99, rel=1e-15)


def test_full_account_of_an_order_filled_in_lots():
    account = plan(300, offers((10, 250), (11, 250)), *PENALTIES)
    assert account == Allocation((200, 100), (0, 0), 300, 0, 3100.0, "exact_lots")


def test_order_that_is_no_multiple_of_the_lot_is_filled_in_single_shares():
    account = plan(350, offers((10, 270), (11, 250)), *PENALTIES)
    assert account == Allocation((270, 80), (0, 0), 350, 0, 3580.0, "odd_lots")


def test_odd_remainders_of_the_venues_fill_an_order_that_lots_cannot():
    # lots reach 100 + 100; 150 + 150 displayed is just the order
    assert plan(300, offers((10, 150), (11, 150)), *PENALTIES) == Allocation(
        (150, 150), (0, 0), 300, 0, 3150.0, "odd_lots"
    )


def test_shortfall_is_posted_at_the_largest_rebate_and_charged_at_the_dearest_price():
    venues = [Venue(10.0, 100, 0.25, 0.125), Venue(11.0, 50, 0.25, 0.5), Venue(9.0, 100, 0.25, 0.5)]
    account = plan(400, venues, 0.5, 0.75, 0.25)
    # taken 1,025 + 562.5 + 925; 150 missing at 11.25 + 0.25 + 0.75 - 0.5 = 11.75
    assert account == Allocation((100, 50, 100), (0, 150, 0), 250, 150, 2512.5 + 1762.5, "short")


def test_reserve_replaces_the_dearest_price_for_the_shortfall():
    venues = [Venue(10.0, 100, 0.25, 0.125)]
    account = plan(150, venues, 0.5, 0.75, 0.25, reserve=20.0)
    assert account.posted == (50,)
    assert account.cost == 1025.0 + 50 * (20.0 + 0.25 + 0.75 - 0.125)


def test_allocate_of_a_short_order_returns_what_can_be_taken():
    assert allocate(150, offers((10, 100)), 0.0, 0.5, 0.25, reserve=11) == ([100], 1000 + 50 * 11.75)


def test_trial_cost_charges_a_post_as_underfill_less_its_rebate():
    # 100 x 11 taken, 200 posted earn 100, 100 of the order missing at 0.25 + 0.75
    assert split_cost([300], 200, [Venue(10.0, 100, 1.0, 0.5)], 0.5, 0.75, 0.25) == 1100 - 100 + 100


def test_trial_cost_charges_overfill():
    # 200 x 10 taken for an order of 100: 100 too many at 0.25 + 0.5
    assert split_cost([100, 100], 100, offers((10, 100), (10, 100)), 0.5, 0.75, 0.25) == 2075.0


def test_lot_of_another_size():
    assert allocate(30, offers((11, 25), (10, 25)), *PENALTIES, step=10) == ([10, 20], 310.0)


def test_no_venue_and_nothing_to_buy_costs_nothing():
    assert allocate(0, [], *PENALTIES) == ([], 0.0) == allocate_exhaustive(0, [], *PENALTIES)


def test_no_venue_leaves_the_order_at_an_unknown_price():
    assert plan(100, [], *PENALTIES) == Allocation((), (), 0, 100, inf, "short")
    assert plan(100, [], 0.0, 0.5, 0.25, reserve=10.0).cost == 1075.0


def test_venues_without_an_offer_take_no_part():
    absent = [
        Venue(nan, 500, 0, 9),
        Venue(10, nan, 0, 9),
        Venue(10, 0, 0, 9),
        Venue(0, 500, 0, 9),
        Venue(-1, 500, 0, 9),
    ]
    account = plan(300, [*absent, Venue(10, 100, 0.0, 0.25)], 0.0, 0.0, 0.0)
    assert account == Allocation((0,) * 5 + (100,), (0,) * 5 + (200,), 100, 200, 1000 + 200 * 9.75, "short")
    assert plan(100, absent, *PENALTIES) == Allocation((0,) * 5, (0,) * 5, 0, 100, inf, "short")


def test_negative_order_buys_nothing():
    assert plan(-100, offers((10, 100)), *PENALTIES) == Allocation((0,), (0,), 0, 0, 0.0, "exact_lots")


def test_equal_prices_that_float_addition_tells_apart_are_a_tie():
    # 0.1 + 0.2 > 0.3 + 0.0 in float; the search sees a cheaper first venue where there is none
    venues = [Venue(0.3, 100, 0.0, 0.0), Venue(0.1, 100, 0.2, 0.0)]
    assert allocate(100, venues, *PENALTIES)[0] == [0, 100]
    assert allocate_exhaustive(100, venues, *PENALTIES)[0] == [100, 0]


def test_numpy_scalars_give_plain_numbers():
    venues = [
        Venue(np.float64(10.5), np.int64(200), np.float64(0.0), np.float64(0.0)),
        *offers((11.0, np.float64(150.7))),
    ]
    account = plan(np.int64(300), venues, *PENALTIES)
    assert account == Allocation((200, 100), (0, 0), 300, 0, 3200.0, "exact_lots")
    assert {type(quantity) for quantity in account.split} == {int}
    assert type(account.cost) is float


def test_an_account_cannot_be_changed():
    with pytest.raises(AttributeError):
        plan(100, offers((10, 100)), *PENALTIES).cost = 0.0


# --- where the trial's pseudocode is degenerate -----------------------------------------------------------------------


def test_degenerate_a_penalties_and_rebates_change_nothing():
    draw = random.Random(1)
    for _ in range(200):
        order_sz, venues = random_integer_case(draw)
        reference = allocate_exhaustive(order_sz, venues, *PENALTIES)
        if reference[1] == inf:
            continue
        penalties = [draw.choice((0.0, 0.1, 1.0, 50.0)) for _ in range(3)]
        others = [venue._replace(rebate=draw.choice((-1.0, 0.0, 7.0))) for venue in venues]
        assert allocate_exhaustive(order_sz, others, *penalties) == reference
        assert allocate(order_sz, others, *penalties) == reference


def test_degenerate_b_search_finds_nothing_where_only_odd_lots_are_left():
    venues = offers((10, 150), (11, 150))
    assert allocate_exhaustive(300, venues, *PENALTIES) == ([], inf)
    assert allocate(300, venues, *PENALTIES) == ([150, 150], 3150.0)


def test_degenerate_c_search_finds_nothing_for_an_order_off_the_lot():
    venues = offers((10, 1000))
    assert allocate_exhaustive(250, venues, *PENALTIES) == ([], inf)
    assert allocate(250, venues, *PENALTIES) == ([250], 2500.0)


def test_degenerate_d_nothing_is_bought_beyond_the_order_even_if_it_were_free():
    venues = offers((10, 1000), (11, 1000))
    assert plan(1100, venues, 0.0, 9.0, 9.0).executed == 1100
    assert sum(allocate_exhaustive(1100, venues, 0.0, 9.0, 9.0)[0]) == 1100


def test_degenerate_e_a_thousand_venues_take_milliseconds():
    # the search would try 11 ** 1,000 splits
    draw = random.Random(2)
    venues = offers(*((100 + draw.randrange(1000) / 100, 1000) for _ in range(1000)))
    elapsed_s = []
    for _ in range(5):
        start = perf_counter()
        account = plan(500_000, venues, *PENALTIES)
        elapsed_s.append(perf_counter() - start)
    cheapest = sorted(venue.ask for venue in venues)[:500]
    assert account.cost == pytest.approx(1000 * sum(cheapest), rel=1e-12)
    assert min(elapsed_s) < 0.02


def test_degenerate_f_order_of_nothing_is_all_zeros_at_no_cost():
    venues = offers((10, 1000), (11, 1000))
    assert allocate(0, venues, *PENALTIES) == ([0, 0], 0.0) == allocate_exhaustive(0, venues, *PENALTIES)


def test_degenerate_g_of_equal_prices_the_later_venue_is_filled_first():
    venues = offers((10, 300), (10, 200), (10, 300))
    assert allocate(600, venues, *PENALTIES) == ([100, 200, 300], 6000.0)
    assert allocate_exhaustive(600, venues, *PENALTIES) == ([100, 200, 300], 6000.0)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order_sz", [nan, inf, -inf, 100.5, None, "100"])
def test_impossible_order_size_is_refused_by_name_and_value(order_sz):
    with pytest.raises(AllocationError, match=f"order_size is {order_sz!r}; it must be a whole number of shares"):
        plan(order_sz, offers((10, 100)), *PENALTIES)


@pytest.mark.parametrize("name", ["lambda_over", "lambda_under", "theta_queue", "reserve"])
@pytest.mark.parametrize("number", [nan, inf, "much"])
def test_impossible_parameter_is_refused_by_name_and_value(name, number):
    parameters = {"lambda_over": 0.4, "lambda_under": 0.6, "theta_queue": 0.3, name: number}
    with pytest.raises(AllocationError, match=f"{name} is {number!r}; it must be a finite number"):
        allocate(100, offers((10, 100)), **parameters)


@pytest.mark.parametrize("step", [0, -100, 0.5, nan])
def test_impossible_lot_is_refused(step):
    with pytest.raises(AllocationError, match=f"step is {step!r}; it must be"):
        allocate(100, offers((10, 100)), *PENALTIES, step=step)


@pytest.mark.parametrize(
    "venue",
    [
        Venue(inf, 100, 0.0, 0.0),
        Venue(10, 100, nan, 0.0),
        Venue(10, 100, inf, 0.0),
        Venue(10, 100, 0.0, nan),
        Venue(10, -100, 0.0, 0.0),
        Venue(None, 100, 0.0, 0.0),
        Venue("10", 100, 0.0, 0.0),
        SimpleNamespace(ask=10, ask_size=100),
    ],
    ids=repr,
)
def test_impossible_venue_is_refused_by_its_index(venue):
    with pytest.raises(AllocationError, match=r"venues\[1\] is .*must be finite"):
        allocate(100, [*offers((10, 100)), venue], *PENALTIES)


# --- invariants -------------------------------------------------------------------------------------------------------

invariant = settings(deadline=None)  # a shared machine stalls at times
venue_lists = st.lists(
    st.builds(
        Venue,
        ask=st.integers(1, 5_000_000).map(lambda px_e4: px_e4 / 1e4),
        ask_size=st.integers(0, 10_000),
        fee=st.integers(-3_000, 3_000).map(lambda fee_e6: fee_e6 / 1e6),
        rebate=st.integers(-3_000, 3_000).map(lambda rebate_e6: rebate_e6 / 1e6),
    ),
    max_size=12,
)
some_venues = venue_lists.filter(bool)
order_sizes = st.integers(0, 60_000) | st.integers(0, 600).map(lambda lots: 100 * lots)


@invariant
@given(order_sizes, venue_lists)
def test_every_share_is_taken_within_the_display_or_missing(order_sz, venues):
    account = plan(order_sz, venues, *PENALTIES)
    assert all(0 <= taken <= venue.ask_size for taken, venue in zip(account.split, venues, strict=True))
    assert account.executed == sum(account.split)
    assert account.executed + account.shortfall == order_sz
    assert (account.status == "short") == (account.shortfall > 0)
    displayed = sum(venue.ask_size for venue in venues)
    assert account.executed == min(order_sz, displayed)
    assert sum(account.posted) == (account.shortfall if displayed else 0)


@invariant
@given(order_sizes, venue_lists)
def test_ledger_in_whole_micro_dollars_adds_up_to_the_cash(order_sz, venues):
    account = plan(order_sz, venues, 0.0, 0.0, 0.0, reserve=0.0)
    entries_e6 = [
        taken * (round(venue.ask * 1e4) * 100 + round(venue.fee * 1e6)) - posted * round(venue.rebate * 1e6)
        for taken, posted, venue in zip(account.split, account.posted, venues, strict=True)
    ]
    assert round(account.cost * 1e6) == sum(entries_e6)


@invariant
@given(order_sizes, venue_lists)
def test_cash_has_the_last_bit_of_the_trials_summation(order_sz, venues):
    account = plan(order_sz, venues, *PENALTIES)
    if account.status != "short":
        assert account.cost == split_cost(account.split, order_sz, venues, *PENALTIES)


@invariant
@given(st.data(), venue_lists)
def test_no_other_split_of_the_same_shares_is_cheaper(data, venues):
    other = [data.draw(st.integers(0, venue.ask_size)) for venue in venues]
    order_sz = sum(other)
    other_cost = split_cost(other, order_sz, venues, *PENALTIES)
    assert allocate(order_sz, venues, *PENALTIES, step=1)[1] <= other_cost + 1e-9 * abs(other_cost)


@invariant
@given(st.data(), venue_lists)
def test_no_other_split_into_the_same_lots_is_cheaper(data, venues):
    other = [100 * data.draw(st.integers(0, venue.ask_size // 100)) for venue in venues]
    order_sz = sum(other)
    account = plan(order_sz, venues, *PENALTIES)
    other_cost = split_cost(other, order_sz, venues, *PENALTIES)
    assert account.status == "exact_lots"
    assert account.cost <= other_cost + 1e-9 * abs(other_cost)


@invariant
@given(order_sizes, venue_lists, st.randoms(use_true_random=False))
def test_venues_in_another_order_cost_the_same_and_keep_their_shares(order_sz, venues, draw):
    account = plan(order_sz, venues, *PENALTIES)
    places = list(range(len(venues)))
    draw.shuffle(places)
    moved = plan(order_sz, [venues[i] for i in places], *PENALTIES)
    assert moved.cost == pytest.approx(account.cost, rel=1e-12, abs=1e-9)
    assert (moved.executed, moved.status) == (account.executed, account.status)
    prices_e9 = [round((venue.ask + venue.fee) * 1e9) for venue in venues]
    if len(set(prices_e9)) == len(prices_e9):
        assert moved.split == tuple(account.split[i] for i in places)


@invariant
@given(order_sizes, some_venues, st.integers(0, 11))
def test_a_larger_display_never_costs_more(order_sz, venues, which):
    which %= len(venues)
    # whole lots on both sides, so that both orders are filled by the same rule
    venues = [venue._replace(ask_size=venue.ask_size // 100 * 100) for venue in venues]
    deeper = [venue._replace(ask_size=venue.ask_size + 100 * (i == which)) for i, venue in enumerate(venues)]
    before, after = plan(order_sz, venues, *PENALTIES), plan(order_sz, deeper, *PENALTIES)
    if before.status != "short":
        assert after.cost <= before.cost + 1e-9 * abs(before.cost)


# --- the trial's search as oracle -------------------------------------------------------------------------------------


def random_integer_case(draw):
    """Up to four venues with whole prices, so that every sum is exact and ties are many."""
    venues = [
        Venue(
            draw.randrange(5, 9),
            draw.choice((50, 100, 199, 200, 250, 300, 400, 600)),
            draw.randrange(-1, 3),
            draw.randrange(3),
        )
        for _ in range(draw.randrange(5))
    ]
    return 100 * draw.randrange(10), venues


def random_float_case(draw):
    """Up to four venues with prices in cents and fees in 1e-4 USD, as they come from a file."""
    venues = [
        Venue(
            226.80 + draw.randrange(4) / 100,
            draw.choice((50, 100, 199, 200, 250, 300, 400, 600)),
            draw.choice((-0.0002, 0.0, 0.0029, 0.003)),
            draw.choice((0.0, 0.002)),
        )
        for _ in range(draw.randrange(5))
    ]
    return 100 * draw.randrange(10), venues


def cost_e4(split, venues):
    return sum(taken * round((venue.ask + venue.fee) * 1e4) for taken, venue in zip(split, venues, strict=True))


def test_ten_thousand_integer_cases_equal_the_search_in_split_and_cost():
    draw = random.Random(20240801)
    found = 0
    for _ in range(10_000):
        order_sz, venues = random_integer_case(draw)
        split, cost = allocate_exhaustive(order_sz, venues, *PENALTIES)
        account = plan(order_sz, venues, *PENALTIES)
        assert (account.status == "exact_lots") == (cost < inf)
        if cost < inf:
            found += 1
            assert (list(account.split), account.cost) == (split, cost)
    assert found > 5_000


def test_ten_thousand_float_cases_equal_the_search_but_for_ties_that_rounding_broke():
    draw = random.Random(20240802)
    found = ties = 0
    for _ in range(10_000):
        order_sz, venues = random_float_case(draw)
        split, cost = allocate_exhaustive(order_sz, venues, *PENALTIES)
        account = plan(order_sz, venues, *PENALTIES)
        assert (account.status == "exact_lots") == (cost < inf)
        if cost < inf:
            found += 1
            assert account.cost == pytest.approx(cost, rel=1e-9)
            if list(account.split) == split:
                assert account.cost == cost
            else:
                ties += 1
                assert cost_e4(account.split, venues) == cost_e4(split, venues)
    assert found > 5_000
    assert ties < found // 50


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_odd_lots_equal_the_search_in_single_shares(data):
    venues = [
        Venue(data.draw(st.integers(5, 8)), data.draw(st.integers(1, 6)), data.draw(st.integers(-1, 2)), 0)
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    order_sz = data.draw(st.integers(1, sum(venue.ask_size for venue in venues)))
    account = plan(order_sz, venues, *PENALTIES)
    assert account.status == "odd_lots"
    assert (list(account.split), account.cost) == allocate_exhaustive(order_sz, venues, *PENALTIES, step=1)
