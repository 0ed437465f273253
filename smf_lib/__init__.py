"""Sparse memory finetuning: the method, the study around it, and its figures."""

from .background import collect_background
from .config import SparseMemoryConfig
from .memory import ProductKeyMemory
from .method import MemoryMLP, SparseMemoryModel
from .profiles import Profile, load_profile
from .selection import BackgroundReads, Reads, register_rule, select_rows

__version__ = "0.1.0"

__all__ = [
    "BackgroundReads",
    "MemoryMLP",
    "ProductKeyMemory",
    "Profile",
    "Reads",
    "SparseMemoryConfig",
    "SparseMemoryModel",
    "collect_background",
    "load_profile",
    "register_rule",
    "select_rows",
]
