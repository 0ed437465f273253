"""The notebook runner: plain progress lines, whole copies, clear failures."""

import ast
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from helpers_book import notebook, write
from papermill.exceptions import PapermillExecutionError

from smf_lib.report.book.parameters import read_parameters
from smf_lib.study import notebooks
from smf_lib.study.notebooks import (
    PlainLines,
    heading,
    is_whole,
    run_notebook,
    without_places,
)


def test_progress_bar_becomes_few_lines(monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(notebooks.time, "monotonic", lambda: 100.0 + next(clock))
    out = io.StringIO()
    lines = PlainLines("run", [out], seconds=10)
    for percent in range(0, 101, 10):
        lines.write(f"\r{percent}%")
    lines.write("\nnext\n")
    written = out.getvalue().splitlines()
    assert written[-2:] == ["[run] 100%", "[run] next"]
    assert 2 < len(written) < 8


def test_text_in_pieces_is_one_line():
    out = io.StringIO()
    lines = PlainLines("run", [out])
    lines.write("a")
    lines.flush()
    lines.write("b\n")
    assert out.getvalue() == "[run] ab\n"


def test_heading_is_the_last_one_above():
    cells = notebook("## Train\n\ntext", ("1",), ("2",)).cells
    assert heading(cells, 4) == "Train"
    assert heading(cells, 1) == "A title"
    assert heading(cells[1:], 0) == ""


def test_executed_copy_and_log(tmp_path, capsys):
    source = write(notebook("## Part", ("print('seed', seed)",)), tmp_path / "nb.ipynb")
    target, log = tmp_path / "out" / "run-1.ipynb", tmp_path / "logs" / "run-1.log"
    run_notebook(source, target, {"seed": 7}, log)
    assert [p.name for p in target.parent.iterdir()] == ["run-1.ipynb"]
    done = nbformat.read(target, 4)
    assert done.cells[-1].outputs[0].text == "seed 7\n"
    assert "[run-1] cell 3 of 3: Part\n[run-1] seed 7\n" in log.read_text()
    assert log.read_text() == capsys.readouterr().out


def test_the_executed_copy_names_no_folder_of_the_machine_and_carries_its_sum(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("SMF_ROOT", str(tmp_path / 'a "b"'))
    monkeypatch.setenv("LOGNAME", "ada")
    code = """import os, sys
print(os.environ['SMF_ROOT'] + '/x', sys.prefix + '/lib/y', os.environ['SMF_ROOT'])
os.path.expanduser('~/z')"""
    source = write(notebook("## Part", (code,)), tmp_path / "nb.ipynb")
    out = tmp_path / "out.ipynb"
    run_notebook(source, out, {"profile": str(tmp_path / 'a "b"' / "mine.yaml")}, tmp_path / "log")
    done = nbformat.read(out, 4)
    printed, value = done.cells[-1].outputs
    assert printed.text == "./x (environment)/lib/y .\n"
    assert value.data["text/plain"] == "'~/z'"
    assert done.metadata.papermill.parameters == {"profile": "./mine.yaml"}
    assert str(tmp_path) not in out.read_text("utf-8")
    assert is_whole(out)


def test_paths_of_the_machine_are_named_by_their_ends(tmp_path, monkeypatch):
    home, root = tmp_path / "home" / "ada", tmp_path / "a study"
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SMF_ROOT", str(root))
    told = {
        f"{root}": ".",
        f"in {root}, {home}": "in ., ~",
        f"{root}/work/x {root}-other": f"./work/x {root}-other",
        f"read {home}/models/m.gguf.": "read ~/models/m.gguf.",
        f"({tmp_path}/data)": "(data)",
        "at /gone/ada/cache": "at /gone/(user)/cache",
        "and/or 1/2/3 https://ada.org/ada/x ./ada/x": "and/or 1/2/3 https://ada.org/ada/x ./ada/x",
    }
    assert without_places({"a": [*told]}) == {"a": [*told.values()]}
    assert without_places([1, None, 2.5, True]) == [1, None, 2.5, True]


def test_failure_leaves_no_copy_under_its_name(tmp_path, capsys):
    source = write(notebook(("raise ValueError('seed=0 is wrong')",)), tmp_path / "nb.ipynb")
    target = tmp_path / "run.ipynb"
    with pytest.raises(PapermillExecutionError):
        run_notebook(source, target, {}, tmp_path / "run.log")
    assert not target.exists()
    assert (tmp_path / "run.failed.ipynb").is_file()
    assert "failed: ValueError: seed=0 is wrong" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nb.ipynb", "run.failed.ipynb", "run.log"]


def test_nothing_is_left_running_when_the_starter_is_killed(tmp_path):
    marker = tmp_path / "pid"
    code = f"import os, time\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    source = write(notebook((code,)), tmp_path / "nb.ipynb")
    runner = [sys.executable, "-P", str(Path(notebooks.__file__)), str(source)]
    runner += [str(tmp_path / "out.ipynb"), "--log", str(tmp_path / "log")]
    starter = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({runner!r})"],
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: marker.is_file() and marker.read_text(), 120)
    kernel = int(marker.read_text())
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    wait_for(lambda: not psutil.pid_exists(kernel), 60)
    assert not (tmp_path / "out.ipynb").exists()


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
WRONG = {  # how a parameter is annotated: values that it cannot have
    "str": [5, None, True, ["a"], {}],
    "int": ["1", 1.5, None, True, [1]],
    "str or None": [5, False, ["a"], {}],
    "int or None": ["1", 1.5, True, [1]],
    "float or None": ["fast", True, [1.0], {}],
    "list[str]": ["a", None, ["a", 1], [None], {"a": 1}],
    "list[float]": [1.0, None, ["a"], [True], {}],
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_of_every_notebook_refuses_other_kinds(path):
    cells = nbformat.read(path, 4).cells
    (tagged,) = (c.source for c in cells if "parameters" in c.metadata.get("tags", []))
    given = [node for node in ast.parse(tagged).body if isinstance(node, ast.AnnAssign)]
    assert given and len(given) == len(ast.parse(tagged).body)  # each says its type
    for node in given:
        name = ast.unparse(node.target)
        notebooks.check_parameters(path, {name: ast.literal_eval(node.value)})
        for value in WRONG[ast.unparse(node.annotation).strip("'")]:
            with pytest.raises(ValueError, match=f"^{name}=.* must be .*{path.name}") as raised:
                notebooks.check_parameters(path, {name: value})
            assert repr(value) in str(raised.value)


def typed(folder):
    parameters = (
        'profile: str = "tiny"  # a name\nrate: "float or None" = None\nnames: list[str] = []'
    )
    return write(notebook(("print(profile)",), parameters=parameters), folder / "nb.ipynb")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["-p", "profil", "x"], "profil='x': nb.ipynb has no such parameter; it has profile, rate"),
        (["-p", "names", "kl"], "names='kl' must be list[str] (in nb.ipynb)"),
        (["-p", "names", "[kl, 1]"], "names=['kl', 1] must be list[str]"),
        (["-p", "rate", "fast"], "rate='fast' must be float or None"),
        (["-p", "rate", "true"], "rate=True must be float or None"),
        (["-p", "profile", "null"], "profile=None must be str"),
    ],
)
def test_what_no_run_can_be_about_is_one_line_before_a_kernel_starts(given, said, tmp_path, capsys):
    target = tmp_path / "out" / "o.ipynb"
    assert notebooks.main([str(typed(tmp_path)), str(target), *given]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and told.err.startswith(said)
    assert not target.parent.exists()


def test_a_value_from_the_command_line_is_what_it_looks_like():
    texts = ["3e-4", "1", "null", "[kl, tfidf]", "a text", "{", "1.5"]
    values = [3e-4, 1, None, ["kl", "tfidf"], "a text", "{", 1.5]
    assert [notebooks._value(text) for text in texts] == values


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nosuch\.ipynb is no notebook that can be read"):
        run_notebook(tmp_path / "nosuch.ipynb", tmp_path / "o.ipynb", {}, tmp_path / "o.log")


def test_of_a_progress_bar_the_copy_keeps_its_end(tmp_path):
    code = (
        "import sys, time\nfor i in range(3):\n"
        "    sys.stderr.write(f'\\rstep {i}'); sys.stderr.flush(); time.sleep(0.3)\n"
        "print('done')"
    )
    source = write(notebook((code,)), tmp_path / "nb.ipynb")
    assert notebooks.main([str(source), str(tmp_path / "o.ipynb"), "-p", "seed", "3"]) == 0
    outputs = nbformat.read(tmp_path / "o.ipynb", 4).cells[-1].outputs
    assert [(o.name, o.text) for o in outputs] == [("stderr", "step 2"), ("stdout", "done\n")]
    assert "done in" in (tmp_path / "o.log").read_text()


def test_every_parameter_of_the_book_s_notebooks_has_a_type_that_is_known():
    for path in sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, 4).cells
        (cell,) = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
        for p in read_parameters(cell.source):
            assert set(p.kind.split(" or ")) <= set(notebooks.TYPES), (path.name, p)
            notebooks.check_parameters(path, {p.name: ast.literal_eval(p.default)})
