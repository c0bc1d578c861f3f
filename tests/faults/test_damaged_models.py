"""Damaged weights, caches and saved models are healed or named; no pickle in them ever runs."""

import json
import pickle
import shutil

import numpy as np
import pytest
from faults.damage import DAMAGE, FLIPS, damaged, fuzz, one_line
from hypothesis import strategies as st

from conftest import encoded, picture
from scripts.scoring import read_arrays, write_arrays
from tll_utils.data.images import Images
from tll_utils.features.embedding import Extractor, embed
from tll_utils.runtime import DAMAGED, keras

CHANGES = st.one_of(FLIPS, DAMAGE)


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return exit, ("unpickled",)


ARRAYS = [np.arange(1200, dtype=np.float32).reshape(1280 // 32, 30), np.arange(7), np.float32(3)]


def test_damaged_caches_of_arrays_are_whole_or_refused(tmp_path, volume):
    """Also where the damage is to the shape an array says it has: then not all of it would be read."""
    path = tmp_path / "a.npz"
    write_arrays(path, ARRAYS, {"seconds": 2.5})
    data = path.read_bytes()

    def arrays(changes):
        path.write_bytes(damaged(data, changes))
        try:
            found, facts = read_arrays(path)
        except DAMAGED:
            return "refused"
        assert facts == {"seconds": 2.5}
        for one, expected in zip(found, ARRAYS, strict=True):
            np.testing.assert_array_equal(one, expected, strict=True)
        return "right"

    fuzz(arrays, 1500 if volume else 30, changes=CHANGES)


def test_a_shorter_shape_is_no_whole_array(tmp_path):
    path = tmp_path / "a.npz"
    write_arrays(path, ARRAYS)
    assert b"(40, 30)" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"(40, 30)", b"(40, 10)"))
    with pytest.raises(ValueError, match="is damaged"):
        read_arrays(path)


def test_a_pickle_for_a_cache_never_runs(tmp_path):
    np.savez(tmp_path / "a.npz", np.array([Bomb()], dtype=object))
    for data in (pickle.dumps(Bomb()), (tmp_path / "a.npz").read_bytes()):
        (tmp_path / "a.npz").write_bytes(data)
        with pytest.raises(DAMAGED):
            read_arrays(tmp_path / "a.npz")


def test_damaged_embeddings_are_made_again(tmp_path, monkeypatch, volume):
    """Whichever file of the cache is damaged, the numbers are the sound ones."""
    monkeypatch.setenv("TLL_PROGRESS", "0")
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(encoded(picture(i)))
    images = Images("abc", [tmp_path / f"{i}.jpg" for i in range(3)])
    extractor = Extractor("sums @1", lambda images, row: row, lambda rows: {"sum": np.array(rows)[:, None] * 2.0})
    monkeypatch.setenv("TLL_CACHE", str(tmp_path / "sound"))
    embed(images, extractor)
    [sound] = (tmp_path / "sound" / "embeddings").iterdir()
    places = iter(range(10**6))  # of each example: a hash is remembered for a path, its size and its time

    def embeddings(name, changes):
        cache = tmp_path / f"cache{next(places)}"
        folder = shutil.copytree(sound, cache / "embeddings" / sound.name)
        (folder / name).write_bytes(damaged((folder / name).read_bytes(), changes))
        monkeypatch.setenv("TLL_CACHE", str(cache))
        np.testing.assert_array_equal(embed(images, extractor)["sum"], [[0], [2], [4]])
        shutil.rmtree(cache)
        return "right"

    names = st.sampled_from(sorted(path.name for path in sound.iterdir() if path.suffix in (".npy", ".json")))
    fuzz(embeddings, 400 if volume else 10, name=names, changes=CHANGES)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved model with arrays and a network."""
    from tll_utils.features.catalogue import Features
    from tll_utils.methods.base import Similarity, WeightedSum
    from tll_utils.methods.fine_tuning import FineTuned
    from tll_utils.search.saving import save

    similarity, tuned = Similarity(Features("lite0_head", "head_average")), FineTuned("efficientnet_lite0")
    similarity.means_ = [np.arange(3, dtype=np.float32), np.arange(6.0)]
    maps = keras.Input((3,))
    tuned.encoder_, tuned.loss_ = keras.Model(maps, keras.layers.Dense(2)(maps)), [0.125]
    whole = WeightedSum([similarity, tuned])
    whole.members_ = [similarity, tuned]
    save(whole, folder := tmp_path_factory.mktemp("saved") / "one")
    return folder


PARTS = ["model.json", "arrays.safetensors", "README.md", "networks/2.keras"]


@pytest.mark.parametrize("certified", [False, True])
def test_damaged_models_are_named(certified, model, tmp_path, volume):
    """With the hash of the sound file, and with one that fits, as an attacker would write it; changes of model.json
    that mean nothing, such as another blank, may pass."""
    from hashlib import sha256

    from tll_utils.search.saving import load
    from tll_utils.search.tree import ModelError

    places = iter(range(10**6))

    def models(name, changes):
        folder = shutil.copytree(model, tmp_path / str(next(places)))
        data = damaged((folder / name).read_bytes(), changes)
        is_changed = data != (folder / name).read_bytes()
        (folder / name).write_bytes(data)
        if certified and name != "model.json":
            facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            facts["sha256"][name] = sha256(data).hexdigest()
            (folder / "model.json").write_text(json.dumps(facts), encoding="utf-8")
        try:
            loaded = load(folder)
        except ModelError as error:
            assert "copy the whole folder again" in one_line(error) and str(folder) in str(error)
            return "named"
        finally:
            shutil.rmtree(folder)
        assert certified or name == "model.json" or not is_changed
        if not certified:
            np.testing.assert_array_equal(loaded.members_[0].means_[1], np.arange(6.0))
        return "loaded"

    fuzz(models, (400 if certified else 800) if volume else 8, name=st.sampled_from(PARTS), changes=CHANGES)
