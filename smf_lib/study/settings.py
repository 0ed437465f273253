"""The parts of a profile as pydantic models: each field with its type, range and default.

`profiles.Profile` puts them together; its methods are in `methods`.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .metrics import probe_names, register_lm_eval_task

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy takes


class Settings(BaseModel):
    """Base of all settings: unknown fields are errors, values never change after loading.

    A value must be of its field's kind: no text or yes/no for a number, no infinite number.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), strict=True, allow_inf_nan=False
    )


class ModelSettings(Settings):
    """Where the base model comes from.

    source: "embedded" (SmolLM2-135M-Instruct from a package), "tiny-random" (for tests), a Hub id,
    a directory, or the path of a .gguf file. revision: of a Hub id, or None.
    """

    source: str = "embedded"
    revision: str | None = None


class NamedSettings(Settings):
    """Settings of an exam: what a profile calls it."""

    name: str


class ExamSettings(NamedSettings):
    """The new task: how many questions to train on, to choose settings with, and to test on."""

    format: ClassVar[str] = "cloze"

    name: Literal["icd10"] = "icd10"
    train_rows: int = Field(1000, ge=1)
    validation_rows: int = Field(200, ge=1)
    test_rows: int = Field(400, ge=1)
    seed: Seed = 0


class AirportsSettings(NamedSettings):
    """The country of an airport's code; see `tasks.airports`."""

    format: ClassVar[str] = "cloze"

    name: Literal["airports"]
    train_rows: int = Field(1000, ge=1)
    validation_rows: int = Field(100, ge=0)
    test_rows: int = Field(400, ge=1)
    seed: Seed = 0


class CitiesSettings(NamedSettings):
    """The city of an airport, trained in some wordings and asked in another.

    wordings: in how many each fact is trained; train_rows counts all of them. The facts of
    validation and test are among those that are trained. See `tasks.airports`.
    """

    format: ClassVar[str] = "cloze"

    name: Literal["cities"]
    train_rows: int = Field(992, ge=1)
    validation_rows: int = Field(48, ge=0)
    test_rows: int = Field(200, ge=1)
    wordings: int = Field(4, ge=1, le=6)
    seed: Seed = 0


class MedMCQASettings(NamedSettings):
    """The paper's task, from the Hub or from a folder in the same columns.

    Splits are in the notation of `datasets`; None for rows means all. validation_rows are of the
    training split and not trained on; how many they are moves no other row. order: "file" tests on
    the first rows, as the paper does, "shuffled" draws them from the seed, as training rows always
    are.
    train_seed: a seed of its own for the training rows; "run" draws them anew for each seed of the
    runs, as the paper does. Validation and test questions stay the same.
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
    seed: Seed = 0
    train_seed: Seed | Literal["run"] | None = None


class OwnExamSettings(NamedSettings):
    """Fields of an exam that a user registers: rows of each split (None: all), and a seed."""

    format: Literal["cloze", "lettered"] = "cloze"
    train_rows: int | None = Field(None, ge=1)
    validation_rows: int = Field(0, ge=0)
    test_rows: int | None = Field(None, ge=1)
    seed: Seed = 0


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
    """Texts to read: a Hub id or a folder; assistant replies, or a column `text`.

    The source "shipped" is the prose that comes with the library, a paragraph a text. rows: how
    many texts; None: all there are, but not more than `at_most`. seed: of the draw; "run" draws
    them anew for each seed of the runs, as the paper does with its background.
    """

    source: str = "OpenAssistant/oasst1"
    revision: str | None = None
    split: str = "train"
    rows: int | None = Field(None, ge=1)
    at_most: int | None = Field(None, ge=1)
    min_characters: int = Field(50, ge=1)
    seed: Seed | Literal["run"] = 0

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.rows is not None and self.at_most is not None:
            raise ValueError(f"rows={self.rows} and at_most={self.at_most}: give one of the two")
        return self


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
    seed: Seed = 0


class ProbeSettings(Settings):
    """The forgetting probes. None means all articles or questions that are shipped.

    With `wikitext` or `triviaqa` the paper's probes take the place of the shipped prose or
    questions.
    """

    prose_articles: int | None = Field(None, ge=1)
    knowledge_questions: int | None = Field(None, ge=1)
    knowledge_shots: int = Field(5, ge=0)
    self_text_sequences: int = Field(64, ge=1)
    self_text_tokens: int = Field(128, ge=2)
    self_text_seed: Seed = 1
    wikitext: WikiTextSettings | None = None
    triviaqa: TriviaQASettings | None = None


class BackgroundSettings(Settings):
    """Background text for row selection.

    By default sequences of `tokens` tokens that the base model itself writes; with `text`, that
    many texts from elsewhere, each cut after `tokens` tokens. learned: in a sequence, also the
    training rows of the tasks learned before, each a text.
    """

    sequences: int = Field(256, ge=1)
    tokens: int = Field(128, ge=2)
    seed: Seed = 2
    text: TextSettings | None = None
    learned: bool = False

    @model_validator(mode="after")
    def _one_number(self) -> Self:
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


class RetrofitSettings(Settings):
    """The paper's stage 1: methods of `stage: retrofit` learn to write these texts."""

    text: TextSettings = TextSettings()
    training: TrainingSettings = TrainingSettings()


class EvaluationSettings(Settings):
    """What is measured.

    split: the exam questions that are scored; probes: which forgetting probes are measured,
    the library's and those that are registered (`metrics.register_metric`).

    standard: beside the paper's protocols also those of lm-eval (`evaluation.protocols`); only for
    an exam or a probe that has both. lm_eval_tasks: further tasks, scored by their first metric:
    those shipped here (`minimal_pairs`, `endings`) and those of lm-eval by name, others as the path
    of a YAML file (below the study's root if relative).
    """

    split: Literal["validation", "test"] = "test"
    probes: list[str] = ["prose", "knowledge", "self_text"]
    standard: bool = True
    lm_eval_tasks: list[str] = []
    batch_tokens: int = Field(1536, ge=64)

    @field_validator("probes")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in probe_names():
                raise ValueError(
                    f"probe {name!r} is unknown; choose from {', '.join(probe_names())}, or name "
                    "the file that registers it in the profile's `imports`"
                )
        return value

    @field_validator("lm_eval_tasks")
    @classmethod
    def _registered(cls, value: list[str]) -> list[str]:
        names = [PurePath(named).stem for named in value]
        if len(set(names)) < len(names):
            raise ValueError(f"{value} name two tasks alike; rename a file")
        for named in value:
            register_lm_eval_task(named)
        return value
