"""WikiText, TriviaQA and replies: the rows asked for, in the order said, and nothing else."""

import pytest
from helpers_hub import dolly_row, oasst1_row, trivia_row, wikitext_lines, write_rows

from smf_lib.study.settings import TextSettings, TriviaQASettings, WikiTextSettings
from smf_lib.study.tasks.corpora import load_texts, load_triviaqa, load_wikitext, pages


def wikitext(data, **settings):
    given = WikiTextSettings(**{"source": "wikitext", "lines": None} | settings)
    return load_wikitext(given, data)[0]


def triviaqa(data, **settings):
    return load_triviaqa(
        TriviaQASettings(**{"source": "trivia_qa", "questions": None} | settings), data
    )


def texts(data, **settings):
    return load_texts("background.text", TextSettings(**settings), data)[0]


# ---------------------------------------------------------------------- WikiText


def test_lines_stand_as_they_are_without_the_empty_ones(data):
    written = [row["text"] for row in wikitext_lines() if row["text"].strip()]
    assert wikitext(data) == written and len(written) == 18
    assert wikitext(data, lines=5) == written[:5]
    assert written[0] == " = Bell = \n"


def test_wikitext_of_the_hub_has_the_configuration_of_the_profile(hub, data):
    found = load_wikitext(WikiTextSettings(lines=4, config="wikitext-103-v1"), "/nowhere")
    assert found == (wikitext(data, lines=4), 0)
    assert hub == [("Salesforce/wikitext", "wikitext-103-v1", "test", None)]


def test_a_page_begins_at_a_heading_of_the_first_level():
    lines = [row["text"] for row in wikitext_lines() if row["text"].strip()]
    found = pages(lines)
    assert len(found) == 3 and "".join(found) == "".join(lines)
    headings = [page.splitlines()[0].strip() for page in found]
    assert headings == ["= Bell =", "= Salt Road =", "= Tide ="]
    assert " = = Use of Bell = = \n" in found[0]


@pytest.mark.parametrize(
    "line, begins",
    [
        (" = Valkyria Chronicles III = \n", True),
        (" = A = B Test = ", True),
        (" = = Plot = = \n", False),
        (" = = = Cast = = = \n", False),
        (" The sum x = y was = known . \n", False),
        ("= Without a blank before =", True),
        (" = 7 = \n", True),
    ],
)
def test_what_is_a_heading(line, begins):
    assert (len(pages([" before \n", line])) == 2) is begins


def test_pages_end_their_lines_and_keep_what_comes_before_the_first_heading():
    assert pages([" a", " b \n", " = New = ", " c"]) == [" a\n b \n", " = New = \n c\n"]


# ---------------------------------------------------------------------- TriviaQA


def test_questions_have_all_aliases_and_the_value_for_an_answer(data):
    (first, *rest), shots = triviaqa(data, order="file")
    row = trivia_row(20)
    assert (first.id, first.question) == ("tc-20", row["question"])
    assert (first.answer, first.aliases) == ("Town 20", ["Town 20", "The town of 20"])
    assert [q.id for q in rest] == [f"tc-{n}" for n in range(21, 30)] and shots == []


def test_file_order_takes_the_first_and_shuffled_draws_from_the_seed(data):
    def ids(**settings):
        return [question.id for question in triviaqa(data, **settings)[0]]

    assert ids(order="file", questions=3) == ["tc-20", "tc-21", "tc-22"]
    drawn = ids()
    assert drawn == ids(seed=0) != ids(seed=1)
    assert sorted(drawn) == sorted(ids(order="file")) != drawn
    assert ids(questions=4) == drawn[:4]


def test_shots_come_from_another_split_and_do_not_change_the_questions(data):
    questions, shots = triviaqa(data, shots=5, questions=4)
    assert questions == triviaqa(data, questions=4)[0]
    assert {shot.id for shot in shots} < {f"tc-{n}" for n in range(12)} and len(shots) == 5
    assert shots == triviaqa(data, shots=5)[1] != triviaqa(data, shots=5, seed=1)[1]


def test_triviaqa_of_the_hub(hub, data):
    settings = TriviaQASettings(questions=6, shots=2)
    assert load_triviaqa(settings, "/nowhere") == triviaqa(data, questions=6, shots=2)
    assert [asked[:3] for asked in hub] == [
        ("mandarjoshi/trivia_qa", "rc.nocontext", split) for split in ("validation", "train")
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"answer": {"value": "<unk>", "aliases": [], "normalized_value": "<unk>"}},
        {"answer": {"value": "x", "aliases": [" "], "normalized_value": "x"}},
        {"answer": {"value": None, "aliases": ["x"], "normalized_value": "x"}},
        {"answer": None},
        {"question": None},
    ],
    ids=["hidden", "empty alias", "no value", "no answer", "no question"],
)
def test_a_question_that_nobody_can_answer_right_is_refused(tmp_path, datasets_cache, changes):
    write_rows(tmp_path, validation=[trivia_row(1), trivia_row(2, **changes)])
    with pytest.raises(ValueError, match=r"^probes.triviaqa: row 1 of 'validation' has .*alias"):
        triviaqa("/nowhere", source=str(tmp_path))


def test_lines_that_are_null_are_left_out_and_counted(tmp_path, datasets_cache):
    rows = [{"text": " = A = "}, {"text": None}, {"text": ""}, {"text": " b "}, {"text": None}]
    write_rows(tmp_path, test=rows)
    settings = WikiTextSettings(source=str(tmp_path), lines=None)
    assert load_wikitext(settings, "/nowhere") == ([" = A = ", " b "], 2)


# ---------------------------------------------------------------------- replies


def test_of_openassistant_english_replies_ranked_first_or_second_are_kept(tmp_path, datasets_cache):
    rows = [
        oasst1_row(0),
        oasst1_row(1),
        oasst1_row(2, rank=2.0),
        oasst1_row(3, rank=None),
        oasst1_row(4, lang="de"),
        oasst1_row(5, role="prompter"),
        oasst1_row(6, text="Short."),
        oasst1_row(7, text=None),
        oasst1_row(8, text="x" * 50),
        oasst1_row(9, text="x" * 49),
    ]
    write_rows(tmp_path, train=rows)
    found, missing = load_texts("f", TextSettings(source=str(tmp_path)), "/nowhere")
    assert missing == 1
    assert sorted(found) == sorted([rows[0]["text"], rows[1]["text"], "x" * 50])
    assert len(texts(tmp_path, source=str(tmp_path), min_characters=49)) == 4


def test_openassistant_of_the_hub(hub, data):
    found = texts("/nowhere", rows=7)
    assert found == texts(data, source="oasst1", rows=7) and len(set(found)) == 7
    assert {asked[:3] for asked in hub} == {("OpenAssistant/oasst1", None, "train")}


def test_of_dolly_the_responses_are_taken(data):
    responses = [dolly_row(number)["response"] for number in range(40)]
    assert sorted(texts(data, source="dolly")) == sorted(responses)


def test_a_column_text_will_do(data):
    found = texts(data, source="wikitext", split="test", min_characters=30)
    assert found and all("uses" in text or "known" in text for text in found)


def test_texts_are_drawn_from_the_seed_and_fewer_are_the_first_of_more(data):
    found = texts(data, source="dolly", rows=20)
    assert found == texts(data, source="dolly", rows=20)
    assert found != texts(data, source="dolly", rows=20, seed=1)
    assert texts(data, source="dolly", rows=5) == found[:5]
    assert found != [dolly_row(n)["response"] for n in range(20)]


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda data: wikitext(data, lines=19),
            r"^probes.wikitext.lines=19 is more than the 18 that the source has",
        ),
        (
            lambda data: triviaqa(data, questions=11),
            r"^probes.triviaqa.questions=11 is more than the 10 that the source has",
        ),
        (
            lambda data: texts(data, source="dolly", rows=41),
            r"^background.text.rows=41 is more than the 40 that the source has",
        ),
        (
            lambda data: texts(data, source="medmcqa"),
            r"^background.text.source='medmcqa' has the columns .*question.*`text` or `response`",
        ),
        (
            lambda data: wikitext(data, source="dolly", split="train"),
            r"^probes.wikitext.source='dolly' has the columns .* and lacks text",
        ),
        (
            lambda data: triviaqa(data, source="dolly", split="train"),
            r"^probes.triviaqa.source='dolly' .* lacks answer, question, question_id",
        ),
        (
            lambda data: texts(data, source="dolly", split="test"),
            r"^background.text.source='dolly': the folder has no rows of split 'test'",
        ),
    ],
)
def test_errors_name_the_field_and_the_source(data, call, message):
    with pytest.raises(ValueError, match=message):
        call(data)


def test_more_shots_than_there_are_is_an_error_that_names_the_field(tmp_path, datasets_cache):
    write_rows(tmp_path, train=[trivia_row(n) for n in range(3)], validation=[trivia_row(9)])
    with pytest.raises(ValueError, match=r"^probes.triviaqa.shots=4 is more than the 3"):
        triviaqa("/nowhere", source=str(tmp_path), shots=4)
