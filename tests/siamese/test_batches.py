"""Batches: their order, their labels, what they show, and what `fit` is fed."""

import numpy as np
import pytest

from tll_utils.data.pairs import Pairs
from tll_utils.runtime import keras
from tll_utils.siamese.batches import (
    FeatureBatches,
    InBatchNegatives,
    cached,
    sampled_labels,
)

SIZE = (32, 26)


class Pictures:
    """Noise images, uint8 (n, 32, 26, 3); `read` lists the rows that were asked for."""

    def __init__(self, n, seed):
        self.images = np.random.default_rng(seed).integers(0, 256, (n, *SIZE, 3), np.uint8)
        self.ids = tuple(f"{seed}-{i}" for i in range(n))
        self.read = []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.read.append(i)
        return self.images[i]


def noise_pairs(n):
    return Pairs(Pictures(n, 1), Pictures(n, 2))


def rows_of(pictures, images):
    return [int((pictures.images == image).all((1, 2, 3)).argmax()) for image in images]


# --- images ---------------------------------------------------------------------


def test_cached_images_are_decoded_once_and_resized():
    pairs = noise_pairs(3)
    both = cached(pairs, (16, 13))
    assert pairs.left.read == [] and both.left[1] is both.left[1] and pairs.left.read == [1]  # when it is asked for
    left, right = (np.stack([side[row] for row in range(3)]) for side in (both.left, both.right))
    assert sorted(pairs.left.read) == [0, 1, 2] and len(both) == 3
    assert left.shape == right.shape == (3, 16, 13, 3) and left.dtype == np.uint8


def test_images_are_resized_by_the_mean_of_their_pixels():
    pictures = Pictures(1, 0)
    halves = pictures.images[0].reshape(16, 2, 13, 2, 3).mean((1, 3))
    np.testing.assert_allclose(cached(Pairs(pictures, pictures), (16, 13)).left[0], halves, atol=0.51)


# --- in-batch negatives ---------------------------------------------------------


def test_every_left_has_its_match_and_19_of_31_foils():
    labels = sampled_labels(32, 19, np.random.default_rng(0))
    assert (np.diag(labels) == 1).all()
    assert [set((labels == value).sum(1)) for value in (1, 0, -1)] == [{1}, {19}, {12}]
    assert ((labels == 0).sum(0) > 0).all()


def test_batches_depend_on_seed_and_epoch_alone():
    pairs = noise_pairs(50)

    def batch(epoch, seed=0):
        batches = InBatchNegatives(pairs, batch_size=24, augmented=True, seed=seed)
        batches.epoch = epoch
        (left, right), labels = batches[1]
        return np.concatenate([left.ravel(), right.ravel(), labels.ravel()])

    assert np.array_equal(batch(3), batch(3))
    assert not np.array_equal(batch(3), batch(4))
    assert not np.array_equal(batch(3), batch(3, seed=1))


def test_an_epoch_shows_every_pair_at_most_once_and_keeps_pairs_together():
    """50 pairs in batches of 24: 2 batches, 2 pairs left out."""
    pairs = noise_pairs(50)
    batches = InBatchNegatives(pairs, batch_size=24)
    assert len(batches) == 2
    lefts, rights = (np.concatenate([batches[step][0][side] for step in range(2)]) for side in (0, 1))
    rows = rows_of(pairs.left, lefts)
    assert len(set(rows)) == 48
    assert np.array_equal(pairs.right.images[rows], rights)


@pytest.mark.parametrize(("n", "sizes"), [(50, [25, 25]), (10, [10])])
def test_validation_shows_all_pairs_the_same_way_in_every_epoch(n, sizes):
    """50 pairs in batches of about 24; 10 pairs are no whole batch, and all others of the batch are foils."""
    pairs = noise_pairs(n)
    batches = InBatchNegatives(pairs, batch_size=24, shuffle=False)
    shown = [batches[step] for step in range(len(batches))]
    assert [labels.shape for _, labels in shown] == [(size, size) for size in sizes]
    assert sorted(row for (left, _), _ in shown for row in rows_of(pairs.left, left)) == list(range(n))
    batches.epoch = 1
    for step, (_, labels) in enumerate(shown):
        assert np.array_equal(batches[step][1], labels)
        assert set((labels == 0).sum(1)) == {min(19, len(labels) - 1)}


def test_batches_need_more_rights_than_foils_and_enough_pairs():
    with pytest.raises(ValueError, match="10 pairs in batches of 32"):
        InBatchNegatives(noise_pairs(10))
    with pytest.raises(ValueError, match="batch_size above the foils"):
        InBatchNegatives(noise_pairs(40), batch_size=19)


def test_augmentation_flips_both_images_of_a_pair_but_not_their_crops():
    """Left half black, right half white, on both sides: the bright half tells whether an image was flipped."""
    half = np.zeros((40, *SIZE, 3), np.uint8)
    half[:, :, SIZE[1] // 2 :] = 255
    pairs = noise_pairs(40)
    pairs.left.images = pairs.right.images = half
    (left, right), _ = InBatchNegatives(pairs, batch_size=40, augmented=True)[0]
    flipped = [side[:, :, :5].mean((1, 2, 3)) > side[:, :, -5:].mean((1, 2, 3)) for side in (left, right)]
    assert np.array_equal(*flipped) and 5 < flipped[0].sum() < 35
    assert left.shape == right.shape == (40, *SIZE, 3) and left.dtype == np.uint8
    assert not any(np.array_equal(a, b) for a, b in zip(left, right, strict=True))
    (plain, _), _ = InBatchNegatives(pairs, batch_size=40)[0]
    assert np.array_equal(plain, half)


# --- features -------------------------------------------------------------------


def numbered(n, offset=0):
    """Row i is (offset + i, offset + i)."""
    return (offset + np.arange(n, dtype=np.float64))[:, None].repeat(2, axis=1)


def test_features_come_in_matching_rows_of_one_view():
    """10 rows in batches of 4: 8 different ones an epoch; the second view's numbers are 100 higher, rights' 1000."""
    views = [numbered(10), numbered(10, 100)], [numbered(10, 1000), numbered(10, 1100)]
    batches = FeatureBatches(*views, batch_size=4)
    assert len(batches) == 2
    lefts, rights = (np.concatenate([batches[step][0][side] for step in range(2)]) for side in (0, 1))
    assert lefts.dtype == np.float32 and np.array_equal(lefts + 1000, rights)
    assert len(set(lefts[:, 0] % 100)) == 8
    assert np.array_equal(batches[0][1], np.eye(4)) and batches[0][1].dtype == np.float32


def test_a_coin_decides_which_view_a_pair_shows_in_an_epoch():
    views = [numbered(400), numbered(400, 1000)]
    batches = FeatureBatches(views, views, batch_size=400)
    seen = []
    for batches.epoch in range(2):
        shown = batches[0][0][0][:, 0]
        seen.append(np.empty(400, bool))
        seen[-1][shown.astype(int) % 1000] = shown >= 1000
        assert 150 < seen[-1].sum() < 250
    assert 150 < (seen[0] != seen[1]).sum() < 250


def test_feature_batches_depend_on_seed_and_epoch_alone_and_may_span_epochs():
    views = [numbered(10), numbered(10, 100)]

    def epoch(number, seed=0, **options):
        batches = FeatureBatches(views, views, batch_size=4, seed=seed, **options)
        batches.epoch = number
        return np.array([batches[step][0] for step in range(len(batches))])

    assert np.array_equal(epoch(3), epoch(3)) and not np.array_equal(epoch(3), epoch(4))
    assert not np.array_equal(epoch(3), epoch(3, seed=1))
    assert np.array_equal(epoch(1, epochs=2), np.concatenate([epoch(2), epoch(3)]))


def test_memory_maps_serve_as_features(tmp_path):
    np.save(tmp_path / "maps.npy", np.arange(24, dtype=np.float16).reshape(4, 3, 2))
    maps = np.load(tmp_path / "maps.npy", mmap_mode="r")
    (left, _), _ = FeatureBatches([maps], [maps], batch_size=4)[0]
    assert left.shape == (4, 3, 2) and left.dtype == np.float32 and left.sum() == 276


@pytest.mark.parametrize("batch_size", [1, 11])
def test_feature_batches_need_foils_and_enough_rows(batch_size):
    with pytest.raises(ValueError, match=f"10 pairs in batches of {batch_size}: pass from 2 to 10"):
        FeatureBatches([numbered(10)], [numbered(10)], batch_size=batch_size)


# --- fit ------------------------------------------------------------------------


class Recorder(keras.Model):
    """A trivial model that writes down the features Keras feeds it."""

    def __init__(self):
        super().__init__()
        self.unit = keras.layers.Dense(1)
        self.fed = []

    def call(self, inputs):
        return self.unit(inputs[0] - inputs[1])

    def train_step(self, data):
        self.fed.append(np.asarray(data[0][0])[:, 0].tolist())
        return super().train_step(data)


def fed_by_fit(batches, **options):
    model = Recorder()
    model.compile(optimizer="sgd", loss=lambda labels, logits: logits, run_eagerly=True)
    model.fit(batches, shuffle=False, verbose=0, **options)
    return model.fed


def feature_batches():
    return FeatureBatches([numbered(20)], [numbered(20, 100)], batch_size=5)


def test_fit_shows_the_epochs_from_0_on():
    batches, expected = feature_batches(), []
    for batches.epoch in range(3):
        expected += [batches[step][0][0][:, 0].tolist() for step in range(4)]
    assert fed_by_fit(feature_batches(), epochs=3) == expected


def test_a_resumed_fit_sees_what_the_whole_one_saw():
    """Of three epochs of four batches, the last two."""
    whole = fed_by_fit(feature_batches(), epochs=3)
    resumed = feature_batches()
    resumed.epoch = 1
    assert fed_by_fit(resumed, epochs=3, initial_epoch=1) == whole[4:]
