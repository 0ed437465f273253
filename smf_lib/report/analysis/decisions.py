"""Decisions over several comparisons: which hold together, and which setting is chosen."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from numpy.typing import ArrayLike

from .stats import by_seed, combine

Comparison = TypeVar("Comparison", bound=Hashable)


def holm(
    family: Iterable[Comparison],
    decided: Callable[[Comparison, float], bool],
) -> set[Comparison]:
    """The comparisons of a family, decided together, with at most 5 % for any error.

    Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979), by intervals: of m
    comparisons those are decided that an interval of level 1 - 0.05 / m decides, then m is
    the number of those that are left, and so on until none is added.

    decided: whether the interval of a comparison at a level decides it; narrower intervals of lower
    level must decide what wider ones do.
    """
    left = list(dict.fromkeys(family))
    found: set[Comparison] = set()
    while left:
        joint = 1 - 0.05 / len(left)
        added = [comparison for comparison in left if decided(comparison, joint)]
        if not added:
            break
        found.update(added)
        left = [comparison for comparison in left if comparison not in found]
    return found


def holm_p(p_values: Sequence[float]) -> list[float]:
    """p-values of a family, each corrected for all of them by Holm's procedure, in their order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def first_reaching(goal: ArrayLike, outcomes: Sequence[ArrayLike]) -> int:
    """Place of the first setting that is as accurate as `goal`, within one standard error.

    The one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984, section
    3.4.3) with the error of the paired difference, since all settings answer the same questions.
    Raises ValueError if no setting reaches the goal.

    goal: answers (seeds, n); outcomes: answers (seeds, n) of each setting to the same questions,
        the one that changes least first.
    """
    wanted = by_seed(goal)
    for place, items in enumerate(outcomes):
        lag = combine([(1.0, wanted), (-1.0, by_seed(items))])
        if lag.value <= lag.error:
            return place
    raise ValueError(f"none of {len(outcomes)} settings is as accurate as the goal")
