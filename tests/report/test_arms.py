"""Runs grouped into arms, which runs are seeds of one arm, and their names."""

import pytest
from helpers_records import make_record, study_records

from smf_lib.report.analysis.arms import arm_name, group_arms
from smf_lib.study.records.record import KeysPart
from smf_lib.study.records.results import ResultsError


def test_arms_group_seeds_and_keep_order():
    records = study_records(seeds=(1, 0), methods=("smf-kl", "lora", "base"))
    records += [make_record("ia3"), make_record("dora")]
    arms = group_arms(records)
    assert [arm.first.method for arm in arms] == ["base", "lora", "smf-kl", "ia3", "dora"]
    assert [record.seed for record in arms[1].records] == [0, 1]
    assert arms[1].items("exam_accuracy").shape == (2, 400)
    assert arms[1].items("prose_perplexity").shape == (2, 40, 2)


def test_repeated_base_runs_count_once():
    arms = group_arms([make_record("base", seed=0), make_record("base", seed=1)])
    assert len(arms) == 1 and len(arms[0].records) == 1


def test_learning_rates_are_arms_of_their_own_and_named():
    arms = group_arms([make_record("lora", rate=r) for r in (1e-3, 1e-4)])
    assert [arm.first.learning_rate for arm in arms] == [1e-4, 1e-3]
    assert [arm_name(arm, arms) for arm in arms] == [
        "LoRA r 16, lr 1e-4",
        "LoRA r 16, lr 1e-3",
    ]
    assert arm_name(arms[0], arms[:1]) == "LoRA r 16"


def test_a_rate_is_named_only_where_its_own_study_has_several():
    records = [make_record("lora", rate=rate, study=s) for rate, s in ((1e-3, "a"), (1e-4, "b"))]
    arms = group_arms(records)
    assert [arm_name(arm, arms) for arm in arms] == ["LoRA r 16", "LoRA r 16"]


def test_runs_whose_keys_differ_in_the_seed_alone_are_seeds_of_one_arm():
    """Whatever else their profiles said: other sizes of what they do not read, newer fields."""
    first, second = make_record("lora", seed=0), make_record("lora", seed=1)
    second.settings["training"] = dict(second.settings.get("training", {}))
    second.settings["exam"] = {"test_rows": 5}
    first.settings["exam"] = {"test_rows": 6}
    with pytest.raises(ResultsError, match="differ in exam"):
        group_arms([first, second])
    for record in (first, second):
        parts = {"seed": str(record.seed), "training rows": "abc"}
        keys = {"training": {"key": "k", "parts": parts}, "metrics": {}}
        record.keys = KeysPart.model_validate(keys)
    assert len(group_arms([first, second])) == 1
    second.keys.training.parts["training rows"] = "others"
    with pytest.raises(ResultsError, match="differ in exam"):
        group_arms([first, second])
    second.settings.pop("exam")  # a field that the older record did not know
    assert len(group_arms([first, second])) == 1


def test_runs_of_other_settings_are_not_seeds_of_one_arm():
    first, second = make_record("lora", seed=0), make_record("lora", seed=1, precision="fp32")
    second.settings["digest"] = "another"
    assert len(group_arms([first, second])) == 1
    second.settings["training"] = {"epochs": 3, "batch_size": 8}
    with pytest.raises(ResultsError, match="differ in training, so they are not seeds of one arm"):
        group_arms([first, second])
    third = make_record("lora", seed=2)
    third.model.sha256 = "0" * 64
    with pytest.raises(ResultsError, match="'lora-0.0001-s2' .* differ in model"):
        group_arms([first, third])
