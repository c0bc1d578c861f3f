"""What is recorded is whole, carries its provenance, and reads back unchanged."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from scripts import recording
from tll_utils.report import results


class Train:
    """Three pairs, with ids that look like a missing value and a number."""

    left = SimpleNamespace(ids=("aaa", "nan", "001"))

    def __len__(self):
        return 3


DATASET = SimpleNamespace(name="TLL", fingerprint="f" * 64, train=Train())


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where this test records: `data/results` of a checkout of its own."""
    monkeypatch.setattr(results, "project_root", lambda: tmp_path)
    return results.results_dir()


def method(name="HOG", **changes):
    fields = dict.fromkeys(recording.METHOD_FIELDS) | {"name": name, "expected_top2": 0.5, "interval95": [0.4, 0.6]}
    return fields | changes


def table(top2=(0.0, 0.5, 1.0)):
    return pd.DataFrame({"fold": [0, 0, 1], "gallery": 2, "rank": [2.0, 1.5, 1.0], "top2": np.array(top2)})


def test_record_reads_back_with_provenance(folder):
    path = recording.record("pretrained", DATASET, [method()], {"HOG": table()})
    assert path == folder / "pretrained.json"
    recorded = results.load_results("pretrained")
    assert recorded["data"] == {"name": "TLL", "fingerprint": "f" * 64, "pairs": 3}
    assert recorded["environment"]["packages"]["keras"] and recorded["environment"]["hardware"]
    assert recorded["methods"] == [method()]
    assert recorded["files"] == {"rank": "pretrained_rank.csv", "top2": "pretrained_top2.csv"}


def test_per_left_values_read_back_by_id():
    recording.record("pretrained", DATASET, [method()], {"HOG": table()})
    assert results.load_per_left("pretrained", "top2")["HOG"].to_dict() == {"aaa": 0.0, "nan": 0.5, "001": 1.0}
    assert list(results.load_per_left("pretrained", "rank")["HOG"]) == [2.0, 1.5, 1.0]


def test_part_of_the_pairs_with_histories_and_tables_reads_back():
    """Rows 2 and 1 of the training pairs are held out: their ids are 001 and nan."""
    held_out = table()[:2].set_index(np.array([2, 1]))
    histories = {"HOG": pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.25]})}
    faces = pd.DataFrame({"left": ["nan"], "left_face": [True]})
    recording.record("x", DATASET, [method()], {"HOG": held_out}, histories=histories, tables={"faces": faces})
    assert list(results.load_per_left("x", "top2").index) == ["001", "nan"]
    expected = pd.DataFrame({"method": ["HOG", "HOG"], "epoch": [1, 2], "loss": [0.5, 0.25]})
    pd.testing.assert_frame_equal(results.load_table("x", "history"), expected)
    pd.testing.assert_frame_equal(results.load_table("x", "faces"), faces)


@pytest.mark.parametrize(
    ("methods", "tables", "message"),
    [
        ([method("a"), method("b")], {"a": table(), "b": table().set_index(np.array([0, 2, 1]))}, "different pairs"),
        ([{"name": "HOG"}], {"HOG": table()}, "method fields"),
        ([method(surplus=1)], {"HOG": table()}, "surplus"),
        ([method()], {"other": table()}, "per-left"),
    ],
)
def test_what_does_not_fit_together_is_refused_and_nothing_is_written(folder, methods, tables, message):
    with pytest.raises(ValueError, match=message):
        recording.record("x", DATASET, methods, tables)
    assert not folder.exists()


def test_row_of_a_method_is_rounded():
    """Top-2 values 0, 0.5 and 1/3: the mean is 0.27777…, recorded to four places."""
    per_left = table((0.0, 0.5, 1 / 3)).assign(top1=0.1, reciprocal_rank=0.5)
    row = recording.method_row("HOG", per_left, split="5-fold", seconds=1.26, task="one-to-one")
    assert set(row) == set(recording.METHOD_FIELDS)
    assert (row["expected_top2"], row["expected_top1"], row["seconds"], row["n_left"]) == (0.2778, 0.1, 1.3, 3)
    assert row["interval95"][0] < 0.2778 < row["interval95"][1]
    assert (row["task"], row["split"], row["border_neutral"], row["report_top2"]) == (
        "one-to-one",
        "5-fold",
        False,
        None,
    )


def test_commit_says_whether_the_code_differs_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "project_root", lambda: tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert recording.commit() == "unknown"  # outside git
    for folder in ("tll_utils", "scripts", "notebooks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "code.py").write_text("1\n", encoding="utf-8")
    run = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*run, *command], check=True)
    clean = recording.commit()
    assert len(clean) == 40
    (tmp_path / "notebooks" / "code.py").write_text("2\n", encoding="utf-8")
    assert recording.commit() == clean
    (tmp_path / "scripts" / "code.py").write_text("2\n", encoding="utf-8")
    assert recording.commit() == f"{clean}-dirty"
