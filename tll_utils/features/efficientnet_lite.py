"""EfficientNet-Lite0, 1 and 2 in Keras with their ImageNet weights.

Architecture: EfficientNet (Tan and Le 2019, https://arxiv.org/abs/1905.11946) in its Lite form: ReLU6 for
swish, no squeeze-and-excitation, stem and head not scaled. The weights come with pip packages (`lite_weights`);
they are converted whenever a network is built, in a tenth of a second.

Convolutions pad as TensorFlow's "same" for the image at hand. The PyTorch implementation the weights come
from does so when built for that image size; built with its default it pads every image as if it had the
variant's own size (224×224 for Lite0), which makes Lite0's last map of a 245×200 image 7×6 instead of 8×7.
"""

import math
from collections import namedtuple

import numpy as np

from tll_utils.features.lite_weights import load_state_dict
from tll_utils.runtime import keras

layers = keras.layers

CONVERSION = 1  # raise it whenever the converted weights change: cached embeddings of other versions are ignored
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
SCALING = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}  # variant: factors of width and depth
LAYERS = ("stem", *(f"stage{number}" for number in range(1, 8)), "head")  # from input to output

_Stage = namedtuple("_Stage", "repeats kernel stride expansion filters")
_STAGES = (  # Lite0; the other variants scale repeats and filters
    _Stage(1, 3, 1, 1, 16), _Stage(2, 3, 2, 6, 24), _Stage(2, 5, 2, 6, 40), _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112), _Stage(4, 5, 2, 6, 192), _Stage(1, 3, 1, 6, 320),
)  # fmt: skip


def efficientnet_lite(variant: int) -> keras.Model:
    """EfficientNet-Lite0, 1 or 2, from RGB images (n, height, width, 3) in [0, 255] to features.

    The model itself normalises with the ImageNet mean and deviation. Its output is the head's feature map
    (n, ⌈height/32⌉, ⌈width/32⌉, 1280); the classifier behind it is left out. Layers are named as in LAYERS, the blocks
    of a stage "block2a", "block2b" … and their layers "block2a_expand_conv", "block2a_expand_bn" and so on.
    Raises ValueError for other variants, PackagedFileError if the weights are missing or altered.
    """
    image = keras.Input((None, None, 3), name="image")
    mean, variance = 255 * np.array(IMAGENET_MEAN), (255 * np.array(IMAGENET_STD)) ** 2
    x = layers.Normalization(mean=mean, variance=variance, dtype="float32", name="normalise")(image)
    x = _conv(x, "stem", 32, kernel=3, stride=2)
    x = layers.ReLU(6, name="stem")(x)
    for number, stage in enumerate(_stages(variant), start=1):
        for repeat in range(stage.repeats):
            x = _block(x, f"block{number}{'abcdefgh'[repeat]}", stage._replace(stride=1) if repeat else stage)
        x = layers.Identity(name=f"stage{number}")(x)
    x = layers.ReLU(6, name="head")(_conv(x, "head", 1280))
    model = keras.Model(image, x, name=f"efficientnet_lite{variant}")
    # Both frameworks list variables in the order of the network; the classifier's two arrays are the last.
    state = load_state_dict(variant).items()
    model.set_weights([_keras_layout(name, array) for name, array in state if "num_batches" not in name][:-2])
    return model


def _stages(variant: int) -> list[_Stage]:
    if variant not in SCALING:
        raise ValueError(f"EfficientNet-Lite{variant} is not known; use one of {sorted(SCALING)}")
    width, depth = SCALING[variant]
    filters = [_round_to_eights(width * stage.filters) for stage in _STAGES]
    repeats = [math.ceil(depth * stage.repeats) if stage.repeats > 1 else 1 for stage in _STAGES]  # first, last: once
    return [s._replace(repeats=n, filters=f) for s, n, f in zip(_STAGES, repeats, filters, strict=True)]


def _round_to_eights(filters: float) -> int:
    """Nearest multiple of eight, the next one if that loses more than a tenth."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded


def _block(x, name: str, stage: _Stage):
    """Inverted residual (Sandler et al. 2018): expand, depthwise, project, and add where shapes allow."""
    start, depthwise = x, f"{name}_depthwise"
    if stage.expansion > 1:
        x = _conv(x, f"{name}_expand", stage.expansion * start.shape[-1])
        x = layers.ReLU(6, name=f"{name}_expand")(x)
    x = layers.DepthwiseConv2D(stage.kernel, stage.stride, "same", use_bias=False, name=f"{depthwise}_conv")(x)
    x = layers.ReLU(6, name=depthwise)(_batch_norm(x, depthwise))
    x = _conv(x, f"{name}_project", stage.filters)
    if stage.stride == 1 and start.shape[-1] == stage.filters:
        return layers.Add(name=name)([x, start])
    return layers.Identity(name=name)(x)


def _conv(x, name: str, filters: int, *, kernel: int = 1, stride: int = 1):
    x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
    return _batch_norm(x, name)


def _batch_norm(x, name: str):
    return layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_bn")(x)


def _keras_layout(name: str, array: np.ndarray) -> np.ndarray:
    if name.endswith("_depthwise_conv.weight"):  # (channel, 1, row, column)
        return array.transpose(2, 3, 0, 1)
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
