"""The embedded look-alike lab: its files are what the code draws, its factors what they claim."""

import os
from pathlib import Path

import cv2
import dlib
import numpy as np
import pandas as pd
import pytest
from skimage.feature import hog

from scripts.sample import dataset
from scripts.sample import factors as subjects
from tll_utils.data.images import find_borders
from tll_utils.runtime import project_root

COMMITTED = project_root() / "data" / "sample"
CANDIDATES = [f"c{i}" for i in range(20)]
PARTS = {"train": 120, "test": 40}
SIDES = ("left", "right")


def read_image(path: Path) -> np.ndarray:
    """RGB pixels of an image file."""
    return np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])


def files(folder: Path) -> list[str]:
    """Relative names of all files, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def factors() -> pd.DataFrame:
    """The committed factors.csv."""
    return pd.read_csv(COMMITTED / "factors.csv", encoding="utf-8")


@pytest.fixture(scope="module")
def images(factors) -> dict[str, np.ndarray]:
    """Side → uint8 (160, 245, 200, 3), rows as in factors.csv."""
    return {
        side: np.stack(
            [
                read_image(COMMITTED / part / side / f"{i}.jpg")
                for part, i in zip(factors.part, factors[side], strict=True)
            ]
        )
        for side in SIDES
    }


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory) -> Path:
    """A fresh drawing with the default seed."""
    folder = tmp_path_factory.mktemp("lab") / "sample"
    dataset.draw_sample(folder)
    return folder


# --- the committed files ------------------------------------------------------------------------------------


def test_redrawing_gives_the_committed_files_and_nothing_else(redrawn):
    assert files(redrawn) == files(COMMITTED)
    assert os.listdir(redrawn.parent) == ["sample"]  # no half-written folder stays behind


@pytest.mark.parametrize(
    "name", ["train.csv", "test_candidates.csv", "test_truth.csv", "factors.csv", "sample-submission.csv"]
)
def test_redrawn_tables_are_identical(redrawn, name):
    assert (redrawn / name).read_text(encoding="utf-8") == (COMMITTED / name).read_text(encoding="utf-8")


def test_redrawn_images_are_identical(redrawn):
    """Byte for byte where the files were drawn; another processor may round a few pixels differently: 0.1 of 255."""
    for name in files(COMMITTED):
        if name.endswith(".jpg") and (redrawn / name).read_bytes() != (COMMITTED / name).read_bytes():
            assert cv2.absdiff(read_image(redrawn / name), read_image(COMMITTED / name)).mean() < 0.1, name


def test_another_seed_pairs_and_draws_differently():
    one, two = dataset.pair_table(0), dataset.pair_table(1)
    assert not set(zip(one.left, one.right, strict=True)) & set(zip(two.left, two.right, strict=True))
    first, second = (dataset.draw_bordered_pair("pose", 3, "", seed)[0] for seed in (0, 1))
    assert cv2.absdiff(first, second).mean() > 2


def test_layout_and_counts(factors):
    for part, count in PARTS.items():
        for side in SIDES:
            ids = factors[side][factors.part == part]
            assert sorted(f"{i}.jpg" for i in ids) == sorted(os.listdir(COMMITTED / part / side))
            assert len(ids) == count


def test_every_image_is_200_wide_and_245_high(images):
    assert images["left"].shape == images["right"].shape == (160, 245, 200, 3)


def test_the_whole_data_set_is_below_5_megabytes():
    assert sum((COMMITTED / name).stat().st_size for name in files(COMMITTED)) < 5_000_000


def test_nothing_is_half_written_when_drawing_fails(tmp_path, monkeypatch):
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "factors.csv").write_text("old", encoding="utf-8")
    monkeypatch.setattr(dataset, "draw_bordered_pair", lambda *row: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dataset.draw_sample(tmp_path / "sample")
    assert files(tmp_path / "sample") == ["factors.csv"]


def test_an_older_sample_is_replaced_whole(tmp_path, monkeypatch):
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "factors.csv").write_text("old", encoding="utf-8")
    (tmp_path / "sample" / "stray.jpg").write_text("old", encoding="utf-8")
    monkeypatch.setattr(dataset, "draw_bordered_pair", lambda *row: (np.zeros((4, 4, 3), np.uint8),) * 2)
    dataset.draw_sample(tmp_path / "sample")
    assert files(tmp_path / "sample") == files(COMMITTED)


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_text("precious", encoding="utf-8")
    with pytest.raises(FileExistsError, match="something other than a sample"):
        dataset.draw_sample(tmp_path)
    assert files(tmp_path) == ["holiday.jpg"]


# --- ids and tables -----------------------------------------------------------------------------------------


def test_ids_are_320_different_words_of_three_letters(factors):
    ids = pd.concat([factors.left, factors.right])
    assert ids.is_unique and len(ids) == 320
    assert ids.str.fullmatch("[a-z]{3}").all()


def test_ids_do_not_tell_the_pairing(factors):
    """The order of 160 unrelated ids correlates by less than 0.25 (three standard errors, 3 / √160)."""
    assert abs(factors.left.rank().corr(factors.right.rank())) < 0.25


def test_rows_are_sorted_by_left_id(factors):
    for name in ("train.csv", "test_candidates.csv", "test_truth.csv", "sample-submission.csv"):
        assert pd.read_csv(COMMITTED / name, encoding="utf-8").left.is_monotonic_increasing, name
    assert factors.groupby("part").left.apply(lambda ids: ids.is_monotonic_increasing).all()


def test_tables_agree_with_factors(factors):
    for part, name in (("train", "train.csv"), ("test", "test_truth.csv")):
        expected = factors.loc[factors.part == part, ["left", "right"]].reset_index(drop=True)
        pd.testing.assert_frame_equal(pd.read_csv(COMMITTED / name, encoding="utf-8"), expected)


def test_every_factor_has_24_train_and_8_test_pairs(factors):
    counts = factors.groupby(["part", "factor"]).size()
    assert set(factors.factor) == set(subjects.FACTORS)
    assert (counts["train"] == 24).all() and (counts["test"] == 8).all()


def test_every_subject_of_a_factor_is_drawn_once():
    table = dataset.pair_table(0)
    assert table.groupby("factor").subject.apply(lambda subjects: sorted(subjects) == list(range(32))).all()


def test_candidates_hold_the_truth_and_19_foils_in_random_order():
    """40 truths over 20 columns: at random they fill about 20 · (1 − 0.95⁴⁰) ≈ 17.4 of them."""
    candidates, truth = (
        pd.read_csv(COMMITTED / f"test_{name}.csv", encoding="utf-8") for name in ("candidates", "truth")
    )
    assert list(candidates.columns) == ["left", *CANDIDATES]
    assert (candidates[CANDIDATES].nunique(axis=1) == 20).all()
    assert set(candidates[CANDIDATES].to_numpy().ravel()) == set(truth.right)
    hits = candidates[CANDIDATES].to_numpy() == truth.right.to_numpy()[:, None]
    assert (hits.sum(axis=1) == 1).all()
    assert (hits.sum(axis=0) > 0).sum() >= 13 and hits.sum(axis=0).max() <= 7


def test_the_sample_submission_has_a_score_for_every_candidate():
    submission = pd.read_csv(COMMITTED / "sample-submission.csv", encoding="utf-8")
    assert list(submission.columns) == ["left", *CANDIDATES]
    assert submission.left.equals(pd.read_csv(COMMITTED / "test_truth.csv", encoding="utf-8").left)
    assert submission[CANDIDATES].to_numpy().min() >= 0 and submission[CANDIDATES].to_numpy().max() <= 1


# --- what the images show -----------------------------------------------------------------------------------


def rank_of_truth(features: dict[str, np.ndarray], factors: pd.DataFrame, factor: str) -> float:
    """Mean share of the factor's other right images that are nearer (L1) to a left image; 0.5 is chance."""
    rows = np.flatnonzero(factors.factor == factor)
    left, right = features["left"][rows], features["right"][rows]
    distance = np.abs(left[:, None] - right[None]).sum(axis=2)
    return (distance < distance.diagonal()[:, None]).sum(axis=1).mean() / (len(rows) - 1)


@pytest.fixture(scope="module")
def histograms(images) -> dict[str, np.ndarray]:
    """Side → colour histograms, 6 × 6 × 6 bins of RGB, of the inner part of the images."""

    def histogram(image):
        inner = np.ascontiguousarray(image[35:210, 27:173])
        return cv2.calcHist([inner], [0, 1, 2], None, [6] * 3, [0, 256] * 3).ravel() / inner[..., 0].size

    return {side: np.stack([histogram(image) for image in images[side]]) for side in SIDES}


@pytest.fixture(scope="module")
def gradients(images) -> dict[str, np.ndarray]:
    """Side → histograms of oriented gradients, at quarter size."""

    def describe(image):
        small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (80, 96), interpolation=cv2.INTER_AREA)
        return hog(small, orientations=9, pixels_per_cell=(16, 16), cells_per_block=(2, 2))

    return {side: np.stack([describe(image) for image in images[side]]) for side in SIDES}


def test_palette_pairs_share_their_colours(histograms, factors):
    assert rank_of_truth(histograms, factors, "palette") < 0.1


@pytest.mark.parametrize("factor", ["silhouette", "texture", "pose", "face"])
def test_other_pairs_do_not_share_their_colours(histograms, factors, factor):
    """Chance is 0.5 with a standard error of 0.29 / √32 = 0.05; 0.3 is four of them below."""
    assert rank_of_truth(histograms, factors, factor) > 0.3


@pytest.mark.parametrize("factor", ["silhouette", "texture", "pose", "face"])
def test_pairs_share_their_shapes(gradients, factors, factor):
    assert rank_of_truth(gradients, factors, factor) < 0.25


def test_palette_pairs_do_not_share_their_shapes(gradients, factors):
    assert rank_of_truth(gradients, factors, "palette") > 0.3


def test_dlib_finds_the_faces_and_nothing_else(images, factors):
    detect, is_face = dlib.get_frontal_face_detector(), (factors.factor == "face").to_numpy()
    for side, least in (("left", 0.9), ("right", 0.8)):
        found = np.array([len(detect(image)) > 0 for image in images[side]])
        assert found[is_face].mean() >= least, side
        assert found[~is_face].mean() <= 0.02, side


def test_borders_are_a_measurable_shortcut(images):
    """30 % of the images carry borders; where both of a pair do, nearly all widths agree up to 2 pixels."""
    widths = {side: np.stack([find_borders(image) for image in images[side]]) for side in SIDES}
    bordered = {side: widths[side].any(axis=1) for side in SIDES}
    both = bordered["left"] & bordered["right"]
    assert np.mean([bordered[side].mean() for side in SIDES]) == pytest.approx(0.3, abs=0.03)
    assert both.mean() == pytest.approx(0.24, abs=0.03)
    assert (np.abs(widths["left"] - widths["right"])[both] <= 2).mean() > 0.95


def test_poses_and_faces_are_all_different():
    """32 poses from arms, legs and lean, 32 faces from hair, head, brows, mouth and extra."""
    for words in (subjects.pose_words, subjects.face_words):
        assert len({tuple(words(subject).items()) for subject in range(32)}) == 32
