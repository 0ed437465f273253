"""What a study says of each of the paper's claims, and of our own questions about its arms.

findings(records, load_published())
claims_sentence({"medmcqa-smollm2/reference": records}, load_published())
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ...study.records.record import Record
from ..analysis.effects import contrast
from ..analysis.stats import Interval, wilson_interval
from ..text import listed
from .arms import arms_of
from .published import Claim, Published

ABSENT = "not on record"
QUESTIONS = (
    ("What stage 1 alone does, additive", "retrofit-additive", "base"),
    ("What stage 1 alone does, replacement", "retrofit-replacement", "base"),
    ("The exam after stage 1, additive (KL)", "additive-kl", "retrofit-additive"),
    ("The exam after stage 1, replacement (KL)", "replacement-kl", "retrofit-replacement"),
    ("Stage 1 or values that start at zero (KL)", "additive-kl", "smf-kl"),
    ("Stage 1 or values that start at zero (TF-IDF)", "additive-tfidf", "smf-tfidf"),
    ("KL or random rows", "smf-kl", "smf-random"),
    ("TF-IDF or random rows", "smf-tfidf", "smf-random"),
    ("KL or all rows that are read", "smf-kl", "smf-all"),
    ("TF-IDF or all rows that are read", "smf-tfidf", "smf-all"),
)


Verdict = Literal["supported", "contradicted", "not settled", "not on record"]


@dataclass(frozen=True)
class Finding:
    """A claim with its published difference and what one study measured."""

    claim: Claim
    published: float | None
    measured: Interval | None
    verdict: Verdict


def judge(measured: Interval | None, region: tuple[float, float]) -> Verdict:
    """Whether an interval supports a claim.

    Supported if the whole 95 % interval lies within the claim's region, contradicted if it lies
    wholly outside, and not settled otherwise, as where it only touches the region's bound.
    """
    if measured is None:
        return ABSENT
    low, high = region
    if not measured.bounded:
        return "not settled"
    if low < measured.low and measured.high < high:
        return "supported"
    return "contradicted" if measured.high < low or measured.low > high else "not settled"


def findings(records: Sequence[Record], published: Published) -> list[Finding]:
    """Every claim of the paper as one study sees it."""
    arms = arms_of(records)
    found = []
    for claim in published.claims:
        first, second = arms.get(claim.first), arms.get(claim.second)
        measured = None
        if first and second and first.has(claim.metric) and second.has(claim.metric):
            measured = contrast(first, second, claim.metric)
        said = published.change(claim.first, claim.second, claim.metric)
        found.append(Finding(claim, said, measured, judge(measured, claim.region)))
    return found


def items_needed(finding: Finding) -> float | None:
    """Items at which an interval around the published difference just lies in the claim's region.

    With so many, a difference as published is settled in about half of all cases. The spread of an
    item is taken from the measurement, but for accuracies not below what the published difference d
    needs by itself: outcomes that differ by d on average have a variance of at least d - d². None
    where no difference is published, or the measured one has no interval.
    """
    measured = finding.measured
    if finding.published is None or measured is None or not measured.bounded:
        return None
    distance = min(abs(finding.published - bound) for bound in finding.claim.region)
    if not distance:
        return None
    spread = measured.n * ((measured.high - measured.low) / 2) ** 2
    if finding.claim.metric != "prose_perplexity":
        share = abs(finding.published) / 100
        spread = max(spread, (196 * math.sqrt(share - share**2)) ** 2)
    return spread / distance**2


def claims_sentence(studies: Mapping[str, Sequence[Record]], published: Published) -> str:
    """How many claims each study supports, contradicts, leaves open or has no record for."""
    if not studies:
        return "No study is on record yet, so nothing can be said of any claim."
    sentences = []
    for where, records in studies.items():
        verdicts = [finding.verdict for finding in findings(records, published)]
        ways = {
            "supported": "supports {}", "contradicted": "contradicts {}",
            "not settled": "cannot settle {}", ABSENT: "has no records for {}",
        }  # fmt: skip
        told = [way.format(verdicts.count(v)) for v, way in ways.items() if v in verdicts]
        sentences.append(f"Of {len(verdicts)} claims, study {where} {listed(told)}.")
    return " ".join(sentences)


def open_claims(studies: Mapping[str, Sequence[Record]], published: Published) -> list[Claim]:
    """Claims that no study supports or contradicts."""
    settled = {
        finding.claim.text
        for records in studies.values()
        for finding in findings(records, published)
        if finding.verdict in ("supported", "contradicted")
    }
    return [claim for claim in published.claims if claim.text not in settled]


def unanswered_sentence(records: Sequence[Record]) -> str:
    """Which of `QUESTIONS` lack a record of one of their two arms; "" if none does."""
    arms = arms_of(records)
    lacking = [text for text, *pair in QUESTIONS if not set(pair) <= arms.keys()]
    return f"Not on record: {'; '.join(lacking)}." if lacking else ""


def question_noise_sentence(published: Published) -> str:
    """How far the published base accuracy is uncertain by the choice of its questions alone."""
    n = published.questions["exam_accuracy"]
    base = published.arms["base"].number("exam_accuracy")
    interval = wilson_interval(round(n * base.value), n).scaled(100)
    smallest = min(
        abs(published.change(claim.first, claim.second, claim.metric) or math.inf)
        for claim in published.claims
        if claim.metric == "exam_accuracy"
    )
    return (
        f"The base model's {100 * base.value:.1f} % is a share of {n:,} questions, and by their "
        f"choice alone its 95 % interval reaches from {interval.low:.1f} to {interval.high:.1f} %. "
        f"The smallest difference on the exam that a claim rests on is {smallest:.1f} points."
    )
