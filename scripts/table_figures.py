"""Figures of what decides about a method: its layer, the weight of its faces, and whether its confidence holds."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from scripts.drawing import COLUMN, PAGE, Drawing
from scripts.growth import plot
from tll_utils.evaluation.statistics import bootstrap_interval
from tll_utils.features.backbones import POOLS
from tll_utils.methods.registry import REPORT_FACE_WEIGHT
from tll_utils.report import plots
from tll_utils.report.results import load_table, results_dir
from tll_utils.runtime import read_json

N_BINS = 8  # of confidences, with equally many answers
POOL_NAMES = {"grid4x3": "4×3", "grid3x2": "3×2", "average": "mean", "max": "max"}


def layers() -> Drawing:
    """Expected top-2 of centred cosines by network, layer and pooling."""
    table = load_table("layers", "layers")
    networks = table.groupby("network", sort=False)
    fig, axes = plt.subplots(1, len(networks), figsize=(PAGE, 2.6), sharey=True, layout="constrained")
    for ax, (network, rows) in zip(axes, networks, strict=True):
        cells = rows.pivot(index="layer", columns="pooling", values="top2").loc[rows["layer"].unique(), list(POOLS)]
        plots.heat_map(ax, cells.rename(columns=POOL_NAMES), label=str(network))
        ax.images[0].set_clim(table["top2"].min(), table["top2"].max())
    axes[0].set_ylabel("layer")
    return fig, table


def face_weight() -> Drawing:
    """The report's weighted sum of image and whole-image face, by the weight of the face."""
    table = load_table("face_weight", "weights")
    fig, ax = plt.subplots(figsize=(COLUMN, 2.6), layout="constrained")
    ax.plot(table["weight"], table["raw"], ".-", color=plots.REPORT, label="cosines as they are (the report)")
    ax.plot(table["weight"], table["standardised"], "s-", color=plots.OURS, markersize=3, label="scaled alike first")
    ax.axvline(REPORT_FACE_WEIGHT, color="#777", linestyle=":")
    ax.text(REPORT_FACE_WEIGHT, ax.get_ylim()[0], " 66 %", color="#555", fontsize=8, va="bottom")
    ax.set(xlabel="weight of the face scores", ylabel="expected top-2")
    ax.legend()
    return fig, table


def growth() -> Drawing:
    """Seconds and megabytes against the number of images, vectors or queries."""
    table = pd.DataFrame(read_json(results_dir() / "bench.json")["growth"])
    return plot(table), table


def confidence() -> Drawing:
    """How often the first choice is right by how sure it is, alone and together; on the diagonal both agree."""
    rows = []
    for answered, table in load_table("confidence", "confidence").groupby("answered"):
        for _, some in table.groupby(pd.qcut(table["confidence"], N_BINS, duplicates="drop"), observed=True):
            low, high = bootstrap_interval(some["is_right"])
            means: dict[str, Any] = some[["confidence", "is_right"]].mean().round(4).to_dict()
            rows.append({"answered": answered, "n": len(some)} | means | {"low": low, "high": high})
    bins = pd.DataFrame(rows).round(4)
    fig, ax = plt.subplots(figsize=(COLUMN, 3), layout="constrained")
    ax.plot([0, 1], [0, 1], color="#777", linestyle="--", linewidth=1)
    for marker, color, (answered, some) in zip(
        "os", (plots.OURS, plots.TOGETHER), bins.groupby("answered"), strict=True
    ):
        ax.vlines(some["confidence"], some["low"], some["high"], color=color, alpha=0.6, linewidth=2)
        ax.plot(some["confidence"], some["is_right"], marker, color=color, label=str(answered), markersize=4)
    ax.set(xlabel="confidence in the first of twenty", ylabel="how often it is the truth", ylim=(0, 1.02))
    ax.legend(title="answered")
    return fig, bins
