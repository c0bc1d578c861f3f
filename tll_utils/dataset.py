"""The TLL data set from a folder or a zip: found, checked as a whole, and read image by image."""

import csv
import hashlib
import json
import os
import re
import threading
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path, PurePath

import numpy as np
import pandas as pd
import PIL

from tll_utils import runtime
from tll_utils.images import MAX_PIXELS, ImageError, decode, decode_with_oddities

N_CANDIDATES = 20
CANDIDATE_COLUMNS = [f"c{i}" for i in range(N_CANDIDATES)]
MAX_BYTES = 64 * 2**20  # of one image file; TLL images have about 20 kB
SHOWN = 10  # problems of one kind listed in a report
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
SYSTEM_FILES = {"thumbs.db", "desktop.ini"}  # and every name that starts with a dot

File = Path | zipfile.Path
Problems = dict[str, list[str]]  # kind → one line each: file, row, what is wrong — remedy
Mentions = dict[str, str]  # id → where a table first mentions it, such as "train.csv line 7"

# ZipFile counts its open members without a lock; a lost count would close the archive under other threads.
_ZIP_LOCK = threading.Lock()


class DatasetError(ValueError):
    """A data set that cannot be used; the text is one report of every problem found."""


class Images(Sequence):
    """Images of one folder as a sequence: `images[i]` is uint8 (245, 200, 3), decoded on access, never kept.

    ids: tuple of str; base: the whole folder's Images; rows: int (n,) rows into base. Safe in threads.
    """

    def __init__(self, ids: Iterable[str], files: Iterable[File], *, hashes: Iterable[str] | None = None):
        self.ids = tuple(ids)
        self.files = tuple(files)
        self.base = self
        self.rows = np.arange(len(self.ids))
        self._hashes = hashes

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> np.ndarray:
        return decode(self.read_bytes(i), self.files[i].name)

    def __repr__(self) -> str:
        return f"Images({len(self)} of {len(self.base)})"

    def read_bytes(self, i: int) -> bytes:
        """The image file as it is on disk."""
        return _read_bytes(self.files[i])

    def take(self, rows: np.ndarray) -> "Images":
        """A view of some rows (int or bool array), in that order."""
        rows = np.arange(len(self))[np.asarray(rows)]
        view = Images([self.ids[i] for i in rows], [self.files[i] for i in rows])
        view.base, view.rows = self.base, self.rows[rows]
        return view

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids and file contents of `base`, in order; the same for folder and zip."""
        if self.base is not self:
            return self.base.fingerprint
        hashes = self._hashes or [_sha256(self.read_bytes(i)) for i in range(len(self))]
        return _sha256("\n".join(f"{i} {h}" for i, h in zip(self.ids, hashes, strict=True)).encode())


@dataclass(frozen=True)
class Pairs:
    """Matching images: row i of `left` belongs to row i of `right`."""

    left: Images
    right: Images

    def __len__(self) -> int:
        return len(self.left)

    def take(self, rows: np.ndarray) -> "Pairs":
        """The pairs of some rows (int or bool array), in that order."""
        return Pairs(self.left.take(rows), self.right.take(rows))


@dataclass(frozen=True)
class Queries:
    """Left images to be matched against a gallery of right images.

    right: all gallery images, ids sorted; candidates: int (n_left, 20) columns into `right`;
    match: int (n_left,) the true column, or None where the truth is not published.
    """

    left: Images
    right: Images
    candidates: np.ndarray
    match: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True)
class Dataset:
    """A checked data set.

    notes: DataFrame (file, note) of images that were readable but odd;
    factors: DataFrame (part, left, right, factor) of what the two images of a pair share, or None.
    """

    name: str
    train: Pairs
    test: Queries
    fingerprint: str
    notes: pd.DataFrame
    factors: pd.DataFrame | None = None


def load_dataset(path: str | Path | None = None) -> Dataset:
    """The data set of a folder or zip, every table and every image checked; one line says which it is.

    Without `path`: `$TLL_DATA` (a relative one starts at the checkout), else `data/tll`, else `data/sample`.
    A passed check of the images is remembered in the cache folder for as long as their names, sizes and times
    stay the same: on TLL the first load takes about 5 seconds, a later one less than one.
    Raises DatasetError with one report of all problems.
    """
    path, name, shown = _choose_lane(path)
    dataset = _load(_find_root(path), name)
    print(
        f"data set: {name} ({shown}) · {len(dataset.train)} training pairs"
        f" · {len(dataset.test)} test lefts × {N_CANDIDATES} candidates"
    )
    if len(dataset.notes):
        print(summarise_notes(dataset.notes))
    return dataset


def summarise_notes(notes: pd.DataFrame) -> str:
    """One line such as "12 images converted: 9 grayscale, 3 wrong size"."""
    kinds = ", ".join(f"{count} {note}" for note, count in Counter(notes.note).most_common())
    return f"{notes.file.nunique()} images converted: {kinds}"


def _choose_lane(path: str | Path | None) -> tuple[Path, str, str]:
    """Path, name of the data set, and the words that stand for its place (never a path of this machine)."""
    root = runtime.project_root()
    if path is not None:
        return Path(path), Path(path).resolve().name.removesuffix(".zip"), "given path"
    sample, tll = root / "data" / "sample", root / "data" / "tll"
    if named := os.environ.get("TLL_DATA"):
        place = root / Path(named).expanduser()
        if place.resolve() != sample.resolve():  # naming the sample asks for it where data/tll exists
            return place, "TLL", "$TLL_DATA"
    elif tll.exists():
        return tll, "TLL", "data/tll"
    return sample, "sample", "data/sample"


def _find_root(path: Path) -> File:
    """The folder that holds train.csv: `path` itself, the top of a zip, or a folder inside."""
    if not path.exists():
        raise DatasetError(f"{path}: no such folder or zip — correct the path or TLL_DATA, or unset TLL_DATA")
    try:
        top = path if path.is_dir() else zipfile.Path(path)
    except zipfile.BadZipFile as error:
        raise DatasetError(f"{path}: neither a folder nor a whole zip ({error}) — download it again") from error
    for folder in [top, *top.iterdir()]:
        if (folder / "train.csv").exists():
            return folder
    raise DatasetError(f"{path}: holds no train.csv — give the folder or zip that holds train.csv")


def _load(root: File, name: str) -> Dataset:
    problems: Problems = defaultdict(list)
    train = _read_table(root, "train.csv", ["left", "right"], problems)
    test = _read_table(root, "test_candidates.csv", ["left", *CANDIDATE_COLUMNS], problems)
    truth = _read_optional(root, "test_truth.csv", ["left", "right"], problems)
    factors = _read_optional(root, "factors.csv", ["part", "left", "right", "factor"], problems)
    _check_tables(train, test, truth, factors, problems)
    mentions = {
        "train/left": _first_mentions("train.csv", train[["left"]]),
        "train/right": _first_mentions("train.csv", train[["right"]]),
        "test/left": _first_mentions("test_candidates.csv", test[["left"]]),
        "test/right": _first_mentions("test_candidates.csv", test[CANDIDATE_COLUMNS]),
    }
    files = {folder: _match_files(root, folder, ids, problems) for folder, ids in mentions.items()}
    hashes, notes = _check_images(files, mentions, problems)
    if problems:
        raise DatasetError(_report(name, problems))

    def images(folder: str, ids: Iterable[str]) -> Images:
        ids = tuple(ids)
        return Images(ids, [files[folder][i] for i in ids], hashes=[hashes[folder, i] for i in ids])

    pairs = Pairs(images("train/left", train.left), images("train/right", train.right))
    gallery = images("test/right", sorted(files["test/right"]))
    queries = _queries(images("test/left", test.left), gallery, test, truth)
    factors = None if factors is None else factors.reset_index(drop=True)
    return Dataset(name, pairs, queries, _fingerprint(pairs, queries), notes, factors)


def _queries(left: Images, right: Images, test: pd.DataFrame, truth: pd.DataFrame | None) -> Queries:
    column = {value: i for i, value in enumerate(right.ids)}
    listed = [[column[value] for value in row] for row in test[CANDIDATE_COLUMNS].to_numpy()]
    candidates = np.array(listed, dtype=int).reshape(-1, N_CANDIDATES)
    if truth is None:
        return Queries(left, right, candidates)
    true_right = dict(zip(truth.left, truth.right, strict=True))
    return Queries(left, right, candidates, np.array([column[true_right[i]] for i in left.ids], dtype=int))


def _fingerprint(train: Pairs, test: Queries) -> str:
    images = [side.fingerprint for part in (train, test) for side in (part.left, part.right)]
    match = None if test.match is None else test.match.tolist()
    return _sha256(repr([images, test.candidates.tolist(), match]).encode())


# --- tables ---------------------------------------------------------------------


def _read_optional(root: File, name: str, columns: list[str], problems: Problems) -> pd.DataFrame | None:
    return _read_table(root, name, columns, problems) if (root / name).exists() else None


def _read_table(root: File, name: str, columns: list[str], problems: Problems) -> pd.DataFrame:
    """The columns of a CSV as text ("nan" and "NA" are ids too), indexed by line number in the file."""
    try:
        header, rows = _read_rows(root / name)
    except DatasetError as error:
        problems["missing or unreadable tables"].append(f"{name}{error}")
        return pd.DataFrame(columns=columns, dtype=str)
    wrong = [column for column in columns if header.count(column) != 1]
    if wrong:
        problems["missing columns"].append(
            f"{name} line 1: needs {', '.join(wrong)} exactly once, found {', '.join(header) or 'nothing'}"
            f" — correct the line; columns are separated by commas"
        )
        return pd.DataFrame(columns=columns, dtype=str)
    for line, row in rows.items():
        if len(row) != len(header):
            problems["broken rows"].append(
                f"{name} line {line}: {len(row)} values for {len(header)} columns — complete or delete it"
            )
    whole = {line: row for line, row in rows.items() if len(row) == len(header)}
    return pd.DataFrame(list(whole.values()), index=list(whole), columns=header, dtype=str)[columns]


def _read_rows(file: File) -> tuple[list[str], dict[int, list[str]]]:
    """Header, and line number → values, lines counted as an editor does (pandas skips blank ones)."""
    rows, line = {}, 1
    try:
        reader = csv.reader(StringIO(file.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        for row in reader:
            rows[line], line = row, reader.line_num + 1
    except FileNotFoundError as error:
        raise DatasetError(": no such file — copy it beside train/ and test/") from error
    except csv.Error as error:
        raise DatasetError(f" line {line}: {error} — correct it, quotes come in pairs") from error
    except Exception as error:  # not UTF-8, a damaged or encrypted zip member, a folder, no permission
        raise DatasetError(f": cannot be read ({error}) — save it again as UTF-8 CSV") from error
    return rows.pop(1, []), {line: row for line, row in rows.items() if row}


def _check_tables(
    train: pd.DataFrame,
    test: pd.DataFrame,
    truth: pd.DataFrame | None,
    factors: pd.DataFrame | None,
    problems: Problems,
) -> None:
    if train.empty and not problems:
        problems["missing rows"].append("train.csv line 2: no training pair — add at least one row left,right")
    _check_unique("train.csv", train.left, problems)
    _check_unique("train.csv", train.right, problems)
    _check_unique("test_candidates.csv", test.left, problems)
    _check_candidates(test, problems)
    if truth is not None:
        _check_truth(test, truth, problems)
    if factors is not None:
        _check_factors(train, truth, factors, problems)


def _check_unique(table: str, ids: pd.Series, problems: Problems) -> None:
    first = _first_mentions(table, ids.to_frame())
    for line, value in ids[ids.duplicated()].items():
        problems[f"duplicate {ids.name} ids"].append(
            f"{table} line {line}: {ids.name} {value!r} is already on {first[value]} — delete one of the rows"
        )


def _check_candidates(test: pd.DataFrame, problems: Problems) -> None:
    for line, *row in test[CANDIDATE_COLUMNS].itertuples():
        twice = [f"{value!r}" for value, count in Counter(row).items() if count > 1]
        if twice:
            problems["candidates not unique in a row"].append(
                f"test_candidates.csv line {line}: {', '.join(twice)} more than once"
                f" — list {N_CANDIDATES} different images"
            )


def _check_truth(test: pd.DataFrame, truth: pd.DataFrame, problems: Problems) -> None:
    _check_unique("test_truth.csv", truth.left, problems)
    _check_unique("test_truth.csv", truth.right, problems)
    candidates = {left: row for _, left, *row in test.itertuples()}
    for line, left, right in truth.itertuples():
        if right not in candidates.get(left, []):
            problems["truth not among the candidates"].append(
                f"test_truth.csv line {line}: {right!r} is no candidate of left {left!r}"
                f" — correct the row or test_candidates.csv"
            )
    for line, left in test.left[~test.left.isin(truth.left)].items():
        problems["lefts without truth"].append(
            f"test_candidates.csv line {line}: left {left!r} is not in test_truth.csv — add its row there"
        )


def _check_factors(train: pd.DataFrame, truth: pd.DataFrame | None, factors: pd.DataFrame, problems: Problems) -> None:
    known = {("train", *pair) for pair in train.itertuples(index=False)}
    if truth is not None:
        known |= {("test", *pair) for pair in truth.itertuples(index=False)}
    for line, *pair, _ in factors.itertuples():
        if tuple(pair) not in known:
            problems["factors of unknown pairs"].append(
                f"factors.csv line {line}: {','.join(pair)} is no pair of train.csv or test_truth.csv"
                f" — correct or delete the row"
            )


def _first_mentions(table: str, ids: pd.DataFrame) -> Mentions:
    lines: dict[str, int] = {}
    for line, *row in ids.itertuples():
        for value in row:
            lines.setdefault(value, line)
    return {value: f"{table} line {line}" for value, line in lines.items()}


# --- files ----------------------------------------------------------------------


def _match_files(root: File, folder: str, mentions: Mentions, problems: Problems) -> dict[str, File]:
    """id → file for every id that has one; other ids, and files without ids, become problems."""
    listed = _list_files(root / folder)
    if not mentions:
        return {}
    if not listed:
        problems["missing folders"].append(f"{folder}: no such folder, or empty — copy it beside train.csv")
        return {}
    files, used = {}, set()
    spellings = Counter(value.lower() for value in mentions)
    alike = {PurePath(n).stem.lower(): n for n in listed if PurePath(n).suffix.lower() in IMAGE_SUFFIXES}
    for value, where in mentions.items():
        name, near = f"{value}.jpg", alike.get(value.lower())
        used |= {name, near}
        if not PLAIN_NAME.fullmatch(value):
            problems["ids that are not plain names"].append(
                f"{where}: id {value!r} for {folder} — use letters, digits, '-' and '_' only, no path"
            )
        elif spellings[value.lower()] > 1:
            problems["ids that differ only in case"].append(
                f"{where}: id {value!r} for {folder} — rename it; some systems take both for one file"
            )
        elif name in listed:
            files[value] = listed[name]
        elif near:
            problems["ids and files spelt differently"].append(
                f"{where}: id {value!r}, but the file is {folder}/{near} — rename the file to {name}"
            )
        else:
            problems["ids without files"].append(
                f"{where}: id {value!r} has no file {folder}/{name} — add the file or delete the row"
            )
    table = "train.csv" if folder.startswith("train") else "test_candidates.csv"
    for name in sorted(listed.keys() - used):
        problems["files without ids"].append(
            f"{folder}/{name}: in no row of {table} — delete the file, add its row, or rename it to ID.jpg"
        )
    return files


def _list_files(folder: File) -> dict[str, File]:
    if not folder.is_dir():
        return {}
    files = {file.name: file for file in folder.iterdir()}
    return {n: file for n, file in files.items() if n[0] != "." and n.lower() not in SYSTEM_FILES}


def _check_images(
    files: dict[str, dict[str, File]], mentions: dict[str, Mentions], problems: Problems
) -> tuple[dict[tuple[str, str], str], pd.DataFrame]:
    """SHA-256 of every image by (folder, id), and the table of the odd ones; unreadable ones become problems."""
    jobs = [(folder, i) for folder, by_id in files.items() for i in by_id]
    labels = [f"{folder}/{i}.jpg ({mentions[folder][i]})" for folder, i in jobs]
    results = _inspect_all([files[folder][i] for folder, i in jobs], labels)
    hashes, notes = {}, []
    for (folder, i), (digest, oddities, problem) in zip(jobs, results, strict=True):
        hashes[folder, i] = digest
        notes += [(f"{folder}/{i}.jpg", oddity) for oddity in oddities]
        if problem:
            problems["unreadable images"].append(problem)
    return hashes, pd.DataFrame(notes, columns=["file", "note"], dtype=str)


def _inspect_all(files: list[File], labels: list[str]) -> list[tuple[str, list[str], str]]:
    """`_inspect` of every file, remembered when no file had a problem."""
    state = [PIL.__version__, MAX_PIXELS, MAX_BYTES, *((str(file), _stamp(file)) for file in files)]
    memory = runtime.cache_dir() / f"checked-{_sha256(repr(state).encode())[:16]}.json"
    if memory.exists():
        return json.loads(memory.read_text())
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(_inspect, files, labels))
    if not any(problem for *_, problem in results):
        unfinished = memory.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(results))
        unfinished.replace(memory)
    return results


def _inspect(file: File, label: str) -> tuple[str, list[str], str]:
    """SHA-256, oddities, and the problem ("" when there is none)."""
    try:
        if (size := _stamp(file)[0]) > MAX_BYTES:
            raise ImageError(f"{label}: huge ({size / 2**20:.0f} MiB) — replace it by a 200×245 JPEG")
        data = _read_bytes(file)
        return _sha256(data), decode_with_oddities(data, label)[1], ""
    except ImageError as error:
        return "", [], str(error)
    except Exception as error:  # a damaged or encrypted zip member, a folder, no permission
        return "", [], f"{label}: cannot be read ({error}) — copy or download it again"


def _stamp(file: File) -> tuple:
    """Size in bytes and what else changes with the content."""
    if isinstance(file, zipfile.Path):
        member = file.root.getinfo(file.at)
        return member.file_size, member.CRC
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def _read_bytes(file: File) -> bytes:
    with _ZIP_LOCK if isinstance(file, zipfile.Path) else nullcontext():
        return file.read_bytes()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _report(name: str, problems: Problems) -> str:
    """All problems by kind, at most SHOWN of a kind."""
    total = sum(map(len, problems.values()))
    lines = [f"data set {name!r} has {total} problem{'s' * (total > 1)}:"]
    for kind, found in problems.items():
        lines += ["", f"{kind} ({len(found)})", *(f"  {text}" for text in found[:SHOWN])]
        if len(found) > SHOWN:
            lines.append(f"  … and {len(found) - SHOWN} more")
    return "\n".join(lines)
