"""The luck of a prompt: found where it is, not where it is not, and of the right size."""

import numpy as np
import pytest
from helpers_records import make_record

from smf_lib.report.analysis.prompts import SHOTS, prompt_sentence, ratio_between_prompts
from smf_lib.study.tasks.probes import PROMPTS, load_examples, load_knowledge, shown_before

QUESTIONS = load_knowledge()
SHOWN = [tuple(q.id for q in shown) for shown in shown_before(QUESTIONS, SHOTS)]
NUMBER = {prompt: number for number, prompt in enumerate(dict.fromkeys(SHOWN))}
TURN = np.array([NUMBER[prompt] for prompt in SHOWN])


def test_the_ratio_is_one_without_luck_and_as_large_as_the_luck():
    """By simulation: 1 + n s^2 for n questions a prompt, s the spread of prompts to questions."""
    assert len(NUMBER) == PROMPTS <= len(load_examples())
    rng = np.random.default_rng(0)
    for spread in (0.0, 0.3):
        found = [
            ratio_between_prompts(
                rng.standard_normal(len(TURN)) + spread * rng.standard_normal(PROMPTS)[TURN]
            )
            for _ in range(150)
        ]
        expected = 1 + len(TURN) / PROMPTS * spread**2
        assert np.mean(found) == pytest.approx(expected, rel=0.15)


def test_answers_to_other_questions_are_refused():
    with pytest.raises(ValueError, match="12 items, but"):
        ratio_between_prompts(np.zeros(12))
    assert np.isnan(ratio_between_prompts(np.zeros(len(QUESTIONS))))


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
