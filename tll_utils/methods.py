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
from tll_utils.dataset import N_CANDIDATES, Images, Pairs
from tll_utils.embedding import Extractor, embed
from tll_utils.evaluation import expected_topk
from tll_utils.similarity import centre, cosine_similarity, l1_similarity, root_normalise, standardise

Score = Callable[[Pairs, Images, Images], np.ndarray]


@dataclass(frozen=True)
class Method:
    """A scoring function with what a table says about it."""

    title: str
    score: Score
    border_neutral: bool = False
    notes: str = ""


Features = Callable[[Images], np.ndarray]  # images → embeddings (n, d)


def features(extractor: Extractor, output: str = "embedding", *, root_cells: int = 0) -> Features:
    """An extractor's output as a function of images, root-normalised in `root_cells` cells unless that is 0."""

    def of(images: Images) -> np.ndarray:
        embeddings = embed(images, extractor)[output]
        return root_normalise(embeddings, n_cells=root_cells) if root_cells else embeddings

    return of


def uncentred(of: Features, similarity: Callable) -> Score:
    """Similarity of the embeddings as they are; nothing is learned."""

    def score(train: Pairs, left: Images, right: Images) -> np.ndarray:
        return similarity(of(left), of(right))

    return score


def centred(of: Features, similarity: Callable = cosine_similarity) -> Score:
    """Similarity after taking off each side's mean embedding, known from the training pairs.

    Left images (photos, mostly) and right images (drawings, logos, …) have different means; what is left
    is how an image differs from its own side's average.
    """

    def score(train: Pairs, left: Images, right: Images) -> np.ndarray:
        return similarity(
            centre(of(left), training=of(train.left)),
            centre(of(right), training=of(train.right)),
        )

    return score


def chosen(*scores: Score) -> Score:
    """The member that is best on the training pairs: a choice made without the pairs it is measured on.

    With fewer than 20 training pairs, too few for a candidate list, it is the first member.
    """

    def score(train: Pairs, left: Images, right: Images) -> np.ndarray:
        if len(train) < N_CANDIDATES:
            return scores[0](train, left, right)
        match = np.arange(len(train))
        best = max(scores, key=lambda member: expected_topk(member(train, train.left, train.right), match))
        return best(train, left, right)

    return score


def sum_of(*scores: Score) -> Score:
    """Sum of score matrices, each standardised so that none outweighs another."""

    def score(train: Pairs, left: Images, right: Images) -> np.ndarray:
        return sum(standardise(member(train, left, right)) for member in scores)

    return score


def lite(variant: int, *, border_neutral: bool = False) -> Score:
    """EfficientNet-Lite on its 3×2 grid, plain or root-normalised, whichever is better on the training pairs."""
    extractor = lite_extractor(variant, border_neutral=border_neutral)
    plain, root = (centred(features(extractor, "grid3x2", root_cells=cells)) for cells in (0, 6))
    return chosen(plain, root)


CHOSEN = "3×2 grid; normalisation (none or root) chosen in the training folds"
SHORTCUTS = ("border_geometry", "file_size", "lab_histogram", "tiny_image", "hog")
PRETRAINED = (
    "lite0_average", "lite0_max", "lite0_grid", "lite0", "lite1", "lite2", "lite_pair", "lite_sum",
    "lite0_border_neutral", "lite_sum_border_neutral",
)  # fmt: skip
DEFAULT_METHOD = "lite_pair"  # a third network takes longer and adds nothing

METHODS: dict[str, Method] = {
    "border_geometry": Method(
        "border geometry (4 widths, L1)",
        uncentred(features(descriptors.border_geometry()), l1_similarity),
        notes="shortcut: letterbox borders only, no content",
    ),
    "file_size": Method(
        "file size (log bytes, L1)",
        uncentred(features(descriptors.file_size()), l1_similarity),
        notes="shortcut: no content",
    ),
    "lab_histogram": Method("CIELAB histogram", centred(features(descriptors.lab_histogram()))),
    "tiny_image": Method("16×20 tiny image", centred(features(descriptors.tiny_image()))),
    "hog": Method("HOG", centred(features(descriptors.hog_descriptor()))),
    "lite0_average": Method("Lite0, average pool", centred(features(lite_extractor(0), "average"))),
    "lite0_max": Method("Lite0, max pool", centred(features(lite_extractor(0), "max"))),
    "lite0_grid": Method("Lite0, 3×2 grid", centred(features(lite_extractor(0), "grid3x2"))),
    "lite0": Method("Lite0, 3×2 grid, root-normalised", lite(0), notes=CHOSEN),
    "lite1": Method("Lite1, 3×2 grid, root-normalised", lite(1), notes=CHOSEN),
    "lite2": Method("Lite2, 3×2 grid, root-normalised", lite(2), notes=CHOSEN),
    "lite_pair": Method("Lite0 + Lite1", sum_of(lite(0), lite(1)), notes=CHOSEN),
    "lite_sum": Method("Lite0 + Lite1 + Lite2", sum_of(lite(0), lite(1), lite(2)), notes=CHOSEN),
    "lite0_border_neutral": Method(
        "Lite0, root-normalised, borders cropped", lite(0, border_neutral=True), border_neutral=True, notes=CHOSEN
    ),
    "lite_sum_border_neutral": Method(
        "Lite0 + Lite1 + Lite2, borders cropped",
        sum_of(*(lite(variant, border_neutral=True) for variant in (0, 1, 2))),
        border_neutral=True,
        notes=CHOSEN,
    ),
}


def get_method(name: str) -> Method:
    """The method of that name. Raises ValueError with the known names."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]
