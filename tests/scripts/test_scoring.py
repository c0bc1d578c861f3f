"""Kept scores are read as they were written, or refused."""

import numpy as np
import pytest

from scripts.scoring import read_arrays, write_arrays
from tll_utils.runtime import DAMAGED


def test_arrays_and_facts_read_back(tmp_path):
    arrays = [np.arange(6, dtype=np.uint8).reshape(2, 3), np.array([0.5], np.float32)]
    write_arrays(tmp_path / "a.npz", arrays, {"seconds": 1.5, "names": ["|a−b|"]})
    read, facts = read_arrays(tmp_path / "a.npz")
    assert facts == {"seconds": 1.5, "names": ["|a−b|"]} and len(read) == 2
    for before, after in zip(arrays, read, strict=True):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype


def test_more_than_ten_arrays_keep_their_order(tmp_path):
    """As names in an archive, arr_10 sorts before arr_2."""
    write_arrays(tmp_path / "a.npz", [np.array([i]) for i in range(12)])
    assert [int(array[0]) for array in read_arrays(tmp_path / "a.npz")[0]] == list(range(12))


@pytest.mark.parametrize("keep", [0, 10, 300, -1])
def test_damage_of_an_array_file_is_found(tmp_path, keep):
    """Cut off at the start, in the archive's first entry, in an array; -1: one byte of the array flipped."""
    path = tmp_path / "a.npz"
    write_arrays(path, [np.arange(100)])
    data = bytearray(path.read_bytes())
    if keep == -1:
        data[data.index(np.arange(100).tobytes()) + 400] ^= 1
    path.write_bytes(data if keep == -1 else data[:keep])
    with pytest.raises(DAMAGED):
        read_arrays(path)


def test_array_file_that_is_not_there_is_another_error_than_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "a.npz")


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", np.array("null"), np.array([{}], object))
    with pytest.raises(ValueError, match="pickle"):
        read_arrays(tmp_path / "a.npz")
