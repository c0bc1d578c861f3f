"""Faces on drawn pictures: the sample's faces are found, everything else is survived."""

import importlib.util
from types import SimpleNamespace

import cv2
import joblib
import numpy as np
import pytest

from tll_utils import faces
from tll_utils.dataset import load_dataset
from tll_utils.embedding import embed
from tll_utils.faces import FaceModelError, describe, find_faces, model_file
from tll_utils.runtime import project_root


@pytest.fixture(autouse=True)
def quiet_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TLL_PROGRESS", "0")
    monkeypatch.setenv("TLL_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def portraits():
    """The left images of the sample's face pairs."""
    sample = load_dataset(project_root() / "data" / "sample")
    factors = sample.factors[sample.factors.part == "train"].set_index("left").factor
    return sample.train.left.take([factors[name] == "face" for name in sample.train.left.ids])


@pytest.fixture(scope="module")
def portrait(portraits):
    return portraits[0]


def blank(height=245, width=200):
    return np.full((height, width, 3), 128, np.uint8)


def turned(image, degrees):
    middle = (image.shape[1] / 2, image.shape[0] / 2)
    matrix = cv2.getRotationMatrix2D(middle, degrees, 1)
    return cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


# -------------------------------------------------------------------------------------------------- detection


def test_the_faces_of_the_sample_are_found(portraits):
    assert np.mean([len(find_faces(image)) > 0 for image in portraits]) >= 0.95


def test_landmarks_lie_in_the_face_and_in_order(portrait):
    """The right eye (points 36–41) is left of the left one (42–47) in the picture, both above the mouth (48–67)."""
    (left, top, right, bottom), _ = find_faces(portrait)[0]
    points = faces.landmarks(portrait, (left, top, right, bottom))
    eye, other_eye, mouth = (points[part].mean(axis=0) for part in (slice(36, 42), slice(42, 48), slice(48, 68)))
    assert eye[0] < other_eye[0] and max(eye[1], other_eye[1]) < mouth[1]
    assert points.shape == (68, 2) and faces.landmarks(portrait, (left, top, right, bottom), n_points=5).shape == (5, 2)
    assert left < mouth[0] < right and top < mouth[1] < bottom


def test_a_face_too_small_at_native_scale_is_found_enlarged(portrait):
    """The detector's window has 80 pixels, so a 60-pixel face is only in reach when enlarged 1.5 times."""
    left, _, right, _ = find_faces(portrait)[0].box
    scale = 60 / (right - left)
    small = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    canvas = np.full((245, 200, 3), portrait[0, 0], np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    box = find_faces(canvas)[0].box
    assert not faces._detect(canvas, "hog", 1.0, -0.3)
    assert box[2] - box[0] == pytest.approx(60, rel=0.25)


def test_one_face_is_chosen_of_many_and_all_are_kept(portrait):
    """The portrait beside its own copy at half the size, both as sure: the large one comes first."""
    small = cv2.resize(portrait, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    pair = cv2.copyMakeBorder(small, 0, 245 - small.shape[0], 0, 0, cv2.BORDER_REPLICATE)
    image = cv2.resize(np.hstack([pair, portrait]), None, fx=2, fy=2)
    found = find_faces(image)
    widths = [face.box[2] - face.box[0] for face in found]
    assert len(found) >= 2 and widths[0] == max(widths) and found[0].box[0] > 200
    described = describe(image)
    assert described["count"] == len(found)
    np.testing.assert_allclose(described["boxes"].reshape(-1, 4)[: len(found)], [face.box for face in found])
    assert not described["boxes"].reshape(-1, 4)[len(found) :].any()


def test_choice_weighs_size_against_confidence(monkeypatch):
    """Width × (score + 0.3): 100 × 0.2 = 20 < 40 × 1.3 = 52, so the small sure face beats the large doubtful one."""
    doubtful, sure = faces.Face((0, 0, 100, 100), -0.1), faces.Face((0, 0, 40, 40), 1.0)
    monkeypatch.setattr(faces, "_detect", lambda *_: [doubtful, sure])
    assert find_faces(blank()) == [sure, doubtful]


def test_enlarged_only_where_nothing_was_found(monkeypatch):
    seen = []

    def detect(image, detector, enlargement, least):
        seen.append(enlargement)
        return [faces.Face((0, 0, 9, 9), 1.0)] if image.any() else []

    monkeypatch.setattr(faces, "_detect", detect)
    find_faces(blank())
    assert seen == [1.0]
    assert find_faces(0 * blank()) == [] and seen == [1.0, 1.0, 1.5]


def test_cnn_detector_finds_the_same_face(portrait):
    """Boxes of both detectors overlap by more than a third of their union."""
    a, b = (np.array(find_faces(portrait, detector=name)[0].box) for name in ("hog", "cnn"))
    width, height = np.minimum(a, b)[2:] - np.maximum(a, b)[:2]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    assert width * height / (sum(areas) - width * height) > 1 / 3


# ------------------------------------------------------------------------------------------------ odd pictures


def test_grayscale(portrait):
    """Without its colours (decode makes three equal channels of it) the face is in the same place."""
    gray = cv2.cvtColor(cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    np.testing.assert_allclose(find_faces(gray)[0].box, find_faces(portrait)[0].box, atol=1)
    assert np.linalg.norm(describe(gray)["descriptor"]) > 0.5


@pytest.mark.parametrize("image", [blank(), blank(1, 1), blank(5, 300)], ids=["faceless", "one pixel", "flat"])
def test_an_image_without_face_has_zeros(image):
    described = describe(image)
    assert not any(values.any() for values in described.values())
    assert np.isfinite(faces.whole_image_descriptor(image)).all()


@pytest.mark.parametrize("degrees", [-15, 15])
def test_a_tilted_face_is_turned_upright(portrait, degrees):
    """Aligned, its descriptor stays within 0.6, which dlib counts as the same person."""
    tilted = describe(turned(portrait, degrees))
    assert tilted["found"] and np.linalg.norm(tilted["descriptor"] - describe(portrait)["descriptor"]) < 0.6


def test_an_upside_down_image_is_survived(portrait):
    described = describe(np.ascontiguousarray(portrait[::-1]))
    assert all(np.isfinite(values).all() for values in described.values())


# ------------------------------------------------------------------------------------------------- descriptors


def test_chip_and_descriptor(portrait):
    box = find_faces(portrait)[0].box
    assert faces.aligned_chip(portrait, box).shape == (150, 150, 3)
    same, mirrored = faces.descriptor(portrait, box), faces.descriptor(portrait[:, ::-1].copy(), box)
    assert same.shape == (128,) and same.dtype == np.float32
    np.testing.assert_array_equal(same, describe(portrait)["descriptor"])
    assert np.linalg.norm(same - mirrored) > 0


def test_whole_image_way_detects_nothing(portrait, monkeypatch):
    """It is the descriptor of the box (0, 0, 200, 245), and no detector is asked."""
    monkeypatch.setattr(faces, "find_faces", None)
    expected = faces.descriptor(portrait, (0, 0, 200, 245))
    np.testing.assert_array_equal(faces.whole_image_descriptor(portrait), expected)


# ------------------------------------------------------------------------------------------------- many images


def test_processes_give_what_one_process_gives(portraits, tmp_path, monkeypatch):
    some = portraits.take([0, 1, 2])
    some.base, some.rows = some, np.arange(3)  # encode these three only
    in_processes = embed(some, faces.face_extractor())
    monkeypatch.setenv("TLL_CACHE", str(tmp_path / "other"))
    with joblib.parallel_config(backend="sequential"):
        sequential = embed(some, faces.face_extractor())
    assert in_processes["descriptor"].shape == (3, 128) and in_processes["boxes"].shape == (3, 32)
    for output, values in sequential.items():
        np.testing.assert_array_equal(in_processes[output], values)
        np.testing.assert_array_equal(values[1], describe(some[1])[output])


def test_features_tell_who_has_a_face(portrait, monkeypatch):
    """Row 0 has no face, row 1 has: zeros and False, a descriptor and True."""
    described = [describe(image) for image in (blank(), portrait)]
    outputs = {output: np.stack([one[output] for one in described]) for output in described[0]}
    monkeypatch.setattr(faces, "embed", lambda images, extractor: outputs)
    descriptors, found = faces.face_features()(None)
    assert found.tolist() == [False, True] and not descriptors[0].any() and descriptors[1].any()


def test_border_neutral_does_not_see_the_border(portrait):
    """Black bars of 30 pixels laid over the picture, or cut off together with the margin of 2: the same content."""
    barred = portrait.copy()
    barred[:, :30] = barred[:, -30:] = 0
    content = faces._content(barred)
    assert content.shape[1] <= 200 - 60 - 4
    described = faces._described(barred, detector="hog", border_neutral=True)
    np.testing.assert_array_equal(described["descriptor"], describe(content)["descriptor"])


# ---------------------------------------------------------------------------------------------------- models


REMEDY = r"pip install --force-reinstall face_recognition_models==0\.3\.0"
FILE = r"shape_predictor_5_face_landmarks\.dat"


def test_missing_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FaceModelError, match=rf"{FILE} \(9,150,489 bytes\) is not installed; {REMEDY}"):
        model_file("landmarks5")


def test_missing_and_damaged_file(tmp_path, monkeypatch):
    """The package is found where we put it: first without its file, then with a file that stops after 1000 bytes."""
    published = model_file("landmarks5").read_bytes()
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    with pytest.raises(FaceModelError, match=rf"{FILE}: missing, expected {FILE} \(9,150,489 bytes\); {REMEDY}"):
        model_file("landmarks5")
    path = tmp_path / "models" / "shape_predictor_5_face_landmarks.dat"
    path.parent.mkdir()
    path.write_bytes(published[:1000])
    with pytest.raises(FaceModelError, match=rf"{FILE}: 1,000 bytes, not the published .*SHA-256 differs; {REMEDY}"):
        model_file("landmarks5")
    path.write_bytes(published)
    assert model_file("landmarks5") == path


def test_table_says_on_which_side_there_is_a_face(monkeypatch):
    """Left row 0 and 1 have one, right row 0 and 2: both, left only, right only, none."""
    has = {"left": [True, True, False, False], "right": [True, False, True, False]}
    monkeypatch.setattr(faces, "face_features", lambda: lambda side: (None, np.array(has[side.name])))
    left, right = SimpleNamespace(name="left", ids=tuple("abcd")), SimpleNamespace(name="right")
    table = faces.found_table(SimpleNamespace(left=left, right=right))
    assert list(table.left) == list("abcd")
    assert list(faces.faces_in_pair(table)) == ["both", "left only", "right only", "none"]


def test_face_shape_is_free_of_place_and_size(monkeypatch):
    """One triangle, moved and enlarged, has the same shape; without a face it is zero."""
    points = np.random.default_rng(0).standard_normal((68, 2)).astype(np.float32)
    rows = np.stack([points, 3 * points + 50, np.zeros((68, 2), np.float32)]).reshape(3, 136)
    found = np.array([[1.0], [1.0], [0.0]], np.float32)
    monkeypatch.setattr(faces, "embed", lambda images, extractor: {"landmarks68": rows, "found": found})
    shapes, has = faces.face_shape()(None)
    np.testing.assert_allclose(shapes[0], shapes[1], atol=1e-5)
    assert np.linalg.norm(shapes[0]) == pytest.approx(1, abs=1e-5)
    assert (shapes[2] == 0).all() and list(has) == [True, True, False]
    np.testing.assert_array_equal(faces.face_found()(None), found)
