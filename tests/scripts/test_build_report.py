"""The notebook runner: what stops it is named, outputs are fresh, files of the checkout are left alone."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from scripts import build_report


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TLL_PROGRESS", "0")


def write_notebook(path, *sources):
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), *map(new_code_cell, sources)]), path)
    return path


def test_a_failing_cell_is_named_and_stops_the_notebook(tmp_path):
    """Cells: title, ok, failing, never reached. The failing one is the third of four."""
    path = write_notebook(tmp_path / "05_broken.ipynb", "x = 1", "x / 0", "open('reached', 'w')")
    with pytest.raises(build_report.NotebookError, match=r"cell 3 of 4 in 05_broken\.ipynb failed(.|\n)*ZeroDivision"):
        build_report.run_notebook(path)
    assert not (tmp_path / "reached").exists()


def test_the_cell_in_which_the_kernel_dies_is_named(tmp_path):
    path = write_notebook(tmp_path / "05_broken.ipynb", "x = 1", "import os; os._exit(1)", "x")
    with pytest.raises(build_report.NotebookError, match=r"cell 3 of 4 in 05_broken\.ipynb: the kernel died"):
        build_report.run_notebook(path)


@pytest.mark.parametrize("program", ["false", "no-such-program"])
def test_a_kernel_that_does_not_start_is_named(tmp_path, monkeypatch, program):
    """A kernel specification in JUPYTER_PATH goes before the installed one of the same name."""
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(
        json.dumps({"argv": [program], "display_name": "", "language": "python"}), encoding="utf-8"
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    path = write_notebook(tmp_path / "05_fine.ipynb", "x = 1")
    with pytest.raises(build_report.NotebookError, match=r"cell 1 of 2 in 05_fine\.ipynb: the kernel did not start"):
        build_report.run_notebook(path)


def test_outputs_are_fresh_and_the_file_is_left_alone(tmp_path):
    path = write_notebook(tmp_path / "01_fine.ipynb", "print(6 * 7)", "6 * 7")
    before = path.read_bytes()
    executed = build_report.run_notebook(path)
    assert executed.cells[1].outputs[0].text == "42\n"
    assert [cell.execution_count for cell in executed.cells[1:]] == [1, 2]
    assert path.read_bytes() == before


def test_committed_files_get_outputs_and_plain_metadata(tmp_path, monkeypatch):
    path = write_notebook(tmp_path / "01_fine.ipynb", "print(6 * 7)")
    monkeypatch.setattr(build_report, "notebook_paths", lambda: [path])
    build_report.refresh_notebooks()
    written = nbformat.read(path, as_version=4)
    assert written.cells[1].outputs[0].text == "42\n"
    assert written.metadata == build_report.METADATA


def test_without_sphinx_no_notebook_is_run(tmp_path, monkeypatch):
    """Hours of notebooks on the real images are not spent before the missing package is named."""
    monkeypatch.setattr("scripts.pages.find_spec", lambda name: None)
    with pytest.raises(build_report.PagesError, match=r"sphinx.*pip install"):
        build_report.write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_notebooks_are_numbered_and_end_with_the_report():
    names = [path.name for path in build_report.notebook_paths()]
    assert [name[:3] for name in names] == [f"{number:02}_" for number in range(len(names))]
    assert len(names) >= 10 and names[-1].endswith("_report.ipynb")


def test_a_users_settings_do_not_reach_the_notebooks(tmp_path, monkeypatch):
    """Start-up files of IPython, such as pandas options, and a backend of Matplotlib that needs a window."""
    startup = tmp_path / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-mine.py").write_text("import pandas; pandas.options.display.max_rows = 1", encoding="utf-8")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "tkagg")
    source = "import matplotlib.pyplot as plt, pandas\nprint(plt.get_backend(), pandas.options.display.max_rows)"
    executed = build_report.run_notebook(write_notebook(tmp_path / "05_style.ipynb", source))
    assert executed.cells[1].outputs[0].text.endswith("inline 60\n")
