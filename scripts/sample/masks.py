"""Shapes as masks, float32 (490, 400) in [0, 1], and paint on a canvas, float32 (490, 400, 3), RGB in [0, 1].

A canvas is twice as large as a saved image; x and y are its pixels.
"""

import cv2
import numpy as np

HEIGHT, WIDTH = 490, 400


def outline(kind: str, numbers: list[float]) -> np.ndarray:
    """Points (n, 2) in x, y of a shape; the letters and their numbers are explained in drawings.toml."""
    t = np.linspace(0, 2 * np.pi, 60 if kind == "f" else 64, endpoint=False)
    circle = np.stack([np.cos(t), np.sin(t)], 1)
    match kind, numbers:
        case "e", [x, y, rx, ry]:
            return np.add((x, y), (rx, ry) * circle)
        case "d", [x, y, radius]:
            return np.add((x, y), radius * circle)
        case "b", [x0, y0, x1, y1]:
            return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
        case "r", [x, y, length, start, end]:
            angles = np.radians([start, end])
            return np.array([(x, y), *np.stack([x + length * np.cos(angles), y + length * np.sin(angles)], 1)])
        case "w", [phase, length, level, height, step]:
            x = np.arange(-40, 480, step)
            return np.array([*np.stack([x, level + height * np.sin(x / length + phase)], 1), (480, 620), (-40, 620)])
        case "f", [x, y, size, phase]:
            return np.add((x, y), size * (0.72 + 0.28 * np.cos(6 * (t + phase)))[:, None] * circle)
    points = np.reshape(numbers, (-1, 2))
    return smooth(points, closed=kind == "c") if kind in "cs" else points


def smooth(points: np.ndarray, *, closed: bool) -> np.ndarray:
    """Curve by Chaikin's corner cutting, which nearly keeps a corner given twice."""
    if not closed:
        points = np.concatenate([points[:1], points, points[-1:]])
    for _ in range(4):
        a, b = (points, np.roll(points, -1, axis=0)) if closed else (points[:-1], points[1:])
        points = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], 1).reshape(-1, 2)
    return points


def rasterised(points: np.ndarray, width: float | None = None) -> np.ndarray:
    """Mask of a filled polygon, or of a polyline of that width with round ends."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    points = np.round(points * 16).astype(np.int32)
    if width is None:
        cv2.fillPoly(mask, [points], (255,), cv2.LINE_AA, shift=4)
    else:
        cv2.polylines(mask, [points], False, (255,), max(1, round(width)), cv2.LINE_AA, shift=4)
    return mask / np.float32(255)


def placement(x: float, y: float, scale=1.0, angle=0.0, *centre: float) -> np.ndarray:
    """Affine matrix (2, 3) that scales, turns by `angle` degrees and moves `centre` (else the origin) to (x, y)."""
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([[cosine, -sine], [sine, cosine]]) * scale
    return np.column_stack([turn, (x, y) - turn @ (centre or (0, 0))])


def fade(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Canvas that fades from the colour `top` to the colour `bottom`."""
    t = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None, None]
    return np.tile((1 - t) * top + t * bottom, (1, WIDTH, 1)).astype(np.float32)


def paint(image: np.ndarray, mask: np.ndarray, colour: np.ndarray, opacity=1.0, blur=0.0) -> None:
    """Lay a colour (3,) or a canvas over the image where the mask, blurred by so many pixels, is."""
    mask = cv2.GaussianBlur(mask, (0, 0), blur) if blur else mask
    x, y, w, h = cv2.boundingRect((mask > 0).astype(np.uint8))
    area = np.s_[y : y + h, x : x + w]
    colour = np.clip(colour[area] if colour.ndim == 3 else colour, 0, 1)
    image[area] += (colour - image[area]) * (opacity * mask[area])[..., None]


def sculpt(image: np.ndarray, mask: np.ndarray, colour: np.ndarray, depth: float, shadow: float) -> None:
    """Paint the mask as a rounded body that is lit from the upper left and throws a soft shadow."""
    below = cv2.warpAffine(mask, np.array([[1, 0, depth / 2], [0, 1, depth]], np.float32), (WIDTH, HEIGHT))
    image *= 1 - shadow * cv2.GaussianBlur(below, (0, 0), depth * 0.7)[..., None]
    height = cv2.GaussianBlur(mask, (0, 0), depth)
    slope = cv2.Sobel(height, -1, 1, 0, ksize=3) * 0.6 + cv2.Sobel(height, -1, 0, 1, ksize=3)
    paint(image, mask, colour * np.clip(0.97 + 1.1 * depth / 8 * slope, 0.5, 1.35)[..., None])
