"""A submission has the challenge's rows, order and finite numbers, or it is not written."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tll_utils import submission
from tll_utils.methods import Method


def fake_dataset(n=3):
    rng = np.random.default_rng(0)
    candidates = np.array([rng.permutation(25)[:20] for _ in range(n)])
    left = SimpleNamespace(ids=("null", "bbb", "NA")[:n])
    return SimpleNamespace(train=None, test=SimpleNamespace(left=left, right=None, candidates=candidates))


def test_scores_are_read_out_of_the_matrix_by_candidate():
    """S[i, j] = 100 i + j, so the score of left i and candidate j is 100 i + its column."""
    dataset = fake_dataset()
    S = 100 * np.arange(3)[:, None] + np.arange(25)
    scores = submission.candidate_scores(dataset, Method("fake", lambda train, left, right: S))
    np.testing.assert_array_equal(scores, 100 * np.arange(3)[:, None] + dataset.test.candidates)


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
