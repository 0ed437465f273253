"""What a build has made is known by its sum; what was changed is told, removed and made again."""

import json

import nbformat
import pytest
from helpers_book import executed, notebook, write

from smf_lib.report.book.sums import find_damaged, note_sums, remove_damaged
from smf_lib.study.notebooks import finish, is_whole


@pytest.fixture
def run(tmp_path):
    """An executed notebook as `run_notebook` leaves it."""
    path = write(executed(notebook(("print(1)",)), seed=1), tmp_path / "notebooks" / "run.ipynb")
    finish(path)
    return path


@pytest.fixture
def pages(tmp_path):
    folder = tmp_path / "site" / "html"
    (folder / "part").mkdir(parents=True)
    (folder / "index.html").write_text("first")
    (folder / "part" / "a page.html").write_text("second")
    note_sums(folder)
    return folder


def edited(path):
    content = json.loads(path.read_text())
    content["cells"][-1]["source"] += "  # another"
    path.write_text(json.dumps(content))


def linked(path):
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES = {
    "emptied": lambda path: path.write_text(""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "edited": edited,
    "other JSON": lambda path: path.write_text("[]"),
    "no sum": lambda path: path.write_text('{"metadata": {}, "cells": []}'),
    "nested": lambda path: path.write_text("[" * 100_000),
    "no text": lambda path: path.write_bytes(b"\xff\xfe"),
    "a broken link": linked,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


def test_what_is_whole_stays(run, pages, capsys):
    (pages / ".DS_Store").write_text("of the system")
    assert find_damaged([run, run.with_name("missing.ipynb")], pages) == []
    assert run.is_file() and (pages / "part" / "a page.html").is_file()
    assert capsys.readouterr().err == ""
    assert nbformat.read(run, 4).metadata.papermill.parameters == {"seed": 1}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_notebook_that_was_changed_is_removed(damage, run, pages, capsys):
    DAMAGES[damage](run)
    assert not is_whole(run)
    damaged = find_damaged([run], pages)
    assert damaged == [run] and (run.exists() or run.is_symlink())  # as a dry run leaves it
    remove_damaged(damaged, pages)
    assert not run.exists() and not run.is_symlink() and pages.is_dir()
    assert capsys.readouterr().err == f"{run} is damaged; what it held is made again\n"


@pytest.mark.parametrize("name", ["index.html", "part/a page.html", "../html.sha256"])
@pytest.mark.parametrize("damage", ["emptied", "truncated", "no text", "a folder"])
def test_pages_that_were_changed_are_removed(name, damage, run, pages, capsys):
    DAMAGES[damage](pages / name)
    remove_damaged(find_damaged([run], pages), pages)
    assert not pages.exists() and run.is_file()
    assert capsys.readouterr().err == f"{pages} is damaged; what it held is made again\n"


def test_a_page_that_is_gone_counts_as_changed(run, pages):
    (pages / "part" / "a page.html").unlink()
    remove_damaged(find_damaged([run], pages), pages)
    assert not pages.exists()
