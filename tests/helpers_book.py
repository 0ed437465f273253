"""Tiny notebooks, a tiny repository and copies of this one, for tests of pages and the book."""

import copy
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import v4

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = ["book", "_config.yml", "_toc.yml"]
EVERYTHING = ["smf_lib", "notebooks", "profiles", "Snakefile", *PAGES]  # that a study and book need
PARAMETERS = 'profile = "tiny"  # a profile\'s name\nseed = 0  # a whole number'


def figure_html(caption="Gain, *95 %* interval.", alt="A line that goes up."):
    """What `smf_lib.report.figures.Figure` shows in a notebook."""
    return (
        f'<figure><img src="data:image/png;base64,{PNG}" alt="{alt}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def html_output(html, text="a figure"):
    return v4.new_output("display_data", {"text/html": html, "text/plain": text})


def notebook(*cells, title="# A title\n\nSome text.", parameters=PARAMETERS):
    """A source notebook: title, parameters, then cells (str: Markdown; tuple: code)."""
    made = v4.new_notebook(metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})
    made.cells = [
        v4.new_markdown_cell(title),
        v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
    ]
    for cell in cells:
        new = v4.new_code_cell if isinstance(cell, tuple) else v4.new_markdown_cell
        made.cells.append(new(cell[0] if isinstance(cell, tuple) else cell))
    return made


def executed(source, outputs=(), **values):
    """The executed copy that papermill would leave; `outputs` go to the last code cell."""
    done = copy.deepcopy(source)
    for number, cell in enumerate(c for c in done.cells if c.cell_type == "code"):
        cell.execution_count = number + 1
    [c for c in done.cells if c.cell_type == "code"][-1].outputs = list(outputs)
    injected = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    done.cells.insert(
        2, v4.new_code_cell(f"# Parameters\n{injected}", metadata={"tags": ["injected-parameters"]})
    )
    done.metadata["papermill"] = {
        "parameters": values,
        "end_time": "2026-11-23T10:00:00.000000+00:00",
        "duration": 12.3,
    }
    return done


def write(notebook, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def copy_repository(root: Path, names: Iterable[str] = EVERYTHING) -> Path:
    """Put a copy of these files and folders of the repository into `root`, and return it."""
    root.mkdir(parents=True, exist_ok=True)
    made = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in names:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, root / name, ignore=made)
        else:
            shutil.copyfile(REPOSITORY / name, root / name)
    return root


def environment_of(root: Path) -> dict[str, str]:
    """What a process sees that works in a copy of the repository: the library there, no network."""
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
    environment.pop("SMF_ROOT", None)
    return environment
