"""Images → embeddings: streamed, decoded ahead, cached on disk, resumed after an interruption.

An *extractor* says how one image is loaded and how a batch is encoded; `embed` does the rest. A pretrained
network, a colour histogram and a file size are all extractors, so all share the one cache and the one loop.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from tll_utils.dataset import Images
from tll_utils.runtime import ahead, cache_dir, progress

BATCH_SIZE = 32


@dataclass(frozen=True)
class Extractor:
    """How images become embeddings.

    name        part of the cache key: change it (or its @version) whenever the numbers change
    load        (images, row) → array of one image; runs in worker threads
    encode      stacked loads (b, …) → {output name: (b, d) float32}; several outputs cost one pass
    n_encoders  threads that may encode at once: with two, no core waits for the end of the other's batch
    """

    name: str
    load: Callable[[Images, int], np.ndarray]
    encode: Callable[[np.ndarray], dict[str, np.ndarray]]
    n_encoders: int = 1


def embed(images: Images, extractor: Extractor) -> dict[str, np.ndarray]:
    """Every output of the extractor for these images, {output name: (n, d) float32}; read-only for a whole side.

    The whole side an `Images` view was taken from is encoded once and cached under `runtime.cache_dir()`;
    memory use does not grow with the number of images. A damaged cache is removed and made again, an
    interrupted extraction goes on where it stopped.
    """
    folder = _cache_folder(images.base, extractor)
    if not _is_whole(folder):
        _extract(images.base, extractor, folder)
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    if np.array_equal(images.rows, np.arange(len(images.base))):
        return arrays  # nothing is copied: a page is read when it is needed
    return {output: array[images.rows] for output, array in arrays.items()}


def _cache_folder(images: Images, extractor: Extractor) -> Path:
    key = hashlib.sha256(f"{extractor.name}\n{images.fingerprint}".encode()).hexdigest()[:16]
    return cache_dir() / "embeddings" / f"{re.sub(r'[^a-z0-9]+', '_', extractor.name.lower())}-{key}"


def _is_whole(folder: Path) -> bool:
    """Whether the cached arrays are there and as they were written; damaged ones are removed."""
    try:
        checksums = json.loads((folder / "complete.json").read_text())
        for output, checksum in checksums.items():
            path = folder / f"{output}.npy"
            if _sha256(path, path.stat().st_size, path.stat().st_mtime_ns) != checksum:
                raise ValueError(f"{path} is damaged")
        return True
    except (FileNotFoundError, ValueError):
        shutil.rmtree(folder, ignore_errors=True)
        return False


@lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, modified: int) -> str:
    """Hash of a file, computed once a process unless its size or its time changes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _extract(images: Images, extractor: Extractor, folder: Path) -> None:
    """Encode all images into `folder`, which appears under its name only when it is whole."""

    def load(start: int) -> tuple[int, np.ndarray]:
        stop = min(start + BATCH_SIZE, len(images))
        return start, np.stack([extractor.load(images, row) for row in range(start, stop)])

    def encode(loaded: tuple[int, np.ndarray]) -> tuple[int, dict[str, np.ndarray]]:
        start, batch = loaded
        return start, extractor.encode(batch)

    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    first = _rows_done(partial)
    bar = progress(total=len(images), initial=first, desc=extractor.name, unit="image")
    batches = ahead(load, range(first, len(images), BATCH_SIZE))
    for start, outputs in ahead(encode, batches, workers=extractor.n_encoders, n_ahead=extractor.n_encoders + 1):
        for output, rows in outputs.items():
            _write_rows(partial / f"{output}.npy", rows, start=start, total=len(images))
        bar.update(min(BATCH_SIZE, len(images) - start))
    bar.close()
    _finish(partial, folder)


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
        file.write(rows.data)


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
