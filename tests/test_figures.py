"""Committed figures belong to the recorded results, and every figure ships the data behind it."""

import json

import cv2
import pandas as pd
import pytest

from tll_utils import figures
from tll_utils.results import results_dir
from tll_utils.runtime import project_root

FOLDER = project_root() / "figures"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())


def test_manifest_lists_every_figure_and_no_other_file_lies_about():
    assert list(MANIFEST) == list(figures.FIGURES)
    expected = {"manifest.json"} | {f"{name}.{kind}" for name in figures.FIGURES for kind in ("png", "csv")}
    assert {path.name for path in FOLDER.iterdir()} == expected


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figure_was_drawn_from_the_results_as_they_are(name):
    """Recording new results without `make report` leaves another hash in the manifest."""
    entry = MANIFEST[name]
    assert set(entry["sources"]) == set(figures.FIGURES[name][1])
    for source, recorded in entry["sources"].items():
        assert figures.file_hash(results_dir() / source) == recorded, "run `make report` and commit figures/"
    assert figures.file_hash(FOLDER / f"{name}.csv") == entry["data"][f"{name}.csv"]


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figure_is_a_picture_with_something_on_it(name):
    picture = cv2.imread(str(FOLDER / f"{name}.png"))
    assert min(picture.shape[:2]) > 200 and picture.std() > 10


def test_redrawing_gives_the_committed_data(tmp_path):
    figures.redraw_figures(tmp_path)
    for name in figures.FIGURES:
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / f"{name}.csv"), pd.read_csv(FOLDER / f"{name}.csv"))
    assert json.loads((tmp_path / "manifest.json").read_text()) == MANIFEST
