"""Checks of built pages that need a browser: what a reader sees, hears, prints and searches.

Chromium opens the pages from the disk, without a server. Needed for it, and not for building the
book: a Chromium or Chrome on the path, and the packages playwright and axe-playwright-python.
"""

import importlib.util
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PACKAGES = ("playwright", "axe_playwright_python")
SERIOUS = ("serious", "critical")
LAYOUT_SHIFT = 0.1
FIRST_PAGE_BYTES = 1.5e6
PAPER = 718  # A4 less margins of 1 cm, in CSS pixels
WIDE, NARROW = 1300, 390
QUESTION = "memory"
PATIENCE = 15_000  # milliseconds for a search to show something
LEADS_ON = re.compile(r'http-equiv="refresh" content="\d+; *url=([^"]+)"', re.IGNORECASE)

TWO_FRAMES = "() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))"

# Sums the shifts of the layout that no click has caused, as the browser reports them.
COUNT_SHIFTS = """
window.layoutShift = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries())
    if (!entry.hadRecentInput) window.layoutShift += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""

# Elements of the text that reach beyond the width and cannot be scrolled. In print nothing can.
FIND_CLIPPED = """
(print) => {
  const width = document.documentElement.clientWidth, found = [];
  const name = (e) => `${e.tagName.toLowerCase()}${e.id ? "#" + e.id : ""} `
    + `"${(e.innerText || e.alt || "").trim().replace(/\\s+/g, " ").slice(0, 40)}"`;
  const hidden = (e) => e.closest(".visually-hidden, .sr-only, .headerlink, "
    + "details:not([open]), button, script, style, noscript");
  const article = ["article", "main", "body"].map((n) => document.querySelector(n)).find(Boolean);
  for (const e of article.querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    if (!box.width || !box.height || hidden(e)) continue;
    let scrolled = false;
    for (let up = e; up && up !== article.parentElement; up = up.parentElement) {
      if (up.scrollWidth <= up.clientWidth + 2) continue;
      const way = getComputedStyle(up).overflowX;
      if (way === "auto" || way === "scroll") scrolled = true;
      if ((way === "hidden" || way === "clip") && up.clientWidth > 1 && e === up)
        found.push(`${name(up)} is cut off`);
    }
    if (print && scrolled && /^(TABLE|PRE|IMG|SVG)$/i.test(e.tagName)) {
      const scroller = e.parentElement;
      if (box.right > width + 2 || e.scrollWidth > e.clientWidth + 2
          || scroller.scrollWidth > scroller.clientWidth + 2) found.push(`${name(e)} is cut off`);
    } else if (!scrolled && box.right > width + 2) found.push(`${name(e)} ends beyond the page`);
    const first = !print && scrolled && e.tagName === "TABLE" && e.rows[0]?.cells;
    if (first?.length > 1 && width < 600 && getComputedStyle(first[0]).position !== "sticky")
      found.push(`${name(e)} scrolls away from its first column`);
  }
  if (!print && document.documentElement.scrollWidth > width + 2)
    found.push("the page scrolls sideways");
  return [...new Set(found)].slice(0, 20);
}
"""

# What a moving piece does: no words if it draws something and its first control changes its text.
# The number beside a slider is part of the control, so it does not count.
MOVE = """
async (place) => {
  const control = place.querySelector("input, select, button");
  const shown = () => {
    const copy = place.cloneNode(true);
    for (const e of copy.querySelectorAll("noscript, output, label, option")) e.remove();
    return copy.textContent.trim();
  };
  const before = shown();
  if (!control) return before && !place.querySelector("noscript") ? "" : "draws nothing";
  if (!place.querySelector("svg, table, canvas")) return "draws nothing beside its controls";
  if (control.tagName === "BUTTON" || control.type === "checkbox") control.click();
  else {
    if (control.tagName === "SELECT")
      control.selectedIndex = (control.selectedIndex + 1) % control.options.length;
    else control.value = control.value === control.max ? control.min : control.max;
    for (const name of ["input", "change"]) control.dispatchEvent(new Event(name, {bubbles: true}));
  }
  await new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)));
  return shown() === before ? "says the same after its first control was changed" : "";
}
"""

# Grounds on paper that are darker than mid grey and larger than a word.
FIND_DARK = """
() => [...document.querySelectorAll("body, body *")].filter((e) => {
  const box = e.getBoundingClientRect(), way = getComputedStyle(e).backgroundColor;
  const [r, g, b, a] = (way.match(/[\\d.]+/g) || []).map(Number);
  return box.width * box.height > 4000 && (a === undefined || a > 0.5) && r + g + b < 384;
}).map((e) => `${e.tagName.toLowerCase()}.${e.className}`).slice(0, 3)
"""

# What a notebook has shown folded, and nobody can unfold on paper.
FIND_FOLDED = """
() => [...document.querySelectorAll(".cell_output details:not([open]) > summary")]
  .map((e) => e.innerText.trim().slice(0, 40))
"""


@dataclass
class _Seen:
    """What the browser said while a page was open."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def missing() -> str:
    """What the check lacks on this machine, in words, or ""."""
    lacks = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not _browser():
        lacks.append(f"a browser ({' or '.join(BROWSERS)})")
    return ", ".join(lacks)


@contextmanager
def launch() -> Iterator[Any]:
    """Chromium, driven by playwright; closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_browser(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def check_in_browser(html_dir: str | Path, pages: Iterable[str] | None = None) -> list[str]:
    """Problems of the pages under `html_dir`, each as `page (view): what is wrong`.

    At 1,300 pixels in light and dark, at 390, and on paper: no error in the console, no request to
    another host, nothing cut off, a layout shift of less than 0.1; no violation that axe calls
    serious or critical, by all its rules in light and again in dark, where other things may be
    shown; moving pieces (`data-move`) that draw something, and say something else when their first
    control is changed; no dark ground in print; a first page of less than 1.5 MB; and a search that
    shows excerpts when it is opened from the disk.

    pages: which pages to look at, as paths from `html_dir`; all of them by default.

    Raises:
        ValueError: the folder holds no index.html, or the machine lacks what `missing` names.
    """
    root = Path(html_dir).resolve()
    if not (root / "index.html").is_file():
        raise ValueError(f"{root} holds no built book (no index.html); build it first")
    if lacks := missing():
        raise ValueError(f"pages cannot be read in a browser here; missing: {lacks}")
    paths = [root / name for name in pages] if pages is not None else sorted(root.rglob("*.html"))
    problems: list[str] = []
    with launch() as browser:
        page = browser.new_page(
            viewport={"width": WIDE, "height": 900}, color_scheme="light", reduced_motion="reduce"
        )
        page.add_init_script(COUNT_SHIFTS)
        for path in (path for path in paths if _is_page(root, path)):
            found = dict.fromkeys(_read(page, path))
            problems += [f"{path.relative_to(root)} {problem}" for problem in found]
        problems += [f"index.html: {said}" for said in _weight(page, root)]
        problems += [f"search.html: {said}" for said in _search(page, root)]
    return problems


def _is_page(root: Path, path: Path) -> bool:
    """Whether a file is a page to read: no template of the theme, and none that only leads on."""
    folder = path.relative_to(root).parts[0]
    return folder != "_static" and not LEADS_ON.search(path.read_text("utf-8"))


def _first_page(root: Path) -> Path:
    found = LEADS_ON.search((root / "index.html").read_text("utf-8"))
    return root / (found[1] if found else "index.html")


def _browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def _listening(page: Any) -> Iterator[_Seen]:
    """What the browser says of the page in the meantime."""
    seen = _Seen()
    listeners = {
        "console": lambda m: seen.errors.append(m.text) if m.type == "error" else None,
        "pageerror": lambda error: seen.errors.append(str(error)),
        "request": lambda request: seen.requests.append(request.url),
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    yield seen
    for event, listener in listeners.items():
        page.remove_listener(event, listener)


def _open(page: Any, address: str) -> _Seen:
    """Open an address and wait until nothing loads and two frames are drawn."""
    with _listening(page) as seen:
        page.goto(address, wait_until="load", timeout=120_000)
        page.evaluate(TWO_FRAMES)
    return seen


def _read(page: Any, path: Path) -> Iterator[str]:
    """Problems of one page, each with its view: wide in light and dark, narrow, and printed."""
    for width in (NARROW, WIDE):
        page.set_viewport_size({"width": width, "height": 900})
        seen = _open(page, path.as_uri())
        yield from (f"({width} pixels): console: {error}" for error in seen.errors)
        yield from (f"({width} pixels): fetches {a}" for a in seen.requests if not _is_local(a))
        shift = page.evaluate("window.layoutShift")
        if shift >= LAYOUT_SHIFT:
            yield f"({width} pixels): the layout shifts by {shift:.2f}"
        yield from (f"({width} pixels): {said}" for said in page.evaluate(FIND_CLIPPED, False))
    yield from (f"(light): {said}" for said in _heard(page))
    yield from (f"(moved): {said}" for said in _moved(page))
    page.emulate_media(color_scheme="dark")
    yield from (f"(dark): {said}" for said in _heard(page))
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": PAPER, "height": 900})
    page.evaluate(TWO_FRAMES)  # until the page knows that it is on paper
    yield from (f"(print): {said}" for said in page.evaluate(FIND_CLIPPED, True))
    yield from (f"(print): {name} has a dark ground" for name in page.evaluate(FIND_DARK))
    yield from (f"(print): {name!r} is folded" for name in page.evaluate(FIND_FOLDED))
    page.emulate_media(media="screen", color_scheme="light")


def _moved(page: Any) -> Iterator[str]:
    """What is wrong with the moving pieces of the page."""
    for place in page.query_selector_all("[data-move]"):
        name = place.get_attribute("data-move")
        with _listening(page) as seen:
            if said := place.evaluate(MOVE):
                yield f"the piece {name!r} {said}"
        yield from (f"the piece {name!r}: console: {error}" for error in seen.errors)


def _heard(page: Any) -> Iterator[str]:
    """What axe calls serious or critical on the page as it is shown."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"]}).response
    for violation in found["violations"]:
        if violation["impact"] in SERIOUS:
            times, first = len(violation["nodes"]), violation["nodes"][0]["target"]
            yield f"axe: {violation['id']} ({violation['impact']}, {times} times), as {first}"[:200]


def _is_local(url: str) -> bool:
    return urlparse(url).scheme in ("file", "data", "blob", "about")


def _weight(page: Any, root: Path) -> Iterator[str]:
    """Whether the first page and all that it loads is light."""
    seen = _open(page, _first_page(root).as_uri())
    files = {Path(unquote(urlparse(url).path)) for url in seen.requests if url.startswith("file:")}
    size = sum(p.stat().st_size for p in files if p.is_file())
    if size >= FIRST_PAGE_BYTES:
        yield f"weighs {size / 1e6:.1f} MB"


def _search(page: Any, root: Path) -> Iterator[str]:
    """Whether a search from the disk lists pages, each with an excerpt."""
    from playwright.sync_api import TimeoutError as NothingCame

    seen = _open(page, f"{(root / 'search.html').as_uri()}?q={QUESTION}")
    try:
        page.wait_for_selector("#search-results ul.search > li p.context", timeout=PATIENCE)
    except NothingCame:
        yield f"a search for {QUESTION!r} shows no excerpt"
    yield from (f"console: {error}" for error in seen.errors)
