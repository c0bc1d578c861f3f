"""A tiny data set in the TLL layout, drawn in a temporary folder; pairs of the drawn sample, encoded once a session."""

import os
import shutil
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from tll_utils.data.dataset import load_dataset
from tll_utils.data.images import Images
from tll_utils.data.pairs import Pairs
from tll_utils.runtime import project_root

N_PAIRS = 64


def pytest_addoption(parser):
    parser.addoption("--volume", action="store_true", help="tests/faults: many more kills and damaged files")


@pytest.fixture
def volume(request) -> bool:
    """Whether the tests of faults run at volume: `make test-faults`."""
    return request.config.getoption("--volume")


def picture(seed: int) -> np.ndarray:
    """Soft random colours, bright to the edge, uint8 (245, 200, 3); another picture for every seed."""
    coarse = np.random.default_rng(seed).integers(60, 256, (5, 4, 3), dtype=np.uint8)
    return cv2.resize(coarse, (200, 245), interpolation=cv2.INTER_LINEAR)


def encoded(image: np.ndarray | Image.Image, format: str = "JPEG", **options) -> bytes:
    """The bytes of an image file."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def tiny_original(tmp_path_factory):
    """6 pairs l0,r0 … l5,r5; test lefts q0 q1 q2 with candidates g0…g19, g1…g20, g2…g20 and g0."""
    root = tmp_path_factory.mktemp("original") / "tiny"
    names = {"train/left": ("l", 6), "train/right": ("r", 6), "test/left": ("q", 3), "test/right": ("g", 21)}
    for seed, (folder, (letter, count)) in enumerate(names.items()):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            (root / folder / f"{letter}{i}.jpg").write_bytes(encoded(picture(100 * seed + i)))
    (root / "train.csv").write_text("left,right\n" + "".join(f"l{i},r{i}\n" for i in range(6)), encoding="utf-8")
    header = ",".join(["left", *(f"c{i}" for i in range(20))])
    rows = [",".join([f"q{i}", *(f"g{(i + k) % 21}" for k in range(20))]) for i in range(3)]
    (root / "test_candidates.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return root


@pytest.fixture
def tiny(tiny_original, tmp_path, monkeypatch):
    """A copy of the tiny data set to read or to damage; the cache starts empty."""
    monkeypatch.setenv("TLL_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(tiny_original, tmp_path / "tiny")


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    """One cache of all processes of a run."""
    root = tmp_path_factory.getbasetemp()
    return (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "session-cache"


@pytest.fixture(scope="module")
def sample(session_cache):
    """The sample's first 64 training pairs as folders of their own: what is encoded whole is small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLL_CACHE", str(session_cache))
        patch.setenv("TLL_PROGRESS", "0")
        pairs = load_dataset(project_root() / "data" / "sample").train
        yield Pairs(*(Images(side.ids[:N_PAIRS], side.files[:N_PAIRS]) for side in (pairs.left, pairs.right)))


@pytest.fixture(scope="session")
def presets(tmp_path_factory):
    """A folder of all registered presets, small and with random weights, for $TLL_PRESETS."""
    from random_presets import write_registered_presets  # brings KerasHub

    write_registered_presets(root := tmp_path_factory.mktemp("presets"))
    return root


class Vectors:
    """Images that are their own features: views as of `Images`, `values` float32 (n, d)."""

    def __init__(self, values, *, is_cropped: bool = False, is_mirrored: bool = False):
        self.values = np.asarray(values, np.float32)
        self.is_cropped, self.is_mirrored = is_cropped, is_mirrored

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows) -> "Vectors":
        return Vectors(self.values[rows], is_cropped=self.is_cropped, is_mirrored=self.is_mirrored)

    def cropped(self) -> "Vectors":
        return Vectors(self.values, is_cropped=True, is_mirrored=self.is_mirrored)

    def mirrored(self) -> "Vectors":
        return Vectors(self.values, is_cropped=self.is_cropped, is_mirrored=not self.is_mirrored)


def values(images: Vectors) -> np.ndarray:
    """The features of `Vectors`."""
    return images.values


@pytest.fixture
def planted_blocks(monkeypatch):
    """The first and the last twelve features; the last have a mirrored view, which changes their sign."""
    from tll_utils.methods import adapters  # brings TensorFlow, for which most tests need not wait

    monkeypatch.setitem(adapters.BLOCKS, "first", adapters.Block(lambda images: images.values[:, :12]))
    last = adapters.Block(lambda images: images.values[:, 12:] * (1 - 1.5 * images.is_mirrored), mirrored=True)
    monkeypatch.setitem(adapters.BLOCKS, "last", last)


def planted(n, seed=0):
    rng = np.random.default_rng(seed)
    left = rng.standard_normal((n, 24)) + 1
    return Pairs(Vectors(left), Vectors(left + rng.standard_normal((n, 24))))
