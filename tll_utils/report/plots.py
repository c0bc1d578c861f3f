"""Pictures: functions draw on the axes they are given, nothing here loads or computes."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tll_utils.data.pairs import Pairs
from tll_utils.runtime import atomic_write, build_dir, write_text

TRUE, FOIL, REPORT, OURS, TOGETHER = "#2a9d5c", "#b9bec7", "#e07a3f", "#3567a8", "#7b5ea7"
CHANCE = 0.10
matplotlib.style.use("default")  # a user's matplotlibrc would change figures that are compared
plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 8}


def show_image(ax: Axes, image: np.ndarray, title: str = "", *, frame: str | None = None) -> None:
    """Draw one image (height, width, 3), with a coloured frame where one is given."""
    ax.imshow(image)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=8)
    for spine in ax.spines.values():
        spine.set(visible=frame is not None, color=frame, linewidth=4)


def image_grid(
    images: Sequence[Sequence[np.ndarray]], titles: Sequence[Sequence[str]] | None = None,
    frames: Sequence[Sequence[str | None]] | None = None,
) -> Figure:  # fmt: skip
    """Rows of images with optional titles and frame colours; each argument is a list of rows."""
    n_rows, n_columns = len(images), max(map(len, images))
    size = (1.2 * n_columns, 1.5 * n_rows + (0.2 * n_rows if titles else 0))
    fig, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.set_axis_off()
    for row in range(n_rows):
        for ax, column in zip(axes[row], range(len(images[row])), strict=False):
            ax.set_axis_on()
            title, frame = titles[row][column] if titles else "", frames[row][column] if frames else None
            show_image(ax, images[row][column], title, frame=frame)
    return fig


def pair_grid(pairs: Pairs, rows: Sequence[int], titles: Sequence[str] | None = None) -> Figure:
    """Some pairs, left images in the upper row, their right images below."""
    titles = titles or [pairs.left.ids[row] for row in rows]
    lefts, rights = ([side[row] for row in rows] for side in (pairs.left, pairs.right))
    return image_grid([lefts, rights], [titles, [""] * len(rows)])


def candidate_grid(
    left: np.ndarray, candidates: Sequence[np.ndarray], scores: np.ndarray, truth: int | None, *, title: str = ""
) -> Figure:
    """A left image and its candidates, best score first; the true one, where it is known, in a green frame."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    shown = [(candidates[j], f"{scores[j]:.2f}", TRUE if j == truth else None) for j in order]
    half, blank = (len(shown) + 1) // 2, (np.full_like(left, 255), "", None)
    rows = [[(left, title, None), *shown[:half]], [blank, *shown[half:]]]
    return image_grid(*([[cell[part] for cell in row] for row in rows] for part in range(3)))


def score_histogram(ax: Axes, S: np.ndarray, match: np.ndarray, *, xlabel: str) -> None:
    """Distributions of the scores of true pairs and of foils, each with area one."""
    is_true = np.arange(S.shape[1]) == match[:, None]
    bins = np.linspace(S.min(), S.max(), 40)
    ax.hist(S[~is_true], bins, density=True, color=FOIL, label="foils")
    ax.hist(S[is_true], bins, density=True, color=TRUE, alpha=0.7, label="true pairs")
    ax.set(xlabel=xlabel, ylabel="density")
    ax.legend()


def heat_map(ax: Axes, table: pd.DataFrame, *, label: str) -> None:
    """A table of numbers as coloured cells with the numbers in them."""
    values = table.to_numpy(float)
    ax.imshow(values, cmap="YlGnBu", aspect="auto")
    ax.set_xticks(range(len(table.columns)), [textwrap.fill(str(name), 16) for name in table.columns])
    ax.set_yticks(range(len(table.index)), [textwrap.fill(str(name), 40) for name in table.index])
    middle = (values.min() + values.max()) / 2
    for (row, column), value in np.ndenumerate(values):
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > middle else "#222")
    ax.set_title(label, fontsize=10)
    ax.spines[:].set_visible(False)


def training_curves(axes: Sequence[Axes], history: pd.DataFrame) -> None:
    """Pair accuracy, loss and expected top-2 against the epoch on three axes, training and validation.

    On two axes without the pair accuracy. history: the table of `siamese.training.fit`. The best epoch by validation
    top-2 is marked; an axis whose column is NaN stays empty.
    """
    best = history["epoch"].iloc[history["val_top2"].argmax()]
    labels = {"pair_accuracy": "pair accuracy", "loss": "loss", "top2": "expected top-2"}
    for ax, measure in zip(axes, list(labels)[-len(axes) :], strict=True):
        if np.isnan(history[measure]).all():
            ax.set_axis_off()
            continue
        ax.plot(history["epoch"], history[measure], color=OURS, marker=".", label="training")
        ax.plot(history["epoch"], history[f"val_{measure}"], color=REPORT, marker=".", label="validation")
        ax.axvline(best, color="#999", linestyle=":", linewidth=1)
        ax.set(xlabel="epoch", ylabel=labels[measure])
        ax.locator_params(axis="x", integer=True)
    axes[-1].axhline(CHANCE, color="#777", linestyle="--", linewidth=1)
    axes[-1].set_ylim(0, 1.02)
    axes[-2].legend()


def save_figure(fig: Figure, name: str, data: pd.DataFrame, *, folder: Path | None = None) -> None:
    """Write `<name>.png` and the data behind it as `<name>.csv` (default folder: `build/figures`)."""
    folder = folder or build_dir() / "figures"
    with atomic_write(folder / f"{name}.png") as partial:
        fig.savefig(partial, format="png", dpi=150, metadata={"Software": None})
    write_text(folder / f"{name}.csv", data.to_csv(index=False, lineterminator="\n"))
