"""Drift at equal gain: what each method forgets at the point where all have learned the same.

A method's sweep is a curve of (gain, drift) points in order of how far it goes from the base model.
The drift at a given gain is read off that curve, straight lines between neighbours; where the curve
passes the gain more than once, the lowest crossing counts. A divergence is joined by its logarithm,
from the first point on; other drifts also from the base model, which has no gain and no drift.
Nothing is extrapolated beyond a method's gains.

Intervals are those of simulated estimates (Krinsky and Robb, Review of Economics and Statistics 68,
1986): gains and drifts of all points are drawn from Student's distribution around what was
measured, with the covariance of the items, shared by all methods, and for each point that of its
seeds. Items have n - 1 degrees of freedom, S seeds of a point S - 1. What seeds do to gain and to a
divergence (relative to its size) is taken to be alike along a curve, so that its points share their
degrees of freedom; other drifts spread the more the larger they are, and each point then has its
own. Each draw is a set of curves, of which the drifts are read off. A drawn curve that does not
reach the gain is extended to it, as steep as the measured curve is at that end.

Where curves are compared, what moves their gains alike (easy questions, a base model in luck) is
left out of the draws: it moves the height at which they are compared, and not one against the
other. So an interval is about the height at which these questions show the gain.
"""

import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike

from .stats import Array, Interval, by_seed, combine, log_perplexity

DRAWS = 4000
MISSED = 0.2


@dataclass(frozen=True)
class SweepPoint:
    """One setting of a method: exam outcomes (seeds, n) and items of one drift probe."""

    exam: ArrayLike
    probe: ArrayLike


@dataclass(frozen=True)
class Curve:
    """A method's curve as measured and as drawn.

    gains (shares) and heights: (1 + draws, points), the first row as measured, heights on the scale
    on which points are joined by straight lines; back: makes heights drifts. n, seeds: items of the
    exam, and seeds of the point that has the fewest.
    """

    gains: Array
    heights: Array
    back: Callable[[Array], Array]
    n: int
    seeds: int

    @property
    def lowest(self) -> float:
        """The least gain of the measured points."""
        return float(self.gains[0].min())

    @property
    def highest(self) -> float:
        """The largest gain of the measured points."""
        return float(self.gains[0].max())

    def reaches(self, at: float) -> bool:
        """Whether the measured curve passes gain `at`."""
        return self.lowest <= at <= self.highest

    def drifts(self, at: float) -> tuple[Array, float]:
        """Drift at gain `at` as measured and in each draw, and the share of draws that miss it."""
        found = crossing(self.gains, self.heights, at)
        missed = np.isnan(found)
        first, best = int(self.gains[0].argmin()), int(self.gains[0].argmax())
        above = at > self.gains.max(axis=1)
        for end, behind, rows in (
            (best, max(best - 1, 0), missed & above),
            (first, min(first + 1, self.gains.shape[1] - 1), missed & ~above),
        ):
            rise, climb = (part[0, end] - part[0, behind] for part in (self.gains, self.heights))
            steepness = max(climb / rise, 0.0) if rise else 0.0
            found[rows] = (self.heights[:, end] + steepness * (at - self.gains[:, end]))[rows]
        return self.back(found), float(missed[1:].mean())


@dataclass(frozen=True)
class EqualGain:
    """Drift of each method that reaches exam gain `at` (a share, not points).

    excess, ratios: drift of the first method of a pair minus, and over, that of the second, for
    every ordered pair of `drifts`. missing: why each other method has no drift there. Where nothing
    can be said `at` is NaN, the mappings are empty and `reason` says why.
    """

    at: float
    drifts: dict[str, Interval] = field(default_factory=dict)
    excess: dict[tuple[str, str], Interval] = field(default_factory=dict)
    ratios: dict[tuple[str, str], Interval] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    reason: str = ""


def crossing(gains: Array, drifts: Array, at: float) -> Array:
    """Lowest drift at which each curve passes gain `at`; NaN where it does not.

    gains, drifts: (curves, points), points in the order in which they are joined.
    """
    left, right = gains[:, :-1], gains[:, 1:]
    spans = (np.minimum(left, right) <= at) & (at <= np.maximum(left, right))
    width = right - left
    share = np.divide(at - left, width, out=np.zeros_like(width), where=width != 0)
    height = drifts[:, :-1] + share * (drifts[:, 1:] - drifts[:, :-1])
    flat = np.minimum(drifts[:, :-1], drifts[:, 1:])
    height = np.where(spans, np.where(width == 0, flat, height), np.inf)
    lowest = np.where(np.isnan(height), np.inf, height).min(axis=1, initial=np.inf)
    return np.where(np.isfinite(lowest), lowest, np.nan)


def measured_curves(
    sweeps: Mapping[str, Sequence[SweepPoint]],
    base: SweepPoint,
    probe: str,
    draws: int = DRAWS,
    pooled: bool = False,
) -> tuple[dict[str, Curve], dict[str, str]]:
    """The curve of each method, and why each other one has none.

    sweeps: the points of each method, in order of how far they go; runs that diverged are left
    out. probe: "perplexity" (drift is the relative change), "accuracy" (drift is the share lost) or
    "kl" (drift is the mean in nats; a point without any is left out). pooled: what seeds do to gain
    and divergence is taken to be alike in all methods, for many curves of few seeds.

    Raises:
        ValueError: an unknown probe, or too few draws for an interval.
    """
    if probe not in PROBES:
        raise ValueError(f"probe={probe!r} is unknown; allowed are {', '.join(PROBES)}")
    if draws < 100:
        raise ValueError(f"draws={draws} is too few for an interval; use 100 or more")
    points: dict[str, list[_Point]] = {}
    missing = {}
    for name, sweep in sweeps.items():
        finite = [p for p in sweep if np.isfinite(p.exam).all() and np.isfinite(p.probe).all()]
        found = [_measured(p, base, probe) for p in finite]
        points[name] = [p for p in found if p is not None]
        if len(points[name]) < 2:
            missing[name] = f"{name} has one point only; a curve needs two learning rates"
            del points[name]
    together = _alike([p for found in points.values() for p in found]) if pooled else None
    n = by_seed(base.exam).shape[1]
    return {
        name: _curve(name, found, probe, draws, n, together) for name, found in points.items()
    }, missing


def without_common_luck(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """The curves without what moves the gains of all their points alike in each draw.

    As intervals in within-subject designs (Loftus and Masson, Psychonomic Bulletin & Review 1,
    1994), theirs are for comparing the curves with each other.
    """
    moved = [curve.gains - curve.gains[0] for curve in curves.values()]
    common = np.hstack(moved).mean(axis=1, keepdims=True)
    return {name: replace(c, gains=c.gains - common) for name, c in curves.items()}


def drift_of(curve: Curve, at: float) -> Interval:
    """Drift of a curve at gain `at`."""
    return _interval(*curve.drifts(at), curve.n, curve.seeds)


def excess_of(first: Curve, second: Curve, at: float) -> Interval:
    """Drift of the first curve minus that of the second at gain `at`."""
    (a, short), (b, shorter) = _compared(first, second, at)
    return _interval(a - b, max(short, shorter), first.n, min(first.seeds, second.seeds))


def ratio_of(first: Curve, second: Curve, at: float, level: float = 0.95) -> Interval:
    """Drift of the first curve over that of the second, if that is clearly above zero."""
    (a, short), (b, shorter) = _compared(first, second, at)
    n, seeds = first.n, min(first.seeds, second.seeds)
    if b[0] <= 0 or np.mean(b[1:] <= 0) > 0.025:
        reason = "the drift that it is a share of is not clearly above zero"
        return Interval(math.nan, math.nan, math.nan, n, seeds, reason)
    ratio = np.divide(a, b, out=np.full_like(a, np.inf), where=b > 0)
    return _interval(ratio, max(short, shorter), n, seeds, level)


def _compared(first: Curve, second: Curve, at: float) -> list[tuple[Array, float]]:
    """Drifts of two curves at a gain, without what moves both alike, and what misses it."""
    pair = without_common_luck({"first": first, "second": second})
    return [curve.drifts(at) for curve in pair.values()]


def drift_at_equal_gain(
    sweeps: Mapping[str, Sequence[SweepPoint]],
    base: SweepPoint,
    probe: str,
    at: float | None = None,
    draws: int = DRAWS,
) -> EqualGain:
    """Compare the drift of several methods at one gain, each pair as if it were alone.

    sweeps, probe: as in `measured_curves`. at: the gain; by default the largest whole per cent that
    more than half of the methods reach in 97.5 % of the draws.

    Raises:
        ValueError: an unknown probe, or too few draws for an interval.
    """
    curves, missing = measured_curves(sweeps, base, probe, draws)
    if not curves:
        reason = "; ".join(missing.values()) or "no method was given"
        return EqualGain(math.nan, missing=missing, reason=reason)
    if at is None:
        reach = sorted(np.quantile(c.gains[1:].max(axis=1), 0.025) for c in curves.values())
        at = math.floor(100 * reach[(len(reach) - 1) // 2] + 1e-9) / 100
    far = {name: _out_of_reach(name, c, at) for name, c in curves.items() if not c.reaches(at)}
    if at <= 0 or len(far) == len(curves):
        reached = ", ".join(f"{name} {100 * c.highest:+.1f}" for name, c in curves.items())
        reason = f"no common gain at {100 * at:+.1f} points; the methods reach {reached} points"
        return EqualGain(math.nan, missing=missing | far, reason=reason)
    passed = {name: curve for name, curve in curves.items() if name not in far}
    pairs = {pair: [passed[name] for name in pair] for pair in permutations(passed, 2)}
    return EqualGain(
        float(at),
        {name: drift_of(curve, at) for name, curve in passed.items()},
        {pair: excess_of(first, second, at) for pair, (first, second) in pairs.items()},
        {pair: ratio_of(first, second, at) for pair, (first, second) in pairs.items()},
        missing | far,
    )


def _out_of_reach(name: str, curve: Curve, at: float) -> str:
    if at < curve.lowest:
        return f"{name} begins at {100 * curve.lowest:+.1f} points"
    return f"{name} reaches {100 * curve.highest:+.1f} points"


@dataclass(frozen=True)
class _Point:
    """Items (seeds, n) of gain and of drift; what makes the mean of the latter a height."""

    exam: Array
    probe: Array
    height: Callable[[Array], Array]

    @property
    def runs(self) -> Array:
        """What each seed gave: gain and drift, (seeds, 2)."""
        return np.stack([self.exam.mean(1), self.probe.mean(1)], axis=1)


# A probe: items of a point against the base model, and what makes their mean a height.
Heights = tuple[Array, Callable[[Array], Array]]


def _perplexity(after: ArrayLike, before: ArrayLike) -> Heights:
    """The relative change, from the change of the logarithm."""
    a, b = by_seed(after, pairs=True), by_seed(before, pairs=True)
    return log_perplexity(a) - log_perplexity(b), lambda drawn: np.expm1(np.minimum(drawn, 700))


def _accuracy(after: ArrayLike, before: ArrayLike) -> Heights:
    """The share lost."""
    return by_seed(before) - by_seed(after), np.asarray


def _log_kl(after: ArrayLike, _: ArrayLike) -> Heights | None:
    """The logarithm of the mean (delta method); none where nothing diverges."""
    items = by_seed(after)
    mean = items.mean()
    return (items / mean, lambda drawn: math.log(mean) + drawn - 1) if mean > 0 else None


PROBES = {"perplexity": _perplexity, "accuracy": _accuracy, "kl": _log_kl}


def _measured(point: SweepPoint, base: SweepPoint, probe: str) -> _Point | None:
    found = PROBES[probe](point.probe, base.probe)
    return None if found is None else _Point(by_seed(point.exam) - by_seed(base.exam), *found)


def _curve(
    name: str,
    points: Sequence[_Point],
    probe: str,
    draws: int,
    n: int,
    together: tuple[Array, int] | None,
) -> Curve:
    """The curve of a sweep; of a divergence it has no point for the base model.

    What is drawn for a method depends on its own points alone, on the items, which are the same for
    all, and, where `together` is given, on what seeds do in all methods.
    """
    divergence = probe == "kl"
    gains = _drawn_items([p.exam for p in points], draws, 0)
    drifts = _drawn_items([p.probe for p in points], draws, 1)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    alike = together or (_alike(points) if divergence else None)
    luck = _drawn_seeds(points, alike if divergence else None, draws, rng)
    gains[1:] += luck[..., 0]
    drifts[1:] += luck[..., 1]
    heights = np.stack([p.height(x) for p, x in zip(points, drifts.T, strict=True)], axis=1)
    seeds = min(len(p.exam) for p in points)
    if divergence:
        return Curve(gains, heights, lambda found: np.exp(np.clip(found, -700, 700)), n, seeds)
    start = np.zeros((1 + draws, 1))
    return Curve(np.hstack([start, gains]), np.hstack([start, heights]), np.asarray, n, seeds)


@functools.lru_cache(maxsize=4)
def _numbers(n: int, draws: int, stream: int) -> Array:
    """Numbers drawn for n items, (draws, n): Student's, with n - 1 degrees of freedom."""
    rng = np.random.default_rng([stream, n])
    heavy = np.sqrt((n - 1) / rng.chisquare(n - 1, (draws, 1)))
    numbers = heavy * rng.standard_normal((draws, n))
    numbers.flags.writeable = False
    return numbers


def _drawn_items(points: Sequence[Array], draws: int, stream: int) -> Array:
    """Means of points (seeds, n) as measured, then drawn by their items: (1 + draws, points)."""
    means = np.array([items.mean() for items in points])
    n = points[0].shape[1]
    if n == 1:
        return np.tile(means, (1 + draws, 1))
    columns = np.stack([items.mean(0) - items.mean() for items in points], axis=1)
    spread = columns.var(axis=0, ddof=1) / n
    # what a seed changes in single items is drawn with the seeds
    kept = np.array([combine([(1.0, items)]).variances[0] for items in points])
    share = np.sqrt(np.divide(kept, spread, out=np.zeros_like(spread), where=spread > 0))
    around = _numbers(n, draws, stream) @ columns * share / math.sqrt(n * (n - 1))
    return np.concatenate([means[None], means + around])


def _alike(points: Sequence[_Point]) -> tuple[Array, int]:
    """Covariance over seeds of gain and drift in all points, and its degrees of freedom."""
    runs = [p.runs - p.runs.mean(0) for p in points]
    freedom = sum(len(x) - 1 for x in runs)
    return sum(x.T @ x for x in runs) / max(freedom, 1), freedom


def _drawn_seeds(
    points: Sequence[_Point],
    alike: tuple[Array, int] | None,
    draws: int,
    rng: np.random.Generator,
) -> Array:
    """What the luck of training adds to gain and drift of each point: (draws, points, 2).

    alike: the covariance over seeds that all points share, with its degrees of freedom.
    """
    drawn = np.zeros((draws, len(points), 2))
    if alike is not None:
        covariance, freedom = alike
        if freedom == 0:
            return drawn
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.clip(values, 0, None))
        drawn = rng.standard_normal((draws, len(points), 2)) @ root.T
        drawn /= np.sqrt([len(p.exam) for p in points])[:, None]
        return drawn * np.sqrt(freedom / rng.chisquare(freedom, (draws, 1, 1)))
    for place, point in enumerate(points):
        seeds = len(point.exam)
        if seeds > 1:
            heavy = np.sqrt((seeds - 1) / rng.chisquare(seeds - 1, (draws, 1)))
            around = rng.standard_normal((draws, seeds)) @ (point.runs - point.runs.mean(0))
            drawn[:, place] = heavy * around / math.sqrt(seeds * (seeds - 1))
    return drawn


def _interval(values: Array, missed: float, n: int, seeds: int, level: float = 0.95) -> Interval:
    """Interval from a measured value and its draws; no bounds if too many miss the gain."""
    if missed > MISSED:
        reason = f"the gain is not reached in {missed:.0%} of the draws"
        return Interval(float(values[0]), math.nan, math.nan, n, seeds, reason)
    low, high = np.quantile(values[1:], [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(values[0]), float(low), float(high), n, seeds)
