"""Speed and memory, measured in one run on this machine: `make bench`, or `python -m scripts.bench [section …]`.

Every ratio compares medians of repeats that take turns, so that whatever else the machine does meets all alike.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import dlib
import numpy as np
import pandas as pd

from scripts.growth import LAYER, NETWORK, POOL, extract_anew, growth, peak_megabytes, plot, repeated
from scripts.recording import commit, environment
from tll_utils.data.dataset import N_CANDIDATES, load_dataset
from tll_utils.data.images import HEIGHT, WIDTH
from tll_utils.data.pairs import Pairs, pair_table
from tll_utils.features.backbones import backbone
from tll_utils.features.efficientnet_lite import efficientnet_lite
from tll_utils.features.embedding import BATCH_SIZE
from tll_utils.features.faces import aligned_chip, descriptors, find_faces, packaged_model
from tll_utils.features.inference import compile_forward, precision_name
from tll_utils.methods.adapters import BLOCKS
from tll_utils.methods.registry import SUBSETS, get_method
from tll_utils.report.plots import save_figure
from tll_utils.runtime import build_dir, keras, project_root, write_text
from tll_utils.siamese import training
from tll_utils.siamese.batches import InBatchNegatives, cached
from tll_utils.siamese.losses import masked_binary_cross_entropy

REPEATS = 3
N_FACE_IMAGES = 200
N_SPEED = 2000  # images of the end-to-end run, as many as a side of the test set
N_MEMORY = (1000, 8000)
SIZE, BATCH, N_STEPS, N_QUERIES = (123, 100), 32, 2, 20
QUIET: Any = 0  # Keras takes numbers and declares text

Row = dict[str, object]


def row(what: str, value: float, unit: str, *, ratio: float | None = None, to: str = "") -> Row:
    """One line of the table: a value, and its ratio to another line of the same run."""
    return {"what": what, "value": round(value, 1), "unit": unit, "ratio": ratio and round(ratio, 2), "ratio_to": to}


def compared(values: Mapping[str, float], unit: str, *, costs: bool = False) -> list[Row]:
    """Two lines, the reference first; the ratio is above 1 where the other one is faster, or costs less."""
    (reference, base), (ours, value) = values.items()
    ratio = base / value if costs else value / base
    return [row(reference, base, unit), row(ours, value, unit, ratio=ratio, to=reference)]


def interleaved(tasks: Mapping[str, Callable[[], object]], *, repeats: int = REPEATS) -> dict[str, float]:
    """Median seconds of every task; they run in turns, after one run each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in seconds.items()}


# --- embedding ------------------------------------------------------------------


def embedding() -> list[Row]:
    """Images a second of every engine, of the common way, and from files to embeddings on disk."""
    images = load_dataset().train.left.base
    batch = np.stack([images[i % len(images)] for i in range(BATCH_SIZE)])
    network, fast = backbone(NETWORK), precision_name("auto", engine="openvino")
    model = network.pooled_model([LAYER], [POOL], size=network.size)
    keras_name, fast_name = "Keras float32, in memory", f"OpenVINO {fast}, in memory"
    tasks: dict[str, Callable] = {keras_name: partial(compile_forward(model, engine="keras"), batch)}
    for precision in sorted({"float32", fast}):
        forward = compile_forward(model, engine="openvino", precision=precision)
        tasks[f"OpenVINO {precision}, in memory"] = partial(forward, batch)
    common, end_to_end = "common way: one image, one predict", f"files to disk, OpenVINO {fast}"
    tasks[common] = partial(efficientnet_lite(0).predict, images[0][None], verbose=QUIET)
    n_images = dict.fromkeys(tasks, len(batch)) | {common: 1, end_to_end: N_SPEED}
    with patch.dict(os.environ, {"TLL_ENGINE": "openvino", "TLL_PRECISION": fast}):
        tasks[end_to_end] = partial(extract_anew, repeated(images, N_SPEED), network.extractor([LAYER], [POOL]))
        seconds = interleaved(tasks)
    speed = {name: n_images[name] / seconds[name] for name in tasks}
    against = [(name, keras_name) for name in tasks if name.startswith("OpenVINO")]
    against += [(end_to_end, fast_name), (end_to_end, common)]
    references = [row(name, speed[name], "images/s") for name in (keras_name, common)]
    return references + [row(a, speed[a], "images/s", ratio=speed[a] / speed[b], to=b) for a, b in against]


# --- memory ---------------------------------------------------------------------


def memory() -> list[Row]:
    """Peak memory of an extraction, each in a process of its own: it must not grow with the number of images."""
    return compared({f"extraction of {n:,} images": _peak_of_process(n) for n in N_MEMORY}, "MB")


def _peak_of_process(n: int) -> float:
    command = [sys.executable, "-m", "scripts.bench", "--peak", str(n)]
    result = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", cwd=project_root())
    return float(result.stdout.splitlines()[-1])


def peak_memory(n: int) -> float:
    """Megabytes this process needed at most, after embedding n images in the fastest precision."""
    with patch.dict(os.environ, {"TLL_PRECISION": "auto"}):
        extract_anew(repeated(load_dataset().train.left.base, n), backbone(NETWORK).extractor([LAYER], [POOL]))
    return peak_megabytes()


# --- siamese --------------------------------------------------------------------


def siamese() -> list[Row]:
    """ResNet18 trained and scored with each image encoded once and pair by pair; the cost of its input pipeline."""
    return [*_training(), *_scoring(), *_pipeline()]


def _resnet18() -> keras.Model:
    return training.build(tower="resnet18", head="absolute", pooling="2x2", size=SIZE)


def _row_by_row(model: keras.Model) -> keras.Model:
    """The same weights as the report uses them: (left, right) → logits (b,), row with row."""
    return keras.Model(model.inputs, keras.ops.diagonal(model.output))


def _training() -> list[Row]:
    """Epochs over the same pairs: in-batch negatives, and the report's table of 20 rows per pair."""
    train = load_dataset().train.take(np.arange(N_STEPS * BATCH))
    pairs, table = cached(train, SIZE), pair_table(train.left.ids, train.right.ids)
    once, paired = _resnet18(), _row_by_row(_resnet18())
    once.compile("adam", masked_binary_cross_entropy)
    paired.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    lefts, rights = (pd.Index(side.ids).get_indexer(table[name]) for name, side in vars(train).items())
    rows = [np.stack(pairs.left)[lefts], np.stack(pairs.right)[rights]]
    labels, batches = table["label"].to_numpy(np.float32), InBatchNegatives(pairs, batch_size=BATCH)
    ours, reference = (f"an epoch of {len(pairs)} pairs, {way}" for way in ("each image encoded once", "pair by pair"))
    tasks = {
        reference: partial(paired.fit, rows, labels, batch_size=BATCH, verbose=QUIET),
        ours: partial(once.fit, batches, shuffle=False, verbose=QUIET),
    }
    n_images = {f"images of {reference}": 2 * len(table), f"images of {ours}": 2 * len(pairs)}
    return compared(n_images, "images", costs=True) + compared(interleaved(tasks, repeats=1), "s", costs=True)


def _scoring() -> list[Row]:
    """Queries of 20 candidates: every image encoded once for the whole matrix, and one predict per candidate."""
    test = load_dataset().test
    rows = np.arange(min(N_QUERIES, len(test)))
    columns, candidates = np.unique(test.candidates[rows], return_inverse=True)
    candidates = candidates.reshape(len(rows), N_CANDIDATES)
    images: Any = cached(Pairs(test.left.take(rows), test.right.take(columns)), SIZE)
    left, right = images.left, images.right
    model = _resnet18()
    one_by_one = partial(_one_by_one, _row_by_row(model), left, right, candidates)
    at_once = partial(_at_once, model, left, right, candidates)
    if not np.allclose(one_by_one(), at_once(), atol=1e-2):  # bfloat16 rounds batches of other sizes differently
        raise AssertionError("scores of shared encodings and of single pairs differ")
    what = f"scoring {len(rows)}×20 candidates"
    tasks = {f"{what}, one predict per candidate": one_by_one, f"{what}, each image encoded once": at_once}
    return compared(interleaved(tasks, repeats=2), "s", costs=True)


def _one_by_one(model: keras.Model, left: Any, right: Any, candidates: np.ndarray) -> np.ndarray:
    pairs = [(left[i][None], right[j][None]) for i, row in enumerate(candidates) for j in row]
    return np.reshape([model.predict(pair, verbose=QUIET)[0] for pair in pairs], candidates.shape)


def _at_once(model: keras.Model, left: Any, right: Any, candidates: np.ndarray) -> np.ndarray:
    return np.take_along_axis(training.score_matrix(model, left, right), candidates, axis=1)


def _pipeline() -> list[Row]:
    """Epochs of training fed from files, decoded in the first of five, and the same steps fed one batch in memory."""
    pairs, epochs = load_dataset().train.take(np.arange(N_STEPS * BATCH)), 5
    model = _resnet18()
    model.compile("adam", masked_binary_cross_entropy)
    batch = InBatchNegatives(cached(pairs, SIZE), batch_size=BATCH)[0]
    tasks = {
        "training on one batch in memory": lambda: [model.train_on_batch(*batch) for _ in range(N_STEPS * epochs)],
        "training from files": lambda: model.fit(
            InBatchNegatives(cached(pairs, SIZE), batch_size=BATCH), epochs=epochs, shuffle=False, verbose=QUIET
        ),
    }
    seconds = interleaved(tasks, repeats=3)
    return compared({name: 2 * len(pairs) * epochs / seconds[name] for name in tasks}, "images/s")


# --- faces ----------------------------------------------------------------------


def faces() -> list[Row]:
    """Native scale first against every image enlarged; dlib's own descriptor network against its weights in ours."""
    images = load_dataset().train.left
    pictures = [images[i] for i in range(min(N_FACE_IMAGES, len(images)))]
    detector = dlib.get_frontal_face_detector()  # pyright: ignore[reportAttributeAccessIssue]
    ways = {
        "faces, all images enlarged": lambda: sum(bool(detector.run(picture, 1, -0.3)[0]) for picture in pictures),
        "faces, native scale first": lambda: sum(bool(find_faces(picture)) for picture in pictures),
    }
    found = {f"images with {name}": way() for name, way in ways.items()}
    seconds = interleaved(ways, repeats=2)
    detection = compared({name: len(pictures) / seconds[name] for name in ways}, "images/s")
    chips = [aligned_chip(picture, (0, 0, WIDTH, HEIGHT)) for picture in pictures[:BATCH]]
    weights = str(packaged_model("dlib_face_recognition_resnet_model_v1.dat"))
    network = dlib.face_recognition_model_v1(weights)  # pyright: ignore[reportAttributeAccessIssue]
    ways = {
        "face descriptors, dlib": partial(network.compute_face_descriptor, chips),
        "face descriptors, the same weights in our engine": partial(descriptors, chips),
    }
    if not np.allclose(*(way() for way in ways.values()), atol=1e-5):
        raise AssertionError("face descriptors differ")
    seconds = interleaved(ways, repeats=2)
    described = compared({name: len(chips) / seconds[name] for name in ways}, "faces/s")
    return detection + compared(found, "images") + described


# --- methods --------------------------------------------------------------------


def methods() -> list[Row]:
    """`best` and `fast` on the sample, their features cached: fitted, and scores of all test images."""
    data = load_dataset()
    sides = (data.train.left, data.train.right, data.test.left, data.test.right)
    for name, side in product(SUBSETS[0], sides):  # the first of the subsets is all of them
        for view in (side, side.mirrored()) if BLOCKS[name].mirrored else (side,):
            BLOCKS[name].features(view)
    fit, score = {}, {}
    for name in ("best", "fast"):
        started = time.perf_counter()
        method = get_method(name).fit(data.train)
        fit[f"{name}: fit of {len(data.train)} pairs"] = time.perf_counter() - started
        what = f"{name}: scores of {len(data.test.left)}×{len(data.test.right)}"
        score[what] = partial(method.scores, data.test.left, data.test.right)
    return compared(fit, "s", costs=True) + compared(interleaved(score, repeats=2), "s", costs=True)


SECTIONS = {"embedding": embedding, "memory": memory, "siamese": siamese, "faces": faces, "methods": methods}
GROWTH = "growth"  # of scripts/growth.py, the last section


def main() -> None:
    """The command line: print the tables and write them to build/bench.json, which data/results keeps a copy of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"default: all of {', '.join([*SECTIONS, GROWTH])}")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["TLL_PROGRESS"] = "0"
    if arguments.peak:
        print(peak_memory(arguments.peak))
        return
    sections = arguments.sections or [*SECTIONS, GROWTH]
    if unknown := set(sections) - {*SECTIONS, GROWTH}:
        parser.error(f"unknown sections {sorted(unknown)}; known: {', '.join([*SECTIONS, GROWTH])}")
    rows = [{"section": one, **line} for one in sections if one != GROWTH for line in SECTIONS[one]()]
    tables = {"ratios": pd.DataFrame(rows)} if rows else {}
    if GROWTH in sections:
        tables[GROWTH] = growth()
        save_figure(plot(tables[GROWTH]), GROWTH, tables[GROWTH], folder=build_dir())
    for table in tables.values():
        print(table.to_string(index=False, na_rep=""))
    when = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"recorded_at": when, "commit": commit(), "environment": environment()} | {
        name: json.loads(table.to_json(orient="records")) for name, table in tables.items()
    }
    write_text(build_dir() / "bench.json", json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
