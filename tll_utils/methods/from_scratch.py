"""Siamese networks trained from scratch as methods: the report's ResNet18 and VGG16, and ours with InfoNCE."""

import hashlib
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np

from tll_utils.data.dataset import N_CANDIDATES
from tll_utils.data.folds import Rows, holdout_split, near_duplicate_groups
from tll_utils.data.images import Images
from tll_utils.data.pairs import Pairs
from tll_utils.methods.base import Method
from tll_utils.runtime import build_dir, keras
from tll_utils.siamese import training
from tll_utils.siamese.batches import InBatchNegatives, cached
from tll_utils.siamese.losses import info_nce, masked_binary_cross_entropy, pair_accuracy

VERSION = 1  # raise it when a change of the code changes what is learned: finished trainings are only read
VALIDATION = 0.1  # of the training pairs: whatever chooses the epoch cannot be what is reported


@dataclass(eq=False, repr=False)
class SiameseNetwork(Method):
    """A network of two equal towers and a head, trained from scratch on in-batch negatives.

    A tenth of the training pairs (of a small data set more, since expected top-2 needs 20 pairs) is set apart and
    chooses the epoch. Checkpoints lie in a folder of their own under `build/trainings`: an interrupted fit goes on
    there, a finished one is only read. `history_` has the columns of `siamese.training.fit`.
    """

    tower: str = "resnet18"  # or vgg16; small and small_vgg for the drawn sample
    head: str = "absolute"  # key of siamese.heads.HEADS; scaled_cosine also changes loss and learning-rate schedule
    _: KW_ONLY
    pooling: str = "average"  # over the whole feature map, or 2x2: windows of 2×2, flattened
    width: int = 0  # units of a dense layer behind the pooling; 0: no such layer
    activation: str = "linear"  # of that layer
    learning_rate: float = 0.001
    augmented: bool = False  # pairs flipped, cropped and coloured anew in every epoch; scores average mirrored views
    size: tuple[int, int] = (123, 100)  # height and width of the input
    epochs: int = 10
    batch_size: int = 32
    seed: int = 0

    def fit(self, train: Pairs) -> Self:
        rows, validation_rows = validation_split(train)
        seen = np.random.default_rng(self.seed).permutation(rows)[: len(validation_rows)]
        learn, sample, validation = (cached(train.take(part), self.size) for part in (rows, seen, validation_rows))
        n_foils = self.batch_size - 1 if self.head == "scaled_cosine" else N_CANDIDATES - 1
        options: Any = {"batch_size": self.batch_size, "n_foils": n_foils, "seed": self.seed}
        batches = InBatchNegatives(learn, augmented=self.augmented, **options)
        self.model_ = self.build()
        self._compile(self.model_, self.epochs * len(batches))
        facts = {"precision": training.automatic_precision(), "data": train.key, "version": VERSION}
        settings = self.get_params() | facts
        digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:12]
        folder = build_dir() / "trainings" / f"{self.tower}_{self.head}_{digest}"
        self.history_ = training.fit(
            self.model_, batches, folder=folder, epochs=self.epochs, settings=settings, train_sample=sample,
            validation=validation, validation_data=InBatchNegatives(validation, shuffle=False, **options),
        )  # fmt: skip
        if self.head == "scaled_cosine":  # its logits are no log-odds, so its pair accuracies say nothing
            self.history_ = self.history_.assign(pair_accuracy=np.nan, val_pair_accuracy=np.nan)
        return self

    def scores(self, left: Images, right: Images) -> np.ndarray:
        S = training.score_matrix(self.model_, left, right)
        if self.augmented:
            S = (S + training.score_matrix(self.model_, left.mirrored(), right.mirrored())) / 2
        return S

    def build(self) -> keras.Model:
        """The network with random weights: (left, right) uint8 (b, *size, 3) → logits (b, b)."""
        names = ("tower", "head", "pooling", "width", "activation", "size", "seed")
        return training.build(**{name: getattr(self, name) for name in names})

    def _compile(self, model: keras.Model, n_steps: int) -> None:
        """The report's Adam; for InfoNCE AdamW on a cosine schedule (Loshchilov and Hutter 2017) with 5 % warm-up."""
        if self.head == "scaled_cosine":
            schedule = training.warm_cosine(self.learning_rate, n_steps, warmup=n_steps // 20)
            model.compile(keras.optimizers.AdamW(schedule, weight_decay=0.05), info_nce)
        else:
            optimizer = keras.optimizers.Adam(self.learning_rate)
            model.compile(optimizer, masked_binary_cross_entropy, metrics=[pair_accuracy])


@lru_cache(maxsize=16)  # networks that are compared are trained on the same pairs
def validation_split(train: Pairs) -> Rows:
    """Rows learned from and rows that choose the epoch, near-duplicates (of the raw images) on one side.

    Raises ValueError with too few pairs for 20 of each.
    """
    if len(train) < 2 * N_CANDIDATES + 2:
        raise ValueError(f"{len(train)} training pairs: expected top-2 needs {N_CANDIDATES} twice, and a few more")
    groups = near_duplicate_groups(train.left.raw, train.right.raw)
    return holdout_split(groups, test_fraction=max(VALIDATION, 1.2 * N_CANDIDATES / len(train)))
