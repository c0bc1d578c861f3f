"""Batches for Keras's `fit`: in-batch negatives and features; and images kept in memory.

The batches of an epoch depend on `seed` and `epoch` alone. `fit` counts `epoch` up from 0; to resume, set it to fit's
`initial_epoch`. Call `fit(..., shuffle=False)`: Keras would shuffle once more, from Python's global generator.
"""

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

from tll_utils.data.pairs import Pairs
from tll_utils.runtime import keras

Batch = tuple[tuple[np.ndarray, np.ndarray], np.ndarray]


class CachedImages(Sequence):
    """Images at a network's input size, uint8 (*size, 3), kept in memory once decoded: of TLL 0.6 GB at full size."""

    def __init__(self, images: Sequence[np.ndarray], size: tuple[int, int]):
        self.images, self._decoded = images, cache(lambda row: resized(images[row], size))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> np.ndarray:  # type: ignore[override]
        return self._decoded(row)


def cached(pairs: Pairs, size: tuple[int, int]) -> Pairs:
    """Both sides as `CachedImages`: a finished training, which is only read, decodes none."""
    return Pairs(CachedImages(pairs.left, size), CachedImages(pairs.right, size))  # type: ignore[arg-type]


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image at this height and width."""
    return image if image.shape[:2] == tuple(size) else cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def augment(image: np.ndarray, rng: np.random.Generator, *, flip: bool) -> np.ndarray:
    """A random crop of 70 to 100 % of each side, resized, with other contrast and colours."""
    size = np.array(image.shape[:2])
    height, width = crop = np.round(size * rng.uniform(0.7, 1)).astype(int)
    top, left = rng.integers(0, size - crop + 1)
    image = image[top : top + height, left : left + width, :][:, :: -1 if flip else 1]
    image = cv2.resize(np.ascontiguousarray(image), tuple(size[::-1].tolist()), interpolation=cv2.INTER_LINEAR)
    gain, shift = rng.uniform(0.7, 1.3) * rng.uniform(0.85, 1.15, 3), rng.uniform(-30, 30)
    values = (np.arange(256)[:, None] - 128) * gain + 128 + shift
    return cv2.LUT(image, np.clip(values, 0, 255).astype(np.uint8)[:, None])


def sampled_labels(n: int, n_foils: int, rng: np.random.Generator) -> np.ndarray:
    """Labels (n, n) float32: 1 on the diagonal, in every row n_foils random zeros, the rest −1, not sampled."""
    keys = rng.random((n, n))
    np.fill_diagonal(keys, -1)  # the match comes first in its row
    place = keys.argsort(axis=1).argsort(axis=1)
    return np.select([place == 0, place <= n_foils], [1, 0], -1).astype(np.float32)


class EpochBatches(keras.utils.PyDataset):
    """A dataset whose batches follow from `seed` and `epoch`."""

    def __init__(self, batch_size: int, seed: int):
        super().__init__(workers=1)  # more may serve a batch twice: those fetched to build a model stay in their queue
        self.batch_size, self.seed, self.epoch, self._has_begun = batch_size, seed, 0, False

    def on_epoch_begin(self) -> None:
        self._has_begun = True

    def on_epoch_end(self) -> None:
        self.epoch += self._has_begun  # fit also ends an epoch before it begins its first
        self._has_begun = False

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, *stream])


class InBatchNegatives(EpochBatches):
    """Batches of B pairs, ((left, right), labels): left, right uint8 (B, h, w, 3), labels float32 (B, B).

    Of every row of labels one is 1, the match; n_foils are 0, sampled among the batch's other rights; the rest is −1.
    The pairs that fill no whole batch differ from epoch to epoch. `augmented`: a pair is flipped as a whole, crops and
    colours of its two images differ. `shuffle=False`, for validation: all pairs, however few, in batches of about
    batch_size, the same in every epoch. Raises ValueError with too few rights for the foils, or pairs for a batch.
    """

    def __init__(
        self, pairs: Pairs, *, batch_size: int = 32, n_foils: int = 19, shuffle: bool = True, augmented: bool = False,
        seed: int = 0,
    ):  # fmt: skip
        super().__init__(batch_size, seed)
        if n_foils >= batch_size or (shuffle and batch_size > len(pairs)):
            wrong = f"{len(pairs)} pairs in batches of {batch_size} with {n_foils} foils a left"
            raise ValueError(f"{wrong}: pass a batch_size above the foils and at most the pairs")
        self.pairs, self.n_foils, self.shuffle, self.augmented = pairs, n_foils, shuffle, augmented
        rng = np.random.default_rng(seed)
        parts = np.array_split(rng.permutation(len(pairs)), len(self))
        self._fixed = [(rows, sampled_labels(len(rows), n_foils, rng)) for rows in parts]

    def __len__(self) -> int:
        return max(1, len(self.pairs) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        rows, labels = self._fixed[index]
        if self.shuffle:
            rows = self._rng(0).permutation(len(self.pairs))[index * self.batch_size :][: self.batch_size]
            labels = sampled_labels(self.batch_size, self.n_foils, self._rng(1, index))
        left, right = (np.stack([self._load(row, side) for row in rows.tolist()]) for side in (0, 1))
        return (left, right), labels

    def _load(self, row: int, side: int) -> np.ndarray:
        image = (self.pairs.left, self.pairs.right)[side][row]
        if not self.augmented:
            return image
        return augment(image, self._rng(3, row, side), flip=self._rng(2, row).random() < 0.5)


class FeatureBatches(EpochBatches):
    """Batches of B matching rows, ((left, right), labels): left, right float32 (B, …), labels the identity (B, B).

    left_views, right_views: one array (n, …), or two (the images and their mirror images) of which a coin shows one
    per pair and epoch to both sides; memory maps will do. The rows that fill no whole batch differ from epoch to epoch.
    epochs: so many are one epoch of `fit`, which takes 0.03 s to begin one, more than a step of a small layer.
    Raises ValueError with fewer rows than a batch holds, or a batch without foils.
    """

    def __init__(self, left_views: Sequence, right_views: Sequence, *, batch_size: int, seed: int = 0, epochs: int = 1):
        super().__init__(batch_size, seed)
        self.views, self.n, self.epochs = (left_views, right_views), len(left_views[0]), epochs
        if not 1 < batch_size <= self.n:
            raise ValueError(f"{self.n} pairs in batches of {batch_size}: pass from 2 to {self.n}, a left needs foils")
        self._generator, self._drawn = np.random.default_rng(seed), []

    def __len__(self) -> int:
        return self.epochs * (self.n // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        epoch, step = divmod(self.epoch * len(self) + index, self.n // self.batch_size)
        while len(self._drawn) <= epoch:
            order, are_two = self._generator.permutation(self.n), len(self.views[0]) > 1
            self._drawn.append((order, self._generator.random(self.n) >= 0.5 if are_two else np.zeros(self.n, bool)))
        order, coins = self._drawn[epoch]
        rows = order[step * self.batch_size :][: self.batch_size]
        left, right = (self._shown(views, rows, coins[rows]) for views in self.views)
        return (left, right), np.eye(self.batch_size, dtype=np.float32)

    def _shown(self, views: Sequence, rows: np.ndarray, second: np.ndarray) -> np.ndarray:
        shown = np.asarray(views[0][rows], np.float32)
        if second.any():
            shown[second] = views[1][rows[second]]
        return shown
