"""Recorded trainings: the reported pairs choose nothing, and an interrupted recording goes on."""

import json

import numpy as np
import pytest

from tll_utils import results, siamese, trainings
from tll_utils.dataset import load_dataset
from tll_utils.evaluation import per_left
from tll_utils.folds import near_duplicate_groups
from tll_utils.runtime import project_root
from tll_utils.trainings import TRAININGS, Training

# TensorFlow's tensors do not know NumPy 2's `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def sample():
    return load_dataset(project_root() / "data" / "sample")


@pytest.fixture(scope="module")
def split(sample):
    return trainings.report_split(sample.train)


def test_split_is_the_reports_with_near_duplicates_on_one_side(sample, split):
    """All 120 pairs, each in one part, no group in two; a fifth is held out, 20 or more of the rest choose."""
    rows = np.concatenate(split)
    assert sorted(rows) == list(range(120))
    groups = near_duplicate_groups(sample.train.left, sample.train.right)
    assert sum(len(set(groups[part])) for part in split) == len(set(groups))
    assert len(split.held_out) == pytest.approx(24, abs=4) and len(split.validation) == pytest.approx(24, abs=4)


def test_record_holds_both_scorings_and_the_history(sample, split, tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "project_root", lambda: tmp_path)
    monkeypatch.setattr(results, "results_dir", lambda: tmp_path)
    size = (32, 26)
    trained = (
        Training("small_difference", size, epochs=2, batch_size=24),
        Training("small_absolute", size, epochs=1, batch_size=24, border_neutral=True),
    )
    monkeypatch.setitem(TRAININGS, "siamese", trained)
    trainings.record_trainings("siamese", sample)

    names = ["small tower, a−b", "small tower, a−b, scored with borders cropped"]
    names.append("small tower, |a−b|, trained without borders")
    recorded = json.loads((tmp_path / "siamese.json").read_text())["methods"]
    assert [method["name"] for method in recorded] == names
    assert [method["border_neutral"] for method in recorded] == [False, True, True]
    assert recorded[0]["expected_top2"] == pytest.approx(0.1)  # a − b ranks the rights alike for every left
    assert "input 32×26, 2 epochs, batch 24" in recorded[0]["notes"]
    top2 = results.load_per_left("siamese", "top2")
    assert list(top2.left) == [sample.train.left.ids[row] for row in split.held_out]
    assert list(results.load_history("siamese").method) == [names[0], names[0], names[2]]

    before = results.load_history("siamese")  # what is finished is read, not trained again
    trainings.record_trainings("siamese", sample)
    assert results.load_history("siamese").equals(before)


def test_folds_hold_out_every_pair_once(sample, tmp_path, monkeypatch):
    """Cross-validated, every pair is reported on once, by a network that neither learned it nor was chosen on it."""
    monkeypatch.setattr(trainings, "project_root", lambda: tmp_path)
    monkeypatch.setattr(results, "results_dir", lambda: tmp_path)
    training = Training("small_absolute", (32, 26), epochs=1, batch_size=24, n_folds=5)
    splits = trainings.splits(training, near_duplicate_groups(sample.train.left, sample.train.right))
    assert all(sorted(np.concatenate(split)) == list(range(120)) for split in splits)
    assert sorted(np.concatenate([split.held_out for split in splits])) == list(range(120))

    monkeypatch.setitem(TRAININGS, "siamese", (training,))
    trainings.record_trainings("siamese", sample)
    method = json.loads((tmp_path / "siamese.json").read_text())["methods"][0]
    assert method["name"] == "small tower, |a−b|, 5 folds" and method["split"].startswith("5 folds")
    top2 = results.load_per_left("siamese", "top2")
    assert list(top2.left) == list(sample.train.left.ids)
    for fold, split in enumerate(splits):
        assert (top2.fold[split.held_out] == fold).all()
    assert list(results.load_history("siamese").fold) == [0, 1, 2, 3, 4]


def test_mirrored_scores_are_the_mean_of_both_views(sample, split):
    """Averaged over both views a network scores images and their mirror images alike; this one alone does not."""
    size = (32, 26)
    model = siamese.build(siamese.VARIANTS["small_infonce"], size=size, precision="float32")
    pictures = siamese.prepare(sample.train.take(split.held_out), size)
    views = [(pictures.left, pictures.right)]
    views.append(tuple([image[:, ::-1] for image in side] for side in views[0]))
    plain, flipped = (siamese.score_matrix(model, *view) for view in views)
    expected = per_left((plain + flipped) / 2, np.arange(len(plain)))
    table = trainings.held_out_table(model, sample.train, split.held_out, mirrored=True)
    np.testing.assert_allclose(table["rank"], expected["rank"])
    assert not np.allclose(plain, flipped)


@pytest.mark.parametrize("experiment", TRAININGS)
def test_recorded_networks_are_those_of_the_experiment(experiment):
    recorded = results.load_history(experiment).method.unique()
    assert list(recorded) == [training.title for training in TRAININGS[experiment]], f"make reproduce for {experiment}"


def test_the_reports_networks_are_all_trained():
    trained = {training.variant for group in TRAININGS.values() for training in group}
    assert trained >= {name for name, variant in siamese.VARIANTS.items() if variant.report_top2}
