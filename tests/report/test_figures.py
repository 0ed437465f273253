"""Figures: complete on realistic and on degenerate data, texts inside and apart, words true."""

import functools
import math
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from helpers_figures import check_apart, check_complete, texts
from helpers_records import (
    TRUE_EFFECTS,
    make_record,
    paper_records,
    study_records,
    sweep_records,
)

from smf_lib.report import figures
from smf_lib.report.analysis import tables
from smf_lib.report.analysis.rates import equal_gain_rates
from smf_lib.report.figures.labels import Label, _spread, place_labels
from smf_lib.report.figures.style import (
    COLOURS,
    FURTHER,
    ink_on,
    method_colours,
    method_family,
    method_shapes,
    text_colour,
)
from smf_lib.report.measures import DRIFTS, drift_measures
from smf_lib.report.paper.figure import published_against_measured
from smf_lib.report.paper.published import load_published
from smf_lib.report.text import rate_text
from smf_lib.study.metrics import METRICS
from smf_lib.study.profiles import load_profile
from smf_lib.study.records.record import Record
from smf_lib.study.records.results import ResultsError

ROWS = 512


def counts():
    rng = np.random.default_rng(0)
    background = rng.poisson(2000 / (1 + rng.permutation(ROWS)) ** 0.9)
    task = rng.poisson(0.3 * background)
    task[:40] += 30
    return background, task


def picked():
    background, task = counts()
    p, q = task / task.sum(), (background + 1) / (background + 1).sum()
    score = np.where(task > 0, p * np.log(np.maximum(p, 1e-12) / q), -1)
    return {"KL": np.argsort(-score)[:64], "TF-IDF": np.argsort(-task)[:64]}


def without(records, *metrics):
    """The records with these metrics left out."""
    return [
        record.model_copy(
            update={"metrics": {k: v for k, v in record.metrics.items() if k not in metrics}}
        )
        for record in records
    ]


def identical():
    return [make_record(method) for method in TRUE_EFFECTS]


def diverged():
    base, *others = study_records(methods=("base", "lora", "smf-kl"))
    broken = make_record("full", kl=[math.nan] * 64)
    full = others[0].model_copy(
        update={
            "run_id": "full",
            "method": "full",
            "label": "Full finetuning",
            "metrics": others[0].metrics | {"self_kl": broken.metrics["self_kl"]},
        }
    )
    return [base, full, *others]


RECORD_FIGURES = {
    "gain": figures.gain_against_forgetting,
    "accuracy": figures.exam_accuracy,
    "rates": figures.learning_rate_sweep,
    "rates of a profile": functools.partial(
        figures.learning_rate_sweep, profile=load_profile("medmcqa")
    ),
    "loss": figures.training_loss,
    "cost": figures.cost,
}
RECORD_SETS = {
    "one study": study_records,
    "two studies": lambda: study_records() + study_records("reference", (0, 1), shift=0.02),
    "a sweep": sweep_records,
    "one method": lambda: study_records(methods=("base", "lora")),
    "identical runs": identical,
    "one probe": lambda: without(study_records(), "prose_perplexity", "knowledge_accuracy"),
    "a diverged run": diverged,
    "further methods": lambda: study_records() + [make_record("ia3"), make_record("dora")],
    "every arm": paper_records,
    "every arm twice": lambda: paper_records() + paper_records(study="local", seeds=(1,)),
}
PLAIN = {
    "read_frequency": lambda: figures.read_frequency(*counts(), picked()),
    "read_frequency, none picked": lambda: figures.read_frequency(*counts()),
    "read_shares": lambda: figures.read_shares(*counts(), picked()),
    "overlap": lambda: figures.overlap_heatmap(picked()),
    "hub rows": lambda: figures.hub_rows(dict(zip(("background", "task"), counts(), strict=True))),
}
NEEDED = {
    "gain": [name for name in RECORD_SETS if name != "further methods"],
    "accuracy": ["two studies", "a sweep", "identical runs", "every arm"],
    "rates": ["two studies", "a sweep", "one method"],
    "loss": ["one study", "two studies", "a sweep", "further methods", "every arm"],
    "cost": ["two studies", "a sweep", "identical runs", "further methods", "every arm"],
}
ALL = [(figure, records) for figure, names in NEEDED.items() for records in names]


@functools.cache
def drawn(figure, records):
    """The figure of this name, drawn once for all tests."""
    return RECORD_FIGURES[figure](RECORD_SETS[records]())


def with_own_probes(records, number):
    """The records with so many probes that the library does not bring."""
    probes = {
        f"own_{i}": old
        for i, old in zip(range(number), ("prose_perplexity", "knowledge_accuracy", "self_kl"))
    }
    changed = []
    for record in records:
        content = record.model_dump(mode="json")
        content["data"]["other"] = {n: {"sha256": n, "rows": 9, "source": "mine"} for n in probes}
        for name, old in probes.items():
            about = {"title": f"Mine, {name}", "unit": METRICS[old].unit, "data": name}
            content["metrics"][name] = content["metrics"][old] | {"about": about}
        changed.append(Record.model_validate(content))
    return changed


@pytest.mark.parametrize(("kept", "own"), [(1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (3, 3)])
def test_every_probe_has_a_panel(kept, own):
    records = without(with_own_probes(study_records(), own), *DRIFTS[kept:])
    figure = figures.gain_against_forgetting(records)
    titles = [ax.get_title(loc="left") for ax in figure.fig.axes if ax.axison]
    assert titles == [measure.panel for name, measure in drift_measures(records).items()
                      if name in records[0].metrics]  # fmt: skip
    guides = [t for t, _ in texts(figure) if t.get_text().startswith("Upper left is best")]
    assert len(guides) == (len(titles) > 2)
    check_complete(figure)
    table = tables.forgotten_table(records)
    for name, measure in drift_measures(records).items():
        assert (measure.change_head in table) == (name in records[0].metrics)


@pytest.mark.parametrize(("figure", "records"), ALL)
def test_figures_of_records_are_complete(figure, records):
    check_complete(drawn(figure, records))


@pytest.mark.parametrize("name", PLAIN)
def test_figures_of_arrays_are_complete(name):
    check_complete(PLAIN[name]())


@pytest.mark.parametrize(("figure", "records"), [pair for pair in ALL if pair[0] != "cost"])
def test_labels_do_not_overlap(figure, records):
    check_apart(drawn(figure, records))


def test_many_methods_are_told_apart_by_hue_and_mark():
    methods = load_profile("medmcqa").methods
    colours, shapes = method_colours(methods), method_shapes(methods)
    assert len({(colours[m], shapes[m]) for m in methods}) == len(methods)
    for start in ("smf-", "additive-", "replacement-"):
        family = [method for method in methods if method.startswith(start)]
        assert len({shapes[method] for method in family}) == len(family)
    assert method_family("lora") == method_family("base") == "Without a memory"
    legend = drawn("gain", "every arm").fig.legends[0]
    labels = [text.get_text() for text in legend.get_texts()]
    assert sorted(labels) == sorted(method.label for method in methods.values())


FIFTY = [f"further-{number}" for number in range(50)]


def fifty_methods(rates=(1e-4,)):
    """Fifty methods that the library does not bring, each with a gain and a drift of its own."""
    random = np.random.default_rng(0)
    trained = [
        make_record(
            method, rate, exam=random.integers(0, 2, 20), kl=[0.001 * (n + 1)] * 2,
            loss=(3.0, 2.0 + n / 50),
        )
        for n, method in enumerate(FIFTY)
        for rate in rates
    ]  # fmt: skip
    return [make_record("base", exam=[0, 1] * 10), *trained]


def drawn_as(line):
    return matplotlib.colors.to_hex(line.get_color()), line.get_marker()


def test_fifty_further_methods_are_told_apart():
    figure = figures.gain_against_forgetting(fifty_methods())
    legend = figure.fig.legends[0]
    handles = {drawn_as(handle) for handle in legend.legend_handles}
    assert len(handles) == len(legend.get_texts()) == 51
    points = [line for line in figure.fig.axes[0].lines if line.get_linestyle() == "None"]
    assert handles == {drawn_as(line) for line in points}
    assert "Intervals of 50 methods would hide the marks" in figure.caption


@pytest.mark.parametrize("figure", ["loss", "rates"])
def test_lines_of_fifty_methods_are_drawn_a_few_a_panel(figure):
    drawing = RECORD_FIGURES[figure](fifty_methods((1e-4,) if figure == "loss" else (1e-4, 1e-3)))
    panels = [ax for ax in drawing.fig.axes if ax.axison]
    named = [{t.get_text() for t in ax.texts if t.get_text() in FIFTY} for ax in panels]
    assert sorted(name for names in named for name in names) == sorted(FIFTY)
    colours = method_colours(FIFTY)
    for names in named:
        assert len({colours[name] for name in names}) == len(names) <= len(FURTHER)
    check_complete(drawing)


def published_figure(records, name="medmcqa-smollm2"):
    return published_against_measured({f"{name}/reference": records}, load_published())


MAIN = ("base", "full", "lora", "smf-kl", "additive-kl", "retrofit-additive")
PAPER_FIGURES = {
    "nothing measured": lambda: published_against_measured({}, load_published()),
    "the base alone": lambda: published_figure(paper_records(methods=("base",))),
    "one arm": lambda: published_figure(paper_records(methods=("base", "lora"))),
    "main arms": lambda: published_figure(paper_records(methods=MAIN)),
    "every arm": lambda: published_figure(paper_records()),
    "three studies": lambda: published_against_measured(
        {name: paper_records(name, MAIN) for name in ("paper", "medmcqa", "medmcqa-smollm2")},
        load_published(),
    ),
}


@pytest.mark.parametrize("name", PAPER_FIGURES)
def test_published_and_measured_stand_side_by_side(name):
    figure = PAPER_FIGURES[name]()
    check_complete(figure)
    titles = [ax.get_title(loc="left") for ax in figure.fig.axes]
    assert titles[0] == "Published: arXiv 2605.03229v2"
    assert "Full finetuning +5.4 points at +43.8 %" in figure.alt
    check_apart(figure)


def test_a_study_without_trained_arms_is_named_and_not_drawn():
    figure = PAPER_FIGURES["the base alone"]()
    assert "Without a trained arm to draw: medmcqa-smollm2/reference." in figure.caption
    assert not any("Measured" in ax.get_title(loc="left") for ax in figure.fig.axes)


def test_many_labels_at_one_point_find_places():
    from smf_lib.report.figures.style import new_figure

    figure = new_figure(4)
    ax = figure.subplots()
    ax.plot(0, 0, "o")
    labels = [Label(0, 0, f"method number {i}", "#0072b2") for i in range(12)]
    boxes = [text.get_window_extent() for text in place_labels(ax, labels)]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_spread_moves_as_little_as_needed():
    assert _spread([0, 10, 20], 5) == [0, 10, 20]
    assert _spread([10, 10], 4) == pytest.approx([8, 12])
    assert _spread([0, 1, 50], 4) == pytest.approx([-1.5, 2.5, 50])


def test_caption_tells_setting_seeds_and_baselines():
    one = drawn("gain", "one study")
    for part in ("quick/local", "test split", "400 questions", "one seed", "25.0 %", "27.0 %"):
        assert part in one.caption
    many = figures.gain_against_forgetting(study_records(seeds=(0, 1, 2)))
    assert "3 seeds" in many.caption and "one seed" not in many.caption


def test_alternative_text_holds_the_numbers():
    records = study_records()
    alt = figures.exam_accuracy(records).alt
    for record in records:
        assert f"{100 * record.metrics['exam_accuracy'].value:.1f} %" in alt
    gain = drawn("gain", "one study").alt
    assert "LoRA r 16: the exam gain is +24.0 points, perplexity changed by +10.5 %" in gain


def test_diverged_run_is_named_and_not_drawn():
    caption = drawn("gain", "a diverged run").caption
    assert "Diverged, so not drawn: Full finetuning." in caption


def test_sweep_rings_the_chosen_rates():
    records = sweep_records()
    chosen = equal_gain_rates(records)
    figure = drawn("rates", "a sweep")
    rings = [line for line in figure.fig.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert sorted(line.get_xdata()[0] for line in rings) == sorted(chosen.values())
    assert f"LoRA r 16 {rate_text(chosen['lora'])}" in figure.caption


@pytest.mark.parametrize("place", range(4))
def test_a_rate_that_diverged_is_named_and_neither_drawn_nor_chosen(place):
    records = sweep_records()
    broken = [record for record in records if record.method == "full"][place]
    kept = [record for record in records if record is not broken]
    exam = broken.metrics["exam_accuracy"]
    broken.metrics["exam_accuracy"] = exam.model_copy(
        update={"items": [math.nan] * len(exam.items)}
    )
    figure = figures.learning_rate_sweep(records)
    rate = rate_text(broken.learning_rate)
    assert f"Diverged, so not drawn: Full finetuning, lr {rate}. " in figure.caption
    assert equal_gain_rates(records) == equal_gain_rates(kept)
    drawn = [x for line in figure.fig.axes[0].lines for x in line.get_xdata()]
    assert broken.learning_rate not in drawn and not any(map(math.isnan, drawn))
    assert "nan" not in figure.caption + figure.alt


@pytest.mark.parametrize("own", [9e-3, 1e-2])
def test_rings_mark_the_rates_of_a_profile_where_they_were_run(own):
    records = [r for r in sweep_records() if r.method in ("base", "lora", "smf-kl")]
    profile = load_profile("medmcqa")  # LoRA's rate there, 2e-4, is none of these
    smf = profile.methods["smf-kl"].model_copy(update={"learning_rate": own})
    profile = profile.model_copy(update={"methods": profile.methods | {"smf-kl": smf}})
    figure = figures.learning_rate_sweep(records, profile)
    ringed = "; rings mark the rates of the profile medmcqa: SMF, KL 9e-3. "
    assert (ringed in figure.caption) == (own == 9e-3)
    assert ("rings" in figure.caption) == (own == 9e-3)
    rings = [line for line in figure.fig.axes[0].lines if line.get_markersize() == 13]
    drawn = [pytest.approx(9e-3)] if own == 9e-3 else []
    assert [x for ring in rings for x in ring.get_xdata()] == drawn


def test_loss_of_a_second_study_is_dashed_and_named_once():
    records = study_records() + study_records("reference", shift=1.0)
    figure = figures.training_loss(records)
    assert "; dashed: study quick/reference." in figure.caption
    lines = [line for line in figure.fig.axes[0].lines if line.get_alpha() is None]
    assert [line.get_linestyle() for line in lines].count("--") == len(lines) / 2
    texts = [text.get_text() for text in figure.fig.axes[0].texts]
    assert sorted(texts) == sorted({r.label for r in records if r.kind != "base"})


def test_missing_data_is_an_error_with_a_reason():
    with pytest.raises(ResultsError, match="quick/local has no run of the base model"):
        figures.gain_against_forgetting(study_records(methods=("lora",)))
    with pytest.raises(ValueError, match="forgetting probe"):
        figures.gain_against_forgetting(study_records(methods=("base",)))
    with pytest.raises(ValueError, match="exam_accuracy"):
        figures.exam_accuracy(without(study_records(), "exam_accuracy"))
    with pytest.raises(ValueError, match="training_log"):
        figures.training_loss(study_records(methods=("base",)))
    with pytest.raises(ValueError, match="no trained run"):
        figures.cost(study_records(methods=("base",)))
    with pytest.raises(ValueError, match="no trained run"):
        figures.learning_rate_sweep(study_records(methods=("base",)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.read_frequency([1, 2], [1, 2, 3]), "has 2 rows, task_counts 3"),
        (lambda: figures.read_frequency([0, 0], [1, 2]), "background_counts must hold"),
        (lambda: figures.read_frequency([1, 2], [1, 2], {"kl": [2]}), "row outside 0 to 1"),
        (lambda: figures.read_shares([1, 2], [1, 2], {}), "names no rule"),
        (lambda: figures.overlap_heatmap({"kl": [1]}), "two rules or more"),
        (lambda: figures.overlap_heatmap({"kl": [1], "tfidf": []}), "without rows"),
        (lambda: figures.hub_rows({}), "names no curve"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_overlap_and_shares_say_true_numbers():
    overlap = figures.overlap_heatmap({"a": [1, 2, 3, 4], "b": [3, 4, 5, 6]})
    assert "2 rows are picked by both a and b" in overlap.alt
    shares = figures.read_shares([1, 1, 1, 1], [3, 1, 0, 0], {"kl": [0]})
    assert "1 rows with 75 % of the task's reads and 25 % of the background's" in shares.caption
    hubs = figures.hub_rows({"task": [90] + [1] * 10})
    assert "top 1 % of rows take 90 % of the reads" in hubs.caption


def test_colours_are_stable_distinct_and_readable():
    colours = method_colours(["vera", "dora", "lora"])
    assert colours["lora"] == COLOURS["lora"]
    assert colours["dora"] == FURTHER[0] and colours["vera"] == FURTHER[1]
    assert len({*COLOURS.values(), *FURTHER}) == len(COLOURS) + len(FURTHER)
    for colour in (*COLOURS.values(), *FURTHER):
        assert 1.05 / (luminance(text_colour(colour)) + 0.05) >= 4.49


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def test_numbers_are_readable_on_every_shade_of_a_matrix():
    for place in np.linspace(0, 1, 101):
        shade = matplotlib.colormaps["RdBu"](place)[:3]
        darker, lighter = sorted([luminance(shade), {"black": 0.0, "white": 1.0}[ink_on(shade)]])
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_figure_shows_itself_with_escaped_words():
    shown = figures.Figure(figures.hub_rows({"task": counts()[1]}).fig, "a < b.", 'the "alt" text.')
    html = shown._repr_html_()
    assert "a &lt; b." in html and "&quot;alt&quot;" in html and "data:image/png;base64," in html


def test_drawing_leaves_matplotlib_settings_alone():
    before = dict(matplotlib.rcParams)
    figures.hub_rows({"task": counts()[1]}).png()
    assert dict(matplotlib.rcParams) == before
