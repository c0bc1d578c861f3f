"""Draws the embedded data set, a look-alike lab in the layout of TLL: `python -m tll_utils.sample [folder]`.

The two images of a pair share one known factor (palette, silhouette, texture, pose or face) and differ in
everything else. The left image is photo-like (shading, light, clutter, blur, noise), the right one a poster.

Every factor has 32 subjects and every subject gives one pair. A canvas is twice as large as a saved image:
float32 (490, 400, 3), RGB in [0, 1]. A mask is float32 (490, 400) in [0, 1]; x and y are canvas pixels.
"""

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from tll_utils.runtime import project_root

HEIGHT, WIDTH = 490, 400
FACTORS = ("palette", "silhouette", "texture", "pose", "face")
N_SUBJECTS, N_TRAIN_SUBJECTS, N_CANDIDATES = 32, 24, 20
# Share of the pairs that carry black borders, and on which side: 30 % of the images, as in TLL.
BORDERS = {"both": 0.24, "left": 0.06, "right": 0.06}
JPEG_QUALITY = 88
LUMINANCE = np.float32([0.3, 0.6, 0.1])

# Five harmonious colours each, neighbours in the list as unlike as possible.
PALETTES = """
e63946 f1faee a8dadc 457b9d 1d3557 | 606c38 283618 fefae0 dda15e bc6c25 | f72585 7209b7 3a0ca3 4361ee 4cc9f0
d8f3dc 95d5b2 52b788 2d6a4f 1b4332 | 5f0f40 9a031e fb8b24 e36414 f7e3c8 | caf0f8 90e0ef 00b4d8 0077b8 03045e
ffd100 ffee32 3d3f3d d6d6d6 8a8a80 | cdb4db ffc8dd ffafcc bde0fe 7c8fd0 | 264653 2a9d8f e9c46a f4a261 e76f51
ffccd5 ff8fa3 ff4d6d c9184a 800f2f | 6b9080 a4c3b2 eaf4f4 ffb5a7 c96f5e | ef233c 2b4c9b ffd60a f8f4e3 3a3a44
22223b 4a4e69 9a8c98 c9ada7 f2e9e4 | 4b1d6b 8a2be2 b5e61d e9ffb0 3f3f58 | ede0d4 ddb892 b08968 7f5539 4d3221
023047 219ebc 8ecae6 ffb703 fb8500 | 0b6e4f 08a045 6bbf59 ff9fb2 fbdce2 | 3c096c 7b2cbf c77dff ffd166 fff3d6
2b2d42 8d99ae edf2f4 d90429 5c6784 | 005f73 0a9396 94d2bd ee9b00 ae2012 | ff8fa3 ffd166 fdffb6 9be3a0 5390d9
3a3a1e 7d7c2a c9b12f f2e8b6 a34a28 | e0aaff c77dff 9d4edd 5a189a 2e0653 | 07beb8 68d8d6 c4fff9 d81e78 6a0f49
4a2c2a 8d5b4c d6a99a f7d6d0 e5446d | f8f9fa ced4da adb5bd 6c757d 343a40 | fff3b0 ffe14d f5b700 c58b00 6f4e00
355070 6d597a b56576 e56b6f eaac8b | 9b2226 bb4d3e e9d8a6 8fd3f4 3a6ea5 | 0d3b66 faf0ca f4d35e ee964b 2c9c69
2f3e46 52796f 84a98c cad2c5 e07a1f | 10002b ff5400 ff9e00 ffd9a0 b1125b
"""
PALETTES = [
    np.array([list(bytes.fromhex(colour)) for colour in row.split()], np.float32) / 255
    for row in PALETTES.strip().replace("\n", "|").split("|")
]

# Parts on a 100 × 100 sheet: c(urve) x y …, p(olygon) x y …, e(llipse) x y rx ry, s(troke) width x y …;
# "-" cuts the part out of what stands before it.
SILHOUETTES = """
fish: c 3 50 22 28 50 24 72 38 80 46 97 26 97 26 90 50 97 74 97 74 80 54 72 62 50 76 22 72;p 40 30 58 12 64
    34;-e 20 44 4 4
bird: c 8 34 22 24 34 26 46 44 64 48 98 62 98 62 74 68 58 80 36 80 22 62 22 44;p 2 38 20 28 22 40;s 3 44 78
    44 96 36 96;s 3 56 78 56 96 48 96;-e 26 35 3 3
cat: c 30 98 28 60 40 44 60 44 74 62 76 98 76 98 30 98;e 44 30 21 18;p 25 28 26 2 42 16;p 46 16 62 2 63 28;
    s 8 72 92 92 90 94 70 86 58
rabbit: e 46 68 28 28;e 62 44 18 16;c 54 36 42 8 48 0 56 4 64 34 64 34;c 62 34 62 4 72 0 76 8 70 38 70 38;e
    17 78 9 9;e 62 92 18 7
elephant: c 14 40 34 24 62 28 78 36 84 60 82 92 82 92 68 92 68 92 66 70 40 70 38 92 38 92 24 92 24 92 16 66;
    e 24 40 19 20;s 9 12 44 6 64 8 84 2 90;p 80 40 94 62 82 50
giraffe: p 38 54 78 58 76 68 40 70;s 11 38 60 30 14;c 8 20 24 4 38 10 36 22 14 28;s 7 40 62 36 98;s 7 52 64
    54 98;s 7 66 62 64 98;s 7 75 60 80 98;s 4 78 58 88 72;s 3 30 8 30 0
snail: e 56 48 30 30;c 6 82 10 76 18 74 18 46 18 46 28 46 28 46 30 76 66 76 98 86 98 86 6 86;s 3 20 48 12 32;
    s 3 26 48 30 32;-s 4 56 48 62 46 62 38 52 34 42 42 42 58 56 64 72 58 74 44
whale: c 4 62 8 36 40 30 64 46 80 48 84 30 72 18 86 18 90 26 98 16 100 30 92 46 90 66 66 80 26 80;s 4 34 32
    34 20 26 12;s 4 34 20 42 12;-e 22 54 3 3
duck: c 26 56 32 48 40 56 66 56 96 44 96 44 92 76 70 88 36 88 16 74;e 30 32 17 17;s 16 32 40 34 60;p 0 38 18
    26 18 42;-e 27 28 3 3
butterfly: c 48 46 20 4 2 12 4 44 28 54 48 52;c 48 52 16 62 18 92 36 94 48 66;c 52 46 80 4 98 12 96 44 72 54
    52 52;c 52 52 84 62 82 92 64 94 52 66;s 6 50 34 50 78;s 2 50 34 40 14;s 2 50 34 60 14
oak: e 50 30 26 24;e 28 44 22 20;e 72 44 22 20;e 50 52 28 18;p 44 60 56 60 58 90 66 98 34 98 42 90
pine: p 50 2 70 30 30 30;p 50 18 78 56 22 56;p 50 38 88 84 12 84;p 44 84 56 84 56 98 44 98
cactus: s 20 50 98 50 14;s 13 50 66 24 66 22 64 22 38;s 13 50 52 76 52 78 50 78 24;p 30 94 70 94 66 100 34
    100
mushroom: c 2 52 6 22 34 4 66 4 94 22 98 52 98 52 2 52;c 38 50 38 50 62 50 62 50 70 98 70 98 30 98 30 98;-e
    34 28 7 7;-e 62 22 6 6;-e 74 40 5 5
apple: c 50 28 74 18 96 34 90 70 66 98 50 92 34 98 10 70 4 34 26 18;s 5 50 28 54 6;c 54 16 66 0 86 2 86 2 78
    18 64 20
tulip: c 26 6 26 6 38 18 50 2 50 2 62 18 74 6 74 6 78 44 50 56 22 44;s 5 50 50 50 98;c 50 98 18 86 14 52 14
    52 38 64 50 90;c 50 98 82 86 86 52 86 52 62 64 50 90
house: p 50 4 98 48 2 48;p 12 46 88 46 88 96 12 96;p 70 6 82 6 82 36 70 26;-p 42 66 58 66 58 96 42 96;-p 22
    58 34 58 34 70 22 70;-p 66 58 78 58 78 70 66 70
castle: p 4 30 4 16 12 16 12 22 18 22 18 16 26 16 26 44 38 44 38 30 62 30 62 44 74 44 74 16 82 16 82 22 88
    22 88 16 96 16 96 96 4 96;p 44 30 44 4 68 12 48 18 48 30;-c 40 96 40 96 40 70 50 62 60 70 60 96 60 96;
    -e 15 42 4 6;-e 85 42 4 6
bottle: p 43 2 57 2 57 12 43 12;c 44 10 44 10 56 10 56 10 56 34 70 44 70 56 70 98 70 98 30 98 30 98 30 56 30
    44 44 34;-p 36 62 64 62 64 82 36 82
cup: c 10 26 10 26 74 26 74 26 72 84 56 92 28 92 12 84;s 8 72 40 94 40 94 64 70 70;s 4 30 18 34 12 30 4;s 4
    48 18 52 12 48 4
teapot: e 48 62 32 28;e 48 34 22 6;e 48 24 6 6;c 72 62 84 50 84 34 98 28 98 28 94 44 88 70 72 80;s 7 22 48 4
    44 4 70 24 78;p 32 86 64 86 68 96 28 96
umbrella: c 2 52 2 52 8 20 36 6 50 6 64 6 92 20 98 52 98 52 82 42 68 52 68 52 50 42 32 52 32 52 18 42;s 5 50
    40 50 88 42 96 34 88;s 3 50 8 50 0
guitar: e 40 78 26 21;e 46 54 19 17;s 8 52 48 76 10;p 72 12 76 0 90 6 84 18;-e 46 60 7 7;-s 3 30 82 46 90
key: e 24 32 23 23;-e 24 32 11 11;s 10 38 46 86 92;s 9 70 76 84 62;s 9 82 88 94 76
anchor: s 9 50 22 50 94;e 50 12 12 12;-e 50 12 6 6;s 8 30 34 70 34;s 9 10 64 18 84 50 94 82 84 90 64;p 0 72
    10 52 22 70;p 78 70 90 52 100 72
boat: c 4 74 4 74 96 74 96 74 82 96 82 96 20 96 20 96;s 4 48 6 48 76;c 52 6 52 6 84 36 92 66 92 66 52 66 52
    66;c 44 16 44 16 44 66 44 66 10 66 10 66 30 46
rocket: c 50 0 50 0 68 24 68 60 62 78 62 78 38 78 38 78 32 60 32 24;p 32 48 14 76 14 88 36 72;p 68 48 86 76
    86 88 64 72;p 42 80 58 80 50 100;-e 50 34 8 8
car: c 2 72 4 52 22 48 34 28 66 28 82 48 96 52 98 74 98 74 2 74 2 74;e 24 74 13 13;e 76 74 13 13;-p 38 34 49
    34 49 48 30 48;-p 53 34 63 34 74 48 53 48;-e 24 74 5 5;-e 76 74 5 5
plane: c 50 0 58 14 58 84 50 96 42 84 42 14;p 50 30 98 62 98 72 50 56 2 72 2 62;p 50 78 72 92 72 98 50 92 28
    98 28 92
lamp: p 34 4 66 4 84 46 16 46;s 6 50 46 50 88;c 22 98 26 86 50 84 74 86 78 98 78 98 22 98;s 2 72 46 72 64;e
    72 66 3 3
boot: c 30 2 30 2 62 2 62 2 62 50 92 64 96 84 96 84 26 84 26 84 34 50;p 26 87 96 87 96 96 54 96 50 91 44 97
    26 97
cone: c 20 42 14 28 28 20 34 4 66 4 74 20 86 28 80 42;p 22 44 78 44 50 100;e 50 2 6 6
"""
SILHOUETTES = dict(row.split(": ") for row in SILHOUETTES.strip().replace("\n    ", " ").split("\n"))

# Absolute angles of (left upper, left lower, right upper, right lower) limb: 0 hangs down, 90 points right.
ARMS = (
    (-90, -90, 90, 90), (-150, -165, 150, 165), (-20, -12, 100, 175), (-55, 45, 55, -45),
    (-90, -178, 90, 178), (-140, -140, 40, 40), (-90, 0, 90, 180), (60, 95, 85, 95),
)  # fmt: skip
LEGS = (
    (-9, -5, 9, 5), (-42, -42, 42, 42), (-30, -95, 75, -5), (-4, 0, 88, 88),
    (-48, -62, 72, 0), (0, 0, 75, -35), (-78, -82, 78, 82), (-70, 8, 70, -8),
)  # fmt: skip
LEANS = (0, 14, -14, 6)

SKINS = ("f6d3b8", "eebd98", "d9a078", "c58a63")
HAIRS = ("2b1d16", "5a3420", "8a5a2b", "c9973f", "9a3b1f", "55504e")

# Hair behind and before the head, and the head's parts, in percent of its half width and half height.
SHORT_HAIR = "c -106 9 -110 -70 0 -142 110 -70 106 9 92 -18 80 -62 0 -72 -80 -62 -92 -18"
HAIR_STYLES = (
    ("", SHORT_HAIR),
    (
        "c -100 -100 100 -100 135 52 150 165 -150 165 -135 52",
        "c -106 9 -110 -70 0 -142 110 -70 106 9 95 0 90 -35 -30 -98 -85 -55 -95 0",
    ),
    (
        "e -97 19 48 38;e -111 -20 48 38;e -107 -60 48 38;e -83 -96 48 38;e -46 -120 48 38;e -0 -128 "
        "48 38;e 46 -120 48 38;e 83 -96 48 38;e 107 -60 48 38;e 111 -20 48 38;e 97 19 48 38",
        SHORT_HAIR,
    ),
    ("e -100 -16 18 38;e 100 -16 18 38", ""),
    (
        "c -100 -120 100 -120 150 18 130 88 -130 88 -150 18",
        "c -106 9 -110 -70 0 -142 110 -70 106 9 90 0 86 -44 0 -46 -86 -44 -90 0",
    ),
    (
        "",
        "p -108 -20 -90 -125 -72 -60 -54 -147 -36 -75 -18 -156 0 -79 18 -156 36 -75 54 -147 72 -60 "
        "90 -125 108 -20 80 -50 0 -66 -80 -50",
    ),
    ("e 0 -128 50 38", SHORT_HAIR),
    ("", "c -106 9 -110 -70 0 -142 110 -70 106 9 95 0 90 -35 -30 -98 -85 -55 -95 0"),
)
EARS = "e -100 4 16 21;e 100 4 16 21"
JAW = "c -100 -90 100 -90 112 0 72 100 0 112 -72 100 -112 0"
BEARD = "c -102 9 -60 42 0 39 60 42 102 9 85 110 0 135 -85 110"

# In pixels from the middle of the face; details are "colour drawing|colour drawing|…", back to front.
NECK = "p -34 60 34 60 38 170 -38 170"
SHIRT = "c -170 330 -165 190 -40 132 0 152 40 132 165 190 170 330"
EYES = (
    "shade e -39 -16 30 21;e 39 -16 30 21|white e -39 -11 22 13;e 39 -11 22 13|"
    "iris e -39 -11 11 12;e 39 -11 11 12|ink e -39 -11 6 6;e 39 -11 6 6|white e -43 -15 3 3;e 35 -15 3 3|"
    "ink s 4 -62 -12 -39 -27 -16 -12;s 4 16 -12 39 -27 62 -12|"
)
NOSE = "shade s 5 -9 -12 -15 26 0 34;e 2 27 19 12|shine e 0 21 14 11|nostril e -9 33 5 3;e 9 33 5 3|"
BROWS = (
    "brow s 9 -64 -44 -39 -52 -14 -45;s 9 14 -45 39 -52 64 -44|",
    "brow s 6 -66 -44 -39 -58 -14 -54;s 6 14 -54 39 -58 66 -44|",
    "brow s 9 -66 -47 -39 -53 -14 -36;s 9 14 -36 39 -53 66 -47|",
    "brow s 7 -66 -35 -39 -53 -14 -49;s 7 14 -49 39 -53 66 -35|",
)
MOUTHS = (
    "lip s 8 -34 58 0 86 34 58",
    "lip c -40 54 -40 54 40 54 40 54 22 92 -22 92|white c -34 57 -34 57 34 57 34 57 26 70 -26 70",
    "lip e 0 64 32 6;e 0 73 24 7|throat s 3 -33 66 33 66",
    "lip e 0 70 20 17|throat e 0 70 13 11",
    "lip s 8 -28 72 4 74 36 54",
)
EXTRAS = (
    "",
    "|rim e -39 -10 37 35;e 39 -10 37 35;-e -39 -10 31 29;-e 39 -10 31 29;s 5 -8 -12 8 -12",
    "|fur c 0 42 26 38 54 60 20 62 0 54 -20 62 -54 60 -26 38",
    "",
    "|blush e -54 32 19 13;e 54 32 19 13",
    "|ink p -76 -34 -4 -34 -8 18 -70 18;p 76 -34 4 -34 8 18 70 18;-p -68 -27 -12 -27 -15 11 -63 11;"
    "-p 68 -27 12 -27 15 11 63 11;s 6 -6 -24 6 -24",
)
BEARDED = 3  # the extra that follows the jaw
HEADS = ((94, 112), (86, 122), (102, 118), (82, 114))  # half width, half height
DEPTHS = {"skin": 22, "hair": 11, "shirt": 14, "neck": 10, "fur": 6}  # of what is modelled; the rest is flat


# --- masks --------------------------------------------------------------------------------------------------


def polygon(points) -> np.ndarray:
    """Mask of a filled polygon, points (n, 2) in x, y."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(mask, [np.round(np.asarray(points) * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    return mask / np.float32(255)


def smooth(points, *, closed=True) -> np.ndarray:
    """Curve by Chaikin's corner cutting, which nearly keeps a corner given twice."""
    points = np.asarray(points, float)
    if not closed:
        points = np.concatenate([points[:1], points, points[-1:]])
    for _ in range(4):
        a, b = (points, np.roll(points, -1, axis=0)) if closed else (points[:-1], points[1:])
        points = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], 1).reshape(-1, 2)
    return points


def ellipse_points(x, y, rx, ry) -> np.ndarray:
    """Points (64, 2) on an ellipse."""
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], 1)


def disc(x, y, rx, ry=None) -> np.ndarray:
    """Mask of a circle or ellipse."""
    return polygon(ellipse_points(x, y, rx, ry or rx))


def stroke(points, width) -> np.ndarray:
    """Mask of a polyline with round ends."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    points = np.round(np.asarray(points) * 16).astype(np.int32)
    cv2.polylines(mask, [points], False, 255, max(1, round(width)), cv2.LINE_AA, shift=4)
    return mask / np.float32(255)


def box(x0, y0, x1, y1) -> np.ndarray:
    """Mask of an upright rectangle."""
    return polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def placement(x, y, *, scale=1.0, angle=0.0, centre=(0, 0)) -> np.ndarray:
    """Affine matrix (2, 3) that scales, turns by `angle` degrees and moves `centre` to (x, y)."""
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([[cosine, -sine], [sine, cosine]]) * scale
    return np.column_stack([turn, (x, y) - turn @ centre])


def xy(text: str) -> np.ndarray:
    """Points (n, 2) of a text "x y x y …"."""
    return np.array(text.split(), float).reshape(-1, 2)


def drawn(drawing: str, matrix: np.ndarray) -> np.ndarray:
    """Mask of a drawing in the notation of SILHOUETTES, placed by an affine matrix (2, 3)."""
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    for part in filter(None, drawing.split(";")):
        kind, numbers = part.strip().split(" ", 1)
        width = 0.0
        if kind[-1] == "s":
            width, numbers = numbers.split(" ", 1)
        points = ellipse_points(*xy(numbers).ravel()) if kind[-1] == "e" else xy(numbers)
        if kind[-1] in "cs":
            points = smooth(points, closed=kind[-1] == "c")
        points = points @ matrix[:, :2].T + matrix[:, 2]
        scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
        shape = stroke(points, float(width) * scale) if kind[-1] == "s" else polygon(points)
        mask = np.minimum(mask, 1 - shape) if kind[0] == "-" else np.maximum(mask, shape)
    return mask


# --- paint --------------------------------------------------------------------------------------------------


def paint(image, mask, colour, opacity=1.0) -> None:
    """Lay a colour (3,) or a picture (490, 400, 3) over the image where the mask is."""
    x, y, w, h = cv2.boundingRect((mask > 0).astype(np.uint8))
    area = np.s_[y : y + h, x : x + w]
    colour = np.asarray(colour, np.float32)
    colour = colour[area] if colour.ndim == 3 else colour
    image[area] += (colour - image[area]) * (opacity * mask[area])[..., None]


def sculpt(image, mask, colour, depth=14, shadow=0.45) -> None:
    """Paint the mask as a rounded body that is lit from the upper left and throws a soft shadow."""
    below = cv2.warpAffine(mask, np.float32([[1, 0, depth / 2], [0, 1, depth]]), (WIDTH, HEIGHT))
    cast = cv2.GaussianBlur(below, (0, 0), depth * 0.7)
    image *= 1 - shadow * cast[..., None]
    height = cv2.GaussianBlur(mask, (0, 0), depth)
    slope = cv2.Sobel(height, -1, 1, 0, ksize=3) * 0.6 + cv2.Sobel(height, -1, 0, 1, ksize=3)
    shade = np.clip(0.97 + 1.1 * depth / 8 * slope, 0.5, 1.35)[..., None]
    paint(image, mask, np.clip(np.asarray(colour, np.float32) * shade, 0, 1))


def tones(colours, rng) -> np.ndarray:
    """The five colours ordered from subject to background: mostly dark on light, sometimes light on dark."""
    ordered = colours[np.argsort(colours @ LUMINANCE)]
    return ordered[::-1] if rng.random() < 0.3 else ordered


def gradient(top, bottom) -> np.ndarray:
    """Image that fades from the colour `top` to the colour `bottom`."""
    t = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None, None]
    return np.tile((1 - t) * top + t * bottom, (1, WIDTH, 1)).astype(np.float32)


def backdrop(colours, rng) -> np.ndarray:
    """Photo background, out of focus: a room, hills or many lights; colours (5, 3) from `tones`."""
    near, far = colours[-2], colours[-1]
    image = gradient(far, 0.7 * far + 0.3 * near)
    kind = rng.integers(3)
    horizon = rng.uniform(330, 400)
    if kind == 0:
        paint(image, box(0, horizon, WIDTH, HEIGHT), near)
        x, width = rng.uniform(0, 250), rng.uniform(70, 120)
        paint(image, box(x, 40, x + width, 190), colours[-3], 0.6)
    elif kind == 1:
        for step in range(3):
            level, phase = horizon - 60 + 45 * step, rng.uniform(0, 6)
            hill = [(x, level + 30 * np.sin(x / 70 + phase)) for x in range(-40, 480, 10)]
            paint(image, polygon([*hill, (480, 600), (-40, 600)]), colours[-2], 0.35)
    for _ in range(14 if kind == 2 else 5):
        x, y = rng.uniform(0, (WIDTH, HEIGHT))
        paint(image, disc(x, y, rng.uniform(12, 42)), colours[rng.integers(1, 5)], 0.35)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(5, 9))


def poster(colours, rng) -> np.ndarray:
    """Flat poster background: plain, a disc, two halves or rays; colours (5, 3) from `tones`."""
    image = gradient(colours[-1], colours[-1])
    kind, accent = rng.integers(4), colours[-2]
    if kind == 0:
        paint(image, disc(200, 215, rng.uniform(150, 175)), accent)
    elif kind == 1:
        level = rng.uniform(240, 330)
        paint(image, box(0, level, WIDTH, HEIGHT), accent)
    elif kind == 2:
        slant = rng.uniform(60, 140) * rng.choice([-1, 1])
        paint(image, polygon([(0, 245 - slant), (WIDTH, 245 + slant), (WIDTH, HEIGHT), (0, HEIGHT)]), accent)
    else:
        for angle in np.radians(np.arange(0, 360, 30)):
            ends = [(200 + 600 * np.cos(angle + a), 215 + 600 * np.sin(angle + a)) for a in (-0.13, 0.13)]
            paint(image, polygon([(200, 215), *ends]), accent)
    return image


def photo_finish(image, rng) -> np.ndarray:
    """The image (245, 200, 3) uint8 as a snapshot: light from one side, vignette, blur and grain."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + 0.14 * (x * np.cos(angle) + y * np.sin(angle)) - 0.1 * (x**2 + y**2 - 0.7)
    image = cv2.resize(image * light[..., None], (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 0.9))
    grain = rng.normal(0, rng.uniform(0.006, 0.012), (*image.shape[:2], 1)).astype(np.float32)
    return np.round(255 * np.clip(image + grain, 0.06, 1)).astype(np.uint8)


def poster_finish(image, colours, rng) -> np.ndarray:
    """The image (245, 200, 3) uint8 as print, mostly with a margin and a caption whose words are bars."""
    margin, caption = 14 * (rng.random() < 0.7), rng.random() < 0.7
    dark, paper = colours[np.argsort(colours @ LUMINANCE)][[0, -1]]
    paint(image, 1 - box(margin, margin, WIDTH - margin, HEIGHT - (90 if caption else margin)), paper)
    if caption:
        left, width = rng.choice([True, False]), rng.uniform(120, 240)
        for y, length, height in ((424, width, 18), (453, width * rng.uniform(0.4, 0.8), 7)):
            x = 36 if left else (WIDTH - length) / 2
            paint(image, box(x, y, x + length, y + height), dark)
    image = cv2.resize(image, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
    return np.round(255 * np.clip(image, 0.06, 1)).astype(np.uint8)


# --- the five factors: each returns a photo-like or poster-like canvas --------------------------------------


def draw_palette(subject, colours, rng, *, photo) -> np.ndarray:
    """Canvas that shows nothing but the five colours: a scene of many things, or an abstract print."""
    scenes = (hills, balls, balloons, flowers) if photo else (arches, bauhaus, rays, leaves)
    return scenes[rng.integers(len(scenes))](colours[rng.permutation(5)], rng)


def hills(colours, rng) -> np.ndarray:
    """Landscape at a low sun: sky, sun and three ranges of hills."""
    image = gradient(colours[0], 0.6 * colours[0] + 0.4)
    x, y = rng.uniform(90, 310), rng.uniform(90, 170)
    paint(image, cv2.GaussianBlur(disc(x, y, 75), (0, 0), 22), colours[1], 0.5)
    paint(image, disc(x, y, 48), colours[1])
    for row, colour in enumerate(colours[2:]):
        phase, wave, level = rng.uniform(0, 6), rng.uniform(45, 80), 235 + 85 * row
        ridge = [(x, level + 26 * np.sin(x / wave + phase)) for x in range(-40, 460, 8)]
        sculpt(image, polygon([*ridge, (480, 620), (-40, 620)]), colour, depth=16, shadow=0.25)
    return image


def balls(colours, rng) -> np.ndarray:
    """Still life: balls of three colours on a table before a wall."""
    image = gradient(colours[0], 0.8 * colours[0])
    paint(image, box(0, rng.uniform(215, 260), WIDTH, HEIGHT), colours[1])
    places = xy("120 215 290 225 205 265 65 320 335 325 145 385 265 395")
    for i, (x, y) in enumerate(places + rng.uniform(-14, 14, places.shape)):
        sculpt(image, disc(x, y, rng.uniform(50, 70)), colours[2 + i % 3], depth=17)
    return image


def balloons(colours, rng) -> np.ndarray:
    """Three striped hot-air balloons in the sky over a field."""
    image = gradient(colours[0], 0.5 * colours[0] + 0.5)
    sculpt(image, disc(200, 560, 420, 160), colours[1], depth=14, shadow=0.1)
    places = xy("120 150 290 215 160 330") + rng.uniform(-20, 15, (3, 2))
    for i, ((x, y), size) in enumerate(zip(places, (0.92, 0.78, 0.56), strict=True)):
        matrix, second = placement(x, y, scale=size), colours[2 + (i + 1) % 3]
        paint(image, drawn("s 2 -50 80 -7 150;s 2 50 80 7 150", matrix), colours[1])
        sculpt(image, drawn("p -17 145 17 145 17 175 -17 175", matrix), second, depth=5)
        picture = gradient(colours[2 + i], colours[2 + i])
        paint(picture, drawn("e -62 0 17 150;e 0 0 17 150;e 62 0 17 150", matrix), second)
        envelope = drawn("c -90 -120 90 -120 130 20 25 135 -25 135 -130 20", matrix)
        sculpt(image, envelope, picture, depth=18, shadow=0.15)
    return image


def flowers(colours, rng) -> np.ndarray:
    """Seven large flowers of three colours over a meadow out of focus."""
    image = gradient(colours[0], 0.85 * colours[0])
    for _ in range(20):
        paint(image, disc(*rng.uniform(0, (WIDTH, HEIGHT)), rng.uniform(15, 45)), colours[1], 0.4)
    image = cv2.GaussianBlur(image, (0, 0), 8)
    places = xy("90 90 290 80 200 200 60 270 340 260 140 390 290 400")
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    for i, (x, y) in enumerate(places + rng.uniform(-18, 18, places.shape)):
        size = rng.uniform(58, 78)
        reach = size * (0.72 + 0.28 * np.cos(6 * (t + rng.uniform(0, 1))))
        petals = polygon(np.stack([x + reach * np.cos(t), y + reach * np.sin(t)], 1))
        sculpt(image, petals, colours[2 + i % 3], depth=9)
        sculpt(image, disc(x, y, size * 0.28), colours[2 + (i + 1) % 3], depth=6, shadow=0.2)
    return image


def arches(colours, rng) -> np.ndarray:
    """Print: a rainbow of four arches on the fifth colour."""
    image, x = gradient(colours[0], colours[0]), rng.uniform(120, 280)
    for i in range(8):
        radius = 300 - 36 * i
        arch = np.maximum(disc(x, 330, radius), box(x - radius, 330, x + radius, HEIGHT))
        paint(image, arch, colours[1 + i % 4])
    return image


def bauhaus(colours, rng) -> np.ndarray:
    """Print: a grid of quarter discs, discs and half discs."""
    image = gradient(colours[0], colours[0])
    for x, y in 100 * np.argwhere(np.ones((4, 5))):
        back, front = colours[rng.choice(5, 2, replace=False)]
        cell, (dx, dy) = box(x, y, x + 100, y + 100), 100 * rng.integers(0, 2, 2)
        shapes = ((x + 50, y + 50, 38), (x + dx, y + dy, 100), (x + 50, y + dy, 50))
        paint(image, cell, back)
        paint(image, cell * disc(*shapes[rng.integers(3)]), front)
    return image


def rays(colours, rng) -> np.ndarray:
    """Print: a sun whose rays take turns in four colours."""
    image, (x, y) = gradient(colours[0], colours[0]), (rng.uniform(80, 320), rng.uniform(230, 350))
    for i, angle in enumerate(np.radians(np.arange(0, 360, 15))):
        ends = [(x + 700 * np.cos(angle + a), y + 700 * np.sin(angle + a)) for a in (0, np.radians(15.3))]
        paint(image, polygon([(x, y), *ends]), colours[1 + i % 4])
    paint(image, disc(x, y, 95), colours[0])
    paint(image, disc(x, y, 62), colours[1 + rng.integers(4)])
    return image


def leaves(colours, rng) -> np.ndarray:
    """Print: rows of two-coloured leaves."""
    image = gradient(colours[0], colours[0])
    for row, column in np.argwhere(np.ones((5, 4))):
        matrix = placement(50 + 100 * column, 60 + 105 * row, angle=90 * ((row + column) % 2) + 45)
        first, second = colours[1 + rng.choice(4, 2, replace=False)]
        paint(image, drawn("c 0 -58 0 -58 38 -20 38 20 0 58 0 58", matrix), first)
        paint(image, drawn("c 0 -58 0 -58 -38 -20 -38 20 0 58 0 58", matrix), second)
    return image


def draw_silhouette(subject, colours, rng, *, photo) -> np.ndarray:
    """Canvas with one recognisable outline: a modelled thing in a scene, or a flat sign."""
    drawing, colours = list(SILHOUETTES.values())[subject], tones(colours, rng)
    if photo:
        image, (x, y) = backdrop(colours, rng), rng.uniform((185, 225), (215, 275))
        matrix = placement(x, y, scale=rng.uniform(2.7, 3.2), angle=rng.uniform(-12, 12), centre=(50, 50))
        sculpt(image, drawn(drawing, matrix), colours[0], depth=10)
    else:
        image = poster(colours, rng)
        matrix = placement(200, 215, scale=rng.uniform(2.8, 3.2), angle=rng.uniform(-4, 4), centre=(50, 50))
        paint(image, drawn(drawing, matrix), colours[0])
    return image


def cracks(u, v) -> np.ndarray:
    """Whether (u, v) lies near a cell border of the Voronoi diagram of one random point a unit square."""
    distances = []
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            a, b = np.floor(u) + i, np.floor(v) + j
            x, y = (np.modf(np.abs(np.sin(a * p + b * q) * 4375.5))[0] for p, q in ((12.9, 78.2), (39.3, 11.1)))
            distances.append(np.hypot(a + x - u, b + y - v))
    nearest, second = np.partition(distances, 1, axis=0)[:2]
    return second - nearest < 0.14


def within(t) -> np.ndarray:
    """Signed offset of t from the middle of its unit interval, in [-0.5, 0.5)."""
    return t - np.floor(t) - 0.5


# Share of the second colour at (u, v), both counted in repeats of the pattern.
TEXTURES = {
    "stripes": lambda u, v: within(u) < 0,
    "double lines": lambda u, v: (abs(within(u)) < 0.3) & (abs(abs(within(u)) - 0.17) > 0.05),
    "dots": lambda u, v: np.hypot(within(u), within(v)) < 0.3,
    "targets": lambda u, v: np.sin(14 * np.hypot(within(u), within(v))) > 0.1,
    "checks": lambda u, v: within(u) * within(v) > 0,
    "gingham": lambda u, v: (within(u) < 0) * 0.5 + (within(v) < 0) * 0.5,
    "waves": lambda u, v: within(v * 1.3 + 0.3 * np.sin(3.8 * u)) < 0,
    "zigzag": lambda u, v: within(v * 1.2 + 1.2 * abs(within(u * 0.7))) < 0,
    "bricks": lambda u, v: (abs(within(1.4 * v)) < 0.42) & (abs(within(0.7 * u + 0.5 * np.floor(1.4 * v))) < 0.45),
    "chain": lambda u, v: abs(np.hypot(within(u), np.maximum(within(v), 0)) - 0.36) < 0.09,
    "basket": lambda u, v: within(3 * np.where((np.floor(u) + np.floor(v)) % 2, u, v)) < 0.1,
    "diamonds": lambda u, v: abs(within(u)) + 0.7 * abs(within(v * 0.7)) < 0.27,
    "triangles": lambda u, v: within(u) < within(v),
    "plus": lambda u, v: (np.minimum(abs(within(u)), abs(within(v))) < 0.12) & (np.hypot(within(u), within(v)) < 0.4),
    "cracks": cracks,
    "spots": lambda u, v: np.sin(5 * u + 2 * np.sin(3.1 * v)) + np.sin(4.3 * v + 2 * np.sin(2.7 * u + 1)) > 0.25,
}


def texture(subject, u, v, colours, rng) -> np.ndarray:
    """Picture of a texture over coordinates u and v in pixels; fine and upright, or coarse and slanted."""
    coarse, kind = divmod(subject, len(TEXTURES))
    turn = np.radians(rng.uniform(-4, 4) + 45 * coarse)
    size = (44, 76)[coarse] * rng.uniform(0.92, 1.08)
    u, v = (u * np.cos(turn) + v * np.sin(turn)) / size, (v * np.cos(turn) - u * np.sin(turn)) / size
    pattern = list(TEXTURES.values())[kind]
    share = np.float32(pattern(u + rng.uniform(0, 1), v + rng.uniform(0, 1)))[..., None]
    return share * colours[0] + (1 - share) * colours[1]


def draw_texture(subject, colours, rng, *, photo) -> np.ndarray:
    """Canvas where one pattern covers a ball, a cushion or hanging cloth, or fills a shape of a print."""
    colours = tones(colours, rng)
    look = (ball, cushion, curtain)[rng.integers(3)] if photo else pattern_print
    return look(subject, colours, rng)


def pattern_print(subject, colours, rng) -> np.ndarray:
    """Print: the pattern in a disc, a square, an arch, a full sheet or a slanted band."""
    image = gradient(colours[2], colours[2])
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    shapes = (
        "e 200 210 165 165",
        "p 50 50 350 50 350 385 50 385",
        "e 200 190 150 150;p 50 190 350 190 350 390 50 390",
        "p 0 0 400 0 400 490 0 490",
        "p 0 60 400 0 400 360 0 420",
    )
    mask = drawn(shapes[rng.integers(len(shapes))], placement(0, 0))
    paint(image, mask, texture(subject, x, y, colours[[0, -1]], rng))
    return image


def ball(subject, colours, rng) -> np.ndarray:
    """Photo: the pattern wound around a ball."""
    image = backdrop(colours[[0, 1, 3, 2, 2]], rng)
    y, x = np.mgrid[-250 : HEIGHT - 250, -200 : WIDTH - 200].astype(np.float32)
    radius = np.maximum(np.hypot(x, y) / 178, 1e-3)
    bulge = np.arcsin(np.minimum(radius, 0.98)) / radius
    picture = texture(subject, x * bulge, y * bulge, colours[[0, -1]], rng)
    sculpt(image, disc(200, 250, 172), picture, depth=34)
    return image


def cushion(subject, colours, rng) -> np.ndarray:
    """Photo: the pattern on a cushion."""
    image = backdrop(colours[[0, 1, 3, 2, 2]], rng)
    y, x = np.mgrid[-250 : HEIGHT - 250, -200 : WIDTH - 200].astype(np.float32)
    swell = 1 + (x**2 + y**2) / 500_000
    mask = drawn("c -205 -205 0 -160 205 -205 160 0 205 205 0 160 -205 205 -160 0", placement(200, 250))
    sculpt(image, mask, texture(subject, x * swell, y * swell, colours[[0, -1]], rng), depth=26)
    return image


def curtain(subject, colours, rng) -> np.ndarray:
    """Photo: the pattern on hanging cloth that fills the view."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    (a, b), wave = rng.uniform(0, 6, 2), rng.uniform(38, 60)
    fold = np.sin(x / wave + a + 0.5 * np.sin(y / 110 + b))
    cloth = texture(subject, x + 12 * fold, y + 5 * fold, colours[[0, -1]], rng)
    return np.clip(cloth * (0.84 + 0.2 * fold)[..., None], 0, 1).astype(np.float32)


def reach(start, angle, length) -> np.ndarray:
    """The point at a distance in a direction: 0 degrees is down, 90 to the right."""
    return start + length * np.array([np.sin(np.radians(angle)), np.cos(np.radians(angle))])


def skeleton(subject) -> dict:
    """Joints (x, y) of a pose in units of the trunk's length, hip at the origin, y down."""
    lean, arms = divmod(subject, len(ARMS))
    legs, up = (arms + 3 * lean) % len(LEGS), 180 - LEANS[lean]
    hip = np.zeros(2)
    neck = reach(hip, up, 1)
    joints = {"trunk": [hip, neck], "head": [reach(hip, up, 1.4)]}
    limbs = (("arm", neck + np.array([0, 0.06]), ARMS[arms], 0.55), ("leg", hip, LEGS[legs], 0.71))
    for name, root, angles, length in limbs:
        for side in (0, 1):
            start = root + np.array([0.32 * side - 0.16, 0])
            middle = reach(start, angles[2 * side], length)
            joints[f"{name}{side}"] = [start, middle, reach(middle, angles[2 * side + 1], length)]
    return joints


def draw_pose(subject, colours, rng, *, photo) -> np.ndarray:
    """Canvas with a stick figure: a modelled doll standing in a scene, or a pictogram."""
    colours = tones(colours, rng)
    image = backdrop(colours, rng) if photo else poster(colours, rng)
    joints = skeleton(subject)
    points = np.concatenate(list(joints.values()))
    low, high = points.min(0) - 0.2, points.max(0) + 0.2
    unit = min(330 / (high - low).max(), 115) * rng.uniform(0.92, 1)
    origin = (200, 250 if photo else 210) - unit * (low + high) / 2
    limbs = {name: origin + unit * np.array(part) for name, part in joints.items()}
    shoulders = stroke([limbs["arm0"][0], limbs["arm1"][0]], unit * 0.2)
    layers = (
        (np.maximum(stroke(limbs["leg0"], unit * 0.2), stroke(limbs["leg1"], unit * 0.2)), colours[0]),
        (np.maximum(shoulders, stroke(limbs["trunk"], unit * 0.36)), colours[1]),
        (np.maximum(stroke(limbs["arm0"], unit * 0.17), stroke(limbs["arm1"], unit * 0.17)), colours[1]),
        (disc(*limbs["head"][0], unit * 0.24), colours[0]),
    )
    if photo:
        floor = disc(origin[0], origin[1] + unit * (high[1] - 0.14), unit * 0.9, unit * 0.13)
        paint(image, cv2.GaussianBlur(floor, (0, 0), 8), colours[0] * 0.4, 0.5)
    for mask, colour in layers:
        if photo:
            sculpt(image, mask, colour, depth=7, shadow=0.25)
        else:
            paint(image, mask, colours[0])
    return image


def face_layers(subject, face) -> list:
    """Layers (mask, name of the colour) of a head and shoulders, back to front; `face` places them."""
    group, style = divmod(subject, len(HAIR_STYLES))
    half_width, half_height = HEADS[(style + group) % len(HEADS)]
    head = face @ np.diag([half_width / 100, half_height / 100, 1])
    back, front = HAIR_STYLES[style]
    extra = (style + group) % len(EXTRAS)
    layers = [
        (drawn(back, head), "hair"),
        (drawn(NECK, face), "neck"),
        (drawn(SHIRT, face), "shirt"),
        (drawn(EARS, head), "neck"),
        (drawn(JAW, head), "skin"),
    ]
    if extra == BEARDED:
        layers.append((drawn(BEARD, head), "fur"))
    details = EYES + NOSE + BROWS[(style // 2 + group) % 4] + MOUTHS[(style + 2 * group) % 5] + EXTRAS[extra]
    for detail in details.split("|"):
        name, drawing = detail.split(" ", 1)
        layers.append((drawn(drawing, face), name))
    return [*layers, (drawn(front, head), "hair")]


def rgb(text: str) -> np.ndarray:
    """Colour (3,) in [0, 1] of a hexadecimal text."""
    return np.array(list(bytes.fromhex(text)), np.float32) / 255


def face_colours(skin, hair, shirt) -> dict:
    """Colour of every name that face layers use."""
    lip = rgb("b84040")
    return {
        "skin": skin, "neck": skin * 0.87, "shade": skin * 0.82, "shine": skin * 1.06, "nostril": skin * 0.5,
        "hair": hair, "fur": hair, "brow": hair * 0.75, "iris": hair * 0.5 + 0.06, "shirt": shirt,
        "lip": lip * 0.8, "throat": lip * 0.4, "white": rgb("f7f5f0"), "ink": rgb("1f1a1a"),
        "rim": rgb("332b2b"), "blush": 0.6 * rgb("ed736b") + 0.4 * skin,
    }  # fmt: skip


def draw_face(subject, colours, rng, *, photo) -> np.ndarray:
    """Canvas with a head and shoulders: a modelled portrait, or a pop-art print."""
    colours = colours[np.argsort(colours @ LUMINANCE)]
    image = backdrop(colours, rng) if photo else poster(colours, rng)
    x, y, scale, angle = rng.uniform((190, 240, 0.92, -5), (210, 250, 1.04, 5))
    matrix = placement(x, y if photo else y - 20, scale=scale, angle=angle)
    skin, hair = (rgb(rng.choice(shades)) for shades in (SKINS, HAIRS))
    if not photo:
        skin, hair = 0.35 * colours[-2] + 0.65 * rgb("ffdcb8"), colours[0]
    named = face_colours(skin, hair, colours[1])
    for mask, name in face_layers(subject, matrix):
        if photo and name in DEPTHS:
            sculpt(image, mask, named[name], depth=DEPTHS[name], shadow=0.3)
        else:
            paint(image, mask, np.clip(named[name], 0, 1))
    return image


# --- the data set -------------------------------------------------------------------------------------------

DRAW = {
    "palette": draw_palette,
    "silhouette": draw_silhouette,
    "texture": draw_texture,
    "pose": draw_pose,
    "face": draw_face,
}


def draw_pair(factor: str, subject: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Left and right image, uint8 (245, 200, 3), of a subject; only for the palette factor in one palette."""
    first = subject if factor == "palette" else rng.integers(N_SUBJECTS)
    second = subject if factor == "palette" else (first + rng.integers(1, N_SUBJECTS)) % N_SUBJECTS
    left = photo_finish(DRAW[factor](subject, PALETTES[first], rng, photo=True), rng)
    right = poster_finish(DRAW[factor](subject, PALETTES[second], rng, photo=False), PALETTES[second], rng)
    return left, right


def with_borders(image, widths) -> np.ndarray:
    """The image squeezed between near-black borders of the given widths (top and bottom, left and right)."""
    y, x = widths
    framed = np.full_like(image, 4)
    height, width = image.shape[0] - 2 * y, image.shape[1] - 2 * x
    framed[y : y + height, x : x + width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return framed


def border_widths(rng) -> np.ndarray:
    """Widths (top and bottom, left and right) of a letterbox, a pillarbox or a frame."""
    return rng.integers((10, 8), (34, 26)) * ((1, 0), (0, 1), (1, 1))[rng.choice(3, p=(0.5, 0.35, 0.15))]


def pair_table(seed: int) -> pd.DataFrame:
    """One row a pair, sorted by left id: part, left, right, factor, subject, borders (see BORDERS)."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("bcdfghjklmnpqrstvwxyz"))  # without vowels no id spells a word
    codes = rng.choice(len(letters) ** 3, 2 * len(FACTORS) * N_SUBJECTS, replace=False)
    ids = ["".join(letters[list(np.unravel_index(code, (len(letters),) * 3))]) for code in codes]
    rows = [
        (("train", "test")[place >= N_TRAIN_SUBJECTS], ids.pop(), ids.pop(), factor, subject)
        for factor in FACTORS
        for place, subject in enumerate(rng.permutation(N_SUBJECTS))
    ]
    table = pd.DataFrame(rows, columns=["part", "left", "right", "factor", "subject"])
    borders = [kind for kind, share in BORDERS.items() for _ in range(round(share * len(rows)))]
    table["borders"] = rng.permutation(borders + [""] * (len(rows) - len(borders)))
    return table.sort_values(["part", "left"], ascending=[False, True], ignore_index=True)


def draw_row(row, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Left and right image, uint8 (245, 200, 3), of a row of `pair_table`, borders included."""
    rng = np.random.default_rng([seed, FACTORS.index(row.factor), row.subject])
    left, right = draw_pair(row.factor, row.subject, rng)
    widths = border_widths(rng)
    if row.borders in ("both", "left"):
        left = with_borders(left, widths)
    if row.borders in ("both", "right"):
        right = with_borders(right, widths + rng.integers(-1, 2) * (widths > 0))
    return left, right


def candidate_table(test: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Columns left, c0 … c19: the true right id and 19 others of the test part, in random order."""
    rows = []
    for left, right in zip(test.left, test.right, strict=True):
        foils = rng.choice(test.right[test.right != right], N_CANDIDATES - 1, replace=False)
        rows.append([left, *rng.permutation([right, *foils])])
    return pd.DataFrame(rows, columns=["left", *(f"c{i}" for i in range(N_CANDIDATES))])


def write_tables(folder: Path, table: pd.DataFrame, seed: int) -> None:
    """Write the five CSV files of the layout."""
    rng = np.random.default_rng([seed, len(FACTORS)])
    train, test = (table[table.part == part] for part in ("train", "test"))
    candidates = candidate_table(test, rng)
    scores = pd.DataFrame(rng.random((len(test), N_CANDIDATES)).round(6), columns=candidates.columns[1:])
    scores.insert(0, "left", candidates.left)
    files = {
        "train.csv": train[["left", "right"]],
        "test_truth.csv": test[["left", "right"]],
        "test_candidates.csv": candidates,
        "sample-submission.csv": scores,
        "factors.csv": table[["part", "left", "right", "factor"]],
    }
    for name, rows in files.items():
        rows.to_csv(folder / name, index=False, lineterminator="\n")  # the same bytes on Windows


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write an RGB image."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    if not cv2.imwrite(str(path), image[..., ::-1], options):
        raise OSError(f"{path}: could not be written; is the disk full?")


def draw_sample(folder: Path, seed: int = 0) -> None:
    """Write the whole data set to `folder`; an older sample there is replaced once the new one is complete.

    Raises FileExistsError when the folder holds something else.
    """
    folder = Path(folder).resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / "factors.csv").exists():
        raise FileExistsError(f"{folder} holds something other than a sample; name a new or an empty folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in ("train", "test"):
        for side in ("left", "right"):
            (partial / part / side).mkdir(parents=True)
    table = pair_table(seed)
    for row in table.itertuples():
        left, right = draw_row(row, seed)
        write_jpeg(partial / row.part / "left" / f"{row.left}.jpg", left)
        write_jpeg(partial / row.part / "right" / f"{row.right}.jpg", right)
    write_tables(partial, table, seed)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


if __name__ == "__main__":
    draw_sample(Path(sys.argv[1]) if len(sys.argv) > 1 else project_root() / "data" / "sample")
