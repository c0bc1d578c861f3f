"""The TLL authors' public release, left.zip and right.zip, as a data set in the layout of the challenge.

    python -m scripts.convert left.zip right.zip data/tll

A pair has the same file name in both. data/README.md says where the release is found and what the layout is.
"""

import argparse
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from PIL import Image

from tll_utils.data.checks import COLUMNS, IMAGE_SUFFIXES, SYSTEM_FILES, TEST, TRAIN, TRUTH, inspect
from tll_utils.data.folds import near_duplicate_groups
from tll_utils.data.images import File, Images, decode_with_conversions
from tll_utils.evaluation.cross_validation import draw_candidates
from tll_utils.evaluation.metrics import N_CANDIDATES

ORIGIN, LEFT_OUT = "pairs.csv", "left_out.csv"  # beside the tables that the loader reads
LETTERS = np.array(list("bcdfghjklmnpqrstvwxyz"))  # without vowels no id spells a word
ID_LENGTH = 4  # letters: 21⁴ ids for 12,032 images
JPEG_QUALITY = 95

Notes = list[tuple[str, str]]  # (file or name, why it was left out)


def convert(
    left: Path, right: Path, out: Path, *, seed: int = 0, n_test: int = 2000, n_train: int | None = None
) -> pd.DataFrame:
    """Write the pairs of two zips (or folders) to the new folder `out`, and return what was left out: file, why.

    Test pairs are drawn with the seed, in whole groups of near-duplicates, so that none is divided between the parts;
    the others are training pairs, n_train of them or all. Candidate lists are drawn as the challenge draws them. Ids
    are drawn anew, since equal names would tell the pairs; `pairs.csv` says which name each pair had. Images are copied
    byte for byte where they need no conversion. The folder appears when it is whole.

    Raises FileExistsError where `out` exists, and ValueError where the pairs do not suffice.
    """
    out = Path(out).resolve()
    if out.exists():
        raise FileExistsError(f"{out} exists: name a new folder, or delete it")
    notes: Notes = []
    names, sides = _readable_pairs(Path(left), Path(right), notes)
    rng = np.random.default_rng(seed)
    parts = _split(near_duplicate_groups(*sides), n_test, n_train, rng)
    table = _pair_table(names, parts, rng)
    left_out = pd.DataFrame(notes, columns=["file", "why"], dtype=str)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
        new = Path(work, "new")
        for part, side in ((part, side) for part in ("train", "test") for side in ("left", "right")):
            (new / part / side).mkdir(parents=True)
        for side, images in zip(("left", "right"), sides, strict=True):
            _write_images(new, side, images, table)
        _write_tables(new, table, left_out, rng)
        new.rename(out)
    return left_out


# --- what is there --------------------------------------------------------------


def _readable_pairs(left: Path, right: Path, notes: Notes) -> tuple[list[str], list[Images]]:
    """Names that both sides have and whose images can be read, sorted, and the images of both sides."""
    files = [_files(path, notes) for path in (left, right)]
    for here, there, path in ((*files, left), (*files[::-1], right)):
        alone = sorted(here.keys() - there.keys())
        notes += [(f"{path.name}/{here[name].name}", "on this side only") for name in alone]
    names = sorted(files[0].keys() & files[1].keys())
    listed = [(path.name, found[name]) for path, found in zip((left, right), files, strict=True) for name in names]
    with ThreadPoolExecutor() as pool:
        problems = [problem for *_, problem in pool.map(lambda one: inspect(one[1], one[1].name), listed)]
    notes += [(f"{side}/{file.name}", why) for (side, file), why in zip(listed, problems, strict=True) if why]
    of_pairs = zip(names, problems[: len(names)], problems[len(names) :], strict=True)
    kept = [name for name, *why in of_pairs if not any(why)]
    return kept, [Images(kept, [found[name] for name in kept]) for found in files]


def _files(path: Path, notes: Notes) -> dict[str, File]:
    """Image files of a zip or folder, however deep, by name without suffix."""
    if path.is_dir():
        listed: Sequence[File] = sorted(file for file in path.rglob("*") if file.is_file())
    elif zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        names = sorted(name for name in archive.namelist() if not name.endswith("/") and "__MACOSX/" not in name)
        listed = [zipfile.Path(archive, name) for name in names]
    else:
        raise ValueError(f"{path} is no folder and no whole zip: download it again")
    files: dict[str, File] = {}
    for file in listed:
        if file.suffix.lower() not in IMAGE_SUFFIXES or SYSTEM_FILES.match(file.name):
            continue
        if files.setdefault(file.stem, file) is not file:
            notes.append((f"{path.name}/{file.name}", "another image of this name comes before it"))
    return files


# --- what is made of it ---------------------------------------------------------


def _split(groups: np.ndarray, n_test: int, n_train: int | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Rows of the parts: whole groups, in random order, become test pairs as long as they fit."""
    if n_test < N_CANDIDATES:
        raise ValueError(f"{n_test} test pairs: a list needs {N_CANDIDATES} candidates, pass a larger n_test")
    if n_test + (n_train or 1) > len(groups):
        wanted = f"{n_test} test pairs and {n_train or 'at least one'} for training"
        raise ValueError(f"{len(groups)} usable pairs, but {wanted} are wanted: pass smaller numbers")
    is_test = np.zeros(len(groups), bool)
    for group in rng.permutation(groups.max() + 1):
        rows = groups == group
        if is_test.sum() + rows.sum() <= n_test:
            is_test |= rows
    if is_test.sum() < n_test:
        raise ValueError(f"{is_test.sum()} test pairs instead of {n_test}: the groups of near-duplicates are too large")
    return {"train": rng.permutation(np.flatnonzero(~is_test))[:n_train], "test": np.flatnonzero(is_test)}


def _pair_table(names: Sequence[str], parts: dict[str, np.ndarray], rng: np.random.Generator) -> pd.DataFrame:
    """Columns part, left, right, name, row; sorted by part and left id, training pairs first."""
    n = sum(map(len, parts.values()))
    codes = rng.choice(len(LETTERS) ** ID_LENGTH, 2 * n, replace=False)
    ids = ["".join(LETTERS[list(np.unravel_index(code, (len(LETTERS),) * ID_LENGTH))]) for code in codes]
    rows = [(part, ids.pop(), ids.pop(), names[row], row) for part, members in parts.items() for row in members]
    table = pd.DataFrame(rows, columns=["part", "left", "right", "name", "row"])
    return table.sort_values(["part", "left"], ascending=[False, True], ignore_index=True)


def _write_images(folder: Path, side: str, images: Images, table: pd.DataFrame) -> None:
    places = [folder / part / side / f"{i}.jpg" for part, i in zip(table["part"], table[side], strict=True)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda place, row: _write_image(place, images, row), places, table["row"]))


def _write_image(place: Path, images: Images, row: int) -> None:
    data = images.read_bytes(row)
    pixels, conversions = decode_with_conversions(data, images.files[row].name)
    if conversions:
        Image.fromarray(pixels).save(place, "JPEG", quality=JPEG_QUALITY)
    else:
        place.write_bytes(data)


def _write_tables(folder: Path, table: pd.DataFrame, left_out: pd.DataFrame, rng: np.random.Generator) -> None:
    train, test = (table[table["part"] == part] for part in ("train", "test"))
    lists, _ = draw_candidates(len(test), rng)
    candidates = pd.DataFrame(test["right"].to_numpy()[lists], columns=COLUMNS[TEST][1:])
    candidates.insert(0, "left", test["left"].to_numpy())
    files = {TRAIN: train[COLUMNS[TRAIN]], TRUTH: test[COLUMNS[TRUTH]], TEST: candidates, LEFT_OUT: left_out}
    files[ORIGIN] = table.drop(columns="row")
    for name, rows in files.items():
        rows.to_csv(folder / name, index=False, encoding="utf-8", lineterminator="\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    for name, what in (("left", "left.zip"), ("right", "right.zip"), ("out", "new folder")):
        parser.add_argument(name, type=Path, help=what)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-test", type=int, default=2000, help="test pairs (2000)")
    parser.add_argument("--n-train", type=int, help="training pairs (all others)")
    left_out = convert(**vars(parser.parse_args(arguments)))
    print(f"{len(left_out)} files left out" + (f", see {LEFT_OUT}" if len(left_out) else ""))


if __name__ == "__main__":
    main()
