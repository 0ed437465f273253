"""Arguments of public functions, looked at before anything is done with them.

What cannot be is refused in one line that names the argument, its value and what to give instead;
without it, errors come from deep within and speak of something else. The functions at the end are
those of `background` and `rules` as users import them from `smf_lib`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from . import background, rules
from .layer import ProductKeyMemory

MODEL = "a model from peft.get_peft_model(model, SparseMemoryConfig(...))"


def check_kind(name: str, value: object, kind: type | tuple[type, ...], remedy: str) -> None:
    """Refuse an argument that is not of its kind.

    Args:
        name: the argument's name.
        value: what was given for it.
        kind: what it must be an instance of.
        remedy: what to give instead.

    Raises:
        ValueError: it is of another kind.
    """
    if not isinstance(value, kind):
        raise ValueError(f"{name}={shown(value)} cannot be used; give {remedy}")  # noqa: TRY004


def check_count(name: str, value: object) -> None:
    """Refuse what is no whole number of at least 1.

    Raises:
        ValueError: it is another number, or none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={shown(value)} must be at least 1, a whole number")


def check_path(name: str, value: object) -> None:
    """Refuse what is no path of a file or folder.

    Raises:
        ValueError: neither a text nor a `Path`.
    """
    check_kind(name, value, (str, os.PathLike), "the path of a file or folder")


def check_tokens(model: nn.Module, sequences: Any) -> None:
    """Refuse what are no lists of token ids, and ids that the model does not know.

    Raises:
        ValueError: the message names the first such sequence.
    """
    remedy = "a list of lists of token ids, one for each text"
    check_kind("sequences", sequences, (Sequence, Tensor), remedy)
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    known = getattr(embedding, "num_embeddings", None)
    for place, sequence in enumerate(sequences):
        try:
            ids = torch.as_tensor(sequence)
        except (TypeError, ValueError, RuntimeError):
            ids = torch.empty((), dtype=torch.float32)
        if ids.dim() == 1 and not len(ids):
            continue  # `read_rows` says of it that it is empty
        if ids.dim() != 1 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(f"sequences[{place}]={shown(sequence)} cannot be used; give {remedy}")
        if int(ids.min()) < 0 or (known is not None and int(ids.max()) >= known):
            raise ValueError(
                f"sequences[{place}]={shown(sequence)} has token ids outside of 0 to "
                f"{known - 1 if known else '...'}; use the tokenizer of this model"
            )


def shown(value: object) -> str:
    """A value as one line of at most 80 characters."""
    return " ".join(repr(value).split())[:80]


# ------------------------------------------------------------------ functions of keyed modules


@wraps(background.memories)
def memories(model: nn.Module) -> dict[str, ProductKeyMemory]:  # noqa: D103  (wraps brings it)
    check_kind("model", model, nn.Module, MODEL)
    return background.memories(model)


@wraps(background.read_rows)
def read_rows(  # noqa: D103
    model: nn.Module, sequences: Sequence[Sequence[int]], batch_size: int = 8
) -> dict[str, list[list[Tensor]]]:
    check_kind("model", model, nn.Module, MODEL)
    check_tokens(model, sequences)
    check_count("batch_size", batch_size)
    return background.read_rows(model, sequences, batch_size)


@wraps(background.collect_background)
def collect_background(  # noqa: D103
    model: nn.Module, sequences: Sequence[Sequence[int]], batch_size: int = 8
) -> None:
    check_kind("model", model, nn.Module, MODEL)
    check_tokens(model, sequences)
    check_count("batch_size", batch_size)
    background.collect_background(model, sequences, batch_size)


@wraps(rules.register_rule)
def register_rule(  # noqa: D103
    name: str, needs_background: bool = False, unlimited: bool = False, by_row: bool = False
) -> Callable[[rules.Score], rules.Score]:
    check_kind("name", name, str, "a name for the rule, such as 'rare'")
    flags = {"needs_background": needs_background, "unlimited": unlimited, "by_row": by_row}
    for flag, value in flags.items():
        check_kind(flag, value, bool, "True or False")
    return rules.register_rule(name, **flags)


@wraps(rules.select_rows)
def select_rows(  # noqa: D103
    reads: rules.Reads,
    rule: str,
    rows_per_step: int,
    background: rules.BackgroundReads | None = None,
) -> Tensor:
    check_kind("reads", reads, rules.Reads, "smf_lib.method.rules.count_reads(rows)")
    check_kind("rule", rule, str, f"one of {', '.join(sorted(rules.RULES))}")
    check_count("rows_per_step", rows_per_step)
    remedy = "a memory's `background`, or None"
    check_kind("background", background, (rules.BackgroundReads, type(None)), remedy)
    return rules.select_rows(reads, rule, rows_per_step, background)
