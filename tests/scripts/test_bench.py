"""The benchmark's arithmetic."""

import numpy as np

from scripts import bench
from tll_utils.data.dataset import load_dataset
from tll_utils.runtime import project_root


def test_tasks_take_turns(monkeypatch):
    """One warm-up and two repeats of a, b; the clock gives 1 s to every a and 3 s to every b."""
    calls, times = [], iter([9, 9, 10, 11, 20, 23, 30, 31, 40, 43])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(times))
    seconds = bench.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2)
    assert calls == list("ababab") and seconds == {"a": 1, "b": 3}


def test_ratios_say_how_much_better():
    """Four seconds instead of 10, and 25 images a second instead of 10, are both 2.5 times better."""
    for values, costs in (({"slow": 10, "fast": 4}, True), ({"slow": 10, "fast": 25}, False)):
        reference, ours = bench.compared(values, "unit", costs=costs)
        assert (reference["what"], reference["value"], reference["ratio"]) == ("slow", 10, None)
        assert (ours["what"], ours["ratio"], ours["ratio_to"]) == ("fast", 2.5, "slow")


def test_repeated_images_cycle():
    """Seven of three files: 0, 1, 2, 0, 1, 2, 0."""
    images = load_dataset(project_root() / "data" / "sample").train.left.base
    seven = bench.repeated(images.take([0, 1, 2]), 7)
    assert len(seven) == 7 and seven.base is seven
    np.testing.assert_array_equal(seven[6], images[0])
    np.testing.assert_array_equal(seven[4], images[1])
