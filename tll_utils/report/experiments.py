"""The one registry of experiments: what each measures, in which notebook it is told, what it records.

Tables, figures, README, `make reproduce` and its estimate of time all read EXPERIMENTS.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from tll_utils.data.folds import N_SPLITS, Rows, grouped_folds, headline_folds, holdout_split, near_duplicate_groups
from tll_utils.data.pairs import Pairs
from tll_utils.evaluation.cross_validation import cross_validate
from tll_utils.evaluation.statistics import summarise
from tll_utils.features.catalogue import PRESETS, TRANSFORMERS
from tll_utils.methods.base import out_of_fold
from tll_utils.methods.one_to_one import DECODERS
from tll_utils.methods.registry import NEUTRAL, get_entry, get_method


class Row(NamedTuple):
    """One row of an experiment's results."""

    title: str
    method: str  # its name in the registry
    scored_neutral: bool = False  # trained on the raw images, the method scores border-neutral ones
    decoder: str = "per query"  # how the queries of a test set are answered, a key of DECODERS


@dataclass(frozen=True)
class Experiment:
    """What is measured."""

    notebook: int  # number of the notebook that tells of it
    methods: tuple[str, ...]  # names in the registry
    n_folds: int = N_SPLITS  # of the cross-validation; 0 is the report's 80/20 split
    scored_border_neutral: bool = False  # every fitted method is also scored on border-neutral test pairs
    decoders: tuple[str, ...] = ()  # keys of DECODERS, which decode lists drawn as the challenge draws them
    presets: tuple[str, ...] = ()  # networks whose weights have to be downloaded

    @property
    def split(self) -> str:
        """How the pairs were divided, in words."""
        return f"{self.n_folds}-fold, near-duplicates grouped" if self.n_folds else "80/20, near-duplicates grouped"

    def folds(self, pairs: Pairs) -> list[Rows]:
        """(train_rows, test_rows) of every fold, or the one 80/20 split."""
        groups = near_duplicate_groups(pairs.left, pairs.right)
        return grouped_folds(groups, self.n_folds) if self.n_folds else [holdout_split(groups)]

    def rows(self) -> list[Row]:
        """The rows this experiment records, in order."""
        rows = []
        for name in self.methods:
            entry = get_entry(name)
            for decoder in self.decoders:
                words = f"{name.removesuffix(NEUTRAL).replace('_', ' ')}, {decoder}"
                title = words + ", border-neutral" * entry.border_neutral
                rows.append(Row(title, name, decoder=decoder))
            title = entry.title + f", {self.n_folds} folds" * (self.scored_border_neutral and self.n_folds > 0)
            if not self.decoders:
                rows.append(Row(title, name))
            if self.scored_border_neutral and not entry.border_neutral:
                rows.append(Row(f"{title}, scored border-neutral", name, scored_neutral=True))
        return rows


def faces_in_pair(table: pd.DataFrame) -> pd.Series:
    """ "both", "left only", "right only" or "none" for every row of a table of left_face and right_face (bool)."""
    words = np.array([["none", "right only"], ["left only", "both"]])
    return pd.Series(words[table["left_face"].astype(int), table["right_face"].astype(int)], table.index, name="faces")


# --- the registry ---------------------------------------------------------------

_siamese = partial(Experiment, n_folds=0, scored_border_neutral=True)
EXPERIMENTS: dict[str, Experiment] = {
    "shortcuts": Experiment(0, ("border_geometry", "file_size", "lab_histogram", "tiny_image", "hog")),
    "siamese_resnet18": _siamese(2, ("resnet18_difference", "resnet18_absolute", "resnet18_absolute_2x2")),
    # One held-out fifth of 322 lefts cannot order two networks two hundredths apart.
    "siamese_pooling": _siamese(2, ("resnet18_absolute", "resnet18_absolute_2x2"), n_folds=5),
    # 2×2 pooling leaves 4×3 places of the report's input, 2×2 of one half its height and width.
    "siamese_pooling_full_size": _siamese(2, ("resnet18_absolute_full", "resnet18_absolute_2x2_full"), n_folds=3),
    "siamese_pooling_augmented": _siamese(
        2, ("resnet18_absolute_augmented", "resnet18_absolute_2x2_augmented"), n_folds=3),
    "siamese_full_size": _siamese(
        2, ("resnet18_difference_full", "resnet18_absolute_full", "resnet18_absolute_2x2_full")),
    "siamese_vgg16": _siamese(3, ("vgg16_relu_cosine", "vgg16_relu_cosine_lr005", "vgg16_sigmoid_absolute")),
    "siamese_vgg16_rates": _siamese(3, ("vgg16_sigmoid_absolute_lr0001", "vgg16_relu_absolute_lr005")),
    "siamese_vgg16_long": _siamese(3, ("vgg16_sigmoid_absolute_long",)),
    "siamese_infonce": _siamese(2, ("resnet18_infonce",)),
    "siamese_infonce_border_neutral": _siamese(2, ("resnet18_infonce_border_neutral",)),
    "pretrained": Experiment(4, (
        "lite0_average", "lite0_max", "lite0_grid", "lite0", "lite1", "lite2", "lite_pair", "lite_sum", "lite0_4x3",
        "lite1_4x3", "lite_layers", "lite0_border_neutral", "lite_sum_border_neutral")),
    "presets": Experiment(4, (
        "resnet18_last_fifth", "resnet18", "resnet50", "vgg16", "resnet18_face", "vgg16_face", *TRANSFORMERS,
        "best_and_transformers"), presets=tuple(PRESETS)),
    "layers": Experiment(4, ()),  # without methods: tables of what decides about them
    "face_weight": Experiment(5, ()),
    "face_fusion": Experiment(5, (
        "lite0_uncentred", "whole_image_face", "report_fusion", "face_gated", "classic_fusion", "fusion_without_faces",
        "fusion")),
    "sub_categories": Experiment(5, ("mixture",)),
    # Each with one ingredient more; then the best without borders, and an ingredient that adds nothing.
    "adapters": Experiment(6, (
        "adapter_head", "adapter_layers", "adapter_faces", "adapter_ensemble", "best", "best_border_neutral",
        "adapter_hog")),
    "adapter_losses": Experiment(6, (
        "adapter_lite0", "adapter_triplet", "adapter_contrastive", "adapter_cross_entropy", "adapter_euclidean",
        "adapter_bilinear", "adapter_two_sided")),
    "licences": Experiment(6, ("best_without_landmarks", "best_without_faces", "adapter_lite0_small")),
    "shipped": Experiment(6, ("adapter_lite0_small_border_neutral",)),
    "ablation": Experiment(6, ("best", "fast")),  # with tables of the members of `best` and of fewer pairs
    "self_training": Experiment(6, ("best_self_trained",)),
    "self_training_border_neutral": Experiment(6, ("best_self_trained_border_neutral",)),
    "fine_tuning": Experiment(7, ("adapter_lite0", "tuned_lite0", "best_tuned")),
    "report_fine_tuning": Experiment(7, ("vgg16_fine_tuned",), n_folds=0, presets=("vgg_16_imagenet",)),
    "one_to_one": Experiment(8, ("best", "best_border_neutral"), decoders=tuple(DECODERS)),
    "confidence": Experiment(9, ()),
    "self_training_one_to_one": Experiment(8, ("best_self_trained",), decoders=("CSLS", "belief propagation")),
}  # fmt: skip


# --- measuring ------------------------------------------------------------------


def run_methods(names: Sequence[str], pairs: Pairs) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Live results of registered methods by the headline protocol: a table of them, and title → per-left table.

    The table has the columns method, expected_top2, interval95 and expected_top1.
    """
    folds = headline_folds(pairs)
    methods = {get_entry(name).title: get_method(name) for name in names}
    tables = {title: cross_validate(out_of_fold(method, pairs, folds), folds) for title, method in methods.items()}
    rows = [{"method": title, **summarise(table)} for title, table in tables.items()]
    return pd.DataFrame(rows, columns=["method", "expected_top2", "interval95", "expected_top1"]), tables
