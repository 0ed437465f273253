"""How far two runs of one setting lie apart, and whether a run repeats the one on record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as student

from ...study.records.record import MetricName, Record
from ..measures import EXAM, drift_measures, measure_of
from ..text import listed
from .arms import Arm, group_arms
from .effects import are_paired


@dataclass(frozen=True)
class Spread:
    """How runs of one setting differ that differ in their seed alone.

    Attributes:
        error: standard deviation of a single run; of accuracies in points, of perplexities and
            divergences in 100 times their logarithm.
        freedom: runs less settings, the degrees of freedom of `error`.
        settings: how many settings were run with several seeds.
        items: questions that a run answered, of accuracies; otherwise 0.
        noise: variance of what a seed does to a single question (points squared), which a run with
            fewer questions has more of.
    """

    error: float
    freedom: int
    settings: int
    items: int = 0
    noise: float = 0.0

    def limit(self, first: int, second: int, items: int = 0) -> float:
        """What the difference of two means, over so many seeds each, exceeds once in twenty.

        items: questions that both answered, 0 for as many as the runs with several seeds.
        """
        variance = self.error**2
        if items and self.items:
            variance = max(variance + self.noise * (1 / items - 1 / self.items), 0.0)
        factor = float(student.ppf(0.975, self.freedom))
        return factor * math.sqrt(variance * (1 / first + 1 / second))


def spread(records: Sequence[Record], metric: MetricName) -> Spread | None:
    """The spread of a metric, pooled over all settings with several seeds; None without any."""
    arms = [arm for arm in group_arms(records) if not arm.is_base and arm.has(metric)]
    several = [arm for arm in arms if len(arm.records) > 1]
    several = [arm for arm in several if np.isfinite(_shown(arm, metric)).all()]
    if not several:
        return None
    groups = [_shown(arm, metric) for arm in several]
    freedom = sum(len(values) - 1 for values in groups)
    squares = sum(((values - values.mean()) ** 2).sum() for values in groups)
    error = math.sqrt(squares / freedom)
    if several[0].measure(metric).unit != "accuracy":
        return Spread(error, freedom, len(groups))
    counts = [arm.items(metric).shape[1] for arm in several]
    rests = sum(_of_single_items(arm.items(metric)) for arm in several)
    return Spread(error, freedom, len(groups), min(counts), 1e4 * rests / freedom)


def _of_single_items(items: np.ndarray) -> float:
    """Variance of answers (seeds, n) beyond seeds and questions, times the seeds less one."""
    rest = items - items.mean(1, keepdims=True) - items.mean(0) + items.mean()
    return float((rest**2).sum() / (items.shape[1] - 1))


def spread_sentence(records: Sequence[Record]) -> str:
    """How far two runs of one setting lie apart, in words."""
    told, found = [], None
    for metric in (EXAM, *drift_measures(records)):
        if (one := spread(records, metric)) is None:
            continue
        found = one if found is None else found
        measure = measure_of(next(r for r in records if metric in r.metrics), metric)
        unit, limit = "%", _in_per_cent(one.limit(1, 1))
        if one.items:
            unit, limit = f"points on {one.items:,} questions", one.limit(1, 1)
        told.append(f"{measure.short} {limit:.2g} {unit}")
    if found is None:
        return "No setting is on record with several seeds, so the luck of a run is not known."
    return (
        f"Two runs of one setting that differ in their seed alone lie further apart than the "
        f"following once in twenty times: {listed(told)} (from {found.freedom + found.settings} "
        f"runs of {found.settings} settings)."
    )


def repeats_table(records: Sequence[Record], seeds: Sequence[Record]) -> pd.DataFrame:
    """Each method's own runs less those on record, and what the luck of a run explains.

    Args:
        records: of one profile, the study `local` and any other.
        seeds: runs of several seeds, which tell the luck of a run (`spread`).

    Returns:
        one row a method that both studies have at the same rate; no row if there is none.
    """
    arms = [arm for arm in group_arms(records) if not arm.is_base]
    recorded = {(a.first.method, a.first.learning_rate): a for a in arms if not _own(a)}
    rows = []
    for arm in filter(_own, arms):
        other = recorded.get((arm.first.method, arm.first.learning_rate))
        if other is None:
            continue
        row, within = {"Method": arm.first.label}, []
        for metric in (EXAM, *drift_measures(records)):
            luck = spread(seeds, metric)
            both = arm.has(metric) and other.has(metric) and are_paired(arm, other, metric)
            if luck is None or not both:
                continue
            measure = measure_of(arm.first, metric)
            unit = "points" if measure.unit == "accuracy" else "%"
            apart = float(_shown(arm, metric).mean() - _shown(other, metric).mean())
            counted = arm.items(metric).shape[1] if measure.unit == "accuracy" else 0
            limit = luck.limit(len(arm.records), len(other.records), counted)
            shown = f"{apart:+.1f} (limit {limit:.1f})"
            if unit == "%":
                ends = (_in_per_cent(x) for x in (apart, -limit, limit))
                shown = "{:+.1f} (limits {:+.1f} and {:+.1f})".format(*ends)
            row[f"{measure.short} ({unit})"] = shown
            within.append(abs(apart) <= limit)
        if within:
            rows.append(row | {"Within the limits": f"{sum(within)} of {len(within)}"})
    return pd.DataFrame(rows)


def _own(arm: Arm) -> bool:
    return arm.first.study == "local"


def _in_per_cent(apart: float) -> float:
    """How many per cent more one number is than another, from 100 times the ratio's logarithm."""
    return 100 * math.expm1(apart / 100)


def _shown(arm: Arm, metric: MetricName) -> np.ndarray:
    """A metric of each run, (seeds,): accuracies in per cent, all else as 100 times its log."""
    values = np.array([record.metrics[metric].value for record in arm.records], dtype=float)
    if arm.measure(metric).unit == "accuracy":
        return 100 * values
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * np.log(values)
