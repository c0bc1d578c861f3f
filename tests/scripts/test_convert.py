"""A release of two zips becomes a data set that loads: split, ids, lists, truth, and what is left out."""

import shutil
import zipfile

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conftest import encoded, picture
from scripts import convert as script
from scripts.convert import convert
from tll_utils.data.dataset import load_dataset
from tll_utils.data.folds import near_duplicate_groups

N_PAIRS, TWINS = 60, (3, 4, 5)  # pairs of TWINS have left images that hardly differ
ODD = {  # pair → its left image in another form, and what the loader would say of it
    0: lambda image: encoded(cv2.resize(image, (300, 400))),
    1: lambda image: encoded(image, "PNG"),
    2: lambda image: encoded(Image.fromarray(image).convert("L")),
}


def blocks(seed: int) -> np.ndarray:
    """A picture of 8×8 random grey blocks, tinted: perceptual hashes of two of them are far apart."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 256, (8, 8, 1), dtype=np.uint8).repeat(3, axis=2)
    return cv2.resize(coarse, (200, 245), interpolation=cv2.INTER_NEAREST)


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    """left.zip and right.zip with a folder inside: 60 pairs, and files that cannot be used."""
    root = tmp_path_factory.mktemp("release")
    members = {"left": {}, "right": {}}
    for pair in range(N_PAIRS):
        left = blocks(TWINS[0] if pair in TWINS else pair)
        left[:9, :9] = pair
        members["left"][f"{pair:05}.jpg"] = ODD.get(pair, encoded)(left)
        members["right"][f"{pair:05}.jpg"] = encoded(blocks(1000 + pair))
    for side in members:
        members[side] |= {"readme.txt": b"hello", ".DS_Store": b"x", "bad.jpg": encoded(picture(1))}
    members["left"] |= {"alone.jpg": encoded(picture(2)), "empty.jpg": b"", "bad.png": encoded(picture(3), "PNG")}
    members["right"] |= {"bad.jpg": encoded(picture(1))[:300], "empty.jpg": encoded(picture(4)), "late.jpg": b"no"}
    for side, files in members.items():
        with zipfile.ZipFile(root / f"{side}.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(f"{side}/{name}", data)
            archive.writestr(f"__MACOSX/{side}/._00000.jpg", b"not an image")
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TLL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def converted(release):
    left_out = convert(release / "left.zip", release / "right.zip", release / "tll", n_test=24)
    return release / "tll", left_out


@pytest.fixture(scope="session")
def origin(converted):
    return pd.read_csv(converted[0] / "pairs.csv", dtype=str, encoding="utf-8")


def test_the_result_loads_without_a_conversion(converted):
    data = load_dataset(converted[0])
    assert len(data.train) == 36 and len(data.test) == 24 and data.notes.empty
    assert data.test.candidates.shape == (24, 20) and data.test.truth is not None


def test_pairs_stay_pairs_and_their_names_are_kept(converted, origin, release):
    """Pair p has right image blocks(1000 + p) and a left one whose corner is grey p."""
    folder, _ = converted
    assert sorted(origin["name"]) == [f"{pair:05}" for pair in range(N_PAIRS)]
    for part, left, right, name in origin.itertuples(index=False):
        corner = cv2.imread(str(folder / part / "left" / f"{left}.jpg"))[2, 2]
        assert corner == pytest.approx([int(name)] * 3, abs=9)
        with zipfile.ZipFile(release / "right.zip") as archive:
            assert (folder / part / "right" / f"{right}.jpg").read_bytes() == archive.read(f"right/{name}.jpg")


def test_tables_say_the_same(converted, origin):
    folder, _ = converted
    for part, name in (("train", "train.csv"), ("test", "test_truth.csv")):
        table, expected = pd.read_csv(folder / name, encoding="utf-8"), origin[origin["part"] == part]
        assert table.to_numpy().tolist() == expected[["left", "right"]].to_numpy().tolist()
        assert table["left"].is_monotonic_increasing


def test_images_are_copied_unless_they_need_a_conversion(converted, origin, release):
    folder, _ = converted
    with zipfile.ZipFile(release / "left.zip") as archive:
        for part, left, _, name in origin.itertuples(index=False):
            is_same = (folder / part / "left" / f"{left}.jpg").read_bytes() == archive.read(f"left/{name}.jpg")
            assert is_same == (int(name) not in ODD)


def test_lists_are_even_and_hold_the_truth(converted, origin):
    lists = pd.read_csv(converted[0] / "test_candidates.csv", encoding="utf-8").set_index("left")
    test = origin[origin["part"] == "test"].set_index("left")["right"]
    places = [lists.loc[left].tolist().index(right) for left, right in test.items()]
    assert len(set(places)) > 8 and (lists.nunique(axis=1) == 20).all()
    assert set(lists.to_numpy().ravel()) == set(test)


def test_ids_are_plain_and_tell_no_pair(origin):
    ids = pd.concat([origin["left"], origin["right"]])
    assert ids.is_unique and ids.str.fullmatch("[b-df-hj-np-tv-z]{4}").all()
    assert abs(origin["left"].rank().corr(origin["right"].rank())) < 3 / np.sqrt(N_PAIRS)
    assert abs(origin["left"].rank().corr(origin["name"].astype(int))) < 3 / np.sqrt(N_PAIRS)


def test_near_duplicates_stay_in_one_part(converted, origin):
    twins = origin[origin["name"].astype(int).isin(TWINS)]
    assert twins["part"].nunique() == 1
    data = load_dataset(converted[0])
    sides = [[*train, *test] for train, test in (
        (data.train.left, data.test.left), (data.train.right, data.test.right.take(data.test.match)))]  # fmt: skip
    groups = near_duplicate_groups(*sides)
    assert not set(groups[:36]) & set(groups[36:]) and len(set(groups)) < N_PAIRS


def test_what_cannot_be_used_is_listed(converted):
    """Neither the text nor files of the system are images; of bad.jpg and bad.png the first is taken, and cut off."""
    folder, left_out = converted
    listed = dict(left_out.itertuples(index=False, name=None))
    assert listed["left.zip/alone.jpg"] == listed["right.zip/late.jpg"] == "on this side only"
    assert "before" in listed["left.zip/bad.png"]
    assert "truncated" in listed["right.zip/bad.jpg"] and "0 bytes" in listed["left.zip/empty.jpg"]
    assert len(listed) == 5
    assert len(pd.read_csv(folder / "left_out.csv", encoding="utf-8")) == 5


# --- seeds, numbers, folders ------------------------------------------------------


@pytest.fixture
def sides(release, tmp_path):
    """The release unpacked, and 30 pairs of it."""
    for side in ("left", "right"):
        with zipfile.ZipFile(release / f"{side}.zip") as archive:
            archive.extractall(tmp_path, [f"{side}/{pair:05}.jpg" for pair in range(30)])
    return tmp_path / "left", tmp_path / "right"


def tables(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.csv"))}


def test_folders_and_seeds(sides, tmp_path):
    """The same seed gives the same files, another seed another split."""
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        assert convert(*sides, tmp_path / name, n_test=20, n_train=8, seed=seed).empty
    one, two, three = (tables(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two and one["pairs.csv"] != three["pairs.csv"]
    assert len(load_dataset(tmp_path / "one").train) == 8


@pytest.mark.parametrize(
    ("numbers", "error"),
    [
        ({}, "30 usable pairs, but 2000 test pairs and at least one for training are wanted"),
        ({"n_test": 19}, "19 test pairs: a list needs 20"),
        ({"n_test": 20, "n_train": 11}, "30 usable pairs, but 20 test pairs and 11 for training"),
    ],
)
def test_too_few_pairs_are_named(numbers, error, sides, tmp_path):
    with pytest.raises(ValueError, match=error):
        convert(*sides, tmp_path / "tll", **numbers)
    assert not (tmp_path / "tll").exists()


def test_an_existing_folder_is_refused(sides, tmp_path):
    (tmp_path / "tll").mkdir()
    with pytest.raises(FileExistsError, match="name a new folder"):
        convert(*sides, tmp_path / "tll", n_test=20)
    assert not any((tmp_path / "tll").iterdir())


def test_no_zip_is_named(sides, tmp_path):
    (tmp_path / "left.zip").write_bytes(b"PK half a download")
    with pytest.raises(ValueError, match=r"left\.zip is no folder and no whole zip: download it again"):
        convert(tmp_path / "left.zip", sides[1], tmp_path / "tll")


def test_nothing_is_left_behind_after_an_error(sides, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "_write_tables", lambda *_: 1 / 0)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError):
        convert(*sides, tmp_path / "tll", n_test=20)
    assert sorted(tmp_path.iterdir()) == before


def test_command_line(sides, tmp_path, capsys):
    shutil.copy(sides[0] / "00007.jpg", sides[0] / "more.jpg")
    script.main([*map(str, sides), str(tmp_path / "tll"), "--n-test", "20", "--seed", "3"])
    assert capsys.readouterr().out == "1 files left out, see left_out.csv\n"
    assert len(load_dataset(tmp_path / "tll").train) == 10
