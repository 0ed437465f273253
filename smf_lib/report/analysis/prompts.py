"""Whether the prompt that a knowledge question is asked after moves what is compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binom, f_oneway
from scipy.stats import f as fisher

from ...study.records.record import Record
from ...study.tasks.probes import PROMPTS, load_knowledge, shown_before

METRIC = "knowledge_accuracy"
SHOTS = 5  # enough that no two draws of examples are the same


def ratio_between_prompts(items: np.ndarray) -> float:
    """Mean square between prompts over that within them, of one number a shipped question.

    The F statistic of a one-way analysis of variance (Fisher, Statistical Methods for Research
    Workers, 1925): about 1 where a prompt moves all its questions together no more than chance
    does, larger where it does. NaN where no two items differ.

    Raises:
        ValueError: not one item for each shipped question.
    """
    questions = load_knowledge()
    if len(items) != len(questions):
        raise ValueError(f"{len(items)} items, but {len(questions)} questions are shipped")
    shots = [tuple(q.id for q in shown) for shown in shown_before(questions, SHOTS)]
    groups: dict[tuple, list[float]] = {}
    for first, item in zip(shots, items, strict=True):
        groups.setdefault(first, []).append(float(item))
    if np.ptp(items) == 0:
        return float("nan")
    return float(f_oneway(*groups.values()).statistic)


def prompt_sentence(records: Sequence[Record]) -> str:
    """Whether changes from the base model, and the base model's own answers, differ by prompt.

    Only runs that answered all shipped questions count; empty without them.
    """
    asked = len(load_knowledge())
    whole = [r for r in records if METRIC in r.metrics and len(r.metrics[METRIC].items) == asked]
    answers = [np.array(record.metrics[METRIC].items, dtype=float) for record in whole]
    base = next((a for a, r in zip(answers, whole) if r.method == "base"), None)
    if base is None:
        return ""
    ratios = np.array(
        [ratio_between_prompts(a - base) for a, r in zip(answers, whole) if r.method != "base"]
    )
    ratios = ratios[np.isfinite(ratios)]
    if not ratios.size:
        return ""
    limit = float(fisher.ppf(0.95, PROMPTS - 1, asked - PROMPTS))
    beyond, expected = int((ratios > limit).sum()), 0.05 * ratios.size
    verdict = (
        "so the luck of a prompt is no more than that of a question, and intervals of changes "
        "count questions as independent"
        if beyond <= binom.ppf(0.95, ratios.size, 0.05)
        else "so intervals of changes, which count questions as independent, are too narrow"
    )
    level = ratio_between_prompts(base)
    beside = "so a level does depend on the prompt" if level > limit else "so levels are alike too"
    return (
        f"The {asked} questions of knowledge are asked after {PROMPTS} prompts. How a run's "
        f"answers change varies between prompts {ratios.mean():.2f} times as much as within them "
        f"(mean squares, mean of {ratios.size} runs; {beyond} of them lie beyond what chance "
        f"exceeds once in twenty, where {expected:.1f} are expected), {verdict}. Of the base "
        f"model's own answers the ratio is {level:.1f}, {beside} ({limit:.1f} is exceeded once in "
        "twenty)."
    )
