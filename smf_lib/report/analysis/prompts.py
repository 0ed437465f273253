"""Whether the prompt that a knowledge question is asked after moves what is compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...study.records.record import Record
from ...study.tasks.probes import PROMPTS, load_knowledge, shown_before
from .stats import Array

METRIC = "knowledge_accuracy"
SHOTS = 5  # enough that no two draws of examples are the same
DEALS = 999


def prompt_of_each() -> np.ndarray:
    """The number of the prompt that each shipped question is asked after."""
    shots = [tuple(q.id for q in shown) for shown in shown_before(load_knowledge(), SHOTS)]
    return np.unique(shots, axis=0, return_inverse=True)[1].ravel()


def ratios_between_prompts(items: Array, prompts: np.ndarray) -> Array:
    """Mean square between prompts over that within them, of each run: (runs,) of (runs, questions).

    The F statistic of a one-way analysis of variance (Fisher, Statistical Methods for Research
    Workers, 1925): about 1 where a prompt moves all its questions together no more than chance
    does, larger where it does. NaN where no two items differ.

    Raises:
        ValueError: not one prompt for each question.
    """
    if items.shape[1] != len(prompts):
        raise ValueError(f"{items.shape[1]} items, but {len(prompts)} questions are shipped")
    asked = np.eye(prompts.max() + 1)[prompts]
    counts = asked.sum(0)
    moved = items - items.mean(1, keepdims=True)
    between = ((moved @ asked) ** 2 / counts).sum(1)
    within = (moved**2).sum(1) - between
    ratio = between * (len(prompts) - len(counts)) / (len(counts) - 1)
    return np.divide(ratio, within, out=np.full(len(items), np.nan), where=within > 1e-9)


def chance_limit(items: Array, prompts: np.ndarray) -> float:
    """What the mean ratio of some runs exceeds once in twenty where prompts do nothing.

    Questions are dealt to the prompts anew, in the same way for all runs (a permutation test;
    Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005): runs answer the same
    questions, and are held against the same base model, so that they are not independent.
    """
    rng = np.random.default_rng(0)
    dealt = [ratios_between_prompts(items, rng.permutation(prompts)).mean() for _ in range(DEALS)]
    return float(np.quantile(dealt, 0.95))


def prompt_sentence(records: Sequence[Record]) -> str:
    """Whether changes from the base model, and the base model's own answers, differ by prompt.

    Only runs that answered all shipped questions count; empty without them.
    """
    asked = len(load_knowledge())
    whole = [r for r in records if METRIC in r.metrics and len(r.metrics[METRIC].items) == asked]
    answers = {r.run_id: np.array(r.metrics[METRIC].items, dtype=float) for r in whole}
    base = next((answers[r.run_id] for r in whole if r.method == "base"), None)
    if base is None:
        return ""
    changes = [answers[r.run_id] - base for r in whole if r.method != "base"]
    changes = [change for change in changes if np.ptp(change) > 0]
    if not changes:
        return ""
    prompts = prompt_of_each()
    (ratio, limit), (level, most) = (
        (ratios_between_prompts(items, prompts).mean(), chance_limit(items, prompts))
        for items in (np.stack(changes), base[None])
    )
    verdict = (
        "so the luck of a prompt is no more than that of a question, and intervals of changes "
        "count questions as independent"
        if ratio <= limit
        else "so intervals of changes, which count questions as independent, are too narrow"
    )
    beside = "so a level does depend on the prompt" if level > most else "so levels are alike too"
    return (
        f"The {asked} questions of knowledge are asked after {PROMPTS} prompts. How a run's "
        f"answers change varies between prompts {ratio:.2f} times as much as within them (mean "
        f"squares, mean of {len(changes)} runs; {limit:.2f} is exceeded once in twenty where "
        f"questions are dealt to prompts by chance, in the same way for all runs), {verdict}. Of "
        f"the base model's own answers the ratio is {level:.1f}, {beside} ({most:.1f} is exceeded "
        "once in twenty)."
    )
