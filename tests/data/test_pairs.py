"""Pairs of views, the pair table and its file."""

import numpy as np
import pandas as pd
import pytest

from tll_utils.data.images import Images
from tll_utils.data.pairs import Pairs, pair_table

LEFT = [f"l{i}" for i in range(30)]
RIGHT = [f"r{i}" for i in range(30)]


# --- pairs


@pytest.fixture
def pairs(tmp_path):
    """Three pairs a,x b,y c,z; pixels are never read here, bytes are for the fingerprints."""
    for name in "abcxyz":
        (tmp_path / name).write_text(name, encoding="utf-8")
    return Pairs(*(Images(ids, [tmp_path / name for name in ids]) for ids in ("abc", "xyz")))


def test_views_of_pairs_are_views_of_both_sides(pairs):
    view = pairs.take([2, 0]).cropped()
    assert len(view) == 2 and view.left.ids == ("c", "a") and view.right.ids == ("z", "x")
    assert view.left.view == view.right.view == "border-neutral"
    assert pairs.take(np.array([False, True, False])).right.ids == ("y",)


def test_the_key_tells_pairs_and_their_views_apart(pairs):
    views = [pairs, pairs.take([0]), pairs.take([1]), pairs.cropped(), Pairs(pairs.right, pairs.left)]
    assert len({view.key for view in views}) == 5
    assert pairs.take([2, 1]).take([1]).key == pairs.take([1]).key


# --- the table


def test_one_truth_first_then_19_distinct_foils():
    """30 lefts × (1 + 19) rows; right r7 is the truth of left l7 alone."""
    table = pair_table(LEFT, RIGHT)
    assert table.columns.tolist() == ["left", "right", "label"]
    assert table["left"].tolist() == np.repeat(LEFT, 20).tolist()
    assert table["label"].tolist() == ([1] + [0] * 19) * 30
    for i, rows in enumerate(table["right"].to_numpy().reshape(30, 20)):
        assert rows[0] == RIGHT[i]
        assert len(set(rows)) == 20


def test_every_right_is_drawn_as_a_foil_equally_often():
    """30 · 19 foils over 30 rights: 19 each on average, with a standard deviation below √19 = 4.4."""
    table = pair_table(LEFT, RIGHT)
    counts = table.loc[table["label"] == 0, "right"].value_counts()
    assert set(counts.index) == set(RIGHT)
    assert counts.between(19 - 4 * 4.4, 19 + 4 * 4.4).all()


def test_all_other_rights_when_all_are_wanted():
    table = pair_table(LEFT[:4], RIGHT[:4], n_foils=3)
    assert [set(rows) for rows in table["right"].to_numpy().reshape(4, 4)] == [set(RIGHT[:4])] * 4


def test_the_seed_decides():
    pd.testing.assert_frame_equal(pair_table(LEFT, RIGHT, seed=1), pair_table(LEFT, RIGHT, seed=1))
    assert not pair_table(LEFT, RIGHT, seed=1).equals(pair_table(LEFT, RIGHT, seed=2))
    pd.testing.assert_frame_equal(pair_table(LEFT, RIGHT), pair_table(LEFT, RIGHT, seed=0))


def foil_columns(similarity: np.ndarray, *, n_foils: int, seed: int = 0) -> list[set[int]]:
    """Columns of the foils of every left."""
    n = len(similarity)
    table = pair_table(LEFT[:n], RIGHT[:n], n_foils=n_foils, seed=seed, similarity=similarity)
    rights = table["right"].str[1:].astype(int).to_numpy().reshape(n, 1 + n_foils)
    assert rights[:, 0].tolist() == list(range(n))
    return [set(row) for row in rights[:, 1:].tolist()]


def test_semi_hard_foils_are_the_nearest_below_the_truth():
    """S[i, j] = j: below truth i lie i − 1, i − 2, …; 2 foils come from the nearest 6 below.

    Over 40 seeds left 20 draws each of 14 … 19 (a miss has chance (2/3)^40) and nothing else.
    """
    similarity = np.tile(np.arange(30.0), (30, 1))
    drawn = [foil_columns(similarity, n_foils=2, seed=seed)[20] for seed in range(40)]
    assert set().union(*drawn) == {14, 15, 16, 17, 18, 19}
    assert all(len(foils) == 2 for foils in drawn)


def test_semi_hard_foils_are_filled_up_from_nearest_above():
    """S[i, j] = j: below truth 1 lies 0 only, so the nearest above, 2 and 3, join it; truth 0 takes 1 to 3."""
    foils = foil_columns(np.tile(np.arange(10.0), (10, 1)), n_foils=3)
    assert foils[0] == {1, 2, 3}
    assert foils[1] == {0, 2, 3}
    assert foils[3] == {0, 1, 2}


def test_scores_equal_to_the_truth_are_not_below_it():
    """Left 0: truth 5, right 1 the same, rights 2 to 4 within half of it below, all others above.

    Two foils come from the three below; never from right 1, though it is nearest.
    """
    similarity = np.tile([5, 5, 4.9, 4.7, 4.5, 6, 7, 8, 9, 9.5], (10, 1))
    drawn = [foil_columns(similarity, n_foils=2, seed=seed)[0] for seed in range(40)]
    assert set().union(*drawn) == {2, 3, 4}


def test_foils_do_not_depend_on_how_the_similarity_lies_in_memory():
    similarity = np.random.default_rng(0).random((10, 10), np.float32)
    expected = foil_columns(similarity, n_foils=3)
    for view in (similarity.astype(float), np.asfortranarray(similarity), np.repeat(similarity, 2, axis=0)[::2]):
        view.flags.writeable = False
        assert foil_columns(view, n_foils=3) == expected


def test_equal_scores_are_drawn_from_evenly():
    """Constant similarity: all foils are as near, so over 60 seeds left 0 meets all nine others."""
    drawn = [foil_columns(np.zeros((10, 10)), n_foils=1, seed=seed)[0] for seed in range(60)]
    assert set().union(*drawn) == set(range(1, 10))


@pytest.mark.parametrize(
    ("left", "right", "options", "message"),
    [
        (LEFT[:19], RIGHT[:19], {}, "19 foils per left image .* pass n_foils from 1 to 18"),
        (LEFT, RIGHT, {"n_foils": 0}, "pass n_foils from 1 to 29"),
        ([*LEFT[:29], "l3"], RIGHT, {}, "left id 'l3' occurs more than once"),
        (LEFT, [*RIGHT[:29], "r5"], {}, "right id 'r5' occurs more than once"),
        (LEFT[:29], RIGHT, {}, "29 left and 30 right ids"),
        (LEFT, RIGHT, {"similarity": np.zeros((30, 29))}, r"similarity is \(30, 29\)"),
        (LEFT, RIGHT, {"similarity": np.diag([0] * 8 + [np.nan] * 22)}, "similarity row 8 holds NaN"),
        (LEFT, RIGHT, {"similarity": np.diag([0] * 8 + [-np.inf] * 22)}, "similarity row 8 holds NaN or infinite"),
    ],
)
def test_impossible_tables_are_refused(left, right, options, message):
    with pytest.raises(ValueError, match=message):
        pair_table(left, right, **options)
