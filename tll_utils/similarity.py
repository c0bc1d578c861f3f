"""Embeddings of both sides → S (n_left, n_right) float32, higher = more alike; and ways to correct S."""

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import euclidean_distances

BLOCK = 256  # left rows compared at a time: SciPy works in float64, which doubles what it is given
HUB_NEIGHBOURS = 30  # known lefts that say how much of a hub a right is


def cosine_similarity(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine of the angle between every left and every right embedding.

    left (n, d), right (m, d) → (n, m) float32 in [-1, 1].
    Raises ValueError on a width mismatch, a value that is not finite or a zero-length row.
    """
    left, right = _checked(left, right)
    return np.clip(_unit_length(left, "left") @ _unit_length(right, "right").T, -1, 1)


def euclidean_similarity(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Negative Euclidean distance between every left and every right embedding.

    left (n, d), right (m, d) → (n, m) float32, at most 0.
    Raises ValueError on a width mismatch or a value that is not finite.
    """
    return -euclidean_distances(*_checked(left, right))


def l1_similarity(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Negative city-block distance between every left and every right embedding: −Σ|a − b|.

    left (n, d), right (m, d) → (n, m) float32, at most 0. Takes time: no matrix product computes it.
    Raises ValueError on a width mismatch or a value that is not finite.
    """
    left, right = _checked(left, right)
    S = np.empty((len(left), len(right)), np.float32)
    for start in range(0, len(left), BLOCK):
        rows = slice(start, start + BLOCK)
        S[rows] = -cdist(left[rows], right, "cityblock")
    return S


def centre(embeddings: np.ndarray, *, training: np.ndarray) -> np.ndarray:
    """Embeddings minus the mean of the training embeddings of the same side, (n, d) float32.

    Left and right images differ in style, so each side has a mean of its own: call it once a side.
    Raises ValueError on a width mismatch or a value that is not finite.
    """
    embeddings, training = _checked(embeddings, training, names=("embeddings", "training"))
    return embeddings - training.mean(axis=0, dtype=np.float64).astype(np.float32)


def root_normalise(embeddings: np.ndarray, *, n_cells: int) -> np.ndarray:
    """Square root of the features, then each of the n_cells parts of a row scaled to length one, (n, d) float32.

    For features that are not negative, such as those behind a ReLU: no strong feature and no busy grid cell
    outweighs the others. It is RootSIFT (Arandjelović and Zisserman 2012) for every cell; a cell without any
    feature stays zero. Raises ValueError on a negative or not finite value, or a width n_cells does not divide.
    """
    embeddings = _finite(embeddings, "embeddings")
    if embeddings.min() < 0:
        row = (embeddings < 0).any(axis=1).argmax()
        raise ValueError(f"embeddings row {row} has negative features, which have no root: take them behind a ReLU")
    if embeddings.shape[1] % n_cells:
        raise ValueError(f"{n_cells} cells do not divide the width {embeddings.shape[1]}: pass that of the grid")
    cells = np.sqrt(embeddings).reshape(len(embeddings), n_cells, -1)
    length = np.linalg.norm(cells, axis=2, keepdims=True)
    return (cells / np.where(length > 0, length, 1)).reshape(embeddings.shape)


def csls(S: np.ndarray, *, k: int = 10) -> np.ndarray:
    """Cross-domain similarity local scaling: 2·S[i, j] − r_left[i] − r_right[j], (n_left, n_right) float32.

    r_left[i] is the mean of the k best scores of left i, r_right[j] that of right j: rights that are near
    to every left ("hubs") lose (Conneau et al. 2018, section 2.3). r_right uses all lefts of S together, so
    the result is not inductive. Raises ValueError on a score that is not finite, or fewer than k rows or
    columns.
    """
    S = _finite(S, "S")
    if not 1 <= k <= min(S.shape):
        raise ValueError(f"k={k} nearest neighbours cannot be had from S {S.shape}: pass k from 1 to {min(S.shape)}")
    return 2 * S - _mean_of_best(S, k)[:, None] - _mean_of_best(S.T, k)


def hub_corrected(S: np.ndarray, bank: np.ndarray, *, k: int = HUB_NEIGHBOURS, weight: float = 0.5) -> np.ndarray:
    """S[i, j] − weight · (mean of the k best scores of right j with the bank), (n_left, n_right) float32.

    bank (n_bank, n_right): scores of known lefts, those of the training pairs, with the same rights. As in `csls`
    rights that are near to everything lose; but the neighbours are fixed, so S[i] depends on left i and its
    candidates alone, and the result stays inductive. Raises ValueError on a score that is not finite, matrices of
    different rights, or fewer than k known lefts.
    """
    S, bank = _checked(S, bank, names=("S", "bank"))
    if not 1 <= k <= len(bank):
        raise ValueError(f"k={k} nearest of {len(bank)} known lefts cannot be had: pass k from 1 to {len(bank)}")
    return S - np.float32(weight) * _mean_of_best(bank.T, k)


def standardise(S: np.ndarray) -> np.ndarray:
    """S with mean 0 and standard deviation 1 over the whole matrix, float32, so that matrices can be summed.

    Raises ValueError on a score that is not finite, or where all scores are the same.
    """
    S = _finite(S, "S")
    if S.min() == S.max():
        raise ValueError(f"all scores of S are {S.flat[0]}: nothing to standardise, leave it out of the sum")
    return ((S - S.mean(dtype=np.float64)) / S.std(dtype=np.float64)).astype(np.float32)


def _mean_of_best(S: np.ndarray, k: int) -> np.ndarray:
    """Mean of the k largest of every row, (rows,)."""
    return np.partition(S, -k, axis=1)[:, -k:].mean(axis=1)


def _unit_length(embeddings: np.ndarray, name: str) -> np.ndarray:
    length = np.linalg.norm(embeddings, axis=1)
    bad = (length == 0) | np.isinf(length)
    if bad.any():
        row = bad.argmax()
        raise ValueError(
            f"{name} row {row} has length {length[row]}, so no direction: "
            "look at its image, or use euclidean_similarity or l1_similarity"
        )
    return embeddings / length[:, None]


def _checked(
    left: np.ndarray, right: np.ndarray, *, names: tuple[str, str] = ("left", "right")
) -> tuple[np.ndarray, np.ndarray]:
    """Both as finite float32 matrices of one width."""
    left, right = _finite(left, names[0]), _finite(right, names[1])
    if left.shape[1] != right.shape[1]:
        raise ValueError(
            f"{names[0]} {left.shape} and {names[1]} {right.shape} differ in width: take both from one output"
        )
    return left, right


def _finite(matrix: np.ndarray, name: str) -> np.ndarray:
    matrix = np.asarray(matrix, np.float32)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} must be a matrix that is not empty, got shape {matrix.shape}")
    bad = ~np.isfinite(matrix).all(axis=1)
    if bad.any():
        raise ValueError(f"{name} row {bad.argmax()} holds NaN or infinite values: look at the image of that row")
    return matrix
