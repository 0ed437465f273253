"""The processes of a run that `torchrun` or `accelerate launch` started; one otherwise."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return int(os.environ.get("RANK", "0")) == 0


def check_share(field: str, batch_size: int, rows: int | None = None) -> None:
    """Raise ValueError unless the processes can share each batch of an epoch evenly.

    field: the name of the batch's size. rows: how many there are in an epoch; of a last batch that
    is smaller, several processes would train on some rows twice.
    """
    if batch_size % count():
        raise ValueError(
            f"{field}={batch_size} cannot be shared by {count()} processes; make it a multiple, "
            "or start fewer"
        )
    left = 0 if rows is None else rows % batch_size
    if count() > 1 and left:
        raise ValueError(
            f"{field}={batch_size}: the last {left} of {rows} rows are no whole batch, which "
            f"{count()} processes cannot share; train on {rows - left} rows, or start one process"  # type: ignore[operator]
        )


def join() -> None:
    """Meet the other processes, each with a GPU of its own where there are any."""
    if count() == 1:
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group()


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def leave() -> None:
    """Part from the other processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
