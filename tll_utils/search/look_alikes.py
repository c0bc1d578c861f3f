"""A fitted method and a user's own pictures → the best look-alikes of every picture, as a table."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from tll_utils.data.folds import hash_bits
from tll_utils.data.images import Images
from tll_utils.features.embedding import Extractor, embed
from tll_utils.methods.base import Method
from tll_utils.search.index import Index, add, build_index, import_faiss, open_index, search
from tll_utils.search.near_duplicates import near_duplicate_groups
from tll_utils.search.parts import block_width, has_parts, score_parts
from tll_utils.search.tree import fingerprint
from tll_utils.search.vectors import adapter_of, vectors

HASHES = Extractor("perceptual_hash@1", hash_bits, lambda bits: {"bits": np.array(bits).reshape(len(bits), -1)})
SHOWN_DUPLICATES = 5  # named in the column `also`; of more only the number


def look_alikes(
    method: Method, queries: Images, gallery: Images, *, top: int = 10, keep_near_duplicates: bool = False
) -> pd.DataFrame:
    """The `top` pictures of the gallery most similar to each query, by a fitted method.

    Columns query and picture (ids), rank (from 1), score, one per part of `score_parts`, and also. Queries are left
    images, the gallery right ones; where both are the same, no picture is compared with itself. Near-duplicates of a
    query are left out; those of each other stand in one row, the best, with the others named in `also` (text). With
    keep_near_duplicates every picture has its own row. A gallery with fewer pictures than `top` gives fewer rows.
    Memory grows with len(queries) · top. Raises ValueError where there is nothing to compare with, or top < 1.
    """
    is_same = _checked(queries, gallery, top)
    if keep_near_duplicates:
        groups = np.arange(len(gallery))
        own = groups if is_same else np.full(len(queries), -1)
    else:
        own, groups = _near_duplicates(queries, gallery, is_same=is_same)
    scores, candidates = _best(method, queries, gallery, own, groups, top)
    parts = score_parts(method, queries, gallery, candidates) if has_parts(method) else {"similarity": scores}
    return _table(scores, candidates, parts, queries, gallery, groups)


def indexed_look_alikes(
    method: Method, queries: Images, gallery: Images, folder: Path, *, top: int = 10
) -> pd.DataFrame:
    """The table of `look_alikes` with keep_near_duplicates, found by an index of the gallery, `updated_index`.

    Up to 50,000 pictures the same are found, of more than that nearly all of the same; scores have no parts. Only
    pictures of the gallery are found, also where the index holds others. Raises ValueError as `look_alikes`, for a
    method that `vectors` refuses and an index of another model; RuntimeError without faiss.
    """
    is_same = _checked(queries, gallery, top)
    index = updated_index(folder, method, gallery)
    place = {name: row for row, name in enumerate(gallery.ids)}
    places = np.array([place.get(name, -1) for name in index.ids])
    among = None if (places >= 0).all() else places >= 0
    scores, found = search(index, vectors(method, queries, 0), top + is_same, among=among)
    candidates = places[found]
    if is_same:
        scores = np.where(candidates == np.arange(len(queries))[:, None], -np.inf, scores)
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        scores, candidates = (np.take_along_axis(values, ranked, axis=1) for values in (scores, candidates))
    return _table(scores, candidates, {"similarity": scores}, queries, gallery, np.arange(len(gallery)))


def updated_index(folder: Path, method: Method, gallery: Images) -> Index:
    """The index of a folder, which is made where there is none, and to which pictures that it does not know are added.

    A picture is known by its id: one that has changed under its name keeps its old vector until the folder is deleted.
    """
    import_faiss()  # what is missing or wrong is said before pictures are encoded
    adapter_of(method)
    model = fingerprint(method)
    known = set(open_index(folder, model).ids) if folder.exists() else set()
    if rows := [row for row, name in enumerate(gallery.ids) if name not in known]:
        new = Images([gallery.ids[row] for row in rows], [gallery.files[row] for row in rows])
        data = {"pictures": len(new), "fingerprint": new.fingerprint}
        store = add if known else build_index
        store(folder, new.ids, vectors(method, new, 1), model=model, data=data)
    return open_index(folder, model)


def _checked(queries: Images, gallery: Images, top: int) -> bool:
    """Whether the queries are the gallery itself. Raises ValueError where there is nothing to find."""
    is_same = queries == gallery
    if len(queries) == 0 or len(gallery) <= is_same or top < 1:
        raise ValueError(
            f"{len(queries)} queries, {len(gallery)} pictures to find, the {top} best: give at least one other picture"
        )
    return is_same


def _near_duplicates(queries: Images, gallery: Images, *, is_same: bool) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the near-duplicate groups of every query and every picture of the gallery; hashes are cached."""
    sides = [gallery] if is_same else [queries, gallery]
    bits = np.concatenate([embed(side.raw, HASHES)["bits"].reshape(-1, 2, 64) for side in sides])
    groups = near_duplicate_groups(bits)
    return groups[: len(queries)], groups[-len(gallery) :]


def _best(
    method: Method, queries: Images, gallery: Images, own: np.ndarray, groups: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows of the best picture of each of the best groups, (n_queries, top), best first.

    The gallery is scored by blocks that divide no group. Where there are too few groups, scores are −∞.
    """
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))  # of groups, in that order
    width = block_width(method, len(queries), len(gallery))
    cuts = np.unique(starts[np.searchsorted(starts, np.arange(0, len(order), width), side="right") - 1])
    scores, candidates = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), int)
    for first, last in pairwise([*cuts, len(order)]):
        columns = order[first:last]
        S = method.scores(queries, gallery.take(columns))
        S = np.where(own[:, None] == groups[columns], -np.inf, S)
        members = starts[(starts >= first) & (starts < last)] - first
        best = np.maximum.reduceat(S, members, axis=1)
        is_best = np.repeat(best, np.diff(members, append=len(columns)), axis=1) == S
        positions = np.where(is_best, np.arange(len(columns)), len(columns))
        rows = columns[np.minimum.reduceat(positions, members, axis=1)]
        scores, candidates = np.hstack([scores, best]), np.hstack([candidates, rows])
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        scores, candidates = (np.take_along_axis(values, ranked, axis=1) for values in (scores, candidates))
    return scores, candidates


def _table(scores, candidates, parts, queries: Images, gallery: Images, groups: np.ndarray) -> pd.DataFrame:
    query, rank = np.nonzero(np.isfinite(scores))
    pictures = candidates[query, rank]
    shown = {name: part[query, rank] for name, part in parts.items()}  # but not what is 0.00 everywhere
    columns = {
        "query": [queries.ids[row] for row in query],
        "rank": rank + 1,
        "picture": [gallery.ids[row] for row in pictures],
        "score": scores[query, rank],
        **{name: part for name, part in shown.items() if part.size == 0 or np.abs(part).max() >= 0.005},
    }
    members = pd.Series(gallery.ids).groupby(groups).agg(list)
    also = {row: _named([i for i in members[groups[row]] if i != gallery.ids[row]]) for row in np.unique(pictures)}
    return pd.DataFrame(columns | {"also": [also[row] for row in pictures]})


def _named(ids: list[str]) -> str:
    more = len(ids) - SHOWN_DUPLICATES
    return " | ".join([*ids[:SHOWN_DUPLICATES], *([f"and {more} more"] if more > 0 else [])])
