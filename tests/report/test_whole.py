"""The book in one file: an ePub that is XML with MathML, and a PDF where there is Chromium."""

import json
import re
import shutil
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

from smf_lib.report.book import whole
from smf_lib.report.book.address import Code
from smf_lib.report.book.browser_check import missing
from smf_lib.report.book.build import read_settings

REPOSITORY = Path(__file__).resolve().parents[2]
CHAPTER = """# One chapter

Mathematics: $x^2$<br>and a line.

```{math}
:label: eq-one
a = b + c
```

By {eq}`eq-one`.

```{raw} html
<section class="move"><div data-move="lookup"></div></section>
```

<!-- files -->
"""


def draft(folder):
    """A staged book of two chapters."""
    site = folder / ".site"
    (site / "assets").mkdir(parents=True)
    shutil.copytree(REPOSITORY / "book" / "_static", site / "book" / "_static")
    (site / "book" / "references.bib").write_text("")
    (site / "book" / "intro.md").write_text(CHAPTER)
    (site / "book" / "two.md").write_text("# Another\n\nSee {doc}`intro`.\n")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A notebook")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, site / "book" / "three.ipynb")
    chapters = [{"file": "book/two"}, {"file": "book/three"}]
    toc = {"format": "jb-book", "root": "book/intro", "chapters": chapters}
    (site / "_toc.yml").write_text(json.dumps(toc))
    config = read_settings(REPOSITORY)
    config.pop("repository")
    code = Code("https://github.com/owner/name", "main", "0" * 40, dirty=False, set=True)
    config["sphinx"]["config"]["html_theme_options"] |= code.theme_options()
    config["sphinx"].pop("local_extensions")
    config["sphinx"]["config"]["extensions"].remove("edition")
    (site / "_config.yml").write_text(json.dumps(config))
    return site


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the chapter that offers the files, what stands for the built pages)"""
    site = draft(tmp_path_factory.mktemp("book"))
    files = whole.Files(site, site.parent)
    chapter = (site / "book" / "intro.md").read_text()
    html = site / "html"
    (html / "book").mkdir(parents=True)
    (html / "book" / "intro.html").write_text(chapter)
    for kind in ("epub", "pdf"):
        (html / "_downloads" / kind).mkdir(parents=True)
        (html / "_downloads" / kind / f"{whole.NAME}.{kind}").touch()
    files.put_into(html)
    return chapter, html


def test_the_epub_is_xml_with_mathematics_and_without_scripts(made):
    with zipfile.ZipFile(made[1] / "_downloads" / "epub" / f"{whole.NAME}.epub") as archive:
        assert archive.namelist()[0] == "mimetype"
        pages = {n: archive.read(n).decode() for n in archive.namelist() if n.endswith("xhtml")}
        package = archive.read("content.opf").decode()
    for page in pages.values():
        ElementTree.fromstring(page)
    first = pages["book/intro.xhtml"]
    assert first.count("<math") == 2 and "(1)" in first and "<script" not in first
    assert "data-move" not in first and "A piece that moves stands here" in first
    assert 'href="book/intro.xhtml" properties="mathml"' in package


def test_chapters_offer_the_files_that_there_are(made):
    text, html = made
    assert "The whole book in one file: {download}`ePub </book/" in text
    assert ("`PDF </book/" in text) == (not missing()) and "data-move" in text
    shown = (html / "book" / "intro.html").read_text()
    (megabytes,) = re.findall(r"ePub </book/[^>]*>` \((\d+\.\d) MB\)", shown)
    size = (html / "_downloads" / "epub" / f"{whole.NAME}.epub").stat().st_size
    assert float(megabytes) == pytest.approx(size / 1e6, abs=0.05) and "size-of" not in shown
    site = html.parent
    assert [p.name for p in site.parent.iterdir() if p.name.startswith(".site")] == [".site"]


@pytest.mark.skipif(bool(missing()), reason=f"missing: {missing()}")
def test_the_pdf_has_all_chapters(made):
    content = (made[1] / "_downloads" / "pdf" / f"{whole.NAME}.pdf").read_bytes()
    assert content.startswith(b"%PDF") and b"/Outlines" in content
