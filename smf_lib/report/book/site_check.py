"""Checks of built pages: links, figures, search, mathematics, and no request to another host."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

from bs4 import BeautifulSoup, Tag

# What a browser fetches to show a page, as (element, attribute). Links to follow are not among it.
FETCHED = [
    ("script", "src"),
    ("img", "src"),
    ("source", "src"),
    ("video", "src"),
    ("audio", "src"),
    ("iframe", "src"),
    ("embed", "src"),
    ("object", "data"),
]
FETCHING_LINKS = {
    "stylesheet",
    "preload",
    "prefetch",
    "icon",
    "shortcut",
    "modulepreload",
    "manifest",
}
FETCHED_IN_CSS = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""")
FETCHED_IN_SCRIPT = re.compile(r"""["'`]((?:https?:)?//[^"'`\s]+\.(?:m?js|css|woff2?))["'`]""")
UNRESOLVED = re.compile(r"\{(?:doc|ref|numref|eq|term|download|cite(?::\w+)?)\}")


def check_site(html_dir: str | Path) -> list[str]:
    """Problems of the pages under `html_dir`, each as `page: what is wrong`; none is good.

    Every internal link, anchor and image must resolve; reading must need no request to another
    host; every figure needs alternative text and a caption; every page must be in the search index;
    mathematics must be MathML.

    Raises:
        ValueError: the folder holds no index.html.
    """
    root = Path(html_dir).resolve()
    if not (root / "index.html").is_file():
        raise ValueError(f"{root} holds no built book (no index.html); build it first")
    pages = {
        path: BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in root.rglob("*.html")
        if path.relative_to(root).parts[0] != "_static"  # templates of the theme, not pages
    }
    anchors = {path: _anchors(page) for path, page in pages.items()}
    problems = []
    for path, page in sorted(pages.items()):
        found = [
            *_links(root, path, page, anchors),
            *_requests(page),
            *_figures(page),
            *_text(page),
        ]
        problems += [f"{path.relative_to(root)}: {problem}" for problem in dict.fromkeys(found)]
    for path in sorted(root.rglob("*.css")):
        for url in FETCHED_IN_CSS.findall(path.read_text("utf-8", errors="replace")):
            problems.append(f"{path.relative_to(root)}: fetches {url}")
    return problems + _search(root, pages)


def _anchors(page: BeautifulSoup) -> set[str]:
    return {str(tag["id"]) for tag in page.find_all(id=True)} | {
        str(tag["name"]) for tag in page.find_all("a", attrs={"name": True})
    }


def _links(root: Path, path: Path, page: BeautifulSoup, anchors: dict) -> Iterator[str]:
    targets = [(tag, "href") for tag in page.find_all(["a", "link"], href=True)]
    targets += [
        (tag, name) for kind, name in FETCHED for tag in page.find_all(kind, attrs={name: True})
    ]
    for tag, attribute in targets:
        url = str(tag[attribute]).strip()
        if urlparse(url).scheme or url.startswith("//"):
            continue
        file, anchor = urldefrag(url)
        file = unquote(file.partition("?")[0])
        target = (path.parent / file).resolve() if file else path
        if target.is_dir():
            target = target / "index.html"
        if not target.is_relative_to(root) or not target.is_file():
            yield f"{attribute}={url!r} leads to no file"
        elif anchor and target in anchors and unquote(anchor) not in anchors[target]:
            yield f"{attribute}={url!r} leads to no place in {target.name}"


def _requests(page: BeautifulSoup) -> Iterator[str]:
    fetched = [
        str(tag[name]) for kind, name in FETCHED for tag in page.find_all(kind, attrs={name: True})
    ]
    for tag in page.find_all("link", href=True):
        if FETCHING_LINKS & set(tag.get("rel") or []):
            fetched.append(str(tag["href"]))
    for url in fetched:
        if urlparse(url).scheme in ("http", "https") or url.startswith("//"):
            yield f"fetches {url}"
    for tag in page.find_all("style"):
        yield from (f"fetches {url}" for url in FETCHED_IN_CSS.findall(tag.text))
    for tag in page.find_all("script", src=False):
        yield from (f"fetches {url}" for url in FETCHED_IN_SCRIPT.findall(tag.text))


def _content(page: BeautifulSoup) -> Tag | None:
    return page.find("article") or page.find("main") or page.body


def _figures(page: BeautifulSoup) -> Iterator[str]:
    content = _content(page)
    for image in content.find_all("img") if content else []:
        source, words = str(image.get("src", "")), str(image.get("alt", "")).strip()
        name = source[:60]
        if not words or words == source:
            yield f"image {name} has no alternative text"
        figure = image.find_parent("figure")
        caption = figure.find("figcaption") if figure else None
        if caption is None or not caption.text.strip():
            yield f"image {name} has no caption"


def _text(page: BeautifulSoup) -> Iterator[str]:
    """Roles that were not understood, and mathematics that nothing draws."""
    content = _content(page)
    if content is None:
        return
    for formula in content.find_all(class_="math"):
        if not formula.find("math"):
            yield f"mathematics is not drawn: {formula.text.strip()[:60]!r}"
    for text in content.find_all(string=UNRESOLVED):
        if not text.find_parent(["code", "pre", "script"]):
            yield f"shows a role as text: {text.strip()[:60]!r}"


def _search(root: Path, pages: dict) -> list[str]:
    index = root / "searchindex.js"
    if not index.is_file() or not (root / "search.html").is_file():
        return ["searchindex.js or search.html is missing: search cannot work"]
    text = index.read_text("utf-8").strip()
    content = re.fullmatch(r"Search\.setIndex\((.*)\);?", text, re.DOTALL)
    try:
        known = set(json.loads(content.group(1) if content else "")["docnames"])
    except (ValueError, KeyError):
        return ["searchindex.js cannot be read: search cannot work"]
    without_text = {"index", "search", "genindex"}
    names = {p.relative_to(root).with_suffix("").as_posix() for p in pages}
    missing = sorted(names - known - without_text)
    return [f"{name}.html: is not in the search index" for name in missing]
