"""Adapters on planted features: they learn a linear map that is there, and nothing where nothing is."""

import numpy as np
import pytest

from conftest import Vectors, values
from tll_utils.data.pairs import Pairs
from tll_utils.evaluation.metrics import expected_topk
from tll_utils.methods import adapters
from tll_utils.methods.adapters import Adapter, Block, Whitening
from tll_utils.siamese.heads import HEADS
from tll_utils.siamese.losses import LOSSES
from tll_utils.similarity import cosine_similarity

SMALL = {"width": 32, "dropout": 0.1, "learning_rate": 5e-3, "epochs": 15, "batch_size": 75, "n_seeds": 1}


@pytest.fixture(autouse=True)
def planted_blocks(monkeypatch):
    """Inputs by name: all features, and the first and the last twelve of them."""
    blocks = {
        "planted": Block(values),
        "first": Block(lambda images: images.values[:, :12]),
        "last": Block(lambda images: images.values[:, 12:]),
    }
    for name, block in blocks.items():
        monkeypatch.setitem(adapters.BLOCKS, name, block)


def planted(n, *, seed, signal=1.0):
    """Left (n, 24) and right (n, 24): 12 shared values under a random map each side has of its own, and noise."""
    world, rng = np.random.default_rng(99), np.random.default_rng(seed)
    shared = signal * rng.standard_normal((n, 12))
    return Pairs(*(Vectors(shared @ world.standard_normal((12, 24)) + 2 * rng.standard_normal((n, 24))) for _ in "lr"))


def scores(method, train, test):
    return method.fit(train).scores(test.left, test.right)


def top2(method, train, test):
    return expected_topk(scores(method, train, test), np.arange(len(test)))


# --- inputs ---------------------------------------------------------------------


def test_whitening_by_hand():
    """Left mean (2, 1), right mean (0, 0); centred rows ±(4, 0), ±(0, 1) on both sides.

    Variances are 64 / 7 and 4 / 7 (n − 1), ratio 16: dividing by the root of the standard deviation leaves a
    ratio of lengths of 4 / √4 = 2. Squared lengths 4 : 1 average to 1 when they are 1.6 and 0.4.
    """
    rows = np.array([[4, 0], [-4, 0], [0, 1], [0, -1]], np.float32)
    left = rows + np.array([2, 1])
    whitening = Whitening(width=2).fit(left, rows)
    expected = np.sqrt([[1.6, 0], [1.6, 0], [0, 0.4], [0, 0.4]])
    np.testing.assert_allclose(np.abs(whitening.transform(left, 0)), expected, atol=1e-6)
    np.testing.assert_allclose(np.abs(whitening.transform(rows, 1)), expected, atol=1e-6)
    np.testing.assert_allclose(whitening.transform(np.array([[0, 0]]), 1), 0, atol=1e-6)


def test_weight_is_the_length_of_a_block_and_width_its_components():
    train = planted(50, seed=0)
    heavy = Whitening(width=8, weight=3.0).fit(train.left.values, train.right.values)
    rows = np.concatenate([heavy.transform(train.left.values, 0), heavy.transform(train.right.values, 1)])
    assert rows.shape == (100, 8) and rows.dtype == np.float32
    assert np.sqrt((rows**2).sum(axis=1).mean()) == pytest.approx(3, rel=1e-5)


def test_missing_features_are_zeros_and_teach_nothing():
    """Rows that are NaN move neither means nor axes, and what comes out is 0."""
    there, missing = np.random.default_rng(0).standard_normal((30, 4)), np.full((5, 4), np.nan)
    left, right = np.vstack([there, missing]), np.vstack([missing, there])
    mixed, alone = Whitening().fit(left, right), Whitening().fit(there, there)
    assert (mixed.transform(left, 0)[30:] == 0).all() and (mixed.transform(right, 1)[:5] == 0).all()
    np.testing.assert_allclose(mixed.transform(left, 0)[:30], alone.transform(there, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_there", [0, 1])
def test_nothing_is_kept_of_a_feature_next_to_no_image_has(n_there):
    """One left with a face has no mean to differ from."""
    there = np.random.default_rng(0).standard_normal((30, 4))
    rare = np.where(np.arange(30)[:, None] < n_there, there, np.nan)
    for sides in ((rare, there), (there, rare)):
        assert Whitening().fit(*sides).transform(there, 0).shape == (30, 0)


@pytest.mark.parametrize("value", [0, 1, 0.1, -77.7])
def test_constant_features_become_zeros(value):
    """Those of a folder of black images; the mean of 49 times 0.1 is not quite 0.1."""
    constant = np.full((49, 3), value, np.float32)
    assert (Whitening(width=2).fit(constant, constant).transform(constant, 0) == 0).all()


def test_images_without_the_feature_get_finite_scores(monkeypatch):
    """A method on planted features and a face that only every third image has, in training as in scoring."""

    def face(images):
        return np.where(np.arange(len(images))[:, None] % 3 == 0, images.values[:, :4], np.nan).astype(np.float32)

    monkeypatch.setitem(adapters.BLOCKS, "face", Block(face, width=4))
    S = scores(Adapter([["planted", "face"]], width=8, epochs=2, n_seeds=1), planted(30, seed=0), planted(10, seed=1))
    assert S.shape == (10, 10) and np.isfinite(S).all()


# --- learning -------------------------------------------------------------------


@pytest.mark.parametrize("two_sided", [False, True])
def test_adapter_learns_a_planted_map_from_few_pairs(two_sided):
    """Each side has a map of its own: plain cosines stay near chance, 300 pairs teach both layers to meet."""
    train, test = planted(300, seed=0), planted(100, seed=1)
    sides = (getattr(test, s).values - getattr(train, s).values.mean(axis=0) for s in ("left", "right"))
    assert expected_topk(cosine_similarity(*sides), np.arange(100)) < 0.3
    assert top2(Adapter([["planted"]], **SMALL, two_sided=two_sided), train, test) > (0.7 if two_sided else 0.4)


@pytest.mark.parametrize("loss", sorted(LOSSES.keys() - {"info_nce"}))
def test_other_losses_learn(loss):
    method = Adapter([["planted"]], **SMALL, two_sided=True, loss=loss)
    assert top2(method, planted(300, seed=0), planted(100, seed=1)) > 0.5


@pytest.mark.parametrize("similarity", ["bilinear", "euclidean"])
def test_other_similarities_learn(similarity):
    method = Adapter([["planted"]], **SMALL, two_sided=True, similarity=similarity)
    assert top2(method, planted(300, seed=0), planted(100, seed=1)) > 0.5
    assert similarity in HEADS


def test_noise_teaches_nothing():
    """Without a shared signal 200 unseen pairs stay at chance, 0.1 ± 3 · √(0.09 / 200) = 0.06."""
    train, test = planted(300, seed=0, signal=0.0), planted(200, seed=1, signal=0.0)
    assert abs(top2(Adapter([["planted"]], **SMALL), train, test) - 0.1) < 0.065


def test_seeds_repeat_and_are_averaged():
    train, test = planted(60, seed=0), planted(30, seed=1)
    one, again, two = (scores(Adapter([["planted"]], width=8, epochs=2, n_seeds=n), train, test) for n in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert one.shape == (30, 30) and one.dtype == np.float32
    method = Adapter([["planted"]], width=8, epochs=2, n_seeds=2).fit(train)
    method.models_ = [method.models_[0][1:]]
    np.testing.assert_allclose(two, (one + method.scores(test.left, test.right)) / 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hubness_weight", [0, 0.5])
def test_inputs_are_learned_apart_and_averaged(hubness_weight):
    """An ensemble of two inputs is the mean of one adapter each, hubness correction included; one adapter on both
    side by side is something else."""
    train, test = planted(60, seed=0), planted(30, seed=1)
    options = {"width": 8, "epochs": 2, "n_seeds": 1, "hubness_weight": hubness_weight}
    both, first, last, whole = (
        scores(Adapter(inputs, **options), train, test)
        for inputs in ([["first"], ["last"]], [["first"]], [["last"]], [["first", "last"]])
    )
    np.testing.assert_allclose(both, (first + last) / 2, rtol=1e-4, atol=1e-4)
    assert not np.allclose(whole, both, atol=1e-2)


def test_layers_are_shared_or_of_each_side():
    """24 features to width 8: 192 weights a layer, besides scale and bias."""
    train, options = planted(20, seed=0), {"width": 8, "epochs": 1, "n_seeds": 1}
    methods = [Adapter([["planted"]], **options, two_sided=two_sided).fit(train) for two_sided in (False, True)]
    assert [method.models_[0][0].count_params() for method in methods] == [194, 386]


def test_mirrored_features_are_learned_and_averaged(monkeypatch):
    """What only the mirrored view shows is learned from it; without it the same adapter is at chance."""
    rng = np.random.default_rng(2)

    def features(images):
        noise = rng.standard_normal(images.values.shape).astype(np.float32)
        return images.values if images.is_mirrored else noise

    monkeypatch.setitem(adapters.BLOCKS, "blind", Block(features))
    monkeypatch.setitem(adapters.BLOCKS, "seeing", Block(features, mirrored=True))
    train, test = planted(200, seed=0), planted(40, seed=1)
    blind, seeing = (top2(Adapter([[name]], **SMALL), train, test) for name in ("blind", "seeing"))
    assert blind < 0.2 < 0.25 < seeing


def test_a_block_without_mirrored_views_stands_for_both(monkeypatch):
    """Beside a mirrored block the plain one is asked for the images as given only."""

    def plain(images):
        assert not images.is_mirrored
        return images.values

    monkeypatch.setitem(adapters.BLOCKS, "plain", Block(plain))
    monkeypatch.setitem(adapters.BLOCKS, "both", Block(values, mirrored=True))
    train = planted(30, seed=0)
    method = Adapter([["plain", "both"], ["plain"]], width=8, epochs=1, n_seeds=1).fit(train)
    assert method.scores(train.left, train.right).shape == (30, 30)


def test_whitened_blocks_are_memoised_by_content(monkeypatch, sample):
    """Two adapters on equal pairs, and scores of the training lefts, ask for features once per side and view."""
    asked = []

    def features(images):
        asked.append((images.key, images.is_mirrored))
        return np.random.default_rng(len(asked)).standard_normal((len(images), 4)).astype(np.float32)

    monkeypatch.setitem(adapters.BLOCKS, "counted", Block(features, mirrored=True))
    for _ in range(2):
        train = sample.take(range(10))
        method = Adapter([["counted"]], width=2, epochs=1, n_seeds=1).fit(train)
        method.scores(train.left, train.right)
    assert len(asked) == 2 + 4 and len(set(asked)) == 4  # twice per side to learn the whitening, once more to apply it
    method.fit(sample.take(range(1, 11)))
    assert len(asked) == 12


# --- hubness --------------------------------------------------------------------


def test_hubs_lose_as_much_as_they_are_near_to_the_training_lefts():
    """The correction is one number per right, and the same whatever other lefts are scored."""
    train, test = planted(120, seed=0), planted(30, seed=1)
    plain, corrected = (Adapter([["planted"]], **SMALL, hubness_weight=weight).fit(train) for weight in (0, 0.5))
    S = corrected.scores(test.left, test.right)
    loss = plain.scores(test.left, test.right) - S
    np.testing.assert_allclose(loss, np.broadcast_to(loss[:1], loss.shape), atol=1e-3)
    nearest = np.sort(plain.scores(train.left, test.right), axis=0)[-30:]
    np.testing.assert_allclose(loss[0], 0.5 * nearest.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(corrected.scores(test.left.take([0]), test.right), S[:1], atol=1e-3)


# --- errors ---------------------------------------------------------------------


def test_two_pairs_suffice_and_one_is_refused():
    """Fewer pairs than hubness neighbours, too."""
    method, train = Adapter([["planted"]], width=8, epochs=1, n_seeds=1, hubness_weight=0.5), planted(2, seed=0)
    assert np.isfinite(scores(method, train, planted(3, seed=1))).all()
    with pytest.raises(ValueError, match=r"1 training pair: .* at least two"):
        method.fit(train.take([0]))
