"""The house in one diagram: the rooms of the package and which imports which, read from the code."""

import ast
from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from scripts.drawing import Box, box_diagram
from tll_utils.runtime import project_root

PLACES = {  # room → place in the diagram (x, y) and what it holds
    "runtime": (0, 0, "paths, locks, seeds"),
    "data": (2.4, 0, "images, pairs, folds"),
    "features": (4.8, 0.7, "embeddings, cached"),
    "siamese": (4.8, -0.7, "from scratch"),
    "similarity": (2.4, 1.4, "embeddings → S"),
    "evaluation": (2.4, -1.4, "S → numbers"),
    "methods": (7.2, 0, "fit and scores"),
    "report": (9.6, 0, "recorded results"),
    "search": (12, 0, "your own pictures"),
    "cli": (14.4, 0, "the command tll"),
}


def room_imports() -> set[tuple[str, str]]:
    """(room, room it imports) of the whole package."""
    root, found = project_root() / "tll_utils", set()
    for path in root.rglob("*.py"):
        room = path.relative_to(root).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tll_utils"):
                module = str(node.module).split(".")[1:]  # empty: from tll_utils import runtime
                found |= {(room, other) for other in (module[:1] or [alias.name for alias in node.names])}
    return {(room, other) for room, other in found if room != other and {room, other} <= set(PLACES)}


def direct(imports: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The imports that do not follow from others: with a → b → c, a → c is left out."""
    reached = set(imports)
    for middle, room, other in product(PLACES, repeat=3):
        if {(room, middle), (middle, other)} <= reached:
            reached.add((room, other))
    return {
        (room, other) for room, other in imports
        if not any({(room, middle), (middle, other)} <= reached for middle in PLACES)
    }  # fmt: skip


def house() -> tuple[Figure, pd.DataFrame]:
    """An arrow for each import of a room by another, from what is imported to what imports it."""
    names, imports = list(PLACES), room_imports()
    boxes = [Box(f"{name}\n{text}", x, y, "#eef2f8", 1.9, 0.8) for name, (x, y, text) in PLACES.items()]
    fig, ax = plt.subplots(figsize=(11.8, 3), layout="constrained")
    arrows = sorted((names.index(other), names.index(room)) for room, other in direct(imports))
    box_diagram(ax, boxes, arrows)
    return fig, pd.DataFrame(sorted(imports), columns=["room", "imports"])
