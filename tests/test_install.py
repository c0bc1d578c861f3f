"""What installs the project: the lock, conda's file, and the Makefile's choice of a Python."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from conftest import encoded, picture

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8")
PYTHONS = ("3.11", "3.12", "3.13")


def asked_for() -> set[str]:
    """Names of all packages that pyproject.toml asks for, its extras and groups included."""
    lists = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    lists += PROJECT["dependency-groups"].values()
    return {Requirement(line).name for lines in lists for line in lines if isinstance(line, str)}


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_pins_each_package_once_for_every_python(python):
    pins = [Requirement(line) for line in re.findall(r"^(\S+==[^\\\n]+)", LOCK, re.MULTILINE)]
    here = {"python_version": python, "python_full_version": f"{python}.0"}
    names = [pin.name for pin in pins if pin.marker is None or pin.marker.evaluate(here)]
    assert len(names) == len(set(names)) and asked_for() <= set(names)


def test_lock_has_hashes_and_names_no_index_and_no_place():
    pins = re.findall(r"^\S+==", LOCK, re.MULTILINE)
    hashed = re.findall(r"^\S+==.*\\\n +--hash=sha256:[0-9a-f]{64}", LOCK, re.MULTILINE)
    assert len(pins) == len(hashed) > 100
    assert not re.search(r"^-|://|file:|/tmp|/home|/root", LOCK, re.MULTILINE)


def test_supported_pythons_are_named_alike():
    makefile, conda = (
        (ROOT / "Makefile").read_text(encoding="utf-8"),
        (ROOT / "environment.yml").read_text(encoding="utf-8"),
    )
    listed = [line.rsplit(" ", 1)[1] for line in PROJECT["project"]["classifiers"] if "Python :: 3." in line]
    assert tuple(listed) == PYTHONS and f"PYTHONS := {' '.join(reversed(PYTHONS))}" in makefile
    assert f"python={PYTHONS[-1]}" in conda


def pip(*options, **where) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", *options]
    return subprocess.run(command, capture_output=True, encoding="utf-8", **where)


@pytest.fixture
def network():
    """Skips the test where pip reaches no index."""
    if pip("-U", "--no-deps", "--ignore-installed", "--retries", "0", "--timeout", "10", "six").returncode:
        pytest.skip("pip reaches no index")


def test_pip_takes_the_file_that_conda_writes(network, tmp_path):
    """conda writes the pip section into one file beside environment.yml and calls pip -U on it."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "environment.yml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "tll_utils").mkdir()
    (tmp_path / "tll_utils" / "__init__.py").touch()
    section = yaml.safe_load((tmp_path / "environment.yml").read_text(encoding="utf-8"))["dependencies"][-1]["pip"]
    (tmp_path / "condaenv.requirements.txt").write_text("\n".join(section), encoding="utf-8")
    run = pip("-U", "-r", "condaenv.requirements.txt", "--exists-action=b", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "tll-utils" in run.stdout.splitlines()[-1]


@pytest.fixture
def checkout(tmp_path):
    """A folder with the Makefile, and a PATH with the tools that it calls and no Python."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("make", "sh", "grep", "cat", "sed", "touch"):
        (tools / tool).symlink_to(shutil.which(tool))
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    return tmp_path


def python(path: Path, version: str):
    """Writes a program that gives its version and else repeats what it is asked; without a version it always fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    answers = f'*version_info*) echo {version} ;; *ensurepip*) ;; *) echo "{path.name} $*"; exit 1 ;;'
    path.write_text(f'#!/bin/sh\ncase "$*" in {answers if version else "*) exit 127 ;;"} esac\n', encoding="utf-8")
    path.chmod(0o755)


def make(checkout, *arguments) -> str:
    environment = {"PATH": str(checkout / "bin")}
    run = subprocess.run(["make", *arguments], cwd=checkout, env=environment, capture_output=True, encoding="utf-8")
    return run.stdout


@pytest.mark.parametrize(
    "found, arguments, says",
    [
        ({"3.11": "3.11", "3.13": "3.13", "3.12": "3.12"}, [], "python3.13 -m venv --clear .venv"),
        ({"3.11": "3.11", "3.13": "", "3.12": "3.12"}, [], "python3.12 -m venv --clear .venv"),
        ({"3.11": "3.11", "3.13": "3.13"}, ["PYTHON=python3.11"], "python3.11 -m venv --clear .venv"),
        ({"3.10": "3.10", "3.13": "3.13"}, ["PYTHON=python3.10"], "cannot be used: it has Python 3.10."),
        ({"3.13": "3.13"}, ["PYTHON=python4"], "PYTHON=python4 cannot be used."),
        ({"3.10": "3.10"}, [], "No Python found."),
    ],
    ids=["newest", "shim of a Python not chosen", "named", "too old", "not there", "none"],
)
def test_make_takes_the_newest_python_or_says_what_to_do(checkout, found, arguments, says):
    for name, version in found.items():
        python(checkout / "bin" / f"python{name}", version)
    said = make(checkout, "report", *arguments)
    assert says in said
    assert "-m venv" in says or ("-m venv" not in said and "make PYTHON=/path/to/python3.13" in said)


@pytest.mark.parametrize(
    "version, place, arguments, why",
    [
        ("3.12", None, [], None),
        ("3.12", None, ["PYTHON=python3.12"], None),
        ("3.12", "/elsewhere", [], "it was made in /elsewhere"),
        ("3.10", None, [], "it has Python 3.10"),
        ("", None, [], "its Python does not run"),
        ("3.12", None, ["PYTHON=python3.13"], "it has Python 3.12 and PYTHON=python3.13 is asked for"),
    ],
    ids=["fits", "is the one named", "copied or moved", "too old", "Python gone", "another is named"],
)
def test_make_replaces_a_venv_that_cannot_serve_and_says_why(checkout, version, place, arguments, why):
    for name in ("3.12", "3.13"):
        python(checkout / "bin" / f"python{name}", name)
    python(checkout / ".venv" / "bin" / "python", version)
    (checkout / ".venv" / "place").write_text(place or str(checkout.resolve()), encoding="utf-8")
    (checkout / ".venv" / "ready").touch()
    said = make(checkout, ".venv/ready", *arguments)
    assert (f"The present .venv is replaced: {why}." in said) == (why is not None)
    assert ("-m venv --clear .venv" in said) == (why is not None)


# --- the wheel ------------------------------------------------------------------


def test_the_wheel_finds_look_alikes_outside_a_checkout(tmp_path):
    """Built, unpacked and called from another folder: its page and its trained model are in it, the sample is not."""
    build = [
        sys.executable,
        "-m",
        "uv",
        "build",
        "--wheel",
        "--no-build-isolation",
        "--out-dir",
        str(tmp_path),
        str(ROOT),
    ]
    settings = tmp_path / "build.cfg"  # without it files of earlier wheels would be taken from build/lib
    settings.write_text(f"[build]\nbuild_base = {tmp_path / 'base'}\n", encoding="utf-8")
    subprocess.run(build, check=True, capture_output=True, env=os.environ | {"DIST_EXTRA_CONFIG": str(settings)})
    [wheel] = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "installed", "zip")
    (tmp_path / "pictures").mkdir()
    for i in range(5):
        (tmp_path / "pictures" / f"p{i}.jpg").write_bytes(encoded(picture(i)))

    def tll(*options):
        places = {"PYTHONPATH": str(tmp_path / "installed"), "TLL_CACHE": str(tmp_path / "cache"), "TLL_DATA": ""}
        command = [sys.executable, "-m", "tll_utils", *options]
        return subprocess.run(command, cwd=tmp_path, env=os.environ | places, capture_output=True, encoding="utf-8")

    shown = tll("look-alikes", "pictures", "--out", "found", "--quiet")
    assert shown.returncode == 0, shown.stderr
    table = (tmp_path / "found" / "look-alikes.csv").read_text(encoding="utf-8").splitlines()
    assert len(table) == 1 + 5 * 4 and (tmp_path / "found" / "index.html").is_file()
    refused = tll("report")
    assert refused.returncode and "needs a checkout" in refused.stderr and "Traceback" not in refused.stderr
