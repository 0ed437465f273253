"""The published numbers: those of the paper, claims that fit them, faults named."""

import math

import pytest
import yaml

from smf_lib.report.paper.published import FILE, METRICS, Number, load_published
from smf_lib.study.profiles import load_profile


@pytest.fixture(scope="module")
def published():
    return load_published()


def test_numbers_are_those_of_the_paper(published):
    assert [published.arms[arm].number("exam_accuracy").value for arm in ("lora", "full")] == [
        0.390,
        0.398,
    ]
    base = published.arms["base"]
    assert base.exam_accuracy == Number(value=0.344, plus_minus=0.002)
    assert base.prose_perplexity.value == 13.146 and base.knowledge_accuracy.value == 0.256
    ranged = published.arms["replacement-kl"].prose_perplexity
    assert (ranged.low, ranged.high, ranged.value) == (16.5, 16.6, pytest.approx(16.55))
    assert published.arms["additive-tfidf"].number("exam_accuracy") is None


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


def drop(content, *keys):
    for key in keys[:-1]:
        content = content[key]
    del content[keys[-1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: drop(c, "arms", "base"), "arms.base with all its numbers is missing"),
        (lambda c: drop(c, "arms", "lora", "exam_accuracy"), "arms.lora: needs `words`, or all of"),
        (lambda c: c["arms"]["lora"].update(extra=1), "arms.lora.extra"),
        (lambda c: c["arms"]["lora"].update(exam_accuracy={"value": 39.0}), "a share below 1"),
        (lambda c: c["arms"]["lora"].update(prose_perplexity={"value": 0.5}), "of at least 1"),
        (lambda c: c["arms"]["lora"].update(exam_accuracy=0.39), "must be a mapping such as"),
        (
            lambda c: c["arms"]["lora"].update(prose_perplexity={"low": 9, "high": 8}),
            "low=9 must be below high=8",
        ),
        (
            lambda c: c["arms"]["lora"].update(prose_perplexity={"low": 9}),
            "a range has `low` and `high`",
        ),
        (lambda c: c["claims"][0].update(first="dora"), "unknown arms \\['dora'\\]"),
        (lambda c: c["claims"][0].update(margin=1.0), "above and below have none"),
        (lambda c: c["claims"][0].update(relation="equal"), "claims.0.relation"),
        (lambda c: c["claims"][0].update(metric="self_kl"), "claims.0.metric"),
    ],
)
def test_faults_are_named(tmp_path, change, message):
    content = yaml.safe_load(FILE.read_text())
    change(content)
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message):
        load_published(path)


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    path = tmp_path / "published.yaml"
    path.write_text("a: [")
    with pytest.raises(ValueError, match="published.yaml is not YAML"):
        load_published(path)
