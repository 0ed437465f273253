"""What would have to be run to settle the paper's claims, with an estimate of its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ...study.profiles import Profile
from ...study.records.record import Record
from ..analysis.estimate import H100, Lengths, Machine, estimate, lengths_of
from ..analysis.tables import DASH, number
from ..text import count, signed
from .arms import arms_of, paper_order
from .claims import QUESTIONS, findings, items_needed, open_claims
from .published import Published


def to_run_table(
    studies: Mapping[str, Sequence[Record]],
    published: Published,
    profile: Profile,
    machine: Machine = H100,
) -> pd.DataFrame:
    """One command a method of `profile` that something open waits for, and one for everything.

    What is open: claims that no study settles, and `QUESTIONS` for which no study has both arms.
    Runs that are on record in a study of the profile are not counted.
    """
    lengths = lengths_of([record for records in studies.values() for record in records])
    waiting = _waiting(studies, published)
    hours, done = f"Hours on one {machine.name}", _done(studies, profile)
    rows, total, runs = [], 0.0, 0
    for name in paper_order(list(profile.methods), published):
        left = [r for r in profile.runs() if r.method == name and (name, r.seed) not in done]
        if not left:
            continue
        one = estimate(profile, name, lengths, machine)
        total += len(left) * one.hours
        runs += len(left)
        users = [n for n, m in profile.methods.items() if m.start == name]
        needed = sum(bool(pair & {name, *users}) for pair in waiting)
        if needed:
            rows.append(
                {
                    "Method": profile.methods[name].label,
                    "Command": _command(profile, name, [run.seed for run in left]),
                    "Waiting for it": str(needed),
                    "Runs": str(len(left)),
                    "Tokens a run": count(one.tokens).strip() if one.tokens else DASH,
                    "FLOP a run": f"{one.flops:.1e}".replace("e+", "e"),
                    hours: _hours(len(left) * one.hours),
                }
            )
    everything = {
        "Method": f"all of profile {profile.name}",
        "Command": f"make book PROFILE={profile.name}",
        "Waiting for it": str(len(waiting)),
        "Runs": str(runs),
        hours: f"{total:.0f}",
    }
    return pd.DataFrame([*rows, everything]).fillna(DASH)


def _hours(hours: float) -> str:
    return "< 0.1" if hours < 0.1 else f"{hours:.2g}"


def _waiting(studies: Mapping[str, Sequence[Record]], published: Published) -> list[set[str]]:
    """The two arms of every open claim, and of every question that no study has both arms for."""
    claims = [{claim.first, claim.second} for claim in open_claims(studies, published)]
    known = [arms_of(records).keys() for records in studies.values()]
    asked = [{first, second} for _, first, second in QUESTIONS]
    return claims + [pair for pair in asked if not any(pair <= arms for arms in known)]


def _done(studies: Mapping[str, Sequence[Record]], profile: Profile) -> set[tuple[str, int]]:
    """Method and seed of the runs of this profile that are on record."""
    records = [record for group in studies.values() for record in group]
    return {(r.method, r.seed) for r in records if r.profile == profile.name}


def _command(profile: Profile, name: str, seeds: Sequence[int]) -> str:
    run = (
        "papermill notebooks/02_finetune.ipynb out.ipynb "
        f"-p profile {profile.name} -p method {name}"
    )
    if profile.methods[name].kind == "base":
        return run
    if len(seeds) == 1:
        return f"{run} -p seed {seeds[0]}"
    return f"for s in {' '.join(map(str, seeds))}; do {run} -p seed $s; done"


def power_table(studies: Mapping[str, Sequence[Record]], published: Published) -> pd.DataFrame:
    """Claims that a study measured and could not settle, with the questions it would have taken.

    If the published difference were the true one, an interval that just clears the claim's bound
    would need n * (half width / distance)^2 items, since it narrows with the root of their number.
    """
    rows = []
    for where, records in studies.items():
        for finding in findings(records, published):
            if finding.verdict != "not settled":
                continue
            measured, needed = finding.measured, items_needed(finding)
            unit = " %" if finding.claim.metric == "prose_perplexity" else ""
            rows.append(
                {
                    "Claim": finding.claim.text,
                    "Study": where,
                    "Published": DASH if finding.published is None
                    else signed(finding.published, 1) + unit,
                    "Measured": number(measured, 1, sign=True) + unit,
                    "Items": f"{measured.n:,}",
                    "Items needed": DASH if needed is None else f"{needed:,.2g}"
                    if needed < 100 else f"{round(needed, -2):,.0f}",
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def assumptions_sentence(studies: Mapping[str, Sequence[Record]], machine: Machine = H100) -> str:
    """What the estimated times assume of the texts and of the machine."""
    lengths: Lengths = lengths_of([record for records in studies.values() for record in records])
    return (
        f"Assumed: {count(lengths.parameters)} parameters, {lengths.question:.0f} tokens a question "
        f"and {lengths.reply:.0f} a reply ({lengths.source}); of {machine.name} a peak of "
        f"{machine.peak / 1e12:.0f} TFLOP/s in bfloat16, of which {100 * machine.utilisation:.0f} % "
        f"is reached, and {machine.launch:g} s or more for a forward and backward pass, which for "
        "small batches decides."
    )
