"""Digests change with code and only with code."""

import pytest
from helpers_book import notebook, write

from smf_lib import sources


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of four modules: study -> train; figures alone; __init__ -> memory."""
    folder = tmp_path / "smf_lib"
    (folder / "data").mkdir(parents=True)
    for name, text in {
        "__init__": "from .memory import Memory\n\ndef __getattr__(name):\n    from .study import Study\n",
        "memory": "class Memory:\n    rows = 1\n",
        "study": "from . import train\n\nclass Study:\n    pass\n",
        "train": '"""Trains."""\n\ndef fit():\n    """Fit."""\n    return 1  # one\n',
        "figures": "def draw():\n    return 1\n",
    }.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "data" / "a.jsonl").write_text("{}\n")
    monkeypatch.setattr(sources, "PACKAGE", folder)
    return folder


def write_notebook(folder, code, text="# A"):
    return write(notebook(text, (code,)), folder / "nb.ipynb")


def changed(folder, module, text):
    file = folder / f"{module}.py"
    file.write_text(text)


@pytest.mark.parametrize(
    "code",
    [
        "from smf_lib import Study",
        "from smf_lib.study import Study",
        "from smf_lib import study",
        "import smf_lib.study",
        "%matplotlib inline\nfrom smf_lib import Study",
    ],
)
def test_change_of_an_imported_module_changes_the_digest(package, tmp_path, code):
    path = write_notebook(tmp_path, code)
    before = sources.notebook_digest(path)
    changed(package, "train", "def fit():\n    return 2\n")
    assert sources.notebook_digest(path) != before


def test_change_of_another_module_does_not(package, tmp_path):
    path = write_notebook(tmp_path, "from smf_lib import Study")
    before = sources.notebook_digest(path)
    changed(package, "figures", "def draw():\n    return 2\n")
    assert sources.notebook_digest(path) == before
    path = write_notebook(tmp_path, "from smf_lib import Study, figures")
    assert sources.notebook_digest(path) != before


def test_comments_docstrings_and_prose_do_not_count(package, tmp_path):
    path = write_notebook(tmp_path, "from smf_lib import Study")
    before = sources.notebook_digest(path)
    changed(package, "train", '"""Other."""\n\n\ndef fit():\n    # a comment\n    return 1\n')
    write_notebook(tmp_path, "from smf_lib import Study", text="# Another text")
    assert sources.notebook_digest(path) == before


def test_shipped_data_and_code_cells_count(package, tmp_path):
    path = write_notebook(tmp_path, "x = 1")
    before = sources.notebook_digest(path)
    (package / "data" / "a.jsonl").write_text('{"id": 1}\n')
    after = sources.notebook_digest(path)
    assert after != before
    write_notebook(tmp_path, "x = 2")
    assert sources.notebook_digest(path) not in (before, after)


def test_what_the_package_imports_always_counts(package):
    before = sources.code_digest("figures")
    changed(package, "memory", "class Memory:\n    rows = 2\n")
    assert sources.code_digest("figures") != before


def test_a_file_that_is_no_notebook_is_named(package, tmp_path):
    with pytest.raises(ValueError, match="nb.ipynb cannot be read"):
        sources.notebook_digest(tmp_path / "nb.ipynb")
    (tmp_path / "nb.ipynb").write_text("{}")
    with pytest.raises(ValueError, match="is not a Jupyter notebook"):
        sources.notebook_digest(tmp_path / "nb.ipynb")
