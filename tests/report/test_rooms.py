"""The rooms of the report: imports go downwards only."""

import ast
from pathlib import Path

import smf_lib.report

FOLDER = Path(smf_lib.report.__file__).parent
ORDER = ("text", "measures", "analysis", "figures", "paper", "book")


def rooms_imported(path):
    """The rooms of the report that a module imports from, also where it does so in a function."""
    module = ("smf_lib", "report", *path.relative_to(FOLDER).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = module[: len(module) - node.level] if node.level else ()
            names = (*above, *(node.module or "").split("."))
            whole = [(*filter(None, names), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            whole = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        found |= {name[2] for name in whole if name[:2] == ("smf_lib", "report") and len(name) > 2}
    return found


def test_a_room_imports_only_from_rooms_below_it():
    modules = [path for path in FOLDER.rglob("*.py") if path.parent != FOLDER or path.stem in ORDER]
    assert {path.relative_to(FOLDER).with_suffix("").parts[0] for path in modules} == set(ORDER)
    for path in modules:
        room = path.relative_to(FOLDER).with_suffix("").parts[0]
        above = {name for name in rooms_imported(path) if ORDER.index(name) > ORDER.index(room)}
        assert not above, f"{path.relative_to(FOLDER)} imports from {sorted(above)}"
    assert rooms_imported(FOLDER / "paper" / "figure.py") >= {"analysis", "figures", "text"}
