"""Intervals and tests for results measured item by item.

All intervals are 95 % unless `level` says otherwise. Outcomes are arrays with one row a seed and
one column an item (a question, an article, a sequence); a single run may be given without the
seed axis. Seeds and items are both random and crossed: every run answers the same items. The
variance of a mean is that over items, of what the seeds share, divided by their number, plus that
over seeds divided by theirs (the two-way random effects of Dorfman, Berbaum and Metz, Investigative
Radiology 27, 1992). Its quantile is Student's, with n - 1 degrees of freedom for the part of the
items and S - 1 for that of the seeds, weighted by the parts (Cochran and Cox, Experimental Designs,
1957, section 4.14). Runs of two arms count as independent: what they share by having the same seed
number is not used, which can only make a difference look less certain.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest
from scipy.stats import t as student

from .interval import Interval

Array = NDArray[np.float64]
DIVERGED = "some items are not finite: the run diverged"
ONE_ITEM = "one item has no spread"


@dataclass(frozen=True)
class McNemar:
    """Questions that only one of two runs got right, and the exact two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class Estimate:
    """A number and the parts of its variance, each with its degrees of freedom.

    Fields may be arrays over many data sets; `variances` and `freedoms` then have the parts first.
    """

    value: float
    variances: Array
    freedoms: Array

    @property
    def error(self) -> float:
        """The standard error."""
        return np.sqrt(self.variances.sum(0))

    def half_width(self, level: float = 0.95) -> float:
        """Half the width of the interval, see the module; NaN where one item is all there is."""
        quantiles = student.ppf(0.5 + level / 2, self.freedoms)
        total = self.variances.sum(0)
        weighted = np.where(self.variances > 0, quantiles * self.variances, 0.0).sum(0)
        half = np.divide(weighted, np.sqrt(total), out=np.zeros_like(total), where=total > 0)
        found: Any = np.where(self.freedoms[0] > 0, half, np.nan)
        return found[()]  # of one data set a number

    def logarithm(self) -> "Estimate":
        """The estimate of the logarithm of the number, by the delta method."""
        return Estimate(np.log(self.value), self.variances / self.value**2, self.freedoms)


def combine(terms: Sequence[tuple[float, Array]]) -> Estimate:
    """Estimate the sum of weight * mean(items) over `terms` (weight, items), paired by item.

    items: (..., seeds, n); axes before these are data sets of their own. The parts of the variance
    are that of the items and that of the seeds.
    """
    n = terms[0][1].shape[-1]
    columns = sum(weight * items.mean(-2) for weight, items in terms)
    over_items = columns.var(-1, ddof=1) / n if n > 1 else 0.0 * columns.mean(-1)
    for weight, items in terms:
        count = items.shape[-2]
        if count > 1 and n > 1:  # what a seed changes in single items is counted with the seeds
            rest = items - items.mean(-1, keepdims=True) - items.mean(-2, keepdims=True)
            rest += items.mean((-2, -1), keepdims=True)
            noise = (rest**2).sum((-2, -1)) / ((count - 1) * (n - 1))
            over_items = over_items - weight**2 * noise / (n * count)
    over_items = np.where(over_items < 0, 0.0, over_items)
    over_seeds, freedom = spread_of_seeds([weight * items.mean(-1) for weight, items in terms])
    over_seeds = over_seeds + 0.0 * over_items
    freedoms = np.stack(np.broadcast_arrays(np.full_like(over_items, n - 1), freedom))
    return Estimate(columns.mean(-1), np.stack([over_items, over_seeds]), freedoms)


def spread_of_seeds(runs: Sequence[Array]) -> tuple[Array, Array]:
    """Variance of a sum of means over seeds, and its degrees of freedom.

    runs: for each independent set of runs what each gave, (..., seeds); a single run adds nothing.
    Degrees of freedom of several sets: Welch and Satterthwaite (Biometrics Bulletin 2, 1946).
    """
    parts = [(x.var(-1, ddof=1) / x.shape[-1], x.shape[-1] - 1) for x in runs if x.shape[-1] > 1]
    total = np.asarray(sum(part for part, _ in parts) if parts else 0.0)
    squares = np.asarray(sum(part**2 / free for part, free in parts) if parts else 0.0)
    return total, np.divide(total**2, squares, out=np.full_like(total, np.inf), where=squares > 0)


def by_seed(items: ArrayLike, pairs: bool = False) -> Array:
    """Items as float64 (seeds, n), or (seeds, n, 2) if `pairs`.

    Raises ValueError if there are no items, or the array has another shape.
    """
    array = np.asarray(items, dtype=np.float64)
    wanted = 3 if pairs else 2
    if array.ndim == wanted - 1:
        array = array[None]
    if array.ndim != wanted or (pairs and array.shape[2] != 2) or array.size == 0:
        shape = "(seeds, n, 2)" if pairs else "(seeds, n)"
        raise ValueError(f"items of shape {array.shape} given, {shape} with n >= 1 wanted")
    return array


def wilson_interval(right: int, n: int, level: float = 0.95) -> Interval:
    """Score interval for `right` of `n` (Wilson, JASA 22, 1927).

    Raises ValueError if n < 1, or `right` is not within 0 and n.
    """
    if n < 1 or not 0 <= right <= n:
        raise ValueError(f"right={right}, n={n}: need 0 <= right <= n and n >= 1")
    bounds = binomtest(right, n).proportion_ci(level, method="wilson")
    return Interval(right / n, float(bounds.low), float(bounds.high), n)


def mean_interval(items: ArrayLike, level: float = 0.95) -> Interval:
    """Interval for the mean of `items` (seeds, n) by Student's t.

    Of items that are nowhere negative, such as the KL divergence in nats, the logarithm of the mean
    has the symmetric interval (delta method): such items have a long tail to the right.
    """
    values = by_seed(items)
    estimate = combine([(1.0, values)])
    if estimate.value > 0 and values.min() >= 0:
        return interval_of(estimate.logarithm(), values.shape[1], len(values), level, np.exp)
    return interval_of(estimate, values.shape[1], len(values), level)


def accuracy_interval(outcomes: ArrayLike, level: float = 0.95) -> Interval:
    """Interval for the share of right answers; Wilson's with one seed, Student's with several."""
    values = by_seed(outcomes)
    if len(values) == 1 and np.isfinite(values).all():
        return wilson_interval(int(values.sum()), values.shape[1], level)
    plain = interval_of(combine([(1.0, values)]), values.shape[1], len(values), level)
    return replace(plain, low=max(plain.low, 0.0), high=min(plain.high, 1.0))


def perplexity_interval(pairs: ArrayLike, level: float = 0.95) -> Interval:
    """Interval for exp(summed nll / tokens) of `pairs` (seeds, n, 2), articles as the units.

    The log perplexity is a ratio of sums, linearised over articles (Cochran, Sampling Techniques,
    1977, section 6.3). With several seeds the value is the geometric mean of the perplexities.
    """
    values = by_seed(pairs, pairs=True)
    estimate = combine([(1.0, log_perplexity(values))])
    return interval_of(estimate, values.shape[1], len(values), level, np.exp)


def log_perplexity(pairs: Array) -> Array:
    """Items (seeds, n) whose mean is the summed nll over the summed tokens of `pairs`, linearised.

    Raises ValueError if the runs counted different tokens in the same articles.
    """
    nll, tokens = pairs[..., 0], pairs[0, :, 1]
    if not np.array_equal(np.broadcast_to(tokens, nll.shape), pairs[..., 1]):
        raise ValueError("the runs counted different tokens in the same articles")
    ratio = nll.mean() / tokens.mean()
    return ratio + (nll - ratio * tokens) / tokens.mean()


def in_blocks(pairs: ArrayLike, blocks: int) -> Array:
    """Consecutive items of `pairs` (seeds, n, 2) summed into so many blocks: (seeds, blocks, 2).

    For windows of one running text, which are not independent of each other: blocks that are long
    beside what connects windows nearly are (non-overlapping batch means; Carlstein, Annals of
    Statistics 14, 1986). Items are left alone where there are no more of them than blocks.
    """
    values = by_seed(pairs, pairs=True)
    if blocks >= values.shape[1]:
        return values
    starts = np.linspace(0, values.shape[1], blocks, endpoint=False).round().astype(int)
    return np.add.reduceat(values, starts, axis=1)


def accuracy_difference(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
    """Interval for accuracy of `first` minus `second`, answers to the same questions.

    One answer more is counted in each direction, so that few differing answers, or none, are not
    taken for certainty (Bonett and Price, J. Educ. Behav. Stat. 37, 2012; recommended by Fagerland
    et al., Stat. Med. 33, 2014). For single runs the bounds reach to zero wherever McNemar's exact
    test does not reject it at `level`.

    Raises ValueError if the numbers of questions differ.
    """
    a, b = by_seed(first), by_seed(second)
    _same_items(a, b)
    seeds = _fewest_seeds(a, b)
    eased = [
        (weight, np.concatenate([x, np.broadcast_to(more, (len(x), 2))], axis=1))
        for weight, x, more in ((1.0, a, (1, 0)), (-1.0, b, (0, 1)))
    ]
    found = interval_of(combine(eased), a.shape[1], seeds, level)
    if not found.known:
        return found
    low, high = found.low, found.high
    if len(a) == len(b) == 1 and mcnemar(a, b).p_value > 1 - level:
        low, high = min(low, 0.0), max(high, 0.0)
    return replace(found, value=float(a.mean() - b.mean()), low=low, high=high)


def mean_difference(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
    """Interval for the mean of `first` minus that of `second`, paired by item, by Student's t.

    Raises ValueError if the numbers of items differ.
    """
    a, b = by_seed(first), by_seed(second)
    _same_items(a, b)
    return interval_of(combine([(1.0, a), (-1.0, b)]), a.shape[1], _fewest_seeds(a, b), level)


def perplexity_ratio(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
    """Interval for the perplexity of `first` over that of `second` on the same articles.

    Raises ValueError if articles or token counts differ.
    """
    a, b = by_seed(first, pairs=True), by_seed(second, pairs=True)
    _same_items(a, b)
    if not np.array_equal(a[0, :, 1], b[0, :, 1]):
        raise ValueError("the runs counted different tokens in the same articles")
    terms = [(1.0, log_perplexity(a)), (-1.0, log_perplexity(b))]
    return interval_of(combine(terms), a.shape[1], _fewest_seeds(a, b), level, np.exp)


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Exact McNemar test for two runs that answered the same questions (binomial, p = 1/2).

    Raises ValueError if the numbers of questions differ or several seeds are given.
    """
    a, b = by_seed(first), by_seed(second)
    _same_items(a, b)
    if len(a) > 1 or len(b) > 1:
        raise ValueError("McNemar's test compares one run with one run, not several seeds")
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    differing = only_a + only_b
    p_value = float(binomtest(only_a, differing).pvalue) if differing else 1.0
    return McNemar(only_a, only_b, p_value)


def gain_retention(
    method: ArrayLike, reference: ArrayLike, base: ArrayLike, level: float = 0.95
) -> Interval:
    """Interval for (method - base) / (reference - base), accuracies on the same questions.

    The values x at which (method - base) - x (reference - base) may be zero (Fieller, J. R. Stat.
    Soc. B 16, 1954). There are no bounds where the reference's own gain is not clearly above
    zero, since the ratio could then be anything.
    """
    m, r, b = (by_seed(items) for items in (method, reference, base))
    _same_items(m, r, b)
    n, seeds = m.shape[1], _fewest_seeds(m, r)
    gain, reference_gain = m.mean() - b.mean(), r.mean() - b.mean()
    if not math.isfinite(gain / reference_gain if reference_gain else 0.0):
        return Interval.unknown(DIVERGED, n, seeds)
    if reference_gain <= 0:
        return Interval.unknown("the reference gained nothing", n, seeds)
    ratio = float(gain / reference_gain)
    if not reference_gain > combine([(1.0, r), (-1.0, b)]).half_width(level):
        reason = "the reference's gain is not clearly above zero"
        return Interval(ratio, math.nan, math.nan, n, seeds, reason)

    def beyond(x: float) -> float:
        """How far method - base - x (reference - base) lies from zero, beyond its half width."""
        half = combine([(1.0, m), (-x, r), (x - 1.0, b)]).half_width(level)
        return abs(gain - x * reference_gain) - float(half)

    def bound(way: int) -> float:
        if beyond(ratio) >= 0:
            return ratio
        far = 1.0
        while beyond(ratio + way * far) < 0:
            far *= 2
        return float(brentq(beyond, ratio, ratio + way * far))

    return Interval(ratio, bound(-1), bound(1), n, seeds)


def interval_of(
    estimate: Estimate, n: int, seeds: int, level: float = 0.95, back: Callable = float
) -> Interval:
    """The interval of an estimate, taken `back` from the scale on which it is symmetrical."""
    if not math.isfinite(estimate.value):
        return Interval.unknown(DIVERGED, n, seeds)
    half = float(estimate.half_width(level))
    value, low, high = (float(back(estimate.value + x)) for x in (0.0, -half, half))
    return Interval(value, low, high, n, seeds, ONE_ITEM if math.isnan(half) else "")


def _same_items(*arms: Array) -> None:
    """Raise ValueError unless all arms have the same number of items."""
    counts = [arm.shape[1] for arm in arms]
    if len(set(counts)) > 1:
        raise ValueError(f"runs with {counts} items cannot be compared item by item")


def _fewest_seeds(*arms: Array) -> int:
    """Seeds behind a comparison: those of the arm that has the fewest."""
    return min(len(arm) for arm in arms)
