"""Matching images, and the report's table of one true pair to 19 foils per left image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tll_utils.data.images import Images

Ids = Sequence[str]
POOL = 3  # semi-hard foils are drawn from this many times the foils wanted


@dataclass(frozen=True)
class Pairs:
    """Matching images: row i of `left` belongs to row i of `right`. The methods are those of Images, on both sides."""

    left: Images
    right: Images

    def __len__(self) -> int:
        return len(self.left)

    def take(self, rows: np.ndarray | Sequence[int]) -> "Pairs":
        return Pairs(self.left.take(rows), self.right.take(rows))

    def cropped(self) -> "Pairs":
        return Pairs(self.left.cropped(), self.right.cropped())

    @property
    def key(self) -> str:
        return f"{self.left.key}-{self.right.key}"


def pair_table(
    left_ids: Ids, right_ids: Ids, *, n_foils: int = 19, seed: int = 0, similarity: np.ndarray | None = None
) -> pd.DataFrame:
    """Columns left, right, label: for every left image its truth (label 1), then n_foils distinct foils (label 0).

    left_ids, right_ids: row i of one is the truth of row i of the other. Without `similarity` foils are drawn
    from all other rights; with it, S (n, n), they are semi-hard (Schroff et al. 2015, section 3.2): drawn from the
    3 · n_foils rights that score nearest below the truth; where fewer than n_foils score below, those and the nearest
    above. Raises ValueError on repeated ids, on a similarity of another shape or with NaN, and on too few rights.
    """
    n, rng = len(right_ids), np.random.default_rng(seed)
    for side, ids in (("left", pd.Index(left_ids)), ("right", pd.Index(right_ids))):
        if not ids.is_unique:
            raise ValueError(f"{side} id {ids[ids.duplicated()][0]!r} occurs more than once: keep one pair of it")
    if len(left_ids) != n:
        raise ValueError(f"{len(left_ids)} left and {n} right ids: row i of both must be a pair")
    if not 1 <= n_foils < n:
        what = f"{n_foils} foils per left image cannot be drawn from {n} right images, one of which is the truth"
        raise ValueError(f"{what}: pass n_foils from 1 to {n - 1}")
    if similarity is not None and np.shape(similarity) != (n, n):
        raise ValueError(f"similarity is {np.shape(similarity)}, the ids want {(n, n)}")
    if similarity is not None and (bad := ~np.isfinite(similarity).all(axis=1)).any():
        raise ValueError(f"similarity row {bad.argmax()} holds NaN or infinite scores: fix the method that made it")
    foils = [_foils(row, n, n_foils, rng, similarity) for row in range(n)]
    rights = np.column_stack([np.arange(n), foils]).ravel()
    left, right = pd.Index(left_ids).repeat(1 + n_foils), pd.Index(right_ids)[rights]
    return pd.DataFrame({"left": left, "right": right, "label": np.tile([1] + [0] * n_foils, n)})


def _foils(truth: int, n: int, n_foils: int, rng: np.random.Generator, similarity: np.ndarray | None) -> np.ndarray:
    others = np.delete(np.arange(n), truth)
    if similarity is None:
        return others[rng.choice(n - 1, n_foils, replace=False)]
    foils = rng.permutation(others)  # ties in random order
    below = similarity[truth, truth] - similarity[truth, foils]
    nearest = foils[np.lexsort((np.abs(below), below <= 0))]  # nearest below first, then nearest above
    pool = np.clip(np.count_nonzero(below > 0), n_foils, POOL * n_foils)
    return rng.choice(nearest[:pool], n_foils, replace=False)
