"""What an exam gives without a language model, in sentences and figures, right in every case."""

import pytest
from helpers_figures import check_apart, check_complete, texts
from helpers_records import make_record, paper_records, study_records, sweep_records

from smf_lib.report import figures
from smf_lib.report.analysis.arms import group_arms
from smf_lib.report.analysis.floors import close_ones, floors_of, floors_sentence
from smf_lib.report.paper.figure import published_against_measured
from smf_lib.report.paper.published import load_published
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


def test_every_floor_is_a_line_with_a_name_above_or_below_the_base_model():
    methods = ("base", "full", "lora", "smf-kl", "additive-kl", "retrofit-additive")
    records = [r.model_copy(update={"baselines": KEPT}) for r in paper_records(methods=methods)]
    figure = published_against_measured({"a/b": records}, load_published())
    check_complete(figure)
    check_apart(figure)
    published, measured = figure.fig.axes[:2]
    before = 100 * sum(records[0].metrics["exam_accuracy"].items) / 400
    flat = [line.get_ydata()[0] for line in measured.lines if line.get_linestyle() == ":"]
    assert flat == pytest.approx([height - before for height in floors_of(KEPT).values()])
    assert not any(line.get_linestyle() == ":" for line in published.lines)
    low, high = measured.get_ylim()
    assert all(low < height < high for height in flat)
    written = " ".join(" ".join(text.get_text() for text in measured.texts).split())
    for name in ("guessing", "most frequent option", "best rule", "bag of letters"):
        assert name in written and name in figure.alt
    assert f"guessing {25 - before:+.1f}, most frequent option {24 - before:+.1f}" in figure.alt
    assert "Dotted lines: what needs no language model" in figure.caption


@pytest.mark.parametrize(
    ("change", "highest"),
    [({}, "48 % (a bag of letters)"), ({"majority": 0.6}, "60 % (the most frequent option)")],
)
def test_the_reading_guide_names_the_highest_floor(change, highest):
    kept = KEPT.model_copy(update=change)
    records = [r.model_copy(update={"baselines": kept}) for r in study_records()]
    figure = figures.gain_against_forgetting(records)
    check_complete(figure)
    guide = " ".join(text.get_text() for text in figure.fig.axes[-1].texts).replace("\xa0", " ")
    assert guide.endswith(f"The most that is had without a language model is {highest}.")
