"""Embeddings of both sides → S (n_left, n_right) float32, higher = more alike; and ways to correct both.

Every function raises ValueError, naming the row, on an empty matrix, a value that is not finite or a width mismatch.
"""

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import euclidean_distances


def cosine_similarity(left: npt.ArrayLike, right: npt.ArrayLike) -> np.ndarray:
    """Cosine of the angle between every left (n, d) and right (m, d) row, (n, m) in [-1, 1]; see `unit_length`."""
    left, right = _checked_pair(left, right, "left", "right")
    return np.clip(unit_length(left, "left") @ unit_length(right, "right").T, -1, 1)


def euclidean_similarity(left: npt.ArrayLike, right: npt.ArrayLike) -> np.ndarray:
    """Negative Euclidean distance between every left (n, d) and every right (m, d) embedding, (n, m)."""
    return -euclidean_distances(*_checked_pair(left, right, "left", "right"))


def l1_similarity(left: npt.ArrayLike, right: npt.ArrayLike) -> np.ndarray:
    """Negative city-block distance −Σ|a − b| between every left (n, d) and every right (m, d) embedding, (n, m)."""
    return -cdist(*_checked_pair(left, right, "left", "right"), "cityblock").astype(np.float32)


def unit_length(embeddings: npt.ArrayLike, name: str = "embeddings") -> np.ndarray:
    """Every row of (n, d) scaled to length one, (n, d) float32; zeros stay, a row beyond float32 is an error."""
    embeddings = _checked(embeddings, name)
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if np.isinf(length).any():
        raise ValueError(f"{name} row {length.argmax()} is too long for float32: look at the image of that row")
    return embeddings / np.where(length > 0, length, 1)


def intra_normalise(embeddings: npt.ArrayLike, *, n_cells: int) -> np.ndarray:
    """Power and intra-normalisation: square root, then each of the n_cells parts of a row to length one, (n, d).

    For features that are not negative, such as those behind a ReLU: no strong feature and no busy grid cell
    outweighs the others. It is RootSIFT (Arandjelović and Zisserman 2012) for every cell; a cell without any
    feature stays zero. Raises ValueError on a negative value too, or a width that n_cells does not divide.
    """
    embeddings = _checked(embeddings, "embeddings")
    if embeddings.min() < 0:
        row = (embeddings < 0).any(axis=1).argmax()
        raise ValueError(f"embeddings row {row} has negative features, which have no root: take them behind a ReLU")
    if embeddings.shape[1] % n_cells:
        raise ValueError(f"{n_cells} cells do not divide the width {embeddings.shape[1]}: pass that of the grid")
    cells = np.sqrt(embeddings).reshape(len(embeddings), n_cells, -1)
    length = np.linalg.norm(cells, axis=2, keepdims=True)
    return (cells / np.where(length > 0, length, 1)).reshape(embeddings.shape)


def hubness_correction(S: npt.ArrayLike, bank: npt.ArrayLike, *, k: int = 30, weight: float = 0.5) -> np.ndarray:
    """S[i, j] − weight · (mean of the k best scores of right j with the bank), (n_left, n_right) float32.

    bank (n_bank, n_right): scores of the training lefts with the same rights. Rights that are near to everything
    (hubs) lose, as in CSLS (Conneau et al. 2018); but, as in Querybank Normalisation (Bogolin et al. 2022), the
    neighbours are a fixed bank, so S[i] depends on left i and its candidates alone, and the result stays inductive.
    Raises ValueError where the bank has fewer than k rows too.
    """
    S, bank = _checked_pair(S, bank, "S", "bank")
    if not 1 <= k <= len(bank):
        raise ValueError(f"k={k} nearest of {len(bank)} known lefts cannot be had: pass k from 1 to {len(bank)}")
    return S - np.float32(weight) * np.partition(bank.T, -k, axis=1)[:, -k:].mean(axis=1)


def standardise(S: npt.ArrayLike) -> np.ndarray:
    """S with mean 0 and standard deviation 1 over the whole matrix, float32; S of one value becomes zeros."""
    S = _checked(S, "S").astype(np.float64)
    return ((S - S.mean()) / (S.std() if np.ptp(S) else 1)).astype(np.float32)


def _checked_pair(a: npt.ArrayLike, b: npt.ArrayLike, *names: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = _checked(a, names[0]), _checked(b, names[1])
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{names[0]} {a.shape} and {names[1]} {b.shape} differ in width: take both from one output")
    return a, b


def _checked(matrix: npt.ArrayLike, name: str) -> np.ndarray:
    matrix = np.asarray(matrix, np.float32)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} must be a matrix that is not empty, got shape {matrix.shape}")
    bad = ~np.isfinite(matrix).all(axis=1)
    if bad.any():
        raise ValueError(f"{name} row {bad.argmax()} holds NaN or infinite values: look at the image of that row")
    return matrix
