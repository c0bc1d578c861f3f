"""Pairs to learn from: the report's table of one true pair to 19 foils a left, and batches for Keras."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd

from tll_utils.backend import keras
from tll_utils.runtime import whole_file

COLUMNS = ["left", "right", "label"]
POOL = 3  # semi-hard foils are drawn from this many times the foils wanted


def pair_table(
    left_ids: Sequence[str],
    right_ids: Sequence[str],
    *,
    n_foils: int = 19,
    seed: int = 0,
    similarity: np.ndarray | None = None,
) -> pd.DataFrame:
    """Columns left, right, label: for every left image its truth (label 1), then n_foils foils (label 0).

    left_ids, right_ids: aligned, row i of one is the truth of row i of the other. The foils of one left
    image are distinct. Without `similarity` they are drawn from all other rights; with it, S (n, n), they
    are semi-hard (Schroff et al. 2015, section 3.2): drawn from the 3 · n_foils rights that score nearest
    below the truth. Where fewer than n_foils score below, all of those are taken and the rest are the ones
    that score nearest above. Raises ValueError on repeated ids, or where the rights do not suffice.
    """
    _check_ids(left_ids, right_ids, n_foils)
    rng = np.random.default_rng(seed)
    if similarity is None:
        foils = [_random_foils(row, len(right_ids), n_foils, rng) for row in range(len(left_ids))]
    else:
        _check_similarity(similarity, len(left_ids))
        foils = [_semi_hard_foils(row, scores, n_foils, rng) for row, scores in enumerate(similarity)]
    rights = np.column_stack([np.arange(len(left_ids)), foils]).ravel()
    return pd.DataFrame(
        {
            "left": np.repeat(np.asarray(left_ids, object), 1 + n_foils).astype(str),
            "right": np.asarray(right_ids, object)[rights].astype(str),
            "label": np.tile([1] + [0] * n_foils, len(left_ids)),
        }
    )


def write_pair_table(table: pd.DataFrame, path: Path) -> None:
    """Write the table as CSV; a reader sees the old file or the new one, never half of one."""
    with whole_file(path) as partial:
        table.to_csv(partial, columns=COLUMNS, index=False, lineterminator="\n")


def read_pair_table(path: Path) -> pd.DataFrame:
    """The table `write_pair_table` wrote: left and right as text (`nan` and `null` are names), label as int.

    Raises ValueError naming the file where it is no CSV, lacks a column, or holds a label other than 0 and 1.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is no pair table ({error}): write it again with write_pair_table") from error
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; expected {','.join(COLUMNS)} in the first line")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus first fields for an index
        raise ValueError(f"{path}: rows have more fields than the first line names; remove the surplus ones")
    bad = ~table["label"].isin(["0", "1"])
    if bad.any():
        row = bad.argmax()
        raise ValueError(
            f"{path}, data row {row + 1}: label {table['label'][row]!r} must be 0 or 1; "
            "mend the row or write the table again with write_pair_table"
        )
    return table[COLUMNS].astype({"label": int})


class PairBatches(keras.utils.PyDataset):
    """Batches of a pair table, ((left, right), label): the report's `CustomDataGenerator`.

    left, right (b, 245, 200, 3) uint8, label (b,) float32; the last batch of an epoch may be smaller.
    `workers` threads decode. Raises ValueError where the table names an image that is not there.

    The order depends on `seed` and `epoch` alone. `fit` raises `epoch` once before its first epoch and
    after each; to resume, set it to fit's `initial_epoch`. Call `fit(..., shuffle=False)`: Keras would
    shuffle the order of the batches once more, from Python's global generator.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        left: Sequence[np.ndarray],
        right: Sequence[np.ndarray],
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        workers: int = 2,
    ):
        # Keras' own workers may serve a batch twice: those fetched to build a model stay in their queue.
        super().__init__(workers=1)
        self._pool = ThreadPoolExecutor(workers)
        self.left, self.right = left, right
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.epoch = 0
        self._left_rows = _rows_of(table["left"], left, "left")
        self._right_rows = _rows_of(table["right"], right, "right")
        self._labels = table["label"].to_numpy(np.float32)

    def __len__(self) -> int:
        return ceil(len(self._labels) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        rows = self._order()[index * self.batch_size : (index + 1) * self.batch_size]
        left = self._stack(self.left, self._left_rows[rows])
        right = self._stack(self.right, self._right_rows[rows])
        return (left, right), self._labels[rows]

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def _order(self) -> np.ndarray:
        """Table rows in the order of this epoch."""
        n_rows = len(self._labels)
        if not self.shuffle:
            return np.arange(n_rows)
        return np.random.default_rng([self.seed, self.epoch]).permutation(n_rows)

    def _stack(self, images: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
        """The images of these rows, (b, 245, 200, 3); one that occurs more than once is decoded once."""
        distinct, where = np.unique(rows, return_inverse=True)
        return np.stack(list(self._pool.map(images.__getitem__, distinct.tolist())))[where]


def _random_foils(truth: int, n_right: int, n_foils: int, rng: np.random.Generator) -> np.ndarray:
    foils = rng.choice(n_right - 1, n_foils, replace=False)
    return foils + (foils >= truth)  # step over the truth


def _semi_hard_foils(truth: int, scores: np.ndarray, n_foils: int, rng: np.random.Generator) -> np.ndarray:
    foils = rng.permutation(np.delete(np.arange(len(scores)), truth))  # ties in random order
    below = scores[truth] - scores[foils]
    nearest = foils[np.lexsort((np.abs(below), below <= 0))]  # nearest below first, then nearest above
    pool = np.clip(np.count_nonzero(below > 0), n_foils, POOL * n_foils)
    return rng.choice(nearest[:pool], n_foils, replace=False)


def _rows_of(ids: pd.Series, images: Sequence[np.ndarray], side: str) -> np.ndarray:
    """Row in `images` of every id."""
    rows = pd.Index(images.ids).get_indexer(ids)
    if (rows < 0).any():
        row = (rows < 0).argmax()
        raise ValueError(
            f"pair table row {row}: {ids.iloc[row]!r} is none of the {len(images.ids)} {side} images; "
            "make the table from the ids of these images"
        )
    return rows


def _check_ids(left_ids: Sequence[str], right_ids: Sequence[str], n_foils: int) -> None:
    for side, ids in (("left", left_ids), ("right", right_ids)):
        repeated = pd.Index(ids)[pd.Index(ids).duplicated()]
        if len(repeated):
            raise ValueError(f"{side} id {repeated[0]!r} occurs more than once: keep one pair of it")
    if len(left_ids) != len(right_ids):
        raise ValueError(f"{len(left_ids)} left and {len(right_ids)} right ids: row i of both must be a pair")
    if not 1 <= n_foils < len(right_ids):
        raise ValueError(
            f"{n_foils} foils a left image cannot be drawn from {len(right_ids)} right images, "
            f"one of which is the truth: pass n_foils from 1 to {len(right_ids) - 1}"
        )


def _check_similarity(similarity: np.ndarray, n_pairs: int) -> None:
    if np.shape(similarity) != (n_pairs, n_pairs):
        raise ValueError(f"similarity is {np.shape(similarity)}, the ids want {(n_pairs, n_pairs)}")
    bad = ~np.isfinite(similarity).all(axis=1)
    if bad.any():
        raise ValueError(f"similarity row {bad.argmax()} holds NaN or infinite scores: mend the method that made it")
