"""MedMCQA as an exam: no wrong label, no ambiguous question, nothing tested that was trained on."""

import random

import pytest
from helpers_hub import medmcqa_row, write_rows

from smf_lib.study.settings import MedMCQASettings
from smf_lib.study.tasks.exam import question_key
from smf_lib.study.tasks.medmcqa import build_medmcqa


def exam(folder, **settings):
    return build_medmcqa(
        MedMCQASettings(name="medmcqa", source=str(folder), **settings), "/nowhere"
    )


def written(tmp_path, train=None, validation=None):
    return write_rows(
        tmp_path / "medmcqa",
        train=train or [medmcqa_row(n) for n in range(12)],
        validation=validation or [medmcqa_row(n) for n in range(100, 112)],
    )


def ids(questions):
    return [question.id for question in questions]


def test_hub_and_folder_make_the_same_exam(hub, data):
    there = build_medmcqa(MedMCQASettings(name="medmcqa", revision="abc"), "/nowhere")
    here = exam(data / "medmcqa")
    assert there.sha256 == here.sha256 and there.test == here.test
    assert {asked[3] for asked in hub} == {"abc"}
    assert there.notes.startswith("openlifescienceai/medmcqa: trained on 30 of 30 rows of train")


def test_a_question_is_what_the_row_says(data):
    made = exam(data / "medmcqa", single_choice=False)
    question = {q.id: q for q in made.train}["id-7"]
    assert question.question == "Which sign points to disease 7?"
    assert question.options == ["Fever of type 7", "Rash 7", "Cough 7", "Pain in place 7"]
    assert question.answer == 7 % 3 and question.explanation == "Disease 7 is known by it."
    assert {q.id: q for q in made.train}["id-6"].explanation == ""
    assert (made.name, made.format, made.chance()) == ("medmcqa", "lettered", 0.25)


def test_rows_without_a_column_exp_have_no_explanation(tmp_path, datasets_cache):
    rows = [medmcqa_row(n) for n in range(4)]
    for row in rows:
        del row["exp"]
    made = exam(written(tmp_path, rows), single_choice=False)
    assert {q.explanation for q in made.train} == {""}


@pytest.mark.parametrize("cop", [4, -1, "2", None, 1.0])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_label_that_is_not_0_to_3_is_refused(tmp_path, datasets_cache, split, cop):
    """4: a source that counts from 1; -1: hidden. Neither may be read as some other answer."""
    first = 0 if isinstance(cop, (str, float)) else 2  # a column has one type
    rows = [medmcqa_row(n, **{"cop": cop} if n == 2 or first == 0 else {}) for n in range(4)]
    field = {"train": "train_split", "validation": "test_split"}[split]
    message = rf"^exam.{field}: row {first} has cop={cop!r}; labels are 0 to 3"
    with pytest.raises(ValueError, match=message):
        exam(written(tmp_path, **{split: rows}), single_choice=False)


@pytest.mark.parametrize("split, field", [("train", "train"), ("validation", "test")])
def test_labels_that_count_from_one_are_refused(tmp_path, datasets_cache, split, field):
    """Though no row has the last option right, which would be 4."""
    rows = [medmcqa_row(n, cop=1 + n % 3) for n in range(48)]
    message = rf"^exam.{field}_split='{split}': none of 48 rows .* has cop=0.*subtract 1 from each"
    with pytest.raises(ValueError, match=message):
        exam(written(tmp_path, **{split: rows}), single_choice=False)


def test_the_hidden_test_split_of_the_hub_is_refused(hub):
    with pytest.raises(ValueError, match=r"exam.test_split: row 0 has cop=-1"):
        build_medmcqa(MedMCQASettings(name="medmcqa", test_split="test"), "/nowhere")


def test_equal_options_have_no_single_answer(tmp_path, datasets_cache):
    unclear = [
        medmcqa_row(201, opb="Fever of type 201"),
        medmcqa_row(202, opd=" RASH 202"),
        medmcqa_row(205, opc="Cough 205."),
    ]
    folder = written(tmp_path, validation=[*unclear, medmcqa_row(206)])
    made = exam(folder, order="file")
    assert ids(made.test) == ["id-205", "id-206"]
    assert "(2 with equal options and 0 repeats or also in training left out)" in made.notes


@pytest.mark.parametrize("cell", [None, "", "  "])
@pytest.mark.parametrize(
    "column, reason",
    [("question", "no text"), ("opa", "an empty option"), ("opd", "an empty option")],
)
def test_a_row_without_a_question_or_an_option_is_left_out_and_counted(
    tmp_path, datasets_cache, column, reason, cell
):
    train = [medmcqa_row(n, **{column: cell} if n == 1 else {}) for n in range(4)]
    test = [medmcqa_row(n, **{column: cell} if n == 101 else {}) for n in range(100, 104)]
    made = exam(written(tmp_path, train, test), single_choice=False, order="file")
    assert sorted(ids(made.train)) == ["id-0", "id-2", "id-3"]
    assert ids(made.test) == ["id-100", "id-102", "id-103"]
    assert made.notes.endswith(f"; rows left out: 2 {reason}") and "(0 with equal" in made.notes
    assert not any("None" in (q.question, *q.options) for q in made.train + made.test)


def test_repeats_are_trained_on_once_and_never_tested_on(tmp_path, datasets_cache):
    def turned(number):  # the same question, other case, blanks, order and id
        row = medmcqa_row(number)
        return row | {
            "id": f"again-{number}",
            "question": f"  {row['question'].upper()} ",
            "opa": row["opd"],
            "opd": row["opa"],
            "cop": 3 - row["cop"],
        }

    train = [medmcqa_row(0), medmcqa_row(1), turned(0), medmcqa_row(2)]
    other = medmcqa_row(1, id="other", opa="Something else")
    test = [turned(1), medmcqa_row(100), other, medmcqa_row(2), turned(100)]
    made = exam(written(tmp_path, train, test), single_choice=False, order="file")
    assert sorted(ids(made.train)) == ["id-0", "id-1", "id-2"]
    assert ids(made.test) == ["id-100", "other"]
    assert "trained on 3 of 4 rows of train (1 repeats left out)" in made.notes
    assert "tested on 2 rows of validation" in made.notes
    assert "3 repeats or also in training left out" in made.notes


def test_validation_questions_are_not_tested_on_either(tmp_path, datasets_cache):
    train = [medmcqa_row(n) for n in range(12)]
    folder = written(tmp_path, train, [*train, medmcqa_row(100)])
    made = exam(folder, single_choice=False, validation_rows=6)
    assert ids(made.test) == ["id-100"]


def test_single_choice_leaves_the_others_out(data):
    both, single = (exam(data / "medmcqa", single_choice=flag) for flag in (False, True))
    assert (len(both.train), len(both.test)) == (40, 24)
    assert (len(single.train), len(single.test)) == (30, 18)
    assert not {f"id-{n}" for n in range(3, 200, 4)} & set(ids(single.train + single.test))
    assert single.notes.endswith("; single-choice questions only")
    assert "single" not in both.notes


def test_rows_without_a_choice_type_are_not_single(tmp_path, datasets_cache):
    rows = [medmcqa_row(n, choice_type=None if n else "single") for n in range(4)]
    assert ids(exam(written(tmp_path, rows)).train) == ["id-0"]


def test_file_order_tests_on_the_first_rows_and_shuffled_on_others(data):
    settings = {"single_choice": False, "test_rows": 10}
    in_file = exam(data / "medmcqa", order="file", **settings)
    assert ids(in_file.test) == [f"id-{n}" for n in range(100, 110)]
    drawn = exam(data / "medmcqa", **settings)
    assert len(drawn.test) == 10 and ids(drawn.test) != ids(in_file.test)
    assert ids(drawn.train) == ids(in_file.train) != sorted(ids(drawn.train))


def test_the_seed_alone_decides_the_order(tmp_path, data, datasets_cache):
    first, again, other = (exam(data / "medmcqa", seed=seed) for seed in (0, 0, 1))
    assert first == again and first.sha256 == again.sha256
    assert ids(first.train) != ids(other.train) and ids(first.test) != ids(other.test)
    assert sorted(ids(first.train)) == sorted(ids(other.train))
    turned = written(
        tmp_path,
        [medmcqa_row(n) for n in range(39, -1, -1)],
        [medmcqa_row(n) for n in range(123, 99, -1)],
    )
    assert exam(turned).sha256 == first.sha256


def test_fewer_rows_are_the_first_of_more_and_splits_are_disjoint(data):
    folder = data / "medmcqa"
    large = exam(folder, train_rows=20, validation_rows=5, test_rows=16)
    small = exam(folder, train_rows=7, validation_rows=5, test_rows=4)
    assert small.train == large.train[:7] and small.test == large.test[:4]
    assert small.validation == large.validation and len(large.validation) == 5
    assert small.sha256 != large.sha256
    every = ids(large.train) + ids(large.validation) + ids(large.test)
    assert len(set(every)) == len(every) == 41


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A thousand questions to train on, as many as a data set has beyond its reserved places."""
    return write_rows(
        tmp_path_factory.mktemp("many") / "medmcqa",
        train=[medmcqa_row(n) for n in range(1000)],
        validation=[medmcqa_row(n) for n in range(1000, 1040)],
    )


def test_the_size_of_one_split_moves_no_other(many, datasets_cache):
    settings = {"single_choice": False, "train_rows": 300}
    sizes = (0, 40, 200, 600)
    made = [exam(many, validation_rows=size, **settings) for size in sizes]
    for one in made:
        assert (one.train, one.test) == (made[0].train, made[0].test)
    for one, size in zip(made, sizes):
        assert one.validation == made[-1].validation[:size] and len(one.validation) == size
    fewer = exam(many, single_choice=False, validation_rows=600, train_rows=3)
    assert fewer.train == made[-1].train[:3] and fewer.validation == made[-1].validation


def test_training_rows_of_a_seed_of_their_own_pass_over_what_is_held_out(many, datasets_cache):
    settings = {"single_choice": False, "train_seed": 3}
    whole = exam(many, **settings)
    held_out = exam(many, validation_rows=500, **settings)
    apart = set(ids(held_out.validation))
    assert ids(held_out.train) == [name for name in ids(whole.train) if name not in apart]
    assert held_out.validation == exam(many, single_choice=False, validation_rows=500).validation


def test_the_recorded_studies_are_trained_on_the_rows_that_they_were(many, datasets_cache):
    """They held out the first 200 of the shuffled questions and were trained on those after."""
    made = exam(many, single_choice=False, validation_rows=200)
    every = sorted(made.train + made.validation, key=question_key)
    shuffled = random.Random("medmcqa 0").sample(every, len(every))
    assert (made.validation, made.train) == (shuffled[:200], shuffled[200:])


def test_parts_of_one_split_may_be_trained_and_tested_on(data):
    made = exam(
        data / "medmcqa",
        train_split="train+validation[:50%]",
        test_split="validation[50%:]",
        single_choice=False,
        order="file",
    )
    assert ids(made.test) == [f"id-{n}" for n in range(112, 124)]
    assert {"id-0", "id-111"} < set(ids(made.train)) and len(made.train) == 52


def test_majority_is_the_letter_most_often_right_in_training(tmp_path, datasets_cache):
    train = [medmcqa_row(n, cop=[1, 1, 1, 3, 0][n % 5]) for n in range(10)]
    test = [medmcqa_row(n, cop=[0, 0, 1, 2][n % 4]) for n in range(100, 108)]
    made = exam(written(tmp_path, train, test), single_choice=False)
    assert made.majority_place == 1
    assert made.majority("test") == 2 / 8  # though A is more frequent there


def test_of_letters_that_are_equally_frequent_the_first_is_taken(tmp_path, datasets_cache):
    train = [medmcqa_row(n, cop=[2, 1][n % 2]) for n in range(4)]
    assert exam(written(tmp_path, train), single_choice=False).majority_place == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"train_rows": 31}, r"exam.train_rows=31 is more than the 30 questions that 'train' has"),
        ({"test_rows": 19}, r"exam.test_rows=19 is more than the 18 questions that 'validation'"),
        (
            {"train_rows": 26, "validation_rows": 5},
            r"exam.train_rows=26 is more than the 25 questions that 'train' has left",
        ),
        ({"validation_rows": 31}, r"exam.validation_rows=31 is more than the 30 questions"),
        ({"validation_rows": 30}, r"exam.validation_rows=30 leaves no question to train on"),
    ],
)
def test_too_many_rows_are_refused_by_field(data, settings, message):
    with pytest.raises(ValueError, match=message):
        exam(data / "medmcqa", **settings)


def test_ambiguous_questions_are_trained_on_but_settings_are_not_chosen_by_them(
    tmp_path, datasets_cache
):
    unclear = [medmcqa_row(n, opb=f"Fever of type {n}") for n in range(6)]
    folder = written(tmp_path, [*unclear, *[medmcqa_row(n) for n in range(6, 12)]])
    made = exam(folder, single_choice=False, validation_rows=6)
    assert 0 < len(made.validation) < 6 == len(made.train)
    assert all(len(set(question.options)) == 4 for question in made.validation)
    assert any(len(set(question.options)) == 3 for question in made.train)
