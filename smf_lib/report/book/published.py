"""The published edition: the book drawn from recorded studies, with no model, data or training.

Notebooks that only read records are run with their own parameters. Those that load the model are
shown with the outputs that are kept with the records; see `executed`.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

from filelock import FileLock, Timeout

from ...study import notebooks
from ...study.profiles import load_profile
from .address import Code, code_of
from .build import (
    METHODS_PAGE,
    describe_run,
    make_pages,
    notebook_names,
    read_settings,
    shown_runs,
    stage_prose,
    stage_settings,
    write_methods,
    write_page,
)
from .drawn import place
from .executed import DEFAULT, FROM_RECORDS, kept_page
from .pages import BookError, read_notebook, used_values, when, with_outputs, written
from .records_files import archive_of
from .whole import Files


def publish(source: Path, root: Path) -> Path:
    """Draw the notebooks that read records, and build the book at work/published/site.

    source: the repository; root: the folder that holds work/ and results/. Of results/ only
    recorded studies are read, not `local`.

    Returns the first page.

    Raises:
        BookError: nothing is recorded, another process builds here, or a notebook fails; or as
            `build`.
    """
    work, results = root / "work" / "published", root / "results"
    if not any(p.parent.name != "local" for p in results.glob("*/*/*.json")):
        raise BookError(f"{results} holds no recorded study; run this in a clone of the repository")
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / ".lock").acquire(timeout=0):
            return _publish(source, root, work)
    except Timeout:
        raise BookError(f"another process is building in {work}; wait until it is done") from None


def _publish(source: Path, root: Path, work: Path) -> Path:
    """The same, in the folder `work`, in which nothing else is being built."""
    _copy_recorded(root / "results", work / "results")
    with ThreadPoolExecutor(min(len(FROM_RECORDS), os.cpu_count() or 1)) as pool:
        list(pool.map(lambda name: _run(name, source, work), FROM_RECORDS))
    draft = stage_published(source, work, work / ".site")
    files = Files(draft, work / "logs")
    return make_pages(draft, work / "site", work / "logs" / "book.log", files)


def stage_published(source: Path, work: Path, site: Path) -> Path:
    """Put the edition's sources together in the new folder `site` and return it.

    Raises BookError if an executed notebook in `work`/notebooks is missing or does not fit.
    """
    toc = stage_prose(source, site)
    code = code_of(source, read_settings(source))
    for name in notebook_names(toc):
        notebook, page = read_notebook(source / f"{name}.ipynb"), site / f"{name}.ipynb"
        if page.stem in FROM_RECORDS:
            executed = read_notebook(work / f"{name}.ipynb")
            drawn = with_outputs(notebook, executed, name, work)
            header = f"*Drawn from recorded runs{when(executed)}.*"
            records = archive_of(page.stem, work / "results", DEFAULT)
            write_page(drawn, used_values(executed), page, header, code, records)
        elif name == METHODS_PAGE:
            _stage_methods(source, site, code)
        else:
            drawn, values, header = kept_page(page.stem, source, source / "results")
            write_page(drawn, values, page, header, code)
    place(site, work / "results")
    drawn_on = f"Drawn from recorded studies on {written(date.today())}"
    return stage_settings(source, site, toc, drawn_on, code)


def _stage_methods(source: Path, site: Path, code: Code) -> None:
    """Write the page of the notebook that finetunes, with a tab for each run that is kept."""
    profile, found = load_profile(DEFAULT), {}
    for run in shown_runs(profile):
        name = f"{Path(METHODS_PAGE).name}_{run.run_id}"
        drawn, values, header = kept_page(name, source, source / "results")
        if values:
            found[describe_run(profile, run)] = drawn, values
    if found:
        write_methods(profile, found, site, f"*Recorded by profile `{profile.name}`.*", code)
    else:
        write_page(drawn, {}, site / f"{METHODS_PAGE}.ipynb", header, code)


def _copy_recorded(results: Path, copies: Path) -> None:
    """Make `copies` hold what `results` holds, without the studies called `local`."""
    shutil.rmtree(copies, ignore_errors=True)
    shutil.copytree(results, copies, ignore=shutil.ignore_patterns("local"))


def _run(name: str, source: Path, work: Path) -> None:
    """Run a notebook on the records below `work`, in `source`, and keep its executed copy."""
    log = work / "logs" / f"{name}.log"
    target = work / "notebooks" / f"{name}.ipynb"
    script = [sys.executable, "-P", notebooks.__file__]
    done = subprocess.run(
        [*script, f"notebooks/{name}.ipynb", str(target), "--log", str(log)],
        check=False,
        cwd=source,
        env={**os.environ, "SMF_ROOT": str(work)},
    )
    if done.returncode:
        raise BookError(f"notebook {name} failed; what it printed is in {log}")
