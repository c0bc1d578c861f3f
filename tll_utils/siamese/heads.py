"""Heads: embeddings a (n, d) of left and b (m, d) of right images → logits (n, m), every left with every right."""

import math

import numpy as np

from tll_utils.runtime import keras

layers, ops = keras.layers, keras.ops

EPSILON = 1e-7  # Keras clips probabilities this far from 0 and 1
MAX_SCALE = 100.0  # 1 / temperature, as in CLIP (Radford et al. 2021)
BLOCK_BYTES = 64 * 2**20

_serialisable = keras.saving.register_keras_serializable(package="tll_utils")


@_serialisable
class Difference(layers.Layer):
    """One sigmoid unit on a − b. It is w·a − w·b: whatever the left image, the same rights win."""

    def __init__(self, **kwargs):  # so called, or Keras saves no name
        super().__init__(**kwargs)
        self.unit = layers.Dense(1, dtype="float32")

    def call(self, a, b):
        return self.unit(a) - ops.transpose(ops.matmul(b, self.unit.kernel))


@_serialisable
class AbsoluteDifference(Difference):
    """One sigmoid unit on |a − b|: a weighted city-block distance. Needs n × m × d numbers, see `score_blocks`."""

    def call(self, a, b):
        return self.unit(ops.abs(ops.expand_dims(a, 1) - ops.expand_dims(b, 0)))[..., 0]


@_serialisable
class Cosine(layers.Layer):
    """The cosine of embeddings that are not negative, taken for a probability, without any weight."""

    def call(self, a, b):
        probability = ops.clip(_cosines(a, b), EPSILON, 1 - EPSILON)
        return ops.log(probability) - ops.log(1 - probability)


@_serialisable
class ScaledCosine(layers.Layer):
    """The cosine divided by a learned temperature (Radford et al. 2021, section 2.3), plus a learned bias."""

    def __init__(self, **kwargs):  # so called, or Keras saves no name
        super().__init__(**kwargs)
        start = keras.initializers.Constant(math.log(1 / 0.07))
        self.log_scale = self.add_weight(name="log_scale", shape=(), initializer=start, dtype="float32")
        self.bias = self.add_weight(name="bias", shape=(), initializer="zeros", dtype="float32")

    def call(self, a, b):
        return ops.minimum(ops.exp(self.log_scale), MAX_SCALE) * self.compare(a, b) + self.bias

    def compare(self, a, b):
        return _cosines(a, b)


@_serialisable
class Euclidean(ScaledCosine):
    """Negative squared distance, scaled."""

    def compare(self, a, b):
        lengths = ops.sum(a**2, axis=1)[:, None] + ops.sum(b**2, axis=1)
        return 2 * ops.matmul(a, ops.transpose(b)) - lengths


@_serialisable
class Bilinear(ScaledCosine):
    """Scalar product, scaled: behind a layer for each side a learned bilinear similarity, lengths included."""

    def compare(self, a, b):
        return ops.matmul(a, ops.transpose(b))


HEADS = {"difference": Difference, "absolute": AbsoluteDifference, "cosine": Cosine}
HEADS |= {"scaled_cosine": ScaledCosine, "euclidean": Euclidean, "bilinear": Bilinear}


def score_blocks(head: keras.layers.Layer, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Logits S (n, m) float32 of a (n, d) and b (m, d), computed by blocks of rows that need about 64 MB."""
    numbers_per_pair = a.shape[1] if isinstance(head, AbsoluteDifference) else 1
    n_rows = max(1, BLOCK_BYTES // (4 * len(b) * numbers_per_pair))
    b = ops.convert_to_tensor(b)
    blocks = [head(a[start : start + n_rows], b) for start in range(0, len(a), n_rows)]
    return np.concatenate([ops.convert_to_numpy(block) for block in blocks])


def _cosines(a, b):
    """(n, m). A zero row, from dead ReLUs, has cosines of 0; Keras's `normalize` has NaN gradients there under XLA."""
    a, b = (x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=1, keepdims=True), EPSILON**2)) for x in (a, b))
    return ops.matmul(a, ops.transpose(b))
