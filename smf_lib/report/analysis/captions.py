"""Sentences that captions share: on where numbers come from, on intervals and on guessing."""

from collections.abc import Sequence

from ...study.records.record import Record
from ..measures import EXAM
from ..text import listed
from .arms import Arm
from .effects import level


def setting_sentence(arms: Sequence[Arm]) -> str:
    """Which study, split and how many questions the numbers come from."""
    exams = [arm.first.data.exam for arm in arms if arm.first.data.exam is not None]
    text = f"Study {listed(arm.where for arm in arms)}"
    if exams:
        rows = listed(exam.rows for exam in exams)
        text += f"; {listed(exam.split for exam in exams)} split, {rows} questions"
    return " ".join([text + ".", *precision_notes(arms)])


def precision_name(record: Record) -> str:
    """The number format in which a run multiplied matrices, in words."""
    precision = record.settings.get("precision", "not recorded")
    return {"bf16": "bfloat16", "fp32": "32-bit floats"}.get(precision, precision)


def precision_notes(arms: Sequence[Arm]) -> list[str]:
    """One sentence if these arms were run in more than one number format, which shifts numbers."""
    methods: dict[str, list[str]] = {}
    for arm in arms:
        for name in dict.fromkeys(map(precision_name, arm.records)):
            methods.setdefault(name, []).append(arm.first.label)
    if len(methods) < 2:
        return []
    *few, (most, _) = sorted(methods.items(), key=lambda item: len(item[1]))
    told = [f"{name} ({', '.join(dict.fromkeys(labels))})" for name, labels in few]
    return [f"Number formats differ: {', '.join(told)}, {most} (the rest)."]


def seeds_sentence(arms: Sequence[Arm]) -> str:
    """What the intervals cover, given the number of seeds of the trained arms."""
    counts = {len(arm.records) for arm in arms if not arm.is_base}
    if not counts or counts == {1}:
        return (
            "Bars are 95 % intervals over questions, articles or sequences; there is one seed, so "
            "they do not cover the luck of training."
        )
    if len(counts) == 1:
        return f"Bars are 95 % intervals over items and {counts.pop()} seeds."
    return (
        "Bars are 95 % intervals over items and, where a method was trained with several seeds "
        f"(up to {max(counts)}), over seeds."
    )


def baseline_sentence(arms: Sequence[Arm]) -> str:
    """Exam accuracy of the base model, of guessing and of the majority baseline."""
    chance = listed(f"{100 * arm.first.baselines.chance:.1f} %" for arm in arms)
    majority = listed(f"{100 * arm.first.baselines.majority:.1f} %" for arm in arms)
    text = (
        f"Guessing gives {chance}, always the option that was most often right in training "
        f"{majority}."
    )
    rules = [best_floor(arm.first.baselines.rules) for arm in arms if arm.first.baselines.rules]
    if rules:
        text += f" The best rule that learns nothing ({listed(name for name, _ in rules)}) gives "
        text += listed(f"{value:.1f} %" for _, value in rules)
        bags = [best_floor(arm.first.baselines.bags) for arm in arms if arm.first.baselines.bags]
        given = listed(f"{value:.1f} %" for _, value in bags)
        text += f", a bag of words trained on the same questions {given}." if bags else "."
    bases = [arm for arm in arms if arm.is_base and arm.has(EXAM)]
    if bases:
        levels = listed(f"{level(base, EXAM).value:.1f} %" for base in bases)
        text = f"The base model answers {levels} of the exam. {text}"
    return text


def best_floor(floors: dict[str, float]) -> tuple[str, float]:
    """Name and accuracy, in per cent, of the best of several ways to answer without the model."""
    name = max(floors, key=floors.__getitem__)
    return name, 100 * floors[name]
