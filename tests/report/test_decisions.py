"""Holm's procedure by intervals, and the setting that is chosen."""

import numpy as np
import pytest

from smf_lib.report.analysis.decisions import first_reaching, holm, holm_p


def holm_by_p(p_values, alpha=0.05):
    """The procedure as it is published: on p-values, from the smallest on."""
    order, found = np.argsort(p_values), set()
    for rank, place in enumerate(order):
        if p_values[place] > alpha / (len(p_values) - rank):
            break
        found.add(int(place))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_that_of_the_p_values(seed):
    p_values = np.random.default_rng(seed).beta(0.3, 4, 7)
    found = holm(range(7), lambda i, level: p_values[i] <= 1 - level + 1e-15)
    assert found == holm_by_p(p_values)


@pytest.mark.parametrize("seed", range(5))
def test_corrected_p_values_decide_as_the_procedure_does(seed):
    p_values = list(np.random.default_rng(seed).beta(0.3, 4, 7))
    corrected = holm_p(p_values)
    for alpha in (0.01, 0.05, 0.2):
        assert {i for i, p in enumerate(corrected) if p <= alpha} == holm_by_p(p_values, alpha)
    assert max(corrected) <= 1 and holm_p([]) == []


def test_an_empty_family_decides_nothing():
    assert holm([], lambda i, level: True) == set()


def test_true_differences_of_zero_are_rarely_decided_in_a_family():
    rng = np.random.default_rng(0)
    families = rng.random((2000, 10))
    wrong = np.mean([bool(holm(p, lambda p_value, level: p_value <= 1 - level)) for p in families])
    assert 0.03 <= wrong <= 0.07


def test_the_first_setting_within_one_paired_error_is_taken():
    goal = [1] * 60 + [0] * 40
    near = [0] * 2 + [1] * 60 + [0] * 38  # 2 answers each way
    less = [1] * 56 + [0] * 44  # 4 answers lost and none gained: twice their error
    assert first_reaching(goal, [less, near, goal]) == 1
    with pytest.raises(ValueError, match="none of 1 settings is as accurate as the goal"):
        first_reaching(goal, [less])
