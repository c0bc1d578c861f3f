"""Losses of in-batch pairs: loss(labels (b, m), logits (b, m)) → (b,), a number per left image.

Labels: 1 the match, 0 a foil, −1 a pair that was not sampled.
"""

from typing import Any

from tll_utils.runtime import keras

ops: Any = keras.ops

MARGIN = 0.2  # of cosines, for triplet loss; 0.2 is FaceNet's (Schroff et al. 2015, section 3.1)
FAR = 1.4  # Euclidean distance contrastive loss asks of foils; √2 is that of unit vectors at right angles


def masked_binary_cross_entropy(labels, logits):
    """Binary cross-entropy, the mean over the sampled pairs of each row."""
    return _mean_where(labels >= 0, _cross_entropies(labels, logits))


def balanced_cross_entropy(labels, logits):
    """Binary cross-entropy, all foils of a row together weighing as much as its match."""
    losses = _cross_entropies(labels, logits)
    return _at_match(labels, losses) + _mean_where(ops.equal(labels, 0), losses)


def info_nce(labels, logits):
    """Cross-entropy over rows and over columns (Radford et al. 2021), of all pairs, sampled or not."""
    return -_at_match(labels, ops.log_softmax(logits, axis=1) + ops.log_softmax(logits, axis=0)) / 2


def triplet(labels, logits):
    """Triplet loss with semi-hard foils (Schroff et al. 2015): the best of those below the match, else the worst."""
    match, foils = _at_match(labels, logits), ops.equal(labels, 0)
    below = ops.logical_and(foils, logits < match[:, None])
    best_below = ops.max(ops.where(below, logits, -1e9), axis=1)
    worst = ops.min(ops.where(foils, logits, 1e9), axis=1)
    return ops.maximum(MARGIN + ops.where(ops.any(below, axis=1), best_below, worst) - match, 0)


def contrastive(labels, logits):
    """Contrastive loss (Hadsell et al. 2006) of cosines: matches together, foils at least FAR apart."""
    squared = ops.maximum(2 - 2 * logits, 1e-6)
    too_near = ops.maximum(FAR - ops.sqrt(squared), 0) ** 2
    return _at_match(labels, squared) + _mean_where(ops.equal(labels, 0), too_near)


def pair_accuracy(labels, logits):
    """Share of the sampled pairs of each row on the right side of 0; 0.95 for calling a match and 19 foils foils."""
    return _mean_where(labels >= 0, ops.cast(ops.equal(logits > 0, labels > 0), "float32"))


LOSSES = {"info_nce": info_nce, "triplet": triplet, "contrastive": contrastive, "cross_entropy": balanced_cross_entropy}
UNSCALED = ("triplet", "contrastive")  # margins are of plain cosines


def _cross_entropies(labels, logits):
    return ops.binary_crossentropy(ops.maximum(labels, 0.0), logits, from_logits=True)


def _at_match(labels, values):
    return ops.sum(ops.cast(labels > 0, "float32") * values, axis=1)


def _mean_where(condition, values):
    weights = ops.cast(condition, "float32")
    return ops.sum(weights * values, axis=1) / ops.sum(weights, axis=1)
