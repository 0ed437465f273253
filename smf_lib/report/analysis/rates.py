"""Which learning rate of a sweep each method takes: so that all learn equally much."""

from collections.abc import Sequence

import numpy as np

from ...study.records.record import Record
from ..measures import EXAM
from .arms import Arm, group_arms
from .decisions import first_reaching
from .effects import check_paired


def equal_gain_rates(records: Sequence[Record]) -> dict[str, float]:
    """Each method's learning rate at which all methods learn equally much.

    The goal is the best accuracy of the method whose best is the least, so that every method can
    reach it. Each has its lowest rate whose accuracy reaches the goal, within one standard error
    of the paired difference (`decisions.first_reaching`): rates that the questions cannot tell
    apart are settled towards the smaller change. Runs that diverged are left out. Give the runs
    of one split only, the validation split.

    Raises:
        ResultsError: runs were measured on different questions.
    """
    swept = _swept(records)
    best = [max(arms, key=lambda arm: arm.items(EXAM).mean()) for arms in swept.values()]
    if not best:
        return {}
    goal = min(best, key=lambda arm: arm.items(EXAM).mean())
    chosen = {}
    for method, arms in swept.items():
        for arm in arms:
            check_paired(goal, arm, EXAM)
        place = first_reaching(goal.items(EXAM), [arm.items(EXAM) for arm in arms])
        chosen[method] = arms[place].rate
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
        arms.sort(key=lambda arm: arm.rate)
        for arm in arms[1:]:
            check_paired(arms[0], arm, EXAM)
    return swept
