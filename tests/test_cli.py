"""The command line: every command runs as its help says, and bad input is one line."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from conftest import encoded, picture
from tll_utils import cli
from tll_utils.methods.base import Calibrated
from tll_utils.methods.registry import get_method
from tll_utils.runtime import project_root
from tll_utils.search import commands

COMMANDS = ("report", "test", "submit", "reproduce", "look-alikes", "embed", "fit", "evaluate", "convert", "bench")
COMMANDS += ("clean",)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The current folder; what is made lies in `build` beside it. Variables that options set are put back."""
    for variable in ("TLL_DATA", "TLL_CACHE", "TLL_ENGINE", "TLL_PRECISION", "METHOD", "ONLY"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("TLL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLL_PROGRESS", "0")
    monkeypatch.setattr("tll_utils.runtime.build_dir", lambda: tmp_path / "build")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def submit(tiny, place):
    def run(*options):
        cli.main(["submit", "--data", str(tiny), *options])
        return pd.read_csv(place / "build" / "submission.csv", encoding="utf-8")

    return run


@pytest.fixture
def pictures(place):
    """Twelve pictures, p0.jpg to p11.jpg."""
    folder = place / "pictures"
    folder.mkdir()
    for i in range(12):
        (folder / f"p{i}.jpg").write_bytes(encoded(picture(i)))
    return folder


@pytest.mark.parametrize("encoding", ["cp1252", "ascii:strict"])
def test_a_name_that_the_terminal_cannot_show_does_not_end_the_run(encoding, place):
    """Windows gives a pipe cp1252; the scripts that a command starts write paths too."""
    (place / "日本").mkdir()
    run = subprocess.run(
        [sys.executable, "-m", "tll_utils", "clean", "--cache", "日本"],
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(project_root())},
        capture_output=True,
    )
    assert run.returncode == 0 and rb"\u65e5\u672c" in run.stdout and not (place / "日本").exists()


@pytest.mark.parametrize(("encoding", "expected"), [("cp1252", "cp1252"), ("ascii:strict", "ascii"), ("", "")])
def test_scripts_escape_such_names_too(encoding, expected, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    started = []
    monkeypatch.setattr(subprocess, "run", lambda *_, env, **__: started.append(env) or SimpleNamespace(returncode=0))
    cli.main(["bench"])
    assert [env["PYTHONIOENCODING"] for env in started] == [f"{expected}:backslashreplace"]


# --- help -----------------------------------------------------------------------


def help_of(*options: str, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*options, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_command_with_a_sentence(capsys):
    text = " ".join(help_of(capsys=capsys).split())
    for command in COMMANDS:
        assert re.search(rf"\b{command} [A-Z]", text), command


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_a_command_can_be_called(command, capsys):
    text = " ".join(help_of(command, capsys=capsys).split())
    example = re.search(r"example: tll (\S.*)$", text)[1].split()
    assert example[0] == command
    assert callable(cli._parser().parse_args(example).run)


def test_python_m_runs_it_without_tensorflow():
    """The help appears at once: nothing slow is imported for it."""
    code = "import sys, tll_utils.cli\nassert not {'tensorflow', 'pandas', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=project_root())
    shown = subprocess.run([sys.executable, "-m", "tll_utils", "--help"], capture_output=True, cwd=project_root())
    assert shown.returncode == 0 and b"look-alikes" in shown.stdout


# --- submissions ----------------------------------------------------------------


def test_submission_of_a_folder_of_six_pairs_and_three_queries(submit, monkeypatch):
    """Decoded one-to-one where the method is a calibrated one: other scores than its own."""
    together = Calibrated(get_method("file_size"))
    monkeypatch.setattr(cli, "registered", lambda name: together if name == "together" else get_method(name))
    alone, decoded = (submit("--method", method) for method in ("file_size", "together"))
    assert list(alone.left) == list(decoded.left) == ["q0", "q1", "q2"]
    assert alone.iloc[:, 1:].nunique(axis=1).min() > 1
    assert not np.allclose(alone.iloc[:, 1:], decoded.iloc[:, 1:])


def test_a_candidate_that_is_the_left_image_itself_scores_best(submit, tiny, monkeypatch):
    """Candidate c5 of every query is made the same picture as its left image. The option wins over the variable."""
    for i in range(3):
        shutil.copy(tiny / f"test/left/q{i}.jpg", tiny / f"test/right/g{i + 5}.jpg")
    monkeypatch.setenv("METHOD", "border_geometry")
    scores = submit("--method", "tiny_image").set_index("left")
    assert list(scores.columns[scores.to_numpy().argmax(axis=1)]) == ["c5", "c5", "c5"]


def test_the_accuracy_is_said_where_the_truth_is_known(submit, tiny, capsys):
    """The truth of each query is its c5, the very picture: top-2 accuracy is 1."""
    for i in range(3):
        shutil.copy(tiny / f"test/left/q{i}.jpg", tiny / f"test/right/g{i + 5}.jpg")
    (tiny / "test_truth.csv").write_text("left,right\nq0,g5\nq1,g6\nq2,g7\n", encoding="utf-8")
    submit("--method", "tiny_image")
    assert "top-2 accuracy on the known truth: 1.000" in capsys.readouterr().out


def test_a_saved_model_submits_the_same_scores_without_training(submit, tiny, place, monkeypatch):
    cli.main(["fit", "--data", str(tiny), "--method", "lab_histogram", "--save", "model"])
    fitted = submit("--method", "lab_histogram")
    monkeypatch.setattr("tll_utils.methods.base.Similarity.fit", None)
    pd.testing.assert_frame_equal(submit("--model", "model"), fitted)


@pytest.mark.parametrize(
    ("options", "expected"), [((), "auto"), (("--precision", "float32"), "float32"), (("--model", "model"), "")]
)
def test_networks_may_compute_in_bfloat16_unless_told_otherwise(submit, tiny, place, monkeypatch, options, expected):
    """A saved model is scored as it was trained."""
    cli.main(["fit", "--data", str(tiny), "--method", "tiny_image", "--save", str(place / "model")])
    seen = []
    monkeypatch.setattr(
        "tll_utils.report.submission.candidate_scores",
        lambda dataset, method: seen.append(os.environ["TLL_PRECISION"]) or np.zeros(dataset.test.candidates.shape),
    )
    submit(*options, *([] if "--model" in options else ["--method", "tiny_image"]))
    assert seen == [expected]


def test_methods_are_named_where_one_is_unknown(submit):
    with pytest.raises(SystemExit, match=r"tll: unknown method 'clip'; known: .*lite_pair"):
        submit("--method", "clip")


def test_what_is_wrong_with_the_data_is_said_and_nothing_written(submit, tiny, place):
    (tiny / "test/left/q1.jpg").unlink()
    with pytest.raises(SystemExit, match="q1"):
        submit()
    assert not (place / "build").exists()


# --- own pictures ---------------------------------------------------------------


def test_look_alikes_of_a_folder_become_a_page(pictures, place, capsys):
    """Three look-alikes of each of twelve pictures, never the picture itself; an unreadable file is listed."""
    (pictures / "broken.png").write_bytes(b"")
    cli.main(["look-alikes", "pictures", "--model", "lab_histogram", "--top", "3", "--data", str(sample_data())])
    out, err = capsys.readouterr()
    table = pd.read_csv("look-alikes/look-alikes.csv", encoding="utf-8")
    assert len(table) == 36 and (table["query"] != table["picture"]).all() and "broken.png" in err
    assert "12 pictures answered from 12" in out and (place / "look-alikes" / "index.html").exists()


def test_one_picture_is_looked_up_in_a_folder(pictures, place):
    """A copy of p3 finds p3 first when near-duplicates are kept, and never when they are not."""
    shutil.copy(pictures / "p3.jpg", place / "mine.jpg")
    options = ["--query", "mine.jpg", "--model", "tiny_image", "--out", "found", "--data", str(sample_data())]
    cli.main(["look-alikes", "pictures", *options, "--keep-near-duplicates"])
    assert pd.read_csv("found/look-alikes.csv", encoding="utf-8").iloc[0][["query", "picture"]].tolist() == [
        "mine.jpg",
        "p3.jpg",
    ]
    cli.main(["look-alikes", "pictures", *options])
    assert "p3.jpg" not in set(pd.read_csv("found/look-alikes.csv", encoding="utf-8")["picture"])


def test_embed_passes_its_options_on_and_says_what_was_done(monkeypatch, capsys):
    """What is named by a URL is not taken for a path."""
    given = []
    monkeypatch.setattr(
        "tll_utils.search.cluster.embed_pictures",
        lambda *places, **options: given.append((places, options)) or (2, 3, 1),
    )
    cli.main(["embed", "s3://all", "--out", "gs://rows", "--side", "left", "--cluster", "head:6379", "--workers", "4"])
    [((source, out, model), options)] = given
    assert (source, out, model.name) == ("s3://all", "gs://rows", commands.SHIPPED)
    assert options == {"side": "left", "faces": False, "cluster": "head:6379", "workers": 4}
    assert capsys.readouterr().out == "gs://rows: 2 rows there before, 3 added, 1 of them without an embedding\n"


def test_an_index_is_made_then_grows_and_answers_a_query(pictures, place, capsys):
    """The copy of p3 finds p3 first, then a picture that came later."""
    pytest.importorskip("faiss")
    shutil.copy(pictures / "p3.jpg", place / "mine.jpg")
    options = ["--query", "mine.jpg", "--index", "index", "--out", "found", "--top", "2"]
    cli.main(["look-alikes", "pictures", *options])
    first = pd.read_csv("found/look-alikes.csv", encoding="utf-8")
    (pictures / "new.jpg").write_bytes(encoded(np.maximum(picture(3), 4) - np.uint8(4)))
    cli.main(["look-alikes", "pictures", *options])
    then = pd.read_csv("found/look-alikes.csv", encoding="utf-8")
    assert first["picture"][0] == "p3.jpg" != first["picture"][1] and then["picture"].tolist() == ["p3.jpg", "new.jpg"]
    assert "1 pictures answered from 13" in capsys.readouterr().out and (place / "index" / "index.faiss").is_file()
    assert "each shown" in (place / "found" / "index.html").read_text(encoding="utf-8")


def test_an_index_refuses_a_method_whose_scores_it_cannot_hold(pictures):
    with pytest.raises(SystemExit, match=r"tll: the scores of Similarity are no inner products: choose") as stopped:
        cli.main(["look-alikes", "pictures", "--index", "index", "--model", "tiny_image", "--data", str(sample_data())])
    assert "\n" not in str(stopped.value.code)


def test_fit_on_own_pairs_then_evaluate_on_own_lists(pictures, place, capsys):
    """Rights are their lefts, brighter: the lists are solved, and the table says so for each."""
    for i in range(12):
        (pictures / f"bright{i}.jpg").write_bytes(encoded(np.minimum(picture(i) + np.uint8(5), 255)))
    Path("pairs.csv").write_text("left,right\n" + "".join(f"p{i},bright{i}\n" for i in range(12)), encoding="utf-8")
    Path("lists.csv").write_text(
        "left,right,a,b,c\np0,bright0,bright0,bright1,bright2\np1,bright1,bright3,bright1,\n", encoding="utf-8"
    )
    cli.main(["fit", "pairs.csv", "pictures", "--method", "tiny_image", "--save", "mine", "--half"])
    options = ["pictures", "--model", "mine", "--top", "1"]
    cli.main(["evaluate", "lists.csv", *options, "--out", "result.csv"])
    assert "top-1 1.000" in (out := capsys.readouterr().out) and "chance 0.417" in out  # (1/3 + 1/2) / 2
    assert pd.read_csv("result.csv", encoding="utf-8").to_dict("list") == {
        "left": ["p0.jpg", "p1.jpg"],
        "candidates": [3, 2],
        "top1": [1.0, 1.0],
    }
    cli.main(["evaluate", "pairs.csv", *options, "--pairs"])
    assert "chance 0.083, 12 lefts" in capsys.readouterr().out


def test_evaluate_wants_a_truth(tiny):
    with pytest.raises(SystemExit, match="truth of this data set is not published"):
        cli.main(["evaluate", "--data", str(tiny), "--model", "file_size"])


def test_a_table_without_its_pictures_is_an_error_of_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["fit", "pairs.csv"])
    assert stopped.value.code == 2 and "name the folder or zip of the pictures" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["nowhere", "empty"])
def test_a_folder_without_pictures_is_one_line(source, place):
    (place / "empty").mkdir()
    with pytest.raises(SystemExit, match=rf"tll: .*{source}.*") as stopped:
        cli.main(["look-alikes", source, "--model", "file_size", "--data", str(sample_data())])
    assert "\n" not in str(stopped.value.code)


# --- the checkout and what is made ----------------------------------------------


def test_clean_deletes_the_cache_and_with_all_what_was_made(place):
    for folder in ("cache/embeddings", "build/models"):
        (place / folder).mkdir(parents=True)
    cli.main(["clean"])
    assert not (place / "cache").exists() and (place / "build" / "models").exists()
    cli.main(["clean", "--all"])
    assert not (place / "build").exists()


@pytest.mark.parametrize("command", ["report", "reproduce", "bench", "convert"])
def test_outside_a_checkout_its_commands_say_so(command, place, monkeypatch):
    monkeypatch.setattr("tll_utils.runtime.project_root", lambda: place)
    with pytest.raises(SystemExit, match="needs a checkout"):
        cli.main([command, *["left.zip", "right.zip", "out"] * (command == "convert")])


def sample_data():
    return project_root() / "data" / "sample"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_place_that_cannot_be_written_is_named_with_the_remedy(code, monkeypatch):
    def refused(_):
        raise OSError(code, os.strerror(code), "build/cache")

    refused.__name__ = "submit"
    monkeypatch.setattr(cli, "submit", refused)
    with pytest.raises(SystemExit, match=r"tll: \[Errno \d+\] .*: 'build/cache' — .*TLL_CACHE"):
        cli.main(["submit"])
