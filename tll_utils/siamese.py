"""Siamese networks from scratch: towers, heads on pairs, shared encoding, training that can be interrupted.

    left image  ──► tower ──► embedding a ─┐
                      │ same weights       ├─► head ──► logit: > 0 means "a look-alike pair"
    right image ──► tower ──► embedding b ─┘

The report encodes both images of every pair. Here a batch of B pairs is encoded once (2B images) and the head
compares every left with every right, (B, B): the same labels and the same loss for a twentieth of the work.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from tll_utils.backend import keras
from tll_utils.dataset import Pairs
from tll_utils.evaluation import expected_topk
from tll_utils.images import HEIGHT, WIDTH, crop_borders
from tll_utils.pairs import PairBatches
from tll_utils.runtime import ahead, progress, set_seed, whole_file
from tll_utils.similarity import l1_similarity

layers, ops = keras.layers, keras.ops

N_FOILS = 19
ENCODE_BATCH = 64
EPSILON = 1e-7  # Keras clips probabilities this far from 0 and 1
MAX_SCALE = 100.0  # InfoNCE's 1 / temperature, as in CLIP (Radford et al. 2021)


@dataclass(frozen=True)
class Variant:
    """One network of the report, or one of ours.

    tower       a key of TOWERS
    head        a key of HEADS; "infonce" also changes loss and learning-rate schedule
    pooling     "average" over the whole feature map, or "2x2" average pooling, flattened
    width       units of a dense layer behind the pooling, with `activation`; 0: no such layer
    augmented   whether training sees every pair anew in every epoch: flipped, cropped and coloured by `augment`
    """

    title: str
    tower: str
    head: str
    pooling: str = "average"
    width: int = 0
    activation: str = "linear"
    learning_rate: float = 0.001
    augmented: bool = False
    report_top2: float | None = None


_RESNET18, _VGG16 = "Siamese ResNet18 from scratch", "Siamese VGG16 from scratch"
_RELU = {"width": 512, "activation": "relu"}
_SIGMOID = {"width": 512, "activation": "sigmoid"}

VARIANTS: dict[str, Variant] = {
    "resnet18_difference": Variant(
        f"{_RESNET18}, global average pool, a−b", "resnet18", "difference", report_top2=0.091
    ),
    "resnet18_absolute": Variant(f"{_RESNET18}, |a−b|", "resnet18", "absolute", report_top2=0.198),
    "resnet18_absolute_2x2": Variant(
        f"{_RESNET18}, |a−b|, 2×2 average pool", "resnet18", "absolute", "2x2", report_top2=0.235
    ),
    "vgg16_relu_cosine": Variant(f"{_VGG16}, relu output, cosine", "vgg16", "cosine", **_RELU, report_top2=0.111),
    "vgg16_relu_cosine_lr005": Variant(
        f"{_VGG16}, lr 0.005", "vgg16", "cosine", **_RELU, learning_rate=0.005, report_top2=0.11
    ),
    "vgg16_relu_absolute_lr005": Variant(
        f"{_VGG16}, lr 0.005, |a−b|", "vgg16", "absolute", **_RELU, learning_rate=0.005
    ),
    "vgg16_sigmoid_absolute": Variant(f"{_VGG16}, sigmoid", "vgg16", "absolute", **_SIGMOID, report_top2=0.198),
    "vgg16_sigmoid_absolute_lr0001": Variant(
        f"{_VGG16}, sigmoid, lr 0.0001", "vgg16", "absolute", **_SIGMOID, learning_rate=0.0001
    ),
    "resnet18_absolute_augmented": Variant(f"{_RESNET18}, |a−b|, augmented", "resnet18", "absolute", augmented=True),
    "resnet18_absolute_2x2_augmented": Variant(
        f"{_RESNET18}, |a−b|, 2×2 average pool, augmented", "resnet18", "absolute", "2x2", augmented=True
    ),
    "resnet18_infonce": Variant(f"{_RESNET18}, InfoNCE", "resnet18", "infonce", "2x2", width=256, augmented=True),
    "small_difference": Variant("small tower, a−b", "small", "difference"),
    "small_absolute": Variant("small tower, |a−b|", "small", "absolute"),
    "small_absolute_2x2": Variant("small tower, |a−b|, 2×2 average pool", "small", "absolute", "2x2"),
    "small_relu_cosine": Variant("small VGG, relu output, cosine", "small_vgg", "cosine", **_RELU),
    "small_relu_cosine_lr005": Variant("small VGG, lr 0.005", "small_vgg", "cosine", **_RELU, learning_rate=0.005),
    "small_relu_absolute_lr005": Variant(
        "small VGG, lr 0.005, |a−b|", "small_vgg", "absolute", **_RELU, learning_rate=0.005
    ),
    "small_sigmoid_absolute": Variant("small VGG, sigmoid", "small_vgg", "absolute", **_SIGMOID),
    "small_sigmoid_absolute_lr0001": Variant(
        "small VGG, sigmoid, lr 0.0001", "small_vgg", "absolute", **_SIGMOID, learning_rate=0.0001
    ),
    "small_infonce": Variant("small tower, InfoNCE", "small", "infonce", "2x2", width=64, augmented=True),
}


# --- towers ---------------------------------------------------------------------


class BatchNormalization(layers.BatchNormalization):
    """Keras's layer, which in training on TensorFlow calls its fused kernel.

    ResNet18's training step is a third faster with it on two cores. The moving variance is that of a sample,
    n / (n − 1) times Keras's.
    """

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable and keras.backend.backend() == "tensorflow"):
            return super().call(inputs, training=training, mask=mask)
        from tensorflow import raw_ops

        outputs = raw_ops.FusedBatchNormV3(
            x=inputs, scale=self.gamma, offset=self.beta, mean=[], variance=[], epsilon=self.epsilon, is_training=True
        )
        for moving, value in [(self.moving_mean, outputs.batch_mean), (self.moving_variance, outputs.batch_variance)]:
            moving.assign(self.momentum * moving + (1 - self.momentum) * value)
        return outputs.y


def _convolution(x, filters: int, kernel: int = 3, *, stride: int = 1, relu: bool = True):
    """Convolution and batch norm, with a ReLU unless it comes after a sum."""
    x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    x = BatchNormalization(momentum=0.9, epsilon=1e-5)(x)  # few steps: the statistics must follow soon
    return layers.Activation("relu")(x) if relu else x


def _residual(x, filters: int, stride: int):
    """Basic residual block (He et al. 2016, figure 2)."""
    y = _convolution(_convolution(x, filters, stride=stride), filters, relu=False)
    shortcut = x if x.shape[-1] == filters else _convolution(x, filters, 1, stride=stride, relu=False)
    return layers.Activation("relu")(layers.Add()([shortcut, y]))


def resnet18(x):
    """ResNet18's feature map (He et al. 2016, table 1): 245×200×3 → 8×7×512."""
    x = layers.MaxPooling2D(3, 2, padding="same")(_convolution(x, 64, 7, stride=2))
    for filters, stride in [(64, 1), (128, 2), (256, 2), (512, 2)]:
        x = _residual(_residual(x, filters, stride), filters, 1)
    return x


def vgg16(x):
    """VGG16's feature map (Simonyan and Zisserman 2015, table 1, D): 245×200×3 → 7×6×512."""
    for filters, depth in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
        for _ in range(depth):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    return x


def small_vgg(x):
    """VGG's shape for the sample lane, eight narrow convolutions without batch norm: 245×200×3 → 15×12×64."""
    for filters in (16, 32, 64, 64):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    return x


def small(x):
    """Four strided convolutions for the sample lane: 245×200×3 → 16×13×128."""
    for filters in (16, 32, 64, 128):
        x = _convolution(x, filters, stride=2)
    return x


TOWERS = {"resnet18": resnet18, "vgg16": vgg16, "small": small, "small_vgg": small_vgg}


def _tower(variant: Variant, size: tuple[int, int]) -> keras.Model:
    """Images uint8 (b, *size, 3) → embeddings float32 (b, d)."""
    images = keras.Input((*size, 3), dtype="uint8", name="image")
    x = TOWERS[variant.tower](layers.Rescaling(1 / 127.5, offset=-1)(images))
    if variant.pooling == "2x2":
        x = layers.Flatten()(layers.AveragePooling2D(2, dtype="float32")(x))
    else:
        x = layers.GlobalAveragePooling2D(dtype="float32")(x)
    if variant.width:
        x = layers.Dense(variant.width, variant.activation, dtype="float32")(x)
    return keras.Model(images, x, name="tower")


# --- heads ----------------------------------------------------------------------
#
# call(a, b)    logits of embeddings that broadcast against each other, as in the report
# scores(a, b)  the same for all pairs of a (n, d) and b (m, d) without an array of n × m × d


class Difference(layers.Layer):
    """One sigmoid unit on a − b. It is w·a − w·b: whatever the left image, the same rights win."""

    def __init__(self, **options):
        super().__init__(**options)
        self.unit = layers.Dense(1, dtype="float32")

    def call(self, a, b):
        return self.unit(a - b)[..., 0]

    def scores(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        weights, bias = self.unit.get_weights()
        return a @ weights - (b @ weights).T + bias


class AbsoluteDifference(Difference):
    """One sigmoid unit on |a − b|: a weighted city-block distance."""

    def call(self, a, b):
        return self.unit(ops.abs(a - b))[..., 0]

    def scores(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        weights, bias = self.unit.get_weights()
        weights, S = weights[:, 0], np.full((len(a), len(b)), bias, np.float32)
        for sign in (1, -1):
            columns = sign * weights > 0
            if columns.any():
                S -= sign * l1_similarity(a[:, columns] * weights[columns], b[:, columns] * weights[columns])
        return S


class Cosine(layers.Layer):
    """The cosine of embeddings that are not negative, taken for a probability as it is, without any weight."""

    def call(self, a, b):
        cosine = ops.sum(ops.normalize(a) * ops.normalize(b), axis=-1)
        return _logit(ops.clip(cosine, EPSILON, 1 - EPSILON), ops.log)

    def scores(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return _logit(np.clip(_unit_length(a) @ _unit_length(b).T, EPSILON, 1 - EPSILON), np.log)


class ScaledCosine(layers.Layer):
    """The cosine divided by a learned temperature (Radford et al. 2021, section 2.3)."""

    def __init__(self, **options):
        super().__init__(**options)
        self.log_scale = self.add_weight(name="log_scale", shape=(), dtype="float32")
        self.log_scale.assign(np.log(1 / 0.07))

    def call(self, a, b):
        scale = ops.minimum(ops.exp(self.log_scale), MAX_SCALE)
        return scale * ops.sum(ops.normalize(a) * ops.normalize(b), axis=-1)

    def scores(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        scale = min(np.exp(self.get_weights()[0]), np.float32(MAX_SCALE))
        return scale * (_unit_length(a) @ _unit_length(b).T)


HEADS = {"difference": Difference, "absolute": AbsoluteDifference, "cosine": Cosine, "infonce": ScaledCosine}


def _logit(p, log: Callable):
    return log(p) - log(1 - p)


def _unit_length(embeddings: np.ndarray) -> np.ndarray:
    """Rows of length one; a zero row, the embedding of a network whose ReLUs have died, stays zero."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(length > 0, length, 1)


# --- networks -------------------------------------------------------------------


def build(
    variant: Variant, *, size: tuple[int, int] = (HEIGHT, WIDTH), precision: str | None = None, seed: int = 0
) -> keras.Model:
    """Random network with the layers `tower` and `head`: (left, right) uint8 (b, *size, 3) → logits (b, b).

    size: height and width of the input; precision: a Keras dtype policy, without one `automatic_precision()`.
    """
    set_seed(seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision or automatic_precision())
    try:
        tower = _tower(variant, size)
    finally:
        keras.config.set_dtype_policy(before)
    return _twins(tower, HEADS[variant.head](name="head", dtype="float32"), every_pair=True)


def pair_by_pair(model: keras.Model) -> keras.Model:
    """The same weights as the report uses them: (left, right) (b, *size, 3) → logits (b,), row with row."""
    return _twins(model.get_layer("tower"), model.get_layer("head"), every_pair=False)


def _twins(tower: keras.Model, head: layers.Layer, *, every_pair: bool) -> keras.Model:
    """Both sides in one batch, so that batch norm learns statistics that hold for both."""
    left, right = (keras.Input(tower.input_shape[1:], dtype="uint8", name=side) for side in ("left", "right"))
    a, b = ops.split(tower(ops.concatenate([left, right], axis=0)), 2)
    if every_pair:
        a, b = ops.expand_dims(a, 1), ops.expand_dims(b, 0)
    return keras.Model([left, right], head(a, b))


def layer_table(model: keras.Model) -> pd.DataFrame:
    """Layer, output shape and number of parameters of a model's layers, as `Model.summary` prints them."""
    rows = [(layer.name, _shape(layer.output), layer.count_params()) for layer in model.layers]
    return pd.DataFrame(rows, columns=["layer", "output shape", "parameters"])


def _shape(output) -> str:
    """Without the batch, the axis of unknown length."""
    outputs = output if isinstance(output, list) else [output]
    return ", ".join("×".join("batch" if n is None else str(n) for n in tensor.shape) for tensor in outputs)


def automatic_precision() -> str:
    """Keras dtype policy: "mixed_bfloat16" where the GPU or, without one, the processor has it, else "float32"."""
    generation = _gpu_generation()
    has_bfloat16 = generation >= 8 if generation else _processor_has_bfloat16()
    return "mixed_bfloat16" if has_bfloat16 else "float32"


def _gpu_generation() -> int:
    """Major compute capability of the first GPU (8, Ampere, was the first with bfloat16); 0 without a GPU."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        return tf.config.experimental.get_device_details(gpus[0])["compute_capability"][0] if gpus else 0
    if keras.backend.backend() == "jax":
        import jax

        device = jax.devices()[0]
        return int(float(device.compute_capability)) if device.platform == "gpu" else 0
    import torch

    return torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else 0


def _processor_has_bfloat16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpuinfo.read_text().split())


# --- losses ---------------------------------------------------------------------


def drawn_cross_entropy(labels, logits):
    """Binary cross-entropy, the mean over the drawn pairs of each row; label 1 match, 0 foil, −1 not drawn."""
    drawn = ops.cast(labels >= 0, "float32")
    losses = ops.binary_crossentropy(ops.maximum(labels, 0.0), logits, from_logits=True)
    return ops.sum(drawn * losses, axis=-1) / ops.sum(drawn, axis=-1)


def info_nce(labels, logits):
    """Cross-entropy over the rows and over the columns of the batch's similarities (Radford et al. 2021), (b,)."""
    both = ops.log_softmax(logits, axis=1) + ops.log_softmax(logits, axis=0)
    return -ops.sum(ops.cast(labels > 0, "float32") * both, axis=-1) / 2


def pair_accuracy(labels, logits):
    """Share of the drawn pairs of each row on the right side of 0; 0.95 for whoever calls every pair a foil."""
    drawn = ops.cast(labels >= 0, "float32")
    right = ops.cast(ops.equal(logits > 0, labels > 0), "float32")
    return ops.sum(drawn * right, axis=-1) / ops.sum(drawn, axis=-1)


# --- images ---------------------------------------------------------------------


class Prepared(Sequence):
    """Images at the network's input size, `images[i]` uint8 (*size, 3), kept in memory once decoded.

    TLL's 4,000 training images take 0.6 GB at full size. border_neutral: letterbox borders cut away first.
    """

    def __init__(self, images: Sequence[np.ndarray], size: tuple[int, int], *, border_neutral: bool = False):
        self.images, self.size, self.border_neutral = images, size, border_neutral
        self.ids = images.ids
        self._kept: list[np.ndarray | None] = [None] * len(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> np.ndarray:
        if self._kept[i] is None:
            image = self.images[i]
            self._kept[i] = _resized(crop_borders(image) if self.border_neutral else image, self.size)
        return self._kept[i]


def prepare(pairs: Pairs, size: tuple[int, int], *, border_neutral: bool = False) -> Pairs:
    """Both sides of the pairs as `Prepared` images."""
    return Pairs(*(Prepared(side, size, border_neutral=border_neutral) for side in (pairs.left, pairs.right)))


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
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


class SharedBatches:
    """Batches of B pairs, ((left, right), labels): left, right uint8 (B, h, w, 3), labels float32 (B, B).

    Of every row of labels one is 1, the match; n_foils are 0, drawn among the batch's other rights; the rest
    is −1. The batches depend on `seed` and `epoch` alone; the pairs that fill no whole batch differ from epoch
    to epoch. With `augmented`, a pair is flipped as a whole, crops and colours of its two images differ.
    Raises ValueError where there are fewer pairs than a batch holds, or too few rights for the foils.
    """

    def __init__(
        self, pairs: Pairs, *, batch_size: int = 32, n_foils: int = N_FOILS, augmented: bool = False, seed: int = 0
    ):
        if not n_foils < batch_size <= len(pairs):
            raise ValueError(
                f"{len(pairs)} pairs in batches of {batch_size} with {n_foils} foils a left: "
                "pass a batch_size above the foils and at most the pairs"
            )
        self.pairs, self.batch_size, self.n_foils, self.augmented, self.seed = (
            pairs, batch_size, n_foils, augmented, seed
        )  # fmt: skip
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.pairs) // self.batch_size

    def __getitem__(self, step: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        order = self._rng(0).permutation(len(self.pairs))
        rows = order[step * self.batch_size : (step + 1) * self.batch_size].tolist()
        sides = tuple(self._stack(side, rows) for side in (0, 1))
        return sides, drawn_labels(self.batch_size, self.n_foils, self._rng(1, step))

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, *stream])

    def _stack(self, side: int, rows: list[int]) -> np.ndarray:
        images = (self.pairs.left, self.pairs.right)[side]
        if not self.augmented:
            return np.stack([images[row] for row in rows])
        flips = {row: self._rng(2, row).random() < 0.5 for row in rows}
        return np.stack([augment(images[row], self._rng(3, row, side), flip=flips[row]) for row in rows])


def drawn_labels(n: int, n_foils: int, rng: np.random.Generator) -> np.ndarray:
    """Labels (n, n) float32: 1 on the diagonal, in every row n_foils random zeros, the rest −1, not drawn."""
    keys = rng.random((n, n))
    np.fill_diagonal(keys, -1)  # the match comes first in its row
    place = keys.argsort(axis=1).argsort(axis=1)
    return np.select([place == 0, place <= n_foils], [1, 0], -1).astype(np.float32)


# --- scoring --------------------------------------------------------------------


def score_matrix(model: keras.Model, left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> np.ndarray:
    """Logits of every left with every right image, S (n_left, n_right) float32; each image is encoded once."""
    return model.get_layer("head").scores(encode(model, left), encode(model, right))


def encode(model: keras.Model, images: Sequence[np.ndarray]) -> np.ndarray:
    """The tower's embeddings of the images, resized to its input where need be, (n, d) float32."""
    tower = model.get_layer("tower")
    size = tower.input_shape[1:3]

    def load(start: int) -> np.ndarray:
        return np.stack([_resized(images[i], size) for i in range(start, min(start + ENCODE_BATCH, len(images)))])

    batches = ahead(load, range(0, len(images), ENCODE_BATCH))
    return np.concatenate([np.asarray(tower.predict_on_batch(batch), np.float32) for batch in batches])


def evaluate(model: keras.Model, pairs: Pairs, loss: Callable, *, batch_size: int, n_foils: int) -> dict[str, float]:
    """loss and pair_accuracy as in training (batches of about batch_size, fixed foils), and expected top-2."""
    S, rng = score_matrix(model, pairs.left, pairs.right), np.random.default_rng(0)
    sums = {"loss": 0.0, "pair_accuracy": 0.0}
    for rows in np.array_split(rng.permutation(len(S)), max(1, len(S) // batch_size)):
        logits, labels = S[np.ix_(rows, rows)], drawn_labels(len(rows), n_foils, rng)
        for name, measure in (("loss", loss), ("pair_accuracy", pair_accuracy)):
            sums[name] += ops.convert_to_numpy(measure(labels, logits)).sum()
    return {name: float(total / len(S)) for name, total in sums.items()} | {"top2": expected_topk(S, np.arange(len(S)))}


# --- training -------------------------------------------------------------------


def fit(
    variant: Variant,
    train: Pairs,
    validation: Pairs,
    *,
    folder: Path,
    epochs: int = 10,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    batch_size: int = 32,
    table: pd.DataFrame | None = None,
    border_neutral: bool = False,
    precision: str | None = None,
    seed: int = 0,
    checkpoint_seconds: float = 120,
) -> tuple[keras.Model, pd.DataFrame]:
    """The network with the weights of its best epoch by validation expected top-2, and its history.

    With a pair `table` it learns pair by pair, as in the report, else from shared encodings. `folder` gets
    history.csv, best.npz and, after every epoch and at least every `checkpoint_seconds`, checkpoint.npz. Called
    again with the same arguments after an interruption it goes on there, and ends with the same weights where
    the backend repeats itself exactly (a processor does; TensorFlow on a GPU after `enable_op_determinism`);
    once finished, it only reads them. Columns of the history: epoch; loss and pair_accuracy, means over the
    epoch's steps; top2, on as many training pairs as there are for validation; the same of the validation
    pairs as val_…; images encoded by the steps; seconds. InfoNCE's logits are no log-odds, so its pair
    accuracies say nothing.
    Raises ValueError where the folder holds another run, with fewer than 20 pairs on either side, or with a table
    for an augmented variant.
    """
    if table is not None and variant.augmented:
        raise ValueError(f"{variant.title}: pair by pair does not augment; pass no table, or a variant without it")
    if min(len(train), len(validation)) <= N_FOILS:
        raise ValueError(
            f"{len(train)} training and {len(validation)} validation pairs: expected top-2 needs 20 of each"
        )
    precision = precision or automatic_precision()
    settings = {"variant": asdict(variant), "epochs": epochs, "size": list(size), "batch_size": batch_size}
    settings |= {"border_neutral": border_neutral, "precision": precision, "seed": seed}
    settings |= {"data": _digest(train, validation, table)}
    rows = np.random.default_rng(seed).permutation(len(train))[: len(validation)]
    parts = (train, train.take(rows), validation)
    train, seen, validation = (prepare(pairs, size, border_neutral=border_neutral) for pairs in parts)

    loss, n_foils = (info_nce, batch_size - 1) if variant.head == "infonce" else (drawn_cross_entropy, N_FOILS)
    model = build(variant, size=size, precision=precision, seed=seed)
    if table is None:
        learner = model
        batches = SharedBatches(train, batch_size=batch_size, n_foils=n_foils, augmented=variant.augmented, seed=seed)
    else:
        learner = pair_by_pair(model)
        batches = PairBatches(table, train.left, train.right, batch_size=batch_size, seed=seed)
    learner.compile(_optimizer(variant, epochs * len(batches)), loss=loss, metrics=[pair_accuracy])

    def measure() -> dict[str, float]:
        known, unknown = (
            evaluate(model, pairs, loss, batch_size=batch_size, n_foils=n_foils) for pairs in (seen, validation)
        )
        return {"top2": known["top2"]} | {f"val_{name}": value for name, value in unknown.items()}

    history = _train(learner, batches, measure, Path(folder), epochs, settings, checkpoint_seconds)
    model.set_weights(_read_arrays(Path(folder) / "best.npz")[1])
    return model, history


def _optimizer(variant: Variant, n_steps: int) -> keras.optimizers.Optimizer:
    """The report's Adam; for InfoNCE AdamW on a cosine schedule (Loshchilov and Hutter 2017) with 5 % warm-up."""
    if variant.head != "infonce":
        return keras.optimizers.Adam(variant.learning_rate)
    schedule = warm_cosine(variant.learning_rate, n_steps, warmup=n_steps // 20)
    return keras.optimizers.AdamW(schedule, weight_decay=0.05)


def warm_cosine(learning_rate: float, n_steps: int, *, warmup: int) -> keras.optimizers.schedules.CosineDecay:
    """Schedule that rises in `warmup` steps to the learning rate and falls to 0 as a cosine until step n_steps."""
    warmup = max(1, warmup)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, n_steps - warmup), warmup_target=learning_rate, warmup_steps=warmup
    )


def _train(
    learner: keras.Model,
    batches: SharedBatches | PairBatches,
    measure: Callable[[], dict[str, float]],
    folder: Path,
    epochs: int,
    settings: dict,
    checkpoint_seconds: float,
) -> pd.DataFrame:
    """Train from the folder's checkpoint, or from the start, to the last epoch; the history."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.npz"
    state = _resume(learner, checkpoint, settings)
    bar = progress(total=epochs * len(batches), initial=state["epoch"] * len(batches) + state["step"], unit="step")
    while state["epoch"] < epochs:
        batches.epoch, saved = state["epoch"], time.perf_counter()
        began = saved - state["seconds"]
        for pair, labels in ahead(batches.__getitem__, range(state["step"], len(batches))):
            for name, value in learner.train_on_batch(pair, labels, return_dict=True).items():
                state[name] += float(value) * len(labels)
            state |= {"step": state["step"] + 1, "images": state["images"] + 2 * len(labels)}
            bar.update()
            state["seconds"] = time.perf_counter() - began
            if time.perf_counter() - saved >= checkpoint_seconds:
                _save(learner, checkpoint, state, settings)
                saved = time.perf_counter()
        row = _finish_epoch(learner, folder, state, measure())
        bar.set_postfix(row)
        state = _new_epoch(state["epoch"] + 1, [*state["history"], row])
        _save(learner, checkpoint, state, settings)
    bar.close()
    return pd.DataFrame(state["history"])


def _new_epoch(epoch: int, history: list[dict]) -> dict:
    """Where a run stands before the first step of an epoch; sums over its steps are zero."""
    return {"epoch": epoch, "step": 0, "loss": 0.0, "pair_accuracy": 0.0, "images": 0, "seconds": 0.0} | {
        "history": history
    }


def _finish_epoch(learner: keras.Model, folder: Path, state: dict, measured: dict[str, float]) -> dict:
    """The history's row of an epoch; the history is written, and the weights where no epoch before was better."""
    means = {name: 2 * state[name] / state["images"] for name in ("loss", "pair_accuracy")}
    row = {"epoch": state["epoch"] + 1} | means | measured
    row |= {"images": state["images"], "seconds": round(state["seconds"], 2)}
    if all(row["val_top2"] > earlier["val_top2"] for earlier in state["history"]):
        _write_arrays(folder / "best.npz", row, learner.weights)
    with whole_file(folder / "history.csv") as partial:
        pd.DataFrame([*state["history"], row]).to_csv(partial, index=False, lineterminator="\n")
    return row


# --- checkpoints ----------------------------------------------------------------


def _variables(learner: keras.Model) -> list[keras.Variable]:
    return [*learner.variables, *learner.optimizer.variables]


def _save(learner: keras.Model, path: Path, state: dict, settings: dict) -> None:
    _write_arrays(path, {"state": state, "settings": settings}, _variables(learner))


def _resume(learner: keras.Model, path: Path, settings: dict) -> dict:
    """State of the checkpoint, whose weights and optimizer the learner takes over; without one, of a new run."""
    learner.optimizer.build(learner.trainable_variables)
    if not path.exists():
        return _new_epoch(0, [])
    facts, arrays = _read_arrays(path)
    different = [name for name in settings if facts["settings"].get(name) != settings[name]]
    if different:
        raise ValueError(
            f"{path} is of a run with another {', '.join(different)}: choose another folder, or delete this one"
        )
    for variable, array in zip(_variables(learner), arrays, strict=True):
        variable.assign(array)
    return facts["state"]


def _write_arrays(path: Path, facts: dict, variables: list[keras.Variable]) -> None:
    """Write facts and the values of variables as .npz; a reader sees the old file or the new one, never half of one."""
    arrays = [ops.convert_to_numpy(variable) for variable in variables]
    with whole_file(path) as partial, open(partial, "wb") as file:
        np.savez(file, json.dumps(facts), *arrays)


def _read_arrays(path: Path) -> tuple[dict, list[np.ndarray]]:
    with np.load(path) as file:
        facts, *arrays = (file[f"arr_{i}"] for i in range(len(file.files)))
    return json.loads(str(facts)), arrays


def _digest(train: Pairs, validation: Pairs, table: pd.DataFrame | None) -> str:
    """SHA-256 of what a run learns from and is measured on."""
    sides = [images for pairs in (train, validation) for images in (pairs.left, pairs.right)]
    facts = [(images.ids, images.fingerprint) for images in sides] + [table is not None and table.to_csv()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()
