"""Methods saved and loaded: equal scores in a new process, plain files with hashes, errors that name the file."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from sklearn.base import BaseEstimator

import tll_utils
from tll_utils.features.catalogue import Features
from tll_utils.methods import registry
from tll_utils.methods.adapters import Adapter
from tll_utils.methods.base import BorderNeutral, Calibrated, SelectOnTrain, SelfTrained, Similarity, WeightedSum
from tll_utils.methods.fine_tuning import FineTuned
from tll_utils.methods.from_scratch import SiameseNetwork
from tll_utils.methods.fusion import Gated, LearnedFusion
from tll_utils.methods.registry import SubCategories
from tll_utils.runtime import keras, locked, project_root
from tll_utils.search import saving
from tll_utils.search.saving import ModelError, load, save
from tll_utils.search.tree import CLASSES

# TensorFlow's tensors do not know NumPy 2's `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

COLOURS, HOG = Similarity(Features("lab_histogram")), Similarity(Features("hog"), "l1")
ADAPTER = {"width": 16, "epochs": 1, "n_seeds": 2, "hubness_weight": 0.5}
METHODS = {
    "similarity": HOG,
    "select_on_train": SelectOnTrain([COLOURS, HOG]),
    "weighted_sum": WeightedSum([COLOURS, HOG], (1, 0.25)),
    "learned_fusion": LearnedFusion([COLOURS, Gated(Features("faces", "descriptor"))], SubCategories()),
    "adapter": Adapter([["lite0_stage5", "hog"], ["hog", "face_found"]], **ADAPTER),
    "adapter_triplet": Adapter([["hog"]], **ADAPTER, loss="triplet", two_sided=True),
    "fine_tuned": FineTuned("efficientnet_lite0", frozen_to="stage7", width=8, epochs=1),
    "siamese": SiameseNetwork("small", "scaled_cosine", size=(32, 26), epochs=1, batch_size=20),
    "border_neutral": BorderNeutral(COLOURS),
    "calibrated": Calibrated(SelfTrained(COLOURS)),
}
LOAD_AND_SCORE = """
import sys
from pathlib import Path
import numpy as np
from tll_utils.data.dataset import load_dataset
from tll_utils.data.images import Images
from tll_utils.search.saving import load
sample, folder = load_dataset(Path(sys.argv[1])).train, Path(sys.argv[2])
sides = [Images(side.ids[:64], side.files[:64]) for side in (sample.left, sample.right)]
left, right = sides[0].take(range(44, 54)), sides[1].take(range(44, 56))
for model in sorted(folder.iterdir()):
    np.save(model.with_suffix(".npy"), load(model).scores(left, right))
"""


@pytest.fixture(scope="module")
def saved(sample, tmp_path_factory):
    """Folder of the saved methods; the fitted methods; their scores; those of loaded ones in a process of their own."""
    folder, train = tmp_path_factory.mktemp("models"), sample.take(range(44))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tll_utils.methods.from_scratch.build_dir", lambda: tmp_path_factory.mktemp("trainings"))
        fitted = {name: method.fit(train) for name, method in METHODS.items()}
    left, right = sample.left.take(range(44, 54)), sample.right.take(range(44, 56))
    scores = {name: method.scores(left, right) for name, method in fitted.items()}
    for name, method in fitted.items():
        save(method, folder / name, train=train, accuracy="0.5, measured nowhere")
    command = [sys.executable, "-c", LOAD_AND_SCORE, str(project_root() / "data" / "sample"), str(folder)]
    subprocess.run(command, check=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"})
    return folder, fitted, scores


# --- there and back -------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_scores_are_equal_in_a_new_process(name, saved):
    folder, _, scores = saved
    again = np.load(folder / f"{name}.npy")
    assert again.shape == (10, 12) and again.dtype == np.float32 and np.ptp(again) > 0
    np.testing.assert_allclose(again, scores[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_parameters_come_back(name, saved):
    folder, fitted, _ = saved
    method = load(folder / name)
    assert type(method) is type(fitted[name]) and method.__repr__(10**5) == fitted[name].__repr__(10**5)


def test_every_registered_method_can_be_saved():
    """The class of each, of its members and of all that its parameters hold is known: found before a long training."""

    def classes(value):
        if isinstance(value, list | tuple):
            return set().union(*map(classes, value))
        held = vars(value).values() if isinstance(value, BaseEstimator) else ()
        return set().union({type(value)} if held else set(), *map(classes, held))

    used = set().union(*(classes(entry.method) for entry in registry.METHODS.values()))
    assert len(used) > 9 and used <= set(CLASSES.values())


def test_the_history_of_a_training_comes_back(saved):
    """With its gaps: InfoNCE has no pair accuracy."""
    folder, fitted, _ = saved
    pd.testing.assert_frame_equal(load(folder / "siamese").history_, fitted["siamese"].history_)
    assert load(folder / "fine_tuned").loss_ == fitted["fine_tuned"].loss_


def test_a_bank_that_both_views_share_is_saved_once(saved):
    """HOG has no mirrored view, so its block stands for both."""
    folder, fitted, _ = saved
    bank = load(folder / "adapter").bank_
    assert bank[0]["hog"] is bank[1]["hog"] and bank[0]["lite0_stage5"] is not bank[1]["lite0_stage5"]
    np.testing.assert_array_equal(bank[1]["lite0_stage5"], fitted["adapter"].bank_[1]["lite0_stage5"])


@pytest.mark.parametrize(("name", "n"), [("adapter", 4), ("adapter_triplet", 2), ("fine_tuned", 1), ("siamese", 1)])
def test_networks_load_with_plain_keras(name, n, saved):
    """Two inputs of two seeds each; no loss or optimizer of ours stands in the file."""
    files = sorted((saved[0] / name / "networks").iterdir())
    assert len(files) == n
    for file in files:
        model = keras.saving.load_model(file)
        assert model.count_params() > 0 and not model.compiled


def test_half_precision_halves_the_arrays_and_hardly_moves_the_scores(saved, sample, tmp_path):
    """The learned arrays of the adapter are loaded as float32; within 1 % of the spread the scores are the same."""
    folder, fitted, scores = saved
    save(fitted["adapter"], tmp_path / "half", half=True)
    sizes = [(place / "arrays.safetensors").stat().st_size for place in (folder / "adapter", tmp_path / "half")]
    assert sizes[1] < 0.52 * sizes[0]
    method = load(tmp_path / "half")
    assert method.whitenings_["hog"].axes_.dtype == np.float32
    again = method.scores(sample.left.take(range(44, 54)), sample.right.take(range(44, 56)))
    np.testing.assert_allclose(again, scores["adapter"], atol=0.01 * np.ptp(scores["adapter"]))


def test_half_precision_leaves_what_it_cannot_hold(tmp_path):
    """Float16 ends at 65,504, and 1e-9 would become zero; whole numbers are no floats. Gaps are kept."""
    similarity = Similarity(Features("hog"))
    similarity.means_ = [np.array(values) for values in ([1e6, 1.0], [1e-9], [3, 70_000], [0.5, np.nan], [])]
    save(similarity, tmp_path / "m", half=True)
    arrays = load(tmp_path / "m").means_
    assert [str(array.dtype) for array in arrays] == ["float64", "float64", "int64", "float32", "float32"]
    for array, before in zip(arrays, similarity.means_, strict=True):
        np.testing.assert_array_equal(array, before)


def test_save_and_load_are_offered_by_the_package():
    assert (tll_utils.save, tll_utils.load) == (save, load)


# --- what lies in the folder ----------------------------------------------------


@pytest.fixture
def method():
    """A method with arrays, a number and a network, all written by hand."""
    features = Features("lite0_head", "head_average")
    similarity, tuned = Similarity(features), FineTuned("efficientnet_lite0")
    similarity.means_ = [np.arange(3, dtype=np.float32), np.arange(6.0).reshape(3, 2).T]
    maps = keras.Input((3,))
    tuned.encoder_, tuned.loss_ = keras.Model(maps, keras.layers.Dense(2)(maps)), [0.125]
    whole = WeightedSum([similarity, tuned])
    whole.members_ = [similarity, tuned]
    return whole


@pytest.fixture
def model(method, tmp_path):
    save(method, tmp_path / "models" / "one")
    return tmp_path / "models" / "one"


def facts(model):
    return json.loads((model / "model.json").read_text(encoding="utf-8"))


def change(model, **entries):
    (model / "model.json").write_text(json.dumps(facts(model) | entries), encoding="utf-8")


def files_of(model):
    return sorted(path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file())


def test_model_json_names_version_packages_data_and_every_hash(method, model, sample):
    """The hash of model.json itself is that of the tree in it."""
    assert facts(model)["train"] is None
    save(method, model, train=sample, accuracy="0.795, five folds of TLL")
    found = facts(model)
    assert found["format"] == 1 and found["accuracy"] == "0.795, five folds of TLL"
    assert found["packages"].keys() >= {"keras", "numpy"} and found["packages"]["keras"] == keras.__version__
    assert found["train"] == {"pairs": 64, "fingerprint": sample.key}
    tree = json.dumps(found["method"]).encode()
    assert found["sha256"].pop("model.json") == hashlib.sha256(tree).hexdigest()
    for name, digest in found["sha256"].items():
        assert hashlib.sha256((model / name).read_bytes()).hexdigest() == digest
    assert sorted([*found["sha256"], "model.json"]) == files_of(model)


def test_files_are_plain(model):
    """Arrays in safetensors, also transposed ones; JSON; Markdown; Keras's zip. Nothing else, so nothing pickled.

    Others may read them as far as the process lets them read any file it makes.
    """
    os.umask(mask := os.umask(0))
    assert files_of(model) == ["README.md", "arrays.safetensors", "model.json", "networks/2.keras"]
    np.testing.assert_array_equal(load_file(model / "arrays.safetensors")["1"], [[0, 2, 4], [1, 3, 5]])
    assert {path.stat().st_mode & 0o777 for path in model.rglob("*.*")} == {0o666 & ~mask}


@pytest.mark.parametrize(
    ("method", "faces", "landmarks"),
    [
        (HOG, "not used", "not used"),
        (LearnedFusion([HOG], SubCategories()), "used", "not used"),
        (Adapter([["face_descriptor"]]), "used", "not used"),
        (Adapter([["face_shape"]]), "used", "used"),
        (Gated(Features("face_landmarks", "shape")), "used", "used"),
        (BorderNeutral(Similarity(Features("whole_image_face", "descriptor"))), "used", "not used"),
    ],
    ids=str,
)  # fmt: skip
def test_card_says_what_it_is_and_what_forbids_its_use(method, faces, landmarks, sample, tmp_path):
    if isinstance(method, LearnedFusion):
        method.groups_ = SubCategories()
    save(method, tmp_path / "m", train=sample, accuracy="0.79, five folds")
    card = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {type(method).__name__}\n") and repr(method) in card
    assert f"64 pairs of images (fingerprint {sample.key})" in card and "): 0.79, five folds." in card
    assert f"**Faces:** {faces}." in card and f"landmarks:** {landmarks}." in card


@pytest.mark.parametrize(("weight", "words"), [(0.0, "not used"), (0.5, "used")])
def test_card_warns_of_training_features_in_the_bank(weight, words, sample, tmp_path):
    train = sample.take(range(8))
    save(Adapter([["face_found", "hog"]], epochs=1, n_seeds=1, hubness_weight=weight).fit(train), tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert f"**Hubness correction:** {words}." in card and "whitened face descriptors" in card


# --- refused --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.json", "arrays.safetensors", "networks/2.keras", "README.md"])
@pytest.mark.parametrize("damage", ["missing", "cut", "one byte"])
def test_a_missing_or_damaged_file_is_named(name, damage, model):
    path = model / name
    data = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(data[:-9])
    if damage == "one byte":
        at = data.index(b'"loss_": [') + 14 if name == "model.json" else len(data) // 2
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(ModelError, match=f"{path.name}: .*; copy the whole folder again, or save the model again"):
        load(model)


def test_another_format_is_refused(model):
    change(model, format=2)
    with pytest.raises(ModelError, match=r"model\.json: its format is 2, this tll_utils reads 1; .* save the model"):
        load(model)


def test_unknown_classes_and_parameters_are_refused(model):
    """Even where the hash fits: names are looked up in a table and never imported."""
    for tree, error in (
        ({"class": "os.system", "command": "true"}, r"class os\.system is unknown, known are Features"),
        ({"class": "BorderNeutral", "method": None, "speed": 2}, "unexpected keyword argument 'speed'"),
        ({"part": "9"}, "'9'"),
        ({"class": "Features", "extractor": "clip"}, "extractor 'clip' is not known"),
    ):
        digest = hashlib.sha256(json.dumps(tree).encode()).hexdigest()
        change(model, method=tree, sha256=facts(model)["sha256"] | {"model.json": digest})
        with pytest.raises(ModelError, match=rf"model\.json: .*{error}.*; copy"):
            load(model)


def certify(model, name):
    """Make model.json hold the hash of a file as it lies there now: what an attacker would do."""
    digest = hashlib.sha256((model / name).read_bytes()).hexdigest()
    change(model, sha256=facts(model)["sha256"] | {name: digest})


@pytest.mark.parametrize("name", ["arrays.safetensors", "networks/2.keras"])
@pytest.mark.parametrize("cut", [-9, 7, 0])
def test_a_cut_file_with_a_fitting_hash_is_named(name, cut, model):
    """Its reader finds it, whatever error that raises."""
    (model / name).write_bytes((model / name).read_bytes()[:cut])
    certify(model, name)
    with pytest.raises(ModelError, match=f"{name.split('/')[-1]}: .*; copy the whole folder again"):
        load(model)


def test_swapped_networks_are_refused(saved, tmp_path):
    """Both are sound networks of this model: only the hash says that each stands in the other's place."""
    shutil.copytree(saved[0] / "adapter", tmp_path / "m")
    one, other = sorted((tmp_path / "m" / "networks").iterdir())[:2]
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    with pytest.raises(ModelError, match=r"\.keras: it is damaged"):
        load(tmp_path / "m")


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return exit, ("unpickled",)


@pytest.mark.parametrize("name", ["method.pkl", "arrays.npy", "networks/3.pkl"])
def test_a_pickle_in_the_folder_never_runs(name, model):
    """A file that model.json does not list is not read; listed there, it is refused."""
    (model / name).write_bytes(pickle.dumps(Bomb()))
    assert len(load(model).members_) == 2
    certify(model, name)
    with pytest.raises(ModelError, match=f"'{name}' belongs to no model"):
        load(model)


@pytest.mark.parametrize("name", ["arrays.safetensors", "networks/2.keras", "model.json"])
def test_a_pickle_under_the_name_of_a_part_never_runs(name, model):
    (model / name).write_bytes(pickle.dumps(Bomb()))
    if name != "model.json":
        certify(model, name)
    with pytest.raises(ModelError, match=f"{name.split('/')[-1]}: "):
        load(model)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"format": 1}', "[" * 10**5, "\0"])
def test_a_model_json_that_is_none_is_named(text, model):
    (model / "model.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"model\.json: "):
        load(model)


def test_a_file_outside_the_folder_is_refused(model):
    (model.parent / "other.keras").write_bytes((model / "networks" / "2.keras").read_bytes())
    certify(model, "../other.keras")
    with pytest.raises(ModelError, match=r"'\.\./other\.keras' belongs to no model"):
        load(model)


def test_a_model_without_hashes_is_refused(model):
    change(model, sha256={})
    with pytest.raises(ModelError, match=r"model\.json"):
        load(model)


def test_a_network_that_carries_code_is_refused(model):
    """Keras's safe mode: a Lambda layer is never run, whoever computed the hash."""
    network = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x + 1)])
    network.save(model / "networks" / "2.keras")
    certify(model, "networks/2.keras")
    with pytest.raises(ModelError, match=r"2\.keras: .*safe_mode"):
        load(model)


# --- written atomically ---------------------------------------------------------


def test_a_model_is_replaced_whole(model):
    """No file of the older one stays, and nothing beside it."""
    save(HOG, model)
    assert type(load(model)) is Similarity
    assert files_of(model) == ["README.md", "arrays.safetensors", "model.json"]
    assert [path.name for path in model.parent.iterdir()] == ["one"]


def test_an_empty_folder_is_filled(tmp_path):
    save(HOG, tmp_path)
    assert type(load(tmp_path)) is Similarity


@pytest.mark.parametrize("names", [["notes.txt"], ["README.md"], ["model.json", "group1-shard1of1.bin"]])
def test_other_folders_are_left_alone(names, tmp_path):
    for name in names:
        (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(ModelError, match="holds something else than a model: choose another folder, or delete it"):
        save(HOG, tmp_path)
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == dict.fromkeys(names, "mine")


def test_a_file_is_left_alone(tmp_path):
    path = tmp_path / "model"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(ModelError, match="model holds something else"):
        save(HOG, path)
    assert path.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("culprit", ["packed", "sha256_of"])
def test_after_an_error_the_older_model_is_there(culprit, model, monkeypatch):
    """Whether it comes before the first file or behind the last."""

    def fail(*arguments):
        raise OSError("disk full")

    before = facts(model)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(saving, culprit, fail)
        save(HOG, model)
    assert facts(model) == before and len(load(model).members_) == 2
    assert [path.name for path in model.parent.iterdir()] == ["one"]


AT_ONCE = """
import sys
from pathlib import Path
from tll_utils.search.saving import load, save

fitted = load(sys.argv[1])
for _ in range(15):
    save(fitted, Path(sys.argv[1]).with_name("shared"))
"""


def test_two_runs_may_save_the_same_model(model):
    environment = os.environ | {"PYTHONPATH": str(project_root())}
    runs = [subprocess.Popen([sys.executable, "-c", AT_ONCE, model], env=environment) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    load(model.with_name("shared"))
    assert sorted(path.name for path in model.parent.iterdir()) == ["one", "shared"]


def test_a_run_that_loads_waits_for_one_that_saves(model):
    """Between two reads the files would be another model's."""
    with ThreadPoolExecutor(1) as pool:
        with locked(model):
            loading = pool.submit(load, model)
            assert not wait([loading], timeout=1.2).done
        assert len(loading.result().members_) == 2
