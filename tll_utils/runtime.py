"""Where things live and how runs are made repeatable."""

import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm


def project_root() -> Path:
    """The checkout this package belongs to (it is installed in place, see the Makefile)."""
    return Path(__file__).resolve().parent.parent


def cache_dir() -> Path:
    """Folder for everything that can be computed again: `$TLL_CACHE`, else `build/cache` of the checkout."""
    path = Path(os.environ.get("TLL_CACHE") or project_root() / "build" / "cache")
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Path to write to instead of `path`, which is replaced when the block ends without an error.

    A reader sees the old file or the new one, never half of one, and two processes do not write into each
    other's. After an error the old file stays and nothing is left beside it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def set_seed(seed: int) -> None:
    """Seed Python, NumPy, Keras and its backend."""
    random.seed(seed)
    np.random.seed(seed)
    from tll_utils.backend import keras

    keras.utils.set_random_seed(seed)


def progress(**options) -> tqdm:
    """A progress bar on stderr; `TLL_PROGRESS=0` keeps outputs that are compared free of it."""
    return tqdm(disable=os.environ.get("TLL_PROGRESS") == "0", **options)


def ahead(function: Callable, items: Iterable, *, workers: int = 2, n_ahead: int = 4) -> Iterator:
    """function(item) of every item, in order, computed by worker threads; at most n_ahead are begun and not taken.

    The default keeps four batches of images decoded, so that decoding never starves what they are decoded for.
    """
    items = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        waiting = deque(pool.submit(function, item) for item in islice(items, n_ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(items, 1))
            yield result
