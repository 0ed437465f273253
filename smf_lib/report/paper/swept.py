"""Learning rates of the paper's task, tried on questions that no verdict is about.

    for where, records in read_studies(results, ["medmcqa-qwen-coder-sweep"]).items():
        rates_table(records)
        rates_sentences(records, load_profile("medmcqa"))

Gains are the paper's score over the base model's on the same questions, in points; behind letters
that of balanced accuracy, which a preference for one letter does not raise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from ...study.profiles import Profile
from ...study.records.record import AccuracyName, Record
from ..analysis.arms import Arm, group_arms
from ..analysis.balanced import balanced_change, has_answers
from ..analysis.effects import contrast, level
from ..analysis.interval import Interval, Verdict
from ..analysis.tables import number
from ..measures import EXAM
from ..text import listed, rate_text
from .arms import lettered, stage_of
from .ordering import SCORES, gained


def rates_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row a method and rate: right answers (%), and gains over the base model (points).

    Without gains where no base model is on record. The second score, that of the letter alone, has
    a column where it was measured.
    """
    base, swept = _swept(records)
    rows = []
    for arms in swept:
        for arm in arms:
            row = {
                "Method": arm.first.label,
                "Learning rate": rate_text(arm.rate),
                "Right (%)": number(level(arm, EXAM), 1),
            }
            for score, name in zip(SCORES, ("Gain", "Gain by the letter alone"), strict=True):
                if base is not None and arm.has(score) and base.has(score):
                    row[f"{name} (points)"] = number(_above(arm, base, score), 1, sign=True)
            rows.append(row)
    return pd.DataFrame(rows)


def rates_sentences(records: Sequence[Record], profile: Profile) -> list[str]:
    """For each method that was tried at several rates: the best, and the profile's beside it.

    The best of several is flattered by the choice: which gains are clear is decided for all rates
    of all methods together (Holm), and what is told of the profile's own rate is whether it learns
    less than the best. Empty without a base model.
    """
    base, swept = _swept(records)
    if base is None:
        return []
    everything = [arm for arms in swept for arm in arms]
    clear = {arm for arm, _ in gained(everything, base, [EXAM], balanced=lettered(base))}
    told = [_rate_sentence(arms, base, clear, profile) for arms in swept if len(arms) > 1]
    once = [arms[0].first.label for arms in swept if len(arms) == 1]
    return told + ([f"At one rate only: {listed(once)}."] if once else [])


def _rate_sentence(arms: Sequence[Arm], base: Arm, clear: set[Arm], profile: Profile) -> str:
    method, label = arms[0].first.method, arms[0].first.label
    best = max(arms, key=lambda arm: _above(arm, base, EXAM).value)
    gain = _above(best, base, EXAM)
    seems = "" if best in clear else f", which is {Verdict.LEVEL} from nothing"
    end = ", the end of what was tried" if best in (arms[0], arms[-1]) else ""
    said = (
        f"**{label}** gains most at {rate_text(best.rate)}{end}: "
        f"{gain.text(1, sign=True, unit='points')}{seems}."
    )
    own = profile.methods[method].learning_rate if method in profile.methods else None
    if not isinstance(own, float):
        return said
    has = f"Profile `{profile.name}` has {rate_text(own)}"
    tried = next((arm for arm in arms if math.isclose(arm.rate, own)), None)
    if tried is None:
        return f"{said} {has}, which was not tried."
    if tried is best:
        return f"{said} {has} as well."
    apart = _above(tried, best, EXAM)
    return f"{said} {has}, {_beside(apart)}."


def _beside(apart: Interval) -> str:
    """What a rate gains beside the best one."""
    shown = apart.text(1, sign=True, unit="points")
    if apart.verdict().decided:
        return f"which gains less ({shown})"
    return f"which is {Verdict.LEVEL} from it ({shown})"


def _swept(records: Sequence[Record]) -> tuple[Arm | None, list[list[Arm]]]:
    """The base model, and each method's arms by rising rate.

    Left out: runs that diverged, stage 1 alone, and letters without the counts by letter.
    """
    arms = [arm for arm in group_arms(records) if arm.has(EXAM) and level(arm, EXAM).known]
    arms = [arm for arm in arms if has_answers(arm, EXAM) or not lettered(arm)]
    base = next((arm for arm in arms if arm.is_base), None)
    swept: dict[str, list[Arm]] = {}
    for arm in arms:
        if not arm.is_base and stage_of(arm) == "exam":
            swept.setdefault(arm.first.method, []).append(arm)
    return base, [sorted(arms, key=lambda arm: arm.rate) for arms in swept.values()]


def _above(arm: Arm, other: Arm, score: AccuracyName) -> Interval:
    """How far an arm's score lies above another's, in points."""
    return (balanced_change if lettered(other) else contrast)(arm, other, score)
