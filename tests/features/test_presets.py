"""KerasHub presets with random weights, written to a folder, against independent NumPy forward passes."""

import json

import numpy as np
import pytest

from tll_utils.features.backbones import backbone
from tll_utils.features.presets import PresetError, find_preset, keras_hub, load_preset

# TensorFlow's tensors do not know NumPy 2's `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
IMAGENET = {"scale": list(1 / (255 * STD)), "offset": list(-MEAN / STD)}
SIGLIP = {"scale": 1 / 127.5, "offset": -1.0}
CLIP_MEAN, CLIP_STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
CLIP = {"scale": list(1 / (255 * CLIP_STD)), "offset": list(-CLIP_MEAN / CLIP_STD)}


def transformer(hub, kind, prefix):
    vision = getattr(hub.models, f"{kind}VisionEncoder")(8, 12, 2, 2, 24, image_shape=(32, 32, 3))
    text = {"vocabulary_size": 10, "embedding_dim": 12, "hidden_dim": 12, "num_layers": 1, "num_heads": 2}
    text |= {"intermediate_dim": 24, "max_sequence_length": 4}
    text = getattr(hub.models, f"{kind}TextEncoder")(**text)
    return getattr(hub.models, f"{kind}Backbone")(vision, text, **prefix)


def networks(hub):
    """The smallest network of every family, with its preprocessing."""
    m = hub.models
    resnet = {"input_conv_filters": [64], "input_conv_kernel_sizes": [7], "block_type": "basic_block"}
    resnet |= {"stackwise_num_filters": [64, 8], "stackwise_num_blocks": [1, 1], "stackwise_num_strides": [1, 2]}
    efficient = {"stackwise_kernel_sizes": [3, 3], "stackwise_num_repeats": [1, 1], "stackwise_input_filters": [8, 8]}
    efficient |= {"stackwise_output_filters": [8, 16], "stackwise_expansion_ratios": [1, 2]}
    efficient |= {"stackwise_squeeze_and_excite_ratios": [0.25, 0.25], "stackwise_strides": [1, 2]}
    efficient |= {"stackwise_block_types": ["v1", "v1"], "width_coefficient": 1.0, "depth_coefficient": 1.0}
    dino = {"patch_size": 8, "num_layers": 2, "hidden_dim": 12, "num_heads": 2, "intermediate_dim": 24}
    dino |= {"num_register_tokens": 2, "image_shape": (32, 32, 3), "position_embedding_shape": (32, 32, 3)}
    return {
        "resnet": lambda: (m.ResNetBackbone(**resnet), hub.layers.ResNetImageConverter(**IMAGENET)),
        "vgg": lambda: (m.VGGBackbone([1, 2], [4, 6]), hub.layers.VGGImageConverter(**IMAGENET)),
        "densenet": lambda: (m.DenseNetBackbone([1, 2], growth_rate=4), hub.layers.DenseNetImageConverter(**IMAGENET)),
        "efficientnet": lambda: (
            m.EfficientNetBackbone(**efficient),
            hub.layers.EfficientNetImageConverter(**IMAGENET),
        ),
        "clip": lambda: (transformer(hub, "CLIP", {"projection_dim": 6}), hub.layers.CLIPImageConverter(**CLIP)),
        "dinov2": lambda: (m.DINOV2Backbone(**dino), hub.layers.DINOV2ImageConverter(**IMAGENET)),
        "siglip": lambda: (transformer(hub, "SigLIP", {}), hub.layers.SigLIPImageConverter(**SIGLIP)),
    }


FAMILIES = ("resnet", "vgg", "densenet", "efficientnet", "clip", "dinov2", "siglip")


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """family → its preset folder, written once, with every weight (batch norm's too) drawn from a seed."""
    root, makers = tmp_path_factory.mktemp("presets"), networks(keras_hub())

    def folder(family):
        path = root / family
        if not path.exists():
            network, converter = makers[family]()
            rng = np.random.default_rng(0)
            network.set_weights([rng.uniform(0.1, 0.3, w.shape) * _sign(w, rng) for w in network.weights])
            network.save_to_preset(str(path))
            converter.save_to_preset(str(path))
        return path

    return folder


def _sign(weight, rng):
    """Kernels have both signs; variances must be positive."""
    return 1 if weight.name == "moving_variance" else rng.choice([-1, 1], weight.shape)


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
