"""The page: whole, safe with any file name, and all of it local."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from conftest import encoded, picture
from tll_utils.data.images import Images
from tll_utils.search import gallery as module
from tll_utils.search.gallery import write_page

NASTY = [
    "<img src=x onerror=alert(1)>.jpg",
    "</script><script>alert(2)</script>.jpg",
    "ü ä 日本#%20?.jpg",
    "a'b\"&c.jpg",
]
NONE = pd.DataFrame(columns=["file", "problem"])


@pytest.fixture
def images(tmp_path):
    """Four pictures whose ids are nasty."""
    files = [tmp_path / f"{i}.jpg" for i in range(4)]
    for i, file in enumerate(files):
        file.write_bytes(encoded(picture(i)))
    return Images(NASTY, files)


def table_of(images, n=3):
    """Every picture with the n others, two parts."""
    rows = [(query, rank, other) for query in images.ids
            for rank, other in enumerate([i for i in images.ids if i != query][:n], 1)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["query", "rank", "picture"])
    shape = np.float32(1 / 3) * table["rank"].to_numpy(np.float32)
    return table.assign(score=shape - 2, shape=shape, hubness=np.float32(-2), also="")


class Elements(HTMLParser):
    """Names and attributes of all elements, and the text of each script."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] == "script":
            self.scripts[-1] += data


def write(images, folder, *, table=None, unreadable=NONE, title="Look-alikes", model_text="best"):
    table = table_of(images) if table is None else table
    return write_page(table, images, images, unreadable, folder, title=title, model_text=model_text)


def test_page_table_and_thumbnails_are_written(images, tmp_path):
    page = write(images, tmp_path / "new" / "out")
    assert page == tmp_path / "new" / "out" / "index.html"
    assert sorted(path.name for path in page.parent.iterdir()) == ["index.html", "look-alikes.csv", "thumbnails"]
    assert [path.name for path in page.parent.parent.iterdir()] == ["out"]
    pd.testing.assert_frame_equal(
        pd.read_csv(page.parent / "look-alikes.csv", keep_default_na=False, encoding="utf-8"), table_of(images),
        check_dtype=False, rtol=1e-6,
    )  # fmt: skip
    data = json.loads(Elements(page.read_text(encoding="utf-8")).scripts[0])
    assert data["parts"] == ["shape", "hubness"]
    assert [data["pictures"][place][0] for place, _ in data["queries"]] == NASTY
    results = data["queries"][1][1]
    assert [data["pictures"][result[0]][0] for result in results] == [NASTY[0], *NASTY[2:]]
    assert results[0][1:] == [-1.6667, [0.3333, -2.0], ""]
    for i, (name, thumbnail) in enumerate(data["pictures"]):
        content = (page.parent / "thumbnails" / thumbnail).read_bytes()
        assert name == NASTY[i % 4] and content == images.read_bytes(i % 4)
    assert len(list((page.parent / "thumbnails").iterdir())) == 4


def test_names_never_become_elements(images, tmp_path):
    unreadable = pd.DataFrame([("<b onload=x>.jpg", 'not "good" <i>')], columns=["file", "problem"])
    page = write(images, tmp_path / "out", unreadable=unreadable, title="<script>a</script>", model_text="<u>$data</u>")
    text = page.read_text(encoding="utf-8")
    parsed = Elements(text)
    plain = Elements(
        write(images.take([2]), tmp_path / "plain", table=table_of(images)[:0]).read_text(encoding="utf-8")
    )
    names = [name for name, _ in parsed.elements]
    assert sorted(set(names) - {name for name, _ in plain.elements}) == ["b", "details", "li", "summary"]
    assert names.count("script") == 2 and not any("onload" in attributes for _, attributes in parsed.elements)
    assert "Unreadable files: 1" in text and "&lt;b onload=x&gt;.jpg" in text and "$" not in text.replace("$data", "")


def test_the_page_needs_nothing_from_outside(images, tmp_path):
    text = write(images, tmp_path / "out").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|innerHTML|fetch\(|eval", text)
    assert all("src" not in attributes and "href" not in attributes for _, attributes in Elements(text).elements)


def test_a_query_without_results_is_shown_too(images, tmp_path):
    page = write(images, tmp_path / "out", table=table_of(images)[:3])
    data = json.loads(Elements(page.read_text(encoding="utf-8")).scripts[0])
    assert [len(results) for _, results in data["queries"]] == [3, 0, 0, 0]


def test_queries_and_gallery_may_share_names(images, tmp_path):
    """The query "a" and the picture "a" of the gallery are two pictures."""
    query, gallery = Images(["a"], images.files[:1]), Images(["a", "b"], images.files[1:3])
    table = pd.DataFrame(
        {"query": ["a"], "rank": [1], "picture": ["a"], "score": [1.0], "similarity": [1.0], "also": ""}
    )
    page = write_page(table, query, gallery, NONE, tmp_path / "out", title="t", model_text="m")
    data = json.loads(Elements(page.read_text(encoding="utf-8")).scripts[0])
    assert [name for name, _ in data["pictures"]] == ["a", "a"]
    assert len({thumbnail for _, thumbnail in data["pictures"]}) == 2 and data["queries"] == [
        [0, [[1, 1.0, [1.0], ""]]]
    ]


def test_an_older_page_is_replaced(images, tmp_path):
    write(images, tmp_path / "out")
    page = write(images.take([0, 1]), tmp_path / "out", title="Second")
    assert "Second" in page.read_text(encoding="utf-8")
    assert len(list((tmp_path / "out" / "thumbnails").iterdir())) == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["letter.txt", ".git"])
def test_a_folder_with_something_else_is_refused_and_left_alone(images, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="something other than a page"):
        write(images, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    with pytest.raises(ValueError, match="something other"):
        write(images, tmp_path / "out" / name)


def test_an_empty_folder_is_used(images, tmp_path):
    (tmp_path / "out").mkdir()
    assert write(images, tmp_path / "out").exists()


@pytest.mark.parametrize("interrupt", ["_unreadable", "_json"])
def test_an_interrupted_run_leaves_the_older_page(images, tmp_path, monkeypatch, interrupt):
    def stop(*_):
        raise KeyboardInterrupt

    before = write(images, tmp_path / "out").read_text(encoding="utf-8")
    monkeypatch.setattr(module, interrupt, stop)
    for folder in ("out", "new"):
        with pytest.raises(KeyboardInterrupt):
            write(images, tmp_path / folder, title="Second")
    assert (tmp_path / "out" / "index.html").read_text(encoding="utf-8") == before
    assert not [path for path in tmp_path.iterdir() if path.name == "new" or path.name.startswith(".")]
