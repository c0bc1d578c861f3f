"""The report as pages with contents and search: notebooks, figures, glossary, API and cards, built by Sphinx.

`make report` builds them of the notebooks it has just run; `python -m scripts.pages` of the committed ones.
"""

import argparse
import json
import re
import shutil
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from string import Template

import nbformat
import pandas as pd

from scripts import api
from scripts.paper import abstract
from scripts.recording import readme_table
from tll_utils.report.results import results_dir
from tll_utils.runtime import build_dir, project_root, read_json, write_text

Notebooks = dict[str, nbformat.NotebookNode]  # by the names of their files

SOURCE = re.compile(r"\]\(\.\./((?:tll_utils|scripts)/[\w/]+\.py)\)")
SHOWN = re.compile(r"!\[([^\]]*)\]\(\.\./figures/(\w+)\.png\)")


class PagesError(RuntimeError):
    """Sphinx stopped or warned; the text has its words."""


def build_pages(notebooks: Path, out: Path) -> Path:
    """Path of the start page; the pages are built into `out` of the executed notebooks in a folder.

    Raises PagesError with Sphinx's warnings where there are any (a link that leads nowhere is one); the former pages
    then stay, and what Sphinx read and wrote lies in `<out>-failed`.
    """
    require_sphinx()
    from sphinx.cmd.build import build_main

    work = out.with_name(f"{out.name}-failed")
    shutil.rmtree(work, ignore_errors=True)
    write_sources(notebooks, work / "sources")
    warnings = work / "warnings.txt"
    options = ["-q", "-W", "--keep-going", "-w", str(warnings), "-d", str(work / "doctrees")]
    if build_main(["-b", "html", *options, str(work / "sources"), str(work / "pages")]):
        raise PagesError(f"the pages have faults:\n{warnings.read_text(encoding='utf-8')}")
    shutil.rmtree(out, ignore_errors=True)
    (work / "pages").rename(out)
    shutil.rmtree(work)
    return out / "index.html"


def require_sphinx() -> None:
    """Raises PagesError where the packages are missing that make pages."""
    if missing := [name for name in ("sphinx", "myst_nb", "furo") if find_spec(name) is None]:
        raise PagesError(
            f"not installed: {', '.join(missing)}; the pages need the extra `docs`: pip install -e '.[docs]'"
        )


def write_sources(notebooks: Path, folder: Path) -> None:
    """What Sphinx reads: docs/ with its $parts filled in; notebooks, figures and data in the places of the checkout."""
    root = project_root()
    shutil.copytree(root / "docs", folder, ignore=shutil.ignore_patterns("__pycache__", "paper"))
    for page in folder.glob("*.md"):  # what lies beside docs/ in the checkout lies in the same folder here
        write_text(page, on_pages(page.read_text(encoding="utf-8")))
    for name in ("figures", "data/results"):
        shutil.copytree(root / name, folder / name)
    shutil.copy(root / "data" / "README.md", folder / "data")
    read = {path.name: nbformat.read(path, 4) for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))}
    (folder / "notebooks").mkdir()
    for name, notebook in read.items():
        nbformat.write(with_links(notebook), folder / "notebooks" / name)
    for page, text in parts(read).items():
        path = folder / page
        template = path.read_text(encoding="utf-8") if path.exists() else "$body"
        write_text(path, Template(template).substitute(text))


def parts(notebooks: Notebooks) -> dict[str, dict[str, str]]:
    """Page → what its text in docs/ leaves open; of pages that have no text there, the whole: "body"."""
    pages = {
        "index.md": {"abstract": abstract(), "results": readme_table()},
        "figures.md": {"figures": figures(notebooks)},
        "glossary.md": {"glossary": glossary(notebooks)},
        "cards.md": {"cards": cards()},
        "speed.md": speed(),
        "contributing.md": {"body": on_pages((project_root() / "CONTRIBUTING.md").read_text(encoding="utf-8"))},
        "api/index.md": {"names": api.public_names()},
    }
    for room, files in api.rooms().items():
        pages[f"api/{room}.md"] = {"body": api.room_page(room, files)}
        pages |= {f"source/{api.name_of(file)}.md": {"body": api.source_page(file)} for file in files}
    return pages


def speed() -> dict[str, str]:
    """The recorded run of the bench, its tables in Markdown."""
    content = read_json(results_dir() / "bench.json")
    tables = {name: pd.DataFrame(content[name]).astype(object) for name in ("ratios", "growth")}
    return {
        "machine": content["environment"]["hardware"],
        "recorded_at": content["recorded_at"][:10],
        "commit": content["commit"][:12],
        **{name: markdown_table(table.where(table.notna(), "")) for name, table in tables.items()},
    }


def markdown_table(table: pd.DataFrame) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def cards() -> str:
    """The template of a model card, and the cards of the models that come with the package."""
    folder = project_root() / "tll_utils" / "search"
    texts = {"Template": folder / "model_card.md"} | {path.parent.name: path for path in folder.glob("*/README.md")}
    shown = (f"## {name}\n\n``````markdown\n{path.read_text(encoding='utf-8')}``````" for name, path in texts.items())
    return "\n\n".join(shown)


# --- notebooks ------------------------------------------------------------------


def on_pages(text: str) -> str:
    """The text of docs/ with its links turned into links to pages."""
    return SOURCE.sub(r"](source/\1.md)", text).replace("](../", "](")


def with_links(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with links to source files and folders turned into links to the pages that show them."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = SOURCE.sub(r"](../source/\1.md)", cell.source)
            cell.source = text.replace("](../data/results)", "](../data/README.md#results)")
    return notebook


def figures(notebooks: Notebooks) -> str:
    """Every figure of the manifest, with the caption and the notebook that first shows it, its data and sources."""
    shown = {}
    for name, notebook in notebooks.items():
        for caption, figure in SHOWN.findall("\n".join(cell.source for cell in notebook.cells)):
            shown.setdefault(figure, (caption, f"Told in [notebook {name[:2]}](notebooks/{name}). "))
    manifest = json.loads((project_root() / "figures" / "manifest.json").read_text(encoding="utf-8"))
    texts = []
    for name, entry in manifest.items():
        caption, told = shown.get(name, (name.replace("_", " "), ""))
        texts.append(_figure(name, caption, told, list(entry["sources"])))
    return "\n\n".join(texts)


def _figure(name: str, caption: str, told: str, sources: list[str]) -> str:
    drawn = ", ".join(f"[{source}](data/results/{source})" for source in sources)
    made = f" Drawn from {drawn}." if drawn else ""
    data = f"As [SVG](figures/{name}.svg); its data: [{name}.csv](figures/{name}.csv)."
    return f"## {caption[0].upper()}{caption[1:]}\n\n![{caption}](figures/{name}.png)\n\n{told}{data}{made}"


def glossary(notebooks: Notebooks) -> str:
    """The glossary's table of the notebooks as definitions that other pages can point to."""
    cells = [cell.source for notebook in notebooks.values() for cell in notebook.cells]
    [table] = [source for source in cells if re.search(r"^## Glossary$", source, re.MULTILINE)]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE)[1:]
    return "\n\n".join(f"{term}\n    {meaning}" for term, meaning in rows)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=build_dir() / "report", help="default: build/report")
    arguments, started = parser.parse_args(), time.time()
    try:
        print(build_pages(project_root() / "notebooks", arguments.out), f"in {time.time() - started:.0f} s")
    except PagesError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
