"""What the record of a run holds: its keys, their types and what they mean.

A key that is missing, unknown or of the wrong type is an error when a record is built and when
it is read. Reading and writing are in `results.py`.
"""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from ..metrics import METRICS, MetricSpec, Unit
from ..names import Label, Name

SCHEMA_VERSION = 1
MetricName = str  # a key of `metrics.METRICS`, or of a record that explains it
AccuracyName = str

# JSON has no NaN: null stands for a number that is not finite (a run that diverged).
Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: value if math.isfinite(value) else None, when_used="json"),
]

# The place of the right option of each question, from 0 (at most ten options): digits in the file.
Places = Annotated[
    list[int],
    BeforeValidator(lambda value: [int(c) for c in value] if isinstance(value, str) else value),
    PlainSerializer(lambda value: "".join(map(str, value)), when_used="json"),
]


class Part(BaseModel):
    """Base of all parts of a record: a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class AboutPart(Part):
    """What a metric is that the library does not bring; see `metrics.MetricSpec`."""

    title: str
    unit: Unit
    data: str


class Metric(Part):
    """One measurement. `items` has one entry a question, article or sequence.

    Accuracies hold 0 or 1 a question; the perplexity holds [summed negative log-likelihood in
    nats, tokens] an article; the KL divergence holds the mean in nats a token of a sequence.
    `task_version` is that of the lm-eval task that scored it, `about` explains a metric that the
    library does not bring.
    """

    value: Number
    stderr: Number
    n: int = Field(ge=1)
    items: list[Any]
    task_version: str | None = None
    about: AboutPart | None = None

    @model_serializer(mode="wrap")
    def _without_empty(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = serialize(self)
        return {k: v for k, v in fields.items() if v is not None or k in ("value", "stderr")}

    @field_validator("items", mode="before")
    @classmethod
    def _decode(cls, items: Any) -> list[Any]:
        if isinstance(items, str):
            if not re.fullmatch("[01]*", items):
                raise ValueError("a string of items may hold only the characters 0 and 1")
            return [int(character) for character in items]
        return [_round(item) for item in items]

    @field_serializer("items", when_used="json")
    def _encode(self, items: list[Any]) -> Any:
        if all(item in (0, 1) for item in items):
            return "".join(str(int(item)) for item in items)
        return [_null(item) for item in items]


def _round(item: Any) -> Any:
    """A plain number of 6 significant digits, or a list of them; null becomes NaN."""
    if isinstance(item, (list, tuple)):
        return [_round(part) for part in item]
    if item is None or not math.isfinite(item):
        return math.nan
    return int(item) if float(item).is_integer() else float(f"{float(item):.6g}")


def _null(item: Any) -> Any:
    """The item with NaN written as null, as JSON wants it."""
    if isinstance(item, list):
        return [_null(part) for part in item]
    return None if math.isnan(item) else item


class ModelPart(Part):
    """The base model: its name, where it came from, the sum of its weights, its size."""

    name: str
    source: str
    sha256: str
    parameters: int


class ExamPart(Part):
    """The exam: rows trained on, rows and split measured; `notes` says which rows they are."""

    name: str
    sha256: str
    split: Literal["validation", "test"]
    train_rows: int
    rows: int
    notes: str = ""


class ProsePart(Part):
    """The articles of the probes on prose; `source` says where they are from if not shipped.

    sections: where an item is a section, how many there are of each article, in order.
    """

    sha256: str
    articles: int
    words: int
    sections: list[int] = []
    source: str = ""


class KnowledgePart(Part):
    """The questions of the knowledge probe; shots: examples shown before each."""

    sha256: str
    questions: int
    shots: int
    source: str = ""


class SelfTextPart(Part):
    """The sequences that the base model wrote for the KL probe; tokens a sequence."""

    sha256: str
    sequences: int
    tokens: int


class TextPart(Part):
    """Texts that were read: how many, their sum, and where they are from."""

    sha256: str
    rows: int
    source: str


MeasuredPart = ExamPart | ProsePart | KnowledgePart | SelfTextPart | TextPart


class DataPart(Part):
    """What was trained and measured on; a probe that was not measured is absent.

    `retrofit` is what the memory was trained on before the exam (stage 1), or instead of it;
    `background` is absent where the base model wrote that text itself. `other` holds the data of
    probes that the library does not bring.
    """

    exam: ExamPart | None = None
    prose: ProsePart | None = None
    knowledge: KnowledgePart | None = None
    self_text: SelfTextPart | None = None
    background: TextPart | None = None
    retrofit: TextPart | None = None
    other: dict[str, TextPart] = {}

    def of(self, name: str) -> MeasuredPart | None:
        """The part about the data of a metric, None where it is missing."""
        named = name in type(self).model_fields and name != "other"
        return getattr(self, name) if named else self.other.get(name)


class Baselines(Part):
    """Exam accuracies without a language model, on the questions that were scored.

    See `tasks.floors.Floors`; records of before these were kept have no `rules` and no `bags`.
    """

    chance: float
    majority: float
    rules: dict[str, float] = {}
    bags: dict[str, float] = {}


class Cost(Part):
    """What the run took; all zero for the base model. Seconds, bytes, counts."""

    train_seconds: float
    train_tokens: int
    steps: int
    tokens_per_second: float
    peak_memory_bytes: int
    trainable_parameters: int
    updated_parameters: int
    saved_bytes: int
    total_seconds: float


class LayerSelection(Part):
    """One memory layer: rows it has, rows changed at least once, row updates in all."""

    rows: int
    rows_touched: int
    updates: int


class KeyPart(Part):
    """What something depends on: the digest of each part's content by its name, and of them all."""

    key: str
    parts: dict[str, str]


class KeysPart(Part):
    """What the run's training and each of its metrics depend on (`smf_lib.study.keys`)."""

    training: KeyPart
    metrics: dict[MetricName, KeyPart]


class LogEntry(Part):
    """Training loss (nats a token) at an optimizer step."""

    step: int
    loss: Number


class Hardware(Part):
    """The machine; `gpu` is null where there is none."""

    cpu: str
    cores: int
    memory_bytes: int
    gpu: str | None
    platform: str


class Record(Part):
    """One complete run. `study` is the folder that the file lies in.

    `by_answer` splits an accuracy by the place of the right option: [questions answered right,
    questions asked] for the first place, the second, and so on; `answers` says that place for each
    item of the metric (absent in older records). `keys` is absent in records that were made before
    keys were kept. `task_baselines` are those of the profile's further tasks.
    """

    schema_version: Literal[1]
    run_id: Name
    profile: Name
    study: str
    method: Name
    label: Label
    seed: int
    status: Literal["complete"]
    settings: dict[str, Any]
    keys: KeysPart | None = None
    model: ModelPart
    data: DataPart
    metrics: dict[MetricName, Metric]
    by_answer: dict[AccuracyName, list[tuple[int, int]]] = {}
    answers: dict[AccuracyName, Places] = {}
    baselines: Baselines
    task_baselines: dict[str, Baselines] = {}
    cost: Cost
    selection: dict[str, LayerSelection]
    training_log: list[LogEntry]
    versions: dict[str, str]
    hardware: Hardware
    commit: str | None
    dirty: bool | None
    created: str

    @model_validator(mode="after")
    def _check(self) -> "Record":
        method = self.settings.get("method")
        if not isinstance(method, dict) or "kind" not in method:
            raise ValueError("settings.method.kind is missing")
        for name, metric in self.metrics.items():
            try:
                part = self.spec(name).data
            except ValueError as error:
                raise ValueError(f"metrics.{name}: {error}") from None
            if self.data.of(part) is None:
                raise ValueError(f"metrics.{name} is given but data.{part} is missing")
            if len(metric.items) != metric.n:
                raise ValueError(
                    f"metrics.{name}.items has {len(metric.items)} entries, but n is {metric.n}"
                )
        for name, places in self.by_answer.items():
            items = self.metrics[name].items if name in self.metrics else []
            right, asked = sum(place[0] for place in places), sum(place[1] for place in places)
            if (right, asked) != (sum(item == 1 for item in items), len(items)):
                raise ValueError(
                    f"by_answer.{name} counts {right} of {asked} questions right, not what "
                    f"metrics.{name}.items holds"
                )
        for name, answers in self.answers.items():
            counts = [count for _, count in self.by_answer.get(name, [])]
            if not counts or counts != [answers.count(place) for place in range(len(counts))]:
                raise ValueError(f"answers.{name} are not those that by_answer.{name} counts")
        return self

    def spec(self, metric: str) -> MetricSpec:
        """Title, unit and data of a metric: as the record says, or else as it is registered.

        Raises:
            KeyError: the record does not hold the metric.
            ValueError: the record does not say, and no metric of that name is registered.
        """
        about = self.metrics[metric].about
        return METRICS.find(metric) if about is None else MetricSpec(metric, **about.model_dump())

    @property
    def kind(self) -> str:
        """`base`, `full` or `peft`."""
        return self.settings["method"]["kind"]

    @property
    def learning_rate(self) -> float | None:
        """Learning rate of the run, None for the base model."""
        rate = self.settings["method"].get("learning_rate")
        return None if rate is None or self.kind == "base" else float(rate)
