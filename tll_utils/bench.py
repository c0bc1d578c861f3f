"""Speed and memory, measured in one run on this machine: `make bench`, or `python -m tll_utils.bench [section …]`.

Every ratio compares medians of repeats that take turns, so that whatever else the machine does meets all alike.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import dlib
import numpy as np
import pandas as pd

from tll_utils import faces, siamese
from tll_utils.backbones import backbone, efficientnet_lite
from tll_utils.dataset import N_CANDIDATES, Images, load_dataset
from tll_utils.embedding import BATCH_SIZE, embed
from tll_utils.engines import compile_forward, precision_name
from tll_utils.pairs import pair_table
from tll_utils.runtime import ahead, project_root

REPEATS = 5
N_FACE_IMAGES = 200
N_SPEED = 2000  # images of the end-to-end run, as many as a side of the test set
N_MEMORY = (1000, 8000)
RESNET18 = siamese.VARIANTS["resnet18_absolute_2x2"]
SIZE, N_PAIRS, N_QUESTIONS, N_STEPS = (123, 100), 64, 40, 3
NETWORK, TAP, POOL = "efficientnet_lite0", "head", "grid3x2"

Row = dict[str, object]


def row(what: str, value: float, unit: str, *, ratio: float | None = None, to: str = "") -> Row:
    """One line of the table: a value, and its ratio to another line of the same run."""
    return {"what": what, "value": round(value, 1), "unit": unit, "ratio": ratio and round(ratio, 2), "ratio_to": to}


def interleaved(tasks: dict[str, Callable[[], object]], *, repeats: int = REPEATS) -> dict[str, float]:
    """Median seconds of every task; they run in turns, after one run each that does not count."""
    seconds = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in seconds.items()}


# ------------------------------------------------------------------------------------------------- embedding


def embedding() -> list[Row]:
    """Images a second of every engine, of the common way, and from files to embeddings on disk."""
    images = load_dataset().train.left.base
    batch = np.stack([images[i % len(images)] for i in range(BATCH_SIZE)])
    network = backbone(NETWORK)
    model = network.pooled_model([TAP], [POOL], size=network.size)
    fast = precision_name("auto", engine="openvino")
    forwards = {
        "Keras float32": compile_forward(model, engine="keras"),
        **{f"OpenVINO {p}": compile_forward(model, engine="openvino", precision=p) for p in {"float32", fast}},
    }
    tasks = {f"{name}, in memory": (lambda forward=forward: forward(batch)) for name, forward in forwards.items()}
    common, end_to_end = "common way: one image, one predict", f"files to disk, OpenVINO {fast}"
    keras_model = efficientnet_lite(0)
    tasks[common] = lambda: keras_model.predict(images[0][None], verbose=0)
    long = repeated(images, N_SPEED)
    n_images = {name: len(batch) for name in tasks} | {common: 1, end_to_end: N_SPEED}
    with environment(TLL_ENGINE="openvino", TLL_PRECISION=fast):
        extractor = network.extractor([TAP], [POOL])
        tasks[end_to_end] = lambda: _extract_anew(long, extractor)
        seconds = interleaved(tasks)
    speed = {name: n_images[name] / seconds[name] for name in tasks}
    against = [
        *((name, "Keras float32, in memory") for name in tasks if name.startswith("OpenVINO")),
        (end_to_end, f"OpenVINO {fast}, in memory"),
        (end_to_end, common),
    ]
    references = [row(name, speed[name], "images/s") for name in ("Keras float32, in memory", common)]
    return references + [row(a, speed[a], "images/s", ratio=speed[a] / speed[b], to=b) for a, b in against]


def _extract_anew(images: Images, extractor) -> None:
    """Embed with an empty cache."""
    with tempfile.TemporaryDirectory() as folder, environment(TLL_CACHE=folder):
        embed(images, extractor)


def repeated(images: Images, n: int) -> Images:
    """The same files again and again, as a folder of n images."""
    files = [images.files[i % len(images)] for i in range(n)]
    return Images([str(i) for i in range(n)], files)


# ---------------------------------------------------------------------------------------------------- memory


def memory() -> list[Row]:
    """Peak memory of an extraction, each in a process of its own: it must not grow with the number of images."""
    peaks = [_peak_of_process(n) for n in N_MEMORY]
    few, many = (f"extraction of {n:,} images" for n in N_MEMORY)
    return [row(few, peaks[0], "MB"), row(many, peaks[1], "MB", ratio=peaks[1] / peaks[0], to=few)]


def _peak_of_process(n: int) -> float:
    command = [sys.executable, "-m", "tll_utils.bench", "--peak", str(n)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=project_root())
    return float(result.stdout.splitlines()[-1])


def peak_memory(n: int) -> float:
    """Megabytes this process needed at most, after embedding n images in the fastest precision."""
    with environment(TLL_PRECISION="auto"):
        _extract_anew(repeated(load_dataset().train.left.base, n), backbone(NETWORK).extractor([TAP], [POOL]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes elsewhere


# --------------------------------------------------------------------------------------------------- siamese


def siamese_training() -> list[Row]:
    """ResNet18 trained and scored with each image encoded once and pair by pair; the cost of its input pipeline."""
    return [*_training(), *_scoring(), *_pipeline()]


def _training() -> list[Row]:
    """An epoch; the first one, which also compiles, does not count."""
    pairs = load_dataset().train
    train, validation = np.split(np.arange(N_PAIRS + N_CANDIDATES), [N_PAIRS])
    train, validation = pairs.take(train), pairs.take(validation)
    epochs = {}
    for name, table in (("shared", None), ("pair by pair", pair_table(train.left.ids, train.right.ids))):
        with tempfile.TemporaryDirectory() as folder:
            options = {"folder": Path(folder), "epochs": 2, "size": SIZE, "table": table}
            epochs[name] = siamese.fit(RESNET18, train, validation, **options)[1].iloc[-1]
    reference, ours = (f"an epoch of {N_PAIRS} pairs, {name}" for name in ("pair by pair", "each image encoded once"))
    once, paired = epochs["shared"], epochs["pair by pair"]
    return [
        row(f"images of {reference}", paired.images, "images"),
        row(f"images of {ours}", once.images, "images", ratio=paired.images / once.images, to="pair by pair"),
        row(reference, paired.seconds, "s"),
        row(ours, once.seconds, "s", ratio=paired.seconds / once.seconds, to="pair by pair"),
    ]


def _scoring() -> list[Row]:
    """Questions of 20 candidates: every image encoded once for the whole matrix, and one predict a candidate."""
    test = load_dataset().test
    rows = np.arange(min(N_QUESTIONS, len(test.left)))
    columns, candidates = np.unique(test.candidates[rows], return_inverse=True)
    left = siamese.Prepared(test.left.take(rows), SIZE)
    right = siamese.Prepared(test.right.take(columns), SIZE)
    model = siamese.build(RESNET18, size=SIZE)
    twins = siamese.pair_by_pair(model)

    def once() -> np.ndarray:
        return np.take_along_axis(siamese.score_matrix(model, left, right), candidates, axis=1)

    def one_by_one() -> np.ndarray:
        def score(i: int, j: int) -> float:
            return twins.predict([left[i][None], right[j][None]], verbose=0)[0]

        return np.array([[score(i, j) for j in candidates[i]] for i in range(len(left))])

    if not np.allclose(once(), one_by_one(), atol=1e-2):  # bfloat16 rounds batches of other sizes differently
        raise AssertionError("scores of shared encodings and of single pairs differ")
    name, reference = "each image encoded once", "one predict a candidate"
    seconds = interleaved({name: once, reference: one_by_one}, repeats=2)
    return [
        row(f"scoring {len(rows)}×20 candidates, {reference}", seconds[reference], "s"),
        row(f"scoring, {name}", seconds[name], "s", ratio=seconds[reference] / seconds[name], to=reference),
    ]


def _pipeline() -> list[Row]:
    """Steps of training fed from files, decoded in the first of five epochs, and fed one batch in memory."""
    train, epochs = load_dataset().train.take(np.arange(N_STEPS * 32)), range(5)
    model = siamese.build(RESNET18, size=SIZE)
    model.compile("adam", loss=siamese.drawn_cross_entropy)
    fixed = siamese.SharedBatches(siamese.prepare(train, SIZE))[0]

    def in_memory() -> None:
        for _ in range(N_STEPS * len(epochs)):
            model.train_on_batch(*fixed)

    def from_files() -> None:
        batches = siamese.SharedBatches(siamese.prepare(train, SIZE))
        for batches.epoch in epochs:
            for batch in ahead(batches.__getitem__, range(len(batches))):
                model.train_on_batch(*batch)

    name, reference = "training from files", "training on one batch in memory"
    seconds = interleaved({name: from_files, reference: in_memory}, repeats=3)
    speed = {task: 2 * len(train) * len(epochs) / seconds[task] for task in seconds}
    return [
        row(reference, speed[reference], "images/s"),
        row(name, speed[name], "images/s", ratio=speed[name] / speed[reference], to=reference),
    ]


# ----------------------------------------------------------------------------------------------------- faces


def face_detection() -> list[Row]:
    """Native scale first and enlarged where nothing was found, against every image enlarged; one process each."""
    images = load_dataset().train.left
    pictures = [images[i] for i in range(min(N_FACE_IMAGES, len(images)))]
    detector = dlib.get_frontal_face_detector()
    ours, reference = "faces, native scale first", "faces, all images enlarged"
    ways = {
        ours: lambda: sum(bool(faces.find_faces(picture)) for picture in pictures),
        reference: lambda: sum(bool(detector.run(picture, 1, -0.3)[0]) for picture in pictures),
    }
    found = {name: way() for name, way in ways.items()}
    seconds = interleaved(ways, repeats=2)
    speed = {name: len(pictures) / seconds[name] for name in ways}
    return [
        row(reference, speed[reference], "images/s"),
        row(ours, speed[ours], "images/s", ratio=speed[ours] / speed[reference], to=reference),
        row(f"images with a face, {reference}", found[reference], "images"),
        row(f"images with a face, {ours}", found[ours], "images", ratio=found[ours] / found[reference], to=reference),
    ]


# ----------------------------------------------------------------------------------------------------- table

BENCHES: dict[str, Callable[[], list[Row]]] = {
    "embedding": embedding,
    "memory": memory,
    "siamese": siamese_training,
    "faces": face_detection,
}


@contextmanager
def environment(**variables: str):
    """Environment variables that hold inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run(sections: list[str]) -> pd.DataFrame:
    """Table of the rows of these sections."""
    return pd.DataFrame([{"section": section, **line} for section in sections for line in BENCHES[section]()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"default: all of {', '.join(BENCHES)}")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["TLL_PROGRESS"] = "0"
    if arguments.peak:
        print(peak_memory(arguments.peak))
        return
    if unknown := set(arguments.sections) - set(BENCHES):
        parser.error(f"unknown sections {sorted(unknown)}; known: {', '.join(BENCHES)}")
    write_table(run(arguments.sections or list(BENCHES)), project_root() / "build" / "bench.csv")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Print the table and write it as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    print(table.to_string(index=False, na_rep=""))


if __name__ == "__main__":
    main()
