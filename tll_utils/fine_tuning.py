"""The report's fine-tuning: a pretrained network whose last layer is replaced, trained on pairs with Adam.

The report did so with VGG16 and saw no gain over the pretrained features. It does not say which loss it took;
here a left image has to find its right one among those of the batch (in-batch cross-entropy on cosines).
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from tll_utils.backbones import Backbone, trainable_maps
from tll_utils.backend import keras
from tll_utils.dataset import Images, Pairs
from tll_utils.runtime import set_seed
from tll_utils.similarity import cosine_similarity

layers, ops = keras.layers, keras.ops

TEMPERATURE = 0.1


def with_new_last_layer(network: Backbone, *, n_outputs: int = 256, size: tuple[int, int] | None = None) -> keras.Model:
    """Model from images (n, *size, 3) in [0, 255] to unit-length embeddings (n, n_outputs); all of it can be trained.

    Everything up to the last pool is the pretrained network's; the layer behind it is new.
    """
    image = keras.Input((*(size or network.size), 3), name="image")
    maps = trainable_maps(network)(image)
    x = layers.Dense(n_outputs, name="new_last")(layers.GlobalAveragePooling2D()(maps))
    return keras.Model(image, layers.UnitNormalization()(x), name="encoder")


def fine_tune(
    encoder: keras.Model,
    pairs: Pairs,
    *,
    epochs: int = 5,
    batch_size: int = 16,
    learning_rate: float = 1e-5,
    seed: int = 0,
) -> pd.DataFrame:
    """Training loss of every epoch; the encoder is changed in place. Pairs beyond the last full batch are left out."""
    set_seed(seed)
    optimizer = keras.optimizers.Adam(learning_rate)
    trainer = _trainer(encoder)
    trainer.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng, losses = np.random.default_rng(seed), []
    for _ in range(epochs):
        order = rng.permutation(len(pairs))
        batches = [order[i : i + batch_size] for i in range(0, len(order) - batch_size + 1, batch_size)]
        losses.append(np.mean([_step(trainer, pairs, rows) for rows in batches]))
    return pd.DataFrame({"epoch": range(1, epochs + 1), "loss": losses})


def fine_tuned(network: Callable[[], Backbone], **options) -> Callable[[Pairs, Images, Images], np.ndarray]:
    """Method of cosine similarity (`methods.Score`) after fine-tuning on the training pairs it is given."""

    def score(train: Pairs, left: Images, right: Images) -> np.ndarray:
        encoder = with_new_last_layer(network())
        fine_tune(encoder, train, **options)
        return cosine_similarity(encode(encoder, left), encode(encoder, right))

    return score


def encode(encoder: keras.Model, images: Images, *, batch_size: int = 16) -> np.ndarray:
    """Embeddings of images, (n, d) float32; a trained network's are not cached."""
    batches = [range(i, min(i + batch_size, len(images))) for i in range(0, len(images), batch_size)]
    return np.concatenate([encoder.predict_on_batch(_stacked(images, rows)) for rows in batches])


def _trainer(encoder: keras.Model) -> keras.Model:
    """Model from left and right images of a batch to their cosines as logits, (b, b)."""
    left, right = (keras.Input(encoder.input_shape[1:], name=side) for side in ("left", "right"))
    logits = ops.matmul(encoder(left), ops.transpose(encoder(right))) / TEMPERATURE
    return keras.Model([left, right], logits)


def _step(trainer: keras.Model, pairs: Pairs, rows: np.ndarray) -> float:
    sides = [_stacked(side, rows) for side in (pairs.left, pairs.right)]
    return float(trainer.train_on_batch(sides, np.arange(len(rows))))


def _stacked(images: Images, rows) -> np.ndarray:
    return np.stack([images[row] for row in rows]).astype(np.float32)
