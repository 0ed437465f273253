"""Estimated times: operations by arithmetic that can be done by hand, lengths from records."""

import pytest
from helpers_records import paper_records

from smf_lib.report.analysis.estimate import ASSUMED, H100, Lengths, Machine, estimate, lengths_of
from smf_lib.study.profiles import load_profile

PAPER = load_profile("paper")
FAST = Machine("fast", peak=1e15, utilisation=0.5, launch=0.0)


def test_training_counts_six_or_four_operations_a_parameter_and_token():
    lengths = Lengths(1_000, 100.0, 50.0, "given")
    base = estimate(PAPER, "base", lengths)
    full, lora = (estimate(PAPER, name, lengths) for name in ("full", "lora"))
    tokens = 60_000 * 3 * 100
    assert full.tokens == lora.tokens == tokens and base.tokens == base.training == 0
    assert full.flops - base.flops == pytest.approx(6 * 1_000 * tokens)
    assert lora.flops - base.flops == pytest.approx(4 * 1_000 * tokens)


def test_stage_one_counts_replies():
    stage1 = estimate(PAPER, "retrofit-additive", Lengths(1_000, 100.0, 50.0, "given"))
    assert stage1.tokens == 50_000 * 2 * 50


def test_texts_are_cut_at_the_maximal_length():
    long = estimate(PAPER, "lora", Lengths(1_000, 5_000.0, 50.0, "given"))
    assert long.tokens == 60_000 * 3 * 1024


def test_time_is_the_larger_of_arithmetic_and_launching():
    one = estimate(PAPER, "full", ASSUMED, FAST)
    assert one.training == pytest.approx(6 * ASSUMED.parameters * one.tokens / 5e14)
    passes = 60_000 / 4 * 3
    assert estimate(PAPER, "full").training == pytest.approx(passes * H100.launch)
    assert one.measuring > 0 and one.hours == (one.training + one.measuring) / 3600


def test_lengths_come_from_records_of_that_size_where_there_are_any():
    records = paper_records(methods=("base", "lora", "retrofit-additive"))
    assert lengths_of(records).source == "questions: assumed; replies: assumed"
    for record in records:
        record.model.parameters = ASSUMED.parameters
    found = lengths_of(records)
    assert found.question == 41 and found.reply == ASSUMED.reply
    assert found.source == "questions: medmcqa-smollm2/reference/lora-seed0; replies: assumed"


def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(ValueError, match="method='dora' is not among"):
        estimate(PAPER, "dora")
    exam = PAPER.exam.model_copy(update={"train_rows": None})
    with pytest.raises(ValueError, match="how many rows"):
        estimate(PAPER.model_copy(update={"exam": exam}), "lora")


def test_every_method_of_the_profile_has_an_estimate():
    for name in PAPER.methods:
        assert 0 < estimate(PAPER, name).hours < 100
