"""Tables of the paper's arms: published beside measured, gaps said, commands that can be run."""

import pytest
from helpers_records import paper_records

from smf_lib.report.analysis.tables import DASH
from smf_lib.report.paper import arm_tables, claims, deviations
from smf_lib.report.paper.claims import ABSENT, QUESTIONS
from smf_lib.report.paper.published import METRICS, Number, load_published
from smf_lib.study.profiles import load_profile

PUBLISHED = load_published()
FEW = ("base", "lora", "full", "additive-kl")
NAMES = ("paper", "medmcqa-qwen-coder", "medmcqa-smollm2")


def row(table, value, column="Method"):
    return table[table[column] == value].iloc[0]


def check_text(table):
    assert table.map(lambda cell: isinstance(cell, str) and cell and "nan" not in cell).all().all()


def test_exam_stands_beside_the_published_with_majority_and_chance():
    table = arm_tables.side_by_side(paper_records(), PUBLISHED, "exam_accuracy")
    check_text(table)
    methods = list(table["Method"])
    assert methods[:4] == ["Base", "Additive (KL)", "Additive (TF-IDF)", "Additive +S (KL)"]
    assert methods[-2:] == ["Majority class", "Guessing"] and len(methods) == 20
    lora = list(row(table, "LoRA r 16"))
    assert lora[1:3] == ["39.0", "+4.6"] and lora[4].startswith("+")
    assert "[" in lora[3] and "[" in lora[4]
    base = list(row(table, "Base"))
    assert base[1] == "34.4 ± 0.2" and base[2] == base[4] == DASH
    assert list(row(table, "Additive (TF-IDF)"))[1] == "near the base"
    assert list(row(table, "Majority class"))[3] == "27.0"


def test_the_best_rule_and_bag_have_rows_with_their_names_where_they_are_recorded():
    records = paper_records(methods=FEW)
    for record in records:
        record.baselines.rules = {"longest": 0.28, "first": 0.331}
        record.baselines.bags = {"words": 0.415, "letters": 0.4}
    table = arm_tables.side_by_side(records, PUBLISHED, "exam_accuracy")
    check_text(table)
    assert [list(cells) for cells in table.to_numpy()[-4:]] == [
        ["Majority class", DASH, DASH, "27.0", DASH],
        ["Guessing", DASH, DASH, "25.0", DASH],
        ["Best rule that learns nothing (first)", DASH, DASH, "33.1", DASH],
        ["Bag of words", DASH, DASH, "41.5", DASH],
    ]
    table = arm_tables.side_by_side(records, PUBLISHED, "knowledge_accuracy")
    assert "Bag of words" not in set(table["Method"])


def test_arms_without_a_record_say_so():
    for metric in METRICS:
        table = arm_tables.side_by_side(paper_records(methods=FEW), PUBLISHED, metric)
        check_text(table)
        assert list(row(table, "Replacement (KL)"))[3:] == [ABSENT, DASH]
        assert "SMF (KL)" not in set(table["Method"])
    no_base = arm_tables.side_by_side(paper_records(methods=("lora",)), PUBLISHED, "exam_accuracy")
    assert list(row(no_base, "LoRA r 16"))[4] == DASH


def test_perplexity_has_two_decimals_and_ranges():
    table = arm_tables.side_by_side(paper_records(), PUBLISHED, "prose_perplexity")
    assert list(row(table, "Replacement (KL)"))[1:3] == ["16.50 to 16.60", "+25.9"]
    assert "Guessing" not in set(table["Method"])
    assert (
        arm_tables.published_text(Number(value=0.5, plus_minus=0.01), "exam_accuracy")
        == "50.0 ± 1.0"
    )


def test_standard_scores_stand_beside_the_papers():
    records = paper_records(methods=FEW)
    levels, changes = (
        arm_tables.standard_table(records),
        arm_tables.standard_table(records, changes=True),
    )
    check_text(levels)
    assert len(levels) == 4 and len(changes) == 3
    lora = row(changes, "LoRA r 16")
    assert lora["WikiText, a word (lm-eval) (%)"] == lora["WikiText, a token (paper) (%)"]
    assert not [name for name in levels if "MedMCQA, lm-eval" in name]
    assert "KL from the base (nats)" in changes and "KL from the base (nats)" not in levels
    assert not lora["KL from the base (nats)"].startswith("+")
    assert lora["MedMCQA, paper's score (points)"][0] in "+-"
    records[1].settings["exam"] = {"format": "cloze"}
    assert any("cloze" in name for name in arm_tables.standard_table(records))


def test_ordering_has_a_row_a_pair():
    table = arm_tables.ordering_table(paper_records(methods=FEW), "exam_accuracy")
    check_text(table)
    assert len(table) == 6 and set(table["Told apart"]) <= {"yes", "no"}
    assert "McNemar p" in table
    assert "McNemar p" not in arm_tables.ordering_table(
        paper_records(methods=FEW), "prose_perplexity"
    )


def test_contrasts_are_shown_where_both_arms_are_on_record():
    table = arm_tables.contrast_table(paper_records())
    check_text(table)
    assert len(table) == len(QUESTIONS)
    alone = row(table, "What stage 1 alone does, additive", "Question")
    assert alone["Differs clearly in"] == "Perplexity and KL from the base"
    assert claims.unanswered_sentence(paper_records()) == ""
    few = paper_records(methods=(*FEW, "smf-kl"))
    assert list(arm_tables.contrast_table(few)["Question"]) == [
        zero := "Stage 1 or values that start at zero (KL)"
    ]
    lacking = claims.unanswered_sentence(few)
    assert zero not in lacking and lacking.count(";") == len(QUESTIONS) - 2
    assert arm_tables.contrast_table(paper_records(methods=("base",))).empty


def test_claims_have_a_column_a_study():
    studies = {"a/b": paper_records(), "c/d": paper_records(methods=FEW)}
    table = arm_tables.claims_table(studies, PUBLISHED)
    check_text(table)
    assert list(table)[-2:] == ["a/b", "c/d"] and len(table) == len(PUBLISHED.claims)
    claim = row(table, "Replacement loses trivia", "Claim")
    assert claim["a/b"].endswith(": not tested (Replacement (KL) did not gain)")
    assert claim["c/d"] == ABSENT
    assert row(table, "LoRA loses trivia", "Claim")["a/b"].endswith(": supported")
    assert claim["Published"] == "-7.7" and claim["Holds if"] == "< 0"
    assert list(arm_tables.claims_table({}, PUBLISHED)) == ["Claim", "On", "Holds if", "Published"]


def test_what_was_not_settled_says_how_many_items_it_takes():
    table = arm_tables.power_table({"a/b": paper_records()}, PUBLISHED)
    check_text(table)
    assert "Full finetuning learns more than LoRA" in set(table["Claim"])
    assert arm_tables.power_table({}, PUBLISHED).empty


def test_setting_has_every_aspect_of_the_paper_for_every_profile():
    table = deviations.setting_table([load_profile(name) for name in NAMES], PUBLISHED)
    check_text(table)
    assert list(table) == ["Aspect", "Published", *NAMES]
    model = row(table, "Model", "Aspect")
    assert model["paper"] == PUBLISHED.model
    assert model["medmcqa-smollm2"] == "SmolLM2-135M-Instruct"
    for same in ("Model", "Memory", "Rows a step", "Questions a step", "Rate of LoRA", "Seeds"):
        assert row(table, same, "Aspect")["paper"] == row(table, same, "Aspect")["Published"], same


def test_a_sweep_and_a_memory_in_the_layers_of_the_default_have_a_setting_too():
    profile = load_profile("medmcqa")
    rates = profile.methods["lora"].model_copy(update={"learning_rate": [1e-4, 2e-4]})
    swept = profile.model_copy(
        update={
            "methods": profile.methods | {"lora": rates},
            "memory": profile.memory.model_copy(update={"layers": None}),
        }
    )
    table = deviations.setting_table([swept], PUBLISHED)
    assert row(table, "Rate of LoRA", "Aspect")["medmcqa"] == "1e-4 and 2e-4"
    assert "quarter, half" in row(table, "Memory", "Aspect")["medmcqa"]


def test_a_profile_without_the_papers_task_is_refused():
    with pytest.raises(ValueError, match="profile 'quick' does not run the paper's task"):
        deviations.setting_table([load_profile("quick")], PUBLISHED)


def test_differences_hold_whatever_the_profile():
    table = deviations.differences_table(PUBLISHED)
    check_text(table)
    assert len(table) == len(PUBLISHED.differences) > 5
