"""Every table and every image file of a data set, read and checked; what is wrong comes in one report."""

import csv
import json
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from io import StringIO
from pathlib import PurePath

import pandas as pd
import PIL

from tll_utils import runtime
from tll_utils.data.images import MAX_PIXELS, File, ImageError, Images, decode_with_conversions, read_bytes

N_CANDIDATES = 20
TRAIN, TEST, TRUTH, FACTORS = "train.csv", "test_candidates.csv", "test_truth.csv", "factors.csv"
COLUMNS = {
    TRAIN: ["left", "right"], TEST: ["left", *(f"c{i}" for i in range(N_CANDIDATES))], TRUTH: ["left", "right"],
    FACTORS: ["part", "left", "right", "factor"],
}  # fmt: skip
UNIQUE = (TRAIN, "left"), (TRAIN, "right"), (TEST, "left"), (TRUTH, "left"), (TRUTH, "right")  # columns of distinct ids
FOLDERS = {  # the table and the columns that list a folder's images
    "train/left": (TRAIN, ["left"]), "train/right": (TRAIN, ["right"]),
    "test/left": (TEST, ["left"]), "test/right": (TEST, COLUMNS[TEST][1:]),
}  # fmt: skip
MAX_BYTES = 64 * 2**20  # of one image or table; TLL images have about 20 kB
SHOWN = 10  # problems of one kind listed in a report
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
SYSTEM_FILES = re.compile(r"\.|(thumbs\.db|desktop\.ini)$", re.IGNORECASE)

Tables = dict[str, pd.DataFrame]  # file name → its COLUMNS as text; the index is the line, counted as an editor does
Problem = tuple[str, str]  # the kind, and one line: file, row, what is wrong — remedy
Inspected = tuple[str, list[str], str]  # SHA-256, conversions, and the problem ("" where there is none)


class DatasetError(ValueError):
    """A data set that cannot be used; the text is one report of every problem found."""


def check(root: File, name: str) -> tuple[Tables, dict[str, Images], pd.DataFrame]:
    """Read and check everything in a folder that holds train.csv.

    Returns the tables (the optional ones where they exist), the images by folder (in the order of the table, the
    gallery sorted by id), and a table (file, note) of images that need a conversion. A passed check of a folder's
    images is remembered until a name, a size or a time changes. Raises DatasetError, one report of all problems.
    """
    problems: list[Problem] = []
    needed = [table for table in COLUMNS if table in (TRAIN, TEST) or (root / table).exists()]
    tables = {table: read_table(root / table, COLUMNS[table], problems) for table in needed}
    if not problems and tables[TRAIN].empty:
        problems.append(("missing rows", f"{TRAIN} line 2: no training pair — add at least one row left,right"))
    problems += _problems_of_tables(tables)
    images, notes = {}, []
    for folder, (table, columns) in FOLDERS.items():
        lines = _first_lines(tables[table], columns)
        present = (root / folder).iterdir() if lines and (root / folder).is_dir() else ()
        listed = {file.name: file for file in present if not SYSTEM_FILES.match(file.name)}
        problems += _problems_of_files(folder, lines, listed)
        order = sorted(lines) if folder == "test/right" else lines
        files = {i: listed[f"{i}.jpg"] for i in order if f"{i}.jpg" in listed}
        found = _inspect_all(files.values(), [f"{folder}/{i}.jpg ({table} line {lines[i]})" for i in files])
        problems += [("unreadable images", problem) for *_, problem in found if problem]
        notes += [(f"{folder}/{i}.jpg", note) for i, (_, made, _) in zip(files, found, strict=True) for note in made]
        images[folder] = Images(files, files.values(), hashes=[digest for digest, *_ in found])
    if problems:
        raise DatasetError(report(f"data set {name!r}", problems))
    return tables, images, pd.DataFrame(notes, columns=["file", "note"], dtype=str)


def report(name: str, problems: list[Problem]) -> str:
    """All problems by kind, at most SHOWN of a kind."""
    lines = [f"{name} has {len(problems)} problem{'s' * (len(problems) > 1)}:"]
    for kind, count in Counter(kind for kind, _ in problems).items():
        texts = [f"  {text}" for of_kind, text in problems if of_kind == kind][:SHOWN]
        lines += ["", f"{kind} ({count})", *texts, *[f"  … and {count - SHOWN} more"] * (count > SHOWN)]
    return "\n".join(lines)


def read_table(file: File, columns: list[str], problems: list[Problem], *, exactly: bool = True) -> pd.DataFrame:
    """A value of `Tables`, without the blank lines; empty, with its problems listed, where the file cannot be used.

    exactly: these columns and no others are read.
    """
    rows, line = {}, 1
    kind, problem = "missing or unreadable tables", ""
    try:
        if (size := _stamp(file)[0]) > MAX_BYTES:
            raise ValueError(f"huge, {size / 2**20:.0f} MiB")
        reader = csv.reader(StringIO(file.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        for row in reader:
            rows[line], line = row, reader.line_num + 1
    except FileNotFoundError:
        problem = ": no such file — copy it beside train/ and test/"
    except csv.Error as error:
        problem = f" line {line}: {error} — correct it, quotes come in pairs"
    except Exception as error:  # not UTF-8, a damaged or encrypted zip member, a folder, no permission
        problem = f": cannot be read ({error}) — save it again as UTF-8 CSV"
    header = [name.strip() for name in rows.pop(1, [])]
    for row in [header, *rows.values()]:
        while row and not row[-1].strip() and len(row) > (row is not header) * len(header):
            row.pop()  # of trailing commas
    wrong = [column for column in columns if header.count(column) != 1]
    if wrong and not problem:
        what = f"needs {', '.join(wrong)} exactly once, found {', '.join(header) or 'nothing'}"
        kind, problem = "missing columns", f" line 1: {what} — correct the line; columns are separated by commas"
    if problem:
        problems.append((kind, f"{file.name}{problem}"))
        return pd.DataFrame(columns=columns, dtype=str)
    if exactly and (unused := [name for name in header if name not in columns]):
        print(f"{file.name}: not used: the column{'s' * (len(unused) > 1)} {', '.join(unused)}")
    for line in [line for line, row in rows.items() if len(row) != len(header) or not any(row)]:
        if any(row := rows.pop(line)):  # a blank line has no value
            what = f"{len(row)} values for {len(header)} columns — complete or delete it"
            problems.append(("broken rows", f"{file.name} line {line}: {what}"))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=header, dtype=str)
    return table[columns] if exactly else table


def _first_lines(table: pd.DataFrame, columns: list[str]) -> dict[str, int]:
    """id → the first line that has it in one of the columns."""
    lines = {}
    for line, *values in table[columns].itertuples(name=None):
        for value in values:
            lines.setdefault(value, line)
    return lines


def _problems_of_tables(tables: Tables) -> Iterator[Problem]:
    for table, column in (unique for unique in UNIQUE if unique[0] in tables):
        first = _first_lines(tables[table], [column])
        for line, value in tables[table][[column]].itertuples(name=None):
            if line != first[value]:
                what = f"{column} {value!r} is already on {table} line {first[value]} — delete one of the rows"
                yield f"duplicate {column} ids", f"{table} line {line}: {what}"
    for line, _, *row in tables[TEST].itertuples(name=None):
        if twice := [f"{value!r}" for value, count in Counter(row).items() if count > 1]:
            what = f"{', '.join(twice)} more than once — list {N_CANDIDATES} different images"
            yield "candidates not unique in a row", f"{TEST} line {line}: {what}"
    known = {("train", *pair) for pair in tables[TRAIN].itertuples(index=False, name=None)}
    if TRUTH in tables:
        known |= {("test", *pair) for pair in tables[TRUTH].itertuples(index=False, name=None)}
        candidates = {left: row for left, *row in tables[TEST].itertuples(index=False, name=None)}
        for line, left, right in tables[TRUTH].itertuples(name=None):
            if right not in candidates.get(left, []):
                what = f"{right!r} is no candidate of left {left!r} — correct the row or {TEST}"
                yield "truth not among the candidates", f"{TRUTH} line {line}: {what}"
        answered = set(tables[TRUTH]["left"])
        for line, left, *_ in tables[TEST].itertuples(name=None):
            if left not in answered:
                yield "lefts without truth", f"{TEST} line {line}: left {left!r} is not in {TRUTH} — add its row there"
    if FACTORS in tables:
        for line, *pair, _ in tables[FACTORS].itertuples(name=None):
            if tuple(pair) not in known:
                what = f"{','.join(pair)} is no pair of {TRAIN} or {TRUTH} — correct or delete the row"
                yield "factors of unknown pairs", f"{FACTORS} line {line}: {what}"


def _problems_of_files(folder: str, lines: dict[str, int], listed: dict[str, File]) -> Iterator[Problem]:
    """What keeps an id from its file `id.jpg`, and files without ids; lines: id → line of the folder's table."""
    if lines and not listed:
        yield "missing folders", f"{folder}: no such folder, or empty — copy it beside train.csv"
        return
    table, _ = FOLDERS[folder]
    spellings = Counter(value.lower() for value in lines)
    alike = {PurePath(name).stem.lower(): name for name in listed if PurePath(name).suffix.lower() in IMAGE_SUFFIXES}
    short = {stem.lstrip("0"): name for stem, name in alike.items()}
    used = set()
    for value, line in lines.items():
        at, jpg, remedy = f"{table} line {line}: id {value!r}", f"{value}.jpg", f"rename the file to {value}.jpg"
        near, stem = alike.get(value.lower()), PurePath(value).stem.lower()
        if not near and stem in alike and PurePath(value).suffix.lower() in IMAGE_SUFFIXES:
            near, remedy = alike[stem], "write ids without the suffix"
        if not near and (near := short.get(value.lower().lstrip("0"))):
            remedy = "write the id with its leading zeros: a spreadsheet drops them unless the column is text"
        used |= {jpg, near}
        if not PLAIN_NAME.fullmatch(value):
            yield "ids that are not plain names", f"{at} for {folder} — use letters, digits, '-' and '_' only, no path"
        elif spellings[value.lower()] > 1:
            yield "ids that differ only in case", f"{at} for {folder} — rename it; some systems take both for one file"
        elif near and jpg not in listed:
            yield "ids and files spelt differently", f"{at}, but the file is {folder}/{near} — {remedy}"
        elif jpg not in listed:
            yield "ids without files", f"{at} has no file {folder}/{jpg} — add the file or delete the row"
    for name in sorted(listed.keys() - used):
        what = f"in no row of {table} — delete the file, add its row, or rename it to ID.jpg"
        yield "files without ids", f"{folder}/{name}: {what}"


def _inspect_all(files: Collection[File], labels: list[str]) -> list[Inspected]:
    """`inspect` of every file, remembered when no file had a problem."""
    state = [PIL.__version__, MAX_PIXELS, MAX_BYTES, *((str(file), _stamp(file)) for file in files)]
    memory = f"checked-{sha256(repr(state).encode()).hexdigest()[:16]}.json"
    with suppress(runtime.DAMAGED):
        results = [(str(digest), list(made), "") for digest, made, _ in runtime.read_json(runtime.cache_dir() / memory)]
        if len(results) == len(files):
            return results
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(inspect, files, labels))
    if not any(problem for *_, problem in results):
        with suppress(OSError):  # a read-only checkout, a full disk: the images are checked again
            runtime.write_text(runtime.cache_dir() / memory, json.dumps(results))
    return results


def inspect(file: File, label: str) -> Inspected:
    try:
        if (size := _stamp(file)[0]) > MAX_BYTES:
            raise ImageError(f"{label}: huge ({size / 2**20:.0f} MiB) — replace it by a 200×245 JPEG")
        data = read_bytes(file)
        return sha256(data).hexdigest(), decode_with_conversions(data, label)[1], ""
    except ImageError as error:
        return "", [], str(error)
    except Exception as error:  # a damaged or encrypted zip member, a folder, no permission
        return "", [], f"{label}: cannot be read ({error}) — copy or download it again"


def _stamp(file: File) -> tuple:
    """Size in bytes and what else changes with the content."""
    if isinstance(file, zipfile.Path):
        member = file.root.getinfo(file.at)
        return member.file_size, member.CRC
    with suppress(OSError):
        stat = file.stat()
        return stat.st_size, stat.st_mtime_ns
    return (0,)  # a link that leads nowhere: reading it says so
