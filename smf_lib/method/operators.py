"""Where a table is read by the kernels of `kernels`, and that read as an operator of torch.

On a GPU, where Triton is installed, the sparse read and the gradient of chosen rows are kernels.
Everything else has the plain way of torch, which also says what the kernels must give.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def kernels_run(device: torch.device) -> bool:
    """Whether rows that lie on that device are read by kernels."""
    return device.type == "cuda" and _kernels_agree(device)


@torch.compiler.assume_constant_result
def _kernels_agree(device: torch.device) -> bool:
    return kernels_agree(device)


@lru_cache  # apart, since the compiler would look through a cache
def kernels_agree(device: torch.device) -> bool:
    """Whether Triton is here and gives on that device what torch gives, tried once in a process.

    Triton may be installed and yet fail where it runs, for want of a C compiler, of a folder that
    it can write to, of a GPU that it knows. One warning says so, and the plain way is taken.
    """
    if find_spec("triton") is None:
        return False
    tokens, reads, rows, width = 3, 20, 7, 130
    indices = torch.arange(tokens * reads, device=device).view(tokens, reads) % rows
    weights = indices.float().cos()
    values = torch.arange(rows * width, device=device).view(rows, width).float().sin()
    grad = values[:tokens].cos()
    by_row = F.one_hot(indices, rows) * weights[..., None].double()  # (tokens, reads, rows)
    expected = [
        (by_row.sum(1)[..., None] * values).sum(1),
        (values[indices].double() * grad[:, None]).sum(2),
        (by_row.sum(1)[..., None] * grad[:, None]).sum(0),
    ]
    try:
        from . import kernels

        found = [
            kernels.read(values, indices, weights),
            kernels.weight_gradient(grad, values, indices),
            kernels.row_gradient(indices, weights, grad, rows),
        ]
        torch.testing.assert_close(found, [each.float() for each in expected], rtol=1e-4, atol=1e-4)
    except Exception as error:  # noqa: BLE001  (of Triton, of a compiler, of a driver)
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"Triton's kernels do not work on {device}, where memory rows are now read without "
            f"them: {type(error).__name__}: {reason}",
            stacklevel=2,
        )
        return False
    return True


@torch.library.custom_op("smf_lib::read_rows", mutates_args=())
def read_rows(values: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """`kernels.read`, with a gradient for the weights alone: rows are trained from the tape.

    An operator, so that `torch.compile` keeps the call in its graph and does not look inside.
    """
    from . import kernels

    return kernels.read(values, indices, weights)


@read_rows.register_fake
def _(values, indices, weights):  # type: ignore[no-untyped-def]
    return values.new_empty(len(indices), values.shape[1], dtype=torch.float32)


@torch.library.custom_op("smf_lib::weight_gradient", mutates_args=())
def weight_gradient(grad: Tensor, values: Tensor, indices: Tensor) -> Tensor:
    """`kernels.weight_gradient`, as an operator."""
    from . import kernels

    return kernels.weight_gradient(grad, values, indices)


@weight_gradient.register_fake
def _(grad, values, indices):  # type: ignore[no-untyped-def]
    return grad.new_empty(indices.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    values, indices, _ = inputs
    ctx.save_for_backward(values, indices)


def _backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor | None]:
    values, indices = ctx.saved_tensors
    wanted = ctx.needs_input_grad[2]
    return None, None, weight_gradient(grad, values, indices) if wanted else None


read_rows.register_autograd(_backward, setup_context=_save)


def gradient_of_rows(places: Tensor, weights: Tensor, grad: Tensor, rows: int) -> Tensor:
    """`kernels.row_gradient`."""
    from . import kernels

    return kernels.row_gradient(places, weights, grad, rows)
