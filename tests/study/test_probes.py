"""The forgetting probes: what is shipped, what is drawn from it, what counts as right."""

import re
from collections import Counter

import pytest

from smf_lib.study.evaluation.evaluate import normalise
from smf_lib.study.tasks.probes import (
    load_examples,
    load_knowledge,
    load_prose,
    sections,
    shown_before,
)

MEDICAL = re.compile(
    r"\b(medicin\w*|medical\w*|disease\w*|patient\w*|hospital\w*|clinic\w*|doctor\w*|physician\w*"
    r"|surg(eon|er|ical)\w*|diagnos\w*|syndrome\w*|tumou?r\w*|cancer\w*|infect\w*|therap\w*"
    r"|drugs?|pharmac\w*|symptom\w*|injur\w*|illness\w*|epidemi\w*|vaccin\w*|antibiotic\w*)\b",
    re.IGNORECASE,
)


def spaceless(text):
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def test_at_least_8000_words_of_prose_on_many_subjects():
    articles = load_prose()
    assert sum(len(article.text.split()) for article in articles) >= 8000
    assert len({article.title for article in articles}) == len(articles) >= 30
    assert len({article.text for article in articles}) == len(articles)
    assert all(len(article.text.split()) >= 100 for article in articles)


def test_prose_and_questions_stay_away_from_medicine():
    for article in load_prose():
        text = re.sub("tropics? of Cancer", "", article.text, flags=re.IGNORECASE)
        assert not MEDICAL.findall(f"{article.title} {text}"), article.title
    for question in (*load_knowledge(), *load_examples()):
        assert not MEDICAL.findall(question.question + " " + question.answer), question.id


def test_at_least_400_questions_on_many_subjects_each_asked_once():
    questions = load_knowledge()
    assert len(questions) >= 400
    assert len({question.id for question in questions}) == len(questions)
    assert len({spaceless(question.question) for question in questions}) == len(questions)
    assert len({question.subject for question in questions}) >= 10


def test_the_answer_is_short_and_among_its_aliases():
    for question in (*load_knowledge(), *load_examples()):
        assert question.answer in question.aliases, question.id
        assert all(alias.strip() for alias in question.aliases), question.id
        assert len(question.answer.split()) <= 5, question.id


def test_the_question_does_not_hold_its_answer():
    for question in load_knowledge():
        assert f" {spaceless(question.answer)} " not in f" {spaceless(question.question)} ", (
            question.id
        )


def test_examples_are_apart_from_the_scored_questions():
    questions, examples = load_knowledge(), load_examples()
    assert len(examples) == 24
    assert {q.subject for q in examples} == {q.subject for q in questions}
    assert not {q.id for q in questions} & {q.id for q in examples}
    assert not {spaceless(q.question) for q in questions} & {
        spaceless(q.question) for q in examples
    }
    words = {normalise(q.answer) for q in questions}
    assert not words & {normalise(q.answer) for q in examples}
    subjects = {(q.subject, normalise(alias)) for q in questions for alias in q.aliases}
    shown = {(q.subject, normalise(alias)) for q in examples for alias in q.aliases}
    assert not subjects & shown


def test_questions_are_dealt_out_to_eight_prompts_evenly_over_subjects():
    questions = load_knowledge()
    shown = shown_before(questions, 5)
    prompts = {tuple(q.id for q in shots) for shots in shown}
    assert len(prompts) == 8 and all(len(set(ids)) == 5 for ids in prompts)
    counts = Counter(tuple(q.id for q in shots) for shots in shown)
    assert max(counts.values()) - min(counts.values()) <= 1
    for subject in {q.subject for q in questions}:
        own = Counter(
            tuple(q.id for q in shots) for q, shots in zip(questions, shown) if q.subject == subject
        )
        assert len(own) == 8 and max(own.values()) - min(own.values()) <= 1


def test_the_prompt_of_a_question_does_not_depend_on_the_others():
    questions = load_knowledge()
    whole = {q.id: shots for q, shots in zip(questions, shown_before(questions, 3))}
    some = load_knowledge(40)
    assert shown_before(some, 3) == [whole[q.id] for q in some]
    assert shown_before(some, 0) == [[]] * 40
    with pytest.raises(ValueError, match="knowledge_shots 25 must be from 0 to 24"):
        shown_before(some, 25)


def test_sections_are_the_paragraphs_of_the_articles_in_order():
    articles = load_prose()
    found = sections(articles)
    assert len(found) >= 100 and all(len(s.text.split()) >= 50 for s in found)
    for article in articles:
        own = [s.text for s in found if s.article == article.title]
        assert len(own) >= 3 and "\n\n".join(own) == article.text
    assert [s.article for s in found[:3]] == [articles[0].title] * 3


def test_a_part_of_the_questions_is_even_over_subjects_and_grows_by_addition():
    questions = load_knowledge(40)
    counts = Counter(question.subject for question in questions)
    assert len(questions) == 40 and max(counts.values()) - min(counts.values()) <= 1
    assert set(counts) == {question.subject for question in load_knowledge()}
    assert {q.id for q in questions} < {q.id for q in load_knowledge(41)}
    order = [question.id for question in load_knowledge()]
    assert [q.id for q in questions] == sorted((q.id for q in questions), key=order.index)


def test_a_part_is_the_same_for_a_seed_and_another_for_another():
    assert load_knowledge(40) == load_knowledge(40) != load_knowledge(40, seed=1)
    assert load_prose(5) == load_prose(5) != load_prose(5, seed=1)
    assert len(load_prose(5)) == 5
    assert all(article in load_prose(6) for article in load_prose(5))


@pytest.mark.parametrize("wanted", [0, 100_000])
def test_too_many_of_either_are_refused_by_field_and_value(wanted):
    with pytest.raises(ValueError, match=rf"probes.prose_articles {wanted} must be from 1 to \d+"):
        load_prose(wanted)
    with pytest.raises(ValueError, match=rf"probes.knowledge_questions {wanted} must be from 1"):
        load_knowledge(wanted)


# ---------------------------------------------------------------------- what counts as right


def is_right(name, answer):
    (question,) = [q for q in load_knowledge() if q.id == name]
    return normalise(answer) in {normalise(alias) for alias in question.aliases}


@pytest.mark.parametrize(
    "name, answers",
    [
        ("physics-005", ["Ω", "\N{OHM SIGN}", "ohms"]),
        ("physics-012", ["0°C", "0 °C", "0°", "0 ℃", "0 degrees"]),
        ("physics-013", ["100°C", "100 °C", "100°", "100 degrees Celsius"]),
        ("physics-014", ["-273°C", "−273", "–273 °C", "-273.15 °C", "minus 273", "- 273"]),
        ("physics-018", ["1000 m", "1,000 m", "1,000", "1000"]),
        ("physics-019", ["100 cm", "100cm"]),
        ("mathematics-020", ["90°", "90 °", "90"]),
        ("mathematics-021", ["360°"]),
        ("mathematics-022", ["180°"]),
        ("chemistry-011", ["H₂O", "h2o"]),
        ("chemistry-012", ["CO₂"]),
        ("chemistry-014", ["CH₄"]),
        ("chemistry-015", ["NH₃"]),
        ("chemistry-030", ["Dimitri Mendeleev"]),
        ("technology-013", ["Orville and Wilbur Wright"]),
        ("literature-030", ["Ebenezer"]),
        ("history-015", ["July 1969", "July 20, 1969"]),
        ("languages_currencies-018", ["¥", "Yen."]),
        ("languages_currencies-019", ["£", "the pound"]),
    ],
)
def test_right_answers_are_right_however_they_are_written(name, answers):
    assert [answer for answer in answers if not is_right(name, answer)] == []


@pytest.mark.parametrize(
    "name, answer",
    [
        ("physics-014", "273"),
        ("physics-014", "273°C"),
        ("languages_currencies-009", "Russian"),
        ("geography-029", "America"),
        ("animals-016", "whale"),
        ("music-018", "wind"),
        ("everyday-027", "lamb"),
        ("plants_food-007", "succulent"),
        ("history-025", "Stabiae"),
        ("chemistry-012", "CO"),
    ],
)
def test_wrong_answers_are_wrong(name, answer):
    assert not is_right(name, answer)


def test_no_alias_stands_in_its_question():
    """An answer that repeats a word of the question would be right without knowledge."""
    found = [
        (question.id, alias)
        for question in load_knowledge()
        for alias in question.aliases
        if len(normalise(alias)) > 2
        and f" {normalise(alias)} " in f" {normalise(question.question)} "
    ]
    assert found == []


def test_capitals_are_capitals():
    questions = [q for q in load_knowledge() if q.subject == "capitals"]
    assert len(questions) == 30 and all("capital of" in q.question for q in questions)
