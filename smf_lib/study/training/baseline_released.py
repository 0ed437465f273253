"""Sparse memory finetuning as the paper's released code does it, one difference at a time.

In the code released with arXiv 2605.03229 a mask on the gradient of the whole table feeds an
ordinary AdamW. So rows that were chosen before go on moving by their momentum, rows are chosen
anew for each micro-batch of a step, and padding counts among the reads. The method of this library
does none of that (`method.row_adam`, `method.padding`); with this baseline a study can say what
each difference is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from ...method.background import memories
from ...method.layer import ProductKeyMemory, memory_of
from ...method.padding import PaddingMask
from ...method.row_adam import check_row_step
from ...method.row_steps import ROW_STEPS
from ...method.rules import count_reads, select_rows
from ...method.tape import ReadTape
from ..baselines import Change, Start
from . import processes

Chosen = tuple[ProductKeyMemory, dict, Tensor, Tensor]  # a table, its group, rows and gradient


def released(
    start: Start,
    dense_moments: bool = False,
    mask_micro_batch: bool = False,
    count_padding: bool = False,
) -> Change:
    """Takes strictness back, a switch at a time; without any it is the plain method to the bit.

    dense_moments: AdamW steps the whole table on the chosen rows' gradient, zero elsewhere, so that
    rows chosen earlier go on moving. mask_micro_batch: each micro-batch chooses rows by its own
    reads, and the gradients of what they chose are added up; the same as ever without gradient
    accumulation. count_padding: padding tokens count as reads of the rows that they read.

    Raises:
        ValueError: several processes train together, whose reads this does not add up; a table
            with masters, which the released code does not have.
    """
    if any(memory.values_dtype != torch.float32 for memory in memories(start.model).values()):
        raise ValueError(
            "baseline='released' trains tables in float32 alone; leave values_dtype out of memory"
        )
    if processes.count() > 1:
        raise ValueError(
            f"baseline='released' trains on one process, not on {processes.count()}; start one"
        )
    return Change(
        optimizer=partial(
            ReleasedAdamW, dense_moments=dense_moments, mask_micro_batch=mask_micro_batch
        ),
        finish=_count_padding(start.model) if count_padding else None,
    )


class ReleasedAdamW(torch.optim.AdamW):
    """torch's AdamW, which moves memory rows as the switches of `released` say.

    Raises:
        ValueError: in `step`, before anything moves: see `row_adam.check_row_step`.
    """

    steps_rows = True

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        dense_moments: bool = False,
        mask_micro_batch: bool = False,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=0.0)
        self.dense_moments, self.mask_micro_batch = dense_moments, mask_micro_batch

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of all parameters and of memory rows. Returns the closure's loss."""
        check_row_step(self)
        chosen = self._choose()
        if self.dense_moments:
            for memory, _, rows, grad in chosen:
                memory.values.grad = torch.zeros_like(memory.values)
                memory.values.grad[rows] = grad
        loss = super().step(closure)
        for memory, group, rows, grad in chosen:
            if self.dense_moments:
                memory.values.grad = None
            else:
                state = self.state[memory.values]
                # all rows were read
                ROW_STEPS[torch.optim.AdamW](memory.values, rows, grad, state, group)  # type: ignore[call-arg]
                state["step"] = state.get("step", torch.zeros(())) + 1
            memory.row_updates[rows] += 1
            for reader in memory.readers:
                reader.tape.use()
        return loss

    def _choose(self) -> list[Chosen]:
        """The chosen rows of each table that was read, and their gradients, clipped."""
        chosen = []
        for group in self.param_groups:
            for parameter in group["params"]:
                memory = memory_of(parameter)
                if memory is None or not any(r.tape.entries for r in memory.readers):
                    continue
                step = int(self.state[parameter].get("step", 0))
                chosen.append((memory, group, *self._rows(memory, step)))
        for limit in {memory.max_grad_norm for memory, *_ in chosen} - {None}:
            grads = [grad for memory, *_, grad in chosen if memory.max_grad_norm == limit]
            norm = torch.stack([grad.norm() for grad in grads]).norm()
            for grad in grads:
                grad *= (limit / (norm + 1e-6)).clamp(max=1.0)
        return chosen

    def _rows(self, memory: ProductKeyMemory, step: int) -> tuple[Tensor, Tensor]:
        """A table's rows, ascending, and the gradient of each, by the whole step or by parts."""
        tapes = [reader.tape for reader in memory.readers if reader.tape.entries]
        if not self.mask_micro_batch:
            return _selected(memory, tapes, step)
        passes = zip(*(tape.entries for tape in tapes), strict=True)  # one entry a forward pass
        parts = [_selected(memory, [ReadTape([e]) for e in entries], step) for entries in passes]
        rows = torch.unique(torch.cat([rows for rows, _ in parts]))
        total = torch.zeros(len(rows), memory.values.shape[1], device=rows.device)
        for some, grad in parts:
            total.index_add_(0, torch.searchsorted(rows, some), grad)
        return rows, total


def _selected(memory: ProductKeyMemory, tapes: list[ReadTape], step: int) -> tuple[Tensor, Tensor]:
    """The rows that the memory's rule chooses by the reads on these tapes, and their gradient."""
    read = [indices for tape in tapes for indices, _, _ in tape.entries]
    reads = count_reads([rows[rows < memory.num_rows].cpu() for rows in read], step)
    rows = select_rows(reads, memory.rule, memory.rows_per_step, memory.background)
    rows = rows.to(memory.values.device)
    grad = torch.zeros(len(rows), memory.values.shape[1], device=rows.device)
    for tape in tapes:
        grad += tape.row_gradient(rows)
    return rows, grad


def _count_padding(model: nn.Module) -> Callable[[nn.Module], None]:
    """Let the memories of a model take padding for text; gives what lets them know it again."""
    before = {name: memory.padding for name, memory in memories(model).items()}
    nothing_is_padding = PaddingMask()  # no decoder tells it of a mask
    for memory in memories(model).values():
        memory.padding = nothing_is_padding

    def finish(trained: nn.Module) -> None:
        for name, memory in memories(trained).items():
            memory.padding = before[name]

    return finish
