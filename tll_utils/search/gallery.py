"""Look-alikes → a folder with one page to look at, a table, and thumbnails; no server, nothing from outside."""

import json
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import pandas as pd

from tll_utils.data.images import Images
from tll_utils.runtime import atomic_folder, prefetch
from tll_utils.search.pictures import PAGE_MARK

CONTENTS = {PAGE_MARK, "index.html", "thumbnails"}
OTHER_COLUMNS = ("query", "rank", "picture", "score", "also")


def write_page(
    table: pd.DataFrame,
    queries: Images,
    gallery: Images,
    unreadable: pd.DataFrame,
    folder: Path,
    *,
    title: str,
    model_text: str,
) -> Path:
    """Write look-alikes.csv, index.html and thumbnails/ into a folder; the path of index.html.

    table: that of `look_alikes`; queries, gallery: as given to it, with files of JPEG such as `collect` makes;
    unreadable: columns file, problem. The folder appears whole and replaces an older page; raises ValueError, and
    leaves it alone, where it holds anything else.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or not {path.name for path in folder.iterdir()} <= CONTENTS):
        raise ValueError(f"{folder} holds something other than a page of look-alikes: name another folder for the page")
    with atomic_folder(folder) as page:
        (page / "thumbnails").mkdir()
        data = _data(table, queries, gallery, page / "thumbnails")
        texts = {"title": escape(title), "model": escape(model_text), "unreadable": _unreadable(unreadable)}
        template = Template(files("tll_utils.search").joinpath("gallery.html").read_text(encoding="utf-8"))
        (page / "index.html").write_text(template.substitute(texts, data=_json(data)), encoding="utf-8")
        (page / PAGE_MARK).write_text(table.to_csv(index=False, lineterminator="\n"), encoding="utf-8", newline="\n")
    return folder / "index.html"


def _data(table: pd.DataFrame, queries: Images, gallery: Images, folder: Path) -> dict:
    """What the page shows: names of parts, pictures [name, thumbnail], and for every query [picture, results].

    A picture is named by its place in the list. A result is [picture, score, parts, also].
    """
    parts = [column for column in table if column not in OTHER_COLUMNS]
    found = gallery.take(pd.Index(gallery.ids).isin(table["picture"]))
    place = {name: len(queries) + row for row, name in enumerate(found.ids)}
    results: dict[str, list] = {name: [] for name in queries.ids}
    values = table[parts].astype(float).round(4).to_numpy().tolist()
    columns = (table["query"], table["picture"], table["score"].astype(float).round(4), values, table["also"])
    for query, picture, *shown in zip(*columns, strict=True):
        results[query].append([place[picture], *shown])
    pictures = [*_thumbnails(queries, folder), *_thumbnails(found, folder)]
    return {"parts": parts, "pictures": pictures, "queries": list(enumerate(results.values()))}


def _thumbnails(images: Images, folder: Path) -> list[tuple[str, str]]:
    """Name and thumbnail file of every image; equal contents share a file."""

    def write(row: int) -> tuple[str, str]:
        content = images.read_bytes(row)
        name = f"{sha256(content).hexdigest()[:20]}.jpg"
        (folder / name).write_bytes(content)
        return images.ids[row], name

    return list(prefetch(write, range(len(images))))


def _unreadable(unreadable: pd.DataFrame) -> str:
    """A folded list, or nothing where all could be read."""
    if unreadable.empty:
        return ""
    rows = "".join(
        f"<li><b>{escape(file)}</b>: {escape(problem)}</li>"
        for file, problem in unreadable[["file", "problem"]].itertuples(index=False)
    )
    return f"<details><summary>Unreadable files: {len(unreadable)}</summary><ul>{rows}</ul></details>"


def _json(data: dict) -> str:
    """JSON that cannot end the script element it stands in, whatever the file names."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
