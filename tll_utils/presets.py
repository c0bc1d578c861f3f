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
from typing import NamedTuple

from tll_utils.backend import keras
from tll_utils.runtime import project_root

FILES = ("config.json", "image_converter.json")
WEIGHTS = ("model.weights.h5", "model.weights.json")  # one file, or the list of its parts

ops = keras.ops


class PresetError(RuntimeError):
    """A preset that is not there, not whole or not of a network for images; the text names the remedy."""


class Preset(NamedTuple):
    """Preprocessing x·scale + offset of RGB in [0, 255], then a network; taps are {name: map (n, h, w, c)}."""

    network: keras.Model
    taps: dict[str, keras.KerasTensor]
    scale: list[float] | float
    offset: list[float] | float
    size: tuple[int, int] | None  # (height, width) where the network takes no other


def load_preset(folder: Path) -> Preset:
    """The network of a preset folder with its taps and preprocessing.

    CLIP and SigLIP give their image tower. Taps are "stage1", "stage2" … from input to output, "last_pool", the
    last map, and "last_fifth", the fifth layer from the end of the classifier, whose last two layers (pool
    and dense) are not in the preset; only for networks of convolutions. Raises PresetError where the preset
    has no taps this function knows.
    """
    hub = keras_hub()
    converter = hub.layers.ImageConverter.from_preset(str(folder))
    network = hub.models.Backbone.from_preset(str(folder))
    network = getattr(network, "vision_encoder", network)
    network.trainable = False
    taps = _taps(network)
    shape = network.inputs[0].shape[1:3]
    size = None if None in shape else tuple(shape)
    return Preset(network, taps, _or(converter.scale, 1.0), _or(converter.offset, 0.0), size)


def _or(value, default):
    return default if value is None else value


# ---------------------------------------------------------------------------------------------------- layers


def _taps(network: keras.Model) -> dict[str, keras.KerasTensor]:
    """{tap: map (n, h, w, c)}, from input to output."""
    stages = _token_stages(network) if hasattr(network, "patch_size") else _map_stages(network)
    taps = {f"stage{number}": tensor for number, tensor in enumerate(stages, start=1)}
    if not hasattr(network, "patch_size"):
        taps["last_fifth"] = network.layers[-3].output
        taps["last_pool"] = network.output
    return taps


def _map_stages(network: keras.Model) -> list[keras.KerasTensor]:
    """Outputs of the stages of a convolutional network, each half the size of the one before."""
    if hasattr(network, "pyramid_outputs"):
        return list(network.pyramid_outputs.values())
    pools = [layer.output for layer in network.layers if layer.name.endswith("_pool")]  # VGG
    if not pools:
        raise PresetError(f"{type(network).__name__} has no stages that are known here: use another network")
    return pools


def _token_stages(network: keras.Model) -> list[keras.KerasTensor]:
    """Outputs of a transformer's blocks as maps: its patches in rows, without class and register tokens."""
    if hasattr(network, "pyramid_outputs"):  # DINOv2
        tokens = [tensor for name, tensor in network.pyramid_outputs.items() if name != "stem"]
    else:  # CLIP and SigLIP
        tokens = [layer.output for layer in network.encoder_layers]
    rows, columns = (side // network.patch_size for side in network.inputs[0].shape[1:3])
    return [ops.reshape(t[:, -rows * columns :], (-1, rows, columns, t.shape[-1])) for t in tokens]


# ----------------------------------------------------------------------------------------------------- files


def find_preset(name: str) -> Path:
    """Folder of the preset of that name, or the folder `name` itself; looked for on disk only.

    With TLL_DOWNLOAD=1 a missing preset is downloaded from Kaggle. Raises PresetError, without waiting for
    any network, naming the files, their size, where they go and how to get them.
    """
    places = _places(name)
    for folder in places:
        if folder.is_dir():
            return _checked_folder(folder)
    if name not in known_presets():
        raise PresetError(f"{name!r} is neither a folder nor a KerasHub preset: see keras.io/keras_hub/presets")
    if os.environ.get("TLL_DOWNLOAD") == "1":
        return _download(name)
    raise PresetError(
        f"{name} is not on this machine. It is {FILES[0]}, {FILES[1]} and {WEIGHTS[0]} (about {size_mb(name)} MB), "
        f"looked for in {', '.join(map(_shown, places[1:]))}. To get it: set TLL_DOWNLOAD=1 where there is a network, "
        f"or copy the files of kaggle.com/models/{_handle(name)} to {_shown(places[-2])}."
    )


def size_mb(name: str) -> int:
    """Approximate size of a preset's weights in MB: four bytes a parameter."""
    return round(known_presets()[name]["metadata"]["params"] * 4 / 1e6)


def weights_sha256(folder: Path) -> str:
    """SHA-256 over a preset's configuration and weights: two folders of one name may differ."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.h5")):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def known_presets() -> dict[str, dict]:
    """KerasHub's table of presets, {name: {"metadata": {"params": …}, "kaggle_handle": …}}."""
    return keras_hub().models.Backbone.presets


@cache
def keras_hub():
    """KerasHub, imported when it is first needed since that takes seconds. Raises PresetError if it is missing."""
    if importlib.util.find_spec("keras_hub") is None:
        raise PresetError("keras-hub is not installed: pip install keras-hub")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about progress bars a notebook cannot draw
        import keras_hub

    return keras_hub


def _places(name: str) -> list[Path]:
    """`name` as a folder, $TLL_PRESETS/name, data/presets/name and, for a known name, the Kaggle cache."""
    places = [Path(name)]
    if os.environ.get("TLL_PRESETS"):
        places.append(Path(os.environ["TLL_PRESETS"]) / name)
    places.append(project_root() / "data" / "presets" / name)
    if not places[0].is_dir() and name in known_presets():
        cache_folder = Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")
        organisation, model, *rest = _handle(name).split("/")
        places.append(cache_folder / "models" / organisation / model / Path(*rest))
    return places


def _shown(path: Path) -> str:
    """The path without the parts that only this machine has."""
    for root, name in ((project_root(), Path()), (Path.home(), Path("~"))):
        if path.is_relative_to(root):
            return str(name / path.relative_to(root))
    return str(path)


def _handle(name: str) -> str:
    return known_presets()[name]["kaggle_handle"].removeprefix("kaggle://")


def _checked_folder(folder: Path) -> Path:
    missing = [file for file in FILES if not (folder / file).is_file()]
    if not any((folder / file).is_file() for file in WEIGHTS):
        missing.append(WEIGHTS[0])
    if missing:
        raise PresetError(f"preset {folder} lacks {', '.join(missing)}: copy the whole preset again")
    return folder


def _download(name: str) -> Path:
    try:
        keras_hub().layers.ImageConverter.from_preset(name)
        keras_hub().models.Backbone.from_preset(name)
    except Exception as error:  # kagglehub raises whatever its HTTP client does
        raise PresetError(f"{name} could not be downloaded ({error}): copy it to data/presets/{name}") from error
    return _checked_folder(_places(name)[-1])
