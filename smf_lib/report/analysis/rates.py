"""Which learning rate of a sweep is taken, from the exam alone."""

from collections.abc import Sequence

import numpy as np

from ...study.records.record import Record
from ..measures import EXAM
from .arms import Arm, group_arms
from .decisions import first_reaching, first_within_one_error
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
    chosen = {}
    for method, arms in _swept(records).items():
        place = first_within_one_error([arm.items(EXAM) for arm in arms])
        chosen[method] = arms[place].first.learning_rate
    return chosen


def equal_gain_rates(records: Sequence[Record], reference: str = "lora") -> dict[str, float]:
    """Each method's learning rate at which it learns as much as the reference at its own best.

    The reference has the rate of `best_learning_rates`. Any other method has its lowest rate whose
    accuracy reaches that of the reference, within one standard error of the paired difference
    (`decisions.first_reaching`); one that reaches it at no rate has its own of
    `best_learning_rates`. Give the runs of one split only, the validation split.

    Raises:
        ValueError: the reference was not swept.
        ResultsError: runs were measured on different questions.
    """
    swept, chosen = _swept(records), best_learning_rates(records)
    if reference not in swept:
        raise ValueError(f"reference={reference!r} was not swept; choose of {', '.join(swept)}")
    rates = [arm.first.learning_rate for arm in swept[reference]]
    goal = swept[reference][rates.index(chosen[reference])]
    for method, arms in swept.items():
        if method == reference:
            continue
        for arm in arms:
            check_paired(goal, arm, EXAM)
        place = first_reaching(goal.items(EXAM), [arm.items(EXAM) for arm in arms])
        if place is not None:
            chosen[method] = arms[place].first.learning_rate
    return chosen


def _swept(records: Sequence[Record]) -> dict[str, list[Arm]]:
    """The arms of each method that did not diverge, paired, by rising learning rate."""
    swept: dict[str, list[Arm]] = {}
    for arm in group_arms(records):
        if arm.is_base or not arm.has(EXAM):
            continue
        if np.isfinite(arm.items(EXAM)).all():
            swept.setdefault(arm.first.method, []).append(arm)
    for arms in swept.values():
        arms.sort(key=lambda arm: arm.first.learning_rate)
        for arm in arms[1:]:
            check_paired(arms[0], arm, EXAM)
    return swept
