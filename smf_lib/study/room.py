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
from functools import wraps
from pathlib import Path
from typing import Any

import psutil
import torch

from ..method.sites import default_layers
from .files import is_closed, is_full, origins
from .kept import what_is_left
from .materials import Materials
from .methods import MethodSettings
from .profiles import RunSpec

OF_MEMORY = ("can't allocate memory", "out of memory", "Cannot allocate memory")
OTHER_PLACE = "set SMF_ROOT to a folder elsewhere"


class NoRoomError(OSError):
    """A disk that is full or cannot be written, or too little memory; the message is one line."""


def check_room(study: Materials, runs: Iterable[RunSpec]) -> None:
    """Look whether runs can be written and have room, before anything long begins.

    Needed are at least two checkpoints of the largest run that is left to train, and for full
    finetuning of one model of N parameters 16 N bytes of memory.

    Raises:
        NoRoomError: a folder that cannot be written, too little room on its disk or in memory.
    """
    for folder in (study.kept, study.work, study.results / study.STUDY):
        _check_writable(folder)
    left = [spec for spec in runs if what_is_left(study, spec).train]
    parameters = study.empty_model().num_parameters() if left else 0
    wanted = {spec.run_id: _bytes(study, spec.settings, parameters) for spec in left}
    if not wanted:
        return
    run_id, needed = max(wanted.items(), key=lambda item: item[1])
    free = shutil.disk_usage(_existing(study.kept)).free
    if free < needed:
        raise NoRoomError(
            f"{study.kept}: run {run_id} needs about {_gb(needed)} on this disk, and {_gb(free)} "
            f"are free; make room there, or {OTHER_PLACE}"
        )
    full = [spec.run_id for spec in left if spec.settings.kind == "full"]
    there = psutil.virtual_memory().total
    if full and not torch.cuda.is_available() and 16 * parameters > there:
        raise NoRoomError(
            f"run {full[0]} needs at least {_gb(16 * parameters)} of memory, and this machine has "
            f"{_gb(there)}; leave full finetuning out (--method), or choose a smaller model"
        )


def _bytes(study: Materials, method: MethodSettings, parameters: int) -> int:
    """Bytes of two checkpoints and what is kept: weights, and two moments of what is trained."""
    if method.kind == "full":
        return 28 * parameters
    if method.kind == "base" or method.peft_type != "SPARSE_MEMORY":
        return 2**26
    config = method.peft_config(study.profile.memory)
    shape = study.empty_model().config
    layers = len(config.layers or default_layers(shape.num_hidden_layers))
    return 2**26 + 16 * layers * config.num_subkeys**2 * shape.hidden_size


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
