"""Floors of an exam: the right accuracy on exams small enough to count by hand."""

import math

import pytest

from smf_lib.study.profiles import PROFILE_DIR
from smf_lib.study.records.results import read_records
from smf_lib.study.tasks.exam import Exam, ExamQuestion
from smf_lib.study.tasks.floors import (
    SMOOTHING,
    accuracy,
    bag_of_words,
    floors,
    letters,
    rules,
    words,
)

FOLDERS = sorted((PROFILE_DIR.parent / "results").glob("*/reference"))
RECORDED = [folder for folder in FOLDERS if any(folder.glob("*.json"))]


def question(text, answer, *options):
    return ExamQuestion(text, text, list(options), answer)


def exam(train=(), test=(), **settings):
    return Exam("made up", list(train), [], list(test), "", **settings)


def rate(name, *questions, **settings):
    made = exam(test=questions, **settings)
    return floors(made).rules[name]


def test_ties_share_the_credit():
    asked = [question("?", 0, "a", "b", "c", "d"), question("?", 1, "a", "b", "c", "d")]
    assert accuracy(asked, lambda q: [1, 1, 0, 0]) == 0.5
    assert accuracy(asked, lambda q: [0, 0, 0, 0]) == 0.25
    assert accuracy(asked, lambda q: [2, 1, 0, 0]) == 0.5
    assert accuracy(asked, lambda q: [0, 0, 0, 1]) == 0


@pytest.mark.parametrize(
    "rule, asked, right",
    [
        ("shared words", question("the red apple", 1, "a pear", "one apple", "x", "y"), 1),
        ("shared stems", question("nephritis", 2, "nose", "night", "nephrons", "x"), 1),
        ("shared beginnings", question("nephritis", 0, "negation", "nephew", "x", "y"), 0),
        ("shared endings", question("nephritis", 0, "arthritis", "nephrons", "x", "y"), 1),
        ("shared pairs of letters", question("cat", 3, "dog", "cup", "cow", "cab"), 1),
        ("shared threes of letters", question("renal", 1, "renew", "adrenal", "x", "y"), 1),
        ("shared fours of letters", question("renal", 1, "renew", "adrenal", "x", "y"), 1),
        ("longest", question("?", 1, "aa", "aaa", "a", "aa"), 1),
        ("shortest", question("?", 1, "aa", "aaa", "a", "aa"), 0),
        ("as long as the question", question("four", 2, "a", "aaaaaaaa", "aaaaa", "aaaaaaaaa"), 1),
        ("first", question("?", 0, "a", "b"), 1),
        ("last", question("?", 0, "a", "b"), 0),
    ],
)
def test_what_a_rule_takes(rule, asked, right):
    assert rate(rule, asked) == right


def test_rules_that_count_options_see_the_split_that_is_answered():
    asked = [question("?", 0, "a", "b"), question("?", 0, "a", "c"), question("?", 1, "a", "d")]
    assert rate("offered most", *asked) == pytest.approx(2 / 3)
    assert rate("offered least", *asked) == pytest.approx(1 / 3)


def test_the_commonest_group_is_a_rule_where_options_have_groups():
    asked = question("?", 0, "a", "b", "c", "d")
    assert "commonest group" not in rules(exam(), [asked])
    groups = {"a": "1", "b": "1", "c": "1", "d": "2"}
    assert rate("commonest group", asked, groups=groups) == pytest.approx(1 / 3)


def test_naive_bayes_is_the_formula():
    train = [
        question("red round fruit", 0, "apple", "plum"),
        question("red fruit", 0, "apple", "plum"),
        question("long yellow fruit", 1, "apple", "banana"),
        question("blue thing", 0, "sky", "sea"),
    ]
    known = 6  # red, round, long, yellow, blue, thing; "fruit" stands in more than half
    found = bag_of_words(train, words)(question("a red round thing", 0, "apple", "banana", "sea"))

    def log_likelihood(*counts, total):
        return sum(math.log((n + SMOOTHING) / (total + SMOOTHING * known)) for n in counts)

    assert found == pytest.approx(
        [
            log_likelihood(2, 1, 0, total=3),
            log_likelihood(0, 0, 0, total=2),
            log_likelihood(0, 0, 0, total=0),
        ]
    )


def test_a_bag_of_words_learns_what_it_was_taught_and_guesses_the_rest():
    train = [question("red", 0, "apple", "sky"), question("blue", 1, "apple", "sky")] * 3
    test = [question("a red one", 0, "apple", "sky"), question("the blue one", 1, "apple", "sky")]
    unknown = [question("green", 0, "leaf", "sea")]
    assert floors(exam(train, test)).bags == {"words": 1.0, "letters": 1.0}
    assert floors(exam(train, unknown)).bags == {"words": 0.5, "letters": 0.5}
    assert floors(exam([], test)).bags == {}


def test_what_words_and_letters_are():
    assert words("The 2nd heart-valve, Behçet's") == {"the", "2nd", "heart", "valve", "behçet", "s"}
    assert letters("an ear") == {"^an$", "^ear", "ear$"}
    assert letters("Ear", 2) == {"^e", "ea", "ar", "r$"}


def test_floors_are_of_the_rows_that_are_scored_and_count_their_options():
    train = [question("?", 0, "a", "b", "c")]
    test = [question("?", 0, "a", "b"), question("?", 1, "a", "b", "c", "d")]
    whole, first = floors(exam(train, test)), floors(exam(train, test), rows=1)
    assert (whole.n, whole.chance, whole.majority) == (2, (1 / 2 + 1 / 4) / 2, 0.5)
    assert (first.n, first.chance, first.majority) == (1, 0.5, 1.0)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_split_without_questions_has_no_floor(split):
    with pytest.raises(ValueError, match=f"split='{split}' of exam 'made up' has no question"):
        floors(exam(), split)


@pytest.mark.parametrize("folder", RECORDED, ids=lambda folder: folder.parent.name)
def test_every_recorded_exam_has_all_floors_and_one_study_has_one_of_each(folder):
    names, found = rules(exam(), []).keys(), {}
    for record in read_records(folder):
        kept, asked = record.baselines, record.data.exam
        for floors_kept in (kept, *record.task_baselines.values()):
            assert floors_kept.rules.keys() - {"commonest group"} == names, record.run_id
            assert floors_kept.bags.keys() == {"words", "letters"}, record.run_id
        n = record.metrics["exam_accuracy"].n
        of_all = kept, record.task_baselines
        assert found.setdefault((asked.sha256, asked.split, n), of_all) == of_all, record.run_id
        right = [count for _, count in record.by_answer["exam_accuracy"]]
        assert kept.rules["first"] == pytest.approx(right[0] / n)
        assert kept.rules["last"] == pytest.approx(right[-1] / n)  # all have as many options
    assert found
