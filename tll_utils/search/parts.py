"""What a score is made of: parts that add up to it exactly, for methods whose scores are sums."""

from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np

from tll_utils.data.images import Images
from tll_utils.methods.adapters import Adapter
from tll_utils.methods.base import BorderNeutral, Method, WeightedSum
from tll_utils.runtime import keras
from tll_utils.siamese.heads import EPSILON, MAX_SCALE

TITLES = {
    **{f"lite{variant}_head": "content and layout (last layer)" for variant in (0, 1, 2)},
    **{f"lite{variant}_stage5": "shape and texture (stage 5)" for variant in (0, 1, 2)},
    **{f"face_{output}": "face" for output in ("descriptor", "shape", "found")},
    "hog": "edges (HOG)",
}
MAX_SCORES, MAX_COLUMNS = 2**24, 2048  # scored at a time: an adapter holds a dozen such matrices, or two with a bank

Parts = dict[str, np.ndarray]


def score_parts(method: Method, left: Images, right: Images, candidates: np.ndarray | None = None) -> Parts:
    """What the scores of a fitted method consist of: {part: float32 (n_left, n_right)}, whose sum are the scores.

    candidates: int (n_left, k), rows of `right` that each left is compared with; parts are then (n_left, k).
    A scaled-cosine adapter has a part for every kind of block, and "hubness": what it takes from a right image for
    being near to everything, with the bias; without that correction the part is called "bias". A weighted sum has the
    parts of its members, those of equal names added up. Other methods have one part, "similarity". Memory is linear in
    the number of scores asked for.
    """
    if not has_parts(method):
        return {"similarity": scores_at(method, left, right, candidates)}
    if isinstance(method, BorderNeutral):
        return score_parts(method.method_, left.cropped(), right.cropped(), candidates)
    if isinstance(method, WeightedSum):
        members = zip(method.members_, method.weights, strict=True)
        return _added((score_parts(member, left, right, candidates), weight) for member, weight in members)
    adapter, first = cast(Adapter, method), left.take([0])
    rest = scores_at(adapter, first, right) - sum(_block_parts(adapter, first, right).values())  # of every left
    rest = np.repeat(rest, len(left), axis=0) if candidates is None else rest[0, candidates]
    return _block_parts(adapter, left, right, candidates) | {"hubness" if adapter.hubness_weight else "bias": rest}


def has_parts(method: Method) -> bool:
    """Whether `score_parts` knows more of a score than the score itself."""
    if isinstance(method, BorderNeutral):
        return has_parts(method.method_)
    if isinstance(method, WeightedSum):
        return method.weights is not None
    return isinstance(method, Adapter) and method.similarity == "scaled_cosine"


def scores_at(method: Method, left: Images, right: Images, candidates: np.ndarray | None = None) -> np.ndarray:
    """Scores of every left with its candidates (or with every right), computed by blocks of rights, float32."""
    width = block_width(method, len(left), len(right))
    shape = (len(left), len(right)) if candidates is None else candidates.shape
    scores = np.empty(shape, np.float32)
    for start in range(0, len(right), width):
        columns = np.arange(start, min(start + width, len(right)))
        S = method.scores(left, right.take(columns))
        if candidates is None:
            scores[:, columns] = S
        else:
            row, k = np.nonzero((candidates >= columns[0]) & (candidates <= columns[-1]))
            scores[row, k] = S[row, candidates[row, k] - start]
    return scores


def block_width(method: Method, n_left: int, n_right: int) -> int:
    """Rights to score at a time: all of them where a score depends on the others, as by standardising."""
    return min(MAX_COLUMNS, max(1, MAX_SCORES // n_left)) if _is_pairwise(method) else n_right


def _is_pairwise(method: object) -> bool:
    if isinstance(method, WeightedSum) and method.weights is None:
        return False
    inner = [getattr(method, name) for name in ("method_", "best_") if hasattr(method, name)]
    return all(map(_is_pairwise, [*inner, *getattr(method, "members_", [])]))


# --- adapters -------------------------------------------------------------------


def _block_parts(method: Adapter, left: Images, right: Images, candidates: np.ndarray | None = None) -> Parts:
    """Mean over inputs, models and views, as `Adapter.scores` takes it, of every block's share of the cosines."""
    views = list(zip(method.views(left, 0), method.views(right, 1), strict=True))
    members = [(names, model) for names, models in zip(method.inputs, method.models_, strict=True) for model in models]
    weight = 1 / (len(members) * len(views))
    return _added(
        ({TITLES.get(name.removesuffix("_small"), name): part}, weight)
        for names, model in members
        for a, b in views
        for name, part in _shares({name: (a[name], b[name]) for name in names}, model, candidates)
    )


def _shares(
    blocks: dict[str, tuple[np.ndarray, np.ndarray]], model: keras.Model, candidates: np.ndarray | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Every block's share of scale · cos(a, b), where a = Σ a_k and b = Σ b_k are sums of projected blocks.

    <a, b> is Σ <a_k, b> and Σ <a, b_k>: a block's share is the mean of both, so that neither side is preferred.
    """
    kernels, scale = kernels_and_scale(model)
    sides = [
        np.concatenate(side, axis=1) @ kernel
        for side, kernel in zip(zip(*blocks.values(), strict=True), kernels, strict=True)
    ]
    lengths = [np.maximum(np.linalg.norm(side, axis=1, keepdims=True), EPSILON) for side in sides]
    a, b = (side / length for side, length in zip(sides, lengths, strict=True))
    start = 0
    for name, block in blocks.items():
        rows = slice(start, start := start + block[0].shape[1])
        a_k, b_k = (x @ kernel[rows] / length for x, kernel, length in zip(block, kernels, lengths, strict=True))
        yield name, scale / 2 * (_products(a_k, b, candidates) + _products(a, b_k, candidates))


def kernels_and_scale(model: keras.Model) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """Of an adapter's network the kernels of left and right, one array where they share a layer, and its scale."""
    kernels = [layer.get_weights()[0] for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    return (kernels[0], kernels[-1]), min(float(np.exp(model.get_layer("compare").log_scale.numpy())), MAX_SCALE)


def _products(a: np.ndarray, b: np.ndarray, candidates: np.ndarray | None) -> np.ndarray:
    """Scalar products of every row of a with every row of b, or with its candidates."""
    if candidates is None:
        return a @ b.T
    return np.stack([b[columns] @ row for row, columns in zip(a, candidates, strict=True)])


def _added(weighted: Iterable[tuple[Parts, float]]) -> Parts:
    """Weighted sums of the parts of equal names."""
    total: Parts = {}
    for parts, weight in weighted:
        for name, part in parts.items():
            total[name] = total.get(name, 0) + np.float32(weight) * part
    return total
