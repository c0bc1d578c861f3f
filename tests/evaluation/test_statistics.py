"""Intervals and paired tests against known distributions and every sign flip written out."""

import tracemalloc
from itertools import product

import numpy as np
import pandas as pd
import pytest

from tll_utils.evaluation.metrics import per_left
from tll_utils.evaluation.statistics import PairedTest, bootstrap_interval, paired_test, summarise


def test_interval_of_a_share():
    """A quarter of 400 solved: standard error √(0.25·0.75/400) = 0.02165, width 2 · 1.96 · that = 0.0849.

    Four times the lefts halve it. The interval encloses the mean.
    """
    solved = np.repeat([1.0, 0, 0, 0], 100)
    low, high = bootstrap_interval(solved)
    assert low < 0.25 < high
    assert high - low == pytest.approx(0.0849, rel=0.05)
    low4, high4 = bootstrap_interval(np.tile(solved, 4))
    assert high4 - low4 == pytest.approx(0.0424, rel=0.05)


def test_interval_is_repeatable():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values) == bootstrap_interval(values, n_resamples=10_000, seed=0)
    assert bootstrap_interval(values) != bootstrap_interval(values, n_resamples=100)


def test_interval_covers_the_true_mean():
    """Of 100 samples of a uniform variable 95 intervals should hold 0.5; fewer than 88 is 3 sigma off."""
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.random(60), n_resamples=1000, seed=seed) for seed in range(100)]
    assert sum(low < 0.5 < high for low, high in intervals) >= 88


def test_paired_p_value_by_hand():
    """Three differences of 1: of 8 sign patterns 2 reach |sum| = 3, so p is 1/4. No difference: p is 1."""
    assert paired_test(np.ones(3), np.zeros(3)) == (1, (1, 1), 0.25)
    assert paired_test(np.ones(3), np.ones(3)).p_value == 1


def all_flips_p(difference: np.ndarray) -> float:
    """Share of all sign patterns with a sum as far from zero as the data's own, in whole numbers."""
    sums = np.array(list(product([1, -1], repeat=len(difference)))) @ difference
    return np.mean(np.abs(sums) >= abs(difference.sum()))


def test_few_lefts_count_every_flip_once():
    """Whole numbers divided by 10: 0.1 + 0.2 is not 0.3, yet their ties are ties; and no other scale changes p."""
    for seed in range(10):
        whole = np.random.default_rng(seed).integers(-5, 9, 10)
        expected = all_flips_p(whole)
        for scale in (1.0, 0.1, 1e-14, 1e14):
            assert paired_test(whole * scale, np.zeros(10)).p_value == pytest.approx(expected)


def test_rounding_does_not_break_ties():
    """Tenths that sum to zero: no flip is nearer to zero, though the data may sum to 1e-17 and a flip to 0."""
    for seed in range(20):
        whole = np.random.default_rng(seed).integers(-9, 10, 8)
        tenths = np.append(whole, -whole.sum()) / 10
        assert paired_test(tenths, np.zeros(9)).p_value == 1


def test_many_lefts_count_random_flips():
    """14 lefts have 16,384 flips, too many to count each; 10,000 random ones miss p by less than 4 standard errors."""
    whole = np.random.default_rng(1).integers(-5, 9, 14)
    expected = all_flips_p(whole)
    assert 0.05 < expected < 0.95
    p_value = paired_test(whole, np.zeros(14)).p_value
    assert p_value != expected
    assert abs(p_value - expected) < 4 * np.sqrt(expected * (1 - expected) / 10_000)


def test_p_value_has_two_tails():
    """The better method may be named first or second."""
    a, b = np.random.default_rng(0).standard_normal((2, 40))
    assert paired_test(a, b).p_value == paired_test(b, a).p_value


def test_paired_test_sees_a_shift_and_its_direction():
    """A shift of 0.3 of one standard deviation in 400 lefts is 6 standard errors: no random flip reaches it."""
    noise = np.random.default_rng(0).standard_normal(400)
    better, worse = noise + 0.3 + np.random.default_rng(1).standard_normal(400), noise
    result = paired_test(better, worse)
    assert result.p_value == pytest.approx(1 / 10_001)
    assert 0 < result.interval95[0] < result.difference < result.interval95[1]
    assert paired_test(worse, better).difference == pytest.approx(-result.difference)


def test_the_interval_of_a_paired_test_is_that_of_the_differences():
    """The seed decides it, and the random flips; without a word it is 0."""
    a, b = np.random.default_rng(0).standard_normal((2, 30))
    result = paired_test(a, b, n_resamples=500, seed=1)
    assert result.interval95 == bootstrap_interval(a - b, seed=1)
    assert result == paired_test(a, b, n_resamples=500, seed=1) != paired_test(a, b, n_resamples=500, seed=2)
    assert paired_test(a, b) == paired_test(a, b, n_resamples=10_000, seed=0)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_solved_or_not_may_have_any_type(dtype):
    """Nothing wraps around below zero: 0 − 1 is −1. Every second row of a read-only array is as good as any."""
    a, b = np.array([0, 0, 1, 0], dtype), np.repeat(np.array([1, 0, 1, 1], dtype), 2)[::2]
    a.flags.writeable = b.flags.writeable = False
    assert paired_test(a, b) == paired_test([0, 0, 1, 0], [1, 0, 1, 1])
    assert paired_test(a, b).difference == -0.5
    assert bootstrap_interval(b) == bootstrap_interval([1, 0, 1, 1])


def test_paired_p_value_is_uniform_without_a_shift():
    """80 pairs of alike methods: p < 1/2 in 40 ± 4.5 of them, p < 0.05 in 4 ± 2; bounds at 4 sigma."""
    rng = np.random.default_rng(0)
    p = np.array([paired_test(*rng.standard_normal((2, 30)), n_resamples=999).p_value for _ in range(80)])
    assert 22 <= np.sum(p < 0.5) <= 58
    assert np.sum(p < 0.05) <= 12


def test_paired_test_prints_as_a_sentence_needs_it():
    assert str(PairedTest(0.0123, (0.0031, 0.0209), 0.00399)) == "+0.012 (+0.003 to +0.021), p = 0.0040"
    assert f"{PairedTest(-0.5, (-1.0, 0.0), 1.0)}" == "-0.500 (-1.000 to +0.000), p = 1.0000"


def test_values_are_checked():
    with pytest.raises(ValueError, match="a has 3 lefts, b has 4"):
        paired_test(np.zeros(3), np.zeros(4))
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            paired_test(np.array([0, bad]), np.zeros(2))
        with pytest.raises(ValueError, match="finite"):
            bootstrap_interval([0, bad])
    with pytest.raises(ValueError, match="two or more"):
        bootstrap_interval([1])
    with pytest.raises(ValueError, match=r"one per left, got shape \(2, 2\)"):
        bootstrap_interval(np.zeros((2, 2)))


def test_resampling_2000_lefts_stays_small():
    """Batches hold 200 resamples, about 27 MB; all 1000 at once are five times that, and 10,000 fifty times."""
    values = np.random.default_rng(0).random(2000)
    tracemalloc.start()
    paired_test(values, np.zeros(2000), n_resamples=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


def test_summary_of_constant_scores():
    """Chance everywhere: 0.1 and 0.05 exactly, no spread."""
    summary = summarise(per_left(np.zeros((25, 25)), np.arange(25)))
    assert summary.pop("interval95") == pytest.approx((0.1, 0.1))
    assert summary == {"expected_top2": 0.1, "expected_top1": 0.05, "n_left": 25}


def test_summary_is_the_mean_of_its_table():
    """Top-2 (1 + 0.5)/2, top-1 (1 + 0)/2."""
    table = pd.DataFrame({"top1": [1.0, 0.0], "top2": [1.0, 0.5]})
    summary = summarise(table)
    assert (summary["expected_top2"], summary["expected_top1"]) == (0.75, 0.5)
    assert summary["interval95"] == (0.5, 1.0)
