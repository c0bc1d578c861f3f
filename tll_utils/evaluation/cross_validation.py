"""Scores of held-out folds → one table of all pairs, each query answered alone or all of a fold one-to-one.

blocks  one S (n_test, n_test) per fold: its test pairs by a model that never saw them, truth on the diagonal
folds   one (train_rows, test_rows) per fold; ValueError unless every row is tested once, by a fold not trained on it
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import pandas as pd
from scipy.optimize import fminbound
from scipy.special import logsumexp

from tll_utils.evaluation.metrics import N_CANDIDATES, per_left

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


class Decoder(Protocol):
    """Answers queries together: scores and candidates (n_left, c) → (n_left, c), higher = better."""

    def __call__(self, scores: np.ndarray, candidates: np.ndarray, *, n_right: int) -> np.ndarray: ...


def cross_validate(blocks: Iterable[np.ndarray], folds: Folds, *, n_candidates: int = N_CANDIDATES) -> pd.DataFrame:
    """The `metrics.per_left` table of all n pairs, index 0 … n − 1, after a column `fold`."""
    blocks = _checked(blocks, folds)
    return _by_row([per_left(S, np.arange(len(S)), n_candidates=n_candidates) for S in blocks], folds)


def cross_validate_one_to_one(
    blocks: Iterable[np.ndarray], folds: Folds, decode: Decoder, *, n_draws: int = 20, seed: int = 0,
    n_candidates: int = N_CANDIDATES,
) -> pd.DataFrame:  # fmt: skip
    """Table as of `cross_validate`, each fold's test pairs decoded together by `solved_one_to_one`.

    The temperature of a fold is calibrated on the blocks of the other folds, never on its own, so there must be two.
    Lists are drawn, and rights compete, inside a fold. That such a graph is smaller than the challenge's matters
    little: with planted scores of 0.72 inductive top-2, 320 and 2,000 pairs both reach 0.80 to 0.81.
    """
    blocks = _checked(blocks, folds)
    if len(blocks) < 2:
        raise ValueError("one fold alone leaves no other to calibrate the temperature on: pass two or more")
    tables = []
    for fold, S in enumerate(blocks):
        others = blocks[:fold] + blocks[fold + 1 :]
        temperature = calibrated_temperature(others, seed=seed, n_candidates=n_candidates)
        tables.append(solved_one_to_one(S / temperature, decode, n_draws=n_draws, seed=seed, n_candidates=n_candidates))
    return _by_row(tables, folds)


def solved_one_to_one(
    S: np.ndarray, decode: Decoder, *, n_draws: int = 20, seed: int = 0, n_candidates: int = N_CANDIDATES
) -> pd.DataFrame:
    """The `metrics.per_left` table of n pairs decoded together, truth on the diagonal of S (n, n).

    Each entry is the mean over n_draws sets of lists; the gallery is a list. The lefts of a set compete: intervals
    that resample them as independent are only nearly right.
    """
    rng, tables = np.random.default_rng(seed), []
    for _ in range(n_draws):
        candidates, truth = draw_candidates(len(S), rng, n_candidates=n_candidates)
        scores = decode(np.take_along_axis(S, candidates, axis=1), candidates, n_right=len(S))
        tables.append(per_left(scores, truth, n_candidates=n_candidates))
    return sum(tables[1:], tables[0]) / n_draws


def draw_candidates(
    n: int, rng: np.random.Generator, *, n_candidates: int = N_CANDIDATES
) -> tuple[np.ndarray, np.ndarray]:
    """Candidate lists as the challenge draws them, (n, n_candidates), and the place of the truth in each, (n,).

    Of n pairs every left has its own right and n_candidates − 1 of the others, drawn evenly and in random order.
    On TLL a right is in 5 to 41 of the 2,000 lists, 20 ± 4.5: what even draws give.
    """
    if n < n_candidates:
        raise ValueError(f"{n} pairs: a list of {n_candidates} cannot be drawn, pass a smaller n_candidates")
    keys = rng.random((n, n))
    np.fill_diagonal(keys, -1)  # the truth is always drawn
    lists = rng.permuted(np.argpartition(keys, n_candidates - 1, axis=1)[:, :n_candidates], axis=1)
    return lists, (lists == np.arange(n)[:, None]).argmax(axis=1)


def calibrated_temperature(blocks: Iterable[np.ndarray], *, seed: int = 0, n_candidates: int = N_CANDIDATES) -> float:
    """T so that softmax(scores / T) is a candidate's chance to be the truth (Guo et al. 2017, section 4.2)."""
    rng, lists = np.random.default_rng(seed), []
    for S in blocks:
        candidates, truth = draw_candidates(len(S), rng, n_candidates=n_candidates)
        scores = np.take_along_axis(np.asarray(S, float), candidates, axis=1)
        lists.append(scores - np.take_along_axis(scores, truth[:, None], axis=1))
    behind = np.concatenate(lists)  # the truth is 0
    spread = max(behind.std(), np.finfo(float).tiny)

    def loss(log_factor: float) -> float:
        return logsumexp(behind / (spread * np.exp(log_factor)), axis=1).mean()

    return float(spread * np.exp(fminbound(loss, -5, 5)))


def _by_row(tables: Sequence[pd.DataFrame], folds: Folds) -> pd.DataFrame:
    """The tables of all folds as one, a row of the index per pair."""
    for fold, (table, (_, test_rows)) in enumerate(zip(tables, folds, strict=True)):
        table.insert(0, "fold", fold)
        table.index = pd.Index(test_rows)
    return pd.concat(tables).sort_index()


def _checked(blocks: Iterable[np.ndarray], folds: Folds) -> list[np.ndarray]:
    blocks = [np.asarray(S) for S in blocks]
    if len(blocks) != len(folds):
        raise ValueError(f"{len(blocks)} blocks for {len(folds)} folds: pass one per fold")
    greatest = max(np.max(rows, initial=-1) for fold in folds for rows in fold)
    times = np.bincount(np.concatenate([test for _, test in folds]), minlength=1 + greatest)
    row = (times != 1).argmax()
    if times[row] != 1:
        raise ValueError(f"row {row} is tested {times[row]} times, not once: make the folds with grouped_folds")
    for fold, (S, (train, test)) in enumerate(zip(blocks, folds, strict=True)):
        if np.intersect1d(train, test).size:
            raise ValueError(f"fold {fold} trains on row {np.intersect1d(train, test)[0]}, which it tests")
        if S.shape != (len(test), len(test)):
            raise ValueError(f"fold {fold}: the block is {S.shape}, expected {(len(test), len(test))}")
    return blocks
