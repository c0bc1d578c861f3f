"""Metrics against hand-derived values, brute force, and sampling."""

from itertools import combinations

import numpy as np
import pytest

from tll_utils.evaluation.metrics import (
    expected_solved,
    expected_topk,
    mean,
    mid_rank,
    per_left,
    solved_on_candidates,
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
    assert [topk_accuracy(scores, truth, k=k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_top_k_shares_a_place_among_tied_candidates():
    """One candidate is better, two tie with the truth, which comes second, third or fourth, each in 1 of 3."""
    scores, truth = np.array([[5, 9, 5, 5, 1]]), np.array([0])
    solved = [solved_on_candidates(scores, truth, k=k)[0] for k in (1, 2, 3, 4)]
    assert solved == pytest.approx([0, 1 / 3, 2 / 3, 1])


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
    np.testing.assert_allclose(expected_solved(S, match, k=1, n_candidates=3), [1 / 3, 0, 1 / 6], atol=1e-12)
    np.testing.assert_allclose(expected_solved(S, match, k=2, n_candidates=3), [1, 2 / 3, 5 / 6], atol=1e-12)
    np.testing.assert_allclose(expected_solved(S, match, n_candidates=3), [1, 2 / 3, 5 / 6], atol=1e-12)  # k is 2


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_expected_solved_is_the_mean_over_all_lists(k, ties):
    """Six foils, three drawn: all 20 lists written out and scored one by one."""
    S, match = random_scores(7, ties=ties), np.arange(7)
    for row in range(7):
        foils = [column for column in range(7) if column != row]
        lists = np.array([[row, *drawn] for drawn in combinations(foils, 3)])
        by_lists = topk_accuracy(S[row][lists], np.zeros(20, int), k=k)
        assert expected_solved(S, match, k=k, n_candidates=4)[row] == pytest.approx(by_lists, abs=1e-11)


@pytest.mark.parametrize("ties", [False, True])
def test_expected_topk_agrees_with_sampled_lists(ties):
    """1000 draws of 19 of 79 foils for every left: their mean differs by less than 4 standard errors."""
    n, n_draws, rng = 80, 1000, np.random.default_rng(1)
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
    """Whichever list is drawn, constant scores solve it in k of 20 orders, to the last bit: no 0.09999999999999996."""
    S, match = np.zeros((1600, n_right), np.float32), np.arange(1600) % n_right
    for k in (1, 2, 3, 7):
        assert (expected_solved(S, match, k=k) == k / 20).all()
        assert expected_topk(S, match, k=k) == k / 20


def test_the_whole_gallery_as_one_list():
    """With as many candidates as rights there is one list, the gallery."""
    S, match = random_scores(30, ties=True), np.arange(30)
    in_gallery = solved_on_candidates(S, match, k=5)
    np.testing.assert_allclose(expected_solved(S, match, k=5, n_candidates=30), in_gallery, atol=1e-12)


def test_perfect_and_inverse_scores():
    """Truth above all foils: always solved, rank 1. Below all 29: 19 drawn foils beat it always, rank 30."""
    S, match = np.eye(30), np.arange(30)
    assert expected_topk(S, match) == expected_topk(S, match, k=1) == 1
    assert mid_rank(S, match).tolist() == [1] * 30
    assert expected_topk(-S, match) == topk_accuracy(-S, match, k=29) == 0
    assert mid_rank(-S, match).tolist() == [30] * 30


# --- ranks


def test_ranks_of_tied_scores():
    """Three share ranks 1, 2, 3: the middle is 2."""
    S, match = np.array([[5, 5, 5, 1]]), np.array([0])
    assert mid_rank(S, match).tolist() == [2]


def test_ranks_by_hand():
    """Ranks 1, 2 and 4."""
    S, match = np.array([[9, 1, 2, 3], [9, 5, 1, 2], [7, 8, 6, 1]]), np.array([0, 1, 3])
    assert mid_rank(S, match).tolist() == [1, 2, 4]


def test_table_per_left():
    """Rank 2 of 3 in lists of two: the better foil is drawn in 1 of 2, top-1 1/2, top-2 always."""
    table = per_left(np.array([[1, 2, 0], [0, 5, 0]]), np.array([0, 1]), n_candidates=2)
    assert table.columns.tolist() == ["gallery", "rank", "top1", "top2"]
    assert table.to_numpy().tolist() == [[3, 2, 0.5, 1], [3, 1, 1, 1]]


@pytest.mark.parametrize("n", [3, 7, 1600])
def test_mean_of_a_constant_is_the_constant(n):
    """NumPy's own mean of three 0.1 is 0.10000000000000002."""
    assert [mean(np.full(n, value)) for value in (0.1, 0.05, 0.35)] == [0.1, 0.05, 0.35]


# --- numerics


def test_identical_images_share_their_places():
    """Rights 0 and 1 are one picture, truths of lefts 0 and 1: each is first in half of the orders, second else."""
    S = np.array([[5, 5, 1], [5, 5, 1], [0, 0, 9]])
    table = per_left(S, np.arange(3), n_candidates=3)
    assert table.to_numpy().tolist() == [[3, 1.5, 0.5, 1], [3, 1.5, 0.5, 1], [3, 1, 1, 1]]


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_do_not_depend_on_type_or_memory(ties):
    """Float32, whole numbers, column order, every second row, read-only, lists: the same table."""
    S, match = (8 * random_scores(25, ties=ties)).round().astype(np.float32), np.arange(25)
    expected = per_left(S, match)
    views = [S.astype(float), S.astype(np.int8), np.asfortranarray(S), np.repeat(S, 2, axis=0)[::2]]
    for view in views:
        view.flags.writeable = False
        assert per_left(view, match.astype(np.uint8)).equals(expected)
    assert per_left(S.tolist(), match.tolist()).equals(expected)


def test_means_are_taken_in_float64():
    """10⁸ and 10⁸ + 8 are neighbours in float32; their mean lies between."""
    assert mean(np.array([1e8, 1e8 + 8], np.float32)) == 1e8 + 4


def test_one_left_and_one_candidate():
    """A list of one holds the truth alone; a list of two its only foil, which is better here."""
    assert topk_accuracy([[0.3]], [0], k=1) == expected_topk([[0.3]], [0], k=1, n_candidates=1) == 1
    assert mid_rank([[0.3]], [0]).tolist() == [1]
    assert expected_topk([[0, 1]], [0], k=1, n_candidates=2) == 0


# --- errors


@pytest.mark.parametrize("function", [solved_on_candidates, expected_solved, mid_rank])
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
    with pytest.raises(ValueError, match="k=0 must be from 1"):
        solved_on_candidates(np.eye(20), np.arange(20), k=0)
    with pytest.raises(ValueError, match="gallery of 19: pass n_candidates=19 or smaller"):
        expected_topk(np.eye(19), np.arange(19))
