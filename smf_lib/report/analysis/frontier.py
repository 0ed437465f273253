"""Gain and drift along whole curves: a study in which each method has several learning rates.

A curve belongs to a method, or to several that say so (`curve` in their settings). Its points stand
in order of how far they went from the base model. Gains are in points, drifts as in `effects`.
"""

import math
import os.path
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...study.metrics import METRICS
from ...study.records.record import Record
from ...study.records.results import ResultsError, read_records, records_folder
from ..measures import DIVERGENCE, EXAM, WITNESS
from ..text import listed
from .arms import Arm, base_of, group_arms, method_rank
from .decisions import holm
from .effects import sweep_points
from .equal_gain import (
    MISSED,
    Curve,
    drift_of,
    excess_of,
    measured_curves,
    ratio_of,
    without_common_luck,
)
from .interval import Interval, Verdict


class NotOnRecord(ValueError):
    """Records hold too little for what was asked; the message says what is missing."""


@dataclass(frozen=True, eq=False)
class MethodCurve:
    """Arms that are points of one curve, in order of their drift."""

    name: str
    label: str
    arms: tuple[Arm, ...]

    @property
    def first(self) -> Record:
        """A run that stands for all: what they differ in is the rate, or what the curve is of."""
        return self.arms[0].first

    @property
    def seeds(self) -> int:
        """Seeds of the point that has the fewest."""
        return min(len(arm.records) for arm in self.arms)

    @property
    def most_seeds(self) -> int:
        """Seeds of the point that has most; with one, nothing tells of the luck of training."""
        return max(len(arm.records) for arm in self.arms)


@dataclass(eq=False)
class Frontier:
    """The curves of one study, by name, beside the base model; none, and no base, without records.

    where: profile and study. pooled: what seeds do is taken to be alike in all curves
    (`equal_gain.measured_curves`).
    """

    where: str
    base: Arm | None
    curves: dict[str, MethodCurve]
    pooled: bool = False
    _measured: dict[str, dict[str, Curve]] = field(default_factory=dict, repr=False)
    _pairs: dict[tuple[str, ...], dict[str, Curve]] = field(default_factory=dict, repr=False)
    _ratios: dict[tuple, Interval] = field(default_factory=dict, repr=False)

    @property
    def start(self) -> Arm:
        """The base model, where all curves start. Raises NotOnRecord without records."""
        if self.base is None:
            raise NotOnRecord(f"study {self.where} has no base model to measure curves from")
        return self.base

    @property
    def arms(self) -> list[Arm]:
        """The base model, then all points."""
        points = [arm for curve in self.curves.values() for arm in curve.arms]
        return [] if self.base is None else [self.base, *points]

    @property
    def records(self) -> list[Record]:
        """All runs."""
        return [record for arm in self.arms for record in arm.records]

    @property
    def drift_metrics(self) -> list[str]:
        """What tells of forgetting in all runs: divergences first, then in the usual order."""
        if self.base is None:
            return []
        base = self.base
        found = [m for m in base.first.metrics if base.first.spec(m).data != "exam"]
        found = [m for m in found if all(arm.has(m) for arm in self.arms)]
        order = [*METRICS, *found]
        return sorted(found, key=lambda m: (base.measure(m).unit != "nats", order.index(m)))

    def label(self, name: str) -> str:
        """Name of a curve in figures and tables."""
        return self.curves[name].label

    def labels(self, names: Iterable[str]) -> str:
        """Labels of the curves among these names, `a and b`."""
        return listed(self.label(name) for name in names if name in self.curves)

    def measured(self, metric: str = DIVERGENCE) -> dict[str, Curve]:
        """The curves of gain (shares) and drift that have two points or more.

        They are for comparing with each other (`equal_gain.without_common_luck`).
        """
        if self.base is None:
            return {}
        if metric not in self._measured:
            found = self._drawn(metric)
            self._measured[metric] = without_common_luck(found) if found else found
        return self._measured[metric]

    def _drawn(self, metric: str, only: tuple[str, ...] | None = None) -> dict[str, Curve]:
        """The curves, or some of them, drawn together."""
        shown = self.curves if self.pooled or only is None else only
        sweeps = {
            name: [arm for arm in self.curves[name].arms if arm.has(metric)] for name in shown
        }
        points, base, probe = sweep_points(sweeps, self.start, metric)
        return measured_curves(points, base, probe, pooled=self.pooled, only=only)

    def _pair(self, pair: tuple[str, str], metric: str) -> tuple[Curve, Curve]:
        """Two curves that are compared, drawn without any third."""
        names = tuple(sorted(pair))
        if (metric, *names) not in self._pairs:
            self._pairs[metric, *names] = self._drawn(metric, names)
        found = self._pairs[metric, *names]
        return found[pair[0]], found[pair[1]]

    def reached(self, at: float, metric: str = DIVERGENCE) -> dict[str, Curve]:
        """The curves that pass a gain of `at` points."""
        found = self.measured(metric).items()
        return {name: curve for name, curve in found if curve.reaches(at / 100)}

    def drift(self, name: str, at: float, metric: str = DIVERGENCE) -> Interval:
        """Drift of a curve at a gain of `at` points: nats, per cent, or points lost."""
        found = drift_of(self.measured(metric)[name], at / 100)
        return found.scaled(self.start.measure(metric).factor)

    def excess(self, pair: tuple[str, str], at: float, metric: str) -> Interval:
        """Drift of the first curve of a pair minus that of the second, at `at` points."""
        first, second = self._pair(pair, metric)
        return excess_of(first, second, at / 100).scaled(self.start.measure(metric).factor)

    def ratio(
        self, pair: tuple[str, str], at: float, level: float = 0.95, metric: str = DIVERGENCE
    ) -> Interval:
        """Drift of the first curve of a pair over that of the second, at `at` points."""
        asked = (pair, at, level, metric)
        if asked not in self._ratios:
            self._ratios[asked] = ratio_of(*self._pair(pair, metric), at / 100, level)
        return self._ratios[asked]

    def beside(
        self, pair: tuple[str, str], at: float, metric: str = DIVERGENCE
    ) -> tuple[Interval, Verdict]:
        """Drift of the first curve of a pair beside the second's, and what its interval says.

        A ratio of divergences, a difference of all else.
        """
        if metric not in self.drift_metrics or not set(pair) <= set(self.reached(at, metric)):
            nothing = Interval.unknown("no curve at this gain")
            return nothing, nothing.verdict()
        if self.start.measure(metric).unit == "nats":
            ratio = self.ratio(pair, at, metric=metric)
            return ratio, ratio.verdict(even=1)
        excess = self.excess(pair, at, metric)
        return excess, excess.verdict()

    def beside_each(
        self, method: str, references: Sequence[str], at: float, metric: str
    ) -> dict[str, tuple[Interval, Verdict]]:
        """Drift of a method beside that of each reference that reaches the gain; see `beside`."""
        names = [n for n in references if n != method and n in self.reached(at, metric)]
        return {name: self.beside((method, name), at, metric) for name in names}

    def by_divergence(self, pair: tuple[str, str], at: float) -> Verdict:
        """How the first curve of a pair drifts beside the second by the divergence.

        More or less only if the base model's own text and prose, where both were measured, say
        the same: own texts have beginnings in common, which can weigh much in their mean.
        """
        own = self.beside(pair, at)[1]
        if WITNESS not in self.drift_metrics:
            return own
        return own.confirmed_by(self.beside(pair, at, WITNESS)[1])

    def pairs(self, at: float, references: Sequence[str]) -> list[tuple[str, str]]:
        """Every curve with every reference, each pair once, where both reach the gain."""
        reached = self.reached(at)
        found: dict[tuple[str, str], None] = {}
        for other in (name for name in references if name in reached):
            for name in reached:
                if name != other and (other, name) not in found:
                    found[name, other] = None
        return list(found)

    def told_apart(self, pairs: Iterable[tuple[str, str]], at: float) -> set[tuple[str, str]]:
        """The pairs whose ratio is not 1, decided together (Holm's procedure, 95 %)."""
        return holm(pairs, lambda pair, level: self.ratio(pair, at, level).verdict(even=1).decided)

    def verdicts(
        self, pairs: Iterable[tuple[str, str]], at: float
    ) -> dict[tuple[str, str], Verdict]:
        """What `by_divergence` says of each pair, all decided together as by `told_apart`."""
        pairs = list(pairs)
        apart = self.told_apart(pairs, at)
        found = {pair: self.by_divergence(pair, at) for pair in pairs}
        return {
            pair: Verdict.LEVEL if verdict.decided and pair not in apart else verdict
            for pair, verdict in found.items()
        }

    def without_beaten_points(self) -> "Frontier":
        """The same curves without points that another of their curve beats in gain and drift."""
        curves = {n: replace(c, arms=self._unbeaten(c.arms)) for n, c in self.curves.items()}
        return Frontier(self.where, self.base, curves, self.pooled)

    def _unbeaten(self, arms: Sequence[Arm]) -> tuple[Arm, ...]:
        """Those of some arms, in order of their drift, that gain more than all before them."""
        kept, most = [], -math.inf
        for arm in arms:
            gain = float(np.mean(arm.items(EXAM)))
            if gain > most:
                kept.append(arm)
                most = gain
        return tuple(kept)

    def common_gain(self, needed: Sequence[str] = ()) -> int:
        """The whole number of points at which most curves can be compared; of several the middle.

        needed: curves that count before all others.

        Raises:
            NotOnRecord: no curve has two points, or none passes a whole number of points.
        """
        curves = self.measured()
        if not curves:
            raise NotOnRecord(
                f"study {self.where} has no method at two learning rates, so it has no curve to "
                "read drift off at equal gain"
            )
        ranks = {}
        for at in range(1, math.floor(100 * max(c.highest for c in curves.values()) + 1e-9) + 1):
            held = {name for name, curve in curves.items() if is_safe(curve, at / 100)}
            ranks[at] = (len(held & set(needed)), len(held))
        most = [at for at, rank in ranks.items() if rank == max(ranks.values()) and rank[1]]
        if not most:
            raise NotOnRecord(
                f"no curve of study {self.where} passes a whole number of points of gain"
            )
        return most[len(most) // 2]

    def span(self, needed: Sequence[str]) -> list[int]:
        """The least and the largest whole number of points at which all `needed` are compared."""
        curves = [self.measured()[name] for name in needed if name in self.measured()]
        if not curves:
            return []
        top = math.floor(100 * max(curve.highest for curve in curves) + 1e-9)
        safe = [at for at in range(1, top + 1) if all(is_safe(c, at / 100) for c in curves)]
        return sorted({safe[0], safe[-1]}) if safe else []


def is_safe(curve: Curve, at: float) -> bool:
    """Whether a curve passes a gain (a share) as measured and in most draws."""
    return curve.reaches(at) and curve.drifts(at)[1] <= MISSED


def ratio_text(ratio: Interval) -> str:
    """`0.068 [0.031, 0.23]`: two significant digits; a dash for what is not known."""
    if not ratio.known:
        return "–"
    value, low, high = (f"{float(f'{x:.2g}'):g}" for x in (ratio.value, ratio.low, ratio.high))
    return f"{value} [{low}, {high}]" if ratio.bounded else value


def share_text(ratio: Interval) -> str:
    """A ratio of drifts in words: `7 % [3, 23]`, or `4.7 times [2.0, 13]` from 2 on."""
    if not ratio.known:
        return ratio.reason
    if ratio.value >= 2:
        value, *bounds = ratio_text(ratio).partition(" ")
        return f"{value} times{''.join(bounds)}"
    return f"{ratio_text(ratio.scaled(100)).replace(' [', ' % [', 1)}" + (
        "" if ratio.bounded else " %"
    )


def frontier_of(records: Sequence[Record], pooled: bool = False) -> Frontier:
    """The curves of the records of one study; runs without exam or divergence are left out.

    Raises:
        ResultsError: several studies, no base model, or runs of other questions than its own.
    """
    arms = group_arms(records)
    studies = sorted({arm.where for arm in arms})
    if len(studies) > 1:
        raise ResultsError(f"one study at a time: {studies} were given")
    trained = [arm for arm in arms if not arm.is_base and arm.has(EXAM) and arm.has(DIVERGENCE)]
    if not trained:
        return Frontier(studies[0] if studies else "not on record", None, {}, pooled)
    groups: dict[str, list[Arm]] = {}
    for arm in trained:
        groups.setdefault(arm.curve, []).append(arm)
    curves = {
        name: MethodCurve(name, _label(name, groups[name]), tuple(_in_order(groups[name])))
        for name in sorted(groups, key=method_rank)
    }
    return Frontier(studies[0], base_of(trained[0], arms), curves, pooled)


def read_frontier(profile: str | None, pooled: bool = False) -> Frontier:
    """The curves of the fullest study of a profile on record, this machine's own before others."""
    studies = _studies(profile) if profile else {}
    found = frontier_of(max(studies.values(), key=len, default=[]), pooled)
    return found if studies else replace(found, where=f"{profile} (not on record)")


def chosen_gain(
    frontier: Frontier, gain: float | None, method: str, references: Sequence[str]
) -> float:
    """The gain, in points, at which drift is compared: as given, or where most curves can be.

    NaN where there is no curve at all, or none that passes a whole number of points.

    Raises:
        ValueError: a method, a reference or a gain that the records do not have.
    """
    for field_name, names in (("method", [method]), ("references", references)):
        for name in names:
            if frontier.curves and name not in frontier.curves:
                raise ValueError(
                    f"{field_name}={name!r} has no curve in study {frontier.where}; it has "
                    f"{', '.join(frontier.curves)}"
                )
    curves = frontier.measured()
    if gain is None:
        try:
            return float(frontier.common_gain([method, *references]))
        except NotOnRecord:
            return math.nan
    reached = [100 * end for c in curves.values() for end in (c.lowest, c.highest)]
    if curves and not min(reached) <= gain <= max(reached):
        raise ValueError(
            f"gain={gain!r} is reached by no curve of study {frontier.where}; choose a number of "
            f"points between {min(reached):.1f} and {max(reached):.1f}, or None"
        )
    return float(gain)


def _in_order(arms: Sequence[Arm]) -> list[Arm]:
    """From the least divergence to the largest; what diverged altogether comes last."""
    means = {arm: float(np.mean(arm.items(DIVERGENCE))) for arm in arms}
    return sorted(arms, key=lambda arm: means[arm] if math.isfinite(means[arm]) else math.inf)


def _label(name: str, arms: Sequence[Arm]) -> str:
    """The label of a method; of several that share a curve what their labels begin with."""
    labels = list(dict.fromkeys(arm.first.label for arm in arms))
    if len(labels) == 1:
        return labels[0]
    return os.path.commonprefix(labels).rstrip(" (,.=0123456789") or name


def own_study(profile: str | None) -> list[Record]:
    """The records that this machine made of a profile, or else the recorded ones; or none."""
    studies = _studies(profile) if profile else {}
    return next(iter(studies.values()), [])


def _studies(profile: str) -> dict[str, list[Record]]:
    """Records by study: `local` first, then `reference`, then by name."""
    folder = records_folder(profile)
    if not folder.is_dir():
        return {}
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and any(p.glob("*.json")))
    names.sort(key=lambda name: (name != "local", name != "reference"))
    return {name: read_records(folder / name) for name in names}
