"""The challenge's submission: scores of every test image's candidates, as a file."""

from pathlib import Path

import numpy as np
import pandas as pd

from tll_utils.data.dataset import N_CANDIDATES, Dataset
from tll_utils.data.folds import N_SPLITS, headline_folds
from tll_utils.evaluation.cross_validation import calibrated_temperature
from tll_utils.methods.base import Method, out_of_fold
from tll_utils.methods.one_to_one import belief_propagation
from tll_utils.runtime import write_text

MIN_CALIBRATION = N_CANDIDATES + 2  # pairs per fold: grouped folds differ in size


def candidate_scores(dataset: Dataset, method: Method, *, one_to_one: bool = False) -> np.ndarray:
    """Scores (n_left, 20) of the test candidates by a fit on the data set's training pairs.

    Every image is encoded once: the whole matrix S is scored and the candidates are read out of it. One-to-one, all
    queries are decoded together by belief propagation and the scores are log-odds; their temperature is calibrated by
    another fit, without the pairs of one fold (300 of TLL's), where the data set is large enough for it.
    """
    test, temperature = dataset.test, 1.0
    if one_to_one and len(dataset.train) >= MIN_CALIBRATION * N_SPLITS:
        temperature = calibrated_temperature(out_of_fold(method, dataset.train, headline_folds(dataset.train)[:1]))
    S = method.fit(dataset.train).scores(test.left, test.right)
    scores = np.take_along_axis(np.asarray(S, float), test.candidates, axis=1)
    if not one_to_one:
        return scores
    return belief_propagation(scores / temperature, test.candidates, n_right=len(test.right))


def write_submission(dataset: Dataset, scores: np.ndarray, path: Path) -> None:
    """Write `left,c0…c19` in the rows and order of `test_candidates.csv`, atomically.

    scores (n_left, 20). Raises ValueError on a wrong shape or a score that is not finite; an older file stays.
    """
    shape = dataset.test.candidates.shape
    if scores.shape != shape:
        raise ValueError(f"scores {scores.shape} do not fit the {shape} candidates")
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"the score of {dataset.test.left.ids[row]}, c{column} is {scores[row, column]}")
    table = pd.DataFrame(scores, columns=[f"c{column}" for column in range(shape[1])])
    table.insert(0, "left", dataset.test.left.ids)
    write_text(path, table.to_csv(index=False, lineterminator="\n"))
