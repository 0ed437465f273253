"""What every exam has: splits, the majority baseline, and the text of a question."""

import pytest

from smf_lib.study.tasks.exam import Exam, ExamQuestion, continuation, prompt


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
