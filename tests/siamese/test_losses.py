"""Losses by hand."""

import numpy as np
import pytest

from tll_utils.siamese.batches import sampled_labels
from tll_utils.siamese.losses import LOSSES, info_nce, masked_binary_cross_entropy, pair_accuracy

LOGITS = np.array([[0.5, 0.4, 0.1], [0.3, 0.2, 0.1], [0.6, 0.9, 0.0]], np.float32)


def softplus(x):
    return np.log1p(np.exp(x))


EXPECTED = {
    # Row 0: both foils are below the match 0.5, the best is 0.4: 0.2 + 0.4 − 0.5. Row 1: 0.3 is not below 0.2,
    # 0.1 is: 0.2 + 0.1 − 0.2. Row 2: no foil is below 0, the worst is 0.6: 0.2 + 0.6 − 0.
    "triplet": [0.1, 0.1, 0.8],
    # Squared distances 2 − 2s: matches 1, 1.6, 2; foils at √1.2, √1.8 | √1.4, √1.8 | √0.8, √0.2, under 1.4.
    "contrastive": [
        1 + ((1.4 - 1.2**0.5) ** 2 + (1.4 - 1.8**0.5) ** 2) / 2,
        1.6 + ((1.4 - 1.4**0.5) ** 2 + (1.4 - 1.8**0.5) ** 2) / 2,
        2 + ((1.4 - 0.8**0.5) ** 2 + (1.4 - 0.2**0.5) ** 2) / 2,
    ],
    "cross_entropy": [
        softplus(-0.5) + (softplus(0.4) + softplus(0.1)) / 2,
        softplus(-0.2) + (softplus(0.3) + softplus(0.1)) / 2,
        softplus(0.0) + (softplus(0.6) + softplus(0.9)) / 2,
    ],
}


@pytest.mark.parametrize("loss", EXPECTED)
def test_losses_by_hand(loss):
    np.testing.assert_allclose(LOSSES[loss](np.eye(3, dtype=np.float32), LOGITS), EXPECTED[loss], rtol=1e-5)


@pytest.mark.parametrize("loss", EXPECTED)
def test_pairs_that_were_not_sampled_do_not_count(loss):
    """A fourth right, not sampled, whose logit lies between every match and the margins."""
    labels = np.hstack([np.eye(3), np.full((3, 1), -1)]).astype(np.float32)
    logits = np.hstack([LOGITS, [[0.45], [0.15], [-0.1]]]).astype(np.float32)
    np.testing.assert_allclose(LOSSES[loss](labels, logits), EXPECTED[loss], rtol=1e-5)


def test_info_nce_by_hand():
    """Logits ln [[3, 1], [1, 1]]. Rows: truth 3/4 and 1/2; columns: 3/4 and 1/2.

    Left 0: −(ln 3/4 + ln 3/4) / 2 = ln 4/3; left 1: ln 2.
    """
    losses = info_nce(np.eye(2, dtype=np.float32), np.log(np.array([[3, 1], [1, 1]], np.float32)))
    np.testing.assert_allclose(losses, np.log([4 / 3, 2]), rtol=1e-6)


def test_cross_entropy_and_accuracy_count_only_sampled_pairs():
    """Row 1: match at logit 0, foil at 0 → ln 2, both not above 0, so 1 of 2 right. Row 2: only a foil
    at logit ln 3, p = 3/4 → −ln(1/4); wrong. The pairs that were not sampled have logits that would show."""
    labels = np.array([[1, 0, -1], [-1, 0, -1]], np.float32)
    logits = np.array([[0, 0, 50], [-50, np.log(3), 50]], np.float32)
    np.testing.assert_allclose(masked_binary_cross_entropy(labels, logits), np.log([2, 4]), rtol=1e-6)
    np.testing.assert_allclose(pair_accuracy(labels, logits), [0.5, 0])


def test_calling_every_pair_a_foil_has_pair_accuracy_95_percent():
    labels = sampled_labels(32, 19, np.random.default_rng(0))
    np.testing.assert_allclose(pair_accuracy(labels, np.full((32, 32), -1.0, np.float32)), 0.95)
