"""Formulas as MathML, written when the pages are built: browsers draw it themselves, no script and no network needed."""

from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging

converter = LatexToMathML()


def mathml(node: nodes.math | nodes.math_block, *, displaystyle: bool) -> str:
    """The formula of a node; one that cannot be converted is a warning, with which `make docs` fails."""
    try:
        return converter.convert_with_local_state(node.astext(), displaystyle=displaystyle)
    except LatexError as error:
        logging.getLogger(__name__).warning("%s in the formula %s", error, node.astext(), location=node)
        return node.astext()


def visit_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(mathml(node, displaystyle=False))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{mathml(node, displaystyle=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
