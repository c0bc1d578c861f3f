"""The report's figures, drawn from the recorded results alone, so they are the same in any lane."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tll_utils import siamese
from tll_utils.plots import (
    OURS,
    REPORT,
    TOGETHER,
    accuracy_bars,
    box_diagram,
    save_figure,
    table_picture,
    training_curves,
)
from tll_utils.results import (
    EXPERIMENT_NAMES,
    headlines,
    load_history,
    published_results,
    recorded_methods,
    results_dir,
)
from tll_utils.runtime import project_root

Drawing = tuple[Figure, pd.DataFrame]


def pair_table() -> Drawing:
    """The report's figure 1: the first rows of its pair table."""
    table = pd.read_csv(results_dir() / "pair_table.csv", dtype=str, keep_default_na=False)
    fig, ax = plt.subplots(figsize=(4, 5.6), layout="constrained")
    table_picture(ax, table.head(22))
    return fig, table


def _bars_table(methods: list[dict]) -> pd.DataFrame:
    """The table of `accuracy_bars` of recorded methods."""
    return pd.DataFrame(
        {
            "method": [method["name"] for method in methods],
            "top2": [method["expected_top2"] for method in methods],
            "low": [method["interval95"][0] for method in methods],
            "high": [method["interval95"][1] for method in methods],
        }
    )


def _recorded_bars(*experiments: str, **reference: float) -> Drawing:
    table = _bars_table(recorded_methods(*experiments))
    fig, ax = plt.subplots(figsize=(8, 1.2 + 0.42 * len(table)), layout="constrained")
    accuracy_bars(ax, table, reference=reference)
    return fig, table


def shortcuts() -> Drawing:
    """What can be scored without looking at content, and with descriptors older than deep learning."""
    return _recorded_bars("shortcuts")


def siamese_diagram() -> Drawing:
    """The report's figure 2: two images, one tower, a head on their embeddings."""
    rows = [
        ("left image\n245×200×3", 0, 1, "#eef2f8"),
        ("right image\n245×200×3", 0, -1, "#eef2f8"),
        ("ResNet18 or VGG16", 2.4, 1, "#cfe0f3"),
        ("ResNet18 or VGG16", 2.4, -1, "#cfe0f3"),
        ("pooled\nembedding a", 4.8, 1, "#eef2f8"),
        ("pooled\nembedding b", 4.8, -1, "#eef2f8"),
        ("head: a − b, |a − b|\nor cosine", 7.2, 0, "#f8dfd3"),
        ("score\n1 = match", 9.4, 0, "#d8efe1"),
    ]
    boxes = pd.DataFrame(rows, columns=["text", "x", "y", "color"]).assign(width=1.7, height=0.75)
    arrows = pd.DataFrame([(0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (6, 7)], columns=["start", "end"])
    fig, ax = plt.subplots(figsize=(9, 2.8), layout="constrained")
    box_diagram(ax, boxes, arrows)
    ax.annotate("", (2.4, -0.55), (2.4, 0.55), arrowprops={"arrowstyle": "<->", "linestyle": "--", "color": "#777"})
    ax.text(2.5, 0, "the same weights", va="center", fontsize=8, color="#555")
    return fig, boxes


def model_summary() -> Drawing:
    """The report's figure 3: Siamese ResNet18 with global average pooling, 513 parameters behind the tower."""
    table = siamese.layer_table(siamese.build(siamese.VARIANTS["resnet18_absolute"]))
    fig, ax = plt.subplots(figsize=(7, 2), layout="constrained")
    table_picture(ax, table.astype(str))
    return fig, table


def _curves(*experiments: str, columns: int = 3) -> Drawing:
    history = pd.concat([load_history(experiment) for experiment in experiments], ignore_index=True)
    names = list(history["method"].unique())
    size = (3 * columns, 2.2 * len(names))
    fig, axes = plt.subplots(len(names), columns, figsize=size, squeeze=False, layout="constrained")
    for row, name in zip(axes, names, strict=True):
        training_curves(row, history[history["method"] == name])
        row[0].set_title(name, fontsize=9, loc="left")
    return fig, history


def siamese_resnet18() -> Drawing:
    """The report's figure 4: accuracy and loss of Siamese ResNet18, with the top-2 the report did not plot."""
    return _curves("siamese_resnet18")


def siamese_vgg16() -> Drawing:
    """The report's figure 5: the same for VGG16, and for two other learning rates."""
    return _curves("siamese_vgg16", "siamese_vgg16_rates")


def siamese_infonce() -> Drawing:
    """The same for InfoNCE, whose logits are no probabilities: loss and top-2."""
    return _curves("siamese_infonce", "siamese_infonce_border_neutral", columns=2)


def pretrained() -> Drawing:
    """The embedded pretrained networks beside the report's best number."""
    return _recorded_bars("pretrained", **{"report's best": 0.505})


def face_fusion() -> Drawing:
    """The report's face recipe beside faces that are detected and gated."""
    return _recorded_bars("face_fusion", "sub_categories", **{"report's best": 0.505})


def adapters() -> Drawing:
    """What each ingredient of the best inductive method is worth."""
    return _recorded_bars("adapters", "fine_tuning", **{"report's best": 0.505, "best public claim": 0.83})


def matching() -> Drawing:
    """All questions answered together, beside each by itself."""
    return _recorded_bars("matching", **{"best public claim": 0.83})


def results() -> Drawing:
    """The report's figure 6, its results tables, as bars with the headlines of what is recorded here among them."""
    published = published_results()
    table = pd.DataFrame(
        {
            "method": published["method"] + published["source"].map(lambda source: f" ({source})"),
            "top2": published["top2"],
            "low": published["top2"],
            "high": published["top2"],
            "color": REPORT,
        }
    )
    ours = headlines()
    colors = [OURS if method["task"] == "inductive" else TOGETHER for method in ours]
    table = pd.concat([table, _bars_table(ours).assign(color=colors)], ignore_index=True)
    fig, ax = plt.subplots(figsize=(11, 1.2 + 0.28 * len(table)), layout="constrained")
    accuracy_bars(ax, table)
    kinds = {
        "measured here, on held-out training pairs": OURS,
        "… all questions answered together, another task": TOGETHER,
        "published, on the challenge's test set": REPORT,
    }
    ax.legend(handles=[Patch(color=color, label=label) for label, color in kinds.items()], loc="lower right")
    return fig, table


# name → (how it is drawn, the recorded files it is drawn from)
FIGURES: dict[str, tuple[Callable[[], Drawing], tuple[str, ...]]] = {
    "pair_table": (pair_table, ("pair_table.csv",)),
    "shortcuts": (shortcuts, ("shortcuts.json",)),
    "siamese_diagram": (siamese_diagram, ()),
    "model_summary": (model_summary, ()),
    "siamese_resnet18": (siamese_resnet18, ("siamese_resnet18_history.csv",)),
    "siamese_vgg16": (siamese_vgg16, ("siamese_vgg16_history.csv", "siamese_vgg16_rates_history.csv")),
    "siamese_infonce": (
        siamese_infonce,
        ("siamese_infonce_history.csv", "siamese_infonce_border_neutral_history.csv"),
    ),
    "pretrained": (pretrained, ("pretrained.json",)),
    "face_fusion": (face_fusion, ("face_fusion.json", "sub_categories.json")),
    "adapters": (adapters, ("adapters.json", "fine_tuning.json")),
    "matching": (matching, ("matching.json",)),
    "results": (results, ("published.csv", *(f"{name}.json" for name in EXPERIMENT_NAMES))),
}


def redraw_figures(folder: Path | None = None) -> None:
    """Draw every figure into `figures/`: NAME.png, NAME.csv, and the hashes of data and sources in manifest.json."""
    folder = folder or project_root() / "figures"
    manifest = {}
    for name, (draw, sources) in FIGURES.items():
        fig, data = draw()
        save_figure(fig, name, data, folder=folder)
        plt.close(fig)
        manifest[name] = {
            "data": {f"{name}.csv": file_hash(folder / f"{name}.csv")},
            "sources": {source: file_hash(results_dir() / source) for source in sources},
        }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
