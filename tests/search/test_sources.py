"""What a folder or list names, on disk and behind URLs, and why a picture cannot be used."""

import pytest

from conftest import encoded, picture
from tll_utils.search.pictures import NoPicturesError, collect
from tll_utils.search.sources import copy_of, file_system, find_sources

fsspec = pytest.importorskip("fsspec", reason="pip install 'tll-utils[cluster]'")


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty before and after."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TLL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLL_PROGRESS", "0")
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(encoded(picture(0)))
    (folder / "more" / "b.png").write_bytes(encoded(picture(1), "PNG"))
    return folder


def test_a_folder_names_what_collect_names(folder):
    (folder / ".hidden.jpg").write_bytes(b"")
    assert tuple(find_sources(str(folder)).ids) == collect(folder).images.ids
    assert find_sources(folder.as_uri()) == find_sources(str(folder))
    assert find_sources(str(folder)).places == [str(folder / "a.jpg"), str(folder / "more" / "b.png")]


def test_a_folder_behind_a_url(memory):
    for name in ("/all/b/2.png", "/all/1.jpg", "/all/notes.txt", "/all/.hidden.jpg"):
        memory.pipe_file(name, b"")
    assert find_sources("memory://all") == (["1.jpg", "b/2.png"], ["memory:///all/1.jpg", "memory:///all/b/2.png"])


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_list_names_each_picture_once_and_starts_where_it_is(name, folder, memory):
    lines = ["a.jpg", "more/b.png", "a.jpg", str(folder / "a.jpg"), "memory://all/1.jpg"]
    text = "\n".join(lines) if name == "list.txt" else "n,picture\n" + "".join(f"1,{line}\n" for line in lines)
    (folder / name).write_text(text + "\n\n", encoding="utf-8")
    ids, places = find_sources(str(folder / name))
    assert ids == ["a.jpg", "more/b.png", str(folder / "a.jpg"), "memory://all/1.jpg"]
    assert places == [str(folder / "a.jpg"), str(folder / "more/b.png"), *ids[2:]]


def test_a_list_behind_a_url(memory):
    memory.pipe_file("/all/list.txt", b"b/2.png\n")
    assert find_sources("memory://all/list.txt") == (["b/2.png"], ["memory:///all/b/2.png"])


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("list.csv", b"left\na.jpg\n", r"list\.csv cannot be read .*column picture"),
        ("list.txt", b"\xff\n", r"list\.txt cannot be read .*UTF-8"),
        ("list.txt", b"\n", "names no picture"),
        ("list.txt", b"nosuch://a.jpg\n", r"nosuch.*pip install 'tll-utils\[cluster\]'"),
        ("list.zip", b"", r"give a folder, or a list"),
    ],
)
def test_a_list_that_cannot_be_used_is_named_with_the_remedy(name, content, problem, folder):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=problem) as raised:
        find_sources(str(folder / name))
    assert "\n" not in str(raised.value)


def test_what_is_not_there_is_named():
    with pytest.raises(NoPicturesError, match="nowhere: give a folder"):
        find_sources("nowhere")


def test_the_copy_of_a_url_is_that_of_the_file(folder, memory, tmp_path):
    memory.pipe_file("/b.png", (folder / "more" / "b.png").read_bytes())
    ours, theirs = (copy_of(tmp_path, "b.png", place) for place in ("memory://b.png", str(folder / "more" / "b.png")))
    assert ours != theirs and ours.read_bytes() == theirs.read_bytes()
    assert theirs.read_bytes() == collect(folder).images.read_bytes(1)


def test_reasons_are_those_of_collect(folder, memory, tmp_path):
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "more" / "b.png").read_bytes()[:200])
    reasons = dict(collect(folder).unreadable.itertuples(index=False))
    for name, reason in reasons.items():
        memory.pipe_file(f"/{name}", (folder / name).read_bytes())
        assert copy_of(tmp_path, name, str(folder / name)) == copy_of(tmp_path, name, f"memory://{name}") == reason
    assert len(reasons) == 2


@pytest.mark.parametrize("place", ["/nowhere/a.jpg", "memory://nowhere/a.jpg"])
def test_a_picture_that_is_not_there_has_a_reason(place, tmp_path):
    assert copy_of(tmp_path, "a.jpg", place) == "no file, or a link that leads nowhere — restore or remove it"


def test_one_that_may_not_be_read_has_a_reason(memory, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(file_system("memory://a.jpg")[0]), "_open", refused)
    assert copy_of(tmp_path, "a.jpg", "memory://a.jpg") == "may not be read — change its permissions"
