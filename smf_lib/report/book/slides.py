"""Slides for lecturers: one page of HTML from Markdown, with the figures of the book's pages.

A line `---` parts slides, `Notes:` begins what only the lecturer sees. A comment stands for what
is drawn or computed on a page: `<!-- figure notebooks/x 1 -->` for its first figure, `<!-- figure
x.svg words -->` for a drawing of book/_static, `<!-- said notebooks/x 1 4 -->` for the first four
sentences of its first list. Arrow keys turn slides, `n` shows notes, and printing gives one a page.
"""

import re
from base64 import b64encode
from pathlib import Path

import nbformat
from markdown_it import MarkdownIt

from ..text import as_html

PAGE_FIGURE = re.compile(r"<!-- figure (notebooks/\S+) (\d+) -->")
DRAWING = re.compile(r"<!-- figure (\S+\.svg) (.*?) -->")
SAID = re.compile(r"<!-- said (notebooks/\S+) (\d+) (\d+) -->")
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>%s: slides</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
html { font: 1.35rem/1.45 system-ui, sans-serif; color: #222; background: #fff;
  scroll-snap-type: y mandatory; }
body { margin: 0; }
section { min-height: 100vh; box-sizing: border-box; padding: 5vh 8vw; scroll-snap-align: start;
  display: flex; flex-direction: column; justify-content: center; }
h1, h2 { line-height: 1.15; margin: 0 0 0.7em; color: #004c78; }
h1 { font-size: 2.6rem; } h2 { font-size: 1.9rem; }
img { max-width: 100%%; max-height: 68vh; align-self: center; }
table { border-collapse: collapse; } th, td { padding: 0.25em 0.9em 0.25em 0; text-align: left;
  border-bottom: 1px solid #bbb; }
aside { display: none; margin-top: 1.5em; padding-top: 0.5em; border-top: 1px solid #bbb;
  color: #444; font-size: 1rem; }
.notes aside { display: block; }
@media (max-width: 600px) {
  html { font-size: 1rem; scroll-snap-type: none; } h1 { font-size: 1.9rem; }
  section { padding: 1.5rem; } table { display: block; overflow-x: auto; }
}
@media print {
  @page { size: A4 landscape; margin: 0; }
  html { font-size: 1rem; } section { break-after: page; height: 100vh; }
}
</style></head><body><main>
%s
</main><script>
addEventListener("keydown", (key) => {
  if (key.altKey || key.ctrlKey || key.metaKey) return;
  if (key.key === "n") document.body.classList.toggle("notes");
  const step = {ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1}[key.key];
  if (!step) return;
  key.preventDefault();
  const slides = [...document.querySelectorAll("section")];
  const here = slides.findLastIndex((s) => s.getBoundingClientRect().top < innerHeight / 2);
  slides[Math.min(Math.max(here + step, 0), slides.length - 1)].scrollIntoView();
});
</script></body></html>
"""


def make_slides(site: Path, target: Path) -> Path:
    """Write the slides of the staged book `site` to `target` and return it.

    What a page does not have (a figure of a study that is not on record) is left out.
    """
    text = (site / "book" / "teachers" / "slides.md").read_text("utf-8")
    title = text.removeprefix("# ").partition("\n")[0]
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    sections = []
    for slide in re.split(r"^---$", text, flags=re.MULTILINE):
        shown, _, notes = slide.partition("\nNotes: ")
        shown = PAGE_FIGURE.sub(lambda m: _figure(site, m[1], int(m[2])), shown)
        shown = DRAWING.sub(lambda m: _drawing(site, m[1], m[2]), shown)
        shown = SAID.sub(lambda m: _said(site, m[1], int(m[2]), int(m[3])), shown)
        aside = f"<aside>{markdown.render(notes)}</aside>" if notes else ""
        sections.append(f"<section>{markdown.render(shown)}{aside}</section>")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(PAGE % (as_html(title), "\n".join(sections)), "utf-8")
    return target


def _outputs(site: Path, page: str) -> list[tuple[nbformat.NotebookNode, nbformat.NotebookNode]]:
    """The outputs of a staged page, each with its cell."""
    path = site / f"{page}.ipynb"
    cells = nbformat.read(path, 4).cells if path.is_file() else []
    return [(cell, output) for cell in cells for output in cell.get("outputs", [])]


def _figure(site: Path, page: str, number: int) -> str:
    drawn = [
        (cell, output.data["image/png"])
        for cell, output in _outputs(site, page)
        if "figure" in cell.metadata.get("mystnb", {}) and "image/png" in output.get("data", {})
    ]
    if len(drawn) < number:
        return ""
    cell, png = drawn[number - 1]
    alt = as_html(" ".join(cell.metadata["mystnb"]["image"]["alt"].split()))
    return f'<img src="data:image/png;base64,{"".join(png.split())}" alt="{alt}">'


def _drawing(site: Path, name: str, alt: str) -> str:
    data = b64encode((site / "book" / "_static" / name).read_bytes()).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{as_html(alt)}">'


def _said(site: Path, page: str, number: int, sentences: int) -> str:
    lists = [
        output.data["text/markdown"]
        for _, output in _outputs(site, page)
        if output.get("data", {}).get("text/markdown", "").startswith("- ")
    ]
    return "\n".join(lists[number - 1].split("\n")[:sentences]) if len(lists) >= number else ""
