"""Pages of the book from executed notebooks: one parameters table, numbers, clean output.

Figures and tables are numbered, each kind for itself.

The text of a page is that of the notebook in the repository, its outputs are those of the executed
copy, so text can be corrected without running anything again.
"""

import base64
import copy
import re
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup
from nbformat import NotebookNode

from ..text import as_markdown
from .parameters import INJECTED_TAG, TAG, fill_in, parameter_table, read_parameters

WIDGET = "application/vnd.jupyter.widget-view+json"
ASIDE = "remove-cell"  # tag of code that no page shows
CAPTION = re.compile(r"<caption\b[^>]*>")
NUMBERED = '<span class="table-number">'
CELL = "{{cell}}"  # in a caption, until the cell that drew the figure has a label


class BookError(ValueError):
    """The book cannot be built; the message says what is missing or wrong and what to do."""


def read_notebook(path: Path) -> NotebookNode:
    """A notebook file, format 4. Raises BookError if it is missing or is none."""
    if not path.is_file():
        raise BookError(f"{path} is missing; run the study first (make book)")
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise BookError(
            f"{path} is not a whole notebook ({error}); delete it and build again"
        ) from None


def used_values(executed: NotebookNode) -> dict[str, Any]:
    """The parameters that papermill passed to an executed notebook."""
    return dict(executed.metadata.get("papermill", {}).get("parameters", {}))


def when(*executed: NotebookNode) -> str:
    """Last date and whole duration of executed notebooks, or "" if papermill did not note them."""
    noted = [notebook.metadata.get("papermill", {}) for notebook in executed]
    if not all(found.get("end_time") for found in noted):
        return ""
    ended = max(datetime.fromisoformat(found["end_time"]) for found in noted)
    seconds = sum(found.get("duration") or 0.0 for found in noted)
    took = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    return f", {written(ended)}, in {took}"


def written(day: date) -> str:
    """A date in words."""
    return f"{day.day} {day:%B %Y}"


def without_folders(value: object) -> object:
    """A parameter's value with profiles that were given by their paths as their names."""
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    path = Path(value) if isinstance(value, str) else None
    return path.stem if path is not None and path.suffix in (".yaml", ".yml") else value


def with_outputs(
    source: NotebookNode, executed: NotebookNode, name: str, root: Path
) -> NotebookNode:
    """The source notebook with the outputs of its executed copy, without what belongs to a machine.

    Raises BookError if the code that was executed is not that of the source.
    """
    ran = [c for c in executed.cells if _is_own(c) and not _has_tag(c, INJECTED_TAG)]
    code = [c for c in source.cells if _is_own(c)]
    if [c.source for c in ran] != [c.source for c in code]:
        raise BookError(f"{name} was executed with other code than it has now; run it again")
    if any(o.output_type == "error" for c in ran for o in c.outputs):
        raise BookError(f"{name} ended with an error; run it again")
    page = without_outputs(source)
    targets = [c for c in page.cells if _is_own(c)]
    for cell, done in zip(targets, ran):
        cell.outputs = _clean(done.outputs, root)
        cell.execution_count = done.execution_count
    return page


def without_outputs(source: NotebookNode) -> NotebookNode:
    """The source notebook as it is stored, without what an editor has added about itself."""
    page = copy.deepcopy(source)
    page.metadata = {k: page.metadata[k] for k in ("kernelspec", "language_info")}
    return page


def for_download(notebook: NotebookNode, values: dict[str, Any]) -> NotebookNode:
    """A copy to take along: the values that were used stand in its parameters cell."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if _has_tag(cell, TAG):
            cell.source = fill_in(cell.source, values)
    return notebook


def as_page(
    notebook: NotebookNode,
    values: dict[str, Any],
    stem: str,
    header: str,
    code_link: Callable[[str, str, int], str] | None = None,
) -> NotebookNode:
    """A copy to be shown in the book.

    stem: name of the page, from which figures get theirs. header: Markdown shown below the title.
    code_link: Markdown that leads to a function that draws, from its file, name and line; with it
    every figure leads to its cell and its function.
    """
    page = copy.deepcopy(notebook)
    cells: list[NotebookNode] = []
    for cell in page.cells:
        if _has_tag(cell, TAG):
            table = parameter_table(read_parameters(cell.source), values)
            cells.append(nbformat.v4.new_markdown_cell(f":::{{dropdown}} Parameters\n{table}\n:::"))
        elif cell.cell_type == "code":
            cells += _figures(cell, code_link)
        else:
            cells.append(cell)
    _head(cells, stem, header)
    _number_figures(cells, stem)
    number_tables(cells, f"tab-{stem.replace('_', '-')}-")
    page.cells = _lead_to_cells(cells, stem) if code_link else cells
    return page


def _is_own(cell: NotebookNode) -> bool:
    """Whether a cell is the notebook's own code: not the one that installs in Colab."""
    return cell.cell_type == "code" and not _has_tag(cell, ASIDE)


def _has_tag(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def _head(cells: list[NotebookNode], stem: str, header: str) -> None:
    first = cells[0] if cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        raise BookError(f"notebook {stem} must begin with a title (`# ...`)")
    title, _, rest = first.source.partition("\n")
    first.source = f"{title}\n\n{header}\n\n{rest.lstrip()}"


def _clean(outputs: list[NotebookNode], root: Path) -> list[NotebookNode]:
    """Outputs as they are to be read: no progress bars, no warnings, no paths of this machine."""
    kept: list[NotebookNode] = []
    for output in copy.deepcopy(outputs):
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            output.text = _local(_overwritten(output.text), root)
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        else:
            if (
                WIDGET in output.get("data", {})
                or output.get("data", {}).get("text/markdown") == ""
            ):
                continue
            for mime, data in output.get("data", {}).items():
                if isinstance(data, str) and mime.startswith("text/"):
                    output.data[mime] = _local(data, root)
        kept.append(output)
    return kept


def _overwritten(text: str) -> str:
    """What a terminal would show in the end: after a carriage return a line starts anew."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def _local(text: str, root: Path) -> str:
    return text.replace(f"{root}/", "").replace(str(Path.home()), "~")


def _lead_to_cells(cells: list[NotebookNode], stem: str) -> list[NotebookNode]:
    """The cells, with a label before each that draws, and a link to it in the figure's caption."""
    found: list[NotebookNode] = []
    label, place = "", 0
    for cell in cells:
        figure = cell.metadata.get("mystnb", {}).get("figure")
        if cell.cell_type == "code" and cell.source:
            label, place = "", len(found)
        if figure:
            if not label:
                label = f"cell-{figure['name']}"
                found.insert(place, nbformat.v4.new_markdown_cell(f"({label})="))
            figure["caption"] = figure["caption"].replace(CELL, f"{{ref}}`cell <{label}>`")
        found.append(cell)
    return found


def _figures(
    cell: NotebookNode, code_link: Callable[[str, str, int], str] | None
) -> list[NotebookNode]:
    """The cell with its figures as images that have a caption; one cell a figure."""
    cells, current, outputs = [], cell, cell.outputs
    current.outputs = []
    for output in outputs:
        found = figure_of(output)
        if found is None:
            current.outputs.append(output)
            continue
        image, caption, alt, drawn_by = found
        caption += link_to_drawing(drawn_by, code_link, f" in this {CELL}")
        current.outputs.append(image)
        options = current.metadata.setdefault("mystnb", {})
        options.setdefault("figure", {})["caption"] = caption
        options.setdefault("image", {})["alt"] = alt
        cells.append(current)
        current = nbformat.v4.new_code_cell(metadata={"tags": ["remove-input"]})
    if current.outputs or not cells:
        cells.append(current)
    return cells


def _number_figures(cells: list[NotebookNode], stem: str) -> None:
    """Give every figure without a name one: fig-<page>-<number>."""
    named = [
        c.metadata["mystnb"]["figure"] for c in cells if "figure" in c.metadata.get("mystnb", {})
    ]
    for number, figure in enumerate(named, start=1):
        figure.setdefault("name", f"fig-{stem.replace('_', '-')}-{number}")


def number_tables(cells: list[NotebookNode], name: str = "") -> None:
    """Begin the caption of every table in the cells' outputs with its number on the page.

    name: what the name of a table begins with, to which others can link; without it, none. Tables
    that have a number keep it.
    """
    count = 0

    def numbered(caption: re.Match[str]) -> str:
        nonlocal count
        count += 1
        place = f' id="{name}{count}"' if name else ""
        return f"<caption{place}>{NUMBERED}Table {count}.</span> "

    for output in (output for cell in cells for output in cell.get("outputs", [])):
        html = output.get("data", {}).get("text/html", "")
        if NUMBERED not in html and "<table" in html:
            output.data["text/html"] = CAPTION.sub(numbered, html)


def link_to_drawing(
    drawn_by: str, code_link: Callable[[str, str, int], str] | None, where: str = ""
) -> str:
    """What a caption ends with: a link to the function that drew (`file:name:line`), if known."""
    if code_link is None or drawn_by.count(":") != 2:
        return ""
    file, name, line = drawn_by.split(":")
    return f" (Drawn by {code_link(file, name, int(line))}{where}.)"


def figure_of(output: NotebookNode) -> tuple[NotebookNode, str, str, str] | None:
    """Image, caption as Markdown, alternative text and drawing function of a figure's output."""
    html = output.get("data", {}).get("text/html", "")
    if "<figure" not in html:
        return None
    figure = BeautifulSoup(html, "html.parser").find("figure")
    image, caption = (figure and figure.find(name) for name in ("img", "figcaption"))
    alt = str(image.get("alt") or "") if image else ""
    if image is None or caption is None or not alt:
        return None
    kind, comma, data = str(image["src"]).partition(",")
    mime = kind.removeprefix("data:").removesuffix(";base64")
    if not comma or mime not in ("image/png", "image/svg+xml"):
        return None
    if mime == "image/svg+xml":
        data = base64.b64decode(data).decode()
    shown = nbformat.v4.new_output("display_data", {mime: data, "text/plain": alt})
    drawn_by = str(figure.get("data-drawn-by") or "") if figure else ""
    return shown, as_markdown(caption.text), alt, drawn_by
