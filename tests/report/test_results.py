"""Recorded results agree with themselves and with the registry; the tables made of them hold what was recorded."""

import json

import pandas as pd
import pytest

from scripts import recording
from scripts.recording import METHOD_FIELDS
from scripts.tables import TABLES
from tll_utils.methods.registry import get_entry
from tll_utils.report import results
from tll_utils.report.experiments import EXPERIMENTS

RECORDED = [name for name in EXPERIMENTS if results.load_results(name)]


def method(name="HOG", **changes):
    fields = {"name": name, "expected_top2": 0.5, "interval95": [0.4, 0.6], "expected_top1": 0.3}
    return fields | {"task": "inductive", "border_neutral": False, "report_top2": None} | changes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty `data/results`, and a way to put a JSON file there."""
    monkeypatch.setattr(results, "project_root", lambda: tmp_path)
    results.results_dir().mkdir(parents=True)

    def write(name, *methods):
        (results.results_dir() / f"{name}.json").write_text(json.dumps({"methods": methods}), encoding="utf-8")

    return write


def test_what_was_not_recorded_is_none_and_left_out_of_tables(folder):
    folder("a", method("one"))
    assert results.load_results("b") is None
    assert list(results.results_table("b", "a", "b")["method"]) == ["one"]
    assert len(results.results_table("b")) == 0


def test_table_has_a_row_per_method_in_order(folder):
    folder("a", method("two", border_neutral=True, report_top2=0.198))
    folder("b", method("one", task="one-to-one"))
    shown = results.results_table("a", "b")
    assert list(shown.columns) == ["method", "top-2", "95 % interval", "top-1", "border-neutral", "task", "report"]
    assert shown.iloc[0].tolist() == ["two", 0.5, "0.400 – 0.600", 0.3, "yes", "inductive", 0.198]
    assert shown["method"].tolist() == ["two", "one"] and shown["border-neutral"].tolist() == ["yes", ""]
    assert "report" not in results.results_table("b")  # the report published no such method


def test_per_left_values_keep_ids_that_look_like_missing_values(folder):
    text = "left,fold,gallery,HOG\naaa,0,2,0.0\nnan,0,2,0.5\n001,1,1,1.0\n"
    (results.results_dir() / "a_top2.csv").write_text(text, encoding="utf-8")
    values = results.load_per_left("a", "top2")
    assert list(values.index) == ["aaa", "nan", "001"] and list(values.columns) == ["HOG"]
    assert list(values["HOG"]) == [0.0, 0.5, 1.0]


def test_history_keeps_missing_values(folder):
    text = "method,epoch,pair_accuracy\nInfoNCE,1,\nInfoNCE,2,\n"
    (results.results_dir() / "a_history.csv").write_text(text, encoding="utf-8")
    history = results.load_table("a", "history")
    assert history["pair_accuracy"].isna().all() and list(history["epoch"]) == [1, 2]


def test_readme_table_sets_ours_beside_the_reports_best_of_a_kind(folder):
    """A kind that has not been recorded has no row."""
    published = pd.DataFrame({"method": ["pretrained VGG16"], "top2": [0.504], "source": ["report"]})
    published.to_csv(results.results_dir() / "published.csv", index=False, encoding="utf-8")
    folder("shortcuts", method(get_entry("border_geometry").title, expected_top2=0.2343), method("HOG"))
    folder("pretrained", method(get_entry("lite_layers").title, expected_top2=0.6056))
    folder("one_to_one", method("best, CSLS", expected_top2=0.8147, task="gallery known"))
    assert recording.readme_table().splitlines() == [
        "| method | report | here | 95 % interval | task |",
        "|---|---|---|---|---|",
        "| black borders alone, a shortcut |  | 0.234 | 0.400 – 0.600 | inductive |",
        "| features of pretrained networks | 0.504 | 0.606 | 0.400 – 0.600 | inductive |",
        "| … the other queries' candidates known |  | 0.815 | 0.400 – 0.600 | gallery known |",
    ]


def test_readme_is_rewritten_between_its_comments_alone(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "readme_table", lambda: "| |a−b| |")
    monkeypatch.setattr(recording, "project_root", lambda: tmp_path)
    before, after = f"# Title\n\n{recording.START}\n", f"\n{recording.END}\n\nMore.\n"
    (tmp_path / "README.md").write_text(f"{before}old{after}", encoding="utf-8")
    recording.update_readme()
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == f"{before}| |a−b| |{after}"


# --- the committed files --------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in RECORDED if EXPERIMENTS[name].methods])
def test_committed_results_agree_with_their_per_left_values(name):
    """The mean of the recorded per-left values is the recorded accuracy; cross-validation scores every pair."""
    recorded = results.load_results(name)
    top2, ranks = (results.load_per_left(name, column) for column in ("top2", "rank"))
    assert [entry["name"] for entry in recorded["methods"]] == list(top2) == list(ranks)
    assert top2.index.is_unique and top2.index.equals(ranks.index)
    for entry in recorded["methods"]:
        assert set(entry) == set(METHOD_FIELDS)
        assert top2[entry["name"]].mean() == pytest.approx(entry["expected_top2"], abs=1e-4)
        assert entry["interval95"][0] <= entry["expected_top2"] <= entry["interval95"][1]
        assert entry["n_left"] == len(top2)
        if "fold" in entry["split"]:
            assert entry["n_left"] == recorded["data"]["pairs"]


def test_recorded_histories_are_of_recorded_methods():
    for name in RECORDED:
        if "history" in results.load_results(name)["files"]:
            titles = results.load_table(name, "history")["method"].unique()
            assert set(titles) <= {method["name"] for method in results.recorded_methods(name)}


def test_recorded_pair_table_is_the_head_of_the_report_table():
    table = pd.read_csv(results.results_dir() / "pair_table.csv", dtype=str, keep_default_na=False, encoding="utf-8")
    assert list(table.label) == (["1"] + ["0"] * 19) * 2


def test_no_file_lies_about_that_no_experiment_recorded():
    expected = {"pair_table.csv", "published.csv", "bench.json"} | {f"{name}.json" for name in RECORDED}
    for name in RECORDED:
        expected |= set(results.load_results(name)["files"].values())
        expected |= {f"{name}_{table}.csv" for table in TABLES.get(name, {})}
    assert {path.name for path in results.results_dir().iterdir()} == expected


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"methods"'])
def test_a_damaged_recorded_result_is_named_with_the_remedy(folder, text):
    (results.results_dir() / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json cannot be read \(.*\): restore it by `git"):
        results.recorded_methods("a")


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b'left,"a\n1,2,3\n'])
def test_a_damaged_table_is_named_with_the_remedy(folder, data):
    (results.results_dir() / "a_rank.csv").write_bytes(data)
    with pytest.raises(ValueError, match=r"a_rank\.csv cannot be read \(.*\): restore it by"):
        results.load_table("a", "rank")
    with pytest.raises(ValueError, match=r"a_rank\.csv cannot be read") as named:
        results.load_per_left("a", "rank")
    assert str(named.value).count("cannot be read") == 1


def test_a_per_left_table_without_its_columns_is_named(folder):
    (results.results_dir() / "a_rank.csv").write_text("left,HOG\naaa,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a_rank\.csv cannot be read \(.*gallery.*\): restore it by"):
        results.load_per_left("a", "rank")
