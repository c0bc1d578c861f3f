"""The data set as it is found, loaded and handed out."""

import csv
import errno
import os
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from conftest import picture
from tll_utils import runtime
from tll_utils.data import dataset
from tll_utils.data.dataset import DatasetError, data_source, load_dataset


def report(path: Path) -> str:
    with pytest.raises(DatasetError) as error:
        load_dataset(path)
    return str(error.value)


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


# --- a sound data set -----------------------------------------------------------


def test_tables_and_images_are_loaded(tiny):
    """Candidates of q2 are g2…g20 and g0; the gallery is sorted as text: g0, g1, g10, …, g19, g2, g20, g3, …"""
    data = load_dataset(tiny)
    assert data.name == "tiny" and len(data.train) == 6 and len(data.test) == 3
    assert data.train.left.ids == ("l0", "l1", "l2", "l3", "l4", "l5")
    assert data.train.right.ids == ("r0", "r1", "r2", "r3", "r4", "r5")
    assert data.test.right.ids[:4] == ("g0", "g1", "g10", "g11")
    assert data.test.candidates.shape == (3, 20) and np.issubdtype(data.test.candidates.dtype, np.integer)
    listed = [data.test.right.ids[column] for column in data.test.candidates[2]]
    assert listed == [*(f"g{i}" for i in range(2, 21)), "g0"]
    assert data.test.match is None and data.factors is None and data.notes.empty


def test_images_are_decoded_on_access(tiny):
    """Images 0, 1, … of train/right were drawn from seeds 100, 101, …"""
    right = load_dataset(tiny).train.right
    assert right[3].shape == (245, 200, 3) and right[3].dtype == np.uint8
    assert np.abs(right[3].astype(int) - picture(103)).mean() < 5
    assert right.read_bytes(3) == (tiny / "train" / "right" / "r3.jpg").read_bytes()
    assert len(list(right)) == 6 and np.array_equal(right[-1], right[np.int64(5)])


def test_views_know_their_base(tiny):
    """Rows [4, 2, 0] and of these [2, 0] are rows [0, 4] of the whole."""
    pairs = load_dataset(tiny).train
    view = pairs.take(np.array([4, 2, 0])).take([2, 0])
    assert view.left.ids == ("l0", "l4") and view.right.ids == ("r0", "r4") and len(view) == 2
    assert view.left.rows.tolist() == [0, 4] and view.left.base is pairs.left
    assert view.left.fingerprint == pairs.left.fingerprint
    assert np.array_equal(view.right[1], pairs.right[4])
    assert pairs.left.base is pairs.left and pairs.left.rows.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_bool_mask_takes_rows(tiny):
    pairs = load_dataset(tiny).train
    assert pairs.take(np.array([True, False, False, True, False, False])).left.ids == ("l0", "l3")


def test_truth_and_factors_of_the_sample(tiny):
    """True rights g3, g1, g0 are columns 14, 1, 0 of g0 g1 g10…g19 g2 g20 g3."""
    write_truth(tiny, "q1,g1\nq0,g3\nq2,g0\n")
    (tiny / "factors.csv").write_text("part,left,right,factor\ntrain,l2,r2,pose\ntest,q0,g3,face\n", encoding="utf-8")
    data = load_dataset(tiny)
    assert data.test.match.tolist() == [14, 1, 0]
    assert data.factors.to_dict("list") == {
        "part": ["train", "test"],
        "left": ["l2", "q0"],
        "right": ["r2", "g3"],
        "factor": ["pose", "face"],
    }


def test_an_empty_table_of_factors_is_not_a_missing_one(tiny):
    (tiny / "factors.csv").write_text("part,left,right,factor\n", encoding="utf-8")
    factors = load_dataset(tiny).factors
    assert factors is not None and factors.empty and list(factors) == ["part", "left", "right", "factor"]


@pytest.mark.parametrize("name", ["nan", "NA", "null", "None", "NULL", "123", "1e5", "true"])
def test_ids_that_look_like_missing_values_or_numbers_are_ids(tiny, name):
    replace(tiny / "train.csv", "l2,", f"{name},")
    replace(tiny / "test_candidates.csv", "q1,", f"{name},")
    (tiny / "train/left/l2.jpg").rename(tiny / f"train/left/{name}.jpg")
    (tiny / "test/left/q1.jpg").rename(tiny / f"test/left/{name}.jpg")
    data = load_dataset(tiny)
    assert data.train.left.ids[2] == name and data.test.left.ids[1] == name


def test_a_table_from_a_spreadsheet_is_read(tiny):
    """Byte-order mark, Windows line ends, quotes, a blank line and a further column do no harm."""
    text = (tiny / "train.csv").read_text(encoding="utf-8").replace("right\n", "right,mark\n")
    text = text.replace("l1,r1\n", '\n"l1",r1,x\n')
    text = "\r\n".join(line + "," if line.count(",") == 1 else line for line in text.splitlines())
    (tiny / "train.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_dataset(tiny).train.left.ids == ("l0", "l1", "l2", "l3", "l4", "l5")


def test_a_data_set_without_test_rows_is_read(tiny):
    header = (tiny / "test_candidates.csv").read_text(encoding="utf-8").splitlines()[0]
    (tiny / "test_candidates.csv").write_text(header + "\n", encoding="utf-8")
    shutil.rmtree(tiny / "test")
    test = load_dataset(tiny).test
    assert len(test) == 0 and test.candidates.shape == (0, 20) and len(test.right) == 0


def test_the_place_of_the_truth_in_each_list(tiny):
    """q0 lists g0 g1 …, so g3 stands in place 3; q1 lists g1 first; g0 is the last of q2's. Unpublished: None."""
    assert load_dataset(tiny).test.truth is None
    write_truth(tiny)
    assert load_dataset(tiny).test.truth.tolist() == [3, 0, 19]


# --- folder, zip, fingerprint, data sources --------------------------------------------


@pytest.mark.parametrize("top", ["", "challenge/"])
def test_a_zip_is_the_same_data_set(tiny, top):
    folder, archive = load_dataset(tiny), load_dataset(zipped(tiny, top))
    assert archive.name == "tiny" and archive.fingerprint == folder.fingerprint
    assert archive.train.left.fingerprint == folder.train.left.fingerprint
    assert np.array_equal(archive.test.candidates, folder.test.candidates)
    assert all(np.array_equal(a, b) for a, b in zip(archive.test.right, folder.test.right, strict=True))


def test_a_zip_is_read_from_threads(tiny):
    """8 threads read the 21 gallery images 20 times each as one thread does."""
    gallery = load_dataset(zipped(tiny)).test.right
    expected = [gallery.read_bytes(i) for i in range(21)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(gallery.read_bytes, list(range(21)) * 20)) == expected * 20


def test_the_folder_may_lie_one_deeper(tiny, tmp_path):
    (tmp_path / "outer").mkdir()
    shutil.move(tiny, tmp_path / "outer" / "inner")
    assert len(load_dataset(tmp_path / "outer").train) == 6


def test_files_strewn_by_operating_systems_are_ignored(tiny):
    for name in (".DS_Store", "._l1.jpg", "Thumbs.db"):
        (tiny / "train/left" / name).write_bytes(b"x")
    assert len(load_dataset(tiny).train) == 6


def test_the_fingerprint_depends_on_content_not_on_times(tiny):
    before = load_dataset(tiny).fingerprint
    for file in tiny.rglob("*.jpg"):
        os.utime(file, (1, 1))
    assert load_dataset(tiny).fingerprint == before
    shutil.copy(tiny / "train/left/l1.jpg", tiny / "train/left/l0.jpg")
    assert load_dataset(tiny).fingerprint != before


@pytest.mark.parametrize(
    "table, old, new", [("train.csv", "l0,r0\nl1,r1", "l0,r1\nl1,r0"), ("test_candidates.csv", "g4,g5", "g5,g4")]
)
def test_the_fingerprint_depends_on_the_tables(tiny, table, old, new):
    before = load_dataset(tiny).fingerprint
    replace(tiny / table, old, new)
    assert load_dataset(tiny).fingerprint != before


def test_the_truth_changes_the_fingerprint(tiny):
    before = load_dataset(tiny).fingerprint
    write_truth(tiny)
    assert load_dataset(tiny).fingerprint != before


@pytest.fixture
def checkout(tiny, tmp_path, monkeypatch):
    """A checkout with only a sample in it."""
    monkeypatch.setattr(runtime, "project_root", lambda: tmp_path / "checkout")
    monkeypatch.delenv("TLL_DATA", raising=False)
    shutil.copytree(tiny, tmp_path / "checkout" / "data" / "sample")
    return tmp_path / "checkout"


COUNTS = "6 training pairs · 3 test lefts × 20 candidates\n"


def test_the_sample_is_the_default(checkout, capsys):
    assert load_dataset().name == "sample"
    assert capsys.readouterr().out == f"data set: sample (data/sample) · {COUNTS}"


def test_data_tll_comes_before_the_sample(checkout, capsys):
    shutil.copytree(checkout / "data/sample", checkout / "data/tll")
    assert load_dataset().name == "TLL"
    assert capsys.readouterr().out == f"data set: TLL (data/tll) · {COUNTS}"


@pytest.mark.parametrize("folder", ["challenge", "competitions/challenge"])
def test_what_was_added_to_a_kaggle_notebook_comes_before_the_sample(checkout, tmp_path, monkeypatch, capsys, folder):
    """Other inputs beside it are let alone, and `data/tll` still comes first."""
    monkeypatch.setattr(dataset, "KAGGLE", tmp_path / "input")
    (tmp_path / "input" / "another").mkdir(parents=True)
    (tmp_path / "input" / "another" / "train.csv").write_text("a\n", encoding="utf-8")
    assert load_dataset().name == "sample"
    shutil.copytree(checkout / "data/sample", tmp_path / "input" / folder)
    capsys.readouterr()
    assert load_dataset().name == "TLL"
    assert capsys.readouterr().out == f"data set: TLL ({Path('input', folder).parent.name}/challenge) · {COUNTS}"
    shutil.copytree(checkout / "data/sample", checkout / "data/tll")
    assert data_source()[2] == "data/tll"


@pytest.mark.parametrize("relative", [True, False])
def test_tll_data_comes_first(checkout, tiny, monkeypatch, capsys, relative):
    """A relative path starts at the checkout; the line never shows the path."""
    (checkout / "data/tll").mkdir()
    monkeypatch.setenv("TLL_DATA", "../tiny" if relative else str(tiny))
    assert load_dataset().name == "TLL"
    assert capsys.readouterr().out == f"data set: TLL ($TLL_DATA) · {COUNTS}"


def test_the_sample_can_be_asked_for_where_the_real_data_is(checkout, monkeypatch, capsys):
    """`make test` does so: the committed outputs are those of the sample."""
    shutil.copytree(checkout / "data/sample", checkout / "data/tll")
    monkeypatch.setenv("TLL_DATA", "data/sample")
    assert load_dataset().name == "sample"
    assert capsys.readouterr().out == f"data set: sample (data/sample) · {COUNTS}"


def test_a_given_path_comes_before_everything(checkout, tiny, monkeypatch, capsys):
    monkeypatch.setenv("TLL_DATA", "nowhere")
    assert load_dataset(str(zipped(tiny))).name == "tiny"
    assert capsys.readouterr().out == f"data set: tiny (given path) · {COUNTS}"


def test_a_wrong_tll_data_is_an_error_not_the_sample(checkout, monkeypatch):
    monkeypatch.setenv("TLL_DATA", "nowhere")
    with pytest.raises(DatasetError, match=r"nowhere: no such folder or zip — .*unset TLL_DATA"):
        load_dataset()


def test_a_folder_without_train_csv_is_named(tmp_path):
    assert "holds no train.csv — give the folder or zip" in report(tmp_path)


def test_a_cut_off_zip_is_named(tiny):
    archive = zipped(tiny)
    archive.write_bytes(archive.read_bytes()[:5000])
    assert "neither a folder nor a whole zip" in report(archive) and "download it again" in report(archive)


def test_the_committed_sample_is_sound():
    """test_truth.csv names the true right of every test left."""
    root = runtime.project_root() / "data" / "sample"
    data = load_dataset(root)
    assert data.notes.empty and len(data.factors) == len(data.train) + len(data.test)
    with (root / "test_truth.csv").open(newline="", encoding="utf-8") as file:
        truth = {row["left"]: row["right"] for row in csv.DictReader(file)}
    assert [data.test.right.ids[column] for column in data.test.match] == [truth[i] for i in data.test.left.ids]


@pytest.mark.parametrize("text", ["", "[[", "{}", "null", "[1, 2]", '[["a", [], ""]]'])
def test_a_damaged_memory_of_the_check_is_made_again(tiny, text):
    expected = load_dataset(tiny).fingerprint
    memories = list((tiny.parent / "cache").glob("checked-*.json"))
    for memory in memories:
        memory.write_text(text, encoding="utf-8")
    assert load_dataset(tiny).fingerprint == expected
    assert all(memory.stat().st_size > 100 for memory in memories)


# --- places ---------------------------------------------------------------------


def test_a_link_that_leads_nowhere_is_not_taken_for_the_sample(checkout):
    (checkout / "data" / "tll").symlink_to("/media/nobody/tll")
    with pytest.raises(DatasetError, match=r"data/tll: a link that leads nowhere — correct the path"):
        load_dataset()


def test_a_zip_beside_the_sample_is_the_data_set(checkout, capsys):
    shutil.make_archive(str(checkout / "data" / "tll"), "zip", checkout / "data" / "sample")
    assert load_dataset().name == "TLL" and "(data/tll.zip)" in capsys.readouterr().out


def test_an_image_that_is_a_link_to_nowhere_is_named(tiny):
    (tiny / "train" / "left" / "l2.jpg").unlink()
    (tiny / "train" / "left" / "l2.jpg").symlink_to("/nowhere/l2.jpg")
    with pytest.raises(DatasetError, match=r"train/left/l2\.jpg .*No such file.* — copy or download it again"):
        load_dataset(tiny)


def refuse(monkeypatch, folder):
    """Nothing in the folder may be read; root may read everything, so permissions would not do."""
    for name in ("exists", "iterdir", "is_dir", "stat"):
        method = getattr(type(folder), name)

        def refused(self, *arguments, method=method, **options):
            if self.name == folder.name or self.parent.name == folder.name:
                raise PermissionError(errno.EACCES, "Permission denied", str(self))
            return method(self, *arguments, **options)

        monkeypatch.setattr(type(folder), name, refused)


def test_a_neighbour_that_may_not_be_read_is_passed_over(tiny, monkeypatch):
    (tiny.parent / "around" / "a lost+found").mkdir(parents=True)
    tiny.rename(tiny.parent / "around" / "tiny")
    refuse(monkeypatch, tiny.parent / "around" / "a lost+found")
    assert len(load_dataset(tiny.parent / "around").train) == 6


@pytest.mark.parametrize("name", ["", "train/left"])
def test_a_folder_that_may_not_be_read_is_named(tiny, monkeypatch, name):
    refuse(monkeypatch, tiny / name)
    with pytest.raises(DatasetError, match=r"cannot be opened \(Permission denied\) — change its permissions"):
        load_dataset(tiny)


def test_a_data_set_is_read_where_nothing_can_be_written(tiny, monkeypatch):
    def refused(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(runtime, "write_text", refused)
    assert len(load_dataset(tiny).train) == 6


# --- tables and archives that nearly fit ----------------------------------------


def changed(tiny, change, table="train.csv"):
    path = tiny / table
    path.write_text("\n".join(map(change, path.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace("left,right", " left , right "),
        lambda line: line + ",",
        lambda line: line + ",,,",
        lambda line: line if line == "left,right" else line + ",",
        lambda line: line + ("\n,\n,," if line.startswith("l5") else ""),
    ],
)
def test_what_spreadsheets_add_to_a_table_is_no_problem(tiny, change):
    expected = load_dataset(tiny).fingerprint
    changed(tiny, change)
    assert load_dataset(tiny).fingerprint == expected


def test_columns_that_are_not_used_are_named(tiny, capsys):
    changed(tiny, lambda line: line + (",who,why" if line == "left,right" else ",me,"))
    assert len(load_dataset(tiny).train) == 6
    assert "train.csv: not used: the columns who, why\n" in capsys.readouterr().out


def test_ids_with_a_suffix_are_named_with_the_remedy(tiny):
    changed(tiny, lambda line: line.replace("l1,", "l1.jpg,"))
    with pytest.raises(DatasetError) as caught:
        load_dataset(tiny)
    assert "1 problem:" in str(caught.value)
    assert "id 'l1.jpg', but the file is train/left/l1.jpg — write ids without the suffix" in str(caught.value)


def test_lost_leading_zeros_are_named_with_the_remedy(tiny):
    (tiny / "train" / "left" / "l1.jpg").rename(tiny / "train" / "left" / "0071.jpg")
    changed(tiny, lambda line: line.replace("l1,", "71,"))
    with pytest.raises(DatasetError) as caught:
        load_dataset(tiny)
    assert "1 problem:" in str(caught.value)
    assert "id '71', but the file is train/left/0071.jpg — write the id with its leading zeros" in str(caught.value)


@pytest.mark.parametrize(
    ("what", "message"),
    [("encrypted", "it is encrypted"), ("backslashes", "backslashes for slashes"), ("deflate64", "its compression")],
)
def test_a_zip_that_python_cannot_read_is_named_with_the_remedy(tiny, monkeypatch, what, message):
    path = Path(shutil.make_archive(str(tiny), "zip", tiny))
    infolist = zipfile.ZipFile.infolist

    def members(archive):
        for member in (found := infolist(archive)):
            member.flag_bits |= what == "encrypted"
            member.filename = member.filename.replace("/", "\\") if what == "backslashes" else member.filename
            member.compress_type = 9 if what == "deflate64" else member.compress_type
        return found

    monkeypatch.setattr(zipfile.ZipFile, "infolist", members)
    with pytest.raises(DatasetError, match=rf"tiny\.zip: .*{message}.* — unpack it, and give the folder"):
        load_dataset(path)
