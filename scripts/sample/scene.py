"""Draws scenes written in the notation of drawings.toml."""

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from scripts.sample import masks

DRAWINGS = tomllib.loads(Path(__file__).with_name("drawings.toml").read_text(encoding="utf-8"))


def rgb(text: str) -> np.ndarray:
    """Colour (3,) in [0, 1] of a hexadecimal text."""
    return np.array(list(bytes.fromhex(text)), np.float32) / 255


class Scene:
    """A canvas that carries out statements; drawings.toml explains them.

    colours (5, 3) are named a … e. A flat scene paints what others model as a rounded body.
    """

    def __init__(self, colours: np.ndarray, rng: np.random.Generator, *, flat=False):
        self.rng, self.flat = rng, flat
        self.names: dict[str, Any] = {"i": 0, **dict(zip("abcde", colours, strict=True))}
        self.image = masks.fade(colours[0], colours[0])
        self.placed = self.matrix = masks.placement(0, 0)

    def run(self, text: str) -> None:
        """Carry out the statements of a text in order, one a line; indented lines are the body of a loop."""
        for block in filter(None, re.split(r"\n(?! )", text)):
            head, *body = block.split("\n")
            if body:
                self._loop(head, [line.strip() for line in body])
            else:
                self.state(head)

    def _loop(self, head: str, body: list[str]) -> None:
        head, _, items = head.partition(":")
        verb, *names = head.split()
        if verb == "repeat":
            names, items = [], "," * (int(names[0]) - 1)
        values = [[self.value(word) for word in item.split()] for item in items.split(",")]
        for i, item in enumerate(values):
            self.names.update(zip(["i", *names], [i, *item], strict=True))
            for line in body:
                self.state(line)

    def state(self, statement: str) -> None:
        """Carry out one statement."""
        head, _, drawing = statement.partition(":")
        match head.split():
            case [name, "=", expression]:
                self.names[name] = self.value(expression)
            case ["two", first, second]:
                options = drawing.split()
                for name, k in zip((first, second), self.rng.choice(len(options), 2, replace=False), strict=True):
                    self.names[name] = self.names[options[k]]
            case ["fade", top, bottom]:
                self.image = masks.fade(self.value(top), self.value(bottom))
            case ["blur", sigma]:
                self.image = cv2.GaussianBlur(self.image, (0, 0), self.value(sigma))
            case ["place", *numbers]:
                self.placed = self.matrix = masks.placement(*map(self.value, numbers))
            case ["stretch", x, y]:
                self.matrix = self.placed @ np.diag([self.value(x), self.value(y), 1])
            case ["cloth", back, front]:
                self.names["cloth"] = masks.fade(self.value(back), self.value(back))
                masks.paint(self.names["cloth"], self.mask(drawing), self.value(front))
            case ["sculpt", colour, *_] if self.flat:
                masks.paint(self.image, self.mask(drawing), self.value(colour))
            case ["sculpt", *words]:
                masks.sculpt(self.image, self.mask(drawing), *map(self.value, words))
            case ["paint", *words]:
                masks.paint(self.image, self.mask(drawing), *map(self.value, words))
            case _:
                raise ValueError(f"no statement of a scene: {statement!r}")

    def value(self, expression: str) -> Any:
        """Number or colour of sums of products of: a number, a name, low~high, one|another, a colour #rrggbb."""
        return sum(math.prod(map(self._factor, term.split("*"))) for term in expression.split("+"))

    def _factor(self, word: str) -> Any:
        if "~" in word:
            low, high = map(float, word.split("~"))
            return self.rng.uniform(low, high)
        if "|" in word:
            options = word.split("|")
            return self._factor(options[self.rng.integers(len(options))])
        if word[0] == "#":
            return rgb(word[1:])
        if word not in self.names and set(word) <= set("abcde"):
            word = word[self.names["i"] % len(word)]
        return self.names[word] if word in self.names else float(word)

    def mask(self, drawing: str) -> np.ndarray:
        """Mask (490, 400) of a drawing, placed by the matrix of the scene."""
        options = drawing.split(" / ")
        drawing = options[self.rng.integers(len(options))] if len(options) > 1 else drawing
        mask = np.zeros((masks.HEIGHT, masks.WIDTH), np.float32)
        for part in filter(str.strip, drawing.split(";")):
            kind, *words = part.split()
            shape = self._shape(kind[-1], [self.value(word) for word in words])
            if kind[0] == "-":
                mask = np.minimum(mask, 1 - shape)
            else:
                mask = mask * shape if kind[0] == "&" else np.maximum(mask, shape)
        return mask

    def _shape(self, kind: str, numbers: list[float]) -> np.ndarray:
        width = None
        if kind in "sl":
            width, *numbers = numbers
            width *= np.sqrt(abs(np.linalg.det(self.matrix[:, :2])))
        points = masks.outline(kind, numbers)
        return masks.rasterised(points @ self.matrix[:, :2].T + self.matrix[:, 2], width)
