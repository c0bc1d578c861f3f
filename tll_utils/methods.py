"""Every method by name. A method is one function: score(train, left, right) → S.

    train   the pairs it may learn from (a centre, a weight, a network)
    left    query images, right: gallery images
    S       float32 (n_left, n_right), higher = more alike

A new method is one such function and one line in METHODS; cross-validation, tables and submission follow.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tll_utils import descriptors
from tll_utils.backbones import lite_extractor
from tll_utils.dataset import Images, Pairs
from tll_utils.embedding import Extractor, embed
from tll_utils.similarity import centre, cosine_similarity, l1_similarity, standardise

Score = Callable[[Pairs, Images, Images], np.ndarray]


@dataclass(frozen=True)
class Method:
    """A scoring function with what a table says about it."""

    title: str
    score: Score
    border_neutral: bool = False
    notes: str = ""


def uncentred(extractor: Extractor, output: str, similarity: Callable) -> Score:
    """Similarity of the embeddings as they are; nothing is learned."""

    def score(train: Pairs, left: Images, right: Images) -> np.ndarray:
        return similarity(embed(left, extractor)[output], embed(right, extractor)[output])

    return score


def centred(extractor: Extractor, output: str = "embedding", similarity: Callable = cosine_similarity) -> Score:
    """Similarity after taking off each side's mean embedding, known from the training pairs.

    Left images (photos, mostly) and right images (drawings, logos, …) have different means; what is left
    is how an image differs from its own side's average.
    """

    def score(train: Pairs, left: Images, right: Images) -> np.ndarray:
        left_embedding, right_embedding = (
            centre(embed(side, extractor)[output], training=embed(training, extractor)[output])
            for side, training in ((left, train.left), (right, train.right))
        )
        return similarity(left_embedding, right_embedding)

    return score


def sum_of(*scores: Score) -> Score:
    """Sum of score matrices, each standardised so that none outweighs another."""

    def score(train: Pairs, left: Images, right: Images) -> np.ndarray:
        return sum(standardise(member(train, left, right)) for member in scores)

    return score


GRID = "grid3x2"
SHORTCUTS = ("border_geometry", "file_size", "lab_histogram", "tiny_image", "hog")
PRETRAINED = ("lite0", "lite0_border_neutral", "lite0_average", "lite0_max", "lite1", "lite2", "lite_sum")
DEFAULT_METHOD = "lite_sum"

METHODS: dict[str, Method] = {
    "border_geometry": Method(
        "border geometry (4 widths, L1)",
        uncentred(descriptors.border_geometry(), "embedding", l1_similarity),
        notes="shortcut: letterbox borders only, no content",
    ),
    "file_size": Method(
        "file size (log bytes, L1)",
        uncentred(descriptors.file_size(), "embedding", l1_similarity),
        notes="shortcut: no content",
    ),
    "lab_histogram": Method("CIELAB histogram", centred(descriptors.lab_histogram())),
    "tiny_image": Method("16×20 tiny image", centred(descriptors.tiny_image())),
    "hog": Method("HOG", centred(descriptors.hog_descriptor())),
    "lite0": Method("EfficientNet-Lite0, 3×2 grid", centred(lite_extractor(0), GRID)),
    "lite0_border_neutral": Method(
        "EfficientNet-Lite0, 3×2 grid, borders cropped",
        centred(lite_extractor(0, border_neutral=True), GRID),
        border_neutral=True,
    ),
    "lite0_average": Method("EfficientNet-Lite0, average pool", centred(lite_extractor(0), "average")),
    "lite0_max": Method("EfficientNet-Lite0, max pool", centred(lite_extractor(0), "max")),
    "lite1": Method("EfficientNet-Lite1, 3×2 grid", centred(lite_extractor(1), GRID)),
    "lite2": Method("EfficientNet-Lite2, 3×2 grid", centred(lite_extractor(2), GRID)),
    "lite_sum": Method(
        "sum of Lite0 + Lite1 + Lite2, 3×2 grid",
        sum_of(*(centred(lite_extractor(variant), GRID) for variant in (0, 1, 2))),
    ),
}


def get_method(name: str) -> Method:
    """The method of that name. Raises ValueError with the known names."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]
