"""Sphinx configuration of the pages: `make report`, or `python -m scripts.pages` for the committed notebooks."""

from importlib import metadata

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project = "Totally Looks Like"
author = "the authors of tll-utils"
release = metadata.version("tll-utils")
language = "en"

extensions = ["myst_nb"]
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


def visit_math(self, node: nodes.math) -> None:
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(self, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
