"""Methods on embeddings whose scores are known by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import clone

from conftest import Vectors, values
from tll_utils.data.dataset import load_dataset
from tll_utils.data.images import Images
from tll_utils.data.pairs import Pairs
from tll_utils.features.catalogue import Features
from tll_utils.methods import base
from tll_utils.methods.base import (
    BorderNeutral,
    Method,
    SelectOnTrain,
    SelfTrained,
    Similarity,
    WeightedSum,
    out_of_fold,
    weighted_sum,
)
from tll_utils.runtime import project_root


class Table(Method):
    """Left i and right j, whose values are their numbers, score S[i, j]."""

    def __init__(self, S):
        self.S = S

    def fit(self, train):
        return self

    def scores(self, left, right):
        lefts, rights = (images.values[:, 0].astype(int) for images in (left, right))
        return np.asarray(self.S, np.float32)[np.ix_(lefts, rights)]


class Learner(Method):
    """Scores 1 for pairs whose left it was fitted on, else 0."""

    def fit(self, train):
        self.seen_ = set(train.left.values[:, 0])
        return self

    def scores(self, left, right):
        known = [value in self.seen_ for value in left.values[:, 0]]
        return np.tile(np.array(known, np.float32)[:, None], (1, len(right)))


def numbers(start, stop):
    return Vectors(np.arange(start, stop)[:, None])


def pairs(start, stop):
    return Pairs(numbers(start, stop), numbers(start, stop))


def column(*rows):
    return Vectors(np.array(rows)[:, None])


# --- similarities ---------------------------------------------------------------


def test_centred_subtracts_the_mean_of_each_side():
    """Training means are 1 (left) and 5 (right); 3 − 1 = 2 and 7 − 5 = 2 meet, 9 − 5 = 4 is 2 away."""
    train, left, right = Pairs(column(0, 2), column(4, 6)), column(3), column(7, 9)
    S = Similarity(values, "euclidean").fit(train).scores(left, right)
    np.testing.assert_allclose(S, [[0, -2]])
    assert S.dtype == np.float32
    raw = Similarity(values, "euclidean", centred=False).fit(train).scores(left, right)
    np.testing.assert_allclose(raw, [[-4, -6]])


@pytest.mark.parametrize(("similarity", "expected"), [("cosine", 0.6), ("euclidean", -(20**0.5)), ("l1", -6)])
def test_similarity_by_name(similarity, expected):
    """(3, 4) and (1, 0): 3 / 5; 2² + 4² = 20; 2 + 4. Training images at the origin change nothing."""
    train = Pairs(Vectors(np.zeros((2, 2))), Vectors(np.zeros((2, 2))))
    S = Similarity(values, similarity).fit(train).scores(Vectors([[3, 4]]), Vectors([[1, 0]]))
    np.testing.assert_allclose(S, [[expected]], rtol=1e-6)


def test_border_neutral_sees_cropped_images_only():
    """Cropped, training means are 1 and 5 as above; with borders everything would be a hundred more than it is."""

    def features(images):
        return images.values + 100 * (not images.is_cropped) * images.values

    train, left, right = Pairs(column(0, 2), column(4, 6)), column(3), column(7, 9)
    S = BorderNeutral(Similarity(features, "euclidean")).fit(train).scores(left, right)
    np.testing.assert_allclose(S, [[0, -2]])


# --- combinations ---------------------------------------------------------------


def test_select_on_train_ignores_what_is_best_on_the_test_pairs():
    """Both tables hold pairs 0 … 59: `early` puts the truth first in the first thirty and last in the others, where
    `late` puts it first. Fitted on the first thirty, `early` is chosen, whichever stands first."""
    sign = np.where(np.arange(60) < 30, 1, -1)
    early, late = Table(np.diag(sign)), Table(np.diag(-sign))
    for members in ([early, late], [late, early]):
        method = SelectOnTrain(members).fit(pairs(0, 30))
        np.testing.assert_array_equal(method.scores(numbers(30, 60), numbers(30, 60)), -np.eye(30))


@pytest.mark.parametrize(("n_train", "chosen"), [(19, 1), (20, 2)])
def test_select_on_train_takes_the_first_where_there_are_too_few_pairs_to_choose(n_train, chosen):
    """Twenty pairs make a candidate list, nineteen do not. The second table is the better one."""
    method = SelectOnTrain([Table(-np.eye(30)), Table(2 * np.eye(30))]).fit(pairs(0, n_train))
    assert method.scores(numbers(0, 1), numbers(0, 1)) == {1: -1, 2: 2}[chosen]


def test_standardised_sum_gives_each_member_the_same_weight():
    """The second matrix is the first one's negative, a thousand times larger: standardised they cancel."""
    S = np.array([[1.0, 2.0], [3.0, 5.0]])
    total = WeightedSum([Table(S), Table(-1000 * S)]).fit(pairs(0, 2)).scores(numbers(0, 2), numbers(0, 2))
    np.testing.assert_allclose(total, 0, atol=1e-6)
    assert total.dtype == np.float32


def test_weighted_sum_by_hand():
    """0.34·1 + 0.66·10 = 6.94 and 0.34·2 + 0.66·20 = 13.88; the report's weights, its scores raw."""
    members = [Table([[1.0, 2.0]]), Table([[10.0, 20.0]])]
    S = WeightedSum(members, [0.34, 0.66]).fit(pairs(0, 2)).scores(numbers(0, 1), numbers(0, 2))
    np.testing.assert_allclose(S, [[6.94, 13.88]], rtol=1e-6)
    assert S.dtype == np.float32


def test_any_number_of_matrices():
    """1·1 + 2·1 + 3·1 + 4·1 = 10."""
    assert weighted_sum([np.ones((2, 2))] * 4, [1, 2, 3, 4]).tolist() == [[10, 10], [10, 10]]


@pytest.mark.parametrize(
    ("matrices", "weights", "message"),
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


# --- fit and clone --------------------------------------------------------------


@pytest.mark.parametrize(
    "combine",
    [
        BorderNeutral,
        lambda member: SelectOnTrain([member]),
        lambda member: WeightedSum([member]),
        lambda member: WeightedSum([member], [1]),
    ],
    ids=["BorderNeutral", "SelectOnTrain", "WeightedSum, standardised", "WeightedSum"],
)
def test_fit_leaves_members_unfitted_and_returns_the_method(combine):
    """So one member can stand in several methods, and a clone knows nothing of what the original learned."""
    member = Similarity(values)
    method = combine(member)
    assert method.fit(Pairs(column(0, 2), column(4, 6))) is method
    assert not hasattr(member, "means_")
    assert not [name for name in vars(clone(method)) if name.endswith("_")]


def test_out_of_fold_scores_each_fold_by_a_clone_that_never_saw_it():
    """Folds hold out pairs {0, 1} and {2}: none of their lefts is known to the method that scores them."""
    folds = [(np.array([2]), np.array([0, 1])), (np.array([0, 1]), np.array([2]))]
    method = Learner()
    blocks = out_of_fold(method, pairs(0, 3), folds)
    assert [block.tolist() for block in blocks] == [[[0, 0], [0, 0]], [[0]]]
    assert not hasattr(method, "seen_")


def test_out_of_fold_has_the_truth_on_the_diagonal():
    S = np.arange(9).reshape(3, 3)
    blocks = out_of_fold(Table(S), pairs(0, 3), [(np.array([1]), np.array([2, 0]))])
    assert blocks[0].tolist() == [[8, 6], [2, 0]]


# --- self-training --------------------------------------------------------------


@pytest.fixture
def lists(sample, monkeypatch):
    """The sample's test lists, the third of which asks for a training image, in place of a data set's."""
    dataset = load_dataset(project_root() / "data" / "sample")
    test = dataset.test
    files = list(test.left.files)
    files[2] = sample.left.files[5]
    changed = replace(dataset, test=replace(test, left=Images(test.left.ids, files)))
    monkeypatch.setattr(base, "load_dataset", lambda: changed)
    return changed.test


def test_self_training_adds_sure_answers_and_no_near_duplicates(sample, lists, monkeypatch):
    """Most answers are the truths; the query that is a training image is not asked, whatever its answer."""
    fitted = []
    fit = Similarity.fit
    monkeypatch.setattr(Similarity, "fit", lambda self, train: fitted.append(train) or fit(self, train))
    sharp = WeightedSum([Similarity(Features("hog"))], [40])  # forty pairs are too few to calibrate
    method = SelfTrained(sharp).fit(sample.take(range(40)))
    assert [len(train) for train in fitted] == [40, 40 + method.n_answers_] and method.n_answers_ >= 10
    train, n = fitted[1], len(sample)
    assert train.left.rows[:40].tolist() == train.right.rows[:40].tolist() == list(range(40))
    asked, answers = train.left.rows[40:] - n, train.right.rows[40:] - n
    assert 2 not in asked and len(set(answers)) == len(answers)
    assert np.mean(lists.match[asked] == answers) > 0.5
    S = method.scores(sample.left.take(range(40, 60)), sample.right.take(range(40, 64)))
    assert S.shape == (20, 24) and np.isfinite(S).all()


def test_self_training_sees_unlabelled_images_in_the_view_of_the_training_images(sample, lists, monkeypatch):
    seen = []
    fit = Similarity.fit
    monkeypatch.setattr(Similarity, "fit", lambda self, train: seen.append(train.left.view) or fit(self, train))
    BorderNeutral(SelfTrained(Similarity(Features("hog")))).fit(sample.take(range(40)))
    assert seen == ["border-neutral"] * 2


def test_without_lists_nothing_is_added(sample, lists, monkeypatch):
    none = replace(lists, left=lists.left.take(np.arange(0)), candidates=lists.candidates[:0], match=None)
    monkeypatch.setattr(base, "load_dataset", lambda: SimpleNamespace(test=none))
    assert SelfTrained(Similarity(Features("hog"))).fit(sample.take(range(40))).n_answers_ == 0


def test_sure_answers_have_positive_log_odds_and_each_right_once():
    """Lefts 0 and 1 both want right 0, and left 0 more; left 2 cannot choose between rights 2 and 3."""
    S = np.array([[9, 0, 0, 0], [6, 5, 0, 0], [0, 0, 1, 1]], float)
    rows, columns = base.sure_answers(Table(S), numbers(0, 3), numbers(0, 4), np.tile(np.arange(4), (3, 1)))
    assert dict(zip(rows, columns, strict=True)) == {0: 0, 1: 1}
