"""Drift at equal gain, on curves whose answer is known."""

import numpy as np
import pytest

from smf_lib.report.analysis.equal_gain import SweepPoint, crossing, drift_at_equal_gain

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
        "smf": [point(0.0, 0.0), point(0.4, 0.04)],
    }
    result = drift_at_equal_gain(sweeps, BASE, "kl", reference="lora", at=0.2)
    assert result.at == 0.2 and result.reason == ""
    assert result.drifts["lora"].value == pytest.approx(0.3)
    assert result.drifts["smf"].value == pytest.approx(0.02)
    assert result.drifts["lora"].low < 0.3 < result.drifts["lora"].high
    assert result.excess["smf"].value == pytest.approx(-0.28)
    assert result.excess["smf"].clear and set(result.excess) == {"smf"}


def test_default_gain_is_one_that_all_reach():
    sweeps = {
        "a": [point(0.05, 0.0), point(0.30, 0.2)],
        "b": [point(0.05, 0.0), point(0.20, 0.1)],
    }
    result = drift_at_equal_gain(sweeps, BASE, "kl")
    assert 0.15 < result.at < 0.20
    assert all(interval.bounded for interval in result.drifts.values())


def test_no_common_gain_is_said_with_what_each_reaches():
    sweeps = {
        "weak": [point(-0.02, 0.0), point(0.0, 0.1)],
        "strong": [point(0.20, 0.2), point(0.30, 0.4)],
    }
    for at in (None, 0.25):
        result = drift_at_equal_gain(sweeps, BASE, "kl", at=at)
        assert np.isnan(result.at) and not result.drifts
        assert "weak +0.0, strong +30.0" in result.reason


def test_curves_start_at_the_base_model():
    sweeps = {"m": [point(0.2, 0.4), point(0.3, 0.9)]}
    result = drift_at_equal_gain(sweeps, BASE, "kl", at=0.1)
    assert result.drifts["m"].value == pytest.approx(0.2) and result.drifts["m"].bounded


def test_a_run_that_diverged_is_left_out():
    good = {"m": [point(0.2, 0.4), point(0.3, 0.9)]}
    lost = SweepPoint(exam=np.full(len(BASE.exam), np.nan), probe=np.full(50, 0.9))
    wanted = drift_at_equal_gain(good, BASE, "kl")
    found = drift_at_equal_gain({"m": [*good["m"], lost]}, BASE, "kl")
    assert found == wanted and found.drifts["m"].bounded
    one_left = drift_at_equal_gain({"m": [point(0.2, 0.4), lost]}, BASE, "kl")
    assert "m has one point only" in one_left.reason


def test_gain_and_drift_of_a_method_are_those_of_the_same_seeds():
    """Where a seed's drift is its gain, drift at a gain is known as well as the curve is."""
    seeds = np.array([0.1, 0.2, 0.3])[:, None] * np.ones((1, 400))
    base = SweepPoint(np.zeros(400), np.zeros(400))
    points = [SweepPoint(seeds * f, seeds * f) for f in (0.5, 1.0, 1.5)]
    drift = drift_at_equal_gain({"m": points}, base, "kl", at=0.1).drifts["m"]
    assert drift.value == pytest.approx(0.1)
    assert 0.09 < drift.low <= drift.high < 0.11


def test_single_points_make_no_curve():
    result = drift_at_equal_gain({"a": [point(0.1, 0.1)]}, BASE, "kl")
    assert "a has one point only" in result.reason
    assert "no method" in drift_at_equal_gain({}, BASE, "kl").reason


def test_bounds_are_withheld_at_the_edge_of_a_curve():
    sweeps = {"a": [point(0.05, 0.0), point(0.20, 0.1)]}
    result = drift_at_equal_gain(sweeps, BASE, "kl", at=0.199)
    assert result.drifts["a"].known and not result.drifts["a"].bounded
    assert "not reached" in result.drifts["a"].reason


def test_perplexity_and_accuracy_drifts():
    tokens = np.full(20, 100.0)

    def pairs(nll):
        return np.stack([nll * tokens, tokens], axis=1)

    base = SweepPoint(right(0.4), pairs(3.0))
    curve = [SweepPoint(right(0.4), pairs(3.0)), SweepPoint(right(0.6), pairs(3.0 + np.log(1.1)))]
    change = drift_at_equal_gain({"m": curve}, base, "perplexity", at=0.1)
    assert change.drifts["m"].value == pytest.approx(0.05)
    base = SweepPoint(right(0.4), right(0.5))
    curve = [SweepPoint(right(0.4), right(0.5)), SweepPoint(right(0.6), right(0.4))]
    lost = drift_at_equal_gain({"m": curve}, base, "accuracy", at=0.1)
    assert lost.drifts["m"].value == pytest.approx(0.05)


def test_seeds_are_counted():
    many = SweepPoint(np.stack([right(0.6)] * 3), np.full((3, 50), 0.2))
    sweeps = {"m": [SweepPoint(np.stack([right(0.4)] * 3), np.zeros((3, 50))), many]}
    assert drift_at_equal_gain(sweeps, BASE, "kl", at=0.1).drifts["m"].seeds == 3


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="probe='bleu'.*perplexity, accuracy, kl"):
        drift_at_equal_gain({}, BASE, "bleu")
    with pytest.raises(ValueError, match="reference='x'"):
        drift_at_equal_gain({"a": []}, BASE, "kl", reference="x")
