"""Every extractor by name, and features as values."""

import numpy as np
import pytest

from tll_utils.data.dataset import load_dataset
from tll_utils.features.catalogue import EXTRACTORS, PRESETS, Features, is_present
from tll_utils.features.embedding import embed
from tll_utils.similarity import intra_normalise


@pytest.fixture
def images(tiny):
    return load_dataset(tiny).train.left


def test_names():
    """The shortcuts and classics, three kinds of face features, two passes of each EfficientNet-Lite, the presets."""
    lite = {f"lite{variant}_{name}" for variant in (0, 1, 2) for name in ("head", "grids")}
    classics = {"border_geometry", "file_size", "lab_histogram", "tiny_image", "hog", "lbp_histogram"}
    assert set(EXTRACTORS) == lite | classics | {"faces", "face_landmarks", "whole_image_face"} | PRESETS.keys()
    names = [make().name for key, make in EXTRACTORS.items() if key not in PRESETS]
    assert len(set(names)) == len(names)
    assert EXTRACTORS["hog"]() is EXTRACTORS["hog"]()


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_passes_of_the_lite_networks(variant, monkeypatch):
    monkeypatch.delenv("TLL_PRECISION", raising=False)
    head, grids = (EXTRACTORS[f"lite{variant}_{name}"]() for name in ("head", "grids"))
    assert head.name == f"EfficientNet-Lite{variant} v1 245x200: head / grid3x2 average max @1"
    assert grids.name == f"EfficientNet-Lite{variant} v1 245x200: stage5 head / grid4x3 @1"


def test_features_are_an_output_of_the_images(images):
    geometry = Features("border_geometry")
    np.testing.assert_array_equal(geometry(images), embed(images, EXTRACTORS["border_geometry"]())["embedding"])
    np.testing.assert_array_equal(geometry(images.take([3, 1])), geometry(images)[[3, 1]])


def test_cells_are_normalised(images):
    """The histogram in 8 cells of 64 bins: each cell that is not empty has length one."""
    raw, normalised = (Features("lab_histogram", cells=cells)(images) for cells in (0, 8))
    np.testing.assert_array_equal(normalised, intra_normalise(raw, n_cells=8))
    length = np.linalg.norm(normalised.reshape(6, 8, 64), axis=2)
    np.testing.assert_allclose(length[length > 0], 1, rtol=1e-5)


def test_features_without_a_face_are_missing(images):
    """Soft random colours hold no face."""
    descriptors = Features("faces", "descriptor")(images)
    assert np.isnan(descriptors).all() and not is_present(descriptors).any()
    assert is_present(Features("hog")(images)).all()
    assert not Features("faces", "found")(images).any()


def test_features_are_values():
    assert Features("hog") == Features("hog", "embedding", 0) != Features("hog", cells=4)
    assert repr(Features("faces", "found")) == "Features(extractor='faces', output='found', cells=0)"
    assert len({Features("hog"), Features("hog")}) == 1


def test_unknown_names(images):
    with pytest.raises(ValueError, match="extractor 'lite3' is not known; use one of border_geometry, file_size"):
        Features("lite3")
    with pytest.raises(ValueError, match="hog has no output 'head'; known: embedding"):
        Features("hog", "head")(images)
