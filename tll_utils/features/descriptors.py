"""Descriptors that need no network: the shortcuts (borders, file size) and the classics (colour, tiny image, HOG)."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from skimage.feature import hog, local_binary_pattern

from tll_utils.features.embedding import Extractor

NEUTRAL = 128  # OpenCV's 8-bit CIELAB stores a + 128 and b + 128


def descriptor(name: str, describe: Callable[[np.ndarray], np.ndarray]) -> Extractor:
    """An extractor that describes each image's pixels and has one output, named "embedding"."""
    return Extractor(name, lambda images, row: np.asarray(describe(images[row]), np.float32).ravel(), _stacked)


def file_size() -> Extractor:
    """Extractor of the logarithm of the JPEG's size in bytes, (n, 1): a shortcut, no content."""
    return Extractor("file size @1", lambda images, row: np.float32(np.log([len(images.read_bytes(row))])), _stacked)


def lab_histogram(image: np.ndarray) -> np.ndarray:
    """Square root of the share of pixels in each of 8×8×8 CIELAB bins, (512,).

    The square root makes the cosine the Bhattacharyya coefficient of two histograms. a and b are clipped to
    ±50, where nearly all pixels lie, so that the bins are not spent on colours no photo has.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 1:] = lab[..., 1:].clip(NEUTRAL - 50, NEUTRAL + 49)
    counts = cv2.calcHist([lab], [0, 1, 2], None, [8, 8, 8], [0, 256, *[NEUTRAL - 50, NEUTRAL + 50] * 2])
    return np.sqrt(counts / counts.sum())


def tiny_image(image: np.ndarray) -> np.ndarray:
    """The image shrunk to 16×20 pixels in CIELAB, (20, 16, 3) (Torralba, Fergus and Freeman 2008)."""
    small = cv2.resize(image, (16, 20), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def hog_descriptor(image: np.ndarray) -> np.ndarray:
    """Oriented gradients of the 96×120 image, 12×12-pixel cells, 9 orientations (Dalal and Triggs 2005), (2268,)."""
    small = cv2.resize(image, (96, 120), interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return hog(gray, orientations=9, pixels_per_cell=(12, 12), cells_per_block=(2, 2), transform_sqrt=True)


def lbp_histogram(image: np.ndarray) -> np.ndarray:
    """Square root of the shares of 10 uniform local binary patterns in 4×5 cells of the image, (20, 10).

    8 neighbours at distance 1, patterns that differ by a turn counted as one (Ojala, Pietikäinen and Mäenpää
    2002): what fine texture there is, and where.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    codes = local_binary_pattern(gray, P=8, R=1, method="uniform").astype(int)
    cells = [cell for band in np.array_split(codes, 5) for cell in np.array_split(band, 4, axis=1)]
    return np.sqrt([np.bincount(cell.ravel(), minlength=10) / cell.size for cell in cells])


def _stacked(batch: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {"embedding": np.stack(batch)}
