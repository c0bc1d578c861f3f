"""The report as a paper: docs/paper/paper.typ, with every number read from one file made of the recorded results."""

import json
import re
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from tll_utils.data.dataset import N_CANDIDATES
from tll_utils.data.folds import N_SPLITS
from tll_utils.evaluation.statistics import paired_test
from tll_utils.methods.registry import REPORT_FACE_WEIGHT
from tll_utils.report.experiments import EXPERIMENTS, Row, faces_in_pair
from tll_utils.report.results import load_per_left, load_results, load_table, published_results
from tll_utils.runtime import atomic_write, build_dir, project_root, write_text

FOLDER = project_root() / "docs" / "paper"
ASKED = re.compile(r'#d\("([^"]+)", "([^"]+)"\)')  # the differences that the paper speaks of
NO_BREAK = "\N{NO-BREAK SPACE}"
PLACEHOLDER = re.compile(r"\{([^}]+)\}")


def row_key(experiment: str, row: Row) -> str:
    """How the paper names a recorded row, such as "adapters/best" or "one_to_one/best/CSLS"."""
    decoder = [row.decoder] * bool(EXPERIMENTS[experiment].decoders)
    return "/".join([experiment, row.method, *decoder, *["scored border-neutral"] * row.scored_neutral])


def titles() -> dict[str, tuple[str, str]]:
    """Key of every registered row → its experiment and the title under which it is recorded."""
    rows = [(name, row) for name, experiment in EXPERIMENTS.items() for row in experiment.rows()]
    return {row_key(name, row): (name, row.title) for name, row in rows}


def methods() -> dict[str, dict]:
    """Key → a recorded row; rows that are not recorded are left out."""
    rows = {(name, row["name"]): row for name, content in recorded().items() for row in content["methods"]}
    return {key: rows[place] for key, place in titles().items() if place in rows}


def recorded() -> dict[str, dict]:
    """Name → content of every recorded experiment."""
    return {name: content for name in EXPERIMENTS if (content := load_results(name))}


def published() -> list[dict]:
    """The published numbers, each with the key of the row that repeats its method here, if one does."""
    ours = {row["name"]: key for key, row in reversed(methods().items())}
    rows = published_results().to_dict("records")
    return [{**row, "value": row["top2"], "top2": text(row["top2"]), "ours": ours.get(row["method"])} for row in rows]


def difference(a: str, b: str, n_resamples: int) -> str | None:
    """The paired test of two recorded rows on the left images that both have answered, as text."""
    if not {a, b} <= set(methods()):
        return None
    first, second = (load_per_left(experiment, "top2")[title] for experiment, title in (titles()[a], titles()[b]))
    first = first[first.index.isin(second.index)]
    test = paired_test(first, second[first.index], n_resamples=n_resamples)
    p = "< 0.001" if test.p_value < 0.001 else f"= {test.p_value:.{3 if test.p_value < 0.01 else 2}f}"
    low, high = (text(bound, "+") for bound in test.interval95)
    return f"{text(test.difference, '+')} ({low} to {high}, " + f"p {p})".replace(" ", NO_BREAK)


def text(value: float, sign: str = "") -> str:
    """A number as all tables show it, with a minus that is no hyphen and with no break behind it."""
    return f"{value:{sign}.3f}".replace("-", "−")


# --- tables ---------------------------------------------------------------------

COMPARED = (
    "pretrained/lite0_average",
    "adapters/adapter_layers",
    "adapters/best",
    "one_to_one/best/belief propagation",
)
TOLD_BY_BORDERS = (
    "siamese_resnet18/resnet18_absolute", "siamese_resnet18/resnet18_absolute_2x2",
    "siamese_infonce/resnet18_infonce", "pretrained/lite0", "adapters/best",
)  # fmt: skip


def percent(share: float) -> str:
    return f"{100 * share:.0f}{NO_BREAK}%"


def by_group(keys: tuple[str, ...], groups: pd.Series, order: Sequence[str]) -> list[dict]:
    """For each group of left images its size and the mean of every method, on the lefts that all of them answered."""
    places = {key: titles()[key] for key in keys if key in methods()}
    table = pd.DataFrame({key: load_per_left(name, "top2")[title] for key, (name, title) in places.items()}).dropna()
    parts = {name: table[groups[table.index] == name] for name in order}
    return [
        {"group": name, "pairs": len(part), "top2": {key: text(part[key].mean()) for key in part}}
        for name, part in parts.items()
    ]


def faces() -> list[dict]:
    """Accuracy by where faces were found."""
    found = faces_in_pair(load_table("face_fusion", "faces").set_index("left"))
    return by_group(COMPARED, found, ["both", "left only", "right only", "none"])


def borders() -> list[dict]:
    """Accuracy by whether border geometry alone solves the left, on the held-out fifth of the Siamese networks."""
    experiment, title = titles()["shortcuts/border_geometry"]
    alone = (load_per_left(experiment, "top2")[title] > 0.5).map({True: "solved", False: "not solved"})
    return by_group(TOLD_BY_BORDERS, alone, ["solved", "not solved"])


def ranks(key: str = "adapters/best") -> dict[str, str]:
    """How far down the gallery of its fold the truth is: ranges of ranks, and the share of left images in each."""
    experiment, title = titles()[key]
    rank, ranges = (
        load_per_left(experiment, "rank")[title],
        {"first": (0, 1.5), "2 to 20": (1.5, 20), "beyond 80": (80, 1e9)},
    )
    return {name: percent(((rank > low) & (rank <= high)).mean()) for name, (low, high) in ranges.items()}


# --- the paper ------------------------------------------------------------------


def facts(n_resamples: int = 10_000) -> dict:
    """Every number of the paper, from data/results/ and, of the protocol, from the code.

    n_resamples: of the paired tests, on which their p-values alone depend.
    """
    paper = (FOLDER / "paper.typ").read_text(encoding="utf-8")
    contents = recorded().values()
    machines = sorted({content["environment"]["hardware"] for content in contents})
    return {
        "abstract": abstract(),
        "pairs": f"{max(content['data']['pairs'] for content in contents):,}",
        "folds": N_SPLITS,
        "candidates": N_CANDIDATES,
        "chance": 2 / N_CANDIDATES,
        "face_weight": percent(REPORT_FACE_WEIGHT),
        "machines": " and ".join(machines),
        "methods": {
            key: {"values": row, "top2": text(row["expected_top2"]), "interval": "–".join(map(text, row["interval95"]))}
            for key, row in methods().items()
        },
        "published": published(),
        "differences": {
            f"{a} − {b}": test for a, b in sorted(set(ASKED.findall(paper))) if (test := difference(a, b, n_resamples))
        },
        "faces": faces(),
        "borders": borders(),
        "ranks": ranks(),
    }


def abstract() -> str:
    """The abstract of paper and pages, with the numbers of its {keys}."""
    written = (FOLDER / "abstract.txt").read_text(encoding="utf-8")
    numbers = {key: text(row["expected_top2"]) for key, row in methods().items()}
    numbers["chance"] = text(2 / N_CANDIDATES)
    numbers["report"] = text(max(row["value"] for row in published() if row["source"] == "report"))
    return " ".join(PLACEHOLDER.sub(lambda match: numbers[match[1]], written).split())


def write_paper(out: Path, data: dict) -> None:
    """The paper as PDF, with its numbers in paper.json beside it."""
    write_text(out.with_name("paper.json"), json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    with atomic_write(out) as path:
        path.write_bytes(compiled(data))


def compiled(data: dict, format: str = "pdf"):
    """The bytes of the PDF; of the format "png", a list with those of every page."""
    import typst

    options = {"format": format, "ignore_system_fonts": True, "ppi": 110}  # typst brings its fonts along
    return typst.compile(FOLDER / "paper.typ", root=project_root(), sys_inputs={"data": json.dumps(data)}, **options)


def main() -> None:
    """The command line."""
    started, out = time.time(), build_dir() / "report.pdf"
    if find_spec("typst") is None:
        sys.exit("not installed: typst; the paper needs the extra `docs`: pip install -e '.[docs]'")
    write_paper(out, facts())
    print(f"{out} in {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
