"""KerasHub presets with random weights, written to a folder, against independent NumPy forward passes."""

import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from random_presets import CLIP_MEAN, CLIP_STD, FAMILIES, MEAN, STD, write_preset

from tll_utils.features import presets
from tll_utils.features.backbones import backbone
from tll_utils.features.presets import PresetError, find_preset, keras_hub, load_preset

# TensorFlow's tensors do not know NumPy 2's `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """family → its preset folder, written once."""
    root = tmp_path_factory.mktemp("presets")

    def folder(family):
        if not (root / family).exists():
            write_preset(root / family, family)
        return root / family

    return folder


@pytest.fixture
def image():
    return np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------------------ NumPy reference


def conv(x, kernel, *, stride=1, pad=1, bias=0):
    """Sum over windows of the image padded with zeros, written out from the definition of a convolution."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias


def max_pool(x, size, stride):
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride].max(
        axis=(4, 5)
    )


def batch_norm(x, weights, name):
    gamma, beta, mean, variance = (
        weights[f"{name}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta


def relu(x):
    return np.maximum(x, 0)


def numpy_vgg(x, w):
    """VGG with one convolution in block 1 and two in block 2, each block ending in 2×2 max pooling."""
    x = max_pool(relu(conv(x, w["block1_conv1/kernel"], bias=w["block1_conv1/bias"])), 2, 2)
    layers = {"stage1": x}
    for name in ("block2_conv1", "block2_conv2"):
        x = relu(conv(x, w[f"{name}/kernel"], bias=w[f"{name}/bias"]))
    layers["stage2"] = layers["last_pool"] = max_pool(x, 2, 2)
    # Behind the last map come pool and dense: the fifth from the end is block2_conv1.
    layers["last_fifth"] = relu(conv(layers["stage1"], w["block2_conv1/kernel"], bias=w["block2_conv1/bias"]))
    return layers


def numpy_resnet(x, w):
    """ResNet with one basic block a stage, the second with stride 2 and a projected shortcut."""
    x = relu(batch_norm(conv(x, w["conv1_conv/kernel"], stride=2, pad=3), w, "conv1_bn"))
    x = max_pool(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2)
    layers = {}
    for number, stride in ((0, 1), (1, 2)):
        block = f"stack{number}_block0"
        shortcut = x
        if stride == 2:
            shortcut = batch_norm(conv(x, w[f"{block}_0_conv/kernel"], stride=2, pad=0), w, f"{block}_0_bn")
        y = relu(batch_norm(conv(x, w[f"{block}_1_conv/kernel"], stride=stride), w, f"{block}_1_bn"))
        y = batch_norm(conv(y, w[f"{block}_2_conv/kernel"]), w, f"{block}_2_bn")
        x = relu(shortcut + y)
        layers[f"stage{number + 1}"] = x
    # Fifth from the end: dense, pool, the last ReLU, the addition, its batch norm.
    return layers | {"last_pool": x, "last_fifth": y}


@pytest.mark.parametrize(("family", "reference"), [("vgg", numpy_vgg), ("resnet", numpy_resnet)])
def test_activations_layer_by_layer(preset, image, family, reference):
    """Relative error ‖ours − NumPy‖ / ‖NumPy‖ below 1e-4 at every layer, from bytes to the last map."""
    network = backbone(str(preset(family)))
    part = network.trainable_part("stage1")
    whole = keras_hub().models.Backbone.from_preset(str(preset(family)))
    weights = {f"{layer.name}/{w.name}": np.asarray(w, np.float64) for layer in whole.layers for w in layer.weights}
    expected = reference((image / 255 - MEAN) / STD, weights)
    assert set(network.layers) == set(expected) and network.layers[-1] == "last_pool"
    maps = _maps(network, network.layers, image)
    np.testing.assert_allclose(part.predict_on_batch(maps["stage1"]), maps["last_pool"], rtol=1e-3, atol=1e-4)
    for name, ours in maps.items():
        assert ours.shape == expected[name].shape, name
        assert np.linalg.norm(ours - expected[name]) / np.linalg.norm(expected[name]) < 1e-4, name


def _maps(network, layers, image):
    return network.maps_model(layers).predict_on_batch(image.astype("float32"))


# ----------------------------------------------------------------------------------------------- every family


@pytest.mark.parametrize("family", FAMILIES)
def test_preprocessing(preset, family):
    """A white and a black pixel: (1 − mean)/std and −mean/std of the family's constants; SigLIP's are ±1."""
    preprocessing = load_preset(preset(family)).preprocessing
    mean, std = {"clip": (CLIP_MEAN, CLIP_STD), "siglip": (0.5, 0.5)}.get(family, (MEAN, STD))
    for value, expected in ((255, (1 - mean) / std), (0, -mean / std)):
        pixel = np.asarray(preprocessing(np.full((1, 1, 1, 3), value, "float32"))).ravel()
        np.testing.assert_allclose(pixel, np.broadcast_to(expected, 3), rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_maps(preset, image, family):
    """32×32 pixels: the networks of convolutions halve, transformers see 4×4 patches of 8 pixels and 12 features."""
    network = backbone(str(preset(family)))
    maps = _maps(network, network.layers, image)
    assert {"stage1", "stage2"} <= set(maps)
    for layer, array in maps.items():
        assert array.ndim == 4 and np.isfinite(array).all(), layer
        if family in ("clip", "dinov2", "siglip"):
            assert array.shape == (1, 4, 4, 12)
    assert len({array.tobytes() for array in maps.values()}) >= 2


@pytest.mark.parametrize("family", ["clip", "dinov2", "siglip"])
def test_patches_stand_where_they_are(preset, family):
    """Only the pixels of patch (1, 2) change: the first block's map changes most at row 1, column 2."""
    network = backbone(str(preset(family)))
    grey = np.full((1, 32, 32, 3), 100, np.uint8)
    changed = grey.copy()
    changed[:, 8:16, 16:24, 0] = 255
    difference = [_maps(network, ["stage1"], i)["stage1"] for i in (grey, changed)]
    change = np.abs(difference[1] - difference[0]).sum(axis=-1)[0]
    assert np.unravel_index(change.argmax(), change.shape) == (1, 2)


@pytest.mark.parametrize("family", ["vgg", "clip"])
def test_extractor(preset, family, monkeypatch):
    """Sizes: VGG keeps 245×200, the transformer wants its 32×32; both give the pooled maps of a layer."""
    monkeypatch.setenv("TLL_PRECISION", "float32")
    network = backbone(str(preset(family)))
    extractor = network.extractor(["stage2"], ["average", "grid2x1"])
    image = np.random.default_rng(2).integers(0, 256, (245, 200, 3), dtype=np.uint8)
    loaded = extractor.load([image], 0)
    assert loaded.shape == ((245, 200, 3) if family == "vgg" else (32, 32, 3))
    outputs = extractor.encode([loaded])
    expected = _maps(network, ["stage2"], loaded[None])["stage2"].mean(axis=(1, 2))
    np.testing.assert_allclose(outputs["stage2_average"], expected, rtol=1e-3, atol=1e-4)
    assert outputs["stage2_grid2x1"].shape == (1, 2 * expected.shape[1])


# ------------------------------------------------------------------------------------------------------ files


def test_missing_preset_says_what_to_do(tmp_path, monkeypatch):
    """ResNet18 without its classifier has 11,186,112 parameters of four bytes, 45 MB."""
    monkeypatch.setenv("TLL_PRESETS", str(tmp_path))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    monkeypatch.delenv("TLL_DOWNLOAD", raising=False)
    with pytest.raises(PresetError) as error:
        backbone("resnet_18_imagenet")
    for part in ("model.weights.h5", "about 45 MB", str(tmp_path), "data/presets/resnet_18_imagenet", "TLL_DOWNLOAD=1"):
        assert part in str(error.value)


def test_unknown_name():
    with pytest.raises(PresetError, match="'resnet_1_imagenet' is neither a folder nor a KerasHub preset"):
        backbone("resnet_1_imagenet")


def test_found_by_name(preset, tmp_path, monkeypatch):
    """In $TLL_PRESETS and, with the handle keras/vgg/keras/vgg_16_imagenet/3, in the Kaggle cache."""
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    cached = tmp_path / "models/keras/vgg/keras/vgg_16_imagenet/3"
    cached.parent.mkdir(parents=True)
    cached.symlink_to(preset("vgg"))
    assert find_preset("vgg_16_imagenet") == cached
    monkeypatch.setenv("TLL_PRESETS", str(tmp_path))
    (tmp_path / "vgg_16_imagenet").symlink_to(preset("vgg"))
    assert find_preset("vgg_16_imagenet") == tmp_path / "vgg_16_imagenet"


def test_incomplete_folder(preset, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(PresetError, match=r"lacks image_converter\.json, model\.weights\.h5"):
        find_preset(str(tmp_path))


def test_other_weights_are_another_name(preset, tmp_path):
    """Caches of two presets of one name must not be mixed up."""
    for file in preset("vgg").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    before = backbone(str(tmp_path)).name
    config = tmp_path / "image_converter.json"
    config.write_text(config.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert backbone(str(tmp_path)).name != before


@pytest.mark.parametrize("is_relative", [True, False])
def test_a_presets_folder_in_the_working_directory_asks_no_network(tmp_path, monkeypatch, is_relative):
    """Its name is that of a published preset, which KerasHub would ask for."""
    pytest.importorskip("keras_hub")
    folder = tmp_path / "resnet_18_imagenet"
    folder.mkdir()
    for name in ("config.json", "image_converter.json", "model.weights.h5"):
        (folder / name).write_text("{}", encoding="utf-8")
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: asked.append(host) or [])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"Unrecognized format for .* in {re.escape(str(folder))}"):
        presets.load_preset(Path(folder.name) if is_relative else folder)
    assert asked == []
