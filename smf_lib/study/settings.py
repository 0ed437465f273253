"""The parts of a profile as pydantic models: each field with its type, its range and its default.

`profiles.Profile` puts them together.
"""

from __future__ import annotations

import dataclasses
from pathlib import PurePath
from typing import Any, ClassVar, Literal

import peft
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..method.config import SparseMemoryConfig
from ..method.registration import NAME as SPARSE_MEMORY
from .baselines import BASELINES
from .metrics import probe_names, register_lm_eval_task


class Settings(BaseModel):
    """Base of all settings: unknown fields are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelSettings(Settings):
    """Where the base model comes from.

    source: "embedded" (SmolLM2-135M-Instruct from a package), "tiny-random" (for tests), a Hub id,
    a directory, or the path of a .gguf file. revision: of a Hub id, or None.
    """

    source: str = "embedded"
    revision: str | None = None


class ExamSettings(Settings):
    """The new task: how many questions to train on, to choose settings with, and to test on."""

    format: ClassVar[str] = "cloze"

    name: Literal["icd10"] = "icd10"
    train_rows: int = Field(1000, ge=1)
    validation_rows: int = Field(200, ge=1)
    test_rows: int = Field(400, ge=1)
    seed: int = 0


class MedMCQASettings(Settings):
    """The paper's task, from the Hub or from a folder in the same columns.

    Splits are in the notation of `datasets`; None for rows means all. validation_rows come from
    the front of the drawn training rows and are not trained on. order: "file" tests on the first
    rows, as the paper does, "shuffled" draws them from the seed, as training rows always are.
    single_choice: leave out the questions that the source does not mark as having a single answer.
    format: "lettered" (the paper's) or "cloze" (for models too small to bind letters to options),
    see `tasks.formats`. option_rows: how many test questions the paper's score is computed on
    (lettered only); lm-eval's letter score always takes all.
    """

    name: Literal["medmcqa"]
    source: str = "openlifescienceai/medmcqa"
    revision: str | None = None
    train_split: str = "train"
    test_split: str = "validation"
    single_choice: bool = True
    order: Literal["file", "shuffled"] = "shuffled"
    format: Literal["lettered", "cloze"] = "lettered"
    train_rows: int | None = Field(None, ge=1)
    validation_rows: int = Field(0, ge=0)
    test_rows: int | None = Field(None, ge=1)
    option_rows: int | None = Field(None, ge=1)
    seed: int = 0


class OwnExamSettings(Settings):
    """Fields of an exam that a user registers: rows of each split (None: all), and a seed."""

    name: str
    format: Literal["cloze", "lettered"] = "cloze"
    train_rows: int | None = Field(None, ge=1)
    validation_rows: int = Field(0, ge=0)
    test_rows: int | None = Field(None, ge=1)
    seed: int = 0


class ChoiceSettings(OwnExamSettings):
    """Questions of 2 to 10 options from a file, a folder or the Hub; see `tasks.choice`.

    source: a .jsonl, .json, .csv or .parquet file or a list of them; or a folder with one file a
    split, or a Hub id, of which the splits are taken that train_split, validation_split (None:
    from the training questions) and test_split name. revision, config: of a Hub id.
    """

    name: Literal["choice"]
    source: str | list[str]
    revision: str | None = None
    config: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str = "test"


class TextSettings(Settings):
    """Texts to read: a Hub id or a folder; assistant replies, or a column `text`."""

    source: str = "OpenAssistant/oasst1"
    revision: str | None = None
    split: str = "train"
    rows: int | None = Field(None, ge=1)
    min_characters: int = Field(50, ge=1)
    seed: int = 0


class WikiTextSettings(Settings):
    """Running text for perplexity. lines: the first that are not empty; None: all.

    window: tokens of a window in the paper's protocol, which moves on by half of it.
    """

    source: str = "Salesforce/wikitext"
    revision: str | None = None
    config: str | None = "wikitext-103-raw-v1"
    split: str = "test"
    lines: int | None = Field(1000, ge=1)
    window: int = Field(1024, ge=2, multiple_of=2)


class TriviaQASettings(Settings):
    """Questions of general knowledge; order as in `MedMCQASettings`.

    shots: examples shown before each question, drawn from shots_split. The paper shows none, at
    which a very small model does not answer at all.
    """

    source: str = "mandarjoshi/trivia_qa"
    revision: str | None = None
    config: str | None = "rc.nocontext"
    split: str = "validation"
    questions: int | None = Field(1000, ge=1)
    shots: int = Field(0, ge=0, le=8)
    shots_split: str = "train"
    order: Literal["file", "shuffled"] = "shuffled"
    seed: int = 0


class ProbeSettings(Settings):
    """The forgetting probes. None means all articles or questions that are shipped.

    With `wikitext` or `triviaqa` the paper's probes take the place of the shipped prose or
    questions.
    """

    prose_articles: int | None = Field(None, ge=1)
    knowledge_questions: int | None = Field(None, ge=1)
    knowledge_shots: int = Field(5, ge=0, le=8)
    self_text_sequences: int = Field(64, ge=1)
    self_text_tokens: int = Field(128, ge=2)
    self_text_seed: int = 1
    wikitext: WikiTextSettings | None = None
    triviaqa: TriviaQASettings | None = None


class BackgroundSettings(Settings):
    """Background text for row selection.

    By default sequences of `tokens` tokens that the base model itself writes; with `text`, that
    many texts from elsewhere, each cut after `tokens` tokens.
    """

    sequences: int = Field(256, ge=1)
    tokens: int = Field(128, ge=2)
    seed: int = 2
    text: TextSettings | None = None

    @model_validator(mode="after")
    def _one_number(self):
        if self.text is not None and self.text.rows is not None:
            raise ValueError(
                f"background.text.rows={self.text.rows}: how many texts is background.sequences "
                f"({self.sequences}); leave rows out"
            )
        return self


class TrainingSettings(Settings):
    """What is the same for all methods. Lengths in tokens, schedule: cosine after warm-up.

    precision: bfloat16 autocast, float32, or "auto": bfloat16 where the machine is fast at it.
    """

    epochs: int = Field(1, ge=1)
    batch_size: int = Field(8, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    max_length: int = Field(192, ge=8)
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    warmup_steps: int | None = Field(None, ge=0)  # instead of the ratio, where given
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    checkpoint_every: int = Field(40, ge=1)


OWN_TRAINING = (
    "epochs",
    "batch_size",
    "gradient_accumulation",
    "warmup_ratio",
    "warmup_steps",
    "max_grad_norm",
)  # what a method can have of its own; the others decide rows, precision or checkpoints


class RetrofitSettings(Settings):
    """The paper's stage 1: methods of `stage: retrofit` learn to write these texts."""

    text: TextSettings = TextSettings()
    training: TrainingSettings = TrainingSettings()


class EvaluationSettings(Settings):
    """What is measured.

    split: the exam questions that are scored; probes: which forgetting probes are measured,
    the library's and those that are registered (`metrics.register_metric`).

    standard: beside the paper's protocols also those of lm-eval (`evaluation.protocols`); only for
    an exam or a probe that has both. lm_eval_tasks: further tasks of lm-eval, by name or as the
    path of a YAML file (below the study's root if relative), scored by their first metric.
    """

    split: Literal["validation", "test"] = "test"
    probes: list[str] = ["prose", "knowledge", "self_text"]
    standard: bool = True
    lm_eval_tasks: list[str] = []
    batch_tokens: int = Field(1536, ge=64)

    @field_validator("probes")
    @classmethod
    def _known(cls, value):
        for name in value:
            if name not in probe_names():
                raise ValueError(
                    f"probe {name!r} is unknown; choose from {', '.join(probe_names())}, or name "
                    "the file that registers it in the profile's `imports`"
                )
        return value

    @field_validator("lm_eval_tasks")
    @classmethod
    def _registered(cls, value):
        names = [PurePath(named).stem for named in value]
        if len(set(names)) < len(names):
            raise ValueError(f"{value} name two tasks alike; rename a file")
        for named in value:
            register_lm_eval_task(named)
        return value


class MethodSettings(Settings):
    """One arm of the study.

    kind: "base" (no training), "full" (all weights) or "peft". peft_type and settings: a PEFT
    method's name and the fields of its configuration; any method of PEFT works. learning_rate: one
    value, or a list for a sweep. label: the method's name in figures and tables. stage: "exam", or
    "retrofit" for a memory that is trained as a language model (the profile's `retrofit`). start:
    the method whose trained memory this one goes on from, with its settings. baseline: what else
    it changes about its training, with settings (`baselines`). training: fields of the profile's
    `training` that differ for this method.
    """

    label: str
    kind: Literal["base", "full", "peft"]
    peft_type: str | None = None
    settings: dict[str, Any] = {}
    learning_rate: float | list[float] | None = None
    stage: Literal["exam", "retrofit"] = "exam"
    start: str | None = None
    baseline: str | None = None
    baseline_settings: dict[str, Any] = {}
    training: dict[str, Any] = {}

    @field_validator("learning_rate")
    @classmethod
    def _positive(cls, value):
        for rate in value if isinstance(value, list) else [value]:
            if rate is not None and not rate > 0:
                raise ValueError(f"learning_rate={rate} must be positive")
        return value

    @model_validator(mode="after")
    def _consistent(self):
        if (self.kind == "peft") != (self.peft_type is not None):
            raise ValueError(
                f"kind={self.kind!r} and peft_type={self.peft_type!r} do not fit: "
                "peft_type is for kind='peft', and needed there"
            )
        if self.kind != "peft" and self.settings:
            raise ValueError(f"settings={self.settings} are only for kind='peft'")
        self._check_baseline()
        goes_on = self.baseline is not None and BASELINES.find(self.baseline).needs_start
        if (self.kind == "base" or goes_on) != (self.learning_rate is None):
            raise ValueError(
                f"learning_rate={self.learning_rate}: kind='base' takes none, nor does a "
                "baseline that does not train; all others need one"
            )
        if self.peft_type != SPARSE_MEMORY and (
            (self.start and not goes_on) or self.stage == "retrofit"
        ):
            raise ValueError(
                f"stage={self.stage!r} and start={self.start!r} are for "
                f"peft_type={SPARSE_MEMORY!r} only"
            )
        return self

    def _check_baseline(self) -> None:
        if self.kind == "base" and (self.baseline or self.training):
            raise ValueError("kind='base' is not trained; it takes no baseline and no training")
        unknown = sorted(set(self.training) - set(OWN_TRAINING))
        if unknown:
            raise ValueError(
                f"training has the fields {unknown}; a method's own can be "
                f"{', '.join(OWN_TRAINING)}"
            )
        if self.baseline is None:
            if self.baseline_settings:
                raise ValueError(f"baseline_settings={self.baseline_settings} need a baseline")
            return
        spec = BASELINES.find(self.baseline)
        if self.kind not in spec.kinds:
            raise ValueError(f"baseline={self.baseline!r} is for kind={' or '.join(spec.kinds)}")
        if spec.needs_start and self.start is None:
            raise ValueError(f"baseline={self.baseline!r} needs `start`, a full finetuning")
        spec.settings(self.baseline_settings)

    def trained_with(self, training: TrainingSettings) -> TrainingSettings:
        """The training settings of this method: the profile's, with its own put over them."""
        return TrainingSettings(**{**training.model_dump(), **self.training})

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
        if self.peft_type == SPARSE_MEMORY:
            general = {} if max_grad_norm is None else {"max_grad_norm": max_grad_norm}
            settings = {**general, **memory.model_dump(), **settings}
        return cls(task_type="CAUSAL_LM", **settings)

    def after(self, parent: MethodSettings) -> MethodSettings:
        """This method with the memory of `parent`, whose shape it shares; updates are its own."""
        if self.kind == "full":  # a baseline that takes the trained weights as they are
            rate = parent.learning_rate
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

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    @model_validator(mode="after")
    def _valid(self):
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
