"""The sparse step: what happens to memory rows in an optimizer step, and who calls it.

From a training loop, or transformers' Trainer, to the rows:

    loss.backward()              the memories write down who read what (`tape.RecordReads`)
    RowAdamW.step()              a training loop calls it; in a Trainer, accelerate's wrapper does
      -> check_row_step()        refuses what would train rows wrongly, before anything moves
      -> torch.optim.AdamW.step  every parameter with a gradient; a table never has one
      -> step_rows()             chooses rows, computes their gradient, moves these rows only

A model may as well be trained by one of torch's own optimizers, which is what a Trainer does that
is told nothing: when `SparseMemoryConfig` puts a memory into a model, the tuner calls
`step_rows_after_other_optimizers`, and from then on torch itself calls `check_row_step` before and
`step_rows` after the step of every optimizer that is not a `RowAdamW` or `RowSGD`.

The rows of a step are chosen from all reads since the last one, and move by the learning rate,
betas, epsilon and weight decay of the optimizer's parameter group, as the optimizer means them.
The moments of a row and its own step count change when the row is selected and at no other time,
so neither momentum nor weight decay can move a row that was not selected, which is what happens to
a masked dense gradient under AdamW. The state lives in `optimizer.state`, sized by the rows ever
touched, and is saved and loaded with the optimizer. What a step does to a row is in `row_steps`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from .layer import ProductKeyMemory, memory_of
from .row_steps import move_rows, row_step_of
from .rules import Reads, count_reads, get_rule, select_on_device, select_rows
from .tape import waits

Closure = Callable[[], float]
MOST_ON_DEVICE = 4096  # rows a step; beyond, a product with every token costs more than waiting
LEAST_RATE = 1e-3  # an Adam step moves a value by at most about the rate; rows want 1e-2 to 1


class RowAdamW(torch.optim.AdamW):
    """torch's AdamW, which also moves the memory rows that are chosen for the step.

    It takes the arguments of `torch.optim.AdamW` and does the same to every other parameter:

        optimizer = RowAdamW([p for p in model.parameters() if p.requires_grad], lr=1e-1)
        Trainer(model, args, optimizer_cls_and_kwargs=(RowAdamW, {"lr": 1e-1}), ...)

    Raises:
        ValueError: in `step`, before anything moves: see `check_row_step`.
    """

    steps_rows = True

    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """One step of all parameters and of the chosen memory rows. Returns the closure's loss."""
        check_row_step(self)
        loss = super().step(closure)
        step_rows(self)
        return loss


class RowSGD(torch.optim.SGD):
    """torch's SGD, which also moves the memory rows that are chosen for the step.

    It takes the arguments of `torch.optim.SGD`; momentum must be 0, since it would move rows that
    were not chosen. Weight decay acts on the chosen rows.

    Raises:
        ValueError: in `step`, before anything moves: see `check_row_step`.
    """

    steps_rows = True

    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """One step of all parameters and of the chosen memory rows. Returns the closure's loss."""
        check_row_step(self)
        loss = super().step(closure)
        step_rows(self)
        return loss


def step_rows_after_other_optimizers() -> None:
    """Have torch step memory rows after the step of every optimizer, as long as the process lives.

    Optimizers that do so themselves are left alone. However often it is called, also from a
    reloaded module, there is one pair of hooks: the last. (The handles are kept in `torch.optim`,
    which no reload of ours replaces.)
    """
    for handle in getattr(torch.optim, "smf_lib_hooks", ()):
        handle.remove()
    hooks = (
        register_optimizer_step_pre_hook(_before_other_optimizers),
        register_optimizer_step_post_hook(_after_other_optimizers),
    )
    torch.optim.smf_lib_hooks = hooks  # type: ignore[attr-defined]


def _before_other_optimizers(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if not getattr(optimizer, "steps_rows", False):
        check_row_step(optimizer)


def _after_other_optimizers(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if not getattr(optimizer, "steps_rows", False):
        step_rows(optimizer)


# ------------------------------------------------------------------ what may train rows


def check_row_step(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that holds memory rows and would train them otherwise than it says.

    Raises:
        ValueError: the optimizer is none of those whose meaning is known for rows (torch's AdamW,
            Adam and SGD, `RowAdamW`, `RowSGD`, bitsandbytes' AdamW); it has amsgrad,
            differentiable or momentum; the values are not in the dtype of the memory's
            configuration; or the optimizer's state is of a table of another dtype.
    """
    for memory, group in _tables(optimizer):
        if not memory.values.requires_grad:
            continue
        row_step_of(optimizer)
        name = type(optimizer).__name__
        for setting in ("amsgrad", "differentiable", "momentum"):
            if group.get(setting):
                raise ValueError(
                    f"{setting}={group[setting]} of optimizer={name} has no meaning for memory "
                    f"rows, of which each step moves others; leave {setting} out, or train with "
                    "smf_lib.RowAdamW"
                )
        if memory.values.dtype != memory.values_dtype:
            raise ValueError(
                f"memory values are {memory.values.dtype}; keep them in {memory.values_dtype} as "
                "their configuration says (small updates vanish in less, unless it has "
                "values_dtype='bfloat16') and use autocast for speed"
            )
        slots = optimizer.state.get(memory.values, {}).get("slots")
        if slots is not None and slots.nbytes != 4 * memory.num_rows:
            raise ValueError(
                f"the state of optimizer={name} was saved beside a table of another dtype than "
                f"{memory.values_dtype}; go on with the values_dtype of then, or without that state"
            )


RATES = ("lr", "initial_lr", "max_lr")  # of a group; the others are what schedulers put there
RATES_SEEN: WeakSet[torch.optim.Optimizer] = WeakSet()


def warn_of_rate(optimizer: torch.optim.Optimizer, groups: list[dict]) -> None:
    """Warn, once for an optimizer, of a learning rate that is too low for memory rows under Adam.

    A rate that a scheduler of torch or transformers changes counts as the largest that it said in
    the group. Of one that is a tensor of a device that Python would wait for, nothing is said.

    groups: the parameter groups of the optimizer that hold tables.
    """
    if optimizer in RATES_SEEN:
        return
    RATES_SEEN.add(optimizer)
    said = [[g[n] for n in RATES if n in g] for g in groups if "betas" in g]
    known = [r for r in said if not any(isinstance(rate, Tensor) and waits(rate) for rate in r)]
    rate = min((max(map(float, rates)) for rates in known), default=LEAST_RATE)
    if rate < LEAST_RATE:
        warnings.warn(
            f"learning_rate={rate:g} teaches memory rows next to nothing: Adam moves a value by "
            "about the learning rate in a step, and a row takes few steps. Useful rates were 1e-2 "
            "to 1; try 3e-2, as the optimizer's lr, in the trainer's arguments, or for rows alone "
            "by SparseMemoryCallback(trainer, learning_rate=3e-2)",
            stacklevel=3,
        )


# ------------------------------------------------------------------ the step


@torch.no_grad()
def step_rows(optimizer: torch.optim.Optimizer) -> None:
    """Choose rows and move them in every memory table that `optimizer` holds.

    Reads are summed over the micro-batches of gradient accumulation and over processes before
    rows are chosen, once per table. If a memory has `max_grad_norm`, the gradients of all chosen
    rows of all tables are scaled to that joint norm at most, like gradient clipping elsewhere.

    Raises:
        ValueError: as `check_row_step`; or the memory's rule needs background reads and none were
            collected.
    """
    check_row_step(optimizer)  # a closure may have run the first forward pass of all
    updates = []
    for memory, group in _tables(optimizer):
        if not _has_reads(memory) or memory.rule is None:
            continue
        state = optimizer.state[memory.values]
        if "exp_avg" in state and "slots" not in state:
            state.clear()  # moments of a whole table, which checkpointing tools may put there
        rows, read = _choose(memory, memory.rule, state)
        updates.append((memory, group, state, rows, read, _row_gradient(memory, rows, read)))
    if updates:
        warn_of_rate(optimizer, [group for _, group, *_ in updates])
    _clip([(memory.max_grad_norm, grad) for memory, *_, grad in updates])
    for memory, group, state, rows, read, grad in updates:
        grad = -grad if group.get("maximize") else grad
        move_rows(optimizer, memory.values, rows, grad, state, group, read)
        state["step"] = state.get("step", torch.zeros(())) + 1
        memory.row_updates[rows] += 1 if read is None else read
        for reader in memory.readers:
            reader.tape.use()


def _tables(optimizer: torch.optim.Optimizer) -> list[tuple[ProductKeyMemory, dict]]:
    """The memory tables that this optimizer holds, each with its parameter group."""
    return [
        (memory, group)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if (memory := memory_of(parameter)) is not None
    ]


def _has_reads(memory: ProductKeyMemory) -> bool:
    """Whether the table was read since the last step, by reads that still count."""
    for reader in memory.readers:
        if reader.anchor.grad is None:  # zero_grad dropped its gradients
            reader.tape.drop()
    return any(reader.tape.entries for reader in memory.readers)


def _choose(memory: ProductKeyMemory, rule: str, state: dict) -> tuple[Tensor, Tensor | None]:
    """The rows to move, and which of them were read, or None where all were.

    On a GPU nothing is asked of the device, where that is possible.
    """
    table = memory.values
    if waits(table) and chooses_on_device(memory, rule):
        counts = _counts(memory)
        return select_on_device(counts, rule, memory.rows_per_step, memory.background)
    reads = _all_reads(memory, step=int(state.get("step", 0)))
    rows = select_rows(reads, rule, memory.rows_per_step, memory.background)
    return rows.to(table.device), None


def chooses_on_device(memory: ProductKeyMemory, rule: str) -> bool:
    """Whether rows can be chosen where the table is, by operations whose shapes depend on no data.

    The rule must score each row by itself, the rows be few, and the device have the float64 of
    scores (Apple's has not).
    """
    found, most = get_rule(rule), memory.num_rows
    rows = most if found.unlimited else min(memory.rows_per_step, most)
    return found.by_row and rows <= MOST_ON_DEVICE and memory.values.device.type != "mps"


def _counts(memory: ProductKeyMemory) -> Tensor:
    """Reads of each row of a table by all readers and processes, on the table's device."""
    counts = memory.row_updates.new_zeros(memory.num_rows + 1, dtype=torch.int64)
    for reader in memory.readers:
        for indices, *_ in reader.tape.entries:
            counts.index_add_(0, indices.flatten(), torch.ones_like(indices).flatten())
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(counts)
    return counts[:-1]  # the last counts padding


def _all_reads(memory: ProductKeyMemory, step: int) -> Reads:
    """Reads of a table by all readers and processes, on the CPU, the same in every process."""
    reads = count_reads([e[0] for reader in memory.readers for e in reader.tape.entries], step)
    if waits(memory.values):
        real = reads.rows < memory.num_rows
        reads = Reads(reads.rows[real].cpu(), reads.counts[real].cpu(), step)
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return reads
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (reads.rows, reads.counts))
    rows, place = torch.unique(torch.cat([rows for rows, _ in everyone]), return_inverse=True)
    counts = torch.zeros(len(rows), dtype=torch.int64)
    counts.index_add_(0, place, torch.cat([counts for _, counts in everyone]))
    return Reads(rows, counts, step)


def _row_gradient(memory: ProductKeyMemory, rows: Tensor, read: Tensor | None) -> Tensor:
    """Gradient of the chosen rows over all readers and processes (mean over processes, as DDP)."""
    grad = torch.zeros(len(rows), memory.values.shape[1], device=rows.device)
    for reader in memory.readers:
        if not reader.tape.entries or not len(rows):
            continue
        if read is None:
            grad += reader.tape.row_gradient(rows)
        else:
            grad += reader.tape.row_gradient_on_device(rows, memory.num_rows)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(grad)
        grad /= dist.get_world_size()
    return grad


def _clip(gradients: list[tuple[float | None, Tensor]]) -> None:
    """Scale the gradients that share a limit to that joint norm at most, in place."""
    for limit in {limit for limit, _ in gradients if limit is not None}:
        grads = [grad for own, grad in gradients if own == limit]
        norm = torch.stack([grad.norm() for grad in grads]).norm()
        for grad in grads:
            grad *= (limit / (norm + 1e-6)).clamp(max=1.0)
