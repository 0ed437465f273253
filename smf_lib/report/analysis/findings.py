"""What came out of a frontier first, in sentences that are computed from its records.

Every sentence says with its interval what was measured, and what cannot be told. What else came out
is told by `further_findings`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from ..measures import EXAM, WITNESS
from ..text import listed, points_text
from .ablations import rules_beside
from .arms import METHOD, REFERENCES
from .captions import best_floor
from .conditions import conditions_at_gain
from .effects import level
from .frontier import Frontier, read_frontier, share_text
from .further_findings import ALONE, KEEPS, beside_floors, largest_gains
from .interval import Interval, Verdict

NOTHING = "Study {} has no curves yet: a curve is a method at two learning rates or more."
ONE_SEED = "{} {} one seed, so intervals do not cover the luck of training."


def found_on_record(profile: str) -> str:
    """The finding at the gain where most curves can be compared, for pages that are not computed.

    What README and the first page of the book say, a test compares with this.
    """
    frontier, at = _usual(profile)
    return finding(frontier, METHOD, [n for n in REFERENCES if n in frontier.curves], at)


def floor_on_record(profile: str) -> str:
    """What is had at that gain without a language model."""
    frontier, at = _usual(profile)
    return floor_sentence(frontier, [METHOD, *REFERENCES], at)


def rules_on_record(profile: str) -> str:
    """What the rule adds, at the same gain."""
    return rule_sentence(*_usual(profile, METHOD))


def _usual(profile: str, *between: str) -> tuple:
    """The curves of a profile, and the gain at which the usual methods are compared."""
    frontier = read_frontier(profile)
    there = [name for name in (METHOD, *REFERENCES) if name in frontier.curves]
    at = float(frontier.common_gain(there)) if frontier.measured() else math.nan
    return frontier, *between, at


def finding(frontier: Frontier, method: str, references: Sequence[str], at: float) -> str:
    """One sentence with numbers: how far a method drifts beside the references at equal gain."""
    if not frontier.measured():
        return NOTHING.format(frontier.where)
    reached = frontier.reached(at)
    compared = [name for name in references if name in reached and name != method]
    label = frontier.label(method) if method in frontier.curves else method
    if math.isnan(at):
        return f"No curve of study {frontier.where} passes a whole number of points of gain."
    if method in reached and not compared:
        return (
            f"None of {frontier.labels(references)} reaches {points_text(at)} points of gain, so "
            f"{label} is compared with none of them there."
        )
    if method not in reached:
        return f"{label} has no curve to compare at {points_text(at)} points of gain."
    shares = listed(_share(frontier, (method, name), at) for name in compared)
    seeds = {frontier.curves[name].seeds for name in (method, *compared)}
    texts = " on the base model's own text and on prose" if _on_prose(frontier) else ""
    return (
        f"At {points_text(at)} points of gain on the exam, {label} has drifted from the base model "
        f"{shares}; KL divergence{texts}, with 95 % intervals over {reached[method].n:,} questions "
        f"and {min(seeds)} seed{'s' if min(seeds) > 1 else ''}."
    )


def _share(frontier: Frontier, pair: tuple[str, str], at: float) -> str:
    """How far the first of a pair drifts as a share of the second's drift, by each divergence."""
    said = f"{share_text(frontier.ratio(pair, at))} as far as {frontier.label(pair[1])}"
    if not _on_prose(frontier):
        return said
    level = frontier.by_divergence(pair, at) is Verdict.LEVEL
    prose = share_text(frontier.ratio(pair, at, metric=WITNESS))
    return f"{said} (on prose {prose}{f': {Verdict.LEVEL}' if level else ''})"


def _on_prose(frontier: Frontier) -> bool:
    """Whether the divergence on prose was measured too."""
    return WITNESS in frontier.drift_metrics


def floor_sentence(frontier: Frontier, methods: Sequence[str], at: float) -> str:
    """How many answers are right at a gain, beside a bag trained on the same questions.

    Empty without a bag on record, or where the gain is not known.
    """
    if frontier.base is None or not frontier.base.first.baselines.bags or math.isnan(at):
        return ""
    name, height = best_floor(frontier.base.first.baselines.bags)
    curves = [n for n in methods if n in frontier.curves]
    best = {n: max(level(arm, EXAM).value for arm in frontier.curves[n].arms) for n in curves}
    over = [n for n in curves if best[n] > height]
    passing = {
        0: "which none of these methods passes at any rate on record",
        len(curves): "which each of these methods passes at some rate",
    }.get(len(over), f"which only {frontier.labels(over)} passes at some rate")
    return (
        f"At this gain {level(frontier.base, EXAM).value + at:.1f} % of answers are right; a bag "
        f"of {name} trained on the same questions has {height:.1f} %, {passing}."
    )


def came_out(frontier: Frontier, method: str, references: Sequence[str], at: float) -> list[str]:
    """What matters most at one gain, a point each, with two references six.

    Against each reference; what selection adds; where the method does not win; what would end the
    claim; how sure all this is. The rest is what `further` says.
    """
    end = conditions_at_gain(frontier, method, references, at)
    if method not in frontier.reached(at):
        reach = largest_gains(frontier, method, references)
        return [finding(frontier, method, references, at), *reach, *beside_floors(frontier), end]
    return [
        *_against(frontier, method, references, at),
        rule_sentence(frontier, method, at),
        *_not_won(frontier, method, references, at),
        end,
        _how_sure(frontier, method, references, at),
    ]


def _against(frontier: Frontier, method: str, references: Sequence[str], at: float) -> list[str]:
    """How far the method drifts beside each reference; whether all comparisons together say so."""
    reached = frontier.reached(at)
    compared = [name for name in references if name in reached and name != method]
    if not compared:
        return [finding(frontier, method, references, at)]
    family = frontier.pairs(at, references)
    apart = frontier.told_apart(family, at)
    on_prose = _on_prose(frontier)
    told = []
    for name in references:
        if name == method or name not in frontier.curves:
            continue
        ratio, own = frontier.beside((method, name), at)
        verdict = frontier.by_divergence((method, name), at)
        label, other = frontier.label(method), frontier.label(name)
        if verdict is Verdict.UNKNOWN:
            told.append(f"**{label} {verdict} with {other}** at this gain: {ratio.reason}.")
            continue
        shown = (
            f"at {points_text(at)} points of gain on the exam it has drifted from the base model "
            f"{share_text(ratio)} as far by the divergence"
        )
        if on_prose:
            prose = frontier.beside((method, name), at, WITNESS)[0]
            shown += f" on the base model's own text, and {share_text(prose)} as far on prose"
        if verdict is Verdict.LEVEL:
            why = (
                f"only one of these intervals lies {'below' if own is Verdict.LESS else 'above'} 1"
                if own.decided
                else "the interval of this ratio contains 1"
            )
            told.append(f"**{label} is {verdict} from {other}**: {shown}; {why}.")
            continue
        held = {(method, name), (name, method)} & apart
        together = (
            f"all {len(family)} comparisons with {frontier.labels(references)} at this gain "
            f"decided together{' by own text' if on_prose else ''} (Holm's procedure)"
        )
        told.append(
            f"**{label} drifts {verdict} than {other}**: {shown}, also with {together}."
            if held
            else f"**{label} drifts {verdict} than {other}, taken alone**: {shown}. "
            f"With {together} it is {Verdict.LEVEL} from it."
        )
    return told


def _how_sure(frontier: Frontier, method: str, references: Sequence[str], at: float) -> str:
    """What the intervals cover, and how much hangs on the way in which curves are read."""
    reached = frontier.reached(at)
    compared = [name for name in (method, *references) if name in reached]
    seeds = min(frontier.curves[name].seeds for name in compared)
    covered = f"{reached[method].n:,} questions"
    if seeds > 1:
        covered += f" and {seeds} seeds"
    said = [f"**How sure**: 95 % intervals are over {covered}."]
    said += _by_best_points(frontier, method, references, at)
    rules = rules_beside(frontier, method)  # of theirs, what selection adds tells it
    once = [n for n, c in frontier.curves.items() if c.most_seeds == 1 and n not in rules]
    if once:
        has = "have" if len(once) > 1 else "has"
        said.append(ONE_SEED.format(frontier.labels(once), has))
    return " ".join(said)


def _by_best_points(
    frontier: Frontier, method: str, references: Sequence[str], at: float
) -> list[str]:
    """The same ratios without rates that another rate of their method beats in gain and drift.

    Curves are joined through all points; where one of them is beaten, how drift is read between
    the others depends on it, and the reader is told how much.
    """
    best = frontier.without_beaten_points()
    dropped = [n for n, c in frontier.curves.items() if len(best.curves[n].arms) < len(c.arms)]
    compared = [n for n in references if n != method and n in best.reached(at)]
    if method not in best.reached(at) or not {method, *compared} & set(dropped):
        return []
    shares = [
        f"{share_text(_narrow(best.ratio((method, name), at)))} as far as {frontier.label(name)}"
        for name in compared
    ]
    if not shares:
        return []
    said = (
        "How the curves are read matters: without the rates that another rate of the same method "
        f"beats in gain and in drift, {frontier.label(method)} has drifted {listed(shares)} "
        "(without brackets where draws miss the gain so often that no interval is useful)."
    )
    return [said]


def _narrow(ratio: Interval) -> Interval:
    """The ratio, without an interval that spans three powers of ten or more."""
    spans = ratio.bounded and ratio.high > 1000 * ratio.low
    return replace(ratio, low=math.nan, high=math.nan) if spans else ratio


def _not_won(frontier: Frontier, method: str, references: Sequence[str], at: float) -> list[str]:
    """By which probes, and against whom, the method is not ahead, and by which floor."""
    lost: dict[str, dict[Verdict, list[str]]] = {}
    met: dict[str, None] = {}
    for metric in frontier.drift_metrics:
        title = frontier.start.measure(metric).title
        for name, (_, verdict) in frontier.beside_each(method, references, at, metric).items():
            met[name] = None
            if verdict is not Verdict.LESS:
                lost.setdefault(name, {}).setdefault(verdict, []).append(title)
    label = frontier.label(method)
    curves = frontier.measured()
    parts = [
        f"{KEEPS[verdict].format(frontier.label(name)).replace('*', '')} by {listed(probes)}"
        for name, verdicts in lost.items()
        for verdict, probes in verdicts.items()
    ]
    more = [n for n in references if n in curves and curves[n].highest > curves[method].highest]
    if more:
        parts.append(f"has a smaller largest gain on record than {frontier.labels(more)}")
    floor = floor_sentence(frontier, [method, *references], at)
    if not parts:
        beside = frontier.labels(list(met))
        said = f"There is no probe here by which {label} is not ahead of {beside}. {ALONE}"
        return [f"{said} {floor}".rstrip()] if met else []
    return [f"**Where {label} does not win**: it {'; it '.join(parts)}. {ALONE} {floor}".rstrip()]


def rule_sentence(frontier: Frontier, method: str, at: float) -> str:
    """What the rule of `method` adds: drift of every other rule of the same memory over its own."""
    if not frontier.measured():
        return NOTHING.format(frontier.where)
    rules = rules_beside(frontier, method)
    if method not in frontier.reached(at) or not rules:
        return "What the rule adds is not on record: no two rules of one memory have curves."
    ratios = {n: frontier.ratio((n, method), at) for n in rules if n in frontier.reached(at)}
    label, gain = frontier.label(method), f"{points_text(at)} points of gain"
    if not ratios:
        return f"No other rule reaches {gain} beside {label}."
    ordered = sorted(ratios.items(), key=lambda item: item[1].value)
    verdicts = frontier.verdicts([(name, method) for name in ratios], at)
    parts = [f"{frontier.label(name)} {share_text(ratio)}" for name, ratio in ordered]
    words = {
        Verdict.MORE: "clearly farther",
        Verdict.LESS: "clearly less far",
        Verdict.LEVEL: f"{Verdict.LEVEL} from it",
        Verdict.UNKNOWN: "too near the end of a curve",
    }
    groups = {
        text: [name for name, _ in ordered if verdicts[name, method] is verdict]
        for verdict, text in words.items()
    }
    groups["out of reach of this gain"] = [name for name in rules if name not in ratios]
    groups = {text: names for text, names in groups.items() if names}
    said = [f"{listed(map(frontier.label, names))} {text}" for text, names in groups.items()]
    if len(groups) == 1:
        said = [*groups]
    once = [name for name in ratios if frontier.curves[name].most_seeds == 1]
    seeds = ONE_SEED.format(frontier.labels(once), "have" if len(once) > 1 else "has")
    return (
        f"At {gain}, beside {label}, with the same memory and step but another choice of rows, "
        f"models drift from the base model: {listed(parts)} as far ({'; '.join(said)})."
        + (f" {seeds}" if once else "")
    )
