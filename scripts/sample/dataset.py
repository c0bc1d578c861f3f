"""The tables and the files of the look-alike lab."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from scripts.sample.factors import FACTORS, N_SUBJECTS, draw_pair

N_TRAIN_SUBJECTS, N_CANDIDATES = 24, 20
# Share of the pairs that carry black borders, and on which side: 30 % of the images, as in TLL.
BORDERS = {"both": 0.24, "left": 0.06, "right": 0.06}
JPEG_QUALITY = 88


def pair_table(seed: int) -> pd.DataFrame:
    """One row a pair, sorted by left id: part, left, right, factor, subject, borders (see BORDERS)."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("bcdfghjklmnpqrstvwxyz"))  # without vowels no id spells a word
    codes = rng.choice(len(letters) ** 3, 2 * len(FACTORS) * N_SUBJECTS, replace=False)
    ids = ["".join(letters[list(np.unravel_index(code, (len(letters),) * 3))]) for code in codes]
    rows = [
        (("train", "test")[place >= N_TRAIN_SUBJECTS], ids.pop(), ids.pop(), factor, subject)
        for factor in FACTORS
        for place, subject in enumerate(rng.permutation(N_SUBJECTS))
    ]
    table = pd.DataFrame(rows, columns=["part", "left", "right", "factor", "subject"])
    borders = [kind for kind, share in BORDERS.items() for _ in range(round(share * len(rows)))]
    table["borders"] = rng.permutation(borders + [""] * (len(rows) - len(borders)))
    return table.sort_values(["part", "left"], ascending=[False, True], ignore_index=True)


def with_borders(image: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The image squeezed between near-black borders of the given widths (top and bottom, left and right)."""
    y, x = widths
    framed = np.full_like(image, 4)
    height, width = image.shape[0] - 2 * y, image.shape[1] - 2 * x
    framed[y : y + height, x : x + width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return framed


def draw_bordered_pair(factor: str, subject: int, borders: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Left and right image of a row of `pair_table`: a letterbox, a pillarbox or a frame where it has borders."""
    rng = np.random.default_rng([seed, FACTORS.index(factor), subject])
    left, right = draw_pair(factor, subject, rng)
    widths = rng.integers((10, 8), (34, 26)) * ((1, 0), (0, 1), (1, 1))[rng.choice(3, p=(0.5, 0.35, 0.15))]
    if borders in ("both", "left"):
        left = with_borders(left, widths)
    if borders in ("both", "right"):
        right = with_borders(right, widths + rng.integers(-1, 2) * (widths > 0))
    return left, right


def candidate_table(test: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Columns left, c0 … c19: the true right id and 19 others of the test part, in random order."""
    rows = []
    for left, right in zip(test.left, test.right, strict=True):
        foils = rng.choice(test.right[test.right != right], N_CANDIDATES - 1, replace=False)
        rows.append([left, *rng.permutation([right, *foils])])
    return pd.DataFrame(rows, columns=["left", *(f"c{i}" for i in range(N_CANDIDATES))])


def write_tables(folder: Path, table: pd.DataFrame, seed: int) -> None:
    """Write the five CSV files of the layout."""
    rng = np.random.default_rng([seed, len(FACTORS)])
    train, test = (table.query("part == @part") for part in ("train", "test"))
    candidates = candidate_table(test, rng)
    scores = pd.DataFrame(rng.random((len(test), N_CANDIDATES)).round(6), columns=candidates.columns[1:])
    scores.insert(0, "left", candidates.left)
    files = {
        "train.csv": (train, ["left", "right"]),
        "test_truth.csv": (test, ["left", "right"]),
        "test_candidates.csv": (candidates, candidates.columns),
        "sample-submission.csv": (scores, candidates.columns),
        "factors.csv": (table, ["part", "left", "right", "factor"]),
    }
    for name, (rows, columns) in files.items():
        rows.to_csv(folder / name, columns=columns, index=False, encoding="utf-8", lineterminator="\n")


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write an RGB image."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    if not cv2.imwrite(str(path), image[..., ::-1], options):
        raise OSError(f"{path}: could not be written; is the disk full?")


def draw_sample(folder: Path, seed: int = 0) -> None:
    """Write the whole data set to `folder`; an older sample there is replaced once the new one is complete.

    Raises FileExistsError when the folder holds something else.
    """
    folder = Path(folder).resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / "factors.csv").exists():
        raise FileExistsError(f"{folder} holds something other than a sample; name a new or an empty folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in ("train", "test"):
        for side in ("left", "right"):
            (partial / part / side).mkdir(parents=True)
    table = pair_table(seed)
    for part, left, right, factor, subject, borders in table.itertuples(index=False):
        images = draw_bordered_pair(factor, subject, borders, seed)
        for side, name, image in zip(("left", "right"), (left, right), images, strict=True):
            write_jpeg(partial / part / side / f"{name}.jpg", image)
    write_tables(partial, table, seed)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
