"""Python files that a profile names in `imports`: rules, metrics, exams and baselines of one's own.

Each is run once when the profile is loaded, before the profile is checked, and may call
`register_rule`, `register_metric`, `register_exam` and `register_baseline`.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path

from .files import short_hash

_LOADED: dict[Path, str] = {}  # files that were run, with their content


def import_file(path: Path) -> None:
    """Run a user's file, unless it was run with this very content.

    Raises:
        ValueError: no such file, none that can be read as UTF-8, no Python file, or it ends in an
            error; one line names file, line and error.
    """
    path = path.resolve()
    if not path.is_file():
        raise ValueError(f"imports: {path} does not exist; give a path from the profile's folder")
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"imports: {path} cannot be read ({error}); save it as UTF-8") from None
    if _LOADED.get(path) == content:
        return
    name = f"smf_user_{path.stem}_{short_hash(str(path))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"imports: {path} is no Python file; let its name end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        places = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        line = places[-1] if places else getattr(error, "lineno", None)
        reason = " ".join(str(error).split())
        raise ValueError(
            f"imports: {path}, line {line}: {type(error).__name__}: {reason}"
        ) from error
    _LOADED[path] = content
