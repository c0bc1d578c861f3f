"""Recorded trainings of the Siamese networks: the report's 80/20 split, its epochs, its figures 4 and 5."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from tll_utils import siamese
from tll_utils.backend import keras
from tll_utils.dataset import N_CANDIDATES, Dataset, Pairs
from tll_utils.evaluation import per_left as per_left_table
from tll_utils.folds import grouped_folds, holdout_split, near_duplicate_groups
from tll_utils.images import HEIGHT, WIDTH
from tll_utils.results import method_row, record
from tll_utils.runtime import project_root
from tll_utils.siamese import automatic_precision

SPLIT = "80/20, near-duplicates grouped"
VALIDATION = 0.1  # of the training part: whatever chooses the epoch cannot be what is reported


@dataclass(frozen=True)
class Training:
    """A variant of `siamese.VARIANTS` and the options of `siamese.fit` it is recorded with."""

    variant: str
    size: tuple[int, int]
    epochs: int = 10
    batch_size: int = 32
    border_neutral: bool = False
    n_folds: int = 0  # cross-validated; 0 is the report's 80/20

    @property
    def title(self) -> str:
        """Name in tables and results."""
        folds = f", {self.n_folds} folds" * bool(self.n_folds)
        full_size = ", 245×200" * (self.size == (HEIGHT, WIDTH))
        without_borders = ", trained without borders" * self.border_neutral
        return siamese.VARIANTS[self.variant].title + without_borders + full_size + folds

    @property
    def mirrored(self) -> bool:
        """Whether scores are the mean of the images and their mirror images: where training flips pairs as well."""
        return siamese.VARIANTS[self.variant].augmented

    @property
    def notes(self) -> str:
        """How it was trained, for the results."""
        height, width = self.size
        trained = f"input {height}×{width}, {self.epochs} epochs, batch {self.batch_size}, {automatic_precision()}"
        return trained + ", mirrored views averaged" * self.mirrored


class Split(NamedTuple):
    """Rows of the pairs: learned from, choosing the epoch, and reported on."""

    train: np.ndarray
    validation: np.ndarray
    held_out: np.ndarray


class Trained(NamedTuple):
    """A network of `siamese.fit`, its history, and the rows of the pairs it never saw."""

    model: keras.Model
    history: pd.DataFrame
    held_out: np.ndarray


# Reduced inputs, because two processor cores train the report's 245×200 for hours.
HALF, QUARTER = (123, 100), (64, 52)
TRAININGS: dict[str, tuple[Training, ...]] = {
    "siamese_resnet18": (
        Training("resnet18_difference", HALF),
        Training("resnet18_absolute", HALF),
        Training("resnet18_absolute_2x2", HALF),
    ),
    "siamese_infonce": (Training("resnet18_infonce", HALF, epochs=60, batch_size=64),),
    "siamese_infonce_border_neutral": (
        Training("resnet18_infonce", HALF, epochs=60, batch_size=64, border_neutral=True),
    ),
    # One held-out fifth of 322 lefts cannot order two networks two hundredths apart.
    "siamese_pooling": (
        Training("resnet18_absolute", HALF, n_folds=5),
        Training("resnet18_absolute_2x2", HALF, n_folds=5),
    ),
    # 2×2 pooling leaves 4×3 places of the report's input, 2×2 of one half its height and width.
    "siamese_pooling_full_size": (
        Training("resnet18_absolute", (HEIGHT, WIDTH), n_folds=3),
        Training("resnet18_absolute_2x2", (HEIGHT, WIDTH), n_folds=3),
    ),
    # Without augmentation both have learned their pairs by heart within ten epochs.
    "siamese_pooling_augmented": (
        Training("resnet18_absolute_augmented", HALF, epochs=20, n_folds=3),
        Training("resnet18_absolute_2x2_augmented", HALF, epochs=20, n_folds=3),
    ),
    "siamese_vgg16": (
        Training("vgg16_relu_cosine", QUARTER),
        Training("vgg16_relu_cosine_lr005", QUARTER),
        Training("vgg16_sigmoid_absolute", QUARTER),
    ),
    "siamese_vgg16_rates": (
        Training("vgg16_sigmoid_absolute_lr0001", QUARTER),
        Training("vgg16_relu_absolute_lr005", QUARTER),
    ),
}


def checkpoints() -> Path:
    """`build/trainings` of the checkout: a folder a training."""
    return project_root() / "build" / "trainings"


def report_split(pairs: Pairs) -> Split:
    """The report's 80/20, near-duplicates on one side; a tenth of the 80 % is set apart to choose the epoch.

    Of a small data set it is more than a tenth, since expected top-2 needs 20 pairs.
    """
    groups = near_duplicate_groups(pairs.left, pairs.right)
    return _apart(groups, *holdout_split(groups))


def splits(training: Training, groups: np.ndarray) -> list[Split]:
    """The report's split, or one for each fold of a training that is cross-validated.

    groups (n,): near-duplicates, as for `folds.grouped_folds`.
    """
    divided = grouped_folds(groups, training.n_folds) if training.n_folds else [holdout_split(groups)]
    return [_apart(groups, *rows) for rows in divided]


def _apart(groups: np.ndarray, rows: np.ndarray, held_out: np.ndarray) -> Split:
    """The training rows divided into those learned from and those that choose the epoch."""
    learn, validation = holdout_split(groups[rows], test_fraction=max(VALIDATION, 1.2 * N_CANDIDATES / len(rows)))
    return Split(rows[learn], rows[validation], held_out)


def record_trainings(experiment: str, dataset: Dataset) -> None:
    """Train, score on the held-out pairs and record in `data/results/`, after every training anew.

    Checkpoints lie in `checkpoints()`: an interrupted recording goes on where it stopped.
    """
    groups = near_duplicate_groups(dataset.train.left, dataset.train.right)
    rows, per_left, histories = [], {}, {}
    for training in TRAININGS[experiment]:
        trained = []
        for fold, split in enumerate(splits(training, groups)):
            folder = checkpoints() / training.title / (f"fold {fold}" * bool(training.n_folds))
            model, history = train(training, dataset.train, split, folder=folder)
            trained.append(Trained(model, history.assign(fold=fold), split.held_out))
        histories[training.title] = pd.concat([run.history for run in trained])
        for row, table in score(training, trained, dataset.train):
            rows.append(row)
            per_left[row["name"]] = table
            print(f"{row['expected_top2']:.3f} {row['interval95']} {row['name']}, {row['seconds']:.0f} s", flush=True)
        record(experiment, dataset, rows, per_left, histories=histories)


def train(training: Training, pairs: Pairs, split: Split, *, folder: Path) -> tuple[keras.Model, pd.DataFrame]:
    """What `siamese.fit` returns for the training and validation rows of the split.

    Of InfoNCE the pair accuracies are NaN: its logits are no log-odds.
    """
    variant = siamese.VARIANTS[training.variant]
    model, history = siamese.fit(
        variant,
        pairs.take(split.train),
        pairs.take(split.validation),
        folder=folder,
        epochs=training.epochs,
        size=training.size,
        batch_size=training.batch_size,
        border_neutral=training.border_neutral,
    )
    if variant.head == "infonce":
        history = history.assign(pair_accuracy=np.nan, val_pair_accuracy=np.nan)
    return model, history


def score(training: Training, trained: list[Trained], pairs: Pairs) -> list[tuple[dict, pd.DataFrame]]:
    """(row of results.METHOD_FIELDS, per-left table) on the held-out pairs, as they are and with borders cropped.

    A network trained without borders is scored without them alone.
    """
    best = ", ".join(str(history.epoch[history.val_top2.idxmax()]) for _, history, _ in trained)
    split = f"{training.n_folds} folds, near-duplicates grouped" if training.n_folds else SPLIT
    scored = []
    for cropped in (True,) if training.border_neutral else (False, True):
        started = time.perf_counter()
        tables = [
            held_out_table(model, pairs, held_out, border_neutral=cropped, mirrored=training.mirrored).assign(fold=fold)
            for fold, (model, _, held_out) in enumerate(trained)
        ]
        table = pd.concat(tables).sort_index()
        row = method_row(
            training.title + (", scored with borders cropped" if cropped and not training.border_neutral else ""),
            table,
            split=split,
            seconds=sum(run.history.seconds.sum() for run in trained) + time.perf_counter() - started,
            notes=f"{training.notes}; best epoch {best} by validation top-2",
            border_neutral=cropped,
            report_top2=None if cropped or training.n_folds else siamese.VARIANTS[training.variant].report_top2,
        )
        scored.append((row, table))
    return scored


def held_out_table(
    model: keras.Model, pairs: Pairs, rows: np.ndarray, *, border_neutral: bool = False, mirrored: bool = False
) -> pd.DataFrame:
    """Table like `evaluation.cross_validate`'s of these rows of the pairs, the network's gallery their rights.

    mirrored: scores are the mean of those of the images and of their mirror images.
    """
    size = model.get_layer("tower").input_shape[1:3]
    held_out = siamese.prepare(pairs.take(rows), size, border_neutral=border_neutral)
    S = siamese.score_matrix(model, held_out.left, held_out.right)
    if mirrored:
        left, right = ([image[:, ::-1] for image in side] for side in (held_out.left, held_out.right))
        S = (S + siamese.score_matrix(model, left, right)) / 2
    table = per_left_table(S, np.arange(len(rows)))
    table.insert(0, "fold", 0)
    return table.set_index(rows)
