"""Embeddings by Ray: those of the ordinary code, also after a worker's death, and what is done stays done."""

import os
import shutil
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tll_utils.data.folds import hash_bits
from tll_utils.features.faces import find_faces
from tll_utils.runtime import project_root
from tll_utils.search import cluster
from tll_utils.search.commands import SHIPPED, model_folder
from tll_utils.search.pictures import collect
from tll_utils.search.saving import load
from tll_utils.search.vectors import vectors

pytest.importorskip("pyarrow", reason="pip install 'tll-utils[cluster]'")
pytest.importorskip("fsspec", reason="pip install 'tll-utils[cluster]'")
import pyarrow as pa
from pyarrow import parquet

LEFTS = project_root() / "data" / "sample" / "train" / "left"
MODEL = model_folder(SHIPPED)


@contextmanager
def environment(**variables):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(autouse=True)
def own_variables(tmp_path):
    """A worker sets variables of its process, here that of the tests."""
    names = ("TLL_CACHE", "LOKY_MAX_CPU_COUNT", "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")
    with environment(TLL_PROGRESS="0", **dict.fromkeys(names, "")), environment(TLL_CACHE=str(tmp_path / "cache")):
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """24 images of the sample and one that is damaged."""
    folder = tmp_path_factory.mktemp("pictures")
    for file in sorted(LEFTS.glob("*.jpg"))[:24]:
        shutil.copy(file, folder)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(50))
    return folder


@pytest.fixture(scope="module")
def plain(pictures, tmp_path_factory):
    """Ids and vectors of the ordinary code, hashes and faces, and the reasons of what cannot be used."""
    with environment(TLL_CACHE=str(tmp_path_factory.mktemp("plain")), TLL_PROGRESS="0"):
        images, unreadable = collect(pictures)
        bits = np.array([hash_bits(images, row) for row in range(len(images))])
        faces = [bool(find_faces(image)) for image in images]
        return images.ids, np.array(vectors(load(MODEL), images, 1)), bits, faces, dict(unreadable.to_numpy())


def assert_equal(table, plain):
    """Rows in any order are those of the ordinary code."""
    ids, embeddings, bits, faces, problems = plain
    table = table.sort_by("id")
    good = table.filter(pa.compute.is_valid(table["embedding"]))
    assert good["id"].to_pylist() == list(ids)
    np.testing.assert_allclose(np.array(good["embedding"].to_pylist()), embeddings, rtol=0, atol=1e-5)
    for name, side in (("hash_whole", 0), ("hash_cropped", 1)):
        hashes = good[name].to_numpy().view(np.uint8).reshape(-1, 8)
        assert (np.unpackbits(hashes, axis=1) == bits[:, side]).all()
    assert "face" not in good.column_names or good["face"].to_pylist() == faces
    bad = table.filter(pa.compute.is_null(table["embedding"])).to_pylist()
    assert {row["id"]: row["problem"] for row in bad} == problems
    assert all(set(row.values()) == {row["id"], row["problem"], None} for row in bad)
    assert good["problem"].null_count == len(good)


def batch(folder, names):
    return pa.table({"id": names, "place": [str(folder / name) for name in names]})


def test_a_batch_has_the_rows_of_the_ordinary_code(pictures, plain):
    table = cluster.Embedder(str(MODEL), "right", True)(batch(pictures, sorted(os.listdir(pictures))))
    assert_equal(table, plain)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), plain[1].shape[1])
    assert table.schema.field("hash_whole").type == table.schema.field("hash_cropped").type == pa.uint64()
    assert 0 < sum(plain[3]) < len(plain[3])


def test_a_batch_without_any_usable_picture_has_the_same_columns(pictures):
    embedder = cluster.Embedder(str(MODEL), "left", False)
    bad, good = (embedder(batch(pictures, [name])) for name in ("broken.jpg", sorted(os.listdir(pictures))[0]))
    assert bad.schema == good.schema and bad["embedding"].null_count == 1 and good["embedding"].null_count == 0


def test_without_ray_the_remedy_is_named(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "ray.data", raising=False)
    with pytest.raises(ValueError, match=r"Ray — pip install 'tll-utils\[cluster\]'"):
        cluster.embed_pictures(str(pictures), str(tmp_path / "out"), MODEL)
    assert not (tmp_path / "out").exists()


# --- with Ray -------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray():
    """A local Ray of two cores, whose workers are as nice as the tests: by default they give way to everything."""
    ray = pytest.importorskip("ray", reason="pip install 'tll-utils[cluster]'")
    with environment(RAY_worker_niceness="0", RAY_USAGE_STATS_ENABLED="0"):
        options = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "object_store_memory": 10**8}
        ray.init("local", logging_level="ERROR", **options)
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def embedded(ray, pictures, tmp_path_factory):
    """The rows of two workers, and what the run said."""
    out = tmp_path_factory.mktemp("embedded") / "parquet"
    with environment(TLL_PROGRESS="0"):
        return out, cluster.embed_pictures(str(pictures), out.as_uri(), MODEL, faces=True, workers=2)


@pytest.fixture
def copy(embedded, tmp_path):
    """A copy of these rows to damage or to add to."""
    return shutil.copytree(embedded[0], tmp_path / "parquet")


def test_two_workers_write_the_rows_of_the_ordinary_code(embedded, plain):
    out, summary = embedded
    assert summary == (0, 25, 1) and len(list(out.glob("*.parquet"))) > 2
    assert_equal(parquet.read_table(out), plain)


def test_what_is_done_is_not_done_again(pictures, copy, monkeypatch):
    """A row that cannot be used counts as done too: no worker is started."""
    monkeypatch.setattr(cluster, "_run", None)
    assert cluster.embed_pictures(str(pictures), str(copy), MODEL, faces=True) == (25, 0, 0)


@pytest.mark.parametrize("option", [{"side": "left"}, {"faces": False}])
def test_rows_of_another_kind_are_not_mixed(option, pictures, copy):
    with pytest.raises(ValueError, match=rf"another {next(iter(option))}: name another folder"):
        cluster.embed_pictures(str(pictures), str(copy), MODEL, **{"faces": True} | option)


def test_a_folder_of_something_else_is_left_alone(ray, pictures):
    with pytest.raises(ValueError, match="something other than embeddings"):
        cluster.embed_pictures(str(pictures), str(pictures), MODEL)
    assert not (pictures / cluster.SETTINGS).exists()


def test_a_killed_worker_and_an_unfinished_part_leave_no_trace(pictures, copy, plain, tmp_path, monkeypatch):
    """Of two parts one is gone and one is cut off; the worker that makes them again is killed in its first batch."""
    gone, cut, *_ = sorted(copy.glob("*.parquet"))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-100])
    mark = str(tmp_path / "killed")

    class Killed(cluster.Embedder):  # local, so that Ray passes it on as a value
        def __call__(self, batch):
            if not Path(mark).exists():
                Path(mark).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    monkeypatch.setattr(cluster, "Embedder", Killed)
    summary = cluster.embed_pictures(str(pictures), str(copy), MODEL, faces=True, workers=1)
    assert Path(mark).exists() and not cut.exists()
    assert summary.there + summary.added == 25 and summary.added > 1
    assert_equal(parquet.read_table(copy), plain)


def test_a_worker_that_dies_again_and_again_ends_the_run(pictures, copy, tmp_path, monkeypatch):
    """As one does that its machine's memory is too small for; what is done stays."""

    class Killed(cluster.Embedder):
        def __init__(self, *_):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(cluster, "Embedder", Killed)
    monkeypatch.setattr(cluster, "RESTARTS", 1)
    gone, *there = sorted(copy.glob("*.parquet"))
    gone.unlink()
    with pytest.raises(RuntimeError, match=r"a worker failed \(.*\): run it again, which goes on from there"):
        cluster.embed_pictures(str(pictures), str(copy), MODEL, faces=True, workers=1)
    assert sorted(copy.glob("*.parquet")) == there
