"""Background reads: how often each row is read by text that the new task is not about."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from .layer import ProductKeyMemory


def memories(model: nn.Module) -> dict[str, ProductKeyMemory]:
    """All memories of a model by module name, in depth order; none if `model` has none."""
    return {n: m for n, m in model.named_modules() if isinstance(m, ProductKeyMemory)}


@torch.no_grad()
def read_rows(
    model: nn.Module, sequences: Sequence[Sequence[int]], batch_size: int = 8
) -> dict[str, list[list[Tensor]]]:
    """The rows that each token of each sequence reads, without training anything.

    Args:
        model: a model with memories, on any device; put into eval mode for the call.
        sequences: token ids, one list a sequence.
        batch_size: sequences per forward pass; the result does not depend on it.

    Returns:
        for each active memory's name, one (length, heads * top_k) int64 CPU tensor per sequence.

    Raises:
        ValueError: no memory in the model or none that is active, an empty sequence, or a
            `batch_size` below 1.
    """
    found = memories(model)
    if not found:
        raise ValueError(
            f"model={type(model).__name__} has no memory; insert one with "
            "peft.get_peft_model(model, SparseMemoryConfig(...))"
        )
    if any(len(s) == 0 for s in sequences):
        raise ValueError("sequences holds an empty one; every sequence needs at least one token")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    reads: dict[str, list] = {name: [None] * len(sequences) for name in found}
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    seen: dict[str, Tensor] = {}
    for name, memory in found.items():
        memory.observer = lambda rows, real, name=name: seen.__setitem__(name, rows)
    try:
        for start in tqdm(range(0, len(order), batch_size), desc="reading rows", unit="batch"):
            chosen = order[start : start + batch_size]
            length = len(sequences[chosen[0]])
            ids = torch.zeros(len(chosen), length, dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(chosen):
                ids[row, : len(sequences[i])] = torch.as_tensor(sequences[i])
                mask[row, : len(sequences[i])] = 1
            model(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                use_cache=False,
                logits_to_keep=1,
            )
            for name, rows in seen.items():
                rows = rows.view(len(chosen), length, -1).cpu()
                for row, i in enumerate(chosen):
                    reads[name][i] = rows[row, : len(sequences[i])].clone()
    finally:
        for memory in found.values():
            memory.observer = None
        model.train(was_training)
    if sequences and not seen:
        raise ValueError(
            f"model={type(model).__name__} has no active memory; choose one with "
            "model.set_adapter(name)"
        )
    return {name: rows for name, rows in reads.items() if name in seen or not sequences}


def collect_background(
    model: nn.Module, sequences: Sequence[Sequence[int]], batch_size: int = 8
) -> None:
    """Count how background text reads every active memory of `model`, and store the counts in it.

    A table keeps them in `background_counts` (M,) int64, `background_documents` (M,) int32 and
    `n_background_documents` () int64, which are saved and loaded with the adapter. One sequence is
    one document (the unit of df in TF-IDF). Layers that share a table add up their reads. Earlier
    counts are replaced.

    Args:
        model: a model with memories.
        sequences: token ids of background text, one list a document.
        batch_size: sequences per forward pass; the counts do not depend on it.

    Raises:
        ValueError: no sequences, or as `read_rows`.
    """
    if not sequences:
        raise ValueError("sequences is empty; give at least one background document")
    reads = read_rows(model, sequences, batch_size)
    tables: dict[int, tuple[ProductKeyMemory, list[list[list[Tensor]]]]] = {}
    for name, memory in memories(model).items():
        if name not in reads:  # of an adapter that is not active
            continue
        tables.setdefault(id(memory.table), (memory.table, []))[1].append(reads[name])
    for table, by_layer in tables.values():
        counts = torch.zeros(table.num_rows, dtype=torch.int64)
        documents = torch.zeros(table.num_rows, dtype=torch.int32)
        for document in zip(*by_layer):
            rows, times = torch.unique(
                torch.cat([r.reshape(-1) for r in document]), return_counts=True
            )
            counts[rows] += times
            documents[rows] += 1
        table.background_counts.copy_(counts)
        table.background_documents.copy_(documents)
        table.n_background_documents.fill_(len(sequences))
