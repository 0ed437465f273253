"""The exams about airports: a rule that is asked for new codes, and facts asked in new words."""

import re
from collections import Counter
from functools import cache

import pytest

from smf_lib.study.exams import build_exam
from smf_lib.study.settings import AirportsSettings, CitiesSettings
from smf_lib.study.tasks import airports
from smf_lib.study.tasks.exam import SPLITS
from smf_lib.study.tasks.floors import floors
from smf_lib.study.tasks.options import runs

MOST = {"train_rows": 1000, "validation_rows": 250, "test_rows": 1000}
FACTS = {"train_rows": 992, "validation_rows": 48, "test_rows": 200}


@cache
def countries(seed=0, **rows):
    return build_exam(AirportsSettings(name="airports", seed=seed, **MOST | rows), "/nowhere")


@cache
def cities(seed=0, **rows):
    return build_exam(CitiesSettings(name="cities", seed=seed, **FACTS | rows), "/nowhere")


def code_of(question):
    return question.question.removesuffix("?").split()[-1]


def name_of(question):
    return re.search('"(.+)"', question.question)[1]


def test_a_code_is_in_one_split_and_its_first_letter_leaves_two_countries():
    exam = countries()
    questions = [*exam.train, *exam.validation, *exam.test]
    codes = [code_of(question) for question in questions]
    assert len(set(codes)) == len(codes) == sum(MOST.values())
    letters, names = {}, airports._countries()
    for code, row in airports._airports().items():
        letters.setdefault(names.get(row["country"]), set()).add(code[0])
    for question, code in zip(questions, codes):
        assert sum(code[0] in letters[option] for option in question.options) >= 2


@pytest.mark.parametrize("build, most", [(countries, 0.60), (cities, 1.0)])
def test_nothing_but_training_gives_an_answer_away(build, most):
    found = floors(build())
    assert max(found.rules.values()) <= 0.305
    assert 0.24 <= found.majority <= 0.27 and found.chance == 0.25
    assert found.bags["letters"] == pytest.approx(most, abs=0.02)


def test_the_size_of_one_split_changes_no_other():
    whole, small = countries(), countries(train_rows=8)
    assert small.train == whole.train[:8]
    assert (small.validation, small.test) == (whole.validation, whole.test)


def test_facts_are_trained_in_some_wordings_and_asked_in_another():
    exam = cities()
    facts = {(name_of(q), q.options[q.answer]) for q in exam.train}
    assert len(facts) == 992 / 4 == 248
    times = Counter((name_of(q), q.options[q.answer]) for q in exam.train)
    assert set(times.values()) == {4}
    wordings = {
        split: {q.question.replace(name_of(q), "") for q in exam.split(split)} for split in SPLITS
    }
    assert [len(wordings[split]) for split in SPLITS] == [4, 1, 1]
    assert len(set.union(*wordings.values())) == 6
    asked = [
        {(name_of(q), q.options[q.answer]) for q in part} for part in (exam.validation, exam.test)
    ]
    assert [len(part) for part in asked] == [48, 200]
    assert asked[0] | asked[1] == facts and not asked[0] & asked[1]
    assert "The same facts are trained and tested: 248 facts" in exam.notes


def test_a_city_is_right_once_and_wrong_three_times_and_no_name_tells_it():
    exam = cities()
    for part, times in ((exam.test, 1), (exam.train, 4)):
        right = Counter(q.options[q.answer] for q in part)
        offered = Counter(option for q in part for option in q.options)
        assert offered == {city: 4 * n for city, n in right.items()}
        assert min(right.values()) == times
    for question in exam.test:
        assert not any(runs(name_of(question)) & runs(option) for option in question.options)


def test_what_is_asked_does_not_depend_on_how_often_facts_are_trained():
    assert cities(train_rows=496, wordings=2).test == cities().test


def test_the_same_seed_gives_the_same_exam_and_another_seed_another():
    assert cities.__wrapped__() == cities()
    assert countries(seed=1).test[:9] != countries().test[:9]


def test_rows_that_cannot_be_are_refused_by_field_value_and_remedy():
    with pytest.raises(ValueError, match=r"exam\.train_rows 1000 must be a multiple of 16 .*3120"):
        cities.__wrapped__(train_rows=1000)
    with pytest.raises(ValueError, match=r"exam\.test_rows 201 must be from 0 to 200"):
        cities.__wrapped__(test_rows=201)


def test_every_country_has_a_name():
    names = airports._countries()
    assert names["CD"] == "Congo (Dem. Rep.)" and len(names) > 240
