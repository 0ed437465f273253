"""Drift at equal gain: what each method forgets at the point where all have learned the same.

A method's sweep is a curve of (gain, drift) points in order of its learning rate. It starts at the
base model, which is learning rate zero: no gain, no drift. The drift at a given gain is read off
that curve, straight lines between neighbours; where the curve passes the gain more than once, the
lowest crossing counts. KL divergence is joined by its square root, which grows as the distance that
the weights have moved does. Nothing is extrapolated beyond a method's largest gain.

Intervals are those of simulated estimates (Krinsky and Robb, Review of Economics and Statistics 68,
1986): gains and drifts of all points are drawn from Student's distribution around what was
measured, with the covariance of the items, shared by all methods, and for each point that of its
seeds, with n - 1 and S - 1 degrees of freedom; each draw is a set of curves, of which the drifts
are read off. A drawn curve that does not reach the gain is extended to it from the point of the
largest measured gain, as steep as the measured curve is there.
"""

import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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


def drift_at_equal_gain(
    sweeps: Mapping[str, Sequence[SweepPoint]],
    base: SweepPoint,
    probe: str,
    at: float | None = None,
    draws: int = DRAWS,
) -> EqualGain:
    """Compare the drift of several methods at one gain, each pair as if it were alone.

    sweeps: the points of each method, in order of learning rate; runs that diverged are left out.
    probe: "perplexity" (drift is the relative change), "accuracy" (drift is the share lost) or "kl"
    (drift is the mean in nats). at: the gain; by default the largest whole per cent that more than
    half of the methods reach in 97.5 % of the draws.

    Raises:
        ValueError: an unknown probe, or too few draws for an interval.
    """
    if probe not in PROBES:
        raise ValueError(f"probe={probe!r} is unknown; allowed are {', '.join(PROBES)}")
    if draws < 100:
        raise ValueError(f"draws={draws} is too few for an interval; use 100 or more")
    if not sweeps:
        return EqualGain(math.nan, reason="no method was given")
    curves, seeds, missing = {}, {}, {}
    for name, points in sweeps.items():
        finite = [p for p in points if np.isfinite(p.exam).all() and np.isfinite(p.probe).all()]
        if len(finite) < 2:
            missing[name] = f"{name} has one point only; a curve needs two learning rates"
            continue
        curves[name] = _curves(name, finite, base, PROBES[probe], draws)
        seeds[name] = min(len(by_seed(p.exam)) for p in finite)
    if not curves:
        return EqualGain(math.nan, missing=missing, reason="; ".join(missing.values()))
    if at is None:
        reach = sorted(np.quantile(gains[1:].max(axis=1), 0.025) for gains, _ in curves.values())
        at = math.floor(100 * reach[(len(reach) - 1) // 2] + 1e-9) / 100
    top = {name: gains[0].max() for name, (gains, _) in curves.items()}
    far = {name: f"{name} reaches {100 * top[name]:+.1f} points" for name in top if top[name] < at}
    if at <= 0 or len(far) == len(top):
        reached = ", ".join(f"{name} {100 * gain:+.1f}" for name, gain in top.items())
        reason = f"no common gain at {100 * at:+.1f} points; the methods reach {reached} points"
        return EqualGain(math.nan, missing=missing | far, reason=reason)
    n = by_seed(base.exam).shape[1]
    power = 2 if probe == "kl" else 1
    passed = {name: _passed(*curve, at, power) for name, curve in curves.items() if name not in far}
    drifts = {name: _interval(*found, n, seeds[name]) for name, found in passed.items()}
    excess, ratios = {}, {}
    for pair in permutations(passed, 2):
        (first, short), (second, shorter) = (passed[name] for name in pair)
        behind = max(short, shorter), n, min(seeds[name] for name in pair)
        excess[pair] = _interval(first - second, *behind)
        ratios[pair] = _ratio(first, second, *behind)
    return EqualGain(float(at), drifts, excess, ratios, missing | far)


def _passed(gains: Array, heights: Array, at: float, power: int) -> tuple[Array, float]:
    """Drifts of curves at gain `at`, and the share of the draws that do not reach it."""
    found = crossing(gains, heights, at)
    missed = np.isnan(found)
    best = int(gains[0].argmax())
    rise, climb = (part[0, best] - part[0, best - 1] for part in (gains, heights))
    steepness = max(climb / rise, 0.0)
    found[missed] = (heights[:, best] + steepness * (at - gains[:, best]))[missed]
    return found**power, float(missed[1:].mean())


# A probe: items (seeds, n) of a point against the base model, and what makes their means heights.
Heights = tuple[Array, Callable[[Array], Array]]


def _perplexity(after: ArrayLike, before: ArrayLike) -> Heights:
    """The relative change, from the change of the logarithm."""
    a, b = by_seed(after, pairs=True), by_seed(before, pairs=True)
    return log_perplexity(a) - log_perplexity(b), np.expm1


def _accuracy(after: ArrayLike, before: ArrayLike) -> Heights:
    """The share lost."""
    return by_seed(before) - by_seed(after), np.asarray


def _root_kl(after: ArrayLike, before: ArrayLike) -> Heights:
    """The square root of the mean, drawn on a logarithmic scale: it cannot be negative."""
    items = by_seed(after)
    mean = items.mean()
    if mean <= 0:
        return items, np.zeros_like
    return items / mean, lambda drawn: math.sqrt(mean) * np.exp((drawn - 1) / 2)


PROBES = {"perplexity": _perplexity, "accuracy": _accuracy, "kl": _root_kl}


def _curves(
    name: str,
    points: Sequence[SweepPoint],
    base: SweepPoint,
    probe: Callable[[ArrayLike, ArrayLike], Heights],
    draws: int,
) -> tuple[Array, Array]:
    """Gains and heights of a sweep, each (1 + draws, 1 + points).

    The first row is as measured, the first column is the base model. What is drawn for a method
    depends on its own points alone, and on the items, which are the same for all.
    """
    exams = [by_seed(p.exam) - by_seed(base.exam) for p in points]
    probes, heights = zip(*(probe(p.probe, base.probe) for p in points), strict=True)
    gains, drifts = _drawn_items(exams, draws, 0), _drawn_items(probes, draws, 1)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for place, pair in enumerate(zip(exams, probes, strict=True)):
        luck = _drawn_seeds(pair, draws, rng)
        gains[1:, place] += luck[:, 0]
        drifts[1:, place] += luck[:, 1]
    columns = [height(column) for height, column in zip(heights, drifts.T, strict=True)]
    start = np.zeros((1 + draws, 1))
    return np.hstack([start, gains]), np.hstack([start, np.stack(columns, axis=1)])


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


def _drawn_seeds(pair: Sequence[Array], draws: int, rng: np.random.Generator) -> Array:
    """What the luck of training adds to the gain and the drift of one point: (draws, 2)."""
    runs = np.stack([items.mean(1) for items in pair], axis=1)
    seeds = len(runs)
    if seeds == 1:
        return np.zeros((draws, 2))
    heavy = np.sqrt((seeds - 1) / rng.chisquare(seeds - 1, (draws, 1)))
    drawn = rng.standard_normal((draws, seeds)) @ (runs - runs.mean(0))
    return heavy * drawn / math.sqrt(seeds * (seeds - 1))


def _interval(values: Array, missed: float, n: int, seeds: int) -> Interval:
    """Interval from a measured value and its draws; no bounds if too many miss the gain."""
    if missed > MISSED:
        reason = f"the gain is not reached in {missed:.0%} of the draws"
        return Interval(float(values[0]), math.nan, math.nan, n, seeds, reason)
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Interval(float(values[0]), float(low), float(high), n, seeds)


def _ratio(first: Array, second: Array, missed: float, n: int, seeds: int) -> Interval:
    """Interval of a ratio of drifts, unknown unless the second is clearly above zero."""
    if second[0] <= 0 or np.mean(second[1:] <= 0) > 0.025:
        reason = "the drift that it is a share of is not clearly above zero"
        return Interval(math.nan, math.nan, math.nan, n, seeds, reason)
    ratio = np.divide(first, second, out=np.full_like(first, np.inf), where=second > 0)
    return _interval(ratio, missed, n, seeds)
