"""Sparse memory finetuning as a PEFT method: `get_peft_model(model, SparseMemoryConfig(...))`.

What is imported here is what users of the method (`smf_lib.method`) need. The study that measures
it is `smf_lib.study` (extra `study`), and what draws and tabulates its records `smf_lib.report`.
"""

from .method.background import collect_background, memories, read_rows
from .method.callback import SparseMemoryCallback
from .method.config import SparseMemoryConfig
from .method.layer import ProductKeyMemory
from .method.patches.compose import compose
from .method.patches.patch import RowPatch
from .method.row_adam import RowAdamW, RowSGD
from .method.rules import register_rule, select_rows
from .method.touched import save_touched
from .method.tuner import SparseMemoryModel as _registered_with_peft  # noqa: F401

__version__ = "0.1.0"

__all__ = [
    "ProductKeyMemory",
    "RowAdamW",
    "RowPatch",
    "RowSGD",
    "SparseMemoryCallback",
    "SparseMemoryConfig",
    "collect_background",
    "compose",
    "memories",
    "read_rows",
    "register_rule",
    "save_touched",
    "select_rows",
]
