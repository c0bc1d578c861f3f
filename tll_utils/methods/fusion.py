"""Several score matrices → one, with weights learned on the training pairs; gated where a feature is missing.

Nothing here knows what a face is: colour, texture and shape join the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, clone

from tll_utils.data.dataset import N_CANDIDATES
from tll_utils.data.images import Images
from tll_utils.data.pairs import Pairs
from tll_utils.features.catalogue import Features, is_present
from tll_utils.methods.base import Method, weighted_sum
from tll_utils.similarity import euclidean_similarity

PENALTY = 1e-3  # on squared weights: without it a member that separates a small training set grows without limit


class Column(NamedTuple):
    """One matrix (n_left, n_right) of a fusion."""

    S: np.ndarray
    where: np.ndarray | None = None  # the entries that count, bool; the others are zero. None: all
    is_constant: bool = False  # says only that something is there: not standardised, no say before weights are learned

    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the entries that count; (0, 1) for constants."""
        counted = self.S if self.where is None else self.S[self.where]
        if self.is_constant or counted.size == 0:
            return 0.0, 1.0
        return float(counted.mean(dtype=np.float64)), float(counted.std(dtype=np.float64)) or 1.0

    def standardised(self, scale: tuple[float, float]) -> np.ndarray:
        mean, deviation = scale
        values = (np.asarray(self.S, np.float32) - np.float32(mean)) / np.float32(deviation)
        return values if self.where is None else np.where(self.where, values, np.float32(0))


@dataclass(eq=False, repr=False)
class Gated(BaseEstimator):
    """A member that compares a feature only some images have (rows that are NaN have none), such as a face.

    It adds three columns to a fusion. Both sides have the feature: its similarity (negative distance after centring
    each side), and a constant. Only the right has it: another constant. Else nothing: what is the same for all
    candidates of a left cannot change their order.
    """

    features: Features

    def fit(self, train: Pairs) -> Self:
        self.means_ = []
        for side in (train.left, train.right):
            embeddings = self.features(side)
            present = embeddings[is_present(embeddings)]
            total = present.mean(axis=0, dtype=np.float64) if len(present) else np.zeros(embeddings.shape[1])
            self.means_.append(total.astype(np.float32))
        return self

    def columns(self, left: Images, right: Images) -> list[Column]:
        """Similarity where both have it, both have it, only the right has it."""
        a, b = self.features(left), self.features(right)
        has_left, has_right = is_present(a), is_present(b)
        both = has_left[:, None] & has_right
        S = np.zeros(both.shape, np.float32)
        if both.any():
            S[both] = euclidean_similarity(a[has_left] - self.means_[0], b[has_right] - self.means_[1]).ravel()
        only_right = ~has_left[:, None] & has_right
        return [Column(S, both), Column(both, is_constant=True), Column(only_right, is_constant=True)]


@dataclass(eq=False, repr=False)
class LearnedFusion(Method):
    """Weighted sum of members whose weights are learned on the training pairs, see `fit_weights`.

    Members are standardised by their training scores, so the score of a pair depends on these two images and the
    training pairs alone. With fewer than 20 training pairs all weights are one, those of constants zero. With `groups`
    it is a mixture: every group of lefts adds weights of its own to the common ones.
    """

    members: Sequence[Method | Gated]
    groups: Any = None  # fit(train), then predict(left) → group per left, (n,) int

    def fit(self, train: Pairs) -> Self:
        self.members_ = [clone(member).fit(train) for member in self.members]
        self.groups_ = clone(self.groups).fit(train) if self.groups else None
        columns = self._columns(train.left, train.right)
        self.scales_ = [column.scale() for column in columns]
        self.names_ = np.unique(self.groups_.predict(train.left)) if self.groups_ else np.array([], int)
        start = [not column.is_constant for column in columns] + [False] * len(columns) * len(self.names_)
        self.weights_ = fit_weights(self._matrices(columns, train.left), np.array(start, float))
        return self

    def scores(self, left: Images, right: Images) -> np.ndarray:
        return weighted_sum(self._matrices(self._columns(left, right), left), self.weights_)

    def _columns(self, left: Images, right: Images) -> list[Column]:
        columns = []
        for member in self.members_:
            is_gated = isinstance(member, Gated)
            columns += member.columns(left, right) if is_gated else [Column(member.scores(left, right))]
        return columns

    def _matrices(self, columns: list[Column], left: Images) -> list[np.ndarray]:
        """The standardised columns; behind them, for every group, the same with the rows of other groups zero."""
        common = [column.standardised(scale) for column, scale in zip(columns, self.scales_, strict=True)]
        if self.groups_ is None:
            return common
        group = self.groups_.predict(left)
        rows = [(group == name)[:, None].astype(np.float32) for name in self.names_]
        return common + [mask * S for mask in rows for S in common]


def fit_weights(matrices: Sequence[np.ndarray], start: np.ndarray) -> np.ndarray:
    """Weights (k,) of k square score matrices of pairs, truth on the diagonal, that rank the truths best.

    Maximised is the mean log-probability of the truth among itself and 19 foils, under a softmax of the weighted sum
    (InfoNCE, van den Oord et al. 2018); every foil of the gallery counts 19 / n_foils instead of drawing 19. It is
    convex, has few unknowns and needs a second. With fewer than 20 pairs the weights are `start`.
    """
    X = np.stack([np.asarray(S, np.float32) for S in matrices])
    k, n_pairs, _ = X.shape
    if n_pairs < N_CANDIDATES:
        return start
    X -= np.diagonal(X, axis1=1, axis2=2)[:, :, None].copy()  # margins of the foils over the truth
    log_count = np.full((n_pairs, n_pairs), np.log((N_CANDIDATES - 1) / (n_pairs - 1)), np.float32)
    np.fill_diagonal(log_count, 0)
    flat = X.reshape(k, -1)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = (weights.astype(np.float32) @ flat).reshape(n_pairs, n_pairs) + log_count
        total = logsumexp(logits, axis=1)
        probability = np.exp(logits - total[:, None])
        gradient = (flat @ probability.ravel()).astype(np.float64) / n_pairs
        penalty = PENALTY * float(weights @ weights)
        return float(total.mean(dtype=np.float64)) + penalty, gradient + 2 * PENALTY * weights

    return minimize(loss, start, jac=True, method="L-BFGS-B").x
