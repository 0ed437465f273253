"""A saved memory as the rows that training touched, in a folder that PEFT reads.

Of a table in which a finetune changed few rows nearly all is what the configuration and its seed
make again. With `SparseMemoryConfig(save_rows="touched")` PEFT's own ways to save leave that out
(`touched`, called by the tuner): a folder's weights hold the touched rows, and a digest of what was
left out. PEFT's ways to load make it whole (`filled`, called by the tuner too), or refuse where the
seed gives other numbers than it did.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import check_kind, check_path
from .config import SparseMemoryConfig
from .files import whole
from .layer import new_memory
from .registration import PEFT_TYPE
from .sites import layer_number
from .sums import sha256_of

ROWS, AFTER, UPDATES, START = "rows", "row_values", "row_counts", "start_sha256"
BACKGROUND = ("background_counts", "background_documents", "n_background_documents")


def save_touched(model: nn.Module, folder: str | Path, adapter: str = "default") -> Path:
    """Write an adapter's folder with the touched rows alone, whole or not at all; returns it.

    `PeftModel.from_pretrained(base, folder)` reads it like any other, to the same bits. It is what
    `save_pretrained` writes with `save_rows="touched"`, less the reads of background text, which
    whoever trains on collects again.

    Args:
        model: a PEFT model with a sparse memory.
        folder: where to; an earlier folder of that name is replaced.
        adapter: the adapter to save.

    Raises:
        ValueError: no sparse memory of that name.
    """
    check_kind("adapter", adapter, str, "the name of an adapter, such as 'default'")
    check_path("folder", folder)
    config = getattr(model, "peft_config", {}).get(adapter)
    if config is None or config.peft_type != PEFT_TYPE:
        raise ValueError(f"adapter={adapter!r} is no sparse memory of this model; name one that is")
    folder = Path(folder)
    with whole(folder) as scratch:
        state = {k: t for k, t in model.state_dict().items() if not k.endswith(BACKGROUND)}
        save_rows, config.save_rows = config.save_rows, "touched"
        try:
            model.save_pretrained(  # type: ignore[operator]
                scratch, selected_adapters=[adapter], state_dict=state
            )
        finally:
            config.save_rows = save_rows
        if adapter != "default":
            for path in list((scratch / adapter).iterdir()):
                path.replace(scratch / path.name)
            (scratch / adapter).rmdir()
    return folder


def touched(
    state: Mapping[str, Tensor], config: SparseMemoryConfig, adapter: str
) -> dict[str, Tensor]:
    """The tensors of a memory without what its configuration makes again; rows are on the CPU.

    Rows count as touched that were updated or that differ from the start. A tensor beside a table
    (keys, queries, gates, reads of background text) is left out where it is as it started.

    Args:
        state: the memories' tensors by the model's names, on any device.
        config: the configuration that the memories started from.
        adapter: the adapter's name, which is part of the tensors' names.
    """
    found = dict(state)
    for key in [key for key in state if key.endswith(f"smf_memory.{adapter}.values")]:
        place = key.removesuffix("values")
        values, updates = found.pop(key).cpu(), found.pop(f"{place}row_updates").cpu()
        start = _start(config, place, values.shape[1])
        differs = values.float().view(torch.int32) != start["values"].float().view(torch.int32)
        rows = (differs.any(1) | (updates > 0)).nonzero().squeeze(1)
        found |= {
            f"{place}{ROWS}": rows.to(torch.int32),
            f"{place}{AFTER}": values[rows].contiguous(),
            f"{place}{UPDATES}": updates[rows].contiguous(),
            f"{place}{START}": _digest(start),
        }
        for name, tensor in start.items():
            kept = found.get(f"{place}{name}")
            if kept is not None and torch.equal(kept.float().cpu(), tensor.float()):
                del found[f"{place}{name}"]
    return found


def filled(
    state: Mapping[str, Tensor], config: SparseMemoryConfig, widths: Collection[int]
) -> dict[str, Tensor]:
    """The tensors of a saved memory with what `touched` left out; others as they are.

    widths: those of the model's tables; rows of another are refused before memory is taken.

    Raises:
        ValueError: the configuration makes other numbers here than where the rows were saved; rows
            outside of the table, twice, of another width or kind, or without their values.
    """
    found = dict(state)
    for key in [key for key in state if key.endswith(f"smf_memory.{ROWS}")]:
        place = key.removesuffix(ROWS)
        parts = [found.pop(f"{place}{part}", None) for part in (ROWS, AFTER, UPDATES, START)]
        if any(part is None for part in parts):
            raise ValueError(f"{place} lacks a part of its rows; save or fetch the adapter again")
        rows, after, updates, digest = (part for part in parts if part is not None)
        n = config.num_subkeys**2
        fits = after.dim() == 2 and after.shape[1] in widths and after.is_floating_point()
        fits &= rows.dim() == 1 and len(rows) == len(after) and updates.shape == rows.shape
        fits &= not (rows.is_floating_point() or updates.is_floating_point())
        if not fits or (
            len(rows)
            and not (0 <= int(rows[0]) and int(rows[-1]) < n and bool((rows.diff() > 0).all()))
        ):
            raise ValueError(f"{place} has rows that do not fit a table of {n}; fetch it again")
        start = _start(config, place, after.shape[1])
        if not torch.equal(digest, _digest(start)):
            raise ValueError(
                f"{place} was saved without what its seed makes, and seed={config.seed} makes "
                "other numbers here; save it with save_pretrained where it was made"
            )
        values = start["values"].to(after.dtype)
        values[rows.long()] = after
        counts = start["row_updates"].clone()
        counts[rows.long()] = updates
        start |= {"values": values, "row_updates": counts}
        found |= {f"{place}{name}": t for name, t in start.items() if f"{place}{name}" not in found}
    return found


def _start(config: SparseMemoryConfig, place: str, width: int) -> dict[str, Tensor]:
    """The tensors of a memory as its configuration starts it."""
    name = place.split(".smf_memory")[0].removeprefix("base_model.model.")
    state: dict[str, Any] = new_memory(config, width, layer_number(name)).state_dict()
    return dict(state)


def _digest(start: Mapping[str, Tensor]) -> Tensor:
    """The sum of a memory's start, (32,) uint8."""
    return torch.tensor(list(bytes.fromhex(sha256_of(sorted(start.items())))), dtype=torch.uint8)
