"""Where networks that are trained from scratch leave their checkpoints."""

import pytest


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """Folder that holds the checkpoints of `SiameseNetwork`."""
    monkeypatch.setattr("tll_utils.methods.from_scratch.build_dir", lambda: tmp_path / "build")
    return tmp_path / "build" / "trainings"
