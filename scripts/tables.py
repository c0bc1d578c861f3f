"""Tables that are recorded beside results: what was found in the images, and what decides how good a method is."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import expit, softmax
from sklearn.base import clone

from scripts.scoring import fold_scores
from tll_utils.data.dataset import Dataset
from tll_utils.data.folds import Rows, headline_folds
from tll_utils.evaluation.cross_validation import calibrated_temperature, cross_validate, draw_candidates
from tll_utils.evaluation.metrics import expected_solved, mean
from tll_utils.evaluation.statistics import summarise
from tll_utils.features.backbones import POOLS, backbone
from tll_utils.features.embedding import embed
from tll_utils.methods.adapters import VARIANTS
from tll_utils.methods.base import Method, weighted_sum
from tll_utils.methods.one_to_one import belief_propagation
from tll_utils.methods.registry import FACE_FOUND, SubCategories, get_entry, get_method
from tll_utils.similarity import cosine_similarity, standardise


def found_table(dataset: Dataset) -> pd.DataFrame:
    """left (id), left_face, right_face (bool) of every training pair: what is recorded of faces, no descriptor."""
    left, right = (FACE_FOUND(side)[:, 0] > 0 for side in (dataset.train.left, dataset.train.right))
    return pd.DataFrame({"left": dataset.train.left.ids, "left_face": left, "right_face": right})


def groups_table(dataset: Dataset) -> pd.DataFrame:
    """left (id), group of every training left, such as "A, no face"."""
    lefts = dataset.train.left
    groups = SubCategories().fit(dataset.train).predict(lefts)
    names = [f"{'ABC'[group // 2]}, {('no face', 'face')[group % 2]}" for group in groups]
    return pd.DataFrame({"left": lefts.ids, "group": names})


def members_table(dataset: Dataset) -> pd.DataFrame:
    """Of every input of `best`: expected top-2 of its adapter alone, and of the others together without it.

    Columns inputs, alone, alone_low, alone_high, without, without_low, without_high: means and 95 % intervals.
    """
    folds, best = headline_folds(dataset.train), get_method("best")
    members = [_scores(clone(best).set_params(inputs=[names]), dataset, folds) for names in best.inputs]
    rows = []
    for row, names in enumerate(best.inputs):
        others = [member for other, member in enumerate(members) if other != row]
        without = [weighted_sum(fold, [1 / len(fold)] * len(fold)) for fold in zip(*others, strict=True)]
        rows.append(
            {"inputs": " ".join(names)} | _summary("alone", members[row], folds) | _summary("without", without, folds)
        )
    return pd.DataFrame(rows)


def learning_curve_table(dataset: Dataset, *, sizes: Sequence[int] = (160, 320, 640, 960)) -> pd.DataFrame:
    """Expected top-2 of `fast` and `best` where some of a fold's training pairs are learned from, the rest unused.

    Columns method (its title), pairs, top2, top2_low, top2_high. Fewer pairs are among more, drawn in each fold.
    """
    rows, folds = [], headline_folds(dataset.train)
    for name in ("fast", "best"):
        for n in sizes:
            fewer = [(np.random.default_rng(0).permutation(train)[:n], test) for train, test in folds]
            scores = _scores(get_method(name), dataset, fewer)
            rows.append({"method": get_entry(name).title, "pairs": n} | _summary("top2", scores, folds))
    return pd.DataFrame(rows)


def _summary(name: str, scores: list[np.ndarray], folds: list[Rows]) -> dict[str, float]:
    summary = summarise(cross_validate(scores, folds))
    low, high = summary["interval95"]
    return {name: summary["expected_top2"], f"{name}_low": low, f"{name}_high": high}


def layers_table(dataset: Dataset) -> pd.DataFrame:
    """Columns network, layer, pooling, top2: centred cosines of the late layers of Lite0, 1 and 2, five folds."""
    rows, train, folds = [], dataset.train, headline_folds(dataset.train)
    for variant in VARIANTS:
        network = backbone(f"efficientnet_lite{variant}")
        layers = network.layers[3:]
        left, right = (embed(side, network.extractor(layers, POOLS)) for side in (train.left, train.right))
        for layer, pool in ((layer, pool) for layer in layers for pool in POOLS):
            sides = left[f"{layer}_{pool}"], right[f"{layer}_{pool}"]
            blocks = [
                cosine_similarity(*(side[test] - side[learned].mean(axis=0) for side in sides))
                for learned, test in folds
            ]
            rows.append((f"Lite{variant}", layer, pool, _top2(blocks)))
    return pd.DataFrame(rows, columns=["network", "layer", "pooling", "top2"]).round(4)


def face_weight_table(dataset: Dataset) -> pd.DataFrame:
    """Columns weight, raw, standardised: the report's sum with other weights of its face scores, five folds.

    raw: of the cosines as they are; standardised: first scaled to the same spread.
    """
    folds = headline_folds(dataset.train)
    raw = [_scores(get_method(name), dataset, folds) for name in ("lite0_uncentred", "whole_image_face")]
    scaled = [[standardise(S) for S in blocks] for blocks in raw]
    rows = []
    for weight in np.linspace(0, 1, 21).round(2):
        sums = (
            [weighted_sum(fold, [1 - weight, weight]) for fold in zip(*ways, strict=True)] for ways in (raw, scaled)
        )
        rows.append((weight, *map(_top2, sums)))
    return pd.DataFrame(rows, columns=["weight", "raw", "standardised"]).round(4)


def confidence_table(dataset: Dataset) -> pd.DataFrame:
    """Columns answered, confidence, is_right: of every left the first choice of `best` among a list of twenty.

    answered: "alone" by a softmax of the list, "together" one-to-one with the others of its fold. The temperature is
    calibrated on the other folds.
    """
    blocks = _scores(get_method("best"), dataset, headline_folds(dataset.train))
    rng, tables = np.random.default_rng(0), []
    for fold, S in enumerate(blocks):
        lists, place = draw_candidates(len(S), rng)
        scores = np.take_along_axis(S, lists, axis=1) / calibrated_temperature(blocks[:fold] + blocks[fold + 1 :])
        together = expit(belief_propagation(scores, lists, n_right=len(S)))
        for answered, chance in (("alone", softmax(scores, axis=1)), ("together", together)):
            right = (chance.argmax(axis=1) == place).astype(int)
            tables.append(pd.DataFrame({"answered": answered, "confidence": chance.max(axis=1), "is_right": right}))
    return pd.concat(tables, ignore_index=True).sort_values("answered", kind="stable").round(4)


def _scores(method: Method, dataset: Dataset, folds: list[Rows]) -> list[np.ndarray]:
    return fold_scores(method, dataset.train, folds).raw


def _top2(blocks: list[np.ndarray]) -> float:
    """Expected top-2 of out-of-fold blocks, every pair counted once."""
    return mean(np.concatenate([expected_solved(S, np.arange(len(S))) for S in blocks]))


TABLES = {  # of an experiment, beside its results
    "face_fusion": {"faces": found_table},
    "sub_categories": {"groups": groups_table},
    "ablation": {"members": members_table, "learning_curve": learning_curve_table},
    "layers": {"layers": layers_table},
    "face_weight": {"weights": face_weight_table},
    "confidence": {"confidence": confidence_table},
}
