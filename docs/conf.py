"""Sphinx configuration of the pages: `make report`, or `python -m scripts.pages` for the committed notebooks."""

import re
from importlib import metadata

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project = "Totally Looks Like"
author = "the authors of tll-utils"
release = metadata.version("tll-utils")
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.linkcode"]
nb_execution_mode = "off"  # nothing is executed twice: the notebooks come with their outputs
nb_merge_streams = True
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = project
html_show_sphinx = html_show_copyright = False
html_copy_source = html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"  # of docutils: formulas show without a network, which MathJax would need

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_use_legacy_class_based = False
python_use_unqualified_type_names = True
add_module_names = False
default_role = "code"


def linkcode_resolve(domain: str, info: dict) -> str:
    """The page of the file that defines a name, seen from the pages of the API."""
    return f"../source/{info['module'].replace('.', '/')}.py.html"


def as_rst(app, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Docstrings are plain text with `code` and indented examples; Sphinx expects reStructuredText."""
    written, inside = [], False
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        if indented and not inside and number and not lines[number - 1].strip():
            written += ["::", ""]
            inside = True
        inside = inside and (indented or not line.strip())
        written.append(line if inside else escaped(line.strip() if indented else line))
    lines[:] = written


def escaped(line: str) -> str:
    """A line with `code` as a literal and with no other markup."""
    parts = re.split(r"`([^`]+)`", line)
    code = [f"``{part}``" for part in parts[1::2]]
    prose = [re.sub(r"([*|\\]|(?<=\w)_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
    return "".join(a + b for a, b in zip(prose, [*code, ""], strict=True))


def visit_math(self, node: nodes.math) -> None:
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(self, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("autodoc-process-docstring", as_rst)
