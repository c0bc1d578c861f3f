"""Adapters: one linear layer learned on frozen embeddings, in seconds instead of hours.

images ──► blocks ──► centred, partially whitened ──► linear layer ──► similarity ──► S
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA

from tll_utils.data.images import Images
from tll_utils.data.pairs import Pairs
from tll_utils.features.catalogue import TRANSFORMERS, Features, is_present
from tll_utils.methods.base import Method
from tll_utils.runtime import keras, set_seed
from tll_utils.siamese.batches import FeatureBatches
from tll_utils.siamese.heads import HEADS
from tll_utils.siamese.losses import LOSSES, UNSCALED
from tll_utils.similarity import hubness_correction

HUBNESS_NEIGHBOURS = 30  # training lefts that say how much of a hub a right is

Views = list[dict[str, np.ndarray]]  # per view of the images every whitened block, (n, components)


# --- inputs ---------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """One kind of features of an image, as an input of an adapter."""

    features: Features  # images → (n, d); rows that are NaN have none: they become zeros and teach nothing
    width: int = 256  # principal components kept, at most
    weight: float = 1.0  # root mean square length of a row that has the feature, compared with the other blocks'
    mirrored: bool = False  # whether mirrored images are a second view; without it one view stands for both


VARIANTS = (0, 1, 2)  # of EfficientNet-Lite
BLOCKS: dict[str, Block] = {
    # Intra-normalisation keeps strong features from outweighing the others; those of the linear stage5 may be negative.
    **{f"lite{v}_head": Block(Features(f"lite{v}_grids", "head_grid4x3", cells=12), mirrored=True) for v in VARIANTS},
    **{f"lite{v}_stage5": Block(Features(f"lite{v}_grids", "stage5_grid4x3"), mirrored=True) for v in VARIANTS},
    "hog": Block(Features("hog")),
    "face_descriptor": Block(Features("faces", "descriptor"), width=128, weight=1.5),
    "face_shape": Block(Features("face_landmarks", "shape"), width=32, weight=0.5),
    "face_found": Block(Features("faces", "found"), width=1, weight=0.5),
}
BLOCKS |= {name: Block(Features(name, "stage12_grid4x3"), mirrored=True) for name in TRANSFORMERS}
# For models that are passed on: the axes of lite0_head alone, of 15,360 columns, take 5 MB in half precision.
BLOCKS |= {f"{name}_small": replace(BLOCKS[name], width=160) for name in ("lite0_head", "lite0_stage5")}


@dataclass(eq=False, repr=False)
class Whitening(BaseEstimator):
    """Centred, partially whitened and scaled features, learned from the left and right features of training pairs.

    Each side loses its own mean; the principal axes are those of both together. Partial whitening: a component of
    standard deviation σ is divided by √σ, so that strong ones still count more, but no longer drown the others.
    Where fewer than two rows of a side have the feature nothing is kept, (n, 0).
    """

    width: int = 256
    weight: float = 1.0

    def fit(self, left: np.ndarray, right: np.ndarray) -> Self:
        sides = [side[is_present(side)] for side in (left, right)]
        if min(map(len, sides)) < 2:
            self.axes_ = np.zeros((0, left.shape[1]), np.float32)
            self.means_ = [np.zeros(left.shape[1], np.float32)] * 2
            return self
        self.means_ = [side.mean(axis=0) for side in sides]
        centred = np.concatenate([side - mean for side, mean in zip(sides, self.means_, strict=True)])
        if np.abs(centred).max() <= 1e-6 * np.abs(sides[0]).max():  # constant features, but for rounding
            self.axes_ = np.zeros((1, left.shape[1]), np.float32)
            return self
        n_components = min(self.width, centred.shape[1], len(centred) - 2)
        pca = PCA(n_components, iterated_power=2, random_state=0).fit(centred)
        axes = pca.components_ / np.maximum(pca.explained_variance_, 1e-12)[:, None] ** 0.25
        length = np.sqrt(((centred @ axes.T) ** 2).sum(axis=1).mean())
        self.axes_ = self.weight / length * axes
        return self

    def transform(self, features: np.ndarray, side: int) -> np.ndarray:
        """(n, components) float32 of left (side 0) or right (side 1) features; zeros where a row has none."""
        values = (features - self.means_[side]) @ self.axes_.T
        return np.where(is_present(features)[:, None], values, 0).astype(np.float32)


# --- the method -----------------------------------------------------------------


@dataclass(eq=False, repr=False)
class Adapter(Method):
    """Linear layers on blocks of frozen features; S is the mean of their logits over inputs, seeds and views.

    Several inputs are a random-subspace ensemble (after Ho 1998): layers that see different things err differently.
    Where a block has mirrored views, they double the training pairs, and a score is the mean of both views.
    """

    inputs: Sequence[Sequence[str]]  # for every linear layer the names of its BLOCKS
    _: KW_ONLY
    width: int = 1024  # outputs of the linear layer
    similarity: str = "scaled_cosine"  # key of siamese.heads.HEADS: scaled_cosine, euclidean or bilinear
    loss: str = "info_nce"  # key of siamese.losses.LOSSES
    two_sided: bool = False  # a layer per side instead of one for both
    dropout: float = 0.5
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    batch_size: int = 640  # about: the training pairs in steps of one size; rights of the others are foils
    epochs: int = 30
    n_seeds: int = 3
    hubness_weight: float = 0.0  # of `similarity.hubness_correction` by the training lefts, for each input its own

    def fit(self, train: Pairs) -> Self:
        """Raises ValueError with fewer than two pairs: a left needs foils to be told from."""
        if len(train) < 2:
            raise ValueError(f"{len(train)} training pair: an adapter needs at least two, each the other's foil")
        self.whitenings_ = {name: _fitted(BLOCKS[name], train) for name in self._names()}
        left, right = self.views(train.left, 0), self.views(train.right, 1)
        self.models_ = [
            [self._learn(_chosen(left, names), _chosen(right, names), seed) for seed in range(self.n_seeds)]
            for names in self.inputs
        ]
        self.bank_ = left if self.hubness_weight else None
        return self

    def scores(self, left: Images, right: Images) -> np.ndarray:
        lefts, rights = self.views(left, 0), self.views(right, 1)
        members = zip(self.inputs, self.models_, strict=True)
        return np.mean([self._scores_of(names, models, lefts, rights) for names, models in members], axis=0)

    def _scores_of(self, names: Sequence[str], models: list[keras.Model], lefts: Views, rights: Views) -> np.ndarray:
        """Mean logits of the models on one input, hubness-corrected, (n_left, n_right) float32."""
        S = _logits(models, _chosen(lefts, names), _chosen(rights, names))
        if self.bank_ is None:
            return S
        bank = _logits(models, _chosen(self.bank_, names), _chosen(rights, names))
        return hubness_correction(S, bank, k=min(HUBNESS_NEIGHBOURS, len(bank)), weight=self.hubness_weight)

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for names in self.inputs for name in names))

    def views(self, images: Images, side: int) -> Views:
        """The whitened blocks of the images and, where any block has it, of their mirrored view."""
        views = [images, images.mirrored()] if any(BLOCKS[name].mirrored for name in self._names()) else [images]
        blocks = [(name, BLOCKS[name], self.whitenings_[name]) for name in self._names()]
        return [
            {name: _whitened(block, fit, view if block.mirrored else images, side) for name, block, fit in blocks}
            for view in views
        ]

    def _learn(self, left: list[np.ndarray], right: list[np.ndarray], seed: int) -> keras.Model:
        set_seed(seed)
        n_steps = max(1, round(len(left[0]) / self.batch_size))
        batches = FeatureBatches(left, right, batch_size=len(left[0]) // n_steps, seed=seed, epochs=self.epochs)
        model = self._model(left[0].shape[1])
        model.fit(batches, shuffle=False, verbose=0)
        return model

    def _model(self, n_features: int) -> keras.Model:
        """Compiled model of left (a, n_features) and right (b, n_features) → logits (a, b)."""
        left, right = (keras.Input((n_features,), name=side) for side in ("left", "right"))
        drop = keras.layers.Dropout(self.dropout)
        project = [keras.layers.Dense(self.width, use_bias=False) for _ in range(1 + self.two_sided)]
        compare = HEADS[self.similarity](name="compare")
        if self.loss in UNSCALED:
            compare.log_scale.assign(0.0)
            compare.trainable = False
        model = keras.Model([left, right], compare(project[0](drop(left)), project[-1](drop(right))))
        project[-1].set_weights(project[0].get_weights())  # the sides start alike, so that raw similarities are kept
        optimizer = keras.optimizers.AdamW(self.learning_rate, weight_decay=self.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["log_scale", "bias"])
        model.compile(optimizer, LOSSES[self.loss])
        return model


# Experiments fit many adapters on the same pairs: their whitened blocks, the dearest part, are memoised.
@lru_cache(maxsize=64)
def _fitted(block: Block, train: Pairs) -> Whitening:
    return Whitening(block.width, block.weight).fit(*(block.features(side) for side in (train.left, train.right)))


@lru_cache(maxsize=512)
def _whitened(block: Block, whitening: Whitening, images: Images, side: int) -> np.ndarray:
    return whitening.transform(block.features(images), side)


def _chosen(views: Views, names: Sequence[str]) -> list[np.ndarray]:
    """The named blocks side by side, (n, sum of widths) per view."""
    return [np.concatenate([view[name] for name in names], axis=1) for view in views]


def _logits(models: Sequence[keras.Model], lefts: Sequence[np.ndarray], rights: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over models and views, (n_left, n_right) float32; Keras's predict would ask for equally many rows."""
    views = list(zip(lefts, rights, strict=True))
    logits = [model([left, right], training=False) for model in models for left, right in views]
    return np.mean([keras.ops.convert_to_numpy(S) for S in logits], axis=0)
