"""How time and memory grow with the number of images, vectors or queries: a section of `make bench`.

Every size is measured in a process of its own: `python -m scripts.growth "index, build" 10000` prints its seconds and
megabytes.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tll_utils.data.dataset import N_CANDIDATES, load_dataset
from tll_utils.data.images import Images
from tll_utils.features.embedding import Extractor, embed
from tll_utils.methods.one_to_one import DECODERS
from tll_utils.runtime import project_root
from tll_utils.search.index import build_index, open_index, search
from tll_utils.search.near_duplicates import near_duplicate_groups

WIDTH, N_CLUSTERS, N_QUERIES = 256, 1000, 1000  # of synthetic vectors
NETWORK, LAYER, POOL = "efficientnet_lite0", "head", "grid3x2"

Task = Callable[[], object]


def repeated(images: Images, n: int) -> Images:
    """The same files again and again, as a folder of n images."""
    return Images([str(i) for i in range(n)], [images.files[i % len(images)] for i in range(n)])


def extract_anew(images: Images, extractor: Extractor) -> None:
    """Embed with an empty cache."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {"TLL_CACHE": folder}):
        embed(images, extractor)


# --- what is measured -----------------------------------------------------------------


@contextmanager
def extraction(n: int) -> Iterator[Task]:
    """Images of the sample, from files to Lite0's embeddings on disk."""
    from tll_utils.features.backbones import backbone  # imports Keras, for which the others need not wait

    images, extractor = load_dataset().train.left.base, backbone(NETWORK).extractor([LAYER], [POOL])
    extract_anew(repeated(images, 64), extractor)
    yield partial(extract_anew, repeated(images, n), extractor)


@contextmanager
def near_duplicates(n: int) -> Iterator[Task]:
    """Random hashes, one in a hundred a near-duplicate of another."""
    rng = np.random.default_rng(0)
    bits = rng.integers(2, size=(n, 2, 64), dtype=bool)
    copies = rng.choice(n, n // 100, replace=False)
    bits[copies] = bits[rng.integers(n, size=len(copies))] ^ (rng.random((len(copies), 2, 64)) < 0.05)
    yield partial(near_duplicate_groups, bits)


@contextmanager
def index_build(n: int) -> Iterator[Task]:
    """Vectors around a thousand centres, to an index on disk."""
    with tempfile.TemporaryDirectory() as folder:
        yield partial(_build, n, Path(folder) / "index")


@contextmanager
def index_query(n: int) -> Iterator[Task]:
    """A thousand vectors near some of the index's, ten answers each."""
    with tempfile.TemporaryDirectory() as folder:
        vectors = _build(n, Path(folder) / "index")
        index, rng = open_index(Path(folder) / "index"), np.random.default_rng(1)
        noise = 0.02 * rng.standard_normal((N_QUERIES, WIDTH), dtype=np.float32)
        yield partial(search, index, vectors[rng.integers(n, size=N_QUERIES)] + noise, 10)


def _build(n: int, folder: Path) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((N_CLUSTERS, WIDTH), dtype=np.float32)
    vectors = centres[rng.integers(N_CLUSTERS, size=n)]
    vectors += 0.3 * rng.standard_normal((n, WIDTH), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    build_index(folder, [str(i) for i in range(n)], vectors, model="synthetic")
    return vectors


@contextmanager
def one_to_one(n: int, *, decoder: str) -> Iterator[Task]:
    """Lists of the truth and nineteen foils, the truth's score two standard deviations above theirs."""
    rng = np.random.default_rng(0)
    # Less than once around, so no right is met twice.
    steps = rng.integers(1, n // N_CANDIDATES, size=(n, N_CANDIDATES))
    steps[:, 0] = 0
    candidates = (np.arange(n)[:, None] + steps.cumsum(axis=1)) % n
    scores = rng.standard_normal(candidates.shape, dtype=np.float32)
    scores[:, 0] += 2
    yield partial(DECODERS[decoder][0], scores, candidates, n_right=n)


TASKS: dict[str, tuple[Callable, tuple[int, ...]]] = {  # with what, at which sizes
    "extraction": (extraction, (1000, 2000, 4000, 8000)),
    "near-duplicates": (near_duplicates, (50_000, 100_000, 200_000, 400_000)),
    "index, build": (index_build, (100_000, 200_000)),
    "index, 1,000 queries": (index_query, (10_000, 25_000, 50_000, 100_000, 200_000)),
    "belief propagation": (partial(one_to_one, decoder="belief propagation"), (2000, 10_000, 50_000, 100_000)),
    "exact assignment": (partial(one_to_one, decoder="exact assignment"), (2000, 4000, 8000)),
}


# --- measuring ------------------------------------------------------------------------


def measure(name: str, n: int) -> tuple[float, float]:
    """Seconds of one run, and the megabytes that this process needed at most."""
    with TASKS[name][0](n) as task:
        started = time.perf_counter()
        task()
        seconds = time.perf_counter() - started
    return seconds, peak_megabytes()


def peak_megabytes() -> float:
    """Megabytes this process has needed at most."""
    with suppress(OSError):  # of Linux, whose ru_maxrss starts with what the parent needed
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes elsewhere


def growth() -> pd.DataFrame:
    """Columns what, n, seconds, MB, exponent: time grows as n to that power, fitted over the sizes of a task."""
    rows = []
    for name, (_, sizes) in TASKS.items():
        measured = [_in_a_process(name, n) for n in sizes]
        exponent = np.polyfit(np.log(sizes), np.log([seconds for seconds, _ in measured]), 1)[0]
        for n, (seconds, peak) in zip(sizes, measured, strict=True):
            rows.append((name, n, round(seconds, 3), round(peak), round(exponent, 2)))
    return pd.DataFrame(rows, columns=["what", "n", "seconds", "MB", "exponent"])


def _in_a_process(name: str, n: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "scripts.growth", name, str(n)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8", cwd=project_root())
    seconds, peak = result.stdout.splitlines()[-1].split()
    return float(seconds), float(peak)


def plot(table: pd.DataFrame) -> Figure:
    """Seconds and megabytes against n on logarithmic axes."""
    fig, axes = plt.subplots(1, 2, figsize=(7, 3.6), layout="constrained")
    for ax, column, label in zip(axes, ("seconds", "MB"), ("seconds", "peak of the process, MB"), strict=True):
        for marker, (name, rows) in zip("osD^vX", table.groupby("what", sort=False), strict=False):
            ax.loglog(rows["n"], rows[column], marker=marker, label=f"{name} ({rows['exponent'].iloc[0]:.2f})")
        ax.set(xlabel="images, vectors or queries", ylabel=label)
    fig.legend(*axes[0].get_legend_handles_labels(), title="task (exponent)", loc="outside lower center", ncols=3)
    return fig


if __name__ == "__main__":
    os.environ["TLL_PROGRESS"] = "0"
    print(*measure(sys.argv[1], int(sys.argv[2])))
