"""In a notebook a refusal of ours is one line; what anybody else raises keeps its traceback."""

from __future__ import annotations

import re

import IPython
import nbformat
import pytest
from helpers_book import notebook, write
from IPython.core.interactiveshell import InteractiveShell
from papermill.exceptions import PapermillExecutionError

from smf_lib.study import one_line
from smf_lib.study.notebooks import run_notebook

OURS = [  # code of a cell, and the line that it ends with
    (
        "from smf_lib.study import load_profile\nload_profile('nosuch')",
        "ValueError: profile='nosuch' does not exist",
    ),
    (
        "from smf_lib.study.profiles import load_profile\nload_profile('smoke').run('lora', -1)",
        "ValueError: seed=-1 must be a whole number",
    ),
    (
        (
            "from pathlib import Path\nfrom smf_lib.study.room import _check_writable\n"
            "_check_writable(Path('/dev/null/x'))"
        ),
        "NoRoomError: /dev/null/x cannot be written",
    ),
]
OTHERS = [
    "raise ValueError('mine')",
    "def check():\n    raise ValueError('mine')\ncheck()",
    "open('/nosuch')",
    "int('a')",
    "import torch\ntorch.zeros(2).reshape(3)",
    "import numpy\nnumpy.zeros(2).reshape(3)",
    "from smf_lib.method.sites import layer_number\nlayer_number('model.layers')",  # a slip of ours
    "from smf_lib.study.settings import TrainingSettings\nTrainingSettings(epochs=0)",  # pydantic's
]


@pytest.fixture
def shell(monkeypatch):
    made = InteractiveShell()
    monkeypatch.setattr(IPython, "get_ipython", lambda: made)
    one_line.show_checks_in_one_line()
    return made


def shown(shell, code, capsys):
    """What a cell shows, without colours, and the error that the shell reports."""
    capsys.readouterr()
    done = shell.run_cell(code)
    return plain(capsys.readouterr().out), done.error_in_exec


def plain(text):
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.mark.parametrize(("code", "line"), OURS)
def test_a_refusal_is_a_line_and_the_traceback_can_be_asked_for(code, line, shell, capsys):
    said, error = shown(shell, code, capsys)
    assert type(error).__name__ == line.split(":")[0]
    first, *_, last = said.strip().splitlines()
    assert "use %tb to see the full traceback" in first
    assert line in last and "Traceback" not in said and len(said.strip().splitlines()) <= 3
    shell.run_line_magic("tb", "")
    whole = plain(capsys.readouterr().out)
    assert "Traceback" in whole and line in whole and "smf_lib" in whole


@pytest.mark.parametrize("code", OTHERS)
def test_what_others_raise_is_shown_whole(code, shell, capsys):
    said, error = shown(shell, code, capsys)
    assert error is not None and "Traceback" in said and "use %tb" not in said


def test_how_somebody_wants_errors_shown_is_left_alone(shell):
    def mine(shell, kind, error, traceback, tb_offset=None):
        return None

    shell.set_custom_exc((KeyError,), mine)
    one_line.show_checks_in_one_line()
    assert shell.custom_exceptions == (KeyError,)


def test_where_no_ipython_runs_nothing_happens(monkeypatch):
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    one_line.show_checks_in_one_line()


def test_papermill_still_sees_that_a_notebook_failed(tmp_path):
    source = write(notebook((OURS[0][0],)), tmp_path / "nb.ipynb")
    with pytest.raises(PapermillExecutionError, match="profile='nosuch' does not exist"):
        run_notebook(source, tmp_path / "out.ipynb", {}, tmp_path / "log")
    failed = nbformat.read(tmp_path / "out.failed.ipynb", 4)
    (error,) = (o for c in failed.cells for o in c.get("outputs", ()) if o.output_type == "error")
    told = plain("".join(error.traceback))
    assert error.ename == "ValueError" and OURS[0][1] in told and "Traceback" not in told
