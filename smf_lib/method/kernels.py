"""Triton kernels of what reads a table: the read, and the two gradients that training needs of it.

They move rows about and do next to no arithmetic, so their time is that of the GPU's memory. What
matters is that rows are fetched in wide pieces, with many fetches under way, and that nothing as
large as all rows that were read, tokens * reads * width, is ever written. Of the many programs that
run at the same time each fetches READS rows at once, WIDTH neighbouring numbers of each. It sums in
float32, whatever the rows are in, and always in the same order.

The names: n tokens read r rows each of a table (M, d). Triton is needed here, and imported nowhere
else; `operators` says where the kernels are used.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

READS, WIDTH = 16, 128  # rows that are fetched at once, and the numbers of each


@triton.jit
def _read(  # type: ignore[no-untyped-def]
    out, values, indices, weights, reads, width, READS: tl.constexpr, WIDTH: tl.constexpr
):
    """A program per token and block of the width: sum over j of weight j times row j."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    total = tl.zeros((READS, WIDTH), tl.float32)
    for start in range(0, reads, READS):
        read = start + tl.arange(0, READS)
        row = tl.load(indices + token * reads + read, mask=read < reads, other=0)
        weight = tl.load(weights + token * reads + read, mask=read < reads, other=0.0)
        inside = (read < reads)[:, None] & (column < width)[None, :]
        found = tl.load(values + row[:, None] * width + column[None, :], mask=inside, other=0.0)
        total += weight[:, None] * found.to(tl.float32)
    tl.store(out + token * width + column, tl.sum(total, 0), mask=column < width)


@triton.jit
def _weight_gradient(  # type: ignore[no-untyped-def]
    out, grad, values, indices, reads, width, READS: tl.constexpr, WIDTH: tl.constexpr
):
    """A program per token and READS of its reads: the inner product of its gradient and row j."""
    token = tl.program_id(0).to(tl.int64)
    read = tl.program_id(1) * READS + tl.arange(0, READS)
    row = tl.load(indices + token * reads + read, mask=read < reads, other=0)
    total = tl.zeros((READS, WIDTH), tl.float32)
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        slope = tl.load(grad + token * width + column, mask=column < width, other=0.0)
        inside = (read < reads)[:, None] & (column < width)[None, :]
        found = tl.load(values + row[:, None] * width + column[None, :], mask=inside, other=0.0)
        total += slope[None, :] * found.to(tl.float32)
    tl.store(out + token * reads + read, tl.sum(total, 1), mask=read < reads)


@triton.jit
def _row_gradient(  # type: ignore[no-untyped-def]
    out, grad, weights, order, begin, reads, width, READS: tl.constexpr, WIDTH: tl.constexpr
):
    """A program per chosen row and block of the width: its stretch of the reads, in their order."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    first, end = tl.load(begin + row), tl.load(begin + row + 1)
    total = tl.zeros((READS, WIDTH), tl.float32)
    for start in range(first, end, READS):
        place = start + tl.arange(0, READS)
        read = tl.load(order + place, mask=place < end, other=0)
        weight = tl.load(weights + read, mask=place < end, other=0.0)
        token = read // reads
        inside = (place < end)[:, None] & (column < width)[None, :]
        slope = tl.load(grad + token[:, None] * width + column[None, :], mask=inside, other=0.0)
        total += weight[:, None] * slope
    tl.store(out + row * width + column, tl.sum(total, 0), mask=column < width)


def read(values: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """What each token reads: the weighted sum of its rows, (n, d) float32.

    Args:
        values: (M, d) float32 or bfloat16.
        indices: (n, r) int64, each below M.
        weights: (n, r) float32.
    """
    (tokens, reads), width = indices.shape, values.shape[1]
    out = values.new_empty(tokens, width, dtype=torch.float32)
    with torch.cuda.device_of(values):  # Triton starts on the current GPU, which may be another
        _read[tokens, triton.cdiv(width, WIDTH)](
            out, *_dense(values, indices, weights), reads, width, READS, WIDTH
        )
    return out


def weight_gradient(grad: Tensor, values: Tensor, indices: Tensor) -> Tensor:
    """Loss gradient of the weights of a read, (n, r) float32.

    Args:
        grad: (n, d) float32, loss gradient of what was read.
        values: (M, d) float32 or bfloat16.
        indices: (n, r) int64, each below M.
    """
    (tokens, reads), width = indices.shape, values.shape[1]
    out = grad.new_empty(tokens, reads)
    with torch.cuda.device_of(values):
        _weight_gradient[tokens, triton.cdiv(reads, READS)](
            out, *_dense(grad, values, indices), reads, width, READS, WIDTH
        )
    return out


def row_gradient(places: Tensor, weights: Tensor, grad: Tensor, rows: int) -> Tensor:
    """Loss gradient of the chosen rows of a table, (rows, d) float32.

    Sorted by the row that they go to, the reads of a row are one stretch, whose ends are found by
    bisection. Shapes depend on no data, so nothing waits for the device.

    Args:
        places: (n, r) integers: which of the chosen rows a read was of, or `rows` for none.
        weights: (n, r) float32.
        grad: (n, d) float32, loss gradient of what was read.
        rows: T, how many rows are chosen.
    """
    reads, width = places.shape[1], grad.shape[1]
    in_order, order = places.flatten().int().sort(stable=True)
    ends = torch.arange(rows + 1, dtype=torch.int32, device=places.device)
    begin = torch.searchsorted(in_order, ends)  # (T + 1,): the end of a stretch begins the next
    out = grad.new_empty(rows, width)
    with torch.cuda.device_of(grad):
        _row_gradient[rows, triton.cdiv(width, WIDTH)](
            out, *_dense(grad, weights, order, begin), reads, width, READS, WIDTH
        )
    return out


def _dense(*tensors: Tensor) -> list[Tensor]:
    """As the kernels address them: row after row, with nothing between, on one device.

    Raises:
        ValueError: they are on several, of which a kernel would read one and guess the others.
    """
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) > 1:
        raise ValueError(
            f"a memory reads a table across devices ({', '.join(devices)}); put layers that share "
            "a table (share_values) on one device"
        )
    return [tensor.contiguous() for tensor in tensors]
