"""Every method by name: cross-validation, tables, figures and submissions find it here.

    get_method("lite0").fit(train).scores(left, right)

"<name>_border_neutral" is the same method on images whose borders are cropped away.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from tll_utils.data.images import Images
from tll_utils.data.pairs import Pairs
from tll_utils.features.catalogue import TRANSFORMERS, Features
from tll_utils.methods.adapters import VARIANTS, Adapter
from tll_utils.methods.base import (
    BorderNeutral,
    Calibrated,
    Method,
    SelectOnTrain,
    SelfTrained,
    Similarity,
    WeightedSum,
)
from tll_utils.methods.fine_tuning import FineTuned
from tll_utils.methods.from_scratch import SiameseNetwork
from tll_utils.methods.fusion import Gated, LearnedFusion

NEUTRAL, REPORT_FACE_WEIGHT = "_border_neutral", 0.66


@dataclass(frozen=True)
class Entry:
    """A method with what tables say about it."""

    title: str
    method: Method
    notes: str = ""
    report_top2: float | None = None  # what the report published for it
    border_neutral: bool = False


def get_entry(name: str) -> Entry:
    """The entry of that name. Raises ValueError with the known names."""
    if name in METHODS:
        return METHODS[name]
    entry = METHODS.get(name.removesuffix(NEUTRAL))
    if entry is None:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}, each also with {NEUTRAL}")
    title, method = f"{entry.title}, border-neutral", BorderNeutral(entry.method)
    if isinstance(entry.method, Calibrated):
        method = Calibrated(BorderNeutral(entry.method.method))
    return replace(entry, title=title, method=method, report_top2=None, border_neutral=True)


def get_method(name: str) -> Method:
    """An unfitted copy of the method of that name. Raises ValueError with the known names."""
    return clone(get_entry(name).method)


# --- parts ----------------------------------------------------------------------


class SubCategories(BaseEstimator):
    """Six groups of left images: three clusters of the training lefts' Lite0 averages, each without and with a face."""

    def fit(self, train: Pairs) -> Self:
        self.centres_ = KMeans(min(3, len(train)), n_init=10, random_state=0).fit(AVERAGE(train.left)).cluster_centers_
        return self

    def predict(self, left: Images) -> np.ndarray:
        """Group of every left image, (n,) int: 2 · cluster + whether it has a face."""
        clusters = pairwise_distances_argmin(AVERAGE(left), self.centres_)
        return 2 * clusters + FACE_FOUND(left)[:, 0].astype(int)


AVERAGE, FACE_FOUND = Features("lite0_head", "head_average"), Features("faces", "found")
DETECTED_FACES = Gated(Features("faces", "descriptor"))
UNCENTRED_AVERAGE = Similarity(AVERAGE, centred=False)
WHOLE_IMAGE_FACE = Similarity(Features("whole_image_face", "descriptor"), centred=False)
REPORT_WEIGHTS = [1 - REPORT_FACE_WEIGHT, REPORT_FACE_WEIGHT]


def lite(variant: int) -> Method:
    """EfficientNet-Lite on its 3×2 grid, raw or intra-normalised, whichever is better on the training pairs."""
    grids = (Features(f"lite{variant}_head", "head_grid3x2", cells) for cells in (0, 6))
    return SelectOnTrain([Similarity(grid) for grid in grids])


def lite_layer(variant: int, layer: str) -> Method:
    """A layer of EfficientNet-Lite on its 4×3 grid, raw or intra-normalised as chosen on the training pairs."""
    # stage5 ends in a linear projection: its features may be negative and have no root.
    cells = (0, 12) if layer == "head" else (0,)
    grids = (Features(f"lite{variant}_grids", f"{layer}_grid4x3", n) for n in cells)
    return SelectOnTrain([Similarity(grid) for grid in grids])


LITE_LAYERS = [lite_layer(variant, layer) for variant in VARIANTS for layer in ("stage5", "head")]
COLOUR_AND_TEXTURE = [Similarity(Features(name)) for name in ("lab_histogram", "hog", "lbp_histogram")]

HEADS = [f"lite{variant}_head" for variant in VARIANTS]
STAGE5 = [f"lite{variant}_stage5" for variant in VARIANTS]
FACES = ["face_descriptor", "face_shape", "face_found"]
LITE0 = ["lite0_head", "lite0_stage5"]
_NETWORKS = [[f"lite{v}_head", f"lite{v}_stage5"] for v in VARIANTS]
SUBSETS = [HEADS + STAGE5 + FACES, HEADS + STAGE5, *(network + FACES for network in _NETWORKS)]
BEST = Adapter(SUBSETS, hubness_weight=0.5)
WITHOUT_LANDMARKS = Adapter([[name for name in names if name != "face_shape"] for names in SUBSETS], hubness_weight=0.5)
WITHOUT_FACES = Adapter([HEADS + STAGE5, HEADS, *_NETWORKS], hubness_weight=0.5)
SMALL = Adapter([["lite0_head_small", "lite0_stage5_small"]], width=512)
FAST = Adapter([LITE0 + FACES], hubness_weight=0.5)
TUNED_LITE0 = FineTuned("efficientnet_lite0", frozen_to="stage5", new_layer_rate=4)
TUNED_WEIGHT = 3.3  # of its cosines beside the adapters' logits

CHOSEN = "3×2 grid; normalisation (none or intra) chosen in the training folds"
CHOSEN_LAYER = "4×3 grids; normalisation (none or intra) chosen in the training folds"
LEARNED = "weights learned in the training folds"
GROUPED = f"{LEARNED}; six groups: cluster of the left image, face or not"
ADAPTER = "linear layer on frozen features, InfoNCE, 3 seeds, mirrored views"
ON_SUBSETS = f"{ADAPTER}; on all inputs, all but the faces, each network with the faces"
SELF_TRAINED = f"{ON_SUBSETS}; unlabelled images of the challenge's test set"
TUNED = "frozen up to stage 5, batch norm fixed, InfoNCE, 5 epochs, mirrored views"
_ALL, _ALL_MEMBERS = "all Lite layers + colour + HOG + LBP", [*LITE_LAYERS, *COLOUR_AND_TEXTURE]
_LITE0 = "adapter: head and stage 5 of Lite0 alone"

# fmt: off
UNTRAINED: dict[str, Entry] = {
    "border_geometry": Entry("border geometry (4 widths, L1)", Similarity(Features("border_geometry"), "l1", False),
                             "shortcut: letterbox borders only, no content"),
    "file_size": Entry("file size (log bytes, L1)", Similarity(Features("file_size"), "l1", False),
                       "shortcut: no content"),
    "lab_histogram": Entry("CIELAB histogram", Similarity(Features("lab_histogram"))),
    "tiny_image": Entry("16×20 tiny image", Similarity(Features("tiny_image"))),
    "hog": Entry("HOG", Similarity(Features("hog"))),
    "lite0_average": Entry("Lite0, average pool", Similarity(AVERAGE)),
    "lite0_max": Entry("Lite0, max pool", Similarity(Features("lite0_head", "head_max"))),
    "lite0_grid": Entry("Lite0, 3×2 grid", Similarity(Features("lite0_head", "head_grid3x2"))),
    **{f"lite{v}": Entry(f"Lite{v}, 3×2 grid, intra-normalised", lite(v), CHOSEN) for v in VARIANTS},
    "lite_pair": Entry("Lite0 + Lite1", WeightedSum([lite(0), lite(1)]), CHOSEN),
    "lite_sum": Entry("Lite0 + Lite1 + Lite2", WeightedSum([lite(v) for v in VARIANTS]), CHOSEN),
    **{f"lite{v}_4x3": Entry(f"Lite{v}, 4×3 grid", lite_layer(v, "head"), CHOSEN_LAYER) for v in (0, 1)},
    "lite_layers": Entry("Lite0 + Lite1 + Lite2, stage 5 and head", WeightedSum(LITE_LAYERS), CHOSEN_LAYER),
    "lite0_uncentred": Entry("Lite0 average, not centred (as the report compares)", UNCENTRED_AVERAGE),
    "whole_image_face": Entry("whole image as the face (report's features)", WHOLE_IMAGE_FACE),
    "report_fusion": Entry("Lite0 average, not centred + whole image as the face, 66 % (report's recipe)",
                           WeightedSum([UNCENTRED_AVERAGE, WHOLE_IMAGE_FACE], REPORT_WEIGHTS)),
}

FUSIONS: dict[str, Entry] = {
    "face_gated": Entry("Lite0 average + detected faces, gated", LearnedFusion([Similarity(AVERAGE), DETECTED_FACES]),
                        LEARNED),
    "classic_fusion": Entry("colour + HOG + LBP + detected faces, no network but the face's",
                            LearnedFusion([*COLOUR_AND_TEXTURE, DETECTED_FACES]), LEARNED),
    "fusion_without_faces": Entry(_ALL, LearnedFusion(_ALL_MEMBERS), LEARNED),
    "fusion": Entry(f"{_ALL} + detected faces, gated", LearnedFusion([*_ALL_MEMBERS, DETECTED_FACES]), LEARNED),
    "mixture": Entry(f"{_ALL} + detected faces, weights by sub-category",
                     LearnedFusion([*_ALL_MEMBERS, DETECTED_FACES], SubCategories()), GROUPED),
}

ADAPTERS: dict[str, Entry] = {
    "adapter_head": Entry("adapter: heads of Lite0 + 1 + 2", Adapter([HEADS]), ADAPTER),
    "adapter_layers": Entry("adapter: heads and stage 5 of Lite0 + 1 + 2", Adapter([HEADS + STAGE5]), ADAPTER),
    "adapter_faces": Entry("adapter: heads, stage 5, detected faces", Adapter([HEADS + STAGE5 + FACES]), ADAPTER),
    "adapter_hog": Entry("adapter: heads, stage 5, detected faces, HOG", Adapter([HEADS + STAGE5 + FACES + ["hog"]]),
                         ADAPTER),
    "adapter_ensemble": Entry("five adapters on subsets of these inputs", Adapter(SUBSETS), ON_SUBSETS),
    "best": Entry("five adapters, hubness-corrected (best)", BEST, ON_SUBSETS),
    "best_self_trained": Entry("best, self-trained on the test lists", SelfTrained(BEST), SELF_TRAINED),
    "best_self_trained_one_to_one": Entry("best self trained, one-to-one", Calibrated(SelfTrained(BEST)), SELF_TRAINED),
    "best_one_to_one": Entry("best, one-to-one", Calibrated(BEST), f"{ON_SUBSETS}; decoded together"),
    "best_without_landmarks": Entry("five adapters, hubness-corrected, without the 68-point landmarks",
                                    WITHOUT_LANDMARKS, ON_SUBSETS),
    "best_without_faces": Entry("five adapters, hubness-corrected, without any face model", WITHOUT_FACES,
                                f"{ADAPTER}; on all inputs, the heads, each network"),
    "adapter_lite0_small": Entry(f"{_LITE0}, 160 components each", SMALL, f"{ADAPTER}; 8 MB in half precision"),
    "fast": Entry("one adapter: Lite0, detected faces, hubness-corrected (fast)", FAST, ADAPTER),
    "best_tuned": Entry("five adapters, hubness-corrected + fine-tuned Lite0",
                        WeightedSum([BEST, TUNED_LITE0], [1, TUNED_WEIGHT]), f"{ON_SUBSETS}; Lite0 {TUNED}"),
    "tuned_lite0": Entry("Lite0, late layers fine-tuned", TUNED_LITE0, TUNED),
    "adapter_lite0": Entry(_LITE0, Adapter([LITE0]), ADAPTER),
    "adapter_triplet": Entry(f"{_LITE0}, triplet loss", Adapter([LITE0], loss="triplet")),
    "adapter_contrastive": Entry(f"{_LITE0}, contrastive loss", Adapter([LITE0], loss="contrastive")),
    "adapter_cross_entropy": Entry(f"{_LITE0}, cross-entropy", Adapter([LITE0], loss="cross_entropy")),
    "adapter_euclidean": Entry(f"{_LITE0}, Euclidean distance", Adapter([LITE0], similarity="euclidean")),
    "adapter_bilinear": Entry(f"{_LITE0}, bilinear", Adapter([LITE0], similarity="bilinear")),
    "adapter_two_sided": Entry(f"{_LITE0}, a layer per side", Adapter([LITE0], two_sided=True)),
}

# Weights that have to be downloaded: the report's networks, compared as it compared them, and networks it did not know.
_NAMES = {"ResNet18": "resnet_18_imagenet", "ResNet50": "resnet_50_imagenet", "VGG16": "vgg_16_imagenet"}
_AVERAGES = {net: Similarity(Features(name, "last_pool_average"), centred=False) for net, name in _NAMES.items()}
DOWNLOADED: dict[str, Entry] = {
    "resnet18_last_fifth": Entry("ResNet18, up to the last fifth layer",
                                 Similarity(Features("resnet_18_imagenet", "last_fifth_average"), centred=False)),
    **{net.lower(): Entry(f"{net}, up to the last pool", average) for net, average in _AVERAGES.items()},
    **{f"{net.lower()}_face": Entry(f"{net} + whole image as the face, 66 %",
                                    WeightedSum([_AVERAGES[net], WHOLE_IMAGE_FACE], REPORT_WEIGHTS))
       for net in ("ResNet18", "VGG16")},
    # Its last layer replaced, trained with Adam: with which loss and for how long the report does not say.
    "vgg16_fine_tuned": Entry("VGG16, fine-tuned", FineTuned("vgg_16_imagenet", pool="average", dropout=0.0, epochs=10,
                              batch_size=32, learning_rate=1e-5, weight_decay=0.0), "our reading of the report"),
    **{name: Entry(f"{name}, 4×3 grid", Similarity(Features(name, "stage12_grid4x3"))) for name in TRANSFORMERS},
    "best_and_transformers": Entry("best, and an adapter on each of CLIP, DINOv2, SigLIP with the faces",
                                   replace(BEST, inputs=SUBSETS + [[name, *FACES] for name in TRANSFORMERS]), ADAPTER),
}


def _network(title: str, tower: str, head: str = "absolute", report_top2: float | None = None, **parameters) -> Entry:
    """The entry of a Siamese network, its notes made from its parameters."""
    method = SiameseNetwork(tower, head, **parameters)
    (height, width), views = method.size, ", mirrored views averaged" * method.augmented
    notes = f"input {height}×{width}, {method.epochs} epochs, batch {method.batch_size}{views}"
    name = {"resnet18": "Siamese ResNet18 from scratch", "vgg16": "Siamese VGG16 from scratch"}[tower]
    return Entry(f"{name}, {title}", method, notes, report_top2=report_top2)


# Reduced inputs (SiameseNetwork's 123×100, QUARTER), because two processor cores train the report's 245×200 for hours.
QUARTER, FULL = (64, 52), (245, 200)
_RELU, _SIGMOID = ({"width": 512, "activation": activation, "size": QUARTER} for activation in ("relu", "sigmoid"))
SIAMESE: dict[str, Entry] = {
    "resnet18_difference": _network("global average pool, a−b", "resnet18", "difference", 0.091),
    "resnet18_absolute": _network("|a−b|", "resnet18", report_top2=0.198),
    "resnet18_absolute_2x2": _network("|a−b|, 2×2 average pool", "resnet18", report_top2=0.235, pooling="2x2"),
    "resnet18_difference_full": _network("a−b, 245×200", "resnet18", "difference", size=FULL),
    "resnet18_absolute_full": _network("|a−b|, 245×200", "resnet18", size=FULL),
    "resnet18_absolute_2x2_full": _network("|a−b|, 2×2 average pool, 245×200", "resnet18", pooling="2x2", size=FULL),
    # Without augmentation ResNet18 has memorised its pairs within ten epochs.
    "resnet18_absolute_augmented": _network("|a−b|, augmented", "resnet18", augmented=True, epochs=20),
    "resnet18_absolute_2x2_augmented": _network("|a−b|, 2×2 average pool, augmented", "resnet18", pooling="2x2",
                                                augmented=True, epochs=20),
    "resnet18_infonce": _network("InfoNCE", "resnet18", "scaled_cosine", pooling="2x2", width=256, augmented=True,
                                 epochs=60, batch_size=64),
    "vgg16_relu_cosine": _network("relu output, cosine", "vgg16", "cosine", 0.111, **_RELU),
    "vgg16_relu_cosine_lr005": _network("lr 0.005", "vgg16", "cosine", 0.11, **_RELU, learning_rate=0.005),
    "vgg16_relu_absolute_lr005": _network("lr 0.005, |a−b|", "vgg16", **_RELU, learning_rate=0.005),
    "vgg16_sigmoid_absolute": _network("sigmoid", "vgg16", report_top2=0.198, **_SIGMOID),
    "vgg16_sigmoid_absolute_lr0001": _network("sigmoid, lr 0.0001", "vgg16", **_SIGMOID, learning_rate=0.0001),
    "vgg16_sigmoid_absolute_long": _network("sigmoid, ten times the epochs", "vgg16", **_SIGMOID, epochs=100),
}
# fmt: on

METHODS: dict[str, Entry] = UNTRAINED | FUSIONS | ADAPTERS | DOWNLOADED | SIAMESE
