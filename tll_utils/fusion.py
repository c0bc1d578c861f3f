"""Several score matrices → one: weighted, gated where a feature is missing, weights learned on training pairs.

A *member* of a fusion is a score function (train, left, right) → S, or a `Gated` feature that only some images
have, such as a face. Nothing here knows what a face is: colour, texture and shape join the same way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from tll_utils.dataset import N_CANDIDATES, Images, Pairs
from tll_utils.similarity import centre, euclidean_similarity

Score = Callable[[Pairs, Images, Images], np.ndarray]
PartialFeatures = Callable[[Images], tuple[np.ndarray, np.ndarray]]  # images → (n, d) embeddings, (n,) has one

REPORT_FACE_WEIGHT = 0.66
PENALTY = 1e-3  # on squared weights: without it a member that separates a small training set grows for ever


# -------------------------------------------------------------------------------------------------- matrices


def weighted_sum(matrices: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Σ weight · S over any number of matrices, (n_left, n_right) float32.

    Raises ValueError where shapes or numbers of matrices and weights differ, or a score is not finite.
    """
    if len(matrices) != len(weights) or len(matrices) == 0:
        raise ValueError(f"{len(matrices)} matrices and {len(weights)} weights: give one weight a matrix")
    if len(shapes := {np.shape(S) for S in matrices}) > 1:
        raise ValueError(f"matrices of shapes {sorted(shapes)}: score the same lefts and rights with each")
    for position, S in enumerate(matrices):
        if not np.isfinite(S).all():
            raise ValueError(f"matrix {position} holds NaN or infinite scores: mend its method, or gate it")
    return sum(np.float32(weight) * np.asarray(S, np.float32) for S, weight in zip(matrices, weights, strict=True))


def gated_sum(
    base: np.ndarray, extra: np.ndarray, gate: np.ndarray, *, weight: float, offset: float = 0.0
) -> np.ndarray:
    """base + weight · (extra + offset) where the gate is open, base alone elsewhere, (n_left, n_right) float32.

    gate bool (n_left, n_right). What `extra` holds behind a closed gate does not matter, NaN included. The
    offset is what merely having the feature on both sides is worth; it decides how the candidates that have one
    compare with those that have none.
    """
    return weighted_sum([base, np.where(gate, np.nan_to_num(extra) + offset, 0)], [1, weight])


# --------------------------------------------------------------------------------------------- fixed weights


def fixed(members: Sequence[Score], weights: Sequence[float]) -> Score:
    """Sum of score functions with weights that are given, their scores as they are."""

    def score(train: Pairs, left: Images, right: Images) -> np.ndarray:
        return weighted_sum([member(train, left, right) for member in members], weights)

    return score


def report_sum(base: Score, face: Score, *, face_weight: float = REPORT_FACE_WEIGHT) -> Score:
    """The report's fusion: 0.66 of the face similarity and 0.34 of the image similarity, both as they are."""
    return fixed([base, face], [1 - face_weight, face_weight])


# ------------------------------------------------------------------------------------------- learned weights


@dataclass(frozen=True)
class Gated:
    """A member that compares a feature only some images have, such as the face found in them.

    It adds three matrices to a fusion. Both sides have the feature: its similarity (negative distance after
    centring each side), and a constant. Only the right has it: another constant. Else nothing: what is the
    same for all candidates of a left cannot change their order.
    """

    features: PartialFeatures

    def matrices(self, train: Pairs, left: Images, right: Images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Similarity where both have it, else 0; both have it; only the right has it: (n_left, n_right) each."""
        (a, has_left), (b, has_right) = self.features(left), self.features(right)
        both = has_left[:, None] & has_right
        only_right = ~has_left[:, None] & has_right
        S = np.zeros(both.shape, np.float32)
        if both.any():
            a, b = self._centred(a, train.left, has_left), self._centred(b, train.right, has_right)
            S[both] = euclidean_similarity(a, b).ravel()
        return S, both, only_right

    def _centred(self, embeddings: np.ndarray, training: Images, has: np.ndarray) -> np.ndarray:
        training, trained = self.features(training)
        return centre(embeddings[has], training=training[trained]) if trained.any() else embeddings[has]


Member = Score | Gated
Groups = Callable[[Pairs, Images], np.ndarray]  # training pairs, left images → group of every left, (n,) int


def learned(*members: Member, groups: Groups | None = None) -> Score:
    """Weighted sum of members whose weights are learned on the training pairs; see `fit_weights`.

    Members are standardised by their training scores, so the score of a pair depends on these two images and
    the training pairs alone. With fewer than 20 training pairs all weights are one, the constants of gated
    members zero. With `groups` it is a mixture: every group of lefts adds weights of its own to the common ones.
    """

    def score(train: Pairs, left: Images, right: Images) -> np.ndarray:
        training = _columns(members, train, train.left, train.right)
        scales = [_scale(column) for column in training]
        labels = [groups(train, images) for images in (train.left, left)] if groups else [None, None]
        names = np.unique(labels[0]) if groups else []

        def matrices(columns: list[_Column], label: np.ndarray | None) -> list[np.ndarray]:
            common = [column.values(scale) for column, scale in zip(columns, scales, strict=True)]
            own = [np.where((label == name)[:, None], S, np.float32(0)) for name in names for S in common]
            return common + own

        plain = [column.plain for column in training] + [False] * len(training) * len(names)
        weights = fit_weights(matrices(training, labels[0]), plain=plain)
        return weighted_sum(matrices(_columns(members, train, left, right), labels[1]), weights)

    return score


@dataclass(frozen=True)
class _Column:
    """A matrix of a fusion, the part of it that counts, and whether it is a constant."""

    S: np.ndarray
    where: np.ndarray | None = None
    plain: bool = True

    def values(self, scale: tuple[float, float]) -> np.ndarray:
        mean, deviation = scale
        values = (np.asarray(self.S, np.float32) - np.float32(mean)) / np.float32(deviation)
        return values if self.where is None else np.where(self.where, values, np.float32(0))


def _columns(members: Sequence[Member], train: Pairs, left: Images, right: Images) -> list[_Column]:
    columns = []
    for member in members:
        if isinstance(member, Gated):
            S, both, only_right = member.matrices(train, left, right)
            columns += [_Column(S, both), _Column(both, plain=False), _Column(only_right, plain=False)]
        else:
            columns.append(_Column(member(train, left, right)))
    return columns


def _scale(column: _Column) -> tuple[float, float]:
    """Mean and standard deviation of a matrix where it counts; (0, 1) for constants."""
    counted = column.S if column.where is None else column.S[column.where]
    if not column.plain or counted.size == 0:
        return 0.0, 1.0
    return float(counted.mean(dtype=np.float64)), float(counted.std(dtype=np.float64)) or 1.0


def fit_weights(matrices: Sequence[np.ndarray], *, plain: Sequence[bool] | None = None) -> np.ndarray:
    """Weights (k,) of k square score matrices of pairs, truth on the diagonal, that rank the truths best.

    Maximised is the mean log-probability of the truth among itself and 19 foils, under a softmax of the
    weighted sum (InfoNCE, van den Oord et al. 2018); every foil of the gallery counts 19 / n_foils instead of
    drawing 19. It is convex, has few unknowns and needs a second. With fewer than 20 pairs: one for each
    matrix that `plain` marks, zero for the others (default: all marked).
    """
    X = np.stack([np.asarray(S, np.float32) for S in matrices])
    k, n_pairs, _ = X.shape
    start = np.ones(k) if plain is None else np.asarray(plain, float)
    if n_pairs < N_CANDIDATES:
        return start
    X = X - np.diagonal(X, axis1=1, axis2=2)[:, :, None]  # margins of the foils over the truth
    log_count = np.full((n_pairs, n_pairs), np.log((N_CANDIDATES - 1) / (n_pairs - 1)), np.float32)
    np.fill_diagonal(log_count, 0)
    flat = X.reshape(k, -1)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = (weights.astype(np.float32) @ flat).reshape(n_pairs, n_pairs) + log_count
        total = logsumexp(logits, axis=1)
        probability = np.exp(logits - total[:, None])
        gradient = (flat @ probability.ravel()).astype(np.float64) / n_pairs
        return float(total.mean(dtype=np.float64)) + PENALTY * weights @ weights, gradient + 2 * PENALTY * weights

    return minimize(loss, start, jac=True, method="L-BFGS-B").x
