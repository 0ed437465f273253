"""What an exam gives without a language model, in sentences and figures, right in every case."""

import pytest
from helpers_figures import check_apart, check_complete, texts
from helpers_records import make_record, study_records, sweep_records

from smf_lib.report import figures
from smf_lib.report.analysis.arms import group_arms
from smf_lib.report.analysis.floors import close_ones, floors_of, floors_sentence
from smf_lib.study.records.record import Baselines

KEPT = Baselines(
    chance=0.25, majority=0.24, rules={"longest": 0.22, "shared": 0.282}, bags={"letters": 0.48}
)
FLOORS = (
    "guessing 25.0, the most frequent option 24.0, the best rule that learns nothing 28.2 and a "
    "bag of letters 48.0 %"
)
TOP = "a bag of letters, the highest of these"


def said(**right):
    """The sentence on arms with so many of 200 questions right."""
    records = [
        make_record(name, exam=[1] * n + [0] * (200 - n)).model_copy(update={"baselines": KEPT})
        for name, n in right.items()
    ]
    return floors_sentence(group_arms(records), lambda arm: arm.first.method)


def test_every_floor_has_a_name_and_what_was_not_kept_is_left_out():
    assert list(floors_of(KEPT).values()) == pytest.approx([25, 24, 28.2, 48])
    assert list(floors_of(Baselines(chance=0.25, majority=0.3))) == [
        "guessing", "the most frequent option",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("right", "verdict"),
    [
        ({"base": 60, "lora": 70}, f"no arm is above {TOP}"),
        (
            {"base": 60, "lora": 98},
            (f"no arm is clearly above {TOP}; not told apart from it: lora"),
        ),
        (
            {"base": 60, "lora": 98, "full": 150},
            (f"above {TOP}: full; not told apart from it: lora; below it: base"),
        ),
        ({"base": 140, "lora": 150}, f"every arm is above {TOP}"),
    ],
)
def test_arms_are_held_against_the_highest_floor(right, verdict):
    assert (
        said(**right)
        == f"Without a language model: {FLOORS}; {verdict} (all arms decided together)."
    )


def test_without_an_accuracy_only_the_floors_are_told():
    records = [make_record("lora", drop=["exam_accuracy"])]
    told = floors_sentence(group_arms(records), lambda arm: arm.first.method)
    assert told == "Without a language model: guessing 25.0 and the most frequent option 27.0 %."


def test_floors_that_lie_together_are_named_in_one_place():
    found = close_ones({"a": 25.0, "c": 48.0, "b": 24.0}, near=2)
    assert found == [(24.0, "b, a"), (48.0, "c")]


@pytest.mark.parametrize(
    ("draw", "made"),
    [(figures.exam_accuracy, study_records), (figures.learning_rate_sweep, sweep_records)],
    ids=["accuracy", "rates"],
)
def test_every_floor_is_a_line_with_a_name_in_figures_of_accuracy(draw, made):
    figure = draw([record.model_copy(update={"baselines": KEPT}) for record in made()])
    check_complete(figure)
    check_apart(figure)
    written = " ".join(text.get_text() for text, _ in texts(figure))
    for name in ("guessing 25.0", "most frequent option 24.0", "best rule", "bag of letters 48.0"):
        assert name in written and name in figure.alt
    lines = [(set(line.get_xdata()), set(line.get_ydata())) for line in figure.fig.axes[0].lines]
    for value in floors_of(KEPT).values():
        assert any({value} in ends for ends in lines)
