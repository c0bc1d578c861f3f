"""Runs killed by SIGKILL at random moments: started again they end as an undisturbed run, and leave nothing beside.

One process imports TensorFlow and what else is slow; every run is a fork of it, so that none is killed while it
imports. A run has a folder for all that it writes, the cache too. Every third one is killed a second time, after it
has begun again.
"""

import csv
import json
import multiprocessing
import os
import random
import secrets
import shutil
import signal
import sys
import time
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from conftest import encoded, picture
from tll_utils.data.images import Images
from tll_utils.runtime import project_root

SAMPLE = project_root() / "data" / "sample"
SLOW = ("cv2", "h5py", "keras", "pandas", "safetensors.numpy", "scipy.optimize", "scipy.stats", "skimage.feature",
        "sklearn.cluster", "sklearn.decomposition", "sklearn.linear_model", "sklearn.model_selection")  # fmt: skip
OURS = ("scripts.reproduce", "tll_utils.cli", "tll_utils.report.submission", "tll_utils.search.gallery",
        "tll_utils.search.look_alikes", "tll_utils.search.own_data", "tll_utils.search.saving")  # fmt: skip
KILLS = {"extraction": 3, "training": 3, "recording": 2, "submission": 2, "look-up": 2}
KILLS_AT_VOLUME = 12  # of each kind


# --- five kinds of run, of which each writes into the folder given alone ----------


def extraction(source: Path, folder: Path) -> None:
    """Two extractors, of which the second reads another view, over the same 120 images."""
    from tll_utils.features.catalogue import EXTRACTORS
    from tll_utils.features.embedding import embed

    files = sorted((SAMPLE / "train" / "left").iterdir())
    images = Images([file.stem for file in files], files)
    embed(images, EXTRACTORS["lab_histogram"]())
    embed(images.cropped(), EXTRACTORS["hog"]())


def training(source: Path, folder: Path) -> None:
    """Eight epochs of a very small network with all kinds of state: batch norm, dropout and Adam's."""
    from tll_utils.data.pairs import Pairs
    from tll_utils.runtime import keras, set_seed
    from tll_utils.siamese.batches import InBatchNegatives
    from tll_utils.siamese.heads import HEADS
    from tll_utils.siamese.losses import masked_binary_cross_entropy
    from tll_utils.siamese.training import fit, siamese_model

    noise = np.random.default_rng(0).integers(0, 256, (6, 40, 32, 26, 3), np.uint8)
    train, sample, validation = (Pairs(*sides) for sides in noise.reshape(3, 2, *noise.shape[1:]))  # pyright: ignore
    set_seed(0)
    layers = keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3, 2), keras.layers.BatchNormalization()
    top = keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(0.3)
    tower = keras.Sequential([keras.Input((32, 26, 3), dtype="uint8"), *layers, *top], name="tower")
    model = siamese_model(tower, HEADS["absolute"](name="head"))
    model.compile("adam", masked_binary_cross_entropy)
    measured = {"train_sample": sample, "validation": validation, "settings": {"seed": 0}}
    fit(model, InBatchNegatives(train, batch_size=20), folder=folder / "training", epochs=8, **measured)


def recording(source: Path, folder: Path) -> None:
    """`make reproduce` of a small experiment in a checkout of its own."""
    from scripts import recording, reproduce, scoring
    from tll_utils.report import results
    from tll_utils.report.experiments import EXPERIMENTS, Experiment

    for module in (recording, scoring, results):
        vars(module)["project_root"] = lambda: folder
    EXPERIMENTS["small"] = Experiment(0, ("file_size", "tiny_image"), n_folds=2, scored_border_neutral=True)
    scoring.keras.backend.clear_session = lambda: None  # nothing is trained, and it is slow
    os.environ["TLL_DATA"] = str(SAMPLE)
    with mock.patch.object(sys, "argv", ["reproduce", "small"]):
        reproduce.main()


def submission(source: Path, folder: Path) -> None:
    """`tll submit` on the sample, by a method that is fitted first."""
    _tll("submit", "--data", SAMPLE, "--method", "lab_histogram", "--out", folder / "submission.csv")


def look_up(source: Path, folder: Path) -> None:
    """`tll look-alikes` on a folder of pictures, with a saved model."""
    _tll("look-alikes", source / "pictures", "--model", source / "model", "--out", folder / "page")


def model(source: Path, folder: Path) -> None:
    """What the look-up needs: a fitted method as a folder."""
    from tll_utils.data.dataset import load_dataset
    from tll_utils.methods.registry import get_method
    from tll_utils.search.saving import save

    save(get_method("hog").fit(load_dataset(SAMPLE).train), source / "model")


def _tll(*options: object) -> None:
    from tll_utils import cli

    cli.main([str(option) for option in options])


RUNS = {"extraction": extraction, "training": training, "recording": recording, "submission": submission,
        "look-up": look_up, "model": model}  # fmt: skip


# --- starting and killing them ----------------------------------------------------

FORKS = multiprocessing.get_context("forkserver")


def _run(kind: str, source: Path, folder: Path, pipe) -> None:
    """The run in its own process: what it prints goes into a file beside its folder."""
    os.environ |= {"TLL_CACHE": str(folder / "cache"), "TLL_PROGRESS": "0"}
    with open(folder.with_suffix(".log"), "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    for name in OURS:
        import_module(name)
    pipe.send("ready")
    RUNS[kind](source, folder)


def run(kind: str, source: Path, folder: Path, *, killed_after: float | None = None) -> tuple[int | None, float]:
    """Exit code of a run in this folder, and its seconds since it had imported everything."""
    if not folder.exists():
        shutil.copytree(source / "checkout", folder)
    ours, theirs = FORKS.Pipe()
    process = FORKS.Process(target=_run, args=(kind, source, folder, theirs))
    process.start()
    theirs.close()
    ours.recv()
    started = time.perf_counter()
    process.join(killed_after)
    process.kill()
    process.join()
    return process.exitcode, time.perf_counter() - started


def log_of(folder: Path) -> str:
    return folder.with_suffix(".log").read_text(encoding="utf-8")


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder that a run has left, hidden ones too, with what two runs must have in common.

    But no empty lock among what is kept for later runs: of a run that is killed in the microseconds between a file's
    last step and its lock's removal it stays, if no run writes that file again, and hinders none.
    """
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*"))}
    is_passed_over = {name for name in paths if name.suffix == ".lock" and name.parts[0] in ("build", "cache")}
    return {str(name): _content(path) for name, path in paths.items() if name not in is_passed_over}


def _content(path: Path) -> str:
    """A hash of the file, but without times of day and durations."""
    if path.is_dir():
        return "folder"
    if path.name.endswith(".weights.h5"):
        import h5py

        parts: list[bytes] = []
        with h5py.File(path) as file:
            file.visititems(lambda name, item: parts.append(name.encode() + np.asarray(item).tobytes())
                            if isinstance(item, h5py.Dataset) else None)  # fmt: skip
        return sha256(b"".join(parts)).hexdigest()
    text = path.read_bytes()
    if path.name == "finished.json":  # hashes of files that hold times
        return str(list(json.loads(text)))
    if path.name == "history.csv":  # of an epoch repeated after a kill the last row counts
        rows = csv.DictReader(text.decode().splitlines())
        return json.dumps({row["epoch"]: row | {"seconds": ""} for row in rows})
    if path.parent.name == "results" and path.suffix == ".json":
        recorded = json.loads(text)
        methods = [method | {"seconds": 0} for method in recorded["methods"]]
        return json.dumps(recorded | {"recorded_at": "", "methods": methods})
    return sha256(text).hexdigest()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """What runs read: a checkout that they begin with, pictures of several sizes, some of them twice, and a model."""
    FORKS.set_forkserver_preload(list(SLOW))
    source = tmp_path_factory.mktemp("source")
    (source / "checkout" / "data" / "results").mkdir(parents=True)
    shutil.copy(project_root() / "README.md", source / "checkout")
    shutil.copy(project_root() / "data" / "results" / "published.csv", source / "checkout" / "data" / "results")
    (source / "pictures").mkdir()
    for i in range(60):
        image = np.kron(picture(i % 50), np.ones((1 + i % 3, 1 + i % 3, 1), np.uint8))
        (source / "pictures" / f"{i}.png").write_bytes(encoded(image, "PNG", compress_level=1))
    assert run("model", source, source / "work")[0] == 0, log_of(source / "work")
    return source


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    """Of each kind what a run leaves that nobody disturbs, and its seconds; run when first asked for."""
    known: dict[str, tuple[dict[str, str], float]] = {}

    def of(kind: str) -> tuple[dict[str, str], float]:
        if kind not in known:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            code, seconds = run(kind, source, folder)
            assert code == 0, log_of(folder)
            known[kind] = contents(folder), seconds
        return known[kind]

    return of


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        is_volume = metafunc.config.getoption("--volume")
        cases = [(kind, i) for kind, n in KILLS.items() for i in range(KILLS_AT_VOLUME if is_volume else n)]
        metafunc.parametrize(("kind", "number"), cases)


def test_a_killed_run_ends_as_if_undisturbed(kind, number, source, undisturbed, tmp_path):
    """TLL_KILLS=<seed> repeats the moments of a failure, as shares of the seconds of an undisturbed run."""
    expected, seconds = undisturbed(kind)
    seed = int(os.environ.get("TLL_KILLS") or secrets.randbelow(10**9))
    rng = random.Random(seed)
    moments = [rng.uniform(0, 0.95) for _ in range(2 if number % 3 == 2 else 1)]
    folder = tmp_path / "run"
    codes = [run(kind, source, folder, killed_after=moments[0] * seconds)[0]]
    while codes == [0]:  # it has ended before: the machine was busier when the undisturbed run was measured
        shutil.rmtree(folder)
        moments[0] /= 2
        codes = [run(kind, source, folder, killed_after=moments[0] * seconds)[0]]
    codes += [run(kind, source, folder, killed_after=moment * seconds)[0] for moment in moments[1:]]
    what = f"{kind}, TLL_KILLS={seed}, killed at {moments} of {seconds:.2f} s: exit codes {codes}"
    print(what)
    assert set(codes) <= {0, -signal.SIGKILL}, f"{what}\n{log_of(folder)}"
    code, _ = run(kind, source, folder)
    assert code == 0, f"{what}\n{log_of(folder)}"
    found = contents(folder)
    left, missing = sorted(found.keys() - expected.keys()), sorted(expected.keys() - found.keys())
    assert (left, missing) == ([], []), f"{what}\n{log_of(folder)}"
    assert [name for name in expected if found[name] != expected[name]] == [], f"{what}\n{log_of(folder)}"
