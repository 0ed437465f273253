"""What a study says of each of the paper's claims, and of our own questions about its arms.

findings(records, load_published())
claims_sentence({"medmcqa-smollm2/reference": records}, load_published())
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from scipy.stats import norm
from scipy.stats import t as student

from ...study.records.record import Record
from ..analysis.arms import Arm
from ..analysis.balanced import balanced_change, has_answers
from ..analysis.decisions import holm
from ..analysis.effects import contrast, level
from ..analysis.interval import Interval
from ..analysis.stats import wilson_interval
from ..text import listed
from .arms import arms_of, lettered
from .ordering import learned_methods
from .published import Claim, Published

ABSENT: Final = "not on record"
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


MOVED = 0.001  # nats a token from where an arm started: less is no finetuning to speak of
POWER = 0.8
UNTESTED: Final = "not tested"
EXCLUDED: Final = "excludes the published size"
Verdict = Literal[
    "supported",
    "contradicted",
    "excludes the published size",
    "not settled",
    "not tested",
    "not on record",
]


@dataclass(frozen=True)
class Finding:
    """A claim with its published difference, what one study measured, and why it is not tested."""

    claim: Claim
    published: float | None
    measured: Interval | None
    verdict: Verdict
    reason: str = ""


def judge(measured: Interval | None, region: tuple[float, float]) -> Verdict:
    """Whether an interval supports a claim.

    Supported if the whole interval lies within the claim's region, contradicted if it lies
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
    """Every claim of the paper as one study sees it.

    A claim is tested by arms that moved and, if it is about forgetting or about who learned more,
    that gained on the exam (`_untested`). It is supported or contradicted where every score agrees:
    accuracy and, behind letters, balanced accuracy; perplexity a token and a word. A claim that is
    neither excludes the published size if the interval of the paper's own score does. Each of the
    two steps is one family of comparisons, corrected by Holm's procedure.
    """
    arms = arms_of(records)
    learned = set(learned_methods(arms))
    measured, reasons = {}, {}
    for claim in published.claims:
        first, second = arms.get(claim.first), arms.get(claim.second)
        if first is None or second is None:
            continue
        if first.has(claim.metric) and second.has(claim.metric):
            measured[claim] = contrast(first, second, claim.metric)
            reasons[claim] = _untested(claim, arms, learned, published)
    tested = [claim for claim in measured if not reasons[claim]]
    verdicts: dict[Claim, Verdict] = {
        c: UNTESTED if reasons[c] else "not settled" for c in measured
    }

    def verdict(claim: Claim, level: float) -> Verdict:
        found = {judge(score, claim.region) for score in _scores(claim, arms, level)}
        return found.pop() if len(found) == 1 else "not settled"

    def excluded(claim: Claim, level: float) -> bool:
        size = published.change(claim.first, claim.second, claim.metric)
        interval = contrast(arms[claim.first], arms[claim.second], claim.metric, level)
        if size is None:
            return False
        return interval.bounded and not interval.low <= size <= interval.high

    for claim in holm(tested, lambda c, level: verdict(c, level) != "not settled"):
        verdicts[claim] = verdict(claim, 0.95)
    left = [
        claim
        for claim in tested
        if verdicts[claim] == "not settled"
        and published.change(claim.first, claim.second, claim.metric) is not None
    ]
    verdicts |= {claim: EXCLUDED for claim in holm(left, excluded)}
    return [
        Finding(
            claim,
            published.change(claim.first, claim.second, claim.metric),
            measured.get(claim),
            verdicts.get(claim, ABSENT),
            reasons.get(claim, ""),
        )
        for claim in published.claims
    ]


def _untested(
    claim: Claim, arms: Mapping[str, Arm], learned: set[str], published: Published
) -> str:
    """Why the two arms do not put a claim to the test; "" if they do."""
    pair = [name for name in (claim.first, claim.second) if not arms[name].is_base]
    idle = [arms[name].first.label for name in pair if not _moved(arms[name], arms)]
    if idle:
        return f"{listed(idle)} did not move"
    without = [arms[name].first.label for name in pair if name not in learned]
    if claim.metric == "exam_accuracy":
        if len(pair) > 1 and len(without) == len(pair):
            return f"neither {without[0]} nor {without[1]} gained"
        return "no arm gained" if claim.relation == "within" and not learned else ""
    if without:
        return f"{listed(without)} did not gain"
    size = published.change(claim.first, claim.second, claim.metric)
    other = arms[claim.second]
    if claim.metric == "knowledge_accuracy" and level(other, claim.metric).value + (size or 0) < 0:
        return f"{other.first.label} answers too few questions to lose as many"
    return ""


def _moved(arm: Arm, arms: Mapping[str, Arm]) -> bool:
    """Whether an arm's divergence from the base differs from that of the arm it went on from."""
    if not arm.has("self_kl"):
        return True
    start = arms.get(arm.first.settings["method"].get("start") or "base")
    before = 0.0
    if start is not None and not start.is_base and start.has("self_kl"):
        before = level(start, "self_kl").value
    return abs(level(arm, "self_kl").value - before) >= MOVED


def _scores(claim: Claim, arms: Mapping[str, Arm], joint: float) -> list[Interval | None]:
    """Intervals of level `joint` for each score that a verdict on the claim must agree with."""
    first, second = arms[claim.first], arms[claim.second]
    found: list[Interval | None] = [contrast(first, second, claim.metric, joint)]
    if claim.metric == "exam_accuracy" and lettered(first):
        known = has_answers(first, claim.metric) and has_answers(second, claim.metric)
        found.append(balanced_change(first, second, claim.metric, joint) if known else None)
    if claim.metric == "prose_perplexity" and all(
        a.has("word_perplexity") for a in (first, second)
    ):
        found.append(contrast(first, second, "word_perplexity", joint))
    return found


def items_needed(finding: Finding) -> float | None:
    """Items at which a difference as published is settled in four of five cases (80 % power).

    The variance of an item is taken from the measurement, but for accuracies not below what the
    published difference d needs if for every three answers that change with it one changes against
    it: 2 |d| - d². The luck of training is in it as far as it is in the measured interval. None
    where no difference is published, or the measured one has no interval.
    """
    measured = finding.measured
    if finding.published is None or measured is None or not measured.bounded:
        return None
    distance = min(abs(finding.published - bound) for bound in finding.claim.region)
    if not distance:
        return None
    error = (measured.high - measured.low) / 2 / student.ppf(0.975, max(measured.n - 1, 1))
    variance = measured.n * error**2
    if finding.claim.metric != "prose_perplexity":
        share = abs(finding.published) / 100
        variance = max(variance, 100**2 * (2 * share - share**2))
    return float(variance * ((norm.ppf(0.975) + norm.ppf(POWER)) / distance) ** 2)


def claims_sentence(studies: Mapping[str, Sequence[Record]], published: Published) -> str:
    """How many claims each study supports, contradicts, leaves open or has no record for."""
    if not studies:
        return "No study is on record yet, so nothing can be said of any claim."
    sentences = []
    for where, records in studies.items():
        verdicts = [finding.verdict for finding in findings(records, published)]
        ways = {
            "supported": "supports {}", "contradicted": "contradicts {}",
            EXCLUDED: "excludes the published size of {}", "not settled": "cannot settle {}",
            UNTESTED: "does not test {}", ABSENT: "has no records for {}",
        }  # fmt: skip
        told = [way.format(verdicts.count(v)) for v, way in ways.items() if v in verdicts]
        sentences.append(f"Of {len(verdicts)} claims, study {where} {listed(told)}.")
    return " ".join(sentences)


def unanswered_sentence(records: Sequence[Record]) -> str:
    """Which of `QUESTIONS` lack a record of one of their two arms; "" if none does."""
    arms = arms_of(records)
    lacking = [text for text, *pair in QUESTIONS if not set(pair) <= arms.keys()]
    return f"Not on record: {'; '.join(lacking)}." if lacking else ""


def question_noise_sentence(published: Published) -> str:
    """How far the published base accuracy is uncertain by the choice of its questions alone."""
    n = published.questions["exam_accuracy"]
    base = published.arms["base"].numbers["exam_accuracy"]
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
