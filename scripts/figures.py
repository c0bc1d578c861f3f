"""The report's figures, of recorded results, the sample and the shipped model: the same for every data source."""

import inspect
import json
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.image import AxesImage

from scripts import table_figures
from scripts.drawing import COLUMN, PAGE, Box, Drawing, accuracy_dots, box_diagram, dots_legend, table_picture
from scripts.house import house
from scripts.recording import FAMILIES
from tll_utils.data.dataset import load_dataset
from tll_utils.data.images import HEIGHT, WIDTH
from tll_utils.evaluation.statistics import bootstrap_interval
from tll_utils.methods.adapters import VARIANTS
from tll_utils.methods.from_scratch import SiameseNetwork
from tll_utils.methods.registry import get_entry
from tll_utils.report import plots
from tll_utils.report.experiments import EXPERIMENTS, faces_in_pair
from tll_utils.report.results import load_per_left, load_table, published_results, recorded_methods, results_dir
from tll_utils.report.submission import candidate_scores
from tll_utils.runtime import atomic_write, project_root, sha256_of, write_text
from tll_utils.search.commands import SHIPPED
from tll_utils.search.saving import load
from tll_utils.siamese.training import layer_table

# Texts of an SVG stay texts, and it is the same file each time.
STYLE: dict[Any, Any] = {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "tll"}
NEUTRAL, BORDERLESS = ", border-neutral", "on images without borders"
PUBLISHED_BEST = {
    "report's best": "report",
    "a blog's claim": "a blog's claim, without metric or backbone",
}  # label → source
N_PAIRS, MORE_PAIRS = 1280, (1600, 2000)  # training pairs: in a fold of TLL; in all of them and of the challenge
QUESTION = 16  # row of the sample's query that the figure of the task shows
Recipe = tuple[Callable[[], Drawing], tuple[str, ...]]  # how it is drawn, the files of data/results it is drawn from


def task() -> Drawing:
    """A query of the sample, its twenty candidates, and the ranks that the shipped model gives them."""
    root = project_root()
    dataset = load_dataset(root / "data" / "sample")
    model = load(root / "tll_utils" / "search" / SHIPPED)
    scores, truth = candidate_scores(dataset, model)[QUESTION], np.asarray(dataset.test.truth)[QUESTION]
    rank = 1 + np.argsort(np.argsort(-scores))
    fig = plt.figure(figsize=(PAGE, 2), layout="constrained")
    panels: Any = fig.subfigures(1, 2, width_ratios=(1.5, 10))
    plots.show_image(panels[0].subplots(), dataset.test.left[QUESTION], "which of these\nlooks like it?")
    for i, ax in enumerate(panels[1].subplots(2, 10).flat):
        frame = plots.TRUE if i == truth else plots.OURS if rank[i] <= 2 else None
        image = dataset.test.right[dataset.test.candidates[QUESTION, i]]
        plots.show_image(ax, image, f"{rank[i]}." + " truth" * int(i == truth), frame=frame)
    for image in fig.findobj(AxesImage):
        image.set_clip_on(False)  # an SVG names what clips by its place in memory
    return fig, pd.DataFrame({"candidate": range(20), "rank": rank, "is_truth": np.arange(20) == truth})


def pair_table() -> Drawing:
    """The first rows of the report's pair table."""
    table = pd.read_csv(results_dir() / "pair_table.csv", dtype=str, keep_default_na=False, encoding="utf-8")
    fig, ax = plt.subplots(figsize=(COLUMN, 5.6), layout="constrained")
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
    fig, ax = plt.subplots(figsize=(PAGE, 2), layout="constrained")
    table_picture(ax, table.astype(str))
    return fig, table


def results() -> Drawing:
    """The report's best of each family and ours: the README's table as a picture."""
    published = published_results().set_index("method")["top2"]
    table = _table(recorded_methods(*EXPERIMENTS)).drop_duplicates("method").set_index("method")
    rows = [{"method": name.replace("`", ""), **table.loc[ours], "report": published.get(theirs, np.nan)}
            for name, theirs, ours in FAMILIES if ours in table.index]  # fmt: skip
    return _dots(pd.DataFrame(rows))


def ablation() -> Drawing:
    """The five adapters of `best`: each alone, and what the other four are together."""
    members = load_table("ablation", "members")
    words = ["all inputs", "all but the faces", *(f"Lite{variant} and the faces" for variant in VARIANTS)]
    table = pd.DataFrame({"method": words, "top2": members["alone"], "low": members["alone_low"]})
    table = table.assign(high=members["alone_high"], task="inductive", beside=members["without"], report=np.nan)
    best = _table(recorded_methods("ablation")).iloc[:1].assign(method="all five: best", beside=np.nan)
    return _dots(pd.concat([table, best], ignore_index=True), beside="the other four without it")


def learning_curve() -> Drawing:
    """Accuracy by the number of training pairs; straight lines in its logarithm through the last four predict more."""
    full = _table(recorded_methods("ablation")).rename(columns={"low": "top2_low", "high": "top2_high"})
    table = pd.concat([load_table("ablation", "learning_curve"), full.assign(pairs=N_PAIRS)])
    table = table.drop(columns=["task", "beside", "report"]).assign(predicted=False)
    fig, ax = plt.subplots(figsize=(PAGE, 2.6), layout="constrained")
    for name, marker, color in (("best", "o", plots.OURS), ("fast", "s", plots.TOGETHER)):
        curve = table[table["method"] == get_entry(name).title].sort_values("pairs")
        ax.plot(curve["pairs"], curve["top2"], marker, color=color, label=name, linestyle="-")
        ax.vlines(curve["pairs"], curve["top2_low"], curve["top2_high"], color=color, linewidth=2, alpha=0.6)
        slope, start = np.polyfit(np.log2(curve["pairs"][-4:]), curve["top2"][-4:], 1)
        more = pd.DataFrame({"pairs": MORE_PAIRS, "top2": start + slope * np.log2(MORE_PAIRS), "predicted": True})
        ax.plot(more["pairs"], more["top2"], marker, color=color, markerfacecolor="white", linestyle=":")
        table = pd.concat([table, more.assign(method=get_entry(name).title)])
    pairs = sorted(table["pairs"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(pairs, [f"{n:,}" for n in pairs])
    ax.set(xlabel="training pairs (hollow: predicted)", ylabel="expected top-2")
    ax.legend(loc="lower right")
    return fig, table.round(4)


def by_face() -> Drawing:
    """Accuracy by where a face was found: of the best method, and of the best without any face model."""
    faces = faces_in_pair(load_table("face_fusion", "faces").set_index("left"))
    best = load_per_left("adapters", "top2")[get_entry("best").title]
    without = load_per_left("licences", "top2")[get_entry("best_without_faces").title]
    names = {"both": "a face on both sides", "left only": "on the left only", "right only": "on the right only"}
    return _groups(faces, names | {"none": "none"}, best, without, beside="without any face model")


def by_border() -> Drawing:
    """Accuracy by what the borders alone give away: of the best method, and on images whose borders are cut off."""
    border = load_per_left("shortcuts", "top2")[get_entry("border_geometry").title]
    best = load_per_left("adapters", "top2")
    kinds = pd.cut(border, [-1, 0.05, 0.5, 1], labels=["hide", "hint", "tell"])
    names = {"tell": "borders alone solve it (chance > 0.5)", "hint": "… may solve it (0.05 to 0.5)"}
    names |= {"hide": "… mislead (< 0.05)"}
    columns = best[get_entry("best").title], best[get_entry("best_border_neutral").title]
    return _groups(kinds, names, *columns)


def _groups(kind: pd.Series, names: dict[str, str], top2: pd.Series, other: pd.Series, **options) -> Drawing:
    """Dots of the pairs of each kind: two methods' chances to solve a left image, in order of the names."""
    rows = []
    for name, text in names.items():
        chosen = top2[kind[top2.index] == name]
        low, high = bootstrap_interval(chosen)
        row = {"method": f"{text}, {len(chosen)} pairs", "top2": chosen.mean(), "low": low, "high": high}
        rows.append(row | {"task": "inductive", "beside": other[chosen.index].mean(), "report": np.nan})
    return _dots(pd.DataFrame(rows), **options)


def _table(methods: Sequence[dict]) -> pd.DataFrame:
    """The table of `accuracy_dots` of recorded methods; the border-neutral form of a method stands beside it."""
    rows = [(m["name"], m["expected_top2"], *m["interval95"], m["task"]) for m in methods]
    table = pd.DataFrame(rows, columns=["method", "top2", "low", "high", "task"])
    top2 = table.drop_duplicates("method").set_index("method")["top2"]
    return table.assign(beside=(table["method"] + NEUTRAL).map(top2), report=np.nan)


def _dots(table: pd.DataFrame, *, beside: str = BORDERLESS, reference: dict[str, float] | None = None) -> Drawing:
    names = [textwrap.fill(name, 48) for name in table["method"]]
    height = 1 + 0.2 * len(table) + 0.1 * "\n".join(names).count("\n")
    fig, ax = plt.subplots(figsize=(PAGE, height), layout="constrained")
    accuracy_dots(ax, table.assign(method=names), reference=reference)
    dots_legend(fig, table, beside=beside)
    return fig, table.round(6)


def _draw_methods(experiments: Sequence[str], beside: Sequence[str]) -> Drawing:
    """The recorded methods of experiments, best first, each with its border-neutral form where there is one."""
    table = _table(recorded_methods(*experiments)).sort_values("top2", ascending=False)
    is_neutral = table["method"].str.removesuffix(NEUTRAL).isin(table["method"]) & table["method"].str.endswith(NEUTRAL)
    published = published_results().sort_values("top2").drop_duplicates("source", keep="last").set_index("source")
    reference = {label: published.loc[PUBLISHED_BEST[label], "top2"] for label in beside}
    return _dots(table[~is_neutral], reference=reference)


def _draw_curves(experiments: Sequence[str], columns: int) -> Drawing:
    history = pd.concat([load_table(experiment, "history") for experiment in experiments], ignore_index=True)
    names = list(history["method"].unique())
    size = (PAGE * columns / 3, 1.9 * len(names))
    fig, axes = plt.subplots(len(names), columns, figsize=size, squeeze=False, layout="constrained")
    for row, name in zip(axes, names, strict=True):
        plots.training_curves(row, history.query("method == @name"))
        row[0].set_title(name, fontsize=9, loc="left")
    return fig, history


def _methods(*experiments: str, beside: Sequence[str] = ()) -> Recipe:
    files = [*(f"{name}.json" for name in experiments), *["published.csv"] * bool(beside)]
    return partial(_draw_methods, experiments, beside), tuple(files)


def _curves(*experiments: str, columns: int = 3) -> Recipe:
    return partial(_draw_curves, experiments, columns), tuple(f"{name}_history.csv" for name in experiments)


FIGURES: dict[str, Recipe] = {
    "task": (task, ()),
    "house": (house, ()),  # of the code: which room imports which
    "pair_table": (pair_table, ("pair_table.csv",)),  # the report's figure 1
    # What can be scored without looking at content, and with descriptors older than deep learning.
    "shortcuts": _methods("shortcuts"),
    "siamese_diagram": (siamese_diagram, ()),  # the report's figure 2
    "model_summary": (model_summary, ()),  # the report's figure 3
    # The report's figures 4 and 5, with the top-2 it did not plot and, of VGG16, two other learning rates.
    "siamese_resnet18": _curves("siamese_resnet18"),
    "siamese_full_size": _curves("siamese_full_size"),
    "siamese_vgg16": _curves("siamese_vgg16", "siamese_vgg16_rates"),
    # The logits of InfoNCE are no probabilities: loss and top-2 alone.
    "siamese_infonce": _curves("siamese_infonce", "siamese_infonce_border_neutral", columns=2),
    "layers": (table_figures.layers, ("layers_layers.csv",)),
    "pretrained": _methods("pretrained", beside=["report's best"]),
    "face_weight": (table_figures.face_weight, ("face_weight_weights.csv",)),
    # The report's face recipe beside faces that are detected and gated.
    "face_fusion": _methods("face_fusion", "sub_categories", beside=["report's best"]),
    # What each ingredient of the best inductive method is worth.
    "adapters": _methods(
        "adapters",
        "fine_tuning",
        "self_training",
        "self_training_border_neutral",
        beside=["report's best", "a blog's claim"],
    ),
    "ablation": (ablation, ("ablation.json", "ablation_members.csv")),
    "learning_curve": (learning_curve, ("ablation.json", "ablation_learning_curve.csv")),
    "one_to_one": _methods("one_to_one", "self_training_one_to_one", beside=["a blog's claim"]),
    "confidence": (table_figures.confidence, ("confidence_confidence.csv",)),
    "growth": (table_figures.growth, ("bench.json",)),
    "by_face": (by_face, ("face_fusion_faces.csv", "adapters_top2.csv", "licences_top2.csv")),
    "by_border": (by_border, ("shortcuts_top2.csv", "adapters_top2.csv")),
    # The report's figure 6.
    "results": (results, ("published.csv", *(f"{name}.json" for name in EXPERIMENTS))),
}


def redraw_figures(folder: Path | None = None) -> None:
    """Draw every figure into `figures/`: NAME.png, NAME.svg, NAME.csv; in manifest.json the hashes of what made it."""
    folder = folder or project_root() / "figures"
    plt.switch_backend("agg")  # a window is never needed
    manifest = {}
    for name, (draw, sources) in FIGURES.items():
        with plt.rc_context(STYLE):
            fig, data = draw()
            plots.save_figure(fig, name, data, folder=folder)
            with atomic_write(folder / f"{name}.svg") as partial_file:
                fig.savefig(partial_file, format="svg", metadata={"Date": None})
        plt.close(fig)
        files = [results_dir() / source for source in sources]
        manifest[name] = {
            "data": {f"{name}.csv": sha256_of(folder / f"{name}.csv")},
            "sources": {file.name: sha256_of(file) for file in files if file.exists()},  # not all are recorded
            "code": code_hash(draw),
        }
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def code_hash(draw: Callable[[], Drawing]) -> str:
    """SHA-256 of the function that draws a figure, of its arguments and of what all figures are made of."""
    function, arguments = (draw.func, (draw.args, draw.keywords)) if isinstance(draw, partial) else (draw, ())
    texts = [inspect.getsource(function), repr(arguments), repr(STYLE)]
    files = [project_root() / "scripts" / "drawing.py", project_root() / "tll_utils" / "report" / "plots.py"]
    return sha256("\n".join(texts + [file.read_text(encoding="utf-8") for file in files]).encode()).hexdigest()
