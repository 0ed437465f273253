"""The paper's arms: which are on record, how they are ordered, and what claims they settle."""

import math
from pathlib import Path

import numpy as np
import pytest
from helpers_records import PAPER_EFFECTS, make_record, paper_records

from smf_lib.report.analysis.interval import Interval
from smf_lib.report.analysis.stats import accuracy_difference
from smf_lib.report.paper import arm_tables, arms, claims, ordering
from smf_lib.report.paper.published import load_published
from smf_lib.study.profiles import load_profile
from smf_lib.study.records.results import ResultsError, write_record

PUBLISHED = load_published()
FEW = ("base", "lora", "full", "additive-kl")


def test_studies_are_read_by_profile_and_study(tmp_path):
    for study in ("reference", "mine"):
        for record in paper_records(methods=FEW, study=study):
            folder = tmp_path / "medmcqa-smollm2" / study
            write_record(folder / f"{record.run_id}.json", record)
    studies = arms.read_studies(tmp_path, ["paper", "medmcqa-smollm2"])
    assert list(studies) == ["medmcqa-smollm2/mine", "medmcqa-smollm2/reference"]
    assert [len(records) for records in studies.values()] == [4, 4]
    assert arms.read_studies(tmp_path, ["paper"]) == {}


def test_a_broken_record_is_named(tmp_path):
    path = tmp_path / "paper" / "local" / "base.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(ResultsError, match="base.json"):
        arms.read_studies(tmp_path, ["paper"])


def test_of_several_rates_the_profiles_own_is_taken():
    records = [
        make_record("lora", rate=1e-5, run_id="lora-lr1e-05-seed0"),
        make_record("lora", rate=1e-4, run_id="lora-seed0"),
        make_record("ia3", rate=1e-3, run_id="ia3-lr0.001-seed0"),
    ]
    found = arms.arms_of(records)
    assert found["lora"].first.run_id == "lora-seed0" and "ia3" in found


def test_order_is_the_papers_then_ours_then_by_name():
    order = arms.paper_order(["zeta", "smf-kl", "full", "base", "additive-kl"], PUBLISHED)
    assert order == ["base", "additive-kl", "full", "smf-kl", "zeta"]


def test_the_caption_says_model_rows_budget_and_seeds():
    records = paper_records(methods=FEW)
    records[0].settings["exam"] = {"format": "cloze"}
    text = arms.setting_caption(records)
    for part in (
        "medmcqa-smollm2/reference", "SmolLM2-135M-Instruct (135 M parameters)",
        "trained on 1,000 questions, once", "400 questions", "(cloze)", "9,000 words",
        "after 5 examples", "one seed", "not the luck of training",
    ):  # fmt: skip
        assert part in text
    text = arms.setting_caption(records, "word_perplexity")
    assert "9,000 words" in text and "400 questions" not in text and "examples" not in text
    for record, precision in zip(records, ("bf16", "fp32", "bf16", "bf16")):
        record.settings["precision"] = precision
    assert arms.setting_caption(records, "word_perplexity").endswith("bfloat16 (the rest).")
    records[1].settings["precision"] = "bf16"
    records[0].data.exam.notes = "drawn from somewhere"
    assert arms.setting_caption(records).endswith("luck of training. drawn from somewhere.")
    records[1].data.exam.notes = "drawn elsewhere"
    records[1].data.exam.sha256 = "1" * 64
    records[2].data.exam.notes = "the same rows in other words"
    records[2].data.exam.sha256 = "1" * 64
    told = arms.setting_caption(records)
    assert "drawn from somewhere." in told
    assert ("drawn elsewhere" in told) != ("in other words" in told)
    several = arms.setting_caption(paper_records(methods=FEW, seeds=(0, 1, 2)))
    assert "3 seeds" in several and "one seed" not in several
    assert "one seed" not in arms.setting_caption(paper_records(methods=("base",)))


def test_missing_arms_are_named():
    text = arms.missing_sentence(paper_records(methods=FEW))
    assert "Stage 1, additive" in text and "LoRA" not in text
    assert arms.missing_sentence(paper_records()).startswith("Every method of profile")
    text = arms.missing_sentence(paper_records(methods=FEW), load_profile("quick"))
    assert text == (
        "Not on record yet, of the methods of profile quick: SMF (KL); SMF (TF-IDF); "
        "SMF (random rows); SMF (all read rows)."
    )


@pytest.mark.parametrize(
    ("low", "high", "region", "verdict"),
    [
        (0.1, 2.0, (0, math.inf), "supported"),
        (-0.1, 2.0, (0, math.inf), "not settled"),
        (-2.0, -0.1, (0, math.inf), "contradicted"),
        (-2.0, 0.0, (0, math.inf), "not settled"),
        (-0.5, 0.5, (-1, 1), "supported"),
        (-1.5, 0.5, (-1, 1), "not settled"),
        (1.5, 2.5, (-1, 1), "contradicted"),
        (-9.0, 0.5, (-math.inf, 1), "supported"),
        (math.nan, math.nan, (0, math.inf), "not settled"),
    ],
)
def test_the_rule_of_a_verdict(low, high, region, verdict):
    assert claims.judge(Interval((low + high) / 2, low, high, 100), region) == verdict
    assert claims.judge(None, region) == claims.ABSENT


def test_findings_compare_on_the_same_questions():
    found = {f.claim.text: f for f in claims.findings(paper_records(), PUBLISHED)}
    lora = found["LoRA raises perplexity"]
    assert lora.verdict == "supported" and lora.measured.value == pytest.approx(16.2, abs=0.5)
    assert lora.published == pytest.approx(17.7, abs=0.05)
    assert found["KL learns more than TF-IDF"].published is None


def test_missing_arms_leave_a_claim_without_record():
    found = {f.claim.text: f for f in claims.findings(paper_records(methods=FEW), PUBLISHED)}
    gone = found["Replacement loses trivia"]
    assert (gone.measured, gone.verdict) == (None, claims.ABSENT)
    nothing = claims.findings(paper_records(methods=("base",)), PUBLISHED)
    assert {f.verdict for f in nothing} == {claims.ABSENT}


def test_sentences_count_verdicts():
    records = paper_records(methods=FEW)
    verdicts = [f.verdict for f in claims.findings(records, PUBLISHED)]
    text = claims.claims_sentence({"a/b": records}, PUBLISHED)
    assert f"Of {len(verdicts)} claims, study a/b supports {verdicts.count('supported')}" in text
    assert f"has no records for {verdicts.count(claims.ABSENT)}." in text
    assert claims.claims_sentence({}, PUBLISHED).startswith("No study is on record yet")


def finding_of(measured, published=2.0, text="LoRA learns more than additive SMF (KL)"):
    claim = next(c for c in PUBLISHED.claims if c.text == text)
    return claims.Finding(claim, published, measured, "not settled")


def test_items_needed_settle_in_four_of_five_cases():
    """By simulation: answers change both ways, so that the published difference is true."""
    wide = claims.items_needed(finding_of(Interval(1.0, -3.0, 5.0, 500)))
    half = claims.items_needed(finding_of(Interval(1.0, -1.0, 3.0, 500)))
    assert wide == pytest.approx(4 * half)
    n = round(claims.items_needed(finding_of(Interval(0.2, 0.0, 0.4, 500), published=4.0)))
    rng = np.random.default_rng(0)
    settled = 0
    for _ in range(300):  # 6 of 100 answers gained, 2 lost
        gained, lost, _ = rng.multinomial(n, [0.06, 0.02, 0.92])
        first, second = np.repeat([1, 0, 1], [gained, lost, n - gained - lost]), np.ones(n)
        second[:gained] = 0
        settled += accuracy_difference(first, second).clear
    assert 0.7 <= settled / 300 <= 0.9
    assert claims.items_needed(finding_of(Interval(1.0, -3.0, 5.0, 500), published=None)) is None


def by_claim(records):
    return {finding.claim.text: finding for finding in claims.findings(records, PUBLISHED)}


def with_items(record, metric, items):
    kept = record.metrics[metric].model_copy(update={"items": list(items), "n": len(items)})
    record.metrics[metric] = kept


def test_forgetting_is_not_tested_by_arms_that_learned_nothing():
    records = paper_records(methods=FEW)
    assert by_claim(records)["LoRA raises perplexity"].verdict == "supported"
    base, lora = records[0], next(r for r in records if r.method == "lora")
    with_items(lora, "exam_accuracy", base.metrics["exam_accuracy"].items)
    found = by_claim(records)
    for text in (
        "LoRA raises perplexity",
        "LoRA loses trivia",
        "LoRA drifts more than additive SMF (KL)",
    ):
        assert found[text].verdict == claims.UNTESTED
        assert found[text].reason == "LoRA r 16 did not gain"
    assert found["Full finetuning loses trivia"].verdict == "supported"


def test_an_arm_that_moved_by_nothing_is_not_the_base_compared_with_itself():
    records = paper_records(methods=(*FEW, "retrofit-additive"))
    additive = next(r for r in records if r.method == "additive-kl")
    start = next(r for r in records if r.method == "retrofit-additive")
    additive.settings["method"]["start"] = "retrofit-additive"
    assert by_claim(records)["Additive SMF (KL) learns the exam"].reason == ""
    items = [item + 8e-5 for item in start.metrics["self_kl"].items]
    with_items(additive, "self_kl", items)
    for text in ("Additive SMF (KL) learns the exam", "Additive SMF (KL) keeps its trivia"):
        assert by_claim(records)[text].reason == "Additive (KL) did not move"


def test_a_perplexity_must_rise_a_token_and_a_word():
    records = paper_records(methods=FEW)
    lora = next(r for r in records if r.method == "lora")
    words = records[0].metrics["word_perplexity"].items
    with_items(lora, "word_perplexity", [[0.9 * nll, count] for nll, count in words])
    verdict = by_claim(records)["LoRA raises perplexity"].verdict
    assert verdict not in ("supported", "contradicted")


def test_a_size_can_be_excluded_where_the_direction_is_open():
    records = paper_records(methods=FEW)
    base, lora = records[0], next(r for r in records if r.method == "lora")
    answers = list(base.metrics["knowledge_accuracy"].items)
    with_items(lora, "knowledge_accuracy", answers)
    finding = by_claim(records)["LoRA loses trivia"]
    assert finding.verdict == claims.EXCLUDED and finding.measured.value == 0
    told = claims.claims_sentence({"a/b": records}, PUBLISHED)
    assert "excludes the published size of" in told


def test_a_loss_larger_than_all_that_was_known_is_not_tested():
    records = paper_records(methods=FEW)
    for record in records:
        with_items(record, "knowledge_accuracy", [1] * 10 + [0] * 390)
    assert "too few questions" in by_claim(records)["Full finetuning loses trivia"].reason


def test_behind_letters_a_gain_counts_in_balanced_accuracy():
    records = paper_records(methods=FEW)
    for record in records:
        record.settings["exam"] = {"format": "lettered"}
    assert ordering.learned_methods(arms.arms_of(records)) == []  # no counts by answer
    assert by_claim(records)["LoRA loses trivia"].verdict == claims.UNTESTED


def test_pairs_are_told_apart_together_not_one_by_one():
    records = paper_records(methods=ordering.MAIN)
    pairs = ordering.ordered_pairs(records, "exam_accuracy")
    assert len(pairs) == math.comb(len(ordering.MAIN), 2)
    assert all(pair.difference.value >= 0 for pair in pairs)
    assert all(pair.difference.clear for pair in pairs if pair.apart)
    assert any(pair.difference.clear and not pair.apart for pair in pairs)


def test_the_ordering_is_stated_as_far_as_it_goes():
    records = paper_records(methods=("base", "lora", "additive-kl"))
    text = ordering.ordering_sentence(records, "prose_perplexity")
    assert (
        text == "Perplexity (more is worse): LoRA r 16 is above Base; Base is above Additive (KL)."
    )
    same = [make_record(m, run_id=f"{m}-seed0") for m in ("base", "lora")]
    text = ordering.ordering_sentence(same, "exam_accuracy")
    assert text == "MedMCQA: no two arms are told apart."
    one = ordering.ordering_sentence(paper_records(methods=("base",)), "exam_accuracy")
    assert "fewer than two" in one


@pytest.mark.parametrize(
    ("above", "left"),
    [
        ({"a": ["b", "c"], "b": ["c"], "c": []}, {"a": ["b"], "b": ["c"], "c": []}),
        ({"a": ["b"], "b": ["c"], "c": []}, {"a": ["b"], "b": ["c"], "c": []}),
        (
            {"a": ["b", "c", "d"], "b": ["d"], "c": ["d"], "d": []},
            {"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []},
        ),
        (
            {"a": ["b", "c"], "b": ["c", "d"], "c": [], "d": []},
            {"a": ["b", "c"], "b": ["c", "d"], "c": [], "d": []},
        ),
    ],
)
def test_pairs_that_follow_from_others_are_not_told(above, left):
    assert ordering._without_implied(above) == left


def test_arms_that_diverged_are_not_ordered():
    records = paper_records(methods=("base", "lora"))
    broken = make_record("full", exam=[math.nan] * 400, run_id="full-seed0", study="reference")
    broken = broken.model_copy(update={"profile": "medmcqa-smollm2"})
    pairs = ordering.ordered_pairs([*records, broken], "exam_accuracy")
    assert len(pairs) == 1


def test_arms_with_different_texts_are_not_compared_on_them():
    records = paper_records(methods=("base", "lora", "smf-kl", "additive-kl"))
    other = records[-1]
    text = other.data.self_text.model_copy(update={"sha256": "another"})
    data = other.data.model_copy(update={"self_text": text})
    records[-1] = other.model_copy(update={"data": data})
    pairs = ordering.ordered_pairs(records, "self_kl")
    assert len(pairs) == 3 and other.label not in {p.upper.first.label for p in pairs}
    assert ordering.ordering_sentence(records, "self_kl").endswith("not compared: 3.")
    alone = ordering.ordering_sentence([records[1], records[-1]], "self_kl")
    assert "fewer than two" not in alone and alone.endswith("not compared: 1.")
    assert len(ordering.ordered_pairs(records, "exam_accuracy")) == 6
    table = arm_tables.contrast_table(records)
    row = table[table.Difference.str.contains(other.label, regex=False)].iloc[0]
    assert row["KL from the base (nats)"] == "–" and row["MedMCQA (points)"] != "–"


def test_every_arm_named_here_is_a_method_of_the_profile():
    methods = load_profile("medmcqa").methods.keys()
    assert set(ordering.MAIN) <= methods and PAPER_EFFECTS.keys() == methods
    assert {name for _, *pair in claims.QUESTIONS for name in pair} <= methods


def test_the_noise_of_the_published_questions_is_computed():
    text = claims.question_noise_sentence(PUBLISHED)
    assert "34.4 % is a share of 1,000 questions" in text and "31.5 to 37.4 %" in text
    assert text.endswith("is 0.8 points.")


def test_who_has_learned_anything_is_told():
    text = ordering.learning_sentence(paper_records(methods=FEW))
    assert text.endswith("gain clearly on the exam: Full finetuning; LoRA r 16; Additive (KL).")
    text = ordering.learning_sentence(paper_records(methods=("base", "lora", "smf-kl")))
    assert text.endswith("LoRA r 16, the other does not.")
    text = ordering.learning_sentence(paper_records(methods=("base", "replacement-kl")))
    assert text == (
        "Without a language model: guessing 25.0 and the most frequent option 27.0 %. In study "
        "medmcqa-smollm2/reference no arm gains clearly on the exam."
    )
    for methods in (("base",), ("lora",)):
        assert "no trained arm beside its base" in ordering.learning_sentence(
            paper_records(methods=methods)
        )


@pytest.mark.parametrize("profile", ["medmcqa-qwen-coder", "medmcqa-smollm2"])
def test_the_recorded_studies_can_be_ordered_and_contrasted(profile):
    found = arms.read_studies(Path(__file__).parents[2] / "results", [profile])
    records = found[f"{profile}/reference"]
    for metric in ordering.COMPARED:
        assert "fewer than two" not in ordering.ordering_sentence(records, metric)
    assert len(arm_tables.contrast_table(records)) > 0
