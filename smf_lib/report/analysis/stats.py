"""Intervals and tests for results measured item by item.

All intervals are 95 % unless `level` says otherwise. Outcomes are arrays with one row a seed and
one column an item (a question, an article, a sequence); a single run may be given without the
seed axis. Resampling draws items, the same ones for every run compared, and with several seeds
also the seeds: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13.
The seed weights are widened by sqrt(S / (S - 1)), because S drawn seeds spread less than the
runs they stand for. With two or three seeds the interval is still a little narrow.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
CHUNK = 500
DIVERGED = "some items are not finite: the run diverged"


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, the number of items and of seeds behind it.

    NaN stands for what cannot be said, and `reason` then tells why. With seeds = 1 the interval
    covers the choice of items only, not the luck of training.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int = 1
    reason: str = ""

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

    @property
    def clear(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.bounded and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class McNemar:
    """Questions that only one of two runs got right, and the exact two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


def wilson_interval(right: int, n: int, level: float = 0.95) -> Interval:
    """Score interval for `right` of `n` (Wilson, JASA 22, 1927). Raises ValueError if n < 1."""
    if n < 1 or not 0 <= right <= n:
        raise ValueError(f"right={right}, n={n}: need 0 <= right <= n and n >= 1")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), n)


def by_seed(items: ArrayLike, pairs: bool = False) -> NDArray[np.float64]:
    """Items as float64 (seeds, n), or (seeds, n, 2) if `pairs`. Raises ValueError if empty."""
    array = np.asarray(items, dtype=np.float64)
    wanted = 3 if pairs else 2
    if array.ndim == wanted - 1:
        array = array[None]
    if array.ndim != wanted or (pairs and array.shape[2] != 2) or array.size == 0:
        shape = "(seeds, n, 2)" if pairs else "(seeds, n)"
        raise ValueError(f"items of shape {array.shape} given, {shape} with n >= 1 wanted")
    return array


@functools.lru_cache(maxsize=8)
def item_draws(n: int, resamples: int, seed: int) -> NDArray[np.uint8]:
    """How often each of `n` items is drawn in each resample: (resamples, n), read-only."""
    rng = np.random.default_rng([seed, 0, n])
    blocks = []
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        block = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        blocks.append(block.astype(np.uint8))
    draws = np.concatenate(blocks)
    draws.flags.writeable = False
    return draws


class Resampler:
    """Draws resamples that are the same for all arrays over the same items.

    The items drawn depend on `seed` and on their number only, so that differences between arms
    are paired; the training seeds of each arm are drawn anew, from a `stream` of its own for each
    method where several measures of one arm must see the same seeds.
    """

    def __init__(self, resamples: int = RESAMPLES, seed: int = 0, stream: int = 0):
        if resamples < 100:
            raise ValueError(f"resamples={resamples} is too few for an interval; use 100 or more")
        self.resamples = resamples
        self.seed = seed
        self._seed_draws = np.random.default_rng([seed, 1, stream])

    def means(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Item means of `columns` (C, n) in every resample: (resamples, C)."""
        n = columns.shape[1]
        counts = item_draws(n, self.resamples, self.seed)
        blocks = range(0, self.resamples, CHUNK)
        return np.concatenate([counts[i : i + CHUNK] @ columns.T for i in blocks]) / n

    def arm(self, items: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean over seeds and items of `items` (seeds, n) in every resample: (resamples,)."""
        means = self.means(items)
        seeds = len(items)
        if seeds == 1:
            return means[:, 0]
        drawn = self._seed_draws.multinomial(seeds, [1 / seeds] * seeds, self.resamples) / seeds
        weights = 1 / seeds + math.sqrt(seeds / (seeds - 1)) * (drawn - 1 / seeds)
        return (means * weights).sum(axis=1)


def percentile_interval(
    value: float, draws: NDArray[np.float64], n: int, seeds: int, level: float = 0.95
) -> Interval:
    """The middle `level` of the finite `draws` (resamples,) around `value`."""
    if not math.isfinite(value):
        return Interval(math.nan, math.nan, math.nan, n, seeds, DIVERGED)
    tail = (1 - level) / 2
    low, high = np.quantile(draws[np.isfinite(draws)], [tail, 1 - tail])
    return Interval(float(value), float(low), float(high), n, seeds)


def mean_interval(items: ArrayLike, level: float = 0.95, seed: int = 0) -> Interval:
    """Interval for the mean of `items` (seeds, n), for example the KL divergence in nats."""
    values = by_seed(items)
    draws = Resampler(seed=seed).arm(values)
    return percentile_interval(values.mean(), draws, values.shape[1], len(values), level)


def accuracy_interval(outcomes: ArrayLike, level: float = 0.95, seed: int = 0) -> Interval:
    """Interval for the share of right answers; Wilson with one seed, resampling with several."""
    values = by_seed(outcomes)
    if len(values) > 1 or not np.isfinite(values).all():
        return mean_interval(values, level, seed)
    return wilson_interval(int(values.sum()), values.shape[1], level)


def perplexity_interval(pairs: ArrayLike, level: float = 0.95, seed: int = 0) -> Interval:
    """Interval for exp(summed nll / tokens) of `pairs` (seeds, n, 2), resampling articles.

    With several seeds the value is the geometric mean of the runs' perplexities.
    """
    values = by_seed(pairs, pairs=True)
    log_draws, log_value = _log_perplexity(Resampler(seed=seed), values)
    return percentile_interval(
        np.exp(log_value), np.exp(log_draws), values.shape[1], len(values), level
    )


def _log_perplexity(
    resampler: Resampler, pairs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Mean nll a token of `pairs` (seeds, n, 2): in every resample, and as measured."""
    nll, tokens = pairs[..., 0], pairs[:1, :, 1]
    if not np.array_equal(np.broadcast_to(tokens, nll.shape), pairs[..., 1]):
        raise ValueError("the runs counted different tokens in the same articles")
    draws = resampler.arm(nll) / resampler.arm(tokens)
    return draws, float(nll.mean() / tokens.mean())


def accuracy_difference(
    first: ArrayLike, second: ArrayLike, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval for accuracy of `first` minus `second`, answers to the same questions.

    Raises ValueError if the numbers of questions differ.
    """
    a, b = by_seed(first), by_seed(second)
    _same_items(a, b)
    resampler = Resampler(seed=seed)
    draws = resampler.arm(a) - resampler.arm(b)
    return percentile_interval(a.mean() - b.mean(), draws, a.shape[1], _fewest_seeds(a, b), level)


def perplexity_ratio(
    first: ArrayLike, second: ArrayLike, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval for the perplexity of `first` over that of `second` on the same articles.

    Raises ValueError if articles or token counts differ.
    """
    a, b = by_seed(first, pairs=True), by_seed(second, pairs=True)
    _same_items(a, b)
    if not np.array_equal(a[0, :, 1], b[0, :, 1]):
        raise ValueError("the runs counted different tokens in the same articles")
    resampler = Resampler(seed=seed)
    (draws_a, log_a), (draws_b, log_b) = (_log_perplexity(resampler, x) for x in (a, b))
    ratio, draws = np.exp(log_a - log_b), np.exp(draws_a - draws_b)
    return percentile_interval(ratio, draws, a.shape[1], _fewest_seeds(a, b), level)


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Exact McNemar test for two runs that answered the same questions (binomial, p = 1/2).

    Raises ValueError if the numbers of questions differ or several seeds are given.
    """
    a, b = by_seed(first), by_seed(second)
    _same_items(a, b)
    if len(a) > 1 or len(b) > 1:
        raise ValueError("McNemar's test compares one run with one run, not several seeds")
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, k) for k in range(min(only_a, only_b) + 1))
    return McNemar(only_a, only_b, min(1.0, 2 * tail / 2**discordant))


def gain_retention(
    method: ArrayLike, reference: ArrayLike, base: ArrayLike, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval for (method - base) / (reference - base), accuracies on the same questions.

    There are no bounds where the reference's own gain is not clearly above zero, since the
    ratio could then be anything.
    """
    arms = [by_seed(items) for items in (method, reference, base)]
    _same_items(*arms)
    resampler = Resampler(seed=seed)
    m, r, b = (resampler.arm(arm) for arm in arms)
    gain, reference_gain = arms[0].mean() - arms[2].mean(), arms[1].mean() - arms[2].mean()
    n, seeds = arms[0].shape[1], _fewest_seeds(*arms[:2])
    if reference_gain <= 0:
        return Interval(math.nan, math.nan, math.nan, n, seeds, "the reference gained nothing")
    ratio = gain / reference_gain
    if np.quantile(r - b, (1 - level) / 2) <= 0:
        reason = "the reference's gain is not clearly above zero"
        return Interval(float(ratio), math.nan, math.nan, n, seeds, reason)
    with np.errstate(divide="ignore", invalid="ignore"):
        return percentile_interval(ratio, (m - b) / (r - b), n, seeds, level)


def _same_items(*arms: NDArray[np.float64]) -> None:
    """Raise ValueError unless all arms have the same number of items."""
    counts = [arm.shape[1] for arm in arms]
    if len(set(counts)) > 1:
        raise ValueError(f"runs with {counts} items cannot be compared item by item")


def _fewest_seeds(*arms: Sequence) -> int:
    """Seeds behind a comparison: those of the arm that has the fewest."""
    return min(len(arm) for arm in arms)
