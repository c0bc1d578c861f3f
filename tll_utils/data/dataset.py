"""The TLL data set from a folder or a zip: found, checked as a whole, and handed out as pairs and queries."""

import os
import zipfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from tll_utils import runtime
from tll_utils.data.checks import FACTORS, N_CANDIDATES, TEST, TRUTH, DatasetError, check
from tll_utils.data.images import File, Images
from tll_utils.data.pairs import Pairs

KAGGLE = Path("/kaggle/input")  # where a notebook there finds what was added to it
COMPRESSIONS = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED  # others may expand to more than the size they declare


@dataclass(frozen=True)
class Queries:
    """Left images to be matched against a gallery of right images."""

    left: Images
    right: Images  # the gallery, ids sorted
    candidates: np.ndarray  # int (n_left, 20) columns into `right`
    match: np.ndarray | None = None  # int (n_left,) the true column, or None where the truth is not published

    def __len__(self) -> int:
        return len(self.left)

    @property
    def truth(self) -> np.ndarray | None:
        """Place of the truth in each candidate list, int (n_left,) from 0 to 19, or None where it is not published."""
        return None if self.match is None else (self.candidates == self.match[:, None]).argmax(axis=1)


@dataclass(frozen=True)
class Dataset:
    """A checked data set."""

    name: str
    train: Pairs
    test: Queries
    fingerprint: str
    notes: pd.DataFrame  # (file, note) of images that need a conversion
    factors: pd.DataFrame | None = None  # (part, left, right, factor) of what the two images of a pair share


def load_dataset(path: str | Path | None = None) -> Dataset:
    """The data set of a folder or zip, every table and every image checked; one line says which it is.

    Without `path`: `$TLL_DATA` (a relative one starts at the checkout), else `data/tll`, `data/tll.zip`, what was added
    to a Kaggle notebook, or the sample. The first load of TLL takes 5 seconds. Raises DatasetError with all problems.
    """
    path, name, shown = data_source(path)
    try:
        tables, images, notes = check(_find_root(path), name)
    except OSError as error:
        where = f"{error.filename or path}: cannot be opened ({error.strerror})"
        raise DatasetError(f"{where} — change its permissions, or correct the path or TLL_DATA") from error
    left, right = images["test/left"], images["test/right"]
    columns, match = pd.Index(right.ids), None
    candidates = columns.get_indexer(tables[TEST].drop(columns="left").to_numpy().ravel()).reshape(-1, N_CANDIDATES)
    if TRUTH in tables:
        match = columns.get_indexer(tables[TRUTH].set_index("left").loc[list(left.ids), "right"])
    sides = [side.fingerprint for side in images.values()]
    facts = [sides, candidates.tolist(), None if match is None else match.tolist()]
    factors = tables[FACTORS].reset_index(drop=True) if FACTORS in tables else None
    train, test = Pairs(images["train/left"], images["train/right"]), Queries(left, right, candidates, match)
    counts = f"{len(train)} training pairs · {len(test)} test lefts × {N_CANDIDATES} candidates"
    print(f"data set: {name} ({shown}) · {counts}")
    if len(notes):
        kinds = ", ".join(f"{count} {note}" for note, count in Counter(notes.note).most_common())
        print(f"{notes.file.nunique()} images converted: {kinds}")
    return Dataset(name, train, test, sha256(repr(facts).encode()).hexdigest(), notes, factors)


def data_source(path: str | Path | None = None) -> tuple[Path, str, str]:
    """Path, name of the data set, and the words that stand for its place (never a path of this machine)."""
    if path is not None:
        return Path(path), Path(path).resolve().name.removesuffix(".zip"), "given path"
    data, named = runtime.project_root() / "data", runtime.named_path("TLL_DATA")
    added = [table.parent for depth in ("*", "*/*") for table in KAGGLE.glob(f"{depth}/{TEST}")]
    places = [named] if named else [p for p in (data / "tll", data / "tll.zip", *added) if os.path.lexists(p)]
    if places and places[0].resolve() != (data / "sample").resolve():  # TLL_DATA may ask for the sample
        return places[0], "TLL", "$TLL_DATA" if named else f"{places[0].parent.name}/{places[0].name}"
    return data / "sample", "sample", "data/sample"


def _find_root(path: Path) -> File:
    """The folder that holds train.csv: `path` itself, the top of a zip, or a folder inside."""
    if not path.exists():
        what = "a link that leads nowhere" if path.is_symlink() else "no such folder or zip"
        raise DatasetError(f"{path}: {what} — correct the path, remove the link, or unset TLL_DATA")
    try:
        top = path if path.is_dir() else zipfile.Path(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:  # names that are no UTF-8, a later version
        raise DatasetError(f"{path}: neither a folder nor a whole zip ({error}) — download it again") from error
    if isinstance(top, zipfile.Path) and (problem := _problem_of_zip(top.root.infolist())):
        raise DatasetError(f"{path}: {problem} — unpack it, and give the folder")
    for folder in [top, *top.iterdir()]:
        with suppress(PermissionError):  # a neighbour such as lost+found
            if (folder / "train.csv").exists():
                return folder
    raise DatasetError(f"{path}: holds no train.csv — give the folder or zip that holds train.csv")


def _problem_of_zip(members: list[zipfile.ZipInfo]) -> str:
    """What keeps Python from reading a zip that other tools unpack, if anything does."""
    if any(member.flag_bits & 1 for member in members):
        return "it is encrypted"
    if any("\\" in member.filename for member in members):
        return "its names have backslashes for slashes, as some Windows tools write them"
    if any(member.compress_type not in COMPRESSIONS for member in members):
        return "its compression is not known here"
    return problem_of_names(members)


def problem_of_names(members: list[zipfile.ZipInfo]) -> str:
    """Why zipfile.Path would take hours, if it would: it lists the folders of every name, and of "//a" without end."""
    is_odd = any(name.startswith("/") or name.count("/") > 50 for name in (each.filename for each in members))
    return "it holds a file outside, or more than 50 folders deep" * is_odd
