"""Evaluation against hand-derived values, brute force, and sampling."""

import tracemalloc
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from tll_utils.evaluation import (
    bootstrap_interval,
    cross_validate,
    expected_solved,
    expected_topk,
    mean_average_precision,
    mid_rank,
    paired_test,
    per_left,
    recall_at_k,
    reciprocal_rank,
    solved_on_candidates,
    summarise,
    topk_accuracy,
)


def random_scores(n: int, *, ties: bool, seed: int = 0) -> np.ndarray:
    """Noise with a weak signal on the diagonal; rounded to whole numbers where ties are wanted."""
    S = np.random.default_rng(seed).standard_normal((n, n)) + np.eye(n)
    return np.round(S) if ties else S


# --- candidate lists


def test_top_k_without_ties():
    """Truths stand first, second and third of four: top-1 solves 1 of 3, top-2 2 of 3, top-3 all."""
    scores = np.array([[9, 1, 2, 3], [5, 9, 1, 2], [7, 8, 1, 6]])
    truth = np.array([0, 0, 3])
    assert solved_on_candidates(scores, truth, k=2).tolist() == [1, 1, 0]
    assert [topk_accuracy(scores, truth, k=k) for k in (1, 2, 3)] == [1 / 3, 2 / 3, 1]


def test_top_k_shares_a_place_among_tied_candidates():
    """One candidate is better, two tie with the truth, which comes second, third or fourth, each in 1 of 3."""
    scores, truth = np.array([[5, 9, 5, 5, 1]]), np.array([0])
    assert solved_on_candidates(scores, truth, k=1)[0] == 0
    assert solved_on_candidates(scores, truth, k=2)[0] == 1 / 3
    assert solved_on_candidates(scores, truth, k=3)[0] == 2 / 3
    assert solved_on_candidates(scores, truth, k=4)[0] == 1


@pytest.mark.parametrize("n_left", [1, 7, 1600])
def test_constant_scores_are_exactly_chance(n_left):
    """The truth is among the best 2 of 20 in 2 of 20 orders: 0.1, to the last bit."""
    truth = np.arange(n_left) % 20
    assert (solved_on_candidates(np.zeros((n_left, 20)), truth) == 0.1).all()
    assert topk_accuracy(np.zeros((n_left, 20)), truth) == 0.1


# --- expectation over candidate lists


def test_expected_solved_by_hand():
    """Three foils, lists of three, so two foils drawn: 3 lists.

    One foil better: it is left out of 1 list (top-1: 1/3); fewer than two beat the truth always (top-2: 1).
    Two better: none is left out of both (top-1: 0); both are drawn in 1 list (top-2: 2/3).
    One better, one tied: the mean of the two, top-1 1/6, top-2 5/6.
    """
    S = np.array([[2, 3, 1, 0], [2, 3, 4, 0], [2, 3, 2, 0]])
    match = np.zeros(3, int)
    np.testing.assert_allclose(expected_solved(S, match, k=1, n_candidates=3), [1 / 3, 0, 1 / 6])
    np.testing.assert_allclose(expected_solved(S, match, k=2, n_candidates=3), [1, 2 / 3, 5 / 6])


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_expected_solved_is_the_mean_over_all_lists(k, ties):
    """Six foils, three drawn: all 20 lists written out and scored one by one."""
    S, match = random_scores(7, ties=ties), np.arange(7)
    for row in range(7):
        foils = [column for column in range(7) if column != row]
        lists = np.array([[row, *drawn] for drawn in combinations(foils, 3)])
        by_lists = topk_accuracy(S[row][lists], np.zeros(20, int), k=k)
        assert expected_solved(S, match, k=k, n_candidates=4)[row] == pytest.approx(by_lists)


@pytest.mark.parametrize("ties", [False, True])
def test_expected_topk_agrees_with_sampled_lists(ties):
    """4000 draws of 19 of 79 foils for every left: their mean differs by less than 4 standard errors."""
    n, n_draws, rng = 80, 4000, np.random.default_rng(1)
    S, match = random_scores(n, ties=ties), np.arange(80)
    accuracy = []
    for _ in range(n_draws):
        foils = np.argsort(rng.random((n, n - 1)), axis=1)[:, :19]
        foils += foils >= match[:, None]
        scores = np.take_along_axis(S, np.column_stack([match, foils]), axis=1)
        accuracy.append(topk_accuracy(scores, np.zeros(n, int)))
    error = np.std(accuracy) / np.sqrt(n_draws)
    assert abs(np.mean(accuracy) - expected_topk(S, match)) < 4 * error


@pytest.mark.parametrize("n_right", [20, 320, 1600])
def test_constant_scores_expect_exactly_chance(n_right):
    """Whichever list is drawn, constant scores solve it in 2 of 20 orders: 0.1, to the last bit."""
    S, match = np.zeros((1600, n_right), np.float32), np.arange(1600) % n_right
    assert (expected_solved(S, match) == 0.1).all()
    assert expected_topk(S, match) == 0.1
    assert expected_topk(S, match, k=1) == 0.05


def test_the_whole_gallery_as_one_list():
    """With as many candidates as rights there is one list, so the expectation is recall at k."""
    S, match = random_scores(30, ties=True), np.arange(30)
    assert expected_topk(S, match, k=5, n_candidates=30) == pytest.approx(recall_at_k(S, match, 5))


def test_perfect_and_inverse_scores():
    """Truth above all foils: always solved, rank 1. Below all 29: 19 drawn foils beat it always, rank 30."""
    S, match = np.eye(30), np.arange(30)
    assert expected_topk(S, match) == expected_topk(S, match, k=1) == mean_average_precision(S, match) == 1
    assert expected_topk(-S, match) == recall_at_k(-S, match, 29) == 0
    assert mid_rank(-S, match).tolist() == [30] * 30


# --- ranks


def test_ranks_of_tied_scores():
    """Three share ranks 1, 2, 3: the middle is 2, the mean of 1/rank (1 + 1/2 + 1/3)/3 = 11/18."""
    S, match = np.array([[5, 5, 5, 1]]), np.array([0])
    assert mid_rank(S, match).tolist() == [2]
    assert [recall_at_k(S, match, k) for k in (1, 2, 3, 4)] == [1 / 3, 2 / 3, 1, 1]
    assert reciprocal_rank(S, match)[0] == pytest.approx(11 / 18)


def test_mean_average_precision_by_hand():
    """Ranks 1, 2 and 4: (1 + 1/2 + 1/4) / 3 = 7/12."""
    S, match = np.array([[9, 1, 2, 3], [9, 5, 1, 2], [7, 8, 6, 1]]), np.array([0, 1, 3])
    assert mean_average_precision(S, match) == pytest.approx(7 / 12)


# --- errors


@pytest.mark.parametrize("function", [solved_on_candidates, expected_solved, mid_rank, mean_average_precision])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_have_no_rank(function, value):
    """Two bad scores, the first in row 3, column 5."""
    S = np.zeros((25, 25))
    S[3, 5] = S[7, 1] = value
    with pytest.raises(ValueError, match="2 scores are NaN or infinite, the first at row 3, column 5"):
        function(S, np.arange(25))


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ([0, 1, 4], "row 2: the truth is column 4"),
        ([0, -1, 2], "row 1: the truth is column -1"),
        ([0, 1], r"must be \(3,\) integers"),
        ([0.0, 1.0, 2.0], r"must be \(3,\) integers, got float64"),
    ],
)
def test_match_must_point_into_the_scores(match, message):
    with pytest.raises(ValueError, match=message):
        mid_rank(np.zeros((3, 4)), np.array(match))


def test_shape_k_and_gallery_are_checked():
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        mid_rank(np.zeros(3), np.arange(3))
    with pytest.raises(ValueError, match="not empty"):
        topk_accuracy(np.zeros((0, 20)), np.zeros(0, int))
    with pytest.raises(ValueError, match="k=21 must be from 1 to the number of candidates, 20"):
        expected_topk(np.eye(30), np.arange(30), k=21)
    with pytest.raises(ValueError, match="gallery of 19: pass n_candidates=19 or smaller"):
        expected_topk(np.eye(19), np.arange(19))


# --- intervals and tests


def test_interval_of_a_share():
    """A quarter of 400 solved: standard error √(0.25·0.75/400) = 0.02165, width 2 · 1.96 · that = 0.0849.

    Four times the lefts halve it. The interval encloses the mean, and a wider level is wider.
    """
    solved = np.repeat([1.0, 0, 0, 0], 100)
    low, high = bootstrap_interval(solved)
    assert low < 0.25 < high
    assert high - low == pytest.approx(0.0849, rel=0.05)
    low4, high4 = bootstrap_interval(np.tile(solved, 4))
    assert high4 - low4 == pytest.approx(0.0424, rel=0.05)
    low99, high99 = bootstrap_interval(solved, level=0.99)
    assert low99 < low < high < high99


def test_interval_is_repeatable():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_interval_covers_the_true_mean():
    """Of 100 samples of a uniform variable 95 intervals should hold 0.5; fewer than 88 is 3 sigma off."""
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.random(60), n_resamples=1000, seed=seed) for seed in range(100)]
    assert sum(low < 0.5 < high for low, high in intervals) >= 88


def test_paired_p_value_by_hand():
    """Three differences of 1: of 8 sign patterns 2 reach |sum| = 3, so p is 1/4. No difference: p is 1."""
    result = paired_test(np.ones(3), np.zeros(3))
    assert result.difference == 1
    assert result.interval95 == (1, 1)
    assert result.p_value == pytest.approx(0.25, abs=0.02)  # 4 standard errors of 10,000 coin tosses
    assert paired_test(np.ones(3), np.ones(3)).p_value == 1


def test_paired_test_sees_a_shift_and_its_direction():
    """A shift of 0.3 of one standard deviation in 400 lefts is 6 standard errors: no flip reaches it."""
    noise = np.random.default_rng(0).standard_normal(400)
    better, worse = noise + 0.3 + np.random.default_rng(1).standard_normal(400), noise
    result = paired_test(better, worse)
    assert result.p_value == pytest.approx(1 / 10_001)
    assert 0 < result.interval95[0] < result.difference < result.interval95[1]
    assert paired_test(worse, better).difference == pytest.approx(-result.difference)


def test_paired_p_value_is_uniform_without_a_shift():
    """80 pairs of alike methods: p < 1/2 in 40 ± 4.5 of them, p < 0.05 in 4 ± 2; bounds at 4 sigma."""
    rng = np.random.default_rng(0)
    p = np.array([paired_test(*rng.standard_normal((2, 30)), n_resamples=999).p_value for _ in range(80)])
    assert 22 <= np.sum(p < 0.5) <= 58
    assert np.sum(p < 0.05) <= 12


def test_paired_test_checks_its_values():
    with pytest.raises(ValueError, match="a has 3 lefts, b has 4"):
        paired_test(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="finite"):
        paired_test(np.array([0, np.nan]), np.zeros(2))


def test_resampling_2000_lefts_stays_small():
    """All 10,000 × 2000 resamples at once would be 160 MB."""
    values = np.random.default_rng(0).random(2000)
    tracemalloc.start()
    paired_test(values, np.zeros(2000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


# --- cross-validation

FOLDS = [(np.array([0, 1, 2, 3]), np.array([5, 4])), (np.array([4, 5]), np.array([0, 3, 1, 2]))]


def test_cross_validate_scores_every_row_by_its_own_fold():
    """Fold 1 tests rows 0, 3, 1, 2 with scores that fail only its third row, which is row 1 of the table.

    There one foil of three is better (rank 2), and a list of two holds it with chance 1/3: top-1 is 2/3.
    """
    seen = []

    def score(train_rows, test_rows):
        seen.append((train_rows.tolist(), test_rows.tolist()))
        S = np.eye(len(test_rows))
        if len(test_rows) == 4:
            S[2, 0] = 2
        return S

    table = cross_validate(score, FOLDS, n_candidates=2)
    assert seen == [(train.tolist(), test.tolist()) for train, test in FOLDS]
    assert table.columns.tolist() == ["fold", "gallery", "rank", "top1", "top2", "reciprocal_rank"]
    assert table.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert table["fold"].tolist() == [1, 1, 1, 1, 0, 0]
    assert table["gallery"].tolist() == [4, 4, 4, 4, 2, 2]
    assert table["rank"].tolist() == [1, 2, 1, 1, 1, 1]
    assert table["top1"].tolist() == [1, 2 / 3, 1, 1, 1, 1]
    assert table["top2"].tolist() == [1] * 6
    assert table["reciprocal_rank"].tolist() == [1, 0.5, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([FOLDS[0], (FOLDS[1][0], np.array([0, 3, 1]))], "row 2 is tested 0 times"),
        ([FOLDS[0], (FOLDS[1][0], np.array([0, 3, 1, 2, 1]))], "row 1 is tested 2 times"),
        ([FOLDS[0]], "row 0 is tested 0 times"),
        ([FOLDS[0], (np.array([4, 5, 3]), FOLDS[1][1])], "fold 1 trains on row 3, which it tests"),
    ],
)
def test_folds_must_test_every_row_once_and_unseen(folds, message):
    with pytest.raises(ValueError, match=message):
        cross_validate(lambda train, test: np.eye(len(test)), folds, n_candidates=2)


def test_cross_validate_wants_square_blocks():
    with pytest.raises(ValueError, match=r"fold 0: score returned \(2, 6\), expected \(2, 2\)"):
        cross_validate(lambda train, test: np.zeros((len(test), 6)), FOLDS, n_candidates=2)


def test_summary_of_constant_scores():
    """Chance everywhere: 0.1 and 0.05 exactly, no spread, and a mean 1/rank of H(25)/25 = 3.816/25."""
    summary = summarise(per_left(np.zeros((25, 25)), np.arange(25)))
    assert summary.pop("mean_reciprocal_rank") == pytest.approx(0.15264, abs=1e-5)
    low, high = summary.pop("interval95")
    assert low == pytest.approx(0.1) and high == pytest.approx(0.1)
    assert summary == {"expected_top2": 0.1, "expected_top1": 0.05, "n_left": 25}


def test_summary_is_the_mean_of_its_table():
    """Top-2 (1 + 0.5)/2, top-1 (1 + 0)/2, 1/rank (1 + 0.25)/2."""
    table = pd.DataFrame({"top1": [1.0, 0.0], "top2": [1.0, 0.5], "reciprocal_rank": [1.0, 0.25]})
    summary = summarise(table)
    assert (summary["expected_top2"], summary["expected_top1"]) == (0.75, 0.5)
    assert summary["mean_reciprocal_rank"] == 0.625
    assert summary["interval95"] == (0.5, 1.0)
