"""Places, seeds, progress, and a Keras that keeps quiet."""

import subprocess
import sys
import time

import numpy as np
import pytest

from tll_utils import runtime


def test_cache_folder_is_made_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TLL_CACHE", str(tmp_path / "new" / "cache"))
    assert runtime.cache_dir() == tmp_path / "new" / "cache" and runtime.cache_dir().is_dir()
    monkeypatch.setenv("TLL_CACHE", "")
    assert runtime.cache_dir() == runtime.project_root() / "build" / "cache"


def test_whole_file_is_the_new_one_or_the_old_one(tmp_path):
    path = tmp_path / "new folder" / "file.txt"
    with runtime.whole_file(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), runtime.whole_file(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_seed_repeats_numpy_and_keras():
    from tll_utils.backend import keras

    def draw():
        runtime.set_seed(3)
        return np.random.rand(), float(keras.ops.convert_to_numpy(keras.random.normal((1,)))[0])

    assert draw() == draw()


def test_progress_is_silent_on_request(monkeypatch, capsys):
    monkeypatch.setenv("TLL_PROGRESS", "0")
    with runtime.progress(total=3) as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")


def test_ahead_is_in_order_and_never_further_than_asked():
    """Early items take longest, and still come first; of 9 items 3 are begun before the first is taken."""
    begun = []

    def slow_at_first(item):
        begun.append(item)
        time.sleep(0.01 * (9 - item))
        return item**2

    results = runtime.ahead(slow_at_first, range(9), workers=3, n_ahead=3)
    assert next(results) == 0 and len(begun) <= 4
    assert list(results) == [1, 4, 9, 16, 25, 36, 49, 64]


def test_an_error_ahead_is_raised_in_its_turn():
    results = runtime.ahead(lambda item: 1 // item, [1, 0])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_keras_starts_without_a_word():
    """A notice on stderr would stand in every notebook."""
    code = "from tll_utils.backend import keras; keras.ops.ones(2)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
