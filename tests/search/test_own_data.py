"""A user's own pairs and candidate lists are read as meant, or refused in one report."""

import numpy as np
import pytest
from PIL import Image

from tll_utils.data.checks import DatasetError
from tll_utils.methods.base import Method
from tll_utils.search.own_data import read_lists, read_pairs, solved, solved_pairs


class Brightness(Method):
    """Scores by equal brightness."""

    def fit(self, train):
        return self

    def scores(self, left, right):
        sides = [np.array([image.mean() for image in images]) for images in (left, right)]
        return -np.abs(sides[0][:, None] - sides[1]).astype(np.float32)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Eight gray pictures in two folders, named by their brightness; one file that is none."""
    monkeypatch.setenv("TLL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLL_PROGRESS", "0")
    folder = tmp_path / "pictures"
    for value in range(0, 240, 30):
        path = folder / ("dark" if value < 120 else "light") / f"gray{value}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 70), (value, value, value)).save(path)
    (folder / "broken.jpg").write_bytes(b"no picture")
    Image.new("RGB", (60, 70)).save(folder / "light" / "gray0.png")  # a name that two folders have
    return folder


def table(tmp_path, text, name="table.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_pairs_name_pictures_by_path_by_name_or_without_suffix(pictures, tmp_path):
    text = "left,right,remark\ndark/gray0.png,gray30.png,x\ngray120,light/gray150,y\n"
    pairs = read_pairs(table(tmp_path, text), pictures)
    assert pairs.left.ids == ("dark/gray0.png", "light/gray120.png")
    assert pairs.right.ids == ("dark/gray30.png", "light/gray150.png")
    assert pairs.left[1].shape == (245, 200, 3) and abs(int(pairs.left[1][0, 0, 0]) - 120) < 3


def test_lists_may_differ_in_length(pictures, tmp_path):
    """Columns in any order and of any name; the truth is found by its picture, however it is written."""
    text = "c,right,left,d,e\ngray60,gray30,dark/gray0,gray30.png,\ngray180,gray150,gray120,gray210,dark/gray90\n"
    with pytest.raises(DatasetError, match=r"line 3.*the truth \(column right\) among them"):
        read_lists(table(tmp_path, text), pictures)
    text = text.replace("gray150,gray120", "gray210,gray120")
    lists = read_lists(table(tmp_path, text), pictures)
    assert [len(row) for row in lists.candidates] == [2, 3] and list(lists.truth) == [1, 1]
    assert [lists.right.ids[i] for i in lists.candidates[0]] == ["dark/gray60.png", "dark/gray30.png"]


def test_solved_counts_the_truth_among_the_best_of_its_own_list(pictures, tmp_path):
    """Left 0: 30 is nearer than 60 and 90. Left 120: 210 is further than 180 and nearer than nothing else."""
    text = "left,right,c0,c1,c2\ndark/gray0,gray30,gray60,gray30,gray90\ngray120,gray210,gray210,gray180,gray150\n"
    lists = read_lists(table(tmp_path, text), pictures)
    for k, expected in {1: [1, 0], 2: [1, 0], 9: [1, 1]}.items():
        assert list(solved(Brightness(), lists, k=k)[f"top{k}"]) == expected


def test_a_right_picture_of_two_pairs_is_one_candidate(pictures, tmp_path):
    """Rights 30, 90 and 210. To 0 the nearest is 30, to 60 both 30 and 90 are: half a chance; to 180 it is 210."""
    text = "left,right\ndark/gray0,gray30\ngray60,gray30\ngray60,gray90\ngray180,gray210\n"
    pairs = read_pairs(table(tmp_path, text), pictures)
    np.testing.assert_allclose(solved_pairs(Brightness(), pairs, k=1).top1, [1, 0.5, 0.5, 1], atol=0.51)
    assert solved_pairs(Brightness(), pairs, k=3).top3.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("left\na\n", r"table\.csv line 1: needs right exactly once"),
        ("left,right\n", "line 2: no row"),
        ("left,right\ngray30,gray999\n", "line 2: right 'gray999' is no picture there"),
        ("left,right\ngray30,gray0\n", "line 2: right 'gray0' names 2 pictures — write the path"),
        ("left,right\nbroken.jpg,gray30\n", r"line 2: left 'broken\.jpg' cannot be read"),
        ("left,right\ngray30\n", "line 2: 1 values for 2 columns"),
        ("left,right\n,gray30\n", "line 2: left '' is no picture there"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(pictures, tmp_path, text, message):
    with pytest.raises(DatasetError, match=message):
        read_pairs(table(tmp_path, text), pictures)


@pytest.mark.parametrize(
    "row", ["gray30,gray60,gray60,gray60", "gray30,gray60,gray60,", "gray30,gray60,gray90,gray120"]
)
def test_lists_that_cannot_be_answered_are_refused(pictures, tmp_path, row):
    with pytest.raises(DatasetError, match=r"table\.csv line 2: list two candidates or more, each once, and the truth"):
        read_lists(table(tmp_path, f"left,right,c0,c1\n{row}\n"), pictures)
