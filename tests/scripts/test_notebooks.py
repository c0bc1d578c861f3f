"""What nbval does not see: that the committed notebooks are executed, clean, and of one shape."""

import re

import nbformat
import pytest

from scripts.build_report import notebook_paths

NOTEBOOKS = {path.name: nbformat.read(path, as_version=4) for path in notebook_paths()}
REPORT = max(NOTEBOOKS)  # shows the results of the others
pytestmark = pytest.mark.parametrize("name", NOTEBOOKS)


def code_cells(name):
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]


def prose(name):
    return "\n".join(cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "markdown")


def test_executed_top_to_bottom(name):
    """nbval never compares a cell without an execution count."""
    counts = [cell.execution_count for cell in code_cells(name)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_errors_and_nothing_on_stderr(name):
    for cell in code_cells(name):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"


def test_outputs_come_from_the_sample(name):
    shown = [output.get("text", "") for cell in code_cells(name) for output in cell.outputs]
    sources = [line for text in shown for line in text.splitlines() if line.startswith("data set:")]
    assert all("(data/sample)" in line for line in sources)


def test_has_title_question_expectation_and_parameters(name):
    cells = NOTEBOOKS[name].cells
    assert cells[0].source.startswith(f"# {name[:2]} · ") and "**Question.**" in cells[0].source
    assert "**What to expect.**" in cells[1].source
    tagged = [cell for cell in code_cells(name) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == (0 if name == REPORT else 1)


def test_ends_with_the_real_data_and_what_was_learnt(name):
    if name != REPORT:
        assert "## On TLL" in prose(name) and "## What we learnt" in prose(name)


def test_holds_no_path_of_a_machine(name):
    assert not re.search(r"/(home|root|Users|tmp|site-packages)/", nbformat.writes(NOTEBOOKS[name]))
