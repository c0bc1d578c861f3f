"""The report as a paper: docs/paper/paper.typ, with every number read from one file made of the recorded results."""

import json
import re
import time
from pathlib import Path

import pandas as pd

from tll_utils.data.dataset import N_CANDIDATES
from tll_utils.data.folds import N_SPLITS
from tll_utils.evaluation.statistics import paired_test
from tll_utils.methods.registry import REPORT_FACE_WEIGHT
from tll_utils.report.experiments import EXPERIMENTS, Row, faces_in_pair
from tll_utils.report.results import load_per_left, load_results, load_table, published_results
from tll_utils.runtime import build_dir, project_root, write_text

FOLDER = project_root() / "docs" / "paper"
ASKED = re.compile(r'#d\("([^"]+)", "([^"]+)"\)')  # the differences that the paper speaks of
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
    """Key → a row as it is recorded; rows that are not recorded are left out."""
    recorded = {name: load_results(name) or {"methods": []} for name in EXPERIMENTS}
    rows = {(name, row["name"]): row for name, content in recorded.items() for row in content["methods"]}
    return {key: rows[place] for key, place in titles().items() if place in rows}


def published() -> list[dict]:
    """The published numbers, each with the key of the row that repeats its method here, if one does."""
    known = methods()
    ours = {row["name"]: key for key, row in reversed(known.items())}
    return [{**row, "ours": ours.get(row["method"])} for row in published_results().to_dict("records")]


def differences(pairs: list[tuple[str, str]]) -> dict[str, dict]:
    """ "a − b" → the paired test of two recorded rows on the left images that both have answered."""
    places, known, found = titles(), methods(), {}
    for a, b in pairs:
        if {a, b} <= set(known):
            first, second = (load_per_left(experiment, "top2")[title] for experiment, title in (places[a], places[b]))
            first = first[first.index.isin(second.index)]
            test = paired_test(first, second[first.index])
            low, high = test.interval95
            found[f"{a} − {b}"] = {"difference": test.difference, "low": low, "high": high, "p": test.p_value}
    return found


# --- tables ---------------------------------------------------------------------

COMPARED = ("pretrained/lite0_average", "adapters/adapter_layers", "adapters/best", "one_to_one/best/belief propagation")
TOLD_BY_BORDERS = (
    "siamese_resnet18/resnet18_absolute", "siamese_resnet18/resnet18_absolute_2x2",
    "siamese_infonce/resnet18_infonce", "pretrained/lite0", "adapters/best",
)  # fmt: skip


def by_group(keys: tuple[str, ...], groups: pd.Series) -> list[dict]:
    """For each group of left images its size and the mean of every method, on the lefts that all of them answered."""
    places = titles()
    top2 = {key: load_per_left(places[key][0], "top2")[places[key][1]] for key in keys if key in methods()}
    table = pd.DataFrame(top2).dropna()
    grouped = table.groupby(groups[table.index])
    return [{"group": name, "pairs": len(part), "top2": part.mean().to_dict()} for name, part in grouped]


def faces() -> list[dict]:
    """Accuracy by where faces were found."""
    found = load_table("face_fusion", "faces").set_index("left")
    return by_group(COMPARED, faces_in_pair(found))


def borders() -> list[dict]:
    """Accuracy by whether border geometry alone solves the left image, on the held-out fifth of the Siamese networks."""
    alone = load_per_left(*("shortcuts", "top2"))[titles()["shortcuts/border_geometry"][1]]
    return by_group(TOLD_BY_BORDERS, (alone > 0.5).map({True: "solved", False: "not solved"}))


def ranks(key: str = "adapters/best") -> list[dict]:
    """How far down the gallery of its fold the truth is: the share of left images in each range of ranks."""
    experiment, title = titles()[key]
    limits, labels = [0, 1.5, 5, 20, 80, 400], ["first", "2 to 5", "6 to 20", "21 to 80", "beyond"]
    values = pd.cut(load_per_left(experiment, "rank")[title], limits, labels=labels)
    return [{"rank": name, "share": share} for name, share in values.value_counts(normalize=True, sort=False).items()]


# --- the paper ------------------------------------------------------------------


def facts() -> dict:
    """Every number of the paper, from data/results/ and, of the protocol, from the code."""
    paper = (FOLDER / "paper.typ").read_text(encoding="utf-8")
    recorded = {name: content for name in EXPERIMENTS if (content := load_results(name))}
    return {
        "abstract": abstract(),
        "pairs": max(content["data"]["pairs"] for content in recorded.values()),
        "folds": N_SPLITS,
        "candidates": N_CANDIDATES,
        "face_weight": REPORT_FACE_WEIGHT,
        "methods": methods(),
        "published": published(),
        "differences": differences(sorted(set(ASKED.findall(paper)))),
        "faces": faces(),
        "borders": borders(),
        "ranks": ranks(),
        "recorded": {name: content["commit"] for name, content in recorded.items()},
    }


def abstract() -> str:
    """The abstract of paper and pages, with the numbers of its {keys}."""
    text, known = (FOLDER / "abstract.txt").read_text(encoding="utf-8"), methods()
    best = max(row["top2"] for row in published() if row["source"] == "report")
    numbers = {key: f"{row['expected_top2']:.3f}" for key, row in known.items()} | {"report": f"{best:.3f}"}
    return " ".join(PLACEHOLDER.sub(lambda match: numbers[match[1]], text).split())


def write_paper(out: Path, format: str = "pdf") -> None:
    """The paper as PDF, or as PNGs where the name of `out` holds {p}; its numbers lie beside it, in paper.json."""
    import typst

    data = out.with_name("paper.json")
    write_text(data, json.dumps(facts(), indent=1, ensure_ascii=False) + "\n")
    shown = {"data": data.read_text(encoding="utf-8")}
    typst.compile(
        FOLDER / "paper.typ", output=out, root=project_root(), format=format, ignore_system_fonts=True, sys_inputs=shown,
        ppi=110,
    )  # fmt: skip


def main() -> None:
    """The command line."""
    started, out = time.time(), build_dir() / "report.pdf"
    write_paper(out)
    print(f"{out} in {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
