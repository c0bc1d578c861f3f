"""Writes recorded results: one JSON per experiment with its provenance, per-left tables in CSVs beside it."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from tll_utils.data.dataset import Dataset
from tll_utils.evaluation.statistics import summarise
from tll_utils.methods.registry import get_entry
from tll_utils.report.experiments import EXPERIMENTS
from tll_utils.report.results import interval_text, published_results, recorded_methods, results_dir
from tll_utils.runtime import keras, project_root, write_text

PACKAGES = (
    "keras", "tensorflow", "numpy", "scipy", "scikit-learn", "scikit-image", "opencv-python-headless", "pillow",
    "simplejpeg",
)  # fmt: skip
START, END = "<!-- results: written by make reproduce -->", "<!-- end of results -->"
FAMILIES = (  # rows of the README: what they are called, the report's best of that kind, ours; None: nothing published
    ("black borders alone, a shortcut", None, get_entry("border_geometry").title),
    ("Siamese network trained from scratch", "Siamese ResNet18 from scratch, |a−b|, 2×2 average pool",
     get_entry("resnet18_infonce").title),
    ("features of pretrained networks", "pretrained VGG16", get_entry("lite_layers").title),
    ("… and of detected faces, fused", "pretrained VGG16 + dlib face features, weight 66 %", get_entry("fusion").title),
    ("a pretrained network, fine-tuned", "pretrained VGG16", get_entry("tuned_lite0").title),
    ("linear layers learned on such features (`best`)", None, get_entry("best").title),
    ("… on images without their borders", None, get_entry("best_border_neutral").title),
    ("… without any face model", None, get_entry("best_without_faces").title),
    ("… and on its own answers to unlabelled lists (`best_self_trained`)", None,
     get_entry("best_self_trained").title),
    ("… the other queries' candidates known", None, "best, CSLS"),
    ("… all queries answered together", None, "best, belief propagation"),
    ("… so, and learned on unlabelled lists too", None, "best self trained, belief propagation"),
)  # fmt: skip


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
    """The METHOD_FIELDS of a method from its per-left table (`evaluation.cross_validation.cross_validate`)."""
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


def record(
    experiment: str,
    dataset: Dataset,
    methods: list[dict],
    per_left: Mapping[str, pd.DataFrame],
    *,
    histories: Mapping[str, pd.DataFrame] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    folder: Path | None = None,
) -> Path:
    """Path of `<experiment>.json`, written with `<experiment>_rank.csv` and `…_top2.csv` beside it.

    methods: one dict per method with exactly the fields METHOD_FIELDS, or none. per_left: method name → table of
    `cross_validate`, whose index are rows of the training pairs. histories: method name → training history, written to
    `<experiment>_history.csv`; tables: further `<experiment>_<name>.csv`. Each file is replaced as a whole. Raises
    ValueError on missing or unknown fields, methods without per-left values and tables of different pairs.
    """
    folder = folder or results_dir()
    for method in methods:
        if set(method) != set(METHOD_FIELDS):
            raise ValueError(f"{experiment}: method fields differ from {METHOD_FIELDS}: {sorted(method)}")
    if (names := [method["name"] for method in methods]) != list(per_left):
        raise ValueError(f"{experiment}: methods {names} and per-left tables {list(per_left)} differ")
    written = {column: _wide(dataset, per_left, column) for column in ("rank", "top2") if per_left} | dict(tables or {})
    if histories:
        written["history"] = pd.concat(histories, names=["method"]).reset_index("method")
    files = {name: f"{experiment}_{name}.csv" for name in written}
    for name, file in files.items():
        write_text(folder / file, written[name].to_csv(index=False, lineterminator="\n"))
    content = {
        "experiment": experiment,
        "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint, "pairs": len(dataset.train)},
        "environment": environment(),
        "methods": methods,
        "files": files,
    }
    write_text(path := folder / f"{experiment}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def _wide(dataset: Dataset, per_left: Mapping[str, pd.DataFrame], column: str) -> pd.DataFrame:
    """left, fold and gallery size of every pair scored, then `column` of each method."""
    first = next(iter(per_left.values()))
    if not all(table.index.equals(first.index) for table in per_left.values()):
        raise ValueError(f"the methods {list(per_left)} were measured on different pairs")
    left = [dataset.train.left.ids[row] for row in first.index]
    table = pd.DataFrame({"left": left, "fold": first["fold"], "gallery": first["gallery"]}, index=first.index)
    return table.assign(**{name: values[column].round(6) for name, values in per_left.items()})


def commit() -> str:
    """The checkout's commit, "-dirty" where tracked code differs from it; "unknown" outside git."""
    try:
        run, code = ["git", "-C", str(project_root())], ["--", "tll_utils", "scripts"]
        head = subprocess.check_output([*run, "rev-parse", "HEAD"], encoding="utf-8", stderr=subprocess.DEVNULL)
        changed = subprocess.check_output([*run, "status", "--porcelain", "-uno", *code], encoding="utf-8")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("-dirty" if changed else "")


def environment() -> dict:
    """Python, package versions, backend, precision and processor of this run."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "backend": keras.backend.backend(),
        "precision": keras.config.floatx(),
        "hardware": f"{_processor()}, {os.cpu_count()} cores",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def readme_table() -> str:
    """Markdown table of FAMILIES: the report's best of a family, ours, its interval and its task."""
    published = published_results().set_index("method")["top2"]
    measured = {method["name"]: method for method in recorded_methods(*EXPERIMENTS)}
    lines = ["| method | report | here | 95 % interval | task |", "|---|---|---|---|---|"]
    for family, report, ours in FAMILIES:
        theirs = f"{published[report]:.3f}" if report in published else ""
        if method := measured.get(ours):
            here = f"{method['expected_top2']:.3f} | {interval_text(method['interval95'])} | {method['task']}"
            lines.append(f"| {family} | {theirs} | {here} |")
    return "\n".join(lines)


def update_readme() -> None:
    """Put `readme_table` between the README's two `results` comments."""
    path = project_root() / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(START)
    write_text(path, f"{before}{START}\n{readme_table()}\n{END}{rest.partition(END)[2]}")
