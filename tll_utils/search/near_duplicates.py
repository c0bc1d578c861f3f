"""Near-duplicates of many images: the groups of `folds.groups_of_hashes`, found by faiss."""

from importlib.util import find_spec

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tll_utils.data.folds import MAX_DISTANCE, groups_of_hashes
from tll_utils.search.index import import_faiss

MANY = 10_000  # images from which faiss, where it is installed, is faster
CHUNK, BLOCK = 2**16, 2**8  # hashes indexed, and looked up, at a time: at most 17 million pairs, 200 MB
MAX_PAIRS = 2**22  # kept before they are contracted


def near_duplicate_groups(bits: np.ndarray) -> np.ndarray:
    """Group of every image, int (n,), of `hash_bits` (n, 2, 64): `groups_of_hashes`, by faiss where it pays."""
    if len(bits) < MANY or find_spec("faiss") is None:
        return groups_of_hashes(bits, len(bits))
    return indexed_groups(bits)


def indexed_groups(bits: np.ndarray) -> np.ndarray:
    """The same numbers as `groups_of_hashes(bits, n)`, bits (n, 2, 64), in memory linear in n.

    Whole images are compared with whole ones, cropped with cropped ones, and images that share a group of either kind
    are one group. Equal hashes are compared once. The search is exact: a flat index, which on 64 bits was five times
    faster than faiss's multi-index hashing. On two cores 100,000 images take 4 s, 1,000,000 take 220 s in a process of
    1 GB. Raises RuntimeError without faiss.
    """
    whole, cropped = (_of_side(bits[:, side]) for side in (0, 1))
    edges = np.ones(len(bits), bool), (whole, whole.max(initial=-1) + 1 + cropped)
    n_nodes = sum(int(groups.max(initial=-1)) + 1 for groups in (whole, cropped))
    groups = connected_components(coo_array(edges, shape=(n_nodes, n_nodes)), directed=False)[1][whole]
    return pd.factorize(groups)[0]  # numbered in the order of the images


def _of_side(bits: np.ndarray) -> np.ndarray:
    """Groups of hashes (n, 64) that chains of at most MAX_DISTANCE bits connect, int (n,)."""
    hashes, place = np.unique(np.packbits(bits.astype(bool), axis=1).view(np.uint64)[:, 0], return_inverse=True)
    return _connected(hashes.view(np.uint8).reshape(-1, 8))[place]


def _connected(hashes: np.ndarray) -> np.ndarray:
    """Groups of different hashes, uint8 (n, 8). Every chunk is compared with itself and with those before it."""
    groups, pairs, n_pairs = np.arange(len(hashes)), [], 0
    for start in range(0, len(hashes), CHUNK):
        index = import_faiss().IndexBinaryFlat(64)
        index.add(hashes[start : start + CHUNK])
        for first in range(0, min(start + CHUNK, len(hashes)), BLOCK):
            limits, _, found = index.range_search(hashes[first : first + BLOCK], MAX_DISTANCE + 1)  # exclusive
            rows = np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64)))
            a, b = groups[first + rows], groups[start + found]
            pairs.append(np.stack([a, b])[:, a != b])
            n_pairs += pairs[-1].shape[1]
            if n_pairs > MAX_PAIRS:  # a dense group: once contracted, its pairs are none any more
                groups, pairs, n_pairs = _contracted(groups, pairs), [], 0
    return _contracted(groups, pairs)


def _contracted(groups: np.ndarray, pairs: list[np.ndarray]) -> np.ndarray:
    a, b = np.concatenate([np.empty((2, 0), int), *pairs], axis=1)
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(len(groups),) * 2)
    return connected_components(graph, directed=False)[1][groups]
