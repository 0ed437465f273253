"""The paper's arms in records of this study: which there are, how they compare, what they settle.

    studies = read_studies(root / "results", ["medmcqa-smollm2"])
    for where, records in studies.items():
        ordering_sentence(records, "exam_accuracy")
        findings(records, load_published())

Everything copes with arms that are not on record yet; `missing_sentence` names them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Literal

from ..analysis.stats import Interval, wilson_interval
from ..analysis.summary import METHOD_ORDER, Arm, contrast, group_arms, level, listed
from ..analysis.units import count
from ..profiles import Profile, load_profile
from ..records.record import METRIC_DATA, MetricName, Record
from ..records.results import read_records
from .published import METRICS, Claim, Published

ABSENT = "not on record"
MAIN = (
    "base", "additive-kl", "additive-s-kl", "replacement-kl", "lora", "full", "smf-kl", "smf-tfidf",
)  # fmt: skip
SHORT = {
    "exam_accuracy": "MedMCQA",
    "letter_accuracy": "MedMCQA, letters",
    "prose_perplexity": "Perplexity",
    "word_perplexity": "Perplexity of words",
    "knowledge_accuracy": "TriviaQA",
    "exact_match": "TriviaQA, exact",
    "self_kl": "KL from base",
}
COMPARED: tuple[MetricName, ...] = (*METRICS, "self_kl")  # the paper's, and the divergence
WORSE = ("prose_perplexity", "word_perplexity", "self_kl")  # the more, the more was forgotten
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


def read_studies(results: Path, profiles: Sequence[str]) -> dict[str, list[Record]]:
    """Records of each recorded study of these profiles, by `profile/study`; none, no entry.

    results: the folder of all records. Raises ResultsError for a file that is not a record.
    """
    found: dict[str, list[Record]] = {}
    for profile in dict.fromkeys(profiles):
        folder = results / profile
        if any(folder.glob("*/*.json")):
            for record in read_records(folder):
                found.setdefault(f"{record.profile}/{record.study}", []).append(record)
    return found


def arms_of(records: Sequence[Record]) -> dict[str, Arm]:
    """Each method's arm; of several learning rates the profile's own, else the first."""
    chosen: dict[str, Arm] = {}
    for arm in group_arms(records):
        first = arm.first
        own = first.run_id in (first.method, f"{first.method}-seed{first.seed}")
        if first.method not in chosen or own:
            chosen[first.method] = arm
    return chosen


def paper_order(methods: Sequence[str], published: Published) -> list[str]:
    """Methods in the paper's order, then those of this study, then any others by name."""
    order = [*published.arms, *(m for m in METHOD_ORDER if m not in published.arms)]
    known = [method for method in order if method in methods]
    return known + sorted(set(methods) - set(known))


@cache
def labels() -> dict[str, str]:
    """The name of each method of profile `medmcqa`, whether on record or not."""
    return {name: method.label for name, method in load_profile("medmcqa").methods.items()}


def label_of(method: str, arms: Mapping[str, Arm]) -> str:
    return arms[method].first.label if method in arms else labels().get(method, method)


# ----------------------------------------------------------------- what was run, in words


def setting_caption(records: Sequence[Record], metric: MetricName | None = None) -> str:
    """Model, training, what was scored, and seeds of one study, as its records say.

    metric: name what this was scored on only; by default everything, and the rows of the exam.
    """
    arms = list(arms_of(records).values())
    trained = [arm for arm in arms if not arm.is_base and _stage(arm) == "exam"]
    models = [f"{a.first.model.name} ({count(a.first.model.parameters)} parameters)" for a in arms]
    parts = [f"Study {listed(arm.where for arm in arms)}: {listed(models)}"]
    if trained:
        exams = [arm.first.data.exam for arm in trained if arm.first.data.exam]
        epochs = listed(arm.first.settings["training"]["epochs"] for arm in trained)
        passes = "once" if epochs == "1" else f"{epochs} times"
        rows = listed(f"{exam.train_rows:,}" for exam in exams)
        parts.append(f"trained on {rows} questions, {passes}")
    parts += _scored(arms, metric)
    seeds = sorted({len(arm.records) for arm in arms if not arm.is_base})
    if seeds:
        several = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
        parts.append("one seed" if seeds == [1] else f"{several} seeds")
    covered = "items only, not the luck of training" if seeds == [1] else "items and seeds"
    text = f"{'; '.join(parts)}. Brackets are 95 % intervals over {covered}."
    notes = _notes(arms) if metric is None else []
    return " ".join([text, *(f"{note}." for note in notes)])


def _stage(arm: Arm) -> str:
    return arm.first.settings["method"].get("stage", "exam")


def _notes(arms: Sequence[Arm]) -> list[str]:
    """What the records say of the exam's rows, once for the same rows however it is worded."""
    exams = [arm.first.data.exam for arm in arms if arm.first.data.exam]
    return list({exam.sha256: exam.notes for exam in exams if exam.notes}.values())


def _scored(arms: Sequence[Arm], metric: MetricName | None) -> list[str]:
    """What the exam and the probes were scored on: counts and sources."""
    data = [arm.first.data for arm in arms]
    parts = []
    scored = {"cloze": "the options' own words (cloze)", "lettered": "lettered options"}
    formats = [arm.first.settings.get("exam", {}).get("format") for arm in arms]
    how = listed(scored[name] for name in formats if name in scored)
    wanted = {METRIC_DATA[metric]} if metric else {"exam", "prose", "knowledge"}
    exams = [f"{d.exam.rows:,} questions" for d in data if d.exam and "exam" in wanted]
    if exams:
        parts.append(f"scored on {listed(exams)}" + (f" by {how}" if how else ""))
    prose = [
        f"{d.prose.words:,} words{_from(d.prose.source)}"
        for d in data
        if d.prose and "prose" in wanted
    ]
    if prose:
        parts.append(f"perplexity on {listed(prose)}")
    trivia = [
        f"{d.knowledge.questions:,} questions{_from(d.knowledge.source)} after "
        f"{d.knowledge.shots or 'no'} examples"
        for d in data
        if d.knowledge and "knowledge" in wanted
    ]
    if trivia:
        parts.append(f"trivia on {listed(trivia)}")
    return parts


def _from(source: str) -> str:
    return f" of {source}" if source else ""


def missing_sentence(records: Sequence[Record], profile: Profile | None = None) -> str:
    """Which methods of the study's profile have no record yet; "" if none is missing.

    profile: by default the one that the records name, as it is shipped.
    """
    arms = arms_of(records)
    profile = profile or load_profile(records[0].profile)
    missing = [method.label for name, method in profile.methods.items() if name not in arms]
    if not missing:
        return f"Every method of profile {profile.name} is on record."
    names = "; ".join(missing)
    return f"Not on record yet, of the methods of profile {profile.name}: {names}."


def unanswered_sentence(records: Sequence[Record]) -> str:
    """Which of `QUESTIONS` lack a record of one of their two arms; "" if none does."""
    arms = arms_of(records)
    lacking = [text for text, *pair in QUESTIONS if not set(pair) <= arms.keys()]
    return f"Not on record: {'; '.join(lacking)}." if lacking else ""


def question_noise_sentence(published: Published) -> str:
    """How far the published base accuracy is uncertain by the choice of its questions alone."""
    n = published.questions["exam_accuracy"]
    base = published.arms["base"].exam_accuracy
    interval = wilson_interval(round(n * base.value), n).scaled(100)
    smallest = min(
        abs(published.change(claim.first, claim.second, claim.metric) or math.inf)
        for claim in published.claims
        if claim.metric == "exam_accuracy"
    )
    return (
        f"The base model's {100 * base.value:.1f} % is a share of {n:,} questions, and by their "
        f"choice alone its 95 % interval reaches from {interval.low:.1f} to {interval.high:.1f} %. "
        f"The smallest of the published differences on the exam is {smallest:.1f} points."
    )


# ----------------------------------------------------------------- ordering


@dataclass(frozen=True)
class Pair:
    """Two arms on one metric: the larger first, the 95 % interval, and whether they are apart.

    `apart` holds for all pairs of the comparison together (Bonferroni), not for each alone.
    """

    upper: Arm
    lower: Arm
    difference: Interval
    apart: bool


def ordered_pairs(
    records: Sequence[Record], metric: MetricName, methods: Sequence[str] = MAIN
) -> list[Pair]:
    """All pairs of the arms on record among `methods`, on the same items."""
    arms = [a for m, a in arms_of(records).items() if m in methods and a.has(metric)]
    arms = [arm for arm in arms if math.isfinite(level(arm, metric).value)]
    found = list(combinations(arms, 2))
    pairs = []
    for one, other in found:
        difference = contrast(one, other, metric)
        upper, lower = one, other
        if difference.value < 0:
            upper, lower, difference = other, one, contrast(other, one, metric)
        joint = contrast(upper, lower, metric, 1 - 0.05 / len(found))
        pairs.append(Pair(upper, lower, difference, joint.clear))
    return pairs


def ordering_sentence(
    records: Sequence[Record], metric: MetricName, methods: Sequence[str] = MAIN
) -> str:
    """The ordering as far as the intervals carry it: who is above whom, and what stays open."""
    pairs = ordered_pairs(records, metric, methods)
    what = SHORT[metric] + (" (more is worse)" if metric in WORSE else "")
    if not pairs:
        return f"{what}: fewer than two of these arms are on record."
    above: dict[str, list[str]] = {}
    values = {}
    for pair in pairs:
        for arm in (pair.upper, pair.lower):
            values[arm.first.label] = level(arm, metric).value
            above.setdefault(arm.first.label, [])
        if pair.apart:
            above[pair.upper.first.label].append(pair.lower.first.label)
    ranked = sorted(values, key=lambda label: -values[label])
    above = _without_implied(above)
    groups: dict[tuple[str, ...], list[str]] = {}
    for label in ranked:
        below = tuple(other for other in ranked if other in above[label])
        if below:
            groups.setdefault(below, []).append(label)
    told = [
        f"{listed(names)} {'is' if len(names) == 1 else 'are'} above {listed(below)}"
        for below, names in groups.items()
    ]
    open_pairs = sum(not pair.apart for pair in pairs)
    sentence = "; ".join(told) or "no two arms are told apart"
    are = "pair is" if open_pairs == 1 else f"{open_pairs} pairs are"
    rest = f" The other {are} not told apart." if told else ""
    return f"{what}: {sentence}.{rest if open_pairs else ''}"


def _without_implied(above: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Who is above whom, without the pairs that follow from others.

    Left as it is where something that would follow is not there: differences that are told apart
    need not be so for the whole chain.
    """
    through = {upper: {low for mid in below for low in above[mid]} for upper, below in above.items()}
    if any(not through[upper] <= set(below) for upper, below in above.items()):
        return {upper: list(below) for upper, below in above.items()}
    return {u: [low for low in below if low not in through[u]] for u, below in above.items()}


def learning_sentence(records: Sequence[Record]) -> str:
    """Which arms learned the exam at all: those whose gain has an interval above zero."""
    arms = arms_of(records)
    base, where = arms.get("base"), f"{records[0].profile}/{records[0].study}"
    trained = [a for a in arms.values() if not a.is_base and a.has("exam_accuracy")]
    if base is None or not trained:
        return f"Study {where} has no trained arm beside its base model yet."
    gains = {arm: contrast(arm, base, "exam_accuracy") for arm in trained}
    learned = [arm.first.label for arm, gain in gains.items() if gain.low > 0]
    if not learned:
        return f"In study {where} no arm gains clearly on the exam."
    rest = len(trained) - len(learned)
    others = f", the {rest} other{'s' * (rest > 1)} do{'es' * (rest == 1)} not" if rest else ""
    return f"In study {where} these arms gain clearly on the exam: {'; '.join(learned)}{others}."


# ----------------------------------------------------------------- claims


Verdict = Literal["supported", "contradicted", "not settled", "not on record"]


@dataclass(frozen=True)
class Finding:
    """A claim with its published difference and what one study measured."""

    claim: Claim
    published: float | None
    measured: Interval | None
    verdict: Verdict


def judge(measured: Interval | None, region: tuple[float, float]) -> Verdict:
    """The rule: supported if the whole 95 % interval lies in the claim's region, contradicted if
    none of it does, and not settled otherwise."""
    if measured is None:
        return ABSENT
    low, high = region
    if not measured.bounded:
        return "not settled"
    if low < measured.low and measured.high < high:
        return "supported"
    return "contradicted" if measured.high <= low or measured.low >= high else "not settled"


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

    With so many, a difference as published is settled in about half of all cases. None where no
    difference is published, or the measured one has no interval.
    """
    measured = finding.measured
    if finding.published is None or measured is None or not measured.bounded:
        return None
    distance = min(abs(finding.published - bound) for bound in finding.claim.region)
    half = (measured.high - measured.low) / 2
    return measured.n * (half / distance) ** 2 if distance else None


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
