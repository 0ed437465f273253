"""Runs grouped into arms, gains and drifts in their units, and what may not be compared."""

import numpy as np
import pytest
from helpers_records import make_record, study_records, sweep_records

from smf_lib.report.analysis import summary
from smf_lib.study.records.results import ResultsError


def test_arms_group_seeds_and_keep_order():
    records = study_records(seeds=(1, 0), methods=("smf-kl", "lora", "base"))
    records += [make_record("ia3"), make_record("dora")]
    arms = summary.group_arms(records)
    assert [arm.first.method for arm in arms] == ["base", "lora", "smf-kl", "ia3", "dora"]
    assert [record.seed for record in arms[1].records] == [0, 1]
    assert arms[1].items("exam_accuracy").shape == (2, 400)
    assert arms[1].items("prose_perplexity").shape == (2, 40, 2)


def test_repeated_base_runs_count_once():
    arms = summary.group_arms([make_record("base", seed=0), make_record("base", seed=1)])
    assert len(arms) == 1 and len(arms[0].records) == 1


def test_learning_rates_are_arms_of_their_own_and_named():
    arms = summary.group_arms([make_record("lora", rate=r) for r in (1e-3, 1e-4)])
    assert [arm.first.learning_rate for arm in arms] == [1e-4, 1e-3]
    assert [summary.arm_name(arm, arms) for arm in arms] == [
        "LoRA r 16, lr 1e-4",
        "LoRA r 16, lr 1e-3",
    ]
    assert summary.arm_name(arms[0], arms[:1]) == "LoRA r 16"


def test_a_rate_is_named_only_where_its_own_study_has_several():
    records = [make_record("lora", rate=rate, study=s) for rate, s in ((1e-3, "a"), (1e-4, "b"))]
    arms = summary.group_arms(records)
    assert [summary.arm_name(arm, arms) for arm in arms] == ["LoRA r 16", "LoRA r 16"]


def test_runs_of_other_settings_are_not_seeds_of_one_arm():
    first, second = make_record("lora", seed=0), make_record("lora", seed=1, precision="fp32")
    second.settings["digest"] = "another"
    assert len(summary.group_arms([first, second])) == 1
    second.settings["training"] = {"epochs": 3, "batch_size": 8}
    with pytest.raises(ResultsError, match="differ in training, so they are not seeds of one arm"):
        summary.group_arms([first, second])
    third = make_record("lora", seed=2)
    third.model.sha256 = "0" * 64
    with pytest.raises(ResultsError, match="'lora-0.0001-s2' .* differ in model"):
        summary.group_arms([first, third])


def test_change_and_drift_units():
    base = make_record("base", exam=[1, 0, 0, 0], knowledge=[1, 1, 0, 0], prose=[[300.0, 100]] * 2)
    lora = make_record(
        "lora",
        exam=[1, 1, 0, 0],
        knowledge=[1, 0, 0, 0],
        prose=[[300.0 + 100 * np.log(1.1), 100]] * 2,
        kl=[0.1, 0.3],
    )
    arms = summary.group_arms([base, lora])
    assert summary.change(arms[1], arms[0], "exam_accuracy").value == pytest.approx(25)
    assert summary.drift(arms[1], arms[0], "prose_perplexity").value == pytest.approx(10, abs=1e-3)
    assert summary.change(arms[1], arms[0], "knowledge_accuracy").value == pytest.approx(-25)
    assert summary.drift(arms[1], arms[0], "knowledge_accuracy").value == pytest.approx(25)
    assert summary.drift(arms[1], arms[0], "self_kl").value == pytest.approx(0.2)


def test_seeds_are_those_of_the_trained_arm():
    arms = summary.group_arms(study_records(seeds=(0, 1, 2), methods=("base", "lora")))
    assert summary.change(arms[1], arms[0], "exam_accuracy").seeds == 3


def test_different_data_is_not_compared():
    base = make_record("base", split="validation")
    lora = make_record("lora", split="test")
    arms = summary.group_arms([base, lora])
    with pytest.raises(ResultsError, match="different data or splits"):
        summary.change(arms[1], arms[0], "exam_accuracy")
    seeds = [make_record("lora", seed=0), make_record("lora", seed=1, split="validation")]
    with pytest.raises(ResultsError, match="cannot be combined"):
        summary.group_arms(seeds)[0].items("exam_accuracy")


def test_best_learning_rate_is_the_lowest_within_one_standard_error():
    def run(rate, right):
        return make_record("lora", rate=rate, exam=[1] * right + [0] * (100 - right))

    chosen = summary.best_learning_rates([run(1e-4, 50), run(1e-3, 56), run(1e-2, 60)])
    assert chosen == {"lora": 1e-3}  # 60 % of 100 questions has a standard error of 4.9 points
    assert summary.best_learning_rates([make_record("base")]) == {}


def test_a_rate_at_which_training_diverged_is_not_chosen():
    rates = {1e-5: [1, 1, 0, 0], 1e-4: [1, 1, 1, 0], 1e-3: [float("nan")] * 4}
    records = [make_record("lora", rate=rate, exam=exam) for rate, exam in rates.items()]
    assert summary.best_learning_rates(records)["lora"] == 1e-4
    assert summary.best_learning_rates(records[2:]) == {}


def test_retention_through_records():
    arms = summary.group_arms(study_records(methods=("base", "lora", "smf-kl")))
    kept = summary.retention(arms[2], arms[1], arms[0])
    gains = [summary.change(arm, arms[0], "exam_accuracy").value for arm in arms[1:]]
    assert kept.value == pytest.approx(100 * gains[1] / gains[0])
    assert kept.low < kept.value < kept.high


def test_equal_gain_through_records():
    arms = summary.group_arms(sweep_records())
    result = summary.equal_gain(arms, "prose_perplexity")
    assert set(result.drifts) == {"full", "lora", "smf-kl", "smf-tfidf"}
    assert result.excess["smf-kl"].high < 0 and "lora" not in result.excess
    with pytest.raises(ResultsError, match="one study at a time"):
        summary.equal_gain(arms + summary.group_arms(study_records()), "self_kl")
    single = summary.group_arms(study_records())
    assert "two learning rates" in summary.equal_gain(single, "self_kl").reason


@pytest.mark.parametrize(
    ("rate", "text"), [(1e-4, "1e-4"), (1.35e-3, "1.35e-3"), (0.03, "3e-2"), (2.0, "2e0")]
)
def test_rates_are_written_as_people_do(rate, text):
    assert summary.rate_text(rate) == text


def test_words():
    assert summary.signed(-0.04, 1) == "+0.0" and summary.signed(-0.06, 1) == "-0.1"
    assert summary.listed(["a", "b", "a", "c"]) == "a, b and c" and summary.listed([]) == ""


def test_contrast_of_two_trained_arms_in_the_units_of_the_metric():
    records = study_records(methods=("base", "lora", "smf-kl"))
    _, lora, smf = summary.group_arms(records)
    gain = summary.contrast(lora, smf, "exam_accuracy")
    a, b = (100 * arm.first.metrics["exam_accuracy"].value for arm in (lora, smf))
    assert gain.value == pytest.approx(a - b) and gain.low < gain.value < gain.high
    a, b = (arm.first.metrics["prose_perplexity"].value for arm in (lora, smf))
    ratio = summary.contrast(lora, smf, "prose_perplexity")
    assert ratio.value == pytest.approx(100 * (a / b - 1), rel=1e-3)
    wider = summary.contrast(lora, smf, "prose_perplexity", 0.999)
    assert wider.low < ratio.low < ratio.high < wider.high
    a, b = (arm.first.metrics["self_kl"].value for arm in (lora, smf))
    assert summary.contrast(lora, smf, "self_kl").value == pytest.approx(a - b, abs=1e-5)


def test_number_formats_are_named_where_they_differ():
    same = [make_record(method, precision="bf16") for method in ("base", "full", "smf-kl")]
    arms = summary.group_arms(same)
    assert summary.precision_notes(arms) == [] and "ormats" not in summary.setting_sentence(arms)
    others = [make_record("lora", precision="fp32"), make_record("osf", precision="fp32")]
    told = "Number formats differ: 32-bit floats (LoRA r 16, osf), bfloat16 (the rest)."
    arms = summary.group_arms(same + others)
    assert summary.precision_notes(arms) == [told]
    assert summary.setting_sentence(arms).endswith(f" split, 4 questions. {told}")
    told = "Number formats differ: not recorded (ia3), bfloat16 (the rest)."
    assert summary.precision_notes(summary.group_arms([*same, make_record("ia3")])) == [told]


def test_words_have_a_perplexity_too():
    record = make_record("lora")
    words = {"word_perplexity": record.metrics["prose_perplexity"]}
    arm = summary.Arm((record.model_copy(update={"metrics": words}),))
    assert summary.level(arm, "word_perplexity").value == pytest.approx(np.exp(610 / 200))
