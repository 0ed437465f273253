"""Tables: true numbers as text, heads with units, honest about seeds and gaps."""

import pandas as pd
import pytest
from helpers_records import make_record, paper_records, study_records, sweep_records

from smf_lib.report.analysis import tables
from smf_lib.report.analysis.arms import group_arms
from smf_lib.report.analysis.captions import baseline_sentence
from smf_lib.report.analysis.interval import Interval
from smf_lib.report.measures import DRIFTS, drift_measures
from smf_lib.study.records.results import ResultsError


def row(table, method):
    return table[table["Method"] == method].iloc[0]


def test_divergence_on_prose_is_in_the_table_where_it_was_measured_and_not_drawn():
    records = study_records()
    assert not any("on prose" in head for head in tables.forgotten_table(records))
    for record in records:
        own = record.metrics["self_kl"]
        record.metrics["prose_kl"] = own.model_copy(update={"items": own.items[:40], "n": 40})
    table = tables.forgotten_table(records)
    assert row(table, "LoRA r 16")["KL from the base on prose (nats a token)"].startswith("0.1")
    assert "prose_kl" in drift_measures(records)
    assert list(drift_measures(records, drawn=True)) == list(DRIFTS)


def test_tables_of_results_hold_values_intervals_and_counts():
    records = study_records()
    learned, forgotten = tables.learned_table(records), tables.forgotten_table(records)
    assert list(learned["Method"])[:2] == ["Base model", "Full finetuning"]
    assert list(learned["Method"])[:5] == list(forgotten["Method"])
    base, lora = row(learned, "Base model"), row(learned, "LoRA r 16")
    accuracy = 100 * records[2].metrics["exam_accuracy"].value
    assert lora["Exam accuracy (%)"].startswith(f"{accuracy:.1f} [")
    assert lora["Exam gain (points)"].startswith("+24.0 [")
    assert lora["Gain kept (% of LoRA's)"] == tables.DASH
    assert row(learned, "SMF, KL")["Gain kept (% of LoRA's)"].startswith("88 [")
    assert lora["Seeds"] == "1 (items only)"
    assert base["Exam gain (points)"] == tables.DASH
    base, lora = row(forgotten, "Base model"), row(forgotten, "LoRA r 16")
    assert lora["Knowledge change (points)"].startswith("-12.2 [")
    assert base["KL from the base (nats a token)"] == tables.DASH
    assert lora["n (exam, prose, knowledge, KL)"] == "400, 40, 400, 64"
    assert "Study" not in learned and "Study" not in forgotten


def test_tables_of_results_over_studies_and_seeds():
    table = tables.learned_table(study_records() + study_records("reference", (0, 1, 2)))
    assert list(table["Study"].unique()) == ["quick/local", "quick/reference"]
    assert row(table[table["Study"] == "quick/reference"], "SMF, KL")["Seeds"] == "3"


def test_tables_of_results_without_a_probe_or_base():
    records = [make_record(m, drop=["knowledge_accuracy"]) for m in ("base", "lora")]
    assert not [name for name in tables.forgotten_table(records) if "Knowledge" in name]
    for table in (tables.learned_table, tables.forgotten_table):
        with pytest.raises(ResultsError, match="base model"):
            table([make_record("lora")])


def test_sweep_rows_carry_their_learning_rate():
    table = tables.learned_table(sweep_records())
    assert "LoRA r 16, lr 1.35e-3" in set(table["Method"])
    assert "Gain kept (% of LoRA's)" not in table


def test_comparison_table_pairs_every_method():
    table = tables.comparison_table(study_records())
    assert len(table) == 10
    pair = table[(table["Method"] == "LoRA r 16") & (table["Compared with"] == "Base model")]
    assert pair["Exam difference (points)"].item().startswith("+24.0 [")
    assert pair["Right only by the first"].item() == "96"
    assert pair["McNemar p"].item() == "< 0.0001" and pair["n"].item() == "400"
    doubtful = table[table["McNemar p"].str.startswith("0")]
    assert (doubtful["Corrected p"].astype(float) > doubtful["McNemar p"].astype(float)).any()


def test_comparison_over_seeds_has_no_mcnemar():
    table = tables.comparison_table(study_records(seeds=(0, 1)))
    assert set(table["McNemar p"]) == set(table["Corrected p"]) == {tables.DASH}
    with pytest.raises(ValueError, match="no two methods"):
        tables.comparison_table(study_records(methods=("base",)))


def test_of_many_methods_each_is_compared_with_the_usual_ones():
    table = tables.comparison_table(paper_records())
    assert len(table) == 3 * 15 + 3
    usual = {"Base", "Full finetuning", "LoRA r 16"}
    assert all(usual & {a, b} for a, b in zip(table["Method"], table["Compared with"]))


def test_every_arm_has_a_row_of_results():
    table = tables.learned_table(paper_records())
    arms = table[~table["Method"].str.startswith("Without a model")]
    assert len(arms) == 18 and table["Method"].is_unique


def test_cost_table_in_words():
    table = tables.cost_table(study_records())
    lora = row(table, "LoRA r 16")
    assert lora["Training time"] == "4.52 min" and lora["Peak memory"] == "2.2 GiB"
    assert lora["Parameters changed"] == "4.88 M" and lora["Size on disk"] == "19.6 MB"
    assert row(table, "SMF, KL")["Rows changed"] == "3,690 of 12,288"
    with pytest.raises(ValueError, match="no trained run"):
        tables.cost_table(study_records(methods=("base",)))


def test_provenance_table_lists_what_differs():
    records = study_records(methods=("base", "lora"))
    values = dict(tables.provenance_table(records).itertuples(index=False))
    assert values["Commit"] == "0123456789ab" and values["torch"] == "2.13.0"
    assert values["Processor"] == "Test CPU, 2 cores" and values["GPU"] == "none"
    assert values["Number format"] == "not recorded"
    changed = make_record("lora", study="mine", precision="bf16").model_copy(update={"dirty": True})
    values = dict(tables.provenance_table([records[0], changed]).itertuples(index=False))
    assert "with changes not committed" in values["Commit"]
    assert values["Study"] == "quick/local and quick/mine"
    assert values["Number format"] == "not recorded and bfloat16"


def test_number_and_p_value_texts():
    assert tables.number(Interval(1.25, 1.0, 1.5, 9), 1) == "1.2 [1.0, 1.5]"
    assert tables.number(Interval(-0.001, -0.5, 0.5, 9), 1, sign=True) == "+0.0 [-0.5, +0.5]"
    assert tables.number(Interval(0.0012, 0.0011, 0.0013, 9), 3) == "0.0012 [0.0011, 0.0013]"
    assert tables.number(Interval(0.001, 0.001, 0.001, 9), 1) == "0.0 [0.0, 0.0]"
    assert tables.number(Interval(0.0, -1e-9, 1e-9, 9), 1) == "0.0 [0.0, 0.0]"
    assert tables.number(Interval(2.0, float("nan"), float("nan"), 9), 1) == "2.0"
    assert tables.number(Interval(float("nan"), 0, 0, 9), 1) == tables.DASH
    assert tables.p_text(0.04321) == "0.043" and tables.p_text(1e-9) == "< 0.0001"


def test_tables_can_be_shown():
    table = pd.DataFrame({"Item": ["a"], "Value": ["1"]})
    with pytest.raises(ValueError, match="a table needs one that says what its rows are"):
        tables.show(table, " ")
    assert ">a &lt; b.</span></caption>" in tables.show(table, "a < b.").to_html()
    interval = table.assign(x="1.0 [0.5, 1.5], 3")
    assert "1.0 [0.5,\u00a01.5], 3<" in tables.show(interval, "Runs.").to_html()
    assert tables.show(table.head(0), "Runs.", empty="None yet.").data == "Runs. None yet."


def test_floors_stand_beside_accuracies_where_they_were_kept():
    plain = study_records(methods=("base", "lora"))
    table = tables.floors_table(plain)
    assert len(table) == 1 and list(table)[1:] == [
        "Guessing (%)",
        "Most frequent option of training (%)",
    ]
    told = baseline_sentence(group_arms(plain))
    floors = {"rules": {"longest": 0.28, "shared words": 0.301}, "bags": {"words": 0.415}}
    kept = [
        r.model_copy(update={"baselines": r.baselines.model_copy(update=floors)}) for r in plain
    ]
    learned = tables.learned_table(kept).set_index("Method")["Exam accuracy (%)"]
    assert dict(learned[2:]) == {
        "Without a model: guessing": "25.0",
        "Without a model: most frequent option": "27.0",
        "Without a model: best rule that learns nothing": "30.1",
        "Without a model: bag of words": "41.5",
    }
    cells = tables.floors_table(kept).iloc[0]
    assert cells["Best rule that learns nothing (%)"] == "30.1 (shared words)"
    assert cells["Bag of words (%)"] == "41.5 (words)"
    assert baseline_sentence(group_arms(kept)) == (
        f"{told} The best rule that learns nothing (shared words) gives 30.1 %, a bag of words "
        "trained on the same questions 41.5 %."
    )
