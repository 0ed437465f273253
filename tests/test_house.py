"""The rooms of the package: which may import which, read from the source of every module."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "smf_lib"
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
        else:
            assert top in METHOD_NEEDS | sys.stdlib_module_names, name


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("smf_lib.study")])
def test_the_study_imports_nothing_of_the_report(module):
    assert not {name for name in imports(module) if room(name) == "smf_lib.report"}


@pytest.mark.parametrize("inside", ["smf_lib.method", "smf_lib.study", "smf_lib.report"])
def test_no_import_goes_in_a_circle(inside):
    modules = {module for module in MODULES if room(module) == inside}
    graph = {module: imports(module) & modules for module in modules}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
