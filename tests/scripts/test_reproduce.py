"""A recording that was interrupted goes on where it stopped, and says beforehand how long it takes."""

import sys
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from scripts import recording, reproduce, scoring
from scripts.tables import TABLES
from tll_utils.data.dataset import load_dataset
from tll_utils.methods import registry
from tll_utils.methods.base import BorderNeutral, Method, WeightedSum
from tll_utils.methods.registry import Entry, get_method
from tll_utils.report import results
from tll_utils.report.experiments import EXPERIMENTS, Experiment
from tll_utils.runtime import project_root

SAMPLE = project_root() / "data" / "sample"
HALVES = [(np.arange(60, 120), np.arange(60)), (np.arange(60), np.arange(60, 120))]


class Planted(Method):
    """Random scores with the truth `signal` higher; views with borders cropped away lose all signal."""

    fits: ClassVar[list[str]] = []  # what was fitted, in order
    fail: ClassVar[set[str]] = set()  # what is interrupted

    def __init__(self, name="planted", signal=2.0):
        self.name = name
        self.signal = signal

    def fit(self, train):
        if self.name in self.fail:
            raise KeyboardInterrupt
        self.fits.append(self.name)
        return self

    def scores(self, left, right):
        S = np.random.default_rng(len(left)).standard_normal((len(left), len(right))).astype(np.float32)
        return S if left.is_cropped else S + np.float32(self.signal) * np.eye(*S.shape, dtype=np.float32)


class Trained(Planted):
    """A method with a training history, best in epoch 2."""

    def fit(self, train):
        self.history_ = pd.DataFrame({"epoch": [1, 2, 3], "loss": [0.9, np.nan, 0.1], "val_top2": [0.1, 0.4, 0.2]})
        return super().fit(train)


@pytest.fixture(scope="module")
def sample():
    return load_dataset(SAMPLE)


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    """Kept scores and results of a checkout of its own, whose package is one file."""
    for module in (recording, scoring, results):
        monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    monkeypatch.setattr(Planted, "fits", [])
    monkeypatch.setattr(Planted, "fail", set())
    (tmp_path / "tll_utils").mkdir()
    (tmp_path / "tll_utils" / "code.py").write_text("1\n", encoding="utf-8")
    results.results_dir().mkdir(parents=True)
    return tmp_path


@pytest.fixture
def toy(monkeypatch):
    """The experiments "toy" of methods one and two, each cross-validated, and "together", one decoded."""
    monkeypatch.setattr(scoring.keras.backend, "clear_session", lambda: None)  # nothing is trained, and it is slow
    for name in ("one", "two"):
        monkeypatch.setitem(registry.METHODS, name, Entry(name, Planted(name), notes=f"notes of {name}"))
    monkeypatch.setitem(EXPERIMENTS, "toy", Experiment(0, ("one", "two")))
    monkeypatch.setitem(EXPERIMENTS, "together", Experiment(8, ("one",), decoders=("per query", "belief propagation")))


def recorded(experiment):
    return {method["name"]: method for method in results.recorded_methods(experiment)}


# --- scores that are kept -------------------------------------------------------


def test_scores_are_kept_and_read_back_unchanged(sample):
    first, again = (scoring.fold_scores(Trained(), sample.train, HALVES, neutral=True) for _ in range(2))
    assert Planted.fits == ["planted"] * 2  # one fit per fold, the first time only
    for before, after in zip(first.raw + first.neutral, again.raw + again.neutral, strict=True):
        np.testing.assert_array_equal(before, after)
    assert again.seconds == first.seconds and len(again.histories) == 2
    assert [epoch["val_top2"] for epoch in again.histories[1]] == [0.1, 0.4, 0.2]
    assert np.isnan(again.histories[0][1]["loss"])


@pytest.mark.parametrize("changed", ["method", "pairs", "view", "folds", "fewer", "neutral", "code", "new code"])
def test_any_change_makes_the_scores_anew(sample, checkout, changed):
    method, pairs, folds, neutral = Planted(), sample.train, HALVES, False
    scoring.fold_scores(method, pairs, folds, neutral=neutral)
    if changed == "method":
        method = Planted(signal=3.5)
    elif changed == "pairs":
        pairs = pairs.take(np.arange(119, -1, -1))
    elif changed == "view":
        pairs = pairs.cropped()
    elif changed == "folds":
        folds = HALVES[::-1]
    elif changed == "fewer":
        folds = [(train[1:], test) for train, test in HALVES]
    elif changed == "neutral":
        neutral = True
    else:
        file = "code.py" if changed == "code" else "more.py"
        (checkout / "tll_utils" / file).write_text("2\n", encoding="utf-8")
    scoring.fold_scores(method, pairs, folds, neutral=neutral)
    assert len(Planted.fits) == 4


def test_damaged_scores_are_made_anew(sample, checkout):
    scoring.fold_scores(Planted(), sample.train, HALVES)
    (kept,) = (checkout / "build" / "reproduce" / "scores").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    scores = scoring.fold_scores(Planted(), sample.train, HALVES)
    assert len(Planted.fits) == 4 and scores.raw[0].shape == (60, 60)


def test_weighted_sum_is_put_together_from_its_members(sample):
    """S of 1 · one + 0.5 · two; the scores of `one` are those kept before."""
    one, two = Planted("one", 2.0), Planted("two", 1.0)
    alone = scoring.fold_scores(one, sample.train, HALVES)
    both = scoring.fold_scores(WeightedSum([one, two], [1, 0.5]), sample.train, HALVES)
    assert Planted.fits == ["one", "one", "two", "two"]
    other = scoring.fold_scores(two, sample.train, HALVES)
    for S, a, b in zip(both.raw, alone.raw, other.raw, strict=True):
        np.testing.assert_allclose(S, a + 0.5 * b, rtol=1e-6)
    assert both.seconds == alone.seconds + other.seconds


def test_history_of_a_border_neutral_network_is_found(sample):
    scores = scoring.fold_scores(BorderNeutral(Trained()), sample.train, HALVES)
    assert len(scores.histories) == 2


def test_seconds_of_a_resumed_training_hold_its_earlier_epochs(sample, monkeypatch):
    """Two folds of three epochs that say 100 s each, of which this run made none."""
    history = pd.DataFrame({"epoch": [1, 2, 3], "val_top2": 0.5, "seconds": 100.0})
    monkeypatch.setattr(Trained, "history_", history, raising=False)
    monkeypatch.setattr(Trained, "fit", Planted.fit)
    assert scoring.fold_scores(Trained(), sample.train, HALVES).seconds == 600


# --- recording ------------------------------------------------------------------


def test_interrupted_recording_goes_on_with_the_next_method(sample, toy, capsys):
    """Killed in method two: method one is recorded already, and not fitted again."""
    Planted.fail.add("two")
    with pytest.raises(KeyboardInterrupt):
        reproduce.record_experiment("toy", sample)
    before = recorded("toy")
    assert list(before) == ["one"] and Planted.fits == ["one"] * 5
    Planted.fail.clear()
    reproduce.record_experiment("toy", sample)
    after = recorded("toy")
    assert list(after) == ["one", "two"] and Planted.fits == ["one"] * 5 + ["two"] * 5
    assert after["one"]["expected_top2"] == before["one"]["expected_top2"] > 0.5
    assert after["two"]["notes"] == "notes of two" and after["two"]["n_left"] == 120
    assert list(results.load_per_left("toy", "top2").index) == list(sample.train.left.ids)


def test_networks_are_recorded_with_both_scorings_and_their_history(sample, monkeypatch):
    """Raw scores hold the truth, border-neutral ones nothing; epoch 2 was best. The report published 0.198."""
    monkeypatch.setitem(registry.METHODS, "net", Entry("net", Trained(), "input 123×100", report_top2=0.198))
    monkeypatch.setitem(EXPERIMENTS, "nets", Experiment(2, ("net",), n_folds=0, scored_border_neutral=True))
    reproduce.record_experiment("nets", sample)
    raw, neutral = recorded("nets").values()
    assert (raw["name"], neutral["name"]) == ("net", "net, scored border-neutral")
    assert (raw["border_neutral"], neutral["border_neutral"]) == (False, True)
    assert (raw["report_top2"], neutral["report_top2"]) == (0.198, None)
    assert raw["expected_top2"] > 0.5 > neutral["expected_top2"]
    assert raw["notes"] == f"input 123×100; {reproduce.automatic_precision()}; best epoch 2 by validation top-2"
    assert raw["split"].startswith("80/20") and raw["n_left"] == pytest.approx(24, abs=4)
    history = results.load_table("nets", "history")
    assert list(history["method"]) == ["net"] * 3 and list(history["fold"]) == [0] * 3


def test_folds_of_networks_are_told_apart_in_the_history(sample, monkeypatch):
    monkeypatch.setitem(registry.METHODS, "net", Entry("net", Trained(), report_top2=0.198))
    monkeypatch.setitem(EXPERIMENTS, "nets", Experiment(2, ("net",), n_folds=3, scored_border_neutral=True))
    reproduce.record_experiment("nets", sample)
    history = results.load_table("nets", "history")
    assert list(history["fold"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2] and set(history["method"]) == {"net, 3 folds"}
    assert recorded("nets")["net, 3 folds"]["report_top2"] is None  # the report's split was another


def test_decoded_methods_are_fitted_once_and_recorded_per_task(sample, toy):
    """Decoded together the planted scores solve more, and the rows say which task they are of."""
    reproduce.record_experiment("together", sample)
    alone, together = recorded("together").values()
    assert Planted.fits == ["one"] * 5
    assert (alone["task"], together["task"]) == ("inductive", "one-to-one")
    assert alone["expected_top2"] < together["expected_top2"]
    assert alone["notes"] == f"notes of one; {reproduce.LISTS}"


def test_tables_are_recorded_beside_the_results(sample, toy, monkeypatch):
    table = pd.DataFrame({"left": ["a"], "group": ["A"]})
    monkeypatch.setitem(EXPERIMENTS, "toy", Experiment(5, ("one",)))
    monkeypatch.setitem(TABLES, "toy", {"groups": lambda dataset: table})
    reproduce.record_experiment("toy", sample)
    pd.testing.assert_frame_equal(results.load_table("toy", "groups"), table)
    assert results.load_results("toy")["files"]["groups"] == "toy_groups.csv"


# --- the run --------------------------------------------------------------------


def test_plan_counts_every_method_once(monkeypatch):
    """The two rows of a network share 600 s of training, 6 s and 3 s of scoring come on top: the longer counts."""
    nets = Experiment(2, ("hog", "lab_histogram"), n_folds=0, scored_border_neutral=True)
    monkeypatch.setitem(EXPERIMENTS, "nets", nets)
    seconds = {"HOG": 606, "HOG, scored border-neutral": 603, "CIELAB histogram": 60}
    monkeypatch.setattr(
        reproduce,
        "recorded_methods",
        lambda name: [{"name": key, "seconds": value} for key, value in seconds.items()] if name == "nets" else [],
    )
    shown = reproduce.plan(["nets", "shortcuts"])
    assert shown.iloc[0].tolist() == ["nets", "02", 4, 11.1]
    assert shown.iloc[1].tolist()[:3] == ["shortcuts", "00", 5] and np.isnan(shown.iloc[1, 3])


def test_comparison_says_what_changed_and_whether_it_stayed_in_the_interval():
    def row(name, top2):
        return {"name": name, "expected_top2": top2, "interval95": [0.4, 0.6]}

    table = reproduce.comparison([row("a", 0.5), row("b", 0.5), row("gone", 0.5)], [
        row("a", 0.5123), row("b", 0.61), row("new", 0.1),
    ])  # fmt: skip
    assert table.to_numpy().tolist() == [["a", 0.5, 0.5123, 0.0123, "yes"], ["b", 0.5, 0.61, 0.11, "NO"]]


@pytest.fixture
def command(checkout, monkeypatch, toy):
    """Runs `make reproduce TLL_DATA=data/sample`."""
    monkeypatch.setenv("TLL_DATA", str(SAMPLE))
    monkeypatch.setenv("TLL_CACHE", "")  # the run sets another; this puts it back
    monkeypatch.delenv("ONLY", raising=False)
    (checkout / "README.md").write_text(f"# Title\n{recording.START}\nold\n{recording.END}\n", encoding="utf-8")
    (results.results_dir() / "published.csv").write_text("method,top2,source\nVGG16,0.504,report\n", encoding="utf-8")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["reproduce", *arguments])
        reproduce.main()

    return run


def test_run_records_what_only_names_and_compares_with_what_was_recorded(command, checkout, monkeypatch, capsys):
    monkeypatch.setenv("ONLY", "toy together")
    command()
    assert list(recorded("toy")) == ["one", "two"] and len(recorded("together")) == 2
    assert Planted.fits == ["one"] * 5 + ["two"] * 5  # the decoded method is the one measured before
    assert "| report | here |" in (checkout / "README.md").read_text(encoding="utf-8")
    assert len(pd.read_csv(results.results_dir() / "pair_table.csv", encoding="utf-8")) == 40
    assert not [path for path in (checkout / "build" / "reproduce").rglob("*") if path.is_file()]
    capsys.readouterr()

    command("toy")
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if "inside the interval?" in line)
    assert [line.split()[0] for line in lines[at + 1 :]] == ["one", "two"]
    assert all(line.split()[-2:] == ["0.0", "yes"] for line in lines[at + 1 :])


def test_interrupted_run_compares_with_what_was_recorded_before_it(command, capsys):
    """Row one is overwritten before the interruption; the second run still shows the number from before both."""
    command("toy")
    file = results.results_dir() / "toy.json"
    top2 = recorded("toy")["one"]["expected_top2"]
    file.write_text(file.read_text(encoding="utf-8").replace(f"{top2}", "0.1234"), encoding="utf-8")
    Planted.fail.add("two")
    with pytest.raises(KeyboardInterrupt):
        command("toy")
    Planted.fail.clear()
    capsys.readouterr()
    command("toy")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:2] == ["one", "0.1234"])
    assert line.split()[2] == f"{top2}"


def test_unknown_experiments_are_named(command, capsys, monkeypatch):
    monkeypatch.setenv("ONLY", "toys")
    with pytest.raises(SystemExit):
        command()
    assert "unknown experiments ['toys']; known: shortcuts" in capsys.readouterr().err


def test_damaged_data_sets_are_refused_before_anything_is_recorded(command, tiny, monkeypatch):
    (tiny / "train.csv").unlink()
    monkeypatch.setenv("TLL_DATA", str(tiny))
    with pytest.raises(SystemExit, match=r"train\.csv"):
        command("toy")
    assert not recorded("toy")


# --- weights that have to be downloaded -----------------------------------------

DOWNLOADED = ("presets", "report_fine_tuning")


@pytest.fixture
def quick(monkeypatch):
    """Two folds, and an epoch of every training."""
    monkeypatch.setitem(EXPERIMENTS, "presets", replace(EXPERIMENTS["presets"], n_folds=2))
    fine_tuned, adapters = (registry.METHODS[name] for name in ("vgg16_fine_tuned", "best_and_transformers"))
    shortened = replace(fine_tuned, method=get_method("vgg16_fine_tuned").set_params(epochs=1))
    monkeypatch.setitem(registry.METHODS, "vgg16_fine_tuned", shortened)
    small = get_method("best_and_transformers")
    small.set_params(epochs=1, n_seeds=1, width=16, inputs=small.inputs[-3:])
    monkeypatch.setitem(registry.METHODS, "best_and_transformers", replace(adapters, method=small))


def test_one_command_records_every_preset(command, quick, presets, monkeypatch):
    """`make reproduce ONLY="presets report_fine_tuning"` with random weights of small networks: every row is filled."""
    monkeypatch.setenv("TLL_PRESETS", str(presets))
    command(*DOWNLOADED)
    for name in DOWNLOADED:
        assert list(recorded(name)) == [row.title for row in EXPERIMENTS[name].rows()]
        assert all(0 <= row["expected_top2"] <= 1 for row in recorded(name).values())
    assert recorded("report_fine_tuning")["VGG16, fine-tuned"]["split"].startswith("80/20")


def test_missing_presets_are_left_out_unless_asked_for(command, monkeypatch, tmp_path, capsys):
    """Before anything is measured; asked for by name, one line says what to do."""
    monkeypatch.setenv("TLL_PRESETS", str(tmp_path))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    monkeypatch.delenv("TLL_DOWNLOAD", raising=False)
    for name in EXPERIMENTS.keys() - {"toy", *DOWNLOADED}:
        monkeypatch.delitem(EXPERIMENTS, name)
    command()
    output = capsys.readouterr().out
    assert list(recorded("toy")) == ["one", "two"] and not recorded("presets")
    assert "left out: presets. resnet_18_imagenet is not on this machine" in output
    assert "left out: report_fine_tuning. vgg_16_imagenet" in output and "TLL_DOWNLOAD=1" in output
    with pytest.raises(SystemExit):
        command("toy", "presets")
    assert "resnet_18_imagenet is not on this machine" in capsys.readouterr().err
    assert Planted.fits == ["one"] * 5 + ["two"] * 5
