"""Sparse memory finetuning as a PEFT method: `get_peft_model(model, SparseMemoryConfig(...))`.

What is imported here is what users of the method (`smf_lib.method`) need. The study that measures
it is `smf_lib.study` (extra `study`), and what draws and tabulates its records `smf_lib.report`.
"""

import importlib as _importlib
import typing as _typing

from .method.arguments import (
    collect_background,
    memories,
    read_rows,
    register_rule,
    select_rows,
)
from .method.config import SparseMemoryConfig
from .method.layer import ProductKeyMemory
from .method.patches.compose import compose
from .method.patches.patch import RowPatch
from .method.row_adam import RowAdamW, RowSGD
from .method.touched import save_touched
from .method.tuner import SparseMemoryModel as _registered_with_peft  # noqa: F401

if _typing.TYPE_CHECKING:
    from .method.callback import SparseMemoryCallback
    from .method.distributed import TrainingState, shard_base
    from .method.export import export

__version__ = "0.1.0"

__all__ = [
    "ProductKeyMemory",
    "RowAdamW",
    "RowPatch",
    "RowSGD",
    "SparseMemoryCallback",
    "SparseMemoryConfig",
    "TrainingState",
    "collect_background",
    "compose",
    "export",
    "memories",
    "read_rows",
    "register_rule",
    "save_touched",
    "select_rows",
    "shard_base",
]
_LATER = {
    "SparseMemoryCallback": "callback",
    "TrainingState": "distributed",
    "export": "export",
    "shard_base": "distributed",
}


def __getattr__(name: str) -> _typing.Any:
    """What is imported once it is asked for.

    The callback is made of transformers' Trainer, which imports PEFT, and PEFT this package
    (`_smf_lib_startup`), which then can have no Trainer. The others take a while to import.
    """
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_importlib.import_module(f".method.{_LATER[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
