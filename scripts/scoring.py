"""Scores of every fold's test pairs by a fit without them, kept until the run that needs them is complete."""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, clone

from tll_utils.data.folds import Rows
from tll_utils.data.pairs import Pairs
from tll_utils.methods.base import Method, WeightedSum, weighted_sum
from tll_utils.runtime import DAMAGED, atomic_write, keras, project_root

USED: set[Path] = set()  # kept scores of this run


class FoldScores(NamedTuple):
    """Out-of-fold scores of a method.

    raw, neutral   S (n_test, n_test) per fold, of the raw test images and, where asked for, of border-neutral ones
    histories      training history per fold of methods that have one, as lists of rows
    """

    raw: list[np.ndarray]
    neutral: list[np.ndarray]
    histories: list[list[dict]]
    seconds: float


def fold_scores(method: Method, pairs: Pairs, folds: list[Rows], *, neutral: bool = False) -> FoldScores:
    """Scores of every fold's test pairs by a fit without them, kept in `build/reproduce` until the run is complete.

    Nothing is learned in a WeightedSum with weights: its scores are put together from those kept of its members.
    """
    if isinstance(method, WeightedSum) and method.weights is not None:
        members = [fold_scores(member, pairs, folds) for member in method.members]
        blocks = zip(*(member.raw for member in members), strict=True)
        seconds = sum(member.seconds for member in members)
        return FoldScores([weighted_sum(fold, method.weights) for fold in blocks], [], [], seconds)
    path = _kept(method, pairs, folds, neutral)
    try:
        arrays, facts = read_arrays(path)
    except DAMAGED:
        scores = _score_folds(method, pairs, folds, neutral)
        write_arrays(path, [*scores.raw, *scores.neutral], {"histories": scores.histories, "seconds": scores.seconds})
        return scores
    return FoldScores(arrays[: len(folds)], arrays[len(folds) :], facts["histories"], facts["seconds"])


def _score_folds(method: Method, pairs: Pairs, folds: list[Rows], neutral: bool) -> FoldScores:
    started, raw, cropped, histories = time.perf_counter(), [], [], []
    for train_rows, test_rows in folds:
        fitted, test = clone(method).fit(pairs.take(train_rows)), pairs.take(test_rows)
        raw.append(fitted.scores(test.left, test.right))
        if neutral:
            cropped.append(fitted.scores(test.cropped().left, test.cropped().right))
        trained = getattr(fitted, "method_", fitted)  # a BorderNeutral method's own
        if (history := getattr(trained, "history_", None)) is not None:
            histories.append(history.to_dict("records"))
        del fitted, trained
        keras.backend.clear_session()  # collects garbage too: hundreds of networks would fill the memory
    # A training that was interrupted goes on: its earlier epochs took time too.
    trained = sum(epoch.get("seconds", 0) for history in histories for epoch in history)
    return FoldScores(raw, cropped, histories, max(time.perf_counter() - started, trained))


def _kept(method: Method, pairs: Pairs, folds: list[Rows], neutral: bool) -> Path:
    """File of these scores; any change of the method, the pairs, the folds or the package's code gives another."""
    code = [path.read_bytes() for path in sorted((project_root() / "tll_utils").rglob("*.py"))]
    rows = [part.tolist() for fold in folds for part in fold]
    what = repr([BaseEstimator.__repr__(method, N_CHAR_MAX=1_000_000), pairs.key, rows, neutral]).encode()
    path = folder() / "scores" / f"{hashlib.sha256(b''.join([what, *code])).hexdigest()[:20]}.npz"
    USED.add(path)
    return path


def folder() -> Path:
    return project_root() / "build" / "reproduce"


def write_arrays(path: Path, arrays: Sequence[np.ndarray], facts: object = None) -> None:
    """Write arrays, and facts as JSON, to one .npz file, atomically."""
    with atomic_write(path) as partial, open(partial, "wb") as file:
        np.savez(file, json.dumps(facts), *arrays)


def read_arrays(path: Path) -> tuple[list[np.ndarray], Any]:
    """The arrays and facts of `write_arrays`. Raises one of DAMAGED; no pickle is run."""
    with np.load(path, allow_pickle=False) as file:
        if damaged := file.zip.testzip():  # arrays are read no further than they say, so not all checksums are seen
            raise ValueError(f"{damaged} is damaged")
        facts, *arrays = file.values()  # in the order they were written
    return arrays, json.loads(str(facts))
