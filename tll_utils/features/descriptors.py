"""Descriptors that need no network: the shortcuts (borders, file size) and the classics (colour, tiny image, HOG)."""

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np
from skimage.feature import hog, local_binary_pattern

from tll_utils.data.images import Images, find_borders
from tll_utils.features.embedding import Extractor

NEUTRAL = 128  # OpenCV's 8-bit CIELAB stores a + 128 and b + 128


def border_geometry() -> Extractor:
    """Widths of the four letterbox borders in pixels, (n, 4): a shortcut, no content."""
    return _descriptor("border geometry @1", find_borders)


def file_size() -> Extractor:
    """Logarithm of the JPEG's size in bytes, (n, 1): a shortcut, no content."""
    return Extractor("file size @1", _log_file_size, _stacked)


def lab_histogram() -> Extractor:
    """Square root of the share of pixels in each of 8×8×8 CIELAB bins, (n, 512).

    The square root makes the cosine the Bhattacharyya coefficient of two histograms. a and b are clipped to
    ±50, where nearly all pixels lie, so that the bins are not spent on colours no photo has.
    """
    return _descriptor("CIELAB histogram @1", _lab_histogram)


def tiny_image() -> Extractor:
    """The image shrunk to 16×20 pixels in CIELAB, (n, 960) (Torralba, Fergus and Freeman 2008)."""
    return _descriptor("tiny image @1", _tiny_image)


def hog_descriptor() -> Extractor:
    """Oriented gradients of the 96×120 image, 12×12-pixel cells, 9 orientations (Dalal and Triggs 2005), (n, 2268)."""
    return _descriptor("HOG @1", _hog)


def lbp_histogram() -> Extractor:
    """Square root of the shares of 10 uniform local binary patterns in 4×5 cells of the image, (n, 200).

    8 neighbours at distance 1, patterns that differ by a turn counted as one (Ojala, Pietikäinen and Mäenpää
    2002): what fine texture there is, and where.
    """
    return _descriptor("LBP @1", _lbp_histogram)


def _descriptor(name: str, describe: Callable[[np.ndarray], np.ndarray]) -> Extractor:
    """An extractor that describes each image's pixels and has one output, named "embedding"."""
    return Extractor(name, partial(_load, describe), _stacked)


def _load(describe: Callable[[np.ndarray], np.ndarray], images: Images, row: int) -> np.ndarray:
    return np.asarray(describe(images[row]), np.float32).ravel()


def _stacked(batch: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {"embedding": np.stack(batch)}


def _log_file_size(images: Images, row: int) -> np.ndarray:
    return np.log([len(images.read_bytes(row))]).astype(np.float32)


def _lab_histogram(image: np.ndarray) -> np.ndarray:
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 1:] = lab[..., 1:].clip(NEUTRAL - 50, NEUTRAL + 49)
    counts = cv2.calcHist([lab], [0, 1, 2], None, [8, 8, 8], [0, 256, *[NEUTRAL - 50, NEUTRAL + 50] * 2])
    return np.sqrt(counts / counts.sum())


def _tiny_image(image: np.ndarray) -> np.ndarray:
    small = cv2.resize(image, (16, 20), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _hog(image: np.ndarray) -> np.ndarray:
    small = cv2.resize(image, (96, 120), interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return hog(gray, orientations=9, pixels_per_cell=(12, 12), cells_per_block=(2, 2), transform_sqrt=True)


def _lbp_histogram(image: np.ndarray) -> np.ndarray:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    codes = local_binary_pattern(gray, P=8, R=1, method="uniform").astype(int)
    cells = [cell for band in np.array_split(codes, 5) for cell in np.array_split(band, 4, axis=1)]
    return np.sqrt([np.bincount(cell.ravel(), minlength=10) / cell.size for cell in cells])
