"""The house: imports run downwards and in no circle, files and functions stay small, texts name their encoding."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from scripts import house
from tll_utils.runtime import project_root

ROOT = project_root()
FILES = sorted(path for folder in ("tll_utils", "scripts") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
ASIDE = {"similarity", "evaluation"}  # arrays in, arrays out
# room of tll_utils → rooms it may import, besides itself; scripts may import them all
BELOW: dict[str, set[str]] = {"runtime": set(), "similarity": set(), "evaluation": set(), "data": {"runtime"}}
BELOW["features"] = BELOW["siamese"] = ASIDE | {"data", "runtime"}
BELOW["methods"] = BELOW["features"] | {"features", "siamese"}
BELOW["report"] = BELOW["methods"] | {"methods"}
BELOW["search"] = BELOW["report"] | {"report"}
BELOW["cli"] = BELOW["search"] | {"search"}
BELOW["__main__"] = {"cli"}

MAX_FILE, MAX_FUNCTION, MAX_PACKAGE = 300, 40, 4700  # lines
SEPARATE = ("search", "cli", "__main__")  # counted apart from the package


def module_of(path: Path) -> str:
    """Dotted name of a file, such as "tll_utils.data.images"; a package's is its folder's."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(module: str, path: Path) -> set[str]:
    """Modules of this project that a file imports, anywhere in it: `from a import b` is a.b where that is a module."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name.split(".")[0] in ("tll_utils", "scripts")} - {module}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("tll_utils.")])
def test_a_room_imports_only_rooms_below(module):
    room = room_of(module)
    assert room in BELOW, f"{module} is in no room of the design"
    for imported in imports(module, MODULES[module]):
        assert imported.startswith("tll_utils"), f"{module} imports {imported}"
        assert room_of(imported) in BELOW[room] | {room}, f"{module} imports {imported}"


def test_the_diagram_has_a_place_for_every_room_and_shows_what_is_imported():
    """A room without a place would be left out; the arrows are those that the search for imports here finds."""
    assert set(house.PLACES) == set(BELOW) - {"__main__"}
    found = {(room_of(one), room_of(other)) for one, path in MODULES.items() for other in imports(one, path)
             if one.startswith("tll_utils") and other.startswith("tll_utils")}  # fmt: skip
    placed = {(room, other) for room, other in found if room != other and {room, other} <= set(house.PLACES)}
    assert house.room_imports() == placed


def test_every_import_of_ours_exists():
    for module, path in MODULES.items():
        assert imports(module, path) <= set(MODULES), module


def test_no_import_runs_in_a_circle():
    """TopologicalSorter raises CycleError, which names the circle."""
    graph = {module: imports(module, path) for module, path in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(MODULES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = int(node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name} has {length} lines"


def test_the_package_is_small():
    package = [path for name, path in MODULES.items() if name.startswith("tll_utils") and room_of(name) not in SEPARATE]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in package) <= MAX_PACKAGE


# --- encodings ------------------------------------------------------------------


def text_calls_without_encoding(path: Path) -> Iterator[str]:
    """Places that read or write text in the encoding of the machine, not of the project: UTF-8."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and _is_text_call(node) and not any(k.arg == "encoding" for k in node.keywords):
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node.func)}"


def _is_text_call(node: ast.Call) -> bool:
    if any(keyword.arg in ("text", "universal_newlines") for keyword in node.keywords):  # of subprocess
        return True
    if isinstance(node.func, ast.Name):
        return node.func.id == "open" and _is_text_mode(node.args[1:], node.keywords)
    if not isinstance(node.func, ast.Attribute) or ast.unparse(node.func.value) == "runtime":
        return False  # runtime.write_text is ours, and writes UTF-8
    if node.func.attr == "open":  # Path.open; Image.open, ZipFile.open and their like are given a file, not a mode
        return all(isinstance(argument, ast.Constant) for argument in node.args) and _is_text_mode(
            node.args, node.keywords
        )
    if node.func.attr == "to_csv":  # without a file it returns text
        return bool(node.args) or any(keyword.arg == "path_or_buf" for keyword in node.keywords)
    return node.func.attr in ("read_text", "write_text", "read_csv", "read_json")


def _is_text_mode(arguments: list[ast.expr], keywords: list[ast.keyword]) -> bool:
    modes = [*arguments[:1], *(keyword.value for keyword in keywords if keyword.arg == "mode")]
    return not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)


@pytest.mark.parametrize("path", FILES + TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_are_read_and_written_in_a_named_encoding(path):
    assert list(text_calls_without_encoding(path)) == []


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        ("open(p)", True), ("open(p, 'w')", True), ("open(p, mode='a')", True), ("open(p, 'rb')", False),
        ("open(p, 'w', encoding='utf-8')", False), ("p.open()", True), ("p.open('wb')", False),
        ("Image.open(p)", False),
        ("p.read_text()", True), ("p.write_text(t, encoding='utf-8')", False), ("runtime.write_text(p, t)", False),
        ("write_text(p, t)", False), ("t.to_csv(p)", True), ("t.to_csv(index=False)", False), ("pd.read_csv(p)", True),
        ("subprocess.run(c, text=True)", True), ("subprocess.run(c, encoding='utf-8')", False),
    ],
)  # fmt: skip
def test_search_for_encodings_finds_what_it_should(code, is_found, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "a.py").write_text(code, encoding="utf-8")
    assert bool(list(text_calls_without_encoding(tmp_path / "a.py"))) == is_found
