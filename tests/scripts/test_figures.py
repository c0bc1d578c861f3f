"""Committed figures belong to the recorded results, and every figure ships the data behind it."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scripts import drawing, figures
from scripts.recording import FAMILIES, readme_table
from tll_utils.report.results import recorded_methods, results_dir
from tll_utils.runtime import project_root, sha256_of

FOLDER = project_root() / "figures"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))


def test_manifest_lists_every_figure_and_no_other_file_lies_about():
    assert list(MANIFEST) == list(figures.FIGURES)
    expected = {"manifest.json"} | {f"{name}.{kind}" for name in figures.FIGURES for kind in ("png", "svg", "csv")}
    assert {path.name for path in FOLDER.iterdir()} == expected


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figure_was_drawn_from_the_recorded_results(name):
    """Recording new results without `make report` leaves another hash in the manifest, or a file it does not name."""
    recorded = {source for source in figures.FIGURES[name][1] if (results_dir() / source).exists()}
    sources = {source: sha256_of(results_dir() / source) for source in recorded}
    assert MANIFEST[name]["sources"] == sources, "run `make report` and commit figures/"
    assert MANIFEST[name]["data"] == {f"{name}.csv": sha256_of(FOLDER / f"{name}.csv")}


def difference(name, *folders) -> float:
    """Mean difference of two drawn figures, of 255 levels of grey."""
    one, other = (np.asarray(Image.open(folder / f"{name}.png").convert("L"), int) for folder in folders)
    assert one.shape == other.shape
    return np.abs(one - other).mean()


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    figures.redraw_figures(folder)
    return folder


def test_redrawing_gives_the_committed_manifest(redrawn):
    """An edited function that draws leaves another hash of its code."""
    assert json.loads((redrawn / "manifest.json").read_text(encoding="utf-8")) == MANIFEST, "run `make report`"


@pytest.mark.parametrize("name", figures.FIGURES)
def test_redrawing_gives_the_committed_data_and_pixels(name, redrawn):
    data, committed = (pd.read_csv(folder / f"{name}.csv", encoding="utf-8") for folder in (redrawn, FOLDER))
    pd.testing.assert_frame_equal(data, committed)
    pixels, committed = (
        np.asarray(Image.open(folder / f"{name}.png").convert("L"), int) for folder in (redrawn, FOLDER)
    )
    assert pixels.shape == committed.shape
    assert np.abs(pixels - committed).mean() < 0.1, "run `make report` and commit figures/"


@pytest.mark.parametrize("name", figures.FIGURES)
def test_no_panel_is_empty_and_nothing_is_cut_off(name):
    """The outermost pixels are background; each panel has ink inside."""
    gray = np.asarray(Image.open(FOLDER / f"{name}.png").convert("L"))
    edge = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    assert (edge > 250).all() and (gray < 128).mean() > 0.002


def test_one_edited_value_makes_another_picture(monkeypatch, tmp_path):
    """The tolerance is for other versions of a font, not for other numbers: 0.02 of one method moves a dot."""
    monkeypatch.setattr(figures, "recorded_methods", lambda *names: [
        method | {"expected_top2": method["expected_top2"] + 0.02 * (method["name"] == "HOG")}
        for method in recorded_methods(*names)])  # fmt: skip
    monkeypatch.setattr(figures, "FIGURES", {"shortcuts": figures.FIGURES["shortcuts"]})
    figures.redraw_figures(tmp_path)
    assert difference("shortcuts", tmp_path, FOLDER) > 0.1


def test_an_edited_function_has_another_hash(monkeypatch):
    before = figures.code_hash(figures.by_face)
    monkeypatch.setattr(figures.inspect, "getsource", lambda function: f"{function.__name__} edited")
    assert figures.code_hash(figures.by_face) != before
    curves = [figures.code_hash(figures.FIGURES[name][0]) for name in ("siamese_resnet18", "siamese_vgg16")]
    assert curves[0] != curves[1]  # the arguments count


def test_methods_stand_beside_the_published_numbers_and_without_borders():
    """The report's best is its VGG16 with face features, 0.505; `best` without borders is on the row of `best`."""
    fig, table = figures.FIGURES["adapters"][0]()
    marks = {text.get_text(): text.get_position()[0] for text in fig.axes[0].texts}
    assert (marks["chance"], marks["report's best"], marks["a blog's claim"]) == (0.1, 0.505, 0.83)
    assert len(table) == len(fig.axes[0].get_yticklabels()) and not table["method"].str.contains("border").any()
    best = table.set_index("method").loc["five adapters, hubness-corrected (best)"]
    assert (best["top2"], best["beside"]) == (0.7951, 0.7677)
    plt.close(fig)


def test_model_summary_counts_the_head_of_the_report():
    """512 averages of |a−b| and a bias: 513 parameters behind the tower."""
    fig, table = figures.model_summary()
    assert table.iloc[-1]["parameters"] == 513
    plt.close(fig)


def test_figure_of_results_is_the_readmes_table():
    fig, table = figures.results()
    shown = table.set_index("method")
    names = [name.replace("`", "") for name, *_ in FAMILIES if f"| {name} |" in readme_table()]  # what is recorded
    assert len(table) <= 14 and list(shown.index) == names
    assert shown.loc["features of pretrained networks", "report"] == 0.504
    assert shown.loc["… all queries answered together", "task"] == "one-to-one"
    assert (table["low"] <= table["top2"]).all() and (table["top2"] <= table["high"]).all()
    assert [text.get_text() for text in fig.legends[0].get_texts()][:3] == list(drawing.MARKERS)
    plt.close(fig)


def test_groups_hold_every_pair_once():
    for draw in (figures.by_face, figures.by_border):
        fig, table = draw()
        counts = table["method"].str.extract(r", (\d+) pairs$")[0].astype(int)
        assert counts.sum() == 1600 and (table["low"] < table["top2"]).all()
        weighted = (counts * table["top2"]).sum() / 1600
        assert weighted == pytest.approx(0.7951, abs=1e-4)  # of `best`, as recorded
        plt.close(fig)


def test_task_shows_a_query_that_the_model_solves():
    fig, table = figures.task()
    assert sorted(table["rank"]) == list(range(1, 21)) and table.loc[table["is_truth"], "rank"].item() == 2
    plt.close(fig)


def test_dots_are_in_the_order_of_the_table():
    table = pd.DataFrame({"method": ["low", "high"], "top2": [0.2, 0.6], "low": [0.1, 0.5], "high": [0.3, 0.7]})
    fig, ax = plt.subplots()
    rows = table.assign(task=["inductive", "one-to-one"], beside=[0.15, np.nan], report=np.nan)
    drawing.accuracy_dots(ax, rows, reference={"report": 0.5})
    ticks = dict(zip(ax.get_yticks(), (label.get_text() for label in ax.get_yticklabels()), strict=True))
    assert ticks == {1: "low", 0: "high"}  # from top to bottom
    assert {"0.200", "0.600", "chance", "report"} <= {text.get_text() for text in ax.texts}
    dots = {(line.get_xdata()[0], line.get_ydata()[0], line.get_marker()) for line in ax.lines}
    assert {(0.2, 1, "o"), (0.15, 1, "o"), (0.6, 0, "s")} <= dots
    drawing.dots_legend(fig, rows, beside="cropped")
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["inductive", "one-to-one", "cropped"]
    plt.close(fig)


def test_table_picture_shows_every_cell():
    _, ax = plt.subplots()
    drawing.table_picture(ax, pd.DataFrame({"layer": ["tower", "head"], "parameters": [7, 513]}))
    cells = {place: cell.get_text().get_text() for place, cell in ax.tables[0].get_celld().items()}
    assert cells == dict(zip(np.ndindex(3, 2), ["layer", "parameters", "tower", "7", "head", "513"], strict=True))


def test_box_diagram_writes_every_text_and_joins_neighbouring_edges():
    """Boxes of width 2 at x = 0 and 4: the arrow runs between their edges, 1 and 3, with a little air."""
    boxes = [drawing.Box(text, x, 0, "white", width=2, height=1) for text, x in (("a", 0), ("b", 4))]
    _, ax = plt.subplots()
    drawing.box_diagram(ax, boxes, [(0, 1)])
    arrow = next(text for text in ax.texts if text.get_text() == "")
    assert {text.get_text() for text in ax.texts} == {"a", "b", ""}
    assert (arrow.xyann, arrow.xy) == (pytest.approx((1.03, 0)), pytest.approx((2.97, 0)))
