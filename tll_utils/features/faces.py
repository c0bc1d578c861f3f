"""Faces with dlib: detected, landmarks placed, turned upright, described by 128 numbers.

The models come in the `face_recognition_models` package (King 2009, King 2017). The data set behind the 68-point
landmarks (iBUG 300-W) excludes commercial use: they are an extractor of their own, and nothing else needs their model.
A face descriptor names a person: on TLL it stays in the cache folder, which git ignores.
"""

# pyright: reportAttributeAccessIssue=false
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import cv2
import dlib
import joblib
import numpy as np

from tll_utils.data.images import Images
from tll_utils.features.embedding import Extractor, embed
from tll_utils.runtime import packaged_file

MAX_FACES = 8  # kept per image
CHIP_SIZE = 150  # pixels, what the descriptor network was trained on
MARGIN_OF_CHIP = 0.25  # of the face's size, likewise
PASSES = ((1.0, -0.3), (1.5, -0.4))  # (enlargement, least score); the second only where the first found nothing

SHA256 = {
    "shape_predictor_5_face_landmarks.dat": "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
    "shape_predictor_68_face_landmarks.dat": "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
    "dlib_face_recognition_resnet_model_v1.dat": "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
}

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
_DETECTION = threading.Lock()  # threads that load images ask for their faces at once: the first one finds them for all
_LATEST: dict[str, Any] = {}  # these images and their boxes


class Face(NamedTuple):
    """A detected face and the detector's score, higher = surer."""

    box: Box
    score: float


def find_faces(image: np.ndarray) -> list[Face]:
    """Faces of an image, the chosen one first; empty where there is none.

    image uint8 (h, w, 3) RGB of any size. Histograms of oriented gradients, in native scale first, enlarged only
    where that finds nothing. The chosen face has the largest box width × (score − least score), so a small sure
    face beats a large doubtful one only as far as it is surer.
    """
    for enlargement, least in PASSES:
        if faces := _detect(image, enlargement, least):
            return sorted(faces, key=lambda face: (face.box[2] - face.box[0]) * (face.score - least), reverse=True)
    return []


def _detect(image: np.ndarray, enlargement: float, least: float) -> list[Face]:
    image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)  # a third of the gradients to compute
    if enlargement != 1:
        image = cv2.resize(image, None, fx=enlargement, fy=enlargement)
    boxes, scores, _ = _model(dlib.get_frontal_face_detector).run(image, 0, least)
    edges = [np.array([box.left(), box.top(), box.right(), box.bottom()]) / enlargement for box in boxes]
    return [Face(tuple(box.tolist()), score) for box, score in zip(edges, scores, strict=True)]


def landmarks(image: np.ndarray, box: Box, *, n_points: int = 68) -> np.ndarray:
    """Points of the face in a box, float32 (n_points, 2) as x, y in pixels.

    68 points outline jaw, brows, nose, eyes and mouth; 5 the eyes' corners and the nose (Kazemi and Sullivan 2014).
    """
    return np.array([(point.x, point.y) for point in _points(image, box, n_points).parts()], np.float32)


def aligned_chip(image: np.ndarray, box: Box) -> np.ndarray:
    """The face of a box cut out, turned upright and scaled by its 5 landmarks, uint8 (150, 150, 3)."""
    return dlib.get_face_chip(image, _points(image, box, 5), CHIP_SIZE, MARGIN_OF_CHIP)


def descriptor(image: np.ndarray, box: Box) -> np.ndarray:
    """128 numbers of the face in a box, float32 (128,); two photos of one person are less than 0.6 apart (dlib)."""
    network = _model(dlib.face_recognition_model_v1, "dlib_face_recognition_resnet_model_v1.dat")
    return np.array(network.compute_face_descriptor(aligned_chip(image, box)), np.float32)


def whole_image_descriptor(image: np.ndarray) -> np.ndarray:
    """The report's face feature: the descriptor with the whole image as the face's box, (128,); nothing is detected."""
    return descriptor(image, (0, 0, image.shape[1], image.shape[0]))


@cache  # one copy per process: dlib's models hold scratch memory, so threads must not share them
def _model(kind: Callable, *names: str):
    """A model of dlib from its files, if any; raises PackagedFileError where one is missing or altered."""
    package = {"package": "face_recognition_models", "requirement": "face_recognition_models==0.3.0"}
    return kind(*(str(packaged_file(name=f"models/{name}", sha256=SHA256[name], **package)) for name in names))


def _points(image: np.ndarray, box: Box, n_points: int):
    predictor = _model(dlib.shape_predictor, f"shape_predictor_{n_points}_face_landmarks.dat")
    return predictor(image, dlib.rectangle(*(round(edge) for edge in box)))


def describe(image: np.ndarray) -> dict[str, np.ndarray]:
    """What is known of an image's faces as float32 vectors.

    found (1,) 0 or 1 · count (1,) · scores (8,) and boxes (32,), all faces kept up to 8, the chosen one first, then
    zeros · descriptor (128,) of the chosen face, NaN where there is none.
    """
    faces = find_faces(image)
    kept = faces[:MAX_FACES]
    return {
        "found": np.array([len(faces) > 0], np.float32),
        "count": np.array([len(faces)], np.float32),
        "scores": _padded([face.score for face in kept], MAX_FACES),
        "boxes": _padded([face.box for face in kept], 4 * MAX_FACES),
        "descriptor": descriptor(image, faces[0].box) if faces else np.full(128, np.nan, np.float32),
    }


def describe_landmarks(image_and_box: tuple[np.ndarray, Box]) -> dict[str, np.ndarray]:
    """landmarks68 (136,) of the face in a box, and shape (136,): these moved to their mean and scaled to length one.

    The shape is pose and expression, which the descriptor was trained to ignore. A box of zeros is no face: NaN.
    """
    image, box = image_and_box
    points = landmarks(image, box) if any(box) else np.full((68, 2), np.nan, np.float32)
    centred = points - points.mean(axis=0)
    return {"landmarks68": points.ravel(), "shape": (centred / np.sqrt((centred**2).sum())).ravel()}


def _padded(values: list, length: int) -> np.ndarray:
    flat = np.asarray(values, np.float32).ravel()
    return np.pad(flat, (0, length - len(flat)))


def face_extractor() -> Extractor:
    """Extractor of the outputs of `describe`, one process per core.

    The content of border-neutral images is not stretched back, since a face would lose its proportions; boxes and
    landmarks then count from the content's corner.
    """
    return Extractor("faces @3", Images.content, partial(_in_processes, describe))


def landmark_extractor() -> Extractor:
    """Extractor of the outputs of `describe_landmarks` for the chosen faces of `face_extractor`."""
    return Extractor("face landmarks @1", _with_box, partial(_in_processes, describe_landmarks))


def _with_box(images: Images, row: int) -> tuple[np.ndarray, Box]:
    with _DETECTION:
        if _LATEST.get("images") is not images:  # the same for all rows of an extraction
            _LATEST.update(images=images, boxes=embed(images, face_extractor())["boxes"])
        box = _LATEST["boxes"][row, :4]
    return images.content(row), tuple(box.tolist())


def whole_image_extractor() -> Extractor:
    """Extractor of the report's face features: "descriptor" (n, 128) with the whole image as the face's box."""
    encode = partial(_in_processes, lambda image: {"descriptor": whole_image_descriptor(image)})
    return Extractor("whole-image face @1", Images.content, encode)


def _in_processes(describe_image: Callable, batch: Sequence[Any]) -> dict[str, np.ndarray]:
    """The described images, stacked. Processes and not threads: dlib's descriptor network keeps Python's lock."""
    in_parallel: Any = joblib.Parallel(n_jobs=-1, batch_size=1)  # pyright: ignore[reportArgumentType]
    try:
        described = in_parallel(joblib.delayed(describe_image)(image) for image in batch)
    except OSError:  # processes cannot start, as with a full /dev/shm
        described = [describe_image(image) for image in batch]
    return {output: np.stack([one[output] for one in described]) for output in described[0]}
