"""Refuses a loss scaler, `torch.amp.GradScaler`: it scales gradients, and rows have none."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from .layer import memory_of


def refuse_scalers() -> None:
    """Have torch refuse each step of memory rows that a `GradScaler` takes.

    However often it is called, also from a reloaded module, there is one hook: the last.
    """
    held = getattr(torch.optim, "smf_lib_scaler_hook", None)
    if held is not None:
        held.remove()
    hook = register_optimizer_step_pre_hook(_refuse_scaler)
    torch.optim.smf_lib_scaler_hook = hook  # type: ignore[attr-defined]


def _refuse_scaler(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Refuse a step that `GradScaler.step` takes. An optimizer is not told by whom it is called.

    Raises:
        ValueError: it is one, and the optimizer holds memory rows.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not torch.amp.GradScaler.step.__code__:
        frame = frame.f_back
    if frame is None or not frame.f_locals["self"].is_enabled():
        return
    if any(memory_of(p) is not None for g in optimizer.param_groups for p in g["params"]):
        raise ValueError(
            "GradScaler cannot train a memory: rows are trained from a tape, which it neither "
            "unscales nor checks for infinite numbers; train in bfloat16 or float32, and make it "
            "GradScaler(enabled=False)"
        )
