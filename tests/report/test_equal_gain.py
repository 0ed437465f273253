"""Drift at equal gain, on curves whose answer is known."""

import numpy as np
import pytest
from helpers_coverage import covers, tiers
from scipy.interpolate import interp1d
from scipy.stats import t as student

from smf_lib.report.analysis.equal_gain import (
    SweepPoint,
    crossing,
    drift_of,
    excess_of,
    measured_curves,
    ratio_of,
)

N = 400


def right(share):
    return (np.arange(N) < round(share * N)).astype(int)


def point(gain, kl):
    return SweepPoint(exam=right(0.4 + gain), probe=np.full(50, kl))


BASE = SweepPoint(exam=right(0.4), probe=np.zeros(50))


def test_crossing_is_linear_between_neighbours():
    gains = np.array([[0.0, 0.2, 0.1]])
    drifts = np.array([[0.0, 2.0, 8.0]])
    assert crossing(gains, drifts, 0.05) == pytest.approx([0.5])
    assert crossing(gains, drifts, 0.15) == pytest.approx([1.5])
    assert np.isnan(crossing(gains, drifts, 0.3))
    assert np.isnan(crossing(gains, drifts, -0.1))


def test_crossing_takes_the_lowest_and_handles_level_and_broken_curves():
    gains = np.array([[0.3, 0.1, 0.3]])
    assert crossing(gains, np.array([[9.0, 1.0, 2.0]]), 0.2) == pytest.approx([1.5])
    level = np.array([[0.2, 0.2]])
    assert crossing(level, np.array([[3.0, 1.0]]), 0.2) == pytest.approx([1.0])
    broken = np.array([[0.0, np.nan, 1.0]])
    assert np.isnan(crossing(gains, broken, 0.2))
    assert np.isnan(crossing(np.array([[0.2]]), np.array([[1.0]]), 0.2))


def test_known_curves_at_a_given_gain():
    sweeps = {
        "lora": [point(0.1, 0.1), point(0.3, 0.5)],
        "smf": [point(0.0, 0.001), point(0.4, 0.04)],
    }
    curves = measured_curves(sweeps, BASE, "kl")
    lora, smf = (0.1 * 0.5) ** 0.5, (0.001 * 0.04) ** 0.5  # straight lines in the logarithm
    found = {name: drift_of(curve, 0.2) for name, curve in curves.items()}
    assert found["lora"].value == pytest.approx(lora)
    assert found["smf"].value == pytest.approx(smf)
    assert found["lora"].low < lora < found["lora"].high
    excess = excess_of(curves["smf"], curves["lora"], 0.2)
    assert excess.value == pytest.approx(smf - lora) and excess.clear
    share = ratio_of(curves["smf"], curves["lora"], 0.2)
    wider = ratio_of(curves["smf"], curves["lora"], 0.2, level=0.99)
    assert wider.low < share.low < share.high < wider.high
    assert share.value == pytest.approx(smf / lora) and share.low < share.value < share.high < 1
    back = ratio_of(curves["lora"], curves["smf"], 0.2)
    assert back.low == pytest.approx(1 / share.high, rel=1e-3)


def test_bounds_finer_than_the_draws_are_not_given():
    """Of 400 draws five lie beyond the bounds of level 0.975, and less than one beyond 0.996's."""
    sweeps = {"a": [point(0.1, 0.1), point(0.3, 0.5)], "b": [point(0.0, 0.001), point(0.4, 0.04)]}
    curves = measured_curves(sweeps, BASE, "kl", draws=400)
    assert ratio_of(curves["a"], curves["b"], 0.2, level=0.975).bounded
    found = ratio_of(curves["a"], curves["b"], 0.2, level=0.996)
    assert not found.bounded and found.known and "400 draws" in found.reason


def test_a_curve_of_divergence_begins_at_its_first_point_and_others_at_the_base_model():
    sweeps = {"m": [point(0.2, 0.4), point(0.3, 0.9)], "low": [point(0.05, 0.1), point(0.2, 0.3)]}
    curves = measured_curves(sweeps, BASE, "kl")
    assert [curve.reaches(0.1) for curve in curves.values()] == [False, True]
    assert curves["m"].lowest == pytest.approx(0.2)
    lost = [SweepPoint(right(0.6), right(0.2)), SweepPoint(right(0.7), right(0.1))]
    base = SweepPoint(right(0.4), right(0.4))
    drift = drift_of(measured_curves({"m": lost}, base, "accuracy")["m"], 0.1)
    assert drift.value == pytest.approx(0.1) and drift.bounded


def test_a_point_that_does_not_diverge_at_all_is_left_out():
    sweep = [point(0.0, 0.0), point(0.2, 0.4), point(0.3, 0.9)]
    found, wanted = (
        drift_of(measured_curves({"m": x}, BASE, "kl")["m"], 0.25) for x in (sweep, sweep[1:])
    )
    assert found == wanted


def test_a_draw_that_lies_above_the_gain_is_extended_downwards():
    low, high = point(0.1, 0.1), point(0.3, 0.5)
    curve = measured_curves({"m": [low, high]}, BASE, "kl")["m"]
    drifts, missed = curve.drifts(0.101)
    assert 0.3 < missed < 0.6 and np.isfinite(drifts).all() and drifts[1:].min() < 0.1


def test_a_run_that_diverged_is_left_out():
    good = [point(0.2, 0.4), point(0.3, 0.9)]
    lost = SweepPoint(exam=np.full(len(BASE.exam), np.nan), probe=np.full(50, 0.9))
    found, wanted = (
        drift_of(measured_curves({"m": x}, BASE, "kl")["m"], 0.25) for x in ([*good, lost], good)
    )
    assert found == wanted and found.bounded
    assert measured_curves({"m": [point(0.2, 0.4), lost]}, BASE, "kl") == {}


def test_gain_and_drift_of_a_method_are_those_of_the_same_seeds():
    """Where a seed's drift is its gain, drift at a gain is known as well as the curve is."""
    seeds = np.array([0.1, 0.2, 0.3])[:, None] * np.ones((1, 400))
    base = SweepPoint(np.zeros(400), np.zeros(400))
    points = [SweepPoint(seeds * f, -seeds * f) for f in (0.5, 1.0, 1.5)]
    drift = drift_of(measured_curves({"m": points}, base, "accuracy")["m"], 0.1)
    assert drift.value == pytest.approx(0.1)
    assert 0.09 < drift.low <= drift.high < 0.11


def test_single_points_make_no_curve():
    assert measured_curves({"a": [point(0.1, 0.1)]}, BASE, "kl") == {}
    assert measured_curves({}, BASE, "kl") == {}


def test_bounds_are_withheld_at_the_edge_of_a_curve():
    curves = measured_curves({"a": [point(0.05, 0.01), point(0.20, 0.1)]}, BASE, "kl")
    found = drift_of(curves["a"], 0.199)
    assert found.known and not found.bounded and "not reached" in found.reason


def test_perplexity_and_accuracy_drifts():
    tokens = np.full(20, 100.0)

    def pairs(nll):
        return np.stack([nll * tokens, tokens], axis=1)

    base = SweepPoint(right(0.4), pairs(3.0))
    curve = [SweepPoint(right(0.4), pairs(3.0)), SweepPoint(right(0.6), pairs(3.0 + np.log(1.1)))]
    change = measured_curves({"m": curve}, base, "perplexity")["m"]
    assert drift_of(change, 0.1).value == pytest.approx(0.05)
    base = SweepPoint(right(0.4), right(0.5))
    curve = [SweepPoint(right(0.4), right(0.5)), SweepPoint(right(0.6), right(0.4))]
    lost = measured_curves({"m": curve}, base, "accuracy")["m"]
    assert drift_of(lost, 0.1).value == pytest.approx(0.05)


def test_seeds_are_counted():
    many = SweepPoint(np.stack([right(0.6)] * 3), np.full((3, 50), 0.2))
    sweeps = {"m": [SweepPoint(np.stack([right(0.4)] * 3), np.full((3, 50), 0.1)), many]}
    assert drift_of(measured_curves(sweeps, BASE, "kl")["m"], 0.1).seeds == 3


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="probe='bleu'.*perplexity, accuracy, kl"):
        measured_curves({}, BASE, "bleu")
    with pytest.raises(ValueError, match="draws=5"):
        measured_curves({}, BASE, "kl", draws=5)


def test_a_share_of_nothing_is_not_given():
    sweeps = {
        "kept": [SweepPoint(right(0.5), right(0.5)), SweepPoint(right(0.7), right(0.5))],
        "lost": [SweepPoint(right(0.5), right(0.4)), SweepPoint(right(0.7), right(0.2))],
    }
    curves = measured_curves(sweeps, SweepPoint(right(0.4), right(0.5)), "accuracy")
    kept, lost = curves["kept"], curves["lost"]
    assert "not clearly above zero" in ratio_of(lost, kept, 0.2).reason
    assert ratio_of(kept, lost, 0.2).value == 0 and excess_of(lost, kept, 0.2).clear


CURVES = {
    "lora": ((0.063, 0.036), (0.089, 0.085), (0.107, 0.142), (0.15, 0.382)),
    "smf": ((0.07, 0.0023), (0.095, 0.0048), (0.12, 0.0159), (0.151, 0.0632)),
    "full": ((0.02, 0.0038), (0.055, 0.011), (0.095, 0.028), (0.125, 0.071), (0.155, 0.19)),
    "twin": ((0.05, 0.03), (0.08, 0.062), (0.11, 0.15), (0.14, 0.29)),
}
PAIRS = [("smf", "lora"), ("full", "lora"), ("twin", "lora")]  # ratios 0.05, 0.27 and 0.96


def chance(gain, base):
    """That a model is right that gains `gain`, where half of the base model's answers are."""
    return np.clip(np.where(base, 0.945, 2 * gain + 0.055), 0, 1)


def measured(rng, true, seeds, noise, base, shared, texts):
    """A point whose seeds vary by `noise` in gain and five times that in the log of KL."""
    gain = true[0] + noise * rng.standard_normal((seeds, 1))
    luck = np.where(rng.random((seeds, N)) < 0.5, shared, rng.random((seeds, N)))
    exam = luck < chance(gain, base)
    run = np.exp(5 * noise * rng.standard_normal((seeds, 1)))
    return SweepPoint(exam.astype(float), true[1] * texts * run * rng.gamma(20, 0.05, (seeds, 32)))


def shift(curves, base, shared):
    """What these questions add to the gains of all points alike, on average over seeds."""
    gains = np.array([gain for curve in curves for gain, _ in curve])
    right = np.array([((shared < p) + p).mean() / 2 for p in (chance(g, base) for g in gains)])
    return (right - base.mean() - gains).mean()


def height(true, at):
    """Log of the true height at gain `at`, as steep beyond the ends as it is there."""
    gains, heights = np.array(true).T
    return interp1d(gains, np.log(heights), fill_value="extrapolate")(at)


def noisy(rng, shares, seeds, noise):
    """Points on a line, of which each seed misses the gain by SD `noise`."""
    luck = noise * rng.standard_normal((len(shares), seeds, 1))
    exams = [0.4 + share + bad + np.zeros((seeds, N)) for share, bad in zip(shares, luck)]
    divergences = [np.full((seeds, 50), np.exp(10 * share)) for share in shares]
    return [SweepPoint(e, k) for e, k in zip(exams, divergences, strict=True)]


@pytest.mark.parametrize("count", [2, 8])
def test_points_of_a_curve_share_the_degrees_of_freedom_of_their_seeds(count):
    """Two seeds a point, each 0.01 from the mean: the standard error, with one degree a point."""
    off = np.array([[0.01], [-0.01]])
    sweep = [
        SweepPoint(0.4 + share + off + np.zeros((2, N)), np.full((2, 50), 0.1 + share))
        for share in np.linspace(0.02, 0.3, count)
    ]
    base = SweepPoint(np.full(N, 0.4), np.zeros(50))
    curve = measured_curves({"m": sweep}, base, "kl")["m"]
    drawn = curve.gains[1:, 1] - curve.gains[0, 1]
    assert np.quantile(drawn, 0.975) == pytest.approx(0.01 * student.ppf(0.975, count), rel=0.1)


def test_two_curves_that_are_compared_have_the_degrees_of_freedom_of_both():
    """Standard error 0.001 in gain and slope 10 in the log, on either side: 8 degrees, not 4."""
    off = np.array([[0.001], [-0.001]])
    sweep = [
        SweepPoint(0.4 + share + off + np.zeros((2, N)), np.full((2, 50), np.exp(10 * share)))
        for share in (0.1, 0.2, 0.3, 0.4)
    ]
    base = SweepPoint(np.full(N, 0.4), np.zeros(50))
    curves = measured_curves({"a": sweep, "b": sweep}, base, "kl")
    for level in (0.95, 0.99):
        high = np.log(ratio_of(curves["a"], curves["b"], 0.2, level).high)
        wanted = student.ppf(0.5 + level / 2, 8)
        assert high == pytest.approx(0.01 * 2**0.5 * wanted, rel=0.07)


def test_methods_may_share_what_seeds_do():
    rng = np.random.default_rng(1)
    base = SweepPoint(np.full(N, 0.4), np.zeros(50))
    few = {f"m{i}": noisy(rng, [0.1, 0.2, 0.3], 2, 0.004) for i in range(8)}
    single = {"single": [SweepPoint(p.exam[:1], p.probe[:1]) for p in few["m0"]]}
    alone = measured_curves(single | few, base, "kl")
    together = measured_curves(single | few, base, "kl", pooled=True)
    assert np.ptp(alone["single"].gains[:, 0]) < 1e-9
    spread = together["single"].gains[1:, 0].std()
    assert spread == pytest.approx(0.004, rel=0.5)
    drawn = together["m1"].gains[1:]
    assert drawn.std(0) == pytest.approx(spread / 2**0.5, rel=0.1)


def test_what_a_seed_changes_in_single_items_is_no_difference_of_curves():
    """Two curves by easy and hard questions alike: their gains differ by the seeds' part alone."""
    rng = np.random.default_rng(3)
    easy = rng.random(2000) * 0.8
    sweep = {
        name: [
            SweepPoint((rng.random((3, 2000)) < easy + share).astype(float), np.full((3, 9), k))
            for share, k in [(0.0, 0.1), (0.1, 0.2), (0.2, 0.4)]
        ]
        for name in ("a", "b")
    }
    base = SweepPoint(np.zeros(2000), np.zeros(9))
    curves = measured_curves(sweep, base, "kl")
    a, b = (c.gains[1:] - c.heavy[1:] * c.luck[1:, :, 0] for c in curves.values())
    common = np.concatenate([a, b], axis=1)
    apart = (common - common.mean(1, keepdims=True)).std(0)
    assert common.mean(1).std() > 0.004 and apart.max() < 0.4 * common.mean(1).std()


@tiers(200, 2000)
@pytest.mark.parametrize(
    ("seeds", "noise"),
    [(1, 0), (2, 0.02), (3, 0), (3, 0.02), (3, 0.04), (5, 0), (5, 0.02), (5, 0.04)],
)
def test_intervals_at_a_fixed_gain_cover(seeds, noise, trials):
    """Curves like recorded ones at +10 points, SD of a seed 2 points and a tenth of the KL.

    Drifts hold the true one at that gain; ratios hold that at the height at which these questions
    show it, which is what they are about. Both cover 93 to 98 %, and up to 99 with two or three
    seeds, or where seeds vary by 4 points, half of what such a curve rises.
    """
    rng, at = np.random.default_rng(0), 0.10
    covered = {name: [] for name in [*CURVES, *PAIRS]}

    def hold(name, interval, logarithm):
        if interval.bounded:
            covered[name].append(interval.low <= np.exp(logarithm) <= interval.high)

    for _ in range(trials):
        items = rng.random(N) < 0.5, rng.random(N), rng.gamma(4, 0.25, 32)
        sweeps = {
            name: [measured(rng, true, seeds, noise, *items) for true in curve]
            for name, curve in CURVES.items()
        }
        start = SweepPoint(items[0].astype(float), np.zeros(32))
        curves = measured_curves(sweeps, start, "kl", draws=400)
        curves = {name: curve for name, curve in curves.items() if curve.reaches(at)}
        for name, curve in curves.items():
            hold(name, drift_of(curve, at), height(CURVES[name], at))
        for first, second in PAIRS:
            if {first, second} <= curves.keys():
                alone = measured_curves(sweeps, start, "kl", draws=400, only=(first, second))
                ratio = ratio_of(alone[first], alone[second], at)
                pair = CURVES[first], CURVES[second]
                here = at - shift(pair, *items[:2])
                hold((first, second), ratio, height(pair[0], here) - height(pair[1], here))
    high = 0.99 if noise > 0.02 or seeds in (2, 3) else 0.98
    for name, hits in covered.items():
        assert len(hits) > 0.75 * trials, name
        assert covers(np.mean(hits), len(hits), high=high), (name, np.mean(hits), len(hits))


TWICE = {  # as recorded at two seeds: beside 11 points a lower rate gains as much as a higher one
    "lora": ((0.079, 0.034), (0.1104, 0.077), (0.1035, 0.179), (0.142, 0.305), (0.176, 0.47)),
    "smf": ((0.071, 0.0024), (0.0997, 0.0051), (0.1196, 0.0158), (0.161, 0.068), (0.15, 0.375)),
    "full": ((0.095, 0.0254), (0.1135, 0.0271), (0.114, 0.053), (0.172, 0.135), (0.204, 0.287)),
}


@tiers(200, 2000)
def test_ratios_cover_where_a_curve_nearly_passes_the_gain_twice(trials):
    """Whether the lower rate passes it is a part of what is not known: 92 to 98 %."""
    rng, at = np.random.default_rng(0), 0.11
    covered = {pair: [] for pair in PAIRS[:2]}
    start = SweepPoint(np.zeros(N), np.zeros(32))
    for _ in range(trials):
        sweeps = {}
        for name, curve in TWICE.items():
            true = np.array(curve)
            gains = true[:, :1] + 0.0065 * rng.standard_normal((len(true), 2))
            drifts = true[:, 1:] * np.exp(0.083 * rng.standard_normal((len(true), 2)))
            sweeps[name] = [
                SweepPoint(np.repeat(g[:, None], N, 1), np.repeat(k[:, None], 32, 1))
                for g, k in zip(gains, drifts, strict=True)
            ]
        curves = measured_curves(sweeps, start, "kl", draws=400)
        for first, second in PAIRS[:2]:
            if curves[first].reaches(at) and curves[second].reaches(at):
                alone = measured_curves(sweeps, start, "kl", draws=400, only=(first, second))
                found = ratio_of(alone[first], alone[second], at)
                lows = [
                    crossing(gains[None], np.log(heights)[None], at)[0]
                    for gains, heights in (np.array(TWICE[name]).T for name in (first, second))
                ]
                if found.bounded:
                    truth = np.exp(lows[0] - lows[1])
                    covered[first, second].append(found.low <= truth <= found.high)
    for pair, hits in covered.items():
        assert len(hits) > 0.75 * trials, pair
        assert covers(np.mean(hits), len(hits), 0.92, 0.98), (pair, np.mean(hits), len(hits))
