"""Measures: their sign and size, by hand."""

from __future__ import annotations

import pytest

from sor import metrics


def test_paying_more_than_the_arrival_mid_is_a_positive_shortfall():
    # 1,000 shares at a mid of 100: 100,000 USD; 100,050 paid is 5 bps or 5 cents a share
    assert metrics.shortfall_bps(100_050, 1_000, 100.0) == pytest.approx(5.0, rel=1e-12)
    assert metrics.shortfall_cents_per_share(100_050, 1_000, 100.0) == pytest.approx(5.0, rel=1e-12)


def test_paying_less_is_negative():
    assert metrics.shortfall_bps(99_900, 1_000, 100.0) == pytest.approx(-10.0, rel=1e-12)
    assert metrics.shortfall_cents_per_share(99_900, 1_000, 100.0) == pytest.approx(-10.0, rel=1e-12)


def test_paying_less_than_the_baseline_is_a_positive_saving():
    assert metrics.savings_bps(100_000, 100_020, 1_000, 100.0) == pytest.approx(2.0, rel=1e-12)
    assert metrics.savings_bps(100_020, 100_000, 1_000, 100.0) == pytest.approx(-2.0, rel=1e-12)
    assert metrics.savings_bps(100_000, 100_000, 1_000, 100.0) == 0


def test_savings_are_the_difference_of_the_shortfalls():
    ours, theirs = (metrics.shortfall_bps(cash, 300, 57.3) for cash in (17_200.0, 17_250.0))
    assert metrics.savings_bps(17_200, 17_250, 300, 57.3) == pytest.approx(theirs - ours, rel=1e-9)
