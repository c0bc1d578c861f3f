"""Near-duplicates of many images: the very groups that comparing all with all gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tll_utils.data.dataset import load_dataset
from tll_utils.data.folds import groups_of_hashes, hash_bits
from tll_utils.runtime import project_root
from tll_utils.search import near_duplicates
from tll_utils.search.near_duplicates import indexed_groups, near_duplicate_groups


@pytest.fixture
def small_blocks(monkeypatch):
    for name, size in {"CHUNK": 64, "MAX_PAIRS": 30}.items():
        monkeypatch.setattr(near_duplicates, name, size)


def planted_hashes(n: int, share: float, seed: int) -> np.ndarray:
    """Random hashes, bool (n, 2, 64); a share of them copy another, in one kind or both, but for 0 to 14 bits."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (n, 2, 64)).astype(bool)
    for row in np.flatnonzero(rng.random(n) < share):
        for kind in rng.choice(2, rng.integers(1, 3), replace=False):
            bits[row, kind] = bits[rng.integers(n), kind]
            bits[row, kind, rng.choice(64, rng.integers(15), replace=False)] ^= True
    return bits


@given(st.integers(1, 300), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_planted_duplicates_give_the_same_groups(n, share, seed):
    bits = planted_hashes(n, share, seed)
    with pytest.MonkeyPatch.context() as patch:
        for name, size in {"CHUNK": 64, "MAX_PAIRS": 30}.items():
            patch.setattr(near_duplicates, name, size)
        np.testing.assert_array_equal(indexed_groups(bits), groups_of_hashes(bits, n))


@pytest.mark.parametrize(("distance", "n_groups"), [(10, 1), (11, 2)])
@pytest.mark.parametrize("kind", [0, 1])
def test_ten_bits_of_either_kind_are_near(distance, n_groups, kind):
    bits = np.random.default_rng(0).integers(0, 2, (2, 2, 64)).astype(bool)
    bits[1, kind] = bits[0, kind]
    bits[1, kind, :distance] ^= True
    assert len(np.unique(indexed_groups(bits))) == n_groups


def test_a_dense_group_is_one_group(small_blocks):
    """Two thousand hashes of two bits about one centre make two million pairs: they are contracted on the way."""
    rng = np.random.default_rng(0)
    bits = np.zeros((2000, 2, 64), bool)
    bits[np.arange(2000)[:, None], :, rng.integers(0, 64, (2000, 2))] = True
    assert (indexed_groups(bits) == 0).all()


def test_no_hash_is_no_group():
    assert indexed_groups(np.empty((0, 2, 64), bool)).shape == (0,)


def test_the_sample_has_the_same_groups():
    train = load_dataset(project_root() / "data" / "sample").train
    bits = np.array([hash_bits(side, row) for side in (train.left, train.right) for row in range(len(side))])
    np.testing.assert_array_equal(indexed_groups(bits), groups_of_hashes(bits, len(bits)))


@pytest.mark.parametrize(("n", "way"), [(9, "compared"), (10, "indexed")])
def test_many_are_indexed(n, way, monkeypatch):
    monkeypatch.setattr(near_duplicates, "MANY", 10)
    monkeypatch.setattr(near_duplicates, "indexed_groups", lambda bits: "indexed")
    monkeypatch.setattr(near_duplicates, "groups_of_hashes", lambda bits, n: "compared")
    assert near_duplicate_groups(planted_hashes(n, 0, 0)) == way
