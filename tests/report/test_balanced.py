"""Balanced accuracy: against plain computations, a simulation, and what it must not reward."""

import math

import numpy as np
import pytest
from helpers_records import make_record, paper_records

from smf_lib.report.analysis.arms import group_arms
from smf_lib.report.analysis.balanced import (
    balanced_change,
    balanced_level,
    has_answers,
    shares_right,
)
from smf_lib.report.analysis.stats import accuracy_difference
from smf_lib.report.paper import arm_tables, ordering
from smf_lib.study.recording import right_by_answer
from smf_lib.study.records.record import Record
from smf_lib.study.records.results import ResultsError
from smf_lib.study.tasks.exam import ExamQuestion

EXAM = "exam_accuracy"
ASKED = (160, 100, 80, 60)  # of the 400 questions of the simulated records


def arm(right, asked=ASKED, method="lora"):
    """An arm whose runs answered so many questions right, by the letter of the right option."""
    runs = []
    for seed, counts in enumerate(right):
        total, n = sum(counts), sum(asked)
        record = make_record(method, exam=[1] * total + [0] * (n - total), seed=seed)
        record.by_answer[EXAM] = list(zip(counts, asked))
        runs.append(Record.model_validate(record.model_dump()))
    (made,) = group_arms(runs)
    return made


def test_it_is_the_mean_of_the_shares():
    some = arm([(80, 25, 60, 6)])
    assert shares_right(some, EXAM) == [50, 25, 75, 10]
    assert balanced_level(some, EXAM).value == pytest.approx(40)
    other = arm([(40, 25, 60, 6)])
    assert balanced_change(some, other, EXAM).value == pytest.approx(25 / 4)


@pytest.mark.parametrize("letter", range(4))
def test_a_letter_given_always_earns_a_quarter(letter):
    always = [n * (place == letter) for place, n in enumerate(ASKED)]
    level = balanced_level(arm([always]), EXAM)
    assert level.value == pytest.approx(25) and level.low < 25 < level.high


def test_an_answer_that_is_never_right_does_not_count():
    level = balanced_level(arm([(80, 25, 0)], (160, 100, 0)), EXAM)
    assert level.value == pytest.approx((50 + 25) / 2)
    assert math.isnan(shares_right(arm([(80, 25, 0)], (160, 100, 0)), EXAM)[2])


@pytest.mark.parametrize("chances", [(0.5, 0.25, 0.75, 0.1), (0.99, 0.02, 0.01, 0.0)])
def test_intervals_cover_as_often_as_they_say(chances):
    rng = np.random.default_rng(0)
    truth, covered = 100 * np.mean(chances), 0
    for _ in range(400):
        level = balanced_level(arm([rng.binomial(ASKED, chances).tolist()]), EXAM)
        covered += level.low <= truth <= level.high
    assert 0.92 * 400 <= covered


def test_seeds_that_differ_widen_the_interval():
    def width(right):
        level = balanced_level(arm(right), EXAM)
        assert level.seeds == len(right)
        return level.high - level.low

    same, apart = [(80, 25, 40, 6)] * 3, [(80, 25, 40, 6), (120, 25, 40, 6), (40, 25, 40, 6)]
    assert width(same) == pytest.approx(width(same[:1])) and width(apart) > 1.5 * width(same)


def lettered_arm(outcomes, letters, method):
    """An arm of a run a row of `outcomes`, (seeds, n); records say each question's letter."""
    runs = []
    for seed, items in enumerate(outcomes):
        record = make_record(method, exam=items.tolist(), seed=seed)
        asked = np.bincount(letters).tolist()
        counts = np.bincount(letters, weights=items).astype(int).tolist()
        record.by_answer[EXAM], record.answers[EXAM] = list(zip(counts, asked)), letters.tolist()
        runs.append(Record.model_validate(record.model_dump()))
    (made,) = group_arms(runs)
    return made


def test_differences_paired_by_question_cover_and_are_narrower():
    """Two models that agree on most questions, three quarters of which have the answer A."""
    rng = np.random.default_rng(0)
    letters = np.repeat([0, 1, 2], (150, 30, 20))
    chance, gain = np.array([0.7, 0.3, 0.2]), np.array([0.05, 0.2, 0.3])
    truth, covered, narrower = 100 * gain.mean(), 0, 0
    for _ in range(300):
        before = rng.random(200) < chance[letters]
        turned = rng.random(200) < (gain / (1 - chance))[letters]
        both = [
            lettered_arm(x[None].astype(int), letters, name)
            for x, name in ((before | turned, "lora"), (before, "base"))
        ]
        change = balanced_change(*both, EXAM)
        covered += change.low <= truth <= change.high
        for made in both:
            made.first.answers.clear()
        apart = balanced_change(*both, EXAM)
        assert apart.value == change.value
        narrower += change.high - change.low < apart.high - apart.low
    assert 0.93 * 300 <= covered and narrower == 300


def test_letters_that_do_not_fit_the_counts_are_refused():
    made = lettered_arm(np.array([[1, 0, 1]]), np.array([0, 1, 1]), "lora").first
    assert '"answers":{"exam_accuracy":"011"}' in made.model_dump_json()
    assert Record.model_validate_json(made.model_dump_json()).answers == made.answers
    with pytest.raises(ValueError, match="answers.exam_accuracy are not those"):
        Record.model_validate(made.model_dump() | {"answers": {EXAM: [0, 0, 1]}})


def test_an_arm_without_counts_is_one_clear_error():
    (bare,) = group_arms([make_record("lora")])
    assert not has_answers(bare, EXAM)
    with pytest.raises(ResultsError, match="do not hold exam_accuracy by answer"):
        balanced_level(bare, EXAM)


def test_counts_are_those_of_the_questions():
    places = [0, 2, 2, 1, 0]
    questions = [ExamQuestion(str(i), "", ["a", "b", "c"], p) for i, p in enumerate(places)]
    wanted = [(1, 1), (0, 1), (1, 2)]  # the last question was not scored
    assert right_by_answer(questions, [1.0, 1.0, 0.0, 0.0]) == wanted
    assert right_by_answer(questions, [math.nan, 1.0, 0.0, 0.0])[0] == (0, 1)


def test_counts_that_do_not_fit_the_items_are_refused():
    record = make_record("lora", exam=[1, 0, 1])
    for counts in ([(2, 2)], [(1, 2), (0, 1)], []):
        with pytest.raises(ValueError, match="by_answer.exam_accuracy counts"):
            Record.model_validate(record.model_dump() | {"by_answer": {EXAM: counts}})


def lettered_records():
    """A study in which LoRA has learned some answers, and full finetuning to say A."""
    right = {
        "base": (16, 69, 20, 8), "lora": (90, 55, 50, 40), "full": (155, 5, 4, 2),
        "additive-kl": (20, 66, 22, 8),
    }  # fmt: skip
    records = paper_records(methods=right)
    for record in records:
        counts = right[record.method]
        record.settings["exam"] = {"format": "lettered"}
        items = [1] * sum(counts) + [0] * (400 - sum(counts))
        record.metrics[EXAM] = record.metrics[EXAM].model_copy(update={"items": items})
        record.by_answer[EXAM] = list(zip(counts, ASKED))
        record.baselines.majority = 0.4
    return records


def test_the_table_splits_accuracy_by_letter():
    table = arm_tables.letters_table(lettered_records(), EXAM).set_index("Method")
    row = table.loc["Full finetuning"]
    assert list(row[[f"Right is {letter}" for letter in "ABCD"]]) == ["97", "5", "5", "3"]
    assert row["Balanced accuracy (%)"].startswith("27.6 [")
    assert table.loc["LoRA r 16", "Its change (points)"].startswith("+30.8 [")
    assert table.loc["Base", "Its change (points)"] == arm_tables.DASH
    assert arm_tables.letters_table(lettered_records(), "letter_accuracy").empty
    assert arm_tables.letters_table(paper_records(methods=("base", "lora")), EXAM).empty


def test_a_gain_that_is_a_letter_is_told_from_one_that_is_not():
    told = ordering.learning_sentence(lettered_records())
    assert "gain clearly on the exam: Full finetuning; LoRA r 16, the other does not." in told
    assert "most often right in training (40.0 %): LoRA r 16." in told
    assert "does not raise: by the paper's score LoRA r 16." in told
    assert told.endswith("May be no more than a letter: Full finetuning.")


def test_a_gain_by_either_score_is_more_than_a_letter_and_without_counts_none_is():
    records = lettered_records()
    full = next(record for record in records if record.method == "full")
    for record in records:
        counts = (90, 55, 50, 40) if record is full else (16, 69, 20, 8)
        items = [1] * sum(counts) + [0] * (400 - sum(counts))
        metric = record.metrics[EXAM].model_copy(update={"items": items})
        record.metrics["letter_accuracy"] = metric
        record.by_answer["letter_accuracy"] = list(zip(counts, ASKED))
    told = ordering.learning_sentence(records)
    assert told.endswith("by the paper's score LoRA r 16, by lm-eval's Full finetuning.")
    for record in records:
        record.by_answer.clear()
    told = ordering.learning_sentence(records)
    assert told.endswith("May be no more than a letter: Full finetuning; LoRA r 16.")


def test_an_arm_is_held_against_the_letter_on_the_same_questions():
    """Of two arms as accurate, the one that answers as the letter does is told from it sooner."""
    asked, n = (130, 90, 90, 90), 400
    intervals = {}
    for name, right in {"alike": (128, 20, 15, 15), "unlike": (40, 50, 44, 44)}.items():
        made = arm([right], asked)
        made.first.baselines.majority = 130 / n
        found = ordering._over_one_letter(made, 0.95)
        assert found.value == pytest.approx((178 - 130) / n)
        both, only, letter = right[0], sum(right[1:]), 130 - right[0]
        plain = accuracy_difference(
            [1] * both + [0] * letter + [1] * only + [0] * (n - 130 - only), [1] * 130 + [0] * 270
        )
        assert (found.low, found.high) == (plain.low, plain.high)
        intervals[name] = found.high - found.low
    assert 1.5 * intervals["alike"] < intervals["unlike"]
