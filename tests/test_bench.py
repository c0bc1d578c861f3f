"""The benchmark's arithmetic, its table, and its sections on stand-ins that take no time."""

import os

import numpy as np
import pandas as pd
import pytest

from tll_utils import bench
from tll_utils.dataset import load_dataset
from tll_utils.runtime import project_root


def test_tasks_take_turns(monkeypatch):
    """One warm-up and two repeats of a, b; the clock gives 1 s to every a and 3 s to every b."""
    calls, times = [], iter([9, 9, 10, 11, 20, 23, 30, 31, 40, 43])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(times))
    seconds = bench.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2)
    assert calls == list("ababab") and seconds == {"a": 1, "b": 3}


def test_row():
    assert bench.row("fast", 123.456, "images/s", ratio=2.468, to="slow") == {
        "what": "fast",
        "value": 123.5,
        "unit": "images/s",
        "ratio": 2.47,
        "ratio_to": "slow",
    }


def test_repeated_images_cycle():
    """Seven of three files: 0, 1, 2, 0, 1, 2, 0."""
    images = load_dataset(project_root() / "data" / "sample").train.left.base
    three = images.take([0, 1, 2])
    seven = bench.repeated(three, 7)
    assert len(seven) == 7 and seven.base is seven
    np.testing.assert_array_equal(seven[6], images[0])
    np.testing.assert_array_equal(seven[4], images[1])


def test_table_is_printed_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(bench.BENCHES, "toy", lambda: [bench.row("a", 1, "s"), bench.row("b", 2, "s", ratio=2, to="a")])
    bench.write_table(bench.run(["toy"]), tmp_path / "build" / "bench.csv")
    assert "toy" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "build" / "bench.csv")
    assert list(table.columns) == ["section", "what", "value", "unit", "ratio", "ratio_to"]
    assert table.ratio[1] == 2 and table.ratio_to[1] == "a"


def test_memory_compares_two_processes(monkeypatch):
    monkeypatch.setattr(bench, "_peak_of_process", lambda n: {1000: 500.0, 8000: 525.0}[n])
    assert [line["ratio"] for line in bench.memory()] == [None, 1.05]


def test_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("TLL_A", "before")
    monkeypatch.delenv("TLL_B", raising=False)
    with pytest.raises(KeyError), bench.environment(TLL_A="inside", TLL_B="inside"):
        assert os.environ["TLL_A"] == os.environ["TLL_B"] == "inside"
        raise KeyError
    assert os.environ["TLL_A"] == "before" and "TLL_B" not in os.environ


def test_faces_of_both_ways_are_counted(monkeypatch):
    monkeypatch.setattr(bench, "N_FACE_IMAGES", 6)
    monkeypatch.setenv("TLL_DATA", str(project_root() / "data" / "sample"))
    table = pd.DataFrame(bench.face_detection())
    assert list(table.unit) == ["images/s", "images/s", "images", "images"]
    assert (table.value[2:] <= 6).all() and table.value[2] > 0 and table.ratio[3] == table.value[3] / table.value[2]
