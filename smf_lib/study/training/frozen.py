"""Frozen weights under autocast: their bfloat16 copies, kept instead of made anew in every step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _KeptCast:
    """The forward pass of a linear map that keeps its frozen weight's copy for autocast.

    The copy is what autocast itself would make, so outputs and gradients have the same bits. It is
    made again when the weight is another tensor, or was written to in place.
    """

    def __init__(self, linear: nn.Linear):
        self.linear = linear
        self.state, self.copy = None, None

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias, device = self.linear.weight, self.linear.bias, x.device.type
        if torch.is_autocast_enabled(device) and not weight.requires_grad:
            dtype = torch.get_autocast_dtype(device)
            state = (weight.data_ptr(), weight.device, weight._version, dtype)
            if self.state != state:
                self.state, self.copy = state, weight.detach().to(dtype)
            weight = self.copy
        return F.linear(x, weight, bias)


@contextlib.contextmanager
def kept_casts(model: nn.Module) -> Iterator[None]:
    """While this lasts, every frozen linear map of `model` keeps its weight's copy for autocast.

    Under autocast, PyTorch converts a frozen weight again in every forward pass; methods that train
    few parameters spend a good part of a short step on that. Nothing changes but the time: outputs
    and gradients have the same bits, weights stay what they are, and trained ones are converted as
    ever. It costs 2 bytes per frozen weight. (Writing to `weight.data` inside goes unnoticed.)

        with kept_casts(model):
            trainer.train()
    """
    linears = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m)]
    for linear in linears:
        linear.forward = _KeptCast(linear)
    try:
        yield
    finally:
        for linear in linears:
            del linear.forward
