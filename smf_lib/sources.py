"""What a notebook or a module depends on in this package, as short digests of the code itself.

The workflow runs a notebook again when its digest changes: when its own code cells change, or a
module that it imports, directly or not. Comments, docstrings and prose cells do not count.
"""

import ast
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def code_digest(*modules: str) -> str:
    """Digest of these modules of `smf_lib` ("study", not "smf_lib.study") and all they import.

    What the package itself imports is always among it.
    """
    parts = [_without_docstrings(module) for module in sorted(_closure(["__init__", *modules]))]
    return _digest(parts)


def notebook_digest(path: str | Path) -> str:
    """Digest of a notebook's code cells, of the modules they import and of the shipped data.

    Raises:
        ValueError: the file is missing or not a notebook.
    """
    cells = code_cells(path)
    modules: set[str] = set()
    for cell in cells:
        modules |= _imports(ast.parse(_plain_python(cell)), "")
    data = [
        hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((PACKAGE / "data").glob("*.jsonl"))
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


def _module_file(module: str) -> Path | None:
    file = PACKAGE / f"{module}.py"
    return file if file.is_file() else None


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
        waiting += _imports(ast.parse(file.read_text(encoding="utf-8")), "smf_lib")
    return found


def _imports(tree: ast.AST, package: str) -> set[str]:
    """Modules of this package that are imported anywhere in `tree`.

    `package` is the package that the code belongs to ("" for a notebook): a relative import is
    one from there.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "smf_lib":
                    found |= set(_public_names().values())
                elif alias.name.startswith("smf_lib."):
                    found.add(alias.name.split(".")[1])
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level and package:
                origin = f"{package}.{origin}".rstrip(".")
            if origin == "smf_lib":
                for alias in node.names:
                    module = alias.name if _module_file(alias.name) else None
                    module = module or _public_names().get(alias.name)
                    found |= {module} if module else set(_public_names().values())
            elif origin.startswith("smf_lib."):
                found.add(origin.split(".")[1])
    return found


def _public_names() -> dict[str, str]:
    """Where `smf_lib/__init__.py` takes each public name from: name to module."""
    names = {}
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            names.update({alias.asname or alias.name: node.module for alias in node.names})
    return names


def _without_docstrings(module: str) -> str:
    """The module's syntax tree as text: neither comments, nor docstrings, nor layout."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)
