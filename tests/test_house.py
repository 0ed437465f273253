"""The rooms of the package: which may import which, read from the source of every module."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "smf_lib"
WHY = PACKAGE.parent / "book" / "why.md"
PUBLIC = {"_asdict", "_replace", "_exit"}  # of Python; its documentation tells of them
METHOD_NEEDS = {"torch", "transformers", "peft", "safetensors", "tqdm"}
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(module: str) -> set[str]:
    """Every module that this one imports, anywhere in it and for types too, by absolute name."""
    path, found = MODULES[module], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, node.module or ""] if node.level else [node.module or ""])
            base = base.rstrip(".")
            for alias in node.names:  # a submodule, or a name that the package itself has
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in MODULES else base)
    return found - {module}


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def ours_and_private(path: Path) -> tuple[set[str], set[str]]:
    """The names that a file defines, and those with one underscore that it asks an object for."""
    ours, private = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            ours.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            ours.add(node.target.id)  # a field of a dataclass
        elif isinstance(node, ast.Attribute):
            of_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            if of_self and isinstance(node.ctx, ast.Store):
                ours.add(node.attr)
            if node.attr.startswith("_") and not node.attr.startswith("__"):
                private.add(node.attr)
    return ours, private


def test_private_names_of_other_packages_are_told_with_their_place():
    found = {path: ours_and_private(path) for path in MODULES.values()}
    ours = {name for defined, _ in found.values() for name in defined}
    rows = WHY.read_text(encoding="utf-8").splitlines()
    places = [(p.relative_to(PACKAGE), name) for p, (_, used) in found.items() for name in used]
    foreign = [(str(place), name) for place, name in places if name not in ours | PUBLIC]
    assert ("method/tape.py", "_current_graph_task_id") in foreign and len(foreign) > 5
    missing = [
        (place, name)
        for place, name in foreign
        if not any(
            f"`{place}`" in row and ("_member" in name or f"`{name}`" in row) for row in rows
        )
    ]
    assert missing == []


def test_the_modules_are_read():
    assert "smf_lib.method.row_adam" in MODULES and len(MODULES) > 50
    assert "smf_lib.method.layer" in imports("smf_lib.method.row_adam")
    assert "smf_lib.method.patches.patch" in imports("smf_lib.method.patches.compose")


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("smf_lib.method")])
def test_the_method_imports_nothing_of_the_other_rooms_and_five_packages(module):
    for name in imports(module):
        top = name.partition(".")[0]
        if top == "smf_lib":
            assert room(name) == "smf_lib.method", name
        elif (module, top) != ("smf_lib.method.kernels", "triton"):  # used where there is one
            assert top in METHOD_NEEDS | sys.stdlib_module_names, name


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("smf_lib.study")])
def test_the_study_imports_nothing_of_the_report(module):
    assert not {name for name in imports(module) if room(name) == "smf_lib.report"}


def test_training_and_building_never_measure_and_measuring_never_trains():
    train = [m for m in MODULES if m.startswith("smf_lib.study.training")]
    measure = [m for m in MODULES if m.startswith("smf_lib.study.evaluation")]
    assert len(train) > 5 and len(measure) > 5
    for modules, other in (
        ([*train, "smf_lib.study.build"], "smf_lib.study.evaluation"),
        ([*measure, "smf_lib.study.build"], "smf_lib.study.training"),
    ):
        for module in modules:
            found = {n for n in imports(module) if n == other or n.startswith(f"{other}.")}
            assert not found, (module, found)


@pytest.mark.parametrize("inside", ["smf_lib.method", "smf_lib.study", "smf_lib.report"])
def test_no_import_goes_in_a_circle(inside):
    modules = {module for module in MODULES if room(module) == inside}
    graph = {module: imports(module) & modules for module in modules}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
