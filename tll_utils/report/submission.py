"""The challenge's submission: scores of every test image's candidates, as a file."""

from pathlib import Path

import numpy as np
import pandas as pd

from tll_utils.data.dataset import Dataset
from tll_utils.methods.base import Calibrated, Method
from tll_utils.methods.one_to_one import belief_propagation
from tll_utils.runtime import write_text


def candidate_scores(dataset: Dataset, method: Method) -> np.ndarray:
    """Scores (n_left, 20) of the test candidates by a fitted method.

    Every image is encoded once: the whole matrix S is scored and the candidates are read out of it. Those of a
    Calibrated method are decoded one-to-one, all queries together, by belief propagation, and are log-odds.
    """
    test = dataset.test
    if len(test.candidates) == 0:
        return np.empty(test.candidates.shape)
    S = method.scores(test.left, test.right)
    scores = np.take_along_axis(np.asarray(S, float), test.candidates, axis=1)
    if not isinstance(method, Calibrated):
        return scores
    return belief_propagation(scores, test.candidates, n_right=len(test.right))


def write_submission(dataset: Dataset, scores: np.ndarray, path: Path) -> None:
    """Write `left,c0…c19` in the rows and order of `test_candidates.csv`, atomically.

    scores (n_left, 20). Raises ValueError on a wrong shape or a score that is not finite; an older file stays.
    """
    if scores.shape != (shape := dataset.test.candidates.shape):
        raise ValueError(f"scores {scores.shape} do not fit the {shape} candidates")
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"the score of {dataset.test.left.ids[row]}, c{column} is {scores[row, column]}")
    table = pd.DataFrame(scores, columns=[f"c{column}" for column in range(shape[1])])
    table.insert(0, "left", dataset.test.left.ids)
    write_text(path, table.to_csv(index=False, lineterminator="\n"))
