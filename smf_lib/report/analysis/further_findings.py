"""What else came out of a frontier: other methods and probes, passes, strictness.

Sentences as in `findings`, which tells what came out first.
"""

from collections.abc import Sequence

from ..measures import DIVERGENCE, Measure
from ..text import listed, points_text, signed
from .ablations import RELEASED, TITLES, Factor, passes, rules_beside
from .effects import change, drift
from .floors import floors_sentence
from .frontier import Frontier, ratio_text, share_text
from .interval import Interval, Verdict

KEEPS = {
    Verdict.LESS: "keeps more than {}",
    Verdict.LEVEL: f"is {Verdict.LEVEL} from {{}}",
    Verdict.MORE: "**loses more than {}**",
    Verdict.UNKNOWN: f"{Verdict.UNKNOWN} with {{}}",
}
UNITS = {"accuracy": "points", "perplexity": "percentage points"}
ALONE = "Each comparison is decided by its own 95 % interval."


def further(frontier: Frontier, method: str, references: Sequence[str], at: float) -> list[str]:
    """What else came out: other methods, other probes, how much is learned, and beside what."""
    if method not in frontier.reached(at):
        return []
    return [
        *_against_others(frontier, method, references, at),
        *_other_probes(frontier, method, references, at),
        *largest_gains(frontier, method, references),
        *beside_floors(frontier),
        *_gentlest(frontier, references),
    ]


def _against_others(
    frontier: Frontier, method: str, references: Sequence[str], at: float
) -> list[str]:
    """How the method stands among the curves that are neither references nor rules beside it."""
    known = {method, *references, *rules_beside(frontier, method)}
    others = [name for name in frontier.reached(at) if name not in known]
    if not others:
        return []
    ratios = {name: frontier.ratio((name, method), at) for name in others}
    verdicts = frontier.verdicts([(name, method) for name in others], at)
    label = frontier.label(method)
    words = {
        Verdict.LESS: f"less than {label} drift",
        Verdict.MORE: f"more than {label} drift",
        Verdict.LEVEL: f"{Verdict.LEVEL} from it are",
        Verdict.UNKNOWN: "too near the end of their curves to compare are",
    }
    groups = {verdict: [n for n in others if verdicts[n, method] is verdict] for verdict in words}
    parts = [
        f"{said} {_with_ratio(frontier, groups[verdict], ratios)}"
        for verdict, said in words.items()
        if groups[verdict]
    ]
    what = f"(Numbers are their drift over that of {label}; what differs does so when all of "
    return [f"Of the other methods, {'; '.join(parts)}. {what}them are decided together.)"]


def _with_ratio(frontier: Frontier, names: Sequence[str], ratios: dict[str, Interval]) -> str:
    """`a (0.5 [0.3, 0.9]) and b (...)`, the smallest ratio first."""
    ordered = sorted(names, key=lambda name: ratios[name].value)
    return listed(f"{frontier.label(name)} ({ratio_text(ratios[name])})" for name in ordered)


def _other_probes(
    frontier: Frontier, method: str, references: Sequence[str], at: float
) -> list[str]:
    """Every other probe at the same gain: where the method is ahead, level, or behind."""
    told = []
    for metric in frontier.drift_metrics:
        compared = frontier.beside_each(method, references, at, metric)
        if metric != DIVERGENCE and compared:
            measure, parts = frontier.start.measure(metric), []
            for name, (found, verdict) in compared.items():
                words = KEEPS[verdict].format(frontier.label(name))
                parts.append(f"{words} ({_numbers(measure, found)})")
            lost = "" if measure.unit == "nats" else ", what it lost minus what the other lost"
            told.append(f"{measure.title}{lost}: {frontier.label(method)} {listed(parts)}.")
    return [*told[:-1], f"{told[-1]} {ALONE}"] if told else []


def _numbers(measure: Measure, found: Interval) -> str:
    """How far two drifts lie apart: a ratio of divergences, a difference of all else."""
    if not found.bounded:
        return found.reason
    if measure.unit == "nats":
        return share_text(found)
    return found.text(measure.digits, sign=True, unit=UNITS[measure.unit])


def largest_gains(frontier: Frontier, method: str, references: Sequence[str]) -> list[str]:
    """How much each of them learns at most, within the rates on record."""
    curves = frontier.measured()
    tops = {n: 100 * curves[n].highest for n in dict.fromkeys((method, *references)) if n in curves}
    if len(tops) < 2:
        return []
    ordered = sorted(tops, key=lambda name: -tops[name])
    text = listed(f"{frontier.label(name)} {signed(tops[name], 1)}" for name in ordered)
    return [f"The largest gains within the rates on record, in points: {text}."]


def beside_floors(frontier: Frontier) -> list[str]:
    """What is had without a language model, beside the base model and the best of each curve."""
    if frontier.base is None:
        return []
    start = frontier.base
    labels = {arm: curve.label for curve in frontier.curves.values() for arm in curve.arms}
    return [floors_sentence(frontier.arms, lambda arm: labels.get(arm, start.first.label))]


def _gentlest(frontier: Frontier, references: Sequence[str]) -> list[str]:
    """What the lowest rate of full finetuning costs: a baseline that tables seldom show."""
    full = [
        n for n in references if n in frontier.curves and frontier.curves[n].first.kind == "full"
    ]
    told = []
    for name in full:
        arm = frontier.curves[name].arms[0]
        gain = change(arm, frontier.start, "exam_accuracy")
        costs = []
        for metric in frontier.drift_metrics:
            lost = drift(arm, frontier.start, metric)
            if lost.known:
                costs.append(arm.measure(metric).told(lost.value))
        told.append(
            f"The gentlest {frontier.label(name)} (rate {arm.rate:g}) gains "
            f"{signed(gain.value, 1)} points; {', '.join(costs)}."
        )
    return told


def pass_sentences(frontier: Frontier, at: float) -> list[str]:
    """For each method with one and with several passes: which drifts less at equal gain."""
    told = []
    for one, more in passes(frontier):
        label, other = frontier.label(one), frontier.label(more)
        if not {one, more} <= set(frontier.reached(at)):
            tops = {n: signed(100 * frontier.measured()[n].highest, 1) for n in (one, more)}
            told.append(
                f"{label}: at {points_text(at)} points the two {Verdict.UNKNOWN} (one pass "
                f"reaches {tops[one]}, several {tops[more]})."
            )
            continue
        ratio = frontier.ratio((more, one), at)
        said = {
            Verdict.LESS: "**reading again is the better way to learn more**",
            Verdict.MORE: "**a higher rate is the better way to learn more**",
            Verdict.LEVEL: f"they are {Verdict.LEVEL}",
            Verdict.UNKNOWN: f"they {Verdict.UNKNOWN}",
        }[ratio.verdict(even=1)]
        told.append(f"{other} drifts {share_text(ratio)} as far as {label}: {said}. {ALONE}")
    return told


def strictness_sentence(factors: Sequence[Factor], at: float) -> str:
    """What the switches of the released algorithm change, as a number each."""
    steps = next((factor for factor in factors if factor.title == TITLES[RELEASED]), None)
    if steps is None:
        return "No run of the released algorithm is on record."
    told = [
        f"{v.value} drifts {share_text(v.ratio)} as far"
        + (f" ({Verdict.LEVEL})" if v.ratio.verdict(even=1) is Verdict.LEVEL else "")
        for v in steps.others
        if v.ratio.known
    ]
    lost = [f"{v.value} {v.ratio.reason}" for v in steps.others if not v.ratio.known]
    parts = [*told, *(f"{text}, so nothing can be said" for text in lost)]
    said = f"Against the strict step at {points_text(at)} points of gain: {'; '.join(parts)}."
    return f"{said} {ALONE}" if told else said
