"""Digests of code: its syntax counts, its words do not.

Two files have the same digest if their syntax trees are the same without comments, docstrings,
layout and the texts of errors (the arguments of what is raised). A module whose change was shown to
leave every number as it was keeps the digest that it had before (`equal_code.json`, written by
`benchmarks/same_numbers.py`). A module that was not counted at first has "" before the state from
which it is, so that what was recorded until then stays what it is.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..method.rules import get_rule
from .files import short_hash

PACKAGE = Path(__file__).resolve().parents[1]
RULES = "method/rules.py"
EQUAL = PACKAGE / "study" / "equal_code.json"


class EqualCode(NamedTuple):
    """Two states of a module between which no number differs, to the bit.

    Attributes:
        module: its path in `smf_lib`.
        before, after: its digests; before is "" where the module was not counted.
        commit: the code of before, all of it, that the code of after was compared with.
        why: what was changed, and what for.
    """

    module: str
    before: str
    after: str
    commit: str
    why: str


def read_equal_code() -> list[EqualCode]:
    """What is noted in `equal_code.json`, the oldest first."""
    return _equal_code(EQUAL, EQUAL.stat().st_mtime_ns)


@functools.cache
def _equal_code(path: Path, changed: int) -> list[EqualCode]:
    return [EqualCode(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def code_digest(*patterns: str) -> str:
    """Digest of the modules of `smf_lib` that these patterns name ("method/*.py").

    Of `method/rules.py` everything counts but the registered rules themselves, each of which
    counts where it is used (`rule_digest`).

    Raises:
        ValueError: a pattern that names no module.
    """
    files: set[Path] = set()
    for pattern in patterns:
        found = set(PACKAGE.glob(pattern))
        if not found:
            raise ValueError(f"no module of smf_lib is called {pattern!r}; correct the list")
        files |= found
    digests = [_module_digest(path) for path in sorted(files)]
    return short_hash([digest for digest in digests if digest])


def syntax_digest(path: Path) -> str:
    """Digest of a module as it stands, whatever `equal_code.json` says."""
    return _file_digest(path, path.stat().st_mtime_ns)


def _module_digest(path: Path) -> str:
    """Digest of a module of `smf_lib`, that of the earliest code with the same numbers."""
    module, digest = path.relative_to(PACKAGE).as_posix(), syntax_digest(path)
    for entry in reversed(read_equal_code()):
        if (entry.module, entry.after) == (module, digest):
            digest = entry.before
    return digest


def rule_digest(name: str) -> str:
    """Digest of a selection rule: a shipped rule's function, or the whole file of a user's rule.

    Raises:
        ValueError: an unknown rule, or one whose source cannot be found.
    """
    function = inspect.unwrap(get_rule(name).score)
    if function.__module__ == get_rule.__module__:
        for node in _registered(ast.parse((PACKAGE / RULES).read_text(encoding="utf-8"))):
            if node.name == function.__name__:
                calls = [call for call in node.decorator_list if isinstance(call, ast.Call)]
                for call in calls:  # where it may be computed is not what it is
                    call.keywords = [k for k in call.keywords if k.arg != "by_row"]
                return short_hash(_plain(node))
    return function_digest(function)


def function_digest(function: Callable) -> str:
    """Digest of the file that a user's function stands in (or of its own text, in a notebook).

    Raises:
        ValueError: its source cannot be found.
    """
    function = inspect.unwrap(function)
    try:
        path = Path(inspect.getsourcefile(function) or "")
        if path.is_file():
            return _file_digest(path, path.stat().st_mtime_ns)
        return short_hash(inspect.getsource(function))
    except (OSError, TypeError):
        name = getattr(function, "__name__", function)
        raise ValueError(
            f"the source of the function {name} cannot be found, so it is not known when it "
            "changes; define it in a file"
        ) from None


def notebook_digest(path: str | Path) -> str:
    """Digest of a notebook's code cells.

    Raises:
        ValueError: the file is missing or not a notebook.
    """
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        return short_hash(["".join(c["source"]) for c in cells if c["cell_type"] == "code"])
    except OSError as error:
        raise ValueError(f"notebook {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"notebook {path} is not a Jupyter notebook") from None


@functools.cache
def _file_digest(path: Path, changed: int) -> str:
    """Digest of a file as it was at the time `changed`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    rules = _registered(tree) if path.as_posix().endswith(f"/{RULES}") else []
    tree.body = [node for node in tree.body if node not in rules]
    return short_hash(_plain(tree))


def _registered(tree: ast.Module) -> list[ast.FunctionDef]:
    """The functions of a module that are registered as rules."""
    return [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any("register_rule" in ast.dump(decorator) for decorator in node.decorator_list)
    ]


def _plain(node: Any) -> Any:
    """A syntax tree as nested lists that every version of Python writes alike."""
    if isinstance(node, list):
        return [_plain(part) for part in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        fields["exc"] = node.exc.func
    body = fields.get("body")
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and body:
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            fields["body"] = body[1:]
    return [type(node).__name__, *([name, _plain(value)] for name, value in fields.items())]
