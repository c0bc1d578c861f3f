"""KerasHub presets with random weights: the smallest network of every family, and folders of them on disk."""

from pathlib import Path

import numpy as np

from tll_utils.features.catalogue import PRESETS, TRANSFORMERS
from tll_utils.features.presets import keras_hub

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
IMAGENET = {"scale": list(1 / (255 * STD)), "offset": list(-MEAN / STD)}
SIGLIP = {"scale": 1 / 127.5, "offset": -1.0}
CLIP_MEAN, CLIP_STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
CLIP = {"scale": list(1 / (255 * CLIP_STD)), "offset": list(-CLIP_MEAN / CLIP_STD)}
FAMILIES = ("resnet", "vgg", "densenet", "efficientnet", "clip", "dinov2", "siglip")


def write_preset(folder: Path, family: str, *, n_blocks: int = 2) -> None:
    """A preset folder of the smallest network of a family, every weight (batch norm's too) drawn from a seed.

    n_blocks: of a transformer.
    """
    network, converter = networks(keras_hub(), n_blocks)[family]()
    rng = np.random.default_rng(0)
    network.set_weights([rng.uniform(0.1, 0.3, w.shape) * _sign(w, rng) for w in network.weights])
    network.save_to_preset(str(folder))
    converter.save_to_preset(str(folder))


def write_registered_presets(root: Path) -> None:
    """The folders of all PRESETS, as $TLL_PRESETS has them; of the transformers twelve blocks, like the real ones."""
    for name in PRESETS:
        write_preset(root / name, name.split("_")[0], n_blocks=12 if name in TRANSFORMERS else 2)


def transformer(hub, kind, n_blocks, prefix):
    vision = getattr(hub.models, f"{kind}VisionEncoder")(8, 12, n_blocks, 2, 24, image_shape=(32, 32, 3))
    text = {"vocabulary_size": 10, "embedding_dim": 12, "hidden_dim": 12, "num_layers": 1, "num_heads": 2}
    text |= {"intermediate_dim": 24, "max_sequence_length": 4}
    text = getattr(hub.models, f"{kind}TextEncoder")(**text)
    return getattr(hub.models, f"{kind}Backbone")(vision, text, **prefix)


def networks(hub, n_blocks: int = 2):
    """The smallest network of every family, with its preprocessing."""
    m = hub.models
    resnet = {"input_conv_filters": [64], "input_conv_kernel_sizes": [7], "block_type": "basic_block"}
    resnet |= {"stackwise_num_filters": [64, 8], "stackwise_num_blocks": [1, 1], "stackwise_num_strides": [1, 2]}
    efficient = {"stackwise_kernel_sizes": [3, 3], "stackwise_num_repeats": [1, 1], "stackwise_input_filters": [8, 8]}
    efficient |= {"stackwise_output_filters": [8, 16], "stackwise_expansion_ratios": [1, 2]}
    efficient |= {"stackwise_squeeze_and_excite_ratios": [0.25, 0.25], "stackwise_strides": [1, 2]}
    efficient |= {"stackwise_block_types": ["v1", "v1"], "width_coefficient": 1.0, "depth_coefficient": 1.0}
    dino = {"patch_size": 8, "num_layers": n_blocks, "hidden_dim": 12, "num_heads": 2, "intermediate_dim": 24}
    dino |= {"num_register_tokens": 2, "image_shape": (32, 32, 3), "position_embedding_shape": (32, 32, 3)}
    clip = {"projection_dim": 6}
    return {
        "resnet": lambda: (m.ResNetBackbone(**resnet), hub.layers.ResNetImageConverter(**IMAGENET)),
        "vgg": lambda: (m.VGGBackbone([1, 2], [4, 6]), hub.layers.VGGImageConverter(**IMAGENET)),
        "densenet": lambda: (m.DenseNetBackbone([1, 2], growth_rate=4), hub.layers.DenseNetImageConverter(**IMAGENET)),
        "efficientnet": lambda: (
            m.EfficientNetBackbone(**efficient),
            hub.layers.EfficientNetImageConverter(**IMAGENET),
        ),
        "clip": lambda: (transformer(hub, "CLIP", n_blocks, clip), hub.layers.CLIPImageConverter(**CLIP)),
        "dinov2": lambda: (m.DINOV2Backbone(**dino), hub.layers.DINOV2ImageConverter(**IMAGENET)),
        "siglip": lambda: (transformer(hub, "SigLIP", n_blocks, {}), hub.layers.SigLIPImageConverter(**SIGLIP)),
    }


def _sign(weight, rng):
    """Kernels have both signs; variances must be positive."""
    return 1 if weight.name == "moving_variance" else rng.choice([-1, 1], weight.shape)
