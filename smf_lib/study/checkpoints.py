"""Checkpoints of a training carry the sums of their files, looked at before it goes on from one.

Trainer goes on from any folder that has the files it looks for, with other numbers where one of
them is missing or changed. So the files' sums are noted in each checkpoint, and one that does not
have them any more is removed: training goes on from one that is whole. So is one whose files hold
more than numbers: a sum tells damage, and not who wrote a file. And so is one written after
training had diverged, since a sparse memory is loaded from numbers alone.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import transformers.trainer
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import safe_globals

from .files import file_sha256, keep_json, kept_json
from .kept import is_finite
from .training.train import COMPLETE

_NEEDED = ("optimizer.pt", "scheduler.pt", "trainer_state.json")


@contextmanager
def checked(work_dir: Path) -> Iterator[None]:
    """For a training in `work_dir`: remove its damaged checkpoints, note the sums of new ones.

    A line on standard error says what is removed and why.
    """
    for path in sorted(work_dir.glob("checkpoint-*")):
        _check(path)
    noting = _NoteSums(work_dir)
    transformers.trainer.DEFAULT_CALLBACKS.append(noting)
    try:
        yield
    finally:
        transformers.trainer.DEFAULT_CALLBACKS.remove(noting)


def _check(path: Path) -> None:
    """Remove what is no whole checkpoint; what has another name than one is put aside."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)  # another process may have seen it too
        _say(path, "is no folder; it is removed")
    elif not path.name.removeprefix("checkpoint-").isdecimal():
        aside = path.with_name(f"aside-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(FileNotFoundError):
            path.rename(aside)
        _say(path, f"names no step; it is now {aside.name}")
    elif (path / COMPLETE).is_file() and (damaged := _damaged(path)):
        shutil.rmtree(path, ignore_errors=True)
        _say(path, f"is damaged ({damaged}); training goes on from what is whole")
    elif (path / COMPLETE).is_file() and _diverged(path):
        shutil.rmtree(path, ignore_errors=True)
        _say(path, "holds NaN or infinite numbers; training goes on from before it diverged")


def _damaged(checkpoint: Path) -> str:
    """The file of a finished checkpoint that is not what was written, "" if all are."""
    noted: dict[str, str] = {}
    for path in sorted(checkpoint.glob("sums-*.json")):
        sums = kept_json(path)
        if sums is None:
            return path.name
        noted |= sums
    for name, expected in noted.items():
        path = checkpoint / name
        if not path.is_file() or file_sha256(path) != expected:
            return name
    for path in sorted([*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]):
        if not _holds_numbers(path):
            return path.name
    if noted:
        return ""
    # it was ended before its sums were noted
    try:
        mark = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
        _ = float(mark["seconds"]), float(mark["peak_memory_bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return COMPLETE
    for name in (*_NEEDED, "rng_state*.pth", "*.safetensors"):
        if not any(checkpoint.glob(name)):
            return name
    return ""


def _holds_numbers(path: Path) -> bool:
    """Whether a file of torch can be read as Trainer reads it: without running what is in it."""
    try:
        with safe_globals():
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # noqa: BLE001  (whatever a hostile or damaged file makes of it)
        return False
    return True


def _diverged(checkpoint: Path) -> bool:
    """Whether an adapter in a checkpoint holds numbers that are not finite."""
    adapters = checkpoint.glob("adapter_model.safetensors")
    return not all(is_finite(load_file(adapter)) for adapter in adapters)


def _say(path: Path, what: str) -> None:
    print(f"{path} {what}", file=sys.stderr)


class _NoteSums(TrainerCallback):
    """Notes the sums of a checkpoint when all of it is written: before what comes after it.

    Of several processes the first notes all files but the others' random numbers, which they note.
    """

    def __init__(self, work_dir: Path):
        self.work_dir = work_dir
        self.written: Path | None = None

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.written = self.work_dir / f"checkpoint-{state.global_step}"

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.written is None or not (self.written / COMPLETE).is_file():
            return
        rank, own = args.process_index, f"rng_state_{args.process_index}.pth"
        names = [p.name for p in sorted(self.written.iterdir()) if p.is_file()]
        if rank == 0:
            names = [n for n in names if n == own or not n.startswith(("rng_state_", "sums-"))]
        else:
            names = [n for n in names if n == own]
        keep_json(
            self.written / f"sums-{rank}.json",
            {name: file_sha256(self.written / name) for name in names},
        )
        # Trainer takes the folder that was written last for the newest; the clock may be set back
        step = int(self.written.name.rpartition("-")[2])
        os.utime(self.written, (step, step))
        self.written = None

    on_epoch_end = on_train_end = on_step_begin
