"""Data that hardly are any: black images, one training pair, no query, a gallery of one list: answers, not errors."""

import numpy as np
import pytest

from conftest import encoded, picture
from tll_utils.data.dataset import load_dataset
from tll_utils.methods.registry import get_method
from tll_utils.report.submission import candidate_scores

QUICK, SLOW = ["hog", "lite0", "mixture"], ["face_gated", "fusion", "fast", "best_one_to_one"]  # the slow ones learn


def keep_rows(path, n):
    """The first n rows of a table; returns the ids of the others."""
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[: n + 1]) + "\n", encoding="utf-8")
    return [line.split(",") for line in lines[n + 1 :]]


def blacken(root):
    for file in root.glob("*/*/*.jpg"):
        file.write_bytes(encoded(0 * picture(0)))


def keep_one_pair(root):
    for left, right in keep_rows(root / "train.csv", 1):
        (root / "train" / "left" / f"{left}.jpg").unlink()
        (root / "train" / "right" / f"{right}.jpg").unlink()


def remove_queries(root):
    keep_rows(root / "test_candidates.csv", 0)
    for file in root.glob("test/*/*.jpg"):
        file.unlink()


def remove_the_odd_candidate(root):
    """Of 21 rights the one that the first query does not list; the other queries go."""
    keep_rows(root / "test_candidates.csv", 1)
    for name in ("test/left/q1", "test/left/q2", "test/right/g20"):
        (root / f"{name}.jpg").unlink()


def cases():
    for degrade in (blacken, keep_one_pair, remove_queries, remove_the_odd_candidate):
        for name in QUICK + SLOW:
            if degrade is not keep_one_pair or name not in ("fast", "best_one_to_one"):  # they name the want of pairs
                yield pytest.param(degrade, name, id=f"{degrade.__name__}-{name}")


@pytest.mark.filterwarnings("error::RuntimeWarning", "ignore:Number of distinct clusters")
@pytest.mark.parametrize(("degrade", "name"), list(cases()))
def test_scores_are_finite(degrade, name, tiny, volume):
    if name in SLOW and not volume:
        pytest.skip("at volume only: make test-faults")
    degrade(tiny)
    dataset = load_dataset(tiny)
    scores = candidate_scores(dataset, get_method(name).fit(dataset.train))
    assert scores.shape == (len(dataset.test), 20) and np.isfinite(scores).all()
    if degrade is blacken and name != "best_one_to_one":  # which knows that lists overlap
        np.testing.assert_allclose(scores, scores[0, 0], atol=1e-6)
