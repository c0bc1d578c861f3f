"""Streaming extraction and its cache, with an extractor whose output is known: the image's mean colour."""

import json
import signal
import subprocess
import sys
import time
import tracemalloc
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tll_utils.data.images import Images
from tll_utils.features import embedding
from tll_utils.features.embedding import Extractor, embed


class FakeImages:
    """As much of `data.images.Images` as extraction uses; image i is filled with the value i % 251."""

    view = ""

    def __init__(self, n, fingerprint="f" * 64):
        self.n, self.fingerprint = n, fingerprint
        self.base, self.whole, self.rows = self, self, np.arange(n)
        self.read = []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.read.append(int(i))
        return np.full((245, 200, 3), i % 251, np.uint8)

    def take(self, rows):
        view = FakeImages(len(rows), self.fingerprint)
        view.base, view.whole, view.rows = self, self, np.asarray(rows)
        return view


def load(images, row):
    return images[row].astype(np.float32)


def means(batch):
    mean = np.stack([image.mean(axis=(0, 1)) for image in batch])
    return {"mean": mean, "double": 2 * mean}


MEAN_COLOUR = Extractor("mean @1", load, means)


def expected(n):
    return np.repeat(np.arange(n, dtype=np.float32)[:, None] % 251, 3, axis=1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TLL_CACHE", str(tmp_path))
    monkeypatch.setenv("TLL_PROGRESS", "0")
    return tmp_path


def test_embeddings_are_in_order_and_every_output_is_there():
    """Image i has the value i everywhere, so its mean colour is (i, i, i)."""
    arrays = embed(FakeImages(100), MEAN_COLOUR)
    np.testing.assert_array_equal(arrays["mean"], expected(100))
    np.testing.assert_array_equal(arrays["double"], 2 * expected(100))
    assert arrays["mean"].dtype == np.float32


def test_loaded_arrays_may_differ_in_shape():
    """Image i is loaded as i + 1 zeros; `encode` is given the list, and counts them."""
    counting = Extractor(
        "count @1",
        lambda images, row: np.zeros(row + 1),
        lambda batch: {"n": np.array([[len(array)] for array in batch])},
    )
    np.testing.assert_array_equal(embed(FakeImages(40), counting)["n"][:, 0], np.arange(1, 41))


def test_rows_of_several_encoders_are_in_order():
    """Two batches are encoded at once, the even ones slowly; every row lands where its image is."""

    def uneven(batch):
        time.sleep(0.03 * (batch[0][0, 0, 0] % (2 * embedding.BATCH_SIZE) == 0))
        return means(batch)

    arrays = embed(FakeImages(200), replace(MEAN_COLOUR, encode=uneven, n_encoders=2))
    np.testing.assert_array_equal(arrays["mean"], expected(200))


def test_a_whole_folder_cannot_be_changed_and_rows_of_it_are_a_copy():
    images = FakeImages(5)
    with pytest.raises(ValueError, match="read-only"):
        embed(images, MEAN_COLOUR)["mean"][0] = 9
    rows = embed(images.take([3, 1]), MEAN_COLOUR)["mean"]
    rows[0] = 9
    np.testing.assert_array_equal(embed(images, MEAN_COLOUR)["mean"], expected(5))


def test_second_call_reads_no_image():
    images = FakeImages(40)
    embed(images, MEAN_COLOUR)
    images.read.clear()
    np.testing.assert_array_equal(embed(images, MEAN_COLOUR)["mean"], expected(40))
    assert images.read == []


def test_rows_are_those_of_the_whole_folder():
    """Rows 7 and 3, in that order; the whole folder is encoded once."""
    images = FakeImages(40)
    np.testing.assert_array_equal(embed(images.take([7, 3]), MEAN_COLOUR)["mean"][:, 0], [7, 3])
    assert sorted(images.read) == list(range(40))


@pytest.mark.parametrize("change", ["name", "fingerprint"])
def test_another_extractor_or_data_set_is_another_cache(change):
    embed(FakeImages(10), MEAN_COLOUR)
    images = FakeImages(10, "0" * 64 if change == "fingerprint" else "f" * 64)
    embed(images, replace(MEAN_COLOUR, name="mean @2") if change == "name" else MEAN_COLOUR)
    assert len(images.read) == 10


def test_views_are_cached_apart(tiny):
    """Of each view the whole folder is encoded as the view shows it: here the top left pixel of a bordered image."""
    files = sorted((tiny / "train" / "left").iterdir())
    images = Images([path.stem for path in files], files)
    corner = Extractor("corner @1", lambda images, row: images[row][0, 0], lambda batch: {"corner": np.stack(batch)})
    for view in (images, images.cropped(), images.mirrored(), images.cropped().mirrored()):
        rows = embed(view.take([4, 2]), corner)["corner"]
        np.testing.assert_array_equal(rows, [view[4][0, 0], view[2][0, 0]])
        assert len(embed(view, corner)["corner"]) == 6
    assert len(list((tiny.parent / "cache" / "embeddings").iterdir())) == 4


@pytest.mark.parametrize("damage", ["flipped byte", "truncated", "missing", "no checksums", "[]", "{}", ""])
def test_damaged_cache_is_made_again(cache, damage):
    embed(FakeImages(40), MEAN_COLOUR)
    (file,) = cache.glob("embeddings/*/mean.npy")
    data = bytearray(file.read_bytes())
    if damage == "flipped byte":
        data[-2] ^= 0xFF
        file.write_bytes(data)
    elif damage == "truncated":
        file.write_bytes(data[:-8])
    elif damage == "missing":
        file.unlink()
    else:
        (file.parent / "complete.json").write_text("{" if damage == "no checksums" else damage, encoding="utf-8")
    images = FakeImages(40)
    np.testing.assert_array_equal(embed(images, MEAN_COLOUR)["mean"], expected(40))
    assert len(images.read) == 40


KILLED = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_embedding import MEAN_COLOUR, FakeImages, embed, means, replace

def encode(batch):
    if batch[0][0, 0, 0] == 64:  # the third batch of 32
        while not list(Path(os.environ["TLL_CACHE"]).glob("embeddings/*/rows_done.txt")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return means(batch)

embed(FakeImages(100), replace(MEAN_COLOUR, encode=encode))
"""


def test_a_killed_extraction_continues_where_it_stopped(cache):
    """Killed in the third batch of 32 the cache holds at most two, none of them under its final name."""
    killed = subprocess.run([sys.executable, "-c", KILLED, str(Path(__file__).parent)])
    assert killed.returncode == -signal.SIGKILL
    assert not list(cache.glob("embeddings/*/complete.json"))
    (noted,) = cache.glob("embeddings/*/rows_done.txt")
    done = int(noted.read_text(encoding="utf-8").split()[0])
    images = FakeImages(100)
    np.testing.assert_array_equal(embed(images, MEAN_COLOUR)["mean"], expected(100))
    assert done in (32, 64) and min(images.read) == done


@pytest.mark.parametrize("damage", ["no array", "empty array", "short array", "no number", "other number", "no text"])
def test_an_interrupted_extraction_whose_files_are_damaged_begins_anew(cache, damage):
    def stopped(batch):
        return 1 / 0 if batch[0][0, 0, 0] == 64 else means(batch)

    with pytest.raises(ZeroDivisionError):
        embed(FakeImages(100), replace(MEAN_COLOUR, encode=stopped))
    (noted,) = cache.glob("embeddings/*/rows_done.txt")
    array = noted.with_name("double.npy")
    if "array" in damage:
        data = array.read_bytes()
        array.unlink()
        if damage != "no array":
            array.write_bytes(b"" if damage == "empty array" else data[:-8])
    else:
        noted.write_bytes({"no number": b"many mean", "other number": b"999 mean", "no text": b"\xff\x00"}[damage])
    images = FakeImages(100)
    np.testing.assert_array_equal(embed(images, MEAN_COLOUR)["double"], 2 * expected(100))
    assert min(images.read) == 0


def test_a_new_cache_is_read_back_when_its_lock_is_gone(cache, monkeypatch):
    """Of a run that is killed while it reads the lock would stay for good: who finds a finished cache takes none."""
    is_locked, finished = [], embedding._finished

    def watched(folder):
        is_locked.append(folder.with_name(f".{folder.name}.lock").exists())
        return finished(folder)

    monkeypatch.setattr(embedding, "_finished", watched)
    embed(FakeImages(5), MEAN_COLOUR)
    assert is_locked == [False, True, False]


AT_ONCE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_embedding import MEAN_COLOUR, FakeImages, embed, expected, means, np, replace

def encode(batch):
    time.sleep(0.2)
    return means(batch)

images = FakeImages(320)
np.testing.assert_array_equal(embed(images, replace(MEAN_COLOUR, encode=encode))["mean"], expected(320))
print(len(images.read))
"""


def test_of_two_runs_at_once_one_waits_for_the_other_and_takes_its_rows(cache):
    command = [sys.executable, "-c", AT_ONCE, str(Path(__file__).parent)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    runs = [subprocess.Popen(command, **pipes) for _ in range(2)]
    outputs = [run.communicate() for run in runs]
    assert sorted(out for out, _ in outputs) == ["0\n", "320\n"], outputs
    assert sum(err.count("waiting for another run") for _, err in outputs) == 1
    np.testing.assert_array_equal(embed(FakeImages(320), MEAN_COLOUR)["mean"], expected(320))
    assert len(list((cache / "embeddings").iterdir())) == 1


def test_runs_that_cannot_lock_do_not_write_into_each_others_files(cache, monkeypatch):
    """A file system without locks: the second run begins while the first is in its second batch."""

    @contextmanager
    def no_lock(path):
        yield False

    def encode(batch):
        if batch[0][0, 0, 0] == 32:
            embed(FakeImages(100), MEAN_COLOUR)
        return means(batch)

    monkeypatch.setattr(embedding, "locked", no_lock)
    arrays = embed(FakeImages(100), replace(MEAN_COLOUR, encode=encode))
    np.testing.assert_array_equal(arrays["double"], 2 * expected(100))
    assert len(list((cache / "embeddings").iterdir())) == 1


class Unwritable:
    def __array__(self, *_, **__):
        raise KeyboardInterrupt


@pytest.mark.parametrize("batch", [0, 1])
def test_rows_count_as_done_when_all_outputs_have_them(batch):
    """Stopped between the two outputs of the first or second batch, that batch is read again."""

    def stopped(arrays):
        outputs = means(arrays)
        return outputs if arrays[0][0, 0, 0] != 32 * batch else outputs | {"double": Unwritable()}

    with pytest.raises(KeyboardInterrupt):
        embed(FakeImages(100), replace(MEAN_COLOUR, encode=stopped))
    images = FakeImages(100)
    arrays = embed(images, MEAN_COLOUR)
    np.testing.assert_array_equal(arrays["mean"], expected(100))
    np.testing.assert_array_equal(arrays["double"], 2 * expected(100))
    assert min(images.read) == 32 * batch


def test_checksums_are_of_the_files_on_disk(cache):
    embed(FakeImages(5), MEAN_COLOUR)
    (complete,) = cache.glob("embeddings/*/complete.json")
    assert sorted(json.loads(complete.read_text(encoding="utf-8"))) == ["double", "mean"]


def test_an_error_of_the_loader_is_passed_on():
    def broken(images, row):
        raise ValueError(f"image {row} is broken")

    with pytest.raises(ValueError, match="image 0 is broken"):
        embed(FakeImages(5), replace(MEAN_COLOUR, load=broken))


def test_memory_does_not_grow_with_the_number_of_images():
    """A loaded image has 588 kB. Decoded ahead are 4 batches, 2 are at the encoder, and each of 2 workers holds one
    more: 8 batches of 19 MB. All 600 images together would be 353 MB."""
    tracemalloc.start()
    embed(FakeImages(600), MEAN_COLOUR)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    batch = embedding.BATCH_SIZE * 245 * 200 * 3 * 4
    assert peak < (4 + 2 + 2) * batch < 353e6 / 2
