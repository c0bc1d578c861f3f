"""Fine-tuning of a random tiny VGG preset and of Lite0's last stage: what is new, what is trained, what stays."""

import numpy as np
import pytest
from sklearn.base import clone

from conftest import Vectors
from tll_utils.data.pairs import Pairs
from tll_utils.evaluation.metrics import expected_topk
from tll_utils.features.backbones import backbone
from tll_utils.methods.fine_tuning import FineTuned
from tll_utils.methods.registry import get_method
from tll_utils.runtime import keras, set_seed

# TensorFlow's tensors do not know NumPy 2's `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

LATE = FineTuned(
    "efficientnet_lite0", frozen_to="stage7", width=32, epochs=4, batch_size=16, learning_rate=3e-4, new_layer_rate=5
)


class Colours(Vectors):
    """Images of one plain colour each; flipped they are of its complement, so that views differ."""

    def __getitem__(self, row):
        colour = 255 - self.values[row] if self.is_mirrored else self.values[row]
        return np.broadcast_to(colour.astype(np.uint8), (32, 32, 3))

    def mirrored(self):
        return Colours(self.values, is_mirrored=not self.is_mirrored)


COLOURS = Colours(np.random.default_rng(0).integers(0, 256, (8, 3)))
PAIRS = Pairs(COLOURS, COLOURS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The report's recipe on a VGG of two convolutions."""
    from tll_utils.features.presets import keras_hub

    folder, hub = tmp_path_factory.mktemp("presets") / "vgg", keras_hub()
    hub.models.VGGBackbone([1, 1], [4, 6]).save_to_preset(str(folder))
    hub.layers.VGGImageConverter(scale=1 / 255).save_to_preset(str(folder))
    options = {"backbone": str(folder), "width": 5, "batch_size": 8, "epochs": 15, "learning_rate": 0.01}
    return get_method("vgg16_fine_tuned").set_params(**options)


@pytest.fixture(scope="module")
def late(sample):
    """`LATE` fitted on 44 pairs."""
    return clone(LATE).fit(sample.take(range(44)))


def weights(model):
    return [np.array(weight) for weight in model.trainable_weights]


# --- the report's: everything is trained ----------------------------------------


def test_last_layer_is_replaced(tiny):
    """Six features from the last pool to five outputs: 6·5 = 30 new weights; embeddings have length one."""
    encoder = tiny.build_encoder()
    assert encoder.get_layer("new_last").count_params() == 30
    embeddings = encoder.predict_on_batch(tiny.frozen_maps(COLOURS)[0].astype(np.float32))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_training_learns_and_changes_every_layer(tiny, monkeypatch):
    """Kernels and biases of two convolutions and the new kernel all move, and the loss falls."""
    method, before = clone(tiny), []
    build = method.build_encoder

    def remembering():
        encoder = build()
        before.extend(weights(encoder))
        return encoder

    monkeypatch.setattr(method, "build_encoder", remembering)
    method.fit(PAIRS)
    assert len(method.loss_) == 15 and method.loss_[-1] < method.loss_[0]
    assert len(before) == 5
    assert not any(np.array_equal(a, b) for a, b in zip(before, weights(method.encoder_), strict=True))


def test_the_pretrained_weights_stay(tiny):
    """A fine-tuning leaves no trace: what is loaded afterwards is what was loaded before."""
    before = weights(tiny.build_encoder())[:4]
    method = clone(tiny).set_params(epochs=1).fit(PAIRS)
    S = method.scores(PAIRS.left, PAIRS.right)
    assert S.shape == (8, 8)
    for a, b in zip(before, weights(tiny.build_encoder())[:4], strict=True):
        np.testing.assert_array_equal(a, b)


def test_scores_are_the_mean_cosine_of_both_views(tiny):
    method = clone(tiny).set_params(epochs=1).fit(PAIRS)
    a, b = (method.encoder_.predict_on_batch(maps.astype(np.float32)) for maps in tiny.frozen_maps(COLOURS))
    assert not np.allclose(a, b, atol=1e-3)
    np.testing.assert_allclose(method.scores(COLOURS, COLOURS), (a @ a.T + b @ b.T) / 2, rtol=1e-4, atol=1e-5)


# --- ours: the early layers are frozen ------------------------------------------


def test_frozen_and_trained_part_are_the_whole_network(sample):
    """From the cached map of stage 7, of both views, the untrained rest reaches the last map of the whole network."""
    network, images = backbone("efficientnet_lite0"), sample.left.take([0, 1])
    rest = network.trainable_part("stage7")
    for maps, view in zip(LATE.frozen_maps(images), (images, images.mirrored()), strict=True):
        assert maps.shape == (2, 8, 7, 320)
        whole = network.maps_model(["head"]).predict_on_batch(np.stack([*view]).astype(np.float32))["head"]
        np.testing.assert_allclose(rest.predict_on_batch(maps), whole, atol=2e-3)


def test_batch_norm_keeps_its_statistics_and_the_other_layers_learn(late):
    trained = next(layer for layer in late.encoder_.layers if isinstance(layer, keras.Model))
    pretrained = backbone("efficientnet_lite0").trainable_part("stage7")
    kinds = {True: [], False: []}
    for layer, before in zip(trained.layers, pretrained.layers, strict=True):
        pairs = zip(layer.get_weights(), before.get_weights(), strict=True)
        kinds[isinstance(layer, keras.layers.BatchNormalization)] += [np.array_equal(a, b) for a, b in pairs]
    assert kinds[True] and all(kinds[True])
    assert kinds[False] and not any(kinds[False])
    assert late.loss_[-1] < late.loss_[0]


def test_new_layer_starts_smaller_to_learn_faster():
    """Five times the rate is a fifth of the size."""
    set_seed(0)
    slow = clone(LATE).set_params(new_layer_rate=1)
    sizes = [np.std(method.build_encoder().get_layer("new_last").kernel) for method in (slow, LATE)]
    assert sizes[0] / sizes[1] == pytest.approx(5, rel=0.05)


def test_fine_tuned_ranks_unseen_pairs_and_repeats_exactly(sample, late):
    """Trained on 44 pairs it ranks the other 20 above chance (0.1); the same seed gives the same scores, also where
    the network was not in memory the first time, and fewer lefts get the scores they had among all."""
    test = sample.take(range(44, 64))
    S = late.scores(test.left, test.right)
    assert S.dtype == np.float32 and expected_topk(S, np.arange(20)) > 0.3
    again = clone(LATE).fit(sample.take(range(44)))
    np.testing.assert_array_equal(again.scores(test.left, test.right), S)
    np.testing.assert_allclose(late.scores(test.left.take([2, 0]), test.right), S[[2, 0]], atol=1e-3)


def test_unknown_layer_and_too_few_pairs_are_named(sample):
    with pytest.raises(ValueError, match=r"no layers.*stage9.* known: stem"):
        clone(LATE).set_params(frozen_to="stage9").fit(sample)
    with pytest.raises(ValueError, match=r"1 training pair: .* at least two"):
        LATE.fit(sample.take([0]))
