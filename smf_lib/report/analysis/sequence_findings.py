"""What came out of sequences of tasks: sentences and tables from their records."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ...study.records.record import Baselines, Record
from ..measures import drift_measures, measure_of
from ..text import listed, signed
from .arms import REFERENCES
from .captions import best_floor
from .effects import change
from .floors import floors_of
from .sequences import MEASURES, Course, compared, courses, measures
from .stats import Interval, Verdict
from .tables import number

NOTHING = "No sequence of tasks is on record yet; make study PROFILE=sequence records it."


def came_out(records: Sequence[Record]) -> list[str]:
    """For each order the average accuracies, then each memory beside LoRA and full finetuning."""
    told = []
    for tasks, found in by_order(courses(records)).items():
        order = listed(tasks) if len(tasks) < 3 else ", then ".join(tasks)
        levels = {course: compared("average", course) for course in found}
        start = found[0].base
        base = sum(course_base(found[0], task) for task in tasks) / len(tasks)
        ranked = sorted(found, key=lambda course: -levels[course].value)
        named = listed(f"{c.label} {number(levels[c], 1)}" for c in ranked)
        told.append(
            f"**{order}**: average accuracy in per cent when all are learned: {named}; the base "
            f"model {base:.1f} ({seeds_words(found)}, study {start.where})."
        )
        told.append(f"Without a language model, on average: {floors_words(found, tasks)}.")
        lost = {course: compared("forgetting", course) for course in found}
        named = listed(
            f"{c.label} {number(lost[c], 1)}" for c in sorted(found, key=lambda c: lost[c].value)
        )
        told.append(f"Forgotten of earlier tasks, in points: {named}.")
        told += [
            _against(course, other)
            for course in found
            if course.last.first.selection
            for name in REFERENCES
            for other in found
            if other.method == name
        ]
    return told or [NOTHING]


def floors_words(found: Sequence[Course], tasks: Sequence[str]) -> str:
    """The mean over tasks of each floor that all of them have, in words."""
    kept = task_floors([record for course in found for record in course.last.records])
    floors = [floors_of(kept[task]) for task in tasks if task in kept]
    if len(floors) < len(tasks):
        return "not on record for every task"
    kinds = [_kinds(each) for each in floors]
    shared = [kind for kind in kinds[0] if all(kind in each for each in kinds)]
    means = {kind: sum(each[kind] for each in kinds) / len(kinds) for kind in shared}
    return f"{listed(f'{kind} {value:.1f}' for kind, value in means.items())} %"


def _kinds(floors: dict[str, float]) -> dict[str, float]:
    """Floors with bags of one kind or another under one name."""
    return {"a bag of words" if "a bag of" in name else name: x for name, x in floors.items()}


def task_floors(records: Sequence[Record]) -> dict[str, Baselines]:
    """What was kept of each task's floors."""
    found: dict[str, Baselines] = {}
    for record in records:
        exam = record.data.exam
        own = {} if exam is None else {exam.name: record.baselines}
        found |= own | record.task_baselines
    return found


def by_order(found: Sequence[Course]) -> dict[tuple[str, ...], list[Course]]:
    """Courses by the order of their tasks."""
    orders: dict[tuple[str, ...], list[Course]] = {}
    for course in found:
        orders.setdefault(course.tasks, []).append(course)
    return orders


def course_base(course: Course, task: str) -> float:
    """The base model's accuracy on a task, in per cent."""
    return course.accuracy(0, task).value


def seeds_words(found: Sequence[Course]) -> str:
    """How many seeds there are, in words."""
    counts = sorted({course.seeds for course in found})
    return f"{'one seed' if counts == [1] else f'{listed(counts)} seeds'}"


def _against(course: Course, other: Course) -> str:
    """One course beside another of the same order."""
    learned, average, lost = (
        compared(name, course, other) for name in ("learned", "average", "forgetting")
    )
    words = [
        _told(learned, "learned more", "learned less", "what they learned"),
        _told(average, "ends higher on average", "ends lower on average", "the average at the end"),
        _told(lost, "forgot more", "forgot less", "what they forgot"),
    ]
    caution = ""
    if learned.verdict() is lost.verdict() is Verdict.LESS:
        caution = "; having learned less, forgetting less is no merit by itself"
    return f"**{course.label} against {other.label}**: {listed(words)}{caution}."


def _told(found: Interval, more: str, less: str, what: str) -> str:
    ends = "{} [{}, {}]".format(*(signed(x, 1) for x in (found.value, found.low, found.high)))
    numbers = f"{ends} points" if found.bounded else found.reason
    return f"{found.verdict().told(more, less, what)} ({numbers})"


def measures_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row an arm and order: the measures of continual learning, and the drift at the end."""
    rows = []
    for tasks, found in by_order(courses(records)).items():
        for course in found:
            row = {"Order": " → ".join(tasks), "Method": course.label}
            for name, interval in measures(course).items():
                row[MEASURES[name]] = number(interval, 1, sign=name in ("learned", "backward"))
            rows.append(row | _drifts(course) | {"Seeds": str(course.seeds)})
    return pd.DataFrame(rows)


def _drifts(course: Course) -> dict[str, str]:
    """The probes after the last task, beside the base model; not the tasks themselves."""
    cells = {}
    for metric in drift_measures(course.last.records, drawn=True):
        if metric.startswith("task:") or not course.last.has(metric):
            continue
        measure = measure_of(course.last.first, metric)
        found = change(course.last, course.base, metric)
        cells[measure.change_head] = number(found, measure.digits, sign=measure.unit != "nats")
    return cells


def accuracy_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row a stage: the accuracy on every task, in per cent with its interval."""
    rows = []
    for course in courses(records):
        for stage in range(len(course.tasks) + 1):
            row = {
                "Order": " → ".join(course.tasks),
                "Method": course.label,
                "After": course.tasks[stage - 1] if stage else "base model",
            }
            row |= {task: number(course.accuracy(stage, task), 1) for task in sorted(course.tasks)}
            rows.append(row)
    return pd.DataFrame(rows)


def floors_table(records: Sequence[Record]) -> pd.DataFrame:
    """What each task gives without a language model, in per cent."""
    rows = [
        {
            "Task": task,
            "Guessing": f"{100 * floors.chance:.1f}",
            "Most frequent answer": f"{100 * floors.majority:.1f}",
            "Best rule that learns nothing": f"{best_floor(floors.rules)[1]:.1f}"
            if floors.rules
            else "–",
            "Bag of words": f"{best_floor(floors.bags)[1]:.1f}" if floors.bags else "–",
        }
        for task, floors in task_floors(records).items()
    ]
    return pd.DataFrame(rows)
