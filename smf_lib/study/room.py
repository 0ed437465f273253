"""Room on the disk and in memory: looked at before long work, and told in a line when it runs out.

Libraries report a full disk in words of their own ("basic_ios::clear", "unexpected pos"); what is
said here names the place and the remedy. Nothing that was half written is taken for whole, so the
same command goes on when there is room.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import get_peft_model

from ..method.sites import default_layers
from .files import is_closed, is_full, origins
from .kept import what_is_left
from .materials import Materials
from .methods import SPARSE_MEMORY, MethodSettings
from .profiles import RunSpec

OF_MEMORY = ("can't allocate memory", "out of memory", "Cannot allocate memory")
OTHER_PLACE = "set SMF_ROOT to a folder elsewhere"
GROUPS = Path("/sys/fs/cgroup")  # where Linux says what a container or a job may have
OWN_GROUPS = Path("/proc/self/cgroup")  # and in which of these this process is


class NoRoomError(OSError):
    """A disk that is full or cannot be written, or too little memory; the message is one line."""


def check_room(study: Materials, runs: Iterable[RunSpec]) -> None:
    """Look whether runs can be written and have room, before anything long begins.

    Needed are at least what all runs that are left to train keep, two checkpoints of the largest,
    and the memory of `check_memory`.

    Raises:
        NoRoomError: a folder that cannot be written, too little room on its disk or in memory.
    """
    for folder in (study.kept, study.work, study.results / study.STUDY):
        _check_writable(folder)
    left = [spec for spec in runs if what_is_left(study, spec).train]
    if not left:
        return
    sizes = {spec.run_id: _sizes(study, spec) for spec in left}
    run_id = max(sizes, key=lambda name: sizes[name].trained)
    kept = sum(4 * sizes[spec.run_id].trained for spec in left if study.profile.is_kept(spec))
    largest = sizes[run_id]  # a checkpoint of it has two moments too, of a table's rows few
    needed = kept + 2 * (6 if largest.sparse else 12) * largest.trained + 2**26
    free = shutil.disk_usage(_existing(study.kept)).free
    if free < needed:
        raise NoRoomError(
            f"{study.kept}: {len(left)} runs, of which {run_id} is the largest, need about "
            f"{_gb(needed)} on this disk, and {_gb(free)} are free; make room there, or "
            f"{OTHER_PLACE}"
        )
    check_memory(study, left)


def check_memory(study: Materials, runs: Iterable[RunSpec]) -> None:
    """Look whether runs fit into the memory of a machine without a GPU.

    Needed are at least 4 bytes a number (weights and what is added), and 12 more (a gradient and
    two moments) for each that is trained. The rows of a sparse memory count without these, since
    few of them have any.

    Raises:
        NoRoomError: a run that does not fit.
    """
    if torch.cuda.is_available():
        return
    there = memory_size()
    for spec in runs:
        size = _sizes(study, spec)
        needed = 4 * (size.weights + size.added) + 12 * (0 if size.sparse else size.trained)
        if needed > there:
            raise NoRoomError(
                f"run {spec.run_id} needs at least {_gb(needed)} of memory, and here are "
                f"{_gb(there)}; leave it out (--method), or choose a smaller model or memory"
            )


@dataclass(frozen=True)
class _Sizes:
    """Numbers in the base model, added by a method, and trained; whether only rows of these are."""

    weights: int
    added: int = 0
    trained: int = 0
    sparse: bool = False


def _sizes(study: Materials, spec: RunSpec) -> _Sizes:
    """The sizes of a run's method, counted once."""
    counted = study.__dict__.setdefault("sizes", {})
    if spec.method not in counted:
        counted[spec.method] = _count(study, spec.settings)
    return counted[spec.method]


def _count(study: Materials, method: MethodSettings) -> _Sizes:
    model: Any = study.empty_model()
    weights = model.num_parameters()
    if method.kind == "base":
        return _Sizes(weights)
    if method.kind == "full":
        return _Sizes(weights, trained=weights)
    config = method.peft_config(study.profile.memory)
    if method.peft_type == SPARSE_MEMORY:
        layers = len(config.layers or default_layers(model.config.num_hidden_layers))
        tables = 1 if config.share_values else layers
        rows = tables * config.num_subkeys**2 * model.config.hidden_size
        return _Sizes(weights, rows, rows, config.update == "sparse")
    try:
        with torch.device("meta"):
            adapted = get_peft_model(model, config)
    except Exception:  # noqa: BLE001
        return _Sizes(weights)  # a method that looks at the weights cannot be counted without them
    added = sum(p.numel() for p in adapted.parameters()) - weights
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return _Sizes(weights, max(added, 0), trained)


def memory_size() -> int:
    """Bytes of memory that this process may have: the machine's, or its control group's if less."""
    sizes = [psutil.virtual_memory().total]
    with suppress(OSError):
        for line in OWN_GROUPS.read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            place, name = GROUPS, "memory.max"
            if "memory" in kinds.split(","):  # the first version of control groups
                place, name = GROUPS / "memory", "memory.limit_in_bytes"
            elif kinds:
                continue
            folder = place / path.lstrip("/")
            for above in (folder, *folder.parents):
                with suppress(OSError, ValueError):  # "max" is no limit
                    sizes.append(int((above / name).read_text(encoding="utf-8")))
    return min(sizes)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"room")
    except OSError as error:
        raise NoRoomError(
            f"{folder} cannot be written ({error.strerror}); make it a folder that can, or "
            f"{OTHER_PLACE}"
        ) from error


def _existing(folder: Path) -> Path:
    """The folder, or the lowest one above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def explains_no_room(method: Callable) -> Callable:
    """Let a method of a study tell a full or closed disk, or too little memory, in one line.

    What libraries say of it is the cause of the `NoRoomError` that is raised in its place.
    """

    @wraps(method)
    def explained(study: Materials, *given: Any, **named: Any) -> Any:
        try:
            return method(study, *given, **named)
        except NoRoomError:
            raise
        except Exception as error:
            line = room_line(error, study.root)
            if line is None:
                raise
            raise NoRoomError(line) from error

    return explained


def room_line(raised: BaseException, root: Path) -> str | None:
    """What to say of an error or of one that it came from; None if room is not what it is about.

    root: the folder below which things are written.
    """
    for error in origins(raised):
        number, text = getattr(error, "errno", None), str(error)
        names = (getattr(error, name, None) for name in ("filename2", "filename"))
        where = Path(next(filter(None, names), root))  # of a copy the second
        if is_full(error):
            free = shutil.disk_usage(_existing(root)).free
            return (
                f"{where}: no space is left on its disk ({_gb(free)} free); make room there or "
                f"{OTHER_PLACE}, and give the same command again: it goes on"
            )
        if number and is_closed(error) and where.is_relative_to(root):
            return (
                f"{where} cannot be written ({os.strerror(number)}); make it writable or "
                f"{OTHER_PLACE}, and give the same command again: it goes on"
            )
        if isinstance(error, MemoryError) or any(words in text for words in OF_MEMORY):
            return (
                "memory ran out: end what else is running, halve training.batch_size and double "
                "training.gradient_accumulation, or choose a smaller model, and give the same "
                "command again: it goes on"
            )
    return None


def _gb(size: float) -> str:
    return f"{size / 1e9:.2g} GB"
