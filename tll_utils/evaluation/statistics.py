"""How sure a number is: bootstrap intervals over lefts, paired tests of two methods, the headline numbers."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from tll_utils.evaluation.metrics import DECIMALS, mean

BATCH = 200  # resamples held in memory at a time


def bootstrap_interval(values: npt.ArrayLike, *, n_resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95 % interval (low, high) of the mean, percentile bootstrap over lefts (Efron and Tibshirani 1993, ch. 13).

    values (n_left,), at least two, for example those of `expected_solved`. Raises ValueError on NaN or infinity.
    """
    data = (_finite(values),)
    test = stats.bootstrap(data, np.mean, n_resamples=n_resamples, method="percentile", batch=BATCH, rng=seed)
    return float(test.confidence_interval.low), float(test.confidence_interval.high)


class PairedTest(NamedTuple):
    """Comparison of two methods on the same lefts; prints as "+0.012 (+0.003 to +0.021), p = 0.0040"."""

    difference: float
    interval95: tuple[float, float]
    p_value: float

    def __str__(self) -> str:
        low, high = self.interval95
        return f"{self.difference:+.3f} ({low:+.3f} to {high:+.3f}), p = {self.p_value:.4f}"


def paired_test(a: npt.ArrayLike, b: npt.ArrayLike, *, n_resamples: int = 10_000, seed: int = 0) -> PairedTest:
    """Mean of a − b over lefts, its 95 % bootstrap interval and a two-sided p-value.

    a, b (n_left,), at least two: what two methods score on the same lefts. If the methods are alike, the sign of
    each difference is a coin toss: p is the share of sign flips whose mean is at least as far from zero. The data's
    own signs are one of the random flips, so p is at least 1 / (n_resamples + 1), never 0 (Phipson and Smyth 2010);
    where there are at most n_resamples flips, each is counted once. Raises ValueError on NaN or unequal lengths.
    """
    a, b = _finite(a), _finite(b)
    if a.shape != b.shape:
        raise ValueError(f"a has {len(a)} lefts, b has {len(b)}: compare methods on the same lefts, row by row")
    difference = a - b
    scaled = difference / (np.abs(difference).max() or 1)
    # Both tails by |mean|: SciPy's "two-sided" doubles the smaller. Rounding keeps ties that summation would break.
    options = {"alternative": "greater", "permutation_type": "samples", "n_resamples": n_resamples, "batch": BATCH}
    test = stats.permutation_test((scaled,), lambda x, axis: abs(x.mean(axis)).round(DECIMALS), rng=seed, **options)
    return PairedTest(mean(difference), bootstrap_interval(difference, seed=seed), float(test.pvalue))


def summarise(table: pd.DataFrame) -> dict:
    """The headline numbers of a `per_left` or `cross_validate` table, ready for a results file."""
    return {
        "expected_top2": mean(table["top2"]), "interval95": bootstrap_interval(table["top2"]),
        "expected_top1": mean(table["top1"]), "n_left": len(table),
    }  # fmt: skip


def _finite(values: npt.ArrayLike) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"values must be finite, one per left, got shape {values.shape}")
    return values
