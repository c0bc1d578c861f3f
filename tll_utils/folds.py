"""Training and test rows that share no near-duplicate image."""

from concurrent.futures import ThreadPoolExecutor

import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist
from sklearn.model_selection import GroupKFold, GroupShuffleSplit

from tll_utils.dataset import Images
from tll_utils.images import crop_borders

# On TLL nearly all image pairs up to 8 of 64 bits apart show the same picture, from 12 on next to none does.
# Too large a threshold only joins look-alikes, too small a one leaks pictures from training to test rows.
MAX_DISTANCE = 10

Rows = tuple[np.ndarray, np.ndarray]


def near_duplicate_groups(*sides: Images) -> np.ndarray:
    """Group of every pair, int (n,): pairs that share a near-duplicate image have the same number.

    sides: image sequences of equal length n, usually left and right; row i of each belongs to pair i.
    Near-duplicate: perceptual hashes (`imagehash.phash`, 64 bits) at most 10 bits apart, with borders or
    without; compared within and across the sides, and from duplicate to duplicate.
    Raises ValueError when the sides differ in length.
    """
    if len({len(side) for side in sides}) != 1:
        raise ValueError(f"sides of {[len(side) for side in sides]} images: give one left and right per pair")
    n = len(sides[0])
    images = [(side, row) for side in sides for row in range(n)]
    with ThreadPoolExecutor() as pool:
        hashes = np.array(list(pool.map(_hashes, *zip(*images, strict=True))))
    whole, cropped = (cdist(bits, bits, "cityblock") <= MAX_DISTANCE for bits in hashes.swapaxes(0, 1))
    first, second = np.nonzero(whole | cropped)
    graph = coo_array((np.ones(len(first)), (first % n, second % n)), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def _hashes(images: Images, row: int) -> list[np.ndarray]:
    """Perceptual hashes of one image with its borders and without, 64 bits each."""
    image = images[row]
    return [imagehash.phash(Image.fromarray(i)).hash.ravel() for i in (image, crop_borders(image))]


def grouped_folds(groups: np.ndarray, n_splits: int = 5, seed: int = 0) -> list[Rows]:
    """Cross-validation folds as (train_rows, test_rows); every row is tested once, no group is divided.

    groups int (n,). Raises ValueError when there are fewer groups than folds.
    """
    folds = GroupKFold(n_splits, shuffle=True, random_state=seed)
    return list(folds.split(groups, groups=groups))


def holdout_split(groups: np.ndarray, test_fraction: float = 0.2, seed: int = 0) -> Rows:
    """One split as (train_rows, test_rows), the report's 80/20; no group is divided.

    groups int (n,); test_fraction is the share of the groups that is held out.
    """
    split = GroupShuffleSplit(n_splits=1, test_size=test_fraction, random_state=seed)
    train_rows, test_rows = next(split.split(groups, groups=groups))
    return train_rows, test_rows
