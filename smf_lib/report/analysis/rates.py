"""Which learning rate of a sweep is taken, from the exam alone."""

from collections.abc import Sequence

import numpy as np

from ...study.records.record import Record
from ..measures import EXAM
from .arms import Arm, group_arms
from .decisions import first_within_one_error
from .effects import check_paired


def best_learning_rates(records: Sequence[Record]) -> dict[str, float]:
    """Each method's learning rate by the one-standard-error rule, on exam accuracy alone.

    It is the lowest rate whose accuracy is within one standard error of the method's best, the
    error being that of the paired difference (`decisions.first_within_one_error`): rates that the
    questions cannot tell apart are settled towards the smaller change. Runs that diverged are not
    chosen. Give the runs of one split only, the validation split.

    Raises:
        ResultsError: runs of one method were measured on different questions.
    """
    swept: dict[str, list[Arm]] = {}
    for arm in group_arms(records):
        if arm.is_base or not arm.has(EXAM):
            continue
        if np.isfinite(arm.items(EXAM)).all():
            swept.setdefault(arm.first.method, []).append(arm)
    chosen = {}
    for method, arms in swept.items():
        for arm in arms[1:]:
            check_paired(arms[0], arm, EXAM)
        place = first_within_one_error([arm.items(EXAM) for arm in arms])
        chosen[method] = arms[place].first.learning_rate
    return chosen
