"""The project's own files agree with each other: commands, lock, environment, README."""

import json
import re
import shutil
import subprocess
import tomllib

import numpy as np
import pytest
import yaml

from conftest import encoded, picture
from scripts.recording import readme_table
from tll_utils import cli
from tll_utils.data.dataset import load_dataset
from tll_utils.features import backbones, catalogue
from tll_utils.features.presets import Network
from tll_utils.methods import registry
from tll_utils.methods.registry import BEST
from tll_utils.runtime import keras, project_root
from tll_utils.search import commands

ROOT = project_root()


PAGES = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
TEXTS = ["README.md", "CONTRIBUTING.md", "data/README.md", *PAGES]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_commands_of_the_texts_are_targets_of_the_makefile():
    texts = "".join(read(name) for name in TEXTS)
    commands = set(re.findall(r"(?:`|^    )make ([a-z-]+)", texts, re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert {"report", "test", "submission", "reproduce"} <= commands <= targets


def test_modules_run_by_the_makefile_exist():
    modules = re.findall(r"python -m ((?:tll_utils|scripts)[a-z_.]*)", read("Makefile"))
    files = {name: ROOT / name.replace(".", "/") for name in modules}
    assert modules and all(path.with_suffix(".py").exists() or path.is_dir() for path in files.values()), files


def test_readme_shows_the_recorded_results():
    """Recording rewrites the table; editing it by hand or forgetting it fails here."""
    assert readme_table() in read("README.md")


def test_readme_is_short():
    """What the task is, how good, two commands, where to go; the rest are pages."""
    assert len(read("README.md").splitlines()) <= 100


@pytest.mark.parametrize("name", TEXTS)
def test_links_of_the_texts_lead_somewhere(name):
    """In the checkout; those of the pages are checked when they are built, which makes contributing.md and api/."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", read(name))
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] in ([], ["api/index.md"])


def test_code_of_the_competitors_page_adds_a_network(tiny, monkeypatch):
    """Run as it stands, on a small network in the format that it names."""
    [code] = re.findall(r"```python\n(.*?)```", read("docs/competing.md"), re.DOTALL)
    monkeypatch.setattr(registry, "METHODS", dict(registry.METHODS))
    monkeypatch.setattr(catalogue, "EXTRACTORS", dict(catalogue.EXTRACTORS))
    monkeypatch.setattr(backbones, "backbone", lambda path: {"data/presets/mine": small_network()}[path])
    exec(code, {})
    train = load_dataset(tiny).train
    S = registry.get_method("mine").fit(train).scores(train.left, train.right)
    assert S.shape == (6, 6) and np.ptp(S) > 0


def small_network() -> backbones.Backbone:
    """One random layer, "stage4"."""

    def load(_):
        image = keras.Input((None, None, 3))
        return Network(keras.layers.Identity(), image, {"stage4": keras.layers.Conv2D(4, 9, 9)(image)})

    return backbones.Backbone("small", ("stage4",), (245, 200), "float32", load, 0)


def test_cells_that_teachers_blank_are_there():
    rows = re.findall(r"^\| (\d\d) \| `(\w+)` \|", read("docs/teaching.md"), re.MULTILINE)
    assert len(rows) == 6
    for number, name in rows:
        [path] = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        assert re.search(rf"^(def {name}\(|{name} = )", code, re.MULTILINE), f"{number}: {name}"


# --- places where people work ---------------------------------------------------


def test_the_workflow_tests_every_supported_python_by_commands_that_exist():
    """It was never run by us: what can be checked here is that it asks for what there is."""
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    [pythons] = re.findall(r"^PYTHONS := (.*)$", read("Makefile"), re.MULTILINE)
    assert set(jobs["linux"]["strategy"]["matrix"]["python"]) == set(pythons.split())
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert {command.split()[1] for command in commands if command.startswith("make")} <= targets
    project = tomllib.loads(read("pyproject.toml"))
    [extras] = {extra for command in commands for extra in re.findall(r"\.\[([a-z,]+)\]", command)}
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])


def test_containers_have_a_supported_python_and_set_up_by_the_makefile():
    container = json.loads(read(".devcontainer/devcontainer.json"))
    assert container["postCreateCommand"].removeprefix("make ") in read("Makefile")
    assert container["image"].split(":")[1] == read(".binder/runtime.txt").strip().removeprefix("python-") == "3.12"


def test_hooks_are_of_the_locked_version():
    [hooks] = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert f"ruff=={hooks['rev'].removeprefix('v')} " in read("requirements.txt")


def test_citation_agrees_with_the_project():
    citation, project = yaml.safe_load(read("CITATION.cff")), tomllib.loads(read("pyproject.toml"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_checkout_is_small():
    """Without .git: 25 MB in all, of which all notebooks have 4."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    sizes = {name: (ROOT / name).stat().st_size for name in listed.stdout.split("\0")[:-1] if (ROOT / name).exists()}
    assert sum(sizes.values()) <= 25e6
    assert sum(size for name, size in sizes.items() if name.endswith(".ipynb")) <= 4e6


# --- the README's commands ------------------------------------------------------


def commands_of_the_readme() -> list[str]:
    """Those of the pages behind it too."""
    texts = "".join(read(name) for name in TEXTS if name != "data/README.md")
    lines = re.findall(r"^    (\S.*)$", texts, re.MULTILINE)
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
    monkeypatch.setenv("TLL_PRECISION", "float32")  # what else `submit` chooses would stay in this process
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
    folder = ROOT / "tll_utils" / "search" / commands.SHIPPED
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 8e6
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert commands.recorded_accuracy(commands.SHIPPED) in card and "**Faces:** not used" in card
