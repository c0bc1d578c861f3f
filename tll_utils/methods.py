"""Every method by name. A method is one function: score(train, left, right) → S.

    train   the pairs it may learn from (a centre, a weight, a network)
    left    query images, right: gallery images
    S       float32 (n_left, n_right), higher = more alike

A new method is one such function and one line in METHODS; cross-validation, tables and submission follow.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans

from tll_utils import descriptors, faces
from tll_utils.adapters import Block, Head, adapter
from tll_utils.backbones import backbone, lite_extractor
from tll_utils.dataset import N_CANDIDATES, Images, Pairs
from tll_utils.embedding import Extractor, embed
from tll_utils.evaluation import expected_topk
from tll_utils.fine_tuning import Tuning, fine_tuned
from tll_utils.fusion import Gated, fixed, learned, report_sum
from tll_utils.similarity import centre, cosine_similarity, l1_similarity, root_normalise, standardise

Score = Callable[[Pairs, Images, Images], np.ndarray]


@dataclass(frozen=True)
class Method:
    """A scoring function with what a table says about it."""

    title: str
    score: Score
    border_neutral: bool = False
    notes: str = ""
    one_to_one: bool = False  # the queries are decoded together, see `matching`


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


VARIANTS = (0, 1, 2)
TAPS = ("stage5", "head")  # the last maps before the third and the fourth halving behind which content is learned


def tap_extractor(variant: int, *, border_neutral: bool = False) -> Extractor:
    """The taps of an EfficientNet-Lite on their 4×3 grids, one pass: "stage5_grid4x3", "head_grid4x3"."""
    return backbone(f"efficientnet_lite{variant}").extractor(TAPS, ["grid4x3"], border_neutral=border_neutral)


def lite_tap(variant: int, tap: str) -> Score:
    """A tap of an EfficientNet-Lite on its 4×3 grid, plain or root-normalised as chosen on the training pairs."""
    extractor, output = tap_extractor(variant), f"{tap}_grid4x3"
    # stage5 ends in a linear projection: its features may be negative and have no root.
    cells = (0, 12) if tap == "head" else (0,)
    return chosen(*(centred(features(extractor, output, root_cells=n)) for n in cells))


def lite_taps(variants: tuple[int, ...] = VARIANTS) -> tuple[Score, ...]:
    """Every tap of these variants."""
    return tuple(lite_tap(variant, tap) for variant in variants for tap in TAPS)


def blocks(*kinds: str, border_neutral: bool = False, variants: tuple[int, ...] = VARIANTS) -> tuple[Block, ...]:
    """Inputs of an adapter: any of "head", "stage5" (of the variants), "hog", "faces"."""
    made = []
    for kind in kinds:
        if kind == "faces":
            made += [
                Block(faces.face_features(border_neutral=border_neutral), 128, 1.5, gated=True),
                Block(faces.face_shape(border_neutral=border_neutral), 32, 0.5, gated=True),
                Block(faces.face_found(border_neutral=border_neutral), 1, 0.5),
            ]
        elif kind == "hog":
            hog = descriptors.hog_descriptor()
            made.append(Block(features(descriptors.border_neutral(hog) if border_neutral else hog), 256))
        else:
            made += [_tap_block(variant, kind, border_neutral) for variant in variants]
    return tuple(made)


def _tap_block(variant: int, tap: str, border_neutral: bool) -> Block:
    extractor, output = tap_extractor(variant, border_neutral=border_neutral), f"{tap}_grid4x3"
    # The root keeps strong features from outweighing the others; those of the linear stage5 may be negative.
    views = (extractor, descriptors.mirrored(extractor))
    of, mirrored = (features(view, output, root_cells=12 * (tap == "head")) for view in views)
    return Block(of, 256, mirrored=mirrored)


def remembered(score: Score) -> Score:
    """The same score function, its results kept: what several methods of an experiment sum up is computed once."""
    kept: dict[tuple, np.ndarray] = {}

    def recalled(train: Pairs, left: Images, right: Images) -> np.ndarray:
        sides = (train.left, train.right, left, right)
        key = tuple((images.fingerprint, images.rows.tobytes()) for images in sides)
        if key not in kept:
            kept[key] = score(train, left, right)
        return kept[key]

    return recalled


def sub_category(train: Pairs, left: Images) -> np.ndarray:
    """Group of every left image, (n,) int: one of three clusters of the training lefts' embeddings, face or no face."""
    clusters = KMeans(3, n_init=10, random_state=0).fit(AVERAGE(train.left)).predict(AVERAGE(left))
    return 2 * clusters + faces.face_found()(left)[:, 0].astype(int)


HEAD = Head(learning_rate=1e-3, batch_size=640)
INPUTS = ("head", "stage5", "faces")
# Of their blocks: all, all but the faces, and each network with the faces. Heads that see other things err elsewhere.
PARTS = (range(9), range(6), *((v, v + 3, 6, 7, 8) for v in VARIANTS))
HUB_WEIGHT = 0.5
TUNING = Tuning("efficientnet_lite0", frozen_to="stage5", new_layer_rate=4)
TUNED_WEIGHT = 3.3  # of its cosines beside the adapter's logits


def best_members(*, border_neutral: bool = False) -> tuple[Score, Score]:
    """The adapters on parts of the inputs with hubs taken down, and the fine-tuned Lite0."""
    inputs = blocks(*INPUTS, border_neutral=border_neutral)
    head = adapter(*inputs, heads=(HEAD,), hub_weight=HUB_WEIGHT, parts=PARTS)
    return remembered(head), remembered(fine_tuned(TUNING, border_neutral=border_neutral))


def best(members: tuple[Score, Score]) -> Score:
    """Their sum."""
    return fixed(members, [1, TUNED_WEIGHT])


def cielab_and_texture() -> tuple[Score, ...]:
    """Colour, gradients and texture as members of a fusion."""
    kinds = (descriptors.lab_histogram(), descriptors.hog_descriptor(), descriptors.lbp_histogram())
    return tuple(centred(features(kind)) for kind in kinds)


AVERAGE = features(lite_extractor(0), "average")
WHOLE_IMAGE_FACE = features(faces.whole_image_extractor(), "descriptor")

CHOSEN = "3×2 grid; normalisation (none or root) chosen in the training folds"
CHOSEN_TAP = "4×3 grids; normalisation (none or root) chosen in the training folds"
LEARNED = "weights learned in the training folds"
ADAPTER = "linear InfoNCE head on frozen features, 3 seeds, mirrored views"
ON_PARTS = "on all inputs, all but the faces, each network with the faces"
TUNED = "frozen up to stage 5, batch norm fixed, InfoNCE, 5 epochs, mirrored views"
BEST_NOTES = f"{ADAPTER}; {ON_PARTS}; Lite0 {TUNED}"
SHORTCUTS = ("border_geometry", "file_size", "lab_histogram", "tiny_image", "hog")
PRETRAINED = (
    "lite0_average", "lite0_max", "lite0_grid", "lite0", "lite1", "lite2", "lite_pair", "lite_sum",
    "lite0_tap", "lite1_tap", "lite_taps",
    "lite0_border_neutral", "lite_sum_border_neutral",
)  # fmt: skip
FACE_FUSION = (
    "lite0_as_is", "whole_image_face", "report_fusion", "face_gated", "classic_fusion", "fusion_without_faces",
    "fusion",
)  # fmt: skip
ADAPTERS = (  # each with one ingredient more; then the best without borders, and an ingredient that is none
    "adapter_head", "adapter_taps", "adapter_faces", "adapter_parts", "adapter_hubs", "best", "best_border_neutral",
    "adapter_hog",
)  # fmt: skip
FINE_TUNING = ("adapter_lite0", "tuned_lite0")
SUB_CATEGORIES = ("mixture",)
DEFAULT_METHOD = "best"

MEMBERS = best_members()
BEST = best(MEMBERS)

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
    "lite0_tap": Method("Lite0, 4×3 grid", lite_tap(0, "head"), notes=CHOSEN_TAP),
    "lite1_tap": Method("Lite1, 4×3 grid", lite_tap(1, "head"), notes=CHOSEN_TAP),
    "lite_taps": Method("Lite0 + Lite1 + Lite2, stage 5 and head", sum_of(*lite_taps()), notes=CHOSEN_TAP),
    "lite0_border_neutral": Method(
        "Lite0, root-normalised, borders cropped", lite(0, border_neutral=True), border_neutral=True, notes=CHOSEN
    ),
    "lite_sum_border_neutral": Method(
        "Lite0 + Lite1 + Lite2, borders cropped",
        sum_of(*(lite(variant, border_neutral=True) for variant in (0, 1, 2))),
        border_neutral=True,
        notes=CHOSEN,
    ),
    "lite0_as_is": Method("Lite0 average, not centred (as the report compares)", uncentred(AVERAGE, cosine_similarity)),
    "whole_image_face": Method(
        "whole image as the face (report's features)", uncentred(WHOLE_IMAGE_FACE, cosine_similarity)
    ),
    "report_fusion": Method(
        "Lite0 average, not centred + whole image as the face, 66 % (report's recipe)",
        report_sum(uncentred(AVERAGE, cosine_similarity), uncentred(WHOLE_IMAGE_FACE, cosine_similarity)),
    ),
    "face_gated": Method(
        "Lite0 average + detected faces, gated",
        learned(centred(AVERAGE), Gated(faces.face_features())),
        notes=LEARNED,
    ),
    "classic_fusion": Method(
        "colour + HOG + LBP + detected faces, no network but the face's",
        learned(*cielab_and_texture(), Gated(faces.face_features())),
        notes=LEARNED,
    ),
    "fusion_without_faces": Method(
        "all Lite taps + colour + HOG + LBP", learned(*lite_taps(), *cielab_and_texture()), notes=LEARNED
    ),
    "fusion": Method(
        "all Lite taps + colour + HOG + LBP + detected faces, gated",
        learned(*lite_taps(), *cielab_and_texture(), Gated(faces.face_features())),
        notes=LEARNED,
    ),
    "mixture": Method(
        "all Lite taps + colour + HOG + LBP + detected faces, weights by sub-category",
        learned(*lite_taps(), *cielab_and_texture(), Gated(faces.face_features()), groups=sub_category),
        notes="weights learned in the training folds; six groups: cluster of the left image, face or not",
    ),
    "adapter_lite0": Method(
        "adapter: head and stage 5 of Lite0 alone",
        adapter(*blocks("head", "stage5", variants=(0,)), heads=(HEAD,)),
        notes=ADAPTER,
    ),
    "tuned_lite0": Method("Lite0, late layers fine-tuned", MEMBERS[1], notes=TUNED),
    "adapter_head": Method("adapter: heads of Lite0 + 1 + 2", adapter(*blocks("head"), heads=(HEAD,)), notes=ADAPTER),
    "adapter_taps": Method(
        "adapter: heads and stage 5 of Lite0 + 1 + 2", adapter(*blocks("head", "stage5"), heads=(HEAD,)), notes=ADAPTER
    ),
    "adapter_faces": Method(
        "adapter: heads, stage 5, detected faces", adapter(*blocks(*INPUTS), heads=(HEAD,)), notes=ADAPTER
    ),
    "adapter_hog": Method(
        "adapter: heads, stage 5, detected faces, HOG", adapter(*blocks(*INPUTS, "hog"), heads=(HEAD,)), notes=ADAPTER
    ),
    "adapter_parts": Method(
        "five adapters on parts of these inputs",
        adapter(*blocks(*INPUTS), heads=(HEAD,), parts=PARTS),
        notes=f"{ADAPTER}; {ON_PARTS}",
    ),
    "adapter_hubs": Method("five adapters, hubs taken down", MEMBERS[0], notes=f"{ADAPTER}; {ON_PARTS}"),
    "best": Method("five adapters, hubs taken down + fine-tuned Lite0 (best)", BEST, notes=BEST_NOTES),
    "best-one-to-one": Method("best, one-to-one", BEST, notes=f"{BEST_NOTES}; decoded together", one_to_one=True),
    "best_border_neutral": Method(
        "best, borders cropped",
        best(best_members(border_neutral=True)),
        border_neutral=True,
        notes=BEST_NOTES,
    ),
}


def get_method(name: str) -> Method:
    """The method of that name. Raises ValueError with the known names."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]
