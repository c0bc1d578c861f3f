"""The registry of experiments is whole and recorded; no pair is scored by a fit that saw it."""

import numpy as np
import pandas as pd
import pytest

from scripts import reproduce
from scripts.tables import found_table, groups_table
from tll_utils.data.dataset import load_dataset
from tll_utils.data.folds import headline_folds
from tll_utils.evaluation.cross_validation import cross_validate
from tll_utils.evaluation.metrics import expected_topk, per_left
from tll_utils.methods.base import Method, out_of_fold
from tll_utils.methods.registry import get_entry, get_method
from tll_utils.report import experiments
from tll_utils.report.experiments import EXPERIMENTS, Experiment
from tll_utils.report.results import load_results, recorded_methods
from tll_utils.runtime import project_root

# Recorded before the registry changed. Recording one makes its test below pass, which ends its place in this list.
TO_BE_RECORDED = ("siamese_vgg16_long", "presets", "report_fine_tuning")


class Perfect(Method):
    """Scores 1 for the diagonal and 0 elsewhere."""

    def fit(self, train):
        return self

    def scores(self, left, right):
        return np.eye(len(left), dtype=np.float32)


class Cheat(Perfect):
    """Perfect for lefts it was fitted on, constant for others."""

    def fit(self, train):
        self.seen_ = train.left.ids
        return self

    def scores(self, left, right):
        return np.eye(len(left), dtype=np.float32) * np.isin(left.ids, self.seen_)[:, None]


@pytest.fixture(scope="module")
def train():
    return load_dataset(project_root() / "data" / "sample").train


@pytest.fixture(scope="module")
def folds(train):
    return headline_folds(train)


# --- measuring ------------------------------------------------------------------


def test_held_out_pairs_are_never_learned_from(train, folds):
    """A method that scores 1 for pairs it has seen and 0 for others must end at chance."""
    assert (cross_validate(out_of_fold(Cheat(), train, folds), folds)["top2"] == 0.1).all()


def test_a_perfect_method_solves_everything(train, folds):
    table = cross_validate(out_of_fold(Perfect(), train, folds), folds)
    assert (table["top2"] == 1).all() and list(table.index) == list(range(120))


def test_table_of_a_single_split_is_of_its_test_rows():
    """Rows 39, 38 … 20 of the pairs are held out; the truth of the second, row 38, comes behind the other 19."""
    S = np.eye(20)
    S[1, 1] = -1
    table = reproduce.per_left_table([S], [(np.arange(20), np.arange(39, 19, -1))])
    assert list(table.index) == list(range(39, 19, -1)) and list(table["rank"]) == [1, 20, *[1] * 18]
    assert list(table.columns) == ["fold", *per_left(S, np.arange(20)).columns] and (table["fold"] == 0).all()


def test_live_results_have_a_row_per_method_and_its_per_left_table(train, monkeypatch):
    monkeypatch.setenv("TLL_PROGRESS", "0")
    names = ("file_size", "border_geometry")
    live, tables = experiments.run_methods(names, train)
    titles = [get_entry(name).title for name in names]
    assert list(live["method"]) == list(tables) == titles
    assert list(live.columns) == ["method", "expected_top2", "interval95", "expected_top1"]
    for title, top2 in zip(titles, live["expected_top2"], strict=True):
        assert len(tables[title]) == 120 and tables[title]["top2"].mean() == pytest.approx(top2)


def test_every_shortcut_beats_chance_on_the_sample(train, monkeypatch):
    """The audit is worth its name only where the shortcut is there: each scores above chance on its own pairs."""
    monkeypatch.setenv("TLL_PROGRESS", "0")
    for name in EXPERIMENTS["shortcuts"].methods:
        S = get_method(name).fit(train).scores(train.left, train.right)
        assert expected_topk(S, np.arange(120)) > 0.12


def test_folds_of_an_experiment_are_those_it_says(train, folds):
    """Five folds are the headline protocol's; none is one split, about a fifth held out."""
    for n_folds, words in ((5, "5-fold"), (3, "3-fold"), (0, "80/20")):
        experiment = Experiment(0, (), n_folds=n_folds)
        divided = experiment.folds(train)
        assert experiment.split.startswith(words) and len(divided) == max(n_folds, 1)
    np.testing.assert_array_equal(np.concatenate(divided[0]), np.concatenate(experiment.folds(train)[0]))
    assert len(divided[0][1]) == pytest.approx(24, abs=4)
    for ours, headline in zip(Experiment(0, ()).folds(train), folds, strict=True):
        np.testing.assert_array_equal(ours[1], headline[1])


# --- rows -----------------------------------------------------------------------


def test_rows_of_a_cross_validated_experiment_are_its_methods():
    titles = ["border geometry (4 widths, L1)", "HOG", "HOG, border-neutral"]
    rows = Experiment(0, ("border_geometry", "hog", "hog_border_neutral")).rows()
    assert [row.title for row in rows] == titles


def test_rows_of_trained_networks_say_folds_and_scoring():
    """A network is scored twice, with borders and without; one trained without borders once."""
    names = ("resnet18_infonce", "resnet18_infonce_border_neutral")
    rows = Experiment(2, names, n_folds=3, scored_border_neutral=True).rows()
    title = "Siamese ResNet18 from scratch, InfoNCE"
    expected = [f"{title}, 3 folds", f"{title}, 3 folds, scored border-neutral", f"{title}, border-neutral, 3 folds"]
    assert [row.title for row in rows] == expected
    assert [row.scored_neutral for row in rows] == [False, True, False]
    assert Experiment(2, names[:1], n_folds=0, scored_border_neutral=True).rows()[0].title == title


def test_rows_of_decoded_methods_are_one_per_decoder():
    rows = Experiment(8, ("best", "best_border_neutral"), decoders=("per query", "belief propagation")).rows()
    titles = ["best, per query", "best, belief propagation"]
    assert [row.title for row in rows] == titles + [f"{title}, border-neutral" for title in titles]
    assert [row.decoder for row in rows] == ["per query", "belief propagation"] * 2


def test_a_title_means_one_measurement():
    """Tables look methods up by title: in two experiments it must be the same row and split."""
    meanings = {}
    for name, experiment in EXPERIMENTS.items():
        titles = [row.title for row in experiment.rows()]
        assert len(titles) == len(set(titles)), name
        for row in experiment.rows():
            assert meanings.setdefault(row.title, (row, experiment.n_folds)) == (row, experiment.n_folds)


# --- what is recorded -----------------------------------------------------------


def test_every_recorded_method_is_a_row_of_an_experiment():
    titles = {row.title for experiment in EXPERIMENTS.values() for row in experiment.rows()}
    assert {method["name"] for method in recorded_methods(*EXPERIMENTS)} <= titles


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_row_of_an_experiment_is_recorded(name, request):
    if name in TO_BE_RECORDED:
        request.applymarker(pytest.mark.xfail(strict=True, reason="run make reproduce, then shorten TO_BE_RECORDED"))
    recorded = load_results(name)
    assert recorded is not None and [method["name"] for method in recorded["methods"]] == [
        row.title for row in EXPERIMENTS[name].rows()
    ]


def test_recorded_rows_say_what_the_registry_says():
    """Split, task and border-neutrality of a recorded method are those of its row."""
    for name, experiment in EXPERIMENTS.items():
        rows = {row.title: row for row in experiment.rows()}
        for method in recorded_methods(name):
            if row := rows.get(method["name"]):
                assert method["split"] == experiment.split
                assert method["border_neutral"] == (get_entry(row.method).border_neutral or row.scored_neutral)
                assert method["task"] == experiments.DECODERS[row.decoder][1]


# --- tables ---------------------------------------------------------------------


def test_faces_of_a_pair_in_words():
    table = pd.DataFrame({"left_face": [True, True, False, False], "right_face": [True, False, True, False]})
    table.index = pd.Index([4, 3, 2, 1])
    words = experiments.faces_in_pair(table)
    assert words.to_dict() == {4: "both", 3: "left only", 2: "right only", 1: "none"} and words.name == "faces"


def test_found_table_and_groups_are_one_row_per_pair_and_agree(tiny, monkeypatch):
    """Six pictures without faces; the group of a left says whether it has a face, as the table of faces does."""
    monkeypatch.setenv("TLL_PROGRESS", "0")
    dataset = load_dataset(tiny)
    found, groups = found_table(dataset), groups_table(dataset)
    assert list(found["left"]) == list(groups["left"]) == [f"l{i}" for i in range(6)]
    assert not found[["left_face", "right_face"]].to_numpy().any()
    assert set(groups["group"]) <= {f"{cluster}, no face" for cluster in "ABC"}
