"""The parameters of a notebook: read from its `parameters` cell, shown as a table, filled in."""

import ast
import io
import tokenize
from dataclasses import dataclass
from typing import Any

from ..text import as_code

TAG = "parameters"
INJECTED_TAG = "injected-parameters"


@dataclass(frozen=True)
class Parameter:
    """One parameter: its name, default and type as written, and the comment beside it."""

    name: str
    default: str
    meaning: str
    kind: str = ""


def read_parameters(cell: str) -> list[Parameter]:
    """The assignments of a parameters cell.

    The meaning is the comment on the same line; where there is none, the comment lines directly
    above.
    """
    inline, own = _comments(cell)
    found = []
    for name, node, value in _assignments(cell):
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        meaning = [inline[n] for n in lines if n in inline]
        line = node.lineno - 1
        while not inline.keys() & lines and line in own:
            meaning.insert(0, own[line])
            line -= 1
        default = ast.get_source_segment(cell, value) or ""
        kind = getattr(node, "annotation", None)
        written = "" if kind is None else ast.unparse(kind).strip("'\"")
        found.append(Parameter(name, default, " ".join(meaning), written))
    return found


def fill_in(cell: str, values: dict[str, Any]) -> str:
    """The parameters cell with other values and the same comments."""
    lines = cell.split("\n")
    for name, _, value in reversed(_assignments(cell)):
        if name not in values:
            continue
        first, last = value.lineno - 1, (value.end_lineno or value.lineno) - 1
        before = lines[first].encode()[: value.col_offset].decode()
        after = lines[last].encode()[value.end_col_offset :].decode()
        lines[first : last + 1] = [f"{before}{values[name]!r}{after}"]
    return "\n".join(lines)


def parameter_table(parameters: list[Parameter], values: dict[str, Any]) -> str:
    """A Markdown table of all parameters with the values that were used."""
    rows = [
        "| parameter | value used | default | type | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for p in parameters:
        used = repr(values[p.name]) if p.name in values else p.default
        used, default = (_in_table(as_code(text)) for text in (used, p.default))
        meaning = _in_table(p.meaning).replace("<", "&lt;")
        kind = _in_table(as_code(p.kind)) if p.kind else ""
        rows.append(f"| `{p.name}` | {used} | {default} | {kind} | {meaning} |")
    return "\n".join(rows)


def _in_table(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _assignments(cell: str) -> list[tuple[str, ast.Assign | ast.AnnAssign, ast.expr]]:
    """Name, statement and value of every assignment, with a type or without."""
    found: list[tuple[str, ast.Assign | ast.AnnAssign, ast.expr]] = []
    for node in ast.parse(cell).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.append((node.targets[0].id, node, node.value))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            found.append((node.target.id, node, node.value))
    return found


def _comments(cell: str) -> tuple[dict[int, str], dict[int, str]]:
    """Comments by line number: those beside code, and those on lines of their own."""
    inline: dict[int, str] = {}
    own: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(cell).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("#").strip()
            (own if token.line.lstrip().startswith("#") else inline)[token.start[0]] = text
    return inline, own
