"""The learning rate that a sweep chooses."""

import pytest
from helpers_records import make_record

from smf_lib.report.analysis.rates import best_learning_rates, equal_gain_rates
from smf_lib.study.records.results import ResultsError


def run(rate, exam):
    return make_record("lora", rate=rate, exam=list(exam))


def test_best_learning_rate_is_the_lowest_within_one_paired_error():
    """The error is that of the answers that differ, not that of each accuracy."""
    best = [1] * 60 + [0] * 40
    near = [0] * 2 + [1] * 60 + [0] * 38  # 2 answers each way
    less = [1] * 56 + [0] * 44  # 4 answers lost and none gained: twice their error
    assert best_learning_rates([run(1e-4, less), run(1e-3, near), run(1e-2, best)]) == {
        "lora": 1e-3
    }
    assert best_learning_rates([run(1e-4, less), run(1e-2, best)]) == {"lora": 1e-2}
    scattered = [0] * 14 + [1] * 56 + [0] * 30  # 14 lost, 10 gained: within their error
    assert best_learning_rates([run(1e-4, scattered), run(1e-2, best)]) == {"lora": 1e-4}
    assert best_learning_rates([make_record("base")]) == {}


def test_rates_on_other_questions_are_refused():
    other = make_record("lora", rate=1e-3, split="validation")
    with pytest.raises(ResultsError, match="different data or splits"):
        best_learning_rates([make_record("lora", rate=1e-4), other])


def test_a_rate_at_which_training_diverged_is_not_chosen():
    rates = {1e-5: [1, 0] * 20, 1e-4: [1, 1] * 20, 1e-3: [float("nan")] * 40}
    records = [make_record("lora", rate=rate, exam=exam) for rate, exam in rates.items()]
    assert best_learning_rates(records)["lora"] == 1e-4
    assert best_learning_rates(records[2:]) == {}


def test_methods_take_the_lowest_rate_that_learns_as_much_as_the_reference():
    lora = {1e-4: [1] * 40 + [0] * 60, 1e-3: [1] * 60 + [0] * 40}
    full = {
        1e-5: [1] * 40 + [0] * 60,
        1e-4: [0] * 2 + [1] * 60 + [0] * 38,
        1e-3: [1] * 80 + [0] * 20,
    }
    weak = {1e-2: [1] * 30 + [0] * 70, 1e-1: [1] * 45 + [0] * 55}
    records = [
        make_record(method, rate=rate, exam=exam)
        for method, runs in (("lora", lora), ("full", full), ("smf-kl", weak))
        for rate, exam in reversed(runs.items())
    ]
    assert equal_gain_rates(records) == {"lora": 1e-3, "full": 1e-4, "smf-kl": 1e-1}
    assert best_learning_rates(records)["full"] == 1e-3
    with pytest.raises(ValueError, match="reference='osf' was not swept"):
        equal_gain_rates(records, "osf")


def test_a_goal_on_other_questions_is_refused():
    records = [make_record("lora", rate=1e-3), make_record("full", rate=1e-4, split="validation")]
    with pytest.raises(ResultsError, match="different data or splits"):
        equal_gain_rates(records)
