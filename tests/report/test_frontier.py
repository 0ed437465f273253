"""Whole curves: which there are, how they are compared, and what is said of them."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers_records import (
    ABLATIONS,
    FRONTIER,
    ablation_records,
    frontier_records,
    make_record,
    study_records,
    sweep_records,
)

from smf_lib.report.analysis import findings, frontier_tables, further_findings, tables
from smf_lib.report.analysis.ablations import (
    differences,
    factor_sentence,
    factors,
    passes,
    rules_beside,
    settings_of,
)
from smf_lib.report.analysis.conditions import MET, NOT_MET, PROBES, conditions_at_gain
from smf_lib.report.analysis.frontier import (
    NotOnRecord,
    chosen_gain,
    frontier_of,
    own_study,
    ratio_text,
    read_frontier,
    share_text,
)
from smf_lib.report.analysis.interval import Interval, Verdict
from smf_lib.report.measures import Measure
from smf_lib.report.text import signed
from smf_lib.study.files import find_root
from smf_lib.study.records.record import Record
from smf_lib.study.records.results import ResultsError, read_records, records_folder

METHOD, REFERENCES = "smf-tfidf", ["lora", "full"]


@pytest.fixture(scope="module")
def frontier():
    return frontier_of(frontier_records())


@pytest.fixture(scope="module")
def varied():
    return frontier_of(ablation_records(), pooled=True)


def true_drift(method, at):
    """Of an invented curve at a gain in points, on straight lines in the logarithm."""
    points = np.array([(100 * gain, math.log(kl)) for _, gain, kl in FRONTIER[method]])
    return math.exp(np.interp(at, *points.T))


def test_methods_that_name_a_curve_are_its_points_in_order_of_drift(frontier):
    assert set(frontier.curves) == {*FRONTIER, "wise-ft"} - {"wise-ft-0.5", "wise-ft-0.8"}
    curve = frontier.curves["wise-ft"]
    assert [arm.first.method for arm in curve.arms] == ["wise-ft-0.5", "wise-ft-0.8"]
    assert curve.label == "WiSE-FT" and curve.seeds == 3
    backwards = frontier_of(frontier_records()[::-1])
    assert [a.first.method for a in backwards.curves["wise-ft"].arms] == [
        "wise-ft-0.5", "wise-ft-0.8",
    ]  # fmt: skip


def test_ratios_are_those_of_the_invented_curves(frontier):
    for pair in (("smf-tfidf", "lora"), ("smf-tfidf", "full"), ("smf-random", "smf-tfidf")):
        true = true_drift(pair[0], 11) / true_drift(pair[1], 11)
        found = frontier.ratio(pair, 11)
        assert found.low < true < found.high and found.high / found.low < 5
        wider = frontier.ratio(pair, 11, level=0.999)
        assert wider.low < found.low < found.high < wider.high


def test_a_ratio_depends_on_no_third_curve(frontier):
    alone = frontier_of(frontier_records(methods=("smf-tfidf", "lora")))
    assert alone.ratio(("smf-tfidf", "lora"), 11) == frontier.ratio(("smf-tfidf", "lora"), 11)


def test_every_pair_is_compared_once_and_decided_with_all(frontier):
    pairs = frontier.pairs(11, REFERENCES)
    assert len(pairs) == 2 * 7 - 3 and len({frozenset(pair) for pair in pairs}) == len(pairs)
    together = frontier.told_apart(pairs, 11)
    assert ("smf-tfidf", "lora") in together and ("wise-ft", "full") not in together


def test_the_gain_is_the_middle_of_where_most_curves_are_compared(frontier):
    at = frontier.common_gain([METHOD, *REFERENCES])
    low, high = frontier.span([METHOD, *REFERENCES])
    assert low <= at <= high and {"smf-tfidf-3", "wise-ft"} <= set(frontier.reached(at))
    assert chosen_gain(frontier, 12.5, METHOD, REFERENCES) == 12.5
    assert frontier_tables.compared_gains(frontier, [METHOD, *REFERENCES], at) == [low, at, high]


@pytest.mark.parametrize(
    ("gain", "method", "references", "message"),
    [
        (None, "smf-idf", ["lora"], "method='smf-idf' has no curve .*it has full, lora, "),
        (None, METHOD, ["lora", "ia3"], "references='ia3' has no curve"),
        (40, METHOD, ["lora"], "gain=40 is reached by no curve .*choose a number of points"),
        (-3, METHOD, ["lora"], "gain=-3 is reached by no curve"),
    ],
)
def test_what_is_not_on_record_is_refused_by_name(frontier, gain, method, references, message):
    with pytest.raises(ValueError, match=message):
        chosen_gain(frontier, gain, method, references)


def test_studies_are_not_mixed_and_runs_without_the_divergence_are_left_out():
    with pytest.raises(ResultsError, match="one study at a time"):
        frontier_of(frontier_records() + frontier_records(study="local"))
    bare = make_record("lora", drop=("self_kl",))
    assert not frontier_of([make_record("base"), bare]).curves


def test_the_fullest_study_of_a_profile_is_read_and_of_equal_ones_the_machines_own(results):
    assert read_frontier("frontier").where == "frontier (not on record)"
    assert not read_frontier(None).curves and own_study(None) == own_study("quick") == []
    full = frontier_records(seeds=(0,), methods=("lora", "full"))
    results(full)
    results(frontier_records(study="local", seeds=(0,), methods=("lora",)))
    assert read_frontier("frontier").where == "frontier/reference"
    results(frontier_records(study="local", seeds=(0,), methods=("lora", "full")))
    assert read_frontier("frontier").where == "frontier/local"
    results(study_records(study="reference"))
    assert {record.study for record in own_study("quick")} == {"reference"}
    results(study_records(study="local"))
    assert {record.study for record in own_study("quick")} == {"local"}


def test_ratios_are_written_with_two_digits():
    assert ratio_text(Interval(0.06789, 0.0312, 0.234, 9)) == "0.068 [0.031, 0.23]"
    assert ratio_text(Interval(0.06789, math.nan, math.nan, 9)) == "0.068"
    assert ratio_text(Interval(math.nan, math.nan, math.nan, 9)) == "–"
    assert share_text(Interval(0.06789, 0.0312, 0.234, 9)) == "6.8 % [3.1, 23]"
    assert share_text(Interval(4.7, 2.0, 13.2, 9)) == "4.7 times [2, 13]"
    assert share_text(Interval(0.3, math.nan, math.nan, 9)) == "30 %"


def test_the_finding_is_one_sentence_against_both_references(frontier):
    said = findings.finding(frontier, METHOD, REFERENCES, 11)
    assert said.count(".") >= 1 and said.endswith(
        "; KL divergence, with 95 % intervals over 400 questions and 3 seeds."
    )
    for name in REFERENCES:
        share = share_text(frontier.ratio((METHOD, name), 11))
        assert f"{share} as far as {frontier.label(name)}" in said


def with_prose(factor):
    """Curves whose divergence on prose is that on own text, of SMF (TF-IDF) so many times it."""
    found = []
    for record in frontier_records(methods=(METHOD, "smf-kl", *REFERENCES)):
        own, times = record.metrics["self_kl"], factor if record.method == METHOD else 1
        prose = own.model_copy(
            update={"value": times * own.value, "items": [times * x for x in own.items]}
        )
        found.append(record.model_copy(update={"metrics": record.metrics | {"prose_kl": prose}}))
    return frontier_of(found)


AS_FAR = true_drift("lora", 11) / true_drift(METHOD, 11)  # on prose then as far as LoRA


def test_the_divergence_decides_only_what_own_text_and_prose_both_say():
    agree, differ, turned = with_prose(1), with_prose(AS_FAR), with_prose(30 * AS_FAR)
    pair = (METHOD, "lora")
    assert agree.beside(pair, 11)[1] is agree.beside(pair, 11, "prose_kl")[1] is Verdict.LESS
    assert agree.by_divergence(pair, 11) is Verdict.LESS
    assert turned.beside(pair, 11, "prose_kl")[1] is Verdict.MORE
    for frontier in (differ, turned):
        assert frontier.beside(pair, 11)[1] is Verdict.LESS
        assert frontier.by_divergence(pair, 11) is Verdict.LEVEL
        assert frontier.verdicts([pair], 11)[pair] is Verdict.LEVEL
    assert with_prose(0.001).by_divergence(("smf-kl", METHOD), 11) is Verdict.MORE


def test_where_the_divergences_disagree_the_first_sentences_say_so():
    agree, differ = with_prose(1), with_prose(AS_FAR)
    held, open_ = (findings.came_out(f, METHOD, REFERENCES, 11)[0] for f in (agree, differ))
    assert held.startswith("**SMF, TF-IDF drifts less than LoRA r 16**: ")
    assert open_.startswith("**SMF, TF-IDF is not told apart from LoRA r 16**: ")
    assert open_.endswith("; only one of these intervals lies below 1.")
    for frontier, said in ((agree, held), (differ, open_)):
        own, prose = (
            share_text(frontier.ratio((METHOD, "lora"), 11, metric=metric))
            for metric in ("self_kl", "prose_kl")
        )
        assert f"{own} as far by the divergence on the base model's own text, and {prose}" in said
    whole = findings.finding(differ, METHOD, REFERENCES, 11)
    assert whole.count(": not told apart)") >= 1 and " as far as LoRA r 16 (on prose " in whole
    assert ": not told apart)" not in findings.finding(agree, METHOD, ["lora"], 11)
    rules = findings.rule_sentence(differ, METHOD, 11)
    assert "(not told apart from it)" in rules


def test_a_condition_is_not_met_only_where_both_divergences_say_so():
    lora = "LoRA r 16 at the same gain with no more drift on all three probes: "
    state = [
        conditions_at_gain(frontier, METHOD, REFERENCES, 11).partition(lora)[2].split(";")[0]
        for frontier in (with_prose(1), with_prose(AS_FAR))
    ]
    others = [with_prose(1).beside(("lora", METHOD), 11, probe)[1] for probe in PROBES]
    assert state[0] == NOT_MET
    assert state[1] == (NOT_MET if Verdict.MORE in others else MET)


def test_what_holds_taken_alone_and_not_together_is_said_in_bold(frontier, monkeypatch):
    held = findings.came_out(frontier, METHOD, REFERENCES, 11)
    monkeypatch.setattr(type(frontier), "told_apart", lambda self, pairs, at: set())
    alone = findings.came_out(frontier, METHOD, REFERENCES, 11)
    assert held[0].startswith("**SMF, TF-IDF drifts less than LoRA r 16**: ")
    assert alone[0].startswith("**SMF, TF-IDF drifts less than LoRA r 16, taken alone**: ")
    assert alone[0].endswith("(Holm's procedure) it is not told apart from it.")


def test_what_came_out_says_what_is_lost_too(frontier):
    said = " ".join(findings.came_out(frontier, METHOD, REFERENCES, 11))
    assert "**SMF, TF-IDF drifts less than LoRA r 16**: at +11 points of gain" in said
    assert " as far by the divergence, also with all 11 comparisons with" in said
    lost = "**Where SMF, TF-IDF does not win**: it is not told apart from LoRA r 16 by Knowledge"
    assert lost in said and said.count(findings.ALONE) == 1
    assert "it has a smaller largest gain on record than Full finetuning" in said
    more = " ".join(further_findings.further(frontier, METHOD, REFERENCES, 11))
    assert more.count(findings.ALONE) == 1 and "Prose perplexity, what it lost" in more
    assert "Of the other methods, " in more and "than SMF, TF-IDF drift " in more
    assert "The gentlest Full finetuning (rate 1e-05)" in more
    level = " ".join(findings.came_out(frontier, "wise-ft", REFERENCES, 11))
    assert "**WiSE-FT is not told apart from Full finetuning**" in level


def test_what_matters_most_comes_first_in_six_points(frontier):
    first = findings.came_out(frontier, METHOD, REFERENCES, 11)
    begins = [
        "**SMF, TF-IDF drifts less than LoRA r 16**", "**SMF, TF-IDF ",
        "At +11 points of gain, beside SMF, TF-IDF, with the same memory and step but another ",
        "**Where SMF, TF-IDF does not win**", "**Of the conditions under which", "**How sure**: ",
    ]  # fmt: skip
    assert len(first) == len(begins) == 6 and "Full finetuning**: " in first[1]
    assert all(text.startswith(begin) for text, begin in zip(first, begins))
    more = further_findings.further(frontier, METHOD, REFERENCES, 11)
    assert len(more) > 4 and not set(first) & set(more)
    shown = tables.points(first, more, "What else").data
    listed, _, folded = shown.partition("<details>\n<summary>What else</summary>\n\n")
    assert listed.count("\n- ") + 1 == 6 and folded.count("\n- ") + 1 == len(more)
    assert folded.endswith("\n\n</details>")
    assert tables.points(first, [], "What else").data == listed.rstrip()


def test_a_single_seed_is_said_to_be_one():
    one = frontier_of(frontier_records(seeds=(0,)))
    said = findings.came_out(one, METHOD, REFERENCES, one.common_gain())
    assert said[-1].endswith("have one seed, so intervals do not cover the luck of training.")


def test_a_gain_that_the_method_does_not_reach_is_said(frontier):
    said = findings.came_out(frontier, METHOD, REFERENCES, 18.3)
    assert "no curve to compare at +18.3 points" in said[0] and len(said) == 4
    assert "The largest gains" in said[1] and "Of the conditions" in said[3]
    assert further_findings.further(frontier, METHOD, REFERENCES, 18.3) == []


def test_where_no_reference_reaches_the_gain_nothing_is_won(frontier):
    tops = {n: 100 * c.highest for n, c in frontier.measured().items()}
    first, second = sorted(tops, key=tops.get)[-1:] + ["smf-tfidf-3"]
    at = (tops[first] + sorted(tops.values())[-2]) / 2
    said = findings.came_out(frontier, first, [second], at)
    assert said[0].startswith("None of smf-tfidf-3 reaches") and "compared with none" in said[0]
    assert not [sentence for sentence in said if "no probe here" in sentence]


def test_without_points_that_others_beat_the_ratio_is_told_again():
    """LoRA has a rate that gains less and drifts more than the one before it."""
    records = frontier_records(methods=("lora", "smf-tfidf", "full"))
    plain = frontier_of(records)
    assert all(len(c.arms) > 2 for c in plain.curves.values())
    best = plain.without_beaten_points()
    for name, curve in best.curves.items():
        gains = [arm.items("exam_accuracy").mean() for arm in curve.arms]
        assert gains == sorted(gains) and set(curve.arms) <= set(plain.curves[name].arms)
    beaten = [r for r in records if r.method == "lora"]
    worst = max(beaten, key=lambda r: r.metrics["self_kl"].value)
    for record in beaten:
        if record.learning_rate == worst.learning_rate:
            record.metrics["exam_accuracy"].items[:] = [0] * record.metrics["exam_accuracy"].n
    said = findings.came_out(frontier_of(records), METHOD, REFERENCES, 11)
    assert "How the curves are read" in said[-1] and "as far as LoRA r 16" in said[-1]


def test_what_the_rule_adds(frontier):
    assert set(rules_beside(frontier, METHOD)) == {"smf-kl", "smf-random"}
    said = findings.rule_sentence(frontier, METHOD, 11)
    assert "(clearly farther)" in said and "SMF, KL 5" in said
    alone = frontier_of(frontier_records(methods=("smf-tfidf", "lora")))
    assert "not on record" in findings.rule_sentence(alone, METHOD, 11)


def test_passes_are_found_by_their_settings_and_compared(frontier):
    assert passes(frontier) == [("smf-tfidf", "smf-tfidf-3")]
    (said,) = further_findings.pass_sentences(frontier, 11)
    assert "reading again is the better way to learn more" in said and said.endswith(findings.ALONE)
    (far,) = further_findings.pass_sentences(frontier, 16)
    assert "cannot be compared" in far


def test_the_ratio_table_has_every_curve_that_reaches_the_gain_and_its_caption_the_rest(frontier):
    table = frontier_tables.ratio_table(frontier, 16, REFERENCES)
    assert "smf-tfidf-3" not in set(table["Method"]) and table["Method"].iloc[0] == "SMF, TF-IDF"
    caption = frontier_tables.ratio_caption(frontier, 16, REFERENCES)
    top = signed(100 * frontier.measured()["smf-tfidf-3"].highest, 1)
    assert f"Not compared: smf-tfidf-3 (reaches {top})" in caption
    row = table.set_index("Method").loc["LoRA r 16"]
    assert row["over LoRA r 16's"] == tables.DASH and row["Seeds"] == "3"
    starred = table[["over LoRA r 16's", "over Full finetuning's"]].map(lambda c: c[-1] == "*")
    assert starred.to_numpy().any()


def test_other_probes_stand_beside_the_divergence_at_the_same_gain(frontier):
    table = frontier_tables.probes_table(frontier, 11)
    assert len(table) == len(frontier.reached(11))
    assert [name for name in table if name != "Method"] == [
        "KL from the base (nats a token)", "Perplexity change (%)", "Knowledge lost (points)",
    ]  # fmt: skip
    assert "by every probe at +11 points of gain" in frontier_tables.probes_caption(frontier, 11)
    points = frontier_tables.points_table(frontier)
    said = frontier_tables.points_caption(frontier)
    assert said.startswith("Every method at every learning rate") and "questions" in said
    assert len(points) == sum(len(rates) for rates in FRONTIER.values())


def with_witnesses(records):
    """The records with a divergence on prose and a small task that shares nothing with them."""
    changed = []
    for record in records:
        content = record.model_dump(mode="json")
        content["metrics"]["prose_kl"] = content["metrics"]["self_kl"]
        content["data"]["prose"] |= {"articles": 64, "sections": [1] * 64}
        del content["metrics"]["prose_perplexity"]
        about = {"title": "Endings", "unit": "accuracy", "data": "lm_eval:endings"}
        task = content["metrics"]["knowledge_accuracy"] | {"about": about}
        content["metrics"]["lm_eval:endings"] = task
        content["data"]["other"] = {
            "lm_eval:endings": {"sha256": "e", "rows": 400, "source": "shipped"}
        }
        changed.append(Record.model_validate(content))
    return changed


def test_witnesses_of_drift_stand_beside_it_where_they_are_recorded():
    frontier = frontier_of(with_witnesses(frontier_records(methods=("lora", "full", METHOD))))
    assert frontier.drift_metrics == [
        "self_kl", "prose_kl", "knowledge_accuracy", "lm_eval:endings",
    ]  # fmt: skip
    heads = list(frontier_tables.probes_table(frontier, 11))
    assert len(heads) == 5 and any("prose" in head for head in heads)
    assert heads[-1] == "Endings lost (points)"
    said = " ".join(further_findings.further(frontier, METHOD, REFERENCES, 11))
    assert "Endings, what it lost minus what the other lost: SMF, TF-IDF" in said
    assert "prose: SMF, TF-IDF keeps more than" in said


def test_settings_that_differ_are_named():
    runs = ablation_records(seeds=(0,))
    found = {record.method: record for record in runs}
    assert settings_of(found["smf-tfidf"])["rows_per_step"] == 512
    for name, changed in {
        "t64": {"rows_per_step": 64},
        "background64": {"background.sequences": 64},
        "sgd": {"baseline": "sgd"},
    }.items():
        assert differences(found[name], found["smf-tfidf"]) == changed


def test_factors_stand_in_order_with_their_reference(varied):
    at = chosen_gain(varied, 14, METHOD, [])
    found = {factor.title: factor for factor in factors(varied, METHOD, at)}
    assert list(found) == [
        "Rows of the table", "Rows a step (T)", "Layers with a memory", "Background texts",
        "Source of the background", "The step", "As the released algorithm does",
    ]  # fmt: skip
    rows = found["Rows a step (T)"]
    assert [v.value for v in rows.variants] == ["64", "512", "4,096"]
    assert [v.is_reference for v in rows.variants] == [False, True, False]
    worse = rows.variants[2]
    assert worse.ratio.low < ABLATIONS["t4096"][1] < worse.ratio.high
    assert ": more with 4,096" in factor_sentence(rows)
    assert found["The step"].variants[0].value == "strict"


def test_strictness_is_a_number(varied):
    at = chosen_gain(varied, None, METHOD, [])
    said = further_findings.strictness_sentence(factors(varied, METHOD, at), at)
    assert "Against the strict step" in said and "dense-moments drifts" in said
    assert "sgd" not in said and said.endswith(findings.ALONE)
    assert "is on record" in further_findings.strictness_sentence([], at)


def test_a_variant_out_of_reach_says_why(varied):
    top = 100 * varied.measured()[METHOD].highest - 0.01
    lost = [v for f in factors(varied, METHOD, top) for v in f.others if not v.ratio.known]
    assert lost and all("reaches +" in v.ratio.reason for v in lost)


@pytest.mark.parametrize("records", [[], study_records(), [make_record("base")]])
def test_nothing_to_compare_is_said_everywhere(records):
    empty = frontier_of(records)
    at = chosen_gain(empty, None, "lora", []) if empty.curves else math.nan
    assert math.isnan(at)
    assert findings.came_out(empty, METHOD, REFERENCES, at)[0].endswith("learning rates or more.")
    assert "no curves" in findings.rule_sentence(empty, METHOD, at)
    assert further_findings.pass_sentences(empty, at) == []
    assert all(not v.ratio.known for f in factors(empty, METHOD, at) for v in f.others)
    assert frontier_tables.compared_gains(empty, [METHOD], at) == []
    assert frontier_tables.ratio_table(empty, at, REFERENCES).empty
    if not empty.curves:
        assert frontier_tables.probes_caption(empty, at).endswith("has no curves.")
    with pytest.raises(NotOnRecord, match="no curve to read"):
        empty.common_gain()


def test_a_sweep_of_one_seed_has_curves_too():
    sweep = frontier_of(sweep_records())
    assert set(sweep.curves) == {"full", "lora", "smf-kl", "smf-tfidf"}
    assert sweep.drift_metrics == ["self_kl", "prose_perplexity", "knowledge_accuracy"]


def test_tasks_that_are_recorded_by_name_are_told_in_words():
    assert Measure(SimpleNamespace(title="endings")).title == "Everyday sense"
    assert Measure(SimpleNamespace(title="Prose perplexity")).title == "Prose perplexity"


def whole(text):
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("page", "say"),
    [
        ("README.md", findings.found_on_record),
        ("book/intro.md", findings.found_on_record),
        ("README.md", findings.floor_on_record),
        ("book/intro.md", findings.floor_on_record),
        ("book/row_selection.md", findings.rules_on_record),
    ],
)
def test_pages_that_are_not_computed_say_what_the_records_say(page, say):
    if not (records_folder("frontier") / "reference").is_dir():
        pytest.skip("the frontier is not on record yet")
    said = say("frontier")
    assert said in whole((find_root() / page).read_text("utf-8")), f"{page} should say: {said}"


def test_on_test_full_finetuning_gains_twenty_points():
    """With each seed, at its best rate: so much there is to learn."""
    records = read_records(Path(__file__).parents[2] / "results/frontier/reference")
    assert {record.data.exam.split for record in records} == {"test"}
    (base,) = (record for record in records if record.method == "base")
    gains = {}
    for record in records:
        if record.method == "full":
            gain = record.metrics["exam_accuracy"].value - base.metrics["exam_accuracy"].value
            gains.setdefault(record.learning_rate, []).append(gain)
    assert max(min(of_seeds) for of_seeds in gains.values() if len(of_seeds) > 1) >= 0.20
