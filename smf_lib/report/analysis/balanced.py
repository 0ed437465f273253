"""Accuracy that a preference for one answer cannot raise.

Where one letter is right more often than the others, always giving it earns more than guessing
does. Balanced accuracy is the mean, over the answers that can be right, of the share of questions
with that answer that are answered right (the macro-averaged recall; Brodersen et al., The balanced
accuracy and its posterior distribution, ICPR 2010): whoever always gives one of k answers has 1/k.
Records hold the counts and not which answer each question has, so differences are not paired by
question. Units: per cent and points.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from ...study.records.results import ResultsError
from .arms import Arm
from .stats import Interval


def has_answers(arm: Arm, metric: str) -> bool:
    """Whether all runs of an arm hold the counts by answer of an accuracy."""
    return all(metric in record.by_answer for record in arm.records)


def shares_right(arm: Arm, metric: str) -> list[float]:
    """Per cent of questions answered right, for each answer that can be right; NaN if it never is.

    Raises ResultsError if a run of the arm does not hold the counts.
    """
    right, asked = _counts(arm, metric)
    with np.errstate(invalid="ignore"):
        return (100 * right.mean(0) / asked[0]).tolist()


def balanced_level(arm: Arm, metric: str) -> Interval:
    """Balanced accuracy in per cent with its 95 % interval. Raises ResultsError, see above."""
    value, variance, n = _moments(arm, metric)
    return _interval(value, variance, n, len(arm.records))


def balanced_change(arm: Arm, other: Arm, metric: str) -> Interval:
    """How far an arm's balanced accuracy lies above another's, in points, as if not paired.

    The interval is that of two samples: that both arms answered the same questions is not used.
    Raises ResultsError, see above.
    """
    (first, a, n), (second, b, _) = (_moments(x, metric) for x in (arm, other))
    return _interval(first - second, a + b, n, len(arm.records))


def _counts(arm: Arm, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Questions right and asked, each (seeds, answers)."""
    if not has_answers(arm, metric):
        raise ResultsError(f"runs of {arm.first.run_id!r} do not hold {metric} by answer")
    counts = np.array([record.by_answer[metric] for record in arm.records], dtype=float)
    return counts[..., 0], counts[..., 1]


def _moments(arm: Arm, metric: str) -> tuple[float, float, int]:
    """Balanced accuracy (a share), the variance of that number, and the questions asked.

    The variance is that of a mean of independent shares, each with one right and one wrong answer
    added, so that a share of 0 or 1 is not taken for certain (Agresti and Caffo, The American
    Statistician 54, 2000). Over seeds, which answer the same questions, it is averaged, and the
    variance between seeds is added.
    """
    right, asked = _counts(arm, metric)
    right, asked = right[:, asked[0] > 0], asked[:, asked[0] > 0]
    by_seed = (right / asked).mean(1)
    eased = (right + 1) / (asked + 2)
    variance = float((eased * (1 - eased) / (asked + 2)).sum(1).mean()) / asked.shape[1] ** 2
    if len(by_seed) > 1:
        variance += float(by_seed.var(ddof=1)) / len(by_seed)
    return float(by_seed.mean()), variance, int(asked[0].sum())


def _interval(value: float, variance: float, n: int, seeds: int) -> Interval:
    half = NormalDist().inv_cdf(0.975) * math.sqrt(variance)
    return Interval(value, value - half, value + half, n, seeds).scaled(100)
