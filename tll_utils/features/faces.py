"""Faces with dlib: detected, landmarks placed, turned upright, described by 128 numbers.

The models come in the `face_recognition_models` package (King 2009, King 2017). The data set behind the 68-point
landmarks (iBUG 300-W) excludes commercial use: they are an extractor of their own, and nothing else needs their model.
A face descriptor names a person: on TLL it stays in the cache folder, which git ignores.
"""

# pyright: reportAttributeAccessIssue=false
import threading
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import dlib
import numpy as np

from tll_utils.data.images import Images
from tll_utils.features.embedding import Extractor, embed
from tll_utils.features.face_network import CHIP_SIZE, face_network
from tll_utils.features.inference import Forward, compile_forward
from tll_utils.runtime import packaged_file

MAX_FACES = 8  # kept per image
MARGIN_OF_CHIP = 0.25  # of the face's size, what the descriptor network was trained on
PASSES = ((1.0, -0.3), (1.5, -0.4))  # (enlargement, least score); the second only where the first found nothing

SHA256 = {
    "shape_predictor_5_face_landmarks.dat": "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
    "shape_predictor_68_face_landmarks.dat": "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
    "dlib_face_recognition_resnet_model_v1.dat": "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
}

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
_OF_THREAD = threading.local()  # a detector holds scratch memory, so threads must not share one


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
    if not hasattr(_OF_THREAD, "detector"):
        _OF_THREAD.detector = dlib.get_frontal_face_detector()
    boxes, scores, _ = _OF_THREAD.detector.run(image, 0, least)
    edges = [np.array([box.left(), box.top(), box.right(), box.bottom()]) / enlargement for box in boxes]
    return [Face(tuple(box.tolist()), score) for box, score in zip(edges, scores, strict=True)]


def landmarks(image: np.ndarray, box: Box) -> np.ndarray:
    """68 points of jaw, brows, nose, eyes and mouth (Kazemi and Sullivan 2014), float32 (68, 2) as x, y in pixels."""
    return np.array([(point.x, point.y) for point in _points(image, box, 68).parts()], np.float32)


def aligned_chip(image: np.ndarray, box: Box) -> np.ndarray:
    """The face of a box cut out, turned upright and scaled by its 5 landmarks, uint8 (150, 150, 3)."""
    return dlib.get_face_chip(image, _points(image, box, 5), CHIP_SIZE, MARGIN_OF_CHIP)


def descriptors(chips: Sequence[np.ndarray]) -> np.ndarray:
    """128 numbers of each `aligned_chip`, (n, 128); two photos of one person are less than 0.6 apart (dlib)."""
    return _network()(np.stack(chips))["descriptor"]


@cache
def _network() -> Forward:
    return compile_forward(face_network(packaged_model("dlib_face_recognition_resnet_model_v1.dat")))


@cache
def _predictor(n_points: int):
    return dlib.shape_predictor(str(packaged_model(f"shape_predictor_{n_points}_face_landmarks.dat")))


def packaged_model(name: str) -> Path:
    """A model's file; raises PackagedFileError where it is missing or altered."""
    package = "face_recognition_models"
    return packaged_file(package, f"models/{name}", sha256=SHA256[name], requirement=f"{package}==0.3.0")


def _points(image: np.ndarray, box: Box, n_points: int):
    return _predictor(n_points)(image, dlib.rectangle(*(round(edge) for edge in box)))


def detected(image: np.ndarray) -> tuple[list[Face], np.ndarray | None]:
    """The faces of an image, as `find_faces` has them, and the chosen one's chip."""
    faces = find_faces(image)
    return faces, aligned_chip(image, faces[0].box) if faces else None


def describe(images: Sequence[tuple[list[Face], np.ndarray | None]]) -> dict[str, np.ndarray]:
    """What is known of the faces of n `detected` images, float32.

    found (n, 1) 0 or 1 · count (n, 1) · scores (n, 8) and boxes (n, 32), all faces kept up to 8, the chosen one first,
    then zeros · descriptor (n, 128) of the chosen face, NaN where there is none.
    """
    counts = np.array([[len(faces)] for faces, _ in images], np.float32)
    scores, boxes = (np.zeros((len(images), MAX_FACES, *width), np.float32) for width in ((), (4,)))
    chosen = np.full((len(images), 128), np.nan, np.float32)
    for row, (faces, _) in enumerate(images):
        for place, face in enumerate(faces[:MAX_FACES]):
            boxes[row, place], scores[row, place] = face
    if counts.any():
        chosen[counts[:, 0] > 0] = descriptors([chip for _, chip in images if chip is not None])
    boxes = boxes.reshape(len(images), -1)
    return {"found": np.minimum(counts, 1), "count": counts, "scores": scores, "boxes": boxes, "descriptor": chosen}


def describe_landmarks(image: np.ndarray, box: Box) -> dict[str, np.ndarray]:
    """landmarks68 (136,) of the face in a box, and shape (136,): these moved to their mean and scaled to length one.

    The shape is pose and expression, which the descriptor was trained to ignore. A box of zeros is no face: NaN.
    """
    points = landmarks(image, box) if any(box) else np.full((68, 2), np.nan, np.float32)
    centred = points - points.mean(axis=0)
    return {"landmarks68": points.ravel(), "shape": (centred / np.sqrt((centred**2).sum())).ravel()}


def face_extractor() -> Extractor:
    """Extractor of the outputs of `describe`. Faces are found in the threads that load: dlib lets go of Python's lock.

    The content of border-neutral images is not stretched back, since a face would lose its proportions; boxes and
    landmarks then count from the content's corner.
    """
    return Extractor("faces @4", lambda images, row: detected(images.content(row)), describe)


def landmark_extractor() -> Extractor:
    """Extractor of the outputs of `describe_landmarks` for the chosen faces of `face_extractor`."""
    return Extractor("face landmarks @1", lambda images, row: (images, row, images.content(row)), _landmarks_of_rows)


def _landmarks_of_rows(batch: Sequence[tuple[Images, int, np.ndarray]]) -> dict[str, np.ndarray]:
    boxes = _boxes(batch[0][0])
    found = [describe_landmarks(image, tuple(boxes[row, :4].tolist())) for _, row, image in batch]
    return {output: np.stack([one[output] for one in found]) for output in found[0]}


@lru_cache(maxsize=1)  # asked for with every batch of one extraction
def _boxes(images: Images) -> np.ndarray:
    return embed(images, face_extractor())["boxes"]


def whole_image_extractor() -> Extractor:
    """Extractor of the report's face features: "descriptor" (n, 128) with the whole image as the face's box."""
    return Extractor("whole-image face @2", _whole_image_chip, lambda chips: {"descriptor": descriptors(chips)})


def _whole_image_chip(images: Images, row: int) -> np.ndarray:
    image = images.content(row)  # in which nothing is detected
    return aligned_chip(image, (0, 0, image.shape[1], image.shape[0]))
