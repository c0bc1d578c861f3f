"""Fine-tuning of a random tiny VGG preset and of Lite0's last stage: what is new, what is trained, what stays."""

from dataclasses import replace

import numpy as np
import pytest

from tll_utils import presets
from tll_utils.backbones import backbone, feature_model, trainable_part
from tll_utils.backend import keras
from tll_utils.dataset import load_dataset
from tll_utils.evaluation import expected_topk
from tll_utils.fine_tuning import REPORT, Tuning, encode, encoder, fine_tune, fine_tuned, frozen_maps
from tll_utils.runtime import project_root, set_seed

# TensorFlow's tensors do not know NumPy 2's `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

LATE = Tuning("efficientnet_lite0", "stage6", width=32, epochs=4, batch_size=24, learning_rate=3e-4, new_layer_rate=5)


class Colours:
    """Images of one plain colour each, the same in both sides: as much of `dataset.Images` as training uses."""

    def __init__(self, colours):
        self.colours = np.asarray(colours, np.uint8)

    def __len__(self):
        return len(self.colours)

    def __getitem__(self, row):
        return np.broadcast_to(self.colours[row], (32, 32, 3))


class Both:
    def __init__(self, side):
        self.left = self.right = side

    def __len__(self):
        return len(self.left)


PAIRS = Both(Colours(np.random.default_rng(0).integers(0, 256, (8, 3))))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The report's recipe on a VGG of two convolutions."""
    folder, hub = tmp_path_factory.mktemp("presets") / "vgg", presets.keras_hub()
    hub.models.VGGBackbone([1, 1], [4, 6]).save_to_preset(str(folder))
    hub.layers.VGGImageConverter(scale=1 / 255).save_to_preset(str(folder))
    return replace(REPORT, backbone=str(folder), width=5, batch_size=8, epochs=15, learning_rate=0.01)


@pytest.fixture(scope="module")
def pairs():
    return load_dataset(project_root() / "data" / "sample").train


@pytest.fixture(scope="module")
def maps(pairs):
    return [frozen_maps(LATE, side) for side in (pairs.left, pairs.right)]


# --- the report's: everything is trained ----------------------------------------


def test_last_layer_is_replaced(tiny):
    """Six features from the last pool to five outputs: 6·5 = 30 new weights; embeddings have length one."""
    model = encoder(tiny)
    assert model.get_layer("new_last").count_params() == 30
    embeddings = encode(model, frozen_maps(tiny, PAIRS.left)[0])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_training_learns_and_changes_every_layer(tiny):
    set_seed(0)
    model = encoder(tiny)
    before = [np.array(weight) for weight in model.trainable_weights]
    history = fine_tune(model, tiny, *[frozen_maps(tiny, PAIRS.left)] * 2)
    assert list(history.epoch) == list(range(1, 16))
    assert history.loss.iloc[-1] < history.loss.iloc[0]
    assert len(before) == 5  # kernels and biases of two convolutions, the new kernel
    assert all(not np.array_equal(a, b) for a, b in zip(before, model.trainable_weights, strict=True))


def test_the_pretrained_weights_stay(tiny):
    """A fine-tuning leaves no trace: what is loaded afterwards is what was loaded before."""
    before = [np.array(weight) for weight in encoder(tiny).trainable_weights[:4]]
    S = fine_tuned(replace(tiny, epochs=1))(PAIRS, PAIRS.left, PAIRS.right)
    assert S.shape == (8, 8)
    for a, b in zip(before, encoder(tiny).trainable_weights[:4], strict=True):
        np.testing.assert_array_equal(a, b)


# --- ours: the early layers are frozen ------------------------------------------


def test_frozen_and_trained_part_are_the_whole_network(pairs, maps):
    """From the cached map of stage 6 the untrained rest reaches the last map of the whole network."""
    images = np.stack([pairs.left[row] for row in range(2)]).astype(np.float32)
    whole = feature_model(0).predict_on_batch(images)
    mirrored = feature_model(0).predict_on_batch(images[:, :, ::-1])
    rest = trainable_part(backbone("efficientnet_lite0"), "stage6")
    assert maps[0][0].shape == (120, 8, 7, 192)
    for expected, view in zip((whole, mirrored), maps[0], strict=True):
        np.testing.assert_allclose(rest.predict_on_batch(view[:2]), expected, atol=2e-3)


def test_batch_norm_keeps_its_statistics_and_the_other_layers_learn(maps):
    set_seed(0)
    model = encoder(LATE)
    part = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    kinds = {True: [], False: []}
    for layer in part.layers:
        kinds[isinstance(layer, keras.layers.BatchNormalization)] += layer.weights
    before = {kind: [np.array(weight) for weight in weights] for kind, weights in kinds.items()}
    history = fine_tune(model, LATE, *maps)
    assert all(np.array_equal(a, b) for a, b in zip(before[True], kinds[True], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(before[False], kinds[False], strict=True))
    assert history.loss.iloc[-1] < history.loss.iloc[0]


def test_new_layer_starts_smaller_to_learn_faster():
    """Five times the rate is a fifth of the size."""
    set_seed(0)
    fast = np.std(encoder(LATE).get_layer("new_last").kernel)
    slow = np.std(encoder(replace(LATE, new_layer_rate=1)).get_layer("new_last").kernel)
    assert slow / fast == pytest.approx(5, rel=0.05)


def test_a_method_learns_from_its_training_pairs_alone(pairs, monkeypatch):
    """Trained on 90 pairs it ranks the other 30 far above chance, and again alike for fewer images to be scored."""
    monkeypatch.setenv("TLL_PROGRESS", "0")
    train, test = pairs.take(np.arange(90)), pairs.take(np.arange(90, 120))
    score = fine_tuned(LATE)
    S = score(train, test.left, test.right)
    assert expected_topk(S, np.arange(30)) > 0.4
    few = score(train, test.left.take(np.arange(3)), test.right)
    np.testing.assert_allclose(few, S[:3], atol=1e-3)


def test_unknown_tap_and_too_few_pairs_are_named(maps):
    with pytest.raises(ValueError, match=r"no tap.*stage9.* known: stem"):
        encoder(replace(LATE, frozen_to="stage9"))
    with pytest.raises(ValueError, match="1 pairs"):
        fine_tune(encoder(LATE), LATE, *([view[:1] for view in side] for side in maps))
