"""What every exam has: splits, the majority baseline, and the text of a question."""

import math

import pytest

from smf_lib.study.tasks.exam import (
    Exam,
    ExamQuestion,
    as_text,
    continuation,
    counts_from_one,
    prompt,
)


def question(answer, *options):
    return ExamQuestion("A", "Which?", list(options), answer)


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="split 'dev' is unknown; choose one of train, "):
        Exam("made up", [], [], [], "").split("dev")


def test_chance_is_the_mean_over_the_questions_that_are_scored():
    test = [question(0, "a", "b"), question(1, "a", "b", "c", "d")]
    made = Exam("made up", test[1:], [], test, "")
    assert made.chance() == (1 / 2 + 1 / 4) / 2
    assert (made.chance(rows=1), made.chance("train")) == (1 / 2, 1 / 4)


def test_majority_shares_the_credit_of_a_tie():
    train = [question(0, "a", "b", "c", "d"), question(1, "a", "b", "c", "d")]
    test = [question(0, "a", "b", "x", "y"), question(2, "a", "x", "y", "z")]
    assert Exam("made up", train, [], test, "").majority("test") == pytest.approx(0.25)


def test_prompt_and_continuation_join_without_a_stray_blank():
    text = prompt(question(0, "one", "two")) + continuation("one")
    assert text == "Question: Which?\nAnswer: one"


@pytest.mark.parametrize(
    "cell, text", [(None, ""), (math.nan, ""), (" a ", "a"), (0, "0"), (1.5, "1.5"), ("nan", "nan")]
)
def test_a_missing_cell_says_nothing(cell, text):
    assert as_text(cell) == text


@pytest.mark.parametrize("options, many", [(2, 24), (4, 48), (10, 120)])
def test_many_answers_without_a_first_option_count_from_one(options, many):
    texts = [f"option {place}" for place in range(options)]
    asked = [question(1 + n % (options - 1), *texts) for n in range(many)]
    assert counts_from_one(asked)
    assert not counts_from_one(asked[1:])  # so few may have none by chance
    assert not counts_from_one([*asked, question(0, *texts)])
