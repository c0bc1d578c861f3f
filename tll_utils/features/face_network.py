"""dlib's face descriptor as a Keras model, its weights read from dlib's own file.

dlib's wheels are built without a BLAS: their network takes twenty times as long for the same 128 numbers.
Source: `anet_type` of dlib's dnn_face_recognition_ex.cpp, a ResNet of 29 convolutions (King 2017).
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tll_utils.runtime import keras

CHIP_SIZE = 150  # pixels
MEAN_COLOUR = (122.782, 117.001, 104.298)
LEVELS = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))  # (channels, blocks); all but the first halve the size
# A layer's name, the version of its tensor, and how many bytes say the tensor's length.
TENSOR = re.compile(rb"(?:con_4|affine_|fc_2.{5})\x01\x02([\x01-\x04])", re.DOTALL)


def face_network(path: Path) -> keras.Model:
    """Aligned faces uint8 or float32 (n, 150, 150, 3) RGB → {"descriptor": (n, 128)}, with the weights of dlib's file.

    dlib pads where a stride is one and nowhere else; where a sum's terms differ in size or channels, zeros fill up.
    """
    weights = _tensors(path.read_bytes())
    chips = keras.Input((CHIP_SIZE, CHIP_SIZE, 3))
    x = keras.layers.Rescaling(1 / 256, [-mean / 256 for mean in MEAN_COLOUR])(chips)
    x = keras.layers.MaxPooling2D(3, 2)(keras.ops.relu(_convolution(x, weights, 32, 7, 2)))
    for level, (channels, n_blocks) in enumerate(LEVELS):
        for block in range(n_blocks):
            stride = 2 if level and not block else 1
            y = keras.ops.relu(_convolution(x, weights, channels, 3, stride))
            y = _convolution(y, weights, channels, 3, 1)
            x = keras.ops.relu(_padded_sum(y, keras.layers.AveragePooling2D(2)(x) if stride == 2 else x))
    project = keras.layers.Dense(128, use_bias=False)
    model = keras.Model(chips, {"descriptor": project(keras.layers.GlobalAveragePooling2D()(x))})
    project.set_weights([next(weights).reshape(-1, 128)])
    return model


def _tensors(file: bytes) -> Iterator[np.ndarray]:
    """The file's tensors from the picture to the descriptor, flat: filters and biases, or factors and shifts."""
    for match in TENSOR.finditer(file):
        shape = match.end() + match[1][0]
        length = int.from_bytes(file[match.end() : shape], "little") * file[shape + 1]
        yield np.frombuffer(file, "<f4", length, shape + 6)


def _convolution(x, weights: Iterator[np.ndarray], channels: int, size: int, stride: int):
    """Convolution and the factor and shift behind it, as one layer."""
    layer = keras.layers.Conv2D(channels, size, stride, padding="same" if stride == 1 else "valid")
    y = layer(x)
    (filters, biases), (factor, shift) = (np.split(next(weights), [-channels]) for _ in range(2))
    kernel = filters.reshape(channels, x.shape[-1], size, size).transpose(2, 3, 1, 0)
    layer.set_weights([kernel * factor, biases * factor + shift])
    return y


def _padded_sum(x, y):
    sizes = [max(pair) for pair in zip(x.shape[1:], y.shape[1:], strict=True)]
    pads = ([(0, 0), *((0, b - a) for a, b in zip(z.shape[1:], sizes, strict=True))] for z in (x, y))
    return keras.ops.add(*map(keras.ops.pad, (x, y), pads))
