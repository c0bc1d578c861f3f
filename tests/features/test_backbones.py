"""Layers of a network in one pass, their pooling, and the parts that are trained."""

import pickle

import numpy as np
import pytest

from conftest import picture
from tll_utils.features.backbones import backbone, pooled
from tll_utils.features.efficientnet_lite import LAYERS, efficientnet_lite
from tll_utils.runtime import keras


@pytest.fixture(scope="module")
def lite0():
    return backbone("efficientnet_lite0")


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def pool(maps: np.ndarray, name: str) -> np.ndarray:
    """The pooling as part of a network of nothing else."""
    features = keras.Input(maps.shape[1:])
    return keras.Model(features, pooled(features, name)).predict_on_batch(maps)


def plane(height: int, width: int) -> np.ndarray:
    """One feature map (1, height, width, 2): 10·row + column, and its negative."""
    values = 10 * np.arange(height)[:, None] + np.arange(width)
    return np.float32(np.stack([values, -values], axis=-1)[None])


def both_signs(values) -> np.ndarray:
    return np.stack([values, np.negative(values)], axis=1).reshape(1, -1)


def test_grid_where_sizes_divide():
    """4×4 in 2×2 windows: rows average 0.5 and 2.5, columns too, so 5.5, 7.5, 25.5, 27.5."""
    np.testing.assert_allclose(pool(plane(4, 4), "grid2x2"), both_signs([5.5, 7.5, 25.5, 27.5]), rtol=1e-6)


def test_grid_where_windows_overlap():
    """8×7 in a 3×2 grid: rows 0–2, 2–5, 5–7 average 1, 3.5, 6; columns 0–3, 3–6 average 1.5, 4.5."""
    expected = both_signs([11.5, 14.5, 36.5, 39.5, 61.5, 64.5])
    np.testing.assert_allclose(pool(plane(8, 7), "grid3x2"), expected, rtol=1e-6)


def test_grid_finer_than_the_map():
    """Two rows in three windows, as PyTorch does it: row 0, rows 0–1, row 1, so 0, 5, 10."""
    np.testing.assert_allclose(pool(plane(2, 1), "grid3x1"), both_signs([0, 5, 10]), atol=1e-6)


def test_images_are_pooled_one_by_one():
    pooled = pool(np.concatenate([plane(8, 7), 2 * plane(8, 7)]), "grid3x2")
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled[1], 2 * pooled[0], rtol=1e-6)


def test_average_max_and_map():
    """8×7: rows average 3.5 and columns 3, so ±38; the greatest are 76 and, of the negative, −0."""
    np.testing.assert_allclose(pool(plane(8, 7), "average"), [[38, -38]], rtol=1e-5)
    np.testing.assert_array_equal(pool(plane(8, 7), "max"), np.float32([[76, 0]]), strict=True)
    np.testing.assert_array_equal(pool(plane(8, 7), "map"), plane(8, 7).reshape(1, -1))


@pytest.mark.parametrize("name", ["median", "grid0x2", "grid3", "xgrid3x2"])
def test_unknown_pool(name):
    with pytest.raises(ValueError, match=f"pool '{name}' is not known"):
        pool(plane(4, 4), name)


def test_shapes_of_maps(lite0):
    """Stem and stages 2, 3, 4, 6 halve and round up: 245×200 → 123×100 → 62×50 → 31×25 → 16×13 → 8×7."""
    assert lite0.layers == LAYERS and LAYERS[:3] == ("stem", "stage1", "stage2") and LAYERS[-1] == "head"
    shapes = [
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
    maps = lite0.maps_model(LAYERS).predict_on_batch(np.zeros((1, 245, 200, 3)))
    assert [maps[name].shape[1:] for name in LAYERS] == shapes
    assert [lite0.map_shape(name) for name in ("stem", "head")] == [shapes[0], shapes[-1]]


def layers_of(model) -> list[str]:
    inner = [layers_of(layer) for layer in model.layers if isinstance(layer, keras.Model)]
    return sum(inner, [layer.name for layer in model.layers])


def test_layers_behind_the_last_one_are_not_computed(lite0):
    early = lite0.maps_model(["stage2"])
    assert "stage2" in layers_of(early) and not any(name.startswith("block3") for name in layers_of(early))
    image = noise(64, 48)[None]
    both = lite0.maps_model(["stage2", "head"]).predict_on_batch(image)
    np.testing.assert_allclose(early.predict_on_batch(image)["stage2"], both["stage2"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(efficientnet_lite(0).predict_on_batch(image), both["head"], rtol=1e-4, atol=1e-5)


def test_bytes_and_floats_are_one_image(lite0):
    model = lite0.maps_model(["stem"])
    as_bytes, as_floats = (model.predict_on_batch(noise(64, 48)[None].astype(kind)) for kind in ("uint8", "float32"))
    np.testing.assert_array_equal(as_bytes["stem"], as_floats["stem"])


def test_pooled_maps_of_two_layers_in_one_pass(lite0):
    """Means and maxima of the maps, on 131×97 pixels; the stage's features are not all positive."""
    image, layers = noise(131, 97)[None], ["stage7", "head"]
    outputs = lite0.pooled_model(layers, ["average", "max"], size=(131, 97)).predict_on_batch(image)
    assert list(outputs) == ["stage7_average", "stage7_max", "head_average", "head_max"]
    for layer, maps in lite0.maps_model(layers).predict_on_batch(image).items():
        for name, expected in (("average", maps.mean(axis=(1, 2))), ("max", maps.max(axis=(1, 2)))):
            np.testing.assert_allclose(outputs[f"{layer}_{name}"], expected, rtol=1e-3, atol=1e-4)


def test_extractor(lite0):
    """Stage 7 has 320 features, the head 1280, times 12 in a 4×3 grid; OpenVINO's numbers are Keras's."""
    extractor, images = lite0.extractor(["stage7", "head"], ["grid4x3", "average"]), [picture(0), picture(1)]
    loaded = [extractor.load(images, row) for row in (0, 1)]
    np.testing.assert_array_equal(loaded, images)
    outputs = extractor.encode(loaded)
    shapes = {name: array.shape for name, array in outputs.items()}
    widths = {"stage7_grid4x3": 3840, "stage7_average": 320, "head_grid4x3": 15360, "head_average": 1280}
    assert shapes == {name: (2, width) for name, width in widths.items()}
    head = efficientnet_lite(0).predict_on_batch(np.stack(images))
    np.testing.assert_allclose(outputs["head_average"], head.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)
    assert pickle.loads(pickle.dumps(extractor)).name == extractor.name  # so that other processes can encode


def test_images_are_resized(lite0):
    """The report's swap of the axes makes 200 rows and 245 columns; one colour stays what it is."""
    white = np.full((245, 200, 3), 255, np.uint8)
    loaded = lite0.extractor(["stem"], size=(200, 245)).load([white], 0)
    assert loaded.shape == (200, 245, 3) and loaded.min() == 255


def test_extractor_names_what_changes_numbers_and_nothing_else(lite0, monkeypatch):
    options = ({}, {"size": (200, 245)}, {"layers": ["head"]}, {"pools": ["max"]})
    names = [lite0.extractor(**option).name for option in options]
    names.append(backbone("efficientnet_lite1").extractor().name)
    assert len(set(names)) == len(names)
    assert "stage6 stage7 head" in names[0], "the default is the last three layers"
    monkeypatch.setenv("TLL_ENGINE", "keras")
    assert lite0.extractor().name == names[0]


def test_unknown_layers(lite0):
    for ask in (lite0.maps_model, lite0.extractor, lambda layers: lite0.trainable_part(*layers)):
        with pytest.raises(ValueError, match=r"no layers \['stage9'\]; known: stem, stage1"):
            ask(["stage9"])


@pytest.mark.parametrize("start", [None, "stage6"])
def test_trainable_part(lite0, start):
    """From images or from a layer's maps it gives the last map, and training it leaves the shared network alone."""
    image = noise(64, 48)[None].astype("float32")
    maps = lite0.maps_model(["stage6", "head"]).predict_on_batch(image)
    part = lite0.trainable_part(start)
    given = image if start is None else maps[start]
    np.testing.assert_allclose(part.predict_on_batch(given), maps["head"], rtol=1e-3, atol=1e-4)
    assert part.trainable_weights
    part.set_weights([np.zeros_like(weight) for weight in part.get_weights()])
    again = lite0.maps_model(["head"]).predict_on_batch(image)["head"]
    np.testing.assert_allclose(again, maps["head"], rtol=1e-4, atol=1e-5)
