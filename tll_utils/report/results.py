"""Recorded results, read from `data/results/`, and the tables made of them."""

from pathlib import Path

import pandas as pd

from tll_utils.runtime import damage_named, project_root, read_json

AGAIN = "restore it by `git checkout -- data/results`, or record it again"


def results_dir() -> Path:
    """`data/results` of the checkout."""
    return project_root() / "data" / "results"


def load_results(experiment: str) -> dict | None:
    """The recorded experiment, or None where it has not been recorded."""
    path = results_dir() / f"{experiment}.json"
    with damage_named(path, AGAIN):
        return {"methods": []} | read_json(path) if path.exists() else None


def load_per_left(experiment: str, column: str) -> pd.DataFrame:
    """Per-left table of a recorded experiment: one column per method, indexed by the id of the left image.

    column: "rank" (of the truth in the fold's gallery) or "top2" (chance to be solved).
    """
    table = load_table(experiment, column)
    with damage_named(results_dir() / f"{experiment}_{column}.csv", AGAIN):
        return table.set_index("left").drop(columns=["fold", "gallery"])


def load_table(experiment: str, name: str) -> pd.DataFrame:
    """A CSV of a recorded experiment, such as its "history" or, of face_fusion, its "faces"."""
    with damage_named(path := results_dir() / f"{experiment}_{name}.csv", AGAIN):
        return pd.read_csv(path, dtype={"left": str}, keep_default_na=name == "history", encoding="utf-8")


def recorded_methods(*experiments: str) -> list[dict]:
    """The methods of the recorded experiments, in the order given; experiments not recorded are left out."""
    recorded = [load_results(experiment) or {"methods": []} for experiment in experiments]
    return [method for results in recorded for method in results["methods"]]


def results_table(*experiments: str) -> pd.DataFrame:
    """One row per method of the recorded experiments, in the order given."""
    shown = {
        "name": "method", "expected_top2": "top-2", "interval95": "95 % interval", "expected_top1": "top-1",
        "border_neutral": "border-neutral", "task": "task", "report_top2": "report",
    }  # fmt: skip
    table = pd.DataFrame(recorded_methods(*experiments), columns=list(shown))
    table["interval95"] = table["interval95"].map(interval_text)
    table["border_neutral"] = ["yes" if neutral else "" for neutral in table["border_neutral"]]
    return table.dropna(axis="columns", how="all").rename(columns=shown)


def interval_text(interval: tuple[float, float]) -> str:
    """ "0.751 – 0.786" """
    return "{:.3f} – {:.3f}".format(*interval)


def published_results() -> pd.DataFrame:
    """The numbers published by others, as they published them: method, top2, source."""
    with damage_named(path := results_dir() / "published.csv", AGAIN):
        return pd.read_csv(path, encoding="utf-8")
