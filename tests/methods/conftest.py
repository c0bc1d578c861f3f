"""Pairs of the drawn sample, encoded once per session."""

import pytest

from tll_utils.data.dataset import load_dataset
from tll_utils.data.images import Images
from tll_utils.data.pairs import Pairs
from tll_utils.runtime import project_root

N_PAIRS = 64


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def sample(session_cache):
    """The sample's first 64 training pairs as folders of their own: what is encoded whole is small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLL_CACHE", str(session_cache))
        patch.setenv("TLL_PROGRESS", "0")
        pairs = load_dataset(project_root() / "data" / "sample").train
        yield Pairs(*(Images(side.ids[:N_PAIRS], side.files[:N_PAIRS]) for side in (pairs.left, pairs.right)))


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """Folder that holds the checkpoints of `SiameseNetwork`."""
    monkeypatch.setattr("tll_utils.methods.from_scratch.build_dir", lambda: tmp_path / "build")
    return tmp_path / "build" / "trainings"
