"""Runs every notebook in order and makes pages of them: `make report`, `make notebooks`."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import NoSuchKernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from scripts.figures import redraw_figures
from scripts.pages import PagesError, build_pages, require_sphinx
from tll_utils.data.dataset import data_source
from tll_utils.runtime import locked, prefetch, progress, project_root, write_text

CELL_TIMEOUT = None  # training cells on the real data take hours; no cell may run into a limit
STARTUP_TIMEOUT = 300  # seconds for a kernel to answer, which a busy machine with two cores may need
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class NotebookError(RuntimeError):
    """A notebook stopped; the text names notebook and cell."""


def notebook_paths() -> list[Path]:
    """The numbered notebooks, in order."""
    return sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def run_notebooks() -> Iterator[tuple[Path, nbformat.NotebookNode]]:
    """Every notebook with fresh outputs, in order: of the sample two at a time, whose cells keep one core busy each.

    Of the real images one by one: their trainings use all cores, and a failure must not wait for another notebook.
    """
    paths, workers = notebook_paths(), 2 if data_source()[1] == "sample" else 1
    return zip(paths, prefetch(run_notebook, paths, workers=workers, n_ahead=workers), strict=True)


def run_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs, run top to bottom in its own kernel.

    Raises NotebookError, naming notebook and cell, where a cell fails, the kernel dies in it or does not start.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        startup_timeout=STARTUP_TIMEOUT,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],  # its kernel warns of connections that stay on this machine
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    number, name = 0, f"of {len(notebook.cells)} in {path.name}"
    try:
        # A bar inside a notebook would be an output; this runner shows its own.
        with (
            client.setup_kernel(env=kernel_environment()),
            progress(iterable=notebook.cells, desc=path.stem, unit="cell") as cells,
        ):
            for number, cell in enumerate(cells, 1):
                client.execute_cell(cell, number - 1, execution_count=client.code_cells_executed + 1)
    except CellExecutionError as error:
        raise NotebookError(f"cell {number} {name} failed:\n{error}") from None
    except (NoSuchKernel, OSError, RuntimeError) as error:
        reason = "kernel died, perhaps for want of memory" if number else "kernel did not start"
        raise NotebookError(f"cell {number or 1} {name}: the {reason} ({error})") from error
    return notebook


def kernel_environment() -> dict[str, str]:
    """Without the user's start-up files of IPython and backend of Matplotlib, which would change the outputs."""
    return os.environ | {"TLL_PROGRESS": "0", "IPYTHONDIR": str(project_root() / "build" / "ipython"), "MPLBACKEND": ""}


def write_report(build: Path) -> Path:
    """The start page of the pages under `build`, made of notebooks that are run now; `figures/` is redrawn."""
    require_sphinx()
    build.mkdir(parents=True, exist_ok=True)
    redraw_figures()  # first, since the notebooks show them
    for path, notebook in run_notebooks():
        write_text(build / path.name, nbformat.writes(notebook) + "\n")
    return build_pages(build, build / "report")


def refresh_notebooks() -> None:
    """Run the notebooks and write their outputs into the committed files."""
    for path, notebook in run_notebooks():
        notebook.metadata = nbformat.from_dict(METADATA)
        write_text(path, nbformat.writes(notebook) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--in-place", action="store_true", help="refresh the committed outputs instead")
    arguments = parser.parse_args()
    started = time.time()
    build = project_root() / "build"
    try:
        with locked(build / "report"):
            if arguments.in_place:
                refresh_notebooks()
            else:
                print(write_report(build))
    except (NotebookError, PagesError) as error:
        sys.exit(str(error))
    print(f"done in {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
