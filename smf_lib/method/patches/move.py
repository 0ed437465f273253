"""Rows that two patches changed, moved to free rows with near keys.

Row i * n + j of a product-key memory is read where sub-key i of the first half and sub-key j of the
second score high (`layer`). A row close to it, by the cosines of both sub-keys, is read by many of
the same tokens, but not by all and by others too; so a move is not free of charge.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layer import ProductKeyMemory
from .identity import Identity, memory_mlps
from .patch import RowPatch, TableRows, check_rows_hold, refuse_differences


@torch.no_grad()
def to_free_rows(
    first: RowPatch, second: RowPatch, model: nn.Module | None, adapter: str
) -> tuple[dict[str, TableRows], dict[str, Tensor]]:
    """The tables of `second` with each row that `first` changed too moved to a free one.

    Rows that were updated most often choose first; each takes the free row with the nearest key.

    Returns:
        the tables, and for each with such rows what went where, (m, 2) int64, ascending by what
        was given up.

    Raises:
        ValueError: no model, another one, one with a patch in it, too few free rows.
    """
    if model is None:
        raise ValueError(
            "on_conflict='moved' needs a model, whose keys say which free row is nearest; give "
            "compose(..., model=model)"
        )
    differences = first.identity.differences(
        Identity.of(model, adapter), "the patches", "the model"
    )
    refuse_differences(differences, "the patches do not fit the model")
    tables, moved = dict(second.tables), {}
    for name, table in second.tables.items():
        memory = memory_mlps(model, adapter)[name].smf_memory[adapter]
        if name not in first.tables:
            continue
        for patch in (first, second):
            check_rows_hold(f"rows of {name}", memory, patch.tables[name], applying=True)
        shared = torch.isin(table.rows, first.tables[name].rows)
        if shared.any():
            tables[name], moved[name] = _moved(name, memory, first.tables[name], table, shared)
    return tables, moved


def _moved(
    name: str, memory: ProductKeyMemory, first: TableRows, second: TableRows, shared: Tensor
) -> tuple[TableRows, Tensor]:
    free = torch.ones(memory.num_rows, dtype=torch.bool)
    free[first.rows] = free[second.rows] = False
    if int(free.sum()) < int(shared.sum()):
        raise ValueError(
            f"{int(shared.sum())} rows of {name} were changed by both and only {int(free.sum())} "
            "are free; choose another rule than on_conflict='moved'"
        )
    near = nearness(memory)
    places = shared.nonzero().squeeze(1)
    order = places[second.updates[places].sort(descending=True, stable=True).indices]
    target = second.rows.clone()
    for place in order.tolist():
        i, j = divmod(int(second.rows[place]), memory.num_subkeys)
        scores = (near[0, i][:, None] + near[1, j][None, :]).flatten()
        best = int(scores.masked_fill(~free, -torch.inf).argmax())
        target[place], free[best] = best, False
    before, after = second.before.clone(), second.after.clone()
    found = memory.values.detach()[target[places].to(memory.values.device)].cpu().float()
    after[places] = found + (second.after[places] - second.before[places])
    before[places] = found
    by_row = target.argsort()
    rows = TableRows(target[by_row], before[by_row], after[by_row], second.updates[by_row])
    return rows, torch.stack([second.rows[places], target[places]], dim=1)


def nearness(memory: ProductKeyMemory) -> Tensor:
    """The cosine of every two sub-keys, summed over heads and layers that read the table.

    Returns (2, n, n) float32 on the CPU, the first half's sub-keys first.
    """
    found = torch.zeros(2, memory.num_subkeys, memory.num_subkeys)
    for reader in memory.table.readers:
        keys = F.normalize(reader.keys.detach().float().cpu(), dim=-1)
        found += torch.einsum("hpid,hpjd->pij", keys, keys)
    return found
