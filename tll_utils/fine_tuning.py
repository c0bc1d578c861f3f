"""Fine-tuning: the late layers of a pretrained network are trained on pairs, the early ones stay as they are.

    images ──► frozen layers ──► maps, kept on disk ──► trained layers ──► new last layer ──► cosine ──► S

The frozen layers see every image once, as it is and mirrored, so an epoch costs a fraction of one through the whole
network. Batch norm keeps its pretrained statistics: those of a few hundred images would be worse.

The report replaced VGG16's last layer, trained with Adam and saw no gain: `REPORT` has that shape. It does not say
which loss it took; here it is InfoNCE, as everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tll_utils.adapters import Cosine, of_batch
from tll_utils.backbones import Backbone, backbone, pooled, trainable_part
from tll_utils.backend import keras
from tll_utils.dataset import Images, Pairs
from tll_utils.descriptors import mirrored
from tll_utils.embedding import embed
from tll_utils.runtime import progress, set_seed
from tll_utils.siamese import info_nce, warm_cosine

layers, ops = keras.layers, keras.ops

ENCODE_BATCH = 64


@dataclass(frozen=True)
class Tuning:
    """What is trained, and how.

    backbone         a name for `backbones.backbone`
    frozen_to        tap up to which the network stays as it is; None: all of it is trained, from the images on
    pool, width      how the last map is read, and units of the new layer behind it
    learning_rate    of the pretrained layers, on a cosine schedule after half an epoch of warm-up
    new_layer_rate   how many times faster the new layer learns
    """

    backbone: str
    frozen_to: str | None = None
    pool: str = "grid3x2"
    width: int = 512
    dropout: float = 0.2
    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 1.5e-4
    new_layer_rate: float = 1.0
    weight_decay: float = 0.01


REPORT = Tuning(
    "vgg_16_imagenet", pool="average", dropout=0.0, batch_size=32, epochs=10, learning_rate=1e-5, weight_decay=0.0
)


def frozen_maps(tuning: Tuning, images: Images, *, border_neutral: bool = False) -> list[np.ndarray]:
    """What the trained layers see of the images and of their mirror images: two arrays (n, h, w, c).

    Without `frozen_to` the images themselves, resized to what the network takes.
    """
    network = backbone(tuning.backbone)
    taps, shape = [tuning.frozen_to or network.taps[0]], _input_shape(network, tuning.frozen_to)
    extractor = network.extractor(taps, ["map"], border_neutral=border_neutral)
    views = extractor, mirrored(extractor)
    if tuning.frozen_to is None:
        return [np.stack([view.load(images, row) for row in range(len(images))]) for view in views]
    return [embed(images, view)[f"{tuning.frozen_to}_map"].reshape(-1, *shape) for view in views]


def encoder(tuning: Tuning) -> keras.Model:
    """Model from `frozen_maps` (n, h, w, c) to embeddings (n, width) of length one, pretrained but for its last layer.

    With embeddings of length one, and an optimizer that does not look at the size of gradients, a kernel that starts
    k times smaller learns k times faster: that is how `new_layer_rate` comes about.
    """
    network = backbone(tuning.backbone)
    part = trainable_part(network, tuning.frozen_to)
    for layer in _batch_norms(part):
        layer.trainable = False
    maps = keras.Input(_input_shape(network, tuning.frozen_to), name="maps")
    x = layers.Dropout(tuning.dropout)(pooled(part(maps), tuning.pool))
    start = keras.initializers.VarianceScaling(1 / tuning.new_layer_rate**2, "fan_avg", "uniform")
    x = layers.Dense(tuning.width, use_bias=False, kernel_initializer=start, name="new_last")(x)
    return keras.Model(maps, layers.UnitNormalization()(x), name="encoder")


def _batch_norms(model: keras.Model) -> list[keras.layers.Layer]:
    nested = [_batch_norms(layer) for layer in model.layers if isinstance(layer, keras.Model)]
    own = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    return sum(nested, own)


def _input_shape(network: Backbone, tap: str | None) -> tuple[int, ...]:
    """Height, width and channels of the images or of a tap's map for images of the network's size."""
    if tap is None:
        return (*network.size, 3)
    return network.map_shape(tap)


def fine_tune(
    model: keras.Model, tuning: Tuning, left: Sequence[np.ndarray], right: Sequence[np.ndarray], *, seed: int = 0
) -> pd.DataFrame:
    """Training loss of every epoch; the encoder is changed in place.

    left, right: the views of `frozen_maps` of matching images; a coin decides for every pair and epoch which one
    both sides show. Pairs beyond the last whole batch of an epoch are left out. Raises ValueError with fewer than
    two pairs.
    """
    n_pairs, batch_size = len(left[0]), min(tuning.batch_size, len(left[0]))
    if n_pairs < 2:
        raise ValueError(f"{n_pairs} pairs: a left needs foils to be told from")
    n_steps = n_pairs // batch_size
    trainer, rng, losses = _trainer(model), np.random.default_rng(seed), []
    trainer.compile(_optimizer(tuning, n_steps), of_batch(info_nce))
    bar = progress(total=tuning.epochs * n_steps, desc=f"fine-tuning {tuning.backbone}", unit="step")
    for _ in range(tuning.epochs):
        batches = rng.permutation(n_pairs)[: n_steps * batch_size].reshape(n_steps, batch_size)
        views = rng.integers(len(left), size=n_pairs)
        epoch = []
        for rows in batches:
            shown = [np.stack([side[views[row]][row] for row in rows]).astype(np.float32) for side in (left, right)]
            epoch.append(float(trainer.train_on_batch(shown, rows.astype(np.float32))))
            bar.update()
        losses.append(np.mean(epoch))
    bar.close()
    return pd.DataFrame({"epoch": range(1, tuning.epochs + 1), "loss": losses})


def fine_tuned(tuning: Tuning, *, border_neutral: bool = False, seed: int = 0):
    """Method score(train, left, right) → S: mean cosine of both views after fine-tuning on the training pairs."""

    def score(train: Pairs, left: Images, right: Images) -> np.ndarray:
        set_seed(seed)
        model = encoder(tuning)
        sides = [frozen_maps(tuning, side, border_neutral=border_neutral) for side in (train.left, train.right)]
        fine_tune(model, tuning, *sides, seed=seed)
        views = zip(*(frozen_maps(tuning, side, border_neutral=border_neutral) for side in (left, right)), strict=True)
        return np.mean([encode(model, a) @ encode(model, b).T for a, b in views], axis=0)

    return score


def encode(model: keras.Model, maps: np.ndarray) -> np.ndarray:
    """Embeddings of maps, (n, width) float32; a trained network's are not cached."""
    batches = (maps[start : start + ENCODE_BATCH] for start in range(0, len(maps), ENCODE_BATCH))
    return np.concatenate([np.asarray(model.predict_on_batch(batch.astype(np.float32))) for batch in batches])


def _trainer(model: keras.Model) -> keras.Model:
    """Model from left and right maps of a batch to the logits of every left with every right, (b, b)."""
    left, right = (keras.Input(model.input_shape[1:], name=side) for side in ("left", "right"))
    a, b = ops.split(model(ops.concatenate([left, right], axis=0)), 2)
    return keras.Model([left, right], Cosine(name="compare")(a, b))


def _optimizer(tuning: Tuning, n_steps: int) -> keras.optimizers.Optimizer:
    schedule = warm_cosine(tuning.learning_rate, tuning.epochs * n_steps, warmup=n_steps // 2)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=tuning.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["log_scale", "bias"])
    return optimizer
