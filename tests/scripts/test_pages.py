"""The built pages and the paper: links lead somewhere, pages are light, numbers are the recorded ones."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from scripts import api, pages, paper
from tll_utils.evaluation.statistics import paired_test
from tll_utils.methods.registry import get_entry
from tll_utils.report.results import load_per_left, load_results, results_dir
from tll_utils.runtime import project_root, write_text

pytestmark = pytest.mark.filterwarnings("ignore:.*MystReferenceResolver")  # MyST's own use of Sphinx
MOST_BYTES = 1_500_000  # of a page without its pictures


def skip_without_sphinx() -> None:
    try:
        pages.require_sphinx()
    except pages.PagesError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """The pages of the committed notebooks, built once."""
    skip_without_sphinx()
    return pages.build_pages(project_root() / "notebooks", tmp_path_factory.mktemp("build") / "report").parent


class Page(HTMLParser):
    """What a page points to, and what can be pointed to in it."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.ids = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.links.add(value)


def broken(folder: Path) -> Iterator[str]:
    """Links of the pages in a folder to files or places that are not there; links to the web are not followed."""
    found = {path.resolve(): Page(path) for path in folder.rglob("*.html")}
    for path, page in found.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (target in found and anchor and anchor not in found[target].ids):
                yield f"{path.relative_to(folder.resolve())}: {link}"


# --- pages ----------------------------------------------------------------------


def test_all_local_links_of_the_pages_lead_somewhere(built):
    assert list(broken(built)) == []


def test_the_search_for_broken_links_finds_them(tmp_path):
    links = '<a href="b.html#there"> <a href="b.html#not"> <img src="c.png"> <a href="https://x.y">'
    write_text(tmp_path / "a.html", links)
    write_text(tmp_path / "b.html", '<p id="there">')
    assert sorted(broken(tmp_path)) == ["a.html: b.html#not", "a.html: c.png"]


def test_nothing_but_the_pages_is_left_behind(built):
    assert [path.name for path in built.parent.iterdir()] == ["report"]


def test_pages_are_light_and_hold_no_pictures(built):
    for path in built.rglob("*.html"):
        assert path.stat().st_size <= MOST_BYTES, path
        assert "data:image" not in path.read_text(encoding="utf-8"), path


def test_every_notebook_has_a_page_with_its_pictures(built):
    for path in (project_root() / "notebooks").glob("[0-9]*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        pictures = sum("image/jpeg" in output.get("data", {}) for output in outputs)
        page = (built / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert page.count("<img") >= pictures > 0 or not pictures, path.name


def test_pages_need_no_network(built):
    """Formulas and search work offline: no script and no style is fetched from elsewhere."""
    for path in built.rglob("*.html"):
        assert not re.search(r'<(script|link)[^>]+(src|href)="(https?:)?//', path.read_text(encoding="utf-8")), path
    assert "<math" in (built / "notebooks" / "00_dataset_and_protocol.html").read_text(encoding="utf-8")


def test_start_page_has_abstract_and_results(built):
    text = (built / "index.html").read_text(encoding="utf-8")
    best = load_results("adapters")["methods"]
    accuracy = next(row["expected_top2"] for row in best if row["name"] == get_entry("best").title)
    assert text.count(f"{accuracy:.3f}") >= 2  # in the abstract and in the table


def test_glossary_is_that_of_the_notebook(built):
    text = (built / "glossary.html").read_text(encoding="utf-8")
    notebook = (project_root() / "notebooks" / "00_dataset_and_protocol.ipynb").read_text(encoding="utf-8")
    rows = re.findall(r'"\| ([^|$]+) \| [^|]+ \|', notebook.split("## Glossary")[1])
    words = [row for row in rows if row not in ("word",)]
    assert len(words) > 20 and text.count("<dt") == len(words) + 1  # S is the one with a formula
    assert all(f'">{word}<' in text for word in words)


def test_api_has_every_public_name(built):
    import tll_utils

    text = (built / "api" / "index.html").read_text(encoding="utf-8")
    assert all(f">{name}<" in text for name in tll_utils.__all__)
    assert "expected_topk" in (built / "api" / "evaluation.html").read_text(encoding="utf-8")


def test_faults_of_sphinx_stop_the_build(tmp_path, monkeypatch):
    """A notebook that points to a file that is not there; pages of the package are left out, to be quick."""
    skip_without_sphinx()
    monkeypatch.setattr(api, "rooms", dict)
    cells = [
        new_markdown_cell("# Title\n\n[away](no_such_file.md)"),
        new_markdown_cell("## Glossary\n\n| w | m |\n|---|---|"),
    ]
    pages.nbformat.write(new_notebook(cells=cells), tmp_path / "00_broken.ipynb")
    (tmp_path / "out").mkdir()
    with pytest.raises(pages.PagesError, match="no_such_file"):
        pages.build_pages(tmp_path, tmp_path / "out")
    assert (tmp_path / "out").is_dir()  # the former pages


def test_docstrings_keep_code_and_lose_markup():
    assert api.prose("a `b_*` c_ *d* $x$\n\n    f(*a)") == "a `b_*` c\\_ \\*d\\* \\$x\\$\n\n    f(*a)"


# --- the paper ------------------------------------------------------------------


@pytest.fixture(scope="session")
def facts() -> dict:
    return json.loads(json.dumps(paper.facts(n_resamples=200)))


def test_rows_of_the_paper_equal_their_recorded_files(facts):
    rows = {
        (name, row["name"]): row
        for name in paper.EXPERIMENTS
        for row in (load_results(name) or {"methods": []})["methods"]
    }
    assert len(facts["methods"]) == len(rows)
    for key, shown in facts["methods"].items():
        row = rows[key.split("/")[0], shown["values"]["name"]]
        assert shown["values"] == row
        assert shown["top2"] == f"{row['expected_top2']:.3f}"
        assert shown["interval"] == "–".join(f"{bound:.3f}" for bound in row["interval95"])


def test_keys_name_the_method_that_the_registry_means(facts):
    for key, shown in facts["methods"].items():
        if key.count("/") == 1:
            assert shown["values"]["name"].startswith(get_entry(key.split("/")[1]).title)


def test_published_rows_equal_their_file_and_stand_beside_ours(facts):
    table = pd.read_csv(results_dir() / "published.csv", encoding="utf-8")
    assert [(row["method"], row["value"], row["source"]) for row in facts["published"]] == list(
        table.itertuples(False, None)
    )
    for row in facts["published"]:
        assert row["ours"] is None or facts["methods"][row["ours"]]["values"]["name"] == row["method"]
    assert sum(row["ours"] is not None for row in facts["published"]) == 6  # the others' weights need a download


def test_differences_are_those_of_the_recorded_lefts(facts):
    assert len(facts["differences"]) > 20
    for pair, shown in facts["differences"].items():
        a, b = (
            load_per_left(key.split("/")[0], "top2")[facts["methods"][key]["values"]["name"]]
            for key in pair.split(" − ")
        )
        both = a.index.intersection(b.index)
        assert float(shown.split(" ")[0].replace("−", "-")) == pytest.approx((a[both] - b[both]).mean(), abs=5e-4)
    head, layers = (f"{name}" for name in ("adapters/adapter_head", "pretrained/lite_layers"))
    first = load_per_left("adapters", "top2")[get_entry("adapter_head").title]
    test = paired_test(first, load_per_left("pretrained", "top2")[get_entry("lite_layers").title][first.index])
    assert facts["differences"][f"{head} − {layers}"].startswith(
        f"{test.difference:+.3f} ({test.interval95[0]:+.3f} to"
    )


def test_groups_count_every_left_once(facts):
    assert sum(group["pairs"] for group in facts["faces"]) == 1600
    assert sum(group["pairs"] for group in facts["borders"]) == 322
    mean = sum(group["pairs"] * float(group["top2"]["adapters/best"]) for group in facts["faces"]) / 1600
    assert mean == pytest.approx(facts["methods"]["adapters/best"]["values"]["expected_top2"], abs=1e-3)


def test_no_accuracy_is_typed_into_the_paper():
    """Outside the set-up, which has lengths and sizes, and outside names there is no decimal number."""
    text = (paper.FOLDER / "paper.typ").read_text(encoding="utf-8")
    prose = text[text.index("= Task and protocol") :]
    assert re.findall(r"(?<![\d.])0\.\d{2,}", re.sub(r'"[^"]*"', "", prose)) == []
    assert re.findall(r"\d\.\d", (paper.FOLDER / "abstract.txt").read_text(encoding="utf-8")) == []


def test_every_key_of_the_paper_is_registered():
    text = (paper.FOLDER / "paper.typ").read_text(encoding="utf-8")
    keys = set(re.findall(rf'"((?:{"|".join(paper.EXPERIMENTS)})/[^"]+)"', text))
    assert len(keys) > 40 and keys <= set(paper.titles())


def test_paper_has_four_to_six_pages(facts, tmp_path):
    pytest.importorskip("typst", reason="the paper needs the extra `docs`")
    assert 4 <= len(paper.compiled(facts, "png")) <= 6
    paper.write_paper(tmp_path / "report.pdf", facts)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert json.loads((tmp_path / "paper.json").read_text(encoding="utf-8")) == facts


def test_paper_says_where_a_row_is_not_recorded(facts):
    pytest.importorskip("typst", reason="the paper needs the extra `docs`")
    fewer = {key: row for key, row in facts["methods"].items() if key != "adapters/best"}
    assert paper.compiled(facts | {"methods": fewer}).startswith(b"%PDF")
