"""Every problem of a data set is named with its file, its line and a remedy, all in one report."""

import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from conftest import encoded, picture
from tll_utils.data import checks
from tll_utils.data.dataset import DatasetError, load_dataset

GRAY = encoded(Image.new("L", (200, 245), 90))


def report(path: Path) -> str:
    with pytest.raises(DatasetError) as error:
        load_dataset(path)
    return str(error.value)


def line_with(text: str, start: str) -> str:
    """The one line of a report that starts so."""
    (line,) = [line.strip() for line in text.splitlines() if line.strip().startswith(start)]
    return line


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def zipped(folder: Path, top: str = "") -> Path:
    """A zip of the folder beside it, its content under `top`."""
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, top + file.relative_to(folder).as_posix())
    return target


def write_truth(root: Path, rows: str = "q0,g3\nq1,g1\nq2,g0\n") -> None:
    (root / "test_truth.csv").write_text("left,right\n" + rows, encoding="utf-8")


# --- problems in tables ---------------------------------------------------------


@pytest.mark.parametrize(
    "table, old, new, place, what, remedy",
    [
        ("train.csv", "left,right", "left,rigth", "train.csv line 1:", "needs right exactly once", "correct"),
        ("train.csv", "left,right", "left;right", "train.csv line 1:", "needs left, right", "commas"),
        ("test_candidates.csv", ",c19", ",x", "test_candidates.csv line 1:", "needs c19 exactly once", "correct"),
        ("test_candidates.csv", ",c19", ",c18", "test_candidates.csv line 1:", "needs c18, c19", "correct"),
        ("train.csv", "l2,r2", "l2", "train.csv line 4:", "1 values for 2 columns", "complete or delete"),
        ("train.csv", "l2,r2", "\nl2,r2,x", "train.csv line 5:", "3 values for 2 columns", "complete or delete"),
        ("train.csv", "l2,r2", 'l2,"r2', "train.csv line 4:", "unexpected end of data", "correct it"),
        ("train.csv", "l2,r2", '"l\n2",r2', "train.csv line 4:", r"id 'l\n2' for train/left", "use letters, digits"),
        ("train.csv", "l2,r2\nl3", '"l\n2",r2\nzz', "train.csv line 6:", "id 'zz' has no file", "add the file"),
        ("train.csv", "l4,", "l1,", "train.csv line 6:", "left 'l1' is already on train.csv line 3", "delete one"),
        ("train.csv", ",r4", ",r0", "train.csv line 6:", "right 'r0' is already on train.csv line 2", "delete one"),
        ("test_candidates.csv", "\nq2,", "\nq0,", "test_candidates.csv line 4:", "left 'q0' is already", "delete one"),
        ("test_candidates.csv", "g4,g5", "g4,g4", "test_candidates.csv line 2:", "'g4' more than once", "20 different"),
        ("test_candidates.csv", "g4,g5", "g4,zz", "test_candidates.csv line 2:", "no file test/right/zz.jpg", "add"),
        ("train.csv", "l5,", "zz,", "train.csv line 7:", "id 'zz' has no file train/left/zz.jpg", "add the file"),
        ("train.csv", "l5,", "../x,", "train.csv line 7:", "id '../x' for train/left", "use letters, digits"),
        ("train.csv", "l5,", "/etc/x,", "train.csv line 7:", "id '/etc/x' for train/left", "use letters, digits"),
        ("train.csv", "l5,", "C:\\x,", "train.csv line 7:", r"id 'C:\\x' for train/left", "use letters, digits"),
        ("train.csv", "l5,", "..,", "train.csv line 7:", "id '..' for train/left", "use letters, digits"),
        ("train.csv", "l5,", ",", "train.csv line 7:", "id '' for train/left", "use letters, digits"),
        ("train.csv", "l5,", " l5,", "train.csv line 7:", "id ' l5' for train/left", "use letters, digits"),
        ("train.csv", "l5,", "L5,", "train.csv line 7:", "'L5', but the file is train/left/l5.jpg", "rename the file"),
        ("train.csv", "l5,", "L4,", "train.csv line 7:", "id 'L4' for train/left", "some systems take both"),
        ("test_candidates.csv", "\nq2,", "\n../q,", "test_candidates.csv line 4:", "id '../q'", "use letters, digits"),
        ("test_candidates.csv", "g4,g5", "g4,", "test_candidates.csv line 2:", "id '' for test/right", "use letters"),
    ],
)  # fmt: skip
def test_problems_in_tables_name_file_row_and_remedy(tiny, table, old, new, place, what, remedy):
    """The row is the line an editor shows: the header is line 1, l0 stands on line 2."""
    replace(tiny / table, old, new)
    lines = [line for line in report(tiny).splitlines() if line.strip().startswith(place)]
    assert any(what in line and remedy in line for line in lines), report(tiny)


@pytest.mark.parametrize("table", ["train.csv", "test_candidates.csv"])
@pytest.mark.parametrize(
    "content, what, remedy",
    [
        (b"", "line 1: needs", "found nothing — correct the line"),
        ("left,right\n\xe4,b".encode("latin-1"), "cannot be read ('utf-8' codec", "save it again as UTF-8 CSV"),
    ],
)
def test_unreadable_tables_are_named(tiny, table, content, what, remedy):
    (tiny / table).write_bytes(content)
    line = line_with(report(tiny), table)
    assert what in line and remedy in line


def test_a_missing_table_is_named(tiny):
    (tiny / "test_candidates.csv").unlink()
    line = line_with(report(tiny), "test_candidates.csv")
    assert "no such file" in line and "copy it beside train/" in line


def test_a_table_without_rows_is_named(tiny):
    (tiny / "train.csv").write_text("left,right\n", encoding="utf-8")
    assert "no training pair — add at least one row" in line_with(report(tiny), "train.csv line 2")


@pytest.mark.parametrize(
    "rows, place, what",
    [
        ("q0,g20\nq1,g1\nq2,g2\n", "test_truth.csv line 2:", "'g20' is no candidate of left 'q0'"),
        ("q0,g1\nq1,g1\nq2,g2\n", "test_truth.csv line 3:", "right 'g1' is already on test_truth.csv line 2"),
        ("q0,g3\nq0,g4\nq1,g1\nq2,g2\n", "test_truth.csv line 3:", "left 'q0' is already on test_truth.csv line 2"),
        ("q0,g3\nq2,g2\n", "test_candidates.csv line 3:", "left 'q1' is not in test_truth.csv — add its row"),
        ("q0,g3\nq1,g1\nq2,g2\nzz,g5\n", "test_truth.csv line 5:", "'g5' is no candidate of left 'zz' — correct"),
    ],
)
def test_problems_in_the_truth_are_named(tiny, rows, place, what):
    write_truth(tiny, rows)
    assert what in line_with(report(tiny), place)


def test_factors_of_unknown_pairs_are_named(tiny):
    (tiny / "factors.csv").write_text("part,left,right,factor\ntrain,l0,r0,pose\ntrain,l0,r1,pose\n", encoding="utf-8")
    line = line_with(report(tiny), "factors.csv line 3:")
    assert "train,l0,r1 is no pair" in line and "delete the row" in line


# --- problems with files --------------------------------------------------------


@pytest.mark.parametrize("folder, table", [("train/left", "train.csv"), ("test/right", "test_candidates.csv")])
@pytest.mark.parametrize("name", ["extra.jpg", "extra.JPG", "notes.txt", "folder"])
def test_files_without_ids_are_named(tiny, folder, table, name):
    if name == "folder":
        (tiny / folder / name).mkdir()
    else:
        (tiny / folder / name).write_bytes(GRAY)
    line = line_with(report(tiny), f"{folder}/{name}:")
    assert f"in no row of {table}" in line and "delete the file, add its row, or rename it" in line


@pytest.mark.parametrize("name", ["l1.JPG", "l1.jpeg", "l1.png"])
def test_other_spellings_of_jpg_are_named(tiny, name):
    (tiny / "train/left/l1.jpg").rename(tiny / "train/left" / name)
    text = report(tiny)
    assert text.startswith("data set 'tiny' has 1 problem:")
    line = line_with(text, "train.csv line 3:")
    assert f"the file is train/left/{name}" in line and "rename the file to l1.jpg" in line


def test_a_missing_folder_is_one_problem(tiny):
    shutil.rmtree(tiny / "test" / "right")
    assert report(tiny).startswith("data set 'tiny' has 1 problem:")
    assert "no such folder, or empty — copy it beside train.csv" in line_with(report(tiny), "test/right:")


BAD_FILES = [
    (b"", "empty (0 bytes)", "download it again"),
    (encoded(picture(0))[:3000], "truncated", "download it again"),
    (b"<html>404</html>", "not a readable image", "replace it by a JPEG"),
    (encoded(Image.new("1", (6000, 5000)), "PNG"), "huge (6000×5000 pixels)", "resize it"),
]


@pytest.mark.parametrize("pack", [Path, zipped], ids=["folder", "zip"])
@pytest.mark.parametrize("data, what, remedy", BAD_FILES, ids=["empty", "truncated", "HTML", "huge"])
def test_unusable_images_name_file_row_and_remedy(tiny, pack, data, what, remedy):
    """r4 stands on line 6 of train.csv; g20 is first mentioned on line 3 of test_candidates.csv."""
    (tiny / "train/right/r4.jpg").write_bytes(data)
    (tiny / "test/right/g20.jpg").write_bytes(data)
    text = report(pack(tiny))
    for place in ("train/right/r4.jpg (train.csv line 6):", "test/right/g20.jpg (test_candidates.csv line 3):"):
        assert what in line_with(text, place) and remedy in line_with(text, place)


@pytest.mark.parametrize("pack", [Path, zipped], ids=["folder", "zip"])
def test_a_file_of_absurd_size_is_never_read(tiny, pack, monkeypatch):
    """2 MiB of zeros (2 kB in the zip) against a limit of 1 MiB."""
    monkeypatch.setattr(checks, "MAX_BYTES", 2**20)
    (tiny / "train/left/l0.jpg").write_bytes(bytes(2 * 2**20))
    line = line_with(report(pack(tiny)), "train/left/l0.jpg (train.csv line 2):")
    assert "huge (2 MiB)" in line and "replace it by a 200×245 JPEG" in line


def test_a_damaged_member_of_a_zip_is_named(tiny):
    """One byte in the middle of a member flipped: its checksum fails."""
    archive = zipped(tiny)
    data = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as members:
        member = members.getinfo("train/left/l2.jpg")
    data[member.header_offset + 100 + member.compress_size // 2] ^= 0xFF
    archive.write_bytes(data)
    line = line_with(report(archive), "train/left/l2.jpg (train.csv line 4):")
    assert "cannot be read" in line and "download it again" in line


def test_all_problems_are_in_one_report(tiny):
    """A table, an id, a file and two images: 5 problems of 4 kinds."""
    replace(tiny / "test_candidates.csv", "g4,g5", "g4,zz")
    (tiny / "train/left/l1.jpg").unlink()
    (tiny / "train/left/extra.jpg").write_bytes(GRAY)
    (tiny / "train/right/r2.jpg").write_bytes(b"")
    (tiny / "test/left/q0.jpg").write_bytes(b"GIF89a")
    text = report(tiny)
    assert text.startswith("data set 'tiny' has 5 problems:")
    for part in (
        "ids without files (2)",
        "id 'zz' has no file",
        "id 'l1' has no file",
        "files without ids (1)",
        "unreadable images (2)",
        "train/right/r2.jpg (train.csv line 4)",
        "test/left/q0.jpg (test_candidates.csv line 2)",
    ):
        assert part in text


def test_long_lists_are_cut(tiny):
    """Of 13 superfluous files the first 10 are listed by name: extra00 … extra09."""
    for i in range(13):
        (tiny / f"test/left/extra{i:02}.jpg").write_bytes(GRAY)
    text = report(tiny)
    assert "files without ids (13)" in text and "… and 3 more" in text
    assert "extra09" in text and "extra10" not in text


# --- conversions ----------------------------------------------------


def test_unusual_images_are_converted_noted_and_summarised(tiny, capsys):
    """Two gray ones (one also of another size), one CMYK, one transparent PNG, one turned: 5 images."""
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, data in {
        "train/left/l0.jpg": GRAY,
        "train/left/l1.jpg": encoded(Image.new("L", (64, 64))),
        "train/right/r5.jpg": encoded(Image.new("CMYK", (200, 245))),
        "test/left/q1.jpg": encoded(Image.new("RGBA", (200, 245)), "PNG"),
        "test/right/g7.jpg": encoded(Image.new("RGB", (245, 200)), exif=turned),
    }.items():
        (tiny / name).write_bytes(data)
    data = load_dataset(tiny)
    assert sorted(data.notes.itertuples(index=False, name=None)) == [
        ("test/left/q1.jpg", "not JPEG"),
        ("test/left/q1.jpg", "transparent"),
        ("test/right/g7.jpg", "EXIF-rotated"),
        ("train/left/l0.jpg", "grayscale"),
        ("train/left/l1.jpg", "grayscale"),
        ("train/left/l1.jpg", "wrong size"),
        ("train/right/r5.jpg", "CMYK"),
    ]
    summary = capsys.readouterr().out.splitlines()[1]
    assert summary.startswith("5 images converted: 2 grayscale, 1 ")
    assert all(image.shape == (245, 200, 3) for image in (*data.train.left, *data.test.right))
    pd.testing.assert_frame_equal(load_dataset(tiny).notes, data.notes)  # remembered


# --- a passed check is remembered -----------------------------------------------


def test_a_passed_check_is_remembered_until_a_file_changes(tiny, monkeypatch):
    """Nothing is decoded again until an image changes, then the six of its folder; line numbers are those of now."""
    first = load_dataset(tiny)
    calls = []
    decode = checks.decode_with_conversions
    monkeypatch.setattr(checks, "decode_with_conversions", lambda *a: calls.append(a) or decode(*a))
    assert load_dataset(tiny).fingerprint == first.fingerprint and not calls
    (tiny / "train/left/l3.jpg").write_bytes(b"damaged")
    assert "train/left/l3.jpg (train.csv line 5)" in report(tiny) and len(calls) == 6
    replace(tiny / "train.csv", "l0,", "\nl0,")
    assert "train/left/l3.jpg (train.csv line 6)" in report(tiny)


def test_a_change_that_keeps_the_size_is_noticed(tiny):
    load_dataset(tiny)
    file = tiny / "train/left/l3.jpg"
    file.write_bytes(bytes(file.stat().st_size))
    assert "not a readable image" in line_with(report(tiny), "train/left/l3.jpg (train.csv line 5):")
