"""Training and test rows that share no near-duplicate image."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import GroupKFold, GroupShuffleSplit

from tll_utils.data.images import crop_borders
from tll_utils.data.pairs import Pairs

# On TLL nearly all image pairs up to 8 of 64 bits apart show the same picture, from 12 on next to none does.
# Too large a threshold only joins look-alikes, too small a one leaks pictures from training to test rows.
MAX_DISTANCE = 10
N_SPLITS = 5  # of the headline protocol

Rows = tuple[np.ndarray, np.ndarray]  # train_rows, test_rows: int


def headline_folds(pairs: Pairs) -> list[Rows]:
    """The `grouped_folds` of the headline protocol, by near-duplicates of the raw images whatever the view."""
    return grouped_folds(near_duplicate_groups(pairs.left.raw, pairs.right.raw), n_splits=N_SPLITS)


def near_duplicate_groups(*sides: Sequence[np.ndarray]) -> np.ndarray:
    """Group of every pair, int (n,): pairs that share a near-duplicate image have the same number.

    sides: image sequences of equal length n, usually left and right; row i of each belongs to pair i. Raises ValueError
    when they differ in length. Near-duplicate: perceptual hashes (`imagehash.phash`, 64 bits) at most 10 bits apart,
    with borders or without; compared within and across the sides, and from duplicate to duplicate.
    """
    if len({len(side) for side in sides}) != 1:
        raise ValueError(f"sides of {[len(side) for side in sides]} images: give one left and right per pair")
    with ThreadPoolExecutor() as pool:
        hashes = [bits for side in sides for bits in pool.map(hash_bits, [side] * len(side), range(len(side)))]
    return groups_of_hashes(np.array(hashes), len(sides[0]))


def hash_bits(images: Sequence[np.ndarray], row: int) -> np.ndarray:
    """Perceptual hashes of one image with its borders and without, bool (2, 64)."""
    image = images[row]
    return np.array([imagehash.phash(Image.fromarray(i)).hash.ravel() for i in (image, crop_borders(image))])


def groups_of_hashes(bits: np.ndarray, n: int, *, block: int = 64) -> np.ndarray:
    """`near_duplicate_groups` of `hash_bits` (sides · n, 2, 64), side after side, in memory linear in n."""
    hashes = np.packbits(bits.astype(bool), axis=2).view(np.uint64)[..., 0].T.copy()
    groups, row = np.arange(n), np.arange(len(bits)) % n
    for start in range(0, len(bits), block):
        whole, cropped = (np.bitwise_count(h[start : start + block, None] ^ h[start:]) for h in hashes)
        a, b = (groups[row[start + i]] for i in (np.minimum(whole, cropped) <= MAX_DISTANCE).nonzero())
        graph = csr_array((np.ones(len(a), bool), (a, b)), shape=(groups.max() + 1,) * 2)
        groups = connected_components(graph, directed=False)[1][groups]  # groups that share an image become one
    return groups


def grouped_folds(groups: np.ndarray, n_splits: int = N_SPLITS, seed: int = 0) -> list[Rows]:
    """Folds that test every row once and divide no group (int (n,)). Raises ValueError on fewer groups than folds."""
    if (n := len(np.unique(groups))) < n_splits:
        what = f"the training pairs have {n} groups of near-duplicate images, too few for {n_splits} folds"
        raise ValueError(f"{what}: add pairs of other images")
    return list(GroupKFold(n_splits, shuffle=True, random_state=seed).split(groups, groups=groups))


def holdout_split(groups: np.ndarray, test_fraction: float = 0.2, seed: int = 0) -> Rows:
    """One split, the report's 80/20: a test_fraction of the groups is held out undivided."""
    return next(GroupShuffleSplit(1, test_size=test_fraction, random_state=seed).split(groups, groups=groups))
