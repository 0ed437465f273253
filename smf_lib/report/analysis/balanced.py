"""Accuracy that a preference for one answer cannot raise.

Where one letter is right more often than the others, always giving it earns more than guessing
does. Balanced accuracy is the mean, over the answers that can be right, of the share of questions
with that answer that are answered right (the macro-averaged recall; Brodersen et al., The balanced
accuracy and its posterior distribution, ICPR 2010): whoever always gives one of k answers has 1/k.
Differences are paired by question where the records say which answer each question has; older ones
hold the counts alone. Units: per cent and points.
"""

from __future__ import annotations

import math

import numpy as np

from ...study.records.results import ResultsError
from .arms import Arm
from .effects import are_paired
from .interval import Interval
from .stats import Estimate, combine, interval_of, spread_of_seeds


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
    estimate, n = _estimate(arm, metric)
    return interval_of(estimate, n, len(arm.records)).scaled(100)


def balanced_change(arm: Arm, other: Arm, metric: str, level: float = 0.95) -> Interval:
    """How far an arm's balanced accuracy lies above another's, in points.

    Paired by question if all runs answered the same questions and say which answer each has;
    otherwise the interval is that of two samples. Raises ResultsError, see above.
    """
    (first, n), (second, _) = _estimate(arm, metric), _estimate(other, metric)
    if _same_questions(arm, other, metric):
        over_items = _paired_variance(arm, other, metric)
    else:
        over_items = first.variances[0] + second.variances[0]
    luck = spread_of_seeds([_by_seed(x, metric) for x in (arm, other)])
    difference = Estimate(
        first.value - second.value, np.array([over_items, luck[0]]), np.array([math.inf, luck[1]])
    )
    return interval_of(difference, n, len(arm.records), level).scaled(100)


def _same_questions(arm: Arm, other: Arm, metric: str) -> bool:
    """Whether all runs of both answered the same questions and say which answer each has."""
    runs = (*arm.records, *other.records)
    return all(metric in record.answers for record in runs) and are_paired(arm, other, metric)


def _paired_variance(arm: Arm, other: Arm, metric: str) -> float:
    """Variance by questions of a difference of balanced accuracies (shares) on the same questions.

    That of a mean of independent differences, one of each answer; as in `accuracy_difference` one
    answer more is counted in each direction, so that few differing answers are not taken for
    certain (Bonett and Price, J. Educ. Behav. Stat. 37, 2012).
    """
    right, answers = (arm.items(metric), other.items(metric)), np.array(arm.first.answers[metric])
    parts = []
    for answer in np.unique(answers):
        eased = [
            (weight, np.c_[items[:, answers == answer], np.tile(more, (len(items), 1))])
            for weight, items, more in zip((1.0, -1.0), right, ((1, 0), (0, 1)))
        ]
        parts.append(combine(eased).variances[0])
    return float(np.sum(parts)) / len(parts) ** 2


def _counts(arm: Arm, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Questions right and asked, each (seeds, answers)."""
    if not has_answers(arm, metric):
        raise ResultsError(f"runs of {arm.first.run_id!r} do not hold {metric} by answer")
    counts = np.array([record.by_answer[metric] for record in arm.records], dtype=float)
    return counts[..., 0], counts[..., 1]


def _by_seed(arm: Arm, metric: str) -> np.ndarray:
    """Balanced accuracy, a share, of each run: (seeds,)."""
    right, asked = _counts(arm, metric)
    return (right[:, asked[0] > 0] / asked[:, asked[0] > 0]).mean(1)


def _estimate(arm: Arm, metric: str) -> tuple[Estimate, int]:
    """Balanced accuracy (a share) with the parts of its variance, and the questions asked.

    The variance by questions is that of a mean of independent shares, each with one right and one
    wrong answer added, so that a share of 0 or 1 is not taken for certain (Agresti and Caffo, The
    American Statistician 54, 2000), averaged over seeds, which answer the same questions.
    """
    right, asked = _counts(arm, metric)
    right, asked = right[:, asked[0] > 0], asked[:, asked[0] > 0]
    runs, eased = _by_seed(arm, metric), (right + 1) / (asked + 2)
    over_items = (eased * (1 - eased) / (asked + 2)).sum(1).mean() / asked.shape[1] ** 2
    luck, freedom = spread_of_seeds([runs])
    variances, freedoms = np.array([over_items, luck]), np.array([math.inf, freedom])
    return Estimate(runs.mean(), variances, freedoms), int(asked[0].sum())
