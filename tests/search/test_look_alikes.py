"""Look-alikes: who is found, who is left out, and that blocks change nothing."""

import sys

import numpy as np
import pytest

import tll_utils
from conftest import encoded, picture
from tll_utils.data.images import Images
from tll_utils.methods.base import Method, Similarity, WeightedSum
from tll_utils.runtime import project_root
from tll_utils.search import look_alikes as module
from tll_utils.search import parts
from tll_utils.search.commands import SHIPPED
from tll_utils.search.index import open_index
from tll_utils.search.look_alikes import indexed_look_alikes, look_alikes, updated_index
from tll_utils.search.vectors import vectors


class Numbered(Method):
    """Pictures are alike as their numbers are: the name of picture 12 is "12.png"."""

    def fit(self, train):
        return self

    def scores(self, left, right):
        a, b = (np.array([int(name.split(".")[0]) for name in side.ids]) for side in (left, right))
        return -np.abs(np.subtract.outer(a, b)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TLL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLL_PROGRESS", "0")


@pytest.fixture
def make(tmp_path):
    """Images of the pictures of some seeds, written once: Images named by number, different where seeds are."""

    def images(**seeds):
        for number, seed in seeds.items():
            (tmp_path / f"{number[1:]}.png").write_bytes(encoded(picture(seed), "PNG"))
        names = [f"{number[1:]}.png" for number in seeds]
        return Images(names, [tmp_path / name for name in names])

    return images


def found(table) -> dict[str, list[str]]:
    """Query → pictures, best first, all without their suffix."""
    assert (table.groupby("query")["rank"].agg(list).map(lambda ranks: ranks == [*range(1, len(ranks) + 1)])).all()
    names = table.assign(query=table["query"].str[:-4], picture=table["picture"].str[:-4])
    return names.groupby("query", sort=False)["picture"].agg(list).to_dict()


def test_every_picture_against_all_others(make):
    images = make(_1=1, _2=2, _4=4, _9=9)
    table = look_alikes(Numbered(), images, images, top=2)
    assert table.columns.tolist() == ["query", "rank", "picture", "score", "similarity", "also"]
    assert found(table) == {"1": ["2", "4"], "2": ["1", "4"], "4": ["2", "1"], "9": ["4", "2"]}
    assert table["score"].tolist() == [-1, -3, -1, -2, -2, -3, -5, -7] == table["similarity"].tolist()
    assert (table["also"] == "").all()


def test_queries_of_their_own(make):
    table = look_alikes(Numbered(), make(_3=3, _8=8), make(_1=1, _2=2, _4=4, _9=9), top=2)
    assert found(table) == {"3": ["2", "4"], "8": ["9", "4"]}


def test_fewer_pictures_than_asked_for(make):
    images = make(_1=1, _2=2, _4=4)
    assert found(look_alikes(Numbered(), images, images)) == {"1": ["2", "4"], "2": ["1", "4"], "4": ["2", "1"]}


def test_near_duplicates_of_a_query_are_left_out_and_others_shown_once(make):
    """1 and 2 are one picture, 5, 6 and 7 another."""
    images = make(_1=1, _2=1, _4=4, _5=5, _6=5, _7=5)
    table = look_alikes(Numbered(), images, images)
    assert found(table) == {"1": ["4", "5"], "2": ["4", "5"], "4": ["5", "2"], "5": ["4", "2"], "6": ["4", "2"],
                            "7": ["4", "2"]}  # fmt: skip
    also = dict(zip(zip(table["query"], table["picture"], strict=True), table["also"], strict=True))
    assert also["1.png", "5.png"] == "6.png | 7.png" and also["4.png", "2.png"] == "1.png"
    assert also["1.png", "4.png"] == ""


def test_near_duplicates_are_kept_when_asked_for(make):
    images = make(_1=1, _2=1, _5=5)
    table = look_alikes(Numbered(), images, images, keep_near_duplicates=True)
    assert found(table) == {"1": ["2", "5"], "2": ["1", "5"], "5": ["2", "1"]}
    assert (table["also"] == "").all()


def test_near_duplicates_of_queries_of_their_own(make):
    query, gallery = make(_3=5), make(_1=1, _4=5, _6=6)
    assert found(look_alikes(Numbered(), query, gallery)) == {"3": ["1", "6"]}
    assert found(look_alikes(Numbered(), query, gallery, keep_near_duplicates=True)) == {"3": ["4", "1", "6"]}


def test_of_many_duplicates_a_few_are_named(make):
    images = make(_0=0, **{f"_{number}": 1 for number in range(1, 9)})
    also = look_alikes(Numbered(), images, images)["also"][0]
    assert also == "2.png | 3.png | 4.png | 5.png | 6.png | and 2 more"


@pytest.mark.parametrize("max_scores", [1, 40, 70, 110])
@pytest.mark.parametrize("keep", [False, True])
def test_blocks_change_nothing(monkeypatch, tmp_path, max_scores, keep):
    """Blocks of 1 to 5 columns; a third of the 22 pictures are near-duplicates, whose groups are larger than that."""
    rng = np.random.default_rng(0)
    groups = np.where(rng.random(22) < 0.35, 0, np.arange(22) // 2)
    monkeypatch.setattr(module, "_near_duplicates", lambda *_, **__: (groups, groups))
    for i in range(22):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(i), "PNG"))
    vectors = rng.standard_normal((22, 4)).astype(np.float32)

    def features(images):
        return vectors[images.rows]

    images = Images([f"{i}.png" for i in range(22)], [tmp_path / f"{i}.png" for i in range(22)])
    method = Similarity(features, centred=False)
    whole = look_alikes(method, images, images, top=4, keep_near_duplicates=keep)
    monkeypatch.setattr(parts, "MAX_SCORES", max_scores)
    by_blocks = look_alikes(method, images, images, top=4, keep_near_duplicates=keep)
    np.testing.assert_allclose(by_blocks["score"], whole["score"], atol=1e-6)
    assert by_blocks.drop(columns=["score", "similarity"]).equals(whole.drop(columns=["score", "similarity"]))
    assert (by_blocks["score"].diff()[by_blocks["rank"] > 1] <= 0).all()
    S = method.scores(images, images)
    own = np.arange(22) if keep else groups
    for query, rows in by_blocks.groupby("query"):
        row = int(query[:-4])
        best = [S[row, own == group].max() for group in np.unique(own) if group != own[row]]
        np.testing.assert_allclose(rows["score"], np.sort(best)[::-1][:4], atol=1e-6)


def test_a_standardised_sum_keeps_its_scores(make, monkeypatch):
    """Its scores depend on all pictures, so no blocks: those of the table are those of the method."""
    monkeypatch.setattr(parts, "MAX_SCORES", 4)
    images = make(_1=1, _2=2, _4=4, _9=9)
    method = WeightedSum([Numbered(), Numbered()]).fit(images)
    table = look_alikes(method, images, images, top=3)
    S = method.scores(images, images)
    expected = [
        S[images.ids.index(q), images.ids.index(p)] for q, p in zip(table["query"], table["picture"], strict=True)
    ]
    np.testing.assert_allclose(table["score"], expected, rtol=1e-6)
    np.testing.assert_allclose(table["similarity"], expected, rtol=1e-6)


def test_one_picture_alone_is_refused(make):
    one = make(_1=1)
    with pytest.raises(ValueError, match="at least one other picture"):
        look_alikes(Numbered(), one, one)
    with pytest.raises(ValueError, match="the 0 best"):
        look_alikes(Numbered(), make(_1=1, _2=2), make(_1=1, _2=2), top=0)


def test_only_duplicates_give_an_empty_table(make):
    images = make(_1=1, _2=1)
    table = look_alikes(Numbered(), images, images)
    assert len(table) == 0 and table.columns.tolist() == ["query", "rank", "picture", "score", "similarity", "also"]


# --- by an index ------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return tll_utils.load(project_root() / "tll_utils" / "search" / SHIPPED)


@pytest.mark.parametrize("is_same", [True, False])
def test_an_index_finds_what_is_found_without_it(sample, shipped, tmp_path, is_same):
    pytest.importorskip("faiss")
    gallery = Images(sample.right.ids[:30], sample.right.files[:30])
    queries = gallery if is_same else Images(sample.left.ids[:9], sample.left.files[:9])
    indexed = indexed_look_alikes(shipped, queries, gallery, tmp_path / "index", top=5)
    table = look_alikes(shipped, queries, gallery, top=5, keep_near_duplicates=True)
    shared = ["query", "rank", "picture", "also"]
    assert indexed[shared].equals(table[shared]) and len(table) == 5 * len(queries)
    np.testing.assert_allclose(indexed["score"], table["score"], atol=1e-4)
    assert indexed.columns.tolist() == ["query", "rank", "picture", "score", "similarity", "also"]


def test_an_index_grows_with_its_folder_and_finds_no_picture_that_has_gone(sample, shipped, tmp_path, monkeypatch):
    pytest.importorskip("faiss")

    def some(*rows):
        return Images([sample.right.ids[row] for row in rows], [sample.right.files[row] for row in rows])

    encoded_pictures = []
    monkeypatch.setattr(
        module,
        "vectors",
        lambda method, images, side: encoded_pictures.append(images.ids) or vectors(method, images, side),
    )
    updated_index(tmp_path / "index", shipped, some(0, 1, 2, 3, 4))
    updated_index(tmp_path / "index", shipped, some(0, 1, 2, 3, 4))
    assert encoded_pictures == [sample.right.ids[:5]]
    gallery = some(1, 2, 3, 4, 5, 6)
    query = Images(sample.left.ids[:3], sample.left.files[:3])
    indexed = indexed_look_alikes(shipped, query, gallery, tmp_path / "index", top=9)
    assert encoded_pictures[1:] == [gallery.ids[4:], query.ids]
    table = look_alikes(shipped, query, gallery, top=9, keep_near_duplicates=True)
    assert indexed[["query", "rank", "picture"]].equals(table[["query", "rank", "picture"]]) and len(table) == 18
    opened = open_index(tmp_path / "index")
    assert len(opened.ids) == 7 and [given["pictures"] for given in opened.facts["data"]] == [5, 2]


def test_an_index_refuses_what_it_cannot_compare_before_it_encodes(make, shipped, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    images = make(_1=1, _2=2)
    monkeypatch.setattr(module, "vectors", None)
    with pytest.raises(ValueError, match="scores of Numbered are no inner products"):
        indexed_look_alikes(Numbered(), images, images, tmp_path / "index")
    with pytest.raises(ValueError, match="at least one other picture"):
        indexed_look_alikes(shipped, images, images, tmp_path / "index", top=0)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(RuntimeError, match="pip install"):
        indexed_look_alikes(shipped, images, images, tmp_path / "index")
    assert not (tmp_path / "index").exists()
