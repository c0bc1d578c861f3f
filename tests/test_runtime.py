"""Places, files that are whole or not there, seeds, progress, prefetch, and a Keras that keeps quiet."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer
from types import SimpleNamespace

import filelock
import numpy as np
import pytest

from tll_utils import runtime


def test_cache_folder_is_made_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TLL_CACHE", str(tmp_path / "new" / "cache"))
    assert runtime.cache_dir() == tmp_path / "new" / "cache" and runtime.cache_dir().is_dir()
    monkeypatch.setenv("TLL_CACHE", "")
    assert runtime.cache_dir() == runtime.project_root() / "build" / "cache"


def test_variables_of_places_know_the_home_and_start_at_the_checkout(tmp_path, monkeypatch):
    """Wherever the process was started, as a notebook's is in notebooks/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for named, expected in [("~/c", tmp_path / "home" / "c"), ("build/c", runtime.project_root() / "build" / "c")]:
        monkeypatch.setenv("TLL_PRESETS", named)
        assert runtime.named_path("TLL_PRESETS") == expected
    monkeypatch.setenv("TLL_CACHE", "~/cache")
    assert runtime.cache_dir() == tmp_path / "home" / "cache"
    assert runtime.named_path("TLL_NOTHING") is None


# --- files ----------------------------------------------------------------------


def test_atomic_write_leaves_the_new_file_or_the_old_one(tmp_path):
    path = tmp_path / "new folder" / "file.txt"
    with runtime.atomic_write(path) as partial:
        partial.write_text("first", encoding="utf-8")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), runtime.atomic_write(path) as partial:
        partial.write_text("half", encoding="utf-8")
        raise ZeroDivisionError
    assert path.read_text(encoding="utf-8") == "first" and list(path.parent.iterdir()) == [path]


HOLDER = """
import sys, time
from pathlib import Path
from tll_utils.runtime import locked
with locked(Path(sys.argv[1])) as is_alone:
    print("held" if is_alone else "not held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(path, seconds):
    """A run that has locked `path`."""
    run = subprocess.Popen([sys.executable, "-c", HOLDER, path, str(seconds)], stdout=subprocess.PIPE, encoding="utf-8")
    assert run.stdout is not None and run.stdout.readline() == "held\n"
    return run


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_run_waits_for_another_says_so_and_leaves_no_lock_behind(tmp_path, capsys, is_killed):
    other = hold(tmp_path / "new" / "file", 60 if is_killed else 2)
    Timer(1.5, other.kill if is_killed else str).start()
    started = time.perf_counter()
    with runtime.locked(tmp_path / "new" / "file") as is_alone:
        assert is_alone and time.perf_counter() - started > 1
        assert other.wait() == (-signal.SIGKILL if is_killed else 0)
    assert capsys.readouterr().err == f"waiting for another run, which works on {tmp_path / 'new' / 'file'}\n"
    assert list((tmp_path / "new").iterdir()) == []


def test_three_runs_that_wait_come_one_after_the_other(tmp_path):
    """The lock's file is removed between them; each must ask for the new one."""
    note = tmp_path / "inside"

    def enter(_):
        with runtime.locked(tmp_path / "file") as is_alone:
            assert is_alone and not note.exists()
            note.touch()
            time.sleep(0.2)
            note.unlink()

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(enter, range(9))) == [None] * 9


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.ENOLCK, errno.ENOSYS])
def test_a_place_without_locks_is_used_without_one(tmp_path, monkeypatch, error):
    """Read-only, full, a network's file system; what cannot be written says so itself."""

    def refuse(*_, **__):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with runtime.locked(tmp_path / "file") as is_alone:
        assert not is_alone


KILLED = """
import os, signal, sys
from pathlib import Path
from tll_utils import runtime
with getattr(runtime, sys.argv[1])(Path(sys.argv[2])) as new:
    if new.is_dir():
        new = new / "file"
    new.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("writer", ["atomic_write", "atomic_folder"])
def test_what_a_killed_run_has_left_goes_with_the_next_one(tmp_path, writer):
    path = tmp_path / "made"
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", KILLED, writer, path])
        assert killed.returncode == -signal.SIGKILL and not path.exists()
    assert len([left for left in tmp_path.iterdir() if left.suffix == ".partial"]) == 1
    with getattr(runtime, writer)(path) as new:
        (new / "file" if new.is_dir() else new).write_bytes(b"whole")
    assert list(tmp_path.iterdir()) == [path]
    files = list(path.iterdir()) if path.is_dir() else [path]
    assert [file.read_bytes() for file in files] == [b"whole"]


def test_writers_of_one_file_come_one_after_the_other(tmp_path):
    """Both use the same name beside it; without locks each would have its own."""

    def write(text):
        with runtime.atomic_write(tmp_path / "file") as partial:
            partial.write_text(text[:1], encoding="utf-8")
            time.sleep(0.1)
            with open(partial, "a", encoding="utf-8") as file:
                file.write(text[1:])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ["aaaa", "bbbb"]))
    assert (tmp_path / "file").read_text(encoding="utf-8") in ("aaaa", "bbbb")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_names_the_file(tmp_path):
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*file\.txt'"),
        runtime.atomic_write(tmp_path / "file.txt"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_text_is_utf8_with_unix_line_ends(tmp_path):
    runtime.write_text(tmp_path / "text", "|a−b|\n")
    assert (tmp_path / "text").read_bytes() == b"|a\xe2\x88\x92b|\n"


def test_hash_is_that_of_the_file_as_it_stands(tmp_path):
    """SHA-256 of "abc" from FIPS 180-2, appendix B.1; a changed file has another."""
    (tmp_path / "file").write_bytes(b"abc")
    assert runtime.sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "file").write_bytes(b"abcd")
    assert runtime.sha256_of(tmp_path / "file")[:8] == "88d4266f"


def test_packaged_file_is_found_and_checked(tmp_path, monkeypatch):
    """Missing package, missing file and altered file each name the remedy; the package's code is not run."""
    package = tmp_path / "toy_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('not to be run')", encoding="utf-8")
    (package / "weights.bin").write_bytes(b"abc")
    monkeypatch.syspath_prepend(tmp_path)
    right = runtime.sha256_of(package / "weights.bin")

    def ask(name="weights.bin", package="toy_package", sha256=right):
        return runtime.packaged_file(package, name, sha256=sha256, requirement="toy==1.0")

    assert ask() == package / "weights.bin"
    for wrong, what in [
        ({"package": "toy_missing"}, "weights.bin is not installed"),
        ({"name": "other.bin"}, "other.bin is missing"),
        ({"sha256": "0" * 64}, "not the published file"),
    ]:
        with pytest.raises(runtime.PackagedFileError, match=rf"{what}.*; pip install --force-reinstall toy==1\.0"):
            ask(**wrong)


# --- runs -----------------------------------------------------------------------


def test_seed_repeats_python_numpy_and_keras():
    from tll_utils.runtime import keras

    def draw():
        runtime.set_seed(3)
        return random.random(), np.random.rand(), float(keras.ops.convert_to_numpy(keras.random.normal((1,)))[0])

    assert draw() == draw()


def test_progress_is_silent_on_request(monkeypatch, capsys):
    monkeypatch.setenv("TLL_PROGRESS", "0")
    with runtime.progress(total=3) as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("TLL_PROGRESS", "1")
    with runtime.progress(total=3, desc="three") as bar:
        bar.update(3)
    assert "three" in capsys.readouterr().err


def test_prefetch_is_in_order_and_never_further_than_asked():
    """Early items take longest, and still come first; of 9 items 3 are begun before the first is taken."""
    begun = []

    def slow_at_first(item):
        begun.append(item)
        time.sleep(0.01 * (9 - item))
        return item**2

    results = runtime.prefetch(slow_at_first, range(9), workers=3, n_ahead=3)
    assert next(results) == 0 and len(begun) <= 4
    assert list(results) == [1, 4, 9, 16, 25, 36, 49, 64]


def test_an_error_while_prefetching_is_raised_in_its_turn():
    results = runtime.prefetch(lambda item: 1 // item, [1, 0])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


SETTINGS = """
import os, sys
exec(sys.argv[1])
from tll_utils.runtime import CHANGES_NUMBERS, keras
k, layer = keras.config, keras.layers.Dense(1)
print(k.floatx(), k.image_data_format(), k.backend(), k.epsilon(), k.max_epochs(), k.max_steps_per_epoch(), layer.dtype)
assert not set(CHANGES_NUMBERS) & set(os.environ)
"""


@pytest.mark.parametrize(
    ("keras_json", "variables", "before"),
    [
        ('{"floatx": "float16", "image_data_format": "channels_first", "epsilon": 0.1, "backend": "jax"}', {}, ""),
        ("{}", {"KERAS_BACKEND": "torch", "KERAS_MAX_EPOCHS": "1", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}, ""),
        ('{"floatx": "float16"}', {}, "import keras; keras.config.set_dtype_policy('mixed_float16')"),
        ("{}", {"KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "1"}, "import keras"),
    ],
)
def test_numbers_do_not_depend_on_the_users_settings_of_keras(tmp_path, keras_json, variables, before):
    (tmp_path / "keras.json").write_text(keras_json, encoding="utf-8")
    environment = os.environ | {"KERAS_HOME": str(tmp_path)} | variables
    command = [sys.executable, "-c", SETTINGS, before]
    run = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    assert run.stdout == "float32 channels_last tensorflow 1e-07 None None float32\n", run.stderr


def test_another_backend_that_is_already_at_work_is_named():
    config = SimpleNamespace(backend=lambda: "jax")
    with pytest.raises(RuntimeError, match=r"Keras was imported with the backend jax: set KERAS_BACKEND=tensorflow"):
        runtime._set_numbers(config)


def test_keras_starts_without_a_word_and_only_when_asked_for():
    """A notice on stderr would stand in every notebook; TensorFlow takes seconds to import."""
    code = (
        "import sys; from tll_utils import runtime; assert 'tensorflow' not in sys.modules; runtime.keras.ops.ones(2)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
