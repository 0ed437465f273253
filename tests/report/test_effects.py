"""Gains and drifts in their units, arms compared, and what may not be compared."""

import numpy as np
import pytest
from helpers_records import make_record, study_records

from smf_lib.report.analysis.arms import Arm, group_arms
from smf_lib.report.analysis.effects import change, contrast, drift, level, retention
from smf_lib.study.records.results import ResultsError


def test_change_and_drift_units():
    base = make_record("base", exam=[1, 0, 0, 0], knowledge=[1, 1, 0, 0], prose=[[300.0, 100]] * 2)
    lora = make_record(
        "lora",
        exam=[1, 1, 0, 0],
        knowledge=[1, 0, 0, 0],
        prose=[[300.0 + 100 * np.log(1.1), 100]] * 2,
        kl=[0.1, 0.3],
    )
    arms = group_arms([base, lora])
    assert change(arms[1], arms[0], "exam_accuracy").value == pytest.approx(25)
    assert drift(arms[1], arms[0], "prose_perplexity").value == pytest.approx(10, abs=1e-3)
    assert change(arms[1], arms[0], "knowledge_accuracy").value == pytest.approx(-25)
    assert drift(arms[1], arms[0], "knowledge_accuracy").value == pytest.approx(25)
    assert drift(arms[1], arms[0], "self_kl").value == pytest.approx(0.2)


def test_seeds_are_those_of_the_trained_arm():
    arms = group_arms(study_records(seeds=(0, 1, 2), methods=("base", "lora")))
    assert change(arms[1], arms[0], "exam_accuracy").seeds == 3


def test_different_data_is_not_compared():
    base = make_record("base", split="validation")
    lora = make_record("lora", split="test")
    arms = group_arms([base, lora])
    with pytest.raises(ResultsError, match="different data or splits"):
        change(arms[1], arms[0], "exam_accuracy")
    seeds = [make_record("lora", seed=0), make_record("lora", seed=1, split="validation")]
    with pytest.raises(ResultsError, match="cannot be combined"):
        group_arms(seeds)[0].items("exam_accuracy")


def test_retention_through_records():
    arms = group_arms(study_records(methods=("base", "lora", "smf-kl")))
    kept = retention(arms[2], arms[1], arms[0])
    gains = [change(arm, arms[0], "exam_accuracy").value for arm in arms[1:]]
    assert kept.value == pytest.approx(100 * gains[1] / gains[0])
    assert kept.low < kept.value < kept.high


def test_contrast_of_two_trained_arms_in_the_units_of_the_metric():
    records = study_records(methods=("base", "lora", "smf-kl"))
    _, lora, smf = group_arms(records)
    gain = contrast(lora, smf, "exam_accuracy")
    a, b = (100 * arm.first.metrics["exam_accuracy"].value for arm in (lora, smf))
    assert gain.value == pytest.approx(a - b) and gain.low < gain.value < gain.high
    a, b = (arm.first.metrics["prose_perplexity"].value for arm in (lora, smf))
    ratio = contrast(lora, smf, "prose_perplexity")
    assert ratio.value == pytest.approx(100 * (a / b - 1), rel=1e-3)
    wider = contrast(lora, smf, "prose_perplexity", 0.999)
    assert wider.low < ratio.low < ratio.high < wider.high
    a, b = (arm.first.metrics["self_kl"].value for arm in (lora, smf))
    assert contrast(lora, smf, "self_kl").value == pytest.approx(a - b, abs=1e-5)


def test_words_have_a_perplexity_too():
    record = make_record("lora")
    words = {"word_perplexity": record.metrics["prose_perplexity"]}
    arm = Arm((record.model_copy(update={"metrics": words}),))
    assert level(arm, "word_perplexity").value == pytest.approx(np.exp(610 / 200))


def test_sections_count_by_article():
    prose = [[300.0 + i, 100] for i in range(12)]
    record = make_record("lora", prose=prose)
    record.metrics["prose_kl"] = record.metrics["self_kl"].model_copy(
        update={"items": [float(i) for i in range(12)], "n": 12}
    )
    record.data.prose.articles, record.data.prose.sections = 4, [3, 2, 4, 3]
    arm = Arm((record,))
    assert arm.items("prose_perplexity").tolist()[0] == [
        [903, 300], [607, 200], [1226, 400], [930, 300]
    ]  # fmt: skip
    assert arm.items("prose_kl").tolist() == [[1, 3.5, 6.5, 10]]
    assert level(arm, "prose_perplexity").n == level(arm, "prose_kl").n == 4


def test_windows_of_one_text_count_as_blocks_of_four_articles():
    record = make_record("lora", prose=[[300.0 + i, 100] for i in range(40)])
    record.data.prose.articles = 24
    arm = Arm((record,))
    assert arm.items("prose_perplexity").shape == (1, 6, 2)
    assert level(arm, "prose_perplexity").n == 6
    record.data.prose.articles = 5
    assert level(arm, "prose_perplexity").n == 4
    record.data.prose.articles = 40
    assert level(arm, "prose_perplexity").n == 40
