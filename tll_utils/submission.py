"""Writes the challenge's submission: `make submission TLL_DATA=<folder> [METHOD=<name>]`."""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from tll_utils.dataset import N_CANDIDATES, Dataset, Pairs, load_dataset
from tll_utils.evaluation import topk_accuracy
from tll_utils.experiments import N_SPLITS, folds_of
from tll_utils.matching import candidate_probabilities, decode_queries
from tll_utils.methods import DEFAULT_METHOD, METHODS, Method, get_method
from tll_utils.runtime import project_root, whole_file

MIN_CALIBRATION = N_CANDIDATES + 2  # pairs a fold: grouped folds differ in size


def candidate_scores(dataset: Dataset, method: Method) -> np.ndarray:
    """Scores (n_left, 20) of the test candidates, learned from the data set's training pairs.

    Every image is encoded once: the whole matrix S is scored and the candidates are read out of it. They are
    probabilities, `matching.candidate_probabilities`; a one-to-one method decodes all rows together and gives
    log-odds, `matching.decode_queries`. Both are calibrated on a fold of the training pairs.
    """
    answer = decode_queries if method.one_to_one else candidate_probabilities
    return answer(method.score, dataset.train, dataset.test, calibration_folds(dataset.train))


def calibration_folds(train: Pairs) -> list:
    """One fold, whose 300 pairs of TLL's say enough about the temperature; none where it holds no candidate list."""
    return folds_of(train)[:1] if len(train) >= MIN_CALIBRATION * N_SPLITS else []


def write_submission(dataset: Dataset, scores: np.ndarray, path: Path) -> None:
    """Write `left,c0…c19` in the rows and order of `test_candidates.csv`, then read it back and compare.

    scores (n_left, 20). Raises ValueError on a wrong shape or a score that is not finite, and leaves an
    older file as it was.
    """
    shape = dataset.test.candidates.shape
    if scores.shape != shape:
        raise ValueError(f"scores {scores.shape} do not fit the {shape} candidates")
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"the score of {dataset.test.left.ids[row]}, c{column} is {scores[row, column]}")
    table = pd.DataFrame(scores, columns=[f"c{column}" for column in range(shape[1])])
    table.insert(0, "left", dataset.test.left.ids)
    with whole_file(path) as partial:
        table.to_csv(partial, index=False)
        check_submission(dataset, partial)


def check_submission(dataset: Dataset, path: Path) -> None:
    """Raise ValueError unless the file has the challenge's columns, rows, order and finite numbers."""
    table = pd.read_csv(path, dtype={"left": str}, keep_default_na=False)
    columns = ["left", *(f"c{column}" for column in range(dataset.test.candidates.shape[1]))]
    if list(table.columns) != columns:
        raise ValueError(f"{path.name}: columns {list(table.columns)}, expected {columns}")
    if list(table["left"]) != list(dataset.test.left.ids):
        raise ValueError(f"{path.name}: the left ids differ from test_candidates.csv in number or order")
    values = table[columns[1:]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"{path.name}, line {row + 2}: c{column} is not a finite number")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default=os.environ.get("METHOD") or DEFAULT_METHOD, help=", ".join(METHODS))
    arguments = parser.parse_args()
    started = time.perf_counter()
    try:
        method = get_method(arguments.method)
        dataset = load_dataset()
    except ValueError as error:  # a DatasetError is one, too
        sys.exit(str(error))
    scores = candidate_scores(dataset, method)
    path = project_root() / "build" / "submission.csv"
    write_submission(dataset, scores, path)
    seconds = time.perf_counter() - started
    print(f"build/submission.csv: {len(scores)} rows by {arguments.method} in {seconds:.0f} s")
    if dataset.test.match is not None:
        truth = (dataset.test.candidates == dataset.test.match[:, None]).argmax(axis=1)
        print(f"top-2 accuracy on the known truth: {topk_accuracy(scores, truth):.3f}")


if __name__ == "__main__":
    main()
