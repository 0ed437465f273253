"""Formulas become MathML, numbered where they have a label; what is no mathematics stays code."""

import io

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx

TEXT = r"""# One

Inline $x_i^2 < 3$ and $\href{javascript:alert(1)}{x}$.

```{math}
:label: eq-one
\begin{aligned} a &= b,\\ c &= \log d \end{aligned}
```

By {eq}`eq-one`.
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(the page, what Sphinx warned of)"""
    folder, warned = tmp_path_factory.mktemp("mathml"), io.StringIO()
    (folder / "index.md").write_text(TEXT)
    settings = {
        "extensions": ["myst_parser", "smf_lib.report.book.mathml"],
        "html_math_renderer": "mathml",
        "myst_enable_extensions": ["dollarmath"],
    }
    source, out = str(folder), str(folder / "out")
    Sphinx(source, None, out, out, "html", settings, status=None, warning=warned).build()
    return BeautifulSoup((folder / "out" / "index.html").read_text(), "html.parser"), warned


def test_formulas_are_mathml_and_numbered(built):
    inline, block = built[0].find_all("math")
    assert inline.get("display") is None and inline.find("msubsup") and "<" in inline.text
    assert block["display"] == "block" and len(block.find_all("mtr")) == 2
    assert block.find_parent(id="equation-eq-one").find(class_="eqno").text.startswith("(1)")
    assert not built[0].find_all("script", src=lambda src: src and "mathjax" in src.lower())


def test_commands_that_make_links_are_shown_and_warned_of(built):
    page, warned = built
    assert page.find("code", string=r"\href{javascript:alert(1)}{x}")
    assert not page.find("a", href=lambda href: href and href.startswith("javascript"))
    assert r"index.md:3: WARNING: mathematics cannot be read" in warned.getvalue()
    assert r"\href" in warned.getvalue()
