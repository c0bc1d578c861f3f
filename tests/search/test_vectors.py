"""Vectors of images: their inner products are the scores of the method they are made by."""

import numpy as np
import pytest

import tll_utils
from conftest import planted, values
from tll_utils.data.images import Images
from tll_utils.methods.adapters import Adapter
from tll_utils.methods.base import BorderNeutral, Similarity
from tll_utils.runtime import project_root
from tll_utils.search.commands import SHIPPED
from tll_utils.search.saving import save
from tll_utils.search.tree import fingerprint
from tll_utils.search.vectors import SIDES, adapter_of, projection, vectors

INPUTS = [["first", "last"], ["last"]]
pytestmark = pytest.mark.usefixtures("planted_blocks")
SMALL = {"width": 32, "epochs": 2, "n_seeds": 2, "batch_size": 40}


@pytest.fixture(scope="module")
def shipped():
    return tll_utils.load(project_root() / "tll_utils" / "search" / SHIPPED)


def sides_of(method, left, right):
    return [projection(method, side)(method.views(images, side)) for side, images in enumerate((left, right))]


@pytest.mark.parametrize("inputs", [INPUTS, [["first"]]])
@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("biases", [(0, 0), (0.7, 0.3), (-0.7, 0.1)])
def test_inner_products_are_scores(inputs, two_sided, biases):
    method = Adapter(inputs, two_sided=two_sided, **SMALL).fit(planted(40))
    for models in method.models_:
        for model, bias, scale in zip(models, biases, (1.5, 9.0), strict=True):  # the second is beyond the largest
            model.get_layer("compare").bias.assign(bias)
            model.get_layer("compare").log_scale.assign(scale)
    test = planted(9, seed=1)
    test.right.values[2, :12] = np.nan
    right = test.right.take(range(7))
    a, b = sides_of(method, test.left, right)
    assert a.dtype == b.dtype == np.float32 and a.shape[1] % 8 == 0
    np.testing.assert_allclose(a @ b.T, method.scores(test.left, right), atol=1e-4)


def test_one_layer_of_both_sides_gives_no_wider_vectors_than_its_features():
    method = Adapter([["first", "last"]], **SMALL).fit(planted(40))
    a, _ = sides_of(method, *(planted(3).left,) * 2)
    assert a.shape == (3, 2 * 2 * 24 + 8)


def test_the_shipped_model_on_the_sample(sample, shipped):
    """Border-neutral, two views, three networks; the features are not kept."""
    left, right = (Images(side.ids[:20], side.files[:20]) for side in (sample.left, sample.right))
    a, b = vectors(shipped, left, 0), vectors(shipped, right, 1)
    assert isinstance(a, np.memmap) and a.shape == (20, 2 * 3 * 320 + 8)
    np.testing.assert_allclose(a @ b.T, shipped.scores(left, right), atol=1e-4)
    assert SIDES == ("left", "right") and not np.allclose(vectors(shipped, right, 0), b, atol=0.01)


def test_a_change_of_the_model_changes_the_vectors(sample, shipped):
    """They are cached under the model's fingerprint."""
    images = Images(sample.left.ids[:3], sample.left.files[:3])
    before = np.array(vectors(shipped, images, 0))
    model = shipped.method_.models_[0][0]
    weights = model.get_weights()
    try:
        model.set_weights([-weights[0] * np.linspace(0, 1, weights[0].shape[1]), *weights[1:]])
        assert not np.allclose(vectors(shipped, images, 0), before, atol=0.01)
    finally:
        model.set_weights(weights)
    np.testing.assert_array_equal(vectors(shipped, images, 0), before)


@pytest.mark.parametrize(
    "method",
    [
        Similarity(values), Adapter(INPUTS, hubness_weight=0.5), Adapter(INPUTS, similarity="euclidean"),
        BorderNeutral(Similarity(values)),
    ],
)  # fmt: skip
def test_other_methods_are_refused_in_one_line(method):
    if isinstance(method, BorderNeutral):
        method.method_ = method.method
    with pytest.raises(ValueError, match=r"are no inner products: choose .*") as error:
        adapter_of(method)
    assert "\n" not in str(error.value)


def test_the_fingerprint_is_that_of_the_saved_model_and_of_no_other(tmp_path):
    pairs = planted(40)
    method, other = (Adapter([["first"]], **(SMALL | {"epochs": epochs})).fit(pairs) for epochs in (2, 3))
    save(method, tmp_path / "model")
    assert fingerprint(tll_utils.load(tmp_path / "model")) == fingerprint(method) != fingerprint(other)
    method.whitenings_["first"].means_[1] = method.whitenings_["first"].means_[1] + np.float32(1)
    assert fingerprint(tll_utils.load(tmp_path / "model")) != fingerprint(method)
