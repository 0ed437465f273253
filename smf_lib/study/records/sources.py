"""What a notebook or a module depends on in this package, as short digests of the code itself.

The workflow runs a notebook again when its digest changes: when its own code cells change, or a
module that it imports, directly or not. Comments, docstrings and prose cells do not count.
"""

import ast
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]


def code_digest(*modules: str) -> str:
    """Digest of these modules of `smf_lib` ("study", "figures.rows") and all they import.

    What the package itself imports is always among it.
    """
    parts = [_without_docstrings(module) for module in sorted(_closure(["", *modules]))]
    return _digest(parts)


def notebook_digest(path: str | Path) -> str:
    """Digest of a notebook's code cells, of the modules they import and of the shipped data.

    Raises:
        ValueError: the file is missing or not a notebook.
    """
    cells = code_cells(path)
    modules: set[str] = set()
    for cell in cells:
        modules |= _imports(ast.parse(_plain_python(cell)), None)
    data = [
        hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((PACKAGE / "study" / "data").glob("*.jsonl"))
    ]
    return _digest([cells, code_digest(*modules), data])


def code_cells(path: str | Path) -> list[str]:
    """Source of each code cell of a notebook file. Raises ValueError as `notebook_digest`."""
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except OSError as error:
        raise ValueError(f"notebook {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"notebook {path} is not a Jupyter notebook") from None


def _digest(content) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _plain_python(cell: str) -> str:
    """The cell without lines that only IPython understands."""
    return "\n".join("" if line.lstrip()[:1] in ("%", "!") else line for line in cell.split("\n"))


# In what follows a module is named by its path from the package, with dots: "figures.rows"; "" is
# the package itself, and "figures" the file `figures/__init__.py`.
def _module_file(module: str) -> Path | None:
    path = PACKAGE.joinpath(*module.split(".")) if module else PACKAGE
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def _closure(modules: Iterable[str]) -> set[str]:
    """These modules and all modules of the package that they import, directly or not."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        file = _module_file(module)
        if module in found or file is None:
            continue
        found.add(module)
        above = module.rpartition(".")[0]
        waiting.append(above)  # Python runs a subpackage's `__init__.py` before its modules
        package = module if file.name == "__init__.py" else above
        waiting += _imports(ast.parse(file.read_text(encoding="utf-8")), package)
    return found


def _imports(tree: ast.AST, package: str | None) -> set[str]:
    """Modules of this package that are imported anywhere in `tree`.

    `package` is the subpackage that the code belongs to, from which relative imports start; None
    for code outside the package, as in a notebook.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "smf_lib":
                    found |= set(_public_names().values())
                elif alias.name.startswith("smf_lib."):
                    found.add(alias.name.removeprefix("smf_lib."))
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, package)
            if origin is not None:
                for alias in node.names:
                    found |= _taken(origin, alias.name)
    return found


def _origin(node: ast.ImportFrom, package: str | None) -> str | None:
    """The module that a `from ... import` names, or None where it is not of this package."""
    if node.level == 0:
        first, _, rest = node.module.partition(".")
        return rest if first == "smf_lib" else None
    if package is None:
        return None
    start = package.split(".") if package else []
    start = start[: len(start) - (node.level - 1)]
    return ".".join([*start, *([node.module] if node.module else [])])


def _taken(origin: str, name: str) -> set[str]:
    """Modules behind `name` when it is imported from module `origin`."""
    module = f"{origin}.{name}" if origin else name
    if _module_file(module):
        return {module}
    if origin:
        return {origin}
    public = _public_names()
    return {public[name]} if name in public else set(public.values())


def _public_names() -> dict[str, str]:
    """Where `smf_lib/__init__.py` takes each public name from: name to module."""
    names = {}
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            names.update({alias.asname or alias.name: node.module for alias in node.names})
    return names


def _without_docstrings(module: str) -> str:
    """The module's syntax tree as text: neither comments, nor docstrings, nor layout."""
    tree = ast.parse(_module_file(module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)
