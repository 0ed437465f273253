"""Which learning rate of a sweep is taken, from the exam alone."""

import math
from collections.abc import Sequence

from ...study.records.record import Record
from ..measures import EXAM
from .arms import group_arms


def best_learning_rates(records: Sequence[Record]) -> dict[str, float]:
    """Each method's learning rate by the one-standard-error rule, on exam accuracy alone.

    It is the lowest rate whose accuracy is within one standard error of the method's best: rates
    that the questions cannot tell apart are settled towards the smaller change (Breiman et al.
    1984; Hastie et al. 2009, section 7.10). Give the runs of one split only, the validation split.
    """
    swept: dict[str, list[tuple[float, float]]] = {}
    for arm in group_arms(records):
        if not arm.is_base and arm.has(EXAM):
            outcomes = arm.items(EXAM)
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
