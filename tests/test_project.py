"""The project's own files agree with each other: commands, lock, environment, README."""

import re
import subprocess

import pytest

from tll_utils.results import readme_table
from tll_utils.runtime import project_root

ROOT = project_root()


def read(name):
    return (ROOT / name).read_text()


def test_commands_of_the_readme_are_targets_of_the_makefile():
    commands = set(re.findall(r"\bmake ([a-z]+)\b", read("README.md")))
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert {"report", "test", "submission", "reproduce"} <= commands <= targets


@pytest.mark.parametrize("target", ["report", "test", "submission", "reproduce", "notebooks", "sample"])
def test_make_knows_how_to_build(target):
    """`make -n` prints what it would run and fails on a broken rule."""
    run = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0 and ".venv/bin/python" in run.stdout


def test_ci_runs_the_commands_of_the_readme():
    lines = read(".ci/run").splitlines()
    assert "make test" in lines and "make report" in lines


def test_lock_pins_and_hashes_everything_asked_for():
    wanted = {line for line in read("requirements.in").splitlines() if line and not line.startswith("#")}
    locked = re.findall(r"^([a-z0-9-]+)==\S+.*((?:\n +--hash=sha256:[0-9a-f]{64}.*)+)", read("requirements.txt"), re.M)
    assert wanted <= {name for name, _ in locked}
    assert len(locked) == len(re.findall(r"^[a-z0-9-]+==", read("requirements.txt"), re.M))


def test_lock_names_no_index():
    assert not re.search(r"^--|https?://|file:", read("requirements.txt"), re.MULTILINE)


def test_conda_uses_the_same_lock():
    assert "-r requirements.txt" in read("environment.yml") and "python=3.11" in read("environment.yml")


def test_readme_shows_the_recorded_results():
    """Recording rewrites the table; editing it by hand or forgetting it fails here."""
    assert readme_table() in read("README.md")


def test_pictures_of_the_readme_exist():
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", read("README.md")):
        assert (ROOT / picture).is_file()
