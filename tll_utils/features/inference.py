"""A Keras model → a function from image bytes to its outputs, in this machine's fastest way.

Keras runs the model on its backend (TensorFlow here); OpenVINO compiles it for the processor. Both give the
same numbers in float32; bfloat16 is faster and keeps about three digits. `$TLL_ENGINE` and `$TLL_PRECISION`
overrule what is chosen here. An unknown engine or precision raises ValueError.
"""

import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tll_utils.runtime import has_bfloat16, has_gpu, keras

ENGINES = ("keras", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16")

Forward = Callable[[np.ndarray], dict[str, np.ndarray]]


def engine_name() -> str:
    """`$TLL_ENGINE`, else "openvino" where it is installed and no GPU is there, else "keras"."""
    fastest = "openvino" if importlib.util.find_spec("openvino") and not has_gpu() else "keras"
    return _checked(os.environ.get("TLL_ENGINE") or fastest, ENGINES, "TLL_ENGINE")


def precision_name(wanted: str = "auto", *, engine: str | None = None) -> str:
    """`$TLL_PRECISION`, else `wanted`; "auto" is "bfloat16" where OpenVINO and the processor have it, else "float32".

    Raises ValueError where bfloat16 is wanted and not there.
    """
    name = _checked(os.environ.get("TLL_PRECISION") or wanted, PRECISIONS, "TLL_PRECISION")
    if name == "float32":
        return name
    is_there = (engine or engine_name()) == "openvino" and not has_gpu() and has_bfloat16()
    if name == "bfloat16" and not is_there:
        raise ValueError("bfloat16 needs OpenVINO and a processor that has it: set TLL_PRECISION=auto or float32")
    return "bfloat16" if is_there else "float32"


def compile_forward(model: keras.Model, *, engine: str | None = None, precision: str = "float32") -> Forward:
    """Function from images uint8 (n, height, width, 3) to the model's named outputs {name: (n, …) float32}.

    model: one input of fixed height and width, a dictionary of outputs. precision: "float32" or "bfloat16",
    see `precision_name`; raises ValueError for bfloat16 with the engine "keras".
    """
    if _checked(engine or engine_name(), ENGINES, "engine") == "openvino":
        return _OpenVINO(model, precision)
    if precision != "float32":
        raise ValueError(f"the engine keras computes in the model's own precision, not in {precision}: use openvino")
    return lambda images: {name: np.asarray(array) for name, array in model.predict_on_batch(images).items()}


class _OpenVINO:
    """A compiled model; several threads may call it at once.

    A batch is divided among as many requests as OpenVINO finds best; their outputs are copied, since the next batch
    overwrites them. Each thread has a queue of its own: an AsyncInferQueue first asks which request is idle and
    then starts it, so threads that share one collide.
    """

    def __init__(self, model: keras.Model, precision: str):
        hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision.replace("loat", "")}
        hints["INFERENCE_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or "0"  # 0: all
        self.compiled = _openvino().Core().compile_model(_converted(model), "CPU", hints)
        self.of_thread, self.names = threading.local(), [output.get_any_name() for output in self.compiled.outputs]

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        if not hasattr(self.of_thread, "queue"):
            self.of_thread.queue = _openvino().AsyncInferQueue(self.compiled)
            self.of_thread.queue.set_callback(
                lambda request, result: result.extend(tensor.data.copy() for tensor in request.output_tensors)
            )
        queue = self.of_thread.queue
        parts = np.array_split(np.ascontiguousarray(images), min(len(queue), len(images)))
        results = [[] for _ in parts]
        for part, result in zip(parts, results, strict=True):
            queue.start_async([part], result, share_inputs=True)
        queue.wait_all()
        return {name: np.concatenate(arrays) for name, *arrays in zip(self.names, *results, strict=True)}


def _converted(model: keras.Model):
    """The model in OpenVINO's form, with bytes as input."""
    import tensorflow as tf

    core = _openvino().Core()
    core.set_property({"ENABLE_MMAP": False})  # the files are gone when the model runs
    images = tf.TensorSpec(model.inputs[0].shape)
    module: Any = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    function = tf.function(lambda images: model(images, training=False)).get_concrete_function(images)
    with tempfile.TemporaryDirectory() as folder:
        # Not by model.export, which takes thrice as long; nor from memory, which fails on Python 3.13.
        tf.saved_model.save(module, folder, signatures=function)
        steps = _openvino().preprocess.PrePostProcessor(core.read_model(folder))
    steps.input(0).tensor().set_element_type(_openvino().Type.u8)
    return steps.build()


@cache
def _openvino():
    """OpenVINO, imported without its telemetry: its own stand-in is used where that package is missing."""
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    import openvino

    openvino.Tensor(np.zeros(1, np.uint8))  # two threads that make the first one at once may deadlock
    return openvino


def _checked(name: str, known: tuple[str, ...], what: str) -> str:
    if name not in known:
        raise ValueError(f"{what} {name!r} is not known; use one of {', '.join(known)}")
    return name
