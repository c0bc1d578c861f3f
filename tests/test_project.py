"""The project's own files agree with each other: commands, lock, environment, README."""

import re

from scripts.recording import readme_table
from tll_utils.runtime import project_root

ROOT = project_root()


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_commands_of_the_texts_are_targets_of_the_makefile():
    texts = read("README.md") + read("CONTRIBUTING.md")
    commands = set(re.findall(r"\bmake ([a-z]+)\b", texts))
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert {"report", "test", "submission", "reproduce"} <= commands <= targets


def test_modules_run_by_the_makefile_exist():
    modules = re.findall(r"python -m ((?:tll_utils|scripts)[a-z_.]*)", read("Makefile"))
    files = {name: ROOT / name.replace(".", "/") for name in modules}
    assert modules and all(path.with_suffix(".py").exists() or path.is_dir() for path in files.values()), files


def test_readme_shows_the_recorded_results():
    """Recording rewrites the table; editing it by hand or forgetting it fails here."""
    assert readme_table() in read("README.md")


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", read("README.md"))
    assert links and [link for link in links if not (ROOT / link).exists()] == []
