"""Recorded results are whole, carry their provenance, and read back as they were."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tll_utils import results


def fake_dataset():
    left = SimpleNamespace(ids=("aaa", "nan", "ccc"))

    class Train:
        def __len__(self):
            return 3

    train = Train()
    train.left = left
    return SimpleNamespace(name="TLL", fingerprint="f" * 64, train=train)


def method(name="HOG", **changes):
    fields = dict.fromkeys(results.METHOD_FIELDS) | {
        "name": name, "expected_top2": 0.5, "interval95": [0.4, 0.6], "expected_top1": 0.3, "task": "inductive",
        "border_neutral": False,
    }  # fmt: skip
    return fields | changes


def table(top2=(0.0, 0.5, 1.0)):
    return pd.DataFrame({"fold": [0, 0, 1], "gallery": 2, "rank": [2.0, 1.5, 1.0], "top2": np.array(top2)})


def test_record_reads_back_with_provenance(tmp_path):
    results.record("pretrained", fake_dataset(), [method()], {"HOG": table()}, folder=tmp_path)
    recorded = results.load_results("pretrained", folder=tmp_path)
    assert recorded["data"] == {"name": "TLL", "fingerprint": "f" * 64, "pairs": 3}
    assert recorded["environment"]["packages"]["keras"] and recorded["environment"]["hardware"]
    assert recorded["methods"] == [method()]
    assert len(recorded["commit"].removesuffix("-dirty")) in (40, len("unknown"))


def test_per_left_values_keep_ids_that_look_like_missing_values(tmp_path):
    results.record("pretrained", fake_dataset(), [method()], {"HOG": table()}, folder=tmp_path)
    values = results.load_per_left("pretrained", "top2", folder=tmp_path)
    assert list(values.left) == ["aaa", "nan", "ccc"]
    assert list(values.HOG) == [0.0, 0.5, 1.0]
    assert list(results.load_per_left("pretrained", "rank", folder=tmp_path).HOG) == [2.0, 1.5, 1.0]


def test_part_of_the_pairs_with_histories_reads_back(tmp_path):
    """Rows 2 and 1 of the training pairs are held out: their ids are ccc and nan."""
    held_out = table()[:2].set_index(np.array([2, 1]))
    histories = {"HOG": pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.25]})}
    results.record("x", fake_dataset(), [method()], {"HOG": held_out}, histories=histories, folder=tmp_path)
    assert list(results.load_per_left("x", "top2", folder=tmp_path).left) == ["ccc", "nan"]
    expected = pd.DataFrame({"method": ["HOG", "HOG"], "epoch": [1, 2], "loss": [0.5, 0.25]})
    pd.testing.assert_frame_equal(results.load_history("x", folder=tmp_path), expected)


def test_tables_of_different_pairs_are_refused(tmp_path):
    tables = {"a": table(), "b": table().set_index(np.array([0, 2, 1]))}
    with pytest.raises(ValueError, match="different pairs"):
        results.record("x", fake_dataset(), [method("a"), method("b")], tables, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_experiment_is_none(tmp_path):
    assert results.load_results("nothing", folder=tmp_path) is None


def test_missing_or_unknown_fields_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="method fields"):
        results.record("x", fake_dataset(), [{"name": "HOG"}], {"HOG": table()}, folder=tmp_path)
    with pytest.raises(ValueError, match="per-left"):
        results.record("x", fake_dataset(), [method()], {"other": table()}, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_table_has_a_row_a_method_in_order(tmp_path):
    results.record(
        "a", fake_dataset(), [method("one"), method("two", border_neutral=True)],
        {"one": table(), "two": table()}, folder=tmp_path,
    )  # fmt: skip
    shown = results.results_table("a", folder=tmp_path)
    assert list(shown.method) == ["one", "two"]
    assert list(shown["border-neutral"]) == ["", "yes"]
    assert shown["95 % interval"][0] == "0.400 – 0.600"


def test_every_headline_is_recorded_once():
    assert sorted(method["name"] for method in results.headlines()) == sorted(results.HEADLINES)


def test_committed_results_agree_with_their_per_left_values():
    """The mean of the recorded per-left values is the recorded accuracy; cross-validation scores every pair."""
    recorded = [json.loads(path.read_text()) for path in sorted(results.results_dir().glob("*.json"))]
    assert recorded
    for experiment in recorded:
        top2 = results.load_per_left(experiment["experiment"], "top2")
        for entry in experiment["methods"]:
            assert set(entry) == set(results.METHOD_FIELDS)
            assert top2[entry["name"]].mean() == pytest.approx(entry["expected_top2"], abs=1e-4)
            low, high = entry["interval95"]
            assert low <= entry["expected_top2"] <= high
            assert entry["n_left"] == len(top2) == top2.left.nunique()
            if "fold" in entry["split"]:
                assert entry["n_left"] == experiment["data"]["pairs"]
