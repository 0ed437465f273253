"""The published numbers and claims of the paper, from `published.yaml`; the tests check that file.

published = load_published()
published.arms["lora"].number("exam_accuracy").value  # a share
published.change("lora", "base", "exam_accuracy")  # in points
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import yaml

FILE = Path(__file__).resolve().parent / "published.yaml"
PaperMetric = Literal["exam_accuracy", "prose_perplexity", "knowledge_accuracy"]
METRICS: tuple[PaperMetric, ...] = ("exam_accuracy", "prose_perplexity", "knowledge_accuracy")


@dataclass(frozen=True)
class Number:
    """One published number, with its ± where given; a range has its middle as value."""

    value: float
    plus_minus: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class PublishedArm:
    """What is published of one arm: a number a metric, and words where there is no number."""

    numbers: dict[PaperMetric, Number]
    words: str

    def number(self, metric: PaperMetric) -> Number | None:
        """The number of a metric, None where none is published."""
        return self.numbers.get(metric)


@dataclass(frozen=True)
class Claim:
    """A claim about `first` minus `second`, in points or per cent, and where it must lie.

    relation: "above" or "below" (zero), "at_most", "at_least" or "within" (a margin).
    """

    text: str
    metric: PaperMetric
    first: str
    second: str
    relation: str
    margin: float = 0.0

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


@dataclass(frozen=True)
class Difference:
    """One thing that our code does otherwise than the released code, and what that changes."""

    aspect: str
    published: str
    ours: str
    effect: str


@dataclass(frozen=True)
class Published:
    """All that the file holds; arms in the paper's order."""

    paper: str
    model: str
    questions: dict[PaperMetric, int]
    seeds: int
    arms: dict[str, PublishedArm]
    setting: dict[str, str | int]
    claims: tuple[Claim, ...]
    differences: tuple[Difference, ...]

    def change(self, first: str, second: str, metric: PaperMetric) -> float | None:
        """Published `first` minus `second`: points of accuracy, or per cent of perplexity.

        None where one of the two has no number.
        """
        a, b = (self.arms[name].number(metric) for name in (first, second))
        if a is None or b is None:
            return None
        ratio = metric == "prose_perplexity"
        return 100 * (a.value / b.value - 1) if ratio else 100 * (a.value - b.value)


def load_published() -> Published:
    """Read the published numbers."""
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    arms = {name: _arm(**given) for name, given in content.pop("arms").items()}
    claims = tuple(Claim(**given) for given in content.pop("claims"))
    differences = tuple(Difference(**given) for given in content.pop("differences"))
    return Published(arms=arms, claims=claims, differences=differences, **content)


def _arm(words: str = "", **numbers: dict[str, float]) -> PublishedArm:
    found = {metric: _number(**given) for metric, given in numbers.items()}
    return PublishedArm(cast("dict[PaperMetric, Number]", found), words)


def _number(
    value: float = math.nan,
    low: float | None = None,
    high: float | None = None,
    plus_minus: float | None = None,
) -> Number:
    middle = value if low is None or high is None else (low + high) / 2
    return Number(middle, plus_minus, low, high)
