"""Images → embeddings: streamed, decoded ahead, cached on disk, resumed after an interruption.

An *extractor* says how one image is loaded and how a batch is encoded; `embed` does the rest. A pretrained
network, a colour histogram and a file size are all extractors, so all share the one cache and the one loop.
"""

import hashlib
import itertools
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from tll_utils.dataset import Images
from tll_utils.runtime import cache_dir, progress

BATCH_SIZE = 32
WORKERS = 2
BATCHES_AHEAD = 4  # decoded and waiting, so that decoding never starves the encoder


@dataclass(frozen=True)
class Extractor:
    """How images become embeddings.

    name     part of the cache key: change it (or its @version) whenever the numbers change
    load     (images, row) → array of one image; runs in worker threads
    encode   stacked loads (b, …) → {output name: (b, d) float32}; several outputs cost one pass
    """

    name: str
    load: Callable[[Images, int], np.ndarray]
    encode: Callable[[np.ndarray], dict[str, np.ndarray]]


def embed(images: Images, extractor: Extractor) -> dict[str, np.ndarray]:
    """Every output of the extractor for these images, {output name: (n, d) float32}.

    The whole side an `Images` view was taken from is encoded once and cached under `runtime.cache_dir()`;
    memory use does not grow with the number of images. A damaged cache is removed and made again, an
    interrupted extraction goes on where it stopped.
    """
    folder = _cache_folder(images.base, extractor)
    arrays = _read(folder)
    if arrays is None:
        _extract(images.base, extractor, folder)
        arrays = _read(folder)
    return {output: array[images.rows] for output, array in arrays.items()}


def _cache_folder(images: Images, extractor: Extractor) -> Path:
    key = hashlib.sha256(f"{extractor.name}\n{images.fingerprint}".encode()).hexdigest()[:16]
    return cache_dir() / "embeddings" / f"{re.sub(r'[^a-z0-9]+', '_', extractor.name.lower())}-{key}"


def _read(folder: Path) -> dict[str, np.ndarray] | None:
    """The cached arrays, memory-mapped; None where there are none or where they are damaged."""
    try:
        checksums = json.loads((folder / "complete.json").read_text())
        for output, checksum in checksums.items():
            path = folder / f"{output}.npy"
            if _sha256(path, path.stat().st_size, path.stat().st_mtime_ns) != checksum:
                raise ValueError(f"{path} is damaged")
        return {output: np.load(folder / f"{output}.npy", mmap_mode="r") for output in checksums}
    except (FileNotFoundError, ValueError):
        shutil.rmtree(folder, ignore_errors=True)
        return None


@lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, modified: int) -> str:
    """Hash of a file, computed once a process unless its size or its time changes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _extract(images: Images, extractor: Extractor, folder: Path) -> None:
    """Encode all images into `folder`, which appears under its name only when it is whole."""
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    first = _rows_done(partial)
    bar = progress(total=len(images), initial=first, desc=extractor.name, unit="image")
    for start, batch in _batches(images, extractor.load, first):
        for output, rows in extractor.encode(batch).items():
            _write_rows(partial / f"{output}.npy", rows, start=start, total=len(images))
        bar.update(len(batch))
    bar.close()
    _finish(partial, folder)


def _batches(images: Images, load: Callable, first: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, stacked loads) of every batch, in order, decoded ahead by worker threads."""

    def load_batch(start: int) -> tuple[int, np.ndarray]:
        stop = min(start + BATCH_SIZE, len(images))
        return start, np.stack([load(images, row) for row in range(start, stop)])

    starts = iter(range(first, len(images), BATCH_SIZE))
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting = deque(pool.submit(load_batch, start) for start in itertools.islice(starts, BATCHES_AHEAD))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(load_batch, start) for start in itertools.islice(starts, 1))
            yield batch


def _write_rows(path: Path, rows: np.ndarray, *, start: int, total: int) -> None:
    """Put rows at their place in an .npy file of `total` rows, which is made with the first ones.

    Plain writes instead of a memory map: mapped pages would count as memory in use.
    """
    rows = np.ascontiguousarray(rows, np.float32)
    with open(path, "r+b" if start else "wb") as file:
        if start == 0:
            header = {"descr": "<f4", "fortran_order": False, "shape": (total, *rows.shape[1:])}
            npy.write_array_header_2_0(file, header)
        else:
            shape = _read_header(file)
            file.seek(start * shape[1] * 4, os.SEEK_CUR)
        file.write(rows.tobytes())


def _read_header(file) -> tuple[int, ...]:
    npy.read_magic(file)
    return npy.read_array_header_2_0(file)[0]


def _rows_done(partial: Path) -> int:
    """Rows every output of an interrupted extraction holds, in whole batches."""
    done = []
    for path in partial.glob("*.npy"):
        with open(path, "rb") as file:
            try:
                width = _read_header(file)[1]
            except ValueError:  # stopped while the header was being written
                return 0
            done.append((path.stat().st_size - file.tell()) // (4 * width))
    return min(done, default=0) // BATCH_SIZE * BATCH_SIZE


def _finish(partial: Path, folder: Path) -> None:
    checksums = {}
    for path in sorted(partial.glob("*.npy")):
        with open(path, "rb") as file:
            checksums[path.stem] = hashlib.file_digest(file, "sha256").hexdigest()
    (partial / "complete.json").write_text(json.dumps(checksums, indent=1))
    os.replace(partial, folder)
