"""What nbval does not see: that the committed notebooks are executed, clean, and of one shape."""

import re
from types import SimpleNamespace

import ipywidgets
import nbformat
import pytest

from scripts.build_report import notebook_paths

NOTEBOOKS = {path.name: nbformat.read(path, as_version=4) for path in notebook_paths()}
REPORT = max(NOTEBOOKS)  # shows the results of the others
pytestmark = pytest.mark.parametrize("name", NOTEBOOKS)


def code_cells(name):
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code" and not is_for_readers(cell)]


def is_for_readers(cell):
    """Widgets, that is: nbclient, which answers them, can miss the cell's end and then waits for ever."""
    return {"skip-execution", "nbval-skip"} <= set(cell.metadata.get("tags", []))


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


def test_no_widget_is_shown_where_nobody_can_use_it(name):
    outputs = [output for cell in code_cells(name) for output in cell.outputs]
    assert not any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs)


def test_a_cell_for_readers_shows_what_they_choose(name):
    shown, explorers = [], []

    def explore(method, left):
        shown.append((method, left))

    def interact(*arguments, **choices):
        explorers.append(ipywidgets.interactive(*arguments, **choices))

    train = SimpleNamespace(left=SimpleNamespace(ids=["a", "b"]))
    for cell in filter(is_for_readers, NOTEBOOKS[name].cells):
        exec(cell.source, {"METHODS_SHOWN": ["hog"], "train": train, "explore": explore, "interact": interact})
    for explorer in explorers:
        explorer.children[1].value = "b"
    assert shown == [("hog", "a"), ("hog", "b")] * len(explorers)


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
