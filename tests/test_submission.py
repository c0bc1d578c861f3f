"""A submission has the challenge's rows, order and finite numbers, or it is not written."""

import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tll_utils import submission
from tll_utils.dataset import load_dataset
from tll_utils.methods import Method
from tll_utils.runtime import project_root


def fake_dataset(n=3):
    rng = np.random.default_rng(0)
    candidates = np.array([rng.permutation(25)[:20] for _ in range(n)])
    left = SimpleNamespace(ids=("null", "bbb", "NA")[:n])
    return SimpleNamespace(train=None, test=SimpleNamespace(left=left, right=None, candidates=candidates))


def test_scores_are_read_out_of_the_matrix_by_candidate(monkeypatch):
    """S[i, j] = 100 i + j, so log-probabilities differ as the candidates' columns do, and sum to 1 as probabilities."""
    monkeypatch.setattr(submission, "calibration_folds", lambda train: [])
    dataset = fake_dataset()
    S = 100 * np.arange(3)[:, None] + np.arange(25)
    scores = submission.candidate_scores(dataset, Method("fake", lambda train, left, right: S))
    columns = dataset.test.candidates
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    np.testing.assert_allclose(np.log(scores / scores[:, :1]), columns - columns[:, :1], atol=1e-9)


def test_submission_is_calibrated():
    """Planted scores with a true temperature of 1, ten times too large: the mean confidence is still the accuracy."""
    dataset = load_dataset(project_root() / "data" / "sample")

    def score(train, left, right):
        match = dataset.test.match if len(left) == len(dataset.test.left) else np.arange(len(left))
        S = 1.5 * np.random.default_rng(len(left)).standard_normal((len(left), len(right)))
        S[np.arange(len(left)), match] += 1.5**2
        return 10 * S

    chance = submission.candidate_scores(dataset, Method("planted", score))
    truth = (dataset.test.candidates == dataset.test.match[:, None]).argmax(axis=1)
    assert chance.max(axis=1).mean() == pytest.approx((chance.argmax(axis=1) == truth).mean(), abs=0.15)


def test_written_file_has_the_rows_in_order(tmp_path):
    dataset, path = fake_dataset(), tmp_path / "new folder" / "submission.csv"
    scores = np.random.default_rng(1).normal(size=(3, 20)).astype(np.float32)
    submission.write_submission(dataset, scores, path)
    table = pd.read_csv(path, keep_default_na=False)
    assert list(table.columns) == ["left", *(f"c{i}" for i in range(20))]
    assert list(table.left) == ["null", "bbb", "NA"]
    np.testing.assert_allclose(table.iloc[:, 1:].to_numpy(float), scores, rtol=1e-6)
    assert [file.name for file in path.parent.iterdir()] == ["submission.csv"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused_and_the_old_file_stays(tmp_path, bad):
    path = tmp_path / "submission.csv"
    path.write_text("old")
    scores = np.zeros((3, 20))
    scores[1, 4] = bad
    with pytest.raises(ValueError, match="bbb, c4"):
        submission.write_submission(fake_dataset(), scores, path)
    assert path.read_text() == "old"


def test_wrong_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match="do not fit"):
        submission.write_submission(fake_dataset(), np.zeros((3, 19)), tmp_path / "submission.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="c7"), "columns"),
        (lambda table: table.iloc[::-1], "order"),
        (lambda table: table.iloc[:2], "number or order"),
        (lambda table: table.assign(c3="x"), "line 2: c3"),
    ],
)
def test_check_finds_what_is_wrong(tmp_path, change, message):
    dataset, path = fake_dataset(), tmp_path / "submission.csv"
    submission.write_submission(dataset, np.zeros((3, 20)), path)
    change(pd.read_csv(path, keep_default_na=False)).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message):
        submission.check_submission(dataset, path)


@pytest.fixture
def command(tiny, tmp_path, monkeypatch):
    """Runs `make submission TLL_DATA=<tiny>` with its output under tmp_path."""
    monkeypatch.setattr(submission, "project_root", lambda: tmp_path)
    monkeypatch.setenv("TLL_DATA", str(tiny))
    monkeypatch.setenv("TLL_PROGRESS", "0")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["submission", *arguments])
        submission.main()
        return pd.read_csv(tmp_path / "build" / "submission.csv")

    return run


@pytest.mark.parametrize("method", ["file_size", "best"])
def test_command_works_on_a_folder_of_six_pairs_and_three_questions(command, method):
    table = command("--method", method)
    assert list(table.left) == ["q0", "q1", "q2"]
    assert table.iloc[:, 1:].nunique(axis=1).min() > 1


def test_candidate_that_is_the_left_image_itself_scores_best(command, tiny):
    """Candidate c5 of every question is made the same picture as its left image."""
    for i in range(3):
        shutil.copy(tiny / f"test/left/q{i}.jpg", tiny / f"test/right/g{i + 5}.jpg")
    scores = command("--method", "lite0").set_index("left")
    assert list(scores.columns[scores.to_numpy().argmax(axis=1)]) == ["c5", "c5", "c5"]


def test_command_names_the_methods_there_are(command):
    with pytest.raises(SystemExit, match=r"unknown method 'clip'; known: .*lite_pair"):
        command("--method", "clip")


def test_command_says_what_is_wrong_with_the_data_and_writes_nothing(command, tiny, tmp_path):
    (tiny / "test/left/q1.jpg").unlink()
    with pytest.raises(SystemExit, match="q1"):
        command()
    assert not (tmp_path / "build").exists()


def test_one_to_one_method_decodes_all_rows_together():
    """Perfect scores stay perfect, and the scores of a list are not those of the matrix."""
    dataset = load_dataset(project_root() / "data" / "sample")

    def score(train, left, right):
        match = dataset.test.match if len(left) == len(dataset.test.left) else np.arange(len(left))
        S = np.random.default_rng(0).standard_normal((len(left), len(right)))
        S[np.arange(len(left)), match] += 3
        return S

    alone, together = (
        submission.candidate_scores(dataset, Method("planted", score, one_to_one=flag)) for flag in (False, True)
    )
    truth = (dataset.test.candidates == dataset.test.match[:, None]).argmax(axis=1)
    top1 = [(scores.argmax(axis=1) == truth).mean() for scores in (alone, together)]
    assert top1[0] <= top1[1] and not np.allclose(alone, together)
