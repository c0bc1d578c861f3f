"""Descriptors on images whose description is known."""

import numpy as np
import pytest

from conftest import encoded, picture
from tll_utils.data.images import Images
from tll_utils.features.catalogue import EXTRACTORS


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
    assert list(describe(EXTRACTORS["border_geometry"](), image)) == [20, 30, 0, 0]


def test_file_size_is_logarithmic():
    """Twice the bytes add log 2."""
    small, large = (describe(EXTRACTORS["file_size"](), data=bytes(n)) for n in (1000, 2000))
    assert large - small == pytest.approx(np.log(2))


def test_histogram_of_two_colours():
    """Three quarters of the image in one bin, a quarter in another: square roots √0.75 and √0.25."""
    image = plain((255, 255, 255))
    image[:, :50] = 0
    histogram = describe(EXTRACTORS["lab_histogram"](), image)
    assert histogram.shape == (512,)
    np.testing.assert_allclose(np.sort(histogram)[-2:], [0.5, np.sqrt(0.75)], rtol=1e-6)
    assert np.linalg.norm(histogram) == pytest.approx(1)


def test_strong_colours_stay_in_the_histogram():
    """Pure red lies beyond ±50; it is counted in the outermost bin, not lost."""
    assert np.linalg.norm(describe(EXTRACTORS["lab_histogram"](), plain((255, 0, 0)))) == pytest.approx(1)


def test_tiny_image_of_one_colour():
    """White is L = 100, a = b = 0 in CIELAB, at all 16×20 places."""
    tiny = describe(EXTRACTORS["tiny_image"](), plain((255, 255, 255))).reshape(20, 16, 3)
    np.testing.assert_allclose(tiny, np.broadcast_to([100, 0, 0], tiny.shape), atol=0.1)


def test_hog_tells_orientation_not_brightness():
    """Vertical stripes are nearer to dimmer vertical stripes than to horizontal ones."""
    stripes = plain()
    stripes[:, ::20] = stripes[:, 1::20] = stripes[:, 2::20] = 250
    turned = plain()
    turned[::20] = turned[1::20] = turned[2::20] = 250
    hog = EXTRACTORS["hog"]()
    same, other = describe(hog, stripes // 2), describe(hog, turned)
    original = describe(hog, stripes)
    assert np.linalg.norm(original - same) < 0.2 * np.linalg.norm(original - other)


def test_lbp_of_one_colour():
    """Without texture every neighbour is as bright as the middle, one pattern of 10: the 6 cells that do not touch
    the image's edge have root share 1 for it, every cell has length 1."""
    embedding = describe(EXTRACTORS["lbp_histogram"](), plain()).reshape(5, 4, 10)
    np.testing.assert_allclose(np.sort(embedding[1:-1, 1:-1])[..., -1], 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=2), 1, rtol=1e-6)


def test_lbp_tells_rough_from_smooth():
    """Noise, however bright, is nearer to other noise than to a smooth image."""
    noise, brighter = (
        np.random.default_rng(i).integers(0, top, (245, 200, 3), np.uint8) for i, top in ((0, 128), (1, 256))
    )
    a, b, smooth = (describe(EXTRACTORS["lbp_histogram"](), image) for image in (noise, brighter, plain()))
    assert np.linalg.norm(a - b) < 0.2 * np.linalg.norm(a - smooth)


def test_descriptors_see_the_view(tmp_path):
    """White between black bars: with borders two colours, border-neutral only white. Mirrored it is described as the
    flipped image is, but for its borders, which change sides."""
    image = plain((255, 255, 255))
    image[:60] = image[-60:] = 0
    image[:, :40] = 0
    path = tmp_path / "barred.jpg"
    path.write_bytes(encoded(image, quality=100, subsampling=0))
    images, histogram = Images(["barred"], [path]), EXTRACTORS["lab_histogram"]()
    assert np.count_nonzero(histogram.load(images, 0) > 0.05) == 2
    assert np.count_nonzero(histogram.load(images.cropped(), 0)) == 1
    assert list(EXTRACTORS["border_geometry"]().load(images.mirrored(), 0)) == [60, 60, 0, 40]
    flipped = OneImage(np.ascontiguousarray(images[0][:, ::-1]))
    tiny = EXTRACTORS["tiny_image"]()
    np.testing.assert_array_equal(tiny.load(images.mirrored(), 0), tiny.load(flipped, 0))


@pytest.mark.parametrize(
    ("extractor", "width"),
    [
        (EXTRACTORS["border_geometry"], 4),
        (EXTRACTORS["file_size"], 1),
        (EXTRACTORS["lab_histogram"], 512),
        (EXTRACTORS["tiny_image"], 960),
        (EXTRACTORS["hog"], 2268),
        (EXTRACTORS["lbp_histogram"], 200),
    ],
)
def test_output(extractor, width):
    """One output of the width the docstring says."""
    extractor = extractor()
    rows = [describe(extractor, picture(seed), data=bytes(9)) for seed in (0, 1)]
    embedding = extractor.encode(rows)["embedding"]
    assert embedding.shape == (2, width) and embedding.dtype == np.float32
