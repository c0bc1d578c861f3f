"""Streaming extraction and its cache, with an extractor whose output is known: the image's mean colour."""

import json
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from tll_utils import embedding
from tll_utils.embedding import Extractor, embed


class FakeImages:
    """As much of `dataset.Images` as extraction uses; image i is filled with the value i % 251."""

    def __init__(self, n, fingerprint="f" * 64):
        self.n, self.fingerprint = n, fingerprint
        self.base, self.rows = self, np.arange(n)
        self.read = []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.read.append(int(i))
        return np.full((245, 200, 3), i % 251, np.uint8)

    def take(self, rows):
        view = FakeImages(len(rows), self.fingerprint)
        view.base, view.rows = self, np.asarray(rows)
        return view


def mean_colour(name="mean @1", encode=None):
    def means(batch):
        return {"mean": batch.mean(axis=(1, 2)), "double": 2 * batch.mean(axis=(1, 2))}

    return Extractor(name, lambda images, row: images[row].astype(np.float32), encode or means)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TLL_CACHE", str(tmp_path))
    monkeypatch.setenv("TLL_PROGRESS", "0")
    return tmp_path


def expected(n):
    return np.repeat(np.arange(n, dtype=np.float32)[:, None] % 251, 3, axis=1)


def test_embeddings_are_in_order_and_every_output_is_there():
    """Image i has the value i everywhere, so its mean colour is (i, i, i)."""
    arrays = embed(FakeImages(100), mean_colour())
    np.testing.assert_array_equal(arrays["mean"], expected(100))
    np.testing.assert_array_equal(arrays["double"], 2 * expected(100))
    assert arrays["mean"].dtype == np.float32


def test_rows_of_several_encoders_are_in_order():
    """Two batches are encoded at once, the even ones slowly; every row lands where its image is."""

    def uneven(batch):
        time.sleep(0.03 * (batch[0, 0, 0, 0] % (2 * embedding.BATCH_SIZE) == 0))
        return {"mean": batch.mean(axis=(1, 2))}

    arrays = embed(FakeImages(200), replace(mean_colour(encode=uneven), n_encoders=2))
    np.testing.assert_array_equal(arrays["mean"], expected(200))


def test_a_whole_side_cannot_be_changed_and_a_view_is_a_copy():
    images = FakeImages(5)
    with pytest.raises(ValueError, match="read-only"):
        embed(images, mean_colour())["mean"][0] = 9
    rows = embed(images.take([3, 1]), mean_colour())["mean"]
    rows[0] = 9
    np.testing.assert_array_equal(embed(images, mean_colour())["mean"], expected(5))


def test_second_call_reads_no_image():
    images = FakeImages(40)
    embed(images, mean_colour())
    images.read.clear()
    np.testing.assert_array_equal(embed(images, mean_colour())["mean"], expected(40))
    assert images.read == []


def test_a_view_gives_its_rows_of_the_whole():
    """Rows 7 and 3 of the whole, in that order; the whole is encoded once."""
    images = FakeImages(40)
    np.testing.assert_array_equal(embed(images.take([7, 3]), mean_colour())["mean"][:, 0], [7, 3])
    assert sorted(images.read) == list(range(40))


@pytest.mark.parametrize("change", ["name", "fingerprint"])
def test_another_extractor_or_data_set_is_another_cache(change):
    embed(FakeImages(10), mean_colour())
    images = FakeImages(10, "0" * 64 if change == "fingerprint" else "f" * 64)
    embed(images, mean_colour("mean @2" if change == "name" else "mean @1"))
    assert len(images.read) == 10


@pytest.mark.parametrize("damage", ["flipped byte", "truncated", "missing", "no checksums"])
def test_damaged_cache_is_made_again(cache, damage):
    embed(FakeImages(40), mean_colour())
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
        (file.parent / "complete.json").write_text("{")
    images = FakeImages(40)
    np.testing.assert_array_equal(embed(images, mean_colour())["mean"], expected(40))
    assert len(images.read) == 40


def test_interrupted_extraction_goes_on_where_it_stopped(cache):
    """Stopped in the third batch of 32, two batches are whole: the second run reads from image 64 on."""
    seen = []

    def fail_in_third_batch(batch):
        seen.append(len(batch))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return {"mean": batch.mean(axis=(1, 2))}

    with pytest.raises(KeyboardInterrupt):
        embed(FakeImages(100), mean_colour(encode=fail_in_third_batch))
    assert not list(cache.glob("embeddings/*/complete.json"))
    images = FakeImages(100)
    resumed = embed(images, mean_colour(encode=lambda batch: {"mean": batch.mean(axis=(1, 2))}))
    np.testing.assert_array_equal(resumed["mean"], expected(100))
    assert min(images.read) == 64


def test_half_written_rows_are_not_trusted(cache):
    """A partial file that ends inside the second batch counts as one batch."""
    embed(FakeImages(100), mean_colour())
    (folder,) = (cache / "embeddings").iterdir()
    (folder / "complete.json").unlink()
    for file in folder.glob("*.npy"):
        file.write_bytes(file.read_bytes()[: -50 * 3 * 4 - 5])
    folder.rename(folder.with_name(folder.name + ".partial"))
    images = FakeImages(100)
    np.testing.assert_array_equal(embed(images, mean_colour())["mean"], expected(100))
    assert min(images.read) == 32


def test_checksums_are_of_the_files_on_disk(cache):
    embed(FakeImages(5), mean_colour())
    (complete,) = cache.glob("embeddings/*/complete.json")
    assert sorted(json.loads(complete.read_text())) == ["double", "mean"]


def test_files_are_hashed_once_a_process(monkeypatch):
    """The file is hashed when it is written and when it is first read; later calls trust what was seen."""
    images = FakeImages(5)
    for _ in range(2):
        embed(images, mean_colour())
    monkeypatch.setattr(embedding.hashlib, "file_digest", None)  # hashing again would call it
    for _ in range(2):
        np.testing.assert_array_equal(embed(images, mean_colour())["mean"], expected(5))


def test_an_error_of_the_loader_is_passed_on():
    def broken(images, row):
        raise ValueError(f"image {row} is broken")

    with pytest.raises(ValueError, match="image 0 is broken"):
        embed(FakeImages(5), Extractor("broken @1", broken, lambda batch: {"mean": batch}))


def test_memory_does_not_grow_with_the_number_of_images():
    """A loaded image has 588 kB. Decoded ahead are 4 batches, 2 are at the encoder, and each of 2 workers holds one
    as list and stack: 10 batches of 19 MB. All 1,000 images together would be 588 MB."""
    tracemalloc.start()
    embed(FakeImages(1000), mean_colour())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    batch = embedding.BATCH_SIZE * 245 * 200 * 3 * 4
    assert peak < (4 + 2 + 2 * 2) * batch < 588e6 / 3
