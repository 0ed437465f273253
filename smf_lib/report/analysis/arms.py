"""Runs grouped into arms.

An arm is one setting of one method in one study; its runs differ in their seed only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...study.records.record import MetricName, Record
from ...study.records.results import ResultsError, paired_key
from ..measures import Measure, measure_of
from ..text import rate_text
from .stats import in_blocks

METHOD_ORDER = (
    "base", "full", "lora", "smf-kl", "smf-tfidf", "smf-random", "smf-all",
    "additive-kl", "additive-tfidf", "additive-s-kl", "additive-s-tfidf", "replacement-kl",
    "replacement-tfidf", "retrofit-additive", "retrofit-replacement", "osf", "ia3", "ln-tuning",
)  # fmt: skip

METHOD = "smf-tfidf"  # the memory that pages tell of first, beside the references
REFERENCES = {"lora": "LoRA", "full": "full finetuning"}  # what a memory stands beside, in words

OF_A_BLOCK = 4  # articles whose windows are taken together
FEWEST_BLOCKS = 4  # of a text of few articles


@dataclass(frozen=True, eq=False)
class Arm:
    """Runs of one method at one learning rate in one study, in order of their seeds."""

    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        """The run that stands for what all share: profile, study, method, label, settings."""
        return self.records[0]

    @property
    def rate(self) -> float:
        """The learning rate that its runs share; 0 for the base model, which is not trained."""
        return self.first.learning_rate or 0.0

    def mean_cost(self, field: str) -> float:
        """Mean of one cost field over the arm's seeds."""
        return float(np.mean([getattr(record.cost, field) for record in self.records]))

    @property
    def where(self) -> str:
        """Profile and study, as the folder under `results/`."""
        return f"{self.first.profile}/{self.first.study}"

    @property
    def curve(self) -> str:
        """The curve that the arm is a point of: its method's own, or the one that it names."""
        return self.first.settings["method"].get("curve") or self.first.method

    @property
    def is_base(self) -> bool:
        """Whether this is the model before any finetuning."""
        return self.first.kind == "base"

    def has(self, metric: MetricName) -> bool:
        """Whether all runs of the arm measured `metric`."""
        return all(metric in record.metrics for record in self.records)

    def measure(self, metric: MetricName) -> Measure:
        """How a metric of the arm is shown, and in which unit."""
        return measure_of(self.first, metric)

    def items(self, metric: MetricName) -> NDArray[np.float64]:
        """Items of all runs, float64 (seeds, n) or (seeds, n, 2).

        Sections of prose are put together by article: with the base model the difficulty of two
        sections of one article correlates by 0.15, so that sections alone would cover too seldom
        (changes of perplexity and divergences were not found to correlate; counting articles costs
        them nothing but degrees of freedom). Overlapping windows of one running text are summed
        into blocks of four articles: in simulated texts, whose windows correlate within articles,
        40 such blocks cover 93 %, and 40 of two articles 89 to 91 %.

        Raises ResultsError if a run lacks the metric or was measured on other items.
        """
        keys = {paired_key(record, metric): record.run_id for record in self.records}
        if len(keys) > 1:
            raise ResultsError(
                f"runs {', '.join(keys.values())}: {metric} was measured on "
                "different data, so their seeds cannot be combined"
            )
        items = np.array([record.metrics[metric].items for record in self.records], dtype=float)
        prose = self.first.data.prose
        if prose is None or metric not in ("prose_perplexity", "prose_kl"):
            return items
        if prose.sections:
            starts = np.cumsum([0, *prose.sections[:-1]])
            sums = np.add.reduceat(items, starts, axis=1)
            return sums if items.ndim == 3 else sums / prose.sections
        if metric == "prose_perplexity" and items.shape[1] > prose.articles:
            return in_blocks(items, max(FEWEST_BLOCKS, prose.articles // OF_A_BLOCK))
        return items


def method_rank(method: str) -> tuple[int, str]:
    """Sort key of methods: those of the study in their order, others after them by name."""
    known = method in METHOD_ORDER
    return (METHOD_ORDER.index(method) if known else len(METHOD_ORDER), method)


def group_arms(records: Iterable[Record]) -> list[Arm]:
    """Group runs into arms, sorted by study, method and learning rate; the base comes first.

    Raises ResultsError if runs that would be seeds of one arm differ in model or settings.
    """
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        rank = (-1, "") if record.kind == "base" else method_rank(record.method)
        rate = record.learning_rate or 0.0
        key = (record.profile, record.study, *rank, record.method, rate)
        groups.setdefault(key, []).append(record)
    arms = []
    for key in sorted(groups):
        runs = sorted(groups[key], key=lambda record: record.seed)
        if runs[0].kind != "base":
            _check_alike(runs)
        # The base model is measured, not trained: its runs are repetitions of one run.
        arms.append(Arm(tuple(runs[:1] if runs[0].kind == "base" else runs)))
    return arms


def _check_alike(runs: Sequence[Record]) -> None:
    """Raise ResultsError if runs differ in more than their seed and the machine they ran on."""
    first = _decisive(runs[0])
    for run in runs[1:]:
        if _same_training(runs[0], run):  # whatever else their profiles said at the time
            continue
        other = _decisive(run)
        differing = [n for n in first if n in other and not _agree(first[n], other[n])]
        if differing:
            raise ResultsError(
                f"runs {runs[0].run_id!r} and {run.run_id!r} of {run.profile}/{run.study} differ "
                f"in {', '.join(differing)}, so they are not seeds of one arm; remove the record "
                "of the one that is out of date, or run it again"
            )


def _same_training(one: Record, other: Record) -> bool:
    """Whether the keys of two trainings have the same parts, but for the seed and precision."""
    if one.keys is None or other.keys is None:
        return False
    first, second = one.keys.training.parts, other.keys.training.parts
    differing = {n for n in first.keys() | second.keys() if first.get(n) != second.get(n)}
    return differing <= {"seed", "precision"}


def _agree(one: object, other: object) -> bool:
    """Whether two settings are alike; a field that only one has, the other record did not know."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_agree(one[name], other[name]) for name in one.keys() & other.keys())
    return one == other


def _decisive(record: Record) -> dict:
    """Settings and model of a run; its digest has the seed in it, its precision may differ."""
    settings = {n: v for n, v in record.settings.items() if n not in ("digest", "precision")}
    return settings | {"model": record.model.sha256}


def base_of(arm: Arm, arms: Sequence[Arm]) -> Arm:
    """The base model's arm of the same profile and study. Raises ResultsError without one."""
    for other in arms:
        if other.is_base and other.where == arm.where:
            return other
    raise ResultsError(
        f"{arm.where} has no run of the base model; {arm.first.run_id!r} cannot be compared with it"
    )


def arm_name(arm: Arm, arms: Sequence[Arm]) -> str:
    """The method's label, with the learning rate where the study has several of that method."""
    rates = {
        other.rate
        for other in arms
        if (other.where, other.first.method) == (arm.where, arm.first.method)
    }
    if len(rates) > 1:
        return f"{arm.first.label}, lr {rate_text(arm.rate)}"
    return arm.first.label
