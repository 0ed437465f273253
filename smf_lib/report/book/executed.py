"""Executed notebooks that are kept with records, for editions that do not run them.

A notebook that only reads records can be drawn anywhere. One that loads the model cannot: what it
gave on a machine that ran it is kept in `results/<profile>/reference/notebooks/`, with its outputs
and without what belongs to that machine. A page shows it as long as its code is today's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat

from ...method.files import whole
from ...study.notebooks import SUM, finish, is_whole
from .pages import (
    BookError,
    read_notebook,
    used_values,
    when,
    with_outputs,
    without_folders,
    without_outputs,
)

BY_HAND = {"08_patches": "patches"}  # no build waits for it; its profile
DEFAULT = "quick"  # the profile that the others are for
FROM_RECORDS = (
    "00_frontier", "03_results", "05_cost", "06_paper", "06_paper_tables", "07_one_after_another",
)  # fmt: skip
OF_RUNS = "02_finetune"  # executed once a run
PLACE = Path("reference", "notebooks")
NOT_RUN = (
    "*This notebook loads the model, so it is shown without outputs; {} runs it on your machine.*"
)
OTHER_CODE = (
    "*This notebook loads the model. What is on record was given by other code than it has now, so "
    "it is shown without outputs; {} runs it on your machine.*"
)
NOTED = ("duration", "end_time")  # of what papermill notes, the rest names folders


def keep(profile: str, source: Path, root: Path) -> list[Path]:
    """Keep the executed notebooks of a profile that load the model, and return their paths.

    source: the repository, in whose results they are kept; root: the folder that holds work/.

    Raises:
        BookError: there are none, or one was executed with other code than it has now.
    """
    kept = []
    for path in sorted((root / "work" / profile / "notebooks").glob("*.ipynb")):
        name = OF_RUNS if path.stem.startswith(f"{OF_RUNS}_") else path.stem
        if name in FROM_RECORDS:
            continue
        executed = read_notebook(path)
        page = with_outputs(_source(source, name), executed, name, root)
        noted = executed.metadata.get("papermill", {})
        values = {key: without_folders(value) for key, value in used_values(executed).items()}
        page.metadata["papermill"] = {n: noted[n] for n in NOTED if n in noted} | {
            "parameters": values
        }
        target = source / "results" / profile / PLACE / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole(target) as scratch:
            nbformat.write(page, scratch)
            finish(scratch)
        kept.append(target)
    if not kept:
        raise BookError(f"work/{profile}/notebooks holds no executed notebook that loads the model")
    return kept


def kept_page(
    page: str, source: Path, results: Path
) -> tuple[nbformat.NotebookNode, dict[str, Any], str]:
    """A notebook with its kept outputs, the parameters that it had, and a line about them.

    Without outputs where none are kept, or those of other code than the notebook has now; the line
    says which.

    Args:
        page: the page's name, which is the notebook's or, of a run, its name and the run's id.
        source: the repository.
        results: the folder of records.

    Raises:
        BookError: what is kept is damaged, or was changed since.
    """
    name = OF_RUNS if page.startswith(f"{OF_RUNS}_") else page
    profile, notebook = BY_HAND.get(name, DEFAULT), _source(source, name)
    path = results / profile / PLACE / f"{page}.ipynb"
    if not path.is_file():
        return without_outputs(notebook), {}, NOT_RUN.format(_runs(name))
    executed = read_notebook(path)
    if SUM in executed.metadata and not is_whole(path):
        raise BookError(
            f"{path} was changed since it was kept (its sum is another); put the file back, or "
            f"keep it again: python -m smf_lib.report.book keep --profile {profile}"
        )
    try:
        drawn = with_outputs(notebook, executed, name, results)
    except BookError:
        return without_outputs(notebook), {}, OTHER_CODE.format(_runs(name))
    return drawn, used_values(executed), f"*Recorded by profile `{profile}`{when(executed)}.*"


def _runs(name: str) -> str:
    return "papermill" if name in BY_HAND else "`make book`"


def _source(source: Path, name: str) -> nbformat.NotebookNode:
    return read_notebook(source / "notebooks" / f"{name}.ipynb")
