"""Experiments: methods measured by cross-validation on the training pairs; `make reproduce` records them."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence

import pandas as pd

from tll_utils import matching
from tll_utils.dataset import Dataset, DatasetError, Pairs, load_dataset
from tll_utils.evaluation import cross_validate
from tll_utils.faces import found_table
from tll_utils.folds import grouped_folds, near_duplicate_groups
from tll_utils.methods import (
    ADAPTERS,
    FACE_FUSION,
    FINE_TUNING,
    PRETRAINED,
    SHORTCUTS,
    SUB_CATEGORIES,
    Method,
    get_method,
    sub_category,
)
from tll_utils.pairs import pair_table, write_pair_table
from tll_utils.results import EXPERIMENT_NAMES, method_row, record, results_dir, update_readme
from tll_utils.runtime import project_root, whole_file
from tll_utils.trainings import record_trainings

N_SPLITS = 5
SPLIT = f"{N_SPLITS}-fold, near-duplicates grouped"
EXPERIMENTS = {  # those that are cross-validated
    "shortcuts": SHORTCUTS,
    "pretrained": PRETRAINED,
    "face_fusion": FACE_FUSION,
    "sub_categories": SUB_CATEGORIES,
    "adapters": ADAPTERS,
    "fine_tuning": FINE_TUNING,
}
DECODED = ("best", "best_border_neutral")
ALONE = "each query by itself"
DECODERS = {  # how the queries of a test set are answered, and what that is called in the results
    ALONE: (lambda scores, candidates, *, n_right: scores, "inductive"),
    "CSLS": (matching.local_scaling, "gallery known"),
    "Sinkhorn": (matching.sinkhorn, "one-to-one"),
    "exact assignment": (matching.exact_assignment, "one-to-one"),
    "belief propagation": (matching.belief_propagation, "one-to-one"),
}


def folds_of(pairs: Pairs) -> list:
    """The five folds of the headline protocol: near-duplicate images never stand in two of them."""
    return grouped_folds(near_duplicate_groups(pairs.left, pairs.right), n_splits=N_SPLITS)


def measure(method: Method, pairs: Pairs, folds: list) -> pd.DataFrame:
    """Table of `evaluation.cross_validate` for a method: every pair scored once, by a fit without it."""
    blocks = iter(matching.out_of_fold(method.score, pairs, folds))
    return cross_validate(lambda train_rows, test_rows: next(blocks), folds)


def run_methods(
    names: Sequence[str], dataset: Dataset, *, after_each: Callable[[list, dict], object] = lambda *_: None
) -> tuple[list[dict], dict[str, pd.DataFrame]]:
    """Recordable rows (`results.METHOD_FIELDS`) and per-left tables of the named methods.

    after_each is called with those so far, so that an interrupted recording has them.
    """
    folds = folds_of(dataset.train)
    rows, per_left = [], {}
    for name in names:
        method, started = get_method(name), time.perf_counter()
        table = measure(method, dataset.train, folds)
        rows.append(
            method_row(
                method.title,
                table,
                split=SPLIT,
                seconds=time.perf_counter() - started,
                notes=method.notes,
                border_neutral=method.border_neutral,
            )
        )
        per_left[method.title] = table
        after_each(rows, per_left)
    return rows, per_left


def record_experiment(experiment: str, dataset: Dataset) -> None:
    """Measure an experiment's methods and record them in `data/results/`, after every method anew."""

    def save(rows: list[dict], per_left: dict) -> None:
        record(experiment, dataset, rows, per_left)
        _show(rows[-1:])

    run_methods(EXPERIMENTS[experiment], dataset, after_each=save)


def record_matching(experiment: str, dataset: Dataset) -> None:
    """Decode the best inductive method's out-of-fold scores one-to-one and record that in `data/results/`."""
    folds, pairs = folds_of(dataset.train), dataset.train
    rows, per_left = [], {}
    for name, decoders in zip(DECODED, (tuple(DECODERS), (ALONE, "belief propagation")), strict=True):
        method, started = get_method(name), time.perf_counter()
        blocks = matching.out_of_fold(method.score, pairs, folds)
        scored = time.perf_counter() - started
        for decoder in decoders:
            decode, task = DECODERS[decoder]
            started = time.perf_counter()
            title = f"best, {decoder}{', borders cropped' * method.border_neutral}"
            table = matching.cross_validate_one_to_one(blocks, folds, decode)
            rows.append(
                method_row(
                    title,
                    table,
                    split=SPLIT,
                    seconds=scored + time.perf_counter() - started,
                    notes="best inductive method; lists drawn as the challenge draws them, mean of 20 draws",
                    border_neutral=method.border_neutral,
                    task=task,
                )
            )
            per_left[title] = table
    record(experiment, dataset, rows, per_left)
    _show(rows)


def record_face_fusion(experiment: str, dataset: Dataset) -> None:
    """As `record_experiment`; and in which pairs faces were found, into `face_fusion_faces.csv`."""
    record_experiment(experiment, dataset)
    with whole_file(results_dir() / f"{experiment}_faces.csv") as partial:
        found_table(dataset.train).to_csv(partial, index=False)


def record_sub_categories(experiment: str, dataset: Dataset) -> None:
    """As `record_experiment`; and the group of every left image, into `sub_categories_groups.csv`."""
    record_experiment(experiment, dataset)
    lefts = dataset.train.left
    groups = [f"{'ABC'[group // 2]}, {('no face', 'face')[group % 2]}" for group in sub_category(dataset.train, lefts)]
    with whole_file(results_dir() / f"{experiment}_groups.csv") as partial:
        pd.DataFrame({"left": lefts.ids, "group": groups}).to_csv(partial, index=False)


RECORDERS = {
    "matching": record_matching,
    "face_fusion": record_face_fusion,
    "sub_categories": record_sub_categories,
}


def _show(rows: list[dict]) -> None:
    print(pd.DataFrame(rows)[["name", "expected_top2", "interval95", "seconds"]].to_string(index=False), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    known = ", ".join(EXPERIMENT_NAMES)
    parser.add_argument("experiments", nargs="*", default=EXPERIMENT_NAMES, help=known)
    experiments = parser.parse_args().experiments
    if unknown := set(experiments) - set(EXPERIMENT_NAMES):
        parser.error(f"unknown experiments {sorted(unknown)}; known: {known}")
    try:
        dataset = load_dataset()
    except DatasetError as error:
        sys.exit(str(error))
    # No embedding is cached from before, so that `seconds` counts from image files to scores; of methods that
    # share embeddings the first one pays for them.
    cache = project_root() / "build" / "reproduce"
    os.environ["TLL_CACHE"] = str(cache)
    for experiment in experiments:
        usual = record_experiment if experiment in EXPERIMENTS else record_trainings
        recorder = RECORDERS.get(experiment, usual)
        recorder(experiment, dataset)
    shutil.rmtree(cache, ignore_errors=True)
    record_pair_table(dataset)
    update_readme()


def record_pair_table(dataset: Dataset, *, n_rows: int = 40) -> None:
    """The first rows of the report's pair table, its figure 1, into `data/results/pair_table.csv`."""
    table = pair_table(dataset.train.left.ids, dataset.train.right.ids)
    write_pair_table(table.head(n_rows), results_dir() / "pair_table.csv")


if __name__ == "__main__":
    main()
