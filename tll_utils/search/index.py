"""An index of a gallery: its vectors in a folder, searched by faiss; grows without being built anew.

Up to MAX_FLAT vectors every one is compared. Of more, a graph (HNSW) of vectors of a byte a column is searched. Its
recall@10, the share of the ten best that is found, with EF_SEARCH 256 (*: measured with half of it, which finds less):

    100,000 of width 256 in 1,000 Gaussian clusters   0.98, 0.955* in clusters of half the width, 0.93 of near copies in
                                                      clusters of a third
    3,600 right images of TLL for 3,600 left ones     0.997*
    100,000 random ones with the covariance of these  0.98, without any clusters

On two cores the first take 5 s to build, 0.8 ms a query one by one and 0.3 GB. Inverted lists (IVF) find as many of
TLL's only where more than a quarter of all vectors is compared: 0.86 by 16 lists of 240, 0.98 by 64.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tll_utils.runtime import atomic_folder, damage_named, locked, read_json, sha256_of, write_text

FORMAT = 1  # raise it when the files change
FILES = INDEX, PICTURES, FACTS = ("index.faiss", "pictures.json", "index.json")
AGAIN = "delete the folder, and it is built anew"
MAX_FLAT = 50_000  # vectors that are compared one by one: exact
LARGE = "HNSW32,SQ8"  # of more: a graph of neighbours, a byte a column
EF_SEARCH = 256  # vectors that a search keeps in sight: more find more, and take longer
N_SAMPLE = 20_000  # vectors from which the ranges of the bytes are learned
BLOCK = 4096  # vectors read, added or looked up at a time


class Index(NamedTuple):
    """An opened index."""

    vectors: Any  # faiss's index
    ids: list[str]  # of the pictures, in the order of the vectors
    facts: dict[str, Any]  # model: fingerprint; data: what each building and adding was given


def import_faiss() -> Any:
    """The module faiss. Raises RuntimeError with the remedy where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise RuntimeError("an index needs faiss: pip install 'tll-utils[large]'") from error
    return faiss


def build_index(folder: Path, ids: Sequence[str], vectors: np.ndarray, *, model: str, data: object = None) -> None:
    """Write an index of vectors (n, d) float32, in memory or mapped from a file, under the ids of their pictures.

    model: fingerprint of the method whose `vectors` they are; data: what they were made of, for the record, as JSON.
    The folder appears whole and replaces an older index. Raises ValueError where it holds something else, or ids and
    vectors do not fit.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or not {path.name for path in folder.iterdir()} <= {*FILES}):
        raise ValueError(f"{folder} holds something other than an index: name another folder for the index")
    if len(ids) != len(vectors) or len(set(ids)) < len(ids) or len(ids) == 0:
        raise ValueError(f"{len(ids)} ids of {len(vectors)} vectors: give each vector an id of its own, at least one")
    with atomic_folder(folder) as new:
        _write(new, Index(_filled(vectors), list(ids), {"format": FORMAT, "model": model, "data": [data]}))


def add(folder: Path, ids: Sequence[str], vectors: np.ndarray, *, model: str, data: object = None) -> int:
    """Add those vectors (n, d) whose ids the index does not know; how many they are.

    An exact index that outgrows MAX_FLAT becomes an approximate one. Raises ValueError where the index is of another
    model or damaged.
    """
    with atomic_folder(folder := folder.resolve()) as new:  # which nobody else changes meanwhile
        index = _read(folder, model)
        known = set(index.ids)
        rows = np.array([row for row, name in enumerate(ids) if name not in known], int)
        new_ids = [str(ids[row]) for row in rows.tolist()]
        grown = index.vectors
        if grown.ntotal + len(rows) > MAX_FLAT and isinstance(grown, import_faiss().IndexFlat):
            grown = _filled(grown.reconstruct_n(0, grown.ntotal), vectors[rows])
        else:
            _extend(grown, vectors, rows)
        facts = index.facts | {"data": [*index.facts["data"], data]}
        _write(new, Index(grown, index.ids + new_ids, facts))
    return len(rows)


def open_index(folder: Path, model: str | None = None) -> Index:
    """Read an index. Raises ValueError where it is damaged, or of a model with another fingerprint."""
    folder = folder.resolve()
    with locked(folder):
        return _read(folder, model)


def search(
    index: Index, queries: np.ndarray, top: int, *, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores, float32, and rows of the `top` vectors with the largest inner product, both (n_queries, top).

    queries (n, d) float32: of left images. among: bool (n_vectors,), the rows that may be found. Where there are fewer
    than `top`, scores are −∞ and rows −1. Raises ValueError where the widths differ.
    """
    if queries.shape[1] != index.vectors.d:
        raise ValueError(f"queries {queries.shape} for vectors of width {index.vectors.d}: take both from one model")
    options = {} if among is None else {"params": _selecting(index.vectors, among)}
    blocks = [queries[start : start + BLOCK] for start in range(0, len(queries), BLOCK)]
    found = [index.vectors.search(np.ascontiguousarray(block, np.float32), top, **options) for block in blocks]
    empty = np.empty((0, top), np.float32), np.empty((0, top), np.int64)
    scores, rows = (np.concatenate(arrays) for arrays in zip(empty, *found, strict=True))
    return np.where(rows < 0, -np.inf, scores).astype(np.float32), rows


def search_shards(
    folders: Sequence[Path], queries: np.ndarray, top: int, *, model: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores, float32, and ids (str objects) of the `top` pictures of all indexes together, both (n_queries, top).

    One index is in memory at a time. Of equal scores the one of the earlier folder is first; where there are fewer than
    `top` pictures, scores are −∞ and ids "". Raises the errors of `open_index` and `search`.
    """
    best, names = np.full((len(queries), top), -np.inf, np.float32), np.full((len(queries), top), "", object)
    for folder in folders:
        index = open_index(folder, model)
        scores, rows = search(index, queries, top)
        found = np.array([*index.ids, ""], object)[rows]  # row −1 is the last
        best, names = np.hstack([best, scores]), np.hstack([names, found])
        ranked = np.argsort(-best, axis=1, kind="stable")[:, :top]
        best, names = (np.take_along_axis(values, ranked, axis=1) for values in (best, names))
    return best, names


# --- faiss -----------------------------------------------------------------------------


def _filled(*parts: np.ndarray) -> Any:
    """faiss's index of all rows, of a kind chosen by their number."""
    faiss, n = import_faiss(), sum(map(len, parts))
    index = faiss.index_factory(parts[0].shape[1], "Flat" if n <= MAX_FLAT else LARGE, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(_sample(parts))  # the range of every column
        index.hnsw.efSearch = EF_SEARCH
    for part in parts:
        _extend(index, part, np.arange(len(part)))
    return index


def _sample(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Random rows, at most N_SAMPLE of them; of mapped files no others are read."""
    share, rng = min(1, N_SAMPLE / sum(map(len, parts))), np.random.default_rng(0)
    rows = [np.sort(rng.choice(len(part), int(share * len(part)), replace=False)) for part in parts]
    return np.concatenate([part[chosen] for part, chosen in zip(parts, rows, strict=True)], dtype=np.float32)


def _extend(index: Any, vectors: np.ndarray, rows: np.ndarray) -> None:
    if vectors.shape[1] != index.d:
        raise ValueError(f"vectors {vectors.shape} for an index of width {index.d}: take both from one model")
    for start in range(0, len(rows), BLOCK):
        index.add(np.ascontiguousarray(vectors[rows[start : start + BLOCK]], np.float32))


def _selecting(index: Any, among: np.ndarray) -> Any:
    faiss = import_faiss()
    selector = faiss.IDSelectorBitmap(np.packbits(among, bitorder="little"))
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=index.hnsw.efSearch)
    return faiss.SearchParameters(sel=selector)


# --- files -----------------------------------------------------------------------------


def _write(folder: Path, index: Index) -> None:
    try:
        import_faiss().write_index(index.vectors, str(folder / INDEX))
    except RuntimeError as error:  # faiss's, of several lines
        raise ValueError(
            f"{folder / INDEX} cannot be written ({' '.join(str(error).split())}): free some space"
        ) from error
    write_text(folder / PICTURES, json.dumps(index.ids, ensure_ascii=False))
    hashes = {name: sha256_of(folder / name) for name in (INDEX, PICTURES)}
    write_text(folder / FACTS, json.dumps(index.facts | {"vectors": len(index.ids), "sha256": hashes}, indent=1))


def _read(folder: Path, model: str | None) -> Index:
    with damage_named(folder / FACTS, AGAIN):
        facts = read_json(folder / FACTS)
        if facts["format"] != FORMAT:
            raise ValueError(f"its format is {facts['format']}, this tll_utils reads {FORMAT}")
    if model not in (None, facts["model"]):
        what = f"{folder} was made with another model (fingerprint {facts['model'][:16]}, not {model[:16]})"
        raise ValueError(f"{what}: name that model, or another folder for the index")
    for name in (INDEX, PICTURES):
        with damage_named(folder / name, AGAIN):
            if sha256_of(folder / name) != facts["sha256"][name]:
                raise ValueError("its SHA-256 is not the recorded one")
    return Index(import_faiss().read_index(str(folder / INDEX)), read_json(folder / PICTURES), facts)
