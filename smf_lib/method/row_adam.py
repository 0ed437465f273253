"""Row-sparse Adam: what happens to memory tables in an optimizer step.

A table takes part in training through any Adam-like torch optimizer that holds its `values`
parameter. The parameter never receives a gradient, so the optimizer itself leaves it alone; just
after its step, a hook (`update_tables`) chooses the rows for this step from all reads since the
last one, computes the gradient of those rows only, and moves only them, with the learning rate,
betas, epsilon and weight decay of the optimizer's parameter group. The moments of a row and its
own step count change when the row is selected and at no other time, so neither momentum nor
weight decay can move a row that was not selected, which is what happens to a masked dense
gradient under AdamW. The state lives in `optimizer.state`, sized by the rows ever touched, and is
saved and loaded with the optimizer.

Adam: Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1, with each row's own step count t.
Decoupled weight decay: Loshchilov and Hutter 2019 (arXiv 1711.05101), also under torch's Adam.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from .layer import ProductKeyMemory
from .rules import Reads, count_reads, select_rows


def _tables(optimizer: torch.optim.Optimizer) -> list[tuple[ProductKeyMemory, dict]]:
    """The memory tables that this optimizer holds and that were read since the last step."""
    found = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            memory = getattr(parameter, "smf_memory", None)
            if memory is None:
                continue
            for reader in memory.readers:
                if reader.anchor.grad is None:  # zero_grad dropped its gradients
                    reader.tape.drop()
            if not any(reader.tape.entries for reader in memory.readers):
                continue
            if not {"betas", "eps", "weight_decay"} <= group.keys():
                raise ValueError(
                    f"optimizer={type(optimizer).__name__} is not Adam-like, and memory rows are "
                    "updated by row-wise Adam; train with torch.optim.AdamW"
                )
            if parameter.dtype != torch.float32:
                raise ValueError(
                    f"memory values are {parameter.dtype}; keep them in torch.float32 (small "
                    "updates vanish in less) and use autocast for speed"
                )
            found.append((memory, group))
    return found


def _all_reads(memory: ProductKeyMemory, step: int) -> Reads:
    """Reads of a table by all readers and processes, on the CPU, the same in every process."""
    reads = count_reads([e[0] for reader in memory.readers for e in reader.tape.entries], step)
    reads = Reads(reads.rows.cpu(), reads.counts.cpu(), step)
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return reads
    everyone: list = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (reads.rows, reads.counts))
    rows, place = torch.unique(torch.cat([rows for rows, _ in everyone]), return_inverse=True)
    counts = torch.zeros(len(rows), dtype=torch.int64)
    counts.index_add_(0, place, torch.cat([counts for _, counts in everyone]))
    return Reads(rows, counts, step)


def _row_gradient(memory: ProductKeyMemory, rows: Tensor) -> Tensor:
    """Gradient of the given rows over all readers and processes (mean over processes, as DDP)."""
    grad = torch.zeros(len(rows), memory.values.shape[1], device=rows.device)
    for reader in memory.readers:
        if reader.tape.entries and len(rows):
            grad += reader.tape.row_gradient(rows)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(grad)
        grad /= dist.get_world_size()
    return grad


def _clip(updates: list) -> None:
    """Scale the gradients of all tables that share a `max_grad_norm` to that joint norm at most."""
    for limit in {memory.updates.max_grad_norm for memory, *_ in updates} - {None}:
        grads = [grad for memory, *_, grad in updates if memory.updates.max_grad_norm == limit]
        norm = torch.stack([grad.norm() for grad in grads]).norm()
        for grad in grads:
            grad *= (limit / (norm + 1e-6)).clamp(max=1.0)


def _slots(state: dict, rows: Tensor, values: Tensor) -> Tensor:
    """Where in the compact state the given rows are kept; rows that are new get the next places.

    The state is: step (), the optimizer steps of this table; used (), the places taken;
    slots (N,), each row's place or -1; row_steps (capacity,) and exp_avg, exp_avg_sq
    (capacity, d). The capacity grows by half when it is full, so that growing costs little per
    step. `Optimizer.load_state_dict` turns everything into float32, which holds places exactly
    up to 2**24; SparseMemoryConfig refuses larger tables.
    """
    if not state:
        table, width = values.shape
        state["step"], state["used"] = torch.zeros(()), torch.zeros(())
        state["slots"] = values.new_full((table,), -1, dtype=torch.int32)
        state["row_steps"] = values.new_zeros(0)
        state["exp_avg"], state["exp_avg_sq"] = (
            values.new_zeros(0, width),
            values.new_zeros(0, width),
        )
    slots = state["slots"]
    new = rows[slots[rows] < 0]
    used, capacity = int(state["used"]), len(state["row_steps"])
    needed = used + len(new)
    if needed > capacity:
        capacity = min(max(needed, capacity * 3 // 2), len(values))
        for name in ("row_steps", "exp_avg", "exp_avg_sq"):
            grown = state[name].new_zeros(capacity, *state[name].shape[1:])
            grown[:used] = state[name][:used]
            state[name] = grown
    slots[new] = torch.arange(used, needed, device=slots.device).to(slots.dtype)
    state["used"].fill_(needed)
    return slots[rows].long()


def _adam_rows(values: Tensor, rows: Tensor, grad: Tensor, state: dict, group: dict) -> None:
    """One Adam step of `rows` of `values` with gradient `grad` (len(rows), d)."""
    slots = _slots(state, rows, values)
    beta1, beta2 = group["betas"]
    state["row_steps"][slots] += 1
    steps = state["row_steps"][slots].unsqueeze(1)
    exp_avg = state["exp_avg"][slots].lerp_(grad, 1 - beta1)
    exp_avg_sq = state["exp_avg_sq"][slots].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    state["exp_avg"][slots], state["exp_avg_sq"][slots] = exp_avg, exp_avg_sq
    denominator = (exp_avg_sq / (1 - beta2**steps)).sqrt_().add_(group["eps"])
    lr = float(group["lr"])
    current = values[rows] * (1 - lr * group["weight_decay"])
    values[rows] = current - lr * (exp_avg / (1 - beta1**steps)) / denominator


@torch.no_grad()
def update_tables(optimizer: torch.optim.Optimizer, args=(), kwargs=None) -> None:
    """Select rows and update them in every table that `optimizer` holds; runs after its step.

    Reads are summed over the micro-batches of gradient accumulation and over processes before
    rows are chosen, once per table. If a memory has `max_grad_norm`, the gradients of all chosen
    rows of all tables are scaled to that joint norm at most, like gradient clipping elsewhere.

    Raises:
        ValueError: the optimizer is not Adam-like, the values are not float32, or the
            memory's rule needs background reads and none were collected.
    """
    updates = []
    for memory, group in _tables(optimizer):
        state = optimizer.state[memory.values]
        reads = _all_reads(memory, step=int(state.get("step", 0)))
        rows = select_rows(reads, memory.updates.rule, memory.updates.budget, memory.background)
        rows = rows.to(memory.values.device)
        updates.append((memory, group, state, rows, _row_gradient(memory, rows)))
    _clip(updates)
    for memory, group, state, rows, grad in updates:
        _adam_rows(memory.values, rows, grad, state, group)
        state["step"] += 1
        memory.row_updates[rows] += 1
        for reader in memory.readers:
            reader.tape.entries.clear()
            reader.tape.unused = 0


register_optimizer_step_post_hook(update_tables)
