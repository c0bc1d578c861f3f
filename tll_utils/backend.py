"""Keras, imported without the notices TensorFlow writes while it starts: `from tll_utils.backend import keras`.

They go straight to the process's stderr, whatever TF_CPP_MIN_LOG_LEVEL says, and would stand in every notebook.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _silent_stderr() -> Iterator[None]:
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


with _silent_stderr():
    import keras

    keras.ops.zeros(1)  # the first operation looks for devices and says what it misses

logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of retracing, which many small networks cause

__all__ = ["keras"]
