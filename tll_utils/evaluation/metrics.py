"""Metrics of S (n_left, n_right), higher = more alike, and match (n_left,), the column of every left's true right.

Ties are resolved in expectation over a random order, so constant scores give exactly chance; NaN or infinite
scores are an error, never a rank.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import hypergeom

N_CANDIDATES = 20  # images in a list of the challenge
DECIMALS = 12  # of expectations and means: 0.1 is to be 0.1, not 0.09999999999999996


def solved_on_candidates(scores: npt.ArrayLike, truth_column: npt.ArrayLike, *, k: int = 2) -> np.ndarray:
    """Chance that the truth is among the k best of its own list, for every left, (n_left,) float64.

    scores (n_left, n_candidates), truth_column (n_left,): column of the truth in its list. The chance is 0 or 1
    unless a tie with the truth straddles place k; constant scores give k / n_candidates. Raises ValueError on NaN or
    infinite scores, a truth out of range, wrong shapes, or a k that is not in 1 … n_candidates.
    """
    better, tied = _better_and_tied(scores, truth_column)
    n_candidates = np.shape(scores)[1]
    _check_k(k, n_candidates)
    return _mean_over_ties(np.arange(n_candidates) < k, better, tied)


def topk_accuracy(scores: npt.ArrayLike, truth_column: npt.ArrayLike, *, k: int = 2) -> float:
    """Share of lefts whose truth is among the k best of its list; see `solved_on_candidates`."""
    return mean(solved_on_candidates(scores, truth_column, k=k))


def expected_solved(
    S: npt.ArrayLike, match: npt.ArrayLike, *, k: int = 2, n_candidates: int = N_CANDIDATES
) -> np.ndarray:
    """Chance that the truth is among the k best of a random candidate list, for every left, (n_left,) float64.

    A list holds the truth and n_candidates − 1 of the n_right − 1 foils, drawn at random. If x foils beat the
    truth, it is solved when fewer than k of them are drawn: the hypergeometric distribution function at k − 1.
    With b foils strictly better and t tied, that is averaged over x = b … b + t. Exact: no list is sampled.
    Raises ValueError as `solved_on_candidates` does, and where n_right < n_candidates.
    """
    better, tied = _better_and_tied(S, match)
    n_foils, drawn = np.shape(S)[1] - 1, n_candidates - 1
    if n_foils < drawn:
        wrong = f"a list of {n_candidates} candidates cannot be drawn from a gallery of {n_foils + 1}"
        raise ValueError(f"{wrong}: pass n_candidates={n_foils + 1} or smaller, or use fewer folds")
    _check_k(k, n_candidates)
    chance = hypergeom.cdf(k - 1, max(n_foils, 1), np.arange(n_foils + 1), drawn)  # of none it is NaN
    return _mean_over_ties(chance, better, tied).round(DECIMALS)


def expected_topk(S: npt.ArrayLike, match: npt.ArrayLike, *, k: int = 2, n_candidates: int = N_CANDIDATES) -> float:
    """Top-k accuracy expected over all candidate lists; see `expected_solved`."""
    return mean(expected_solved(S, match, k=k, n_candidates=n_candidates))


def mid_rank(S: npt.ArrayLike, match: npt.ArrayLike) -> np.ndarray:
    """Rank of the truth in the whole gallery, 1 = best, tied ones share the middle, (n_left,) float64."""
    better, tied = _better_and_tied(S, match)
    return 1 + better + tied / 2


def per_left(S: npt.ArrayLike, match: npt.ArrayLike, *, n_candidates: int = N_CANDIDATES) -> pd.DataFrame:
    """One row per left: gallery (number of rights), rank (mid-rank), top1, top2 (expected)."""
    top1, top2 = (expected_solved(S, match, k=k, n_candidates=n_candidates) for k in (1, 2))
    return pd.DataFrame({"gallery": np.shape(S)[1], "rank": mid_rank(S, match), "top1": top1, "top2": top2})


def mean(values: npt.ArrayLike) -> float:
    """Mean, rounded to 12 decimals: that of constant scores is exactly k / n_candidates."""
    return float(np.asarray(values, float).mean().round(DECIMALS))


def _better_and_tied(S: npt.ArrayLike, match: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """How many foils score strictly above the truth, and how many the same, each (n_left,) int."""
    S, match = np.asarray(S), np.asarray(match)
    _check_scores(S)
    _check_match(match, S.shape)
    truth = S[np.arange(len(S)), match][:, None]
    return np.count_nonzero(truth < S, axis=1), np.count_nonzero(truth == S, axis=1) - 1


def _mean_over_ties(value_at: np.ndarray, better: np.ndarray, tied: np.ndarray) -> np.ndarray:
    """Mean of value_at[x] over x = better … better + tied foils ahead of the truth, (n_left,)."""
    total = np.append(0, np.cumsum(value_at))
    return (total[better + tied + 1] - total[better]) / (tied + 1)


def _check_scores(S: np.ndarray) -> None:
    if S.ndim != 2 or S.size == 0:
        raise ValueError(f"scores must be (n_left, n_right) and not empty, got shape {S.shape}")
    if (bad := ~np.isfinite(S)).any():
        row, column = np.argwhere(bad)[0]
        what = f"{bad.sum()} scores are NaN or infinite, the first at row {row}, column {column}"
        raise ValueError(f"{what}: fix the method that made them, they have no rank")


def _check_match(match: np.ndarray, shape: tuple[int, ...]) -> None:
    n_left, n_right = shape
    if match.shape != (n_left,) or match.dtype.kind not in "iu":
        raise ValueError(f"match must be ({n_left},) integers, got {match.dtype} of shape {match.shape}")
    if (bad := (match < 0) | (match >= n_right)).any():
        row = bad.argmax()
        raise ValueError(f"row {row}: the truth is column {match[row]}, the scores have {n_right} columns")


def _check_k(k: int, n_columns: int) -> None:
    if not 1 <= k <= n_columns:
        raise ValueError(f"k={k} must be from 1 to the number of candidates, {n_columns}")
