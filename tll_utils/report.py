"""Runs every notebook in order and binds them into one page: `make report`, `make notebooks`."""

import argparse
import copy
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

from tll_utils.figures import redraw_figures
from tll_utils.runtime import progress, project_root

CELL_TIMEOUT = 3600  # seconds; training cells on the real data are long


class NotebookError(RuntimeError):
    """A notebook stopped; the text names notebook and cell."""


def notebook_paths() -> list[Path]:
    """The numbered notebooks, in order."""
    return sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def run_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs, run top to bottom in its own kernel.

    Raises NotebookError at the first failing cell, naming notebook, cell and error.
    """
    notebook = nbformat.read(path, as_version=4)
    code = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    bar = progress(total=len(code), desc=path.stem, unit="cell")
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_executed=lambda **_: bar.update(),
    )
    try:
        # A bar inside a notebook would be an output; this runner shows its own.
        client.execute(env={**os.environ, "TLL_PROGRESS": "0"})
    except CellExecutionError as error:
        index = next(i for i in code if _failed(notebook.cells[i]))
        raise NotebookError(f"{path.name}, cell {index + 1} of {len(notebook.cells)} failed:\n{error}") from None
    finally:
        bar.close()
    return notebook


def _failed(cell: nbformat.NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.outputs)


def bind(notebooks: list[nbformat.NotebookNode]) -> str:
    """One HTML page of all notebooks, one after the other."""
    book = copy.deepcopy(notebooks[0])
    book.cells = [cell for notebook in notebooks for cell in copy.deepcopy(notebook.cells)]
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number}"  # ids repeat between notebooks
    book.metadata["title"] = "Totally Looks Like: a course report"
    return HTMLExporter(embed_images=True).from_notebook_node(book)[0]


def write_report(build: Path) -> None:
    """Executed notebooks, the run's plots and `report.html` under `build`, and `figures/` redrawn."""
    build.mkdir(parents=True, exist_ok=True)
    redraw_figures()  # first, since the notebooks show them
    notebooks = []
    for path in notebook_paths():
        notebooks.append(run_notebook(path))
        nbformat.write(notebooks[-1], build / path.name)
    (build / "report.html").write_text(bind(notebooks))


def refresh_notebooks() -> None:
    """Run the notebooks and write their outputs into the committed files."""
    for path in notebook_paths():
        notebook = run_notebook(path)
        notebook.metadata = nbformat.from_dict(
            {
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python"},
            }
        )
        nbformat.write(notebook, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--in-place", action="store_true", help="refresh the committed outputs instead")
    arguments = parser.parse_args()
    started = time.time()
    try:
        if arguments.in_place:
            refresh_notebooks()
        else:
            write_report(project_root() / "build")
    except NotebookError as error:
        sys.exit(str(error))
    print(f"done in {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
