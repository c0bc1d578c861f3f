"""Similarities by hand and against plain NumPy."""

import numpy as np
import pytest

from tll_utils.similarity import (
    cosine_similarity,
    euclidean_similarity,
    hubness_correction,
    intra_normalise,
    l1_similarity,
    standardise,
    unit_length,
)

MEASURES = [cosine_similarity, euclidean_similarity, l1_similarity]


@pytest.fixture
def embeddings():
    """Random left (11, 40) and right (7, 40) float32."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((11, 40)).astype(np.float32), rng.standard_normal((7, 40)).astype(np.float32)


def test_cosine_by_hand():
    """(3, 4) has length 5: cosine 3/5 with (1, 0), −4/5 with (0, −2), 1 with (6, 8)."""
    S = cosine_similarity(np.array([[3, 4]]), np.array([[1, 0], [0, -2], [6, 8]]))
    np.testing.assert_allclose(S, [[0.6, -0.8, 1]], rtol=1e-6)


def test_euclidean_by_hand():
    """(0, 0) is 5 away from (3, 4) and 0 from itself; (3, 0) is 4 and 3 away."""
    S = euclidean_similarity(np.array([[0, 0], [3, 0]]), np.array([[3, 4], [0, 0]]))
    np.testing.assert_allclose(S, [[-5, 0], [-4, -3]], rtol=1e-6)


def test_l1_by_hand():
    """|0 − 3| + |0 − 4| = 7; |3 − 3| + |0 − 4| = 4; |3| = 3."""
    S = l1_similarity(np.array([[0, 0], [3, 0]]), np.array([[3, 4], [0, 0]]))
    np.testing.assert_array_equal(S, [[-7, 0], [-4, -3]])


def test_measures_agree_with_their_definition(embeddings):
    left, right = embeddings
    a, b = left[:, None].astype(float), right[None].astype(float)
    cosine = (a * b).sum(2) / np.linalg.norm(a, axis=2) / np.linalg.norm(b, axis=2)
    np.testing.assert_allclose(cosine_similarity(left, right), cosine, atol=1e-6)
    np.testing.assert_allclose(euclidean_similarity(left, right), -np.sqrt(((a - b) ** 2).sum(2)), rtol=1e-6)
    np.testing.assert_allclose(l1_similarity(left, right), -np.abs(a - b).sum(2), rtol=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_result_is_float32_left_by_right(measure, embeddings):
    left, right = embeddings
    S = measure(left.astype(np.float64), right)
    assert S.shape == (11, 7)
    assert S.dtype == np.float32


@pytest.mark.parametrize("measure", MEASURES)
def test_an_image_is_most_like_itself(measure, embeddings):
    left, _ = embeddings
    assert measure(left, left).argmax(axis=1).tolist() == list(range(11))


def test_cosine_stays_within_its_bounds():
    """Rounding takes the cosine of a vector with itself past 1 now and then; −1 … 1 is promised."""
    rows = np.random.default_rng(0).random((300, 50), np.float32)
    assert cosine_similarity(rows, rows).max() <= 1
    assert cosine_similarity(rows, -rows).min() >= -1


@pytest.mark.parametrize("measure", MEASURES)
def test_width_mismatch_and_values_that_are_not_finite(measure, embeddings):
    left, right = embeddings
    with pytest.raises(ValueError, match=r"left \(11, 40\) and right \(7, 39\) differ in width"):
        measure(left, right[:, 1:])
    right[4, 2] = np.nan
    with pytest.raises(ValueError, match="right row 4 holds NaN"):
        measure(left, right)
    with pytest.raises(ValueError, match=r"left must be a matrix .* got shape \(40,\)"):
        measure(left[0], right)
    with pytest.raises(ValueError, match=r"left must be a matrix that is not empty, got shape \(0, 40\)"):
        measure(left[:0], right)


# --- numerics: what the functions promise for any finite input


@pytest.mark.parametrize("measure", MEASURES)
def test_identical_images_get_the_same_scores(measure, embeddings):
    """Rights 0 and 6 are one picture, and so are lefts 2 and 10: their columns and rows agree, but for rounding."""
    left, right = embeddings
    left[10], right[6] = left[2], right[0]
    S = measure(left, right)
    np.testing.assert_allclose(S[:, 6], S[:, 0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(S[10], S[2], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("measure", MEASURES)
def test_scores_do_not_depend_on_how_an_array_lies_in_memory(measure, embeddings):
    """Float64 with the same values, column order, every second row and read-only: same scores, inputs unchanged."""
    left, right = embeddings
    S = measure(left, right)
    spread = np.repeat(left, 2, axis=0)[::2]
    for view in (left.astype(float), np.asfortranarray(left), spread):
        view.flags.writeable = False
        np.testing.assert_allclose(measure(view, right), S, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(view, left)
    np.testing.assert_array_equal(measure(left.tolist(), right.tolist()), S)


@pytest.mark.parametrize("measure", MEASURES)
def test_one_image_and_one_number(measure):
    """A single row, and embeddings of width one: 2 and 2 are alike, 2 and −2 are not."""
    S = measure([[2]], [[2], [-2]])
    np.testing.assert_allclose(S, [[1, -1]] if measure is cosine_similarity else [[0, -4]])
    np.testing.assert_array_equal(measure([[2]], [[2]]), S[:, :1])


@pytest.mark.parametrize("measure", [euclidean_similarity, l1_similarity])
def test_constant_embeddings_are_all_alike(measure):
    """Centred they are zero: distances are 0, and the cosine is an error (see `test_a_row_needs_a_direction`)."""
    np.testing.assert_array_equal(measure(np.zeros((3, 40)), np.zeros((2, 40))), np.zeros((3, 2)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (unit_length, "embeddings"),
        (standardise, "S"),
        (lambda rows: intra_normalise(rows, n_cells=1), "embeddings"),
        (lambda rows: hubness_correction(rows, np.ones((3, 2)), k=1), "S"),
        (lambda rows: hubness_correction(np.ones((3, 2)), rows, k=1), "bank"),
        (lambda rows: l1_similarity(np.ones((3, 2)), rows), "right"),
    ],
)
def test_a_value_that_is_not_finite_is_named(function, name, value):
    with pytest.raises(ValueError, match=f"^{name} row 1 holds NaN or infinite values"):
        function(np.array([[1, 2], [3, value], [value, 4]]))


@pytest.mark.parametrize(
    "function",
    [
        unit_length,
        standardise,
        lambda rows: intra_normalise(rows, n_cells=2),
        lambda rows: hubness_correction(rows, rows, k=2),
    ],
)
def test_corrections_do_not_depend_on_how_an_array_lies_in_memory(function):
    rows = np.random.default_rng(0).random((6, 8), np.float32)
    expected = function(rows)
    assert expected.dtype == np.float32
    for view in (rows.astype(float), np.asfortranarray(rows), np.repeat(rows, 2, axis=0)[::2]):
        view.flags.writeable = False
        np.testing.assert_allclose(function(view), expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(view, rows)


# --- corrections


def test_unit_length_by_hand():
    rows = unit_length(np.array([[3, 4], [0, -2]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, -1]], rtol=1e-6)
    assert rows.dtype == np.float32


def test_a_row_of_zeros_is_like_nothing(embeddings):
    """An all-black image has no direction: its cosine with every other is 0, as in scikit-learn."""
    left, right = embeddings
    left[5] = 0
    S = cosine_similarity(left, right)
    assert (S[5] == 0).all() and (np.delete(S, 5, axis=0) != 0).all()


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_row_whose_length_float32_cannot_hold_is_named(embeddings):
    left, right = embeddings
    left[5] = 3e38
    for sides, name in [((left, right), "left"), ((right, left), "right")]:
        with pytest.raises(ValueError, match=f"{name} row 5 is too long for float32"):
            cosine_similarity(*sides)


def test_hubness_correction_by_hand():
    """Right 0 is 4 and 2 like its two nearest known lefts, right 1 is 1 and 0: half of the means 3 and 0.5 goes off."""
    bank = np.array([[4, 0], [2, 1], [-9, -9]])
    S = np.array([[2.0, 1.0], [0.0, 0.0]])
    corrected = hubness_correction(S, bank, k=2, weight=0.5)
    np.testing.assert_allclose(corrected, [[0.5, 0.75], [-1.5, -0.25]])
    assert corrected.dtype == np.float32


def test_hubness_correction_with_the_nearest_alone():
    """k = 1: the best known scores are 4 and 1."""
    bank = np.array([[4, 0], [2, 1], [-9, -9]])
    np.testing.assert_allclose(hubness_correction(np.zeros((1, 2)), bank, k=1, weight=1), [[-4, -1]])


def test_hubness_correction_takes_half_of_thirty_unless_told():
    S, bank = np.random.default_rng(0).standard_normal((2, 40, 5))
    np.testing.assert_array_equal(hubness_correction(S, bank), hubness_correction(S, bank, k=30, weight=0.5))


def test_hubness_correction_demotes_a_hub():
    """Right 0 wins both rows, but it is as near to every known left; the truth of left 1 is right 1."""
    S, bank = np.array([[0.9, 0.1], [0.8, 0.75]]), np.array([[0.8, 0.1], [0.7, 0.2], [0.9, 0.0]])
    assert S.argmax(axis=1).tolist() == [0, 0]
    assert hubness_correction(S, bank, k=3).argmax(axis=1).tolist() == [0, 1]


def test_hubness_correction_is_inductive():
    """A left's scores are the same whoever else asks."""
    S, bank = np.random.default_rng(0).standard_normal((2, 6, 5))
    np.testing.assert_array_equal(hubness_correction(S, bank, k=3)[:1], hubness_correction(S[:1], bank, k=3))


@pytest.mark.parametrize("k", [0, 7])
def test_hubness_correction_wants_k_known_lefts(k):
    S, bank = np.zeros((2, 6, 5))
    with pytest.raises(ValueError, match=f"k={k} nearest of 6 known lefts .* from 1 to 6"):
        hubness_correction(S, bank, k=k)
    with pytest.raises(ValueError, match=r"S \(6, 5\) and bank \(6, 4\) differ in width"):
        hubness_correction(S, bank[:, 1:], k=1)


def test_standardise_by_hand():
    """Mean 2, deviations −2, 0, 0, 2: standard deviation √2, so −√2, 0, 0, √2."""
    Z = standardise(np.array([[0, 2], [2, 4]]))
    np.testing.assert_allclose(Z, [[-np.sqrt(2), 0], [0, np.sqrt(2)]], rtol=1e-6)
    assert Z.dtype == np.float32


@pytest.mark.parametrize("value", [0, 7.1, -1e-7])
def test_constant_scores_become_zeros(value):
    """They have no spread to divide by, and no say in a sum."""
    np.testing.assert_allclose(standardise(np.full((30, 37), value)), 0, atol=1e-12)


def test_standardise_keeps_the_spread_of_scores_far_from_zero():
    """10⁸ and 10⁸ + 8 are neighbours in float32: their mean and deviation need float64."""
    np.testing.assert_array_equal(standardise(np.array([[1e8, 1e8 + 8]])), [[-1, 1]])


def test_intra_normalise_by_hand():
    """Cells (9, 16) and (0, 0): roots (3, 4) of length 5 become (0.6, 0.8); a cell of zeros stays. No scale matters."""
    for scale in (1, 0.01):
        cells = intra_normalise(scale * np.array([[9, 16, 0, 0]]), n_cells=2)
        np.testing.assert_allclose(cells, [[0.6, 0.8, 0, 0]], rtol=1e-6)


def test_intra_normalise_gives_every_cell_the_same_say():
    """The second cell is a hundred times brighter; normalised, both have length one."""
    cells = intra_normalise(np.array([[1, 2, 3, 100, 200, 300]]), n_cells=2).reshape(2, 3)
    np.testing.assert_allclose(cells[0], cells[1], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(cells, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("embeddings", "n_cells", "message"),
    [([[0, 0.5], [3, -4]], 1, "row 1 has negative"), ([[1, 2, 3]], 2, "do not divide"), ([[np.nan, 1]], 1, "row 0")],
)
def test_intra_normalise_refuses(embeddings, n_cells, message):
    with pytest.raises(ValueError, match=message):
        intra_normalise(np.array(embeddings, float), n_cells=n_cells)
