"""Cross-validated measuring: no pair is scored by a fit that saw it, and rows are ready to be recorded."""

import numpy as np
import pandas as pd
import pytest

from tll_utils import experiments, results
from tll_utils.dataset import load_dataset
from tll_utils.methods import METHODS, Method
from tll_utils.runtime import project_root


@pytest.fixture(scope="module")
def sample():
    return load_dataset(project_root() / "data" / "sample")


def test_held_out_pairs_are_never_learned_from(sample):
    """A method that scores 1 for pairs it has seen and 0 for others must end at chance."""

    def cheat(train, left, right):
        seen = np.isin(left.ids, train.left.ids)
        return np.eye(len(left)) * seen[:, None]

    table = experiments.measure(Method("cheat", cheat), sample.train, experiments.folds_of(sample.train))
    assert (table.top2 == 0.1).all()


def test_a_perfect_method_solves_everything(sample):
    table = experiments.measure(
        Method("perfect", lambda train, left, right: np.eye(len(left))),
        sample.train,
        experiments.folds_of(sample.train),
    )
    assert (table.top2 == 1).all() and list(table.index) == list(range(120))


def test_rows_and_tables_are_ready_to_be_recorded(sample, tmp_path, monkeypatch):
    monkeypatch.setenv("TLL_PROGRESS", "0")
    rows, per_left = experiments.run_methods(["file_size", "border_geometry"], sample)
    assert [row["name"] for row in rows] == [METHODS[name].title for name in ("file_size", "border_geometry")]
    results.record("shortcuts", sample, rows, per_left, folder=tmp_path)
    recorded = results.load_per_left("shortcuts", "top2", folder=tmp_path)
    assert list(recorded.left) == list(sample.train.left.ids)
    assert recorded[rows[0]["name"]].mean() == pytest.approx(rows[0]["expected_top2"], abs=1e-4)


def test_every_recorded_method_is_one_of_the_experiment():
    for name, methods in experiments.EXPERIMENTS.items():
        recorded = [method["name"] for method in results.load_results(name)["methods"]]
        assert recorded == [METHODS[method].title for method in methods], f"run make reproduce for {name}"


def test_recorded_pair_table_is_the_head_of_the_report_table():
    table = pd.read_csv(results.results_dir() / "pair_table.csv", dtype=str, keep_default_na=False)
    assert list(table.label) == (["1"] + ["0"] * 19) * 2


def test_matching_records_both_tasks(sample, tmp_path, monkeypatch):
    """Decoded together a descriptor is not worse, and the rows say which task they are of."""
    monkeypatch.setenv("TLL_PROGRESS", "0")
    monkeypatch.setattr(experiments, "get_method", lambda name: METHODS["lab_histogram"])
    monkeypatch.setattr(experiments, "record", lambda *parts: recorded.append(parts))
    recorded = []
    monkeypatch.setattr(
        experiments,
        "DECODERS",
        {name: experiments.DECODERS[name] for name in (experiments.ALONE, "belief propagation")},
    )
    experiments.record_matching("matching", sample)
    (name, _, rows, per_left), *_ = recorded
    assert name == "matching" and [row["task"] for row in rows[:2]] == ["inductive", "one-to-one"]
    assert rows[0]["expected_top2"] <= rows[1]["expected_top2"] + 0.02
    assert list(per_left) == list(dict.fromkeys(row["name"] for row in rows))
