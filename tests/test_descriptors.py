"""Descriptors on images whose description is known."""

import numpy as np
import pytest

from tll_utils import descriptors


class OneImage:
    def __init__(self, image, data=b""):
        self.image, self.data = image, data

    def __getitem__(self, i):
        return self.image

    def read_bytes(self, i):
        return self.data


def describe(extractor, image=None, data=b""):
    return extractor.load(OneImage(image, data), 0)


def plain(colour=(120, 120, 120)):
    return np.full((245, 200, 3), colour, np.uint8)


def test_border_geometry_is_the_four_widths():
    image = plain((200, 200, 200))
    image[:20] = image[-30:] = 0
    assert list(describe(descriptors.border_geometry(), image)) == [20, 30, 0, 0]


def test_file_size_is_logarithmic():
    """Twice the bytes add log 2."""
    small, large = (describe(descriptors.file_size(), data=bytes(n)) for n in (1000, 2000))
    assert large - small == pytest.approx(np.log(2))


def test_histogram_of_two_colours():
    """Three quarters of the image in one bin, a quarter in another: square roots √0.75 and √0.25."""
    image = plain((255, 255, 255))
    image[:, :50] = 0
    histogram = describe(descriptors.lab_histogram(), image)
    assert histogram.shape == (512,)
    np.testing.assert_allclose(np.sort(histogram)[-2:], [0.5, np.sqrt(0.75)], rtol=1e-6)
    assert np.linalg.norm(histogram) == pytest.approx(1)


def test_strong_colours_stay_in_the_histogram():
    """Pure red lies beyond ±50; it is counted in the outermost bin, not lost."""
    assert np.linalg.norm(describe(descriptors.lab_histogram(), plain((255, 0, 0)))) == pytest.approx(1)


def test_tiny_image_of_one_colour():
    """White is L = 100, a = b = 0 in CIELAB, at all 16×20 places."""
    tiny = describe(descriptors.tiny_image(), plain((255, 255, 255))).reshape(20, 16, 3)
    np.testing.assert_allclose(tiny, np.broadcast_to([100, 0, 0], tiny.shape), atol=0.1)


def test_hog_tells_orientation_not_brightness():
    """Vertical stripes are nearer to dimmer vertical stripes than to horizontal ones."""
    stripes = plain()
    stripes[:, ::20] = stripes[:, 1::20] = stripes[:, 2::20] = 250
    turned = plain()
    turned[::20] = turned[1::20] = turned[2::20] = 250
    hog = descriptors.hog_descriptor()
    same, other = describe(hog, stripes // 2), describe(hog, turned)
    original = describe(hog, stripes)
    assert np.linalg.norm(original - same) < 0.2 * np.linalg.norm(original - other)


def test_lbp_of_one_colour():
    """Without texture every neighbour is as bright as the middle, one pattern of 10: the 6 cells that do not touch
    the image's edge have root share 1 for it, every cell has length 1."""
    embedding = describe(descriptors.lbp_histogram(), plain()).reshape(5, 4, 10)
    np.testing.assert_allclose(np.sort(embedding[1:-1, 1:-1])[..., -1], 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=2), 1, rtol=1e-6)


def test_lbp_tells_rough_from_smooth():
    """Noise, however bright, is nearer to other noise than to a smooth image."""
    noise, brighter = (
        np.random.default_rng(i).integers(0, top, (245, 200, 3), np.uint8) for i, top in ((0, 128), (1, 256))
    )
    a, b, smooth = (describe(descriptors.lbp_histogram(), image) for image in (noise, brighter, plain()))
    assert np.linalg.norm(a - b) < 0.2 * np.linalg.norm(a - smooth)


def test_border_neutral_histogram_does_not_count_the_border():
    """White between black bars: with borders two colours, without only white."""
    image = plain((255, 255, 255))
    image[:60] = image[-60:] = 0
    extractor = descriptors.border_neutral(descriptors.lab_histogram())
    assert np.count_nonzero(describe(descriptors.lab_histogram(), image)) == 2
    assert np.count_nonzero(describe(extractor, image)) == 1
    assert extractor.name == "CIELAB histogram @1 border-neutral"


def test_mirrored_is_the_descriptor_of_the_flipped_image():
    image = np.random.default_rng(0).integers(0, 256, (245, 200, 3), np.uint8)
    extractor = descriptors.tiny_image()
    seen = descriptors.mirrored(extractor)
    np.testing.assert_array_equal(seen.load([image], 0), extractor.load([np.ascontiguousarray(image[:, ::-1])], 0))
    assert seen.name != extractor.name
