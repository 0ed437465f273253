"""From records to numbers: runs grouped into arms, each arm's gain and drift with intervals.

An arm is one setting of one method in one study; its runs differ in their seed only. Gain and
drift are measured from the base model of the same study, on the same items. Units here: gains
and accuracies in points (percent), perplexity change in percent, KL in nats a token.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...study.records.record import MetricName, Record
from ...study.records.results import ResultsError, paired_key
from . import stats
from .equal_gain import EqualGain, SweepPoint, drift_at_equal_gain
from .stats import Interval, McNemar

METHOD_ORDER = (
    "base", "full", "lora", "smf-kl", "smf-tfidf", "smf-random", "smf-all",
    "additive-kl", "additive-tfidf", "additive-s-kl", "additive-s-tfidf", "replacement-kl",
    "replacement-tfidf", "retrofit-additive", "retrofit-replacement", "osf", "ia3", "ln-tuning",
)  # fmt: skip
CROWDED = 9  # more methods than this are not named one by one beside marks or as pairs
PERPLEXITIES = ("prose_perplexity", "word_perplexity")
DRIFT_METRICS = ("prose_perplexity", "knowledge_accuracy", "self_kl")
PROBES = {
    "prose_perplexity": "perplexity",
    "knowledge_accuracy": "accuracy",
    "self_kl": "kl",
}


@dataclass(frozen=True, eq=False)
class Arm:
    """Runs of one method at one learning rate in one study, in order of their seeds."""

    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        """The run that stands for what all share: profile, study, method, label, settings."""
        return self.records[0]

    def mean_cost(self, field: str) -> float:
        """Mean of one cost field over the arm's seeds."""
        return float(np.mean([getattr(record.cost, field) for record in self.records]))

    @property
    def where(self) -> str:
        """Profile and study, as the folder under `results/`."""
        return f"{self.first.profile}/{self.first.study}"

    @property
    def is_base(self) -> bool:
        """Whether this is the model before any finetuning."""
        return self.first.kind == "base"

    def has(self, metric: MetricName) -> bool:
        """Whether all runs of the arm measured `metric`."""
        return all(metric in record.metrics for record in self.records)

    def items(self, metric: MetricName) -> NDArray[np.float64]:
        """Items of all runs, float64 (seeds, n) or (seeds, n, 2).

        Raises ResultsError if a run lacks the metric or was measured on other items.
        """
        keys = {paired_key(record, metric): record.run_id for record in self.records}
        if len(keys) > 1:
            raise ResultsError(
                f"runs {', '.join(keys.values())}: {metric} was measured on "
                "different data, so their seeds cannot be combined"
            )
        return np.array([record.metrics[metric].items for record in self.records], dtype=float)


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
        other = _decisive(run)
        differing = [name for name in first | other if first.get(name) != other.get(name)]
        if differing:
            raise ResultsError(
                f"runs {runs[0].run_id!r} and {run.run_id!r} of {run.profile}/{run.study} differ in "
                f"{', '.join(differing)}, so they are not seeds of one arm; remove the record of "
                "the one that is out of date, or run it again"
            )


def _decisive(record: Record) -> dict:
    """Settings and model of a run; the digest names them with the seed, the precision may differ."""
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


def level(arm: Arm, metric: MetricName) -> Interval:
    """The metric itself: accuracies in percent, perplexity, KL in nats a token."""
    items = arm.items(metric)
    if metric in PERPLEXITIES:
        return stats.perplexity_interval(items)
    if metric == "self_kl":
        return stats.mean_interval(items)
    return stats.accuracy_interval(items).scaled(100)


def change(arm: Arm, base: Arm, metric: MetricName) -> Interval:
    """What finetuning changed: accuracies in points, perplexity in percent, KL in nats.

    `seeds` is the arm's, since the base model is not trained.
    """
    if metric == "self_kl":
        return level(arm, metric)
    return replace(contrast(arm, base, metric), seeds=len(arm.records))


def drift(arm: Arm, base: Arm, metric: MetricName) -> Interval:
    """Forgetting, larger is worse: the change, with knowledge counted as points lost."""
    interval = change(arm, base, metric)
    return interval.scaled(-1) if metric == "knowledge_accuracy" else interval


def are_paired(first: Arm, second: Arm, metric: MetricName) -> bool:
    """Whether both arms were measured on the same items."""
    return paired_key(first.first, metric) == paired_key(second.first, metric)


def check_paired(first: Arm, second: Arm, metric: MetricName) -> None:
    """Raise ResultsError unless both arms were measured on the same items."""
    if not are_paired(first, second, metric):
        raise ResultsError(
            f"runs {first.first.run_id!r} and {second.first.run_id!r} were measured on different "
            f"data or splits ({metric}); they cannot be compared item by item"
        )


def contrast(first: Arm, second: Arm, metric: MetricName, level: float = 0.95) -> Interval:
    """`first` against `second` on the same items: points, per cent of perplexity, or nats.

    Raises ResultsError if the two were measured on different items.
    """
    check_paired(first, second, metric)
    a, b = first.items(metric), second.items(metric)
    if metric in PERPLEXITIES:
        return stats.perplexity_ratio(a, b, level).scaled(100, offset=-1)
    return stats.accuracy_difference(a, b, level).scaled(1 if metric == "self_kl" else 100)


def compare(
    first: Arm, second: Arm, metric: MetricName = "exam_accuracy"
) -> tuple[Interval, McNemar | None]:
    """Accuracy of `first` minus `second` in points; McNemar's test for single runs."""
    difference = contrast(first, second, metric)
    a, b = first.items(metric), second.items(metric)
    return difference, stats.mcnemar(a, b) if len(a) == len(b) == 1 else None


def retention(arm: Arm, reference: Arm, base: Arm) -> Interval:
    """The arm's exam gain as a share of the reference's, in percent."""
    for other in (reference, base):
        check_paired(arm, other, "exam_accuracy")
    items = (other.items("exam_accuracy") for other in (arm, reference, base))
    return stats.gain_retention(*items).scaled(100)


def equal_gain(
    arms: Sequence[Arm], metric: MetricName, reference: str | None = "lora"
) -> EqualGain:
    """Drift of each method of one study at one exam gain.

    reference: the method that the excess of the others is measured from, if it has a sweep.
    Methods with one learning rate only are left out. Gain and drifts are shares (not points) and
    nats. Raises ResultsError if the arms come from several studies.
    """
    studies = {arm.where for arm in arms}
    if len(studies) > 1:
        raise ResultsError(f"one study at a time: {sorted(studies)} were given")
    trained = [arm for arm in arms if not arm.is_base and arm.has(metric)]
    sweeps: dict[str, list[SweepPoint]] = {}
    for arm in trained:
        check_paired(arm, base_of(arm, arms), "exam_accuracy")
        if metric != "self_kl":
            check_paired(arm, base_of(arm, arms), metric)
        point = SweepPoint(arm.items("exam_accuracy"), arm.items(metric))
        sweeps.setdefault(arm.first.method, []).append(point)
    sweeps = {name: points for name, points in sweeps.items() if len(points) > 1}
    if not sweeps:
        return EqualGain(
            np.nan, {}, {}, f"no method was run at two learning rates with {metric} measured"
        )
    base = base_of(trained[0], arms)
    probe = np.zeros(1) if metric == "self_kl" else base.items(metric)
    base_point = SweepPoint(base.items("exam_accuracy"), probe)
    reference = reference if reference in sweeps else None
    return drift_at_equal_gain(sweeps, base_point, PROBES[metric], reference)


def best_learning_rates(records: Sequence[Record]) -> dict[str, float]:
    """Each method's learning rate by the one-standard-error rule, on exam accuracy alone.

    It is the lowest rate whose accuracy is within one standard error of the method's best: rates
    that the questions cannot tell apart are settled towards the smaller change (Breiman et al.
    1984; Hastie et al. 2009, section 7.10). Give the runs of one split only, the validation split.
    """
    swept: dict[str, list[tuple[float, float]]] = {}
    for arm in group_arms(records):
        if not arm.is_base and arm.has("exam_accuracy"):
            outcomes = arm.items("exam_accuracy")
            accuracy = float(outcomes.mean())
            if not math.isfinite(accuracy):  # the run diverged
                continue
            swept.setdefault(arm.first.method, []).append((arm.first.learning_rate, accuracy))
            questions = outcomes.shape[-1]
    chosen = {}
    for method, points in swept.items():
        best = max(accuracy for _, accuracy in points)
        error = math.sqrt(best * (1 - best) / questions)
        chosen[method] = min(rate for rate, accuracy in points if accuracy >= best - error)
    return chosen


def arm_name(arm: Arm, arms: Sequence[Arm]) -> str:
    """The method's label, with the learning rate where the study has several of that method."""
    rates = {
        other.first.learning_rate
        for other in arms
        if (other.where, other.first.method) == (arm.where, arm.first.method)
    }
    if len(rates) > 1:
        return f"{arm.first.label}, lr {rate_text(arm.first.learning_rate)}"
    return arm.first.label


def rate_text(rate: float) -> str:
    """A learning rate as people write it: 3e-4, 1.35e-3."""
    mantissa, exponent = f"{rate:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def signed(value: float, digits: int) -> str:
    """A number with its sign and so many decimals; never -0.0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def listed(values: Iterable[object]) -> str:
    """Distinct values in their order, as `a, b and c`."""
    words = list(dict.fromkeys(str(value) for value in values))
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def setting_sentence(arms: Sequence[Arm]) -> str:
    """Which study, split and how many questions the numbers come from."""
    exams = [arm.first.data.exam for arm in arms if arm.first.data.exam is not None]
    text = f"Study {listed(arm.where for arm in arms)}"
    if exams:
        rows = listed(exam.rows for exam in exams)
        text += f"; {listed(exam.split for exam in exams)} split, {rows} questions"
    return " ".join([text + ".", *precision_notes(arms)])


def precision_name(record: Record) -> str:
    """The number format in which a run multiplied matrices, in words."""
    precision = record.settings.get("precision", "not recorded")
    return {"bf16": "bfloat16", "fp32": "32-bit floats"}.get(precision, precision)


def precision_notes(arms: Sequence[Arm]) -> list[str]:
    """One sentence if these arms were run in more than one number format, which shifts numbers."""
    methods: dict[str, list[str]] = {}
    for arm in arms:
        for name in dict.fromkeys(map(precision_name, arm.records)):
            methods.setdefault(name, []).append(arm.first.label)
    if len(methods) < 2:
        return []
    *few, (most, _) = sorted(methods.items(), key=lambda item: len(item[1]))
    told = [f"{name} ({', '.join(labels)})" for name, labels in few]
    return [f"Number formats differ: {', '.join(told)}, {most} (the rest)."]


def seeds_sentence(arms: Sequence[Arm]) -> str:
    """What the intervals cover, given the number of seeds of the trained arms."""
    counts = {len(arm.records) for arm in arms if not arm.is_base}
    if not counts or counts == {1}:
        return (
            "Bars are 95 % intervals over questions, articles or sequences; there is one seed, so "
            "they do not cover the luck of training."
        )
    if len(counts) == 1:
        return f"Bars are 95 % intervals over items and {counts.pop()} seeds."
    return (
        "Bars are 95 % intervals over items and, where a method was trained with several seeds "
        f"(up to {max(counts)}), over seeds."
    )


def baseline_sentence(arms: Sequence[Arm]) -> str:
    """Exam accuracy of the base model, of guessing and of the majority baseline."""
    chance = listed(f"{100 * arm.first.baselines.chance:.1f} %" for arm in arms)
    majority = listed(f"{100 * arm.first.baselines.majority:.1f} %" for arm in arms)
    text = (
        f"Guessing gives {chance}, always the option that was most often right in training "
        f"{majority}."
    )
    bases = [arm for arm in arms if arm.is_base and arm.has("exam_accuracy")]
    if bases:
        levels = listed(f"{level(base, 'exam_accuracy').value:.1f} %" for base in bases)
        text = f"The base model answers {levels} of the exam. {text}"
    return text
