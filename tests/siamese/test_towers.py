"""Towers: sizes as published, the fused batch norm, precision."""

import numpy as np
import pytest
import tensorflow as tf

from tll_utils.runtime import keras
from tll_utils.siamese.towers import BatchNormalization, build_tower


@pytest.mark.parametrize(
    ("options", "parameters", "features"),
    [
        ({"name": "resnet18"}, 11_176_512, 512),
        ({"name": "resnet18", "pooling": "2x2"}, 11_176_512, 6144),
        ({"name": "vgg16", "width": 512, "activation": "sigmoid"}, 14_714_688 + 513 * 512, 512),
    ],
)
def test_networks_have_the_published_numbers_of_parameters(options, parameters, features):
    """Published, without the classifier: ResNet18 11,689,512 − 513,000; VGG16's convolutions 14,714,688.

    2×2 pooling: 245×200 → 8×7 → 4×3 cells of 512 features = 6144.
    """
    tower = build_tower(**options)
    assert sum(np.prod(v.shape) for v in tower.trainable_variables) == parameters
    assert tower.output_shape == (None, features)


@pytest.mark.parametrize(("name", "shape"), [("small", (16, 13, 128)), ("small_vgg", (15, 12, 64))])
def test_small_towers_have_the_maps_their_docstrings_promise(name, shape):
    pooled = [layer for layer in build_tower(name).layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
    assert pooled[0].input.shape[1:] == shape


def test_images_are_scaled_to_minus_one_and_one():
    tower = build_tower("small", size=(32, 26))
    np.testing.assert_allclose(tower.layers[1](np.array([0, 255], np.uint8)), [-1, 1], atol=1e-6)


def test_fused_batch_normalisation_is_that_of_keras():
    """Outputs, gradients and statistics after one step; the moving variance is n / (n − 1) times as far on."""
    rng = np.random.default_rng(0)
    inputs, weights = (tf.constant(rng.normal(2, 3, (6, 5, 4, 3)), "float32") for _ in range(2))

    def step(layer):
        layer.build(inputs.shape)
        layer.gamma.assign([0.5, 1, 2])
        layer.beta.assign([-1, 0, 1])
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
            loss = tf.reduce_sum(outputs * weights)
        gradients = tape.gradient(loss, [inputs, layer.gamma.value, layer.beta.value])
        return [x.numpy() for x in (outputs, *gradients, layer.moving_mean.value, layer.moving_variance.value)]

    options = {"momentum": 0.9, "epsilon": 1e-5, "dtype": "float32"}
    *ours, variance = step(BatchNormalization(**options))
    *theirs, plain = step(keras.layers.BatchNormalization(**options))
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(variance - 0.9, (plain - 0.9) * 120 / 119, rtol=1e-4)
