"""How good scores are: top-k on candidate lists, its exact expectation, ranks, intervals, tests.

Everything here is arithmetic on S (n_left, n_right), higher = more alike, and match (n_left,), the column
of the true right of every left. Ties are resolved in expectation over a random order, so constant scores
give exactly chance; NaN or infinite scores are an error, never a rank.
"""

import statistics
from collections.abc import Callable, Iterable
from itertools import accumulate
from math import comb
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

BATCH = 200  # resamples held in memory at a time


def solved_on_candidates(scores: np.ndarray, truth_column: np.ndarray, *, k: int = 2) -> np.ndarray:
    """Chance that the truth is among the k best of its own list, for every left, (n_left,) float64.

    scores (n_left, n_candidates), truth_column (n_left,): column of the truth in its list. The chance is 0
    or 1 unless a tie with the truth straddles place k; constant scores give k / n_candidates.
    Raises ValueError on NaN or infinite scores, a truth out of range, wrong shapes, or a k that is not in
    1 … n_candidates.
    """
    better, tied = _better_and_tied(scores, truth_column)
    n_columns = np.shape(scores)[1]
    _check_k(k, n_columns)
    return _mean_over_ties([1] * k + [0] * (n_columns - k), better, tied)


def topk_accuracy(scores: np.ndarray, truth_column: np.ndarray, *, k: int = 2) -> float:
    """Share of lefts whose truth is among the k best of its list; see `solved_on_candidates`."""
    return _mean(solved_on_candidates(scores, truth_column, k=k))


def expected_solved(S: np.ndarray, match: np.ndarray, *, k: int = 2, n_candidates: int = 20) -> np.ndarray:
    """Chance that the truth is among the k best of a random candidate list, for every left, (n_left,).

    A list holds the truth and n_candidates − 1 of the N = n_right − 1 foils, drawn at random. If x foils
    beat the truth, it is solved when fewer than k of them are drawn: the hypergeometric distribution
    function at k − 1. With b foils strictly better and t tied, that is averaged over x = b … b + t.
    Exact: no list is sampled. Raises ValueError as `solved_on_candidates` does, and where n_right <
    n_candidates.
    """
    better, tied = _better_and_tied(S, match)
    n_foils, drawn = np.shape(S)[1] - 1, n_candidates - 1
    if n_foils < drawn:
        raise ValueError(
            f"a list of {n_candidates} candidates cannot be drawn from a gallery of {n_foils + 1}: "
            f"pass n_candidates={n_foils + 1} or smaller, or use fewer folds"
        )
    _check_k(k, n_candidates)
    # Whole numbers of lists rather than floats: sums stay exact, so chance is exactly k / n_candidates.
    solving_lists = [sum(comb(x, j) * comb(n_foils - x, drawn - j) for j in range(k)) for x in range(n_foils + 1)]
    return _mean_over_ties(solving_lists, better, tied, unit=comb(n_foils, drawn))


def expected_topk(S: np.ndarray, match: np.ndarray, *, k: int = 2, n_candidates: int = 20) -> float:
    """Top-k accuracy expected over all candidate lists; see `expected_solved`."""
    return _mean(expected_solved(S, match, k=k, n_candidates=n_candidates))


def mid_rank(S: np.ndarray, match: np.ndarray) -> np.ndarray:
    """Rank of the truth in the whole gallery, 1 = best, tied ones share the middle, (n_left,) float64."""
    better, tied = _better_and_tied(S, match)
    return 1 + better + tied / 2


def recall_at_k(S: np.ndarray, match: np.ndarray, k: int) -> float:
    """Share of lefts whose truth is among the k best of the whole gallery."""
    return topk_accuracy(S, match, k=k)


def reciprocal_rank(S: np.ndarray, match: np.ndarray) -> np.ndarray:
    """1 / rank of the truth in the whole gallery, averaged over the orders of tied ones, (n_left,)."""
    better, tied = _better_and_tied(S, match)
    return _mean_over_ties([1 / rank for rank in range(1, np.shape(S)[1] + 1)], better, tied)


def mean_average_precision(S: np.ndarray, match: np.ndarray) -> float:
    """Mean over lefts of the average precision, which with one true right each is 1 / rank."""
    return _mean(reciprocal_rank(S, match))


def per_left(S: np.ndarray, match: np.ndarray, *, n_candidates: int = 20) -> pd.DataFrame:
    """One row a left: gallery (number of rights), rank (mid-rank), top1, top2 (expected), reciprocal_rank."""
    return pd.DataFrame(
        {
            "gallery": np.shape(S)[1],
            "rank": mid_rank(S, match),
            "top1": expected_solved(S, match, k=1, n_candidates=n_candidates),
            "top2": expected_solved(S, match, k=2, n_candidates=n_candidates),
            "reciprocal_rank": reciprocal_rank(S, match),
        }
    )


def cross_validate(
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    folds: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    n_candidates: int = 20,
) -> pd.DataFrame:
    """The `per_left` table of all n pairs, index 0 … n − 1, each scored by a model that never saw it.

    score(train_rows, test_rows) → S (n_test, n_test) of the test pairs, truth on the diagonal; folds is a
    list of (train_rows, test_rows). The column `fold` comes first.
    Raises ValueError where the folds do not test every row exactly once, train on a row they test, or
    where a block is not square.
    """
    folds = list(folds)
    _check_folds(folds)
    tables = []
    for fold, (train_rows, test_rows) in enumerate(folds):
        S, n_test = score(train_rows, test_rows), len(test_rows)
        if np.shape(S) != (n_test, n_test):
            raise ValueError(f"fold {fold}: score returned {np.shape(S)}, expected {(n_test, n_test)}")
        table = per_left(S, np.arange(n_test), n_candidates=n_candidates)
        table.insert(0, "fold", fold)
        tables.append(table.set_index(np.asarray(test_rows)))
    return pd.concat(tables).sort_index()


def summarise(table: pd.DataFrame) -> dict:
    """The headline numbers of a `per_left` or `cross_validate` table, ready for a results file.

    expected_top2, interval95 (low, high) of it over lefts, expected_top1, mean_reciprocal_rank, n_left.
    """
    return {
        "expected_top2": _mean(table["top2"]),
        "interval95": bootstrap_interval(table["top2"]),
        "expected_top1": _mean(table["top1"]),
        "mean_reciprocal_rank": _mean(table["reciprocal_rank"]),
        "n_left": len(table),
    }


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, n_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """(low, high) of the mean, percentile bootstrap over lefts (Efron and Tibshirani 1993, ch. 13).

    values (n_left,), at least two, for example those of `expected_solved`.
    """
    low, high = stats.bootstrap(
        (_finite_values(values),),
        np.mean,
        confidence_level=level,
        n_resamples=n_resamples,
        method="percentile",
        batch=BATCH,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(low), float(high)


class PairedTest(NamedTuple):
    """Comparison of two methods on the same lefts."""

    difference: float
    interval95: tuple[float, float]
    p_value: float


def paired_test(a: np.ndarray, b: np.ndarray, *, n_resamples: int = 10_000, seed: int = 0) -> PairedTest:
    """Mean of a − b over lefts, its 95 % bootstrap interval and a two-sided p-value.

    a, b (n_left,): what two methods score on the same lefts. If the methods are alike, the sign of each
    difference is a coin toss: p is the share of sign flips with a mean at least as far from zero, the
    data's own signs counted (Phipson and Smyth 2010), so never below 1 / (n_resamples + 1).
    """
    a, b = _finite_values(a), _finite_values(b)
    if a.shape != b.shape:
        raise ValueError(f"a has {len(a)} lefts, b has {len(b)}: compare methods on the same lefts, row by row")
    difference = a - b
    flipped = np.abs(_sign_flipped_sums(difference, n_resamples, np.random.default_rng(seed)))
    tolerance = 1e-12 * np.abs(difference).sum()  # the order of summation must not decide a tie
    n_extreme = np.count_nonzero(flipped >= abs(difference.sum()) - tolerance)
    p_value = float((1 + n_extreme) / (1 + n_resamples))
    return PairedTest(_mean(difference), bootstrap_interval(difference, seed=seed), p_value)


def _sign_flipped_sums(difference: np.ndarray, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Sums of the differences under random signs, (n_resamples,); a batch of signs in memory at a time."""
    sums = []
    for start in range(0, n_resamples, BATCH):
        shape = (min(BATCH, n_resamples - start), len(difference))
        sums.append((2 * rng.integers(0, 2, shape, dtype=np.int8) - 1) @ difference)
    return np.concatenate(sums)


def _better_and_tied(S: np.ndarray, match: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many foils score strictly above the truth, and how many the same, each (n_left,) int."""
    S, match = np.asarray(S), np.asarray(match)
    _check_scores(S)
    _check_match(match, S.shape)
    truth = S[np.arange(len(S)), match][:, None]
    return np.count_nonzero(truth < S, axis=1), np.count_nonzero(truth == S, axis=1) - 1


def _mean_over_ties(value_at: list, better: np.ndarray, tied: np.ndarray, *, unit: int = 1) -> np.ndarray:
    """Mean of value_at[x] / unit over x = better … better + tied foils ahead of the truth, (n_left,)."""
    total = list(accumulate(value_at, initial=0))
    counts = zip(better.tolist(), tied.tolist(), strict=True)
    return np.array([(total[b + t + 1] - total[b]) / ((t + 1) * unit) for b, t in counts])


def _mean(values: np.ndarray) -> float:
    """The mean, rounded once at the end: that of constant values is the constant itself."""
    return statistics.mean(np.asarray(values, float).tolist())


def _check_scores(S: np.ndarray) -> None:
    if S.ndim != 2 or S.size == 0:
        raise ValueError(f"scores must be (n_left, n_right) and not empty, got shape {S.shape}")
    bad = ~np.isfinite(S)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"{bad.sum()} scores are NaN or infinite, the first at row {row}, column {column}: "
            "mend the method that made them, they have no rank"
        )


def _check_match(match: np.ndarray, shape: tuple[int, int]) -> None:
    n_left, n_right = shape
    if match.shape != (n_left,) or match.dtype.kind not in "iu":
        raise ValueError(f"match must be ({n_left},) integers, got {match.dtype} of shape {match.shape}")
    bad = (match < 0) | (match >= n_right)
    if bad.any():
        row = bad.argmax()
        raise ValueError(f"row {row}: the truth is column {match[row]}, the scores have {n_right} columns")


def _check_k(k: int, n_columns: int) -> None:
    if not 1 <= k <= n_columns:
        raise ValueError(f"k={k} must be from 1 to the number of candidates, {n_columns}")


def _check_folds(folds: list) -> None:
    test = np.sort(np.concatenate([test_rows for _, test_rows in folds]))
    n_rows = 1 + max(rows.max(initial=-1) for fold in folds for rows in map(np.asarray, fold))
    times = np.bincount(test, minlength=n_rows)
    if (times != 1).any():
        row = (times != 1).argmax()
        raise ValueError(f"row {row} is tested {times[row]} times, not once: make the folds with grouped_folds")
    for fold, (train_rows, test_rows) in enumerate(folds):
        both = np.intersect1d(train_rows, test_rows)
        if both.size:
            raise ValueError(f"fold {fold} trains on row {both[0]}, which it tests")


def _finite_values(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"values must be finite, one a left, got shape {values.shape}")
    return values
