"""Images → embeddings: decoded ahead of need, cached on disk, resumed after an interruption.

An *extractor* says how one image is loaded and how a batch is encoded; `embed` does the rest. A pretrained
network, a colour histogram and a file size are all extractors, so all share the one cache and the one loop.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tll_utils import runtime
from tll_utils.data.images import Images
from tll_utils.runtime import cache_dir, locked, partial_of, prefetch, progress, sha256_of, write_text

BATCH_SIZE = 32
ROWS_DONE = "rows_done.txt"


@dataclass(frozen=True)
class Extractor:
    """How images become embeddings: load (images, row) in worker threads, encode b of these to {output: (b, d)}.

    Loaded arrays may differ in shape; several outputs cost one pass.
    """

    name: str  # part of the cache key: change it (or its @version) whenever the numbers change
    load: Callable[[Images, int], Any]
    encode: Callable[[Sequence], dict[str, np.ndarray]]
    n_encoders: int = 1  # threads that may encode at once: with two, no core waits for the end of the other's batch


def embed(images: Images, extractor: Extractor) -> dict[str, np.ndarray]:
    """Every output of the extractor for these images, {output: (n, d) float32}; read-only for a whole folder.

    The whole folder is encoded once per view (`images.whole`) and cached under `runtime.cache_dir()`; memory
    use does not grow with the number of images. A damaged cache is removed and made again, an interrupted
    extraction continues with the batch it stopped in.
    """
    name = f"{extractor.name} {images.view}".strip()
    key = hashlib.sha256(f"{extractor.name}\n{images.view}\n{images.fingerprint}".encode()).hexdigest()[:16]
    folder = cache_dir() / "embeddings" / f"{re.sub(r'[^a-z0-9]+', '_', name.lower())}-{key}"
    if not (arrays := _finished(folder)):
        with locked(folder) as is_alone:
            if not _finished(folder):  # another run may have made it
                _extract(images.whole, extractor, folder, is_alone=is_alone)
        arrays = _finished(folder)
    if np.array_equal(images.rows, np.arange(len(images.base))):
        return arrays  # nothing is copied: a page is read when it is needed
    return {output: array[images.rows] for output, array in arrays.items()}


def _finished(folder: Path) -> dict[str, np.ndarray]:
    """The cached arrays, if they are those that were written; otherwise none."""
    with suppress(runtime.DAMAGED):
        checksums = runtime.read_json(folder / "complete.json").items()
        if all(sha256_of(folder / f"{output}.npy") == checksum for output, checksum in checksums):
            return {output: np.load(folder / f"{output}.npy", mmap_mode="r") for output, _ in checksums}
    return {}


def _extract(images: Images, extractor: Extractor, folder: Path, *, is_alone: bool) -> None:
    """Encode all images into `folder`, which appears under its name only when it is whole."""
    unfinished = partial_of(folder, is_alone)
    unfinished.mkdir(parents=True, exist_ok=True)
    first, n_encoders = _rows_done(unfinished, len(images)), extractor.n_encoders
    batches = prefetch(partial(_load, images, extractor), range(first, len(images), BATCH_SIZE))
    encoded = prefetch(lambda b: (b[0], extractor.encode(b[1])), batches, workers=n_encoders, n_ahead=n_encoders + 1)
    with progress(total=len(images), initial=first, desc=extractor.name, unit="image") as bar:
        for start, outputs in encoded:
            n_rows = min(BATCH_SIZE, len(images) - start)
            for output, rows in outputs.items():
                _write_rows(unfinished / f"{output}.npy", rows, start=start, total=len(images))
            write_text(unfinished / ROWS_DONE, " ".join([str(start + n_rows), *outputs]))
            bar.update(n_rows)
    checksums = {path.stem: sha256_of(path) for path in sorted(unfinished.glob("*.npy"))}
    write_text(unfinished / "complete.json", json.dumps(checksums, indent=1))
    shutil.rmtree(folder, ignore_errors=True)  # a damaged one
    os.replace(unfinished, folder)


def _load(images: Images, extractor: Extractor, start: int) -> tuple[int, list]:
    return start, [extractor.load(images, row) for row in range(start, min(start + BATCH_SIZE, len(images)))]


def _rows_done(unfinished: Path, total: int) -> int:
    """Rows that an interrupted extraction has written of every output; noted with their names behind each batch."""
    try:
        n_rows, *outputs = (unfinished / ROWS_DONE).read_text(encoding="utf-8").split()
        lengths = {len(np.load(unfinished / f"{output}.npy", mmap_mode="r")) for output in outputs}
        return int(n_rows) if lengths == {total} and int(n_rows) in range(total + 1) else 0
    except runtime.DAMAGED:
        return 0


def _write_rows(path: Path, rows: np.ndarray, *, start: int, total: int) -> None:
    """Put rows at their place in an .npy file of `total` rows, which is made with the first ones.

    Plain writes instead of a memory map: mapped pages would count as memory in use.
    """
    rows = np.ascontiguousarray(rows, np.float32)
    with runtime.file_named(path):
        if start == 0:
            np.lib.format.open_memmap(path, "w+", np.float32, (total, *rows.shape[1:]))  # a file of zeros
        with open(path, "r+b") as file:
            file.seek((start - total) * rows[0].nbytes, os.SEEK_END)
            file.write(rows.data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave zeros that are noted as done
