import tracemalloc

import cv2
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from conftest import encoded, picture
from tll_utils.data.dataset import load_dataset
from tll_utils.data.folds import (
    MAX_DISTANCE,
    grouped_folds,
    groups_of_hashes,
    headline_folds,
    holdout_split,
    near_duplicate_groups,
)
from tll_utils.data.images import Images, decode
from tll_utils.data.pairs import Pairs


def again(image: np.ndarray) -> np.ndarray:
    """The same picture a little brighter and compressed hard."""
    return decode(encoded(np.clip(image + 8.0, 0, 255).astype(np.uint8), quality=40), "again")


def letterboxed(image: np.ndarray, level: int = 0) -> np.ndarray:
    small = cv2.resize(image, (200, 165))
    return cv2.copyMakeBorder(small, 40, 40, 0, 0, cv2.BORDER_CONSTANT, value=(level,) * 3)


def same(groups: np.ndarray) -> list[set[int]]:
    """The groups of more than one row."""
    rows = [set(np.flatnonzero(groups == group).tolist()) for group in np.unique(groups)]
    return [group for group in rows if len(group) > 1]


@pytest.fixture
def sides():
    """12 left and 12 right pictures, all different."""
    return [picture(i) for i in range(12)], [picture(100 + i) for i in range(12)]


def test_different_pictures_are_different_groups(sides):
    groups = near_duplicate_groups(*sides)
    assert groups.shape == (12,) and np.issubdtype(groups.dtype, np.integer)
    assert len(np.unique(groups)) == 12


@pytest.mark.parametrize("change", [np.copy, again, letterboxed])
def test_duplicates_join_their_pairs_within_and_across_sides(sides, change):
    """Left 1 again as left 4, right 2 as right 7, left 9 as right 3: pairs {1, 4}, {2, 7}, {3, 9}."""
    left, right = sides
    left[4], right[7], right[3] = change(left[1]), change(right[2]), change(left[9])
    assert same(near_duplicate_groups(left, right)) == [{1, 4}, {2, 7}, {3, 9}]


def test_duplicates_are_found_where_only_one_border_is(sides):
    """A background of 20 is taken for a border, one of 30 is not: cropped they differ, whole they are alike."""
    left, right = sides
    left[0], left[5] = letterboxed(left[0], 20), letterboxed(left[0], 30)
    assert same(near_duplicate_groups(left, right)) == [{0, 5}]


def test_groups_are_transitive(sides):
    """Pair 0 shares its left with pair 5, which shares its right with pair 8: one group of three."""
    left, right = sides
    left[5], right[8] = again(left[0]), again(right[5])
    assert same(near_duplicate_groups(left, right)) == [{0, 5, 8}]


def test_flat_images_do_not_chain_the_others(sides):
    """Uniform pictures are alike whatever their colour; the ten other pairs stay on their own."""
    left, right = sides
    left[0], right[6] = np.full((245, 200, 3), 30, np.uint8), np.full((245, 200, 3), 200, np.uint8)
    assert same(near_duplicate_groups(left, right)) == [{0, 6}]


def test_works_on_a_loaded_data_set_and_its_views(tiny):
    """Six pairs of different pictures, then four of them."""
    pairs = load_dataset(tiny).train
    assert len(np.unique(near_duplicate_groups(pairs.left, pairs.right))) == 6
    assert len(near_duplicate_groups(pairs.take([5, 0, 3, 1]).left)) == 4


def test_sides_of_different_length_are_refused(sides):
    with pytest.raises(ValueError, match=r"\[12, 11\] images"):
        near_duplicate_groups(sides[0], sides[1][:-1])


# 40 rows in 20 groups of two: row i belongs to group i // 2.
GROUPS = np.arange(40) // 2


def test_folds_test_every_row_once_and_divide_no_group():
    folds = grouped_folds(GROUPS, n_splits=5, seed=3)
    assert np.sort(np.concatenate([test for _, test in folds])).tolist() == list(range(40))
    for train, test in folds:
        assert sorted([*train, *test]) == list(range(40))
        assert not set(GROUPS[train]) & set(GROUPS[test])
        assert len(test) == 8


def test_folds_depend_on_the_seed_only():
    first, again, other = (grouped_folds(GROUPS, seed=seed)[0][1].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_more_folds_than_groups_are_refused():
    with pytest.raises(ValueError, match="5"):
        grouped_folds(np.array([0, 0, 1, 1, 2]), n_splits=5)


def test_holdout_keeps_a_fifth_and_divides_no_group():
    """A fifth of 20 groups are 4 groups, that is 8 rows."""
    train, test = holdout_split(GROUPS)
    assert sorted([*train, *test]) == list(range(40)) and len(test) == 8
    assert not set(GROUPS[train]) & set(GROUPS[test])


def test_holdout_depends_on_the_seed_only():
    first, again, other = (holdout_split(GROUPS, seed=seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_headline_folds_are_five_of_the_raw_images_whatever_the_view(sides, tmp_path):
    """Lefts 0 and 5 are alike with their borders only, so their pairs share a fold in a border-neutral view too."""
    left, right = sides
    left[0], left[5] = letterboxed(left[0], 20), letterboxed(left[0], 30)
    files = [tmp_path / f"{i}.png" for i in range(24)]
    for file, image in zip(files, [*left, *right], strict=True):
        file.write_bytes(encoded(image, "PNG"))
    pairs = Pairs(Images(map(str, range(12)), files[:12]), Images(map(str, range(12)), files[12:]))
    folds = [test.tolist() for _, test in headline_folds(pairs)]
    assert len(folds) == 5 and sorted(row for test in folds for row in test) == list(range(12))
    assert sum({0, 5} <= set(test) for test in folds) == 1
    assert folds == [test.tolist() for _, test in headline_folds(pairs.cropped())]
    taken = headline_folds(pairs.take(np.arange(10)[::-1]).cropped())
    assert sum({9, 4} <= set(test.tolist()) for _, test in taken) == 1


# --- by blocks ------------------------------------------------------------------


def planted_hashes(n, *, seed=0, n_copies=40):
    """Random hashes bool (n, 2, 64); some are copies of others, whole or cropped, up to 13 bits changed."""
    rng = np.random.default_rng(seed)
    bits = rng.random((n, 2, 64)) < 0.5
    for source, copy, view in zip(*rng.integers(n, size=(2, n_copies)), rng.integers(2, size=n_copies), strict=True):
        bits[copy, view] = bits[source, view]
        bits[copy, view, rng.permutation(64)[: rng.integers(14)]] ^= True
    return bits


def groups_of_all_distances(bits, n):
    """The groups by the whole matrix of distances."""
    whole, cropped = (cdist(hashes, hashes, "cityblock") <= MAX_DISTANCE for hashes in bits.swapaxes(0, 1))
    alike = (whole | cropped).reshape(len(bits) // n, n, len(bits) // n, n).any(axis=(0, 2))
    return connected_components(csr_array(alike), directed=False)[1]


@pytest.mark.parametrize(("n_sides", "n"), [(1, 1), (1, 63), (1, 300), (2, 64), (2, 150), (3, 90)])
@pytest.mark.parametrize("seed", range(3))
def test_groups_by_blocks_are_those_of_all_distances(n_sides, n, seed):
    bits = planted_hashes(n_sides * n, seed=seed)
    groups = groups_of_hashes(bits, n)
    np.testing.assert_array_equal(groups, groups_of_all_distances(bits, n))
    assert n == 1 or len(np.unique(groups)) < n


def test_twenty_thousand_hashes_need_little_memory():
    """All distances would take 400 MB a byte each; half of the hashes are equal, which gives 50 million alike pairs."""
    bits = planted_hashes(20_000, n_copies=0)
    bits[::2] = bits[0]
    tracemalloc.start()
    groups = groups_of_hashes(bits, 20_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6
    assert (groups[::2] == 0).all() and len(np.unique(groups)) == 10_001
