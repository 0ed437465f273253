"""Sparse memory finetuning as a PEFT method: `get_peft_model(model, SparseMemoryConfig(...))`.

What is imported here is the method alone (`smf_lib.method`). The study that measures it is
`smf_lib.study` (extra `study`), and what draws and tabulates its records `smf_lib.report`.
"""

from .method.background import collect_background, memories, read_rows
from .method.config import SparseMemoryConfig
from .method.layer import ProductKeyMemory
from .method.patches.compose import RowConflict, compose
from .method.patches.patch import RowPatch
from .method.rules import BackgroundReads, Reads, register_rule, select_rows
from .method.tuner import MemoryMLP, SparseMemoryModel

__version__ = "0.1.0"

__all__ = [
    "BackgroundReads",
    "MemoryMLP",
    "ProductKeyMemory",
    "Reads",
    "RowConflict",
    "RowPatch",
    "SparseMemoryConfig",
    "SparseMemoryModel",
    "collect_background",
    "compose",
    "memories",
    "read_rows",
    "register_rule",
    "select_rows",
]
