"""Two finetunes of one base model put together, and what each way costs on both tasks.

Row patches by `compose`, adapters of LoRA by PEFT's `add_weighted_adapter`. A way is judged by what
is left on each task of what its finetune alone gained over the base model (retention), by the mean
of both tasks (joint accuracy), by the numbers that it stores, and by whether it can be taken out to
the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..method.patches.compose import compose
from ..method.patches.patch import RowPatch
from ..method.sums import sha256_of
from .evaluation.measuring import measure_metric
from .materials import Materials
from .metrics import task_metric
from .profiles import Profile, RunSpec

BASE = "base model"
RULES = ("first", "second", "sum", "moved")
MERGES: dict[str, dict[str, Any]] = {
    "linear": {},
    "svd": {},
    "ties": {"density": 0.5},
    "dare_linear": {"density": 0.5},
    "dare_ties": {"density": 0.5},
}


def runs_of_pair(
    profile: Profile,
    method: str,
    reference: str,
    tasks: Sequence[str],
    seed: int,
    weights: Sequence[float],
) -> dict[tuple[str, str], RunSpec]:
    """The runs that are put together, by arm and task: looked at before any of them is trained.

    Args:
        profile: its sequences begin with the tasks.
        method: an arm of sparse memory.
        reference: an arm of LoRA.
        tasks: two tasks, each the first of a sequence.
        seed: of all four runs.
        weights: of the two adapters of LoRA when they are merged.

    Raises:
        ValueError: one of them cannot be; the message names it and what can.
    """
    first = [names[0] for names in profile.sequences]
    named = isinstance(tasks, (list, tuple)) and all(task in first for task in tasks)
    if not named or len(tasks) != 2 or tasks[0] == tasks[1]:
        raise ValueError(
            f"tasks={tasks!r} must be two different tasks that a sequence of profile "
            f"{profile.name!r} begins with; it has {', '.join(dict.fromkeys(first)) or 'none'}"
        )
    if (
        not isinstance(weights, (list, tuple))
        or len(weights) != 2
        or not all(map(_is_number, weights))
    ):
        raise ValueError(f"weights={weights!r} must be two finite numbers, one for each task")
    runs: dict[tuple[str, str], RunSpec] = {}
    for argument, arm, kind in (
        ("method", method, "SPARSE_MEMORY"),
        ("reference", reference, "LORA"),
    ):
        of_kind = {n for n, m in profile.methods.items() if m.peft_type == kind}
        arms = [n.removesuffix(f".{tasks[0]}") for n in profile.methods if n in of_kind]
        arms = [a for a in arms if all(f"{a}.{task}" in of_kind for task in tasks)]
        if arm not in arms:
            raise ValueError(
                f"{argument}={arm!r} is no arm of {kind} in profile {profile.name!r} that learns "
                f"{' and '.join(tasks)}; it has {', '.join(arms) or 'none'}"
            )
        runs |= {(arm, task): profile.run(f"{arm}.{task}", seed) for task in tasks}
    return runs


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def weights_sum(model: nn.Module) -> str:
    """The sha256 of all parameters and buffers of a model: equal bits, equal sum."""
    return sha256_of(sorted(model.state_dict().items()))


def accuracies(
    study: Materials, model: nn.Module, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str]
) -> dict[str, float]:
    """The accuracy of a model on each task, between 0 and 1."""
    found = {}
    for task in tasks:
        metric = "exam_accuracy" if task == study.profile.exam.name else task_metric(task)
        found[task] = measure_metric(study, metric, model, tokenizer)["value"]
    return found


def composed(
    study: Materials,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    patches: Mapping[str, RowPatch],
    rules: Sequence[str] = RULES,
) -> Iterator[dict[str, Any]]:
    """The base model, each patch alone, both by each rule: put in, measured, and taken out again.

    Args:
        study: whose tasks are asked.
        model: the base model with an untrained memory, as the patches started from.
        tokenizer: the model's.
        patches: two patches by the task that each learned.
        rules: what `compose` may do about rows that both changed.

    Yields:
        for each way {"way", "rows", "conflicts", a task's name: its accuracy, "taken out": whether
        the model was the same afterwards, to the bit}.

    Raises:
        ValueError: see `compose` and `RowPatch.apply`.
    """
    (_, first), (_, second) = patches.items()
    before = weights_sum(model)
    alone = accuracies(study, model, tokenizer, list(patches))
    yield {"way": BASE, "rows": 0, "conflicts": 0, **alone, "taken out": True}
    ways = {f"{task} alone": (patch, 0) for task, patch in patches.items()}
    for rule in rules:
        both = compose(first, second, rule, model)
        ways[f"both, {rule}"] = (both.patch, both.n_shared)
    for way, (patch, conflicts) in ways.items():
        patch.apply(model)
        found = accuracies(study, model, tokenizer, list(patches))
        patch.revert(model)
        same = weights_sum(model) == before
        yield {"way": way, "rows": patch.n_rows, "conflicts": conflicts, **found, "taken out": same}


def merged(
    study: Materials,
    base: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    adapters: Mapping[str, Path],
    weights: tuple[float, float] = (1.0, 1.0),
) -> Iterator[dict[str, Any]]:
    """The base model, each adapter alone, both merged in each of PEFT's ways (`MERGES`), measured.

    Args:
        study: whose tasks are asked.
        base: the base model, which gets the adapters.
        tokenizer: the model's.
        adapters: the folders of two adapters of LoRA by the task that each learned.
        weights: of the two in a merge.

    Yields:
        for each way {"way", "numbers": how many an adapter stores, a task's name: its accuracy}.
    """
    if not adapters:
        raise ValueError("adapters is empty; give two folders")
    alone = accuracies(study, base.eval(), tokenizer, list(adapters))
    yield {"way": BASE, "numbers": 0} | alone
    (task, folder), *others = adapters.items()
    model = PeftModel.from_pretrained(base, folder, adapter_name=task)
    for task, folder in others:
        model.load_adapter(folder, task)
    ways: dict[str, dict[str, Any] | None] = dict.fromkeys(adapters)
    for way, settings in (ways | MERGES).items():
        if settings is not None:
            model.add_weighted_adapter(
                list(adapters), list(weights), way, combination_type=way, **settings
            )
        model.set_adapter(way)
        model.eval()
        numbers = sum(p.numel() for name, p in model.named_parameters() if f".{way}." in name)
        name = f"{way} alone" if settings is None else f"both, {way}"
        yield {"way": name, "numbers": numbers} | accuracies(
            study, model, tokenizer, list(adapters)
        )


def retained(ways: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Each way with, in per cent, what it keeps of each task and the mean accuracy of both.

    Kept of a task is the gain over the base model as a share of the gain of the task's own finetune
    alone, so the other task's finetune keeps nothing of it but what both teach; a dash where that
    finetune gained nothing.
    """
    named = {way["way"]: way for way in ways}

    def kept(way: Mapping[str, Any], task: str) -> int | str:
        start = named[BASE][task]
        gain = named[f"{task} alone"][task] - start
        return round(100 * (way[task] - start) / gain) if gain > 0 else "–"

    return [
        {
            **{name: value for name, value in way.items() if name not in tasks},
            **{f"{task} (%)": round(100 * way[task], 1) for task in tasks},
            **{f"{task}: kept of the gain (%)": kept(way, task) for task in tasks},
            "joint (%)": round(100 * sum(way[task] for task in tasks) / len(tasks), 1),
        }
        for way in ways
    ]
