"""Baselines that are no PEFT configuration: what they change about an ordinary training.

A method of a profile, LoRA or full finetuning, names one and its settings:

    lora-replay:
      label: LoRA, replay
      kind: peft
      peft_type: LORA
      settings: {r: 16, lora_alpha: 32}
      baseline: replay
      baseline_settings: {share: 0.5}
      learning_rate: 5.0e-4

To add one, write one function in a file of your own and name that file in the profile's `imports`:

    from smf_lib.study.baselines import Change, register_baseline

    @register_baseline("shrink")
    def shrink(start, factor: float = 0.9):
        def finish(model):
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data.mul_(factor)

        return Change(finish=finish)

The parameters after the first are its settings; their annotations are checked when a profile is
loaded, `Annotated[float, Field(ge=0, le=1)]` with the range. Nothing heavy is imported here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ConfigDict, ValidationError, create_model

from .registry import Registry, load_function


@dataclass(frozen=True)
class Start:
    """What a baseline can go by when a run's training begins.

    Attributes:
        model: the run's model as it was built, its adapter included.
        rows: what would be trained on: dicts of `input_ids`, `labels` and `attention_mask`.
        text: function of "background" or "retrofit" that gives that text of the profile, a list
            of token ids a sequence.
        seed: the run's seed.
        precision: "bf16" (autocast) or "fp32", of the training.
        parent: function that gives the trained model of the method that `start` names, None
            without one.
    """

    model: Any
    rows: Sequence[dict]
    text: Callable[[str], list[list[int]]]
    seed: int = 0
    precision: str = "fp32"
    parent: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Change:
    """What a baseline changes; None leaves it as it is.

    Attributes:
        rows: what is trained on instead.
        loss: function of (model, batch, its output) that gives a scalar tensor in nats, added to
            the batch's mean loss in every forward pass. The output's `logits` stand before the
            tokens that bear loss; see `training.baselines.scored`.
        finish: function of the model that changes its weights in place after the last step.
        trains: whether there is a training at all before `finish`.
        optimizer: the class of the optimizer instead of `RowAdamW`, or a `functools.partial` of it
            with settings of its own. It gets those of AdamW's (`lr`, `betas`, `eps`) that it takes.
    """

    rows: Sequence[dict] | None = None
    loss: Callable[[Any, dict, Any], Any] | None = None
    finish: Callable[[Any], None] | None = None
    trains: bool = True
    optimizer: type | partial | None = None


NO_CHANGE = Change()


@dataclass(frozen=True)
class BaselineSpec:
    """One baseline.

    Attributes:
        name: what a profile calls it.
        apply: function of a `Start` and of settings that gives a `Change`.
        kinds: the kinds of methods that can have it, "full" and "peft".
        needs_start: whether the method names in `start` a full finetuning to go on from.
        needs_memory: whether it is for sparse memories only.
    """

    name: str
    apply: Callable[..., Change] | str
    kinds: tuple[str, ...] = ("full", "peft")
    needs_start: bool = False
    needs_memory: bool = False

    def settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """All settings, the given ones checked and the others by default.

        Raises:
            ValueError: a setting that is unknown, missing or out of range; one line names it.
        """
        _, *parameters = inspect.signature(
            load_function(self.apply), eval_str=True
        ).parameters.values()
        fields: dict[str, Any] = {
            p.name: (
                Any if p.annotation is p.empty else p.annotation,
                ... if p.default is p.empty else p.default,
            )
            for p in parameters
        }
        model = create_model(self.name, __config__=ConfigDict(extra="forbid"), **fields)
        try:
            return model(**given).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(
                f"baseline_settings.{place} = {first['input']!r}: {first['msg']}; {self.name} "
                f"takes {', '.join(fields) or 'no settings'}"
            ) from None


BASELINES: Registry[BaselineSpec] = Registry("baseline")


def register_baseline(
    name: str,
    kinds: tuple[str, ...] = ("full", "peft"),
    needs_start: bool = False,
    needs_memory: bool = False,
):
    """Decorator that makes a function known as the baseline `name`; see `BaselineSpec`.

    Raises:
        ValueError: a name that another function has, or a kind that is neither full nor peft.
    """
    alone = ("full",) if needs_start else ("peft",) if needs_memory else None
    if not kinds or not set(kinds) <= {"full", "peft"} or (alone and kinds != alone):
        raise ValueError(
            f"kinds={kinds!r} must be of 'full' and 'peft', ('full',) with needs_start and "
            "('peft',) with needs_memory"
        )

    def register(apply):
        BASELINES.add(name, BaselineSpec(name, apply, kinds, needs_start, needs_memory), apply)
        return apply

    return register


def change_of(start: Start, name: str | None, given: dict[str, Any]) -> Change:
    """What a method's baseline changes about its training; `NO_CHANGE` if it names none."""
    if name is None:
        return NO_CHANGE
    spec = BASELINES.find(name)
    return load_function(spec.apply)(start, **spec.settings(given))


def _ship(name: str, module: str = "baselines", **more: Any) -> None:
    apply = f"training.{module}:{name}"
    BASELINES.add(name, BaselineSpec(name, apply, **more), apply)


_ship("replay")
_ship("kl_to_base")
_ship("l2_to_base", kinds=("full",))
_ship("wise_ft", kinds=("full",), needs_start=True)
_ship("sgd")
_ship("released", "baseline_released", kinds=("peft",), needs_memory=True)
