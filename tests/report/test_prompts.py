"""The luck of a prompt: found where it is, not where it is not, and of the right size."""

import numpy as np
import pytest
from helpers_records import make_record
from scipy.stats import f_oneway

from smf_lib.report.analysis.prompts import (
    chance_limit,
    prompt_of_each,
    prompt_sentence,
    ratios_between_prompts,
)
from smf_lib.study.tasks.probes import PROMPTS, load_examples, load_knowledge

QUESTIONS = load_knowledge()
TURN = prompt_of_each()


def test_the_ratio_is_one_without_luck_and_as_large_as_the_luck():
    """By simulation: 1 + n s^2 for n questions a prompt, s the spread of prompts to questions."""
    assert len(np.unique(TURN)) == PROMPTS <= len(load_examples())
    rng = np.random.default_rng(0)
    for spread in (0.0, 0.3):
        own, shared = rng.standard_normal((150, len(TURN))), rng.standard_normal((150, PROMPTS))
        items = own + spread * shared[:, TURN]
        found = ratios_between_prompts(items, TURN)
        expected = 1 + len(TURN) / PROMPTS * spread**2
        assert found.mean() == pytest.approx(expected, rel=0.15)
        groups = [items[0, TURN == prompt] for prompt in range(PROMPTS)]
        assert found[0] == pytest.approx(f_oneway(*groups).statistic)


@pytest.mark.parametrize("alike", [0.0, 0.9])
def test_the_limit_is_exceeded_once_in_twenty_however_alike_runs_are(alike):
    """Twenty runs that share most of what they answer are hardly more than one."""
    rng = np.random.default_rng(1)
    beyond = []
    for _ in range(100):
        shared, own = rng.standard_normal((1, len(TURN))), rng.standard_normal((20, len(TURN)))
        items = alike**0.5 * shared + (1 - alike) ** 0.5 * own
        limit = chance_limit(items, TURN)
        beyond.append(ratios_between_prompts(items, TURN).mean() > limit)
    assert limit > (1.5 if alike else 1.0) and limit < (3.0 if alike else 1.4)
    assert np.mean(beyond) <= 0.12


def test_answers_to_other_questions_are_refused():
    with pytest.raises(ValueError, match="12 items, but"):
        ratios_between_prompts(np.zeros((1, 12)), TURN)
    assert np.isnan(ratios_between_prompts(np.zeros((1, len(QUESTIONS))), TURN)).all()


def runs(luck):
    """A base model and twenty runs that answer differently, each prompt with luck of its own."""
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2, len(QUESTIONS))
    records = [make_record("base", rate=None, knowledge=base.tolist())]
    for seed in range(20):
        flips = rng.random(len(QUESTIONS)) < 0.2 + luck * (TURN < PROMPTS // 2)
        items = np.where(flips, 0, base).tolist()
        records.append(make_record("full", 1e-4, seed, knowledge=items))
    return records


def test_the_sentence_says_whether_questions_count_as_independent():
    assert "count questions as independent" in prompt_sentence(runs(0.0))
    assert "mean of 20 runs" in prompt_sentence(runs(0.0))
    assert "are too narrow" in prompt_sentence(runs(0.5))
    assert prompt_sentence(runs(0.0)[1:]) == ""
    assert prompt_sentence([make_record("base", rate=None)]) == ""
