"""Digests change with code and only with code."""

import shutil

import pytest
from helpers_book import notebook, write

from smf_lib.study.records import sources


@pytest.fixture
def package(tmp_path, monkeypatch):
    """study -> train; figures -> figures.rows -> summary; figures.more and alone by themselves.

    __init__ -> memory, study.
    """
    folder = tmp_path / "smf_lib"
    (folder / "study" / "data").mkdir(parents=True)
    (folder / "figures").mkdir()
    for name, text in {
        "__init__": "from .memory import Memory\n\ndef __getattr__(name):\n"
        "    from .study import Study\n",
        "memory": "class Memory:\n    rows = 1\n",
        "study": "from . import train\n\nclass Study:\n    pass\n",
        "train": '"""Trains."""\n\ndef fit():\n    """Fit."""\n    return 1  # one\n',
        "figures/__init__": "from .rows import draw\n",
        "figures/rows": "from ..summary import level\n\ndef draw():\n    return 1\n",
        "figures/more": "from . import rows\n\nx = 1\n",
        "summary": "level = 1\n",
        "alone": "def fit():\n    return 1\n",
    }.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "study" / "data" / "a.jsonl").write_text("{}\n")
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
    changed(package, "figures/rows", "def draw():\n    return 2\n")
    assert sources.notebook_digest(path) == before
    path = write_notebook(tmp_path, "from smf_lib import Study, figures")
    assert sources.notebook_digest(path) != before


@pytest.mark.parametrize(
    "code",
    [
        "from smf_lib import figures",
        "from smf_lib.figures import draw",
        "from smf_lib.figures import rows",
        "from smf_lib.figures.rows import draw",
        "from smf_lib.figures import more",
        "import smf_lib.figures",
        "import smf_lib.figures.more",
    ],
)
@pytest.mark.parametrize("module", ["figures/__init__", "figures/rows", "summary"])
def test_a_subpackage_counts_with_what_it_imports(package, tmp_path, code, module):
    path = write_notebook(tmp_path, code)
    before = sources.notebook_digest(path)
    changed(package, module, (package / f"{module}.py").read_text() + "y = 2\n")
    assert sources.notebook_digest(path) != before


def test_a_module_of_a_subpackage_counts_only_where_it_is_imported(package, tmp_path):
    path = write_notebook(tmp_path, "from smf_lib import figures")
    before, named = sources.notebook_digest(path), sources.code_digest("figures.more")
    changed(package, "figures/more", "from . import rows\n\nx = 2\n")
    assert sources.notebook_digest(path) == before
    assert sources.code_digest("figures.more") != named


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("from ..alone import fit", "alone"),
        ("from .. import alone", "alone"),
        ("from ..figures.more import x", "figures/more"),
        ("from . import more", "figures/more"),
        ("from .more import x", "figures/more"),
        ("from smf_lib.alone import fit", "alone"),
    ],
)
@pytest.mark.parametrize("importer", ["figures/__init__", "figures/rows"])
def test_imports_inside_a_subpackage_are_followed(package, importer, line, module):
    text = (package / f"{importer}.py").read_text()
    changed(package, importer, f"{text}\ndef later():\n    {line}\n")
    before = sources.code_digest("figures")
    changed(package, module, "x = fit = 3\n")
    assert sources.code_digest("figures") != before


def test_a_change_deep_in_a_package_of_this_repository_is_seen(tmp_path, monkeypatch):
    folder = tmp_path / "smf_lib"
    shutil.copytree(sources.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "PACKAGE", folder)
    assert (folder / "__init__.py").is_file() and (folder / "study" / "data").is_dir()
    before = sources.code_digest("report.figures"), sources.code_digest("study.study")
    for file in (folder / "report" / "figures").glob("*.py"):
        text = file.read_text("utf-8")
        file.write_text(text + "\nmore = 1\n", "utf-8")
        assert sources.code_digest("report.figures") != before[0], file.name
        assert sources.code_digest("study.study") == before[1], file.name
        file.write_text(text, "utf-8")


def test_comments_docstrings_and_prose_do_not_count(package, tmp_path):
    path = write_notebook(tmp_path, "from smf_lib import Study")
    before = sources.notebook_digest(path)
    changed(package, "train", '"""Other."""\n\n\ndef fit():\n    # a comment\n    return 1\n')
    write_notebook(tmp_path, "from smf_lib import Study", text="# Another text")
    assert sources.notebook_digest(path) == before


def test_shipped_data_and_code_cells_count(package, tmp_path):
    path = write_notebook(tmp_path, "x = 1")
    before = sources.notebook_digest(path)
    (package / "study" / "data" / "a.jsonl").write_text('{"id": 1}\n')
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
