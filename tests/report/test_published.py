"""The published numbers: those of the paper, plausible, and claims that fit them."""

import math

import pytest

from smf_lib.report.paper.published import METRICS, Number, load_published
from smf_lib.study.profiles import load_profile
from smf_lib.study.tasks.medmcqa import FIRST_TRAINED


@pytest.fixture(scope="module")
def published():
    return load_published()


def test_numbers_are_those_of_the_paper(published):
    exam = [published.arms[arm].number("exam_accuracy").value for arm in ("lora", "full")]
    assert exam == [0.390, 0.398]
    base = published.arms["base"]
    assert base.number("exam_accuracy") == Number(value=0.344, plus_minus=0.002)
    assert base.number("prose_perplexity").value == 13.146
    assert base.number("knowledge_accuracy").value == 0.256
    ranged = published.arms["replacement-kl"].number("prose_perplexity")
    assert (ranged.low, ranged.high, ranged.value) == (16.5, 16.6, pytest.approx(16.55))
    assert published.arms["additive-tfidf"].number("exam_accuracy") is None


def test_every_arm_has_all_its_numbers_or_words(published):
    for name, arm in published.arms.items():
        assert set(arm.numbers) == set(METRICS) or (arm.words and not arm.numbers), name
        for metric, number in arm.numbers.items():
            if metric == "prose_perplexity":
                assert number.value >= 1
            else:
                assert 0 < number.value < 1
            assert number.low is None or number.low < number.value < number.high
    assert published.arms["base"].numbers and set(published.questions) <= set(METRICS)


def test_changes_are_points_and_per_cent(published):
    assert published.change("additive-kl", "base", "exam_accuracy") == pytest.approx(2.5)
    assert published.change("lora", "base", "prose_perplexity") == pytest.approx(17.68, abs=0.01)
    assert published.change("full", "base", "knowledge_accuracy") == pytest.approx(-9.3)
    assert published.change("additive-tfidf", "base", "exam_accuracy") is None


def test_arms_are_methods_of_the_paper_profile(published):
    assert published.arms.keys() <= load_profile("paper").methods.keys()
    assert published.model == load_profile("paper").model.source
    assert published.seeds == len(load_profile("paper").seeds)


def test_published_numbers_lie_where_the_claims_say(published):
    told = 0
    for claim in published.claims:
        assert {claim.first, claim.second} <= published.arms.keys(), claim.text
        assert (claim.margin == 0) == (claim.relation in ("above", "below")), claim.text
        change = published.change(claim.first, claim.second, claim.metric)
        low, high = claim.region
        assert change is None or low < change < high, claim.text
        told += change is not None
    assert told >= len(published.claims) - 2
    assert {claim.metric for claim in published.claims} == set(METRICS)
    texts = [claim.text for claim in published.claims]
    assert len(texts) == len(set(texts))


def test_regions(published):
    by_relation = {claim.relation: claim.region for claim in published.claims}
    assert by_relation["above"] == (0, math.inf) and by_relation["below"] == (-math.inf, 0)
    assert by_relation["at_most"] == (-math.inf, 1) and by_relation["within"] == (-1, 1)


def test_what_is_held_out_is_told_with_the_numbers_of_code_and_profile(published):
    told = next(d.ours for d in published.differences if d.aspect.startswith("Questions to choose"))
    held_out = load_profile("paper").exam.validation_rows
    assert held_out > FIRST_TRAINED
    assert f"the first {FIRST_TRAINED} of the shuffled training questions" in told
    assert f"({held_out:,} in profile `paper`), the last of them" in told
