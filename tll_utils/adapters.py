"""Adapters: small heads learned on frozen embeddings, seconds instead of hours.

    images ──► blocks ──► centred, whitened half-way, of one length ──► one linear layer ──► similarity ──► S

An adapter is a method, score(train, left, right) → S, and learns from `train` alone: means, principal axes, weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA

from tll_utils.backend import keras
from tll_utils.dataset import N_CANDIDATES, Images, Pairs
from tll_utils.evaluation import expected_topk
from tll_utils.runtime import set_seed
from tll_utils.siamese import ScaledCosine, info_nce
from tll_utils.similarity import HUB_NEIGHBOURS, hub_corrected

layers, ops = keras.layers, keras.ops

MARGIN = 0.2  # of cosines, for triplet loss; 0.2 is FaceNet's (Schroff et al. 2015, section 3.1)
FAR = 1.4  # Euclidean distance contrastive loss asks of foils; √2 is that of unit vectors at right angles


# --- inputs ---------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """One kind of features of an image.

    of       images → features (n, d); of a gated block also which rows have one, (n,) bool
    mirrored the same of the images seen in a mirror; without it `of` stands for both
    width    principal components kept, at most
    weight   root mean square length of a row that has one, compared with the other blocks'
    gated    rows that have none (no face found, see `faces.face_features`) become zeros and teach nothing;
             where fewer than two training rows of a side have one, the block is left out
    """

    of: Callable[[Images], np.ndarray | tuple[np.ndarray, np.ndarray]]
    width: int = 384
    weight: float = 1.0
    gated: bool = False
    mirrored: Callable[[Images], np.ndarray] | None = None


class Whitening:
    """Centred, whitened half-way and scaled features, learned from the left and the right ones of training pairs.

    Each side loses its own mean; the principal axes are those of both together. Whitened half-way: a component of
    standard deviation σ is divided by √σ, so that strong ones still count more, but no longer drown the others.
    Raises ValueError where a side has fewer than two rows.
    """

    def __init__(self, left: np.ndarray, right: np.ndarray, *, width: int, weight: float = 1.0):
        if min(len(left), len(right)) < 2:
            raise ValueError(f"{len(left)} left and {len(right)} right rows have the feature: leave this block out")
        self.means = left.mean(axis=0), right.mean(axis=0)
        centred = np.concatenate([left - self.means[0], right - self.means[1]])
        if not centred.any():  # constant features: nothing is to be seen in them
            self.axes = np.zeros((1, centred.shape[1]), np.float32)
            return
        n_components = min(width, centred.shape[1], len(centred) - 2)
        pca = PCA(n_components, iterated_power=2, random_state=0).fit(centred)
        axes = pca.components_ / np.maximum(pca.explained_variance_, 1e-12)[:, None] ** 0.25
        length = np.sqrt(((centred @ axes.T) ** 2).sum(axis=1).mean())
        self.axes = weight / length * axes

    def __call__(self, features: np.ndarray, side: int) -> np.ndarray:
        """(n, width) of left (side 0) or right (side 1) features."""
        return (features - self.means[side]) @ self.axes.T


def whitened(
    blocks: Sequence[Block], train: Pairs, left: Images, right: Images, *, mirrored: bool = False
) -> list[np.ndarray]:
    """All blocks side by side: training left and right, left, right, each (n, sum of widths) float32.

    mirrored: then the same four of the images seen in a mirror, with the means and axes of those as they are.
    """
    return _side_by_side(_whitened_blocks(blocks, train, left, right, mirrored))


def _side_by_side(columns: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.concatenate(parts, axis=1) for parts in zip(*columns, strict=True)]


def _whitened_blocks(
    blocks: Sequence[Block], train: Pairs, left: Images, right: Images, mirrored: bool
) -> list[list[np.ndarray]]:
    sides = (train.left, train.right, left, right)
    return [_whitened_block(block, sides, mirrored) for block in blocks]


def _whitened_block(block: Block, sides: Sequence[Images], mirrored: bool) -> list[np.ndarray]:
    training = [_features(block, block.of, images) for images in sides[:2]]
    if block.gated and min(has.sum() for _, has in training) < 2:
        return [np.zeros((len(images), 0), np.float32) for images in (*sides, *sides)[: 4 + 4 * mirrored]]
    whitening = Whitening(*(features[has] for features, has in training), width=block.width, weight=block.weight)
    views = (block.of, block.mirrored or block.of)[: 1 + mirrored]
    seen = [_features(block, of, images) for of in views for images in sides]
    values = [whitening(features, number % 2) for number, (features, _) in enumerate(seen)]
    return [np.where(has[:, None], part, 0).astype(np.float32) for part, (_, has) in zip(values, seen, strict=True)]


def _features(block: Block, of: Callable, images: Images) -> tuple[np.ndarray, np.ndarray]:
    if block.gated:
        return of(images)
    features = of(images)
    return features, np.ones(len(features), bool)


# --- similarities ---------------------------------------------------------------


class Cosine(ScaledCosine):
    """Scaled cosine of every left with every right, one matrix product, plus a learned bias."""

    def __init__(self, **options):
        super().__init__(**options)
        self.bias = self.add_weight(name="bias", shape=(), initializer="zeros", dtype="float32")

    def call(self, a, b):
        return ops.exp(self.log_scale) * self.compare(a, b) + self.bias

    def compare(self, a, b):
        return ops.matmul(ops.normalize(a), ops.transpose(ops.normalize(b)))


class Euclidean(Cosine):
    """Negative squared distance of every left and every right, scaled."""

    def compare(self, a, b):
        lengths = ops.sum(a**2, axis=1)[:, None] + ops.sum(b**2, axis=1)
        return 2 * ops.matmul(a, ops.transpose(b)) - lengths


class Bilinear(Cosine):
    """Product of every left with every right: with two layers a learned bilinear similarity, lengths included."""

    def compare(self, a, b):
        return ops.matmul(a, ops.transpose(b))


SIMILARITIES = {"cosine": Cosine, "euclidean": Euclidean, "bilinear": Bilinear}


# --- losses ---------------------------------------------------------------------
#
# loss(matches, logits) → (b,): matches (b, b) is 1 for pairs and 0 for foils


def triplet(matches, logits):
    """Triplet loss with semi-hard foils (Schroff et al. 2015): the best of those below the truth, else the worst."""
    truth = ops.sum(matches * logits, axis=1, keepdims=True)
    below = ops.logical_and(matches == 0, logits < truth)
    best_below = ops.max(ops.where(below, logits, -1e9), axis=1, keepdims=True)
    worst = ops.min(ops.where(matches == 0, logits, 1e9), axis=1, keepdims=True)
    foil = ops.where(ops.any(below, axis=1, keepdims=True), best_below, worst)
    return ops.maximum(MARGIN + foil - truth, 0)[:, 0]


def contrastive(matches, logits):
    """Contrastive loss (Hadsell et al. 2006) of unit vectors: pairs together, foils at least FAR apart."""
    squared = ops.maximum(2 - 2 * logits, 1e-6)
    foils = ops.maximum(FAR - ops.sqrt(squared), 0) ** 2
    n_foils = ops.sum(1 - matches, axis=1)
    return ops.sum(matches * squared, axis=1) + ops.sum((1 - matches) * foils, axis=1) / n_foils


def cross_entropy(matches, logits):
    """Binary cross-entropy of every pair and foil, all foils together weighing as much as the pair."""
    losses = ops.binary_crossentropy(matches, logits, from_logits=True)
    n_foils = ops.sum(1 - matches, axis=1)
    return ops.sum(matches * losses, axis=1) + ops.sum((1 - matches) * losses, axis=1) / n_foils


LOSSES = {"info_nce": info_nce, "triplet": triplet, "contrastive": contrastive, "cross_entropy": cross_entropy}
UNSCALED = ("triplet", "contrastive")  # margins are of plain cosines


def of_batch(loss: Callable) -> Callable:
    """Keras loss(rows, logits): pairs with the same row number match, all others of the batch are foils."""

    def batch_loss(rows, logits):
        rows = ops.reshape(rows, (-1, 1))
        return loss(ops.cast(ops.equal(rows, ops.transpose(rows)), "float32"), logits)

    return batch_loss


# --- heads ----------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """A linear layer, a similarity and how they are learned.

    two_sided   a layer of its own for each side instead of one for both
    batch_size  pairs a step, about: the training pairs in steps of one size; rights of the others are foils
    """

    width: int = 1024
    similarity: str = "cosine"
    loss: str = "info_nce"
    two_sided: bool = False
    dropout: float = 0.5
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    batch_size: int = 800
    epochs: int = 30


def build(head: Head, n_features: int) -> keras.Model:
    """Model of inputs left (a, n_features) and right (b, n_features) → logits (a, b)."""
    left, right = (keras.Input((n_features,), name=side) for side in ("left", "right"))
    drop = layers.Dropout(head.dropout)
    project = [layers.Dense(head.width, use_bias=False) for _ in range(1 + head.two_sided)]
    compare = SIMILARITIES[head.similarity](name="compare")
    if head.loss in UNSCALED:
        compare.log_scale.assign(0.0)
        compare.trainable = False
    model = keras.Model([left, right], compare(project[0](drop(left)), project[-1](drop(right))))
    project[-1].set_weights(project[0].get_weights())  # the sides start alike, so that raw similarities are kept
    optimizer = keras.optimizers.AdamW(head.learning_rate, weight_decay=head.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["log_scale", "bias"])
    model.compile(optimizer, of_batch(LOSSES[head.loss]))
    return model


def learn(
    head: Head,
    left: np.ndarray,
    right: np.ndarray,
    *,
    seed: int,
    mirrored: tuple[np.ndarray, np.ndarray] | None = None,
) -> keras.Model:
    """The head learned from matching rows of left and right (n, d).

    mirrored: the same rows of the mirrored images; each epoch a coin decides for every pair which of the two
    is shown.
    """
    set_seed(seed)
    model, rng = build(head, left.shape[1]), np.random.default_rng(seed)
    n_steps = max(1, round(len(left) / head.batch_size))
    for _ in range(head.epochs):
        order = rng.permutation(len(left))[: len(left) // n_steps * n_steps]
        shown = [left, right]
        if mirrored:
            heads_up = rng.random((len(left), 1)) < 0.5
            shown = [np.where(heads_up, *sides) for sides in zip(shown, mirrored, strict=True)]
        for rows in order.reshape(n_steps, -1):
            model.train_on_batch([side[rows] for side in shown], rows.astype(np.float32))
    return model


def best_head(heads: Sequence[Head], left: np.ndarray, right: np.ndarray, *, seed: int = 0) -> Head:
    """The head that is best on a fifth of the training pairs after learning from the others.

    left, right (n, d) matching rows, n at least 100. The choice never sees the pairs the method is measured on.
    """
    if len(left) < 5 * N_CANDIDATES:
        raise ValueError(f"{len(left)} pairs: a fifth is no {N_CANDIDATES} candidates, pass a single head")
    order = np.random.default_rng(seed).permutation(len(left))
    held_out, kept = order[: len(left) // 5], order[len(left) // 5 :]

    def held_out_top2(head: Head) -> float:
        S = _logits(learn(head, left[kept], right[kept], seed=seed), left[held_out], right[held_out])
        return expected_topk(S, np.arange(len(held_out)))

    return max(heads, key=held_out_top2)


def adapter(
    *blocks: Block,
    heads: Sequence[Head] = (Head(),),
    seeds: int = 3,
    hub_weight: float = 0.0,
    parts: Sequence[Sequence[int]] = (),
) -> Callable:
    """Method score(train, left, right) → S: the mean logits of a head learned from `seeds` seeds.

    Of several heads the best on held-out training pairs, see `best_head`. Where a block has mirrored features,
    they double the training pairs, and a score is the mean of both views. hub_weight: rights that are near to many
    training lefts lose so much, see `similarity.hub_corrected`. parts: positions of the blocks one head each learns
    from, all by itself; S is the mean over the parts (after Ho 1998, the random subspace method).
    """
    is_mirrored = any(block.mirrored for block in blocks)
    parts = parts or [range(len(blocks))]

    def score(train: Pairs, left: Images, right: Images) -> np.ndarray:
        columns = _whitened_blocks(blocks, train, left, right, is_mirrored)
        return np.mean([score_part([columns[position] for position in part]) for part in parts], axis=0)

    def score_part(columns: Sequence[list[np.ndarray]]) -> np.ndarray:
        train_left, train_right, *rest = _side_by_side(columns)
        mirrored, views = (rest[2:4], [rest[:2], rest[4:]]) if is_mirrored else (None, [rest])
        head = best_head(heads, train_left, train_right) if len(heads) > 1 else heads[0]
        models = [learn(head, train_left, train_right, seed=seed, mirrored=mirrored) for seed in range(seeds)]
        S = np.mean([_logits(model, *view) for model in models for view in views], axis=0)
        if not hub_weight:
            return S
        known = [train_left, mirrored[0]] if is_mirrored else [train_left]
        seen = [(lefts, rights) for lefts, (_, rights) in zip(known, views, strict=True)]
        bank = np.mean([_logits(model, *view) for model in models for view in seen], axis=0)
        return hub_corrected(S, bank, k=min(HUB_NEIGHBOURS, len(train_left)), weight=hub_weight)

    return score


def _logits(model: keras.Model, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Logits (n_left, n_right) float32; Keras's predict would ask for equally many rows on both sides."""
    return ops.convert_to_numpy(model([left, right], training=False))
