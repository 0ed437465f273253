"""Sparse memory finetuning as a PEFT method: `get_peft_model(model, SparseMemoryConfig(...))`.

What is imported here is what users of the method (`smf_lib.method`) need. The study that measures
it is `smf_lib.study` (extra `study`), and what draws and tabulates its records `smf_lib.report`.
"""

import typing as _typing

from .method.background import collect_background, memories, read_rows
from .method.config import SparseMemoryConfig
from .method.layer import ProductKeyMemory
from .method.patches.compose import compose
from .method.patches.patch import RowPatch
from .method.row_adam import RowAdamW, RowSGD
from .method.rules import register_rule, select_rows
from .method.touched import save_touched
from .method.tuner import SparseMemoryModel as _registered_with_peft  # noqa: F401

if _typing.TYPE_CHECKING:
    from .method.callback import SparseMemoryCallback

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


def __getattr__(name: str) -> type:
    """`SparseMemoryCallback`, once it is asked for: it is made of transformers' Trainer.

    That imports PEFT, and PEFT this package (`_smf_lib_startup`), which then can have no Trainer.
    """
    if name != "SparseMemoryCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .method.callback import SparseMemoryCallback

    return SparseMemoryCallback


def __dir__() -> list[str]:
    return __all__
