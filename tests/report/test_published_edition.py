"""The published edition: drawn from recorded studies, whatever else lies in the folder."""

import resource
import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml
from helpers_book import PAGES, REPOSITORY, copy_repository, executed, notebook, write
from helpers_records import make_record
from nbformat import v4

from smf_lib.report.book import published
from smf_lib.report.book.__main__ import main
from smf_lib.report.book.address import Code
from smf_lib.report.book.pages import BookError
from smf_lib.study.records.results import write_record

READS = (
    "import os\nfrom pathlib import Path\n"
    "found = sorted(Path(os.environ['SMF_ROOT'], 'results').rglob('*.json'))\n"
    "print(*(p.relative_to(os.environ['SMF_ROOT']) for p in found))"
)
LOADS = "raise RuntimeError('this edition has no model')"
MODEL = ["01_build_memory", "02_finetune", "04_selection"]


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    """The staged edition of a tiny repository that holds a study `local` as well."""
    root = copy_repository(tmp_path_factory.mktemp("repository"), PAGES)
    for name in published.FROM_RECORDS:
        write(notebook((READS,)), root / "notebooks" / f"{name}.ipynb")
    for name in (*MODEL, "08_patches"):
        write(notebook((LOADS,)), root / "notebooks" / f"{name}.ipynb")
    for study in ("reference", "local"):
        path = root / "results" / "smoke" / study / "base.json"
        write_record(path, make_record("base", profile="smoke", run_id="base"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "make_pages", lambda draft, site, log, files: draft)
        patch.setattr(published, "Files", lambda draft, logs: None)
        return published.publish(root, root)


def cells(edition, name):
    return nbformat.read(edition / "notebooks" / f"{name}.ipynb", 4).cells


@pytest.mark.parametrize("name", published.FROM_RECORDS)
def test_notebooks_that_read_records_see_the_recorded_studies_alone(edition, name):
    text = cells(edition, name)[-1].outputs[0].text
    assert text.split() == ["results/smoke/reference/base.json"]
    assert "*Drawn from recorded runs, " in cells(edition, name)[0].source


@pytest.mark.parametrize("name", MODEL)
def test_notebooks_that_load_a_model_are_shown_and_not_run(edition, name):
    found = cells(edition, name)
    assert "`make book` runs it" in found[0].source and f"files/{name}.ipynb" in found[0].source
    assert found[-1].source == LOADS and not found[-1].outputs


def test_runs_that_are_kept_stand_in_tabs(tmp_path):
    source = notebook(("print(method)",))
    write(source, tmp_path / "notebooks" / "02_finetune.ipynb")
    kept = tmp_path / "results" / "quick" / "reference" / "notebooks"
    for run in ("base", "lora-seed0"):
        said = v4.new_output("stream", name="stdout", text=f"{run} it was\n")
        write(executed(source, [said], method=run), kept / f"02_finetune_{run}.ipynb")
    published._stage_methods(tmp_path, tmp_path / "site", Code("", "main", None, False))
    page = nbformat.read(tmp_path / "site" / "notebooks" / "02_finetune.ipynb", 4)
    assert "*Recorded by profile `quick`.*" in page.cells[0].source
    assert "lora-seed0 it was" in page.cells[-1].source
    assert page.cells[-1].source.count("{tab-item}") == 2


def test_every_chapter_is_there_and_the_footer_says_what_drew_it(edition):
    parts = yaml.safe_load((edition / "_toc.yml").read_text())["parts"]
    files = [chapter["file"] for part in parts for chapter in part["chapters"]]
    assert all(any(edition.glob(f"{file}.*")) for file in files)
    config = (edition / "_config.yml").read_text()
    assert "Drawn from recorded studies on" in config


def test_a_disk_that_is_full_is_one_line(tmp_path, capsys):
    """A limit on the size of files stands for a disk that is full."""
    record = tmp_path / "results" / "mine" / "recorded" / "large.json"
    record.parent.mkdir(parents=True)
    record.write_bytes(b" " * 3_000_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))
    try:
        status = main(["published", "--source", str(REPOSITORY), "--root", str(tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 1 and line.startswith(str(tmp_path)), line
    assert "no space is left on its disk" in line and "the same command" in line


def test_a_folder_without_recorded_studies_is_refused(tmp_path):
    record = make_record("base", run_id="base")
    write_record(tmp_path / "results" / "smoke" / "local" / "base.json", record)
    with pytest.raises(BookError, match="holds no recorded study; run this in a clone"):
        published.publish(REPOSITORY, tmp_path)
    assert not (tmp_path / "work").exists()


def test_jupyter_book_in_a_clone_gives_the_published_edition(tmp_path):
    """`jupyter-book build .`, up to the edition itself, for which a page stands here."""
    for name in ("_config.yml", "_toc.yml", "book", "notebooks"):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copyfile
        copy(REPOSITORY / name, tmp_path / name)
    stand_in = """
from smf_lib.report.book import published
from smf_lib.report.book.address import Code
def publish(source, root):
    page = root / "work" / "published" / "site" / "one.html"
    page.parent.mkdir(parents=True)
    page.write_text("the edition")
    return page
published.publish = publish
from jupyter_book.cli.main import main
main()
"""
    command = [sys.executable, "-c", stand_in, "build", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "_build" / "html" / "one.html").read_text() == "the edition"
    without = "import sys; sys.modules['smf_lib'] = None"
    start = "from jupyter_book.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", f"{without}; {start}", "build", "."],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = [line for line in (done.stdout + done.stderr).splitlines() if "make published" in line]
    assert done.returncode and len(said) == 1
