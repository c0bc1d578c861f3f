"""Tables of all pairs from the blocks of folds, by hand and on planted scores."""

import numpy as np
import pytest

from tll_utils.evaluation import cross_validation
from tll_utils.evaluation.cross_validation import (
    calibrated_temperature,
    cross_validate,
    cross_validate_one_to_one,
    draw_candidates,
    solved_one_to_one,
)
from tll_utils.evaluation.metrics import solved_on_candidates
from tll_utils.evaluation.statistics import bootstrap_interval, paired_test, summarise

FOLDS = [(np.array([0, 1, 2, 3]), np.array([5, 4])), (np.array([4, 5]), np.array([0, 3, 1, 2]))]
BLOCKS = [np.eye(2), np.eye(4)]


def alone(scores, candidates, *, n_right):
    """The decoder that does nothing."""
    return scores


def unpopular(scores, candidates, *, n_right):
    """A decoder that looks at the other queries: it prefers rights that stand in few lists."""
    return -np.bincount(candidates.ravel(), minlength=n_right)[candidates]


def planted(n, strength, seed):
    """Log-likelihood ratios of a Gaussian model: foils N(0, d²), truths d² higher, so the true temperature is 1."""
    S = strength * np.random.default_rng(seed).standard_normal((n, n))
    return S + strength**2 * np.eye(n)


def two_folds(n):
    first, second = np.arange(0, n, 2), np.arange(1, n, 2)
    return [(second, first), (first, second)]


# --- each query alone


def test_cross_validate_scores_every_row_by_its_own_fold():
    """Fold 1 tests rows 0, 3, 1, 2 with scores that fail only its third row, which is row 1 of the table.

    There one foil of three is better (rank 2), and a list of two holds it with chance 1/3: top-1 is 2/3.
    """
    block = np.eye(4)
    block[2, 0] = 2
    table = cross_validate([np.eye(2), block], FOLDS, n_candidates=2)
    assert table.columns.tolist() == ["fold", "gallery", "rank", "top1", "top2"]
    assert table.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert table["fold"].tolist() == [1, 1, 1, 1, 0, 0]
    assert table["gallery"].tolist() == [4, 4, 4, 4, 2, 2]
    assert table["rank"].tolist() == [1, 2, 1, 1, 1, 1]
    assert table["top1"].tolist() == pytest.approx([1, 2 / 3, 1, 1, 1, 1])
    assert table["top2"].tolist() == [1] * 6


@pytest.mark.parametrize(
    ("blocks", "folds", "message"),
    [
        (BLOCKS, [FOLDS[0], (FOLDS[1][0], np.array([0, 3, 1]))], "row 2 is tested 0 times"),
        (BLOCKS, [FOLDS[0], (FOLDS[1][0], np.array([0, 3, 1, 2, 1]))], "row 1 is tested 2 times"),
        (BLOCKS[:1], FOLDS[:1], "row 0 is tested 0 times"),
        (BLOCKS, [FOLDS[0], (np.array([4, 5, 6]), FOLDS[1][1])], "row 6 is tested 0 times"),
        (BLOCKS, [FOLDS[0], (np.array([4, 5, 3]), FOLDS[1][1])], "fold 1 trains on row 3, which it tests"),
        (BLOCKS[:1], FOLDS, "1 blocks for 2 folds"),
        ([np.eye(2), np.zeros((4, 6))], FOLDS, r"fold 1: the block is \(4, 6\), expected \(4, 4\)"),
    ],
)
def test_folds_test_every_row_once_and_unseen(blocks, folds, message):
    with pytest.raises(ValueError, match=message):
        cross_validate(blocks, folds, n_candidates=2)
    with pytest.raises(ValueError, match=message):
        cross_validate_one_to_one(blocks, folds, alone, n_candidates=2)


# --- the queries of a fold together


def test_lists_hold_the_truth_once_and_are_drawn_evenly():
    """Of 200 pairs each right is in 20 lists on average; its 19 foreign ones scatter by √(19 · (1 − 19/199)) = 4.1."""
    candidates, truth = draw_candidates(200, np.random.default_rng(0))
    assert (np.diff(np.sort(candidates)) > 0).all()
    assert (candidates[np.arange(200), truth] == np.arange(200)).all()
    degree = np.bincount(candidates.ravel(), minlength=200)
    assert degree.mean() == 20 and 3.5 < degree.std() < 4.8
    assert 8.5 < truth.mean() < 10.5  # 9.5 where all 20 places are alike
    with pytest.raises(ValueError, match="19 pairs: a list of 20"):
        draw_candidates(19, np.random.default_rng(0))


def test_a_list_as_long_as_the_gallery_holds_all_of_it():
    candidates, truth = draw_candidates(20, np.random.default_rng(0))
    assert (np.sort(candidates) == np.arange(20)).all()
    assert (candidates[np.arange(20), truth] == np.arange(20)).all()


def test_temperature_of_planted_scores_is_known():
    """Log-likelihood ratios have temperature 1; the same times 7 have 7."""
    blocks = [planted(300, 2.0, seed=seed) for seed in range(3)]
    temperature = calibrated_temperature(blocks)
    assert temperature == pytest.approx(1, abs=0.15)
    assert calibrated_temperature([7 * S for S in blocks]) == pytest.approx(7 * temperature, rel=1e-3)


def test_temperature_of_scores_of_any_type():
    """Whole numbers of one byte have no negative differences: they are compared as float64."""
    S = np.clip(planted(60, 2.0, seed=0) + 10, 0, 20).round()
    expected = calibrated_temperature([S])
    assert calibrated_temperature([S.astype(np.uint8)]) == expected
    assert calibrated_temperature([S.astype(np.float32)]) == expected
    assert calibrated_temperature([S], seed=0) == expected != calibrated_temperature([S], seed=1)


def test_small_folds_take_smaller_lists():
    """Two folds of six pairs, lists of four; truths one above all foils are always solved, at any temperature."""
    table = cross_validate_one_to_one([np.eye(6), np.eye(6)], two_folds(12), alone, n_candidates=4)
    assert (table[["gallery", "rank", "top1", "top2"]].to_numpy() == [4, 1, 1, 1]).all()


def test_one_seed_draws_the_lists_of_temperature_and_decoding():
    """Seed 3: the first fold is decoded on the first lists of seed 3, divided by the other fold's temperature.

    Without a word 20 sets of lists are drawn in each fold, by seed 0.
    """
    seen = []

    def decode(scores, candidates, *, n_right):
        seen.append(scores)
        return scores

    first, second = planted(30, 2.0, seed=0), planted(30, 2.0, seed=1)
    folds = two_folds(60)
    cross_validate_one_to_one([first, second], folds, decode, n_draws=1, seed=3)
    candidates, _ = draw_candidates(30, np.random.default_rng(3))
    scaled = first / calibrated_temperature([second], seed=3)
    np.testing.assert_allclose(seen[0], np.take_along_axis(scaled, candidates, axis=1))
    seen.clear()
    table = cross_validate_one_to_one([first, second], folds, decode)
    assert len(seen) == 2 * 20
    assert table.equals(cross_validate_one_to_one([first, second], folds, alone, n_draws=20, seed=0))
    assert solved_one_to_one(first, alone).equals(solved_one_to_one(first, alone, n_draws=20, seed=0))


def test_every_draw_counts_and_seeds_repeat():
    S = planted(60, 2.0, seed=0)
    table = solved_one_to_one(S, unpopular, n_draws=2, seed=1)
    rng, solved = np.random.default_rng(1), []
    for _ in range(2):
        candidates, truth = draw_candidates(60, rng)
        solved.append(solved_on_candidates(unpopular(None, candidates, n_right=60), truth))
    np.testing.assert_allclose(table.top2, np.mean(solved, axis=0))
    assert (table.gallery == 20).all()
    assert table.equals(solved_one_to_one(S, unpopular, n_draws=2, seed=1))
    assert not table.equals(solved_one_to_one(S, unpopular, n_draws=2, seed=2))


def test_one_to_one_table_fits_intervals_and_tests():
    """Rows keep their number: even rows are those of the strong block, odd ones those of the weak one."""
    blocks = [planted(60, 3.0, seed=0), planted(60, 1.0, seed=1)]
    table = cross_validate_one_to_one(blocks, two_folds(120), alone, n_draws=5)
    assert table.columns.tolist() == cross_validate(blocks, two_folds(120)).columns.tolist()
    assert table.index.tolist() == list(range(120)) and table.fold.tolist() == [0, 1] * 60
    assert table.top2[::2].mean() > 0.9 and table.top2[1::2].mean() < 0.6
    low, high = bootstrap_interval(table.top2, n_resamples=500)
    assert low < summarise(table)["expected_top2"] < high
    assert paired_test(table.top2, table.top1, n_resamples=500).difference > 0


def test_decoders_see_scores_in_units_of_the_temperature():
    """Times 7 the scores look the same to a decoder; the whole block is the gallery's n_right."""
    seen = []

    def decode(scores, candidates, *, n_right):
        seen.append((scores, n_right))
        return scores

    for factor in (1, 7):
        blocks = [factor * planted(30, 2.0, seed=seed) for seed in (0, 1)]
        cross_validate_one_to_one(blocks, two_folds(60), decode, n_draws=1)
    np.testing.assert_allclose(seen[0][0], seen[2][0], rtol=1e-3)
    assert [n_right for _, n_right in seen] == [30] * 4


def test_a_folds_own_truth_does_not_set_its_temperature(monkeypatch):
    """Each fold asks for the temperature of all blocks but its own; a single fold has no other."""
    asked = []
    monkeypatch.setattr(cross_validation, "calibrated_temperature", lambda blocks, **_: asked.append(blocks) or 1.0)
    blocks = [planted(30, 2.0, seed=seed) for seed in (0, 1)]
    cross_validate_one_to_one(blocks, two_folds(60), alone, n_draws=1)
    assert asked[0][0] is blocks[1] and asked[1][0] is blocks[0] and len(asked[0]) == len(asked[1]) == 1
    with pytest.raises(ValueError, match=r"^one fold alone .* pass two or more$"):
        cross_validate_one_to_one(blocks[:1], [(np.array([], int), np.arange(30))], alone)
