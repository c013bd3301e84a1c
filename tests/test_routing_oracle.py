"""The plain replay of limit orders, latency and routers, held against numbers worked by hand.

Times are small integers (nanoseconds), prices 1e-4 USD: BID is 99.99 USD, ASK 100.00 USD. In a note like "ahead 300 -> 200" the
first number is the shares before an order, the second those after the event.
"""

import numpy as np
import pytest

from sor.market import build
from sor.replay import RESET, SHADOW, Schedule, Window
from sor.replay import Terminal as KernelTerminal
from sor.replay import take as kernel_take
from tests.routing_oracle import (
    RULES,
    T0_NS,
    UNBOUNDED_SZ,
    UNIT_NS,
    Day,
    Fill,
    Flow,
    Place,
    Print,
    Queue,
    Quote,
    Result,
    Situation,
    Slice,
    Terminal,
    assert_adds_up,
    best_ask_e4,
    best_bid_e4,
    book_at,
    buy,
    day_of_rows,
    equal,
    equal_cum,
    events_of,
    fillable_flows,
    in_eighths,
    limit_only,
    make_day,
    market_only,
    random_case,
    random_day,
    router_inputs,
    scenarios_at,
    take,
    terminal,
    venue_table_of,
)

BID, ASK, TICK = 999_900, 1_000_000, 100


def quote(at: int, venue: int = 0, *, bid: int = BID, bid_sz: int = 100, ask: int = ASK, ask_sz: int = 100) -> Quote:
    return Quote(at, venue, bid, bid_sz * (bid > 0), ask, ask_sz * (ask > 0))


def sell(at: int, sz: int, px: int = BID, venue: int = 0) -> Print:
    return Print(at, venue, px, sz)


def post(*sz: int) -> Place:
    """Nothing to market, these shares to post in every slice, whatever is due."""
    return lambda situation: (0, list(sz))


def buy_in(day: Day, size: int, end: int, place: Place, *, slices: int = 1, **how) -> Result:
    """Slices of equal length over [0, end), scheduled equally, without asking for scenarios."""
    clock = [end * j // slices for j in range(slices)]
    result = buy(day, size, Window(0, end), clock, equal_cum(size, slices), place, flows=[], min_scenarios=0, **how)
    assert_adds_up(day, size, result)
    return result


def limit_fills(result: Result) -> list[tuple[int, int, int]]:
    """(time, venue, shares) of the fills of limit orders."""
    return [(fill.ts_ns, fill.venue, fill.sz) for fill in result.fills if fill.kind == "limit"]


# --- the queue ----------------------------------------------------------------------------------------------------------


def test_trades_at_the_limit_first_serve_those_ahead_then_the_order():
    """300 ahead: 100 traded (300 -> 200), 250 traded (200 -> 0, 50 reach us), 40 traded (30 of them are ours of 80)."""
    day = make_day([quote(0, bid_sz=300)], [sell(1, 100), sell(2, 250), sell(3, 40)], rebates_e6=[2000])
    result = buy_in(day, 80, 9, post(80))
    assert limit_fills(result) == [(2, 0, 50), (3, 0, 30)]
    assert result.passive_sz == 80
    assert result.cash_e6 == 80 * BID * 100
    assert (result.fees_e6, result.rebates_e6) == (0, 160_000)  # 80 x 0.002 USD
    child = result.children[0]
    assert (child.ahead_on_arrival_sz, child.ahead_at_end_sz, child.outcome) == (300, 0, "filled")


def test_a_trade_below_the_limit_fills_at_the_limit_and_clears_the_queue():
    """30 traded a tick lower: all 30 are ours, at our price; then nothing stands ahead, so 25 at the limit are ours too."""
    day = make_day([quote(0, bid_sz=300)], [sell(1, 30, BID - TICK), sell(2, 25)])
    result = buy_in(day, 80, 9, post(80))
    assert result.fills[:2] == [Fill(1, 0, BID, 30, "limit"), Fill(2, 0, BID, 25, "limit")]
    assert (result.passive_sz, result.swept_sz) == (55, 25)


def test_a_trade_above_the_limit_or_by_a_buyer_or_elsewhere_does_nothing():
    prints = [sell(1, 500, BID + TICK), Print(2, 0, BID, 500, aggressor=1), sell(3, 500, venue=1)]
    day = make_day([quote(0), quote(0, 1)], prints)
    assert buy_in(day, 80, 9, post(80, 0)).passive_sz == 0


def test_a_smaller_size_counts_against_us_unless_cancels_are_optimistic():
    """300 ahead of 300. 100 traded: 200 of 200. 500 shown: 200 of 500. 251 shown: 200, or ceil(200 x 251 / 500) = 101.

    Then 150 traded: none of them ours (200 -> 50), or 49 (101 -> 0).
    """
    quotes = [quote(0, bid_sz=300), quote(2, bid_sz=500), quote(3, bid_sz=251)]
    day = make_day(quotes, [sell(1, 100), sell(4, 150)])
    averse, optimistic = (buy_in(day, 80, 9, post(80), optimistic=each) for each in (False, True))
    assert (averse.passive_sz, averse.children[0].ahead_at_end_sz) == (0, 50)
    assert (optimistic.passive_sz, optimistic.children[0].ahead_at_end_sz) == (49, 0)


def test_what_traded_does_not_count_as_cancelled_too():
    """300 ahead of 300. 100 traded: 200 of 200. 120 shown: min(200, 120) or ceil(200 x 120 / 200), 120 both; 130 traded: 10."""
    day = make_day([quote(0, bid_sz=300), quote(2, bid_sz=120)], [sell(1, 100), sell(3, 130)])
    assert [buy_in(day, 80, 9, post(80), optimistic=each).passive_sz for each in (False, True)] == [10, 10]


def test_a_size_smaller_than_what_is_ahead_shortens_the_queue_either_way():
    """300 ahead; 40 shown: 40, or ceil(300 x 40 / 300) = 40 ahead; 50 traded: 10 ours."""
    day = make_day([quote(0, bid_sz=300), quote(1, bid_sz=40)], [sell(2, 50)])
    assert [buy_in(day, 80, 9, post(80), optimistic=each).passive_sz for each in (False, True)] == [10, 10]


def test_a_lower_bid_leaves_us_alone_and_those_who_come_back_are_behind():
    """100 ahead; bid a tick lower: 0 ahead; bid back with 400: min(0, 400) = 0 ahead, so all 60 traded are ours."""
    day = make_day([quote(0), quote(1, bid=BID - TICK), quote(2, bid_sz=400)], [sell(3, 60)])
    assert limit_fills(buy_in(day, 80, 9, post(80))) == [(3, 0, 60)]


@pytest.mark.parametrize("bid", [0, BID + TICK // 2])
def test_a_higher_or_absent_bid_changes_nothing(bid):
    """100 ahead before and after; 130 traded: 30 ours."""
    day = make_day([quote(0), quote(1, bid=bid)], [sell(2, 130)])
    assert limit_fills(buy_in(day, 80, 9, post(80))) == [(2, 0, 30)]


def test_an_ask_that_comes_down_to_the_limit_fills_all_that_is_left():
    """20 beyond the 100 ahead are ours at 1; the ask of the venue at our price at 2 fills the other 60, at our price."""
    quotes = [quote(0), quote(0, 1), quote(2, bid=0, ask=BID, ask_sz=1)]
    result = buy_in(make_day(quotes, [sell(1, 120)]), 80, 9, post(80, 0))
    assert result.fills == [Fill(1, 0, BID, 20, "limit"), Fill(2, 0, BID, 60, "limit")]


def test_an_order_that_would_take_when_it_arrives_is_rejected():
    """Locked: venue 1 asks what venue 0 bids. At venue 1 the order dies, at venue 0 it joins behind 100."""
    day = make_day([quote(0), quote(0, 1, bid=BID - TICK, ask=BID)], [sell(1, 150), sell(1, 150, venue=1)])
    result = buy_in(day, 100, 9, post(50, 50))
    assert [child.outcome for child in result.children[:2]] == ["filled", "rejected"]
    assert limit_fills(result) == [(1, 0, 50)]


def test_prints_act_before_quotes_of_the_same_time():
    """In the file the quote comes first. 100 ahead; 60 traded: 40 ahead, none ours; only then the bid falls: 0 ahead."""
    day = day_of_rows([quote(0), quote(5, bid=BID - TICK), sell(5, 60), sell(6, 1)])
    assert limit_fills(buy_in(day, 80, 9, post(80))) == [(6, 0, 1)]


def test_what_is_stamped_when_the_order_arrives_is_over_and_what_is_stamped_at_the_end_counts():
    """The order of time 0 stands behind 100 - after the trade of 70 at 0, which the quote of 0 already shows. 110 at the end: 10."""
    day = make_day([quote(0)], [sell(0, 70), sell(9, 110)])
    assert limit_fills(buy_in(day, 80, 9, post(80))) == [(9, 0, 10)]


def test_the_queue_on_its_own():
    """Joins alone where the venue's bid is lower or absent; a done queue takes no more."""
    alone = Queue(BID)
    assert alone.join(quote(0, bid=BID - TICK))
    assert (alone.ahead_sz, alone.shown_sz) == (0, 0)
    assert alone.on_quote(quote(1, ask=BID), False) == 2**31 - 1
    assert (alone.on_print(BID - TICK, 5), alone.on_quote(quote(2, ask=BID), False)) == (0, 0)
    assert Queue(BID).join(None)


# --- fillable flows -----------------------------------------------------------------------------------------------------


def test_flows_of_two_venues_by_hand():
    """Step 5, length 10, data to 20. Bids: venue 0 99.99 x 100 from 0; venue 1 99.98 until 12, ask 100.00; mid 99.995.

    [0, 10]: venue 0: 130 traded at 4: 30 fill; 20 at 10 (0 ahead): 20 -> 50. Venue 1: alone; 7 below at 10: 7. Mid unchanged.
    [5, 15]: venue 0 shows 100 again (no new quote): 20 traded at 10 are ahead (80 left); at 12 its ask is 99.99: unbounded, the
    book then 99.99 / 99.99 of venue 0 and 99.98 of venue 1: locked, mid 99.99, move -0.005. Venue 1: 7.
    [10, 20]: the prints of 10 are over: venue 0 unbounded, venue 1 0; at 20 the book is crossed, so the mid is that of 12.
    """
    quotes = [
        quote(0),
        quote(0, 1, bid=BID - TICK),
        quote(12, ask=BID),
        quote(20, 1, bid=ASK, ask=ASK + TICK),
    ]
    day = make_day(quotes, [sell(4, 130), sell(10, 20), sell(10, 7, BID - TICK, venue=1)])
    flows = fillable_flows(day, 10, 5)
    assert [(flow.start_ns, flow.fill_sz) for flow in flows] == [
        (0, [50, 7]),
        (5, [2**31 - 1, 7]),
        (10, [2**31 - 1, 0]),
    ]
    assert [flow.mid_move_px for flow in flows] == pytest.approx([0, -0.005, -0.005])


def test_flows_need_a_known_and_usable_book_and_an_end_within_the_data():
    """First batch at 3: starts 5, 10, 15; crossed from 9 to 11, so not 10; the data end at 21 with a print: 15 + 6 still fits.

    The print of the buyer at 40 is not of the data. Venue 2 is not routable: its crossing quote and its trades do not exist.
    """
    quotes = [quote(3), quote(9, 1, bid=ASK + TICK, ask=ASK + TICK), quote(11, 1), quote(3, 2, bid=ASK + TICK, ask=0)]
    prints = [sell(21, 150), sell(21, 9, venue=2), Print(40, 0, BID, 1, aggressor=1)]
    ordered = sorted(quotes, key=lambda row: row.ts_ns)
    day = make_day(ordered, prints, routable=[True, True, False])
    assert fillable_flows(day, 6, 5) == [Flow(5, [0, 0, 0], 0.0), Flow(15, [50, 0, 0], 0.0)]
    assert fillable_flows(day, 7, 5) == [Flow(5, [0, 0, 0], 0.0)]


def test_flows_do_not_exceed_an_int32():
    """An ask at the limit cannot fill more than all, even after fills: 20 + (2**31 - 1) is capped."""
    day = make_day([quote(0), quote(2, ask=BID), quote(5)], [sell(1, 120)])
    assert fillable_flows(day, 5, 5)[0].fill_sz == [2**31 - 1]


def test_scenarios_are_the_newest_that_have_ended():
    flows = [Flow(start, [start], 0.0) for start in range(0, 50, 5)]
    assert [flow.start_ns for flow in scenarios_at(flows, 10, 30, count=3)] == [10, 15, 20]
    assert scenarios_at(flows, 10, 9) == []


# --- slices -------------------------------------------------------------------------------------------------------------


def test_a_slice_sweeps_the_shortfall_of_the_one_before_and_places_its_own():
    """200 in 2 slices, all posted. Slice 0 fills 30 of 100 at 3; slice 1 sweeps 70 and posts 100, of which 40 fill at 8.

    Cash: 30 + 40 at 99.99, 70 + the 60 of the deadline at 100.00.
    """
    day = make_day([quote(0, ask_sz=500)], [sell(3, 130), sell(8, 140)], fees_e6=[3000])
    result = buy_in(day, 200, 10, post(100), slices=2, penalty_e6=0)
    second = result.slices[1]
    assert (second.bought_sz, second.swept_sz, second.slice_sz, second.market_sz) == (30, 70, 100, 0)
    assert (result.passive_sz, result.taken_sz, result.swept_sz) == (70, 70, 60)
    assert result.cash_e6 == (70 * BID + 130 * ASK) * 100
    assert result.fees_e6 == 130 * 3000


def test_carry_moves_the_shortfall_into_the_next_placement():
    day = make_day([quote(0, ask_sz=500)], [sell(3, 130)])
    result = buy_in(day, 200, 10, limit_only, slices=2, catch_up="carry")
    assert (result.slices[1].swept_sz, result.slices[1].slice_sz, result.slices[1].limit_sz) == (0, 170, [170])
    assert (result.taken_sz, result.swept_sz) == (0, 170)


def test_what_was_bought_too_much_is_taken_off_the_next_slice():
    """Two limit orders of 100 both fill at 3, together: 200 of 100. Slice 1 of 250 in 2 slices (125, 125) places 50."""
    day = make_day([quote(0, ask_sz=500), quote(0, 1)], [sell(3, 200), sell(3, 200, venue=1)])
    result = buy_in(day, 250, 10, lambda situation: (0, [100, 100] if situation.number == 0 else [0, 0]), slices=2)
    assert result.slices[1] == Slice(1, 5, "placed", 200, BID, 0, 50, 0, [0, 0])
    assert (result.passive_sz, result.swept_sz, result.surplus_sz) == (200, 50, 0)


def test_orders_of_a_slice_live_until_the_word_reaches_their_venue():
    """Slice 1 begins at 5; venue 0 hears of it at 7: the trade at 7 still fills the old order, the one at 8 only the new one.

    Old order of 100 behind 100 from 2: 105 traded at 7 fill 5. New order of 50 from 7: behind 100; 120 at 8 fill 20.
    """
    day = make_day([quote(0)], [sell(7, 105), sell(8, 120)], latency_ns=[2])
    result = buy_in(day, 150, 10, lambda situation: (0, [(100, 50)[situation.number]]), slices=2)
    assert limit_fills(result) == [(7, 0, 5), (8, 0, 20)]
    assert [child.outcome for child in result.children if child.kind == "limit"] == ["cancelled", "void"]


def test_limit_orders_are_cancelled_once_all_that_is_due_is_bought():
    """100 at each of two venues for 100 shares: venue 0 fills at 3, so the trades of venue 1 at 4 find nobody - or fill."""
    day = make_day([quote(0), quote(0, 1)], [sell(3, 200), sell(4, 200, venue=1)])
    assert limit_fills(buy_in(day, 100, 9, post(100, 100))) == [(3, 0, 100)]
    assert limit_fills(buy_in(day, 100, 9, post(100, 100), cancel_on_fill=False)) == [(3, 0, 100), (4, 1, 100)]


def test_a_cancellation_takes_the_latency_of_its_venue_and_the_surplus_is_sold():
    """Filled at 3 at venue 0; venue 1 (latency 2) fills 30 at 5, but none at 6. 30 too many: sold at 99.99 - 0.003."""
    prints = [sell(3, 200), sell(5, 130, venue=1), sell(6, 50, venue=1)]
    day = make_day([quote(0), quote(0, 1)], prints, fees_e6=[3000, 700], rebates_e6=[2000, 0], latency_ns=[0, 2])
    result = buy_in(day, 100, 9, post(100, 100))
    assert limit_fills(result) == [(3, 0, 100), (5, 1, 30)]
    assert (result.surplus_sz, result.surplus_e6) == (30, 30 * (99_990_000 - 3000))
    assert result.total_e6 == 130 * 99_990_000 - 100 * 2000 - result.surplus_e6


def test_what_is_due_may_be_bought_by_the_market_order_alone_and_then_nothing_is_posted():
    """100 to market at once is all that is due: the limit order arrives and is cancelled in the same moment."""
    day = make_day([quote(0)], [sell(1, 500)])
    result = buy_in(day, 100, 9, lambda situation: (100, [50]))
    assert (result.taken_sz, result.passive_sz) == (100, 0)
    assert [(child.kind, child.outcome) for child in result.children] == [("market", "filled"), ("limit", "cancelled")]


def test_nothing_is_sent_while_the_book_is_not_usable_but_old_orders_are_cancelled():
    """Crossed at 5, when slice 1 begins: the trade at 6 fills no order of slice 0. Usable at 10: slice 2 sweeps 200."""
    quotes = [quote(0, ask_sz=900), quote(4, 1, bid=ASK + TICK, ask=0), quote(9, 1, bid=0, ask=0)]
    day = make_day(quotes, [sell(6, 500)])
    result = buy_in(day, 300, 15, post(100, 0), slices=3)
    assert [each.how for each in result.slices] == ["placed", "not usable", "placed"]
    assert (result.slices[2].swept_sz, result.passive_sz, result.taken_sz, result.swept_sz) == (200, 0, 200, 100)


def test_too_few_scenarios_or_no_prints_mean_market_orders_only():
    """Slices at 0, 10, 20 of length 5, one interval every 5: 0, 2, 4 have ended by then."""
    quoted = [quote(0, ask_sz=900), quote(30, ask_sz=900)]
    day = make_day(quoted, [sell(1, 1, BID + TICK)])
    order = (90, Window(0, 30), [0, 10, 20], [30, 60, 90], post(0))
    few = buy(day, *order, slice_ns=5, step_ns=5, min_scenarios=3)
    assert [(each.how, each.market_sz) for each in few.slices] == [
        ("market only", 30),
        ("market only", 30),
        ("placed", 0),
    ]
    silent = buy(make_day(quoted, []), *order, slice_ns=5, step_ns=5, min_scenarios=1)
    assert [each.how for each in silent.slices] == ["market only"] * 3
    assert silent.taken_sz == 90


def test_placement_rules():
    """Of 103: equal over 2 routable venues 34 each and 35 to market; limit_only where min(fill, 103) is largest in the mean."""
    day = make_day([quote(0), quote(0, 1)], [], routable=[True, True, False])
    flows = [Flow(0, [500, 80, 900], 0.0), Flow(5, [0, 80, 900], 0.0)]
    situation = Situation(day, 10, 0, 103, book_at(day, 0), flows)
    assert equal(situation) == (35, [34, 34, 0])
    assert limit_only(situation) == (0, [0, 103, 0])  # 103 and 0 against 80 and 80
    assert in_eighths([(4, [8, 0, 0])])(situation) == (51, [103, 0, 0])
    assert market_only(situation) == (103, [0, 0, 0])


def test_router_inputs_by_hand():
    """Spread 0.02: h 0.01. Sweeping 150: venue 1 asks 100.00 + 0.0007 for 100, then venue 0 100.01 + 0.003 for 50:

    f = (100 x 0.0007 + 50 x 0.003) / 150. Venue 0: c = (150, 50), a = (150 x -0.02 + 50 x 0.02) / 200 = -0.01; venue 1: c = 0.
    """
    quotes = [quote(0, ask=ASK + TICK), quote(0, 1, bid=BID - TICK)]
    day = make_day(quotes, [], fees_e6=[3000, 700], rebates_e6=[2000, 1500])
    flows = [Flow(0, [800, 0], -0.02), Flow(5, [50, 0], 0.02)]
    inputs = router_inputs(Situation(day, 10, 0, 150, book_at(day, 0), flows), 0.25)
    assert inputs.half_spread_px == pytest.approx(0.005)
    assert inputs.taker_fee_px == pytest.approx((100 * 0.0007 + 50 * 0.003) / 150)
    assert inputs.rebates_px == pytest.approx([0.002 - 0.0025, 0.0015])
    far = router_inputs(Situation(day, 10, 0, 150, book_at(day, 0), [Flow(0, [1, 0], -9.0)]), 1.0)
    assert far.rebates_px[0] == pytest.approx(0.002 - 0.03)


# --- market orders with latency -----------------------------------------------------------------------------------------


def test_an_order_to_take_meets_the_book_of_its_arrival_and_pays_no_more_than_it_was_decided_on():
    """Decided at 0: 100 of venue 1 at 100.00, 50 of venue 0 at 100.01. Venue 0 (at once): 50. Venue 1 at 3 asks 100.02: none.

    At 5 these 100 and the 10 released then: 50 are left at venue 0, 60 of venue 1 arrive at 8, when it asks 100.01.
    """
    quotes = [
        *(quote(0, ask=ASK + TICK), quote(0, 1)),
        quote(2, 1, ask=ASK + 2 * TICK, ask_sz=60),
        quote(7, 1, ask=ASK + TICK, ask_sz=60),
    ]
    day = make_day(quotes, [], latency_ns=[0, 3])
    result = take(day, Window(0, 9), [(0, 150), (5, 10)])
    assert result.fills == [
        Fill(0, 0, ASK + TICK, 50, "take"),
        Fill(5, 0, ASK + TICK, 50, "take"),
        Fill(8, 1, ASK + TICK, 60, "take"),
    ]
    assert [child.outcome for child in result.children] == ["missed", "filled", "filled", "filled"]  # as sent


def test_a_release_does_not_ask_again_for_what_is_in_flight():
    """40 released at 0 arrive at 5; at 2 another 10 are due: only 10 are sent, of the 100 shown."""
    day = make_day([quote(0)], [], latency_ns=[5])
    result = take(day, Window(0, 9), [(0, 40), (2, 10)])
    assert [(fill.ts_ns, fill.sz) for fill in result.fills] == [(5, 40), (7, 10)]


def test_a_persistent_taker_waits_for_its_order_and_tries_again_at_the_next_batch():
    """Best ask 100.00 x 100 at venue 1 (ties go to the later venue), latency 4 and 2; 250 wanted, one venue at a time.

    0: 100 to venue 1, arrives at 2, 30 are left (batch at 1): 30. The batch at 1 found it in flight. 3: both at 100.00;
    venue 1 has nothing left, so 100 to venue 0, arrives at 7 and finds 100.01 (batch at 5): none.
    7: arrived, and a batch is stamped 7: venue 1 shows 120 at 100.00: 120 sent, arrive at 9 with the deadline: they count.
    """
    quotes = [
        *(quote(0), quote(0, 1)),
        quote(1, 1, ask_sz=30),
        quote(3, 1, ask_sz=30, bid_sz=1),
        quote(5, ask=ASK + TICK, ask_sz=200),
        quote(7, 1, ask_sz=150),
    ]
    day = make_day(quotes, [], latency_ns=[4, 2])
    result = take(day, Window(0, 9), [(0, 250)], persistent=True, best_only=True)
    assert result.fills == [
        Fill(2, 1, ASK, 30, "take"),
        Fill(9, 1, ASK, 120, "take"),
        Fill(9, 0, ASK + TICK, 100, "deadline"),
    ]
    sent = [(child.decided_ns, child.venue, child.sz) for child in result.children if child.kind == "market"]
    assert sent == [(0, 1, 100), (3, 0, 100), (7, 1, 120)]


def test_the_shadow_rule_holds_when_an_order_arrives():
    """60 of 100 taken at 0; 100 shown again at 1; at 2 another 60 are wanted: 40 are new under shadow, all 60 after a reset."""
    day = make_day([quote(0), quote(1, bid_sz=5)], [])
    taken = [take(day, Window(0, 9), [(0, 60), (2, 60)], rule=rule).taken_sz for rule in (SHADOW, RESET)]
    assert taken == [100, 120]


# --- the deadline -------------------------------------------------------------------------------------------------------


def test_at_the_deadline_orders_are_void_the_rest_is_swept_and_priced():
    """300 wanted from 8 on, latency 5: void at 10. The book of 10: 100 at 100.00 + 0.003, 50 at 100.01 free.

    150 swept; 150 priced at the dearest shown, 100.01 (100.003 < 100.01), plus the penalty 0.02.
    """
    day = make_day([quote(0), quote(10, 1, ask=ASK + TICK, ask_sz=50)], [], fees_e6=[3000, 0], latency_ns=[5, 5])
    result = take(day, Window(8, 10), [(8, 300)], penalty_e6=20_000)
    assert_adds_up(day, 300, result)
    assert result.children[0].outcome == "void"
    assert (result.taken_sz, result.swept_sz, result.priced_sz) == (0, 150, 150)
    assert result.priced_e6 == 150 * (100_010_000 + 20_000)
    assert result.total_e6 == (100 * ASK + 50 * (ASK + TICK)) * 100 + 100 * 3000 + result.priced_e6


def test_terminal_prices_come_from_the_last_usable_book():
    """Crossed at 5. Before: bid 99.99, asks 100.00 + 0.003 and 100.01 - 0.0095: the first is dearer. Spread 0.01.

    A surplus is sold at the bid less the dearest fee of a routable venue; venue 2 is not.
    """
    quotes = [quote(0), quote(0, 1, bid=0, ask=ASK + TICK), quote(5, 1, bid=ASK + TICK, ask=0)]
    day = make_day(quotes, [], fees_e6=[3000, -9500, 9000], routable=[True, True, False])
    assert terminal(day, 9) == Terminal(100_013_000, 99_987_000)
    with pytest.raises(ValueError, match="no usable book"):
        terminal(make_day([quote(3)], []), 2)


def test_a_deadline_in_a_crossed_book_prices_everything():
    day = make_day([quote(0, ask_sz=0, ask=0), quote(1), quote(5, 1, bid=ASK + TICK, ask=0)], [])
    result = buy_in(day, 70, 9, market_only)
    assert [each.how for each in result.slices] == ["not usable"]
    assert (result.swept_sz, result.priced_sz, result.priced_e6) == (0, 70, 70 * (ASK + TICK) * 100)


# --- days ---------------------------------------------------------------------------------------------------------------


def test_batches_and_prints_of_rows_whose_times_go_back():
    """5, 5, 4, 5: three batches, all at 5 by then; in the first the last row of the venue counts, a trade does not split it."""
    rows = [quote(5, bid_sz=1), sell(5, 9), quote(5, bid_sz=2), quote(4, bid_sz=3), quote(5, 1), sell(4, 8)]
    day = day_of_rows(rows)
    assert [(batch.ts_ns, [each.bid_sz for each in batch.quotes.values()]) for batch in day.batches] == [
        (5, [2]),
        (5, [3]),
        (5, [100]),
    ]
    assert [(each.ts_ns, each.sz) for each in day.prints] == [(5, 9), (5, 8)]


def test_random_days_hold_what_they_promise():
    """Over 40 days each kind of oddity turns up; times are multiples of the unit."""
    seen = set()
    for seed in range(40):
        day = random_day(seed)
        assert all((row.ts_ns - T0_NS) % UNIT_NS == 0 for row in day.rows)
        at_batches = {batch.ts_ns for batch in day.batches}
        for batch in day.batches:
            book = book_at(day, batch.ts_ns)
            bid, ask = best_bid_e4(book), best_ask_e4(book)
            seen.add("absent" if not (bid and ask) else "crossed" if bid > ask else "locked" if bid == ask else "open")
        for each in day.prints:
            bid = best_bid_e4(book_at(day, each.ts_ns))
            seen.add("below" if each.px_e4 < bid else "at" if each.px_e4 == bid else "above")
            seen.add("beside a quote" if each.ts_ns in at_batches else "without a quote")
    assert seen == {
        *("absent", "crossed", "locked", "open"),
        *("below", "at", "above"),
        *("beside a quote", "without a quote"),
    }


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("how", [{}, {"persistent": True, "best_only": True}, {"persistent": True, "lot_sz": 100}])
def test_without_latency_takers_do_what_the_replay_of_market_orders_does(rule, how):
    """60 random days whose times go back: equal in cash, fees, shares and fills to `sor.replay.take`."""
    for seed in range(60):
        case = random_case(seed, latency=False, disorder=True)
        slices = [each - before for each, before in zip(case.cum, [0, *case.cum], strict=False)]
        releases = [(case.clock_ns[0], case.size)] if how else list(zip(case.clock_ns, slices, strict=True))
        plain = take(case.day, case.window, releases, rule=rule, **how)
        assert_adds_up(case.day, case.size, plain)
        kernel = _kernel(case.day, case.window, releases, rule, how)
        figures = [
            kernel.cash_e6,
            kernel.fees_e6,
            kernel.filled_sz,
            kernel.swept_sz,
            kernel.priced_sz,
            kernel.priced_e6,
        ]
        ours = [plain.cash_e6, plain.fees_e6, plain.taken_sz, plain.swept_sz, plain.priced_sz, plain.priced_e6]
        assert [int(each[0]) for each in figures] == ours, seed
        assert [each[:4] for each in kernel.fills.tolist()] == [tuple(fill)[:4] for fill in plain.fills], seed


def _kernel(day: Day, window: Window, releases: list[tuple[int, int]], rule: int, how: dict):
    """The same order through the existing kernel for market orders."""
    market = build(events_of(day), venue_table_of(day))
    clock_ns, sizes = (np.array(column, np.int64) for column in zip(*releases, strict=True))
    at_end = KernelTerminal(terminal(day, window.end_ns).missing_e6)
    schedule = Schedule(clock_ns, sizes[:, None], **how)
    return kernel_take(market.updates, market.usable, market.fees_e6, window, schedule, at_end, rule=rule)


@pytest.mark.parametrize("catch_up", ["slice", "carry"])
def test_random_orders_add_up_and_stay_within_the_rules(catch_up):
    """100 random orders with latency: sums, whole life of every order, limit fills at the limit and never beyond its life."""
    passive = surplus = 0
    for seed in range(100):
        case = random_case(seed)
        how = {"rule": RULES[seed % 2], "optimistic": seed % 3 == 0, "cancel_on_fill": seed % 5 > 0}
        order = (case.size, case.window, case.clock_ns, case.cum, in_eighths(case.parts))
        result = buy(case.day, *order, flows=[], min_scenarios=0, catch_up=catch_up, **how)
        assert_adds_up(case.day, case.size, result)
        for child in result.children:
            assert case.day.routable[child.venue]
            assert child.arrives_ns == child.decided_ns + (child.kind != "deadline") * case.day.latency_ns[child.venue]
        assert all(case.window.start_ns <= fill.ts_ns <= case.window.end_ns for fill in result.fills)
        passive, surplus = passive + result.passive_sz, surplus + result.surplus_sz
    assert passive > 0
    assert surplus > 0


def test_an_unbounded_order_fills_what_the_flow_of_its_interval_says():
    """Posted without latency at the interval's start and never cancelled: shares filled by venue are fill_sz."""
    filled = 0
    for seed in range(30):
        day = random_day(seed, latency=False)
        for flow in fillable_flows(day, 4 * UNIT_NS, 2 * UNIT_NS, optimistic=seed % 2 == 0):
            window = Window(flow.start_ns, flow.start_ns + 4 * UNIT_NS)
            how = {"flows": [], "min_scenarios": 0, "cancel_on_fill": False, "optimistic": seed % 2 == 0}
            everywhere = post(*[UNBOUNDED_SZ] * day.venues)
            result = buy(day, 1, window, [window.start_ns], [1], everywhere, **how)
            shares = [sum(sz for _, at, sz in limit_fills(result) if at == venue) for venue in range(day.venues)]
            assert shares == flow.fill_sz, (seed, flow)
            filled += sum(shares)
    assert filled > 0


def test_the_future_changes_no_decision():
    """Rows after a slice's start are removed: the orders sent until then stay the same."""
    for seed in range(40):
        case = random_case(seed)
        order = (case.size, case.window, case.clock_ns, case.cum, in_eighths(case.parts))
        cut_ns = case.clock_ns[-1]
        past = day_of_rows(
            [row for row in case.day.rows if row.ts_ns <= cut_ns],
            fees_e6=case.day.fees_e6,
            rebates_e6=case.day.rebates_e6,
            latency_ns=case.day.latency_ns,
            routable=case.day.routable,
        )
        whole, known = (buy(day, *order, flows=[], min_scenarios=0, at_end=Terminal(0, 0)) for day in (case.day, past))
        if past.prints:
            assert known.slices == whole.slices, seed
