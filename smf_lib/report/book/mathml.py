"""Mathematics as MathML, a Sphinx extension: for an ePub, whose readers run no MathJax."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    text = node.astext()
    if (
        r"\\" in text and r"\begin" not in text
    ):  # as Sphinx wraps what has several lines for MathJax
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    number = ""
    if node["number"]:
        number = f'<span class="eqno">({get_node_equation_number(translator, node)})</span>'
    start = translator.starttag(node, "div", CLASS="math", ids=node["ids"])
    translator.body.append(f"{start}{number}{convert(text, display='block')}</div>\n")
    raise nodes.SkipNode
