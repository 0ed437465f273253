"""Learning rates tried on the paper's task: what the table holds, and what is said of the best."""

from pathlib import Path

import pytest
from helpers_records import make_record

from smf_lib.report.paper import swept
from smf_lib.study.profiles import load_profile
from smf_lib.study.records.results import read_records

RECORDED = Path(__file__).parents[2] / "results/medmcqa-qwen-coder-sweep/reference"
PROFILE = load_profile("medmcqa")  # SMF has 3e-2, LoRA 2e-4
N = 400
ASKED = (160, 100, 80, 60)  # questions by the letter of their right option


def right(n):
    return [1] * n + [0] * (N - n)


def run(method, rate, n, **changes):
    return make_record(method, rate=rate, exam=right(n), **changes)


def lettered(method, rate, by_letter):
    """A run whose answers are counted by letter, so many of `ASKED` right."""
    answers = [letter for letter, asked in enumerate(ASKED) for _ in range(asked)]
    exam = [int(i < n) for n, asked in zip(by_letter, ASKED) for i in range(asked)]
    record = make_record(method, rate=rate, exam=exam)
    record.settings["exam"] = {"format": "lettered"}
    record.by_answer["exam_accuracy"] = list(zip(by_letter, ASKED))
    record.answers["exam_accuracy"] = answers
    return record


def sentences(*records):
    return swept.rates_sentences(records, PROFILE)


def test_table_has_a_row_a_rate_with_its_gain():
    table = swept.rates_table(
        [run("base", 0, 100), run("smf-kl", 1e-1, 160), run("smf-kl", 1e-2, 120)]
    )
    assert list(table["Learning rate"]) == ["1e-2", "1e-1"]
    assert [cell.split()[0] for cell in table["Right (%)"]] == ["30.0", "40.0"]
    assert [cell.split()[0] for cell in table["Gain (points)"]] == ["+5.0", "+15.0"]
    assert len(table.columns) == 4  # no second score where none was measured


def test_stage_one_and_runs_that_diverged_have_no_row():
    stage1 = run("retrofit-additive", 5e-4, 110)
    stage1.settings["method"]["stage"] = "retrofit"
    lost = make_record("smf-kl", rate=1.0, exam=[float("nan")] * N)
    table = swept.rates_table([run("base", 0, 100), stage1, lost, run("smf-kl", 1e-2, 120)])
    assert list(table["Learning rate"]) == ["1e-2"]


def test_a_rate_that_gains_less_than_the_best_is_told_so():
    base, low, own, best = (
        run("base", 0, 100), run("smf-kl", 1e-2, 110),
        run("smf-kl", 3e-2, 120), run("smf-kl", 1e-1, 200),
    )  # fmt: skip
    (told,) = sentences(base, low, own, best, run("smf-kl", 3e-1, 150))
    assert told.startswith("**SMF, KL** gains most at 1e-1: +25.0 [")
    assert "`medmcqa` has 3e-2, which gains less (-20.0 [" in told
    assert "end of what was tried" not in told and "nothing" not in told


def test_a_rate_that_is_level_with_the_best_or_is_the_best_is_told_so():
    base = run("base", 0, 100)
    (told,) = sentences(base, run("smf-kl", 3e-2, 197), run("smf-kl", 1e-1, 198))
    assert "gains most at 1e-1, the end of what was tried: +24.5" in told
    assert "has 3e-2, which is not told apart from it (-0.3 [" in told
    (told,) = sentences(base, run("smf-kl", 3e-2, 199), run("smf-kl", 1e-1, 198))
    assert told.endswith("`medmcqa` has 3e-2 as well.")
    (told,) = sentences(base, run("smf-kl", 2e-2, 199), run("smf-kl", 1e-1, 198))
    assert told.endswith("`medmcqa` has 3e-2, which was not tried.")


def test_a_best_that_is_level_with_the_base_model_is_not_a_gain():
    (told,) = sentences(
        run("base", 0, 100), run("smf-kl", 3e-2, 99), run("smf-kl", 1e-1, 101),
        run("smf-kl", 3e-1, 60),
    )  # fmt: skip
    assert "which is not told apart from nothing" in told


def test_one_rate_is_no_sweep_and_no_base_no_gain():
    runs = [run("smf-kl", 3e-2, 120), run("smf-kl", 1e-1, 150), run("lora", 2e-4, 160)]
    told = sentences(run("base", 0, 100), *runs)
    assert len(told) == 2 and told[1] == "At one rate only: LoRA r 16."
    assert sentences(*runs) == [] and "Gain (points)" not in swept.rates_table(runs)


def test_a_preference_for_one_letter_is_no_gain():
    """Always A is right on 160 of 400 and gains 15 points, none of balanced accuracy."""
    base = lettered("base", 0, (40, 25, 20, 15))
    always, learned = (
        lettered("smf-kl", 3e-2, (160, 0, 0, 0)), lettered("smf-kl", 1e-1, (60, 40, 30, 20))
    )  # fmt: skip
    (told,) = sentences(base, always, learned)
    assert "gains most at 1e-1, the end of what was tried: +12" in told
    table = swept.rates_table([base, always, learned])
    assert [cell.split()[0] for cell in table["Right (%)"]] == ["40.0", "37.5"]
    assert table["Gain (points)"][0].split()[0] == "+0.0"


def test_letters_without_their_counts_are_left_out():
    runs = [lettered("base", 0, (40, 25, 20, 15)), lettered("smf-kl", 3e-2, (60, 40, 30, 20))]
    for record in runs:
        record.by_answer.clear()
    assert swept.rates_table(runs).empty and sentences(*runs) == []


@pytest.mark.skipif(not RECORDED.is_dir(), reason="no sweep of MedMCQA is on record")
def test_the_recorded_sweep_scores_no_test_question_and_has_five_rates_a_method():
    records = read_records(RECORDED)
    assert {record.data.exam.split for record in records} == {"validation"}
    table = swept.rates_table(records)
    counted = table.groupby("Method").size()
    assert (counted[counted > 1] >= 5).all()
