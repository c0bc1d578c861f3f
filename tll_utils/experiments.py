"""Experiments: methods measured by cross-validation on the training pairs; `make reproduce` records them."""

import argparse
import time
from collections.abc import Sequence

import pandas as pd

from tll_utils.dataset import Dataset, Pairs, load_dataset
from tll_utils.evaluation import cross_validate, summarise
from tll_utils.folds import grouped_folds, near_duplicate_groups
from tll_utils.methods import PRETRAINED, SHORTCUTS, Method, get_method
from tll_utils.results import record

N_SPLITS = 5
SPLIT = f"{N_SPLITS}-fold, near-duplicates grouped"
EXPERIMENTS = {"shortcuts": SHORTCUTS, "pretrained": PRETRAINED}


def folds_of(pairs: Pairs) -> list:
    """The five folds of the headline protocol: near-duplicate images never stand in two of them."""
    return grouped_folds(near_duplicate_groups(pairs.left, pairs.right), n_splits=N_SPLITS)


def measure(method: Method, pairs: Pairs, folds: list) -> pd.DataFrame:
    """Table of `evaluation.cross_validate` for a method: every pair scored once, by a fit without it."""

    def score(train_rows, test_rows):
        held_out = pairs.take(test_rows)
        return method.score(pairs.take(train_rows), held_out.left, held_out.right)

    return cross_validate(score, folds)


def run_methods(names: Sequence[str], dataset: Dataset) -> tuple[list[dict], dict[str, pd.DataFrame]]:
    """Recordable rows (`results.METHOD_FIELDS`) and per-left tables of the named methods."""
    folds = folds_of(dataset.train)
    rows, per_left = [], {}
    for name in names:
        method, started = get_method(name), time.perf_counter()
        table = measure(method, dataset.train, folds)
        rows.append(_row(method, table, time.perf_counter() - started))
        per_left[method.title] = table
    return rows, per_left


def _row(method: Method, per_left: pd.DataFrame, seconds: float) -> dict:
    summary = summarise(per_left)
    return {
        "name": method.title,
        "report_top2": None,
        "expected_top2": round(summary["expected_top2"], 4),
        "interval95": [round(bound, 4) for bound in summary["interval95"]],
        "expected_top1": round(summary["expected_top1"], 4),
        "task": "inductive",
        "border_neutral": method.border_neutral,
        "split": SPLIT,
        "n_left": summary["n_left"],
        "seconds": round(seconds, 1),
        "notes": method.notes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", default=list(EXPERIMENTS), help=", ".join(EXPERIMENTS))
    dataset = load_dataset()
    for experiment in parser.parse_args().experiments:
        rows, per_left = run_methods(EXPERIMENTS[experiment], dataset)
        record(experiment, dataset, rows, per_left)
        print(pd.DataFrame(rows)[["name", "expected_top2", "interval95", "seconds"]].to_string(index=False))


if __name__ == "__main__":
    main()
