"""The forgetting probes: what is shipped, what is drawn from it, what counts as right."""

import re
from collections import Counter

import pytest

from smf_lib.study.evaluation.evaluate import normalise
from smf_lib.study.tasks.probes import (
    DATA,
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
    for path in (DATA / "tasks").glob("*.jsonl"):
        assert not MEDICAL.findall(path.read_text()), path.name
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


def accepts(question, answer):
    return normalise(answer) in {normalise(alias) for alias in question.aliases}


WORDS = {
    2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine",
    10: "ten", 11: "eleven", 12: "twelve", 15: "fifteen", 18: "eighteen", 20: "twenty",
    24: "twenty-four", 26: "twenty-six", 52: "fifty-two", 60: "sixty", 64: "sixty-four",
    88: "eighty-eight", 90: "ninety", 100: "one hundred", 180: "one hundred and eighty",
    360: "three hundred and sixty", 366: "three hundred and sixty-six", 1000: "one thousand",
}  # fmt: skip


def test_every_count_is_right_in_digits_in_words_and_with_its_noun():
    found = re.compile(r"(?:.*, )?(?:about |in .*, )?how many (\w+)", re.IGNORECASE)
    asked = [(q, found.match(q.question)) for q in load_knowledge() if q.answer.isdigit()]
    asked = [(q, match.group(1)) for q, match in asked if match and int(q.answer) in WORDS]
    assert len(asked) >= 30
    for q, noun in asked:
        number, word = q.answer, WORDS[int(q.answer)]
        wanted = [number, f"{int(number):,}", f"{number} {noun}", word, f"{word} {noun}"]
        assert [answer for answer in wanted if not accepts(q, answer)] == [], q.id


def test_every_temperature_and_angle_is_right_with_its_signs():
    asked = [
        q for q in load_knowledge() if "degree" in q.question and q.answer.strip("-").isdigit()
    ]
    assert len(asked) == 6
    for q in asked:
        forms = [f"{q.answer}°", f"{q.answer} °", f"{q.answer} degrees"]
        if "Celsius" in q.question:
            forms += [f"{q.answer}°C", f"{q.answer} °C", f"{q.answer} ℃", f"{q.answer} degrees C"]
        forms += [form.replace("-", "−") for form in forms]
        assert [form for form in forms if not accepts(q, form)] == [], q.id


def test_every_formula_is_right_with_subscripts_and_no_symbol_with_a_number():
    subscripts = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
    for q in load_knowledge():
        if "chemical formula" in q.question:
            assert accepts(q, q.answer.translate(subscripts)), q.id
        if "chemical symbol for" in q.question:
            assert not any(accepts(q, f"{q.answer}{n}") for n in (2, 3)), q.id


SYMBOLS = {
    "force": "N", "energy": "J", "power": "W", "electric current": "A",
    "electrical resistance": "Ω", "frequency": "Hz", "temperature": "K", "pressure": "Pa",
    "length": "m", "mass": "kg", "voltage": "V", "Japan": "¥", "the United Kingdom": "£",
    "India": "₹", "China": "¥", "Russia": "₽", "Switzerland": "Fr.", "Mexico": "Mex$",
    "Thailand": "฿", "South Korea": "₩", "South Africa": "R",
}  # fmt: skip


def test_every_unit_and_currency_is_right_by_its_symbol():
    pattern = re.compile(r"What is the (?:(?:SI (?:base )?)?unit|currency) of (.*)\?")
    asked = [(q, pattern.match(q.question)) for q in load_knowledge()]
    asked = [(q, match.group(1)) for q, match in asked if match]
    assert {of for _, of in asked} == set(SYMBOLS)
    assert [q.id for q, of in asked if not accepts(q, SYMBOLS[of])] == []


def test_every_alias_is_right_in_any_dress():
    """In capitals, with a full stop, in quotes or bold, after an article."""
    for q in load_knowledge():
        for alias in q.aliases:
            for dress in ("{}.", '"{}"', "“{}”", "**{}**", " {}\n", "The {}"):
                answer = dress.format(alias)
                assert accepts(q, answer) or alias == "A", (q.id, answer)
            assert accepts(q, alias.upper()), (q.id, alias)


def test_no_two_questions_ask_for_one_fact_in_both_directions():
    """Not one that gives away another: the answer of each standing in the other's question."""
    questions = [q for q in load_knowledge() if q.subject not in ("mathematics", "astronomy")]
    held = [f" {normalise(q.question)} " for q in questions]
    answers = [f" {normalise(q.answer)} " for q in questions]
    for i in range(len(questions)):
        for j in range(i):
            both = answers[i] in held[j] and answers[j] in held[i]
            assert not both, (questions[i].id, questions[j].id)
