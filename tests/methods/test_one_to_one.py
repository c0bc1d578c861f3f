"""One-to-one decoding on graphs small enough to count every matching, and on planted scores."""

from itertools import permutations

import numpy as np
import pytest

from tll_utils.evaluation.cross_validation import draw_candidates, solved_one_to_one
from tll_utils.evaluation.metrics import solved_on_candidates
from tll_utils.methods.one_to_one import (
    DECODERS,
    BipartiteGraph,
    belief_propagation,
    exact_assignment,
    local_scaling,
    sinkhorn,
)

ONE_TO_ONE = [belief_propagation, sinkhorn, exact_assignment]
TOGETHER = [*ONE_TO_ONE, local_scaling]


def everything(S):
    """Scores and candidates where each left lists every right."""
    return S, np.tile(np.arange(S.shape[1]), (len(S), 1))


def planted(n, strength, seed):
    """Log-likelihood ratios of a Gaussian model: foils N(0, d²), truths d² higher, so the true temperature is 1."""
    S = strength * np.random.default_rng(seed).standard_normal((n, n))
    return S + strength**2 * np.eye(n)


def lists_of(S, seed=0):
    candidates, truth = draw_candidates(len(S), np.random.default_rng(seed))
    return np.take_along_axis(S, candidates, axis=1), candidates, truth


def matchings(S, n_right):
    """Every matching of all lefts: (columns, sum of scores)."""
    rows = np.arange(len(S))
    return [(columns, S[rows, columns].sum()) for columns in map(list, permutations(range(n_right), len(S)))]


# --- the example of the module's docstring ----------------------------------------

LOOP = np.array([[1.0, 1.1], [3.0, 0.0], [2.0, 0.5]]), np.array([[0, 1], [1, 2], [2, 0]])


def test_one_round_of_messages_by_hand():
    """With two candidates and two lefts per right, "the others" of a message is one value: plain differences."""
    scores, candidates = LOOP
    graph = BipartiteGraph(candidates, n_right=3)
    from_left = scores - scores[:, ::-1]
    assert (from_left[1, 0], from_left[2, 1]) == (3.0, -1.5)
    from_right = scores - graph.by_left(graph.by_right(from_left)[:, [1, 0, 2]])
    np.testing.assert_allclose(from_right[0], [2.5, -1.9])
    np.testing.assert_allclose(from_right[:, 0] - from_right[:, 1], 4.4)


def test_a_single_loop_counts_its_evidence_again_and_again():
    """Two matchings of sums 6.0 and 1.6: log-odds 4.4 for all first candidates, of which messages make 440.73."""
    scores, candidates = LOOP
    first = np.log(np.exp(6.0) / np.exp(1.6))
    np.testing.assert_allclose(exact_assignment(scores, candidates, n_right=3), [[0, -first]] * 3, atol=1e-8)
    answer = belief_propagation(scores, candidates, n_right=3)
    np.testing.assert_allclose(answer, [[440.73, -440.73]] * 3, atol=0.01)


def test_messages_settle_on_lists_of_twenty(monkeypatch):
    """Twice as many rounds change nothing, and no log-odds are far beyond the scores."""
    scores, candidates, _ = lists_of(planted(300, 2.0, seed=5))
    settled = belief_propagation(scores, candidates, n_right=300)
    monkeypatch.setattr("tll_utils.methods.one_to_one.MAX_ITERATIONS", 600)
    np.testing.assert_array_equal(belief_propagation(scores, candidates, n_right=300), settled)
    assert np.abs(settled).max() < 3 * np.abs(scores).max()


def test_values_of_edges_by_right_and_back():
    """Right 0 is listed by lefts 0 and 2, right 1 by left 0 alone, right 2 by none, right 3 by left 2."""
    graph = BipartiteGraph(np.array([[0, 1], [3, 4], [3, 0]]), n_right=5)
    values = np.array([[1.0, 2], [3, 4], [5, 6]])
    rows = graph.by_right(values, free=0.0)
    np.testing.assert_array_equal(rows[:, 2], np.zeros(5))
    np.testing.assert_array_equal(
        np.sort(rows[:, :2]), [[1, 6], [-np.inf, 2], [-np.inf, -np.inf], [3, 5], [-np.inf, 4]]
    )
    np.testing.assert_array_equal(graph.by_left(rows), values)


# --- decoders -------------------------------------------------------------------


def test_names_and_tasks():
    tasks = {name: task for name, (_, task) in DECODERS.items()}
    assert tasks.pop("per query") == "inductive" and tasks.pop("CSLS") == "gallery known"
    assert set(tasks.values()) == {"one-to-one"}
    scores, candidates, _ = lists_of(planted(40, 1.5, seed=3))
    for name, (decode, _) in DECODERS.items():
        changed = (decode(scores, candidates, n_right=40) != scores).any()
        assert changed == (name != "per query")


def test_two_by_two_by_hand():
    """Matchings: diagonal 2 + 0 = 2, other 1.5 + 1 = 2.5. Left 0 likes right 0 best, yet left 1 needs it more.

    Forced onto right 0, left 0 makes the sum 2, 0.5 below the best. A plan of two by two keeps the cross ratio
    p² / (1 − p)² = e^(2 − 2.5), so p / (1 − p) = e^−0.25.
    """
    S, candidates = everything(np.array([[2.0, 1.5], [1.0, 0.0]]))
    np.testing.assert_allclose(exact_assignment(S, candidates, n_right=2), [[-0.5, 0], [0, -0.5]], atol=1e-8)
    plan = np.exp(sinkhorn(S, candidates, n_right=2))
    np.testing.assert_allclose(plan[0, 0], 1 / (1 + np.exp(0.25)), atol=1e-3)
    assert (belief_propagation(S, candidates, n_right=2).argmax(axis=1) == [1, 0]).all()


def test_belief_propagation_is_exact_on_a_tree():
    """Lists 0: {a, b}, 1: {b, c} form a chain a–0–b–1–c, with one right more than lefts.

    Matchings: ab→ 0a 1b: 1 + 2 = 3; 0a 1c: 1 + 0 = 1; 0b 1c: 0 + 0 = 0. The odds of 0a are (e³ + e¹) / e⁰,
    of 1b e³ / (e¹ + e⁰).
    """
    scores, candidates = np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[0, 1], [1, 2]])
    log_odds = belief_propagation(scores, candidates, n_right=3)
    np.testing.assert_allclose(log_odds[0, 0], np.log(np.e**3 + np.e), atol=0.01)
    np.testing.assert_allclose(log_odds[1, 0], np.log(np.e**3 / (np.e + 1)), atol=0.01)


def test_a_right_in_one_list_only_is_certain():
    """As many rights as lefts, so every right must be used: right 2 can only go to left 1."""
    scores, candidates = np.zeros((3, 2)), np.array([[0, 1], [0, 2], [0, 1]])
    log_odds = belief_propagation(scores, candidates, n_right=3)
    assert log_odds[1, 1] >= 1e6 and log_odds[1, 0] <= -1e6


@pytest.mark.parametrize("n_right", [5, 6])
def test_exact_assignment_is_brute_force(n_right):
    """Every pair: the greatest sum of the 120 (or 720) matchings with it, minus the greatest of all."""
    S, candidates = everything(np.random.default_rng(n_right).standard_normal((5, n_right)))
    all_matchings = matchings(S, n_right)
    best = max(total for _, total in all_matchings)
    expected = [
        [max(total for columns, total in all_matchings if columns[i] == j) - best for j in range(n_right)]
        for i in range(5)
    ]
    np.testing.assert_allclose(exact_assignment(S, candidates, n_right=n_right), expected, atol=1e-7)
    scaled = exact_assignment(1e-9 * S, candidates, n_right=n_right)
    np.testing.assert_allclose(scaled, 1e-9 * np.array(expected), atol=1e-16)


def test_a_left_stays_unmatched_only_where_it_must():
    """Lefts 0, 1, 2 all list only rights 0 and 1; the best is 3 + 2 + 0 = 5, left 2 unmatched.

    Left 0 on right 1 leaves 0 in all, left 1 on right 0 leaves 1 (left 2 on right 1), left 2 on right 1 leaves 3 + 1
    and on right 0 leaves 2 + 0. Left 3 on right 1 would make 9 + 3 = 12, but a second left unmatched: that costs
    n_left · range = 36, so it is 12 − 36 − 5 = −29 and no rearrangement is worth it.
    """
    candidates = np.array([[0, 1], [0, 1], [1, 0], [1, 2]])
    scores = np.array([[3.0, 0], [0, 2], [1, 0], [9, 0]])
    costs = exact_assignment(scores, candidates, n_right=4)
    np.testing.assert_allclose(costs, [[0, -5], [-4, 0], [-1, -3], [-29, 0]], atol=1e-6)


def test_belief_propagation_is_near_the_true_probabilities():
    """Against the sum over all 720 matchings of 6 × 6, the worst case for it: the graph is full of loops."""
    S, candidates = everything(np.random.default_rng(1).standard_normal((6, 6)))
    weight = np.zeros((6, 6))
    for columns, total in matchings(S, 6):
        weight[np.arange(6), columns] += np.exp(total)
    probability = weight / weight.sum(axis=1, keepdims=True)
    decoded = 1 / (1 + np.exp(-belief_propagation(S, candidates, n_right=6)))
    np.testing.assert_allclose(decoded, probability, atol=0.06)
    assert np.abs(np.exp(sinkhorn(S, candidates, n_right=6)) - probability).max() < 0.2


def test_sinkhorn_rows_and_columns_sum_to_one():
    """A sparse 60 × 60 graph; with 10 rights more than lefts columns hold at most 1 and all together 60."""
    scores, candidates, _ = lists_of(planted(60, 1.0, seed=0))
    for n_right in (60, 70):
        plan = np.exp(sinkhorn(scores, candidates, n_right=n_right))
        columns = np.bincount(candidates.ravel(), plan.ravel())
        np.testing.assert_allclose(plan.sum(axis=1), 1)
        assert columns.max() < 1.01
        if n_right == 60:
            np.testing.assert_allclose(columns, 1, atol=0.01)


def test_sinkhorn_leaves_rights_partly_used_where_there_are_more_than_lefts():
    """Lists {a, b} and {b, c}, e : 1 and 1 : e: column b holds 0.27 twice, none is full, so rows stay softmax."""
    scores, candidates = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0, 1], [1, 2]])
    first = np.e / (np.e + 1)
    plan = np.exp(sinkhorn(scores, candidates, n_right=3))
    np.testing.assert_allclose(plan, [[first, 1 - first], [1 - first, first]])


def test_local_scaling_by_hand():
    """Rights are liked by 2, 1 (k = 1: their best); lefts like 2, 1 best: 2·2 − 2 − 2 = 0, 2·0 − 2 − 1 = −3, …"""
    S, candidates = everything(np.array([[2.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(local_scaling(S, candidates, n_right=2, k=1), [[0, -3], [-1, 0]])


def test_local_scaling_of_a_right_in_few_lists():
    """k = 2: right 1 is in both lists (mean of 4 and 1 is 2.5), rights 0 and 2 in one: all there is, 2 and 3."""
    scores, candidates = np.array([[2.0, 4.0], [1.0, 3.0]]), np.array([[0, 1], [1, 2]])
    expected = [[4 - 3 - 2, 8 - 3 - 2.5], [2 - 2 - 2.5, 6 - 2 - 3]]
    np.testing.assert_allclose(local_scaling(scores, candidates, n_right=3, k=2), expected)


def test_local_scaling_takes_ten_nearest_unless_told():
    scores, candidates, _ = lists_of(planted(40, 1.5, seed=3))
    default, ten = (local_scaling(scores, candidates, n_right=40, **k) for k in ({}, {"k": 10}))
    np.testing.assert_array_equal(default, ten)


@pytest.mark.parametrize("decode", TOGETHER)
def test_constant_scores_are_exactly_chance_where_lists_say_nothing(decode):
    """Each right in 20 of 50 lists, lists i … i + 19: nothing tells the candidates apart, top-2 is 2 / 20."""
    candidates = (np.arange(50)[:, None] + np.arange(20)) % 50
    decoded = decode(np.zeros((50, 20)), candidates, n_right=50).round(6)
    np.testing.assert_allclose(solved_on_candidates(decoded, np.zeros(50, int)), 0.1)


def test_random_lists_alone_say_something():
    """A right in few lists is more probably the truth of each: 0.15 by simulation; CSLS does not see it."""
    none = np.zeros((300, 300))
    assert 0.135 < solved_one_to_one(none, belief_propagation, n_draws=5).top2.mean() < 0.165
    assert solved_one_to_one(none, local_scaling, n_draws=5).top2.mean() == pytest.approx(0.1)


@pytest.mark.parametrize("decode", TOGETHER)
def test_order_of_lefts_rights_and_candidates_does_not_matter(decode):
    scores, candidates, _ = lists_of(planted(40, 1.5, seed=3))
    rng = np.random.default_rng(4)
    lefts, rights, places = (rng.permutation(n) for n in (40, 40, 20))
    shuffled = decode(scores[lefts][:, places], rights[candidates[lefts][:, places]], n_right=40)
    np.testing.assert_allclose(shuffled, decode(scores, candidates, n_right=40)[lefts][:, places], atol=1e-6)


@pytest.mark.parametrize("decode", TOGETHER)
def test_only_differences_of_scores_matter(decode):
    """With as many rights as lefts every matching has 40 scores, so 1,000 less for each changes nothing."""
    scores, candidates, _ = lists_of(planted(40, 1.5, seed=3))
    moved = decode(scores - 1000, candidates, n_right=40)
    np.testing.assert_allclose(moved, decode(scores, candidates, n_right=40), atol=1e-6)


@pytest.mark.parametrize("decode", TOGETHER)
def test_decoding_does_not_depend_on_how_arrays_lie_in_memory(decode):
    """Float32, column order, every second row and read-only: the same answers, inputs unchanged."""
    scores, candidates, _ = lists_of(planted(40, 1.5, seed=3).astype(np.float32))
    expected = decode(scores, candidates, n_right=40)
    assert expected.dtype == np.float64
    for change in (lambda x: x.astype(x.dtype.kind + "8"), np.asfortranarray, lambda x: np.repeat(x, 2, axis=0)[::2]):
        views = change(scores), change(candidates)
        for view, original in zip(views, (scores, candidates), strict=True):
            view.flags.writeable = False
            np.testing.assert_array_equal(view, original)
        np.testing.assert_allclose(decode(*views, n_right=40), expected, atol=1e-8)


@pytest.mark.parametrize("decode", TOGETHER)
def test_a_single_query_keeps_its_order(decode):
    """Nobody competes for its candidates: the best stays best, and equal ones stay equal."""
    scores = np.array([[1.0, 3, 3, 2]])
    decoded = decode(scores, np.array([[5, 0, 2, 3]]), n_right=6)
    np.testing.assert_allclose(np.diff(decoded[0, [0, 3, 1, 2]]) > 1e-3, [True, True, False])
    np.testing.assert_allclose(decoded[0, 1], decoded[0, 2])


@pytest.mark.parametrize("decode", TOGETHER)
def test_the_same_query_twice_gets_the_same_answer_twice(decode):
    """Lefts 0 and 1 are one picture, asked with one list."""
    S = np.array([[4.0, 3, 0, 1], [4.0, 3, 0, 1], [0, 0, 4, 1], [0, 0, 1, 4]])
    decoded = decode(*everything(S), n_right=4)
    np.testing.assert_allclose(decoded[0], decoded[1], atol=1e-6)


@pytest.mark.parametrize("decode", ONE_TO_ONE)
def test_decoding_helps_where_truths_are_one_to_one(decode):
    """Inductive 0.72 becomes 0.76 or more on 300 planted pairs."""
    scores, candidates, truth = lists_of(planted(300, 2.0, seed=5))
    before = solved_on_candidates(scores, truth).mean()
    after = solved_on_candidates(decode(scores, candidates, n_right=300), truth).mean()
    assert after > before + 0.03


@pytest.mark.parametrize("decode", ONE_TO_ONE)
def test_repeated_right_is_lost_by_one_of_its_lefts(decode):
    """Right 0 is the truth of lefts 0 and 1, and no other: the weaker claim, 3 < 4, is misassigned."""
    S = np.array([[4.0, 0, 0], [3.0, 0, 0], [0, 0, 4.0]])
    decoded = decode(*everything(S), n_right=3)
    assert S.argmax(axis=1).tolist() == [0, 0, 2]
    assert decoded.argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("decode", ONE_TO_ONE)
def test_same_picture_under_two_ids_stays_among_the_best_two(decode):
    """Rights 0 and 1 are the same picture, truths of lefts 0 and 1: scores tie, and so do the decoded ones."""
    S = np.array([[4.0, 4, 0, 1], [4.0, 4, 1, 0], [0, 0, 4, 1], [0, 0, 1, 4]])
    decoded = decode(*everything(S), n_right=4)
    np.testing.assert_allclose(decoded[:2, 0], decoded[:2, 1], atol=1e-3)
    np.testing.assert_allclose(solved_on_candidates(decoded.round(2), np.arange(4)), 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("decode", TOGETHER)
@pytest.mark.parametrize("scale", [0.0, 1e-8, 1e5])
def test_any_scale_and_graphs_without_a_matching_give_finite_scores(decode, scale):
    """Lefts 0, 1, 2 all list only rights 0 and 1: one must stay unmatched; right 2 is listed once, right 3 never."""
    candidates = np.array([[0, 1], [0, 1], [1, 0], [1, 2]])
    decoded = decode(scale * np.array([[2.0, 1], [1, 0], [0, 2], [0, 1]]), candidates, n_right=4)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize(
    ("scores", "candidates", "n_right", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3), int), 5, r"\(2, 2\) and candidates \(2, 3\)"),
        (np.array([[0, np.nan]]), np.array([[0, 1]]), 2, "row 0, column 1: the score is nan"),
        (np.array([[0, -np.inf]]), np.array([[0, 1]]), 2, "row 0, column 1: the score is -inf"),
        (np.zeros((1, 2)), np.array([[0, 2]]), 2, "columns 0 … 2, there are 2 rights"),
        (np.zeros((2, 2)), np.array([[0, 1], [1, 1]]), 2, "row 1 lists a candidate twice"),
        (np.zeros((3, 2)), np.tile([0, 1], (3, 1)), 2, "3 lefts cannot have 2 rights"),
    ],
)
@pytest.mark.parametrize("decode", TOGETHER)
def test_wrong_graphs_are_named(decode, scores, candidates, n_right, message):
    with pytest.raises(ValueError, match=message):
        decode(scores, candidates, n_right=n_right)
