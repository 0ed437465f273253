"""Finetuning one model with one method: transformers' Trainer, resumable, the same for all arms."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from ...method.row_adam import RowAdamW
from ..files import write_whole
from ..precision import resolve_precision
from ..settings import TrainingSettings
from . import processes
from .frozen import kept_casts
from .shortcuts import AnswerCollator, plain_attention

COMPLETE = "complete.json"


@dataclass(frozen=True)
class TrainingOutcome:
    """What training took. Memory is the peak of the process, in bytes; log: step and mean loss."""

    seconds: float
    tokens: int
    steps: int
    peak_memory_bytes: int
    log: list[dict]


def finetune(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict],
    settings: TrainingSettings,
    learning_rate: float,
    seed: int,
    work_dir: Path,
    extra_loss: Callable[[nn.Module, dict, Any], Tensor] | None = None,
    optimizer: type[torch.optim.Optimizer] | partial | None = None,
) -> TrainingOutcome:
    """Train `model` in place on rows; goes on from the last checkpoint in `work_dir`.

    extra_loss: function of (model, batch, its output), a scalar that is added to the batch's loss.
    optimizer: what makes the optimizer instead of `RowAdamW`, see `baselines.Change`.

    A row has `input_ids`, `attention_mask` and `labels`, lists of token ids of one text.

    All parameters with requires_grad are trained by AdamW without weight decay, on a cosine
    schedule with warm-up; `RowAdamW` moves the rows of memories as well. Weights stay float32; with
    precision "bf16" the forward and backward passes run under bfloat16 autocast. What a step need
    not compute it leaves out, for all methods alike (`shortcuts`, `frozen`). Batches hold texts of
    similar length. A run that was killed and started again gives the same weights as one that was
    not. Started by `torchrun` or `accelerate launch`, the processes share the batches that one
    alone trains on; one process uses one GPU, however many it sees.

    Raises:
        ValueError: several processes cannot share each batch evenly (`processes.check_share`).
    """
    processes.check_share("training.batch_size", settings.batch_size, len(rows))
    per_epoch = -(-len(rows) // (settings.batch_size * settings.gradient_accumulation))
    steps = per_epoch * settings.epochs
    warmup = settings.warmup_steps
    arguments = TrainingArguments(
        output_dir=str(work_dir),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size // processes.count(),
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup_ratio * steps) if warmup is None else warmup,
        weight_decay=0.0,
        max_grad_norm=settings.max_grad_norm,
        bf16=resolve_precision(settings.precision) == "bf16",
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        data_seed=seed,
        train_sampling_strategy="group_by_length",
        save_steps=settings.checkpoint_every,
        save_total_limit=1,
        logging_steps=max(1, min(10, steps // 10)),
        report_to=[],
        dataloader_pin_memory=False,
        disable_tqdm=True,  # the bar of `_Clock` reads the same in a terminal, a notebook and a log
    )
    # A process that sees several GPUs would multiply the batch by their number (nn.DataParallel).
    arguments._n_gpu = min(arguments.n_gpu, 1)
    clock = _Clock(work_dir)
    trainer = _ResumableTrainer(
        model=model,
        args=arguments,
        train_dataset=list(rows),
        data_collator=AnswerCollator(tokenizer, model),
        callbacks=[clock],
        optimizer_cls_and_kwargs=_optimizer(arguments, optimizer or RowAdamW),
        extra_loss=extra_loss,
    )
    trainer.remove_callback(PrinterCallback)
    longest = max(len(row["input_ids"]) for row in rows)
    with kept_casts(model), plain_attention(model, longest):
        trainer.train(resume_from_checkpoint=_last_checkpoint(work_dir))
    # accelerate leaves the model's logits turned to float32; a long text's would take a gigabyte
    extract_model_from_parallel(model, keep_fp32_wrapper=False)
    history = trainer.state.log_history
    losses = [{"step": e["step"], "loss": e["loss"]} for e in history if "loss" in e]
    return TrainingOutcome(
        seconds=clock.seconds(),
        tokens=settings.epochs * sum(len(row["input_ids"]) for row in rows),
        steps=trainer.state.global_step,
        peak_memory_bytes=max(clock.peak, peak_memory()),
        log=losses,
    )


def peak_memory() -> int:
    """Peak memory of this process in bytes: on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _optimizer(
    arguments: TrainingArguments, make: type[torch.optim.Optimizer] | partial
) -> tuple[type[torch.optim.Optimizer], dict]:
    """The optimizer's class, and of the Trainer's settings of AdamW those that it takes."""
    _, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    kind, own = (make.func, make.keywords) if isinstance(make, partial) else (make, {})
    taken = inspect.signature(kind).parameters
    return kind, {name: value for name, value in settings.items() if name in taken} | own


class _ResumableTrainer(Trainer):
    """A Trainer whose order of rows follows from seed and epoch, however often it was interrupted.

    The plain one draws each epoch's order from the global random numbers, and one that goes on in
    a later epoch repeats the order of the first.
    """

    def __init__(self, *given, extra_loss: Callable | None = None, **named):
        super().__init__(*given, **named)
        self.extra_loss = extra_loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.extra_loss is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        batch = dict(inputs)
        loss, output = super().compute_loss(model, inputs, True, num_items_in_batch)
        extra = self.extra_loss(model, batch, output)
        if self.model_accepts_loss_kwargs and num_items_in_batch is not None:
            # the loss is already a share of the whole step's, which no one divides again
            extra = extra / self.current_gradient_accumulation_steps
        loss = loss + extra
        return (loss, output) if return_outputs else loss

    def _get_train_sampler(self, train_dataset=None) -> _SeededOrder:
        rows = self.train_dataset if train_dataset is None else train_dataset
        # of all processes together, so that they train on the batches that one trains on
        shared = self.args.train_batch_size * processes.count()
        group = shared * self.args.gradient_accumulation_steps
        return _SeededOrder(group, rows, self)


class _SeededOrder(LengthGroupedSampler):
    """Texts of similar length together, in an order of its own for each seed and epoch."""

    def __init__(self, batch_size: int, rows: Sequence[dict], trainer: Trainer):
        super().__init__(batch_size, lengths=[len(row["input_ids"]) for row in rows])
        self.trainer = trainer

    def __iter__(self):
        state, settings = self.trainer.state, self.trainer.args
        per_epoch = state.max_steps / settings.num_train_epochs
        epoch = int(state.global_step / per_epoch)
        self.generator = torch.Generator().manual_seed(settings.seed + 1_000_003 * epoch)
        return super().__iter__()


class _Clock(TrainerCallback):
    """Shows progress, adds up time over interruptions, marks each checkpoint that is whole."""

    def __init__(self, work_dir: Path):
        self.work_dir, self.before, self.peak = work_dir, 0.0, 0
        self.started = time.perf_counter()

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def on_train_begin(self, args, state, control, **kwargs):
        mark = self.work_dir / f"checkpoint-{state.global_step}" / COMPLETE
        if mark.is_file():
            earlier = json.loads(mark.read_text())
            self.before, self.peak = earlier["seconds"], earlier["peak_memory_bytes"]
        self.started = time.perf_counter()
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="training", unit="step"
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

    def on_save(self, args, state, control, **kwargs):
        if not processes.is_first():  # whose checkpoint holds the weights
            return
        mark = self.work_dir / f"checkpoint-{state.global_step}" / COMPLETE
        so_far = {"seconds": self.seconds(), "peak_memory_bytes": max(self.peak, peak_memory())}
        write_whole(mark, json.dumps(so_far))


def _last_checkpoint(work_dir: Path) -> str | None:
    """The newest whole checkpoint; those that a kill left half-written are removed."""
    whole = []
    for folder in work_dir.glob("checkpoint-*"):
        if (folder / COMPLETE).is_file():
            whole.append(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return str(max(whole, key=lambda f: int(f.name.rpartition("-")[2]))) if whole else None
