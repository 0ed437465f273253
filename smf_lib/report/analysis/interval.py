"""A number with its interval, what it says of two things, and how both are written."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from ..text import signed


class Verdict(StrEnum):
    """What an interval says of one thing beside another, in the words of all sentences."""

    MORE = "more"
    LESS = "less"
    LEVEL = "not told apart"
    UNKNOWN = "cannot be compared"

    @property
    def decided(self) -> bool:
        """Whether one of the two is more, or less, than the other."""
        return self in (Verdict.MORE, Verdict.LESS)

    def confirmed_by(self, other: "Verdict") -> "Verdict":
        """What is decided, only if another interval says the same; otherwise not told apart."""
        return self if other is self or not self.decided else Verdict.LEVEL

    def told(self, more: str, less: str, what: str) -> str:
        """`more` or `less`; otherwise that `what` is not told apart, or cannot be compared."""
        if self.decided:
            return more if self is Verdict.MORE else less
        return f"{what} is {self}" if self is Verdict.LEVEL else f"{what} {self}"


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, the number of items and of seeds behind it.

    NaN stands for what cannot be said, and `reason` then tells why. With seeds = 1 the interval
    covers the choice of items only, not the luck of training; `covers` says so in words.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int = 1
    reason: str = ""

    @classmethod
    def unknown(cls, reason: str, n: int = 0, seeds: int = 1) -> "Interval":
        """No value and no interval, for a reason."""
        return cls(math.nan, math.nan, math.nan, n, seeds, reason)

    def scaled(self, factor: float, offset: float = 0.0) -> "Interval":
        """The interval in another unit: factor * (x + offset); factor may be negative."""
        low, high = sorted((factor * (self.low + offset), factor * (self.high + offset)))
        return replace(self, value=factor * (self.value + offset), low=low, high=high)

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return math.isfinite(self.value)

    @property
    def bounded(self) -> bool:
        """Whether there is an interval too."""
        return self.known and math.isfinite(self.low) and math.isfinite(self.high)

    def verdict(self, even: float = 0.0) -> Verdict:
        """On which side of `even` the interval lies: 0 for a difference, 1 for a ratio."""
        if not self.bounded:
            return Verdict.UNKNOWN
        if self.low > even:
            return Verdict.MORE
        return Verdict.LESS if self.high < even else Verdict.LEVEL

    @property
    def clear(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.verdict().decided

    @property
    def covers(self) -> str:
        """What the interval covers: `items only`, or `items and 3 seeds`."""
        return "items only" if self.seeds == 1 else f"items and {self.seeds} seeds"

    def text(self, digits: int, sign: bool = False, unit: str = "") -> str:
        """`71.5 [66.9, 75.7] points`; the value alone where there is no interval; or the reason.

        digits: decimals; up to three more where the interval would otherwise seem to have no width.
        """
        if not self.known:
            return self.reason
        if self.bounded and self.low < self.high:
            wider = range(digits, digits + 4)
            apart = (d for d in wider if round(self.low, d) != round(self.high, d))
            digits = next(apart, digits)
        value, low, high = (
            signed(x, digits) if sign else f"{round(x, digits) + 0.0:.{digits}f}"
            for x in (self.value, self.low, self.high)
        )
        shown = f"{value} [{low}, {high}]" if self.bounded else value
        return f"{shown} {unit}".rstrip()
