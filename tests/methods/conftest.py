"""Where networks that are trained from scratch leave their checkpoints."""

import pytest


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """Folder that holds the checkpoints of `SiameseNetwork`."""
    monkeypatch.setattr("tll_utils.methods.from_scratch.project_root", lambda: tmp_path)
    return tmp_path / "build" / "trainings"
