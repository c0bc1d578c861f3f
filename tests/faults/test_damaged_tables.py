"""Damaged tables give exactly what a strict reader of CSV gives, or an error that names the file and the row."""

import csv
import os
import re
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from faults.damage import DAMAGE, damaged, fuzz, nothing_written_outside
from hypothesis import strategies as st
from PIL import Image

from tll_utils.data.checks import COLUMNS, DatasetError
from tll_utils.data.dataset import load_dataset
from tll_utils.report import results, submission
from tll_utils.search.own_data import read_lists, read_pairs

LINE = re.compile(r"(\w+\.csv) line (\d+): | no such file|: cannot be read \(")
IDS = ["l0", "r1", "q2", "g7"]


def change_id(text: str, old: str, new: str) -> str:
    return re.sub(rf"\b{old}\b", lambda _: new, text, count=1)


def add_blanks(text: str) -> str:
    header, _, rows = text.partition("\n")
    return f" {header.replace(',', ' ,  ')} \n{rows}"


# Edits of a text, by kind; what they give is bytes.
EDITS = {
    "suffix": lambda text, one: change_id(text, one, f"{one}.jpg").encode(),
    "leading zero": lambda text, one: change_id(text, one, f"0{one}").encode(),
    "blank in an id": lambda text, one: change_id(text, one, f" {one}").encode(),
    "blanks in the header": lambda text, one: add_blanks(text).encode(),
    "trailing commas": lambda text, one: text.replace("\n", ",,\n").encode(),
    "further column": lambda text, one: text.replace("\n", ",x\n").encode(),
    "further empty column": lambda text, one: text.replace("\n", ",,x\n").encode(),
    "quotes": lambda text, one: change_id(text, one, f'"{one}"').encode(),
    "open quote": lambda text, one: change_id(text, one, f'"{one}').encode(),
    "late quote": lambda text, one: change_id(text, one, f'{one}"').encode(),
    "line end in quotes": lambda text, one: change_id(text, one, f'"{one}\n"').encode(),
    "byte-order mark": lambda text, one: text.encode("utf-8-sig"),
    "two marks": lambda text, one: b"\xef\xbb\xbf" + text.encode("utf-8-sig"),
    "UTF-16": lambda text, one: text.encode("utf-16"),
    "cp1252": lambda text, one: change_id(text, one, f"{one}é").encode("cp1252", "replace"),
    "unicode": lambda text, one: change_id(text, one, f"{one}é").encode(),
    "NUL": lambda text, one: change_id(text, one, f"{one}\0").encode(),
    "CRLF": lambda text, one: text.replace("\n", "\r\n").encode(),
    "CR": lambda text, one: text.replace("\n", "\r").encode(),
    "rows twice": lambda text, one: (text + "".join(text.splitlines(keepends=True)[1:])).encode(),
    "header twice": lambda text, one: (text.partition("\n")[0] + "\n" + text).encode(),
    "blank lines": lambda text, one: text.replace("\n", "\n\n").encode(),
    "semicolons": lambda text, one: text.replace(",", ";").encode(),
    "empty": lambda text, one: b"",
    "header only": lambda text, one: text.partition("\n")[0].encode(),
    "huge field": lambda text, one: change_id(text, one, one * 70_000).encode(),
    "path": lambda text, one: change_id(text, one, f"../left/{one}").encode(),
    "absolute path": lambda text, one: change_id(text, one, f"/etc/{one}").encode(),
    "columns swapped": lambda text, one: text.replace("left,right", "right,left").encode(),
    "other id": lambda text, one: change_id(text, one, "l1").encode(),
    "no line end": lambda text, one: text.rstrip("\n").encode(),
    "none": lambda text, one: text.encode(),
}
EDITING = st.tuples(st.sampled_from(sorted(EDITS)), st.sampled_from(IDS))


def strict(data: bytes, columns: list[str]) -> list[tuple[str, ...]] | None:
    """Rows by the letter of RFC 4180, without what spreadsheets add; None where it cannot be a table of them."""
    try:
        rows = [row for row in csv.reader(StringIO(data.decode("utf-8-sig"), newline=""), strict=True)]
    except (UnicodeDecodeError, csv.Error):
        return None
    header, *rows = [[field for field in row] for row in rows] or [[]]
    header = [name.strip() for name in header]
    if any(header.count(column) != 1 for column in columns):
        return None
    places = [header.index(column) for column in columns]
    rows = [row for row in rows if any(field.strip() for field in row)]
    if any(len(row) <= max(places) for row in rows):
        return None
    return [tuple(row[place] for place in places) for row in rows]


@pytest.fixture
def whole(tiny):
    """The tiny data set with all of its tables."""
    (tiny / "test_truth.csv").write_text("left,right\nq0,g3\nq1,g1\nq2,g7\n", encoding="utf-8")
    factors = "part,left,right,factor\ntrain,l0,r0,pose\ntrain,l1,r1,face\ntest,q2,g7,face\n"
    (tiny / "factors.csv").write_text(factors, encoding="utf-8")
    return tiny


def loaded_rows(root: Path, table: str) -> list[tuple[str, ...]]:
    data = load_dataset(root)
    if table == "train.csv":
        return list(zip(data.train.left.ids, data.train.right.ids, strict=True))
    if table == "factors.csv":
        return list(data.factors.itertuples(index=False, name=None))
    right = np.array(data.test.right.ids)
    if table == "test_truth.csv":
        return list(zip(data.test.left.ids, right[data.test.match].tolist(), strict=True))
    return [(left, *right[row].tolist()) for left, row in zip(data.test.left.ids, data.test.candidates, strict=True)]


def table_outcome(root: Path, table: str, data: bytes) -> str:
    (root / table).write_bytes(data)
    expected = strict(data, COLUMNS[table])
    try:
        found = loaded_rows(root, table)
    except DatasetError as error:
        text = str(error)
        assert table in text and LINE.search(text), text
        return "named"
    assert expected is not None
    assert sorted(found) == sorted(expected) if table == "test_truth.csv" else found == expected
    return "right"


@pytest.mark.parametrize("table", COLUMNS)
@pytest.mark.parametrize("kind", ["edited", "damaged"])
def test_damaged_tables_are_right_or_named(table, kind, whole, volume, capsys):
    """Edits as spreadsheets and hands make them, one or two at once; and bytes changed at random."""
    original = (whole / table).read_bytes()

    def edited(edits):
        data = original
        for edit, one in edits:
            text = data.decode("utf-8", "replace")
            data = EDITS[edit](text, one)
        return table_outcome(whole, table, data)

    def bytes_changed(changes):
        return table_outcome(whole, table, damaged(original, changes))

    with nothing_written_outside(whole.parent, whole, Path(os.environ["TLL_CACHE"])):
        if kind == "edited":
            fuzz(edited, 400 if volume else 12, edits=st.lists(EDITING, min_size=1, max_size=2))
        else:
            fuzz(bytes_changed, 400 if volume else 12, changes=DAMAGE)
    counts = capsys.readouterr().out.splitlines()[-1]  # behind the lines that load_dataset prints
    print(table, counts)


@pytest.mark.parametrize("name", sorted(EDITS))
def test_every_edit_of_the_pairs_is_right_or_named(name, whole):
    text = (whole / "train.csv").read_text(encoding="utf-8")
    table_outcome(whole, "train.csv", EDITS[name](text, "l0"))


def test_a_huge_table_is_never_read(whole):
    """A file with holes takes no room: 65 MB and more are no table of ids."""
    os.truncate(whole / "train.csv", 2**40)
    with pytest.raises(DatasetError, match=r"train\.csv: .*huge"):
        load_dataset(whole)


# --- a user's own tables --------------------------------------------------------

NAMES = [
    "a.png",
    "a",
    "b",
    "sub/c.png",
    "sub/c",
    "c.png",
    "d",
    "../a.png",
    "/a.png",
    "",
    " ",
    "é",
    "a.jpg",
    "broken.jpg",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "pictures"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.png", "é.png", "sub/c.png", "sub/d.png")):
        Image.new("RGB", (20, 24), (40 * i,) * 3).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no picture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLL_CACHE", str(folder.parent / "cache"))
        patch.setenv("TLL_PROGRESS", "0")
        yield folder


MEANT = {"a": "a.png", "b": "b.png", "é": "é.png", "c": "sub/c.png", "c.png": "sub/c.png", "sub/c": "sub/c.png"}
MEANT |= {"d": "sub/d.png"}


def meant(name: str, folder: Path) -> str | None:
    """The picture of that name, told by looking into the folder."""
    path = MEANT.get(name, name)
    return (
        path
        if name and path != "broken.jpg" and path in ("a.png", "b.png", "é.png", "sub/c.png", "sub/d.png")
        else None
    )


def test_own_pairs_are_those_written_or_named(pictures, volume):
    def pairs(rows, header, changes):
        text = header + "\n" + "".join(f"{left},{right}\n" for left, right in rows)
        table = pictures.parent / "pairs.csv"
        table.write_bytes(data := damaged(text.encode(), changes))
        try:
            found = read_pairs(table, pictures)
        except DatasetError as error:
            assert "pairs.csv" in str(error) and LINE.search(str(error)), error
            return "named"
        expected = [tuple(meant(name, pictures) for name in row) for row in strict(data, ["left", "right"])]
        assert list(zip(found.left.ids, found.right.ids, strict=True)) == expected
        return "right"

    name = st.one_of(st.sampled_from(NAMES[:7]), st.sampled_from(NAMES))
    headers = st.sampled_from(["left,right", " left , right", "left,right,", "left", "\ufeffleft,right"])
    rows, none = st.lists(st.tuples(name, name), max_size=4), st.just([])
    fuzz(pairs, 800 if volume else 25, rows=rows, header=headers, changes=st.one_of(none, none, DAMAGE))


def test_own_lists_are_those_written_or_named(pictures, volume):
    """Columns may have any names, also one twice, and lists any length."""

    def lists(rows, names):
        header = ",".join(["left", "right", *names])
        text = header + "\n" + "".join(",".join(row[: 2 + len(names)]) + "\n" for row in rows)
        table = pictures.parent / "lists.csv"
        table.write_text(text, encoding="utf-8")
        wanted = [[meant(name, pictures) for name in row[: 2 + len(names)]] for row in rows]
        listed = [
            [one for one, name in zip(row[2:], rows[i][2:], strict=False) if name] for i, row in enumerate(wanted)
        ]
        is_sound = rows and all(None not in row[:2] and len(row) == 2 + len(names) for row in wanted)
        is_sound = is_sound and all(
            None not in row and len(set(row)) == len(row) >= 2 and wanted[i][1] in row for i, row in enumerate(listed)
        )
        try:
            found = read_lists(table, pictures)
        except DatasetError as error:
            assert "lists.csv line" in str(error) and not (is_sound and all(names)), error
            return "named"
        assert is_sound
        assert [[found.right.ids[i] for i in row] for row in found.candidates] == listed
        assert [row[i] for row, i in zip(listed, found.truth, strict=True)] == [row[1] for row in wanted]
        return "right"

    row = st.permutations(["a", "b", "é", "sub/c", "d"]).flatmap(
        lambda ids: st.tuples(st.sampled_from(["a", "b", "x"]), st.sampled_from(ids[:3])).map(lambda two: [*two, *ids])
    )
    names = st.lists(st.sampled_from(["c0", "c1", "c", "foil", "leftover"]), min_size=1, max_size=5)
    fuzz(lists, 500 if volume else 25, rows=st.lists(row, max_size=3), names=names)


# --- scores and recorded results ------------------------------------------------

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def test_submissions_hold_the_scores_exactly(whole, tmp_path, volume):
    dataset = load_dataset(whole)

    def scores(values):
        array = np.array(values).reshape(3, 20)
        submission.write_submission(dataset, array, tmp_path / "scores.csv")
        with open(tmp_path / "scores.csv", encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert header == COLUMNS["test_candidates.csv"] and [row[0] for row in rows] == ["q0", "q1", "q2"]
        np.testing.assert_array_equal(np.array([row[1:] for row in rows], float), array)
        return "right"

    fuzz(scores, 100 if volume else 10, values=st.lists(NUMBERS, min_size=60, max_size=60))


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "results_dir", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["adapters.json", "adapters_rank.csv", "adapters_history.csv", "published.csv"])
def test_damaged_results_are_read_or_named(name, recorded, volume):
    """A digit that changed cannot be told; what cannot be read is named with the remedy, in one line."""
    here = Path(__file__).resolve().parents[2] / "data" / "results"
    original = next(path for path in sorted(here.glob(name.replace("adapters", "*")))).read_bytes()[:20_000]
    path = recorded / name

    def result(changes):
        path.write_bytes(damaged(original, changes))
        try:
            if name.endswith(".json"):
                results.results_table("adapters")
            elif name == "published.csv":
                results.published_results()
            elif "rank" in name:
                results.load_per_left("adapters", "rank")
            else:
                results.load_table("adapters", "history")
        except ValueError as error:
            text = str(error)
            assert str(path) in text and "restore it by" in text and "\n" not in text, text
            return "named"
        return "read"

    fuzz(result, 300 if volume else 15, changes=DAMAGE)
