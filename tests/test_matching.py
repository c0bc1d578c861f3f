"""One-to-one decoding on graphs small enough to count every matching, and on planted scores."""

import time
from itertools import permutations

import numpy as np
import pytest

from tll_utils import matching
from tll_utils.dataset import Queries
from tll_utils.evaluation import bootstrap_interval, paired_test, solved_on_candidates, summarise
from tll_utils.matching import (
    belief_propagation,
    calibrated_temperature,
    cross_validate_one_to_one,
    decode_queries,
    draw_candidates,
    exact_assignment,
    local_scaling,
    out_of_fold,
    sinkhorn,
    solved_one_to_one,
)

ONE_TO_ONE = [belief_propagation, sinkhorn, exact_assignment]
DECODERS = [*ONE_TO_ONE, local_scaling]


def everything(S):
    """Scores and candidates where each left lists every right."""
    return S, np.tile(np.arange(S.shape[1]), (len(S), 1))


def planted(n, strength, seed):
    """Log-likelihood ratios of a Gaussian model: foils N(0, d²), truths d² higher, so the true temperature is 1."""
    S = strength * np.random.default_rng(seed).standard_normal((n, n))
    return S + strength**2 * np.eye(n)


def lists_of(S, seed=0):
    candidates, truth = draw_candidates(len(S), np.random.default_rng(seed))
    return np.take_along_axis(S, candidates, axis=1), candidates, truth


def matchings(S, n_right):
    """Every matching of all lefts: (columns, sum of scores)."""
    rows = np.arange(len(S))
    return [(columns, S[rows, columns].sum()) for columns in map(list, permutations(range(n_right), len(S)))]


# --- decoders -------------------------------------------------------------------


def test_two_by_two_by_hand():
    """Matchings: diagonal 2 + 0 = 2, other 1.5 + 1 = 2.5. Left 0 likes right 0 best, yet left 1 needs it more.

    Forced onto right 0, left 0 makes the sum 2, 0.5 below the best. The chance of the diagonal is
    1 / (1 + e^0.5): log-odds −0.5 for its pairs, 0.5 for the others.
    """
    S, candidates = everything(np.array([[2.0, 1.5], [1.0, 0.0]]))
    np.testing.assert_allclose(exact_assignment(S, candidates, n_right=2), [[-0.5, 0], [0, -0.5]], atol=1e-8)
    probability = 1 / (1 + np.exp(0.5))
    plan = np.exp(sinkhorn(S, candidates, n_right=2))
    # A plan of two by two keeps the cross ratio p² / (1 − p)² = e^(2 − 2.5), so p / (1 − p) = e^−0.25.
    np.testing.assert_allclose(plan[0, 0], 1 / (1 + np.exp(0.25)), atol=1e-3)
    assert plan[0, 1] > plan[0, 0] and probability < 0.5
    assert (belief_propagation(S, candidates, n_right=2).argmax(axis=1) == [1, 0]).all()


def test_belief_propagation_is_exact_on_a_tree():
    """Lists 0: {a, b}, 1: {b, c} form a chain a–0–b–1–c, with one right more than lefts.

    Matchings: ab→ 0a 1b: 1 + 2 = 3; 0a 1c: 1 + 0 = 1; 0b 1c: 0 + 0 = 0. The odds of 0a are (e³ + e¹) / e⁰,
    of 1b e³ / (e¹ + e⁰).
    """
    scores, candidates = np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[0, 1], [1, 2]])
    log_odds = belief_propagation(scores, candidates, n_right=3)
    np.testing.assert_allclose(log_odds[0, 0], np.log(np.e**3 + np.e), atol=0.01)
    np.testing.assert_allclose(log_odds[1, 0], np.log(np.e**3 / (np.e + 1)), atol=0.01)


@pytest.mark.parametrize("n_right", [5, 6])
def test_exact_assignment_is_brute_force(n_right):
    """Every pair: the greatest sum of the 120 (or 720) matchings with it, minus the greatest of all."""
    S, candidates = everything(np.random.default_rng(n_right).standard_normal((5, n_right)))
    all_matchings = matchings(S, n_right)
    best = max(total for _, total in all_matchings)
    expected = [
        [max(total for columns, total in all_matchings if columns[i] == j) - best for j in range(n_right)]
        for i in range(5)
    ]
    np.testing.assert_allclose(exact_assignment(S, candidates, n_right=n_right), expected, atol=1e-7)


def test_belief_propagation_is_near_the_true_probabilities():
    """Against the sum over all 720 matchings of 6 × 6, the worst case for it: the graph is full of loops."""
    S, candidates = everything(np.random.default_rng(1).standard_normal((6, 6)))
    weight = np.zeros((6, 6))
    for columns, total in matchings(S, 6):
        weight[np.arange(6), columns] += np.exp(total)
    probability = weight / weight.sum(axis=1, keepdims=True)
    decoded = 1 / (1 + np.exp(-belief_propagation(S, candidates, n_right=6)))
    np.testing.assert_allclose(decoded, probability, atol=0.06)
    assert np.abs(np.exp(sinkhorn(S, candidates, n_right=6)) - probability).max() < 0.2


def test_sinkhorn_rows_and_columns_sum_to_one():
    """A sparse 60 × 60 graph; with 10 rights more than lefts columns hold at most 1 and all together 60."""
    scores, candidates, _ = lists_of(planted(60, 1.0, seed=0))
    for n_right in (60, 70):
        plan = np.exp(sinkhorn(scores, candidates, n_right=n_right))
        columns = np.bincount(candidates.ravel(), plan.ravel())
        np.testing.assert_allclose(plan.sum(axis=1), 1)
        assert columns.max() < 1.01
        if n_right == 60:
            np.testing.assert_allclose(columns, 1, atol=0.01)


def test_local_scaling_by_hand():
    """Rights are liked by 2, 1 (k = 1: their best); lefts like 2, 1 best: 2·2 − 2 − 2 = 0, 2·0 − 2 − 1 = −3, …"""
    S, candidates = everything(np.array([[2.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(local_scaling(S, candidates, n_right=2, k=1), [[0, -3], [-1, 0]])


@pytest.mark.parametrize("decode", DECODERS)
def test_constant_scores_are_exactly_chance_where_lists_say_nothing(decode):
    """Each right in 20 of 50 lists, lists i … i + 19: nothing tells the candidates apart, top-2 is 2 / 20."""
    candidates = (np.arange(50)[:, None] + np.arange(20)) % 50
    decoded = decode(np.zeros((50, 20)), candidates, n_right=50).round(6)
    np.testing.assert_allclose(solved_on_candidates(decoded, np.zeros(50, int)), 0.1)


def test_random_lists_alone_say_something():
    """A right in few lists is more probably the truth of each: 0.15 by simulation; CSLS does not see it."""
    none = np.zeros((300, 300))
    assert 0.135 < solved_one_to_one(none, belief_propagation, n_draws=5).top2.mean() < 0.165
    assert solved_one_to_one(none, local_scaling, n_draws=5).top2.mean() == pytest.approx(0.1)


@pytest.mark.parametrize("decode", DECODERS)
def test_order_of_lefts_rights_and_candidates_does_not_matter(decode):
    scores, candidates, _ = lists_of(planted(40, 1.5, seed=3))
    rng = np.random.default_rng(4)
    lefts, rights, places = (rng.permutation(n) for n in (40, 40, 20))
    shuffled = decode(scores[lefts][:, places], rights[candidates[lefts][:, places]], n_right=40)
    np.testing.assert_allclose(shuffled, decode(scores, candidates, n_right=40)[lefts][:, places], atol=1e-6)


@pytest.mark.parametrize("decode", ONE_TO_ONE)
def test_decoding_helps_where_truths_are_one_to_one(decode):
    """Inductive 0.72 becomes 0.76 or more on 300 planted pairs."""
    scores, candidates, truth = lists_of(planted(300, 2.0, seed=5))
    before = solved_on_candidates(scores, truth).mean()
    after = solved_on_candidates(decode(scores, candidates, n_right=300), truth).mean()
    assert after > before + 0.03


@pytest.mark.parametrize("decode", ONE_TO_ONE)
def test_repeated_right_is_lost_by_one_of_its_lefts(decode):
    """Right 0 is the truth of lefts 0 and 1, and no other: the weaker claim, 3 < 4, is talked into a foil."""
    S = np.array([[4.0, 0, 0], [3.0, 0, 0], [0, 0, 4.0]])
    decoded = decode(*everything(S), n_right=3)
    assert S.argmax(axis=1).tolist() == [0, 0, 2]
    assert decoded.argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("decode", ONE_TO_ONE)
def test_same_picture_under_two_ids_stays_among_the_best_two(decode):
    """Rights 0 and 1 are the same picture, truths of lefts 0 and 1: scores tie, and so do the decoded ones."""
    S = np.array([[4.0, 4, 0, 1], [4.0, 4, 1, 0], [0, 0, 4, 1], [0, 0, 1, 4]])
    decoded = decode(*everything(S), n_right=4)
    np.testing.assert_allclose(decoded[:2, 0], decoded[:2, 1], atol=1e-3)
    np.testing.assert_allclose(solved_on_candidates(decoded.round(2), np.arange(4)), 1)


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("scale", [0.0, 1e-8, 1e5])
def test_any_scale_and_graphs_without_a_matching_give_finite_scores(decode, scale):
    """Lefts 0, 1, 2 all list only rights 0 and 1: one must go without; right 2 is listed once, right 3 never."""
    candidates = np.array([[0, 1], [0, 1], [1, 0], [1, 2]])
    decoded = decode(scale * np.array([[2.0, 1], [1, 0], [0, 2], [0, 1]]), candidates, n_right=4)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("decode", [belief_propagation, sinkhorn])
def test_time_is_linear_in_the_candidates(decode, monkeypatch):
    """Four times the lefts with 20 candidates each: five rounds take about four times as long, not sixteen times."""
    monkeypatch.setattr(matching, "MAX_ITERATIONS", 5)

    def seconds(n):
        candidates = (np.arange(n)[:, None] + np.arange(20) * 7) % n
        scores = np.random.default_rng(1).standard_normal((n, 20))
        started = time.perf_counter()
        decode(scores, candidates, n_right=n)
        return time.perf_counter() - started

    assert min(seconds(8000) for _ in range(3)) < 12 * min(seconds(2000) for _ in range(3))


@pytest.mark.parametrize(
    ("scores", "candidates", "n_right", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3), int), 5, r"\(2, 2\) and candidates \(2, 3\)"),
        (np.array([[0, np.nan]]), np.array([[0, 1]]), 2, "row 0, column 1: the score is nan"),
        (np.zeros((1, 2)), np.array([[0, 2]]), 2, "columns 0 … 2, there are 2 rights"),
        (np.zeros((2, 2)), np.array([[0, 1], [1, 1]]), 2, "row 1 lists a candidate twice"),
        (np.zeros((3, 2)), np.tile([0, 1], (3, 1)), 2, "3 lefts cannot have 2 rights"),
    ],
)
@pytest.mark.parametrize("decode", DECODERS)
def test_wrong_graphs_are_named(decode, scores, candidates, n_right, message):
    with pytest.raises(ValueError, match=message):
        decode(scores, candidates, n_right=n_right)


# --- measuring ------------------------------------------------------------------


def test_lists_hold_the_truth_once_and_are_drawn_evenly():
    """Of 200 pairs each right is in 20 lists on average; its 19 foreign ones scatter by √(19 · (1 − 19/199)) = 4.1."""
    candidates, truth = draw_candidates(200, np.random.default_rng(0))
    assert (np.sort(candidates)[:, 1:] > np.sort(candidates)[:, :-1]).all()
    assert (candidates[np.arange(200), truth] == np.arange(200)).all()
    degree = np.bincount(candidates.ravel(), minlength=200)
    assert degree.mean() == 20 and 3.5 < degree.std() < 4.8
    assert 8.5 < truth.mean() < 10.5  # 9.5 where all 20 places are alike
    with pytest.raises(ValueError, match="19 pairs: a list of 20"):
        draw_candidates(19, np.random.default_rng(0))


def test_temperature_of_planted_scores_is_known():
    """Log-likelihood ratios have temperature 1; the same times 7 have 7."""
    blocks = [planted(300, 2.0, seed=seed) for seed in range(3)]
    assert calibrated_temperature(blocks) == pytest.approx(1, abs=0.15)
    assert calibrated_temperature([7 * S for S in blocks]) == pytest.approx(
        7 * calibrated_temperature(blocks), rel=1e-3
    )


def test_every_draw_counts_and_seeds_repeat():
    S = planted(60, 2.0, seed=0)
    table = solved_one_to_one(S, belief_propagation, n_draws=2, seed=1)
    rng, solved = np.random.default_rng(1), []
    for _ in range(2):
        candidates, truth = draw_candidates(60, rng)
        decoded = belief_propagation(np.take_along_axis(S, candidates, axis=1), candidates, n_right=60)
        solved.append(solved_on_candidates(decoded, truth))
    np.testing.assert_allclose(table.top2, np.mean(solved, axis=0))
    assert (table.gallery == 20).all()


def two_folds(n):
    first, second = np.arange(0, n, 2), np.arange(1, n, 2)
    return [(second, first), (first, second)]


def test_cross_validated_table_fits_intervals_and_tests():
    """Rows keep their number: even rows are those of the strong block, odd ones those of the weak one."""
    blocks = [planted(60, 3.0, seed=0), planted(60, 1.0, seed=1)]
    table = cross_validate_one_to_one(blocks, two_folds(120), n_draws=5)
    assert table.index.tolist() == list(range(120)) and table.fold.tolist() == [0, 1] * 60
    assert table.top2[::2].mean() > 0.9 and table.top2[1::2].mean() < 0.6
    low, high = bootstrap_interval(table.top2, n_resamples=500)
    assert low < summarise(table)["expected_top2"] < high
    assert paired_test(table.top2, table.top1, n_resamples=500).difference > 0


def test_a_folds_own_truth_does_not_set_its_temperature(monkeypatch):
    """Each fold asks for the temperature of all blocks but its own."""
    asked = []
    monkeypatch.setattr(matching, "calibrated_temperature", lambda blocks, **_: asked.append(blocks) or 1.0)
    blocks = [planted(30, 2.0, seed=seed) for seed in (0, 1)]
    cross_validate_one_to_one(blocks, two_folds(60), n_draws=1)
    assert asked[0][0] is blocks[1] and asked[1][0] is blocks[0] and len(asked[0]) == len(asked[1]) == 1


class FakePairs:
    """Pairs whose "images" are their own embeddings."""

    def __init__(self, left, right):
        self.left, self.right = left, right

    def take(self, rows):
        return FakePairs(self.left[rows], self.right[rows])


def test_queries_are_decoded_at_the_temperature_of_the_training_pairs():
    """The method scores by product; ten times the scores have ten times the temperature and decode alike."""
    rng = np.random.default_rng(0)
    left = rng.standard_normal((140, 8))
    right = left + 1.5 * rng.standard_normal((140, 8))
    train = FakePairs(left[:80], right[:80])
    candidates, truth = draw_candidates(60, rng)
    queries = Queries(left[80:], right[80:], candidates)

    def method(factor):
        return lambda train, left, right: factor * left @ right.T

    blocks = out_of_fold(method(1), train, two_folds(80))
    np.testing.assert_array_equal(blocks[0], train.left[::2] @ train.right[::2].T)
    decoded = decode_queries(method(1), train, queries, two_folds(80))
    inductive = np.take_along_axis(queries.left @ queries.right.T, candidates, axis=1)
    assert solved_on_candidates(decoded, truth).mean() > solved_on_candidates(inductive, truth).mean()
    np.testing.assert_allclose(decode_queries(method(10), train, queries, two_folds(80)), decoded, atol=0.05)
