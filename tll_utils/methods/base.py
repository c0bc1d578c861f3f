"""What a method is, and the methods that combine embeddings or other methods without learning weights.

    method.fit(train)            learns from training pairs alone (means, weights, networks); returns the method
    method.scores(left, right)   S float32 (n_left, n_right), higher = more alike

A method is a scikit-learn estimator and a dataclass: its fields are the parameters, `clone` copies it unfitted, what it
learned stands in attributes that end in "_". A new method is one such class, or existing ones combined, and one line
in `registry`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, clone

from tll_utils.data.dataset import N_CANDIDATES, load_dataset
from tll_utils.data.folds import N_SPLITS, Rows, headline_folds, near_duplicate_groups
from tll_utils.data.images import Images
from tll_utils.data.pairs import Pairs
from tll_utils.evaluation.cross_validation import calibrated_temperature
from tll_utils.evaluation.metrics import expected_topk
from tll_utils.features.catalogue import Features
from tll_utils.methods.one_to_one import belief_propagation
from tll_utils.similarity import cosine_similarity, euclidean_similarity, l1_similarity, standardise

MIN_CALIBRATION = N_CANDIDATES + 2  # pairs per fold: grouped folds differ in size
SIMILARITIES = {"cosine": cosine_similarity, "euclidean": euclidean_similarity, "l1": l1_similarity}


class Method(BaseEstimator):
    """Base of all methods."""

    def fit(self, train: Pairs) -> Self:
        """Learn from the training pairs and nothing else."""
        raise NotImplementedError

    def scores(self, left: Images, right: Images) -> np.ndarray:
        """S float32 (n_left, n_right); S[i, j] is the similarity of left i and right j, higher = more alike."""
        raise NotImplementedError


@dataclass(eq=False, repr=False)
class Similarity(Method):
    """Similarity of embeddings, "cosine", "euclidean" or "l1".

    centred: each side first loses its mean over the training pairs. Left images (photos, mostly) and right images
    (drawings, logos, …) have different means; what is left is how an image differs from its own side's average.
    """

    features: Features
    similarity: str = "cosine"
    centred: bool = True

    def fit(self, train: Pairs) -> Self:
        if self.centred:
            means = [self.features(side).mean(axis=0, dtype=np.float64) for side in (train.left, train.right)]
            self.means_ = [mean.astype(np.float32) for mean in means]
        return self

    def scores(self, left: Images, right: Images) -> np.ndarray:
        sides = [self.features(images) for images in (left, right)]
        if self.centred:
            sides = [side - mean for side, mean in zip(sides, self.means_, strict=True)]
        return SIMILARITIES[self.similarity](*sides)


@dataclass(eq=False, repr=False)
class BorderNeutral(Method):
    """A method that sees only images whose letterbox borders are cropped away, in training as in scoring."""

    method: Method

    def fit(self, train: Pairs) -> Self:
        self.method_ = clone(self.method).fit(train.cropped())
        return self

    def scores(self, left: Images, right: Images) -> np.ndarray:
        return self.method_.scores(left.cropped(), right.cropped())


@dataclass(eq=False, repr=False)
class SelectOnTrain(Method):
    """The member that is best on the training pairs: a choice made without the pairs it is measured on.

    With fewer than 20 training pairs, too few for a candidate list, it is the first member.
    """

    members: Sequence[Method]

    def fit(self, train: Pairs) -> Self:
        members = [clone(member).fit(train) for member in self.members]
        self.best_ = members[0]
        if len(train) >= N_CANDIDATES:
            match = np.arange(len(train))
            self.best_ = max(members, key=lambda member: expected_topk(member.scores(train.left, train.right), match))
        return self

    def scores(self, left: Images, right: Images) -> np.ndarray:
        return self.best_.scores(left, right)


@dataclass(eq=False, repr=False)
class WeightedSum(Method):
    """Sum of the members' raw score matrices; without weights each is standardised, so that none outweighs another."""

    members: Sequence[Method]
    weights: Sequence[float] | None = None

    def fit(self, train: Pairs) -> Self:
        self.members_ = [clone(member).fit(train) for member in self.members]
        return self

    def scores(self, left: Images, right: Images) -> np.ndarray:
        matrices = [member.scores(left, right) for member in self.members_]
        if self.weights is None:
            return weighted_sum([standardise(S) for S in matrices], [1] * len(matrices))
        return weighted_sum(matrices, self.weights)


@dataclass(eq=False, repr=False)
class Calibrated(Method):
    """A method whose scores are log-odds of a candidate, up to a constant: what one-to-one decoding takes.

    The temperature comes from another fit, without the pairs of one fold; it is 1 for fewer than 110 training pairs.
    """

    method: Method

    def fit(self, train: Pairs) -> Self:
        self.temperature_ = 1.0
        if len(train) >= MIN_CALIBRATION * N_SPLITS:
            self.temperature_ = calibrated_temperature(out_of_fold(self.method, train, headline_folds(train)[:1]))
        self.method_ = clone(self.method).fit(train)
        return self

    def scores(self, left: Images, right: Images) -> np.ndarray:
        return self.method_.scores(left, right) / np.float32(self.temperature_)


@dataclass(eq=False, repr=False)
class SelfTrained(Method):
    """A method fitted twice, the second time also on its own sure answers to the test lists (Lee 2013); S is the mean.

    Sure: of a log-odds above 0 when all lists are decoded one-to-one, and no near-duplicate of a training image.
    Scores of pairs that stand in no such list are inductive as before; those of the lists themselves transductive.
    """

    method: Method

    def fit(self, train: Pairs) -> Self:
        lists, n, m = load_dataset().test, len(train.left.base), len(train.right.base)
        if len(lists) == 0:
            self.n_answers_, self.methods_ = 0, [clone(self.method).fit(train)]
            return self
        left, right = train.left.joined(lists.left), train.right.joined(lists.right)
        unlabelled = left.take(range(n, len(left))), right.take(range(m, len(right)))
        first = clone(Calibrated(self.method)).fit(train)
        rows, columns = sure_answers(first, *unlabelled, lists.candidates)
        groups = np.split(near_duplicate_groups(left.raw.joined(right.raw)), [n, len(left), len(left) + m])
        known = np.isin(groups[1][rows], groups[0]) | np.isin(groups[3][columns], groups[2])
        rows, columns = np.append(train.left.rows, n + rows[~known]), np.append(train.right.rows, m + columns[~known])
        again = clone(self.method).fit(Pairs(left.take(rows), right.take(columns)))
        self.n_answers_, self.methods_ = len(rows) - len(train), [first.method_, again]
        return self

    def scores(self, left: Images, right: Images) -> np.ndarray:
        return np.mean([method.scores(left, right) for method in self.methods_], axis=0)


def sure_answers(method: Method, left: Images, right: Images, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of lefts and columns of rights that a calibrated method takes for pairs, no right twice."""
    scores = np.take_along_axis(method.scores(left, right), candidates, axis=1)
    log_odds = belief_propagation(scores, candidates, n_right=len(right))
    rows = np.flatnonzero(log_odds.max(axis=1) > 0)
    columns, first = np.unique(candidates[rows, log_odds[rows].argmax(axis=1)], return_index=True)
    return rows[first], columns


def weighted_sum(matrices: Sequence[np.ndarray], weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Σ weight · S over any number of matrices, (n_left, n_right) float32.

    Raises ValueError where shapes or numbers of matrices and weights differ, or a score is not finite.
    """
    if len(matrices) != len(weights) or len(matrices) == 0:
        raise ValueError(f"{len(matrices)} matrices and {len(weights)} weights: give one weight per matrix")
    if len(shapes := {np.shape(S) for S in matrices}) > 1:
        raise ValueError(f"matrices of shapes {sorted(shapes)}: score the same lefts and rights with each")
    for position, S in enumerate(matrices):
        if not np.isfinite(S).all():
            raise ValueError(f"matrix {position} holds NaN or infinite scores: fix its method, or gate it")
    return np.sum([np.float32(w) * np.asarray(S, np.float32) for S, w in zip(matrices, weights, strict=True)], axis=0)


def out_of_fold(method: Method, pairs: Pairs, folds: Iterable[Rows]) -> list[np.ndarray]:
    """S (n_test, n_test) of every fold's test pairs by a clone fitted without them, truth on the diagonal."""
    fitted = ((clone(method).fit(pairs.take(train)), pairs.take(test)) for train, test in folds)
    return [member.scores(test.left, test.right) for member, test in fitted]
