"""The book: its sources put together from prose and executed notebooks, built, and checked."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import nbformat
import yaml

from ...method.files import put_in_place
from ...study.profiles import Profile, RunSpec
from ...study.records.record import Record
from ...study.records.results import ResultsError, read_record
from ..text import as_markdown
from .address import Code, code_of
from .drawn import place
from .executed import BY_HAND, kept_page
from .mend import mend
from .pages import (
    BookError,
    as_page,
    for_download,
    read_notebook,
    used_values,
    when,
    with_outputs,
    without_folders,
    written,
)
from .records_files import archive_of
from .site_check import check_site
from .slides import make_slides
from .sums import note_sums
from .tabs import in_tabs
from .whole import Files

HTML = Path("_build") / "html"
PACKAGE = Path(__file__).resolve().parents[2]
METHODS_PAGE = "notebooks/02_finetune"
NOTHING = (
    ":::{{warning}}\nProfile `{}` puts the pipeline to the test. **The numbers on this page mean "
    "nothing.**\n:::\n\n"
)


def stage(profile: Profile, source: Path, root: Path, site: Path) -> Path:
    """Put the book's sources together in the new folder `site` and return it.

    source: the repository; root: the folder that holds work/ and results/.

    Raises:
        BookError: an executed notebook or a record is missing or does not fit.
    """
    records = {run.run_id: _record(profile, run, root) for run in profile.runs()}
    toc = stage_prose(source, site)
    code = code_of(source, read_settings(source))
    machines = _machines(records.values())
    for name in notebook_names(toc):
        if name == METHODS_PAGE:
            _stage_methods(profile, source, root, site, code, machines)
        elif Path(name).name in BY_HAND:
            notebook, values, header = kept_page(Path(name).name, source, source / "results")
            write_page(notebook, values, site / f"{name}.ipynb", header, code)
        else:
            _stage_notebook(profile, source, root, site, name, code, machines)
    place(site, root / "results")
    drawn = f"Drawn by profile {profile.name} on {machines}, {written(date.today())}"
    return stage_settings(source, site, toc, drawn, code)


def stage_prose(source: Path, site: Path) -> dict:
    """Put the chapters' prose into the new folder `site`, and return the table of contents."""
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(source / "book", site / "book", ignore=shutil.ignore_patterns("*.py", "__py*"))
    return yaml.safe_load((source / "_toc.yml").read_text("utf-8"))


def read_settings(source: Path) -> dict[str, Any]:
    """The book's settings as the repository has them."""
    return yaml.safe_load((source / "_config.yml").read_text("utf-8"))


def stage_settings(source: Path, site: Path, toc: dict, drawn: str, code: Code) -> Path:
    """Put the table of contents, the settings with buttons and a footer, and styles into `site`.

    drawn: a sentence for the footer, without its full stop. Returns `site`.
    """
    _write(site / "_toc.yml", yaml.safe_dump(toc, sort_keys=False))
    config = read_settings(source)
    config.pop("repository", None)
    for name in config["sphinx"].pop("local_extensions", {}):
        config["sphinx"]["config"]["extensions"].remove(name)
    options = config["sphinx"]["config"]["html_theme_options"]
    options |= {"extra_footer": code.footer(drawn), **code.theme_options()}
    _write(site / "_config.yml", yaml.safe_dump(config, sort_keys=False))
    (site / "assets").mkdir()
    for style in sorted((source / "book" / "_static").glob("*.css")):
        shutil.copyfile(style, site / "assets" / style.name)
    if (site / "book" / "teachers" / "slides.md").is_file():
        make_slides(site, site / "assets" / "slides.html")
    return site


def build(profile: Profile, source: Path, root: Path, log: Path) -> Path:
    """Stage, build and check the book; the pages at work/<profile>/site appear when all is well.

    Returns the first page. The output of Jupyter Book goes to `log`.

    Raises:
        BookError: as `stage`; a warning or error while building; a problem that `check_site` finds.
    """
    work = root / "work" / profile.name
    return make_pages(stage(profile, source, root, work / ".site"), work / "site", log)


def make_pages(draft: Path, site: Path, log: Path, files: Files | None = None) -> Path:
    """Build and check the staged book `draft`; it becomes `site` when all is well.

    files: the book in one file, begun before, to be put into the pages. Returns and raises as
    `build`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", "-W", "-n", "--keep-going"]
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [*command, str(draft)], check=False, stdout=file, stderr=subprocess.STDOUT
        )
    if done.returncode:
        said = log.read_text("utf-8", errors="replace").splitlines()
        faults = [line for line in said if "WARNING" in line or "ERROR" in line] or said[-20:]
        raise BookError("\n".join([f"Jupyter Book failed; all it said is in {log}:", *faults]))
    for copy in (draft / "notebooks" / "files").glob("*.ipynb"):
        shutil.copyfile(copy, draft / HTML / "_sources" / "notebooks" / copy.name)
    if files:
        files.put_into(draft / HTML)
    mend(draft / HTML)
    problems = check_site(draft / HTML)
    if problems:
        raise BookError("\n".join(["the built pages have faults:", *problems]))
    note_sums(draft / HTML)
    put_in_place(draft, site)
    return site / HTML / "index.html"


def shown_runs(profile: Profile) -> list[RunSpec]:
    """The runs that have a tab of their own: of a method's seeds the first."""
    return [run for run in profile.runs() if run.seed == profile.seeds_of(run.method)[0]]


def describe_run(profile: Profile, run: RunSpec) -> str:
    """The method's label, with the learning rate where a method has several."""
    swept = isinstance(profile.methods[run.method].learning_rate, list)
    return run.settings.label + (f", learning rate {run.learning_rate:g}" if swept else "")


def _record(profile: Profile, run: RunSpec, root: Path) -> Record:
    path = root / "results" / profile.name / "local" / f"{run.run_id}.json"
    if not path.is_file():
        raise BookError(f"record {path} is missing; run the study first (make book)")
    try:
        return read_record(path)
    except ResultsError as error:
        raise BookError(str(error)) from None


def _stage_notebook(
    profile: Profile,
    source: Path,
    root: Path,
    site: Path,
    name: str,
    code: Code,
    machines: str,
) -> None:
    """Write the page of notebook `name`."""
    executed = read_notebook(root / "work" / profile.name / f"{name}.ipynb")
    notebook = with_outputs(read_notebook(source / f"{name}.ipynb"), executed, name, root)
    records = archive_of(Path(name).name, root / "results", profile.name)
    header = _drawn_by(profile, machines, executed)
    write_page(notebook, used_values(executed), site / f"{name}.ipynb", header, code, records)


def _stage_methods(
    profile: Profile, source: Path, root: Path, site: Path, code: Code, machines: str
) -> None:
    """Write the page of the notebook that finetunes: one, with a tab for each method.

    To download is the notebook of one run, the last that is shown.
    """
    plain = read_notebook(source / f"{METHODS_PAGE}.ipynb")
    executions, executed = {}, []
    for run in shown_runs(profile):
        name = f"{METHODS_PAGE}_{run.run_id}"
        executed.append(read_notebook(root / "work" / profile.name / f"{name}.ipynb"))
        drawn = with_outputs(plain, executed[-1], name, root)
        executions[describe_run(profile, run)] = drawn, used_values(executed[-1])
    header = _drawn_by(profile, machines, *executed)
    write_methods(profile, executions, site, header, code)


def write_methods(
    profile: Profile,
    executions: Mapping[str, tuple[nbformat.NotebookNode, dict[str, Any]]],
    site: Path,
    header: str,
    code: Code,
) -> None:
    """Write the page of the notebook that finetunes, with a tab for each execution.

    executions: notebook with outputs, and the values that it was given, by the title of its tab.
    header: Markdown that says what drew the page. To download is the last execution.
    """
    several = any(len(profile.seeds_of(name)) > 1 for name in profile.methods)
    header += (
        " One notebook, executed once for each method: the same model, questions and probes, other "
        f"parameters; a tab for each.{' Of several seeds the first is shown.' if several else ''} "
        "{doc}`03_results` puts the outcomes side by side, {doc}`/book/rerun` says how to run it "
        "with parameters of your own."
    )
    notebooks, values = (dict(zip(executions, part)) for part in zip(*executions.values()))
    given = list(values.values())
    used = {name: _of_all([one.get(name) for one in given]) for name in given[0]}
    path = site / f"{METHODS_PAGE}.ipynb"
    page = in_tabs(notebooks, path.with_suffix(""), _code_link(code, path))
    write_page(page, used, path, header, code, download=list(executions.values())[-1])


def _of_all(values: list[Any]) -> Any:
    """What all executions were given: the one value, or the list of all where they differ."""
    return values[0] if all(value == values[0] for value in values) else values


def _drawn_by(profile: Profile, machines: str, *executed: nbformat.NotebookNode) -> str:
    """What a page says of itself below its title."""
    nothing = NOTHING.format(profile.name) if profile.means_nothing else ""
    return f"{nothing}*Profile `{profile.name}`, run on {as_markdown(machines)}{when(*executed)}.*"


def write_page(
    notebook: nbformat.NotebookNode,
    values: dict[str, Any],
    path: Path,
    header: str,
    code: Code,
    records: bytes | None = None,
    download: tuple[nbformat.NotebookNode, dict[str, Any]] | None = None,
) -> None:
    """Write a notebook as the page `path`, and a copy of it to download; see `as_page`.

    records: an archive of those that the page draws, to download as well. download: notebook and
    values of the copy, where they are others than the page's.
    """
    copy = path.parent / "files" / path.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    taken, used = download or (notebook, values)
    nbformat.write(for_download(taken, _named(used)), copy)
    header += f" {{download}}`Download this notebook <files/{path.name}>`"
    if records:
        name = f"{path.stem}_records.zip"
        (copy.parent / name).write_bytes(records)
        header += f", {{download}}`and the records that it draws <files/{name}>`"

    page = as_page(notebook, _named(values), path.stem, header, _code_link(code, path))
    nbformat.write(page, path)


def _code_link(code: Code, path: Path) -> Callable[[str, str, int], str]:
    """What leads from the page `path` to a function: its address, or its file to download."""

    def link(file: str, name: str, line: int) -> str:
        if address := code.link(file, line):
            return f"[`{name}`]({address})"
        taken = path.parent / "files" / Path(file).name
        taken.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE.parent / file, taken)
        return f"{{download}}`{name} <files/{taken.name}>`"

    return link


def _named(values: dict[str, Any]) -> dict[str, Any]:
    return {name: without_folders(value) for name, value in values.items()}


def _machines(records: Iterable[Record]) -> str:
    """The machines of these records, in words."""
    found = []
    for record in records:
        hardware = record.hardware
        memory = f"{hardware.memory_bytes / 2**30:.0f} GiB"
        gpu = f", {hardware.gpu}" if hardware.gpu else ""
        found.append(f"{hardware.cpu} ({hardware.cores} cores, {memory}{gpu})")
    return " and ".join(dict.fromkeys(found))


def notebook_names(toc: dict) -> list[str]:
    """The notebooks among the chapters, in reading order, without their ending."""
    chapters = list(toc.get("chapters", []))
    for part in toc.get("parts", []):
        chapters += part["chapters"]
    return [c["file"] for c in chapters if c["file"].startswith("notebooks/")]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
