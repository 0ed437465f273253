"""Mathematics as MathML, a Sphinx extension: browsers and readers of ePubs draw it themselves.

So a page needs no script for it, and nothing moves while it is drawn. What is not TeX's mathematics
(links, styles, commands that are not known) is refused, and then the page shows the TeX.
"""

from html import escape
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

CONVERTER = LatexToMathML(xml_namespace=True, fancy_error=False)
logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_drawn(node, display=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if node["number"]:
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append(f"{_drawn(node, display=True)}</div>\n")
    raise nodes.SkipNode


def _drawn(node: nodes.Element, display: bool) -> str:
    """The node's TeX as MathML; where it cannot be read, as code, and Sphinx is told."""
    tex = node.astext()
    try:
        return CONVERTER.convert_with_local_state(tex, displaystyle=display)
    except LatexError as error:
        logger.warning("mathematics cannot be read: %s", str(error).strip(), location=node)
        return f"<code>{escape(tex)}</code>"
