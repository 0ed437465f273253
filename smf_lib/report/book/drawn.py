"""What chapters show from records without being notebooks: a figure of a page, and curves as data.

A chapter asks for it in a comment, so that its source is plain Markdown with or without a study.
"""

import json
import re
from base64 import b64decode
from math import isfinite
from pathlib import Path

import nbformat

from ...study.records.results import read_records
from ..analysis.effects import change
from ..analysis.frontier import frontier_of
from ..measures import DIVERGENCE, EXAM

FIGURE = re.compile(r"<!-- figure (\S+) (\d+) (\S+)\n(.*?)\n-->", re.DOTALL)
CURVES = re.compile(r"<!-- curves (\S+)((?: \S+)+) -->")


def place(site: Path, results: Path) -> None:
    """Put figures of the staged pages, and curves of recorded studies, into the staged chapters.

    `<!-- figure notebooks/x 1 name`, a caption and `-->` become the first figure of that page under
    that name; `<!-- curves frontier a b -->` the curves of two methods as a JSON element. A
    comment goes where the page has no such figure, and stays where the study has no such curves.
    """
    for chapter in sorted((site / "book").rglob("*.md")):
        before = text = chapter.read_text("utf-8")
        for found in FIGURE.finditer(before):
            text = text.replace(found[0], _figure(site, chapter, *found.groups()))
        for found in CURVES.finditer(before):
            text = text.replace(found[0], _curves(results / found[1], found[2].split()) or found[0])
        if text != before:
            chapter.write_text(text, "utf-8")


def _figure(site: Path, chapter: Path, page: str, number: str, name: str, caption: str) -> str:
    """A figure directive, or "" if the page has no such figure."""
    path = site / f"{page}.ipynb"
    cells = nbformat.read(path, 4).cells if path.is_file() else []
    drawn = [cell for cell in cells if "figure" in cell.metadata.get("mystnb", {})]
    if len(drawn) < int(number):
        return ""
    cell = drawn[int(number) - 1]
    png = next(o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {}))
    chapter.with_name(f"{name}.png").write_bytes(b64decode(png))
    alt = " ".join(cell.metadata["mystnb"]["image"]["alt"].split())
    return f"```{{figure}} {name}.png\n:name: {name}\n:alt: {alt}\n\n{caption.strip()}\n```"


def _curves(folder: Path, names: list[str]) -> str:
    """Gain (points) and divergence (nats a token) of each rate, in a script element, or ""."""
    recorded = folder / "reference"
    if not recorded.is_dir():
        return ""
    frontier = frontier_of(read_records(recorded))
    curves = []
    for name in (name for name in names if name in frontier.curves):
        arms = frontier.curves[name].arms
        values = [[change(a, frontier.start, m).value for m in (EXAM, DIVERGENCE)] for a in arms]
        points = [(g, d) for g, d in values if isfinite(g) and isfinite(d) and d > 0]
        if points:
            gains, drifts = zip(*points)
            curves.append({"label": frontier.label(name), "gains": gains, "drifts": drifts})
    if not curves:
        return ""
    data = json.dumps({"study": frontier.where, "curves": curves}, allow_nan=False)
    data = data.replace("<", "\\u003c")
    return f'<script type="application/json" id="recorded-curves">{data}</script>'
