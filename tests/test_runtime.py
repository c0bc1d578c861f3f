"""Places, seeds, progress, and a Keras that keeps quiet."""

import subprocess
import sys

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


def test_keras_starts_without_a_word():
    """A notice on stderr would stand in every notebook."""
    code = "from tll_utils.backend import keras; keras.ops.ones(2)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
