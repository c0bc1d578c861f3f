"""Adapters on planted features: they learn a linear map that is there, and nothing where nothing is."""

import numpy as np
import pytest

from tll_utils import adapters
from tll_utils.adapters import LOSSES, SIMILARITIES, Block, Head, Whitening, adapter, best_head, build, learn, whitened
from tll_utils.backend import keras
from tll_utils.dataset import Pairs
from tll_utils.evaluation import expected_topk
from tll_utils.similarity import centre, cosine_similarity

# Here "images" are their own features, so that a method's arithmetic shows.

SMALL = Head(width=32, dropout=0.1, learning_rate=5e-3, epochs=40)


def identity(images):
    return np.asarray(images, np.float32)


def planted(n, *, seed, signal=1.0):
    """Left (n, 24) and right (n, 24): 12 shared values under a random map each side has of its own, and noise."""
    world, rng = np.random.default_rng(99), np.random.default_rng(seed)
    shared = signal * rng.standard_normal((n, 12))
    sides = [shared @ world.standard_normal((12, 24)) + 2 * rng.standard_normal((n, 24)) for _ in range(2)]
    return Pairs(*(side.astype(np.float32) for side in sides))


def top2(score, train, test):
    return expected_topk(score(train, test.left, test.right), np.arange(len(test)))


# --- inputs ---------------------------------------------------------------------


def test_whitening_by_hand():
    """Left mean (2, 1), right mean (0, 0); centred rows ±(4, 0), ±(0, 1) on both sides.

    Variances are 64 / 7 and 4 / 7 (n − 1), ratio 16: dividing by the root of the standard deviation leaves a
    ratio of lengths of 4 / √4 = 2. Squared lengths 4 : 1 average to 1 when they are 1.6 and 0.4.
    """
    rows = np.array([[4, 0], [-4, 0], [0, 1], [0, -1]], np.float32)
    left = rows + np.array([2, 1])
    whitening = Whitening(left, rows, width=2)
    expected = np.sqrt([[1.6, 0], [1.6, 0], [0, 0.4], [0, 0.4]])
    np.testing.assert_allclose(np.abs(whitening(left, 0)), expected, atol=1e-6)
    np.testing.assert_allclose(np.abs(whitening(rows, 1)), expected, atol=1e-6)
    np.testing.assert_allclose(whitening(np.array([[0, 0]]), 1), 0, atol=1e-6)


def test_weight_is_the_length_of_a_block():
    train = planted(50, seed=0)
    heavy = Whitening(train.left, train.right, width=384, weight=3.0)
    rows = np.concatenate([heavy(train.left, 0), heavy(train.right, 1)])
    assert np.sqrt((rows**2).sum(axis=1).mean()) == pytest.approx(3, rel=1e-5)


def test_missing_faces_are_zeros_and_teach_nothing():
    """The last column is the gate. Rows without hold 1e6: neither means nor axes move, and what comes out is 0."""

    def gate(images):
        return images[:, :-1], images[:, -1] > 0

    rng = np.random.default_rng(0)
    there = np.hstack([rng.standard_normal((30, 4)), np.ones((30, 1))])
    missing = np.hstack([np.full((5, 4), 1e6), np.zeros((5, 1))])
    mixed = Pairs(np.vstack([there, missing]), np.vstack([missing, there]))
    faces = whitened([Block(gate, gated=True)], mixed, mixed.left, mixed.right)
    alone = whitened([Block(gate, gated=True)], Pairs(there, there), there, there)
    assert (faces[2][30:] == 0).all() and (faces[1][:5] == 0).all()
    np.testing.assert_allclose(faces[2][:30], alone[2], rtol=1e-5, atol=1e-6)
    left_out = whitened([Block(gate, gated=True)], Pairs(there, missing), there, there)
    assert [part.shape for part in left_out] == [(30, 0), (5, 0), (30, 0), (30, 0)]


def test_nothing_is_learned_from_the_images_to_be_scored():
    """Training rows and the first left come out the same, whatever else is scored."""
    train, test = planted(40, seed=0), planted(10, seed=1)
    blocks = [Block(identity, width=8), Block(lambda images: identity(images)[:, :3])]
    whole = whitened(blocks, train, test.left, test.right)
    part = whitened(blocks, train, test.left[:1], 100 * test.right)
    assert [side.shape for side in whole] == [(40, 11), (40, 11), (10, 11), (10, 11)]
    np.testing.assert_array_equal(whole[0], part[0])
    np.testing.assert_allclose(whole[2][:1], part[2], rtol=1e-5, atol=1e-6)


# --- similarities and losses ----------------------------------------------------

A, B = np.array([[3.0, 4], [1, 0]], np.float32), np.array([[0.0, 2], [1, 0]], np.float32)


@pytest.mark.parametrize(
    ("similarity", "expected"),
    [
        ("cosine", [[0.8, 0.6], [0, 1]]),
        ("euclidean", [[-13, -20], [-5, 0]]),  # (3, 4) − (0, 2) = (3, 2): 9 + 4; (3, 4) − (1, 0): 4 + 16; 1 + 4; 0
        ("bilinear", [[8, 3], [0, 1]]),
    ],
)
def test_similarities_by_hand(similarity, expected):
    """Scaled by 10 and with a bias of 1."""
    compare = SIMILARITIES[similarity]()
    compare.log_scale.assign(np.log(10))
    compare.bias.assign(1.0)
    np.testing.assert_allclose(compare(A, B), 10 * np.array(expected) + 1, atol=1e-4)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # Row 0: both foils are below the truth 0.5, the best is 0.4: 0.2 + 0.4 − 0.5. Row 1: 0.3 is not below 0.2,
        # 0.1 is: 0.2 + 0.1 − 0.2. Row 2: no foil is below 0, the worst is 0.6: 0.2 + 0.6 − 0.
        ("triplet", [0.1, 0.1, 0.8]),
        # Squared distances 2 − 2s: truths 1, 1.6, 2; foils at √1.2, √1.8 | √1.4, √1.8 | √0.8, √0.2, under 1.4.
        (
            "contrastive",
            [
                1 + ((1.4 - 1.2**0.5) ** 2 + (1.4 - 1.8**0.5) ** 2) / 2,
                1.6 + ((1.4 - 1.4**0.5) ** 2 + (1.4 - 1.8**0.5) ** 2) / 2,
                2 + ((1.4 - 0.8**0.5) ** 2 + (1.4 - 0.2**0.5) ** 2) / 2,
            ],
        ),
        (
            "cross_entropy",
            [
                np.log1p(np.exp(-0.5)) + (np.log1p(np.exp(0.4)) + np.log1p(np.exp(0.1))) / 2,
                np.log1p(np.exp(-0.2)) + (np.log1p(np.exp(0.3)) + np.log1p(np.exp(0.1))) / 2,
                np.log1p(np.exp(0.0)) + (np.log1p(np.exp(0.6)) + np.log1p(np.exp(0.9))) / 2,
            ],
        ),
    ],
)
def test_losses_by_hand(loss, expected):
    logits = np.array([[0.5, 0.4, 0.1], [0.3, 0.2, 0.1], [0.6, 0.9, 0.0]], np.float32)
    np.testing.assert_allclose(LOSSES[loss](np.eye(3, dtype=np.float32), logits), expected, rtol=1e-5)


def test_pairs_with_one_row_number_match():
    """Rows 7, 3, 7: the first and the third pair match each other's images too, and are no foils."""
    seen = []
    adapters.of_batch(lambda matches, logits: seen.append(np.asarray(matches)))(
        keras.ops.convert_to_tensor([7.0, 3, 7]), None
    )
    np.testing.assert_array_equal(seen[0], [[1, 0, 1], [0, 1, 0], [1, 0, 1]])


# --- learning -------------------------------------------------------------------


@pytest.mark.parametrize("two_sided", [False, True])
def test_adapter_learns_a_planted_map_from_few_pairs(two_sided):
    """Each side has a map of its own: plain cosines stay near chance, 300 pairs teach both layers to meet."""
    train, test = planted(300, seed=0), planted(100, seed=1)
    head = Head(width=32, dropout=0.1, learning_rate=5e-3, epochs=60, two_sided=two_sided)
    plain = cosine_similarity(centre(test.left, training=train.left), centre(test.right, training=train.right))
    learned = top2(adapter(Block(identity), heads=[head], seeds=1), train, test)
    assert expected_topk(plain, np.arange(100)) < 0.3
    assert learned > (0.7 if two_sided else 0.4)


@pytest.mark.parametrize("loss", sorted(LOSSES.keys() - {"info_nce"}))
def test_other_losses_learn(loss):
    head = Head(width=32, dropout=0.1, learning_rate=5e-3, epochs=60, two_sided=True, loss=loss)
    assert top2(adapter(Block(identity), heads=[head], seeds=1), planted(300, seed=0), planted(100, seed=1)) > 0.5


@pytest.mark.parametrize("similarity", sorted(SIMILARITIES.keys() - {"cosine"}))
def test_other_similarities_learn(similarity):
    head = Head(width=32, dropout=0.1, learning_rate=5e-3, epochs=60, two_sided=True, similarity=similarity)
    assert top2(adapter(Block(identity), heads=[head], seeds=1), planted(300, seed=0), planted(100, seed=1)) > 0.5


def test_noise_teaches_nothing():
    """Without a shared signal 200 unseen pairs stay at chance, 0.1 ± 3 · √(0.09 / 200) = 0.06."""
    train, test = planted(300, seed=0, signal=0.0), planted(200, seed=1, signal=0.0)
    assert abs(top2(adapter(Block(identity), heads=[SMALL], seeds=1), train, test) - 0.1) < 0.065


def test_seeds_repeat_and_are_averaged():
    head, train, test = Head(width=8, epochs=2), planted(60, seed=0), planted(30, seed=1)
    one, again, two = (adapter(Block(identity), heads=[head], seeds=n)(train, test.left, test.right) for n in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert one.shape == (30, 30) and one.dtype == np.float32
    inputs = whitened([Block(identity)], train, test.left, test.right)
    second = np.asarray(learn(head, *inputs[:2], seed=1)(inputs[2:]))
    np.testing.assert_allclose(two, (one + second) / 2, rtol=1e-4, atol=1e-4)


def test_parts_are_learned_each_by_itself_and_averaged():
    """Blocks of the first and the last twelve columns: the adapter on both parts is the mean of one adapter each."""
    head, train, test = Head(width=8, epochs=2), planted(60, seed=0), planted(30, seed=1)
    first, last = Block(lambda images: images[:, :12]), Block(lambda images: images[:, 12:])
    options = {"heads": [head], "seeds": 1, "hub_weight": 0.5}
    both = adapter(first, last, parts=[[0], [1]], **options)(train, test.left, test.right)
    alone = [adapter(block, **options)(train, test.left, test.right) for block in (first, last)]
    np.testing.assert_allclose(both, np.mean(alone, axis=0), rtol=1e-4, atol=1e-4)
    whole = adapter(first, last, parts=[[0, 1]], **options)(train, test.left, test.right)
    np.testing.assert_array_equal(whole, adapter(first, last, **options)(train, test.left, test.right))
    assert not np.allclose(whole, both, atol=1e-2)


def test_best_head_is_chosen_on_held_out_training_pairs():
    """A head that does not learn loses, first or last; 99 pairs leave 19 held out, too few for a list."""
    train = planted(200, seed=0)
    stuck = Head(width=32, two_sided=True, learning_rate=1e-9, epochs=1)
    good = Head(width=32, two_sided=True, dropout=0.1, learning_rate=5e-3, epochs=40)
    assert best_head([stuck, good], train.left, train.right) == good
    with pytest.raises(ValueError, match="99 pairs"):
        best_head([stuck, good], train.left[:99], train.right[:99])


def test_layers_are_shared_or_of_each_side():
    """4 features to width 8: 32 weights a layer, besides scale and bias."""
    sizes = [build(Head(width=8, two_sided=two_sided), 4).count_params() for two_sided in (False, True)]
    assert sizes == [34, 66]


def test_mirrored_features_are_learned_and_averaged():
    """What only the mirrored view shows is learned from it; without it the same head is at chance."""
    train, test = planted(200, seed=0), planted(40, seed=1)
    rng = np.random.default_rng(2)

    def noise(images):
        return rng.standard_normal(np.shape(images)).astype(np.float32)

    blind = adapter(Block(noise), heads=(SMALL,), seeds=1)
    seeing = adapter(Block(noise, mirrored=identity), heads=(SMALL,), seeds=1)
    assert top2(blind, train, test) < 0.2 < 0.25 < top2(seeing, train, test)


def test_constant_features_become_zeros():
    constant = np.ones((10, 3), np.float32)
    assert (Whitening(constant, constant, width=2)(constant, 0) == 0).all()


def test_hubs_lose_as_much_as_they_are_near_to_the_training_lefts():
    """The correction is one number a right, and the same whoever else asks."""
    train, test = planted(120, seed=0), planted(30, seed=1)
    plain, corrected = (adapter(Block(identity), heads=(SMALL,), seeds=1, hub_weight=weight) for weight in (0, 0.5))
    loss = plain(train, test.left, test.right) - corrected(train, test.left, test.right)
    np.testing.assert_allclose(loss, np.broadcast_to(loss[:1], loss.shape), atol=1e-3)
    assert np.ptp(loss[0]) > 0.1
    alone = corrected(train, test.left[:1], test.right)
    np.testing.assert_allclose(alone, corrected(train, test.left, test.right)[:1], atol=1e-3)
