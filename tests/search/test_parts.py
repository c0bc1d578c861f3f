"""Parts of scores: they add up to the scores, and each says what it is named for."""

from itertools import chain

import numpy as np
import pytest

from conftest import planted, values
from tll_utils.data.dataset import load_dataset
from tll_utils.data.images import Images
from tll_utils.data.pairs import Pairs
from tll_utils.methods.adapters import Adapter
from tll_utils.methods.base import BorderNeutral, SelectOnTrain, Similarity, WeightedSum
from tll_utils.runtime import project_root
from tll_utils.search import parts
from tll_utils.search.parts import block_width, score_parts, scores_at

SMALL = {"width": 32, "dropout": 0.1, "learning_rate": 5e-3, "epochs": 4, "batch_size": 40}
INPUTS = [["first", "last"], ["last"]]
pytestmark = pytest.mark.usefixtures("planted_blocks")


def assert_add_up(method, left, right):
    """The parts are those of all pairs, of chosen candidates too, and their sum is the score."""
    S = method.scores(left, right)
    whole = score_parts(method, left, right)
    np.testing.assert_allclose(sum(whole.values()), S, atol=1e-4)
    candidates = np.random.default_rng(1).integers(len(right), size=(len(left), 3))
    chosen = score_parts(method, left, right, candidates)
    assert list(chosen) == list(whole)
    for name, part in whole.items():
        assert part.shape == S.shape and part.dtype == np.float32
        np.testing.assert_allclose(chosen[name], np.take_along_axis(part, candidates, axis=1), atol=1e-5)
    return whole


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize(("hubness_weight", "rest"), [(0.0, "bias"), (0.5, "hubness")])
def test_parts_of_an_adapter_add_up(two_sided, hubness_weight, rest):
    method = Adapter(INPUTS, two_sided=two_sided, hubness_weight=hubness_weight, n_seeds=2, **SMALL).fit(planted(40))
    for model, bias in zip(chain(*method.models_), (0.8, 0.0, 0.0, 0.4), strict=True):
        model.get_layer("compare").bias.assign(bias)
    test = planted(9, seed=1)
    found = assert_add_up(method, test.left, test.right.take(range(7)))
    assert list(found) == ["first", "last", rest]
    if not hubness_weight:
        np.testing.assert_allclose(found["bias"], 0.3, atol=1e-5)


def test_a_block_that_images_do_not_have_has_no_part():
    method = Adapter([["first", "last"]], n_seeds=1, **SMALL).fit(planted(40))
    test = planted(6, seed=1)
    test.right.values[2, :12] = np.nan
    test.left.values[2, :12] = np.nan
    found = assert_add_up(method, test.left, test.right)
    assert found["first"][2, 2] == 0 and (found["first"][0] != 0).all()


def test_equal_titles_are_one_part(monkeypatch):
    monkeypatch.setitem(parts.TITLES, "first", "same")
    monkeypatch.setitem(parts.TITLES, "last", "same")
    method = Adapter(INPUTS, n_seeds=1, **SMALL).fit(planted(40))
    assert list(assert_add_up(method, planted(5).left, planted(5).right)) == ["same", "bias"]


def test_a_weighted_sum_has_its_members_parts():
    adapter = Adapter([["first"]], n_seeds=1, **SMALL)
    method = WeightedSum([adapter, Similarity(values), Similarity(values, "l1")], [2, -0.5, 3]).fit(planted(40))
    test = planted(6, seed=1)
    found = assert_add_up(method, test.left, test.right)
    assert list(found) == ["first", "bias", "similarity"]
    members = method.members_
    expected = 3 * members[2].scores(test.left, test.right) - 0.5 * members[1].scores(test.left, test.right)
    np.testing.assert_allclose(found["similarity"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        Similarity(values),
        WeightedSum([Similarity(values), Similarity(values, "l1")]),
        Adapter([["first"]], similarity="euclidean", n_seeds=1, **SMALL),
    ],
)
def test_other_methods_have_one_part(method):
    test = planted(6, seed=1)
    assert list(assert_add_up(method.fit(planted(40)), test.left, test.right)) == ["similarity"]


def test_border_neutral_parts_are_those_of_cropped_images():
    def cropped(images):
        return images.values * (1 + images.is_cropped)

    method = BorderNeutral(Similarity(cropped, "l1", centred=False)).fit(planted(40))
    test = planted(6, seed=1)
    found = assert_add_up(method, test.left, test.right)
    np.testing.assert_allclose(
        found["similarity"], method.method_.scores(test.left.cropped(), test.right.cropped()), rtol=1e-6
    )


def test_scores_by_blocks_are_those_at_once(monkeypatch):
    monkeypatch.setattr(parts, "MAX_SCORES", 18)  # two rights at a time
    test = planted(9, seed=1)
    method = SelectOnTrain([Similarity(values)]).fit(planted(9))
    assert block_width(method, 9, 9) == 2
    np.testing.assert_allclose(
        scores_at(method, test.left, test.right), method.scores(test.left, test.right), atol=1e-6
    )


def test_standardised_sums_are_scored_at_once(monkeypatch):
    """Their scores depend on all pictures, wherever in a method they stand."""
    monkeypatch.setattr(parts, "MAX_SCORES", 18)
    inner = WeightedSum([Similarity(values), Similarity(values, "l1")])
    for method in (inner, BorderNeutral(inner), WeightedSum([inner], [2]), SelectOnTrain([inner])):
        assert block_width(method.fit(planted(9)), 9, 9) == 9


def test_real_pictures_have_named_parts(tmp_path, monkeypatch):
    """Faces say nothing where one of the two pictures has none."""
    monkeypatch.setenv("TLL_CACHE", str(tmp_path))
    monkeypatch.setenv("TLL_PROGRESS", "0")
    pairs = load_dataset(project_root() / "data" / "sample").train
    left, right = (Images(side.ids[:16], side.files[:16]) for side in (pairs.left, pairs.right))
    inputs = [["lite0_head", "lite0_stage5", "face_descriptor", "face_shape"], ["lite0_head"]]
    method = Adapter(inputs, hubness_weight=0.5, n_seeds=1, **SMALL).fit(Pairs(left, right))
    found = assert_add_up(method, left, right)
    assert list(found) == ["content and layout (last layer)", "shape and texture (stage 5)", "face", "hubness"]
    assert all(np.ptp(part) > 0.1 for name, part in found.items() if name != "face")
