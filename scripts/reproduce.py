"""Records the experiments on the real images: `make reproduce TLL_DATA=<folder> [ONLY=<experiment>]`.

A plan with an estimate comes first. What is finished is kept in `build/reproduce`: an interrupted run goes on there.
At the end a table compares what was recorded before with the fresh numbers.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone

from scripts.recording import TABLES, method_row, read_arrays, record, update_readme, write_arrays
from tll_utils.data.dataset import Dataset, DatasetError, load_dataset
from tll_utils.data.folds import Rows
from tll_utils.data.pairs import Pairs, pair_table
from tll_utils.evaluation.cross_validation import cross_validate, cross_validate_one_to_one
from tll_utils.evaluation.metrics import per_left
from tll_utils.methods.base import Method, WeightedSum, weighted_sum
from tll_utils.methods.one_to_one import DECODERS
from tll_utils.methods.registry import get_entry, get_method
from tll_utils.report.experiments import EXPERIMENTS, Experiment, Row
from tll_utils.report.results import recorded_methods, results_dir
from tll_utils.runtime import DAMAGED, keras, locked, project_root, read_json, write_text
from tll_utils.siamese.training import automatic_precision

LISTS = "lists drawn as the challenge draws them, mean of 20 draws"

_USED: set[Path] = set()  # kept scores of this run


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
    return FoldScores(raw, cropped, histories, time.perf_counter() - started)


def _kept(method: Method, pairs: Pairs, folds: list[Rows], neutral: bool) -> Path:
    """File of these scores; any change of the method, the pairs, the folds or the package's code gives another."""
    code = [path.read_bytes() for path in sorted((project_root() / "tll_utils").rglob("*.py"))]
    rows = [test_rows.tolist() for _, test_rows in folds]
    what = repr([BaseEstimator.__repr__(method, N_CHAR_MAX=1_000_000), pairs.key, rows, neutral]).encode()
    path = _folder() / "scores" / f"{hashlib.sha256(b''.join([what, *code])).hexdigest()[:20]}.npz"
    _USED.add(path)
    return path


def _folder() -> Path:
    return project_root() / "build" / "reproduce"


# --- recording ------------------------------------------------------------------


def record_experiment(name: str, dataset: Dataset) -> None:
    """Measure an experiment's methods and record them in `data/results/`, after every row anew."""
    experiment, pairs = EXPERIMENTS[name], dataset.train
    folds, rows, tables, histories = experiment.folds(pairs), [], {}, {}
    write = partial(record, name, dataset, rows, tables, histories=histories)
    for row in experiment.rows():
        scores = fold_scores(get_method(row.method), pairs, folds, neutral=experiment.scored_border_neutral)
        tables[row.title], seconds = _measured(row, scores, folds, experiment)
        rows.append(_recordable(row, experiment, tables[row.title], scores, seconds))
        if scores.histories and not row.scored_neutral:
            histories[row.title] = _history(scores)
        write()
        print(f"{rows[-1]['expected_top2']:.3f} {rows[-1]['interval95']} {row.title}, {seconds:.0f} s", flush=True)
    beside = {table: make(dataset) for table, make in TABLES.get(name, {}).items()}  # last: no method pays for them
    write(tables=beside)


def _measured(row: Row, scores: FoldScores, folds: list[Rows], experiment: Experiment) -> tuple[pd.DataFrame, float]:
    """Per-left table of a row, and the seconds it took."""
    started = time.perf_counter()
    if experiment.decoders:
        table = cross_validate_one_to_one(scores.raw, folds, DECODERS[row.decoder][0])
    else:
        table = per_left_table(scores.neutral if row.scored_neutral else scores.raw, folds)
    return table, scores.seconds + time.perf_counter() - started


def per_left_table(blocks: list[np.ndarray], folds: list[Rows]) -> pd.DataFrame:
    """As `cross_validate`; of a single split the table of its test rows, which are the index."""
    if len(folds) > 1:
        return cross_validate(blocks, folds)
    table = per_left(blocks[0], np.arange(len(blocks[0])))
    table.insert(0, "fold", 0)
    return table.set_index(folds[0][1])


def _recordable(row: Row, experiment: Experiment, table: pd.DataFrame, scores: FoldScores, seconds: float) -> dict:
    entry = get_entry(row.method)
    notes = [entry.notes, LISTS if experiment.decoders else ""]
    if scores.histories:
        best = [max(history, key=lambda epoch: epoch["val_top2"])["epoch"] for history in scores.histories]
        notes.append(automatic_precision())
        notes.append(f"best epoch {', '.join(map(str, best))} by validation top-2")
    return method_row(
        row.title,
        table,
        split=experiment.split,
        seconds=seconds,
        notes="; ".join(filter(None, notes)),
        border_neutral=entry.border_neutral or row.scored_neutral,
        report_top2=None if experiment.n_folds or row.scored_neutral else entry.report_top2,
        task=DECODERS[row.decoder][1],
    )


def _history(scores: FoldScores) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(history).assign(fold=fold) for fold, history in enumerate(scores.histories)])


def record_pair_table(dataset: Dataset, *, n_rows: int = 40) -> None:
    """The first rows of the report's pair table, its figure 1, into `data/results/pair_table.csv`."""
    table = pair_table(dataset.train.left.ids, dataset.train.right.ids)
    write_text(results_dir() / "pair_table.csv", table.head(n_rows).to_csv(index=False, lineterminator="\n"))


# --- the run --------------------------------------------------------------------


def plan(names: list[str]) -> pd.DataFrame:
    """What will be recorded, and the minutes it took when it was recorded last; NaN where it never was."""
    plans = []
    for name in names:
        rows, experiment = EXPERIMENTS[name].rows(), EXPERIMENTS[name]
        longest = dict.fromkeys(experiment.methods, 0.0)  # the rows of one method share its fits
        recorded = {method["name"]: method["seconds"] for method in recorded_methods(name)}
        for row in rows:
            longest[row.method] = max(longest[row.method], recorded.get(row.title, 0.0))
        minutes = round(sum(longest.values()) / 60, 1) if recorded else float("nan")
        plans.append((name, f"{experiment.notebook:02d}", len(rows), minutes))
    return pd.DataFrame(plans, columns=["experiment", "notebook", "rows", "minutes when recorded last"])


def comparison(before: list[dict], after: list[dict]) -> pd.DataFrame:
    """Recorded and fresh numbers of the methods in both, their difference, and whether it stayed in the interval."""
    earlier = {method["name"]: method for method in before}
    rows = []
    for method in after:
        if method["name"] in earlier:
            old, fresh = earlier[method["name"]], method["expected_top2"]
            low, high = old["interval95"]
            difference = round(fresh - old["expected_top2"], 4)
            inside = "yes" if low <= fresh <= high else "NO"
            rows.append((method["name"], old["expected_top2"], fresh, difference, inside))
    return pd.DataFrame(rows, columns=["method", "recorded", "fresh", "difference", "inside the interval?"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    only = os.environ.get("ONLY", "").split()
    parser.add_argument("experiments", nargs="*", default=only or list(EXPERIMENTS), help=", ".join(EXPERIMENTS))
    names = parser.parse_args().experiments
    if unknown := set(names) - set(EXPERIMENTS):
        parser.error(f"unknown experiments {sorted(unknown)}; known: {', '.join(EXPERIMENTS)}")
    try:
        dataset = load_dataset()
    except DatasetError as error:
        sys.exit(str(error))
    with locked(_folder()):
        reproduce(names, dataset)


def reproduce(names: list[str], dataset: Dataset) -> None:
    """Record the experiments, and print the plan before and the comparison after."""
    print(plan(names).to_string(index=False), flush=True)
    # No embedding is cached from before, so that `seconds` counts from image files to scores; of methods that
    # share embeddings the first one pays for them.
    os.environ["TLL_CACHE"] = str(_folder() / "cache")
    earlier = _folder() / "recorded.json"  # an interrupted run has overwritten some of it
    try:
        before = read_json(earlier)
    except DAMAGED:
        write_text(earlier, json.dumps(before := recorded_methods(*EXPERIMENTS)))
    for name in names:
        record_experiment(name, dataset)
    record_pair_table(dataset)
    update_readme()
    print(comparison(before, recorded_methods(*names)).to_string(index=False))
    shutil.rmtree(_folder() / "cache", ignore_errors=True)
    for path in (earlier, *_USED):  # the next run measures anew; what another, interrupted run has kept stays
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
