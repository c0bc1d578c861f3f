"""The notebook runner: order, the failing cell by name, and the bound page."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tll_utils import report


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TLL_PROGRESS", "0")


def write_notebook(path, *sources):
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), *map(new_code_cell, sources)]), path)
    return path


def test_a_failing_cell_is_named_and_stops_the_notebook(tmp_path):
    """Cells: title, ok, failing, never reached. The failing one is the third of four."""
    path = write_notebook(tmp_path / "05_broken.ipynb", "x = 1", "x / 0", "open('reached', 'w')")
    with pytest.raises(report.NotebookError, match=r"05_broken.ipynb, cell 3 of 4 failed(.|\n)*ZeroDivisionError"):
        report.run_notebook(path)
    assert not (tmp_path / "reached").exists()


def test_outputs_are_fresh_and_the_file_is_left_alone(tmp_path):
    path = write_notebook(tmp_path / "01_fine.ipynb", "print(6 * 7)")
    before = path.read_bytes()
    executed = report.run_notebook(path)
    assert executed.cells[1].outputs[0].text == "42\n"
    assert path.read_bytes() == before


def test_bound_page_holds_all_notebooks_in_order():
    page = report.bind([new_notebook(cells=[new_markdown_cell(f"# Part {name}")]) for name in ("one", "two")])
    assert 0 < page.index("Part one") < page.index("Part two")


def test_numbered_notebooks_are_found_in_order():
    names = [path.name for path in report.notebook_paths()]
    assert names == sorted(names)
    assert names[0].startswith("00_") and names[-1] == "09_report.ipynb"
