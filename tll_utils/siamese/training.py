"""Siamese networks: built, scored with each image encoded once, and trained by Keras's own `fit`, which can be killed.

    left image  ──► tower ──► embedding a ─┐
                      │ same weights       ├─► head ──► logit: > 0 means "a look-alike pair"
    right image ──► tower ──► embedding b ─┘

The report encodes both images of every pair. Here B pairs are encoded once (2B images) and the head compares every left
with every right, (B, B): the same labels and the same loss for a twentieth of the work.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from tll_utils import runtime
from tll_utils.data.pairs import Pairs
from tll_utils.evaluation.metrics import expected_topk
from tll_utils.runtime import has_bfloat16, keras, prefetch, set_seed, sha256_of, write_text
from tll_utils.siamese.batches import EpochBatches, resized
from tll_utils.siamese.heads import HEADS, score_blocks
from tll_utils.siamese.towers import build_tower

callbacks, ops = keras.callbacks, keras.ops

ENCODE_BATCH = 64
BEST = "best.weights.h5"
COLUMNS = ["epoch", "loss", "pair_accuracy", "top2", "val_loss", "val_pair_accuracy", "val_top2", "seconds"]


def automatic_precision() -> str:
    """Keras dtype policy: "mixed_bfloat16" where the machine computes in it, else "float32"."""
    return "mixed_bfloat16" if has_bfloat16() else "float32"


def build(*, tower: str, head: str, precision: str | None = None, seed: int = 0, **options) -> keras.Model:
    """Random `siamese_model` of a tower of TOWERS and a head of HEADS.

    precision: the tower's dtype policy, without one `automatic_precision()`; options: those of `build_tower`.
    """
    set_seed(seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision or automatic_precision())
    try:
        body = build_tower(tower, **options)
    finally:
        keras.config.set_dtype_policy(before)
    return siamese_model(body, HEADS[head](name="head", dtype="float32"))


def siamese_model(tower: keras.Model, head: keras.layers.Layer) -> keras.Model:
    """(left (b, …), right (b, …)) → logits (b, b); one batch for both sides: batch norm's statistics hold for both."""
    image = tower.inputs[0]
    left, right = (keras.Input(image.shape[1:], dtype=image.dtype, name=side) for side in ("left", "right"))
    a, b = ops.split(tower(ops.concatenate([left, right], axis=0)), 2)
    return keras.Model([left, right], head(a, b))


def layer_table(model: keras.Model) -> pd.DataFrame:
    """Layer, output shape and number of parameters of a model's layers, as `Model.summary` prints them."""
    shapes = ["×".join("batch" if n is None else str(n) for n in layer.output.shape) for layer in model.layers]
    rows = [(layer.name, shape, layer.count_params()) for layer, shape in zip(model.layers, shapes, strict=True)]
    return pd.DataFrame(rows, columns=["layer", "output shape", "parameters"])


def encode(model: keras.Model, images: Sequence[np.ndarray]) -> np.ndarray:
    """The tower's embeddings of the images, resized to its input where need be, (n, d) float32."""
    tower = model.get_layer("tower")
    size = tower.input_shape[1:3]

    def load(start: int) -> np.ndarray:
        return np.stack([resized(images[i], size) for i in range(start, min(start + ENCODE_BATCH, len(images)))])

    batches = prefetch(load, range(0, len(images), ENCODE_BATCH))
    return np.concatenate([np.asarray(tower.predict_on_batch(batch), np.float32) for batch in batches])


def score_matrix(model: keras.Model, left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> np.ndarray:
    """Logits of every left with every right image, S (n_left, n_right) float32; each image is encoded once."""
    return score_blocks(model.get_layer("head"), encode(model, left), encode(model, right))


def warm_cosine(learning_rate: float, n_steps: int, *, warmup: int) -> keras.optimizers.schedules.CosineDecay:
    """Schedule that rises in `warmup` steps to the learning rate and falls to 0 as a cosine until step n_steps."""
    decay, warmup = keras.optimizers.schedules.CosineDecay, max(1, warmup)
    return decay(0.0, max(1, n_steps - warmup), warmup_target=learning_rate, warmup_steps=warmup)


def fit(
    model: keras.Model, batches: EpochBatches, *, folder: Path, epochs: int, train_sample: Pairs, validation: Pairs,
    settings: dict, validation_data: EpochBatches | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Train a model just built and compiled, load the weights of its best epoch, and return the history.

    Called again after a kill, it goes on at the interrupted epoch and ends with the weights of an undisturbed run, if
    the backend repeats itself exactly (processors do). Once finished, it only reads. `folder` gets settings.json,
    history.csv, best.weights.h5 and backup. It must be another one where anything that decides the result is another.
    Raises ValueError with fewer than 20 pairs in train_sample or validation. A row of the history is an epoch, from 1:
    loss and pair_accuracy, means over its steps; expected top-2 of train_sample (top2) and of validation (val_top2,
    whose maximum is the best epoch); val_loss and val_pair_accuracy of validation_data; seconds of the training steps.
    """
    folder = Path(folder)
    if min(len(train_sample), len(validation)) < 20:
        raise ValueError(f"{len(train_sample)} and {len(validation)} pairs to measure: expected top-2 needs 20 of each")
    model.optimizer.build(model.trainable_variables)  # before a file with its state is loaded
    with runtime.locked(folder):
        if not (facts := folder / "settings.json").exists():
            write_text(facts, json.dumps(settings | {"epochs": epochs}, indent=2))
        _check_files(folder)
        if len(history := _history(folder)) < epochs:
            watchers = _watchers(folder, batches, history, train_sample, validation)
            verbose = 2 * (os.environ.get("TLL_PROGRESS") != "0")  # a line per epoch
            options = {"validation_data": validation_data, "callbacks": watchers, "shuffle": False, "verbose": verbose}
            model.fit(batches, epochs=epochs, **options)
        shutil.rmtree(folder / "backup", ignore_errors=True)  # Keras does so too, but not after a kill at the very end
        if not (finished := folder / "finished.json").exists():
            write_text(finished, json.dumps({name: sha256_of(folder / name) for name in ("history.csv", BEST)}))
        model.load_weights(folder / BEST)
        return _history(folder)


def _watchers(folder: Path, batches: EpochBatches, history: pd.DataFrame, *samples: Pairs) -> list:
    options = {"save_best_only": True, "save_weights_only": True, "mode": "max"}
    known_best = history.val_top2.max() if len(history) else None
    new = folder / "backup" / BEST  # Keras writes in place; what a killed run left is not moved
    new.unlink(missing_ok=True)
    return [
        ExpectedTop2(*samples),
        callbacks.ModelCheckpoint(new, "val_top2", initial_value_threshold=known_best, **options),
        callbacks.LambdaCallback(on_epoch_end=lambda *_: new.exists() and new.replace(folder / BEST)),
        callbacks.CSVLogger(folder / "history.csv", append=True),
        Backup(folder / "backup", batches),  # after the others: what it calls finished, they have written
    ]


class ExpectedTop2(callbacks.Callback):
    """Adds top2, val_top2 and seconds to the logs that later callbacks read."""

    def __init__(self, train_sample: Pairs, validation: Pairs):
        super().__init__()
        self.samples = {"top2": train_sample, "val_top2": validation}

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds = round(time.perf_counter() - self.began, 2)

    def on_epoch_end(self, epoch, logs):
        for name, pairs in self.samples.items():
            logs[name] = expected_topk(score_matrix(self.model, pairs.left, pairs.right), np.arange(len(pairs)))
        logs["seconds"] = self.seconds


class Backup(callbacks.BackupAndRestore):
    """Keras's backup of weights and optimizer after every epoch, safe against a kill at any moment.

    Keras writes the weights and the number of the epoch into two files, in place, and leaves out the seeds of dropout.
    Here one file is replaced when complete; the optimizer's steps say which epoch is next, and the epoch decides the
    order of the batches and the seeds.
    """

    def __init__(self, folder: Path, batches: EpochBatches):
        super().__init__(str(folder))
        self.batches = batches

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.model._initial_epoch = int(self.model.optimizer.iterations) // self.params["steps"]

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.epoch = epoch
        for state in (each for each in self.model.variables if each.name == "seed_generator_state"):
            state.assign([ops.convert_to_numpy(state)[0], epoch << 16])

    def on_epoch_end(self, epoch, logs=None):
        Path(self.backup_dir).mkdir(exist_ok=True)
        partial = Path(self.backup_dir, "partial.weights.h5")
        self.model.save_weights(partial)
        partial.replace(partial.with_name("latest.weights.h5"))  # which BackupAndRestore loads


def _check_files(folder: Path) -> None:
    """Remove a half-written row of the history or, where a file is damaged, all of them: the training begins anew."""
    names = ("history.csv", BEST, "backup/latest.weights.h5", "finished.json")
    history, best, backup, finished = files = [folder / name for name in names]
    try:
        text = history.read_text(encoding="utf-8") if history.exists() else ""
        if row := text.rpartition("\n")[2]:
            write_text(history, text.removesuffix(row))  # its epoch is repeated
        epochs = list(_history(folder).get("epoch", []))
        if epochs != list(range(1, len(epochs) + 1)):
            raise ValueError("history.csv lacks an epoch")
        for name, digest in (runtime.read_json(finished) if finished.exists() else {}).items():
            if sha256_of(folder / name) != digest:
                raise ValueError(f"{name} has changed")
        for path in [best] * bool(epochs) + [backup] * backup.exists():
            parts: list[str] = []
            with h5py.File(path) as file:
                file.visit(parts.append)
                [np.asarray(item) for item in map(file.get, parts) if isinstance(item, h5py.Dataset)]  # reads all
    except runtime.DAMAGED as error:
        print(f"{folder} is damaged ({error}): its training begins anew", file=sys.stderr)
        for path in files:
            path.unlink(missing_ok=True)


def _history(folder: Path) -> pd.DataFrame:
    """What CSVLogger wrote; of an epoch repeated after a kill the last row."""
    path = folder / "history.csv"
    if not path.exists() or not path.stat().st_size:
        return pd.DataFrame()
    table = pd.read_csv(path, encoding="utf-8").drop_duplicates("epoch", keep="last", ignore_index=True)
    return table.assign(epoch=table.epoch + 1).filter(COLUMNS)
