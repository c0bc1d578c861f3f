"""Recorded results: one JSON an experiment with its provenance, per-left tables in CSVs beside it."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from tll_utils.dataset import Dataset
from tll_utils.evaluation import summarise
from tll_utils.runtime import project_root, whole_file

PACKAGES = (
    "keras", "tensorflow", "numpy", "scipy", "scikit-image", "opencv-python-headless", "pillow", "simplejpeg",
)  # fmt: skip
EXPERIMENT_NAMES = (  # in the order of the notebooks
    "shortcuts", "siamese_resnet18", "siamese_pooling", "siamese_pooling_full_size",
    "siamese_pooling_augmented", "siamese_vgg16", "siamese_vgg16_rates", "siamese_infonce",
    "siamese_infonce_border_neutral", "pretrained", "face_fusion", "sub_categories", "adapters", "fine_tuning",
    "matching",
)  # fmt: skip
_RESNET18, _VGG16 = "Siamese ResNet18 from scratch", "Siamese VGG16 from scratch"
HEADLINES = (  # methods of the README's table and of the figure beside the report's; notebook 09 lists all
    "border geometry (4 widths, L1)",
    f"{_RESNET18}, global average pool, a−b",
    f"{_RESNET18}, |a−b|",
    f"{_RESNET18}, |a−b|, 2×2 average pool",
    f"{_RESNET18}, |a−b|, 245×200, 3 folds",
    f"{_RESNET18}, |a−b|, 2×2 average pool, 245×200, 3 folds",
    f"{_RESNET18}, |a−b|, augmented, 3 folds",
    f"{_RESNET18}, |a−b|, 2×2 average pool, augmented, 3 folds",
    f"{_VGG16}, relu output, cosine",
    f"{_VGG16}, lr 0.005",
    f"{_VGG16}, sigmoid",
    f"{_VGG16}, sigmoid, lr 0.0001",
    f"{_VGG16}, lr 0.005, |a−b|",
    f"{_RESNET18}, InfoNCE",
    f"{_RESNET18}, InfoNCE, scored with borders cropped",
    "HOG",
    "Lite0 average, not centred (as the report compares)",
    "Lite0, average pool",
    "Lite0 + Lite1 + Lite2, stage 5 and head",
    "Lite0 average, not centred + whole image as the face, 66 % (report's recipe)",
    "Lite0 average + detected faces, gated",
    "all Lite taps + colour + HOG + LBP + detected faces, gated",
    "Lite0, late layers fine-tuned",
    "adapter: heads, stage 5, detected faces",
    "five adapters on parts of these inputs",
    "five adapters, hubs taken down + fine-tuned Lite0 (best)",
    "best, borders cropped",
    "best, CSLS",
    "best, belief propagation",
    "best, belief propagation, borders cropped",
)
METHOD_FIELDS = (
    "name", "report_top2", "expected_top2", "interval95", "expected_top1", "task", "border_neutral", "split",
    "n_left", "seconds", "notes",
)  # fmt: skip


def method_row(
    name: str,
    per_left: pd.DataFrame,
    *,
    split: str,
    seconds: float,
    notes: str = "",
    border_neutral: bool = False,
    report_top2: float | None = None,
    task: str = "inductive",
) -> dict:
    """The METHOD_FIELDS of a method from its per-left table (`evaluation.cross_validate`)."""
    summary = summarise(per_left)
    return {
        "name": name,
        "report_top2": report_top2,
        "expected_top2": round(summary["expected_top2"], 4),
        "interval95": [round(bound, 4) for bound in summary["interval95"]],
        "expected_top1": round(summary["expected_top1"], 4),
        "task": task,
        "border_neutral": border_neutral,
        "split": split,
        "n_left": summary["n_left"],
        "seconds": round(seconds, 1),
        "notes": notes,
    }


def results_dir() -> Path:
    """`data/results` of the checkout."""
    return project_root() / "data" / "results"


def record(
    experiment: str,
    dataset: Dataset,
    methods: list[dict],
    per_left: Mapping[str, pd.DataFrame],
    *,
    histories: Mapping[str, pd.DataFrame] | None = None,
    folder: Path | None = None,
) -> Path:
    """Path of `<experiment>.json`, written with `<experiment>_rank.csv` and `…_top2.csv` beside it.

    methods: one dict a method with exactly the fields METHOD_FIELDS. per_left: method name → table of
    `evaluation.cross_validate`, whose index are rows of the training pairs, the same for all methods.
    histories: method name → history of `siamese.fit`, written to `<experiment>_history.csv`. Each file is
    replaced as a whole. Raises ValueError on missing or unknown fields, on methods without per-left values
    and on tables of different pairs.
    """
    folder = folder or results_dir()
    for method in methods:
        if set(method) != set(METHOD_FIELDS):
            raise ValueError(f"{experiment}: method fields differ from {METHOD_FIELDS}: {sorted(method)}")
    if (names := [method["name"] for method in methods]) != list(per_left):
        raise ValueError(f"{experiment}: methods {names} and per-left tables {list(per_left)} differ")
    tables = {column: _wide(dataset, per_left, column) for column in ("rank", "top2")}
    if histories:
        tables["history"] = pd.concat(histories, names=["method"]).reset_index("method")
    files = {name: f"{experiment}_{name}.csv" for name in tables}
    for name, file in files.items():
        _replace(folder / file, tables[name].to_csv(index=False))
    content = {
        "experiment": experiment,
        "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint, "pairs": len(dataset.train)},
        "environment": environment(),
        "methods": methods,
        "files": files,
    }
    path = folder / f"{experiment}.json"
    _replace(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def _wide(dataset: Dataset, per_left: Mapping[str, pd.DataFrame], column: str) -> pd.DataFrame:
    """left, fold and gallery size of every pair scored, then `column` of each method."""
    first = next(iter(per_left.values()))
    if not all(table.index.equals(first.index) for table in per_left.values()):
        raise ValueError(f"the methods {list(per_left)} were measured on different pairs")
    left = [dataset.train.left.ids[row] for row in first.index]
    table = pd.DataFrame({"left": left, "fold": first["fold"], "gallery": first["gallery"]}, index=first.index)
    return table.assign(**{name: values[column].round(6) for name, values in per_left.items()})


def _replace(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text)


def _commit() -> str:
    """The checkout's commit, "-dirty" where tracked code differs from it; "unknown" outside git."""
    try:
        run = ["git", "-C", str(project_root())]
        commit = subprocess.check_output([*run, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL)
        changed = subprocess.check_output([*run, "status", "--porcelain", "-uno", "--", "tll_utils"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.strip() + ("-dirty" if changed else "")


def environment() -> dict:
    """Python, package versions, backend, precision and processor of this run."""
    from tll_utils.backend import keras

    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "backend": keras.backend.backend(),
        "precision": keras.config.floatx(),
        "hardware": f"{_processor()}, {os.cpu_count()} cores",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def load_results(experiment: str, *, folder: Path | None = None) -> dict | None:
    """The recorded experiment, or None where it has not been recorded."""
    path = (folder or results_dir()) / f"{experiment}.json"
    return json.loads(path.read_text()) if path.exists() else None


def load_per_left(experiment: str, column: str, *, folder: Path | None = None) -> pd.DataFrame:
    """Per-left table of a recorded experiment: left, fold, gallery, then one column a method.

    column: "rank" (of the truth in the fold's gallery) or "top2" (chance to be solved).
    """
    path = (folder or results_dir()) / f"{experiment}_{column}.csv"
    return pd.read_csv(path, dtype={"left": str}, keep_default_na=False)


def load_history(experiment: str, *, folder: Path | None = None) -> pd.DataFrame:
    """The recorded histories: method, then the columns of `siamese.fit`, one row an epoch."""
    return pd.read_csv((folder or results_dir()) / f"{experiment}_history.csv")


def recorded_methods(*experiments: str, folder: Path | None = None) -> list[dict]:
    """The methods of the recorded experiments, in the order given."""
    return [method for experiment in experiments for method in load_results(experiment, folder=folder)["methods"]]


def results_table(*experiments: str, folder: Path | None = None) -> pd.DataFrame:
    """One row a method of the recorded experiments, in the order given: the table of notebooks and README."""
    rows = [
        {
            "method": method["name"],
            "top-2": method["expected_top2"],
            "95 % interval": "{:.3f} – {:.3f}".format(*method["interval95"]),
            "top-1": method["expected_top1"],
            "border-neutral": "yes" if method["border_neutral"] else "",
            "task": method["task"],
            "report": method["report_top2"],
        }
        for method in recorded_methods(*experiments, folder=folder)
    ]
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def published_results() -> pd.DataFrame:
    """The numbers published by others, as they published them: method, top2, source."""
    return pd.read_csv(results_dir() / "published.csv")


def headlines() -> list[dict]:
    """The methods of HEADLINES, as far as their experiments are recorded."""
    recorded = [name for name in EXPERIMENT_NAMES if (results_dir() / f"{name}.json").exists()]
    return [method for method in recorded_methods(*recorded) if method["name"] in HEADLINES]


def readme_table() -> str:
    """Markdown table of the headlines beside the published results, best first."""
    ours = [
        (
            method["expected_top2"],
            method["name"],
            "{:.3f} – {:.3f}".format(*method["interval95"]),
            "measured here" + (f", {method['task']}" if method["task"] != "inductive" else ""),
        )
        for method in headlines()
    ]
    others = [(row.top2, row.method, "", row.source) for row in published_results().itertuples()]
    lines = ["| method | top-2 | 95 % interval | source |", "|---|---|---|---|"]
    for top2, name, interval, source in sorted(ours + others, reverse=True):
        name = name.replace("|", "\\|")
        lines.append(f"| {name} | {top2:.3f} | {interval} | {source} |")
    return "\n".join(lines)


def update_readme() -> None:
    """Put `readme_table` between the README's two `results` comments."""
    path = project_root() / "README.md"
    start, end = "<!-- results: written by make reproduce -->", "<!-- end of results -->"
    before, _, rest = path.read_text().partition(start)
    _replace(path, f"{before}{start}\n{readme_table()}\n{end}{rest.partition(end)[2]}")
