"""The exam of ICD-10-CM titles: nothing but what training teaches gives an answer away."""

import re
from collections import Counter
from functools import cache
from itertools import combinations
from types import SimpleNamespace

import pytest
import simple_icd_10_cm as icd

from smf_lib.study.profiles import load_profile
from smf_lib.study.tasks import icd10, options
from smf_lib.study.tasks.exam import SPLITS
from smf_lib.study.tasks.floors import floors

ROWS = {"train": 1000, "validation": 300, "test": 1250}


def settings(seed=0, **rows):
    wanted = {f"{split}_rows": rows.get(split, ROWS[split]) for split in SPLITS}
    return SimpleNamespace(name="icd10", seed=seed, **wanted)


@pytest.fixture(scope="module")
def titles():
    return icd10.titles()


@pytest.fixture(scope="module", autouse=True)
def _read_the_classification_once(titles):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(icd10, "titles", lambda: titles)
        yield


@cache
def built(seed=0):
    return icd10.build_icd10(settings(seed))


@pytest.fixture(scope="module")
def exam(_read_the_classification_once):
    return built()


@pytest.fixture(scope="module")
def questions(exam):
    return exam.train + exam.validation + exam.test


def title_of(question):
    return re.fullmatch(r'In which ICD-10-CM block is "(.+)" classified\?', question.question)[1]


def block_title(code):
    return re.sub(r"\([A-Z0-9-]+\)$", "", icd.get_description(code, prioritize_blocks=True)).strip()


def ancestors(question):
    *_, block, chapter = icd.get_ancestors(question.id)
    return block_title(block), chapter


def beginnings(text):
    return {word[:4] for word in re.findall(r"[^\W\d_]+", text.lower()) if len(word) > 3}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_seed_has_enough_questions_and_shares_no_category(seed):
    made = built(seed)
    assert {split: len(made.split(split)) for split in SPLITS} == ROWS
    every = [*made.train, *made.validation, *made.test]
    assert len({q.id for q in every}) == len({q.question for q in every}) == sum(ROWS.values())
    parts = [{question.id[:3] for question in made.split(split)} for split in SPLITS]
    assert not any(one & other for one, other in combinations(parts, 2))


def test_the_right_option_is_the_titles_own_block(questions):
    for question in questions:
        assert title_of(question) == icd.get_description(question.id).strip()
        assert question.options[question.answer] == ancestors(question)[0]


def test_two_options_are_of_the_right_chapter_and_two_of_one_other(exam, questions):
    for question in questions:
        chapters = Counter(exam.groups[option] for option in question.options)
        assert sorted(chapters.values()) == [2, 2] and len(set(question.options)) == 4
        assert exam.groups[question.options[question.answer]] == ancestors(question)[1]


def test_no_option_shares_a_word_stem_or_four_letters_with_the_title(questions):
    for question in questions:
        words = re.findall(r"[^\W\d_]+", title_of(question).lower())
        runs = {word[i : i + 4] for word in words for i in range(len(word) - 3)}
        for option in question.options:
            assert not beginnings(title_of(question)) & beginnings(option)
            assert not any(run in option.lower() for run in runs), (question.id, option)
            assert not re.search(r"\([A-Z]\d", option)


def test_titles_are_clear_and_occur_once(titles):
    found = [title.text for title in titles]
    assert len({text.lower() for text in found}) == len(found) > 2500
    assert not [t for t in found if re.search(r"\b(other|unspecified|not)\b", t.lower())]
    every = Counter(
        icd.get_description(code).strip().lower()
        for code in set(icd.get_all_codes(True))
        if icd.is_category(code) or (icd.is_subcategory(code) and len(code) == 5)
    )
    assert all(every[text.lower()] == 1 for text in found)
    assert {len(title.code) for title in titles} == {3, 5}


@pytest.mark.parametrize("split", SPLITS)
def test_every_block_is_right_in_a_quarter_of_the_questions_that_offer_it(split):
    """Exactly, over all questions of a split, so that no count of options can help."""
    part = options.split_by(icd10.titles(), lambda title: title.category, 0, "categories")[split]
    whole = options.make_questions(icd10._items(part), 0, icd10.WORDING)
    offered = Counter(option for question in whole for option in question.options)
    right = Counter(question.options[question.answer] for question in whole)
    assert offered == {block: 4 * times for block, times in right.items()}
    assert len(whole) > 0.85 * len(part)


@pytest.mark.parametrize("split", SPLITS)
def test_the_right_answer_stands_equally_often_in_each_place(exam, split):
    places = Counter(question.answer for question in exam.split(split))
    assert max(places.values()) - min(places.values()) <= 2


@pytest.mark.parametrize("profile", ["quick", "frontier"])
def test_no_rule_is_right_in_more_than_30_percent_of_what_profiles_test(profile):
    """The questions that the book's numbers are about: 400, and all that there are."""
    wanted = load_profile(profile).exam
    found = floors(icd10.build_icd10(wanted))
    assert found.n == wanted.test_rows == {"quick": 400, "frontier": 1309}[profile]
    assert max(found.rules.values()) <= 0.30 and found.majority <= 0.30


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_rule_that_learns_nothing_is_right_in_more_than_30_percent(seed):
    found = floors(built(seed))
    assert found.n == ROWS["test"] and len(found.rules) >= 15
    assert max(found.rules.values()) <= 0.30
    assert found.majority <= 0.30 and found.chance == 0.25
    assert found.rules["commonest group"] == 0.25


def test_there_is_something_to_learn(exam):
    """A bag of words trained on the same questions beats chance by far, and knows far from all."""
    found = floors(exam)
    assert 0.35 < found.bags["words"] < found.bags["letters"] < 0.60


def test_the_same_seed_gives_the_same_exam_and_another_seed_another(exam):
    assert icd10.build_icd10(settings()) == exam
    other = built(seed=1)
    assert other.sha256 != exam.sha256
    assert [q.id for q in other.test] != [q.id for q in exam.test]


@pytest.mark.parametrize("split", SPLITS)
def test_the_size_of_one_split_changes_no_other(exam, split):
    small = icd10.build_icd10(settings(**{split: 8}))
    assert small.split(split) == exam.split(split)[:8]
    assert all(small.split(name) == exam.split(name) for name in SPLITS if name != split)
    assert small.sha256 != exam.sha256


@pytest.mark.parametrize("split, rows", [("test", 5000), ("validation", -1), ("train", 1300)])
def test_too_many_rows_are_refused_by_field_value_and_number(split, rows):
    with pytest.raises(ValueError, match=rf"exam\.{split}_rows {rows} must be from 0 to \d+"):
        icd10.build_icd10(settings(**{split: rows}))


def test_titles_that_can_be_given_no_wrong_options_are_left_out():
    """Of three titles of one block and one of another only one can get a neighbour."""

    def item(code, block, chapter):
        return options.Item(code, f"thing {code.lower()}", block, chapter)

    part = [item(f"A0{n}", "first", "1") for n in range(3)] + [item("A09", "second", "1")]
    part += [item(f"B0{n}", ("third", "fourth")[n], "2") for n in range(2)]
    found = options.make_questions(part, 0, "What is {}?")
    assert sorted(question.options[question.answer] for question in found) == sorted(
        ["first", "second", "third", "fourth"]
    )
    assert all(
        set(question.options) == {"first", "second", "third", "fourth"} for question in found
    )
