"""Digests change with code and only with code."""

import ast
import importlib.util
import itertools
import json
import shutil

import pytest
from helpers_book import notebook, write

from smf_lib import register_rule
from smf_lib.method.rules import RULES
from smf_lib.study import code, keys
from smf_lib.study.code import (
    EqualCode,
    code_digest,
    notebook_digest,
    read_equal_code,
    rule_digest,
    syntax_digest,
)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package whose files may be changed."""
    folder = tmp_path / "smf_lib"
    shutil.copytree(code.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", folder)
    return folder


def digest(tmp_path, monkeypatch, text):
    (tmp_path / "method").mkdir(exist_ok=True)
    path = tmp_path / "method" / "one.py"
    path.write_text(text)
    code._file_digest.cache_clear()
    monkeypatch.setattr(code, "PACKAGE", tmp_path)
    return code_digest("method/one.py")


PLAIN = """def double(x):
    if x < 0:
        raise ValueError("x is negative")
    return 2 * x
"""


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("def double", '"""A module."""\n\ndef double', True),
        ("(x):\n", '(x):\n    """Twice x."""\n', True),
        ("return", "# a comment\n    return", True),
        ("2 * x", "2*x", True),
        ('"x is negative"', 'f"x={x!r} is negative", x', True),
        ("2 * x", "3 * x", False),
        ("x < 0", "x <= 0", False),
        ("ValueError", "TypeError", False),
        ("def double(x):", "def double(x=1):", False),
        ("    return 2 * x\n", "    return 2 * x\n\n\ny = 1\n", False),
    ],
)
def test_syntax_counts_and_words_do_not(tmp_path, monkeypatch, before, after, same):
    assert before in PLAIN
    first = digest(tmp_path, monkeypatch, PLAIN)
    assert (digest(tmp_path, monkeypatch, PLAIN.replace(before, after, 1)) == first) == same


def test_a_digest_is_the_same_in_every_version_of_python(tmp_path, monkeypatch):
    assert digest(tmp_path, monkeypatch, PLAIN) == "61638daccde6"


def test_a_list_that_names_no_module_is_an_error():
    with pytest.raises(ValueError, match="no module of smf_lib is called 'method/nosuch.py'"):
        code_digest("method/nosuch.py")


def test_every_module_that_is_listed_is_there_and_what_it_imports_is_listed_too():
    """The lists of `keys` are closed: what a listed module imports of ours is in the list."""
    left_out = {  # these decide no number, or are counted by what they make
        "files", "keys", "kept", "materials", "profiles", "settings", "model_cache", "exam", "hub",
        "probes", "config", "registration", "names", "adapters", "step_callers", "touched",
        "distributed",
    }  # fmt: skip
    lists = {"training": keys.TRAINING + keys.METHOD, "writing": keys.WRITING}
    for name, patterns in lists.items():
        files = {path for pattern in patterns for path in code.PACKAGE.glob(pattern)}
        listed = {path.stem for path in files}
        for path in files:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.level:
                    modules = [node.module.rpartition(".")[2]] if node.module else []
                    modules = modules or [alias.name for alias in node.names]
                    assert set(modules) <= listed | left_out, (name, path.name, modules)


def test_a_rule_counts_where_it_is_used(package):
    path, names = package / "method" / "rules.py", ("kl", "tfidf", "all")
    text = path.read_text()
    before = code_digest(*keys.METHOD), [rule_digest(name) for name in names]
    path.write_text(text.replace("torch.log(reads.share / q)", "(reads.share - q)"))
    after = code_digest(*keys.METHOD), [rule_digest(name) for name in names]
    assert after[0] == before[0]
    assert [a == b for a, b in zip(after[1], before[1])] == [False, True, True]
    own = '\n\n@register_rule("ratio")\ndef ratio(reads, background):\n    return reads.share\n'
    path.write_text(text + own)
    assert (code_digest(*keys.METHOD), [rule_digest(name) for name in names]) == before
    assert '("kl", needs_background=True, by_row=True)' in text  # where it may be computed
    path.write_text(text.replace(", by_row=True)", ")"))
    assert [rule_digest(name) for name in names] == before[1]
    path.write_text(text.replace("stable=True", "stable=False"))
    assert code_digest(*keys.METHOD) != before[0]


def imported(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_users_rule_counts_with_its_file(tmp_path, monkeypatch):
    path = tmp_path / "my_rules.py"
    path.write_text(
        "from smf_lib import register_rule\n\n\ndef helper(reads):\n    return -reads.counts\n\n\n"
        '@register_rule("rarest")\ndef rarest(reads, background):\n    return helper(reads)\n'
    )
    imported(path)
    before = rule_digest("rarest")
    path.write_text(path.read_text() + "\n# a comment\n")
    assert rule_digest("rarest") == before
    path.write_text(path.read_text().replace("-reads", "reads"))
    assert rule_digest("rarest") != before
    monkeypatch.delitem(RULES, "rarest")


def test_a_rule_without_a_source_is_refused():
    register_rule("sourceless")(eval("lambda reads, background: reads.counts"))
    try:
        with pytest.raises(ValueError, match="the source of the function <lambda> cannot be found"):
            rule_digest("sourceless")
    finally:
        del RULES["sourceless"]


def test_code_cells_of_a_notebook_count_and_prose_does_not(tmp_path):
    path = write(notebook(("x = 1",)), tmp_path / "nb.ipynb")
    before = notebook_digest(path)
    write(notebook(("x = 1",), title="# Another title"), path)
    assert notebook_digest(path) == before
    write(notebook(("x = 2",)), path)
    assert notebook_digest(path) != before


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    with pytest.raises(ValueError, match="nb.ipynb cannot be read"):
        notebook_digest(tmp_path / "nb.ipynb")
    (tmp_path / "nb.ipynb").write_text("{}")
    with pytest.raises(ValueError, match="is not a Jupyter notebook"):
        notebook_digest(tmp_path / "nb.ipynb")


def note(monkeypatch, tmp_path, *entries):
    path = tmp_path / "equal_code.json"
    path.write_text(json.dumps([entry._asdict() for entry in entries]))
    monkeypatch.setattr(code, "EQUAL", path)
    code._equal_code.cache_clear()


def test_code_with_the_same_numbers_keeps_its_first_digest(package, tmp_path, monkeypatch):
    """Along a chain of changes; another module, or a change that no one noted, has its own."""
    layer = package / "method" / "layer.py"
    note(monkeypatch, tmp_path)
    digests, states = [], []
    for change in ("", "\nfirst = 1\n", "\nsecond = 2\n"):
        layer.write_text(layer.read_text() + change)
        digests.append(code_digest("method/layer.py"))
        states.append(syntax_digest(layer))
    assert len({*digests}) == 3
    chain = [
        EqualCode("method/layer.py", one, other, "a commit", "a reason")
        for one, other in itertools.pairwise(states)
    ]
    note(monkeypatch, tmp_path, *chain)
    assert code_digest("method/layer.py") == digests[0]
    note(monkeypatch, tmp_path, chain[1])
    assert code_digest("method/layer.py") == digests[1]
    note(monkeypatch, tmp_path, *(entry._replace(module="method/mlp.py") for entry in chain))
    assert code_digest("method/layer.py") == digests[2]
    note(monkeypatch, tmp_path, *chain)
    layer.write_text(layer.read_text() + "\nthird = 3\n")
    assert code_digest("method/layer.py") not in digests


def test_a_module_that_is_counted_from_a_state_on_changes_no_earlier_digest(
    package, tmp_path, monkeypatch
):
    layer, both = package / "method" / "layer.py", ("method/layer.py", "method/mlp.py")
    note(monkeypatch, tmp_path)
    alone, first = code_digest("method/mlp.py"), syntax_digest(layer)
    assert code_digest(*both) != alone
    layer.write_text(layer.read_text() + "\nfirst = 1\n")
    chain = [
        EqualCode("method/layer.py", "", first, "a commit", "It is counted now."),
        EqualCode("method/layer.py", first, syntax_digest(layer), "a commit", "A reason."),
    ]
    note(monkeypatch, tmp_path, *chain)
    assert code_digest(*both) == alone
    layer.write_text(layer.read_text() + "\nsecond = 2\n")
    assert code_digest(*both) != alone


def test_each_entry_is_of_a_module_that_keys_count_and_says_why():
    for entry in read_equal_code():
        assert (code.PACKAGE / entry.module).is_file()
        assert entry.before != entry.after and len(entry.commit) == 40 and entry.why.endswith(".")
