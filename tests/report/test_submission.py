"""A submission has the challenge's rows, order and finite numbers, or it is not written."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tll_utils.data.dataset import load_dataset
from tll_utils.methods.base import Calibrated, Method
from tll_utils.report import submission
from tll_utils.runtime import project_root


class Given(Method):
    """Scores a test set with the matrix given, and says how many pairs it was fitted on."""

    def __init__(self, S):
        self.S = S

    def fit(self, train):
        self.n_pairs_ = len(train)
        return self

    def scores(self, left, right):
        return self.S


class Planted(Method):
    """Scores whose log-likelihood ratio of truth and foil they are, times `scale`; the truth is `match`."""

    def __init__(self, match, scale=1.0):
        self.match = match
        self.scale = scale

    def fit(self, train):
        return self

    def scores(self, left, right):
        n_left, n_right = len(left), len(right)
        match = self.match if n_left == len(self.match) else np.arange(n_left)
        S = 1.5 * np.random.default_rng(n_left).standard_normal((n_left, n_right))
        S[np.arange(n_left), match] += 1.5**2
        return self.scale * S


@pytest.fixture(scope="module")
def sample():
    return load_dataset(project_root() / "data" / "sample")


def fake_dataset(n=3):
    rng = np.random.default_rng(0)
    candidates = np.array([rng.permutation(25)[:20] for _ in range(n)])
    left = SimpleNamespace(ids=("null", "bbb", "NA")[:n])
    return SimpleNamespace(train=range(7), test=SimpleNamespace(left=left, right=range(25), candidates=candidates))


# --- scores ---------------------------------------------------------------------


def test_scores_are_read_out_of_the_matrix_by_candidate():
    """S[i, j] = 100 i + j: the score of a candidate says its row and column. All training pairs are learned from."""
    dataset, method = fake_dataset(), Given(100 * np.arange(3)[:, None] + np.arange(25))
    scores = submission.candidate_scores(dataset, method.fit(dataset.train))
    np.testing.assert_array_equal(scores, 100 * np.arange(3)[:, None] + dataset.test.candidates)
    assert method.n_pairs_ == 7


def test_one_to_one_scores_are_calibrated(sample):
    """Scores ten times too large are brought back by the temperature: the same log-odds come out."""
    match = sample.test.match
    usual, larger = (
        submission.candidate_scores(sample, Calibrated(Planted(match, k)).fit(sample.train)) for k in (1, 10)
    )
    np.testing.assert_allclose(usual, larger, rtol=1e-3, atol=1e-3)


def test_one_to_one_decodes_all_rows_together(sample):
    """Decoded together the truth comes first more often, and the scores of a list are not those of the matrix."""
    planted = Planted(sample.test.match)
    methods = planted.fit(sample.train), Calibrated(planted).fit(sample.train)
    alone, together = (submission.candidate_scores(sample, method) for method in methods)
    top1 = [(scores.argmax(axis=1) == sample.test.truth).mean() for scores in (alone, together)]
    assert top1[0] < top1[1] and not np.allclose(alone, together)


def test_one_to_one_works_with_too_few_pairs_to_calibrate():
    """Seven pairs give no lists of 20: the temperature is 1. Each left likes a right of its own best and gets it."""
    dataset = fake_dataset()
    S = np.zeros((3, 25))
    best = dataset.test.candidates[:, 4]
    S[np.arange(3), best] = 5
    scores = submission.candidate_scores(dataset, Calibrated(Given(S)).fit(dataset.train))
    assert scores.shape == (3, 20) and list(scores.argmax(axis=1)) == [4, 4, 4]


# --- the file -------------------------------------------------------------------


def test_written_file_has_the_rows_in_order(tmp_path):
    dataset, path = fake_dataset(), tmp_path / "new folder" / "submission.csv"
    scores = np.random.default_rng(1).normal(size=(3, 20)).astype(np.float32)
    submission.write_submission(dataset, scores, path)
    table = pd.read_csv(path, keep_default_na=False, encoding="utf-8")
    assert list(table.columns) == ["left", *(f"c{i}" for i in range(20))]
    assert list(table.left) == ["null", "bbb", "NA"]
    np.testing.assert_allclose(table.iloc[:, 1:].to_numpy(float), scores, rtol=1e-6)
    assert [file.name for file in path.parent.iterdir()] == ["submission.csv"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused_and_the_old_file_stays(tmp_path, bad):
    path = tmp_path / "submission.csv"
    path.write_text("old", encoding="utf-8")
    scores = np.zeros((3, 20))
    scores[1, 4] = bad
    with pytest.raises(ValueError, match="bbb, c4"):
        submission.write_submission(fake_dataset(), scores, path)
    assert path.read_text(encoding="utf-8") == "old"


def test_wrong_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match="do not fit"):
        submission.write_submission(fake_dataset(), np.zeros((3, 19)), tmp_path / "submission.csv")
    assert not list(tmp_path.iterdir())
