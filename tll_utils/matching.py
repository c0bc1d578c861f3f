"""One-to-one decoding: every right image is the truth of one left image, so the queries are answered together.

    scores      (n_left, c)  how alike a left and each of its c candidates are, in units of a temperature
    candidates  (n_left, c)  which rights those are: the edges of a sparse graph
    decoder     decode(scores, candidates, *, n_right) → (n_left, c), higher = better, ranked as scores are

Assumes that each right is the truth of at most one left, and of exactly one where n_left == n_right. Allowed where
all queries of a test set are known before the first is answered, as in the challenge; never for one image at a
time, so the results are another task than inductive ones and have a column of their own.

Fails where that is untrue: a right image that is the truth of two lefts goes to one of them, and the other is
talked into a foil. The same picture under two gallery ids does little harm: both stay on top, and two places count.

The lists alone say something: a right in few of them is more probably the truth of each, so constant scores reach
an expected top-2 of 0.15 instead of 0.10 with the challenge's lists. They reach exactly 0.10 where all rights are
in equally many lists. Inductive scores on the same lists are the fair comparison for what the decoding adds.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.sparse import coo_array
from scipy.sparse.csgraph import johnson, min_weight_full_bipartite_matching
from scipy.special import log_softmax, logsumexp, softmax

from tll_utils.dataset import N_CANDIDATES, Pairs, Queries
from tll_utils.evaluation import per_left
from tll_utils.folds import Rows

MAX_ITERATIONS = 300
TOLERANCE = 1e-3  # in log-odds
CERTAIN = 1e6  # log-odds of a right that is in one list only
RESOLUTION = 2**30  # steps between the least and the greatest score: sums of whole numbers know no rounding

Decoder = Callable[..., np.ndarray]


# --- decoders -------------------------------------------------------------------


def belief_propagation(scores: np.ndarray, candidates: np.ndarray, *, n_right: int) -> np.ndarray:
    """Log-odds that a candidate is the truth, given that the truths are one-to-one, (n_left, c) float64.

    The probability of a whole matching is taken for proportional to exp(sum of its scores): scores must be
    log-likelihood ratios, see `calibrated_temperature`. A left tells each of its rights how much it wants it
    compared with its other candidates, a right tells each left the same, until nothing changes: sum-product on
    the bipartite graph (Huang and Jebara 2009, "Approximating the permanent with belief propagation"), exact on
    trees, and the graph of random lists is nearly one. Each round is linear in the number of candidates.
    Raises ValueError on scores that are not finite, wrong shapes, columns out of range or twice in a row, and
    where there are more lefts than rights.
    """
    scores = _checked(scores, candidates, n_right)
    by_right = _ByRight(candidates, n_right)
    may_stay_free = ((0, 0), (0, int(n_right > len(scores))))  # one more choice, of weight exp(0)
    from_right = scores
    for _ in range(MAX_ITERATIONS):
        from_left = scores - _log_sum_of_others(from_right)
        rivals = _log_sum_of_others(np.pad(by_right.rows(from_left), may_stay_free))
        answer = np.clip(scores - by_right.of_edges(rivals), -CERTAIN, CERTAIN)
        change = np.abs(answer - from_right).max()
        from_right = (from_right + answer) / 2  # damped: undamped rounds may swing for ever
        if change < TOLERANCE:
            break
    return from_left + from_right - scores


def sinkhorn(scores: np.ndarray, candidates: np.ndarray, *, n_right: int) -> np.ndarray:
    """Logarithm of the transport plan on the candidates, (n_left, c) float64, at most 0.

    exp(scores), rows and columns scaled in turn until rows sum to 1, and columns to 1 or, where there are more
    rights than lefts, to at most 1 (Cuturi 2013; in logarithms). Scores in units of the temperature, as for
    `belief_propagation`, with its errors. Each round is linear in the number of candidates.
    """
    scores = _checked(scores, candidates, n_right)
    by_right = _ByRight(candidates, n_right)
    plan, price = log_softmax(scores, axis=1), np.zeros(scores.shape)
    for _ in range(MAX_ITERATIONS):
        demand = logsumexp(by_right.rows(plan + price), axis=1)[candidates]
        price = np.maximum(demand, 0) if n_right > len(scores) else demand
        before, plan = plan, log_softmax(scores - price, axis=1)
        if np.abs(plan - before).max() < TOLERANCE:
            break
    return plan


def exact_assignment(scores: np.ndarray, candidates: np.ndarray, *, n_right: int) -> np.ndarray:
    """What it costs the best assignment to give a left this candidate, (n_left, c) float64, 0 or negative.

    0 for the pairs of the best assignment (of the greatest sum of scores), elsewhere the greatest sum with this
    pair forced in, minus the greatest sum: so top-2 is defined, ties stay ties and no order of rows matters.
    Forcing i to take the right of k costs the difference in i's own scores and the shortest chain of moves from k
    to the place i left. A left that must go without a right costs more than any rearrangement. The scale of the
    scores does not matter; they are rounded to 1 part in 10⁹ of their range. Memory n_left² × 8 bytes, time
    n_left² × c. Errors as for `belief_propagation`.
    """
    scores = _checked(scores, candidates, n_right)
    unit = max(np.ptp(scores), np.finfo(float).tiny) / RESOLUTION
    gains = np.round((scores - scores.min()) / unit)
    nobody = -float(RESOLUTION) * len(scores)
    partner = _best_assignment(gains, candidates, n_right, nobody)

    n_left, rows = len(scores), np.arange(len(scores))
    is_own = candidates == partner[:, None]
    own = np.where(is_own.any(axis=1), gains[rows, is_own.argmax(axis=1)], nobody)
    holder = np.full(n_right + n_left, n_left)  # of every right; n_left stands for all free places
    holder[partner] = rows
    displaced = holder[candidates]
    costs = own[:, None] - gains
    distance = _distances(costs, displaced, to_nobody=own - nobody)
    return -(costs + distance[displaced, rows[:, None]]) * unit


def local_scaling(scores: np.ndarray, candidates: np.ndarray, *, n_right: int, k: int = 10) -> np.ndarray:
    """CSLS on the candidates: 2·score − mean of the left's k best − mean of the right's k best, (n_left, c).

    The middle way: it takes popular rights down (Conneau et al. 2018, section 2.3) without the claim that each is
    used once; see `similarity.csls` for whole matrices. A right in fewer than k lists has the mean of all.
    """
    scores = _checked(scores, candidates, n_right)
    by_right = _ByRight(candidates, n_right)
    best = -np.sort(-by_right.rows(scores), axis=1)[:, :k]
    listed = np.isfinite(best)
    hubness = np.where(listed, best, 0).sum(axis=1) / np.maximum(listed.sum(axis=1), 1)
    own = np.sort(scores, axis=1)[:, -k:].mean(axis=1, keepdims=True)
    return 2 * scores - own - hubness[candidates]


# --- measuring ------------------------------------------------------------------


def draw_candidates(
    n: int, rng: np.random.Generator, *, n_candidates: int = N_CANDIDATES
) -> tuple[np.ndarray, np.ndarray]:
    """Candidate lists as the challenge draws them, (n, n_candidates), and the place of the truth in each, (n,).

    Of n pairs every left has its own right and n_candidates − 1 of the others, drawn evenly and in random order.
    On TLL a right is in 5 to 41 of the 2,000 lists, 20 ± 4.5: what even draws give.
    """
    if n < n_candidates:
        raise ValueError(f"{n} pairs: a list of {n_candidates} cannot be drawn, pass a smaller n_candidates")
    keys = rng.random((n, n))
    np.fill_diagonal(keys, -1)  # the truth is always drawn
    lists = rng.permuted(np.argpartition(keys, n_candidates - 1, axis=1)[:, :n_candidates], axis=1)
    return lists, (lists == np.arange(n)[:, None]).argmax(axis=1)


def calibrated_temperature(blocks: Iterable[np.ndarray], *, seed: int = 0, n_candidates: int = N_CANDIDATES) -> float:
    """The temperature at which softmax(scores / temperature) on a list is the chance of being the truth.

    blocks: S (n, n) of pairs the scores were not learned from, truth on the diagonal, for example one a fold.
    The greatest likelihood of the truths on lists drawn once (Guo et al. 2017, section 4.2).
    """
    rng, lists = np.random.default_rng(seed), []
    for S in blocks:
        candidates, truth = draw_candidates(len(S), rng, n_candidates=n_candidates)
        scores = np.take_along_axis(np.asarray(S, float), candidates, axis=1)
        lists.append(scores - np.take_along_axis(scores, truth[:, None], axis=1))
    behind = np.concatenate(lists)  # the truth itself is 0
    spread = max(behind.std(), np.finfo(float).tiny)

    def loss(log_factor: float) -> float:
        return logsumexp(behind / (spread * np.exp(log_factor)), axis=1).mean()

    return float(spread * np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))


def out_of_fold(score: Callable, pairs: Pairs, folds: Iterable[Rows]) -> list[np.ndarray]:
    """S (n_test, n_test) of every fold's test pairs by a fit without them, truth on the diagonal."""
    return [score(pairs.take(train), pairs.take(test).left, pairs.take(test).right) for train, test in folds]


def decode_queries(
    score: Callable, train: Pairs, queries: Queries, folds: Iterable[Rows], decode: Decoder = belief_propagation
) -> np.ndarray:
    """Log-odds (n_left, c) of all candidates of a test set, decoded together: a one-to-one submission.

    The temperature is calibrated on the out-of-fold scores of the training pairs.
    """
    logits = _calibrated_logits(score, train, queries, folds)
    return decode(logits, queries.candidates, n_right=len(queries.right))


def candidate_probabilities(score: Callable, train: Pairs, queries: Queries, folds: Iterable[Rows]) -> np.ndarray:
    """Chance (n_left, c) of each candidate to be the truth, each query by itself; rows sum to 1.

    The softmax of the scores, its temperature as for `decode_queries`; without folds it is 1.
    """
    return softmax(_calibrated_logits(score, train, queries, folds), axis=1)


def _calibrated_logits(score: Callable, train: Pairs, queries: Queries, folds: Iterable[Rows]) -> np.ndarray:
    blocks = out_of_fold(score, train, folds)
    temperature = calibrated_temperature(blocks) if blocks else 1.0
    S = score(train, queries.left, queries.right)
    return np.take_along_axis(np.asarray(S, float), queries.candidates, axis=1) / temperature


def solved_one_to_one(
    S: np.ndarray, decode: Decoder, *, n_draws: int = 20, seed: int = 0, n_candidates: int = N_CANDIDATES
) -> pd.DataFrame:
    """The `evaluation.per_left` table of n pairs decoded together, truth on the diagonal of S (n, n).

    Each entry is the mean over n_draws sets of lists; the gallery is a list. The lefts of a set compete, so
    resampling lefts as if they were independent gives intervals that are right only nearly.
    """
    rng, tables = np.random.default_rng(seed), []
    for _ in range(n_draws):
        candidates, truth = draw_candidates(len(S), rng, n_candidates=n_candidates)
        scores = decode(np.take_along_axis(S, candidates, axis=1), candidates, n_right=len(S))
        tables.append(per_left(scores, truth, n_candidates=n_candidates))
    return sum(tables) / n_draws


def cross_validate_one_to_one(
    blocks: Sequence[np.ndarray],
    folds: Sequence[Rows],
    decode: Decoder = belief_propagation,
    *,
    n_draws: int = 20,
    seed: int = 0,
    n_candidates: int = N_CANDIDATES,
) -> pd.DataFrame:
    """Table as of `evaluation.cross_validate`, each fold's test pairs decoded together, index 0 … n − 1.

    blocks: S (n_test, n_test) of each fold's test pairs by a model that never saw them; folds as for
    `cross_validate`. The temperature of a fold is calibrated on the blocks of the other folds, never on its own.

    Lists are drawn, and competition happens, inside a fold. One graph over all pairs would need a score for left
    and right images of different folds by a model that saw neither: ten models on three fifths of the pairs, with
    scores on one scale. That the graph is smaller than the challenge's matters little: what a right is wanted for
    depends on the 20 lists it is in, whatever n is. With planted scores of 0.72 inductive top-2, 320 and 2,000
    pairs both reach 0.80 to 0.81.
    """
    tables = []
    for fold, ((_, test_rows), S) in enumerate(zip(folds, blocks, strict=True)):
        others = [block for i, block in enumerate(blocks) if i != fold]
        temperature = calibrated_temperature(others, seed=seed, n_candidates=n_candidates)
        table = solved_one_to_one(S / temperature, decode, n_draws=n_draws, seed=seed, n_candidates=n_candidates)
        table.insert(0, "fold", fold)
        tables.append(table.set_index(np.asarray(test_rows)))
    return pd.concat(tables).sort_index()


# --- the graph ------------------------------------------------------------------


class _ByRight:
    """Values of edges, (n_left, c), seen from the rights: one row a right, filled up with −∞."""

    def __init__(self, candidates: np.ndarray, n_right: int):
        rights = candidates.ravel()
        degree = np.bincount(rights, minlength=n_right)
        order = np.argsort(rights, kind="stable")
        number = np.empty_like(order)
        number[order] = np.arange(rights.size) - np.repeat(np.cumsum(degree) - degree, degree)
        self.place = candidates, number.reshape(candidates.shape)
        self.shape = n_right, degree.max()

    def rows(self, edges: np.ndarray) -> np.ndarray:
        rows = np.full(self.shape, -np.inf)
        rows[self.place] = edges
        return rows

    def of_edges(self, rows: np.ndarray) -> np.ndarray:
        return rows[self.place]


def _log_sum_of_others(x: np.ndarray) -> np.ndarray:
    """log Σ exp over the other values of the row, (n, k); −∞ where all the others are."""
    rows, top = np.arange(len(x)), x.argmax(axis=1)
    rest = x.copy()
    rest[rows, top] = -np.inf
    total = logsumexp(x, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        others = total + np.log1p(-np.exp(x - total))  # of the greatest value it would be a difference of likes
    others[rows, top] = logsumexp(rest, axis=1)
    return others


def _best_assignment(gains: np.ndarray, candidates: np.ndarray, n_right: int, nobody: float) -> np.ndarray:
    """Right of every left, (n_left,); n_right + i for a left i that goes without."""
    n_left, c = candidates.shape
    rows = np.arange(n_left)
    values = np.concatenate([gains.ravel(), np.full(n_left, nobody)])
    left = np.concatenate([np.repeat(rows, c), rows])
    right = np.concatenate([candidates.ravel(), n_right + rows])
    costs = values.max() - values + 1  # a stored 0 would be no edge
    return min_weight_full_bipartite_matching(
        coo_array((costs, (left, right)), shape=(n_left, n_right + n_left)).tocsr()
    )[1]


def _distances(costs: np.ndarray, displaced: np.ndarray, *, to_nobody: np.ndarray) -> np.ndarray:
    """Cheapest chain of moves from every left to every other's place, (n + 1, n + 1); the last is any free place."""
    n, c = costs.shape
    lefts, free = np.arange(n), np.full(n, n)
    start = np.concatenate([np.repeat(lefts, c), lefts, free])
    end = np.concatenate([displaced.ravel(), free, lefts])  # a chain may begin anew at a place that is left free
    cost = np.concatenate([costs.ravel(), to_nobody, np.zeros(n)])
    moves = pd.DataFrame({"start": start, "end": end, "cost": cost})
    moves = moves.groupby(["start", "end"], as_index=False).min()  # of several free places the cheapest
    return johnson(coo_array((moves.cost, (moves.start, moves.end)), shape=(n + 1, n + 1)).tocsr())


def _checked(scores: np.ndarray, candidates: np.ndarray, n_right: int) -> np.ndarray:
    scores, candidates = np.asarray(scores, float), np.asarray(candidates)
    if scores.ndim != 2 or scores.shape != candidates.shape or scores.shape[1] < 2:
        raise ValueError(f"scores {scores.shape} and candidates {candidates.shape} must both be (n_left, c), c ≥ 2")
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"row {row}, column {column}: the score is {scores[row, column]}; mend the method")
    if candidates.min() < 0 or candidates.max() >= n_right:
        raise ValueError(f"candidates are columns {candidates.min()} … {candidates.max()}, there are {n_right} rights")
    if (np.diff(np.sort(candidates, axis=1), axis=1) == 0).any():
        row = (np.diff(np.sort(candidates, axis=1), axis=1) == 0).any(axis=1).argmax()
        raise ValueError(f"row {row} lists a candidate twice: list different images")
    if len(scores) > n_right:
        raise ValueError(f"{len(scores)} lefts cannot have {n_right} rights one to one: use inductive scores")
    return scores
