"""The study of the method: a profile is read, its runs are trained, measured and recorded."""

from typing import Any

from .one_line import show_checks_in_one_line
from .profiles import Profile, load_profile

__all__ = ["Profile", "Study", "load_profile"]

show_checks_in_one_line()


def __getattr__(name: str) -> Any:
    """`Study` needs the evaluation harness, which is slow to import: load it when asked for."""
    if name == "Study":
        from .study import Study

        return Study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
