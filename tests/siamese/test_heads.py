"""Heads by hand, in blocks, and where embeddings are zero."""

import numpy as np
import pytest
import tensorflow as tf

from tll_utils.evaluation.metrics import expected_topk
from tll_utils.siamese import heads
from tll_utils.siamese.heads import HEADS, score_blocks

A, B = np.array([[3.0, 4], [1, 0]], np.float32), np.array([[0.0, 2], [1, 0]], np.float32)


def embeddings():
    """a (5, 40), b (7, 40), not negative; a zero row is the embedding of a network whose ReLUs have died."""
    rng = np.random.default_rng(0)
    a, b = rng.random((5, 40), np.float32), rng.random((7, 40), np.float32)
    a[2] = 0
    return a, b


@pytest.mark.parametrize(("name", "expected"), [("difference", [[9, 9], [1, 1]]), ("absolute", [[9, 9], [5, 1]])])
def test_weighted_differences_by_hand(name, expected):
    """w = (2, 1), bias 1. Differences a − b: (3, 2) (2, 4) | (1, −2) (0, 0)."""
    head = HEADS[name]()
    head(A, B)
    head.set_weights([np.array([[2.0], [1.0]]), np.array([1.0])])
    np.testing.assert_allclose(head(A, B), expected, atol=1e-5)


def test_cosine_is_the_logit_of_a_probability():
    """Cosines 0.8, 0.6 and 0, 1, the latter kept 1e-7 away from 0 and 1."""
    logits = HEADS["cosine"]()(A, B)
    limit = np.log(1e-7)
    np.testing.assert_allclose(logits, [[np.log(4), np.log(1.5)], [limit, -limit]], rtol=2e-2)
    np.testing.assert_allclose(logits[0], [np.log(4), np.log(1.5)], rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scaled_cosine", [[0.8, 0.6], [0, 1]]),
        ("euclidean", [[-13, -20], [-5, 0]]),  # (3, 4) − (0, 2) = (3, 2): 9 + 4; (3, 4) − (1, 0): 4 + 16; 1 + 4; 0
        ("bilinear", [[8, 3], [0, 1]]),
    ],
)
@pytest.mark.parametrize(("log_scale", "scale"), [(np.log(10), 10), (9.0, 100)])
def test_scaled_heads_by_hand(name, expected, log_scale, scale):
    """With a bias of 1; e⁹ is above the largest scale."""
    head = HEADS[name]()
    assert float(head.log_scale) == pytest.approx(np.log(1 / 0.07))
    head.log_scale.assign(log_scale)
    head.bias.assign(1.0)
    np.testing.assert_allclose(head(A, B), scale * np.array(expected) + 1, rtol=1e-4, atol=1e-3)


def test_difference_scores_exactly_at_chance_whatever_its_weights():
    """w·a − w·b puts the rights in one order for all lefts: over a gallery, the truths take every rank once."""
    rng = np.random.default_rng(0)
    a, b = rng.random((30, 8), np.float32), rng.random((30, 8), np.float32)
    assert expected_topk(score_blocks(HEADS["difference"](), a, b), np.arange(30)) == pytest.approx(0.1)


@pytest.mark.parametrize("name", HEADS)
def test_blocks_are_parts_of_the_whole(name, monkeypatch):
    """Blocks of two rows of 7 pairs; of the absolute difference of one row, 40 numbers a pair."""
    a, b = embeddings()
    head = HEADS[name]()
    whole = np.array(head(a, b))
    sizes = []
    call = head.call
    monkeypatch.setattr(head, "call", lambda a, b: sizes.append(len(a)) or call(a, b))
    monkeypatch.setattr(heads, "BLOCK_BYTES", 2 * 7 * 4)
    S = score_blocks(head, a, b)
    assert sizes == ([1] * 5 if name == "absolute" else [2, 2, 1])
    assert S.dtype == np.float32 and np.ptp(S) > 0.1
    np.testing.assert_allclose(S, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_zero_embeddings_give_finite_scores_and_gradients(name):
    """Compiled by XLA, as Keras does on a GPU."""
    a, b = (tf.Variable(side) for side in embeddings())
    head = HEADS[name]()

    @tf.function(jit_compile=True)
    def logits_and_gradients():
        with tf.GradientTape() as tape:
            logits = head(a, b)
            loss = tf.reduce_sum(logits)
        return logits, *tape.gradient(loss, [a, b])

    assert all(np.isfinite(values).all() for values in logits_and_gradients())


@pytest.mark.parametrize("name", HEADS)
def test_a_saved_head_keeps_its_name(name):
    """By which a loaded network finds its head again."""
    assert HEADS[name](name="head").get_config()["name"] == "head"
