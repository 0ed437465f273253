"""Tasks learned one after another: what the `sequences` of a profile stand for.

    exam: {name: icd10, train_rows: 1000}
    tasks:
      airports: {name: airports}
      cities: {name: cities}
    sequences:
      - [icd10, airports, cities]
      - [cities, airports, icd10]

Each method but the base model is then an *arm*, and becomes one method for each stage of each
sequence: `lora.icd10`, `lora.icd10-airports`, `lora.icd10-airports-cities`. A stage is trained on
the task that is named last and starts from the stage before, so it is a run like any other, with
its own key, record and weights; sequences that begin alike share their first stages. An arm that
names another in `first` shares that arm's first stages.

Two baselines belong to sequences: `replay_tasks` and `merge_adapters`
(`training.baseline_sequence`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .baselines import BASELINES, BaselineSpec, Start

MERGES = "merge_adapters"  # its stages train an adapter of their own, beside the one before
OF_STAGES = ("task", "learned", "arm")  # fields that a stage has and an arm has not


@dataclass(frozen=True)
class StageStart(Start):
    """What a baseline can go by in a sequence.

    Attributes:
        learned: the training rows of each task that was learned before.
    """

    learned: Sequence[Sequence[dict]] = field(default=())


def stage_name(arm: str, tasks: Sequence[str]) -> str:
    """The method of an arm that has learned these tasks in this order."""
    return f"{arm}.{'-'.join(tasks)}"


def stages(arms: Mapping[str, Any], sequences: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The methods that arms become, each after the one that it starts from.

    Args:
        arms: the profile's methods as they stand in it.
        sequences: names of tasks in the order in which they are learned.

    Raises:
        ValueError: `first` names no earlier arm, or an arm has a field of stages.
    """
    methods: dict[str, Any] = {}
    for name, arm in arms.items():
        if not isinstance(arm, Mapping) or arm.get("kind") == "base":
            methods[name] = arm
            continue
        settings = dict(arm)
        own = [place for place in (*OF_STAGES, "start") if settings.get(place)]
        if own:
            raise ValueError(f"methods.{name}: {', '.join(own)} belong to single stages")
        first = settings.pop("first", None)
        if first is not None and (first not in arms or (arms[first] or {}).get("first")):
            raise ValueError(
                f"methods.{name}: first={first!r} must name an arm with first stages of its own"
            )
        if first is not None and list(arms).index(first) > list(arms).index(name):
            raise ValueError(f"methods.{name}: first={first!r} must stand before it")
        for tasks in sequences:
            for number, task in enumerate(tasks):
                if number == 0 and first is not None:
                    continue
                begun = first if number == 1 and first is not None else name
                methods[stage_name(name, tasks[: number + 1])] = settings | {
                    "label": f"{settings.get('label', name)}: {', '.join(tasks[: number + 1])}",
                    "arm": settings.get("label", name),
                    "task": task,
                    "learned": list(tasks[:number]),
                    "start": stage_name(begun, tasks[:number]) if number else None,
                }
    return methods


def _ship(name: str, **more: Any) -> None:
    apply = f"training.baseline_sequence:{name}"
    BASELINES.add(name, BaselineSpec(name, apply, **more), apply)


_ship("replay_tasks")
_ship(MERGES, kinds=("peft",))
