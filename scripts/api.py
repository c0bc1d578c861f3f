"""The package as Markdown, from its files alone, nothing imported: public names, rooms with docstrings, sources."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tll_utils.runtime import project_root

Definition = ast.FunctionDef | ast.ClassDef


def rooms() -> dict[str, list[Path]]:
    """Room → the files of it; a module beside the rooms is one of its own. The package's own __init__ is no room."""
    package, files = project_root() / "tll_utils", {}
    for file in sorted(package.rglob("*.py")):
        if file.parent == package and not file.stem.startswith("__"):
            files[file.stem] = [file]
        elif file.parent != package:
            files.setdefault(file.parent.name, []).append(file)
    return files


def name_of(file: Path) -> str:
    """Its path in the checkout, such as "tll_utils/data/images.py"."""
    return file.relative_to(project_root()).as_posix()


def source_page(file: Path) -> str:
    """A source file as a page."""
    return f"---\norphan: true\n---\n# {name_of(file)}\n\n``````python\n{file.read_text(encoding='utf-8')}``````\n"


def room_page(room: str, files: list[Path]) -> str:
    """What the modules of a room say of themselves and of their public functions and classes."""
    texts = [f"# {room}"]
    for file in files:
        module = ast.parse(file.read_text(encoding="utf-8"))
        texts += [f"## [{file.name}](../source/{name_of(file)}.md)"] * (file.stem != "__init__")
        texts += [prose(ast.get_docstring(module)), *(text for name in public(module) for text in described(name))]
    return "\n\n".join(texts) + "\n"


def public(tree: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """The functions and classes of a module or class that have no underscore before their names, and a docstring."""
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_") and ast.get_docstring(node):
            yield node


def described(node: Definition) -> Iterator[str]:
    """Name, signature and docstring; of a class its methods too."""
    yield f"### {node.name}".replace("_", "\\_")
    yield f"```python\n{signature(node)}\n```"
    yield prose(ast.get_docstring(node))
    if isinstance(node, ast.ClassDef):
        for method in public(node):
            yield f"```python\n{signature(method)}\n```"
            yield prose(ast.get_docstring(method))


def signature(node: Definition) -> str:
    """The line that defines it; of a class with the fields of a dataclass, one a line."""
    if isinstance(node, ast.FunctionDef):
        arguments = re.sub(r"^(self|cls)(, )?", "", ast.unparse(node.args))
        return f"{node.name}({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")
    bases = ", ".join(map(ast.unparse, [*node.bases, *(keyword.value for keyword in node.keywords)]))
    fields = [
        ast.unparse(field)
        for field in node.body
        if isinstance(field, ast.AnnAssign) and ast.unparse(field) != "_: KW_ONLY"
    ]
    return "\n    ".join([f"class {node.name}" + f"({bases})" * bool(bases), *fields])


def prose(docstring: str | None) -> str:
    """A docstring as Markdown: `code` and indented examples stay, nothing else is markup."""
    lines = (docstring or "").splitlines()
    return "\n".join(line if line.startswith("    ") else _escaped(line) for line in lines)


def _escaped(line: str) -> str:
    parts = re.split(r"(`[^`]+`)", line)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[\]$#|{\\])", r"\\\1", part) for part in parts)


def public_names() -> str:
    """Markdown table of what `import tll_utils` offers: each name, the file that defines it, the first line on it."""
    package = project_root() / "tll_utils"
    init = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    keywords = {node.arg: node.value for node in ast.walk(init) if isinstance(node, ast.keyword)}
    places = {name: "" for name in ast.literal_eval(keywords["submodules"])}
    for module, names in ast.literal_eval(keywords["submod_attrs"]).items():
        places |= dict.fromkeys(names, module.replace(".", "/"))
    lines = [_public_name(name, package / places[name]) for name in sorted(places, key=str.lower)]
    return "\n".join(["| name | of | what it is |", "|---|---|---|", *lines])


def _public_name(name: str, place: Path) -> str:
    """A row of the table: of a module, and of a table such as METHODS, the first line of the module tells."""
    file = place / f"{name}.py" if place.is_dir() else place.with_suffix(".py")
    module = ast.parse(file.read_text(encoding="utf-8"))
    told = next((node for node in public(module) if node.name == name), module)
    first = prose(ast.get_docstring(told)).split("\n")[0]
    return f"| `{name}` | [{name_of(file).removeprefix('tll_utils/')}](../source/{name_of(file)}.md) | {first} |"
