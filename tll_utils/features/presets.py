"""KerasHub presets: find them on disk, load them with their own preprocessing, name their layers.

A preset is a folder with config.json, model.weights.h5 and image_converter.json. It is looked for by name in
`$TLL_PRESETS`, in data/presets and in the Kaggle cache; nothing is downloaded unless TLL_DOWNLOAD=1 asks for it.
"""

import hashlib
import importlib.util
import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tll_utils.runtime import keras, named_path, project_root, sha256_of

FILES = ("config.json", "image_converter.json")
WEIGHTS = ("model.weights.h5", "model.weights.json")  # one file, or the list of its parts


class PresetError(RuntimeError):
    """A preset that is not there, not whole or not of a network for images; the text names the remedy."""


class Network(NamedTuple):
    """A loaded network: RGB in [0, 255] → preprocessing → input → layers {name: map (n, h, w, c)}, in their order."""

    preprocessing: keras.layers.Layer
    input: Any  # a symbolic tensor, as are the maps
    layers: dict[str, Any]
    size: tuple[int, int] | None = None  # (height, width) where it takes no other


def load_preset(folder: Path) -> Network:
    """The network of a preset folder; of CLIP and SigLIP the image tower.

    Its layers are "stage1", "stage2" … and, only for networks of convolutions, "last_fifth", the fifth layer from
    the end of the classifier, whose last two layers (pool and dense) are not in the preset, and "last_pool", the
    last map. Raises PresetError where the layers of such a network are not known here.
    """
    folder = folder.resolve()  # KerasHub takes a relative path for the name of a published preset, and asks for it
    converter = keras_hub().layers.ImageConverter.from_preset(str(folder))
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    model = keras_hub().models.Backbone.from_preset(str(folder))
    model = getattr(model, "vision_encoder", model)
    is_transformer = hasattr(model, "patch_size")
    stages = _token_stages(model) if is_transformer else _map_stages(model)
    layers = {f"stage{number}": stage for number, stage in enumerate(stages, start=1)}
    if not is_transformer:
        layers |= {"last_fifth": model.layers[-3].output, "last_pool": model.output}
    size = model.inputs[0].shape[1:3]
    return Network(keras.layers.Rescaling(scale, offset), model.inputs[0], layers, None if None in size else size)


def _map_stages(model: Any) -> list:
    """Outputs of the stages of a convolutional network, each half the size of the one before."""
    if hasattr(model, "pyramid_outputs"):
        return list(model.pyramid_outputs.values())
    if not (pools := [layer.output for layer in model.layers if layer.name.endswith("_pool")]):  # VGG
        raise PresetError(f"{type(model).__name__} has no stages that are known here: use another network")
    return pools


def _token_stages(model: Any) -> list:
    """Outputs of a transformer's blocks as maps: its patches in rows, without class and register tokens."""
    if hasattr(model, "pyramid_outputs"):  # DINOv2
        tokens = [tensor for name, tensor in model.pyramid_outputs.items() if name != "stem"]
    else:  # CLIP and SigLIP
        tokens = [layer.output for layer in model.encoder_layers]
    rows, columns = (side // model.patch_size for side in model.inputs[0].shape[1:3])
    return [keras.ops.reshape(t[:, -rows * columns :], (-1, rows, columns, t.shape[-1])) for t in tokens]


def find_preset(name: str) -> Path:
    """Folder of the preset of that name, or the folder `name` itself; looked for on disk only.

    With TLL_DOWNLOAD=1 a missing preset is downloaded from Kaggle. Raises PresetError, without waiting for
    any network, naming the files, their size, where they go and how to get them.
    """
    places = [root / name for root in (named_path("TLL_PRESETS"), project_root() / "data" / "presets") if root]
    for folder in (Path(name), *places):
        if folder.is_dir():
            return _checked_folder(folder)
    known = keras_hub().models.Backbone.presets.get(name)
    if known is None:
        raise PresetError(f"{name!r} is neither a folder nor a KerasHub preset: see keras.io/keras_hub/presets")
    handle = known["kaggle_handle"].removeprefix("kaggle://")
    cached = Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub") / "models" / handle
    if not cached.is_dir() and os.environ.get("TLL_DOWNLOAD") == "1":
        try:
            keras_hub().layers.ImageConverter.from_preset(name)
            keras_hub().models.Backbone.from_preset(name)
        except Exception as error:  # kagglehub raises whatever its HTTP client does
            raise PresetError(f"{name} could not be downloaded ({error}): copy it to data/presets/{name}") from error
    if cached.is_dir():
        return _checked_folder(cached)
    megabytes = round(known["metadata"]["params"] * 4 / 1e6)  # four bytes per parameter
    raise PresetError(
        f"{name} is not on this machine. It is {', '.join(FILES)} and {WEIGHTS[0]} (about {megabytes} MB), "
        f"looked for in {', '.join(map(str, (*places, cached)))}. To get it: set TLL_DOWNLOAD=1 where there is a "
        f"network, or copy the files of kaggle.com/models/{handle} to {places[-1]}."
    )


def weights_sha256(folder: Path) -> str:
    """SHA-256 over a preset's configuration and weights: two folders of one name may differ."""
    paths = sorted(folder.glob("*.json")) + sorted(folder.glob("*.h5"))
    return hashlib.sha256(b"".join(bytes.fromhex(sha256_of(path)) for path in paths)).hexdigest()


@cache
def keras_hub() -> Any:
    """KerasHub, imported when it is first needed since that takes seconds. Raises PresetError if it is missing."""
    if importlib.util.find_spec("keras_hub") is None:
        raise PresetError("keras-hub is not installed: pip install keras-hub")
    with warnings.catch_warnings(action="ignore"):  # about progress bars a notebook cannot draw
        import keras_hub

    return keras_hub


def _checked_folder(folder: Path) -> Path:
    missing = [file for file in FILES if not (folder / file).is_file()]
    if not any((folder / file).is_file() for file in WEIGHTS):
        missing.append(WEIGHTS[0])
    if missing:
        raise PresetError(f"preset {folder} lacks {', '.join(missing)}: copy the whole preset again")
    return folder
