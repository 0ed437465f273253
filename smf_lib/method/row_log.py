"""What a Trainer's log says of memory rows: `RowLog`, which a Trainer that trains rows is given.

A Trainer's `grad_norm` is of gradients that parameters hold, and a table holds none: where rows
alone are trained it is 0. No number put in a gradient's place would mend that. The rows that move
are known in the step only, after the norm is taken, and a Trainer scales all other gradients by
what it finds there. So it is the log that is completed, once the step is done.
"""

from __future__ import annotations

from math import hypot
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import TrainerCallback

from .layer import ProductKeyMemory
from .tape import Entry, ReadTape

if TYPE_CHECKING:  # it brings data sets and tables with it, which the method does without
    from transformers import Trainer


class RowLog(TrainerCallback):
    """Adds what the last step did to memory rows to each line of a Trainer's log.

    - `grad_norm`: the norm over rows and other parameters together, before clipping.
    - `smf/row_grad_norm`: the joint gradient norm of the rows that the last step chose, before
      clipping; `smf/learning_rate`: the learning rate by which it moved them.
    - `smf/rows_chosen`: how many rows the last step chose, over all tables; `smf/rows_touched`:
      how many any step has, since the memory was made.
    - `smf/overlap_with_last_step`: the share of the chosen rows that the step before chose too,
      from 0 to 1.
    """

    def __init__(self) -> None:
        self.rate: float | Tensor = 0.0  # learning rate of rows in the last step
        # of each table, the updates of each row before the last two steps
        self.counts: list[dict[ProductKeyMemory, Tensor]] = []
        self.entries: dict[ProductKeyMemory, list[Entry]] = {}  # its reads in the last step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget an earlier training."""
        self.counts, self.entries = [], {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let go of the last step's reads, which a log would have used by now."""
        self.entries = {}

    def keep(self, tables: list[tuple[ProductKeyMemory, dict]]) -> None:
        """Keep what a step is about to use of these tables, each with its parameter group.

        Nothing is computed unless it is logged. No event of a Trainer calls it, but `step_callers`.
        """
        rate = tables[0][1]["lr"]
        self.rate = rate.clone() if isinstance(rate, Tensor) else rate
        self.counts = [*self.counts[-1:], {t: t.row_updates.clone() for t, _ in tables}]
        self.entries = {
            table: [entry for reader in table.readers for entry in reader.tape.entries]
            for table, _ in tables
        }

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any
    ) -> None:
        """Add what the last step did to rows to a line of the training log."""
        if not logs or "loss" not in logs or not self.entries:
            return
        added = self._last_step()
        added["smf/learning_rate"] = float(self.rate)
        added["grad_norm"] = hypot(logs.get("grad_norm", 0.0), added["smf/row_grad_norm"])
        logs.update(added)
        state.log_history[-1].update(added)

    @torch.no_grad()
    def _last_step(self) -> dict[str, float]:
        """What the last step did to the rows of all tables."""
        chosen = again = touched = 0
        norms = []
        for table, before in self.counts[-1].items():
            now = table.row_updates
            moved = now != before
            chosen += int(moved.sum())
            touched += int((now > 0).sum())
            if len(self.counts) == 2 and table in self.counts[0]:
                again += int((moved & (before != self.counts[0][table])).sum())
            norms.append(_norm(self.entries[table], moved.nonzero().squeeze(1), table))
        return {
            "smf/row_grad_norm": hypot(*norms),
            "smf/rows_chosen": chosen,
            "smf/rows_touched": touched,
            "smf/overlap_with_last_step": again / max(chosen, 1),
        }


def log_rows(trainer: Trainer, tables: list[tuple[ProductKeyMemory, dict]]) -> None:
    """Have the trainer's log tell of the step of these tables that its optimizer is to take."""
    callbacks = trainer.callback_handler.callbacks
    log = next((c for c in callbacks if isinstance(c, RowLog)), None)
    if log is None:
        log = RowLog()
        callbacks.insert(0, log)  # those that write a log come after what is added to it
    log.keep(tables)


def _norm(entries: list[Entry], rows: Tensor, table: ProductKeyMemory) -> float:
    """Norm of the gradient of these rows, the mean over processes as in `row_adam`."""
    grad = torch.zeros(len(rows), table.values.shape[1], device=rows.device)
    if entries and len(rows):
        grad += ReadTape(entries).row_gradient(rows)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(grad)
        grad /= dist.get_world_size()
    return float(grad.norm())
