"""What every room stands on: paths, seeds, Keras set up once and quietly, atomic writes, locks, prefetch."""

import errno
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import filelock
from platformdirs import user_cache_path
from tqdm import tqdm

if TYPE_CHECKING:
    import keras as keras

DAMAGED = Exception  # readers of damaged files raise nearly any: OSError, TokenError, zlib.error, NotImplementedError …

CHANGES_NUMBERS = (  # variables that shorten trainings or let TensorFlow compute in another precision
    "KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE",
    "TF_ENABLE_AUTO_MIXED_PRECISION", "TF_SET_ONEDNN_FPMATH_MODE", "TF_XLA_FLAGS", "NVIDIA_TF32_OVERRIDE",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """`from tll_utils.runtime import keras`: TensorFlow takes seconds to import, so only who needs it waits."""
    if name == "keras":
        return _keras()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _keras():
    """Keras on TensorFlow, whatever the user's settings, and without the notices of its start on stderr."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # nor what it logs of its first `fit`
    for variable in CHANGES_NUMBERS:
        os.environ.pop(variable, None)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import keras

        keras.ops.zeros(1)  # the first operation looks for devices and says what it misses
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    _set_numbers(keras.config)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of retracing, which many small networks cause
    return keras


def _set_numbers(config: Any) -> None:
    """Set what embeddings and trainings depend on: a user's keras.json or earlier code may have set it otherwise."""
    if config.backend() != "tensorflow":
        raise RuntimeError(f"Keras was imported with the backend {config.backend()}: set KERAS_BACKEND=tensorflow")
    config.set_floatx("float32")
    config.set_dtype_policy("float32")
    config.set_epsilon(1e-7)
    config.set_image_data_format("channels_last")
    config.set_max_epochs(None)
    config.set_max_steps_per_epoch(None)


def project_root() -> Path:
    """The checkout this package belongs to or, where it is installed, the folder that holds it."""
    return Path(__file__).resolve().parent.parent


def build_dir() -> Path:
    """Folder of all that is made: `build` of the checkout or, where the package is installed, of the user's cache."""
    root = project_root()
    return (root if (root / "pyproject.toml").is_file() else user_cache_path("tll-utils")) / "build"


def named_path(variable: str) -> Path | None:
    """Path that an environment variable names, if any: ~ is the home, and a relative one starts at the checkout."""
    named = os.environ.get(variable)
    return project_root() / Path(named).expanduser() if named else None


def cache_dir() -> Path:
    """Folder for everything that can be computed again: `$TLL_CACHE`, else `cache` of `build_dir()`."""
    path = named_path("TLL_CACHE") or build_dir() / "cache"
    path.mkdir(parents=True, exist_ok=True)
    return path


class PackagedFileError(RuntimeError):
    """A file of an installed package that is missing or not the published one; the text names the remedy."""


def packaged_file(package: str, name: str, *, sha256: str, requirement: str) -> Path:
    """Path of a package's file `name`; nothing is imported. Raises PackagedFileError where it is missing or altered."""
    remedy = f"pip install --force-reinstall {requirement}"
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise PackagedFileError(f"{Path(name).name} is not installed; {remedy}")
    path = Path(spec.submodule_search_locations[0]) / name
    if not path.is_file():
        raise PackagedFileError(f"{path} is missing; {remedy}")
    if sha256_of(path) != sha256:
        raise PackagedFileError(f"{path} is not the published file (SHA-256 differs); {remedy}")
    return path


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; computed once a process unless the file's size or time changes."""
    stat = path.stat()
    return _sha256_of(path, stat.st_size, stat.st_mtime_ns)


@cache
def _sha256_of(path: Path, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def file_named(path: Path) -> Iterator[None]:
    """Errors of writing, such as that of a full disk, name the file."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise OSError(error.errno or errno.ENOSPC, error.strerror or str(error), str(path)) from error


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Make or change `path` while no other run does: after a second of waiting one line says so.

    Whether it is locked: nothing is where the place is read-only or its file system has no locks.
    """
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), fallback_to_soft=False)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=1)
        except filelock.Timeout:
            print(f"waiting for another run, which works on {path}", file=sys.stderr, flush=True)
            lock.acquire()
    try:
        yield lock.is_locked
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows removes it after the release
                os.unlink(lock.lock_file)  # before the release: a run that waits sees it and asks anew
            lock.release()


def partial_of(path: Path, is_alone: bool) -> Path:
    """Where `path` is made; of a run that has it locked always the same, so that it meets what a killed one left."""
    return path.with_name(path.name + ("" if is_alone else f".{uuid4().hex[:8]}") + ".partial")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write to instead: its file replaces `path` when the block ends, and vanishes after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path) as is_alone, file_named(path):
        partial = partial_of(path, is_alone)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As `atomic_write`, but a folder to fill instead."""
    with locked(path) as is_alone:
        work = partial_of(path.with_name(f".{path.name}"), is_alone)
        shutil.rmtree(work, ignore_errors=True)
        new = work / "new"
        try:
            new.mkdir(parents=True)
            yield new
            if path.exists():
                path.rename(work / "old")
            new.rename(path)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with "\\n" line ends, atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def damage_named(path: Path, remedy: str) -> Iterator[None]:
    """Where reading `path` fails, raise a ValueError of one line that names it and the remedy."""
    try:
        yield
    except DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read ({reason}): {remedy}") from error


def set_seed(seed: int) -> None:
    """Seed Python, NumPy, Keras and its backend."""
    _keras().utils.set_random_seed(seed)


def has_gpu() -> bool:
    """Whether Keras's backend has a GPU."""
    return bool(_keras().distribution.list_devices("gpu"))


@cache
def has_bfloat16() -> bool:
    """Whether this machine computes in bfloat16: its GPU (Ampere was the first) or, without one, its processor."""
    _keras()
    import tensorflow as tf

    if gpus := tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_device_details(gpus[0])["compute_capability"][0] >= 8
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8").split() if cpuinfo.exists() else []
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def progress(**options) -> tqdm:
    """A progress bar on stderr; `TLL_PROGRESS=0` keeps outputs that are compared free of it."""
    return tqdm(disable=os.environ.get("TLL_PROGRESS") == "0", **options)


def prefetch(function: Callable, items: Iterable, *, workers: int = 2, n_ahead: int = 4) -> Iterator:
    """function(item) of every item, in order, computed by worker threads; at most n_ahead are begun and not taken."""
    with ThreadPoolExecutor(workers) as pool:
        futures = (pool.submit(function, item) for item in items)
        waiting = deque(islice(futures, n_ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(islice(futures, 1))
            yield result
