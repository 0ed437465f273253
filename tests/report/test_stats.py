"""Intervals and tests: closed forms, SciPy's own, and coverage in simulation."""

import math

import numpy as np
import pytest
from helpers_coverage import covers, share_covered, tiers
from helpers_records import make_record
from scipy import stats as scipy_stats

from smf_lib.report.analysis import stats
from smf_lib.report.analysis.arms import Arm


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


def test_student_interval_equals_scipy():
    values = np.random.default_rng(1).normal(-1.0, 2.0, 24)
    ours = stats.mean_interval(values, 0.9)
    theirs = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    paired = stats.mean_difference(values, 2 * values)
    theirs = scipy_stats.ttest_rel(values, 2 * values).confidence_interval()
    assert (paired.low, paired.high) == pytest.approx((theirs.low, theirs.high))


def test_long_tails_have_the_interval_of_the_logarithm():
    values = np.random.default_rng(1).exponential(0.05, 64)
    ours = stats.mean_interval(values)
    assert ours.high / ours.value == pytest.approx(ours.value / ours.low)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.05)


def test_several_arms_with_seeds_have_welchs_degrees_of_freedom():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (3, 1)), rng.normal(0, 3, (5, 1))
    theirs = scipy_stats.ttest_ind(first[:, 0], second[:, 0], equal_var=False)
    ours = stats.combine([(1.0, first), (-1.0, second)])
    assert ours.value / ours.error == pytest.approx(theirs.statistic)
    assert ours.freedoms[1] == pytest.approx(theirs.df)


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
    assert same.value == 0 and -0.01 < same.low < 0 < same.high < 0.01


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
    """Two-way variance, items / n plus seeds / S, and Student's quantiles weighted by the two."""
    rng = np.random.default_rng(5)
    effects = np.array([-0.4, 0.0, 0.4])
    items = rng.normal(0, 1, 200)
    runs = items[None] + effects[:, None]
    interval = stats.mean_interval(runs)
    parts = np.array([items.var(ddof=1) / 200, effects.var(ddof=1) / 3])
    quantile = scipy_stats.t.ppf(0.975, [199, 2]) @ parts / parts.sum()
    assert interval.seeds == 3 and interval.covers == "items and 3 seeds"
    assert (interval.high - interval.low) / 2 == pytest.approx(quantile * math.sqrt(parts.sum()))
    one = stats.mean_interval(runs[:1])
    assert one.covers == "items only" and one.high - one.low < interval.high - interval.low


def test_accuracy_over_seeds_is_their_mean():
    runs = [[1, 1, 0, 0], [1, 0, 0, 0]]
    interval = stats.accuracy_interval(runs)
    assert interval.value == pytest.approx(3 / 8) and interval.seeds == 2 and interval.n == 4
    assert stats.accuracy_interval(runs[0]) == stats.wilson_interval(2, 4)


def hit(estimate, truth):
    """Which of many simulated data sets have a 95 % interval that holds the truth."""
    return abs(estimate.value - truth) <= estimate.half_width()


def answers(rng, trials, seeds, noise, n=400):
    """Base and method right (trials, seeds, n): +10 points, 11 % change; noise: SD over seeds."""
    base = rng.random((trials, 1, n)) < 0.5
    gain = 0.1 + noise * rng.standard_normal((trials, seeds, 1))
    shared, own = rng.random((trials, 1, n)), rng.random((trials, seeds, n))
    luck = np.where(rng.random((trials, seeds, n)) < 0.5, shared, own)
    right = luck < np.clip(np.where(base, 0.945, 2 * gain + 0.055), 0, 1)
    return right.astype(np.float32), base.astype(np.float32)


@tiers(1500, 10_000)
@pytest.mark.parametrize(
    ("seeds", "noise"), [(1, 0), (3, 0), (3, 0.02), (3, 0.04), (5, 0), (5, 0.02), (5, 0.04)]
)
def test_intervals_of_paired_accuracy_cover(seeds, noise, trials):
    rng = np.random.default_rng(0)

    def simulate(some):
        right, base = answers(rng, some, seeds, noise)
        return hit(stats.combine([(1.0, right), (-1.0, base)]), 0.1)

    assert covers(share_covered(simulate, trials), trials)


@tiers(1500, 10_000)
@pytest.mark.parametrize("seeds", [3, 5])
def test_two_methods_with_several_seeds_each_cover(seeds, trials):
    rng = np.random.default_rng(1)

    def simulate(some):
        items = rng.normal(0, 1, (some, 1, 100))
        arms = [
            items + rng.normal(0, 0.3, (some, 1, 100)) + rng.normal(0, sd, (some, seeds, 1))
            for sd in (0.05, 0.1)
        ]
        return hit(stats.combine([(1.0, arms[0]), (-1.0, arms[1])]), 0.0)

    assert covers(share_covered(simulate, trials), trials)


@tiers(1500, 10_000)
def test_fewer_seeds_with_more_questions_still_cover(trials):
    """Where seeds decide, more questions must not make the interval too narrow."""
    rng = np.random.default_rng(2)

    def simulate(some):
        right, base = answers(rng, some, 3, 0.04, n=1000)
        return hit(stats.combine([(1.0, right), (-1.0, base)]), 0.1)

    assert covers(share_covered(simulate, trials), trials)


# seeds, and what a seed changes: the SD of the logarithm of perplexity, or of the divergence
PERPLEXITY_SEEDS = [(1, 0), (3, 0), (3, 0.01), (3, 0.02), (5, 0), (5, 0.01), (5, 0.02)]
DIVERGENCE_SEEDS = [(1, 0), (3, 0), (3, 0.1), (3, 0.2), (5, 0), (5, 0.1), (5, 0.2)]


@tiers(500, 10_000)
@pytest.mark.parametrize("articles", [40, 100])
@pytest.mark.parametrize(("seeds", "noise"), PERPLEXITY_SEEDS)
def test_intervals_of_perplexity_ratios_cover(seeds, noise, articles, trials):
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(trials):
        tokens = rng.integers(100, 500, articles).astype(float)
        rate = rng.normal(3.3, 0.3, articles)
        change = 0.05 * rng.gamma(2.0, 0.5, articles) + noise * rng.normal(0, 1, (seeds, 1))
        before = np.stack([rate * tokens, tokens], axis=1)
        after = np.stack([(rate + change) * tokens, np.tile(tokens, (seeds, 1))], axis=2)
        found = stats.perplexity_ratio(after, before)
        hits += found.low <= math.exp(0.05) <= found.high
    assert covers(hits / trials, trials)


@tiers(1500, 10_000)
@pytest.mark.parametrize("texts", [32, 64])
@pytest.mark.parametrize(("seeds", "noise"), DIVERGENCE_SEEDS)
def test_intervals_of_the_divergence_cover(seeds, noise, texts, trials):
    """On the scale of the logarithm, as `mean_interval` takes what is nowhere negative."""
    rng = np.random.default_rng(0)

    def simulate(some):
        of_text = 0.1 * rng.gamma(2.0, 0.5, (some, 1, texts))
        items = of_text * (1 + noise * rng.normal(0, 1, (some, seeds, 1)))
        return hit(stats.combine([(1.0, items)]).logarithm(), math.log(0.1))

    assert covers(share_covered(simulate, trials), trials)


@tiers(500, 5000)
def test_windows_of_one_text_are_taken_in_blocks(trials):
    """Windows of an article correlate by 0.2, as changes on record do: alone they cover too seldom.

    Blocks of four articles cover 92 % or more: what connects a block with the next is still missed.
    """
    rng = np.random.default_rng(0)
    record, hits = make_record("base"), np.zeros(2)
    record.data.prose.sections, record.data.prose.articles = [], 24
    for _ in range(trials):
        article = np.repeat(rng.standard_normal(24), rng.geometric(1 / 9, 24))
        nll = 3 + 0.2**0.5 * article + 0.8**0.5 * rng.standard_normal(len(article))
        pairs = np.stack([100 * nll, np.full(len(nll), 100.0)], axis=1)
        record.metrics["prose_perplexity"].items = pairs.tolist()
        for place, given in enumerate((pairs, Arm((record,)).items("prose_perplexity"))):
            found = stats.perplexity_interval(given)
            hits[place] += found.low <= math.exp(3) <= found.high
    alone, blocked = hits / trials
    assert alone < 0.80 and covers(blocked, trials, low=0.92)


@tiers(600, 6000)
def test_sections_are_taken_by_article(trials):
    """Where sections of an article correlate by 0.3: alone they cover too seldom, articles 95 %."""
    rng = np.random.default_rng(0)
    record, hits = make_record("base"), np.zeros(2)
    for _ in range(trials):
        of_article = np.repeat(rng.normal(0, 0.3**0.5, 40), 3)
        rate = 3.4 + 0.4 * (of_article + rng.normal(0, 0.7**0.5, 120))
        tokens = rng.integers(80, 130, 120)
        record.metrics["prose_perplexity"].items = np.stack([rate * tokens, tokens], 1).tolist()
        for place, cut in enumerate(([], [3] * 40)):
            record.data.prose.sections, record.data.prose.articles = cut, 120 - 80 * bool(cut)
            found = stats.perplexity_interval(Arm((record,)).items("prose_perplexity"))
            hits[place] += found.low <= math.exp(3.4) <= found.high
    alone, by_article = hits / trials
    assert alone < 0.90 and covers(by_article, trials)


def test_blocks_lose_nothing_and_few_items_stay():
    pairs = np.random.default_rng(0).random((2, 23, 2))
    blocks = stats.in_blocks(pairs, 5)
    assert blocks.shape == (2, 5, 2) and blocks.sum(1) == pytest.approx(pairs.sum(1))
    assert np.array_equal(stats.in_blocks(pairs, 23), pairs)


def test_the_interval_is_that_of_the_estimate():
    right, base = (x[0] for x in answers(np.random.default_rng(4), 1, 3, 0.02))
    estimate = stats.combine([(1.0, right), (-1.0, base)])
    found, half = stats.mean_difference(right, base), float(estimate.half_width())
    wanted = (estimate.value - half, estimate.value + half)
    assert (found.low, found.high) == pytest.approx(wanted, abs=1e-6)
    eased = stats.accuracy_difference(right, base)
    assert (eased.low, eased.high) == pytest.approx(wanted, abs=0.004)


@pytest.mark.parametrize(("only_first", "only_second"), [(5, 0), (6, 0), (7, 1), (0, 5), (22, 10)])
def test_where_few_answers_differ_the_exact_test_decides(only_first, only_second):
    first = np.repeat([1, 0, 1], [only_first, only_second, 400])
    second = np.repeat([0, 1, 1], [only_first, only_second, 400])
    difference = stats.accuracy_difference(first, second)
    assert difference.value == pytest.approx((only_first - only_second) / len(first))
    if stats.mcnemar(first, second).p_value > 0.05:
        assert not difference.clear


def test_one_item_has_a_value_and_no_bounds():
    one = stats.perplexity_interval([[300.0, 100]])
    assert one.value == pytest.approx(math.exp(3)) and not one.bounded
    assert one.reason == stats.ONE_ITEM


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
