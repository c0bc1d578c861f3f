"""Every extractor by name, and features: images → embeddings, as values that can be printed, compared and saved."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from tll_utils.data.images import Images, find_borders
from tll_utils.features import descriptors, faces
from tll_utils.features.backbones import backbone
from tll_utils.features.embedding import Extractor, embed
from tll_utils.similarity import intra_normalise

# KerasHub presets whose weights have to be downloaded (`features.presets`), and the layers that are read of them.
TRANSFORMERS = ("clip_vit_base_patch16", "dinov2_small", "siglip_base_patch16_224")
PRESETS = {"resnet_18_imagenet": ("last_fifth", "last_pool"), "resnet_50_imagenet": ("last_pool",)}
PRESETS |= {"vgg_16_imagenet": ("last_pool",), **dict.fromkeys(TRANSFORMERS, ("stage12",))}


def _of(network: str, layers: Sequence[str], pools: Sequence[str]) -> Extractor:
    return backbone(network).extractor(layers, pools)


_MAKERS = {
    # Widths of the four letterbox borders in pixels, (n, 4): a shortcut, no content.
    "border_geometry": partial(descriptors.descriptor, "border geometry @1", find_borders),
    "file_size": descriptors.file_size,
    "lab_histogram": partial(descriptors.descriptor, "CIELAB histogram @1", descriptors.lab_histogram),
    "tiny_image": partial(descriptors.descriptor, "tiny image @1", descriptors.tiny_image),
    "hog": partial(descriptors.descriptor, "HOG @1", descriptors.hog_descriptor),
    "lbp_histogram": partial(descriptors.descriptor, "LBP @1", descriptors.lbp_histogram),
    "faces": faces.face_extractor,
    "face_landmarks": faces.landmark_extractor,
    "whole_image_face": faces.whole_image_extractor,
    **{f"lite{v}_head": partial(_of, f"efficientnet_lite{v}", ["head"], ["grid3x2", "average", "max"]) for v in "012"},
    # The last maps before the third and the fourth halving behind which content is learned, in one pass.
    **{f"lite{v}_grids": partial(_of, f"efficientnet_lite{v}", ["stage5", "head"], ["grid4x3"]) for v in "012"},
    **{name: partial(_of, name, layers, ["average", "grid4x3"]) for name, layers in PRESETS.items()},
}
EXTRACTORS = {name: cache(maker) for name, maker in _MAKERS.items()}


@dataclass(frozen=True)
class Features:
    """Images → embeddings (n, d) float32; a row is NaN where the image has no such feature, such as a face.

    extractor  a name in EXTRACTORS
    output     one of its outputs; a descriptor's only one is "embedding"
    cells      power and intra-normalisation in so many cells (`similarity.intra_normalise`); 0: raw

    Raises ValueError naming what is known for an unknown extractor or output.
    """

    extractor: str
    output: str = "embedding"
    cells: int = 0

    def __post_init__(self):
        if self.extractor not in EXTRACTORS:
            raise ValueError(f"extractor {self.extractor!r} is not known; use one of {', '.join(EXTRACTORS)}")

    def __call__(self, images: Images) -> np.ndarray:
        outputs = embed(images, EXTRACTORS[self.extractor]())
        if self.output not in outputs:
            raise ValueError(f"{self.extractor} has no output {self.output!r}; known: {', '.join(outputs)}")
        embeddings = outputs[self.output]
        return intra_normalise(embeddings, n_cells=self.cells) if self.cells else embeddings


def is_present(features: np.ndarray) -> np.ndarray:
    """Which rows of (n, d) have the feature, (n,) bool: those that are not NaN."""
    return ~np.isnan(features[:, 0])
