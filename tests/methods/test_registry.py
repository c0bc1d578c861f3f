"""Every method by name, on the drawn sample: fitted, scored, copied, printed; and nothing of the scored pairs leaks."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans

from tll_utils import cli
from tll_utils.data.images import Images
from tll_utils.data.pairs import Pairs
from tll_utils.features.catalogue import EXTRACTORS
from tll_utils.methods import adapters, registry
from tll_utils.methods.adapters import BLOCKS, Adapter
from tll_utils.methods.base import BorderNeutral, Calibrated
from tll_utils.methods.fine_tuning import FineTuned
from tll_utils.methods.from_scratch import SiameseNetwork
from tll_utils.methods.registry import METHODS, SubCategories, get_entry, get_method

# TensorFlow's tensors do not know NumPy 2's `copy` yet.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning"),
]

N_TRAIN = 48
WITH_OWN_TOWER = ("resnet18_infonce", "vgg16_relu_cosine")  # the others would take a minute more
# They fit the method of "best", test_base.py has the rest; of border-neutral methods one on features, one on images.
LIKE_BEST = {"best_one_to_one", "best_self_trained", "best_self_trained_one_to_one"}
NAMES = [*(METHODS.keys() - LIKE_BEST), "lite0_border_neutral", "resnet18_difference_border_neutral"]


def quick(name):
    """The method of that name, trained for an epoch: that says as much about the interface as thirty."""
    method = get_method(name)
    for part in estimators(method):
        if isinstance(part, Adapter):
            part.set_params(epochs=1, n_seeds=1, width=16, inputs=[*part.inputs[:1], *part.inputs[1:][-1:]])
        if isinstance(part, FineTuned):
            part.set_params(epochs=1, width=16, frozen_to="stage7" if "lite" in part.backbone else "stage1")
        if isinstance(part, SiameseNetwork):
            part.set_params(epochs=1, batch_size=20, size=(49, 40))
            if name not in WITH_OWN_TOWER:
                part.set_params(tower={"resnet18": "small", "vgg16": "small_vgg"}[part.tower])
    return method


def estimators(value):
    """The estimators in a value, an estimator itself and those in its parameters."""
    if isinstance(value, list):
        return [part for member in value for part in estimators(member)]
    if not isinstance(value, BaseEstimator):
        return []
    return [value, *estimators(list(value.get_params(deep=False).values()))]


@pytest.fixture(scope="module", autouse=True)
def untraced():
    """An epoch of two steps is over before TensorFlow would have traced one."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(autouse=True)
def random_weights(presets, monkeypatch):
    """Where weights have to be downloaded, random ones of small networks stand in."""
    monkeypatch.setenv("TLL_PRESETS", str(presets))


# --- all methods ----------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_method_fits_and_scores(name, sample, trainings):
    """S is float32 (n_left, n_right) and finite, and says nothing of the rows that images stand in.

    The rights in another order are a folder of their own, extracted anew: noise that depends on a row would tell the
    truth, which stands in the same row on both sides.
    """
    left, right = sample.left.take(range(N_TRAIN, 64)), sample.right.take(range(N_TRAIN, 60))
    method = quick(name)
    assert method.fit(sample.take(range(N_TRAIN))) is method
    S = method.scores(left, right)
    assert S.shape == (16, 12) and S.dtype == np.float32 and np.isfinite(S).all()
    order = np.random.default_rng(0).permutation(12)
    again = method.scores(left, Images([right.ids[i] for i in order], [right.files[i] for i in order]))
    np.testing.assert_allclose(again, S[:, order], rtol=1e-4, atol=1e-4 * np.ptp(S))


@pytest.mark.parametrize("name", [*METHODS, "best_border_neutral"])
def test_methods_copy_and_print(name):
    """A clone has the same parameters, down to the members of members; printed, a method names its class."""
    method = get_method(name)
    assert repr(clone(method)) == repr(method)
    assert repr(method).startswith(f"{type(method).__name__}(")


@pytest.mark.parametrize("name", ["classic_fusion", "adapter_lite0"])
def test_fit_sees_the_training_pairs_only(name, sample):
    """Twenty-four pairs in a folder of their own, or with forty others beside them: the same scores."""
    alone = Pairs(*(Images(side.ids[:24], side.files[:24]) for side in (sample.left, sample.right)))
    a, b = (quick(name).fit(pairs).scores(pairs.left, pairs.right) for pairs in (alone, sample.take(range(24))))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.ptp(a))


@pytest.mark.parametrize("name", registry.UNTRAINED | registry.FUSIONS)
def test_few_training_pairs_suffice_where_no_network_is_trained(name, sample):
    """Ten make no candidate list: nothing is chosen and no weight learned."""
    S = get_method(name).fit(sample.take(range(10))).scores(sample.left, sample.right)
    assert S.shape == (64, 64) and np.isfinite(S).all()


# --- names ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip", "clip_border_neutral"])
def test_unknown_method_is_named_with_the_known_ones(name):
    with pytest.raises(ValueError, match=f"'{name}'; known: border_geometry.* each also with _border_neutral"):
        get_method(name)


def test_a_border_neutral_entry_says_so():
    """What the report published is no number of it."""
    plain, neutral = get_entry("resnet18_absolute"), get_entry("resnet18_absolute_border_neutral")
    assert isinstance(neutral.method, BorderNeutral) and neutral.method.method is plain.method
    assert neutral.border_neutral and neutral.title == f"{plain.title}, border-neutral"
    assert plain.report_top2 == 0.198 and neutral.report_top2 is None


def test_a_calibrated_method_stays_one_on_border_neutral_images():
    """Submissions decode one-to-one what is Calibrated."""
    method = get_method("best_one_to_one_border_neutral")
    assert isinstance(method, Calibrated) and isinstance(method.method, BorderNeutral)


def test_a_method_is_a_copy():
    """What is changed on it, or on a member of it, changes neither the registry nor methods that share the member."""
    get_method("best_tuned").members[0].set_params(epochs=999)
    get_method("best").set_params(epochs=999)
    assert get_method("best").epochs == get_method("best_one_to_one").method.epochs == 30
    assert get_method("best_tuned").members[0].epochs == 30


def test_titles_are_unique_and_the_default_is_registered():
    titles = [entry.title for entry in METHODS.values()]
    assert len(titles) == len(set(titles)) and cli.DEFAULT_METHOD in METHODS


def test_notes_of_a_network_are_made_from_its_parameters():
    notes = get_entry("resnet18_infonce").notes
    assert notes == "input 123×100, 60 epochs, batch 64, mirrored views averaged"
    assert get_entry("resnet18_absolute_full").notes == "input 245×200, 10 epochs, batch 32"


# --- parts ----------------------------------------------------------------------


def test_subsets_are_all_inputs_all_without_faces_and_each_network_with_faces():
    faces = {name for name in BLOCKS if name.startswith("face")}
    networks = [{f"lite{variant}_head", f"lite{variant}_stage5"} for variant in (0, 1, 2)]
    everything = set().union(*networks, faces)
    assert [set(names) for names in registry.SUBSETS] == [
        everything, everything - faces, *(network | faces for network in networks)
    ]  # fmt: skip


def uses(method):
    """The features that the blocks of a method's inputs use."""
    features = [BLOCKS[name].features for names in method.inputs for name in names]
    return {(one.extractor, one.output) for one in features}


def test_methods_without_landmarks_and_without_faces_use_none():
    """Of the best method only the landmarks' shape is missing; without faces there are five other subsets."""
    best, without_landmarks = uses(get_method("best")), uses(get_method("best_without_landmarks"))
    assert best - without_landmarks == {("face_landmarks", "shape")} and without_landmarks < best
    for name in ("best_without_faces", "adapter_lite0_small"):
        assert {extractor for extractor, _ in uses(get_method(name))} <= {f"lite{v}_grids" for v in (0, 1, 2)}
    assert len(get_method("best_without_landmarks").inputs) == len(get_method("best_without_faces").inputs) == 5


def test_landmarks_are_never_asked_for_where_a_method_does_without(sample, monkeypatch):
    monkeypatch.setitem(EXTRACTORS, "face_landmarks", lambda: 1 / 0)
    monkeypatch.setattr(adapters, "_fitted", adapters._fitted.__wrapped__)
    monkeypatch.setattr(adapters, "_whitened", adapters._whitened.__wrapped__)
    for name in ("best_without_landmarks", "best_without_faces", "fusion", "mixture"):
        S = quick(name).fit(sample.take(range(24))).scores(sample.left, sample.right)
        assert np.isfinite(S).all()
    with pytest.raises(ZeroDivisionError):
        quick("best").fit(sample.take(range(24)))


def test_sub_categories_are_three_clusters_with_and_without_a_face(sample):
    """Group = 2 · cluster + face; a left has its group whatever other lefts are asked for."""
    groups = SubCategories().fit(sample.take(range(N_TRAIN)))
    names = groups.predict(sample.left)
    np.testing.assert_array_equal(names % 2, registry.FACE_FOUND(sample.left)[:, 0])
    assert set(names // 2) == {0, 1, 2}
    np.testing.assert_array_equal(groups.predict(sample.left.take([5, 60])), names[[5, 60]])
    averages = registry.AVERAGE(sample.left)
    clusters = KMeans(3, n_init=10, random_state=0).fit(averages[:N_TRAIN])
    np.testing.assert_array_equal(names // 2, clusters.predict(averages))
