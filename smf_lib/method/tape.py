"""Who read which row with which gradient: the sparse stand-in for the gradient of a whole table.

A memory's forward pass puts `RecordReads` behind each read. In the backward pass it writes the
reads, and the loss gradient of what was read, on the memory's `ReadTape`; from the tape the
optimizer step (`row_adam`) learns which rows were read, and the gradient of those it chose.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from .operators import gradient_of_rows, kernels_run

Entry = tuple[Tensor, Tensor, Tensor]


@dataclass
class ReadTape:
    """All reads since the last optimizer step.

    Attributes:
        entries: (indices (n, r) int64, weights (n, r) float32, grad (n, d) float32) for each
            forward pass: token t read row indices[t, j] with weight weights[t, j], and grad[t] is
            the loss gradient of the read. Of padding there is nothing, or, on a GPU, a row id past
            the table and a gradient of zero.
        backward_pass: autograd's number of the backward pass that wrote last.
        unused: how often in a row entries were dropped before an optimizer step used them.
    """

    entries: list[Entry] = field(default_factory=list)
    backward_pass: int = -1
    unused: int = 0

    def write(self, entry: Entry, goes_on: bool) -> None:
        """Add the reads of one forward pass; to be called in its backward pass.

        goes_on: whether gradients of earlier backward passes still count. If not, what those
        wrote down is dropped.
        """
        this_pass = number_of_backward_pass()
        if not goes_on and self.backward_pass != this_pass:
            self.drop()
        self.backward_pass = this_pass
        self.entries.append(entry)

    def drop(self) -> None:
        """Forget reads whose gradients were dropped; say so if it seems to be a mistake."""
        self.unused += bool(self.entries)
        self.entries.clear()
        if self.unused == 3:
            warnings.warn(
                "row gradients were dropped three times without an optimizer step: give the "
                "optimizer the memory's `values` parameters, and let it be smf_lib.RowAdamW if no "
                "SparseMemoryConfig put the memory into the model. Wrappers that replace "
                "parameters (the first FSDP, DeepSpeed ZeRO) cannot train memory rows; use data "
                "parallelism (DDP), or share the base model out with smf_lib.shard_base (FSDP2)",
                stacklevel=2,
            )

    def use(self) -> None:
        """Forget reads that an optimizer step has used."""
        self.entries.clear()
        self.unused = 0

    def row_gradient(self, rows: Tensor) -> Tensor:
        """Loss gradient of the given rows, shape (len(rows), d) float32. `rows` sorted, unique.

        Row r's gradient is the sum over its readers t of weight * grad[t]: an embedding bag over
        tokens, whose cost follows the reads and never the table. With the reads in the order of
        the rows, those of one row are one stretch. The tape must hold entries.

        How many reads there are is asked of the device: on a GPU `row_gradient_on_device` is for
        few rows.
        """
        parts = []
        for indices, weights, grad in self.entries:
            read_rows, order = indices.flatten().sort(stable=True)
            begin = torch.searchsorted(read_rows, rows)
            length = torch.searchsorted(read_rows, rows, right=True) - begin
            bag = length.cumsum(0) - length  # where a row's reads begin among those of all `rows`
            within = torch.arange(int(length.sum()), device=rows.device)
            reads = order[(begin - bag).repeat_interleave(length, output_size=len(within)) + within]
            part = F.embedding_bag(
                reads // indices.shape[1],
                grad,
                bag,
                per_sample_weights=weights.flatten()[reads],
                mode="sum",
            )
            parts.append(part)
        return _sum(parts)

    def row_gradient_on_device(self, rows: Tensor, num_rows: int) -> Tensor:
        """The same, by operations whose shapes depend on no data: a GPU never waits.

        By a kernel (`kernels.row_gradient`) where there is one. Elsewhere a matrix of weights,
        tokens by rows, times the gradients of the reads. That is a multiplication for every pair of
        a token and a row, read or not: little for a GPU, and more than a processor has to spare.

        Args:
            rows: (T,) row ids, sorted, unique.
            num_rows: M, rows of the table.
        """
        column = rows.new_full((num_rows + 1,), len(rows))  # where nothing else is said: the last
        column[rows] = torch.arange(len(rows), device=rows.device)
        parts = []
        for indices, weights, grad in self.entries:
            if kernels_run(rows.device):
                part = gradient_of_rows(column[indices], weights, grad, len(rows))
            else:
                matrix = grad.new_zeros(len(grad), len(rows) + 1)
                matrix.scatter_add_(1, column[indices], weights)
                part = matrix[:, :-1].T @ grad
            parts.append(part)
        return _sum(parts)


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def waits(tensor: Tensor) -> bool:
    """Whether Python would wait for the tensor's device (a GPU) when it asks for a result."""
    return tensor.device.type != "cpu"


class Reader(Protocol):
    """What reads rows, and writes down who read what."""

    def write_down(
        self, indices: Tensor, weights: Tensor, grad: Tensor, mask: Tensor | None
    ) -> None:
        """Take what one forward pass read, and the gradient of it."""


READERS: WeakValueDictionary[int, Reader] = WeakValueDictionary()
_numbers = count()


def number_reader(reader: Reader) -> int:
    """A number by which `write_down` finds the reader, as long as there is one."""
    number = next(_numbers)
    READERS[number] = reader
    return number


@torch.library.custom_op("smf_lib::write_down", mutates_args=(), tags=torch.Tag.cudagraph_unsafe)
def write_down(
    number: int, indices: Tensor, weights: Tensor, grad: Tensor, mask: Tensor | None, copy: bool
) -> Tensor:
    """Have the reader of that number write down its reads; returns the anchor's gradient, 0.

    An operator of its own, so that `torch.compile` keeps the call in its graph and does not look
    inside. That the anchor's gradient comes from here keeps it from being left out. copy: whether
    the memory of these tensors is used again, as a compiled graph does.
    """
    if copy:
        indices, weights, grad = indices.clone(), weights.clone(), grad.clone()
    READERS[number].write_down(indices, weights, grad, mask)
    return grad.new_zeros(())


@write_down.register_fake
def _(number, indices, weights, grad, mask, copy):  # type: ignore[no-untyped-def]
    return grad.new_zeros(())


class RecordReads(torch.autograd.Function):
    """Identity on the read; its backward hands the read and its gradient to `write_down`.

    It runs in the backward pass so that a forward repeated by gradient checkpointing counts once.
    `anchor` is a scalar parameter that is always zero: it puts the read into the autograd graph
    when nothing below is trained, and is what data-parallel wrappers see of the table.
    """

    @staticmethod
    def forward(
        ctx: Any,
        read: Tensor,
        anchor: Tensor,
        indices: Tensor,
        weights: Tensor,
        mask: Tensor | None,
        number: int,
    ) -> Tensor:
        """The read, unchanged. mask: (batch, length) of this forward pass's real tokens, or None.

        number: of the reader, from `number_reader`.
        """
        ctx.save_for_backward(indices, weights)
        ctx.mask, ctx.number = mask, number
        return read.view_as(read)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient, unchanged, after it was written down."""
        (grad,) = grads
        indices, weights = ctx.saved_tensors
        copy = torch.compiler.is_compiling()
        zero = write_down(ctx.number, indices, weights.detach(), grad, ctx.mask, copy)
        return grad, zero, None, None, None, None


def check_recording(anchor: Tensor, device_type: str) -> None:
    """Refuse a forward pass whose reads would be written down wrongly, or not at all.

    Args:
        anchor: the anchor parameter of the memory that reads.
        device_type: where it reads, as `torch.device.type`.

    Raises:
        ValueError: under float16 autocast; in a replica that torch.nn.DataParallel made; with an
            anchor that is not trained.
    """
    if torch.is_autocast_enabled(device_type) and (
        torch.get_autocast_dtype(device_type) == torch.float16
    ):
        raise ValueError(
            "fp16=True cannot train a memory: float16 needs a scaled loss, and the gradients "
            "of the rows would keep that scale; use bf16=True, or full precision"
        )
    if not anchor.requires_grad:
        raise ValueError("requires_grad=True on `values` needs it on `anchor` as well")
    if not anchor.is_leaf:  # the parameters of a replica are computed from the module's own
        raise ValueError(
            "torch.nn.DataParallel cannot train a memory; start one process per GPU with "
            "torchrun or accelerate launch, or show one GPU only (CUDA_VISIBLE_DEVICES=0)"
        )


def number_of_backward_pass() -> int:
    """Autograd's number of the running backward pass, -1 outside of one.

    torch has no public name for it; its own `torch.autograd.graph` uses this one.
    """
    return torch._C._current_graph_task_id()
