"""Tables of what a study can be made of, to which a user's own file can add.

A metric, an exam and a baseline are each one function and one registration. A registered function
is remembered with the file that it stands in, so that a run's key counts that file only where the
run uses it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Entry = TypeVar("Entry")
PACKAGE = Path(__file__).resolve().parents[1]


class Registry(dict[str, Entry]):
    """Entries by name; `kind` ("metric") is what an entry is called in errors."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.functions: dict[str, Callable | str] = {}

    def add(self, name: str, entry: Entry, function: Callable | str) -> None:
        """Register an entry under a name with the function behind it.

        The same function of the same file, loaded once more, takes its own place.

        Raises:
            ValueError: another function is registered under that name.
        """
        known = self.functions.get(name)
        if known is not None and not _are_same(known, function):
            raise ValueError(
                f"{self.kind} {name!r} is registered already; choose another name for it"
            )
        self[name], self.functions[name] = entry, function

    def find(self, name: str) -> Entry:
        """The entry of that name. Raises ValueError with the known names for an unknown one."""
        if name not in self:
            raise ValueError(
                f"{self.kind}={name!r} is unknown; choose one of {', '.join(sorted(self))}, or "
                "name the file that registers it in the profile's `imports`"
            )
        return self[name]

    def source_of(self, name: str) -> Path | None:
        """The user's file that registered an entry; None for what the library brings."""
        return source_of(self.functions[name])


def source_of(function: Callable | str) -> Path | None:
    """The file that a function stands in, or None if that is a file of this library."""
    if isinstance(function, str):
        return None
    path = Path(inspect.unwrap(function).__code__.co_filename).resolve()
    return None if path.is_relative_to(PACKAGE) else path


def load_function(named: Callable | str) -> Callable:
    """A function, or the one that `"module:function"` names, a module of `smf_lib.study`."""
    if not isinstance(named, str):
        return named
    module, _, name = named.partition(":")
    return getattr(importlib.import_module(f"smf_lib.study.{module}"), name)


def _are_same(known: Callable | str, function: Callable | str) -> bool:
    if isinstance(known, str) or isinstance(function, str):
        return known == function
    functions = [inspect.unwrap(known), inspect.unwrap(function)]
    places = [(f.__code__.co_filename, f.__qualname__) for f in functions]
    return places[0] == places[1]
