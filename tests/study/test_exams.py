"""The registry of exams, and exams from questions of one's own."""

import json
import math

import pytest
from datasets import Dataset
from helpers_hub import medmcqa_row, write_rows
from hypothesis import given
from hypothesis import strategies as st

from smf_lib.study.exams import EXAMS, build_exam, register_exam
from smf_lib.study.settings import ChoiceSettings, ExamSettings, OwnExamSettings, Settings
from smf_lib.study.tasks import icd10
from smf_lib.study.tasks.exam import SPLITS, ExamQuestion, fault, make_exam
from smf_lib.study.tasks.formats import FORMATS, LETTERS
from smf_lib.study.tasks.icd10 import build_icd10


def row(number, options=3, **changes):
    """A row whose right option is the number's place among them, by its index."""
    texts = [f"option {place} of {number}" for place in range(options)]
    return {
        "question": f"What is right in row {number}?", "options": texts, "answer": number % options,
        **changes,
    }  # fmt: skip


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def choice(source, root="/nowhere", **settings):
    return build_exam(ChoiceSettings(name="choice", source=source, **settings), root)


@pytest.fixture
def rows(datasets_cache):
    return [row(number, 2 + number % 9) for number in range(36)]


def test_a_files_questions_have_two_to_ten_options_each_its_own(tmp_path, rows):
    exam = choice(jsonl(tmp_path / "mine.jsonl", rows), test_rows=9, validation_rows=9)
    questions = [*exam.train, *exam.validation, *exam.test]
    assert [len(exam.train), len(exam.validation), len(exam.test)] == [18, 9, 9]
    assert sorted(len(q.options) for q in questions) == sorted(2 + n % 9 for n in range(36))
    for question in questions:
        number = int(question.question.split()[-1].rstrip("?"))
        assert (
            question.options[question.answer]
            == f"option {number % len(question.options)} of {number}"
        )
    assert exam.chance("train") == pytest.approx(
        sum(1 / len(q.options) for q in exam.train) / len(exam.train)
    )


def test_the_place_of_a_question_depends_on_no_row_and_the_test_on_no_other_split(tmp_path, rows):
    one = choice(jsonl(tmp_path / "a.jsonl", rows), test_rows=9, validation_rows=9)
    other = choice(jsonl(tmp_path / "b.jsonl", rows[::-1]), test_rows=9, train_rows=5)
    assert [q.id for q in one.test] == [q.id for q in other.test]
    assert [q.id for q in one.train[:5]] == [q.id for q in other.train]
    drawn = choice(jsonl(tmp_path / "a.jsonl", rows), test_rows=9, seed=1)
    assert [q.id for q in drawn.test] != [q.id for q in one.test]


SIZES = {  # (fewer, more) questions to train on, for validation and for the test
    "icd10": ((20, 50), (8, 24), (12, 40)),
    "airports": ((20, 50), (8, 24), (12, 40)),
    "cities": ((160, 240), (4, 8), (8, 16)),
    "medmcqa": ((5, 9), (4, 12), (6, 12)),
    "one file": ((4, 8), (3, 7), (5, 18)),
    "a file without validation": ((4, 18), (0, 0), (5, 18)),
    "a folder": ((5, 9), (0, 6), (6, 16)),
    "a folder of three": ((5, 9), (2, 6), (4, 8)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, datasets_cache):
    """A function of the name of an exam and of its rows."""
    root = tmp_path_factory.mktemp("exams")
    rows = [row(number, 2 + number % 9) for number in range(36)]
    jsonl(root / "file.jsonl", rows)
    for folder, starts in {"two": (0, 20, 36), "three": (0, 20, 28, 36)}.items():
        for name, start, end in zip(("train", "test", "dev"), starts, starts[1:]):
            jsonl(root / folder / f"{name}.jsonl", rows[start:end])
    write_rows(
        root / "medmcqa",
        train=[medmcqa_row(n) for n in range(40)],
        validation=[medmcqa_row(n) for n in range(100, 116)],
    )
    fields = {
        "medmcqa": {"name": "medmcqa", "source": "medmcqa"},
        "one file": {"name": "choice", "source": "file.jsonl"},
        "a folder": {"name": "choice", "source": "two"},
        "a folder of three": {"name": "choice", "source": "three", "validation_split": "dev"},
    }
    fields["a file without validation"] = fields["one file"]
    titles = icd10.titles()

    def make(exam, train, validation, test):
        sizes = {"train_rows": train, "validation_rows": validation, "test_rows": test}
        given = fields.get(exam, {"name": exam})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(icd10, "titles", lambda: titles)  # read once
            return build_exam(EXAMS.find(given["name"]).settings(**given, **sizes), root)

    return make


@pytest.mark.parametrize("exam", SIZES)
def test_the_size_of_one_split_moves_no_other(made, exam):
    few, more = zip(*SIZES[exam])
    one_more = [few[:n] + more[n : n + 1] + few[n + 1 :] for n in range(3)]
    exams = [made(exam, *sizes) for sizes in (few, *one_more)]
    for split, sizes in zip(SPLITS, SIZES[exam]):
        found = [one.split(split) for one in exams]
        longest = max(found, key=len)
        assert {len(questions) for questions in found} == set(sizes)
        if (exam, split) == ("cities", "train"):  # in one wording all facts, then in the next
            assert all(q in longest for questions in found for q in questions)
        else:
            assert all(questions == longest[: len(questions)] for questions in found)
    validation, test = ({q.id for e in exams for q in e.split(s)} for s in SPLITS[1:])
    assert not validation & test


def test_all_that_is_left_is_trained_on(tmp_path, rows):
    source = jsonl(tmp_path / "a.jsonl", rows)
    whole = choice(source, test_rows=9, validation_rows=5)
    assert (len(whole.train), len(whole.validation), len(whole.test)) == (22, 5, 9)
    assert whole.train[:13] == choice(source, test_rows=9, validation_rows=5, train_rows=13).train


def test_csv_parquet_and_several_files_give_the_same_exam(tmp_path, rows):
    import pandas as pd

    wanted = choice(jsonl(tmp_path / "a.jsonl", rows), test_rows=9)
    frame = pd.DataFrame(rows)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.assign(options=frame["options"].map(json.dumps)).to_csv(tmp_path / "a.csv", index=False)
    halves = [jsonl(tmp_path / f"{n}.jsonl", rows[n::2]) for n in (0, 1)]
    for source in (str(tmp_path / "a.parquet"), str(tmp_path / "a.csv"), halves):
        assert choice(source, test_rows=9).sha256 == wanted.sha256
    assert choice("a.csv", tmp_path, test_rows=9).sha256 == wanted.sha256


def test_options_of_csv_may_look_like_numbers_or_like_nothing(tmp_path, datasets_cache):
    import pandas as pd

    options = ["NA", "1.50", "None", "2"]
    rows = [row(n) | {"options": options, "answer": options[n % 4]} for n in range(12)]
    frame = pd.DataFrame(rows)
    frame.assign(options=frame["options"].map(json.dumps)).to_csv(tmp_path / "a.csv", index=False)
    wanted = choice(jsonl(tmp_path / "a.JSONL", rows), test_rows=4)
    found = choice(str(tmp_path / "a.csv"), test_rows=4)
    assert found.sha256 == wanted.sha256
    questions = [*found.train, *found.validation, *found.test]
    assert len(questions) == 12 and {q.options[q.answer] for q in questions} == set(options)


def test_an_answer_may_be_the_options_text(tmp_path, rows):
    named = [r | {"answer": r["options"][r["answer"]]} for r in rows]
    by_index = choice(jsonl(tmp_path / "a.jsonl", rows), test_rows=9)
    assert choice(jsonl(tmp_path / "b.jsonl", named), test_rows=9).sha256 == by_index.sha256


def test_a_folder_gives_its_splits_and_nothing_tested_is_trained_on(tmp_path, rows):
    jsonl(tmp_path / "mine" / "train.jsonl", [*rows[:20], rows[0]])
    jsonl(tmp_path / "mine" / "test.jsonl", rows[18:])
    jsonl(tmp_path / "mine" / "dev.jsonl", rows[16:19])
    exam = choice("mine", tmp_path, validation_rows=4)
    assert [len(exam.train), len(exam.validation), len(exam.test)] == [16, 4, 16]
    assert exam.notes == "mine; rows left out: 1 repeated, 2 also in another split"
    given_split = choice("mine", tmp_path, validation_split="dev")
    assert [len(given_split.train), len(given_split.validation)] == [20, 0]


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"question": None}, "no text"),
        ({"question": " "}, "no text"),
        ({"options": None}, "not 2 to 10 options"),
        ({"options": ["one"]}, "not 2 to 10 options"),
        ({"options": [str(n) for n in range(11)]}, "not 2 to 10 options"),
        ({"options": ["a", None]}, "an empty option"),
        ({"options": ["a", " "]}, "an empty option"),
        ({"options": ["a", "A "]}, "two equal options"),
        ({"answer": None}, "no answer"),
        ({"question": math.nan}, "no text"),
        ({"answer": math.nan}, "no answer"),
    ],
)
def test_a_row_without_one_right_option_is_left_out_and_counted(tmp_path, rows, fields, reason):
    changed = row(99) | fields
    if changed["question"] != changed["question"]:  # a column of JSON is of one type
        rows = [one | {"question": float(n)} for n, one in enumerate(rows)]
    exam = choice(jsonl(tmp_path / "a.jsonl", [changed, *rows]), test_rows=9)
    assert exam.notes.endswith(f"; rows left out: 1 {reason}")
    assert exam.sha256 == choice(jsonl(tmp_path / "b.jsonl", rows), test_rows=9).sha256


def test_missing_numbers_are_no_texts(tmp_path, datasets_cache):
    """NaN is a number to Python: neither an explanation nor an id."""
    rows = [row(n, id=math.nan, explanation=math.nan) for n in range(12)]
    bare = choice(jsonl(tmp_path / "bare.jsonl", [row(n) for n in range(12)]), test_rows=4)
    Dataset.from_list(rows).to_parquet(str(tmp_path / "a.parquet"))
    assert choice(str(tmp_path / "a.parquet"), test_rows=4).sha256 == bare.sha256


def test_a_file_that_counts_from_one_is_refused(tmp_path, datasets_cache):
    """Though no row has the last option right, by which it would be out of range."""
    rows = [row(n, answer=1 + n % 2) for n in range(36)]
    source = jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError, match=r"none of 36 rows of .* has answer=0, as if the file"):
        choice(source, test_rows=9)
    named = [r | {"answer": r["options"][r["answer"]]} for r in rows]
    assert choice(jsonl(tmp_path / "b.jsonl", named), test_rows=9)


@pytest.mark.parametrize("answer", [3, -1, 1.5, True])
def test_an_answer_that_is_no_option_is_refused(tmp_path, datasets_cache, answer):
    """A file that counts from 1 has such a row sooner or later, and all others wrong."""
    rows = [row(number, answer=type(answer)(0)) for number in range(4)]
    rows[2]["answer"] = answer
    match = (
        r"exam.source: row \d of .*a.jsonl has answer=(3|-1|1.5|True|False) .*index from 0, or its"
    )
    with pytest.raises(ValueError, match=match):
        choice(jsonl(tmp_path / "a.jsonl", rows), test_rows=1)


def test_a_text_that_is_no_option_is_refused(tmp_path, datasets_cache):
    rows = [row(number, answer="B") for number in range(4)]
    with pytest.raises(ValueError, match="answer='B' and the options"):
        choice(jsonl(tmp_path / "a.jsonl", rows), test_rows=1)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"test_rows": 19}, r"exam.test_rows=19 is more than the 18 .* 'the first half of the"),
        ({"test_rows": 1, "validation_rows": 19}, r"exam.validation_rows=19 is more than the 18"),
        (
            {"test_rows": 9, "validation_rows": 9, "train_rows": 10},
            r"exam.train_rows=10 is more than the 9 .* 'the second half of the file'",
        ),
        ({"test_rows": 15, "train_rows": 22}, r"exam.train_rows=22 is more than the 21"),
        ({"test_rows": 18, "validation_rows": 18}, "no question is left to train on"),
        ({}, "exam.test_rows=None: say how many"),
    ],
)
def test_more_rows_than_there_are_are_refused(tmp_path, rows, settings, message):
    with pytest.raises(ValueError, match=message):
        choice(jsonl(tmp_path / "a.jsonl", rows), **settings)


def test_a_file_that_cannot_be_read_or_lacks_a_column_is_refused(tmp_path, datasets_cache):
    path = tmp_path / "a.jsonl"
    path.write_text("{broken")
    with pytest.raises(ValueError, match=r"exam.source='.*a.jsonl' cannot be read: "):
        choice(str(path), test_rows=1)
    jsonl(path, [{"question": "?", "choices": ["a", "b"], "answer": 0}])
    with pytest.raises(ValueError, match="lacks options"):
        choice(str(path), test_rows=1)
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(ValueError, match="files must all be of one kind: .jsonl"):
        choice(str(tmp_path / "a.xlsx"), test_rows=1)
    with pytest.raises(ValueError, match=r"absent.jsonl is no file"):
        choice([str(path), "absent.jsonl"], test_rows=1)


@given(st.integers(2, 10), st.data())
def test_both_formats_show_every_option_of_a_question(options, data):
    answer = data.draw(st.integers(0, options - 1))
    question = ExamQuestion("q", "Which?", [f"text{n}" for n in range(options)], answer)
    lettered, cloze = FORMATS["lettered"], FORMATS["cloze"]
    assert lettered.continuations(question) == [f" {LETTERS[n]}. text{n}" for n in range(options)]
    assert cloze.continuations(question) == [f" text{n}" for n in range(options)]
    assert all(f"{LETTERS[n]}. text{n}\n" in lettered.prompt(question) for n in range(options))
    assert fault(question.question, question.options, answer) is None
    assert fault(question.question, question.options, options) is not None


def test_the_exam_of_codes_is_one_of_the_registry():
    settings = ExamSettings(train_rows=20, validation_rows=4, test_rows=8)
    assert build_exam(settings, "/nowhere") == build_icd10(settings)


@pytest.fixture
def registered():
    before = dict(EXAMS), dict(EXAMS.functions)
    yield
    EXAMS.clear()
    EXAMS.update(before[0])
    EXAMS.functions = before[1]


def test_an_exam_of_ones_own_gets_the_profiles_fields(registered, tmp_path):
    @register_exam("sums")
    def sums(settings, root):
        found = [ExamQuestion(f"{n}", f"{n} + 2?", [str(n), str(n + 2)], 1) for n in range(9)]
        assert root == tmp_path
        return make_exam("sums", found[settings.test_rows :], [], found[: settings.test_rows])

    exam = build_exam(OwnExamSettings(name="sums", test_rows=3), tmp_path)
    assert (len(exam.train), len(exam.test), exam.chance()) == (6, 3, 0.5)


def test_an_exam_of_ones_own_is_checked(registered):
    right = ExamQuestion("a", "?", ["x", "y"], 1)
    with pytest.raises(ValueError, match="exam 'mine': question 'b': answer=2 is not the index"):
        make_exam("mine", [right], [], [ExamQuestion("b", "?", ["x", "y"], 2)])
    with pytest.raises(ValueError, match="question 'a': its id is used"):
        make_exam("mine", [right], [], [right])

    class Nameless(Settings):
        rows: int = 3

    with pytest.raises(ValueError, match="settings=Nameless has no name for an exam; derive"):
        register_exam("mine", Nameless)
    with pytest.raises(
        ValueError,
        match="exam.name='mine' is unknown; choose one of airports, choice, cities, icd10",
    ):
        build_exam(OwnExamSettings(name="mine"), "/nowhere")
