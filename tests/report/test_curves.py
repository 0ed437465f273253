"""Figures of whole curves: complete, legible, and true to the records."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers_figures import check_apart, check_complete, texts
from helpers_records import (
    ablation_records,
    frontier_records,
    simulated,
    study_records,
    sweep_records,
)

from smf_lib.report import figures
from smf_lib.report.analysis.ablations import factors, passes
from smf_lib.report.analysis.frontier import NotOnRecord, frontier_of
from smf_lib.report.analysis.interval import Interval, Verdict

METHOD, REFERENCES = "smf-tfidf", ["lora", "full"]
MAIN = [METHOD, *REFERENCES, "smf-kl"]
AT = 11


@functools.cache
def frontier():
    return frontier_of(frontier_records())


@functools.cache
def varied():
    return frontier_of(ablation_records(), pooled=True)


def main(own=()):
    return figures.gain_and_divergence(frontier(), MAIN, AT, REFERENCES, own)


def factors_figure():
    return figures.ablations(varied(), factors(varied(), METHOD, 14), 14)


FIGURES = {
    "main": main,
    "with own runs": lambda: main(study_records()),
    "rules": lambda: figures.gain_and_divergence(
        frontier(), [METHOD, "smf-kl", "smf-random"], AT, ["smf-kl", "smf-random"]
    ),
    "further": lambda: figures.beside_references(
        frontier(), ["smf-random", "wise-ft"], [METHOD, *REFERENCES], AT
    ),
    "one further": lambda: figures.beside_references(frontier(), ["smf-random"], ["lora"], AT),
    "passes": lambda: figures.passes(frontier(), passes(frontier()), AT),
    "ablations": factors_figure,
    "a sweep of one seed": lambda: figures.gain_and_divergence(
        frontier_of(sweep_records()), MAIN, AT, REFERENCES
    ),
    "one curve": lambda: figures.gain_and_divergence(
        frontier_of(frontier_records(methods=("lora",))), ["lora"], AT
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_curves_are_complete(name):
    figure = FIGURES[name]()
    check_complete(figure)
    check_apart(figure)


def test_the_line_of_equal_gain_is_where_it_is_said_to_be():
    ax = main().fig.axes[0]
    words = [text.get_text() for text in ax.texts]
    assert "equal gain: +11 points" in words and ax.get_yscale() == "log"
    crossed = [line for line in ax.lines if np.array_equal(line.get_xdata(), [AT])]
    heights = sorted(float(line.get_ydata()[0]) for line in crossed)
    drifts = sorted(frontier().drift(name, AT).value for name in [METHOD, *REFERENCES])
    assert heights == pytest.approx(drifts)
    label = frontier().label(METHOD)
    for name in REFERENCES:
        assert (
            f"{frontier().ratio((name, METHOD), AT).value:.2g} \N{MULTIPLICATION SIGN} {label}"
            in words
        )


def test_multiples_that_prose_does_not_confirm_are_named_in_the_caption(monkeypatch):
    assert "on prose" not in main().caption
    monkeypatch.setattr(type(frontier()), "by_divergence", lambda self, pair, at: Verdict.LEVEL)
    said = "by that on prose SMF, TF-IDF is not told apart from LoRA r 16 and Full finetuning."
    assert said in main().caption


def test_curves_are_named_beside_their_ends_and_not_in_a_legend():
    figure = main()
    words = {text.get_text() for text, _ in texts(figure)}
    assert {frontier().label(name) for name in MAIN} <= words
    assert not figure.fig.legends and figure.fig.axes[0].get_legend() is None


def test_lines_are_straight_between_the_measured_points():
    ax = main().fig.axes[0]
    curve = frontier().measured()[METHOD]
    drawn = [line for line in ax.lines if len(line.get_xdata()) == curve.gains.shape[1]]
    assert any(np.allclose(line.get_xdata(), 100 * curve.gains[0]) for line in drawn)


def test_own_runs_are_stars_and_named_in_the_caption():
    figure = main(study_records())
    stars = [line for line in figure.fig.axes[0].lines if line.get_marker() == "*"]
    assert "\N{BLACK STAR} study quick/local" in {text.get_text() for text, _ in texts(figure)}
    assert (
        len(stars) == 4
        and "Stars are runs of study quick/local with 95 % intervals of their gain (400 questions"
        in figure.caption
    )
    assert "Stars" not in main().caption
    other = study_records()
    for record in other:
        record.model.sha256 = "00" * 32
    assert "Stars" not in main(other).caption


def test_floors_stand_on_the_same_scale():
    assert "without a language model: guessing -" in main().caption
    records = frontier_records(methods=("lora", "full"))
    for record in records:
        record.baselines.bags = {"words": 0.55}
    found = figures.gain_and_divergence(frontier_of(records), ["lora", "full"], AT, ["full"])
    assert "a bag of words" in {text.get_text() for text, _ in texts(found)}
    assert "and a bag of words +" in found.caption


def test_ablations_have_a_panel_a_factor_and_what_is_out_of_reach_is_marked():
    figure = factors_figure()
    titles = [ax.get_title(loc="left") for ax in figure.fig.axes if ax.axison]
    assert titles == [factor.title for factor in factors(varied(), METHOD, 14)]
    assert "4,096" in figure.alt and "Rows a step (T): 64 0." in figure.alt
    drawn = factors(varied(), METHOD, 14)[1]
    for reason, said in {
        "begins at +15.0 points": "begins higher",
        "reaches +9.0 points": "out of reach",
        "one learning rate only": "one rate only",
    }.items():
        nothing = Interval(*[math.nan] * 3, 1, reason=reason)
        lost = replace(drawn.variants[0], ratio=nothing)
        some = [replace(drawn, variants=(lost, *drawn.variants[1:]))]
        words = [text.get_text() for text, _ in texts(figures.ablations(varied(), some, 14))]
        assert said in words


def test_curves_of_two_rates_are_drawn_as_well_as_longer_ones():
    records = frontier_records(methods=("lora", "full"))
    rates = {m: sorted({r.learning_rate for r in records if r.method == m})[:2]
             for m in ("lora", "full")}  # fmt: skip
    some = [r for r in records if r.kind == "base" or r.learning_rate in rates[r.method]]
    figure = figures.gain_and_divergence(frontier_of(some), ["lora", "full"], 8, ["full"])
    low, high = figure.fig.axes[0].get_ylim()
    drifts = [r.metrics["self_kl"].value for r in some if r.kind != "base"]
    assert low < min(drifts) and max(drifts) < high


@pytest.mark.parametrize("records", [[], study_records()])
def test_nothing_to_draw_is_said(records):
    empty = frontier_of(records)
    for draw in (
        lambda: figures.gain_and_divergence(empty, MAIN, AT, REFERENCES),
        lambda: figures.beside_references(empty, ["smf-kl"], REFERENCES, AT),
        lambda: figures.passes(empty, passes(empty), AT),
        lambda: figures.ablations(empty, factors(empty, "lora", AT), AT),
    ):
        with pytest.raises(NotOnRecord, match="[Ss]tudy"):
            draw()


def test_stars_are_those_of_the_drawn_methods():
    figure = figures.gain_and_divergence(
        frontier(), [METHOD, "lora"], AT, ["lora"], study_records()
    )
    assert len([line for line in figure.fig.axes[0].lines if line.get_marker() == "*"]) == 2


def test_runs_of_an_exam_that_the_base_model_answers_otherwise_are_no_stars():
    easier = [simulated("base", (0.3, 0, 0, 0)), *study_records()[1:]]
    stars = [line for line in main(easier).fig.axes[0].lines if line.get_marker() == "*"]
    assert not stars
