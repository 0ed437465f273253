"""How arms order on each metric, as far as paired intervals on the same items carry it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ...study.records.record import AccuracyName, MetricName, Record
from ..analysis.arms import Arm
from ..analysis.balanced import balanced_change, has_answers
from ..analysis.decisions import holm
from ..analysis.effects import are_paired, contrast, level
from ..analysis.floors import floors_words
from ..analysis.interval import Interval, Verdict
from ..analysis.stats import accuracy_difference
from ..text import listed
from .arms import SHORT, arms_of, lettered
from .published import METRICS

MAIN = (
    "base", "additive-kl", "additive-s-kl", "replacement-kl", "lora", "full", "smf-kl", "smf-tfidf",
)  # fmt: skip
COMPARED: tuple[MetricName, ...] = (*METRICS, "self_kl")  # the paper's, and the divergence
SCORES: tuple[AccuracyName, ...] = ("exam_accuracy", "letter_accuracy")
WORSE = ("prose_perplexity", "word_perplexity", "self_kl")  # the more, the more was forgotten


@dataclass(frozen=True)
class Pair:
    """Two arms on one metric: the larger first, the 95 % interval, and whether they are apart.

    `apart` holds for all pairs of the comparison together (Holm), not for each alone.
    """

    upper: Arm
    lower: Arm
    difference: Interval
    apart: bool


def ordered_pairs(records: Sequence[Record], metric: MetricName) -> list[Pair]:
    """All pairs of the main arms on record that were measured on the same items.

    Where a study mixes number formats, each has its own text of the base model, and the KL of arms
    of different formats is not paired.
    """
    return _pairs(_measured(records, metric), metric)


def _pairs(arms: Sequence[Arm], metric: MetricName) -> list[Pair]:
    """All pairs of these arms that were measured on the same items."""
    found = [pair for pair in combinations(arms, 2) if are_paired(*pair, metric)]
    apart = holm(found, lambda pair, joint: contrast(*pair, metric, joint).clear)
    pairs = []
    for one, other in found:
        difference = contrast(one, other, metric)
        upper, lower = one, other
        if difference.value < 0:
            upper, lower, difference = other, one, contrast(other, one, metric)
        pairs.append(Pair(upper, lower, difference, (one, other) in apart))
    return pairs


def _measured(records: Sequence[Record], metric: MetricName) -> list[Arm]:
    """The main arms on record whose metric is a number."""
    arms = [a for m, a in arms_of(records).items() if m in MAIN and a.has(metric)]
    return [arm for arm in arms if math.isfinite(level(arm, metric).value)]


def ordering_sentence(records: Sequence[Record], metric: MetricName) -> str:
    """The ordering as far as the intervals carry it: who is above whom, and what stays open."""
    arms = _measured(records, metric)
    what = SHORT[metric] + (" (more is worse)" if metric in WORSE else "")
    if len(arms) < 2:
        return f"{what}: fewer than two of these arms are on record."
    pairs = _pairs(arms, metric)
    values = {arm.first.label: level(arm, metric).value for arm in arms}
    above: dict[str, list[str]] = {label: [] for label in values}
    for pair in pairs:
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
    rest = f" The other {are} {Verdict.LEVEL}." if told else ""
    unpaired = math.comb(len(arms), 2) - len(pairs)
    left_out = f" Pairs measured on different texts, not compared: {unpaired}." if unpaired else ""
    return f"{what}: {sentence}.{rest if open_pairs else ''}{left_out}"


def _without_implied(above: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Who is above whom, without the pairs that follow from others.

    Left as it is where something that would follow is not there: differences that are told apart
    need not be so for the whole chain.
    """
    through = {
        upper: {low for mid in below for low in above[mid]} for upper, below in above.items()
    }
    if any(not through[upper] <= set(below) for upper, below in above.items()):
        return {upper: list(below) for upper, below in above.items()}
    return {u: [low for low in below if low not in through[u]] for u, below in above.items()}


def learned_methods(arms: Mapping[str, Arm]) -> list[str]:
    """Methods whose gain on the exam is clearly above zero, for all arms together (Holm).

    Where the answers are letters it is the gain in balanced accuracy, by the paper's score or by
    lm-eval's, both in one family: without the counts by answer no gain is told from a preference
    for one letter.
    """
    base = arms.get("base")
    if base is None or not base.has("exam_accuracy"):
        return []
    trained = [arm for arm in arms.values() if not arm.is_base and arm.has("exam_accuracy")]
    scores: Sequence[AccuracyName] = SCORES if lettered(base) else ("exam_accuracy",)
    clear = {arm for arm, _ in gained(trained, base, scores, balanced=lettered(base))}
    return [method for method, arm in arms.items() if arm in clear]


def gained(
    trained: Sequence[Arm], base: Arm, scores: Sequence[AccuracyName], balanced: bool = False
) -> set[tuple[Arm, AccuracyName]]:
    """Arms and scores whose gain lies above zero, for all together (Holm)."""
    compared = balanced_change if balanced else contrast
    family = [
        (arm, score)
        for arm in trained
        for score in scores
        if not balanced or (has_answers(arm, score) and has_answers(base, score))
    ]
    return holm(
        family, lambda one, joint: compared(one[0], base, one[1], joint).verdict() is Verdict.MORE
    )


def learning_sentence(records: Sequence[Record]) -> str:
    """What needs no model, and which arms learned the exam: their gain's interval is above zero.

    Where the answers are letters, also which are above the majority class, and which gain in
    balanced accuracy, and by name the others: they may have learned no more than a letter. Each of
    these is one family of comparisons, corrected by Holm's procedure.
    """
    arms = arms_of(records)
    base, where = arms.get("base"), f"{records[0].profile}/{records[0].study}"
    trained = [a for a in arms.values() if not a.is_base and a.has("exam_accuracy")]
    if base is None or not trained:
        return f"Study {where} has no trained arm beside its base model yet."
    floors = f"Without a language model: {floors_words(base.first.baselines)}."
    clear = {arm for arm, _ in gained(trained, base, ["exam_accuracy"])}
    learned = [arm for arm in trained if arm in clear]
    if not learned:
        return f"{floors} In study {where} no arm gains clearly on the exam."
    rest = len(trained) - len(learned)
    others = f", the other {f'{rest} do' if rest > 1 else 'does'} not" if rest else ""
    told = f"In study {where} these arms gain clearly on the exam: {_labels(learned)}{others}."
    return " ".join([floors, told, *_beyond_letters(trained, base, learned)])


def _labels(arms: Iterable[Arm]) -> str:
    return "; ".join(arm.first.label for arm in arms) or "none"


def _over_one_letter(arm: Arm, joint: float) -> Interval:
    """Exam accuracy minus that of always giving the usual letter, on the same questions (shares).

    How many questions only one of the two answers right follows from the counts by letter.
    """
    if not has_answers(arm, "exam_accuracy"):
        share = arm.first.baselines.majority
        return level(arm, "exam_accuracy", joint).scaled(1 / 100, -100 * share)
    n, usual = arm.first.metrics["exam_accuracy"].n, arm.first.baselines.majority
    counts = np.array([record.by_answer["exam_accuracy"] for record in arm.records])
    asked = counts[0, :, 1]
    place = int(np.abs(asked / n - usual).argmin())
    places = np.arange(n)
    letter = (places < asked[place]).astype(float)
    both, only = counts[:, place, 0], counts[:, :, 0].sum(1) - counts[:, place, 0]
    right = (places < both[:, None]) | (
        (places >= asked[place]) & (places < asked[place] + only[:, None])
    )
    return accuracy_difference(right.astype(float), letter, joint)


def _beyond_letters(trained: Sequence[Arm], base: Arm, learned: Sequence[Arm]) -> list[str]:
    """What is left of the gains where a letter was right more often than others.

    learned: those of the trained arms that gain clearly in accuracy.
    """
    if not lettered(base):
        return []
    majority = 100 * base.first.baselines.majority
    over = holm(trained, lambda arm, joint: _over_one_letter(arm, joint).verdict() is Verdict.MORE)
    above = _labels(arm for arm in trained if arm in over)
    always = f"always giving the letter that was most often right in training ({majority:.1f} %)"
    told = [f"Clearly above {always}: {above}."]
    gains, clear = [], gained(trained, base, SCORES, balanced=True)
    for metric, score in zip(SCORES, ("the paper's score", "lm-eval's"), strict=True):
        if has_answers(base, metric) and any(has_answers(arm, metric) for arm in trained):
            names = [arm.first.label for arm in trained if (arm, metric) in clear]
            gains.append(f"by {score} {listed(names) if names else 'none'}")
    if gains:
        balanced = "balanced accuracy, which a preference for one letter does not raise"
        told.append(f"Clear gains in {balanced}: {', '.join(gains)}.")
    beyond = {arm for arm, _ in clear}
    doubtful = [arm for arm in learned if arm not in beyond]
    if doubtful:
        told.append(f"May be no more than a letter: {_labels(doubtful)}.")
    return told
