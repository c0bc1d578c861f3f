"""One-to-one decoding: every right image is the truth of one left image, so the queries are answered together.

    scores      (n_left, c)  how alike a left and each of its c candidates are, in units of a temperature
    candidates  (n_left, c)  which rights those are: the edges of a sparse bipartite graph
    decoder     decode(scores, candidates, *, n_right) → (n_left, c) float64, higher = better, ranked as scores are

Assumes that each right is the truth of at most one left, and of exactly one where n_left == n_right. Allowed where all
queries of a test set are known before the first is answered, as in the challenge, never for one image at a time: it is
a different task from the inductive one. Where a right is the truth of two lefts, one of them is misassigned; the same
picture under two gallery ids does little harm, for both stay on top. The lists alone say something: a right in few of
them is more probably the truth of each, so constant scores reach an expected top-2 of 0.15 with the challenge's lists.
"""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import johnson, min_weight_full_bipartite_matching
from scipy.special import log_softmax, logsumexp

from tll_utils.evaluation.cross_validation import Decoder

MAX_ITERATIONS = 300
TOLERANCE = 1e-3  # in log-odds
BLOCK = 2048  # rows at a time: more would leave the processor's cache
CERTAIN = 1e6  # log-odds of a right that is in one list only
RESOLUTION = 2**30  # steps between the least and the greatest score: sums of whole numbers know no rounding


def per_query(scores: np.ndarray, candidates: np.ndarray, *, n_right: int) -> np.ndarray:
    """The scores unchanged: every query is answered alone."""
    return scores


def local_scaling(scores: np.ndarray, candidates: np.ndarray, *, n_right: int, k: int = 10) -> np.ndarray:
    """CSLS on the candidates: 2·score − mean of the left's k best − mean of the right's k best, (n_left, c).

    A hubness correction (Conneau et al. 2018, section 2.3) that does not claim that a right is used once, so it stands
    between the two tasks. A right in fewer than k lists has the mean of all. Errors as for `belief_propagation`.
    """
    scores, graph = _checked(scores, candidates, n_right)
    best = -np.sort(-graph.by_right(scores), axis=1)[:, :k]
    listed = np.isfinite(best)
    hubness = np.where(listed, best, 0).sum(axis=1) / np.maximum(listed.sum(axis=1), 1)
    own = np.sort(scores, axis=1)[:, -k:].mean(axis=1, keepdims=True)
    return 2 * scores - own - hubness[candidates]


def sinkhorn(scores: np.ndarray, candidates: np.ndarray, *, n_right: int) -> np.ndarray:
    """Logarithm of the transport plan on the candidates, (n_left, c) float64, at most 0.

    exp(scores), rows and columns scaled in turn until rows sum to 1, and columns to 1 or, where there are more rights
    than lefts, to at most 1 (Cuturi 2013; in logarithms). Scores and errors as for `belief_propagation`.
    """
    scores, graph = _checked(scores, candidates, n_right)
    plan, price = log_softmax(scores, axis=1), np.zeros(scores.shape)
    for _ in range(MAX_ITERATIONS):
        demand = logsumexp(graph.by_right(plan + price), axis=1)[candidates]
        price = np.maximum(demand, 0) if n_right > len(scores) else demand
        before, plan = plan, log_softmax(scores - price, axis=1)
        if np.abs(plan - before).max() < TOLERANCE:
            break
    return plan


def belief_propagation(scores: np.ndarray, candidates: np.ndarray, *, n_right: int) -> np.ndarray:
    """Log-odds that a candidate is the truth, given that the truths are one-to-one, (n_left, c) float64.

    The probability of a matching is proportional to exp(sum of its scores): scores must be log-likelihood ratios, see
    `calibrated_temperature`. Sum-product (Huang and Jebara 2009), exact on trees, each round linear in the candidates.
    ±10⁶ and more is certainty, as where a right is in one list only. Raises ValueError on scores that are not finite,
    wrong shapes, columns out of range or twice in a row, and where there are more lefts than rights.
    """
    scores, graph = _checked(scores, candidates, n_right)
    free = 0.0 if n_right > len(scores) else -np.inf  # one more choice of a right, of weight exp(0) or none
    from_left = from_right = scores
    for _ in range(MAX_ITERATIONS):
        from_left = scores - _log_sum_of_others(from_right)
        rivals = _log_sum_of_others(graph.by_right(from_left, free))
        answer = np.clip(scores - graph.by_left(rivals), -CERTAIN, CERTAIN)
        change = np.abs(answer - from_right).max()
        from_right = (from_right + answer) / 2  # damped: undamped rounds may oscillate
        if change < TOLERANCE:
            break
    return from_left + from_right - scores


def exact_assignment(scores: np.ndarray, candidates: np.ndarray, *, n_right: int) -> np.ndarray:
    """What it costs the best assignment to give a left this candidate, (n_left, c) float64, 0 or negative.

    The greatest sum of scores with this pair forced in, minus the greatest sum of all: so top-2 is defined, and ties
    stay ties. Forcing i to take the right of k costs the difference in i's own scores and the shortest chain of moves
    from k to the place i left. To leave a left unmatched costs more than any rearrangement. Scores have any scale and
    are rounded to 1 part in 10⁹ of their range. Memory n_left² × 8 bytes, time n_left² × c. Same errors.
    """
    scores, _ = _checked(scores, candidates, n_right)
    n_left, rows = len(scores), np.arange(len(scores))
    unit = max(np.ptp(scores), np.finfo(float).tiny) / RESOLUTION
    unmatched = np.full(n_left, -float(RESOLUTION) * n_left)
    gains = np.column_stack([np.round((scores - scores.min()) / unit), unmatched])
    places = np.column_stack([candidates, n_right + rows])  # of every left the last place is its own: to stay unmatched
    partner = _best_assignment(gains, places)
    costs = gains[places == partner[:, None]][:, None] - gains
    holder = np.full(n_right + n_left, n_left)  # of every place; n_left stands for all free places
    holder[partner] = rows
    displaced = holder[places]
    distance = _distances(costs, displaced)
    return -(costs + distance[displaced, rows[:, None]])[:, :-1] * unit


DECODERS: dict[str, tuple[Decoder, str]] = {  # how the queries of a test set are answered, and which task that is
    "per query": (per_query, "inductive"), "CSLS": (local_scaling, "gallery known"),
    "Sinkhorn": (sinkhorn, "one-to-one"), "exact assignment": (exact_assignment, "one-to-one"),
    "belief propagation": (belief_propagation, "one-to-one"),
}  # fmt: skip


class BipartiteGraph:
    """The edges between lefts and candidates; their values stand in one row per left, (n_left, c), or per right."""

    def __init__(self, candidates: np.ndarray, n_right: int):
        rights = candidates.ravel()
        degree = np.bincount(rights)
        order = np.argsort(rights, kind="stable")
        number = np.empty_like(order)
        number[order] = np.arange(rights.size) - np.repeat(np.cumsum(degree) - degree, degree)
        self._shape = n_right, degree.max() + 1
        self._place = candidates * self._shape[1] + number.reshape(candidates.shape)

    def by_right(self, values: np.ndarray, free: float = -np.inf) -> np.ndarray:
        """(n_left, c) → (n_right, greatest degree + 1), filled up with −∞; the last column is `free`."""
        rows = np.full(self._shape, -np.inf)
        rows[:, -1] = free
        rows.ravel()[self._place] = values
        return rows

    def by_left(self, rows: np.ndarray) -> np.ndarray:
        """What `by_right` gives → (n_left, c)."""
        return rows.ravel()[self._place]


def _log_sum_of_others(x: np.ndarray) -> np.ndarray:
    """log Σ exp over the other values of the row, (n, k); −∞ where all the others are."""
    others = np.empty_like(x)
    for rows in np.array_split(np.arange(len(x)), 1 + len(x) // BLOCK):
        rest, top = x[rows], x[rows].argmax(axis=1)[:, None]
        greatest = np.take_along_axis(rest, top, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts = np.exp(rest - greatest)
            others[rows] = greatest + np.log(parts.sum(axis=1, keepdims=True) - parts)
            np.put_along_axis(rest, top, -np.inf, axis=1)  # of the greatest value that is a difference of likes
            others[rows[:, None], top] = logsumexp(rest, axis=1, keepdims=True)
    return others


def _best_assignment(gains: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Place of every left, (n_left,), of the greatest sum of gains, no place taken twice."""
    costs = gains.max() - gains.ravel() + 1  # a stored 0 would be no edge
    lefts = np.repeat(np.arange(len(gains)), gains.shape[1])
    return min_weight_full_bipartite_matching(coo_array((costs, (lefts, places.ravel()))).tocsr())[1]


def _distances(costs: np.ndarray, displaced: np.ndarray) -> np.ndarray:
    """Cheapest chain of moves from every left to every other's place, (n + 1, n + 1); the last is any free place."""
    n, n_places = costs.shape
    start = np.append(np.repeat(np.arange(n), n_places), np.full(n, n))
    end = np.append(displaced, np.arange(n))  # a chain may begin anew at a place that is left free
    moves, number = np.unique(start * (n + 1) + end, return_inverse=True)
    cheapest = np.full(len(moves), np.inf)  # several places may be free
    np.minimum.at(cheapest, number, np.append(costs, np.zeros(n)))
    return johnson(coo_array((cheapest, np.divmod(moves, n + 1))).tocsr())


def _checked(scores: np.ndarray, candidates: np.ndarray, n_right: int) -> tuple[np.ndarray, BipartiteGraph]:
    scores, candidates = np.asarray(scores, float), np.asarray(candidates)
    if scores.ndim != 2 or scores.shape != candidates.shape or scores.shape[1] < 2:
        raise ValueError(f"scores {scores.shape} and candidates {candidates.shape} must both be (n_left, c), c ≥ 2")
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"row {row}, column {column}: the score is {scores[row, column]}; fix the method")
    if candidates.min() < 0 or candidates.max() >= n_right:
        raise ValueError(f"candidates are columns {candidates.min()} … {candidates.max()}, there are {n_right} rights")
    twice = (np.diff(np.sort(candidates, axis=1), axis=1) == 0).any(axis=1)
    if twice.any():
        raise ValueError(f"row {twice.argmax()} lists a candidate twice: list different images")
    if len(scores) > n_right:
        raise ValueError(f"{len(scores)} lefts cannot have {n_right} rights one to one: use inductive scores")
    return scores, BipartiteGraph(candidates, n_right)
