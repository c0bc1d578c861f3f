"""What the report's figures are made of: dots with intervals, tables, boxes, drawn on the axes that are given."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch

from tll_utils.report.plots import CHANCE, OURS, REPORT, TOGETHER

COLUMN, PAGE = 4.2, 7.0  # inches: widths of a column and of two
MARKERS = {"inductive": ("o", OURS), "gallery known": ("D", TOGETHER), "one-to-one": ("s", TOGETHER)}  # of a task
PUBLISHED = {"marker": "o", "color": REPORT, "markerfacecolor": "white", "markeredgewidth": 1.5, "linestyle": ""}
Drawing = tuple[Figure, pd.DataFrame]  # a figure and the data behind it


def accuracy_dots(ax: Axes, table: pd.DataFrame, *, reference: dict[str, float] | None = None) -> None:
    """Top-2 accuracy as dots with intervals, a row a method from top to bottom; the marker tells the task.

    table: columns method, top2, low, high, task; beside and report, each NaN where there is none, are drawn on the
    same row as hollow markers. reference: label → accuracy, drawn as lines.
    """
    rows = range(len(table))[::-1]
    for row, method in zip(rows, table.to_dict("records"), strict=True):
        marker, color = MARKERS[method["task"]]
        ax.plot([method["low"], method["high"]], [row, row], color=color, linewidth=2, alpha=0.6)
        ax.plot(method["report"], row, **PUBLISHED)
        ax.plot(method["beside"], row, marker, color=color, markerfacecolor="white")
        ax.plot(method["top2"], row, marker, color=color)
        ax.text(1.01, row, f"{method['top2']:.3f}", va="center", transform=ax.get_yaxis_transform())
    for label, value in {"chance": CHANCE, **(reference or {})}.items():
        ax.axvline(value, color="#777", linestyle=":", linewidth=1, zorder=0)
        ax.text(value, len(table) - 0.4, label, ha="center", va="bottom", fontsize=8, color="#555")
    ax.set_yticks(rows, table["method"])
    ax.grid(axis="y", color="#eee")
    ax.set(xlabel="expected top-2 (lines: 95 % intervals)", ylim=(-0.6, len(table) - 0.4), axisbelow=True)
    ax.set_xlim(0, max(0.3, table["high"].max() + 0.03))
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)


def dots_legend(fig: Figure, table: pd.DataFrame, *, beside: str) -> None:
    """What the markers of `accuracy_dots` mean, as far as the table has them; beside: the words for that column."""
    tasks = {task: MARKERS[task] for task in MARKERS if (table["task"] == task).any()}
    handles = [Line2D([], [], linestyle="", marker=marker, color=color) for marker, color in tasks.values()]
    labels = list(tasks)
    if table["beside"].notna().any():
        marker, color = next(iter(tasks.values()))
        handles.append(Line2D([], [], linestyle="", marker=marker, color=color, markerfacecolor="white"))
        labels.append(beside)
    if table["report"].notna().any():
        handles.append(Line2D([], [], **PUBLISHED))
        labels.append("the report, on the challenge's test set")
    if len(labels) > 1:
        fig.legend(handles, labels, loc="outside lower center", ncols=2 if len(labels) == 2 else 3, handletextpad=0.2)


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
        ax.text(x, y, text, ha="center", va="center")
    for a, b in ((boxes[start], boxes[end]) for start, end in arrows):
        tail, tip = (a.x + a.width / 2 + 0.03, a.y), (b.x - b.width / 2 - 0.03, b.y)
        ax.annotate("", tip, tail, arrowprops={"arrowstyle": "->", "color": "#333"})
    xs, ys = [box.x for box in boxes], [box.y for box in boxes]
    ax.set(xlim=(min(xs) - 1, max(xs) + 1), ylim=(min(ys) - 0.6, max(ys) + 0.6))
    ax.set_axis_off()
