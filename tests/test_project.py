"""The project's own files agree with each other: commands, lock, environment, README."""

import re
import subprocess
import sys

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


def test_what_conda_asks_pip_for_is_what_pip_takes(tmp_path):
    """conda writes the pip section of environment.yml into a requirements file: pip must take every line of it.

    Everything is installed already, so pip downloads nothing; it still refuses an option on a line, and an editable
    install beside hashes.
    """
    section = read("environment.yml").split("- pip:\n")[1]
    lines = re.findall(r"^ +- (.*)$", section, re.MULTILINE)
    (tmp_path / "conda.txt").write_text("\n".join(lines).replace("requirements.txt", str(ROOT / "requirements.txt")))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps", "-q", "-r"]
    run = subprocess.run([*command, str(tmp_path / "conda.txt")], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_lock_names_no_index():
    assert not re.search(r"^--|https?://|file:", read("requirements.txt"), re.MULTILINE)


def test_readme_shows_the_recorded_results():
    """Recording rewrites the table; editing it by hand or forgetting it fails here."""
    assert readme_table() in read("README.md")


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", read("README.md"))
    assert links and [link for link in links if not (ROOT / link).exists()] == []
