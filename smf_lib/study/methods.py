"""The arms of a study as a profile has them: settings of a method, and the memory they share."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Self

import peft
from pydantic import ConfigDict, Field, field_validator, model_validator

from ..method.config import SparseMemoryConfig
from ..method.registration import NAME as SPARSE_MEMORY
from .baselines import BASELINES
from .names import Label
from .settings import BackgroundSettings, Seed, Settings, TrainingSettings

OWN_TRAINING = (
    "epochs",
    "batch_size",
    "gradient_accumulation",
    "warmup_ratio",
    "warmup_steps",
    "max_grad_norm",
)  # what a method can have of its own; the others decide rows, precision or checkpoints


class MethodSettings(Settings):
    """One arm of the study.

    kind: "base" (no training), "full" (all weights) or "peft". peft_type and settings: a PEFT
    method's name and the fields of its configuration; any method of PEFT works. learning_rate: one
    value, or a list for a sweep. label: the method's name in figures and tables. curve: the name
    that methods share which are points of one curve; its own name if left out. seeds: those of the
    profile if left out. stage: "exam", or "retrofit" for a memory that is trained as a language
    model (the profile's `retrofit`). start: the method whose trained memory this one goes on from,
    with its settings; or the full finetuning whose weights it takes, of which `learning_rate` names
    one if that is a sweep. baseline: what else it changes about its training, with settings
    (`baselines`). training, background: fields of the profile's `training` and `background` that
    differ for this method. task, learned, arm: of a stage in a sequence (`sequences`), the task
    that it is trained on, those learned before, the arm's label; `start` is then the stage before.
    """

    label: Label
    kind: Literal["base", "full", "peft"]
    peft_type: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    learning_rate: float | list[float] | None = None
    curve: str | None = Field(None, min_length=1)
    seeds: list[Seed] | None = Field(None, min_length=1)
    stage: Literal["exam", "retrofit"] = "exam"
    start: str | None = None
    baseline: str | None = None
    baseline_settings: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    background: dict[str, Any] = Field(default_factory=dict)
    task: str | None = None
    learned: list[str] = Field(default_factory=list)
    arm: Label | None = None

    @field_validator("learning_rate")
    @classmethod
    def _positive(cls, value: float | list[float] | None) -> float | list[float] | None:
        for rate in value if isinstance(value, list) else [value]:
            if rate is not None and not rate > 0:
                raise ValueError(f"learning_rate={rate} must be positive")
        if isinstance(value, list) and (not value or len(set(value)) < len(value)):
            raise ValueError(f"learning_rate={value} must be one or several different numbers")
        return value

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"seeds={value} must differ; leave out what stands twice")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.kind == "peft") != (self.peft_type is not None):
            raise ValueError(
                f"kind={self.kind!r} and peft_type={self.peft_type!r} do not fit: "
                "peft_type is for kind='peft', and needed there"
            )
        if self.kind != "peft" and self.settings:
            raise ValueError(f"settings={self.settings} are only for kind='peft'")
        self._check_baseline()
        goes_on = self.baseline is not None and BASELINES.find(self.baseline).needs_start
        if not goes_on and (self.kind == "base") != (self.learning_rate is None):
            raise ValueError(
                f"learning_rate={self.learning_rate}: kind='base' takes none; all others need one"
            )
        goes_on = goes_on or self.task is not None
        if self.peft_type != SPARSE_MEMORY and (
            (self.start and not goes_on) or self.stage == "retrofit"
        ):
            raise ValueError(
                f"stage={self.stage!r} and start={self.start!r} are for "
                f"peft_type={SPARSE_MEMORY!r} only"
            )
        return self

    def _check_baseline(self) -> None:
        own = [n for n in ("baseline", "training", "background", "seeds") if getattr(self, n)]
        if self.kind == "base" and own:
            raise ValueError(f"kind='base' is not trained; it takes no {' and no '.join(own)}")
        unknown = sorted(set(self.training) - set(OWN_TRAINING))
        if unknown:
            raise ValueError(
                f"training has the fields {unknown}; a method's own can be "
                f"{', '.join(OWN_TRAINING)}"
            )
        self._check_background()
        if self.baseline is None:
            if self.baseline_settings:
                raise ValueError(f"baseline_settings={self.baseline_settings} need a baseline")
            return
        spec = BASELINES.find(self.baseline)
        if self.kind not in spec.kinds:
            raise ValueError(f"baseline={self.baseline!r} is for kind={' or '.join(spec.kinds)}")
        if spec.needs_start and self.start is None:
            raise ValueError(f"baseline={self.baseline!r} needs `start`, a full finetuning")
        sparse = self.peft_type == SPARSE_MEMORY and self.settings.get("update") != "dense"
        if spec.needs_memory and not sparse:
            raise ValueError(
                f"baseline={self.baseline!r} is for peft_type={SPARSE_MEMORY!r} with "
                "update='sparse': it changes how rows are chosen and moved"
            )
        spec.settings(self.baseline_settings)

    def _check_background(self) -> None:
        reads = self.peft_type == SPARSE_MEMORY or self.reads_background
        if self.background and not reads:
            raise ValueError(
                f"background={self.background} changes nothing: this method reads no background; "
                "leave it out"
            )

    @property
    def reads_background(self) -> bool:
        """Whether the method's baseline trains on the background text."""
        if self.baseline is None:
            return False
        settings = BASELINES.find(self.baseline).settings(self.baseline_settings)
        return settings.get("text") == "background"

    def trained_with(self, training: TrainingSettings) -> TrainingSettings:
        """The training settings of this method: the profile's, with its own put over them."""
        return TrainingSettings(**{**training.model_dump(), **self.training})

    def background_with(self, background: BackgroundSettings) -> BackgroundSettings:
        """The background settings of this method: the profile's, with its own put over them."""
        return BackgroundSettings(**{**background.model_dump(), **self.background})

    def peft_config(
        self, memory: MemorySettings, max_grad_norm: float | None = None
    ) -> peft.PeftConfig:
        """The PEFT configuration of this method; sparse memory starts from the profile's memory.

        max_grad_norm: the limit that training sets for all methods, for a memory without its own.
        """
        known = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
        if self.peft_type not in known:
            raise ValueError(
                f"peft_type={self.peft_type!r} is unknown; PEFT has "
                f"{', '.join(sorted(str(getattr(k, 'value', k)) for k in known))}"
            )
        cls = known[self.peft_type]
        fields = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(self.settings) - fields)
        if unknown:
            raise ValueError(
                f"settings has unknown fields {unknown} for {self.peft_type}; allowed are "
                f"{', '.join(sorted(fields))}"
            )
        settings = dict(self.settings)
        if "save_rows" in settings:
            raise ValueError(
                f"settings.save_rows={settings['save_rows']!r} is not for a study, which keeps "
                "whole tables; leave it out, and save touched rows by smf_lib.save_touched"
            )
        if self.peft_type == SPARSE_MEMORY:
            general = {} if max_grad_norm is None else {"max_grad_norm": max_grad_norm}
            settings = {**general, **memory.model_dump(), **settings}
        else:
            _check_numbers(cls, settings)
        try:
            config = cls(task_type="CAUSAL_LM", **settings)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{_culprits(cls, settings)} cannot be ({error})") from error
        rank = self.settings.get("r")  # of LoRA and its kin, which say so when they are built
        if isinstance(rank, (int, float)) and (rank < 1 or isinstance(rank, (bool, float))):
            raise ValueError(f"settings.r={rank!r} must be a whole number of at least 1")
        return config

    def after(self, parent: MethodSettings) -> MethodSettings:
        """This method with the memory of `parent`, whose shape it shares; updates are its own.

        A stage of a sequence has all settings of its arm already.
        """
        if self.task is not None:
            return self
        if self.kind == "full":  # a baseline that takes the trained weights as they are
            rate = self.learning_rate or parent.learning_rate
            return self.model_copy(update={"learning_rate": rate, "training": parent.training})
        own = ("update", "trainable", "rule", "rows_per_step", "max_grad_norm")
        shape = {name: value for name, value in parent.settings.items() if name not in own}
        changed = sorted(set(self.settings) - set(own))
        if changed:
            raise ValueError(
                f"settings {changed} cannot differ from those of start={self.start!r}, whose "
                "memory this method goes on from; set them there"
            )
        return self.model_copy(update={"settings": {**shape, **self.settings}})


class MemorySettings(Settings):
    """The memory of all sparse memory methods: settings of `SparseMemoryConfig`, checked by it.

    What is left out has the default that it has there. A method's own `settings` go over these.
    """

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=(), strict=True)

    @model_validator(mode="after")
    def _valid(self) -> Self:
        given = self.model_dump()
        general = {field.name for field in dataclasses.fields(peft.PeftConfig)} | {"target_modules"}
        known = {field.name for field in dataclasses.fields(SparseMemoryConfig)} - general
        unknown = sorted(given.keys() - known)
        if unknown:
            raise ValueError(
                f"memory has unknown fields {unknown}; allowed are {', '.join(sorted(known))}"
            )
        SparseMemoryConfig(**given)
        return self


def _check_numbers(cls: type, settings: dict[str, Any]) -> None:
    """Raise ValueError unless numbers stand where a PEFT configuration has some by default."""
    for field in dataclasses.fields(cls):
        value = settings.get(field.name, field.default)
        if _is_number(field.default) and not _is_number(value):
            raise ValueError(f"settings.{field.name}={value!r} must be a number")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _culprits(cls: type, settings: dict[str, Any]) -> str:
    """The settings, with their values, that a configuration does not take even alone, or all."""

    def fails(name: str) -> bool:
        try:
            cls(**{name: settings[name]})
        except (TypeError, AttributeError):
            return True
        except ValueError:  # another that it needs is missing
            return False
        return False

    found = [name for name in settings if fails(name)] or settings
    return ", ".join(f"settings.{name}={settings[name]!r}" for name in found)
