"""The five factors: a subject is drawn as a canvas, float32 (490, 400, 3), and finished as a snapshot or a print."""

import cv2
import numpy as np

from scripts.sample.masks import HEIGHT, WIDTH, paint
from scripts.sample.scene import DRAWINGS, Scene, rgb

FACTORS = ("palette", "silhouette", "texture", "pose", "face")
N_SUBJECTS = 32
PALETTES = [np.stack([rgb(colour) for colour in row.split()]) for row in DRAWINGS["palettes"]]


def draw_pair(factor: str, subject: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Left and right image, uint8 (245, 200, 3), of a subject; only for the palette factor in one palette."""
    first = subject if factor == "palette" else rng.integers(N_SUBJECTS)
    second = subject if factor == "palette" else (first + rng.integers(1, N_SUBJECTS)) % N_SUBJECTS
    photo = draw(factor, subject, PALETTES[first], rng, photo=True)
    left = photo_finish(photo, rng)
    poster = draw(factor, subject, PALETTES[second], rng, photo=False)
    return left, poster_finish(poster, PALETTES[second], rng)


def draw(factor: str, subject: int, colours: np.ndarray, rng, *, photo: bool) -> np.ndarray:
    """Canvas of a subject: modelled and standing in a scene, or a flat print."""
    if factor == "palette":
        scenes = list(DRAWINGS["palette_photos" if photo else "palette_posters"].values())
        text = scenes[rng.integers(len(scenes))]
        scene = Scene(colours[rng.permutation(5)], rng)
        scene.run(text)
        return scene.image
    colours = by_light(colours)
    if factor != "face" and rng.random() < 0.3:  # from subject to background: sometimes light on dark
        colours = colours[::-1]
    if factor == "texture":
        return draw_texture(subject, colours, rng, photo=photo)
    scene = background(colours, rng, photo=photo)
    words = {"silhouette": silhouette_words, "pose": pose_words, "face": face_words}[factor](subject)
    texts = DRAWINGS[factor]
    scene.run(texts["photo" if photo else "poster"].format(**words))
    scene.run(texts["both"].format(**words))
    return scene.image


def by_light(colours: np.ndarray) -> np.ndarray:
    """The five colours from dark to light."""
    return colours[np.argsort(colours @ np.array([0.3, 0.6, 0.1], np.float32))]


def background(colours: np.ndarray, rng, *, photo: bool) -> Scene:
    """A scene that holds a background only; colours from subject to background."""
    scene = Scene(colours, rng, flat=not photo)
    texts = DRAWINGS["backdrops" if photo else "posters"]
    scene.run(texts[rng.integers(len(texts))])
    return scene


def photo_finish(canvas: np.ndarray, rng) -> np.ndarray:
    """Image, uint8 (245, 200, 3), of a snapshot: light from one side, vignette, blur and grain."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + 0.14 * (x * np.cos(angle) + y * np.sin(angle)) - 0.1 * (x**2 + y**2 - 0.7)
    image = cv2.resize(canvas * light[..., None], (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 0.9))
    grain = rng.normal(0, rng.uniform(0.006, 0.012), (*image.shape[:2], 1)).astype(np.float32)
    return np.round(255 * np.clip(image + grain, 0.06, 1)).astype(np.uint8)


def poster_finish(canvas: np.ndarray, colours: np.ndarray, rng) -> np.ndarray:
    """Image, uint8 (245, 200, 3), of a print, mostly with a margin and a caption whose words are bars."""
    margin, has_caption = 14 * (rng.random() < 0.7), rng.random() < 0.7
    scene = Scene(by_light(colours), rng)
    scene.image = canvas
    bottom = HEIGHT - (90 if has_caption else margin)
    scene.run(f"paint e: b -9 -9 409 499; -b {margin} {margin} {WIDTH - margin} {bottom}")
    if has_caption:
        scene.run(DRAWINGS["captions"][rng.integers(2)])
    image = cv2.resize(scene.image, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
    return np.round(255 * np.clip(image, 0.06, 1)).astype(np.uint8)


# --- words that are filled into the drawing of a factor ---------------------------------------------------


def silhouette_words(subject: int) -> dict[str, str]:
    """The outline, on a 100 × 100 sheet."""
    return {"drawing": list(DRAWINGS["silhouettes"].values())[subject].replace("\n", " ")}


def pose_words(subject: int) -> dict[str, str]:
    """Joints "x y x y …" in units of the trunk's length, hip at the origin, y down; centre, floor, pixels of a unit."""
    pose = DRAWINGS["pose"]
    lean, arm = divmod(subject, len(pose["arms"]))
    leg, turn = (arm + 3 * lean) % len(pose["legs"]), np.radians(pose["leans"][lean])
    hip, neck = np.zeros(2), np.array([np.sin(turn), -np.cos(turn)])
    joints = {"trunk": np.array([hip, neck]), "head": 1.4 * neck[None]}
    for name, root, length, angles in (
        ("arm", neck + np.array([0, 0.06]), 0.55, pose["arms"][arm]),
        ("leg", hip, 0.71, pose["legs"][leg]),
    ):
        for side, turns in enumerate(np.radians(angles).reshape(2, 2)):
            start = root + np.array([0.32 * side - 0.16, 0])
            bones = length * np.stack([np.sin(turns), np.cos(turns)], 1)
            joints[f"{name}{side}"] = np.cumsum([start, *bones], axis=0)
    points = np.concatenate(list(joints.values()))
    low, high = points.min(0) - 0.2, points.max(0) + 0.2
    (x, y), unit = (low + high) / 2, min(330 / (high - low).max(), 115)
    joints["shoulders"] = np.array([joints["arm0"][0], joints["arm1"][0]])
    words = {name: " ".join(map(str, part.ravel())) for name, part in joints.items()}
    return words | {"x": str(x), "y": str(y), "unit": str(unit), "floor": str(high[1] - 0.14)}


def face_words(subject: int) -> dict[str, str]:
    """Form, hair and parts of a head."""
    face = DRAWINGS["face"]
    group, style = divmod(subject, len(face["back"]))
    number = {"head": style + group, "brows": style // 2 + group, "mouth": style + 2 * group}
    number |= {"back": style, "front": style, "beard": style + group, "extra": style + group}
    return {name: face[name][k % len(face[name])] for name, k in number.items()}


# --- textures ---------------------------------------------------------------------------------------------


def draw_texture(subject: int, colours: np.ndarray, rng, *, photo: bool) -> np.ndarray:
    """Canvas: one pattern fills a shape of a print, or is hanging cloth, or covers a ball or a cushion."""
    look = ("ball", "cushion", "curtain")[rng.integers(3)] if photo else "print"
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    if look == "print":
        scene = Scene(colours[[2, 2, 2, 2, 2]], rng)
        mask = scene.mask(DRAWINGS["print"])
        paint(scene.image, mask, texture(subject, x, y, colours, rng))
        return scene.image
    if look == "curtain":
        (a, b), wave = rng.uniform(0, 6, 2), rng.uniform(38, 60)
        fold = np.sin(x / wave + a + 0.5 * np.sin(y / 110 + b))
        cloth = texture(subject, x + 12 * fold, y + 5 * fold, colours, rng)
        return np.clip(cloth * (0.84 + 0.2 * fold)[..., None], 0, 1).astype(np.float32)
    scene = background(colours[[0, 1, 3, 2, 2]], rng, photo=True)
    x, y = x - 200, y - 250
    radius = np.maximum(np.hypot(x, y) / 178, 1e-3)
    swell = np.arcsin(np.minimum(radius, 0.98)) / radius if look == "ball" else 1 + (x**2 + y**2) / 500_000
    scene.names["cloth"] = texture(subject, x * swell, y * swell, colours, rng)
    scene.run(DRAWINGS[look])
    return scene.image


def texture(subject: int, u: np.ndarray, v: np.ndarray, colours: np.ndarray, rng) -> np.ndarray:
    """Canvas of a pattern over coordinates u and v in pixels; fine and upright, or coarse and slanted."""
    coarse, kind = divmod(subject, len(TEXTURES))
    turn = np.radians(rng.uniform(-4, 4) + 45 * coarse)
    size = (44, 76)[coarse] * rng.uniform(0.92, 1.08)
    u, v = (u * np.cos(turn) + v * np.sin(turn)) / size, (v * np.cos(turn) - u * np.sin(turn)) / size
    pattern = list(TEXTURES.values())[kind]
    share = np.array(pattern(u + rng.uniform(0, 1), v + rng.uniform(0, 1)), np.float32)[..., None]
    return share * colours[0] + (1 - share) * colours[-1]


def within(t: np.ndarray) -> np.ndarray:
    """Signed offset of t from the middle of its unit interval, in [-0.5, 0.5)."""
    return t - np.floor(t) - 0.5


def cracks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether (u, v) lies near a cell border of the Voronoi diagram of one random point a unit square."""
    distances = []
    for i, j in np.ndindex(3, 3):
        a, b = np.floor(u) + i - 1, np.floor(v) + j - 1
        x, y = (np.modf(np.abs(np.sin(a * p + b * q) * 4375.5))[0] for p, q in ((12.9, 78.2), (39.3, 11.1)))
        distances.append(np.hypot(a + x - u, b + y - v))
    nearest, second = np.partition(distances, 1, axis=0)[:2]
    return second - nearest < 0.14


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
