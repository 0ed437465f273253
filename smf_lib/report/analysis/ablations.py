"""One factor at a time: in what curves differ from a reference, and what that does to drift.

Which factor a curve varies is read off the settings in its records: the one setting in which it
differs from the reference.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from peft import PeftConfig

from ...method.config import SparseMemoryConfig
from ...method.registration import NAME as SPARSE_MEMORY
from ...study.records.record import Record
from ..text import listed, signed
from .frontier import Frontier, MethodCurve, ratio_text
from .interval import Interval, Verdict

ONE = Interval(1.0, 1.0, 1.0, 1)
# What a memory has where nothing is said.
DEFAULTS = {
    field.name: field.default
    for field in fields(SparseMemoryConfig)
    if field.name not in {general.name for general in fields(PeftConfig)}
}
ALGORITHM = "baseline"
RELEASED = "released"
# Settings by what they are called in a figure; of a setting that is not named here its own name.
TITLES = {
    "num_subkeys": "Rows of the table",
    "rows_per_step": "Rows a step (T)",
    "layers": "Layers with a memory",
    "top_k": "Rows a head reads (k)",
    "num_heads": "Heads",
    "key_dim": "Width of the keys",
    "rule": "Rule",
    "trainable": "What is trained",
    "initial_values": "First values",
    "training.epochs": "Passes",
    "background.sequences": "Background texts",
    "background.text": "Source of the background",
    ALGORITHM: "The step",
    RELEASED: "As the released algorithm does",
}


@dataclass(frozen=True)
class Variant:
    """A curve that differs from the reference in one factor, and its drift relative to that.

    value: the factor's value in words; rank sorts values. ratio: unknown where the gain is out of
    reach, with the reason.
    """

    name: str
    value: str
    rank: tuple[float, str]
    ratio: Interval
    is_reference: bool = False


@dataclass(frozen=True)
class Factor:
    """One factor: its variants with the reference among them, in order of their values."""

    title: str
    variants: tuple[Variant, ...]

    @property
    def others(self) -> list[Variant]:
        """All variants but the reference."""
        return [variant for variant in self.variants if not variant.is_reference]


def settings_of(record: Record) -> dict[str, Any]:
    """What a run was trained with, by name: memory, method, background and training together.

    Learning rate, label and what else does not describe the method are left out.
    """
    method = record.settings["method"]
    sparse = method.get("peft_type") == SPARSE_MEMORY
    memory = DEFAULTS | record.settings.get("memory", {}) if sparse else {}
    background = record.settings.get("background", {}) if memory else {}
    return {
        "kind": method["kind"],
        "peft_type": method.get("peft_type"),
        **memory,
        **method.get("settings", {}),
        ALGORITHM: method.get("baseline"),
        **_named(f"{ALGORITHM}_settings", method.get("baseline_settings", {})),
        **_named("background", background),
        **_named("training", record.settings.get("training", {})),
    }


def _named(part: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{part}.{name}": value for name, value in settings.items()}


def differences(record: Record, reference: Record) -> dict[str, Any]:
    """The settings of a run that are not those of the reference; None where it has none."""
    own, other = settings_of(record), settings_of(reference)
    names = dict.fromkeys([*own, *other])
    return {name: own.get(name) for name in names if own.get(name) != other.get(name)}


def factors(frontier: Frontier, reference: str, at: float) -> list[Factor]:
    """The factors that curves vary around the reference, with their drift at a gain of `at` points.

    Curves of another kind of method, or with the reference's own settings, are left out. Without
    the reference there is no factor.
    """
    if reference not in frontier.curves:
        return []
    start = frontier.curves[reference].first
    groups: dict[str, list[Variant]] = {}
    for name, curve in frontier.curves.items():
        if name == reference or _kind(curve.first) != _kind(start):
            continue
        changed = differences(curve.first, start)
        if not changed:
            continue
        key = _factor(changed)
        variant = Variant(name, *_value(curve.first, key), relative(frontier, name, reference, at))
        groups.setdefault(key, []).append(variant)
    found = []
    for key in sorted(groups, key=lambda key: [*TITLES, key].index(key)):
        own = Variant(reference, *_value(start, key, own=True), ONE, is_reference=True)
        variants = sorted([own, *groups[key]], key=lambda variant: variant.rank)
        found.append(Factor(TITLES.get(key, key.replace("_", " ")), tuple(variants)))
    return found


def _kind(record: Record) -> tuple:
    method = record.settings["method"]
    return method["kind"], method.get("peft_type")


def _factor(changed: dict[str, Any]) -> str:
    """Which of the settings that differ a variant is about; the others come with it."""
    if ALGORITHM in changed:
        return RELEASED if changed[ALGORITHM] == RELEASED else ALGORITHM
    return "background.text" if "background.text" in changed else next(iter(changed))


def _value(record: Record, key: str, own: bool = False) -> tuple[str, tuple[float, str]]:
    """A setting in words, and what sorts it among others of its kind.

    own: of the reference; a variant has its label where its value is long.
    """
    value = settings_of(record).get(key)
    if key in (ALGORITHM, RELEASED):
        return ("strict", (-1.0, "")) if own else (record.label, (0.0, record.label))
    if value is None:
        return {"background.text": "own text"}.get(key, "default"), (-1.0, "")
    if key == "num_subkeys":
        return f"{value**2:,}", (value, "")
    if isinstance(value, list):
        words = ", ".join(map(str, value))
        return words if own else record.label, (len(value), words)
    if isinstance(value, dict):
        return record.label, (0.0, record.label)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}", (value, "")
    return str(value), (0.0, str(value))


def relative(frontier: Frontier, name: str, reference: str, at: float) -> Interval:
    """Drift of a curve at a gain over that of the reference, or why there is none."""
    measured, reached = frontier.measured(), frontier.reached(at)
    if name in reached and reference in reached:
        return frontier.ratio((name, reference), at)
    if name not in measured or reference not in (reached if name in reached else measured):
        return Interval.unknown("one learning rate only", n=1)
    curve = measured[name if reference in reached else reference]
    end = curve.highest if 100 * curve.highest < at else curve.lowest
    word = "reaches" if 100 * curve.highest < at else "begins at"
    return Interval.unknown(f"{word} {signed(100 * end, 1)} points", n=1)


def factor_sentence(factor: Factor) -> str:
    """What a factor does to drift at equal gain, in one sentence."""
    told = [f"{v.value}: {ratio_text(v.ratio)}" for v in factor.others if v.ratio.known]
    verdicts = {v.value: v.ratio.verdict(even=1) for v in factor.others}
    better, worse = (
        listed(value for value, found in verdicts.items() if found is side)
        for side in (Verdict.LESS, Verdict.MORE)
    )
    own = next(v.value for v in factor.variants if v.is_reference)
    lost = [f"{v.value} ({v.ratio.reason})" for v in factor.others if not v.ratio.known]
    parts = []
    if told:
        said = [f"less drift with {better}" if better else "",
                f"more with {worse}" if worse else ""]  # fmt: skip
        words = "; ".join(filter(None, said)) or f"all are {Verdict.LEVEL}"
        parts.append(f"against {own}: {words}. Drift relative to it: {'; '.join(told)}")
    if lost:
        parts.append(f"no comparison: {listed(lost)}")
    return f"**{factor.title}**, {'; '.join(parts)}."


def rules_beside(frontier: Frontier, method: str) -> list[str]:
    """Curves that differ from that of `method` in the rule alone."""
    if method not in frontier.curves:
        return []
    start = frontier.curves[method].first
    return [
        name
        for name, curve in frontier.curves.items()
        if list(differences(curve.first, start)) == ["rule"]
    ]


def passes(frontier: Frontier) -> list[tuple[str, str]]:
    """Pairs of curves that differ in the number of passes alone: fewer first, then more."""
    found = []
    curves = list(frontier.curves.values())
    for one in curves:
        for more in curves:
            changed = differences(more.first, one.first)
            if list(changed) == ["training.epochs"] and _epochs(more) > _epochs(one):
                found.append((one.name, more.name))
    return [pair for pair in found if all(name in frontier.measured() for name in pair)]


def _epochs(curve: MethodCurve) -> int:
    return curve.first.settings["training"]["epochs"]
