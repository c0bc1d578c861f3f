"""Descriptors that need no network: the shortcuts (borders, file size) and the classics (colour, tiny image, HOG)."""

from collections.abc import Callable

import cv2
import numpy as np
from skimage.feature import hog

from tll_utils.dataset import Images
from tll_utils.embedding import Extractor
from tll_utils.images import find_borders


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
