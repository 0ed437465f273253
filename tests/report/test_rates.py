"""The learning rate that a sweep chooses."""

from helpers_records import make_record

from smf_lib.report.analysis.rates import best_learning_rates


def test_best_learning_rate_is_the_lowest_within_one_standard_error():
    def run(rate, right):
        return make_record("lora", rate=rate, exam=[1] * right + [0] * (100 - right))

    chosen = best_learning_rates([run(1e-4, 50), run(1e-3, 56), run(1e-2, 60)])
    assert chosen == {"lora": 1e-3}  # 60 % of 100 questions has a standard error of 4.9 points
    assert best_learning_rates([make_record("base")]) == {}


def test_a_rate_at_which_training_diverged_is_not_chosen():
    rates = {1e-5: [1, 1, 0, 0], 1e-4: [1, 1, 1, 0], 1e-3: [float("nan")] * 4}
    records = [make_record("lora", rate=rate, exam=exam) for rate, exam in rates.items()]
    assert best_learning_rates(records)["lora"] == 1e-4
    assert best_learning_rates(records[2:]) == {}
