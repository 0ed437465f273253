"""Drift at equal gain: what each method forgets at the point where all have learned the same.

A method's sweep is a curve of (gain, drift) points in order of its learning rate. It starts at the
base model, which is learning rate zero: no gain, no drift. The drift at a given gain is read off
that curve, straight lines between neighbours; where the curve passes the gain more than once, the
lowest crossing counts. Nothing is extrapolated beyond a method's largest gain.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .stats import Interval, Resampler, by_seed

MISSED = 0.1


@dataclass(frozen=True)
class SweepPoint:
    """One setting of a method: exam outcomes (seeds, n) and items of one drift probe."""

    exam: ArrayLike
    probe: ArrayLike


@dataclass(frozen=True)
class EqualGain:
    """Drift of each method at exam gain `at` (a share, not points).

    `excess` is the drift of each other method minus that of the reference, resampled together.
    Where no comparison is possible `at` is NaN, the mappings are empty and `reason` says why.
    """

    at: float
    drifts: dict[str, Interval]
    excess: dict[str, Interval]
    reason: str = ""


def crossing(
    gains: NDArray[np.float64], drifts: NDArray[np.float64], at: float
) -> NDArray[np.float64]:
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
    reference: str | None = None,
    at: float | None = None,
    seed: int = 0,
) -> EqualGain:
    """Compare the drift of several methods at one gain.

    sweeps: the points of each method, in order of learning rate; runs that diverged are left out.
    probe: "perplexity" (drift is the relative change), "accuracy" (drift is the share lost) or "kl"
    (drift is the mean in nats). reference: the method that the others' excess is measured from. at:
    the gain; by default the largest that every method reaches in 97.5 % of the resamples.
    Raises ValueError for an unknown probe or reference.
    """
    measures = {"perplexity": _perplexity_drift, "accuracy": _accuracy_drift, "kl": _kl_drift}
    if probe not in measures:
        raise ValueError(f"probe={probe!r} is unknown; allowed are {', '.join(measures)}")
    if reference is not None and reference not in sweeps:
        raise ValueError(f"reference={reference!r} is not among {', '.join(sweeps)}")
    finite = {
        name: [p for p in points if np.isfinite(p.exam).all() and np.isfinite(p.probe).all()]
        for name, points in sweeps.items()
    }
    short = [name for name, points in finite.items() if len(points) < 2]
    if short or not sweeps:
        what = f"{', '.join(short)} has one point only" if short else "no method was given"
        return EqualGain(math.nan, {}, {}, f"{what}; a curve needs two learning rates")
    curves = {
        name: tuple(  # a method's gain and drift see the same draws of its training seeds
            _curve(Resampler(seed=seed, stream=stream), points, base, measure)
            for measure in (_gain, measures[probe])
        )
        for stream, (name, points) in enumerate(finite.items())
    }
    if at is None:
        at = min(float(np.quantile(gains[1:].max(axis=1), 0.025)) for gains, _ in curves.values())
    if not 0 < at <= min(gains[0].max() for gains, _ in curves.values()):
        reason = _no_overlap({name: gains[0] for name, (gains, _) in curves.items()}, at)
        return EqualGain(math.nan, {}, {}, reason)
    n = by_seed(base.exam).shape[1]
    passed = {name: crossing(gains, drifts, at) for name, (gains, drifts) in curves.items()}
    seeds = {name: min(len(by_seed(p.exam)) for p in finite[name]) for name in finite}
    results = {name: _summarise(draws, n, seeds[name]) for name, draws in passed.items()}
    excess = {}
    if reference is not None:
        excess = {
            name: _summarise(draws - passed[reference], n, min(seeds[name], seeds[reference]))
            for name, draws in passed.items()
            if name != reference
        }
    return EqualGain(float(at), results, excess)


Measure = Callable[[Resampler, SweepPoint, SweepPoint], NDArray[np.float64]]


def _curve(
    resampler: Resampler, points: Sequence[SweepPoint], base: SweepPoint, measure: Measure
) -> NDArray[np.float64]:
    """One coordinate of a sweep: (1 + resamples, 1 + points).

    The first row is as measured, the first column is the base model.
    """
    columns = [measure(resampler, point, base) for point in points]
    return np.stack([np.zeros(1 + resampler.resamples), *columns], axis=1)


def _with_value(resampler: Resampler, items: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of `items` (seeds, n) as measured, then in every resample."""
    return np.concatenate([[items.mean()], resampler.arm(items)])


def _gain(resampler: Resampler, point: SweepPoint, base: SweepPoint) -> NDArray[np.float64]:
    return _with_value(resampler, by_seed(point.exam)) - _with_value(resampler, by_seed(base.exam))


def _accuracy_drift(
    resampler: Resampler, point: SweepPoint, base: SweepPoint
) -> NDArray[np.float64]:
    before, after = by_seed(base.probe), by_seed(point.probe)
    return _with_value(resampler, before) - _with_value(resampler, after)


def _kl_drift(resampler: Resampler, point: SweepPoint, base: SweepPoint) -> NDArray[np.float64]:
    return _with_value(resampler, by_seed(point.probe))


def _perplexity_drift(
    resampler: Resampler, point: SweepPoint, base: SweepPoint
) -> NDArray[np.float64]:
    before, after = by_seed(base.probe, pairs=True), by_seed(point.probe, pairs=True)
    tokens = _with_value(resampler, before[:1, :, 1])
    change = _with_value(resampler, after[..., 0]) - _with_value(resampler, before[..., 0])
    return np.exp(change / tokens) - 1


def _summarise(draws: NDArray[np.float64], n: int, seeds: int) -> Interval:
    """Interval from a measured value and its resamples; none if too many miss the gain."""
    missed = float(np.isnan(draws[1:]).mean())
    if missed > MISSED or math.isnan(draws[0]):
        reason = f"the gain is not reached in {missed:.0%} of the resamples"
        return Interval(float(draws[0]), math.nan, math.nan, n, seeds, reason)
    low, high = np.nanquantile(draws[1:], [0.025, 0.975])
    return Interval(float(draws[0]), float(low), float(high), n, seeds)


def _no_overlap(gains: Mapping[str, NDArray[np.float64]], at: float) -> str:
    """Why there is no common gain: the largest gain of each method, in points."""
    reached = ", ".join(f"{name} {100 * values.max():+.1f}" for name, values in gains.items())
    return f"no common gain at {100 * at:+.1f} points; the methods reach {reached} points"
