"""Fusions of matrices whose sums are known by hand; weights that can only come from the training pairs."""

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.base import BaseEstimator

from conftest import Vectors, values
from tll_utils.data.pairs import Pairs
from tll_utils.evaluation.metrics import expected_topk
from tll_utils.methods.base import Method
from tll_utils.methods.fusion import PENALTY, Column, Gated, LearnedFusion, fit_weights

NAN = np.nan


class Table(Method):
    """Left i and right j, whose values are their numbers, score S[i, j]."""

    def __init__(self, S):
        self.S = S

    def fit(self, train):
        return self

    def scores(self, left, right):
        lefts, rights = (images.values[:, 0].astype(int) for images in (left, right))
        return np.asarray(self.S, np.float32)[np.ix_(lefts, rights)]


class Halves(BaseEstimator):
    """Group of an image: its number divided by `size`, whole, and never more groups than training pairs."""

    def __init__(self, size):
        self.size = size

    def fit(self, train):
        self.greatest_ = len(train) - 1
        return self

    def predict(self, left):
        return np.minimum(left.values[:, 0].astype(int) // self.size, self.greatest_)


def numbers(start, stop):
    return Vectors(np.arange(start, stop)[:, None])


def pairs(start, stop):
    return Pairs(numbers(start, stop), numbers(start, stop))


def column(*rows):
    return Vectors(np.array(rows)[:, None])


def noisy(n, seed, strength):
    """Random scores with the truth `strength` standard deviations higher."""
    return (np.random.default_rng(seed).normal(size=(n, n)) + strength * np.eye(n)).astype(np.float32)


def joined(*blocks):
    """The blocks on the diagonal of one matrix: scores of pairs of which some are for training, others not."""
    S = np.zeros((sum(map(len, blocks)),) * 2, np.float32)
    start = 0
    for block in blocks:
        S[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    return S


# --- gated members --------------------------------------------------------------


def test_gated_columns_by_hand():
    """Both sides train on 0, 3, 5 (row 2 has none), so each is centred on 8/3 and distances stay |a − b|.
    Left 0 and right 3: both, −3. Left 0 and none: nothing. Left none: rights 3 and 5 have one, the other has none."""
    gated = Gated(values).fit(Pairs(column(0, 3, NAN, 5), column(0, 3, NAN, 5)))
    S, both, only_right = gated.columns(column(0, NAN), column(3, NAN, 5))
    np.testing.assert_allclose(S.S, [[-3, 0, -5], [0, 0, 0]], atol=1e-6)
    assert S.where.tolist() == both.S.tolist() == [[True, False, True], [False, False, False]]
    assert only_right.S.tolist() == [[False, False, False], [True, False, True]]
    assert [part.is_constant for part in (S, both, only_right)] == [False, True, True]
    assert S.S.dtype == np.float32


def test_each_side_is_centred_on_those_that_have_the_feature():
    """Left trains on 0 and 3, mean 1.5, right on 5: 0 − 1.5 = −1.5 and 3 − 5 = −2 are 0.5 apart."""
    gated = Gated(values).fit(Pairs(column(0, 3, NAN), column(NAN, 5, NAN)))
    np.testing.assert_allclose(gated.columns(column(0), column(3))[0].S, [[-0.5]])


def test_every_feature_is_centred_by_itself():
    """Means (1, 20) of the left and (0, 0) of the right: (1, 20) becomes (0, 0), which is 5 from (3, 4)."""
    gated = Gated(values).fit(Pairs(Vectors([[0, 10], [2, 30]]), Vectors([[0, 0], [0, 0]])))
    np.testing.assert_allclose(gated.columns(Vectors([[1, 20]]), Vectors([[3, 4]]))[0].S, [[-5]])


def test_a_feature_no_training_image_has_is_compared_uncentred():
    """Its column cannot be standardised by training scores, so it keeps its values."""
    train = Pairs(column(NAN, NAN), column(NAN, NAN))
    gated = Gated(values).fit(train)
    S = gated.columns(column(1), column(5))[0]
    np.testing.assert_allclose(S.S, [[-4]])
    scale = gated.columns(train.left, train.right)[0].scale()
    np.testing.assert_allclose(S.standardised(scale), [[-4]])


def test_a_column_is_standardised_where_it_counts():
    """Of 2, 4 and 100 the last does not count: mean 3, standard deviation 1; what does not count becomes 0.
    Constants stay 0 and 1."""
    gated = Gated(values).fit(Pairs(column(0, 0), column(0, 0)))
    S, both, _ = gated.columns(column(0), column(2, NAN, 4))
    np.testing.assert_allclose(S.standardised(S.scale()), [[1, 0, -1]])
    np.testing.assert_allclose(both.standardised(both.scale()), [[1, 0, 1]])


def test_scale_by_hand():
    """1 and 5: mean 3, deviation 2. A single value, or one value everywhere, has no deviation to divide by."""
    S = Column(np.array([[1, 5]]))
    assert S.scale() == (3, 2)
    np.testing.assert_array_equal(S.standardised((3, 2)), [[-1, 1]])
    assert S.standardised((3, 2)).dtype == np.float32
    assert Column(np.array([[7]])).scale() == Column(np.full((2, 3), 7, np.float32)).scale() == (7, 1)


def test_scale_of_scores_far_from_zero():
    """10⁸ and 10⁸ + 8 are neighbours in float32: their mean and deviation need float64."""
    assert Column(np.array([[1e8, 1e8 + 8]], np.float32)).scale() == (1e8 + 4, 4)


def test_a_feature_of_no_image_changes_nothing():
    """No face on either side: all three columns are zero and the fusion is that of the other member."""
    train, member = pairs(0, 30), Table(noisy(30, 0, 2))
    nobody = Gated(lambda images: np.full((len(images), 1), NAN, np.float32))
    assert not any(column.S.any() for column in nobody.fit(train).columns(train.left, train.right))
    alone, both = (LearnedFusion(m).fit(train).scores(train.left, train.right) for m in ([member], [member, nobody]))
    np.testing.assert_allclose(alone, both, rtol=1e-3, atol=1e-4)


# --- weights --------------------------------------------------------------------


def test_weight_by_hand():
    """Every truth is one above its foils: the loss is log(1 + 19 e^−w) + PENALTY w², flat where
    19 e^−w / (1 + 19 e^−w) = 2 PENALTY w, however many foils there are."""
    expected = brentq(lambda w: 19 * np.exp(-w) / (1 + 19 * np.exp(-w)) - 2 * PENALTY * w, 1, 20)
    for n in (20, 50):
        np.testing.assert_allclose(fit_weights([np.eye(n)], np.ones(1)), expected, rtol=1e-3)


def test_weight_of_noise_is_small_and_of_signal_large():
    """One matrix knows the truth, one is noise."""
    signal, noise = fit_weights([noisy(60, 1, 2), noisy(60, 2, 0)], np.ones(2))
    assert signal > 1 and abs(noise) < 0.2 * signal


def test_a_misleading_member_gets_a_negative_weight():
    assert fit_weights([-noisy(60, 1, 2)], np.ones(1))[0] < -1


def test_fitted_weights_do_not_depend_on_where_the_search_starts():
    """The loss is convex."""
    S = [noisy(100, 3, 1.5), noisy(100, 4, 0.5)]
    a, b = (fit_weights(S, np.array(start)) for start in ([1.0, 1.0], [-2.0, 3.0]))
    np.testing.assert_allclose(a, b, rtol=1e-2)


def test_two_members_beat_each_alone():
    """Independent noise: together 1.5 and 1.5 are √2 · 1.5 standard deviations."""
    a, b = noisy(200, 1, 1.5), noisy(200, 2, 1.5)
    train = pairs(0, 200)
    fused = LearnedFusion([Table(a), Table(b)]).fit(train).scores(train.left, train.right)
    match = np.arange(200)
    assert expected_topk(fused, match) > max(expected_topk(S, match) for S in (a, b)) + 0.1


def test_weights_are_learned_from_the_training_pairs_only():
    """On the five test pairs the roles of signal and noise are exchanged: the weights stay those of the training
    pairs, and the score of a pair does not depend on which others are scored."""
    signal, noise, flat = noisy(60, 1, 2), noisy(60, 2, 0), np.ones((5, 5))
    fusion = LearnedFusion([Table(joined(signal, flat)), Table(joined(noise, np.eye(5)))]).fit(pairs(0, 60))
    same = LearnedFusion([Table(joined(signal, np.eye(5))), Table(joined(noise, flat))]).fit(pairs(0, 60))
    np.testing.assert_array_equal(fusion.weights_, same.weights_)
    test = pairs(60, 65)
    S, signal_first = (method.scores(test.left, test.right) for method in (fusion, same))
    np.testing.assert_array_equal(fusion.scores(test.left.take([1]), test.right.take([0, 1])), S[1:2, :2])
    assert np.ptp(signal_first[0]) > 5 * np.ptp(S[0])


@pytest.mark.parametrize("n", [4, 19])
def test_too_few_pairs_to_learn_from_count_every_member_once(n):
    """19 pairs make no candidate list: weights one, the constants of a gated member zero."""
    gated = Gated(lambda images: np.where(images.values % 2 == 0, images.values, NAN))
    fusion = LearnedFusion([Table(noisy(n, 0, 1)), gated], groups=Halves(10)).fit(pairs(0, n))
    assert fusion.weights_[:4].tolist() == [1, 1, 0, 0] and not fusion.weights_[4:].any()
    assert fusion.weights_.dtype == float
    S = fusion.scores(numbers(0, n), numbers(0, n))
    assert np.isfinite(S).all() and S.dtype == np.float32


def test_members_that_say_nothing_give_constant_scores():
    """The same score for all, in training and after: no NaN, and constant scores are chance."""
    train = pairs(0, 30)
    S = LearnedFusion([Table(np.full((30, 30), 0.1))]).fit(train).scores(train.left, train.right)
    assert np.isfinite(S).all() and np.ptp(S) == 0
    assert expected_topk(S, np.arange(30)) == 0.1


# --- mixtures -------------------------------------------------------------------


def test_a_mixture_weights_members_by_group():
    """The first half of the lefts is known to one matrix, the second to the other: no common weights serve both."""
    n, is_first = 120, (np.arange(120) < 60)[:, None]
    members = [Table(np.where(rows, noisy(n, 1, 3), noisy(n, 2, 0))) for rows in (is_first, ~is_first)]
    train, match = pairs(0, n), np.arange(n)
    common, mixed = (
        expected_topk(LearnedFusion(members, groups=groups).fit(train).scores(train.left, train.right), match)
        for groups in (None, Halves(60))
    )
    assert mixed > common + 0.05


def test_groups_that_say_nothing_share_the_common_weight():
    """Both groups pose the same task, left i of one that of left i + 30 of the other. Of a weight w = common + own,
    common² + own² + own² is least at common = 2/3 w, own = 1/3 w each; the penalty is then 2/3 of that of w alone."""
    S, other = noisy(60, 1, 1), (np.arange(60) + 30) % 60
    alike, train = Table((S + S[np.ix_(other, other)]) / 2), pairs(0, 60)
    common, first, second = LearnedFusion([alike], groups=Halves(30)).fit(train).weights_
    assert first == pytest.approx(second, rel=0.01) and common == pytest.approx(2 * first, rel=0.01)
    assert common + first == pytest.approx(LearnedFusion([alike]).fit(train).weights_[0], rel=0.02)


def test_a_group_not_seen_in_training_gets_the_common_weights():
    """Lefts from 60 on are a group of their own, with the same matrix. With one group in training, common² + own² is
    least at equal weights, so half of the score is the group's."""
    S = noisy(60, 1, 2)
    fusion = LearnedFusion([Table(np.vstack([S, S]))], groups=Halves(60)).fit(pairs(0, 60))
    known, unknown = (fusion.scores(lefts, numbers(0, 60)) for lefts in (numbers(0, 60), numbers(60, 120)))
    np.testing.assert_allclose(unknown, known / 2, rtol=1e-2)
