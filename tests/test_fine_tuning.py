"""Fine-tuning of a random tiny VGG preset: what is new, what is trained, and that training learns."""

import numpy as np
import pytest

from tll_utils import presets
from tll_utils.backbones import backbone
from tll_utils.fine_tuning import encode, fine_tune, fine_tuned, with_new_last_layer


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


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    from dataclasses import replace

    folder, hub = tmp_path_factory.mktemp("presets") / "vgg", presets.keras_hub()
    hub.models.VGGBackbone([1, 1], [4, 6]).save_to_preset(str(folder))
    hub.layers.VGGImageConverter(scale=1 / 255).save_to_preset(str(folder))
    return replace(backbone(str(folder)), size=(32, 32))


PAIRS = Both(Colours(np.random.default_rng(0).integers(0, 256, (8, 3))))


def test_last_layer_is_replaced(network):
    """Six features from the last pool to five outputs: 6·5 + 5 = 35 new weights; embeddings have length one."""
    encoder = with_new_last_layer(network, n_outputs=5)
    assert encoder.get_layer("new_last").count_params() == 35
    np.testing.assert_allclose(np.linalg.norm(encode(encoder, PAIRS.left), axis=1), 1, rtol=1e-5)


def test_training_learns_and_changes_every_layer(network):
    """At the start eight rights are near chance, log 8 = 2.08, for a left; all kernels and biases move."""
    encoder = with_new_last_layer(network, n_outputs=5)
    before = [np.array(weight) for weight in encoder.trainable_weights]
    history = fine_tune(encoder, PAIRS, epochs=15, batch_size=8, learning_rate=0.01)
    assert list(history.epoch) == list(range(1, 16))
    assert history.loss.iloc[-1] < history.loss.iloc[0]
    assert len(before) == 6
    assert all(not np.array_equal(a, b) for a, b in zip(before, encoder.trainable_weights, strict=True))


def test_the_pretrained_weights_stay(network):
    """Two fine-tunings from one preset and seed are one: the first leaves no trace."""
    score = fine_tuned(lambda: network, epochs=1, batch_size=4, learning_rate=0.01)
    first = with_new_last_layer(network)
    kernels = [np.array(w) for w in first.trainable_weights[:4]]
    assert score(PAIRS, PAIRS.left, PAIRS.right).shape == (8, 8)
    again = with_new_last_layer(network)
    for a, b in zip(kernels, again.trainable_weights[:4], strict=True):
        np.testing.assert_array_equal(a, b)
