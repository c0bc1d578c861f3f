"""Fine-tuning: the late layers of a pretrained network are trained on pairs, the early ones stay frozen.

    images ──► frozen layers ──► maps, cached ──► trained layers ──► new last layer ──► cosine ──► S

The frozen layers see every image once, and once mirrored, so an epoch costs a fraction of one through the whole
network. Batch norm keeps its pretrained statistics: those of a few hundred images would be worse.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Self

import numpy as np

from tll_utils.data.images import Images
from tll_utils.data.pairs import Pairs
from tll_utils.features.backbones import backbone, pooled
from tll_utils.features.embedding import embed
from tll_utils.methods.base import Method
from tll_utils.runtime import keras, set_seed
from tll_utils.siamese.batches import FeatureBatches
from tll_utils.siamese.heads import ScaledCosine
from tll_utils.siamese.losses import info_nce
from tll_utils.siamese.training import siamese_model, warm_cosine

ENCODE_BATCH = 64


@dataclass(eq=False, repr=False)
class FineTuned(Method):
    """Mean cosine of both views after fine-tuning on the training pairs with InfoNCE."""

    backbone: str  # a name for `features.backbones.backbone`
    _: KW_ONLY
    frozen_to: str | None = None  # layer up to which the network stays frozen; None: all of it is trained
    pool: str = "grid3x2"  # how the last map is read
    width: int = 512  # units of the new layer behind it
    dropout: float = 0.2
    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 1.5e-4  # of the pretrained layers, on a cosine schedule after half an epoch of warm-up
    new_layer_rate: float = 1.0  # how many times faster the new layer learns
    weight_decay: float = 0.01
    seed: int = 0

    def fit(self, train: Pairs) -> Self:
        """Raises ValueError with fewer than two pairs: a left needs foils to be told from.

        `loss_` holds the training loss of every epoch.
        """
        if len(train) < 2:
            raise ValueError(f"{len(train)} training pair: fine-tuning needs at least two, each the other's foil")
        left, right = self.frozen_maps(train.left), self.frozen_maps(train.right)
        set_seed(self.seed)  # not before the frozen network is in memory: to load it draws random weights first
        self.encoder_ = self.build_encoder()
        batch_size = min(self.batch_size, len(train))
        batches = FeatureBatches(left, right, batch_size=batch_size, seed=self.seed)
        learner = siamese_model(self.encoder_, ScaledCosine(name="compare"))
        n_steps = len(batches)
        schedule = warm_cosine(self.learning_rate, self.epochs * n_steps, warmup=n_steps // 2)
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=self.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["log_scale", "bias"])
        learner.compile(optimizer, info_nce)
        self.loss_ = learner.fit(batches, epochs=self.epochs, shuffle=False, verbose=0).history["loss"]
        return self

    def scores(self, left: Images, right: Images) -> np.ndarray:
        views = zip(self.frozen_maps(left), self.frozen_maps(right), strict=True)
        return np.mean([self._embed(a) @ self._embed(b).T for a, b in views], axis=0)

    def frozen_maps(self, images: Images) -> list[np.ndarray]:
        """What the trained layers see of the images and of their mirrored view: two arrays (n, h, w, c).

        Without `frozen_to` the images themselves, resized to what the network takes.
        """
        network, views = backbone(self.backbone), (images, images.mirrored())
        if self.frozen_to is None:
            load = network.extractor().load
            return [np.stack([load(view, row) for row in range(len(view))]) for view in views]
        extractor, shape = network.extractor([self.frozen_to], ["map"]), network.map_shape(self.frozen_to)
        return [embed(view, extractor)[f"{self.frozen_to}_map"].reshape(-1, *shape) for view in views]

    def build_encoder(self) -> keras.Model:
        """Model from `frozen_maps` (n, h, w, c) to embeddings (n, width) of length one, only the last layer new.

        With embeddings of length one, and an optimizer that does not look at the size of gradients, a kernel that
        starts k times smaller learns k times faster: that is how `new_layer_rate` comes about.
        """
        network = backbone(self.backbone)
        part = network.trainable_part(self.frozen_to)
        for layer in _batch_norms(part):
            layer.trainable = False
        shape = network.map_shape(self.frozen_to) if self.frozen_to is not None else (*network.size, 3)  # of the images
        maps = keras.Input(shape, name="maps")
        x = keras.layers.Dropout(self.dropout)(pooled(part(maps), self.pool))
        start = keras.initializers.VarianceScaling(1 / self.new_layer_rate**2, "fan_avg", "uniform")
        x = keras.layers.Dense(self.width, use_bias=False, kernel_initializer=start, name="new_last")(x)
        return keras.Model(maps, keras.layers.UnitNormalization()(x), name="encoder")

    def _embed(self, maps: np.ndarray) -> np.ndarray:
        batches = (maps[start : start + ENCODE_BATCH] for start in range(0, len(maps), ENCODE_BATCH))
        outputs = [self.encoder_.predict_on_batch(batch.astype(np.float32)) for batch in batches]
        return np.concatenate([np.asarray(output) for output in outputs])


def _batch_norms(model: keras.Model) -> list[keras.layers.Layer]:
    nested = [_batch_norms(layer) for layer in model.layers if isinstance(layer, keras.Model)]
    own = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return sum(nested, own)
