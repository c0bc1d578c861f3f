"""A user's own pairs and candidate lists: a CSV that names pictures of a folder or zip."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from tll_utils.data.checks import DatasetError, Problem, read_table, report
from tll_utils.data.images import Images
from tll_utils.data.pairs import Pairs
from tll_utils.evaluation.metrics import expected_solved, mean, solved_on_candidates
from tll_utils.evaluation.statistics import bootstrap_interval
from tll_utils.methods.base import Method
from tll_utils.search.pictures import Collection, collect


class Lists(NamedTuple):
    """Queries with candidate lists of any length."""

    left: Images
    right: Images  # every picture that is a candidate of any list
    candidates: list[np.ndarray]  # per query int columns into `right`, the truth among them
    truth: np.ndarray  # int (n_left,), its place in the list


def read_pairs(table: Path, pictures: Path) -> Pairs:
    """The pairs of a CSV with the columns left and right, which name pictures of a folder or zip.

    A picture is named by its path inside the folder, with suffix or without, or by its file name where only one
    picture has it. Raises DatasetError, one report of every row that cannot be used.
    """
    rows, collection, problems = _read(table, pictures)
    number = _numbers(rows[["left", "right"]], table, collection, problems)
    _raise(problems, table)
    return Pairs(*(collection.images.take(number[:, side]) for side in (0, 1)))


def read_lists(table: Path, pictures: Path) -> Lists:
    """Candidate lists: the columns left, right (the truth) and then the candidates, of any names and any number.

    Shorter lists end in empty fields. Names and errors are those of `read_pairs`; a list needs two candidates at
    least, none twice, the truth among them.
    """
    rows, collection, problems = _read(table, pictures)
    number = _numbers(rows, table, collection, problems, may_be_empty=rows.columns[2:])
    for line, (_, truth, *listed) in zip(rows.index, number.tolist(), strict=True):
        named = [candidate for candidate in listed if candidate >= 0]
        if len(named) < 2 or len(set(named)) < len(named) or truth not in named:
            what = "list two candidates or more, each once, and the truth (column right) among them"
            problems.append(("candidate lists", f"{table.name} line {line}: {what}"))
    _raise(problems, table)
    listed = [row[row >= 0] for row in number[:, 2:]]
    columns, place = np.unique(np.concatenate(listed), return_inverse=True)
    candidates = np.split(place, np.cumsum([len(row) for row in listed])[:-1])
    truth = np.array([int((row == number[i, 1]).argmax()) for i, row in enumerate(listed)])
    return Lists(collection.images.take(number[:, 0]), collection.images.take(columns), candidates, truth)


def solved(method: Method, lists: Lists, *, k: int = 2) -> pd.DataFrame:
    """The `solved_table` of a fitted method's scores."""
    S = method.scores(lists.left, lists.right)
    scores = [row[listed] for row, listed in zip(S, lists.candidates, strict=True)]
    return solved_table(lists.left.ids, scores, lists.truth, k=k)


def solved_table(ids: Sequence[str], scores: Iterable[np.ndarray], truth: Iterable[int], *, k: int = 2) -> pd.DataFrame:
    """left (id), candidates (their number), top<k>: the chance that the truth is among the k best, 1 where k ≥ all."""
    rows = [
        (left, len(row), solved_on_candidates(row[None], [place], k=min(k, len(row)))[0])
        for left, row, place in zip(ids, scores, truth, strict=True)
    ]
    return pd.DataFrame(rows, columns=["left", "candidates", f"top{k}"])


def solved_pairs(method: Method, pairs: Pairs, *, k: int = 2, n_candidates: int = 20) -> pd.DataFrame:
    """Table as of `solved_table` for lists drawn from all right pictures, expected over all draws.

    Lists have n_candidates, or all right pictures where there are fewer. A right picture that occurs in several pairs
    is one candidate.
    """
    rights, match = np.unique(pairs.right.rows, return_inverse=True)
    S = method.scores(pairs.left, pairs.right.base.take(rights))
    length = min(n_candidates, len(rights))
    chances = expected_solved(S, match, k=min(k, length), n_candidates=length)
    return pd.DataFrame({"left": pairs.left.ids, "candidates": length, f"top{k}": chances})


def summary(table: pd.DataFrame, *, k: int) -> str:
    """Accuracy, its interval and what guessing would reach, in one line."""
    chances = table[f"top{k}"]
    low, high = bootstrap_interval(chances) if len(table) > 1 else (0.0, 1.0)
    guessed = mean(np.minimum(1, k / table["candidates"]))
    return (
        f"top-{k} {mean(chances):.3f}, 95 % interval {low:.3f} to {high:.3f}, chance {guessed:.3f}, {len(table)} lefts"
    )


def _read(table: Path, pictures: Path) -> tuple[pd.DataFrame, Collection, list[Problem]]:
    problems: list[Problem] = []
    rows = read_table(table, ["left", "right"], problems, exactly=False)
    if not problems and rows.empty:
        problems.append(("missing rows", f"{table.name} line 2: no row — add at least one"))
    _raise(problems, table)
    ends = ["left", "right"]
    return pd.concat([rows[ends], rows.drop(columns=ends)], axis=1), collect(pictures), problems


def _numbers(rows: pd.DataFrame, table: Path, collection: Collection, problems: list[Problem], may_be_empty=()):
    """Number of every named picture, int (rows, columns); −1 where a field is empty or the picture is not there."""
    ids = collection.images.ids
    by_name: dict[str, set[int]] = {}
    for number, path in enumerate(map(PurePosixPath, ids)):
        for name in {str(path), str(path.with_suffix("")), path.name, path.stem}:
            by_name.setdefault(name, set()).add(number)
    exact = {name: number for number, name in enumerate(ids)}
    unreadable = set(collection.unreadable["file"])
    numbers = np.full(rows.shape, -1)
    for (row, column), name in np.ndenumerate(rows.to_numpy()):
        found = {exact[name]} if name in exact else by_name.get(name, set())
        if len(found) == 1:
            numbers[row, column] = min(found)
        elif name or rows.columns[column] not in may_be_empty:
            what = f"names {len(found)} pictures — write the path inside the folder" if found else "is no picture there"
            what = "cannot be read" if name in unreadable else what
            problems.append(
                ("pictures", f"{table.name} line {rows.index[row]}: {rows.columns[column]} {name!r} {what}")
            )
    return numbers


def _raise(problems: list[Problem], table: Path) -> None:
    if problems:
        raise DatasetError(report(str(table), problems))
