"""Tables beside results, on the sample: what is known of them otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from scripts import scoring, tables
from tll_utils.data.dataset import load_dataset
from tll_utils.methods.base import Method
from tll_utils.methods.registry import REPORT_FACE_WEIGHT, get_entry, get_method
from tll_utils.report.experiments import run_methods
from tll_utils.runtime import project_root


@pytest.fixture(scope="module")
def sample():
    return load_dataset(project_root() / "data" / "sample")


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "folder", lambda: tmp_path)


def top2(sample, name):
    """Expected top-2 by the headline protocol."""
    table, _ = run_methods([name], sample.train)
    return pytest.approx(table.expected_top2[0], abs=1e-4)


def test_layers(sample):
    """One cell is a registered method."""
    table = tables.layers_table(sample)
    assert table.groupby("network").size().to_dict() == {f"Lite{variant}": 24 for variant in range(3)}
    (found,) = table.query("network == 'Lite0' and layer == 'head' and pooling == 'average'").top2
    assert found == top2(sample, "lite0_average")


def test_face_weights(sample):
    """No face, nothing but face, and the report's weight are registered methods; only between them does scale count."""
    table = tables.face_weight_table(sample).set_index("weight")
    assert table.raw[0.0] == table.standardised[0.0] == top2(sample, "lite0_uncentred")
    assert table.raw[1.0] == table.standardised[1.0] == top2(sample, "whole_image_face")
    assert (table.raw != table.standardised).any()
    below, above = table.raw[0.65], table.raw[0.7]
    assert min(below, above) - 0.02 < top2(sample, "report_fusion").expected < max(below, above) + 0.02
    assert 0.65 < REPORT_FACE_WEIGHT < 0.7


def test_confidences(sample, monkeypatch):
    """First choices are as often right as says the top-1 accuracy of these lists; together no right is sure twice."""
    monkeypatch.setattr(tables, "get_method", lambda name: get_method("lite0_average"))
    table = tables.confidence_table(sample)
    assert table.answered.value_counts().to_dict() == {"alone": 120, "together": 120}
    assert table.confidence.between(0, 1).all() and table.is_right.isin([0, 1]).all()
    alone = table[table.answered == "alone"]
    assert alone.confidence.min() > 1 / 20 and abs(alone.confidence.mean() - alone.is_right.mean()) < 0.15


@dataclass(eq=False, repr=False)
class Planted(Method):
    """Better the more pairs it is fitted on; every input has noise of its own."""

    inputs: Sequence[Sequence[str]] = (("1",), ("2",))

    def fit(self, train):
        self.n_ = len(train)
        return self

    def scores(self, left, right):
        seeds = [int(name) for names in self.inputs for name in names]
        noise = [np.random.default_rng(seed).standard_normal((len(left), len(right))) for seed in seeds]
        return np.mean(noise, axis=0) + self.n_ / 50 * np.eye(len(left))


def test_fewer_pairs_and_members_have_their_intervals(sample, monkeypatch):
    monkeypatch.setattr(tables, "get_method", lambda name: Planted())
    monkeypatch.setattr(scoring.keras.backend, "clear_session", lambda: None)  # nothing is trained, and it is slow
    members = tables.members_table(sample)
    np.testing.assert_allclose(members.alone, members.without[::-1], atol=1e-9)
    curve = tables.learning_curve_table(sample, sizes=(20, 90))
    assert curve.method.tolist() == [get_entry(name).title for name in ("fast", "fast", "best", "best")]
    assert curve.pairs.tolist() == [20, 90] * 2 and curve.top2[0] < curve.top2[1]
    for table, name in ((members, "alone"), (curve, "top2")):
        assert (table[f"{name}_low"] < table[name]).all() and (table[name] < table[f"{name}_high"]).all()


def test_faces_and_groups(sample):
    found, groups = tables.found_table(sample), tables.groups_table(sample)
    assert list(found.left) == list(groups.left) == list(sample.train.left.ids)
    assert pd.Series(groups.group.str.contains("no face").to_numpy() != found.left_face.to_numpy()).all()
