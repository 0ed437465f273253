"""The learning rate that a sweep chooses."""

from pathlib import Path

import pytest
from helpers_records import make_record

from smf_lib.report.analysis.rates import equal_gain_rates
from smf_lib.study.profiles import load_profile
from smf_lib.study.records.results import ResultsError, read_records

SWEEP = Path(__file__).parents[2] / "results/sweep/reference"


@pytest.fixture(scope="module")
def sweep():
    """The recorded sweep."""
    return read_records(SWEEP)


def run(rate, exam):
    return make_record("lora", rate=rate, exam=list(exam))


def test_a_method_alone_takes_its_lowest_rate_within_one_paired_error_of_its_best():
    """The error is that of the answers that differ, not that of each accuracy."""
    best = [1] * 60 + [0] * 40
    near = [0] * 2 + [1] * 60 + [0] * 38  # 2 answers each way
    less = [1] * 56 + [0] * 44  # 4 answers lost and none gained: twice their error
    assert equal_gain_rates([run(1e-4, less), run(1e-3, near), run(1e-2, best)]) == {"lora": 1e-3}
    assert equal_gain_rates([run(1e-4, less), run(1e-2, best)]) == {"lora": 1e-2}
    scattered = [0] * 14 + [1] * 56 + [0] * 30  # 14 lost, 10 gained: within their error
    assert equal_gain_rates([run(1e-4, scattered), run(1e-2, best)]) == {"lora": 1e-4}
    assert equal_gain_rates([make_record("base")]) == {}


def test_rates_on_other_questions_are_refused():
    other = make_record("lora", rate=1e-3, split="validation")
    with pytest.raises(ResultsError, match="different data or splits"):
        equal_gain_rates([make_record("lora", rate=1e-4), other])


def test_a_rate_at_which_training_diverged_is_not_chosen():
    rates = {1e-5: [1, 0] * 20, 1e-4: [1, 1] * 20, 1e-3: [float("nan")] * 40}
    records = [make_record("lora", rate=rate, exam=exam) for rate, exam in rates.items()]
    assert equal_gain_rates(records)["lora"] == 1e-4
    assert equal_gain_rates(records[2:]) == {}


def test_methods_take_the_lowest_rate_at_which_all_learn_equally_much():
    """The goal is what the memory, which learns least, reaches at its best: 60 of 100."""
    right = {n: [1] * n + [0] * (100 - n) for n in (30, 40, 60, 70, 80)}
    near = [0] * 2 + [1] * 60 + [0] * 38  # 2 answers each way: within the error
    runs = {
        "lora": {1e-4: right[40], 1e-3: right[70], 2e-3: right[80]},
        "full": {1e-5: right[40], 1e-4: near, 1e-3: right[80]},
        "smf-kl": {1e-2: right[30], 1e-1: right[60], 1.0: right[40]},
    }
    records = [
        make_record(method, rate=rate, exam=exam)
        for method, of in runs.items()
        for rate, exam in reversed(of.items())
    ]
    assert equal_gain_rates(records) == {"lora": 1e-3, "full": 1e-4, "smf-kl": 1e-1}
    assert equal_gain_rates([make_record("base")]) == {}


def test_quick_takes_the_rates_that_the_recorded_sweep_chooses(sweep):
    assert {record.data.exam.split for record in sweep} == {"validation"}
    quick = load_profile("quick").methods
    trained = {name: method.learning_rate for name, method in quick.items() if name != "base"}
    assert trained == equal_gain_rates(sweep)


def test_no_chosen_rate_is_at_an_end_of_what_was_tried(sweep):
    """At an end of the grid, a rate beyond it might have been the one."""
    tried = {}
    for record in sweep:
        tried.setdefault(record.method, set()).add(record.learning_rate)
    chosen = equal_gain_rates(sweep)
    at_an_end = {
        method: rate
        for method, rate in chosen.items()
        if rate in (min(tried[method]), max(tried[method]))
    }
    assert chosen and not at_an_end
