"""The command line, on a tiny data set."""

import shutil
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tll_utils import cli


@pytest.fixture
def command(tiny, tmp_path, monkeypatch):
    """Runs `tll submit` with TLL_DATA=<tiny> with its output under tmp_path."""
    monkeypatch.setattr(cli, "project_root", lambda: tmp_path)
    monkeypatch.setenv("TLL_DATA", str(tiny))
    monkeypatch.setenv("TLL_PROGRESS", "0")
    monkeypatch.delenv("METHOD", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tll", "submit", *arguments])
        cli.main()
        return pd.read_csv(tmp_path / "build" / "submission.csv")

    return run


def test_command_works_on_a_folder_of_six_pairs_and_three_queries(command, monkeypatch):
    """One-to-one where the entry of the method says so: other scores than its own."""
    entry = cli.METHODS["file_size"]
    monkeypatch.setitem(cli.METHODS, "together", replace(entry, one_to_one=True))
    alone, together = (command("--method", method) for method in ("file_size", "together"))
    assert list(alone.left) == list(together.left) == ["q0", "q1", "q2"]
    assert alone.iloc[:, 1:].nunique(axis=1).min() > 1
    assert not np.allclose(alone.iloc[:, 1:], together.iloc[:, 1:])


def test_candidate_that_is_the_left_image_itself_scores_best(command, tiny, monkeypatch):
    """Candidate c5 of every query is made the same picture as its left image."""
    for i in range(3):
        shutil.copy(tiny / f"test/left/q{i}.jpg", tiny / f"test/right/g{i + 5}.jpg")
    monkeypatch.setenv("METHOD", "lite0_average")
    scores = command().set_index("left")
    assert list(scores.columns[scores.to_numpy().argmax(axis=1)]) == ["c5", "c5", "c5"]


def test_command_says_the_accuracy_where_the_truth_is_known(command, tiny, capsys):
    """The truth of each query is its c5, the very picture: top-2 accuracy is 1."""
    for i in range(3):
        shutil.copy(tiny / f"test/left/q{i}.jpg", tiny / f"test/right/g{i + 5}.jpg")
    (tiny / "test_truth.csv").write_text("left,right\nq0,g5\nq1,g6\nq2,g7\n")
    command("--method", "tiny_image")
    assert "top-2 accuracy on the known truth: 1.000" in capsys.readouterr().out


def test_command_names_the_methods_there_are(command):
    with pytest.raises(SystemExit, match=r"unknown method 'clip'; known: .*lite_pair"):
        command("--method", "clip")


def test_command_says_what_is_wrong_with_the_data_and_writes_nothing(command, tiny, tmp_path):
    (tiny / "test/left/q1.jpg").unlink()
    with pytest.raises(SystemExit, match="q1"):
        command()
    assert not (tmp_path / "build").exists()
