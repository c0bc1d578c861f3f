"""Values as trees of JSON values and back: type, dtype and identity are kept, what is unknown is named."""

import json

import numpy as np
import pandas as pd
import pytest

from tll_utils.features.catalogue import Features
from tll_utils.methods.adapters import Adapter
from tll_utils.methods.base import BorderNeutral, Method, Similarity, WeightedSum
from tll_utils.search.tree import ModelError, packed, unpacked


def round_trip(value):
    parts = {}
    tree = json.dumps(packed(value, parts))
    return unpacked(tree, dict(parts.values()))


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 0.1, "ä", [], (), {}, [1, [2, (3, (4,))]], {"part": 1, "class": (2,)}, {1: "int", None: "none"}],
    ids=str,
)
def test_values_come_back_with_their_types(value):
    """Tuples in tuples, dicts whose keys are numbers or the words of the tree."""
    again = round_trip(value)
    assert again == value and repr(again) == repr(value)


def test_an_array_that_occurs_twice_is_one_part():
    array, equal = np.arange(3), np.arange(3)
    a, b, c = round_trip([array, {"again": array}, equal])
    assert a is b["again"] and a is array and c is equal


def test_tables_keep_columns_types_and_gaps():
    table = pd.DataFrame({"epoch": [1, 2], "loss": [0.5, np.nan]})
    pd.testing.assert_frame_equal(round_trip(table), table)


def test_methods_in_methods_keep_parameters_and_what_they_learned():
    """Parameters through the constructor, learned attributes behind it."""
    inner = Similarity(Features("lite0_head", "head_max", cells=6), "l1", centred=False)
    inner.means_ = [np.ones(2, np.float32), np.zeros(2)]
    outer = BorderNeutral(WeightedSum([inner, Adapter((("hog",),), width=8)], (1, 2.5)))
    outer.method_ = inner
    again = round_trip(outer)
    assert repr(again) == repr(outer) and again.method_.features == inner.features
    assert [mean.dtype for mean in again.method_.means_] == [np.float32, np.float64]
    assert again.method_.means_[0] is inner.means_[0]


class Adapter2(Method):
    """A method nobody entered into CLASSES."""


@pytest.mark.parametrize("value", [Adapter2(), {1, 2}, np.int64, object()], ids=lambda value: type(value).__name__)
def test_values_of_unknown_types_are_refused(value):
    with pytest.raises(ModelError, match=r"cannot be saved: add its class .* to CLASSES in"):
        packed([value], {})


def test_a_class_of_the_same_name_is_another():
    """What is restored under a name is the class of the table, so nothing else is saved under it."""
    with pytest.raises(ModelError, match="Adapter"):
        packed(type("Adapter", (Method,), {})(), {})


def test_unknown_class_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="class Popen is unknown, known are Features, Similarity"):
        unpacked('{"class": "Popen", "args": "ls"}', {})
