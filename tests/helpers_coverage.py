"""How often intervals hold the truth in simulated studies, and what so many of them can tell."""

import math
from collections.abc import Callable

import numpy as np
import pytest

AT_ONCE = 500  # simulated studies


def tiers(fast: int, slow: int) -> pytest.MarkDecorator:
    """A test with few trials in `make test`, and with many in `make slow`."""
    return pytest.mark.parametrize("trials", [fast, pytest.param(slow, marks=pytest.mark.slow)])


def share_covered(simulate: Callable[[int], np.ndarray], trials: int) -> float:
    """Share of trials in which `simulate`, given how many, found the truth in the interval."""
    hits = [simulate(AT_ONCE) for _ in range(trials // AT_ONCE)]
    return float(np.concatenate(hits).mean())


def covers(share: float, trials: int, low: float = 0.93, high: float = 0.97) -> bool:
    """Whether a share of trials agrees with a coverage of 93 to 97 %.

    Two standard errors of a share of 95 % (binomial) are allowed beyond: 1.9 points of 500 trials,
    1.1 of 1,500, 0.4 of 10,000.
    """
    allowed = 2 * math.sqrt(0.95 * 0.05 / trials)
    return low - allowed <= share <= high + allowed
