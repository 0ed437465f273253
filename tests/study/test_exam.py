"""The exam: fair questions, disjoint and stable splits, honest baselines."""

import re
from collections import Counter
from types import SimpleNamespace

import pytest
import simple_icd_10_cm as icd

from smf_lib.study.tasks.exam import Exam, ExamQuestion, build_icd10, continuation, prompt


def settings(train=1000, validation=200, test=400, seed=0, name="icd10"):
    return SimpleNamespace(
        name=name, train_rows=train, validation_rows=validation, test_rows=test, seed=seed
    )


@pytest.fixture(scope="module")
def exam():
    return build_icd10(settings())


@pytest.fixture(scope="module")
def questions(exam):
    return exam.train + exam.validation + exam.test


def title_of(question):
    return re.fullmatch(r'In which ICD-10-CM block is "(.+)" classified\?', question.question)[1]


def block_title(code):
    return re.sub(r"\([A-Z0-9-]+\)$", "", icd.get_description(code, prioritize_blocks=True)).strip()


def block_of(code):
    return block_title(icd.get_parent(code))


def test_the_splits_have_the_rows_asked_for_and_share_no_category(exam, questions):
    assert (len(exam.train), len(exam.validation), len(exam.test)) == (1000, 200, 400)
    assert len({question.id for question in questions}) == 1600
    assert len({question.question for question in questions}) == 1600


def test_the_right_option_is_the_categorys_own_block(questions):
    for question in questions:
        assert icd.is_category(question.id)
        assert title_of(question) == icd.get_description(question.id)
        assert question.options[question.answer] == block_of(question.id)


def test_there_are_four_different_options_and_one_is_right(questions):
    for question in questions:
        assert len(set(question.options)) == 4
        ancestors = {block_title(code) for code in icd.get_ancestors(question.id)}
        assert len(ancestors & set(question.options)) == 1


def test_no_option_repeats_the_title_and_none_shows_codes(questions):
    for question in questions:
        title = title_of(question).lower()
        for option in question.options:
            assert title not in option.lower()
            assert not re.search(r"\([A-Z]\d", option)
        assert question.options[question.answer].lower() not in title


def test_one_or_two_wrong_options_come_from_the_same_chapter(questions):
    chapters = {}
    for code in icd.get_all_codes(True):
        if icd.is_category(code):
            chapters[block_of(code)] = icd.get_ancestors(code)[-1]
    near = Counter(
        sum(chapters[option] == chapters[block_of(question.id)] for option in question.options) - 1
        for question in questions
    )
    assert near[1] + near[2] > 0.99 * len(questions)
    assert min(near[1], near[2]) > 0.45 * len(questions)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_right_answer_stands_equally_often_in_each_place(exam, split):
    places = Counter(question.answer for question in exam.split(split))
    assert max(places.values()) - min(places.values()) <= 2


def test_length_and_frequency_do_not_give_the_answer_away(exam, questions):
    def share(pick):
        return sum(pick(q.options) == q.options[q.answer] for q in questions) / len(questions)

    assert 0.2 < share(lambda options: max(options, key=len)) < 0.3
    assert 0.2 < share(lambda options: min(options, key=len)) < 0.3
    assert 0.2 < exam.majority("test") < 0.3
    assert exam.chance() == exam.chance("train") == 0.25


def test_the_same_seed_gives_the_same_exam_and_another_seed_another(exam):
    assert build_icd10(settings()) == exam
    other = build_icd10(settings(seed=1))
    assert other.sha256 != exam.sha256
    assert [q.id for q in other.test] != [q.id for q in exam.test]


def test_the_number_of_rows_does_not_change_the_questions(exam):
    small = build_icd10(settings(train=50, validation=20, test=400))
    assert small.test == exam.test
    assert small.validation == exam.validation[:20]
    assert small.train == exam.train[:50]
    assert small.sha256 != exam.sha256


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("rows", [5000, -1])
def test_too_many_rows_are_refused_by_field_value_and_number(split, rows):
    with pytest.raises(ValueError, match=rf"exam\.{split}_rows {rows} must be from 0 to \d+"):
        build_icd10(settings(**{split: rows}))


def test_an_unknown_exam_and_an_unknown_split_are_named(exam):
    with pytest.raises(ValueError, match="exam.name 'bar' is unknown.*'icd10'"):
        build_icd10(settings(name="bar"))
    with pytest.raises(ValueError, match="split 'dev' is unknown; choose one of train, "):
        exam.split("dev")


def test_majority_shares_the_credit_of_a_tie():
    def question(answer, *options):
        return ExamQuestion("A", "?", list(options), answer)

    train = [question(0, "a", "b", "c", "d"), question(1, "a", "b", "c", "d")]
    test = [question(0, "a", "b", "x", "y"), question(2, "a", "x", "y", "z")]
    assert Exam("made up", train, [], test, "").majority("test") == pytest.approx(0.25)


def test_prompt_and_continuation_join_without_a_stray_blank(exam):
    question = exam.test[0]
    text = prompt(question) + continuation(question.options[0])
    assert text == f"Question: {question.question}\nAnswer: {question.options[0]}"
