"""The command line: `tll submit` (or `python -m tll_utils.cli submit`) writes the challenge's submission."""

import argparse
import os
import sys
import time

from tll_utils.data.dataset import load_dataset
from tll_utils.evaluation.metrics import topk_accuracy
from tll_utils.methods.registry import DEFAULT_METHOD, METHODS, get_entry, get_method
from tll_utils.report.submission import candidate_scores, write_submission
from tll_utils.runtime import project_root


def submit(name: str) -> None:
    """Score the candidates of $TLL_DATA by the named method into build/submission.csv."""
    started = time.perf_counter()
    entry, dataset = get_entry(name), load_dataset()
    scores = candidate_scores(dataset, get_method(name), one_to_one=entry.one_to_one)
    write_submission(dataset, scores, project_root() / "build" / "submission.csv")
    print(f"build/submission.csv: {len(scores)} rows by {name} in {time.perf_counter() - started:.0f} s")
    if dataset.test.truth is not None:
        print(f"top-2 accuracy on the known truth: {topk_accuracy(scores, dataset.test.truth):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tll", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    submission = commands.add_parser("submit", help="write build/submission.csv for the data set of $TLL_DATA")
    submission.add_argument("--method", default=os.environ.get("METHOD") or DEFAULT_METHOD, help=", ".join(METHODS))
    arguments = parser.parse_args()
    try:
        submit(arguments.method)
    except ValueError as error:  # a DatasetError is one, too
        sys.exit(str(error))


if __name__ == "__main__":
    main()
