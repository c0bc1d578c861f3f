"""Near-duplicates of many images: the groups of `folds.groups_of_hashes`, by multi-index hashing.

Hashes that differ in at most 10 bits differ in at most 3 bits of the first third, or 3 of the second, or 2 of the last:
only hashes that meet in such a place are compared (Norouzi, Punjani and Fleet 2014).
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tll_utils.data.folds import MAX_DISTANCE, groups_of_hashes

MANY = 50_000  # images from which places are faster than to compare all with all
PLACES = ((0, 21, 3), (21, 21, 3), (42, 22, 2))  # first bit, number of bits, how many of them may differ
assert sum(differing + 1 for *_, differing in PLACES) == MAX_DISTANCE + 1  # who differs more everywhere is too far
CHUNK = 2**20  # pairs of hashes compared at a time
MAX_PAIRS = 2**22  # near ones kept before they are contracted


def near_duplicate_groups(bits: np.ndarray) -> np.ndarray:
    """Group of every image, int (n,), of `hash_bits` (n, 2, 64): the numbers that `groups_of_hashes(bits, n)` gives."""
    return groups_of_hashes(bits, len(bits)) if len(bits) < MANY else indexed_groups(bits)


def indexed_groups(bits: np.ndarray) -> np.ndarray:
    """The same numbers in memory that grows as n, and so does time as long as few hashes share a place by chance.

    Whole images are compared with whole ones, cropped with cropped ones, and images that share a group of either kind
    are one group. Equal hashes are compared once.
    """
    whole, cropped = (_of_side(bits[:, side]) for side in (0, 1))
    edges = np.ones(len(bits), bool), (whole, whole.max(initial=-1) + 1 + cropped)
    n_nodes = sum(int(groups.max(initial=-1)) + 1 for groups in (whole, cropped))
    groups = connected_components(coo_array(edges, shape=(n_nodes, n_nodes)), directed=False)[1][whole]
    return pd.factorize(groups)[0]  # numbered in the order of the images


def _of_side(bits: np.ndarray) -> np.ndarray:
    """Groups of hashes (n, 64) that chains of at most MAX_DISTANCE bits connect, int (n,)."""
    hashes, place = np.unique(np.packbits(bits.astype(bool), axis=1).view(np.uint64)[:, 0], return_inverse=True)
    groups, pairs, n_pairs = np.arange(len(hashes)), [], 0
    for a, b in _candidates(hashes):
        is_near = np.bitwise_count(hashes[a] ^ hashes[b]) <= MAX_DISTANCE
        a, b = groups[a[is_near]], groups[b[is_near]]
        pairs.append(np.stack([a, b])[:, a != b])
        n_pairs += pairs[-1].shape[1]
        if n_pairs > MAX_PAIRS:  # a dense group: once contracted, its pairs are none any more
            groups, pairs, n_pairs = _contracted(groups, pairs), [], 0
    return _contracted(groups, pairs)[place]


def _candidates(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of different hashes, uint64 (n,), that meet in a place of PLACES, about CHUNK pairs at a time."""
    for first, n_bits, differing in PLACES:
        place = (hashes >> np.uint64(first) & np.uint64(2**n_bits - 1)).astype(np.int32)
        order = place.argsort(kind="stable")
        place = place[order]
        counts = np.bincount(place, minlength=2**n_bits).astype(np.int32)
        starts = counts.cumsum(dtype=np.int64) - counts
        for n_flips in range(differing + 1):
            for flipped in combinations(range(n_bits), n_flips):
                other = place ^ np.int32(sum(1 << bit for bit in flipped))
                n_there = np.where(other >= place, counts[other], 0)  # a pair meets from both sides
                rows = np.flatnonzero(n_there)
                ends = n_there[rows].cumsum(dtype=np.int64)
                for some in np.split(rows, np.searchsorted(ends, np.arange(CHUNK, ends[-1:].sum(), CHUNK))):
                    n_pairs = n_there[some]
                    steps = np.arange(n_pairs.sum()) - (n_pairs.cumsum() - n_pairs).repeat(n_pairs)
                    yield order[some.repeat(n_pairs)], order[starts[other[some]].repeat(n_pairs) + steps]


def _contracted(groups: np.ndarray, pairs: list[np.ndarray]) -> np.ndarray:
    a, b = np.concatenate([np.empty((2, 0), int), *pairs], axis=1)
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(len(groups),) * 2)
    return connected_components(graph, directed=False)[1][groups]
