"""What came out of studies with one learning rate a method, in sentences from their records.

A method that learned less forgets less for free, so every sentence on drift stands beside the gain.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ...study.records.record import Record
from ..measures import EXAM, drift_measures
from ..text import duration, listed, memory, size
from .arms import METHOD, REFERENCES, Arm, arm_name, base_of, group_arms
from .effects import are_paired, change, contrast, drift_beside
from .floors import floors_sentence
from .interval import Interval, Verdict
from .step_cost import with_range

DRIFTED = {
    Verdict.LESS: "drifted less by",
    Verdict.MORE: "more by",
    Verdict.LEVEL: f"{Verdict.LEVEL} by",
    Verdict.UNKNOWN: f"{Verdict.UNKNOWN} by",
}
UNITS = {"accuracy": "points", "perplexity": "% of perplexity", "nats": "nats"}
NOTHING = "No run of sparse memory finetuning stands beside LoRA or full finetuning on record."


def came_out(records: Sequence[Record]) -> list[str]:
    """For each study its gains and floors, then one memory against LoRA and full finetuning.

    That memory is `METHOD`, or where it is not on record the first that is; the others are what
    `others_beside` tells.
    """
    told = []
    for arms in _studies(records):
        trained = [arm for arm in arms if not arm.is_base and arm.has(EXAM)]
        gains = {arm: change(arm, base_of(arm, arms), EXAM) for arm in trained}
        ordered = sorted((a for a in gains if gains[a].known), key=lambda arm: -gains[arm].value)
        if ordered:
            points = listed(f"{arm_name(arm, arms)} {_numbers(gains[arm], 1)}" for arm in ordered)
            told.append(f"Study {arms[0].where}, gain on the exam in points: {points}.")
            told.append(floors_sentence(arms, partial(arm_name, arms=arms)))
        told += _beside(arms, _against, first=True)
    return told or [NOTHING]


def others_beside(records: Sequence[Record]) -> list[str]:
    """Every other memory against LoRA and full finetuning."""
    return [said for arms in _studies(records) for said in _beside(arms, _against, first=False)]


def cost_came_out(records: Sequence[Record], steps: dict[str, Any] | None) -> list[str]:
    """Time, memory and bytes of one memory over those of LoRA and of full finetuning.

    Which memory that is, `came_out` says; `costs_beside` tells the others.

    steps: the record of the benchmark `step_vs_methods`, whose ratios are of steps taken in turn.
    """
    told = []
    for batch, found in (steps or {"results": {}})["results"].items():
        ratios = {"LoRA": found["smf_against_lora"], "full finetuning": found["smf_against_full"]}
        parts = [f"{with_range(ratio)} of one of {name}" for name, ratio in ratios.items()]
        told.append(
            f"**A step of sparse memory ({batch}) takes {listed(parts)}** (median ratio; in "
            "brackets the least and the most of any round)."
        )
    for arms in _studies(records):
        told += _beside(arms, _cost_against, first=True)
    return told or [NOTHING]


def costs_beside(records: Sequence[Record]) -> list[str]:
    """Costs of every other memory over those of LoRA and of full finetuning."""
    studies = _studies(records)
    return [said for arms in studies for said in _beside(arms, _cost_against, first=False)]


def _studies(records: Sequence[Record]) -> list[list[Arm]]:
    """The arms of each study."""
    studies: dict[str, list[Arm]] = {}
    for arm in group_arms(records):
        studies.setdefault(arm.where, []).append(arm)
    return list(studies.values())


def _beside(arms: Sequence[Arm], say: Callable[..., str], *, first: bool) -> list[str]:
    """What `say` tells of the first memory, or of the others, and each reference."""
    memories = [arm for arm in arms if arm.first.selection]
    names = [arm.first.method for arm in memories]
    told_first = METHOD if METHOD in names else next(iter(names), METHOD)
    others = [arm for name in REFERENCES for arm in arms if arm.first.method == name]
    return [
        say(arm, other, arms)
        for arm in memories
        if (arm.first.method == told_first) is first
        for other in others
    ]


def _numbers(interval: Interval, digits: int, unit: str = "") -> str:
    """A change with its interval and unit, or why there is none."""
    alone = interval.known and not interval.bounded
    return interval.text(digits, sign=True, unit=unit) + (", no interval" if alone else "")


def _against(first: Arm, second: Arm, arms: Sequence[Arm]) -> str:
    """Gain and every drift of one arm minus those of another on the same items."""
    names = f"**{arm_name(first, arms)} against {arm_name(second, arms)}**"
    if not are_paired(first, second, EXAM):
        return f"{names}: {Verdict.UNKNOWN}, they answered other questions."
    gained = contrast(first, second, EXAM)
    if not gained.known:
        return f"{names}: {gained.reason}."
    learned = gained.verdict()
    probes: dict[Verdict, list[str]] = {verdict: [] for verdict in DRIFTED}
    for metric, measure in drift_measures(first.records).items():
        lost = drift_beside(first, second, metric)
        found = lost.scaled(-1) if measure.spec.more_is_better else lost  # as it was measured
        numbers = _numbers(found, min(measure.digits, 3), UNITS[measure.unit])
        probes[lost.verdict()].append(f"{measure.title} ({numbers})")
    parts = [
        f"{words} {listed(probes[found])}" for found, words in DRIFTED.items() if probes[found]
    ]
    if learned is Verdict.LESS and probes[Verdict.LESS]:
        parts.append("having learned less, drifting less is no merit by itself")
    said = learned.told("learned more", "learned less", "what they learned")
    return f"{names}: {said} ({_numbers(gained, 1, 'points')}); {'; '.join(parts)}."


def _cost_against(first: Arm, second: Arm, arms: Sequence[Arm]) -> str:
    """One arm's cost of training beside that of another, each trained once or averaged."""
    shown = {
        "train_seconds": ("training time", duration),
        "peak_memory_bytes": ("peak memory", memory),
        "saved_bytes": ("on disk", size),
    }
    parts = []
    for field, (words, text) in shown.items():
        ours, theirs = first.mean_cost(field), second.mean_cost(field)
        times = f", {ours / theirs:.2g} times" if theirs else ""
        parts.append(f"{words} {text(ours)} beside {text(theirs)}{times}")
    names = f"{arm_name(first, arms)} against {arm_name(second, arms)}"
    return f"Study {first.where}, {names}: {'; '.join(parts)}."
