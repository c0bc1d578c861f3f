"""EfficientNet-Lite and KerasHub presets behind one call: maps of their layers, pooled, or parts to be trained."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from tll_utils.data.images import HEIGHT, WIDTH, Images
from tll_utils.features import efficientnet_lite as lite
from tll_utils.features.embedding import Extractor
from tll_utils.features.inference import Forward, compile_forward, engine_name, precision_name
from tll_utils.features.presets import Network, find_preset, load_preset, weights_sha256
from tll_utils.runtime import keras

POOLS = ("grid4x3", "grid3x2", "average", "max")
COMPILING = Lock()  # threads that need the same network wait for one of them


@dataclass(frozen=True)
class Backbone:
    """A pretrained network, loaded when it is needed; `backbone` makes it."""

    name: str  # part of the cache key: other weights have another name
    layers: tuple[str, ...]  # names of its maps, from input to output
    size: tuple[int, int]  # (height, width) it takes: the images' own, if the network takes any
    precision: str  # wanted for inference, see `inference.precision_name`
    load: Callable[[Any], Network]  # load(source) gives the network with weights of its own
    source: int | Path

    def maps_model(self, layers: Sequence[str]) -> keras.Model:
        """Model from images (n, h, w, 3) in [0, 255] to {layer: map (n, h, w, c)}, all from one pass.

        Layers behind the last one are not computed. Raises ValueError for an unknown layer.
        """
        self._check(layers)
        network = _network(self.load, self.source)
        return _from_images(network, {layer: network.layers[layer] for layer in layers})

    def pooled_model(self, layers: Sequence[str], pools: Sequence[str], *, size: tuple[int, int]) -> keras.Model:
        """Model from images (n, *size, 3) in [0, 255] to {"<layer>_<pool>": (n, d)}, all from one pass.

        Raises ValueError for an unknown layer or pool (see `pooled`).
        """
        image = keras.Input((*size, 3), name="image")
        maps = self.maps_model(layers)(image)
        return keras.Model(image, {f"{layer}_{pool}": pooled(maps[layer], pool) for layer in layers for pool in pools})

    def map_shape(self, layer: str) -> tuple[int, int, int]:
        """Height, width and channels of a layer's map for images of `self.size`."""
        return self.maps_model([layer])(keras.Input((*self.size, 3)))[layer].shape[1:]

    def extractor(
        self, layers: Sequence[str] | None = None, pools: Sequence[str] = POOLS, *, size: tuple[int, int] | None = None
    ) -> Extractor:
        """Extractor of pooled maps in one pass, with outputs "<layer>_<pool>"; without layers of the last three.

        size: height and width images are resized to, `self.size` if not given; (200, 245) is the report's swap
        of the axes. Raises ValueError for an unknown layer.
        """
        layers, pools, size = tuple(layers or self.layers[-3:]), tuple(pools), size or self.size
        self._check(layers)
        precision = precision_name(self.precision)
        # Engines agree in float32, so only bfloat16 has a cache of its own.
        how = f"{size[0]}x{size[1]}" + f" {precision}" * (precision != "float32")
        name = f"{self.name} {how}: {' '.join(layers)} / {' '.join(pools)} @1"
        encode = partial(self._encode, layers, pools, size, precision)
        return Extractor(name, partial(_load, size), encode, n_encoders=2 if engine_name() == "openvino" else 1)

    def _encode(self, layers: tuple, pools: tuple, size: tuple, precision: str, batch: Sequence[np.ndarray]):
        with COMPILING:
            forward = _forward(self, layers, pools, size, precision)
        return forward(np.stack(batch))

    def trainable_part(self, start: str | None = None) -> keras.Model:
        """Model from a layer's map, or from images in [0, 255], to the last map.

        Its weights are its own, to be trained. Raises ValueError for an unknown layer.
        """
        self._check([start or self.layers[0]])
        network = self.load(self.source)  # not the shared one, whose weights must stay
        last = network.layers[self.layers[-1]]
        return keras.Model(network.layers[start], last) if start else _from_images(network, last)

    def _check(self, layers: Sequence[str]) -> None:
        if unknown := set(layers) - set(self.layers):
            raise ValueError(f"{self.name} has no layers {sorted(unknown)}; known: {', '.join(self.layers)}")


def backbone(name: str) -> Backbone:
    """A pretrained network by name: "efficientnet_lite0", 1 or 2, a KerasHub preset or a preset's folder.

    Presets compute in bfloat16 where the processor has it, EfficientNet-Lite in float32, since what the notebooks
    show of it is compared exactly on every machine. Raises presets.PresetError at once where the weights are not
    on this machine, saying which, how large and how to get them.
    """
    if match := re.fullmatch(r"efficientnet_lite([012])", name):
        title = f"EfficientNet-Lite{match[1]} v{lite.CONVERSION}"
        return Backbone(title, lite.LAYERS, (HEIGHT, WIDTH), "float32", _load_lite, int(match[1]))
    folder = find_preset(name)
    preset, title = _network(load_preset, folder), f"{Path(name).name} {weights_sha256(folder)[:8]}"
    return Backbone(title, tuple(preset.layers), preset.size or (HEIGHT, WIDTH), "auto", load_preset, folder)


def _load_lite(variant: int) -> Network:
    model = lite.efficientnet_lite(variant)
    maps = {layer: model.get_layer(layer).output for layer in lite.LAYERS}
    return Network(keras.layers.Identity(), model.input, maps)  # it normalises inside


def _from_images(network: Network, outputs) -> keras.Model:
    image = keras.Input((*(network.size or (None, None)), 3), name="image")
    return keras.Model(image, keras.Model(network.input, outputs)(network.preprocessing(image)))


def pooled(features: Any, pool: str) -> Any:
    """A symbolic map (n, h, w, c) pooled inside the network, which then gives back little, (n, d).

    pool: "average", "max", "map" (the whole map flattened), or "grid<rows>x<columns>": means over a grid of windows,
    read row by row. Window i of r covers map rows ⌊i·h/r⌋ to ⌈(i+1)·h/r⌉, so neighbours share a row where r does not
    divide h: adaptive average pooling as in torch.nn.AdaptiveAvgPool2d. Raises ValueError for another pool.
    """
    _, height, width, channels = features.shape
    if pool == "map":
        return keras.ops.reshape(features, (-1, height * width * channels))
    if pool == "max":
        return keras.ops.max(features, axis=(1, 2))
    if pool == "average":
        return keras.ops.mean(features, axis=(1, 2))
    if not (grid := re.fullmatch(r"grid([1-9]\d*)x([1-9]\d*)", pool)):
        raise ValueError(f"pool {pool!r} is not known; use average, max, map or grid<rows>x<columns>")
    rows, columns = map(int, grid.groups())
    weights = np.kron(_windows(height, rows), _windows(width, columns))
    cells = keras.ops.matmul(weights[None], keras.ops.reshape(features, (-1, height * width, channels)))
    return keras.ops.reshape(cells, (-1, rows * columns * channels))


def _windows(length: int, parts: int) -> np.ndarray:
    """Averaging weights of every window, (parts, length) float32; each row sums to one."""
    weights = np.zeros((parts, length), np.float32)
    for part in range(parts):
        window = slice(part * length // parts, -(-(part + 1) * length // parts))
        weights[part, window] = 1 / (window.stop - window.start)
    return weights


@cache
def _network(load: Callable[[Any], Network], source: int | Path) -> Network:
    return load(source)


@cache
def _forward(backbone: Backbone, layers: tuple, pools: tuple, size: tuple, precision: str) -> Forward:
    return compile_forward(backbone.pooled_model(layers, pools, size=size), precision=precision)


def _load(size: tuple[int, int], images: Images, row: int) -> np.ndarray:
    """The image resized (bicubic, antialiased) to the size, uint8; unchanged where it has that size."""
    image = images[row]
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))
