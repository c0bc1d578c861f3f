"""Images → vectors whose inner products are a fitted adapter's scores: what an index of a gallery holds."""

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np

from tll_utils.data.images import Images
from tll_utils.features.catalogue import EXTRACTORS
from tll_utils.features.embedding import Extractor, embed
from tll_utils.methods.adapters import BLOCKS, Adapter, Views
from tll_utils.methods.base import BorderNeutral, Method
from tll_utils.search.parts import kernels_and_scale
from tll_utils.search.tree import fingerprint
from tll_utils.siamese.heads import EPSILON
from tll_utils.similarity import intra_normalise

SIDES = ("left", "right")  # queries, and pictures to be found
BIAS_COLUMNS = 8  # that share a bias: faiss is fast on widths that eight divides

Seen = tuple[str, bool]  # name of an extractor, and whether it is given the mirrored image


def vectors(method: Method, images: Images, side: int) -> np.ndarray:
    """Vectors of left (side 0) or right (side 1) images, (n, d) float32; read-only, read from disk when needed.

    method: as `adapter_of` takes it. Its score of a left and a right image is the inner product of their vectors. They
    are cached as by `embed`, in memory for a few batches; the features that they are made of, several times as large,
    are not kept. Raises ValueError for another method.
    """
    adapter = adapter_of(method)
    images = images.cropped() if isinstance(method, BorderNeutral) else images
    views = _seen(adapter)
    extractors = {name: EXTRACTORS[name]() for view in views for name, _ in view.values()}
    key = sha256("\n".join([fingerprint(method), *(one.name for one in extractors.values())]).encode()).hexdigest()
    encode = partial(_encode, adapter, views, [projection(adapter, side) for side in (0, 1)])
    n_encoders = min(one.n_encoders for one in extractors.values())
    load = partial(_load, {seen for view in views for seen in view.values()})
    extractor = Extractor(f"vectors {key[:16]} @1", load, encode, n_encoders)
    return embed(images, extractor)[SIDES[side]]  # both in one pass: pictures of a gallery are often its queries too


def adapter_of(method: Method) -> Adapter:
    """The adapter whose scores are inner products: of scaled cosines without hubness correction, or border-neutral.

    Raises ValueError for a method whose scores are something else.
    """
    inner = method.method_ if isinstance(method, BorderNeutral) else method
    if isinstance(inner, Adapter) and inner.similarity == "scaled_cosine" and not inner.hubness_weight:
        return inner
    what = "an adapter of scaled cosines with hubness_weight 0, such as the model of the package"
    raise ValueError(f"the scores of {type(inner).__name__} are no inner products: choose {what}")


def projection(adapter: Adapter, side: int) -> Callable[[Views], np.ndarray]:
    """Function from the views of n images, as of `Adapter.views`, to their vectors (n, d) float32.

    A vector holds the image's projections by every network of every view, side by side: of length one, then scaled so
    that inner products add up to the mean of the scaled cosines, with the mean bias in columns of its own.
    """
    members = [
        (names, model) for names, models in zip(adapter.inputs, adapter.models_, strict=True) for model in models
    ]
    n_scores, kernels = len(members) * len(_seen(adapter)), []
    for names, model in members:
        layers, scale = kernels_and_scale(model)
        kernels.append((names, _turned(layers, side), np.sqrt(scale / n_scores)))
    bias = float(np.mean([model.get_layer("compare").bias.numpy() for _, model in members]))
    shared = np.sqrt(abs(bias) / BIAS_COLUMNS) * (1 if side else np.sign(bias))
    return partial(_projected, kernels, [shared] * BIAS_COLUMNS if bias else [])


def _turned(kernels: tuple[np.ndarray, np.ndarray], side: int) -> np.ndarray:
    """(features, width); a layer of both sides is turned so that it is not wider than its features: cosines stay."""
    return np.linalg.qr(kernels[0].T)[1].T if kernels[0] is kernels[1] else kernels[side]


def _projected(kernels: list[tuple[Sequence[str], np.ndarray, float]], bias: list[float], views: Views) -> np.ndarray:
    columns = []
    for view in views:
        for names, kernel, weight in kernels:
            projected = np.concatenate([view[name] for name in names], axis=1) @ kernel
            length = np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), EPSILON)
            columns.append(weight / length * projected)
    columns.append(np.tile(bias, (len(columns[0]), 1)))
    return np.concatenate(columns, axis=1, dtype=np.float32)


# --- one pass over the images ---------------------------------------------------------


def _seen(adapter: Adapter) -> list[dict[str, Seen]]:
    """For each view of `Adapter.views`: {block: what its features are made of}."""
    names = dict.fromkeys(name for names in adapter.inputs for name in names)
    views = [False, True] if any(BLOCKS[name].mirrored for name in names) else [False]
    return [
        {name: (getattr(BLOCKS[name].features, "extractor", ""), view and BLOCKS[name].mirrored) for name in names}
        for view in views
    ]


def _load(seen: set[Seen], images: Images, row: int) -> dict[Seen, Any]:
    return {(name, view): EXTRACTORS[name]().load(images.mirrored() if view else images, row) for name, view in seen}


def _encode(
    adapter: Adapter, views: list[dict[str, Seen]], projections: Sequence[Callable], loaded: Sequence
) -> dict[str, np.ndarray]:
    """Vectors of b images as lefts and as rights, {side: (b, d)}: through whitening and networks in turn."""
    outputs = {seen: EXTRACTORS[seen[0]]().encode([one[seen] for one in loaded]) for seen in loaded[0]}
    features = [{name: _features(name, outputs[seen]) for name, seen in view.items()} for view in views]
    whitenings = adapter.whitenings_
    return {
        name: project([{block: whitenings[block].transform(x, side) for block, x in view.items()} for view in features])
        for side, (name, project) in enumerate(zip(SIDES, projections, strict=True))
    }


def _features(name: str, outputs: dict[str, np.ndarray]) -> np.ndarray:
    features = BLOCKS[name].features
    embeddings = np.asarray(outputs[features.output], np.float32)
    return intra_normalise(embeddings, n_cells=features.cells) if features.cells else embeddings
