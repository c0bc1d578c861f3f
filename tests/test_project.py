"""The project's own files agree with each other: commands, lock, environment, README."""

import re
import shutil
import subprocess

import pytest

from conftest import encoded, picture
from scripts.recording import readme_table
from tll_utils import cli
from tll_utils.methods.registry import BEST
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


# --- the README's commands ------------------------------------------------------


def commands_of_the_readme() -> list[str]:
    lines = re.findall(r"^    (\S.*)$", read("README.md"), re.MULTILINE)
    return [line.split(" #")[0].strip() for line in lines if line.startswith(("make", ".venv/bin/tll"))]


@pytest.mark.parametrize("command", [c for c in commands_of_the_readme() if c.startswith("make")])
def test_make_commands_of_the_readme_are_understood(command):
    """Not run: `make report` and `make test` are what runs this."""
    command = re.sub(r"\[.*\]", "", command).replace("<folder>", "data/sample")
    shown = subprocess.run([*command.split(), "-n"], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert shown.returncode == 0, shown.stderr


@pytest.fixture
def users_folder(tiny, tmp_path, monkeypatch):
    """What the README's commands name: challenge.zip, pictures/, pairs.csv and lists.csv."""
    shutil.make_archive(str(tmp_path / "challenge"), "zip", tiny)
    (tmp_path / "pictures").mkdir()
    for i in range(24):
        (tmp_path / "pictures" / f"p{i}.jpg").write_bytes(encoded(picture(i)))
    (tmp_path / "pairs.csv").write_text(
        "left,right\n" + "".join(f"p{i},p{i + 12}\n" for i in range(12)), encoding="utf-8"
    )
    (tmp_path / "lists.csv").write_text("left,right,c0,c1,c2\np0,p12,p13,p12,p14\np1,p13,p13,p12,\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for variable in ("TLL_DATA", "TLL_PROGRESS"):
        monkeypatch.setenv(variable, "")
    for name, value in {"epochs": 1, "n_seeds": 1, "inputs": BEST.inputs[:2]}.items():
        monkeypatch.setattr(BEST, name, value)  # trained for a moment
    return tmp_path


def test_the_other_commands_of_the_readme_run_in_their_order(users_folder, capsys):
    commands = [c.split()[1:] for c in commands_of_the_readme() if c.startswith(".venv/bin/tll")]
    assert {command[0] for command in commands} == {"submit", "look-alikes", "fit", "evaluate"}
    for command in commands:
        cli.main([*command, "--quiet"])
    made = {"submission.csv", "look-alikes/index.html", "models/mine/model.json"}
    assert all((users_folder / file).is_file() for file in made)
    assert "top-2" in capsys.readouterr().out


def test_the_shipped_model_is_small_and_its_card_says_what_was_recorded():
    folder = ROOT / "tll_utils" / "search" / cli.SHIPPED
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 8e6
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert cli._recorded_accuracy(cli.SHIPPED) in card and "**Faces:** not used" in card
