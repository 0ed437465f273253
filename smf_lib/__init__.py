"""Sparse memory finetuning: the method, the study around it, and its figures."""

from .background import collect_background, memories, read_rows
from .compose import RowConflict, compose
from .config import SparseMemoryConfig
from .memory import ProductKeyMemory
from .method import MemoryMLP, SparseMemoryModel
from .patches import RowPatch
from .profiles import Profile, load_profile
from .selection import BackgroundReads, Reads, register_rule, select_rows
from .training.frozen import kept_casts

__version__ = "0.1.0"

__all__ = [
    "BackgroundReads",
    "MemoryMLP",
    "ProductKeyMemory",
    "Profile",
    "Reads",
    "RowConflict",
    "RowPatch",
    "SparseMemoryConfig",
    "SparseMemoryModel",
    "Study",
    "collect_background",
    "compose",
    "kept_casts",
    "load_profile",
    "memories",
    "read_rows",
    "register_rule",
    "select_rows",
]


def __getattr__(name: str):
    """`Study` needs the evaluation harness, which is slow to import: load it when asked for."""
    if name == "Study":
        from .study import Study

        return Study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
