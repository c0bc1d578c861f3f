"""Fitted methods as folders: model.json, arrays.safetensors, networks/*.keras and a model card; nothing is pickled.

`save(method, folder, train=train)`, then in any process `load(folder).scores(left, right)`.
"""

import json
import re
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import numpy as safetensors

from tll_utils.data.pairs import Pairs
from tll_utils.methods.base import Method
from tll_utils.runtime import DAMAGED, atomic_folder, keras, locked, read_json, sha256_of, write_text
from tll_utils.search.tree import ModelError, packed, unpacked

FORMAT = 1  # raise it when the files change, or what a name in adapters.BLOCKS or catalogue.EXTRACTORS stands for
CARD, ARRAYS, NETWORKS, MODEL = FILES = ("README.md", "arrays.safetensors", "networks", "model.json")
NETWORK = re.compile(rf"{NETWORKS}/\d+\.keras")
USES = {  # seen in the tree
    "faces": "face|SubCategories",
    "landmarks": '"(face_shape|face_landmarks)"',
    "bank": r'"bank_": \[',
}
PACKAGES = ("keras", "numpy", "safetensors", "scikit-learn", "tensorflow")


def save(
    method: Method,
    folder: Path | str,
    *,
    train: Pairs | None = None,
    accuracy: str = "not given",
    half: bool = False,
) -> None:
    """Write a fitted method, atomically; a model that is there is replaced.

    train: the pairs it was fitted on; accuracy: expected top-2 and where it was measured; both are for the record.
    half: arrays in float16, half the size, which are loaded as float32; networks stay in float32. Raises ModelError
    where the folder holds something else, or the method a value that no file can hold.
    """
    folder = Path(folder).resolve()
    there = {path.name for path in folder.glob("*")} or {MODEL}
    if folder.is_file() or not {MODEL} <= there <= set(FILES):
        raise ModelError(f"{folder} holds something else than a model: choose another folder, or delete it")
    with atomic_folder(folder) as new:
        _write(new, method, {"pairs": len(train), "fingerprint": train.key} if train else None, accuracy, half)


def load(folder: Path | str) -> Method:
    """The fitted method. Raises ModelError where a file is missing, damaged or of another version."""
    folder = Path(folder).resolve()
    with locked(folder):  # a run that saves it would change files between two reads
        return _read(folder)


def _read(folder: Path) -> Method:
    path = folder / MODEL
    try:
        model = read_json(path)
        if model.get("format") != FORMAT:
            raise ValueError(f"its format is {model.get('format')}, this tll_utils reads {FORMAT}")
        parts: dict[str, Any] = {}
        tree = json.dumps(model["method"])
        for name, digest in model["sha256"].items():  # model.json comes last
            if name not in FILES and not NETWORK.fullmatch(name):
                raise ValueError(f"{name!r} belongs to no model")
            path = folder / name
            if digest != (_sha256(tree) if name == MODEL else sha256_of(path)):
                raise ValueError("it is damaged, its SHA-256 is not the recorded one")
            if path.suffix == ".keras":
                parts[path.stem] = keras.saving.load_model(path, compile=False, safe_mode=True)
        path = folder / ARRAYS
        arrays = {name: _widened(array) for name, array in safetensors.load_file(path).items()}
        path = folder / MODEL
        return unpacked(tree, parts | arrays)
    except DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__  # Keras's have many lines
        raise ModelError(f"{path}: {reason}; copy the whole folder again, or save the model again") from error


def _write(folder: Path, method: Method, data: dict[str, Any] | None, accuracy: str, half: bool) -> None:
    parts: dict[int, tuple[str, Any]] = {}
    tree = json.dumps(packed(method, parts))
    (folder / NETWORKS).mkdir()
    arrays = {name: _stored(part, half) for name, part in parts.values() if isinstance(part, np.ndarray)}
    (folder / ARRAYS).write_bytes(safetensors.save(arrays))  # save_file's can be read by its owner only
    for name, part in parts.values():
        if isinstance(part, keras.Model):  # without optimizer and loss, so that plain `load_model` knows all of it
            keras.Model(part.inputs, part.output).save(folder / NETWORKS / f"{name}.keras")
    write_text(folder / CARD, _card(method, tree, data, accuracy))
    hashes = {path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(folder.rglob("*.*"))}
    versions = {name: version(name) for name in PACKAGES}
    model = {"format": FORMAT, "packages": versions, "train": data, "accuracy": accuracy, "method": json.loads(tree)}
    write_text(folder / MODEL, json.dumps(model | {"sha256": hashes | {MODEL: _sha256(tree)}}, indent=1))


def _stored(array: np.ndarray, half: bool) -> np.ndarray:
    """The array as it is written; what float16 cannot hold, because it is too large or too small, stays as it is."""
    array = np.asarray(array, order="C")  # safetensors copies memory as it lies there: transposed it would be scrambled
    if not half or array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):
        small = array.astype(np.float16)
    tolerance = 0.001 * np.nanmax(np.abs(array), initial=0)
    return small if np.allclose(small, array, rtol=0.01, atol=tolerance, equal_nan=True) else array


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _card(method: Method, tree: str, data: dict[str, Any] | None, accuracy: str) -> str:
    template = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    train = "{pairs} pairs of images (fingerprint {fingerprint})".format(**data) if data else "pairs not recorded"
    uses = {part: "used" if re.search(pattern, tree) else "not used" for part, pattern in USES.items()}
    about = {"title": type(method).__name__, "what": str(type(method).__doc__).split("\n")[0]}
    about["parameters"] = method.__repr__(10**5)  # pyright: ignore[reportCallIssue]  # repr() leaves out the middle
    return template.format(train=train, accuracy=accuracy, **uses, **about)


def _sha256(text: str) -> str:
    return sha256(text.encode()).hexdigest()
