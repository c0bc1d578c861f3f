"""Committed figures belong to the recorded results, and every figure ships the data behind it."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from scripts import figures
from tll_utils.report.results import results_dir
from tll_utils.runtime import project_root, sha256_of

FOLDER = project_root() / "figures"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))


def test_manifest_lists_every_figure_and_no_other_file_lies_about():
    assert list(MANIFEST) == list(figures.FIGURES)
    expected = {"manifest.json"} | {f"{name}.{kind}" for name in figures.FIGURES for kind in ("png", "csv")}
    assert {path.name for path in FOLDER.iterdir()} == expected


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figure_was_drawn_from_the_recorded_results(name):
    """Recording new results without `make report` leaves another hash in the manifest, or a file it does not name."""
    recorded = {source for source in figures.FIGURES[name][1] if (results_dir() / source).exists()}
    sources = {source: sha256_of(results_dir() / source) for source in recorded}
    assert MANIFEST[name]["sources"] == sources, "run `make report` and commit figures/"
    assert MANIFEST[name]["data"] == {f"{name}.csv": sha256_of(FOLDER / f"{name}.csv")}


def test_redrawing_gives_the_committed_data(tmp_path):
    figures.redraw_figures(tmp_path)
    for name in figures.FIGURES:
        pd.testing.assert_frame_equal(
            pd.read_csv(tmp_path / f"{name}.csv", encoding="utf-8"),
            pd.read_csv(FOLDER / f"{name}.csv", encoding="utf-8"),
        )
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8")) == MANIFEST


def test_bars_stand_beside_the_published_numbers():
    """The report's best is its VGG16 with face features, 0.505."""
    fig, table = figures.FIGURES["adapters"][0]()
    marks = {text.get_text(): text.get_position()[0] for text in fig.axes[0].texts}
    assert (marks["chance"], marks["report's best"], marks["best public claim"]) == (0.1, 0.505, 0.83)
    assert len(table) == len(fig.axes[0].get_yticklabels())
    plt.close(fig)


def test_model_summary_counts_the_head_of_the_report():
    """512 averages of |a−b| and a bias: 513 parameters behind the tower."""
    fig, table = figures.model_summary()
    assert table.iloc[-1]["parameters"] == 513
    plt.close(fig)


def test_figure_of_results_tells_the_tasks_apart():
    fig, table = figures.results()
    color = table.set_index("method")["color"]
    assert color["pretrained VGG16 (report)"] == figures.plots.REPORT
    assert color["HOG"] == figures.plots.OURS and color["best, belief propagation"] == figures.plots.TOGETHER
    assert (table["low"] <= table["top2"]).all() and (table["top2"] <= table["high"]).all()
    plt.close(fig)


def test_table_picture_shows_every_cell():
    _, ax = plt.subplots()
    figures.table_picture(ax, pd.DataFrame({"layer": ["tower", "head"], "parameters": [7, 513]}))
    cells = {place: cell.get_text().get_text() for place, cell in ax.tables[0].get_celld().items()}
    assert cells == dict(zip(np.ndindex(3, 2), ["layer", "parameters", "tower", "7", "head", "513"], strict=True))


def test_box_diagram_writes_every_text_and_joins_neighbouring_edges():
    """Boxes of width 2 at x = 0 and 4: the arrow runs between their edges, 1 and 3, with a little air."""
    boxes = [figures.Box(text, x, 0, "white", width=2, height=1) for text, x in (("a", 0), ("b", 4))]
    _, ax = plt.subplots()
    figures.box_diagram(ax, boxes, [(0, 1)])
    arrow = next(text for text in ax.texts if text.get_text() == "")
    assert {text.get_text() for text in ax.texts} == {"a", "b", ""}
    assert (arrow.xyann, arrow.xy) == (pytest.approx((1.03, 0)), pytest.approx((2.97, 0)))
