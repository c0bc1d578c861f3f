"""Records the experiments on the real images: `make reproduce TLL_DATA=<folder> [ONLY=<experiment>]`.

A plan with an estimate comes first. What is finished is kept in `build/reproduce`: an interrupted run goes on there.
At the end a table compares what was recorded before with the fresh numbers. Experiments whose weights have to be
downloaded are left out where they are not on this machine; with TLL_DOWNLOAD=1 they are fetched first.
"""

import argparse
import json
import os
import shutil
import sys
import time
from functools import partial

import numpy as np
import pandas as pd

from scripts.recording import method_row, record, update_readme
from scripts.scoring import USED, FoldScores, fold_scores, folder
from scripts.tables import TABLES
from tll_utils.data.dataset import Dataset, DatasetError, load_dataset
from tll_utils.data.folds import Rows
from tll_utils.data.pairs import pair_table
from tll_utils.evaluation.cross_validation import cross_validate, cross_validate_one_to_one
from tll_utils.evaluation.metrics import per_left
from tll_utils.features.presets import PresetError, find_preset
from tll_utils.methods.one_to_one import DECODERS
from tll_utils.methods.registry import get_entry, get_method
from tll_utils.report.experiments import EXPERIMENTS, Experiment, Row
from tll_utils.report.results import recorded_methods, results_dir
from tll_utils.runtime import DAMAGED, locked, read_json, write_text
from tll_utils.siamese.training import automatic_precision

LISTS = "lists drawn as the challenge draws them, mean of 20 draws"

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
    parser.add_argument("experiments", nargs="*", default=only, help=", ".join(EXPERIMENTS))
    names = parser.parse_args().experiments
    if unknown := set(names) - set(EXPERIMENTS):
        parser.error(f"unknown experiments {sorted(unknown)}; known: {', '.join(EXPERIMENTS)}")
    missing = {name: problem for name in names or EXPERIMENTS if (problem := missing_preset(name))}
    if missing and names:
        parser.error("; ".join(missing.values()))
    for name, problem in missing.items():
        print(f"left out: {name}. {problem}")
    try:
        dataset = load_dataset()
    except DatasetError as error:
        sys.exit(str(error))
    with locked(folder()):
        reproduce(names or [name for name in EXPERIMENTS if name not in missing], dataset)


def missing_preset(experiment: str) -> str:
    """What an experiment lacks of weights that have to be downloaded, and how to get it; "" where it lacks nothing."""
    try:
        for preset in EXPERIMENTS[experiment].presets:
            find_preset(preset)
    except PresetError as error:
        return str(error)
    return ""


def reproduce(names: list[str], dataset: Dataset) -> None:
    """Record the experiments, and print the plan before and the comparison after."""
    print(plan(names).to_string(index=False), flush=True)
    # No embedding is cached from before, so that `seconds` counts from image files to scores; of methods that
    # share embeddings the first one pays for them.
    os.environ["TLL_CACHE"] = str(folder() / "cache")
    earlier = folder() / "recorded.json"  # an interrupted run has overwritten some of it
    try:
        before = read_json(earlier)
    except DAMAGED:
        write_text(earlier, json.dumps(before := recorded_methods(*EXPERIMENTS)))
    for name in names:
        record_experiment(name, dataset)
    record_pair_table(dataset)
    update_readme()
    print(comparison(before, recorded_methods(*names)).to_string(index=False))
    shutil.rmtree(folder() / "cache", ignore_errors=True)
    for path in (earlier, *USED):  # the next run measures anew; what another, interrupted run has kept stays
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
