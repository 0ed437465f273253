"""Whether the conditions hold under which the book would drop its claim, from records.

The chapter on limits names them. Two are about one model and are decided here, each comparison by
its own 95 % interval; the others ask for runs that no profile has: larger models, and a probe that
nobody had looked at.
"""

from collections.abc import Iterable, Mapping, Sequence

from ...study.records.record import Record
from ..measures import DIVERGENCE, EXAM, WITNESS
from .ablations import rules_beside, settings_of
from .arms import REFERENCES, Arm, group_arms
from .effects import are_paired, contrast, drift_beside
from .frontier import Frontier
from .interval import Verdict

PROBES = ("prose_perplexity", "knowledge_accuracy")  # beside the divergence, on both its texts
CHOOSING = ("kl", "tfidf")  # the rules of the claim
PLAIN = {"random": "random rows", "count": "the rows read most"}  # rules that choose by nothing
MET, NOT_MET, UNKNOWN = "met, within the intervals", "not met", "cannot be told"


def conditions_at_gain(
    frontier: Frontier, method: str, references: Sequence[str], at: float
) -> str:
    """Which conditions curves meet at a gain of `at` points, in a sentence."""
    rivals = {
        frontier.label(name) if name in frontier.curves else name: _state(
            _at_gain(frontier, (name, method), at)
        )
        for name in references
        if name != method
    }
    memories = [method, *rules_beside(frontier, method)]
    by_rule = {_rule(frontier.curves[n].first): n for n in memories if n in frontier.curves}
    plain = {}
    for rule, words in PLAIN.items():
        one, others = by_rule.get(rule), [by_rule.get(name) for name in CHOOSING]
        pairs = [(one, other) for other in others if one and other]
        found = [verdict for pair in pairs for verdict in _at_gain(frontier, pair, at)]
        plain[words] = _state(found if len(pairs) == len(CHOOSING) else [*found, Verdict.UNKNOWN])
    return _sentence(rivals, plain)


def _at_gain(frontier: Frontier, pair: tuple[str, str], at: float) -> list[Verdict]:
    """How the first of a pair drifts beside the second by each of the three probes."""
    others = [frontier.beside(pair, at, probe)[1] for probe in PROBES]
    return [frontier.by_divergence(pair, at), *others]


def conditions_as_run(records: Sequence[Record]) -> str:
    """Which conditions the arms of one study meet, one rate each, in a sentence.

    Where one arm learned less than the other, or learned and drifted more, nothing can be told of
    equal gain.
    """
    arms = [arm for arm in group_arms(records) if arm.has(EXAM)]
    by_rule: dict[str, list[Arm]] = {}
    for arm in arms:
        if arm.first.selection:
            by_rule.setdefault(_rule(arm.first), []).append(arm)
    choosing = [arm for rule in CHOOSING for arm in by_rule.get(rule, [])]
    rivals = {}
    for name, words in REFERENCES.items():
        others = [arm for arm in arms if arm.first.method == name]
        rivals[words] = _of_all([_as_good(arm, own) for arm in others for own in choosing])
    plain = {}
    for rule, words in PLAIN.items():
        found = [_as_good(arm, own) for arm in by_rule.get(rule, []) for own in choosing]
        both = all(by_rule.get(other) for other in CHOOSING)
        plain[words] = _of_all(found if both else [*found, UNKNOWN])
    return _sentence(rivals, plain)


def _rule(record: Record) -> str:
    return str(settings_of(record).get("rule"))


def _as_good(first: Arm, second: Arm) -> str:
    """Whether the first learned as much as the second, or more, and drifted no more."""
    if not are_paired(first, second, EXAM):
        return UNKNOWN
    learned = contrast(first, second, EXAM).verdict()
    divergence, *drifted = (
        drift_beside(first, second, probe).verdict() for probe in (DIVERGENCE, *PROBES)
    )
    if first.has(WITNESS):
        divergence = divergence.confirmed_by(drift_beside(first, second, WITNESS).verdict())
    drifted.append(divergence)
    more_for_more = learned is Verdict.MORE and Verdict.MORE in drifted
    if learned in (Verdict.UNKNOWN, Verdict.LESS) or more_for_more:
        return UNKNOWN
    return _state(drifted)


def _state(drifted: Iterable[Verdict]) -> str:
    """A condition asks that nothing drifts more: one that does is enough to say no."""
    found = list(drifted)
    return NOT_MET if Verdict.MORE in found else UNKNOWN if Verdict.UNKNOWN in found else MET


def _of_all(states: Sequence[str]) -> str:
    """Of several comparisons: one that fails is enough, and all have to hold."""
    if NOT_MET in states:
        return NOT_MET
    return MET if states and set(states) == {MET} else UNKNOWN


def _sentence(rivals: Mapping[str, str], plain: Mapping[str, str]) -> str:
    parts = [
        f"{name} at the same gain with no more drift on all three probes: {state}"
        for name, state in rivals.items()
    ]
    parts += [f"{words} as good as KL and TF-IDF: {state}" for words, state in plain.items()]
    return (
        "**Of the conditions under which the chapter on limits would drop the claim**: "
        f"{'; '.join(parts)}; an advantage that shrinks in larger models, and a probe that nobody "
        "had looked at: not run. (Each comparison is decided by its own 95 % interval; within the "
        "intervals means that none shows more drift, which may be for want of runs.)"
    )
