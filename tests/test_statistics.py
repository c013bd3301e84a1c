"""The evaluation protocol: windows, tuning on the past, savings and how sure they are. By hand, by property, by simulation."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sor import statistics
from sor.errors import UsageError
from sor.statistics import NOT_SCORED, Scored

E6 = 10**6
SECOND_NS = 10**9
SESSION_NS = 23_400 * SECOND_NS
invariant = settings(max_examples=100, deadline=None)  # a shared machine stalls at times
cash_e6 = st.integers(-(10**12), 10**12)


def ints(*values) -> np.ndarray:
    return np.array(values, np.int64)


# --- windows and folds ----------------------------------------------------------------------------------------------------


def test_the_day_has_38_windows_of_ten_minutes_between_its_first_and_last_five():
    starts = statistics.window_starts(
        0, SESSION_NS, window_ns=600 * SECOND_NS, stride_ns=600 * SECOND_NS, skip_ns=300 * SECOND_NS
    )
    assert starts.dtype == np.int64
    assert (starts // SECOND_NS).tolist() == list(range(300, 22_501, 600))
    assert starts[-1] + 600 * SECOND_NS == SESSION_NS - 300 * SECOND_NS


def test_a_window_that_ends_with_the_session_is_kept_and_one_a_nanosecond_longer_is_not():
    assert statistics.window_starts(100, 130, window_ns=10, stride_ns=10).tolist() == [100, 110, 120]
    assert statistics.window_starts(100, 129, window_ns=10, stride_ns=10).tolist() == [100, 110]
    assert statistics.window_starts(100, 130, window_ns=10, stride_ns=5, skip_ns=5).tolist() == [105, 110, 115]


def test_a_session_shorter_than_a_window_has_no_start():
    assert statistics.window_starts(0, 9, window_ns=10, stride_ns=1).tolist() == []
    assert statistics.window_starts(0, 9, window_ns=1, stride_ns=1, skip_ns=50).tolist() == []


@pytest.mark.parametrize("wrong", [{"window_ns": 0}, {"stride_ns": 0}, {"stride_ns": -1}, {"skip_ns": -1}])
def test_lengths_that_cannot_be_are_refused(wrong):
    with pytest.raises(UsageError, match="must be above 0 ns"):
        statistics.window_starts(0, 100, **{"window_ns": 1, "stride_ns": 1, **wrong})


@invariant
@given(*[st.integers(0, 300)] * 2, st.integers(1, 60), st.integers(1, 60), st.integers(0, 60))
def test_windows_are_those_of_the_plain_loop(first, length, window, stride, skip):
    expected, start = [], first + skip
    while start + window <= first + length - skip:
        expected.append(start)
        start += stride
    kept = statistics.window_starts(first, first + length, window_ns=window, stride_ns=stride, skip_ns=skip)
    assert kept.tolist() == expected


def test_folds_are_equal_parts_of_time_not_of_windows():
    starts = ints(0, 9, 10, 11, 12, 13, 20, 59)
    assert statistics.time_folds(starts, 0, 60).tolist() == [0, 0, 1, 1, 1, 1, 2, 5]
    assert statistics.time_folds(starts, 0, 60, count=2).tolist() == [0, 0, 0, 0, 0, 0, 0, 1]


def test_folds_of_a_range_that_does_not_divide_start_at_the_first_nanosecond_at_or_after_the_cut():
    assert statistics.time_folds(np.arange(10), 0, 10, count=3).tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_start_outside_of_the_range_has_no_fold():
    with pytest.raises(ValueError, match=r"must be in \[10, 20\), found 10 to 20"):
        statistics.time_folds(ints(10, 20), 10, 20)
    with pytest.raises(ValueError, match="found 9 to 9"):
        statistics.time_folds(ints(9), 10, 20)


# --- choice of parameters ---------------------------------------------------------------------------------------------------

# Six windows of 10, back to back, two a fold. Triple 0 is cheap in the first three windows, triple 1 after.
STARTS = ints(0, 10, 20, 30, 40, 50)
FOLD = ints(0, 0, 1, 1, 2, 2)
TOTAL = ints((1, 5), (1, 5), (9, 5), (9, 5), (9, 5), (9, 5))


def test_each_fold_uses_the_triple_that_was_cheapest_up_to_one_window_before_it():
    # fold 1 starts at 20: only the window that ends at 10 is early enough, 1 < 5.
    # fold 2 starts at 40: windows that end by 30, 1+1+9 = 11 against 15.
    assert statistics.walk_forward(TOTAL, STARTS, 10, FOLD).tolist() == [-1, -1, 0, 0, 0, 0]
    dearer = TOTAL.copy()
    dearer[2, 0] = 14  # 16 against 15
    assert statistics.walk_forward(dearer, STARTS, 10, FOLD).tolist() == [-1, -1, 0, 0, 1, 1]


def test_a_window_that_ends_within_the_embargo_is_not_learnt_from():
    late = TOTAL.copy()
    late[1, 0] = 10**9  # ends at 20, where fold 1 starts; known only to fold 2
    assert statistics.walk_forward(late, STARTS, 10, FOLD).tolist() == [-1, -1, 0, 0, 1, 1]


def test_a_fold_with_nothing_early_enough_before_it_is_not_scored():
    assert statistics.walk_forward(TOTAL[1:], STARTS[1:], 10, FOLD[1:]).tolist() == [-1, -1, -1, 0, 0]
    assert statistics.walk_forward(TOTAL[:0], STARTS[:0], 10, FOLD[:0]).tolist() == []


def test_the_first_of_equal_triples_is_chosen():
    assert statistics.walk_forward(np.full((6, 3), 7), STARTS, 10, FOLD).tolist() == [-1, -1, 0, 0, 0, 0]
    assert statistics.in_sample_best(ints((3, 2, 2), (3, 2, 2))) == 1


def test_in_sample_best_is_the_least_sum_even_where_the_sum_is_beyond_int64():
    assert statistics.in_sample_best(ints((1, 5, 3), (9, 4, 5))) == 2
    assert statistics.in_sample_best(ints((5, 4), (5, 4)) * 10**18) == 1


def test_costs_of_the_scored_windows_are_those_of_the_triple_chosen():
    assert statistics.at_choice(ints((1, 2), (3, 4), (5, 6)), ints(NOT_SCORED, 1, 0)).tolist() == [4, 5]


@st.composite
def days_of_windows(draw):
    """(total, starts, window, fold) of a small day: windows may overlap, folds may be empty."""
    window, stride = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    starts = statistics.window_starts(0, 120, window_ns=window, stride_ns=stride)
    triples = draw(st.integers(1, 4))
    total = draw(arrays(np.int64, (len(starts), triples), elements=st.integers(0, 6)))
    return total, starts, window, statistics.time_folds(starts, 0, 120)


@invariant
@given(days_of_windows())
def test_walk_forward_is_the_plain_search_over_mean_costs(day):
    total, starts, window, fold = day
    expected = []
    for own in fold:
        limit = min(start for start, other in zip(starts, fold, strict=True) if other == own) - window
        past = [row for row, start in zip(total.tolist(), starts, strict=True) if start + window <= limit]
        means = [Fraction(sum(column), len(past)) for column in zip(*past, strict=True)]
        expected.append(means.index(min(means)) if past and own > 0 else NOT_SCORED)
    assert statistics.walk_forward(total, starts, window, fold).tolist() == expected


@invariant
@given(days_of_windows(), st.integers(0, 5), st.integers(0, 10**6))
def test_nothing_from_the_embargo_on_changes_a_choice(day, number, seed):
    total, starts, window, fold = day
    own = fold == number
    assume(own.any())
    changed = total.copy()
    unknown = starts + window > starts[own].min() - window
    changed[unknown] = np.random.default_rng(seed).integers(-(10**12), 10**12, size=changed[unknown].shape)
    before, after = (statistics.walk_forward(costs, starts, window, fold)[own] for costs in (total, changed))
    assert before.tolist() == after.tolist()


@invariant
@given(days_of_windows(), st.randoms(use_true_random=False), st.integers(1, 1_000))
def test_the_order_of_triples_and_the_unit_of_prices_change_no_choice(day, random, scale):
    total, starts, window, fold = day
    chosen = statistics.walk_forward(total, starts, window, fold)
    order = random.sample(range(total.shape[1]), total.shape[1])
    permuted = statistics.walk_forward(total[:, order], starts, window, fold)
    scored = chosen != NOT_SCORED
    assert (permuted != NOT_SCORED).tolist() == scored.tolist()
    for number in np.unique(fold[scored]):
        here = np.flatnonzero(scored & (fold == number))
        past = starts + window <= starts[here].min() - window
        sums = total[past].sum(axis=0)
        assert sums[order[permuted[here[0]]]] == sums[chosen[here[0]]] == sums.min()
    assert statistics.walk_forward(total * scale + 17, starts, window, fold).tolist() == chosen.tolist()


# --- savings ----------------------------------------------------------------------------------------------------------------

# Two windows, two baselines: USD 100 and 300 of notional; saved 2 and -1 on the first baseline, 0 and 4 on the second.
POLICY = ints(100, 300) * E6
BASELINE = ints((102, 100), (299, 304)) * E6
CLAIRVOYANT = ints(99, 297) * E6
NOTIONAL = ints(100, 300) * E6
SAVED = statistics.savings_e6(POLICY, BASELINE)


def test_savings_are_what_the_baseline_cost_more():
    assert (SAVED // E6).tolist() == [[2, 0], [-1, 4]]
    assert SAVED.dtype == np.int64


def test_bps_are_a_ratio_of_sums():
    # 1 USD of 400 is 25 bps, 4 are 100; the mean of the ratios would be (200 - 33.3) / 2 = 83.3 for the first
    assert statistics.ratio_bps(SAVED, NOTIONAL).tolist() == [25.0, 100.0]


def test_cents_per_share_divide_by_all_shares():
    # 1 USD over 2 x 50 shares is a cent a share; over 10 + 30 shares 2.5 cents
    assert statistics.cents_per_share(SAVED, 50).tolist() == [1.0, 4.0]
    assert statistics.cents_per_share(SAVED, ints(10, 30)).tolist() == [2.5, 10.0]


def test_a_tie_is_no_win():
    assert statistics.win_rate(SAVED).tolist() == [0.5, 0.5]
    assert statistics.win_rate(ints((0, 1, -1))).tolist() == [0.0, 1.0, 0.0]


def test_capture_is_the_part_of_the_clairvoyant_savings():
    # baseline 1: 401 against a floor of 396, 1 of 5; baseline 2: 404, 4 of 8
    assert statistics.capture(SAVED, BASELINE, CLAIRVOYANT).tolist() == [0.2, 0.5]


def test_a_baseline_at_the_floor_leaves_nothing_to_capture():
    at_floor = statistics.capture(ints((-1, 0)), ints((10, 9)), ints(10))
    assert np.isnan(at_floor).all()


def test_without_a_window_nothing_is_known():
    none = np.zeros((0, 2), np.int64)
    for measured in (
        statistics.ratio_bps(none, ints()),
        statistics.cents_per_share(none, 100),
        statistics.win_rate(none),
        statistics.capture(none, none, ints()),
    ):
        assert measured.shape == (2,)
        assert np.isnan(measured).all()


@st.composite
def paired(draw, least: int = 1):
    """(saved (W, B), notional (W,)) of `least` windows or more."""
    windows, baselines = draw(st.integers(least, 12)), draw(st.integers(1, 3))
    saved = draw(arrays(np.int64, (windows, baselines), elements=cash_e6))
    return saved, draw(arrays(np.int64, windows, elements=st.integers(10**10, 10**12)))


@invariant
@given(paired(), st.integers(1, 1_000), st.integers(0, 99))
def test_a_thousandfold_price_changes_no_bps(pair, scale, seed):
    saved, notional = pair
    draw = {"block": 1, "resamples": 20, "seed": seed}
    once, scaled = ((saved * k, notional * k) for k in (1, scale))
    assert statistics.ratio_bps(*scaled) == pytest.approx(statistics.ratio_bps(*once), rel=1e-12)
    assert statistics.block_bootstrap(*scaled, **draw) == pytest.approx(
        statistics.block_bootstrap(*once, **draw), rel=1e-9
    )


# --- bootstrap ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("windows", "window", "stride", "block"),
    [
        (38, 600, 600, 4),  # 3.36 rounded up beats 3
        (27, 600, 600, 3),  # an exact cube
        (28, 600, 600, 4),
        (1_000, 600, 600, 10),
        (390, 600, 60, 30),
        (390, 600, 599, 8),  # 1.002 windows overlap, counted as 2: 6 against 7.3
        (64, 61, 10, 21),
    ],
)
def test_a_block_is_the_cube_root_of_the_windows_or_three_windows_of_time(windows, window, stride, block):
    assert statistics.block_length(windows, window, stride) == block


def test_blocks_wrap_round_and_come_up_equally_often():
    # blocks of two of 1, 2, 3, 4: 3, 5, 7, 5 at a notional of 1 each; the sum of two blocks over 4, in bps
    draws = statistics.block_bootstrap(ints([1], [2], [3], [4]), np.ones(4), block=2, resamples=16_000, seed=1)
    values, times = np.unique(draws / 1e4 * 4, return_counts=True)
    assert values.tolist() == [6.0, 8.0, 10.0, 12.0, 14.0]
    assert times / 1_000 == pytest.approx([1, 4, 6, 4, 1], abs=0.2)


def test_the_last_block_is_cut_so_that_a_resample_has_as_many_windows():
    # blocks of two of 1, 10, 100: 11, 110, 101; and a single window
    draws = statistics.block_bootstrap(ints([1], [10], [100]), np.ones(3), block=2, resamples=9_000, seed=1)
    values, times = np.unique(np.rint(draws / 1e4 * 3), return_counts=True)
    assert values.tolist() == [12, 21, 102, 111, 120, 201, 210]
    assert times / 1_000 == pytest.approx([1, 1, 1, 3, 1, 1, 1], abs=0.15)  # 111 = 11 + 100 = 110 + 1 = 101 + 10


def test_savings_and_notional_are_drawn_together_and_all_baselines_alike():
    saved = ints((1, 2), (5, 10), (3, 6), (8, 16))
    draws = statistics.block_bootstrap(saved, saved[:, 1] * 100, block=2, resamples=200, seed=7)
    assert draws.shape == (200, 2)
    assert draws[:, 0].tolist() == [50.0] * 200
    assert draws[:, 1].tolist() == [100.0] * 200
    unequal = statistics.block_bootstrap(saved, np.full(4, 100), block=2, resamples=200, seed=7)
    assert unequal[:, 1] == pytest.approx(2 * unequal[:, 0], rel=1e-12)
    assert len(np.unique(unequal)) > 4


def test_a_seed_gives_the_same_draws_again_and_another_one_others():
    saved, notional = np.arange(30).reshape(30, 1), np.full(30, 100)
    first, again, other = (statistics.block_bootstrap(saved, notional, block=4, seed=seed) for seed in (5, 5, 6))
    assert first.shape == (2_000, 1)
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


@pytest.mark.parametrize("block", [0, 4])
def test_a_block_longer_than_the_day_or_empty_is_refused(block):
    with pytest.raises(ValueError, match=f"1 to 3 windows, found {block}"):
        statistics.block_bootstrap(ints([1], [2], [3]), np.ones(3), block=block, seed=1)


@invariant
@given(st.integers(20, 60), st.integers(1, 4), cash_e6, st.integers(0, 99))
def test_the_interval_of_a_constant_saving_has_no_width(windows, block, saved, seed):
    notional = np.full(windows, 10**11)
    draws = statistics.block_bootstrap(np.full((windows, 1), saved), notional, block=block, resamples=50, seed=seed)
    assert np.ptp(statistics.intervals(draws), axis=-1).tolist() == [[0.0], [0.0]]
    assert draws[0, 0] == pytest.approx(saved / 1e7, rel=1e-12)


@invariant
@given(paired(least=3), st.integers(1, 3), st.integers(0, 99))
def test_a_resample_lies_within_the_dearest_and_the_cheapest_window(pair, block, seed):
    saved, notional = pair
    draws = statistics.block_bootstrap(saved, notional, block=block, resamples=50, seed=seed)
    ratios = 1e4 * saved / notional[:, None]
    assert np.all(draws >= ratios.min(axis=0) - 1e-6)
    assert np.all(draws <= ratios.max(axis=0) + 1e-6)


def test_whole_days_are_drawn_with_all_their_windows():
    # day a: 1 + 2 of 2, day b: 10 of 1; two days drawn: aa 6/4, ab 13/3, bb 20/2
    day = np.array(["a", "b", "a"])
    draws = statistics.resample_days(ints([1], [10], [2]), np.ones(3), day, resamples=8_000, seed=3)
    values, times = np.unique(draws, return_counts=True)
    assert values == pytest.approx([15_000, 1e4 * 13 / 3, 100_000])
    assert times / 2_000 == pytest.approx([1, 2, 1], abs=0.1)


# --- intervals and p-values ---------------------------------------------------------------------------------------------------


def test_intervals_are_percentiles_of_the_draws():
    draws = np.column_stack((np.arange(1_001.0), -np.arange(1_001.0)))
    expected = [[[25.0, 975.0], [-975.0, -25.0]], [[5.0, 995.0], [-995.0, -5.0]]]
    assert statistics.intervals(draws) == pytest.approx(np.array(expected))
    assert statistics.intervals(draws, (50,))[0, 0] == pytest.approx([250.0, 750.0])


def test_p_counts_the_draws_on_the_rarer_side_of_zero_and_one_more():
    draws = np.array([[1.0, 1.0, 0.0], [2.0, -1.0, 0.0], [3.0, -2.0, 0.0], [4.0, -3.0, 0.0]])
    # none of 4: 2 x 1/5; one: 2 x 2/5; all on both sides: 1
    assert statistics.p_value(draws) == pytest.approx([0.4, 0.8, 1.0])
    assert statistics.p_value(-draws) == pytest.approx([0.4, 0.8, 1.0])


def test_holm_by_hand():
    # ascending .01 x 3, .03 x 2, .04 x 1, which must not fall below the one before
    assert statistics.holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm(np.array([0.6, 0.5])).tolist() == [1.0, 1.0]
    assert statistics.holm(np.array([0.02])).tolist() == [0.02]
    assert statistics.holm(np.array([])).tolist() == []


@invariant
@given(st.lists(st.floats(0.0005, 1), min_size=1, max_size=8))
def test_holm_is_never_below_p_never_above_bonferroni_and_keeps_the_order(raw):
    p = np.array(raw)
    adjusted = statistics.holm(p)
    assert np.all(adjusted >= p)
    assert np.all(adjusted <= np.minimum(1, p * len(p)))
    assert np.all(np.diff(adjusted[np.argsort(p)]) >= 0)
    for cut in (0.05, 0.5):  # step down: reject in ascending order until the first that is too large
        rejected, left = 0, len(p)
        for value in np.sort(p):
            if value * left > cut:
                break
            rejected, left = rejected + 1, left - 1
        assert (adjusted <= cut).sum() == rejected


@invariant
@given(arrays(np.float64, st.tuples(st.integers(40, 400), st.just(2)), elements=st.integers(-3, 40)))
def test_a_p_below_five_per_cent_means_zero_is_outside_of_the_interval(draws):
    low, high = statistics.intervals(draws, (95,))[0].T
    claimed = statistics.p_value(draws) < 0.05
    assert not np.any(claimed & (low <= 0) & (high >= 0))


def test_too_few_windows_or_too_few_blocks_of_them():
    assert statistics.too_few(19)
    assert not statistics.too_few(20)
    assert not statistics.too_few(20, block=3)
    assert statistics.too_few(179, block=30)
    assert not statistics.too_few(180, block=30)


# --- simulation: does the protocol tell noise from savings? -------------------------------------------------------------------


def series(windows: int, *, overlap: int = 1, ar: float = 0.0, repeats: int = 300) -> np.ndarray:
    """Savings (W, repeats) of mean 0: means of `overlap` neighbouring shocks, AR(1) with coefficient `ar`."""
    shocks = np.random.default_rng(11).normal(size=(windows + overlap + 50, repeats))
    for i in range(1, len(shocks) if ar else 0):
        shocks[i] += ar * shocks[i - 1]
    sums = shocks.cumsum(axis=0)
    means = (sums[overlap:] - sums[:-overlap])[-windows:] / overlap
    return np.rint(means * E6).astype(np.int64)


def coverage(saved_e6: np.ndarray, block: int) -> float:
    """Part of the series whose 95 % interval holds the true 0; one resample serves all series as if baselines."""
    notional = np.full(len(saved_e6), 10**10)
    low, high = statistics.intervals(
        statistics.block_bootstrap(saved_e6, notional, block=block, resamples=400, seed=2), (95,)
    )[0].T
    return float(np.mean((low <= 0) & (high >= 0)))


# 300 series: the standard error of a coverage of 0.9 is 0.017
@pytest.mark.parametrize(
    ("windows", "overlap", "ar"), [(39, 1, 0.0), (78, 1, 0.3), (195, 5, 0.0), (195, 5, 0.5)], ids=str
)
def test_blocks_cover_independent_overlapping_and_dependent_windows(windows, overlap, ar):
    block = statistics.block_length(windows, overlap, 1)
    assert 0.84 <= coverage(series(windows, overlap=overlap, ar=ar), block) <= 0.97


def test_windows_drawn_one_by_one_cover_where_independent_but_not_at_fivefold_overlap():
    assert coverage(series(39), 1) >= 0.90
    assert coverage(series(195, overlap=5), 1) <= 0.70
    assert coverage(series(195, overlap=5, ar=0.5), 1) <= 0.65


def test_on_noise_the_in_sample_best_of_125_triples_saves_and_walk_forward_does_not():
    windows, triples, repeats = 390, 125, 60
    random = np.random.default_rng(4)
    starts = np.arange(windows)
    fold = statistics.time_folds(starts, 0, windows)
    in_sample, ahead, covered = [], [], 0
    for _ in range(repeats):
        total = np.rint(random.standard_normal((windows, triples)) * E6).astype(np.int64)  # the baseline costs 0
        in_sample.append(-total[:, statistics.in_sample_best(total)].mean() / E6)
        policy = statistics.at_choice(total, statistics.walk_forward(total, starts, 1, fold))
        assert len(policy) == 325
        saved = statistics.savings_e6(policy, np.zeros((325, 1), np.int64))
        draws = statistics.block_bootstrap(saved, np.full(325, 10**10), block=7, resamples=300, seed=1)
        low, high = statistics.intervals(draws)[0, 0]
        covered += low <= 0 <= high
        ahead.append(saved.mean() / E6)
    # the greatest of 125 standard normals is 2.59 on average: 2.59 / sqrt(390) = 0.131 standard deviations of a window
    assert np.mean(in_sample) == pytest.approx(0.131, abs=0.01)
    assert abs(np.mean(ahead)) < 3 / np.sqrt(325 * repeats)
    assert covered >= 0.83 * repeats


# --- the summary --------------------------------------------------------------------------------------------------------------


def scored(windows: int = 24, **changes) -> Scored:
    """A policy that saves 1 or 3 USD in turns on `dear`, 0 on `same`, at a notional of 1,000 USD and 10 shares."""
    policy = np.full(windows, 1_000 * E6)
    dear = policy + np.where(np.arange(windows) % 2, 3, 1) * E6
    best = policy - 2 * E6
    made = Scored(policy, np.column_stack((dear, policy)), best, np.full(windows, 1_000 * E6), 10)
    return replace(made, **changes)


def test_the_summary_holds_every_measure_by_name():
    both = statistics.summary(scored(), ("dear", "same"), block=3, resamples=500, seed=1)
    assert list(both) == ["dear", "same"]
    dear, same = both["dear"], both["same"]
    assert dear.windows == 24
    assert (dear.saved_bps, dear.saved_cents_per_share, dear.win_rate, dear.capture) == (20.0, 20.0, 1.0, 0.5)
    assert dear.ci99[0] <= dear.ci95[0] < 20 < dear.ci95[1] <= dear.ci99[1]
    assert dear.p_holm == pytest.approx(2 * 2 / 501)
    assert (same.saved_bps, same.win_rate, same.capture, same.p_holm) == (0.0, 0.0, 0.0, 1.0)
    assert same.ci95 == same.ci99 == (0.0, 0.0)
    assert dear.note is None
    assert json.loads(json.dumps(asdict(dear)))["ci95"] == list(dear.ci95)


def test_the_summary_of_19_windows_says_so_and_gives_no_interval():
    few = statistics.summary(scored(19), ("dear", "same"), block=1, seed=1)["dear"]
    assert few.saved_bps == pytest.approx(1e4 * (10 * 1 + 9 * 3) / 19_000)
    assert (few.ci95, few.ci99, few.p_holm) == (None, None, None)
    assert few.note == "too few windows for an interval: 19, at least 20 are needed"


def test_the_summary_of_overlapping_windows_needs_six_blocks():
    few = statistics.summary(scored(170), ("dear", "same"), block=30, seed=1)["dear"]
    assert few.ci95 is None
    assert few.note == "too few windows for an interval: 170 in blocks of 30, at least 180 are needed"


def test_the_summary_without_windows_or_without_a_floor_is_still_json():
    none = statistics.summary(scored(0), ("dear", "same"), block=1, seed=1)["dear"]
    assert (none.windows, none.saved_bps, none.win_rate, none.capture) == (0, None, None, None)
    floorless = statistics.summary(scored(clairvoyant_e6=np.full(24, 2_000 * E6)), ("dear", "same"), block=3, seed=1)
    assert floorless["dear"].capture is None
    json.dumps([asdict(none), asdict(floorless["same"])], allow_nan=False)


def test_several_days_are_resampled_as_days_and_nine_are_too_few():
    day = np.repeat(np.arange(10), 4)
    whole = statistics.summary(scored(40, day=day), ("dear", "same"), block=3, resamples=500, seed=1)["dear"]
    assert whole.ci95 == (20.0, 20.0)  # every day saves the same, though its windows do not
    nine = statistics.summary(scored(36, day=day[:36]), ("dear", "same"), block=3, seed=1)["dear"]
    assert nine.note == "too few days for an interval: 9, at least 10 are needed"
    one = statistics.summary(scored(24, day=np.zeros(24)), ("dear", "same"), block=3, resamples=500, seed=1)
    assert one == statistics.summary(scored(24), ("dear", "same"), block=3, resamples=500, seed=1)


def test_every_baseline_needs_a_name():
    with pytest.raises(ValueError, match="zip"):
        statistics.summary(scored(), ("dear",), block=3, seed=1)
