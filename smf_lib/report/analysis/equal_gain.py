"""Drift at equal gain: what each method forgets at the point where all have learned the same.

A method's sweep is a curve of (gain, drift) points in order of how far it goes from the base model.
The drift at a given gain is read off that curve, straight lines between neighbours; where the curve
passes the gain more than once, the lowest crossing counts. A divergence is joined by its logarithm,
from the first point on; other drifts also from the base model, which has no gain and no drift.
Nothing is extrapolated beyond a method's gains.

Intervals are those of simulated estimates (Krinsky and Robb, Review of Economics and Statistics 68,
1986): gains and drifts of all points are drawn from Student's distribution around what was
measured, with the covariance of the items, shared by all methods, and for each point that of its
seeds. What a seed changes in single items belongs to the seeds alone: left in the items, it would
be taken for a difference of curves, and so count twice wherever two are compared. Items have n - 1
degrees of freedom, S seeds of a point S - 1. What seeds do to gain and to a divergence (relative to
its size) is taken to be alike along a curve, so that its points share their degrees of freedom, and
two curves that are compared have those of Welch and Satterthwaite (Biometrics Bulletin 2, 1946).
Other drifts spread the more the larger they are, and each point then has its own.

Each draw is a set of curves, of which the drifts are read off in the same way. Draws are noisier
than what was measured by as much again, and pass a gain at more heights; where seeds scatter by as
much as neighbouring points differ, intervals are too wide for it. To read each draw where it passes
nearest to the measured drift would make them narrower, but leaves out that a curve which nearly
passes the gain at another rate may do so: on curves like the recorded ones such intervals of ratios
cover as little as 70 % instead of 95. A drawn curve that does not reach the gain is extended to it,
as steep as the measured curve is at that end.

Where curves are compared, what moves their gains alike (easy questions, a base model in luck) is
left out of the draws: it moves the height at which they are compared, and not one against the
other. So an interval is about the height at which these questions show the gain.
"""

import functools
import math
import zlib
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from .interval import Interval
from .stats import Array, by_seed, combine, log_perplexity

DRAWS = 4000
MISSED = 0.2
Name = TypeVar("Name", bound=Hashable)


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
    exam, and seeds of the point that has the fewest. luck: what seeds do to gains and heights,
    (1 + draws, points, 2), drawn from the normal distribution. heavy: the factor of luck in them,
    (1 + draws, 1), which makes it Student's of `freedom` degrees; freedom is 0 where a curve has no
    such luck of its own.
    """

    gains: Array
    heights: Array
    back: Callable[[Array], Array]
    n: int
    seeds: int
    luck: Array
    heavy: Array
    freedom: int

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
        found, missed = self._read(at)
        return self.back(found), missed

    def spread(self, at: float) -> float:
        """Variance, but for a factor, of what the luck of seeds does to the height at gain `at`."""
        gains, heights = self.gains[:1] + self.luck[..., 0], self.heights[:1] + self.luck[..., 1]
        found = replace(self, gains=gains, heights=heights)._read(at)[0]
        return float(np.subtract(*np.quantile(found, [0.75, 0.25]))) ** 2

    def times(self, heavy: Array) -> "Curve":
        """The curve with its luck times other factors."""
        more = (heavy - self.heavy)[..., None] * self.luck
        gains, heights = self.gains + more[..., 0], self.heights + more[..., 1]
        return replace(self, gains=gains, heights=heights, heavy=heavy)

    def _read(self, at: float) -> tuple[Array, float]:
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
        return found, float(missed[1:].mean())


def crossing(gains: Array, heights: Array, at: float) -> Array:
    """Lowest height at which each curve passes gain `at`; NaN where it does not.

    gains, heights: (curves, points), points in the order in which they are joined.
    """
    left, right = gains[:, :-1], gains[:, 1:]
    spans = (np.minimum(left, right) <= at) & (at <= np.maximum(left, right))
    width = right - left
    share = np.divide(at - left, width, out=np.zeros_like(width), where=width != 0)
    height = heights[:, :-1] + share * (heights[:, 1:] - heights[:, :-1])
    flat = np.minimum(heights[:, :-1], heights[:, 1:])
    height = np.where(spans, np.where(width == 0, flat, height), np.inf)
    lowest = np.where(np.isnan(height), np.inf, height).min(axis=1, initial=np.inf)
    return np.where(np.isfinite(lowest), lowest, np.nan)


def measured_curves(
    sweeps: Mapping[str, Sequence[SweepPoint]],
    base: SweepPoint,
    probe: str,
    draws: int = DRAWS,
    pooled: bool = False,
    only: Collection[str] | None = None,
) -> dict[str, Curve]:
    """The curve of each method that has two points or more, or of `only` some.

    sweeps: the points of each method, in order of how far they go; runs that diverged are left
    out. probe: "perplexity" (drift is the relative change), "accuracy" (drift is the share lost) or
    "kl" (drift is the mean in nats; a point without any is left out). pooled: what seeds do to gain
    and divergence is taken to be alike in all methods, for many curves of few seeds.
    Items are drawn for the curves together, so that two to be compared are best drawn alone.

    Raises:
        ValueError: an unknown probe, or too few draws for an interval.
    """
    if probe not in PROBES:
        raise ValueError(f"probe={probe!r} is unknown; allowed are {', '.join(PROBES)}")
    if draws < 100:
        raise ValueError(f"draws={draws} is too few for an interval; use 100 or more")
    points: dict[str, list[_Point]] = {}
    for name, sweep in sweeps.items():
        finite = [p for p in sweep if np.isfinite(p.exam).all() and np.isfinite(p.probe).all()]
        found = [_measured(p, base, probe) for p in finite]
        kept = [p for p in found if p is not None]
        if len(kept) > 1:
            points[name] = kept
    together = _alike([p for found in points.values() for p in found]) if pooled else None
    points = {name: found for name, found in points.items() if only is None or name in only}
    if not points:
        return {}
    every = [p for found in points.values() for p in found]
    ends = np.cumsum([len(found) for found in points.values()])[:-1]
    gains, drifts = (
        np.split(_drawn_items(items, draws, stream), ends, axis=1)
        for stream, items in enumerate(([p.exam for p in every], [p.probe for p in every]))
    )
    return {
        name: _curve(name, found, drawn, probe, together)
        for (name, found), drawn in zip(points.items(), zip(gains, drifts))
    }


def without_common_luck(curves: Mapping[Name, Curve]) -> dict[Name, Curve]:
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
        return Interval.unknown(reason, n, seeds)
    ratio = np.divide(a, b, out=np.full_like(a, np.inf), where=b > 0)
    return _interval(ratio, max(short, shorter), n, seeds, level)


def _compared(first: Curve, second: Curve, at: float) -> list[tuple[Array, float]]:
    """Drifts of two curves at a gain, without what moves both alike, and what misses it.

    The seeds of both have degrees of freedom together (Welch and Satterthwaite).
    """
    pair = [first, second]
    if first.freedom and second.freedom:
        parts = np.array([curve.spread(at) for curve in pair])
        own = np.array([curve.freedom for curve in pair])
        total, squares = parts.sum(), (parts**2 / own).sum()
        freedom = total**2 / squares if squares else own.min()
        heavy = _heavy(freedom, len(first.gains) - 1, np.random.default_rng(0))
        pair = [curve.times(heavy) for curve in pair]
    alone = without_common_luck(dict(enumerate(pair)))
    return [curve.drifts(at) for curve in alone.values()]


def _heavy(freedom: float, draws: int, rng: np.random.Generator) -> Array:
    """What makes numbers drawn from the normal distribution Student's: (1 + draws, 1)."""
    heavy = np.ones((1 + draws, 1))
    if freedom:
        heavy[1:] = np.sqrt(freedom / rng.chisquare(freedom, (draws, 1)))
    return heavy


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
    drawn: tuple[Array, Array],
    probe: str,
    together: tuple[Array, int] | None,
) -> Curve:
    """The curve of a sweep; of a divergence it has no point for the base model.

    drawn: gains and drifts, drawn by their items. together: what seeds do in all methods, where
    that is taken to be alike.
    """
    gains, drifts = drawn
    draws, n = len(gains) - 1, points[0].exam.shape[1]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    seeds = min(len(p.exam) for p in points)
    if probe != "kl":
        own = _own_seeds(points, draws, rng)
        gains, drifts = gains + own[..., 0], drifts + own[..., 1]
    heights = np.stack([p.height(x) for p, x in zip(points, drifts.T, strict=True)], axis=1)
    if probe != "kl":
        start, none = np.zeros((1 + draws, 1)), np.zeros((1 + draws, len(points) + 1, 2))
        gains, heights = np.hstack([start, gains]), np.hstack([start, heights])
        return Curve(gains, heights, np.asarray, n, seeds, none, 1 + start, 0)
    covariance, freedom = together or _alike(points)
    luck = _seeds_alike(points, covariance, draws, rng)
    heavy = _heavy(freedom, draws, np.random.default_rng(freedom) if together else rng)
    more = heavy[..., None] * luck
    return Curve(
        gains + more[..., 0],
        heights + more[..., 1],
        lambda found: np.exp(np.clip(found, -700, 700)),
        n,
        seeds,
        luck,
        heavy,
        0 if together else freedom,
    )


@functools.lru_cache(maxsize=4)
def _numbers(n: int, draws: int, stream: int) -> Array:
    """Numbers drawn for n items, (draws, n): Student's, with n - 1 degrees of freedom."""
    rng = np.random.default_rng([stream, n])
    heavy = np.sqrt((n - 1) / rng.chisquare(n - 1, (draws, 1)))
    numbers = heavy * rng.standard_normal((draws, n))
    numbers.flags.writeable = False
    return numbers


def _drawn_items(points: Sequence[Array], draws: int, stream: int) -> Array:
    """Means of points (seeds, n) as measured, then drawn by their items: (1 + draws, points).

    What a seed changes in single items is drawn with the seeds, and is no part of the covariance of
    the items: not of a point's variance, and between points there is none of it.
    """
    means = np.array([items.mean() for items in points])
    n = points[0].shape[1]
    if n == 1:
        return np.tile(means, (1 + draws, 1))
    columns = np.stack([items.mean(0) - items.mean() for items in points], axis=1)
    raw = columns.T @ columns / (n * (n - 1))
    kept = raw.copy()
    np.fill_diagonal(kept, [combine([(1.0, items)]).variances[0] for items in points])
    around = _numbers(n, draws, stream) @ columns @ _recoloured(raw, kept)
    return np.concatenate([means[None], means + around / math.sqrt(n * (n - 1))])


def _recoloured(old: Array, new: Array) -> Array:
    """The symmetric matrix times which numbers of covariance `old` have covariance `new`.

    The least that moves them so (Olkin and Pukelsheim, Linear Algebra and its Applications 48,
    1982). What `new` has below zero, as an estimate may, counts as zero.
    """
    root, back = _root(old), np.linalg.pinv(_root(old), hermitian=True)
    return back @ _root(root @ new @ root) @ back


def _root(matrix: Array) -> Array:
    """The square root of a symmetric matrix, without what is below zero."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _alike(points: Sequence[_Point]) -> tuple[Array, int]:
    """Covariance over seeds of gain and drift in all points, and its degrees of freedom."""
    runs = [p.runs - p.runs.mean(0) for p in points]
    freedom = sum(len(x) - 1 for x in runs)
    return sum(x.T @ x for x in runs) / max(freedom, 1), freedom


def _seeds_alike(
    points: Sequence[_Point], covariance: Array, draws: int, rng: np.random.Generator
) -> Array:
    """What the luck of training does to gain and drift of each point: (1 + draws, points, 2).

    covariance: over seeds, of gain and drift, which all points share.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    drawn = rng.standard_normal((draws, len(points), 2)) @ root.T
    drawn /= np.sqrt([len(p.exam) for p in points])[:, None]
    return np.concatenate([np.zeros((1, len(points), 2)), drawn])


def _own_seeds(points: Sequence[_Point], draws: int, rng: np.random.Generator) -> Array:
    """The same where each point has a covariance of its own: Student's, with S - 1 degrees."""
    drawn = np.zeros((1 + draws, len(points), 2))
    for place, point in enumerate(points):
        seeds = len(point.exam)
        if seeds > 1:
            heavy = np.sqrt((seeds - 1) / rng.chisquare(seeds - 1, (draws, 1)))
            around = rng.standard_normal((draws, seeds)) @ (point.runs - point.runs.mean(0))
            drawn[1:, place] = heavy * around / math.sqrt(seeds * (seeds - 1))
    return drawn


def _interval(values: Array, missed: float, n: int, seeds: int, level: float = 0.95) -> Interval:
    """Interval from a measured value and its draws.

    No bounds if too many draws miss the gain, or none lies beyond the bounds: with `DRAWS` draws
    Holm's procedure decides nothing at its first step in families of more than 100 comparisons.
    """
    if missed > MISSED:
        reason = f"the gain is not reached in {missed:.0%} of the draws"
        return Interval(float(values[0]), math.nan, math.nan, n, seeds, reason)
    if (len(values) - 1) * (1 - level) / 2 < 1:
        reason = f"{len(values) - 1} draws tell no bounds of level {level:g}"
        return Interval(float(values[0]), math.nan, math.nan, n, seeds, reason)
    low, high = np.quantile(values[1:], [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(values[0]), float(low), float(high), n, seeds)
