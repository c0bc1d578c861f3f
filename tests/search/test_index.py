"""An index: what it finds, how it grows, and what it refuses."""

import json
import sys

import numpy as np
import pytest

from tll_utils.search import index as module
from tll_utils.search.index import FILES, add, build_index, open_index, search, search_shards

faiss = pytest.importorskip("faiss")


def clustered(n, d=32, n_clusters=100, seed=0):
    """Vectors of length one about some centres, float32 (n, d), which are the same for every seed."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((n_clusters, d))
    vectors = centres[rng.integers(0, n_clusters, n)] + rng.standard_normal((n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def ids_of(n, start=0):
    return [f"{row}.jpg" for row in range(start, start + n)]


def exact(vectors, queries, top):
    return np.argsort(-queries @ vectors.T, axis=1, kind="stable")[:, :top]


def recall(found, expected):
    return np.mean([len({*a} & {*b}) / len(b) for a, b in zip(found, expected, strict=True)])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "index"


@pytest.fixture
def small(monkeypatch):
    """Indexes of more than 600 vectors are approximate; 64 vectors are a block."""
    monkeypatch.setattr(module, "MAX_FLAT", 600)
    monkeypatch.setattr(module, "BLOCK", 64)


def test_a_small_index_is_exact(folder):
    vectors, queries = clustered(300), clustered(20, seed=1)
    build_index(folder, ids_of(300), vectors, model="m", data={"fingerprint": "f"})
    opened = open_index(folder, "m")
    scores, rows = search(opened, queries, 7)
    np.testing.assert_array_equal(rows, exact(vectors, queries, 7))
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ vectors.T, rows, axis=1), atol=1e-6)
    assert scores.dtype == np.float32 and opened.ids == ids_of(300)
    assert opened.facts["model"] == "m" and opened.facts["data"] == [{"fingerprint": "f"}]
    assert {path.name for path in folder.iterdir()} == {*FILES}


@pytest.mark.parametrize("n", [50, 2000])
def test_only_chosen_rows_are_found_and_what_is_missing_is_marked(small, folder, n):
    vectors, queries = clustered(n), clustered(9, seed=1)
    build_index(folder, ids_of(n), vectors, model="m")
    among = np.arange(n) % 10 == 3
    scores, rows = search(open_index(folder), queries, 8, among=among)
    assert among[rows[rows >= 0]].all() and ((rows >= 0).sum(axis=1) == min(8, among.sum())).all()
    assert (scores[rows < 0] == -np.inf).all() and np.isfinite(scores[rows >= 0]).all()


def test_no_query_gives_nothing(folder):
    build_index(folder, ids_of(5), clustered(5), model="m")
    scores, rows = search(open_index(folder), np.empty((0, 32), np.float32), 3)
    assert scores.shape == rows.shape == (0, 3)


@pytest.mark.parametrize("is_mapped", [False, True])
def test_a_large_index_finds_nearly_all(small, folder, tmp_path, is_mapped):
    vectors, queries = clustered(6000), clustered(200, seed=1)
    if is_mapped:
        np.save(tmp_path / "vectors.npy", vectors)
        vectors = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    build_index(folder, ids_of(6000), vectors, model="m")
    opened = open_index(folder)
    assert isinstance(opened.vectors, faiss.IndexHNSW) and opened.vectors.hnsw.efSearch == module.EF_SEARCH
    scores, rows = search(opened, queries, 10)
    assert recall(rows, exact(vectors, queries, 10)) >= 0.95
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ vectors.T, rows, axis=1), atol=0.02)


# --- growing ----------------------------------------------------------------------------


def test_new_pictures_are_added_and_known_ones_passed_over(folder):
    vectors, queries = clustered(100), clustered(9, seed=1)
    build_index(folder, ids_of(60), vectors[:60], model="m", data="first")
    assert add(folder, ids_of(60, 40), np.vstack([-vectors[40:60], vectors[60:]]), model="m", data="more") == 40
    opened = open_index(folder)
    assert opened.ids == ids_of(100) and opened.facts["data"] == ["first", "more"]
    np.testing.assert_array_equal(search(opened, queries, 5)[1], exact(vectors, queries, 5))


def test_an_exact_index_that_outgrows_its_limit_becomes_a_large_one_and_grows_on(small, folder):
    vectors, queries = clustered(3000), clustered(100, seed=1)
    build_index(folder, ids_of(500), vectors[:500], model="m")
    for start, stop in ((500, 2000), (2000, 3000)):
        add(folder, ids_of(stop - start, start), vectors[start:stop], model="m")
        assert isinstance(open_index(folder).vectors, faiss.IndexHNSW)
    opened = open_index(folder)
    assert opened.vectors.ntotal == len(opened.ids) == 3000
    assert recall(search(opened, queries, 10)[1], exact(vectors, queries, 10)) >= 0.95


def test_shards_together_are_the_whole(folder, tmp_path):
    """The third has fewer pictures than are asked for."""
    vectors, queries = clustered(205), clustered(9, seed=1)
    build_index(folder, ids_of(205), vectors, model="m")
    shards = [tmp_path / f"shard{i}" for i in range(3)]
    for shard, start, stop in zip(shards, (0, 100, 200), (100, 200, 205), strict=True):
        build_index(shard, ids_of(stop - start, start), vectors[start:stop], model="m")
    scores, names = search_shards(shards, queries, 12, model="m")
    expected, rows = search(open_index(folder), queries, 12)
    np.testing.assert_array_equal(names, np.array(ids_of(205))[rows])
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    few, missing = search_shards(shards[2:], queries, 7)
    assert (missing[:, 5:] == "").all() and (few[:, 5:] == -np.inf).all() and (missing[:, :5] != "").all()


# --- what is refused --------------------------------------------------------------------


def test_another_models_index_is_refused(folder, tmp_path):
    build_index(folder, ids_of(5), clustered(5), model="one")
    for use in (lambda: open_index(folder, "other"), lambda: search_shards([folder], clustered(1), 1, model="other"),
                lambda: add(folder, ids_of(9), clustered(9), model="other")):  # fmt: skip
        with pytest.raises(ValueError, match=r"index was made with another model \(.*\): name that model, or"):
            use()
    assert len(open_index(folder, "one").ids) == 5


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_index_is_one_line_with_the_remedy(folder, file, damage):
    build_index(folder, ids_of(5), clustered(5), model="m")
    path = folder / file
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-9] if damage == "cut" else content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    named = r"\w+\.json" if file == "index.json" else file  # it holds the others' hashes: theirs may be what differs
    with pytest.raises(ValueError, match=rf"{named} cannot be read \(.*\): delete the folder") as error:
        open_index(folder)
    assert "\n" not in str(error.value)


def test_an_index_of_a_later_version_is_refused(folder):
    build_index(folder, ids_of(5), clustered(5), model="m")
    facts = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    (folder / "index.json").write_text(json.dumps(facts | {"format": 99}), encoding="utf-8")
    with pytest.raises(ValueError, match="its format is 99"):
        open_index(folder)


def test_a_folder_of_something_else_is_left_alone(folder):
    folder.mkdir()
    (folder / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="something other than an index"):
        build_index(folder, ids_of(5), clustered(5), model="m")
    assert (folder / "mine.txt").exists()


@pytest.mark.parametrize("ids", [[], ["a"], ["a", "a"]])
def test_every_vector_has_an_id_of_its_own(folder, ids):
    with pytest.raises(ValueError, match="an id of its own"):
        build_index(folder, ids, clustered(2 if ids else 0), model="m")


def test_widths_that_differ_are_refused(folder):
    build_index(folder, ids_of(5), clustered(5), model="m")
    with pytest.raises(ValueError, match="of width 32"):
        search(open_index(folder), clustered(2, d=16), 1)
    with pytest.raises(ValueError, match="of width 32"):
        add(folder, ["new"], clustered(1, d=16), model="m")


def test_a_write_that_fails_leaves_the_old_index(folder, monkeypatch):
    vectors = clustered(9)
    build_index(folder, ids_of(5), vectors[:5], model="m")

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(module, "write_text", fails)
    with pytest.raises(OSError, match="disk full"):
        add(folder, ids_of(9), vectors, model="m")
    assert open_index(folder).ids == ids_of(5) and [path.name for path in folder.parent.iterdir()] == ["index"]


def test_faiss_errors_of_writing_are_one_line(folder, monkeypatch):
    def fails(*_):
        raise RuntimeError("Error in write\nat io.cpp: no space left")

    monkeypatch.setattr(faiss, "write_index", fails)
    with pytest.raises(ValueError, match=r"index.faiss cannot be written \(Error in write at .*free some space$"):
        build_index(folder, ids_of(5), clustered(5), model="m")
    assert not folder.exists()


def test_without_faiss_the_remedy_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(RuntimeError, match=r"pip install 'tll-utils\[large\]'"):
        build_index(folder, ids_of(5), clustered(5), model="m")
