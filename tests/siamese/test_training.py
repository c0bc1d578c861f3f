"""Networks, scores, and a training that can be killed at any moment."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tll_utils.data.pairs import Pairs
from tll_utils.evaluation.metrics import expected_topk
from tll_utils.runtime import has_bfloat16, keras, set_seed
from tll_utils.siamese import training
from tll_utils.siamese.batches import InBatchNegatives
from tll_utils.siamese.heads import HEADS
from tll_utils.siamese.losses import masked_binary_cross_entropy, pair_accuracy
from tll_utils.siamese.training import Backup, build, fit, layer_table, score_matrix, siamese_model

# TensorFlow's tensors do not know NumPy 2's `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SIZE = (32, 26)


class Pictures:
    """Noise images, uint8 (n, 32, 26, 3); `read` lists the rows that were asked for."""

    def __init__(self, n, seed):
        self.images = np.random.default_rng(seed).integers(0, 256, (n, *SIZE, 3), np.uint8)
        self.read = []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.read.append(i)
        return self.images[i]


def noise_pairs(n, seed=1):
    return Pairs(Pictures(n, seed), Pictures(n, seed + 1))


# --- networks and scores --------------------------------------------------------


def test_layer_table_is_the_reports_figure_3():
    """Two images, the tower and the head, whose 512 weights and a bias are the figure's 513."""
    table = layer_table(build(tower="resnet18", head="absolute"))
    assert list(table.layer) == ["left", "right", "tower", "head"]
    assert list(table["output shape"]) == ["batch×245×200×3"] * 2 + ["batch×512", "batch×batch"]
    assert list(table.parameters[[0, 1, 3]]) == [0, 0, 513]


def row_by_row(model):
    """The same weights as the report uses them: (left, right) → logits (b,), row with row."""
    return keras.Model(model.inputs, keras.ops.diagonal(model.output))


def test_precision_is_bfloat16_only_inside_the_tower():
    model = build(tower="small", head="absolute", size=SIZE, precision="mixed_bfloat16")
    assert model.get_layer("tower").layers[2].compute_dtype == "bfloat16"
    assert {keras.backend.standardize_dtype(v.dtype) for v in model.trainable_variables} == {"float32"}
    assert model.output.dtype == "float32" == keras.config.dtype_policy().name
    automatic = build(tower="small", head="absolute", size=SIZE).get_layer("tower").layers[2].dtype_policy.name
    assert automatic == ("mixed_bfloat16" if has_bfloat16() else "float32")


def test_the_seed_decides_the_weights():
    a, b, c = (build(tower="small", head="absolute", size=SIZE, seed=seed).get_weights() for seed in (0, 0, 1))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not all(np.array_equal(x, y) for x, y in zip(a, c, strict=True))


def test_both_sides_are_one_batch_for_batch_norm():
    """Left images black, right ones white: statistics of each side alone would make them alike."""
    tower = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization(momentum=0.0)], name="tower")
    model = siamese_model(tower, HEADS["bilinear"](name="head"))
    model([np.zeros((2, 1), np.float32), np.full((2, 1), 4, np.float32)], training=True)
    assert float(tower.layers[0].moving_mean[0]) == 2


@pytest.mark.parametrize(("tower", "head"), [("small", "absolute"), ("small", "difference"), ("small_vgg", "cosine")])
def test_shared_encoding_has_the_loss_and_gradients_of_explicit_pairs(tower, head):
    """32 lefts with match and 19 foils: 64 images encoded instead of 2 · 32 · 20; batch norm in inference mode."""
    (left, right), labels = InBatchNegatives(noise_pairs(32))[0]
    rows, columns = np.nonzero(labels >= 0)
    model = build(tower=tower, head=head, size=SIZE, precision="float32", activation="relu", width=16)
    paired = row_by_row(model)
    shared_loss, shared = _loss_and_gradients(
        model, lambda: masked_binary_cross_entropy(labels, model([left, right], training=False))
    )
    explicit = keras.losses.BinaryCrossentropy(from_logits=True)
    pair_loss, pair = _loss_and_gradients(
        model, lambda: explicit(labels[rows, columns], paired([left[rows], right[columns]], training=False))
    )
    assert shared_loss == pytest.approx(pair_loss, abs=1e-5)
    for a, b in zip(shared, pair, strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def _loss_and_gradients(model, loss):
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss())
    return float(value), tape.gradient(value, model.trainable_variables)


def test_score_matrix_encodes_each_image_once_and_equals_row_by_row():
    left, right = Pictures(3, 1), Pictures(70, 2)
    model = build(tower="small", head="absolute", size=SIZE, precision="float32")
    S = score_matrix(model, left, right)
    assert sorted(left.read) == list(range(3)) and sorted(right.read) == list(range(70))
    rows, columns = np.indices(S.shape).reshape(2, -1)
    logits = row_by_row(model).predict_on_batch([left.images[rows], right.images[columns]])
    assert S.dtype == np.float32 and np.ptp(S) > 0.1
    np.testing.assert_allclose(S.ravel(), logits, atol=1e-5)


def test_images_of_another_size_are_resized_to_the_towers_input():
    model = build(tower="small", head="absolute", size=(16, 13), precision="float32")
    half = Pictures(2, 1)
    half.images = half.images.reshape(2, 16, 2, 13, 2, 3)[:, :, 0, :, 0].repeat(2, axis=1).repeat(2, axis=2)
    expected = model.get_layer("tower").predict_on_batch(half.images[:, ::2, ::2])
    np.testing.assert_allclose(training.encode(model, half), expected, atol=1e-5)


def test_learning_rate_rises_and_falls_to_zero():
    """100 steps, 5 of them warm-up; without any, the first step still has a rate to start from."""
    rate = training.warm_cosine(0.01, 100, warmup=5)
    assert [float(rate(step)) for step in (0, 5, 100)] == pytest.approx([0, 0.01, 0], abs=1e-8)
    assert float(training.warm_cosine(0.01, 1, warmup=0)(1)) == pytest.approx(0.01)


# --- fit ------------------------------------------------------------------------

EPOCHS = 3


def network(seed=0):
    """A tower of one convolution, batch norm and dropout, and AdamW on a schedule: all kinds of state."""
    set_seed(seed)
    layers = keras.layers
    tower = keras.Sequential(
        [
            keras.Input((*SIZE, 3), dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, 2, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.3),
        ],
        name="tower",
    )
    model = siamese_model(tower, HEADS["absolute"](name="head"))
    optimizer = keras.optimizers.AdamW(training.warm_cosine(0.01, 2 * EPOCHS, warmup=1))
    model.compile(optimizer, masked_binary_cross_entropy, metrics=[pair_accuracy])
    return model


def run(folder, model=None, *, settings=None, epochs=EPOCHS, n_validation=20, batches=InBatchNegatives):
    """The model and its history: 40 pairs in two batches an epoch; no augmentation, so that steps are quick."""
    train, validation = noise_pairs(40), noise_pairs(n_validation, seed=3)
    model = model or network()
    history = fit(
        model,
        batches(train, batch_size=20),
        folder=folder,
        epochs=epochs,
        train_sample=noise_pairs(20, seed=5),
        validation=validation,
        settings=settings or {"size": SIZE, "seed": 0},
        validation_data=InBatchNegatives(validation, batch_size=20, shuffle=False),
    )
    return model, history


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Folder, model and history of a whole run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, *run(folder)


def assert_same_run(undisturbed, model, history):
    """The losses after the interruption depend on weights, optimizer and dropout; the rest is of the best epoch."""
    _, whole, whole_history = undisturbed
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), whole_history.drop(columns="seconds"))
    state, expected = ([*each.weights, *each.optimizer.variables] for each in (model, whole))
    for a, b in zip(state, expected, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=b.path)


def test_fit_records_every_epoch_and_loads_the_best(undisturbed):
    folder, model, history = undisturbed
    assert list(history) == training.COLUMNS
    assert list(history.epoch) == [1, 2, 3] and history.loss.iloc[-1] < history.loss.iloc[0]
    validation = noise_pairs(20, seed=3)
    S = score_matrix(model, validation.left, validation.right)
    assert history.val_loss.nunique() == 3
    assert expected_topk(S, np.arange(20)) == pytest.approx(history.val_top2.max(), abs=1e-6)
    labels = InBatchNegatives(validation, batch_size=20, shuffle=False)
    loss, accuracy = model.evaluate(labels, verbose=0)
    best = history.loc[history.val_top2.idxmax()]
    assert (loss, accuracy) == pytest.approx((best.val_loss, best.val_pair_accuracy), abs=1e-6)
    names = {"settings.json", "history.csv", "best.weights.h5", "finished.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "settings.json").read_text(encoding="utf-8")) == {
        "size": [32, 26],
        "seed": 0,
        "epochs": 3,
    }


def test_losses_are_means_over_the_steps_of_the_epoch(tmp_path):
    """With a learning rate of 0 and without dropout the loss of both batches, in batch norm's training mode."""
    model = network()
    model.get_layer("tower").layers[-1].rate = 0.0
    model.optimizer = keras.optimizers.SGD(0.0)
    _, history = run(tmp_path, model, epochs=1)
    batches = InBatchNegatives(noise_pairs(40), batch_size=20)
    losses = [masked_binary_cross_entropy(labels, model(list(sides), training=True)) for sides, labels in batches]
    assert history.loss[0] == pytest.approx(np.mean(losses), abs=1e-5)


def test_finished_run_is_only_read(undisturbed):
    folder = undisturbed[0]
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

    class Never(InBatchNegatives):
        def __getitem__(self, index):
            raise AssertionError("a batch was asked for")

    model, history = run(folder, batches=Never)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    pd.testing.assert_frame_equal(history, undisturbed[2])
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), undisturbed[1].get_weights(), strict=True))


def test_too_few_validation_pairs_are_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="20 and 19 pairs to measure"):
        run(tmp_path, n_validation=19)
    assert not list(tmp_path.iterdir())


def interrupt(monkeypatch, owner, name, number):
    """The method raises KeyboardInterrupt, once, instead of its call with this number."""
    method, calls = getattr(owner, name), []

    def interrupted(*arguments, **options):
        calls.append(name)
        if len(calls) == number:
            raise KeyboardInterrupt
        return method(*arguments, **options)

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.parametrize(
    ("owner", "method", "number"),
    [
        (training.ExpectedTop2, "on_train_batch_end", 4),  # in the second epoch
        (keras.callbacks.CSVLogger, "on_epoch_end", 2),  # the best weights may be those of an epoch without a row
        (Backup, "on_epoch_end", 1),  # the history has a row, and there is no backup yet
        (Backup, "on_epoch_end", 2),  # the history has a row that the backup knows nothing of
        (Path, "replace", 1),  # the best weights are written, not yet in their place
        (Path, "replace", 2),  # the backup is written, not yet in its place
        (Backup, "on_epoch_end", 3),  # the last epoch: all that counts is written
    ],
)
def test_interrupted_run_ends_as_if_undisturbed(undisturbed, tmp_path, monkeypatch, owner, method, number):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, owner, method, number)
        run(tmp_path)
    assert_same_run(undisturbed, *run(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in undisturbed[0].iterdir()}


def test_a_kill_while_the_best_weights_are_written_costs_that_epoch_alone(tmp_path, monkeypatch, capsys):
    """Keras writes a file in place. Every epoch is better than the one before; the second one's weights stay half."""
    save = keras.Model.save_weights

    def rising(self, epoch, logs):
        logs |= {"top2": 0.1, "val_top2": 0.1 * (epoch + 1), "seconds": 0}

    def stopped(self, path, **options):
        if Path(path).name == training.BEST and (tmp_path / training.BEST).exists():
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt
        save(self, path, **options)

    monkeypatch.setattr(training.ExpectedTop2, "on_epoch_end", rising)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(keras.Model, "save_weights", stopped)
        run(tmp_path)
    _, history = run(tmp_path)
    assert list(history.epoch) == [1, 2, 3] and "begins anew" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["best.weights.h5", "history.csv"])
def test_one_flipped_bit_of_a_finished_training_is_noticed(name, undisturbed, tmp_path, capsys):
    """In the middle of the file it is a weight, or a digit of a number: nothing that a reader would stumble over."""
    folder = shutil.copytree(undisturbed[0], tmp_path / "run")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    assert_same_run(undisturbed, *run(folder))
    assert f"is damaged ({name} has changed): its training begins anew" in capsys.readouterr().err


def cut(file, n):
    file.write_bytes(file.read_bytes()[:n])


@pytest.mark.parametrize(
    ("is_finished", "name", "damage"),
    [
        (True, "history.csv", lambda file: cut(file, -9)),  # in the last row
        (True, "history.csv", lambda file: file.write_bytes(b"\x00\xff" * 50)),
        (True, "history.csv", lambda file: file.write_bytes(b"".join(file.read_bytes().splitlines(True)[::2]))),
        (True, "best.weights.h5", lambda file: cut(file, 3000)),
        (True, "best.weights.h5", lambda file: cut(file, 0)),
        (True, "best.weights.h5", Path.unlink),
        (False, "backup/latest.weights.h5", lambda file: cut(file, -3000)),
    ],
)
def test_a_training_with_a_damaged_file_is_made_again(undisturbed, tmp_path, monkeypatch, is_finished, name, damage):
    if is_finished:
        shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    else:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt(patch, Backup, "on_epoch_end", 3)
            run(tmp_path)
    damage(tmp_path / name)
    assert_same_run(undisturbed, *run(tmp_path))


def test_killed_process_ends_with_the_same_weights(undisturbed, tmp_path):
    """Killed by SIGKILL while it prepares the second batch of its second epoch."""
    program = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
import test_training

class Deadly(test_training.InBatchNegatives):
    def __getitem__(self, index):
        if (self.epoch, index) == (1, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)

test_training.run(sys.argv[1], batches=Deadly)
"""
    here = Path(__file__).resolve().parent
    arguments = [sys.executable, "-c", program, tmp_path, here, here.parent.parent]
    killed = subprocess.run(arguments, env=os.environ | {"TLL_PROGRESS": "0"}, capture_output=True, encoding="utf-8")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(pd.read_csv(tmp_path / "history.csv", encoding="utf-8")) == 1
    assert_same_run(undisturbed, *run(tmp_path))


# --- files ----------------------------------------------------------------------


def test_saved_models_load_once_the_package_is_imported(tmp_path):
    """A tower with our batch norm and every head, in a process that imports nothing else of ours."""
    rng, expected = np.random.default_rng(0), {}
    images = rng.integers(0, 256, (2, 3, *SIZE, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    for head in HEADS:
        model = build(tower="small", head=head, size=SIZE, precision="float32", activation="relu", width=8)
        model.save(tmp_path / f"{head}.keras")
        expected[head] = model(list(images))
    program = """
import sys
from pathlib import Path
import keras, numpy as np
import tll_utils.siamese

left, right = np.load("images.npy")
for path in Path().glob("*.keras"):
    np.save(path.stem, keras.saving.load_model(path)([left, right]))
"""
    root = Path(__file__).resolve().parent.parent.parent
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    for head, logits in expected.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{head}.npy"), logits, rtol=1e-5, atol=1e-5)
