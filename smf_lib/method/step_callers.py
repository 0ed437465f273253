"""Who calls a step of memory rows: a loss scaler is refused, a Trainer is given a log of rows.

An optimizer is not told by whom it is called, so the calls that lead to it are looked through.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from .layer import memory_of


def watch_step_callers() -> None:
    """Have torch refuse each step of memory rows that a `GradScaler` takes, and log a Trainer's.

    However often it is called, also from a reloaded module, there is one hook: the last.
    """
    held = getattr(torch.optim, "smf_lib_scaler_hook", None)
    if held is not None:
        held.remove()
    hook = register_optimizer_step_pre_hook(_look_at_callers)
    torch.optim.smf_lib_scaler_hook = hook  # type: ignore[attr-defined]


def _look_at_callers(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Refuse a step that `GradScaler.step` takes, and have a Trainer log the step that it takes.

    Raises:
        ValueError: it is a scaler, and the optimizer holds memory rows.
    """
    held = [
        (memory, group)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if (memory := memory_of(parameter)) is not None
    ]
    frame = inspect.currentframe() if held else None
    while frame is not None:
        scales = frame.f_code is torch.amp.GradScaler.step.__code__
        if scales and frame.f_locals["self"].is_enabled():
            raise ValueError(
                "GradScaler cannot train a memory: rows are trained from a tape, which it neither "
                "unscales nor checks for infinite numbers; train in bfloat16 or float32, and make "
                "it GradScaler(enabled=False)"
            )
        of_trainer = frame.f_globals.get("__name__") == "transformers.trainer"
        if of_trainer and "self" in frame.f_locals:
            trained = [(memory, group) for memory, group in held if memory.values.requires_grad]
            if trained:
                # transformers imports PEFT, and with it this module, before it has Trainers
                from .row_log import log_rows

                log_rows(frame.f_locals["self"], trained)
            return
        frame = frame.f_back
