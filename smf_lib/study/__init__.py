"""The study of the method: a profile is read, its runs are trained, measured and recorded."""

from typing import Any

from .profiles import Profile, load_profile

__all__ = ["Profile", "Study", "load_profile"]


def __getattr__(name: str) -> Any:
    """`Study` needs the evaluation harness, which is slow to import: load it when asked for."""
    if name == "Study":
        from .study import Study

        return Study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
