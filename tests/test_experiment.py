"""One order, every strategy and the grid: the sections of output.json, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sor import experiment, policies
from sor.experiment import BASELINES, Grid
from sor.market import Market
from sor.policies import Order, Policy
from tests.helpers import ask, clear, market, quote, trade, window

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


def test_costs_of_every_strategy():
    got = {name: int(taken.total_e6[0]) / 1e6 for name, taken in result().taken.items()}
    at_once = 100 * 10.023 + 100 * 10.04
    in_slices = 100 * 10.023 + 100 * 10.01
    # best_ask waits for another venue to be the best; so here it buys as the slices do
    assert got == pytest.approx(
        {"allocate": at_once, "best_ask": in_slices, "twap": in_slices, "vwap": in_slices}, rel=1e-12
    )


def test_section_of_a_strategy():
    got = experiment.section(result().taken["allocate"], result(), day().venue_names)
    assert got == {
        "total_cash": 2006.3,
        "avg_fill_px": 10.0315,
        "shares_filled": 200,
        "fees": 0.3,
        "shortfall_bps": 31.5,
        "shortfall_cents_per_share": 3.15,
        "fills": 2,
        "completed_at_deadline": 0,
        "priced_beyond_book": 0,
        "shares_by_venue": {"V2": 100, "V3": 100},
    }


def test_publishers_of_one_name_are_counted_together():
    got = experiment.section(result().taken["allocate"], result(), ("XNAS", "XNAS"))
    assert got["shares_by_venue"] == {"XNAS": 200}


def test_section_of_an_order_larger_than_the_book():
    # 100 and 200 at once, 300 at 10.01; the other 400 at the best ask, 10.01, and the spread, 0.03
    got = experiment.section(result(1000).taken["allocate"], result(1000), day().venue_names)
    assert got["total_cash"] == pytest.approx(100 * 10.023 + 200 * 10.04 + 300 * 10.01 + 400 * 10.04, rel=1e-12)
    assert (got["shares_filled"], got["completed_at_deadline"], got["priced_beyond_book"]) == (1000, 400, 400)
    assert got["shares_by_venue"] == {"V2": 100, "V3": 500}


def test_the_four_sections_of_the_trial():
    sections = experiment.seed_sections(result(), day())
    assert list(sections) == ["best_parameters", "optimized", "baselines", "savings_vs_baselines_bps"]
    assert sections["best_parameters"] == {"lambda_over": 0.0, "lambda_under": 0.1, "theta_queue": 0.0}
    assert sections["optimized"]["policy"] == "allocate"
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
