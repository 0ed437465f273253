"""The published numbers and claims of the paper, from `data/published.yaml`, checked strictly.

published = load_published()
published.arms["lora"].number("exam_accuracy").value  # a share
published.change("lora", "base", "exam_accuracy")  # in points
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FILE = Path(__file__).resolve().parent / "published.yaml"
PaperMetric = Literal["exam_accuracy", "prose_perplexity", "knowledge_accuracy"]
METRICS: tuple[PaperMetric, ...] = ("exam_accuracy", "prose_perplexity", "knowledge_accuracy")


class Part(BaseModel):
    """Base of all parts: a key that is not known is an error, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Number(Part):
    """One published number, with its ± where given; a range has its middle as value."""

    value: float | None = Field(None, gt=0)
    plus_minus: float | None = Field(None, gt=0)
    low: float | None = Field(None, gt=0)
    high: float | None = Field(None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _middle(cls, given):
        if not isinstance(given, dict):
            raise ValueError("must be a mapping such as {value: 0.39} or {low: 16.5, high: 16.6}")
        ranged = given.keys() & {"low", "high"}
        if ranged and (len(ranged) < 2 or len(given) > 2):
            raise ValueError("a range has `low` and `high` and nothing else")
        if ranged and not given["low"] < given["high"]:
            raise ValueError(f"low={given['low']} must be below high={given['high']}")
        return {**given, "value": (given["low"] + given["high"]) / 2} if ranged else given

    @model_validator(mode="after")
    def _has_value(self):
        if self.value is None:
            raise ValueError("`value`, or `low` and `high`, must be given")
        return self


class PublishedArm(Part):
    """What is published of one arm: a number a metric, or words where there is no number."""

    exam_accuracy: Number | None = None
    prose_perplexity: Number | None = None
    knowledge_accuracy: Number | None = None
    words: str = ""

    @model_validator(mode="after")
    def _plausible(self):
        if not self.words and any(getattr(self, metric) is None for metric in METRICS):
            raise ValueError(f"needs `words`, or all of {', '.join(METRICS)}")
        for metric in METRICS:
            number = getattr(self, metric)
            share = metric != "prose_perplexity"
            if number is not None and (number.value < 1) != share:
                what = "a share below 1" if share else "a perplexity of at least 1"
                raise ValueError(f"{metric}={number.value} must be {what}")
        return self

    def number(self, metric: PaperMetric) -> Number | None:
        """The number of a metric, None where none is published."""
        return getattr(self, metric)


class Claim(Part):
    """A claim about `first` minus `second`, in points or per cent, and where it must lie."""

    text: str
    metric: PaperMetric
    first: str
    second: str
    relation: Literal["above", "below", "at_most", "at_least", "within"]
    margin: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _margin_fits(self):
        strict = self.relation in ("above", "below")
        if strict != (self.margin == 0):
            raise ValueError(
                f"relation={self.relation!r} with margin={self.margin}: above and below have "
                "none, all others need one"
            )
        return self

    @property
    def region(self) -> tuple[float, float]:
        """Where the difference must lie: an open interval."""
        return {
            "above": (0.0, math.inf),
            "below": (-math.inf, 0.0),
            "at_most": (-math.inf, self.margin),
            "at_least": (-self.margin, math.inf),
            "within": (-self.margin, self.margin),
        }[self.relation]


class Difference(Part):
    """One thing that our code does otherwise than the released code, whatever the profile."""

    aspect: str
    published: str
    ours: str


class Published(Part):
    """All that the file holds; arms in the paper's order."""

    paper: str
    model: str
    questions: dict[PaperMetric, int]
    seeds: int = Field(ge=1)
    arms: dict[str, PublishedArm]
    setting: dict[str, str | int]
    claims: tuple[Claim, ...]
    differences: tuple[Difference, ...]

    @model_validator(mode="after")
    def _arms_known(self):
        if "base" not in self.arms or self.arms["base"].words:
            raise ValueError("arms.base with all its numbers is missing")
        for claim in self.claims:
            unknown = {claim.first, claim.second} - self.arms.keys()
            if unknown:
                raise ValueError(f"claim {claim.text!r} names unknown arms {sorted(unknown)}")
        return self

    def change(self, first: str, second: str, metric: PaperMetric) -> float | None:
        """Published `first` minus `second`: points of accuracy, or per cent of perplexity.

        None where one of the two has no number.
        """
        a, b = (self.arms[name].number(metric) for name in (first, second))
        if a is None or b is None:
            return None
        ratio = metric == "prose_perplexity"
        return 100 * (a.value / b.value - 1) if ratio else 100 * (a.value - b.value)


def load_published(path: str | Path = FILE) -> Published:
    """Read the published numbers.

    Raises:
        ValueError: not YAML, or a field that is missing, unknown or implausible; the message names
            the file and each field.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    try:
        return Published.model_validate(content)
    except ValidationError as error:
        faults = [
            f"  {'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        raise ValueError(f"{path} has invalid fields:\n" + "\n".join(faults)) from None
