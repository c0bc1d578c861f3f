"""The growth table: every task runs, exponents are those of the times, the plot shows every row."""

import numpy as np
import pytest

from scripts import growth
from tll_utils.methods.one_to_one import DECODERS

pytest.importorskip("faiss")


@pytest.mark.parametrize("name", growth.TASKS)
def test_every_task_runs_and_is_measured(name, monkeypatch):
    monkeypatch.setenv("TLL_PROGRESS", "0")
    monkeypatch.setattr(growth, "N_QUERIES", 20)
    seconds, megabytes = growth.measure(name, 200)
    assert seconds > 0 and megabytes > 50


def test_exponents_are_those_of_the_times(monkeypatch):
    """Times that grow as n, and as n²; the plot has a line of each in both panels."""
    monkeypatch.setattr(growth, "TASKS", {"linear": (None, (10, 100, 1000)), "square": (None, (10, 20))})
    times = {"linear": lambda n: n / 100, "square": lambda n: n**2 / 100}
    monkeypatch.setattr(growth, "_in_a_process", lambda name, n: (times[name](n), 100 + n))
    table = growth.growth()
    assert table.groupby("what")["exponent"].agg(["min", "max"]).to_numpy().tolist() == [[1, 1], [2, 2]]
    assert table.query("what == 'square'")[["n", "seconds", "MB"]].to_numpy().tolist() == [[10, 1, 110], [20, 4, 120]]
    assert [len(ax.lines) for ax in growth.plot(table).axes] == [2, 2]


def test_lists_of_the_one_to_one_task_hold_the_truth_and_no_right_twice():
    with growth.one_to_one(100, decoder="per query") as task:
        scores, candidates = task.args
    assert task.func is DECODERS["per query"][0] and task.keywords == {"n_right": 100}
    assert [len(set(row)) for row in candidates.tolist()] == [20] * 100 and set(candidates.ravel()) <= set(range(100))
    np.testing.assert_array_equal(candidates[:, 0], np.arange(100))
    assert scores[:, 0].mean() > scores[:, 1:].mean() + 1.5


def test_the_memory_is_that_of_the_process_and_not_of_its_parent():
    ballast = np.ones(2**26)  # 512 MB
    _, megabytes = growth._in_a_process("near-duplicates", 200)
    assert megabytes < ballast.nbytes / 1e6
