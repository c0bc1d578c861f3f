import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

from tll_utils import siamese
from tll_utils.backend import keras
from tll_utils.dataset import Pairs, load_dataset
from tll_utils.evaluation import expected_topk
from tll_utils.images import crop_borders
from tll_utils.pairs import pair_table
from tll_utils.runtime import project_root
from tll_utils.siamese import HEADS, VARIANTS, SharedBatches, build, fit, pair_by_pair, prepare, score_matrix

# TensorFlow's tensors do not know NumPy 2's `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SIZE = (32, 26)
SMALL = VARIANTS["small_absolute"]


class Pictures:
    """Noise images, uint8 (n, 32, 26, 3); `read` lists the rows that were asked for."""

    def __init__(self, n, seed):
        self.images = np.random.default_rng(seed).integers(0, 256, (n, *SIZE, 3), np.uint8)
        self.ids = tuple(f"{seed}-{i}" for i in range(n))
        self.read = []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.read.append(i)
        return self.images[i]


def noise_pairs(n):
    return Pairs(Pictures(n, 1), Pictures(n, 2))


@pytest.fixture(scope="module")
def sample():
    """40 pairs to learn from and 20 to be measured on."""
    train = load_dataset(project_root() / "data" / "sample").train
    return train.take(np.arange(40)), train.take(np.arange(40, 60))


# --- towers and heads -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tower", "features"),
    [
        ("resnet18_difference", 11_176_512, 512),
        ("resnet18_absolute_2x2", 11_176_512, 6144),
        ("vgg16_sigmoid_absolute", 14_714_688 + 513 * 512, 512),
    ],
)
def test_networks_have_the_published_numbers_of_parameters(name, tower, features):
    """Published, without the classifier: ResNet18 11,689,512 − 513,000; VGG16's convolutions 14,714,688.

    2×2 pooling: 245×200 → 8×7 → 4×3 cells of 512 features = 6144. Head: a weight a feature and the bias.
    """
    model = build(VARIANTS[name])
    assert sum(np.prod(v.shape) for v in model.get_layer("tower").trainable_variables) == tower
    assert model.get_layer("tower").output_shape == (None, features)
    assert model.get_layer("head").count_params() == features + 1


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the fused kernel is TensorFlow's")
def test_fused_batch_normalisation_is_that_of_keras():
    """Outputs, gradients and statistics after one step; the moving variance is n / (n − 1) times as far on."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    inputs, weights = (tf.constant(rng.normal(2, 3, (6, 5, 4, 3)), "float32") for _ in range(2))

    def step(layer):
        layer.build(inputs.shape)
        layer.gamma.assign([0.5, 1, 2])
        layer.beta.assign([-1, 0, 1])
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
            loss = tf.reduce_sum(outputs * weights)
        gradients = tape.gradient(loss, [inputs, layer.gamma.value, layer.beta.value])
        return [np.asarray(x) for x in (outputs, *gradients, layer.moving_mean, layer.moving_variance)]

    options = {"momentum": 0.9, "epsilon": 1e-5, "dtype": "float32"}
    *ours, variance = step(siamese.BatchNormalization(**options))
    *theirs, plain = step(keras.layers.BatchNormalization(**options))
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(variance - 0.9, (plain - 0.9) * 120 / 119, rtol=1e-4)


def test_layer_table_is_the_reports_figure_3():
    """Two images, the tower and the head, whose 512 weights and a bias are the figure's 513."""
    table = siamese.layer_table(build(VARIANTS["resnet18_absolute"]))
    assert list(table.layer) == ["left", "right", "tower", "head"]
    assert list(table["output shape"])[1:] == ["batch×245×200×3", "batch×512", "batch×batch"]
    assert list(table.parameters[[0, 1, 3]]) == [0, 0, 513]


def test_reports_numbers_are_those_of_the_published_table():
    published = pd.read_csv(project_root() / "data" / "results" / "published.csv").set_index("method")["top2"]
    ours = {v.title: v.report_top2 for v in VARIANTS.values() if v.report_top2}
    assert ours == published[published.index.str.contains("from scratch")].to_dict()


@pytest.mark.parametrize("name", HEADS)
def test_scores_of_all_pairs_are_those_pair_by_pair(name):
    """The zero row is the embedding of a network whose ReLUs have died."""
    rng = np.random.default_rng(0)
    a, b = rng.random((5, 40), np.float32), rng.random((7, 40), np.float32)
    a[2] = 0
    head = HEADS[name]()
    one_by_one = np.array([[head(a[i : i + 1], b[j : j + 1])[0] for j in range(7)] for i in range(5)])
    assert np.ptp(one_by_one) > 0.1
    np.testing.assert_allclose(head.scores(a, b), one_by_one, atol=1e-5)


def test_absolute_head_by_hand():
    """w = (2, −3), bias 1: |(1, 0) − (0, 4)| = (1, 4) → 2 − 12 + 1 = −9; equal embeddings → the bias."""
    head = HEADS["absolute"]()
    head(np.zeros((1, 2)), np.zeros((1, 2)))
    head.set_weights([np.array([[2.0], [-3.0]]), np.array([1.0])])
    np.testing.assert_allclose(head.scores(np.array([[1, 0.0]]), np.array([[0, 4.0], [1, 0]])), [[-9, 1]])


def test_difference_scores_exactly_at_chance_whatever_its_weights():
    """w·a − w·b puts the rights in one order for all lefts: over a gallery, the truths take every rank once."""
    rng = np.random.default_rng(0)
    head = HEADS["difference"]()
    a, b = rng.random((30, 8), np.float32), rng.random((30, 8), np.float32)
    head(a, b)
    assert expected_topk(head.scores(a, b), np.arange(30)) == pytest.approx(0.1)


def test_precision_is_bfloat16_only_inside_the_tower():
    model = build(SMALL, size=SIZE, precision="mixed_bfloat16")
    assert model.get_layer("tower").layers[2].compute_dtype == "bfloat16"
    assert {keras.backend.standardize_dtype(v.dtype) for v in model.trainable_variables} == {"float32"}
    assert model.output.dtype == "float32" == keras.config.dtype_policy().name
    assert siamese.automatic_precision() in ("mixed_bfloat16", "float32")


# --- losses ---------------------------------------------------------------------


def test_cross_entropy_and_accuracy_count_only_drawn_pairs():
    """Row 1: match at logit 0, foil at 0 → ln 2, both not above 0, so 1 of 2 right. Row 2: only a foil
    at logit ln 3, p = 3/4 → −ln(1/4); wrong. The pairs that were not drawn have logits that would show."""
    labels = np.array([[1, 0, -1], [-1, 0, -1]], np.float32)
    logits = np.array([[0, 0, 50], [-50, np.log(3), 50]], np.float32)
    np.testing.assert_allclose(siamese.drawn_cross_entropy(labels, logits), np.log([2, 4]), rtol=1e-6)
    np.testing.assert_allclose(siamese.pair_accuracy(labels, logits), [0.5, 0])


def test_calling_every_pair_a_foil_has_pair_accuracy_95_percent():
    labels = siamese.drawn_labels(32, 19, np.random.default_rng(0))
    np.testing.assert_allclose(siamese.pair_accuracy(labels, np.full((32, 32), -1.0, np.float32)), 0.95)


def test_info_nce_by_hand():
    """Logits ln [[3, 1], [1, 1]]. Rows: truth 3/4 and 1/2; columns: 3/4 and 1/2.

    Left 0: −(ln 3/4 + ln 3/4) / 2 = ln 4/3; left 1: ln 2.
    """
    losses = siamese.info_nce(np.eye(2, dtype=np.float32), np.log(np.array([[3, 1], [1, 1]], np.float32)))
    np.testing.assert_allclose(losses, np.log([4 / 3, 2]), rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="takes gradients with TensorFlow")
@pytest.mark.parametrize("name", ["small_absolute", "small_difference", "small_relu_cosine"])
def test_shared_encoding_has_the_loss_and_gradients_of_explicit_pairs(name):
    """32 lefts with match and 19 foils: 64 images encoded instead of 2 · 32 · 20; batch norm in inference mode."""
    import tensorflow as tf

    (left, right), labels = SharedBatches(noise_pairs(32))[0]
    rows, columns = np.nonzero(labels >= 0)
    assert len(rows) == 32 * 20
    model = build(VARIANTS[name], size=SIZE, precision="float32")
    explicit = keras.losses.BinaryCrossentropy(from_logits=True)
    with tf.GradientTape(persistent=True) as tape:
        shared_loss = tf.reduce_mean(siamese.drawn_cross_entropy(labels, model([left, right], training=False)))
        logits = pair_by_pair(model)([left[rows], right[columns]], training=False)
        pair_loss = explicit(labels[rows, columns], logits)
    assert float(shared_loss) == pytest.approx(float(pair_loss), abs=1e-5)
    for shared, pair in zip(
        tape.gradient(shared_loss, model.trainable_variables),
        tape.gradient(pair_loss, model.trainable_variables),
        strict=True,
    ):
        assert np.abs(pair).max() > 0
        np.testing.assert_allclose(shared, pair, atol=1e-5)


# --- batches --------------------------------------------------------------------


def test_every_left_has_its_match_and_19_of_31_foils():
    labels = siamese.drawn_labels(32, 19, np.random.default_rng(0))
    assert (np.diag(labels) == 1).all()
    assert (
        ((labels == 1).sum(1) == 1).all() and ((labels == 0).sum(1) == 19).all() and ((labels == -1).sum(1) == 12).all()
    )
    assert ((labels == 0).sum(0) > 0).all()


def test_batches_depend_on_seed_and_epoch_alone():
    pairs = noise_pairs(50)

    def batch(epoch, seed=0):
        batches = SharedBatches(pairs, batch_size=24, augmented=True, seed=seed)
        batches.epoch = epoch
        (left, right), labels = batches[1]
        return np.concatenate([left.ravel(), right.ravel(), labels.ravel()])

    assert np.array_equal(batch(3), batch(3))
    assert not np.array_equal(batch(3), batch(4))
    assert not np.array_equal(batch(3), batch(3, seed=1))


def test_an_epoch_shows_every_pair_at_most_once_and_keeps_pairs_together():
    """50 pairs in batches of 24: 2 batches, 2 pairs left out."""
    pairs = noise_pairs(50)
    batches = SharedBatches(pairs, batch_size=24)
    assert len(batches) == 2
    lefts, rights = (np.concatenate([batches[step][0][side] for step in range(2)]) for side in (0, 1))
    where = [int((pairs.left.images == image).all((1, 2, 3)).argmax()) for image in lefts]
    assert len(set(where)) == 48
    assert np.array_equal(pairs.right.images[where], rights)


def test_batches_need_more_rights_than_foils_and_enough_pairs():
    with pytest.raises(ValueError, match="10 pairs in batches of 32"):
        SharedBatches(noise_pairs(10))
    with pytest.raises(ValueError, match="batch_size above the foils"):
        SharedBatches(noise_pairs(40), batch_size=16)


def test_augmentation_flips_both_images_of_a_pair_but_not_their_crops():
    """Left half black, right half white, on both sides: the bright half tells whether an image was flipped."""
    half = np.zeros((40, *SIZE, 3), np.uint8)
    half[:, :, SIZE[1] // 2 :] = 255
    pairs = noise_pairs(40)
    pairs.left.images = pairs.right.images = half
    (left, right), _ = SharedBatches(pairs, batch_size=40, augmented=True)[0]
    flipped = [side[:, :, :5].mean((1, 2, 3)) > side[:, :, -5:].mean((1, 2, 3)) for side in (left, right)]
    assert np.array_equal(*flipped) and 5 < flipped[0].sum() < 35
    assert left.shape == right.shape == (40, *SIZE, 3) and left.dtype == np.uint8
    assert not any(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_prepared_images_are_resized_once_and_may_lose_their_borders(sample):
    images = sample[0].left
    plain, neutral = (prepare(sample[0], SIZE, border_neutral=value).left for value in (False, True))
    assert plain[0].shape == (*SIZE, 3) and plain[0] is plain[0]
    assert np.array_equal(neutral[0], siamese._resized(crop_borders(images[0]), SIZE))
    assert not np.array_equal(neutral[0], plain[0])


# --- scoring --------------------------------------------------------------------


def test_score_matrix_encodes_each_image_once_and_equals_pair_by_pair():
    left, right = Pictures(3, 1), Pictures(70, 2)
    model = build(SMALL, size=SIZE, precision="float32")
    S = score_matrix(model, left, right)
    assert sorted(left.read) == list(range(3)) and sorted(right.read) == list(range(70))
    rows, columns = np.indices(S.shape).reshape(2, -1)
    logits = pair_by_pair(model).predict_on_batch([left.images[rows], right.images[columns]])
    assert S.dtype == np.float32 and np.ptp(S) > 0.1
    np.testing.assert_allclose(S.ravel(), logits, atol=1e-5)


# --- training -------------------------------------------------------------------


def run(sample, folder, **options):
    options = {"epochs": 3, "batch_size": 20, "size": SIZE, "precision": "float32"} | options
    return fit(options.pop("variant", SMALL), *sample, folder=folder, **options)


def test_fit_writes_its_history_and_returns_the_best_epoch(sample, tmp_path):
    """40 pairs in batches of 20: 80 images an epoch."""
    model, history = run(sample, tmp_path, epochs=4)
    assert history.loss.iloc[-1] < history.loss.iloc[0]
    assert list(history.epoch) == [1, 2, 3, 4] and (history.images == 80).all()
    written = pd.read_csv(tmp_path / "history.csv")
    pd.testing.assert_frame_equal(written, history)
    assert set(written) == {"epoch", "seconds", "images"} | {
        part + name for part in ("", "val_") for name in ("loss", "pair_accuracy", "top2")
    }
    S = score_matrix(model, sample[1].left, sample[1].right)
    assert expected_topk(S, np.arange(20)) == pytest.approx(history.val_top2.max(), abs=1e-6)
    assert not list(tmp_path.glob("*.partial"))


def test_finished_run_is_only_read(sample, tmp_path):
    first, history = run(sample, tmp_path, epochs=1)
    before = (tmp_path / "checkpoint.npz").stat().st_mtime_ns
    second, again = run(sample, tmp_path, epochs=1)
    assert (tmp_path / "checkpoint.npz").stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(again, history)
    assert all(np.array_equal(a, b) for a, b in zip(first.get_weights(), second.get_weights(), strict=True))


def test_folder_of_another_run_is_refused(sample, tmp_path):
    run(sample, tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"checkpoint\.npz is of a run with another seed: choose another folder"):
        run(sample, tmp_path, epochs=1, seed=1)


def test_too_few_validation_pairs_are_refused_before_training(sample, tmp_path):
    with pytest.raises(ValueError, match="40 training and 19 validation pairs"):
        run((sample[0], sample[1].take(np.arange(19))), tmp_path)


@pytest.mark.parametrize("name", ["small_infonce", "pair by pair"])
def test_interrupted_run_ends_with_the_same_weights(sample, tmp_path, monkeypatch, name):
    """Stopped in the second epoch after its second step, which is not in the checkpoint; pair by pair has four."""
    table = pair_table(sample[0].left.ids, sample[0].right.ids, n_foils=1) if name == "pair by pair" else None
    options = {"variant": VARIANTS.get(name, SMALL), "checkpoint_seconds": 0, "table": table}
    run(sample, tmp_path / "whole", **options)
    save = siamese._save

    def stop(learner, path, state, settings):
        if (state["epoch"], state["step"]) == (1, 2):
            raise KeyboardInterrupt
        save(learner, path, state, settings)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(siamese, "_save", stop)
        run(sample, tmp_path / "halves", **options)
    state = siamese._read_arrays(tmp_path / "halves" / "checkpoint.npz")[0]["state"]
    assert (state["epoch"], state["step"]) == (1, 1)
    run(sample, tmp_path / "halves", **options)
    for file in ("checkpoint.npz", "best.npz"):
        whole, halves = (siamese._read_arrays(tmp_path / part / file)[1] for part in ("whole", "halves"))
        assert all(np.array_equal(a, b) for a, b in zip(whole, halves, strict=True))
    whole, halves = (pd.read_csv(tmp_path / part / "history.csv") for part in ("whole", "halves"))
    pd.testing.assert_frame_equal(whole.drop(columns="seconds"), halves.drop(columns="seconds"))


def test_pair_table_trains_the_same_network_pair_by_pair(sample, tmp_path):
    """40 lefts with 20 pairs each: 800 pairs, so 1600 images encoded instead of 80."""
    table = pair_table(sample[0].left.ids, sample[0].right.ids)
    model, history = run(sample, tmp_path, epochs=1, table=table, batch_size=100)
    assert history.images.tolist() == [1600] and history.loss[0] > 0
    assert score_matrix(model, sample[1].left, sample[1].right).shape == (20, 20)


@pytest.mark.parametrize("augmented", [False, True])
def test_only_augmented_variants_alter_the_images_they_train_on(sample, tmp_path, monkeypatch, augmented):
    """One epoch of 40 pairs; validation and scoring see the images as they are."""
    altered = []
    monkeypatch.setattr(siamese, "augment", lambda image, rng, flip: altered.append(flip) or image)
    run(sample, tmp_path, variant=replace(SMALL, augmented=augmented), epochs=1)
    assert len(altered) == (80 if augmented else 0)


def test_pair_table_with_augmentation_is_refused(sample, tmp_path):
    table = pair_table(sample[0].left.ids, sample[0].right.ids)
    with pytest.raises(ValueError, match="does not augment"):
        run(sample, tmp_path, variant=replace(SMALL, augmented=True), table=table)


def test_learning_rate_of_info_nce_rises_and_falls_to_zero():
    """100 steps, 5 of them warm-up."""
    rate = siamese._optimizer(replace(SMALL, head="infonce", learning_rate=0.01), 100)._learning_rate
    assert [float(rate(step)) for step in (0, 5, 100)] == pytest.approx([0, 0.01, 0], abs=1e-8)


# --- other processes ------------------------------------------------------------

PROGRAM = """
import os, signal, sys
import numpy as np
from tll_utils import siamese
from tll_utils.dataset import load_dataset
from tll_utils.runtime import project_root

train = load_dataset(project_root() / "data" / "sample").train
if {kill}:
    real = siamese._save
    def save(learner, path, state, settings):
        real(learner, path, state, settings)
        if state["epoch"] == 1 and state["step"] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    siamese._save = save
siamese.fit(siamese.VARIANTS["small_absolute"], train.take(np.arange(40)), train.take(np.arange(40, 60)),
    folder=sys.argv[1], size=(32, 26), batch_size=20, epochs={epochs}, precision="float32", checkpoint_seconds=0)
"""


def run_program(folder, *, backend, kill=False, epochs):
    program = PROGRAM.format(kill=kill, epochs=epochs)
    environment = os.environ | {"KERAS_BACKEND": backend, "TLL_PROGRESS": "0"}
    return subprocess.run(
        [sys.executable, "-c", program, folder], env=environment, capture_output=True, text=True, timeout=240
    )


def test_killed_process_ends_with_the_same_weights(sample, tmp_path):
    killed = run_program(tmp_path / "killed", backend=keras.backend.backend(), kill=True, epochs=3)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(pd.read_csv(tmp_path / "killed" / "history.csv")) == 1
    resumed, _ = run(sample, tmp_path / "killed", checkpoint_seconds=0)
    whole, _ = run(sample, tmp_path / "whole")
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_trains_on_every_installed_backend(backend, tmp_path):
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    if backend == keras.backend.backend():
        pytest.skip("the tests above train on it")
    done = run_program(tmp_path, backend=backend, epochs=1)
    assert done.returncode == 0, done.stderr
    assert np.isfinite(pd.read_csv(tmp_path / "history.csv").to_numpy()).all()
