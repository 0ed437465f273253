"""What finetuning did: each arm's level, gain and drift with intervals, and arms compared.

Gain and drift are measured from the base model of the same study, on the same items. Units:
gains and accuracies in points (percent), perplexity change in percent, KL in nats a token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...study.records.record import MetricName
from ...study.records.results import ResultsError, paired_key
from ..measures import EXAM
from . import stats
from .arms import Arm
from .equal_gain import SweepPoint
from .interval import Interval
from .stats import McNemar


def level(arm: Arm, metric: MetricName, joint: float = 0.95) -> Interval:
    """The metric itself: accuracies in percent, perplexity, KL in nats a token.

    joint: the level of the interval, higher where several must hold together.
    """
    items = arm.items(metric)
    unit = arm.measure(metric).unit
    if unit == "perplexity":
        return stats.perplexity_interval(items, joint)
    if unit == "nats":
        return stats.mean_interval(items, joint)
    return stats.accuracy_interval(items, joint).scaled(100)


def change(arm: Arm, base: Arm, metric: MetricName) -> Interval:
    """What finetuning changed: accuracies in points, perplexity in percent, KL in nats.

    `seeds` is the arm's, since the base model is not trained.
    """
    if arm.measure(metric).unit == "nats":
        return level(arm, metric)
    return replace(contrast(arm, base, metric), seeds=len(arm.records))


def drift(arm: Arm, base: Arm, metric: MetricName) -> Interval:
    """Forgetting, larger is worse: the change, accuracies counted as points lost."""
    interval = change(arm, base, metric)
    return interval.scaled(-1) if arm.measure(metric).spec.more_is_better else interval


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
    measure = first.measure(metric)
    if measure.unit == "perplexity":
        return stats.perplexity_ratio(a, b, level).scaled(100, offset=-1)
    if measure.unit == "nats":
        return stats.mean_difference(a, b, level)
    return stats.accuracy_difference(a, b, level).scaled(100)


def drift_beside(first: Arm, second: Arm, metric: MetricName) -> Interval:
    """Drift of `first` minus that of `second` on the same items, units as in `contrast`.

    Larger is worse. Not known, with the reason, where the two cannot be compared.
    """
    if not (first.has(metric) and second.has(metric)):
        return Interval.unknown("not measured in both")
    if not are_paired(first, second, metric):
        return Interval.unknown("measured on other items")
    found = contrast(first, second, metric)
    return found.scaled(-1) if first.measure(metric).spec.more_is_better else found


def compare(first: Arm, second: Arm, metric: MetricName = EXAM) -> tuple[Interval, McNemar | None]:
    """Accuracy of `first` minus `second` in points; McNemar's test for single runs."""
    difference = contrast(first, second, metric)
    a, b = first.items(metric), second.items(metric)
    return difference, stats.mcnemar(a, b) if len(a) == len(b) == 1 else None


def retention(arm: Arm, reference: Arm, base: Arm) -> Interval:
    """The arm's exam gain as a share of the reference's, in percent."""
    for other in (reference, base):
        check_paired(arm, other, EXAM)
    items = arm.items(EXAM), reference.items(EXAM), base.items(EXAM)
    return stats.gain_retention(*items).scaled(100)


def sweep_points(
    sweeps: Mapping[str, Sequence[Arm]], base: Arm, metric: MetricName
) -> tuple[dict[str, list[SweepPoint]], SweepPoint, str]:
    """The points of each sweep, that of the base model, and the kind of probe that `metric` is.

    Raises:
        ResultsError: an arm was measured on other items than the base model.
    """
    unit = base.measure(metric).unit
    for arm in (arm for arms in sweeps.values() for arm in arms):
        check_paired(arm, base, EXAM)
        if unit != "nats":
            check_paired(arm, base, metric)
    points = {
        name: [SweepPoint(arm.items(EXAM), arm.items(metric)) for arm in arms]
        for name, arms in sweeps.items()
    }
    probe = np.zeros(1) if unit == "nats" else base.items(metric)
    return points, SweepPoint(base.items(EXAM), probe), "kl" if unit == "nats" else unit
