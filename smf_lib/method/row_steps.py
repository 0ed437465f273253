"""What an optimizer's step means for single rows of a table, and what it keeps of each row.

The state of a table is compact: it has a place for each row that was ever chosen, and grows with
them. Of a bfloat16 table it also holds a float32 master of each row, which is what moves; the row
is its rounding.

Adam: Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1, with each row's own step count t.
Decoupled weight decay: Loshchilov and Hutter 2019 (arXiv 1711.05101). Plain gradient descent on
the rows: Lin et al. (arXiv 2510.15103).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .tape import waits

RowStep = Callable[[Tensor, Tensor, Tensor, dict, dict, Tensor | None], None]
MOMENTS = ("row_steps", "exp_avg", "exp_avg_sq")  # what Adam keeps of a row


def row_step_of(optimizer: torch.optim.Optimizer) -> RowStep:
    """What a step of this optimizer means for a row.

    A class of bitsandbytes is known by its name, without importing it. A subclass counts as what
    it is made of if it keeps that class's `step`.
    """
    cls = type(optimizer)
    if cls.__module__.partition(".")[0] == "bitsandbytes" and cls.__name__ in BITSANDBYTES_ADAMW:
        return _adamw_rows
    for known, row_step in ROW_STEPS.items():
        if isinstance(optimizer, known):
            same_step = inspect.unwrap(cls.step) is inspect.unwrap(known.step)
            if same_step or getattr(optimizer, "steps_rows", False):
                return row_step
    raise ValueError(
        f"optimizer={cls.__module__}.{cls.__name__} cannot train memory rows: what its step means "
        "for single rows is not known; train with smf_lib.RowAdamW or RowSGD, or with AdamW, Adam "
        "or SGD of torch.optim"
    )


def move_rows(
    optimizer: torch.optim.Optimizer,
    values: Tensor,
    rows: Tensor,
    grad: Tensor,
    state: dict,
    group: dict,
    read: Tensor | None,
) -> None:
    """One step of `rows` of a table, in place, as the optimizer means it.

    Args:
        values: (M, d), the table.
        rows: (R,) int64, different rows.
        grad: (R, d) float32, their gradient.
        state, group: the optimizer's state of the table, and the table's parameter group.
        read: (R,) bool, which of the rows move, or None for all.

    Raises:
        ValueError: what the optimizer's step means for single rows is not known.
    """
    row_step = row_step_of(optimizer)
    count = _hear(state, values) if _runs_ahead(values) else None
    if values.dtype == torch.float32:
        row_step(values, rows, grad, state, group, read)
    else:
        _step_masters(row_step, values, rows, grad, state, group, read)
    if _runs_ahead(values):
        _send(state, values, count, len(rows))


def _slots(state: dict, rows: Tensor, values: Tensor, kept: tuple[str, ...] = MOMENTS) -> Tensor:
    """Where in the compact state the given rows are kept; rows that are new get the next places.

    The state is: used (), the places taken; slots (M,), each row's place or -1; of what is `kept`
    row_steps (capacity,) and exp_avg, exp_avg_sq, master (capacity, d), float32; beside them step
    (), the optimizer steps of this table, and used_at_most, which is known without asking the
    device. The capacity grows by half when it is full, so that growing costs little per step. A
    GPU is not asked how many places are taken: the capacity grows when used_at_most reaches it,
    which counts as new all rows of the few steps that Python is ahead of the GPU.

    Beside a float32 table `Optimizer.load_state_dict` turns everything into float32, which holds
    places exactly up to 2**24; SparseMemoryConfig refuses larger tables.
    """
    if "slots" not in state:
        table, width = values.shape
        state["used"] = values.new_zeros((), dtype=torch.float32)
        state["slots"] = values.new_full((table,), -1, dtype=torch.int32)
        for name in kept:
            shape = (len(rows),) if name == "row_steps" else (len(rows), width)
            state[name] = values.new_zeros(shape, dtype=torch.float32)
        state["used_at_most"] = 0
    slots = state["slots"]
    new = slots[rows] < 0
    capacity = len(state[kept[0]])
    at_most = state.get("used_at_most", capacity)
    if capacity < len(values) and at_most + len(rows) > capacity:
        room = len(rows)
        if not _runs_ahead(slots):
            at_most, room = int(state["used"]), int(new.sum())
        if at_most + room > capacity:
            grown = min(max(at_most + room, capacity * 3 // 2), len(values))
            for name in kept:
                larger = state[name].new_zeros(grown, *state[name].shape[1:])
                larger[:capacity] = state[name]
                state[name] = larger
    state["used_at_most"] = at_most + len(rows)
    places = state["used"] + new.cumsum(0) - 1
    slots[rows] = slots[rows].where(~new, places.to(slots.dtype))
    state["used"] += new.sum()
    return slots[rows].long()


def _put(tensor: Tensor, places: Tensor, new: Tensor, read: Tensor | None) -> None:
    """Write `new` to different places of a tensor, or to those of them that were `read`."""
    if read is not None:
        new = new.where(read.view(-1, *[1] * (new.dim() - 1)), tensor[places])
    tensor[places] = new


def _adamw_rows(
    values: Tensor,
    rows: Tensor,
    grad: Tensor,
    state: dict,
    group: dict,
    read: Tensor | None = None,
) -> None:
    """One Adam step of `rows` of `values` with gradient `grad` (len(rows), d); decay decoupled.

    read: which of the rows move, bool, or None for all.
    """
    slots = _slots(state, rows, values)
    beta1, beta2 = map(float, group["betas"])
    row_steps = state["row_steps"][slots] + 1
    steps = row_steps.unsqueeze(1)
    exp_avg = state["exp_avg"][slots].lerp_(grad, 1 - beta1)
    exp_avg_sq = state["exp_avg_sq"][slots].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    _put(state["row_steps"], slots, row_steps, read)
    _put(state["exp_avg"], slots, exp_avg, read)
    _put(state["exp_avg_sq"], slots, exp_avg_sq, read)
    denominator = (exp_avg_sq / (1 - beta2**steps)).sqrt_().add_(group["eps"])
    lr = _rate(group, values)
    current = values[rows] * (1 - lr * group["weight_decay"])
    _put(values, rows, current - lr * (exp_avg / (1 - beta1**steps)) / denominator, read)


def _adam_rows(
    values: Tensor,
    rows: Tensor,
    grad: Tensor,
    state: dict,
    group: dict,
    read: Tensor | None = None,
) -> None:
    """The same with weight decay as Adam means it: an L2 penalty, which enters the gradient."""
    if not group.get("decoupled_weight_decay"):
        grad = grad + group["weight_decay"] * values[rows]
        group = group | {"weight_decay": 0.0}
    _adamw_rows(values, rows, grad, state, group, read)


def _sgd_rows(
    values: Tensor,
    rows: Tensor,
    grad: Tensor,
    state: dict,
    group: dict,
    read: Tensor | None = None,
) -> None:
    """One step of gradient descent of `rows` of `values`, with weight decay as an L2 penalty."""
    grad = grad + group["weight_decay"] * values[rows]
    _put(values, rows, values[rows] - _rate(group, values) * grad, read)


def _rate(group: dict, values: Tensor) -> float | Tensor:
    """The learning rate; a tensor on a device that Python would wait for is not asked for it."""
    lr = group["lr"]
    if isinstance(lr, Tensor) and waits(lr):
        return lr.reshape(()).to(values.device)
    return float(lr)


# ------------------------------------------------------------------ places that a GPU has taken


@dataclass
class _Count:
    """The places taken in a state, on their way to the CPU.

    Attributes:
        taken: says their number once it is there, None before; from `begin_copy`.
        since: at most so many were taken after the copy began.
        version: of `used` after the last step: how often it was written to.
    """

    taken: Callable[[], int | None]
    since: int = 0
    version: int = 0


COUNTS = WeakTensorKeyDictionary()  # the count on its way, by a state's `used`; nobody saves it


def _runs_ahead(tensor: Tensor) -> bool:
    """Whether a step asks the tensor's device for nothing (Apple's is asked for rows anyway)."""
    return waits(tensor) and tensor.device.type != "mps"


def begin_copy(number: Tensor) -> Callable[[], int | None]:
    """Begin to copy a number of a GPU's to the CPU; what is returned says it once it is there."""
    held = torch.empty_like(number, device="cpu", pin_memory=True)
    held.copy_(number, non_blocking=True)
    stream = torch.get_device_module(number.device).current_stream(number.device)
    copied = stream.record_event()
    return lambda: int(held) if copied.query() else None


def _hear(state: dict, values: Tensor) -> _Count | None:
    """Put into used_at_most what the last count says, if it is there; else return that count.

    A state that was loaded, moved, copied or written to since its last step has none: there the
    device is asked, and waited for, once.
    """
    if not _can_grow(state, values):
        return None
    used = state["used"]
    count = COUNTS.pop(used, None)
    if count is None or count.version != used._version:
        state["used_at_most"] = int(used.view(torch.float32))
        return None
    taken = count.taken()
    if taken is None:
        return count
    state["used_at_most"] = taken + count.since
    return None


def _send(state: dict, values: Tensor, count: _Count | None, new: int) -> None:
    """After a step of at most `new` new rows, send a count, unless one is on its way."""
    if not _can_grow(state, values):
        return
    used = state["used"]
    if count is None:
        count = _Count(begin_copy(used.view(torch.float32)))
    else:
        count.since += new
    count.version = used._version
    COUNTS[used] = count


def _can_grow(state: dict, values: Tensor) -> bool:
    """Whether there is a state, with fewer places than the table has rows."""
    kept = state.get("exp_avg", state.get("master"))
    return "used" in state and kept is not None and len(kept) < len(values)


# ------------------------------------------------------------------ tables in bfloat16


def _step_masters(
    row_step: RowStep,
    values: Tensor,
    rows: Tensor,
    grad: Tensor,
    state: dict,
    group: dict,
    read: Tensor | None,
) -> None:
    """One step of `rows` of a bfloat16 table: their float32 masters move, and rows are rounded.

    A master counts as long as its row is its rounding. The master of a row that is new, or that
    something else has written to since (a patch, loaded weights), begins at what the row holds.
    """
    _as_numbers(state)
    places = _slots(state, rows, values, (*(() if row_step is _sgd_rows else MOMENTS), "master"))
    held, masters = values[rows], state["master"][places]
    masters = masters.where(masters.to(values.dtype) == held, held.float())
    # to the optimizer's own step they are a table by themselves, all of whose rows have places
    every = torch.arange(len(rows), device=rows.device)
    row_step(masters, every, grad, state | {"slots": places}, group, read)
    _put(state["master"], places, masters, read)
    _put(values, rows, masters.to(values.dtype), read)
    _as_bits(state)


def _as_bits(state: dict) -> None:
    """Keep each number of the state as two of bfloat16 that have its bits.

    `Optimizer.load_state_dict` gives a parameter's state the parameter's dtype (all but `step`),
    which would round it; bits are in that dtype already.
    """
    for name, held in state.items():
        if isinstance(held, Tensor) and name != "step":
            state[name] = torch.atleast_1d(held).view(torch.bfloat16)


def _as_numbers(state: dict) -> None:
    """The opposite of `_as_bits`; nothing is copied by either."""
    for name, held in state.items():
        if isinstance(held, Tensor) and name != "step":
            state[name] = held.view(torch.int32 if name == "slots" else torch.float32)


ROW_STEPS: dict[type[torch.optim.Optimizer], RowStep] = {
    torch.optim.AdamW: _adamw_rows,  # before Adam, which it may be a subclass of
    torch.optim.Adam: _adam_rows,
    torch.optim.SGD: _sgd_rows,
}
BITSANDBYTES_ADAMW = {
    f"{paged}AdamW{bits}" for paged in ("", "Paged") for bits in ("", "8bit", "32bit")
}
