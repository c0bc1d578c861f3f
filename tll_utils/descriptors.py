"""Descriptors that need no network: the shortcuts (borders, file size) and the classics (colour, tiny image, HOG)."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from skimage.feature import hog, local_binary_pattern

from tll_utils.dataset import Images
from tll_utils.embedding import Extractor
from tll_utils.images import crop_borders, find_borders


def _descriptor(name: str, describe: Callable[[Images, int], np.ndarray]) -> Extractor:
    """An extractor that works image by image and has one output, named "embedding"."""

    def load(images: Images, row: int) -> np.ndarray:
        return np.asarray(describe(images, row), np.float32).ravel()

    return Extractor(name, load, lambda batch: {"embedding": batch})


def border_geometry() -> Extractor:
    """Widths of the four letterbox borders in pixels, (n, 4): a shortcut, no content."""
    return _descriptor("border geometry @1", lambda images, row: find_borders(images[row]))


def file_size() -> Extractor:
    """Logarithm of the JPEG's size in bytes, (n, 1): a shortcut, no content."""
    return _descriptor("file size @1", lambda images, row: np.log(len(images.read_bytes(row))))


def lab_histogram() -> Extractor:
    """Square root of the share of pixels in each of 8×8×8 CIELAB bins, (n, 512).

    The square root makes the cosine the Bhattacharyya coefficient of two histograms. a and b are clipped to
    ±50, where nearly all pixels lie, so that the bins are not spent on colours no photo has.
    """
    neutral = 128  # OpenCV's 8-bit CIELAB stores a + 128 and b + 128

    def describe(images: Images, row: int) -> np.ndarray:
        lab = cv2.cvtColor(images[row], cv2.COLOR_RGB2LAB)
        lab[..., 1:] = lab[..., 1:].clip(neutral - 50, neutral + 49)
        counts = cv2.calcHist([lab], [0, 1, 2], None, [8, 8, 8], [0, 256, *[neutral - 50, neutral + 50] * 2])
        return np.sqrt(counts / counts.sum())

    return _descriptor("CIELAB histogram @1", describe)


def tiny_image() -> Extractor:
    """The image shrunk to 16×20 pixels in CIELAB, (n, 960) (Torralba, Fergus and Freeman 2008)."""

    def describe(images: Images, row: int) -> np.ndarray:
        small = cv2.resize(images[row], (16, 20), interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(np.float32(small) / 255, cv2.COLOR_RGB2LAB)

    return _descriptor("tiny image @1", describe)


def hog_descriptor() -> Extractor:
    """Oriented gradients of the 96×120 image, 12×12-pixel cells, 9 orientations (Dalal and Triggs 2005), (n, 2268)."""

    def describe(images: Images, row: int) -> np.ndarray:
        small = cv2.resize(images[row], (96, 120), interpolation=cv2.INTER_AREA)
        gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        return hog(gray, orientations=9, pixels_per_cell=(12, 12), cells_per_block=(2, 2), transform_sqrt=True)

    return _descriptor("HOG @1", describe)


def lbp_histogram() -> Extractor:
    """Square root of the shares of 10 uniform local binary patterns in 4×5 cells of the image, (n, 200).

    8 neighbours at distance 1, patterns that differ by a turn counted as one (Ojala, Pietikäinen and Mäenpää
    2002): what fine texture there is, and where.
    """

    def describe(images: Images, row: int) -> np.ndarray:
        gray = cv2.cvtColor(images[row], cv2.COLOR_RGB2GRAY)
        codes = local_binary_pattern(gray, P=8, R=1, method="uniform").astype(int)
        cells = [cell for band in np.array_split(codes, 5) for cell in np.array_split(band, 4, axis=1)]
        return np.sqrt([np.bincount(cell.ravel(), minlength=10) / cell.size for cell in cells])

    return _descriptor("LBP @1", describe)


def border_neutral(extractor: Extractor) -> Extractor:
    """The same descriptor of the images without their borders, content stretched back (`images.crop_borders`)."""

    class Cropped:
        def __init__(self, images: Images):
            self.images = images

        def __getitem__(self, row: int) -> np.ndarray:
            return crop_borders(self.images[row])

    return replace(
        extractor,
        name=f"{extractor.name} border-neutral",
        load=lambda images, row: extractor.load(Cropped(images), row),
    )


def mirrored(extractor: Extractor) -> Extractor:
    """The same of the images seen in a mirror."""

    class Mirrored:
        def __init__(self, images: Images):
            self.images = images

        def __getitem__(self, row: int) -> np.ndarray:
            return np.ascontiguousarray(self.images[row][:, ::-1])

    return replace(
        extractor,
        name=f"{extractor.name} mirrored",
        load=lambda images, row: extractor.load(Mirrored(images), row),
    )
