"""Siamese networks as methods: what chooses the epoch, what is read again, what is averaged."""

import numpy as np
import pytest
from sklearn.base import clone

from tll_utils.data.folds import near_duplicate_groups
from tll_utils.methods import from_scratch
from tll_utils.methods.from_scratch import SiameseNetwork, validation_split

# TensorFlow's tensors do not know NumPy 2's `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

COLUMNS = ["epoch", "loss", "pair_accuracy", "top2", "val_loss", "val_pair_accuracy", "val_top2", "seconds"]
TINY = SiameseNetwork("small", size=(32, 26), epochs=2, batch_size=20)


# --- the pairs that choose the epoch --------------------------------------------


def test_near_duplicates_stay_on_one_side(sample):
    """Pairs 0 … 9 stand in the training pairs twice: all 54, each on one side, 20 or more on each, none divided."""
    train = sample.take([*range(44), *range(10)])
    learn, validation = validation_split(train)
    assert sorted([*learn, *validation]) == list(range(54))
    assert min(len(learn), len(validation)) >= 20
    groups = near_duplicate_groups(train.left, train.right)
    assert len(set(groups)) <= 44 and not set(groups[learn]) & set(groups[validation])


def test_border_neutral_pairs_are_divided_as_the_raw_ones(sample, monkeypatch):
    """Near-duplicates are those of the raw images, so that both are compared on equal pairs."""
    seen = []
    monkeypatch.setattr(from_scratch, "near_duplicate_groups", lambda *sides: seen.append(sides) or np.arange(44))
    validation_split(sample.take(range(44)).cropped())
    assert [(side.is_cropped, len(side)) for side in seen[0]] == [(False, 44), (False, 44)]


@pytest.mark.parametrize(("n", "n_validation"), [(400, 40), (120, 24)])
def test_a_tenth_or_24_pairs_choose_the_epoch(sample, monkeypatch, n, n_validation):
    monkeypatch.setattr(from_scratch, "near_duplicate_groups", lambda *sides: np.arange(n))
    assert len(validation_split(sample.take(np.arange(n) % 64))[1]) == n_validation


def test_too_few_pairs_are_refused(sample):
    with pytest.raises(ValueError, match="41 training pairs"):
        SiameseNetwork().fit(sample.take(range(41)))


# --- fit and scores -------------------------------------------------------------


def test_a_finished_training_is_only_read(sample, trainings):
    """History (with its seconds) and scores are the same; the scores are finite, of every left with every right."""
    train, test = sample.take(range(48)), sample.take(range(48, 64))
    first, second = (clone(TINY).fit(train) for _ in range(2))
    assert len(list(trainings.iterdir())) == 1
    assert list(first.history_.columns) == COLUMNS and list(first.history_.epoch) == [1, 2]
    assert np.isfinite(first.history_.to_numpy()).all()
    assert second.history_.equals(first.history_)
    S, again = (method.scores(test.left, test.right.take(range(10))) for method in (first, second))
    assert S.shape == (16, 10) and S.dtype == np.float32 and np.isfinite(S).all()
    np.testing.assert_array_equal(S, again)


def test_other_parameters_pairs_and_views_are_other_trainings(sample, trainings, monkeypatch):
    """None is taken for another: every fit has a folder of its own."""
    folders = []
    monkeypatch.setattr(from_scratch.training, "fit", lambda *args, folder, **options: folders.append(folder))
    train = sample.take(range(48))
    for method in (TINY, clone(TINY).set_params(seed=1), clone(TINY).set_params(size=(40, 32))):
        method.fit(train)
    for pairs in (sample.take(range(1, 49)), train.cropped(), train):
        TINY.fit(pairs)
    assert len(set(folders)) == 5 and folders[-1] == folders[0]
    assert {folder.parent for folder in folders} == {trainings}


def test_infonce_has_no_pair_accuracy(sample, trainings):
    """Its logits are no log-odds, so nothing says which side of 0 is a pair; all other columns are there."""
    method = clone(TINY).set_params(head="scaled_cosine", epochs=1).fit(sample.take(range(48)))
    missing = method.history_.columns[method.history_.isna().any()]
    assert set(missing) == {"pair_accuracy", "val_pair_accuracy"}


def test_scores_of_an_augmented_network_average_mirrored_views(sample):
    """It scores images and their mirror images alike; another network does not."""
    left, right = sample.left.take(range(4)), sample.right.take(range(4))
    for augmented in (True, False):
        method = clone(TINY).set_params(augmented=augmented)
        method.model_ = method.build()
        S, mirrored = method.scores(left, right), method.scores(left.mirrored(), right.mirrored())
        assert np.allclose(S, mirrored, atol=1e-6) == augmented


def test_the_seed_decides_the_random_weights():
    a, b, c = (clone(TINY).set_params(seed=seed).build().get_weights() for seed in (0, 0, 1))
    assert all(np.array_equal(*pair) for pair in zip(a, b, strict=True))
    assert not np.array_equal(a[0], c[0])
