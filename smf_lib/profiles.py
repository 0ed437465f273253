"""Profiles: everything that a run depends on, in one YAML file that pydantic checks.

A profile names the model, the exam, the probes, the memory, the training settings and the methods
to compare. `Profile.runs()` lists the runs that it stands for.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import peft
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .config import SparseMemoryConfig
from .registration import NAME as SPARSE_MEMORY

PROFILE_DIR = Path(__file__).resolve().parent.parent / "profiles"


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

    name: Literal["icd10"] = "icd10"
    train_rows: int = Field(1000, ge=1)
    validation_rows: int = Field(200, ge=1)
    test_rows: int = Field(400, ge=1)
    seed: int = 0


class ProbeSettings(Settings):
    """The forgetting probes. None means all articles or questions that are shipped."""

    prose_articles: int | None = Field(None, ge=1)
    knowledge_questions: int | None = Field(None, ge=1)
    knowledge_shots: int = Field(5, ge=0, le=8)
    self_text_sequences: int = Field(64, ge=1)
    self_text_tokens: int = Field(128, ge=2)
    self_text_seed: int = 1


class BackgroundSettings(Settings):
    """Background text for row selection: sequences that the base model itself writes."""

    sequences: int = Field(256, ge=1)
    tokens: int = Field(128, ge=2)
    seed: int = 2


class TrainingSettings(Settings):
    """What is the same for all methods. Lengths in tokens, schedule: cosine after warm-up.

    precision: bfloat16 autocast, float32, or "auto": bfloat16 where the machine is fast at it.
    """

    epochs: int = Field(1, ge=1)
    batch_size: int = Field(8, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    max_length: int = Field(192, ge=8)
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    checkpoint_every: int = Field(40, ge=1)


class EvaluationSettings(Settings):
    """split: the exam questions that are scored; probes: which forgetting probes are measured."""

    split: Literal["validation", "test"] = "test"
    probes: list[Literal["prose", "knowledge", "self_text"]] = ["prose", "knowledge", "self_text"]
    batch_tokens: int = Field(1536, ge=64)


class MethodSettings(Settings):
    """One arm of the study.

    kind: "base" (no training), "full" (all weights) or "peft". peft_type and settings: a PEFT
    method's name and the fields of its configuration; any method of PEFT works. learning_rate: one
    value, or a list for a sweep. label: the method's name in figures and tables.
    """

    label: str
    kind: Literal["base", "full", "peft"]
    peft_type: str | None = None
    settings: dict[str, Any] = {}
    learning_rate: float | list[float] | None = None

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
        if (self.kind == "base") != (self.learning_rate is None):
            raise ValueError(
                f"learning_rate={self.learning_rate}: kind='base' takes none, all others need one"
            )
        return self

    def peft_config(self, memory: MemorySettings) -> peft.PeftConfig:
        """The PEFT configuration of this method; sparse memory starts from the profile's memory."""
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
            settings = {**memory.model_dump(), **settings}
        return cls(task_type="CAUSAL_LM", **settings)


class MemorySettings(Settings):
    """Shape of the memory, shared by all sparse memory methods; see `SparseMemoryConfig`."""

    layers: list[int] | None = None
    integration: str = "additive"
    num_subkeys: int = 64
    num_heads: int = 4
    top_k: int = 16
    key_dim: int = 128
    query_norm: bool = True
    gated: bool = False
    rows_per_step: int = 512
    seed: int = 0

    @model_validator(mode="after")
    def _valid(self):
        SparseMemoryConfig(**self.model_dump())
        return self


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """One run: a method with one learning rate and one seed."""

    run_id: str
    method: str
    settings: MethodSettings
    seed: int

    @property
    def learning_rate(self) -> float | None:
        return self.settings.learning_rate


class Profile(Settings):
    """A whole study."""

    name: str
    title: str
    description: str
    means_nothing: bool = False  # for pipelines under test: pages say that the numbers mean nothing
    model: ModelSettings = ModelSettings()
    exam: ExamSettings = ExamSettings()
    probes: ProbeSettings = ProbeSettings()
    background: BackgroundSettings = BackgroundSettings()
    memory: MemorySettings = MemorySettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    methods: dict[str, MethodSettings]
    seeds: list[int] = Field([0], min_length=1)

    @model_validator(mode="after")
    def _methods_build(self):
        for name, method in self.methods.items():
            if method.kind == "peft":
                try:
                    method.peft_config(self.memory)
                except (ValueError, TypeError) as error:
                    raise ValueError(f"methods.{name}: {error}") from None
        return self

    def runs(self) -> list[RunSpec]:
        """Every run of this profile: base once, all others for each learning rate and seed."""
        runs = []
        for name, method in self.methods.items():
            rates = method.learning_rate
            for seed in self.seeds if method.kind != "base" else self.seeds[:1]:
                for rate in rates if isinstance(rates, list) else [rates]:
                    runs.append(self.run(name, seed, rate))
        return runs

    def run(self, method: str, seed: int = 0, learning_rate: float | None = None) -> RunSpec:
        """One run, with another seed or learning rate than the profile's where given.

        Raises:
            ValueError: unknown method, or a sweep's method without a learning rate.
        """
        if method not in self.methods:
            raise ValueError(
                f"method={method!r} is not in profile {self.name!r}; it has "
                f"{', '.join(self.methods)}"
            )
        settings = self.methods[method]
        if settings.kind == "base":
            if learning_rate is not None:
                raise ValueError(f"learning_rate={learning_rate}: the base model is not trained")
            return RunSpec(method, method, settings, 0)
        rates = settings.learning_rate
        if learning_rate is None:
            if isinstance(rates, list):
                raise ValueError(
                    f"method={method!r} is swept over {rates} in profile {self.name!r}; "
                    "name one learning_rate"
                )
            learning_rate = rates
        if not isinstance(learning_rate, (int, float)) or not learning_rate > 0:
            raise ValueError(f"learning_rate={learning_rate!r} must be a positive number")
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"seed={seed!r} must be a whole number of at least 0")
        default = learning_rate == rates
        run_id = f"{method}-seed{seed}" if default else f"{method}-lr{learning_rate:g}-seed{seed}"
        return RunSpec(
            run_id, method, settings.model_copy(update={"learning_rate": learning_rate}), seed
        )


def load_profile(name_or_path: str | Path, directory: Path = PROFILE_DIR) -> Profile:
    """Load `profiles/<name>.yaml`, or a YAML file by its path.

    Raises:
        ValueError: no such profile (the message lists those there are), not YAML, or a field that
            is unknown or out of range (the message names each field, its value and the rule).
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = directory / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in directory.glob("*.yaml")))
        raise ValueError(
            f"profile={str(name_or_path)!r} does not exist ({path}); choose one of {known}, or "
            "give the path of a .yaml file"
        )
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"profile {path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"profile {path} must be a YAML mapping of fields")
    try:
        return Profile(**content)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(str(part) for part in e['loc'])} = {e['input']!r}: {e['msg']}"
            for e in error.errors()
        ]
        raise ValueError(f"profile {path} has invalid fields:\n" + "\n".join(lines)) from None
