"""Pictures show what they were given: checked on the drawn objects, not on pixels."""

import os
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from tll_utils.data.dataset import load_dataset
from tll_utils.report import plots
from tll_utils.runtime import project_root


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def image(value):
    return np.full((245, 200, 3), value, np.uint8)


def test_candidates_stand_in_order_of_score_with_the_truth_framed():
    """Scores 0.1, 0.9, 0.5: shown are candidates 1, 2, 0. The truth, candidate 2, has the green frame."""
    candidates = [image(value) for value in (10, 20, 30)]
    fig = plots.candidate_grid(image(0), candidates, np.array([0.1, 0.9, 0.5]), 2, title="question")
    drawn = [ax for ax in fig.axes if ax.images]
    shown = {ax.get_title(): ax for ax in drawn}
    assert [ax.get_title() for ax in drawn] == ["question", "0.90", "0.50", "", "0.10"]
    assert shown["0.50"].images[0].get_array()[0, 0, 0] == 30
    framed = [title for title, ax in shown.items() if ax.spines["top"].get_edgecolor() == to_rgba(plots.TRUE)]
    assert framed == ["0.50"]


def test_grid_leaves_places_of_shorter_rows_empty():
    fig = plots.image_grid(
        [[image(1)], [image(2), image(3)]], [["one"], ["two", "three"]], [[plots.TRUE], [None, None]]
    )
    assert [ax.axison for ax in fig.axes] == [True, False, True, True]
    assert [ax.get_title() for ax in fig.axes] == ["one", "", "two", "three"]
    assert [int(ax.images[0].get_array()[0, 0, 0]) for ax in fig.axes if ax.images] == [1, 2, 3]
    assert [ax.spines["left"].get_visible() for ax in fig.axes] == [True, True, False, False]


def test_pairs_stand_one_above_the_other_under_their_ids():
    pairs = load_dataset(project_root() / "data" / "sample").train
    fig = plots.pair_grid(pairs, [7, 2])
    assert [ax.get_title() for ax in fig.axes] == [pairs.left.ids[7], pairs.left.ids[2], "", ""]
    for ax, drawn in zip(fig.axes, (pairs.left[7], pairs.left[2], pairs.right[7], pairs.right[2]), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), drawn)


def test_heat_map_writes_every_number():
    _, ax = plt.subplots()
    plots.heat_map(ax, pd.DataFrame([[0.1, 0.22], [0.333, 0.4]]), label="top-2")
    assert [text.get_text() for text in ax.texts] == ["0.10", "0.22", "0.33", "0.40"]


def test_histogram_separates_true_pairs_from_foils():
    """A 3×3 matrix has 6 foils and 3 true pairs; densities have area one each."""
    _, ax = plt.subplots()
    plots.score_histogram(ax, np.eye(3) + 0.01, np.arange(3), xlabel="score")
    areas = [sum(bar.get_height() * bar.get_width() for bar in bars) for bars in ax.containers]
    assert areas == pytest.approx([1, 1])
    assert ax.containers[0][0].get_height() > 0 and ax.containers[0][-1].get_height() == 0


def test_saved_figure_has_its_data_beside_it_and_the_same_bytes_each_time(tmp_path):
    data = pd.DataFrame({"x": [1, 2]})
    for folder in ("a", "b"):
        fig, ax = plt.subplots()
        ax.plot(data.x)
        plots.save_figure(fig, "line", data, folder=tmp_path / folder)
    assert pd.read_csv(tmp_path / "a" / "line.csv", encoding="utf-8").equals(data)
    assert (tmp_path / "a" / "line.png").read_bytes() == (tmp_path / "b" / "line.png").read_bytes()


def test_training_curves_show_both_parts_and_leave_out_what_is_not_known():
    history = pd.DataFrame({"epoch": [1, 2], "loss": [0.9, 0.5], "val_loss": [0.8, 0.7]})
    history = history.assign(top2=[0.1, 0.4], val_top2=[0.3, 0.2], pair_accuracy=np.nan, val_pair_accuracy=np.nan)
    _, axes = plt.subplots(1, 3)
    plots.training_curves(axes, history)
    assert not axes[0].axison
    assert [list(line.get_ydata()) for line in axes[1].lines[:2]] == [[0.9, 0.5], [0.8, 0.7]]
    assert list(axes[2].lines[2].get_xdata()) == [1, 1]  # validation top-2 was best in epoch 1

    _, axes = plt.subplots(1, 2)
    plots.training_curves(axes, history)
    assert [ax.get_ylabel() for ax in axes] == ["loss", "expected top-2"]


def test_figures_do_not_depend_on_the_users_style(tmp_path):
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: black\nfont.size: 30\nsavefig.dpi: 10\n", encoding="utf-8")
    code = (
        "import tll_utils.report.plots, matplotlib as m; print(m.rcParams['axes.facecolor'], m.rcParams['font.size'])"
    )
    environment = os.environ | {"MATPLOTLIBRC": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8")
    assert run.stdout == "white 10.0\n", run.stderr
