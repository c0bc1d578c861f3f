"""Fusions of matrices whose sums are known by hand; weights that can only come from the training pairs."""

import numpy as np
import pytest

from tll_utils.evaluation import expected_topk
from tll_utils.fusion import Gated, fit_weights, gated_sum, learned, report_sum, weighted_sum

# Here "images" are row numbers, so that a member can be any table.


class Side(list):
    pass


class Train:
    def __init__(self, n):
        self.left, self.right = Side(range(n)), Side(range(n))

    def __len__(self):
        return len(self.left)


def member(training, test):
    """A score function that knows both of its matrices."""
    return lambda train, left, right: np.asarray(training if left is train.left else test, np.float32)


def noisy(n, seed, strength):
    """Random scores with the truth `strength` standard deviations higher."""
    return (np.random.default_rng(seed).normal(size=(n, n)) + strength * np.eye(n)).astype(np.float32)


def test_weighted_sum_by_hand():
    """0.34·1 + 0.66·10 = 6.94 and 0.34·2 + 0.66·20 = 13.88."""
    S = weighted_sum([np.array([[1.0, 2.0]]), np.array([[10.0, 20.0]])], [0.34, 0.66])
    np.testing.assert_allclose(S, [[6.94, 13.88]], rtol=1e-6)
    assert S.dtype == np.float32


def test_any_number_of_matrices():
    """1·1 + 2·1 + 3·1 + 4·1 = 10."""
    assert weighted_sum([np.ones((2, 2))] * 4, [1, 2, 3, 4]).tolist() == [[10, 10], [10, 10]]


def test_report_sum_is_two_thirds_face():
    """0.34·1 + 0.66·(−2) = −0.98; with face weight 0.5 it is −0.5."""
    base, face = (lambda *_, value=value: np.full((1, 1), value) for value in (1.0, -2.0))
    np.testing.assert_allclose(report_sum(base, face)(None, None, None), [[-0.98]], rtol=1e-6)
    np.testing.assert_allclose(report_sum(base, face, face_weight=0.5)(None, None, None), [[-0.5]])


def test_gated_sum_by_hand():
    """Open: 1 + 2·(−0.5 + 0.75) = 1.5. Closed: the base, 4, whatever stands behind the gate."""
    S = gated_sum(np.array([[1.0, 4.0]]), np.array([[-0.5, np.nan]]), np.array([[True, False]]), weight=2, offset=0.75)
    np.testing.assert_allclose(S, [[1.5, 4]])


@pytest.mark.parametrize(
    "matrices, weights, message",
    [
        ([np.ones((2, 2))], [1, 2], "1 matrices and 2 weights"),
        ([], [], "0 matrices"),
        ([np.ones((2, 2)), np.ones((2, 3))], [1, 1], r"shapes \[\(2, 2\), \(2, 3\)\]"),
        ([np.ones((2, 2)), np.full((2, 2), np.nan)], [1, 1], "matrix 1 holds NaN"),
    ],
)
def test_what_cannot_be_summed_is_said(matrices, weights, message):
    with pytest.raises(ValueError, match=message):
        weighted_sum(matrices, weights)


EMBEDDINGS = np.array([[0.0], [3.0], [100.0], [5.0]])
HAS = np.array([True, True, False, True])


def some_have(images):
    return EMBEDDINGS[list(images)], HAS[list(images)]


def test_gated_matrices_by_hand():
    """Both sides train on 0, 3, 5 (row 2 has none), so each is centred on 8/3 and distances stay |a − b|.
    Left 0 and right 1: both, −3. Left 0 and right 2: nothing. Left 2 (none): right 1 has one, right 2 has none."""
    train = Train(4)
    S, both, only_right = Gated(some_have).matrices(train, [0, 2], [1, 2, 3])
    np.testing.assert_allclose(S, [[-3, 0, -5], [0, 0, 0]], atol=1e-6)
    assert both.tolist() == [[True, False, True], [False, False, False]]
    assert only_right.tolist() == [[False, False, False], [True, False, True]]


def test_each_side_is_centred_on_those_that_have_the_feature():
    """Left trains on 0 and 3, mean 1.5, right on 5: 0 − 1.5 = −1.5 and 3 − 5 = −2 are 0.5 apart."""
    train = Train(2)
    train.left, train.right = [0, 1, 2], [2, 3, 2]
    np.testing.assert_allclose(Gated(some_have).matrices(train, [0], [1])[0], [[-0.5]])


def test_nobody_has_the_feature():
    """No face on either side: all three matrices are zero and the fusion is that of the other member."""
    nobody = Gated(lambda images: (np.zeros((len(images), 1)), np.zeros(len(images), bool)))
    train, S = Train(30), noisy(30, 0, 2)
    assert not any(matrix.any() for matrix in nobody.matrices(train, train.left, train.right))
    alone, both = (
        learned(*members)(train, train.left, train.right) for members in ([member(S, S)], [member(S, S), nobody])
    )
    np.testing.assert_allclose(alone, both, rtol=1e-3, atol=1e-4)


def test_weight_of_noise_is_small_and_of_signal_large():
    """One matrix knows the truth, one is noise."""
    signal, noise = fit_weights([noisy(60, 1, 2), noisy(60, 2, 0)])
    assert signal > 1 and abs(noise) < 0.2 * signal


def test_a_misleading_member_gets_a_negative_weight():
    assert fit_weights([-noisy(60, 1, 2)])[0] < -1


def test_two_members_beat_each_alone():
    """Independent noise: together 1.5 and 1.5 are √2 · 1.5 standard deviations."""
    a, b = noisy(200, 1, 1.5), noisy(200, 2, 1.5)
    fused = learned(member(a, a), member(b, b))(Train(200), None, None)
    match = np.arange(200)
    assert expected_topk(fused, match) > max(expected_topk(S, match) for S in (a, b)) + 0.1


def test_fitted_weights_do_not_hang_on_where_the_search_starts():
    """The loss is convex: a matrix twice as large gets half the weight, nearly (the penalty differs)."""
    S = noisy(100, 3, 1.5)
    assert 2 * fit_weights([2 * S])[0] == pytest.approx(fit_weights([S])[0], rel=0.05)


def test_weights_are_learned_from_the_training_pairs_only():
    """The same training matrices and another test side, in which the roles of signal and noise are exchanged:
    each test score must still be the same function of its own two entries."""
    train = Train(60)
    signal, noise = noisy(60, 1, 2), noisy(60, 2, 0)
    test_a, test_b = np.eye(5, dtype=np.float32), np.ones((5, 5), np.float32)
    scores = [
        learned(member(signal, first), member(noise, second))(train, list(range(5)), list(range(5)))
        for first, second in ((test_a, test_b), (test_a[:2, :2], test_b[:2, :2]))
    ]
    np.testing.assert_array_equal(scores[0][:2, :2], scores[1])
    swapped = learned(member(signal, test_b), member(noise, test_a))(train, [0], [0])
    assert np.ptp(scores[0][0]) > 5 * np.ptp(swapped[0])


def test_too_few_pairs_to_learn_from_count_every_member_once():
    """19 pairs, no candidate list: weights one, the constants of a gated member zero."""
    n = 19
    assert fit_weights([np.eye(n)] * 3, plain=[True, False, False]).tolist() == [1, 0, 0]


def test_result_is_finite_where_features_are_missing():
    train = Train(4)
    everything = learned(member(np.eye(4), np.eye(4)), Gated(some_have))(train, [0, 1, 2, 3], [0, 1, 2, 3])
    assert np.isfinite(everything).all() and everything.dtype == np.float32


def test_a_mixture_weights_members_by_group():
    """The first half of the lefts is known to one matrix, the second to the other: no common weights serve both."""
    n, halves = 120, np.arange(120) < 60
    signal = [np.where((halves if first else ~halves)[:, None], noisy(n, 1, 3), noisy(n, 2, 0)) for first in (1, 0)]
    members = [member(S, S) for S in signal]

    def groups(train, images):
        return halves.astype(int)

    match = np.arange(n)
    common, mixed = (expected_topk(learned(*members, groups=by)(Train(n), None, None), match) for by in (None, groups))
    assert mixed > common + 0.05


def test_a_group_not_seen_in_training_gets_the_common_weights():
    S = noisy(60, 1, 2)
    train = Train(60)

    def groups(train_pairs, images):
        return np.zeros(60, int) if images is train.left else np.full(len(images), 7)

    common = learned(member(S, S[:5]), groups=groups)(train, list(range(5)), None)
    own = learned(member(S, S[:5]), groups=lambda train, images: np.zeros(len(images), int))
    ratio = own(train, list(range(5)), None) / common
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)
    assert ratio[0, 0] > 1
