"""The report's figures, drawn from the recorded results alone, so they are the same for every data source."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

from tll_utils.data.images import HEIGHT, WIDTH
from tll_utils.methods.from_scratch import SiameseNetwork
from tll_utils.report import plots
from tll_utils.report.experiments import EXPERIMENTS
from tll_utils.report.results import load_table, published_results, recorded_methods, results_dir
from tll_utils.runtime import project_root, sha256_of, write_text
from tll_utils.siamese.training import layer_table

PUBLISHED_BEST = {"report's best": "report", "best public claim": "best public claim elsewhere"}  # label → source
Drawing = tuple[Figure, pd.DataFrame]
Recipe = tuple[Callable[[], Drawing], tuple[str, ...]]  # how it is drawn, the files of data/results it is drawn from


def pair_table() -> Drawing:
    """The first rows of the report's pair table."""
    table = pd.read_csv(results_dir() / "pair_table.csv", dtype=str, keep_default_na=False, encoding="utf-8")
    fig, ax = plt.subplots(figsize=(4, 5.6), layout="constrained")
    table_picture(ax, table.head(22))
    return fig, table


def siamese_diagram() -> Drawing:
    """Two images, one tower, a head on their embeddings."""
    boxes = [
        Box("left image\n245×200×3", 0, 1, "#eef2f8"),
        Box("right image\n245×200×3", 0, -1, "#eef2f8"),
        Box("ResNet18 or VGG16", 2.4, 1, "#cfe0f3"),
        Box("ResNet18 or VGG16", 2.4, -1, "#cfe0f3"),
        Box("pooled\nembedding a", 4.8, 1, "#eef2f8"),
        Box("pooled\nembedding b", 4.8, -1, "#eef2f8"),
        Box("head: a − b, |a − b|\nor cosine", 7.2, 0, "#f8dfd3"),
        Box("score\n1 = match", 9.4, 0, "#d8efe1"),
    ]
    fig, ax = plt.subplots(figsize=(9, 2.8), layout="constrained")
    box_diagram(ax, boxes, [(0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (6, 7)])
    ax.annotate("", (2.4, -0.55), (2.4, 0.55), arrowprops={"arrowstyle": "<->", "linestyle": "--", "color": "#777"})
    ax.text(2.5, 0, "the same weights", va="center", fontsize=8, color="#555")
    return fig, pd.DataFrame(boxes)


def model_summary() -> Drawing:
    """Siamese ResNet18 with global average pooling, 513 parameters behind the tower."""
    table = layer_table(SiameseNetwork(size=(HEIGHT, WIDTH)).build())
    fig, ax = plt.subplots(figsize=(7, 2), layout="constrained")
    table_picture(ax, table.astype(str))
    return fig, table


def results() -> Drawing:
    """The report's results tables as bars, with the headlines of what is recorded here among them."""
    titles = {row.title for experiment in EXPERIMENTS.values() for row in experiment.rows() if row.headline}
    table, ours = published_results(), [m for m in recorded_methods(*EXPERIMENTS) if m["name"] in titles]
    names = table["method"] + " (" + table.pop("source") + ")"
    table = table.assign(method=names, low=table["top2"], high=table["top2"], color=plots.REPORT)
    colors = [plots.OURS if method["task"] == "inductive" else plots.TOGETHER for method in ours]
    table = pd.concat([table, _bars_table(ours).assign(color=colors)], ignore_index=True)
    fig, ax = plt.subplots(figsize=(11, 1.2 + 0.28 * len(table)), layout="constrained")
    plots.accuracy_bars(ax, table)
    kinds = {
        "measured here, on held-out training pairs": plots.OURS,
        "… all questions answered together, another task": plots.TOGETHER,
        "published, on the challenge's test set": plots.REPORT,
    }
    ax.legend(handles=[Patch(color=color, label=label) for label, color in kinds.items()], loc="lower right")
    return fig, table


def _bars_table(methods: Sequence[dict]) -> pd.DataFrame:
    """The table of `accuracy_bars` of recorded methods."""
    rows = [(method["name"], method["expected_top2"], *method["interval95"]) for method in methods]
    return pd.DataFrame(rows, columns=["method", "top2", "low", "high"])


def _draw_bars(experiments: Sequence[str], beside: Sequence[str]) -> Drawing:
    table, published = _bars_table(recorded_methods(*experiments)), published_results().sort_values("top2")
    best = dict(zip(published["source"], published["top2"], strict=True))  # the last of a source is its best
    fig, ax = plt.subplots(figsize=(9, 1.2 + 0.42 * len(table)), layout="constrained")
    plots.accuracy_bars(ax, table, reference={label: best[PUBLISHED_BEST[label]] for label in beside})
    return fig, table


def _draw_curves(experiments: Sequence[str], columns: int) -> Drawing:
    history = pd.concat([load_table(experiment, "history") for experiment in experiments], ignore_index=True)
    names = list(history["method"].unique())
    size = (3 * columns, 2.2 * len(names))
    fig, axes = plt.subplots(len(names), columns, figsize=size, squeeze=False, layout="constrained")
    for row, name in zip(axes, names, strict=True):
        plots.training_curves(row, history.query("method == @name"))
        row[0].set_title(name, fontsize=9, loc="left")
    return fig, history


def _bars(*experiments: str, beside: Sequence[str] = ()) -> Recipe:
    files = [*(f"{name}.json" for name in experiments), *["published.csv"] * bool(beside)]
    return partial(_draw_bars, experiments, beside), tuple(files)


def _curves(*experiments: str, columns: int = 3) -> Recipe:
    return partial(_draw_curves, experiments, columns), tuple(f"{name}_history.csv" for name in experiments)


def table_picture(ax: Axes, table: pd.DataFrame) -> None:
    """A small table as a picture."""
    ax.set_axis_off()
    ax.table(table.to_numpy().tolist(), colLabels=list(table.columns), loc="center", cellLoc="center").scale(1, 1.3)


class Box(NamedTuple):
    """A box of a diagram with its centre (x, y)."""

    text: str
    x: float
    y: float
    color: str
    width: float = 1.7
    height: float = 0.75


def box_diagram(ax: Axes, boxes: Sequence[Box], arrows: Sequence[tuple[int, int]]) -> None:
    """Boxes with texts, and arrows from the right edge of one (its number) to the left edge of another."""
    for text, x, y, color, width, height in boxes:
        corner = (x - width / 2, y - height / 2)
        ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle="round,pad=0.02", fc=color, ec="#555"))
        ax.text(x, y, text, ha="center", va="center", fontsize=9)
    for a, b in ((boxes[start], boxes[end]) for start, end in arrows):
        tail, tip = (a.x + a.width / 2 + 0.03, a.y), (b.x - b.width / 2 - 0.03, b.y)
        ax.annotate("", tip, tail, arrowprops={"arrowstyle": "->", "color": "#333"})
    xs, ys = [box.x for box in boxes], [box.y for box in boxes]
    ax.set(xlim=(min(xs) - 1, max(xs) + 1), ylim=(min(ys) - 0.6, max(ys) + 0.6))
    ax.set_axis_off()


FIGURES: dict[str, Recipe] = {
    "pair_table": (pair_table, ("pair_table.csv",)),  # the report's figure 1
    # What can be scored without looking at content, and with descriptors older than deep learning.
    "shortcuts": _bars("shortcuts"),
    "siamese_diagram": (siamese_diagram, ()),  # the report's figure 2
    "model_summary": (model_summary, ()),  # the report's figure 3
    # The report's figures 4 and 5, with the top-2 it did not plot and, of VGG16, two other learning rates.
    "siamese_resnet18": _curves("siamese_resnet18"),
    "siamese_vgg16": _curves("siamese_vgg16", "siamese_vgg16_rates"),
    # The logits of InfoNCE are no probabilities: loss and top-2 alone.
    "siamese_infonce": _curves("siamese_infonce", "siamese_infonce_border_neutral", columns=2),
    "pretrained": _bars("pretrained", beside=["report's best"]),
    # The report's face recipe beside faces that are detected and gated.
    "face_fusion": _bars("face_fusion", "sub_categories", beside=["report's best"]),
    # What each ingredient of the best inductive method is worth.
    "adapters": _bars("adapters", "fine_tuning", beside=["report's best", "best public claim"]),
    "one_to_one": _bars("one_to_one", beside=["best public claim"]),
    "results": (results, ("published.csv", *(f"{name}.json" for name in EXPERIMENTS))),  # the report's figure 6
}


def redraw_figures(folder: Path | None = None) -> None:
    """Draw every figure into `figures/`: NAME.png, NAME.csv, and the hashes of data and sources in manifest.json."""
    folder = folder or project_root() / "figures"
    plt.switch_backend("agg")  # a window is never needed
    manifest = {}
    for name, (draw, sources) in FIGURES.items():
        fig, data = draw()
        plots.save_figure(fig, name, data, folder=folder)
        plt.close(fig)
        files = [results_dir() / source for source in sources]
        manifest[name] = {
            "data": {f"{name}.csv": sha256_of(folder / f"{name}.csv")},
            "sources": {file.name: sha256_of(file) for file in files if file.exists()},  # not all are recorded
        }
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
