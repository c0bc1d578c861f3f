"""Both engines give the numbers of a network small enough to compute by hand, for whole and odd batches."""

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tll_utils.features import inference
from tll_utils.features.inference import ENGINES, compile_forward, engine_name, precision_name
from tll_utils.runtime import has_bfloat16, has_gpu, keras

layers, ops = keras.layers, keras.ops


@pytest.fixture(scope="module")
def model():
    """Images (n, 4, 6, 3) → sum over the image and, as a second output, the first 3×3 window's convolution."""
    image = keras.Input((4, 6, 3), name="image")
    convolution = layers.Conv2D(2, 3, use_bias=False, name="convolution")
    maps = convolution(image)
    convolution.set_weights([np.stack([np.ones((3, 3, 3)), -np.ones((3, 3, 3))], axis=-1).astype("float32")])
    return keras.Model(image, {"sum": ops.sum(image, axis=(1, 2, 3))[:, None], "corner": maps[:, 0, 0]})


@pytest.fixture(autouse=True)
def no_overrides(monkeypatch):
    monkeypatch.delenv("TLL_ENGINE", raising=False)
    monkeypatch.delenv("TLL_PRECISION", raising=False)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_known_outputs(model, engine, n):
    """Image i has the value 10·i everywhere: its 4·6·3 = 72 values add to 720·i, a window's 27 to 270·i."""
    value = 10 * np.arange(n)
    images = np.broadcast_to(value[:, None, None, None], (n, 4, 6, 3)).astype(np.uint8)
    outputs = compile_forward(model, engine=engine)(images)
    np.testing.assert_allclose(outputs["sum"], 72 * value[:, None], rtol=1e-6)
    np.testing.assert_allclose(outputs["corner"], 27 * np.stack([value, -value], axis=1), rtol=1e-6)
    assert {array.dtype for array in outputs.values()} == {np.dtype("float32")}


def test_a_batch_does_not_overwrite_the_one_before(model):
    """The first batch's sums stay 72 after a second batch of zeros."""
    forward = compile_forward(model, engine="openvino")
    first = forward(np.ones((3, 4, 6, 3), np.uint8))["sum"]
    forward(np.zeros((3, 4, 6, 3), np.uint8))
    np.testing.assert_allclose(first, 72)


def test_threads_do_not_overwrite_each_other(model):
    """Of 40 batches at once, batch i with the value i everywhere, each gets the sums of its own: 72·i."""
    forward = compile_forward(model, engine="openvino")
    batches = [np.full((3, 4, 6, 3), value, np.uint8) for value in range(40)]
    with ThreadPoolExecutor(4) as pool:
        sums = [outputs["sum"] for outputs in pool.map(forward, batches)]
    np.testing.assert_allclose(np.ravel(sums), np.repeat(72 * np.arange(40), 3), rtol=1e-6)


@pytest.mark.skipif(has_gpu() or not has_bfloat16(), reason="this processor has no bfloat16")
def test_bfloat16_is_near(model):
    """Seven bits of mantissa: within 1 % of 72 · 100 = 7200."""
    assert precision_name("auto", engine="openvino") == "bfloat16"
    outputs = compile_forward(model, engine="openvino", precision="bfloat16")(np.full((2, 4, 6, 3), 100, np.uint8))
    np.testing.assert_allclose(outputs["sum"], 7200, rtol=0.01)


@pytest.mark.parametrize("there", [True, False])
def test_bfloat16_is_taken_where_it_is(monkeypatch, there):
    """Keras has none of its own; asked for by name where it is not, it is an error; the environment overrules."""
    monkeypatch.setattr(inference, "has_gpu", lambda: False)
    monkeypatch.setattr(inference, "has_bfloat16", lambda: there)
    assert precision_name("auto", engine="openvino") == ("bfloat16" if there else "float32")
    assert precision_name("auto", engine="keras") == "float32"
    with pytest.raises(ValueError, match="processor that has it"):
        precision_name("bfloat16", engine="openvino" if not there else "keras")
    monkeypatch.setenv("TLL_PRECISION", "float32")
    assert precision_name("bfloat16", engine="openvino") == "float32"


def test_engine_is_openvino_where_no_gpu_is(monkeypatch):
    monkeypatch.setattr(inference, "has_gpu", lambda: False)
    assert engine_name() == "openvino"
    monkeypatch.setattr(inference, "has_gpu", lambda: True)
    assert engine_name() == "keras"
    monkeypatch.setenv("TLL_ENGINE", "openvino")
    assert engine_name() == "openvino"


def test_engine_is_keras_without_openvino(monkeypatch):
    monkeypatch.setattr(inference, "has_gpu", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert engine_name() == "keras"


def test_unknown_names(model, monkeypatch):
    with pytest.raises(ValueError, match="engine 'tpu' is not known; use one of keras, openvino"):
        compile_forward(model, engine="tpu")
    with pytest.raises(ValueError, match="not in bfloat16: use openvino"):
        compile_forward(model, engine="keras", precision="bfloat16")
    monkeypatch.setenv("TLL_ENGINE", "tpu")
    with pytest.raises(ValueError, match="TLL_ENGINE 'tpu' is not known"):
        engine_name()
    monkeypatch.setenv("TLL_PRECISION", "int4")
    with pytest.raises(ValueError, match="TLL_PRECISION 'int4' is not known"):
        precision_name()


def test_telemetry_is_not_imported():
    """OpenVINO would report every import and conversion over the network."""
    code = (
        "import sys; from tll_utils.features import inference; inference._openvino();"
        "assert not sys.modules['openvino_telemetry']"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
