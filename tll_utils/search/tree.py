"""A fitted method as a tree of JSON values, its arrays and networks apart, and back.

{"class": "Adapter", "inputs": …, "bank_": …} is an object of CLASSES, {"part": "3"} an array or a network;
{"tuple": […]}, {"dict": [[key, value], …]} and {"table": …} are what they say.
"""

import json
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd

from tll_utils.features.catalogue import Features
from tll_utils.methods import adapters, base, fine_tuning, from_scratch, fusion, registry
from tll_utils.runtime import keras

_CLASSES: tuple[type, ...] = (Features, base.Similarity, base.BorderNeutral, base.SelectOnTrain, base.WeightedSum)
_CLASSES += (base.Calibrated, base.SelfTrained)
_CLASSES += (fusion.Gated, fusion.LearnedFusion, registry.SubCategories, adapters.Whitening, adapters.Adapter)
CLASSES = {one.__name__: one for one in (*_CLASSES, fine_tuning.FineTuned, from_scratch.SiameseNetwork)}


class ModelError(ValueError):
    """A model that cannot be saved or loaded; the text names the file and the remedy."""


def packed(value: Any, parts: dict[int, tuple[str, Any]]) -> Any:
    """The tree of a value. Arrays and networks go into parts, {id: (name, part)}; what occurs twice is one part."""
    pack, name = partial(packed, parts=parts), type(value).__name__
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | keras.Model):
        return {"part": parts.setdefault(id(value), (str(len(parts)), value))[0]}
    if isinstance(value, pd.DataFrame):
        return {"table": pack({column: values.to_numpy() for column, values in value.items()})}
    if type(value) is dict:
        return {"dict": [[key, pack(item)] for key, item in value.items()]}
    if type(value) in (list, tuple):
        items = [pack(item) for item in value]
        return items if name == "list" else {"tuple": items}
    if type(value) is not CLASSES.get(name):
        raise ModelError(f"{value!r:.80} cannot be saved: add its class {name} to CLASSES in {__file__}")
    return {"class": name} | {attribute: pack(one) for attribute, one in vars(value).items()}


def unpacked(tree: str, parts: dict[str, Any]) -> Any:
    """The value of a tree, given as JSON. Raises ValueError for an unknown class."""
    return json.loads(tree, object_hook=partial(_made, parts))


def _made(parts: dict[str, Any], found: dict[str, Any]) -> Any:
    """What an object of the tree stands for; what it holds has been made already."""
    if "class" not in found:
        [(kind, content)] = found.items()
        return {"part": parts.__getitem__, "tuple": tuple, "dict": dict, "table": pd.DataFrame}[kind](content)
    if (name := found.pop("class")) not in CLASSES:
        raise ValueError(f"class {name} is unknown, known are {', '.join(CLASSES)}")
    learned = {attribute: found.pop(attribute) for attribute in [*found] if attribute.endswith("_")}
    made: Any = CLASSES[name](**found)
    made.__dict__.update(learned)
    return made


def fingerprint(value: Any) -> str:
    """SHA-256 of a fitted method: of its tree, arrays and weights; that of a loaded model is that of the saved one."""
    parts: dict[int, tuple[str, Any]] = {}
    digest = sha256(json.dumps(packed(value, parts), sort_keys=True).encode())
    for _, part in parts.values():
        for array in part.get_weights() if isinstance(part, keras.Model) else [np.asarray(part)]:
            digest.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
