"""Intervals and tests: closed forms, SciPy's own, and coverage in simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from smf_lib.report.analysis import stats


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (10, 10), (192, 400), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_equals_scipy(right, n, level):
    ours = stats.wilson_interval(right, n, level)
    theirs = scipy_stats.binomtest(right, n).proportion_ci(level, method="wilson")
    assert ours.value == right / n
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("right", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(right, n):
    with pytest.raises(ValueError, match=f"right={right}, n={n}"):
        stats.wilson_interval(right, n)


def test_mean_interval_equals_the_normal_one_for_many_items():
    values = np.random.default_rng(0).normal(2.0, 3.0, 800)
    ours = stats.mean_interval(values)
    half = 1.96 * values.std() / math.sqrt(800)
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.02
    )


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(1).exponential(0.05, 64)
    ours = stats.mean_interval(values)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.0015)


def test_same_seed_same_interval():
    values = np.arange(30.0)
    first = stats.mean_interval(values, seed=3)
    assert stats.mean_interval(values, seed=3) == first
    assert stats.mean_interval(values, seed=4) != first


def test_pairing_removes_what_the_runs_share():
    rng = np.random.default_rng(0)
    base = (rng.random(400) < 0.5).astype(int)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:20]] = 1
    paired = stats.accuracy_difference(better, base)
    assert paired.value == pytest.approx(0.05)
    unpaired_half = 1.96 * math.sqrt(2 * 0.25 / 400)
    assert paired.high - paired.low < 0.7 * unpaired_half
    half = 1.96 * math.sqrt(0.05 * 0.95 / 400)
    assert paired.low == pytest.approx(0.05 - half, abs=0.004)
    same = stats.accuracy_difference(base, base)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_mcnemar_equals_the_binomial_test():
    rng = np.random.default_rng(2)
    for shift in (0.0, 0.1, 0.3):
        a = (rng.random(120) < 0.5 + shift).astype(int)
        b = (rng.random(120) < 0.5).astype(int)
        only_a, only_b = int((a > b).sum()), int((b > a).sum())
        ours = stats.mcnemar(a, b)
        assert (ours.only_first, ours.only_second) == (only_a, only_b)
        reference = scipy_stats.binomtest(only_a, only_a + only_b, 0.5).pvalue
        assert ours.p_value == pytest.approx(reference, rel=1e-9)
    assert stats.mcnemar(a, a).p_value == 1.0


def test_perplexity_ratio_of_a_constant_change_is_exact():
    tokens = np.array([100.0, 400.0, 50.0])
    base = np.stack([3.0 * tokens, tokens], axis=1)
    worse = np.stack([3.1 * tokens, tokens], axis=1)
    ratio = stats.perplexity_ratio(worse, base)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((math.exp(0.1),) * 3)
    assert stats.perplexity_interval(base).value == pytest.approx(math.exp(3.0))
    back = stats.perplexity_ratio(base, worse)
    assert back.value == pytest.approx(1 / ratio.value)


def test_perplexity_is_weighted_by_tokens():
    pairs = [[200.0, 100], [2100.0, 700]]
    assert stats.perplexity_interval(pairs).value == pytest.approx(math.exp(2300 / 800))


def test_retention_is_the_ratio_of_gains():
    base = np.zeros(300, int)
    reference = np.arange(300) < 100
    method = np.arange(300) < 80
    kept = stats.gain_retention(method, reference, base)
    assert kept.value == pytest.approx(0.8)
    assert 0.7 < kept.low < 0.8 < kept.high < 0.9
    same = stats.gain_retention(reference, reference, base)
    assert (same.value, same.low, same.high) == pytest.approx((1, 1, 1))


def test_retention_says_when_it_is_not_known():
    base = np.arange(40) < 20
    barely = np.arange(40) < 21
    unknown = stats.gain_retention(base, barely, base)
    assert unknown.value == 0 and not unknown.bounded and "not clearly" in unknown.reason
    nothing = stats.gain_retention(barely, base, base)
    assert not nothing.known and "gained nothing" in nothing.reason


def test_seeds_widen_the_interval_by_their_spread():
    """Two-way variance: items / n plus seeds / S, with the unbiased spread of the seeds."""
    rng = np.random.default_rng(5)
    effects = np.array([-0.4, 0.0, 0.4])
    items = rng.normal(0, 1, 200)
    runs = items[None] + effects[:, None]
    interval = stats.mean_interval(runs)
    expected = math.sqrt(items.var() / 200 + effects.var(ddof=1) / 3)
    assert interval.seeds == 3
    assert (interval.high - interval.low) / 2 / 1.96 == pytest.approx(expected, rel=0.12)
    one = stats.mean_interval(runs[:1])
    assert one.seeds == 1 and one.high - one.low < interval.high - interval.low


def test_accuracy_over_seeds_is_their_mean():
    runs = [[1, 1, 0, 0], [1, 0, 0, 0]]
    interval = stats.accuracy_interval(runs)
    assert interval.value == pytest.approx(3 / 8) and interval.seeds == 2 and interval.n == 4
    assert stats.accuracy_interval(runs[0]) == stats.wilson_interval(2, 4)


def covered(draw, interval, truth, trials=150):
    """Share of simulated data sets whose interval holds the truth."""
    rng = np.random.default_rng(7)
    intervals = (interval(draw(rng)) for _ in range(trials))
    return np.mean([i.low <= truth <= i.high for i in intervals])


def quick(monkeypatch):
    monkeypatch.setattr(stats, "RESAMPLES", 1000)
    monkeypatch.setattr(stats.Resampler.__init__, "__defaults__", (1000, 0, 0))


def test_coverage_of_a_paired_difference(monkeypatch):
    quick(monkeypatch)

    def draw(rng):
        ability = rng.random(150)
        return (rng.random(150) < ability) * 1, (rng.random(150) < 0.8 * ability) * 1

    share = covered(draw, lambda pair: stats.accuracy_difference(*pair), 0.5 - 0.4)
    assert 0.90 <= share <= 0.99


def test_coverage_of_a_perplexity_ratio(monkeypatch):
    quick(monkeypatch)

    def draw(rng):
        tokens = rng.integers(100, 500, 40).astype(float)
        rate = rng.normal(3.3, 0.3, 40)
        shift = rng.normal(0.05, 0.02, 40)
        before = np.stack([rate * tokens, tokens], axis=1)
        return np.stack([(rate + shift) * tokens, tokens], axis=1), before

    share = covered(draw, lambda pair: stats.perplexity_ratio(*pair), math.exp(0.05))
    assert 0.88 <= share <= 0.99


@pytest.mark.parametrize("seeds", [3, 8])
def test_coverage_with_seeds_and_items(monkeypatch, seeds):
    quick(monkeypatch)

    def draw(rng):
        return rng.normal(0, 1, (1, 60)) + rng.normal(0, 0.2, (seeds, 1))

    share = covered(draw, stats.mean_interval, 0.0)
    assert 0.86 <= share <= 0.99


def test_diverged_runs_have_no_interval():
    interval = stats.mean_interval([0.1, math.nan])
    assert not interval.known and interval.reason == stats.DIVERGED
    pairs = [[math.nan, 10], [20.0, 10]]
    assert not stats.perplexity_ratio(pairs, [[20.0, 10], [20.0, 10]]).known


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.accuracy_difference([1, 0], [1, 0, 1]), "item by item"),
        (lambda: stats.perplexity_ratio([[1.0, 2]], [[1.0, 3]]), "different tokens"),
        (lambda: stats.mean_interval([]), "n >= 1"),
        (lambda: stats.perplexity_interval([1.0, 2.0, 3.0]), r"\(seeds, n, 2\)"),
        (lambda: stats.mcnemar([[1, 0], [1, 1]], [1, 0]), "not several seeds"),
        (lambda: stats.Resampler(resamples=5), "resamples=5"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_scaled_interval_keeps_its_order():
    change = stats.Interval(0.02, 0.01, 0.04, 9).scaled(-100)
    assert (change.value, change.low, change.high) == pytest.approx((-2, -4, -1))
    ratio = stats.Interval(1.05, 1.01, 1.1, 9).scaled(100, offset=-1)
    assert (ratio.value, ratio.low) == pytest.approx((5, 1))
    assert ratio.clear and not stats.Interval(0, -1, 1, 9).clear


def test_accuracy_of_a_diverged_run_is_unknown():
    interval = stats.accuracy_interval([1.0, math.nan, 0.0])
    assert not interval.known and "diverged" in interval.reason
