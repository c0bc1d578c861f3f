"""Inference engines: a Keras model → a function from image bytes to its outputs, on this machine's fastest way.

Keras runs the model on its backend (TensorFlow here); OpenVINO compiles it for the processor. Both give the
same numbers in float32; bfloat16 is faster and keeps about three digits. `$TLL_ENGINE` and `$TLL_PRECISION`
overrule what is chosen here.
"""

import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from tll_utils.backend import keras

ENGINES = ("keras", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16")

Forward = Callable[[np.ndarray], dict[str, np.ndarray]]


def engine_name() -> str:
    """`$TLL_ENGINE`, else "openvino" where it is installed and no GPU is there, else "keras".

    Raises ValueError for a name that is not in ENGINES.
    """
    name = os.environ.get("TLL_ENGINE")
    if name:
        return _checked(name, ENGINES, "TLL_ENGINE")
    return "openvino" if importlib.util.find_spec("openvino") and not _has_gpu() else "keras"


def precision_name(wanted: str = "auto", *, engine: str | None = None) -> str:
    """`$TLL_PRECISION`, else `wanted`; "auto" is "bfloat16" where OpenVINO finds it in the processor, else "float32".

    Raises ValueError for a name that is not in PRECISIONS, or for bfloat16 from an engine that has none.
    """
    name = _checked(os.environ.get("TLL_PRECISION") or wanted, PRECISIONS, "TLL_PRECISION")
    if name == "float32":
        return name
    fast = (engine or engine_name()) == "openvino" and _processor_has_bfloat16()
    if name == "bfloat16" and not fast:
        raise ValueError("bfloat16 needs OpenVINO and a processor that has it: set TLL_PRECISION=auto or float32")
    return "bfloat16" if fast else "float32"


def compile_forward(model: keras.Model, *, engine: str | None = None, precision: str = "float32") -> Forward:
    """Function from images uint8 (n, height, width, 3) to the model's named outputs {name: (n, …) float32}.

    model: one input of fixed height and width, a dictionary of outputs. precision: "float32" or "bfloat16",
    see `precision_name`. Raises ValueError for an unknown engine, or bfloat16 with the engine "keras".
    """
    engine = _checked(engine or engine_name(), ENGINES, "engine")
    if engine == "openvino":
        return _openvino_forward(model, precision)
    if precision != "float32":
        raise ValueError(f"the engine keras computes in the model's own precision, not in {precision}: use openvino")
    return lambda images: {name: np.asarray(array) for name, array in model.predict_on_batch(images).items()}


def _openvino_forward(model: keras.Model, precision: str) -> Forward:
    """One request per core group, each with a part of the batch; several threads may call the function at once."""
    ov = _openvino()
    hints = {"INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision]}
    compiled = ov.Core().compile_model(_converted(model), "CPU", hints | {"PERFORMANCE_HINT": "THROUGHPUT"})
    n_requests = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    names = [output.get_any_name() for output in compiled.outputs]
    of_thread = threading.local()

    def forward(images: np.ndarray) -> dict[str, np.ndarray]:
        if not hasattr(of_thread, "requests"):
            of_thread.requests = [compiled.create_infer_request() for _ in range(n_requests)]
        # A part that is empty would stop OpenVINO.
        parts = [part for part in np.array_split(np.ascontiguousarray(images), n_requests) if len(part)]
        used = of_thread.requests[: len(parts)]
        for request, part in zip(used, parts, strict=True):
            request.start_async([part], share_inputs=True)
        for request in used:
            request.wait()
        results = [[tensor.data for tensor in request.output_tensors] for request in used]
        # Concatenating copies: the next batch overwrites the tensors.
        return {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*results, strict=True), strict=True)}

    return forward


def _converted(model: keras.Model):
    """The model in OpenVINO's form, with bytes as input."""
    ov = _openvino()
    core = ov.Core()
    core.set_property({"ENABLE_MMAP": False})  # the files are gone when the model runs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        model.export(str(path), format="openvino", verbose=False)
        converted = core.read_model(path)
    steps = ov.preprocess.PrePostProcessor(converted)
    steps.input(0).tensor().set_element_type(ov.Type.u8)
    return steps.build()


@cache
def _openvino():
    """OpenVINO, imported without its telemetry: its own stand-in is used where that package is missing."""
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


@cache
def _processor_has_bfloat16() -> bool:
    return "BF16" in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def _has_gpu() -> bool:
    return bool(keras.distribution.list_devices("gpu"))


def _checked(name: str, known: tuple[str, ...], what: str) -> str:
    if name not in known:
        raise ValueError(f"{what} {name!r} is not known; use one of {', '.join(known)}")
    return name
