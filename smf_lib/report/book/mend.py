"""What the builder and its theme leave undone in built pages.

A search opened from the disk has no excerpts, since a browser lets no page there read another one;
a bundle of 1.5 MB draws icons that a font of the theme draws as well; and the list of references
is called a list although nothing in it is called an entry of one.
"""

import json
import re
from pathlib import Path

from bs4 import BeautifulSoup, Tag

ICONS = re.compile(r"\s*<(?:script|link)[^>]*scripts/fontawesome\.js[^>]*>(?:</script>)?")
REFERENCES = '<div role="list" class="citation-list">'
EXCERPTS = "excerpts.js"
SEARCH_TOOLS = re.compile(r'(<script[^>]*src="_static/)searchtools\.js[^"]*("[^>]*></script>)')
# Stands in for `fetch` where a page is read from the disk, and for the book's own pages only.
SCRIPT = """\
/* The text of every page, for excerpts of a search that is opened from the disk. */
(() => {
  if (location.protocol !== "file:") return;
  const pages = %s;
  const root = new URL(document.documentElement.dataset.content_root || "./", location.href).href;
  const fetched = window.fetch;
  window.fetch = (address, ...further) => {
    const name = decodeURI(new URL(address, location.href).href.split(/[?#]/)[0]).slice(
      decodeURI(root).length);
    return Object.hasOwn(pages, name)
      ? Promise.resolve(new Response(pages[name])) : fetched(address, ...further);
  };
})();
"""


def mend(html_dir: Path) -> None:
    """Change the built pages under `html_dir` for what the module names."""
    texts = {}
    for path in sorted(html_dir.rglob("*.html")):
        name = path.relative_to(html_dir).as_posix()
        if name.startswith("_static/"):
            continue
        before = path.read_text("utf-8")
        after = ICONS.sub("", before).replace(REFERENCES, '<div class="citation-list">')
        if name == "search.html":
            after = SEARCH_TOOLS.sub(rf"\1{EXCERPTS}\2\g<0>", after)
        else:
            texts[name] = _text(BeautifulSoup(after, "html.parser"))
        if after != before:
            path.write_text(after, "utf-8")
    data = json.dumps(texts, ensure_ascii=False).replace("</", "<\\/")
    (html_dir / "_static" / EXCERPTS).write_text(SCRIPT % data, "utf-8")


def _text(page: BeautifulSoup) -> str:
    """The text of a page as a small page: sections with their names, and nothing else but words."""
    article = page.find("article") or page.find("main") or page
    for tag in article.find_all(["script", "style", "nav", "noscript"]):
        tag.decompose()
    for tag in article.find_all(class_="headerlink"):
        tag.decompose()
    return f'<div role="main">{_words(article)}</div>'


def _words(tag: Tag) -> str:
    parts = []
    for child in tag.children:
        if not isinstance(child, Tag):
            parts.append(_escaped(str(child)))
        elif child.name == "section" and child.get("id"):
            parts.append(f'<section id="{_escaped(str(child["id"]))}">{_words(child)}</section>')
        elif child.find("section"):
            parts.append(_words(child))
        else:
            within = "" if child.name in ("p", "h1", "h2", "h3", "h4") else " "
            parts.append(f"{_escaped(child.get_text(within))} ")
    return re.sub(r"\s+", " ", "".join(parts))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
