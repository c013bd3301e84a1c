"""One order, every strategy and the grid: the sections of output.json, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sor import experiment, policies
from sor import market as markets
from sor.experiment import BASELINES, Grid
from sor.market import Market
from sor.orders import Order, Window
from sor.policies import Policy
from tests import routing_oracle as oracle
from tests.helpers import SECOND_NS, ask, clear, market, quote, trade, window
from tests.routing_oracle import Print, Quote

TRIPLES = ((0.0, 0.1, 0.0), (0.0, 0.2, 0.0), (0.5, 0.1, 0.0), (0.5, 0.2, 0.3))
FEES_E6 = {2: 3000, 3: 0}


def day() -> Market:
    """Mid 10.00 at arrival; 10.02 and 10.04 offered at once, 10.01 after a minute."""
    return market(
        quote(0, 2, 9.98, 100, 10.02, 100),
        quote(0, 3, 9.97, 100, 10.04, 200),
        trade(30, 2, 100),
        quote(60, 3, 9.97, 100, 10.01, 300),
        quote(130, 2, 9.98, 100, 10.02, 100),
        fees_e6=FEES_E6,
    )


def result(size: int = 200) -> experiment.Experiment:
    return experiment.run(day(), Order(size, window(0, 120)), "allocate", TRIPLES)


def at_venue(taken: int, filled: int = 0, posted: int = 0, fees: float = 0.0, rebates: float = 0.0) -> dict:
    """A row of `by_venue`."""
    return {
        "shares_taken": taken,
        "shares_filled_passively": filled,
        "shares_posted": posted,
        "queue_fill_rate": filled / posted if posted else None,
        "fees": fees,
        "rebates": rebates,
    }


def test_costs_of_every_strategy():
    got = {name: int(taken.total_e6[0]) / 1e6 for name, taken in result().taken.items()}
    at_once = 100 * 10.023 + 100 * 10.04
    in_slices = 100 * 10.023 + 100 * 10.01
    # best_ask waits for another venue to be the best; so here it buys as the slices do
    assert got == pytest.approx(
        {"allocate": at_once, "best_ask": in_slices, "twap": in_slices, "vwap": in_slices}, rel=1e-12
    )


def test_section_of_a_strategy():
    got = experiment.section(result().taken["allocate"], result(), day())
    assert got == {
        "total_cash": 2006.3,
        "avg_fill_px": 10.0315,
        "shares_filled": 200,
        "fees": 0.3,
        "rebates": 0.0,
        "shortfall_bps": 31.5,
        "shortfall_cents_per_share": 3.15,
        "fills": 2,
        "shares_taken": 200,
        "shares_filled_passively": 0,
        "shares_posted": 0,
        "queue_fill_rate": None,
        "completed_at_deadline": 0,
        "priced_beyond_book": 0,
        "surplus_shares": 0,
        "slices_market_only": 0,
        "slices_skipped": 0,
        "by_venue": {"V2": at_venue(100, fees=0.3), "V3": at_venue(100)},
    }


def test_publishers_of_one_name_are_counted_together():
    got = experiment.section(result().taken["allocate"], result(), replace(day(), venue_names=("XNAS", "XNAS")))
    assert got["by_venue"] == {"XNAS": at_venue(200, fees=0.3)}


def test_section_of_an_order_larger_than_the_book():
    # 100 and 200 at once, 300 at 10.01; the other 400 at the dearest ask, 10.023 with its fee, and the spread, 0.03
    got = experiment.section(result(1000).taken["allocate"], result(1000), day())
    assert got["total_cash"] == pytest.approx(100 * 10.023 + 200 * 10.04 + 300 * 10.01 + 400 * 10.053, rel=1e-12)
    assert (got["shares_filled"], got["completed_at_deadline"], got["priced_beyond_book"]) == (1000, 400, 400)
    assert {name: row["shares_taken"] for name, row in got["by_venue"].items()} == {"V2": 100, "V3": 500}
    assert got["shares_taken"] == 600  # what is priced by rule was not taken from anyone


def test_the_four_sections_of_the_trial():
    sections = experiment.seed_sections(result(), day())
    assert list(sections) == ["best_parameters", "optimized", "baselines", "savings_vs_baselines_bps"]
    assert sections["best_parameters"] == {"lambda_over": 0.0, "lambda_under": 0.1, "theta_queue": 0.0}
    assert sections["optimized"]["policy"] == "allocate"
    assert sections["optimized"]["note"] == experiment.ONE_DRAW
    assert "one draw, not a claim" in experiment.ONE_DRAW
    assert list(sections["baselines"]) == list(BASELINES)
    # 2,006.30 against 2,003.30 on 2,000 USD: 15 bps worse
    assert sections["savings_vs_baselines_bps"] == {"best_ask": -15.0, "twap": -15.0, "vwap": -15.0}


def test_floor_is_reported_with_what_it_fills():
    # 200 of the 300 at 10.01
    assert experiment.floor_section(result()) == {
        "total_cash": 2002.0,
        "avg_fill_px": 10.01,
        "shares_filled": 200,
        "shortfall_bps": 10.0,
    }


def test_floor_is_below_every_strategy():
    got = result(500)
    assert all(got.floor_e6 <= taken.total_e6[0] for taken in got.taken.values())


def test_parameters_do_not_matter_for_allocate_and_the_report_says_so():
    got = experiment.grid_section(result())
    assert (got["size"], got["distinct_outcomes"]) == (4, 1)
    assert "the parameters do not matter for the policy allocate" in got["note"]
    assert result().grid.candidates == 1  # one column replayed for four triples


def test_every_triple_is_listed_with_its_cost():
    rows = experiment.grid_rows(result())
    assert [tuple(row[name] for name in experiment.PARAMETERS) for row in rows] == list(TRIPLES)
    assert {row["total_cash"] for row in rows} == {2006.3}
    assert {row["shortfall_bps"] for row in rows} == {31.5}


def test_ties_go_to_the_first_triple():
    grid = Grid(TRIPLES, np.array([5, 3, 3, 4]), candidates=4)
    assert grid.best == 1
    assert grid.distinct_outcomes == 3


def test_grid_of_one_triple_claims_nothing_about_parameters():
    one = experiment.run(day(), Order(200, window(0, 120)), "allocate", TRIPLES[:1])
    assert "do not matter" not in experiment.grid_section(one)["note"]


def test_triples_that_a_policy_cannot_tell_apart_are_replayed_once(monkeypatch: pytest.MonkeyPatch):
    reads_one = Policy(policies.POLICIES["allocate"].schedule, reads=("lambda_under",))
    monkeypatch.setitem(policies.POLICIES, "allocate", reads_one)
    grid = result().grid
    assert grid.candidates == 2
    assert grid.total_e6.tolist() == [2_006_300_000] * 4


def test_book_section_counts_what_no_policy_trades_on():
    rows = [
        quote(0, 2, 0, 0, 10.0, 1),
        ask(1, 2, 10.0, 1),
        quote(2, 3, 10.0, 1, 11.0, 1),
        quote(3, 3, 10.5, 1, 11.0, 1),
        clear(4, 2),
    ]
    assert experiment.book_section(market(*rows)) == {"batches": 5, "one_sided": 1, "locked": 1, "crossed": 1}


def test_a_baseline_may_be_the_policy_that_is_reported():
    got = experiment.run(day(), Order(200, window(0, 120)), "twap", TRIPLES)
    assert set(got.taken) == set(BASELINES)
    assert experiment.seed_sections(got, day())["savings_vs_baselines_bps"]["twap"] == 0


# --- the router: the same sections with limit orders ---------------------------------------------------------------------

BID_PX_E4, ASK_PX_E4 = 100_000, 100_200  # 10.00 and 10.02: mid 10.01
ORDER = Order(200, Window(360 * SECOND_NS, 480 * SECOND_NS))  # slices of 100 at 360 s and 420 s


def shown(at_s: float, venue: int = 0, bid_sz: int = 100) -> Quote:
    bid_px_e4 = BID_PX_E4 if bid_sz else 0
    return Quote(round(at_s * SECOND_NS), venue, bid_px_e4, bid_sz, ASK_PX_E4, 1_000)


def sold(at_s: float, sz: int = 300, venue: int = 0) -> Print:
    return Print(round(at_s * SECOND_NS), venue, BID_PX_E4, sz)


def sold_until(end_s: int) -> list[Print]:
    """300 shares sold at the bid, 100 of them to those who stood there first, at 10, 40, 70 ... seconds."""
    return [sold(at_s) for at_s in range(10, end_s, 30)]


def venues_of(*rows: Quote | Print, fees_e6: tuple[int, ...] = (3000,)) -> Market:
    quotes = [row for row in rows if isinstance(row, Quote)]
    prints = [row for row in rows if isinstance(row, Print)]
    rebates_e6 = [2000] * len(fees_e6)
    day = oracle.make_day(
        quotes,
        prints,
        fees_e6=list(fees_e6),
        rebates_e6=rebates_e6,
        latency_ns=[0] * len(fees_e6),
        routable=[True] * len(fees_e6),
    )
    return markets.build(oracle.events_of(day), oracle.venue_table_of(day))


def routed(day: Market) -> tuple[experiment.Experiment, dict[str, object]]:
    """The experiment, and the router's section at the first triple."""
    got = experiment.run(day, ORDER, "router", TRIPLES)
    return got, experiment.section(
        got.taken["router"], got, replace(day, venue_names=tuple("AB"[: len(day.venue_names)]))
    )


def test_router_posts_where_sellers_come_and_pays_no_spread():
    """Every past minute would have filled 500: both slices are posted, and filled at 370 s and 430 s for 10.00.

    2,000.00 less 0.40 of rebates, against a mid of 10.01: 2.40 of 2,002 USD saved.
    """
    _, got = routed(venues_of(shown(0), *sold_until(480), shown(480)))
    assert got == {
        "total_cash": 1999.6,
        "avg_fill_px": 9.998,
        "shares_filled": 200,
        "fees": 0.0,
        "rebates": 0.4,
        "shortfall_bps": pytest.approx(-1e4 * 2.4 / 2002, abs=1e-6),
        "shortfall_cents_per_share": -1.2,
        "fills": 2,
        "shares_taken": 0,
        "shares_filled_passively": 200,
        "shares_posted": 200,
        "queue_fill_rate": 1.0,
        "completed_at_deadline": 0,
        "priced_beyond_book": 0,
        "surplus_shares": 0,
        "slices_market_only": 0,
        "slices_skipped": 0,
        "by_venue": {"A": at_venue(0, 200, 200, rebates=0.4)},
    }


def test_what_the_queue_left_is_taken_when_the_slice_ends_and_at_the_deadline():
    """At 370 s the sellers bring 130: 100 for those ahead, 30 for us; then none. 70 are taken at 420 s, 100 at the end."""
    _, got = routed(venues_of(shown(0), *sold_until(360), sold(370, 130), shown(480)))
    assert got["total_cash"] == pytest.approx(30 * 10 - 30 * 0.002 + 170 * (10.02 + 0.003), rel=1e-12)
    assert (got["fees"], got["rebates"]) == (0.51, 0.06)
    assert (got["shares_posted"], got["shares_filled_passively"], got["queue_fill_rate"]) == (200, 30, 0.15)
    assert (got["shares_taken"], got["completed_at_deadline"]) == (170, 100)
    assert got["by_venue"] == {"A": at_venue(170, 30, 200, fees=0.51, rebates=0.06)}


def test_without_trades_the_router_takes_its_slices_and_says_so():
    result, got = routed(venues_of(shown(0), shown(480)))
    assert (got["slices_market_only"], got["shares_posted"], got["queue_fill_rate"]) == (2, 0, None)
    assert got["shares_taken"] == 200
    assert result.taken["router"].total_e6.tolist() == result.taken["twap"].total_e6.tolist() == [2_004_600_000]
    assert experiment.grid_section(result)["distinct_outcomes"] == 1


def test_a_slice_that_begins_without_a_bid_is_skipped_and_counted():
    rows = (shown(0), *sold_until(480), shown(419, bid_sz=0), shown(421), shown(480))
    _, got = routed(venues_of(*rows))
    assert (got["slices_skipped"], got["slices_market_only"]) == (1, 0)
    assert (got["shares_filled_passively"], got["completed_at_deadline"]) == (100, 100)


def test_shares_filled_passively_are_told_apart_by_venue():
    """Sellers come to the second venue only; the first one, without a fee, is where shares are taken."""
    rows = [shown(0), shown(0, 1), *(sold(at_s, venue=1) for at_s in range(10, 360, 30)), sold(370, 130, 1)]
    _, got = routed(venues_of(*rows, shown(480), fees_e6=(0, 3000)))
    taken = {name: (row["shares_taken"], row["shares_filled_passively"]) for name, row in got["by_venue"].items()}
    assert taken == {"A": (170, 0), "B": (0, 30)}
    assert got["total_cash"] == pytest.approx(30 * (10 - 0.002) + 170 * 10.02, rel=1e-12)


def test_every_triple_is_a_lane_of_its_own_for_the_router():
    got, section = routed(venues_of(shown(0), *sold_until(480), shown(480)))
    assert got.grid.candidates == len(TRIPLES)
    assert int(got.grid.total_e6.min()) == round(section["total_cash"] * 1e6)
    assert set(got.taken) == {"router", *BASELINES}
    sections = experiment.seed_sections(got, venues_of(shown(0), *sold_until(480), shown(480)))
    assert sections["optimized"]["policy"] == "router"
    # 2,004.60 - 1,999.60 on 2,002 USD
    assert sections["savings_vs_baselines_bps"]["twap"] == pytest.approx(1e4 * 5 / 2002, abs=1e-6)


def test_sections_of_the_router_are_the_sums_of_its_fills():
    result, got = routed(venues_of(shown(0), *sold_until(360), sold(370, 130), shown(480)))
    fills = result.taken["router"].fills
    assert got["fills"] == len(fills)
    assert (
        sum(row["shares_taken"] + row["shares_filled_passively"] for row in got["by_venue"].values())
        == fills["sz"].sum()
        == 200
    )
    paid = int((fills["sz"].astype(np.int64) * fills["px_e4"]).sum()) / 1e4
    assert got["total_cash"] == pytest.approx(paid + got["fees"] - got["rebates"], abs=1e-9)
