"""One page from several executions of a notebook: what differs between them stands in tabs.

Text and code stand once, and so does an output that is the same in all. A tab that is chosen in one
place is chosen in all (`sync` of sphinx-design).
"""

import base64
import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..text import as_markdown
from .pages import figure_of, link_to_drawing, number_tables

CodeLink = Callable[[str, str, int], str]


def in_tabs(
    executions: Mapping[str, NotebookNode], folder: Path, code_link: CodeLink | None = None
) -> NotebookNode:
    """The notebook of the first execution with the outputs of all.

    executions: the same notebook with the outputs of each execution (`pages.with_outputs`), by the
    title of its tab; the last is open. folder: figures are put there, and the page is to lie beside
    it. code_link: as in `pages.as_page`.
    """
    executions = copy.deepcopy(executions)
    for page in executions.values():  # a table has the same number in every tab
        number_tables(page.cells)
    cells: list[NotebookNode] = []
    for number, same in enumerate(zip(*(page.cells for page in executions.values()), strict=True)):
        cell = same[0].copy()
        cells.append(cell)
        outputs = [one.get("outputs", []) for one in same]
        if all(found == outputs[0] for found in outputs):
            continue
        cell.outputs = []
        tabs = []
        for place, (title, found) in enumerate(zip(executions, outputs)):
            name = f"{folder.name}/{number:02d}-{place:02d}"
            shown = [
                _shown(o, folder.parent / f"{name}-{i}", code_link) for i, o in enumerate(found)
            ]
            text = "\n\n".join(shown) or "Nothing."
            options = f":sync: run-{place}" + ("\n:selected:" if place == len(outputs) - 1 else "")
            tabs.append(f":::::{{tab-item}} {as_markdown(title)}\n{options}\n\n{text}\n:::::")
        text = "\n".join(["::::::{tab-set}", ":sync-group: run", "", *tabs, "::::::"])
        cells.append(nbformat.v4.new_markdown_cell(text))
    first = next(iter(executions.values()))
    return nbformat.v4.new_notebook(cells=cells, metadata=first.metadata)


def _shown(output: NotebookNode, path: Path, code_link: CodeLink | None) -> str:
    """An output as Markdown; a figure becomes a file at `path`, with an ending."""
    if output.output_type == "stream":
        return _fenced("text", output.text)
    if figure := figure_of(output):
        image, caption, alt, drawn_by = figure
        ((mime, data),) = ((m, d) for m, d in image.data.items() if m.startswith("image/"))
        file = path.with_suffix(".svg" if mime == "image/svg+xml" else ".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.encode() if file.suffix == ".svg" else base64.b64decode(data))
        caption += link_to_drawing(drawn_by, code_link)
        alt = " ".join(alt.split())
        return f"```{{figure}} {path.parent.name}/{file.name}\n:alt: {alt}\n\n{caption}\n```"
    data = output.get("data", {})
    if "text/html" in data:
        html = f'<div class="cell_output">{data["text/html"]}</div>'
        return _fenced("{raw} html", html)
    return data.get("text/markdown") or _fenced("text", data.get("text/plain", ""))


def _fenced(language: str, text: str) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
