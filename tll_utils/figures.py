"""The report's figures, drawn from the recorded results alone, so they are the same in any lane."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tll_utils.plots import OURS, REPORT, accuracy_bars, save_figure, table_picture
from tll_utils.results import load_results, published_results, results_dir
from tll_utils.runtime import project_root

Drawing = tuple[Figure, pd.DataFrame]


def pair_table() -> Drawing:
    """The report's figure 1: the first rows of its pair table."""
    table = pd.read_csv(results_dir() / "pair_table.csv", dtype=str, keep_default_na=False)
    fig, ax = plt.subplots(figsize=(4, 5.6), layout="constrained")
    table_picture(ax, table.head(22))
    return fig, table


def _recorded_bars(experiment: str, **reference: float) -> Drawing:
    methods = load_results(experiment)["methods"]
    table = pd.DataFrame(
        {
            "method": [method["name"] for method in methods],
            "top2": [method["expected_top2"] for method in methods],
            "low": [method["interval95"][0] for method in methods],
            "high": [method["interval95"][1] for method in methods],
        }
    )
    fig, ax = plt.subplots(figsize=(8, 1.2 + 0.42 * len(table)), layout="constrained")
    accuracy_bars(ax, table, reference=reference)
    return fig, table


def shortcuts() -> Drawing:
    """What can be scored without looking at content, and with descriptors older than deep learning."""
    return _recorded_bars("shortcuts")


def pretrained() -> Drawing:
    """The embedded pretrained networks beside the report's best number."""
    return _recorded_bars("pretrained", **{"report's best": 0.505})


def results() -> Drawing:
    """The report's figure 6, its results tables, as bars with what is recorded here among them."""
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
    best = pd.concat(_recorded_bars(experiment)[1] for experiment in ("shortcuts", "pretrained"))
    plt.close("all")
    table = pd.concat([table, best.assign(color=OURS)], ignore_index=True)
    fig, ax = plt.subplots(figsize=(9, 1.2 + 0.34 * len(table)), layout="constrained")
    accuracy_bars(ax, table)
    kinds = {"measured here, cross-validated": OURS, "published, on the challenge's test set": REPORT}
    ax.legend(handles=[Patch(color=color, label=label) for label, color in kinds.items()], loc="lower right")
    return fig, table


# name → (how it is drawn, the recorded files it is drawn from)
FIGURES: dict[str, tuple[Callable[[], Drawing], tuple[str, ...]]] = {
    "pair_table": (pair_table, ("pair_table.csv",)),
    "shortcuts": (shortcuts, ("shortcuts.json",)),
    "pretrained": (pretrained, ("pretrained.json",)),
    "results": (results, ("published.csv", "shortcuts.json", "pretrained.json")),
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
