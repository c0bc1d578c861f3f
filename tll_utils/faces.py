"""Faces with dlib: detected, landmarks placed, turned upright, described by 128 numbers.

The four models come in the `face_recognition_models` package (King 2009, King 2017). A face descriptor names
a person: on TLL it stays in the cache folder, which git ignores.
"""

import hashlib
import importlib.util
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import dlib
import joblib
import numpy as np
import pandas as pd

from tll_utils.dataset import Images, Pairs
from tll_utils.embedding import Extractor, embed
from tll_utils.images import MARGIN, find_borders

MAX_FACES = 8  # kept an image
CHIP_SIZE = 150  # pixels, what the descriptor network was trained on
MARGIN_OF_CHIP = 0.25  # of the face's size, likewise

# (enlargement, least score): native scale first, the second only where the first found nothing.
PASSES = {"hog": ((1.0, -0.3), (1.5, -0.4)), "cnn": ((1.0, 0.0), (2.0, 0.0))}


class FaceModelError(RuntimeError):
    """A model file that is missing or not the published one; the text names file, size and remedy."""


class _ModelFile(NamedTuple):
    name: str
    n_bytes: int
    sha256: str


_FILES = {
    "landmarks5": _ModelFile(
        "shape_predictor_5_face_landmarks.dat",
        9_150_489,
        "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
    ),
    "landmarks68": _ModelFile(
        "shape_predictor_68_face_landmarks.dat",
        99_693_937,
        "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
    ),
    "descriptor": _ModelFile(
        "dlib_face_recognition_resnet_model_v1.dat",
        22_466_066,
        "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    ),
    "cnn_detector": _ModelFile(
        "mmod_human_face_detector.dat",
        729_940,
        "4cb19393e2fbaf2b1609a9319ad5386618c886a6234ec1b971f3e87c85d87fe6",
    ),
}


class Face(NamedTuple):
    """A detected face: box (left, top, right, bottom) in pixels, and the detector's score, higher = surer."""

    box: tuple[float, float, float, float]
    score: float


# ---------------------------------------------------------------------------------------------------- models


def model_file(model: str) -> Path:
    """Path of a model in the installed package, SHA-256 verified; model: a key of landmarks5, landmarks68, ….

    The package is found, not imported: its `__init__` needs pkg_resources, gone from newer setuptools.
    Raises FaceModelError naming file, size and remedy if it is missing or is not the published one.
    """
    known = _FILES[model]
    wanted = f"{known.name} ({known.n_bytes:,} bytes)"
    remedy = "pip install --force-reinstall face_recognition_models==0.3.0"
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None:
        raise FaceModelError(f"{wanted} is not installed; {remedy}")
    path = Path(spec.submodule_search_locations[0]) / "models" / known.name
    if not path.is_file():
        raise FaceModelError(f"{path}: missing, expected {wanted}; {remedy}")
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != known.sha256:
            size = path.stat().st_size
            raise FaceModelError(f"{path}: {size:,} bytes, not the published {wanted}, SHA-256 differs; {remedy}")
    return path


# One copy a process: dlib's models hold scratch memory, so threads must not share them.
@cache
def _hog_detector():
    return dlib.get_frontal_face_detector()


@cache
def _cnn_detector():
    return dlib.cnn_face_detection_model_v1(str(model_file("cnn_detector")))


@cache
def _landmark_model(n_points: int):
    return dlib.shape_predictor(str(model_file(f"landmarks{n_points}")))


@cache
def _descriptor_model():
    return dlib.face_recognition_model_v1(str(model_file("descriptor")))


# ------------------------------------------------------------------------------------------------- one image


def find_faces(image: np.ndarray, *, detector: str = "hog") -> list[Face]:
    """Faces of an image, the chosen one first; empty where there is none.

    image uint8 (h, w, 3) RGB of any size. detector: "hog" (fast) or "cnn" (slower, finds more profiles).
    Native scale first, enlarged only where that finds nothing. The chosen face is the largest and most
    confident one: box width × (score − least score) is largest, so a small sure face beats a large doubtful one
    only as far as it is surer.
    """
    for enlargement, least in PASSES[detector]:
        if faces := _detect(image, detector, enlargement, least):
            return sorted(faces, key=lambda face: (face.box[2] - face.box[0]) * (face.score - least), reverse=True)
    return []


def _detect(image: np.ndarray, detector: str, enlargement: float, least: float) -> list[Face]:
    if detector == "hog":
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)  # a third of the gradients to compute
    scaled = cv2.resize(image, None, fx=enlargement, fy=enlargement) if enlargement != 1 else image
    if detector == "hog":
        boxes, scores, _ = _hog_detector().run(scaled, 0, least)
    else:
        found = [face for face in _cnn_detector()(scaled, 0) if face.confidence >= least]
        boxes, scores = [face.rect for face in found], [face.confidence for face in found]
    return [Face(_corners(box, enlargement), score) for box, score in zip(boxes, scores, strict=True)]


def _corners(box, enlargement: float) -> tuple[float, float, float, float]:
    return tuple(edge / enlargement for edge in (box.left(), box.top(), box.right(), box.bottom()))


def landmarks(image: np.ndarray, box: tuple[float, ...], *, n_points: int = 68) -> np.ndarray:
    """Points of the face in a box, float32 (n_points, 2) as x, y in pixels.

    68 points outline jaw, brows, nose, eyes and mouth; 5 are the corners of the eyes and the base of the nose
    (Kazemi and Sullivan 2014).
    """
    shape = _shape(image, box, n_points)
    return np.array([(point.x, point.y) for point in shape.parts()], np.float32)


def aligned_chip(image: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    """The face of a box cut out, turned upright and scaled by its 5 landmarks, uint8 (150, 150, 3)."""
    return dlib.get_face_chip(image, _shape(image, box, 5), CHIP_SIZE, MARGIN_OF_CHIP)


def descriptor(image: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    """128 numbers of the face in a box, float32 (128,); two photos of one person are less than 0.6 apart (dlib)."""
    return np.array(_descriptor_model().compute_face_descriptor(aligned_chip(image, box)), np.float32)


def whole_image_descriptor(image: np.ndarray) -> np.ndarray:
    """The report's face feature: the descriptor with the whole image as the face's box, (128,); nothing is detected."""
    return descriptor(image, (0, 0, image.shape[1], image.shape[0]))


def _shape(image: np.ndarray, box: tuple[float, ...], n_points: int):
    return _landmark_model(n_points)(image, dlib.rectangle(*(round(edge) for edge in box)))


def describe(image: np.ndarray, *, detector: str = "hog") -> dict[str, np.ndarray]:
    """Everything about an image's faces as float32 vectors, zeros where there is no face.

    found (1,) 0 or 1 · count (1,) · scores (8,) and boxes (32,), all faces kept up to 8, the chosen one first ·
    landmarks5 (10,), landmarks68 (136,) and descriptor (128,) of the chosen face.
    """
    faces = find_faces(image, detector=detector)
    kept = faces[:MAX_FACES]
    result = {
        "found": np.array([len(faces) > 0], np.float32),
        "count": np.array([len(faces)], np.float32),
        "scores": _padded([face.score for face in kept], MAX_FACES),
        "boxes": _padded([face.box for face in kept], 4 * MAX_FACES),
        "landmarks5": np.zeros(10, np.float32),
        "landmarks68": np.zeros(136, np.float32),
        "descriptor": np.zeros(128, np.float32),
    }
    if faces:
        box = faces[0].box
        result |= {f"landmarks{n}": landmarks(image, box, n_points=n).ravel() for n in (5, 68)}
        result["descriptor"] = descriptor(image, box)
    return result


def _padded(values: list, length: int) -> np.ndarray:
    values = np.asarray(values, np.float32).ravel()
    return np.pad(values, (0, length - len(values)))


# ------------------------------------------------------------------------------------------------ many images


def face_extractor(*, detector: str = "hog", border_neutral: bool = False) -> Extractor:
    """Extractor of the outputs of `describe`, one process a core.

    border_neutral: letterbox borders are cut away first. Unlike elsewhere the content is not stretched back,
    since a face would lose its proportions; boxes and landmarks then count from the content's corner.
    """
    neutral = " border-neutral" if border_neutral else ""
    describe_image = partial(_described, detector=detector, border_neutral=border_neutral)
    return Extractor(f"faces {detector}{neutral} @1", _whole_image, partial(_in_processes, describe_image))


def whole_image_extractor(*, border_neutral: bool = False) -> Extractor:
    """Extractor of the report's face features: "descriptor" (n, 128) with the whole image as the face's box."""
    neutral = " border-neutral" if border_neutral else ""
    describe_image = partial(_described_whole, border_neutral=border_neutral)
    return Extractor(f"whole-image face{neutral} @1", _whole_image, partial(_in_processes, describe_image))


def _whole_image(images: Images, row: int) -> np.ndarray:
    return images[row]


def _described(image: np.ndarray, *, detector: str, border_neutral: bool) -> dict[str, np.ndarray]:
    return describe(_content(image) if border_neutral else image, detector=detector)


def _described_whole(image: np.ndarray, *, border_neutral: bool) -> dict[str, np.ndarray]:
    return {"descriptor": whole_image_descriptor(_content(image) if border_neutral else image)}


def _content(image: np.ndarray) -> np.ndarray:
    top, bottom, left, right = find_borders(image) + MARGIN
    return np.ascontiguousarray(image[top : len(image) - bottom, left : image.shape[1] - right])


def _in_processes(describe_image, batch: np.ndarray) -> dict[str, np.ndarray]:
    """The described images, stacked. Processes and not threads: dlib's descriptor network keeps Python's lock."""
    described = joblib.Parallel(n_jobs=-1, batch_size=1)(joblib.delayed(describe_image)(image) for image in batch)
    return {output: np.stack([one[output] for one in described]) for output in described[0]}


def face_features(*, border_neutral: bool = False) -> Callable[[Images], tuple[np.ndarray, np.ndarray]]:
    """Images → descriptors (n, 128) of the chosen faces and whether there is one, bool (n,): for `fusion.Gated`."""
    extractor = face_extractor(border_neutral=border_neutral)

    def of(images: Images) -> tuple[np.ndarray, np.ndarray]:
        outputs = embed(images, extractor)
        return outputs["descriptor"], outputs["found"][:, 0] > 0

    return of


def face_shape(*, border_neutral: bool = False) -> Callable[[Images], tuple[np.ndarray, np.ndarray]]:
    """Images → shapes (n, 136) and whether there is a face, bool (n,).

    The 68 landmarks of the chosen face, moved to their middle and scaled to length one: pose and expression,
    which the descriptor was trained to ignore.
    """
    extractor = face_extractor(border_neutral=border_neutral)

    def of(images: Images) -> tuple[np.ndarray, np.ndarray]:
        outputs = embed(images, extractor)
        points = outputs["landmarks68"].reshape(-1, 68, 2)
        points = points - points.mean(axis=1, keepdims=True)
        length = np.sqrt((points**2).sum(axis=(1, 2), keepdims=True))
        found = outputs["found"][:, 0] > 0
        return np.divide(points, length, where=length > 0, out=np.zeros_like(points)).reshape(-1, 136), found

    return of


def face_found(*, border_neutral: bool = False) -> Callable[[Images], np.ndarray]:
    """Images → 1 where there is a face, else 0, (n, 1)."""
    extractor = face_extractor(border_neutral=border_neutral)
    return lambda images: embed(images, extractor)["found"]


def found_table(pairs: Pairs) -> pd.DataFrame:
    """left (id), left_face, right_face (bool) of every pair: what is recorded of the faces, no descriptor."""
    found = [face_features()(side)[1] for side in (pairs.left, pairs.right)]
    return pd.DataFrame({"left": pairs.left.ids, "left_face": found[0], "right_face": found[1]})


def faces_in_pair(table: pd.DataFrame) -> pd.Series:
    """ "both", "left only", "right only" or "none" for every row of a `found_table`."""
    words = {(True, True): "both", (True, False): "left only", (False, True): "right only", (False, False): "none"}
    return pd.Series([words[pair] for pair in zip(table.left_face, table.right_face, strict=True)], name="faces")
