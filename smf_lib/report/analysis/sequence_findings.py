"""What came out of sequences of tasks: sentences and tables from their records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import pandas as pd

from ...study.records.record import Baselines, Record
from ..measures import DIVERGENCE, drift_measures, measure_of
from ..text import listed, signed
from .arms import REFERENCES
from .captions import best_floor
from .effects import change
from .floors import floors_of
from .interval import Interval, Verdict
from .sequences import MEASURES, Course, compared, courses, measures, plan_of, planned_orders
from .tables import DASH, number

NOTHING = "No sequence of tasks is on record yet; make study PROFILE=sequence records it."
ONE_SEED = (
    "brackets are 95 % intervals over questions alone. What another seed would have given is in "
    "none of them, and two seeds of one method can lie as far apart as two methods."
)


def came_out(records: Sequence[Record]) -> list[str]:
    """For each order what all are left with, learned and forgot, two points each; what is left out.

    The rest is what `further` says.
    """
    found = courses(records)
    told = [text for order, done in _done(found).items() for text in _levels(order, done)]
    return [*told, *_left_out(found)] if found else [NOTHING]


def further(records: Sequence[Record]) -> list[str]:
    """What else came out: each task's gain, drift, floors, and methods beside each other."""
    done = _done(courses(records))
    told = [text for order, ended in done.items() for text in _details(order, ended)]
    for order in {frozenset(order): order for order in done}.values():
        floors = floors_words(done[order], order)
        told.append(f"Without a language model, on average over {listed(order)}: {floors}.")
    return [*told, *beside(records)]


def _done(found: Sequence[Course]) -> dict[tuple[str, ...], list[Course]]:
    """By order the courses that have learned all of it; no order without one."""
    orders = {order: [c for c in on_it if c.done] for order, on_it in by_order(found).items()}
    return {order: done for order, done in orders.items() if done}


def _levels(order: Sequence[str], done: Sequence[Course]) -> list[str]:
    """What courses that have learned all of an order are left with, have learned and forgotten."""
    base = sum(course_base(done[0], task) for task in order) / len(order)
    averages = _ranked(done, lambda course: number(compared("average", course), 1), "average")
    both = _ranked(done, _learned_and_forgot, "forgetting")
    where = f"{seeds_words(done)}, study {done[0].base.where}"
    return [
        f"**{path(order)}**: average accuracy in per cent after the last task ({where}): "
        + f"{averages}; the base model {base:.1f}.",
        f"Learned when trained, and of earlier tasks forgotten since, in points: {both}.",
    ]


def _details(order: Sequence[str], done: Sequence[Course]) -> list[str]:
    """What each task gained when it was trained, and how far the models drifted by the end."""
    gains = _ranked(done, _gains, "learned")
    told = [f"*{path(order)}*: gained on each task when it was trained, in points: {gains}."]
    if all(course.last.has(DIVERGENCE) for course in done):
        drifts = {course: change(course.last, course.base, DIVERGENCE) for course in done}
        ranked = sorted(done, key=lambda course: drifts[course].value)
        words = "; ".join(f"{c.label} {number(drifts[c], 3)}" for c in ranked)
        told.append(
            f"*{path(order)}*: drift from the base model, in nats a token (KL on its own text): "
            f"{words}."
        )
    return told


def _ranked(done: Sequence[Course], words: Callable[[Course], str], by: str) -> str:
    """What is said of each course, the best first by a measure of continual learning."""
    best = 1 if by == "forgetting" else -1
    ranked = sorted(done, key=lambda course: compared(by, course).value * best)
    return "; ".join(f"{course.label} {words(course)}" for course in ranked)


def _learned_and_forgot(course: Course) -> str:
    return (
        f"{number(compared('learned', course), 1)} and {number(compared('forgetting', course), 1)}"
    )


def _gains(course: Course) -> str:
    """What each task gained when it was trained, in whole points."""
    gains = [
        f"{task} {signed(course.accuracy(place, task).value - course_base(course, task), 0)}"
        for place, task in enumerate(course.tasks, 1)
    ]
    return ", ".join(gains)


def _left_out(found: Sequence[Course]) -> list[str]:
    """What no number above covers: the luck of training, and what is not on record."""
    told = []
    few = list(dict.fromkeys(course.label for course in found if course.seeds == 1))
    if few:
        every = all(course.seeds == 1 for course in found)
        told.append(f"{'One seed' if every else f'Of one seed are {_apart(few)}'}: {ONE_SEED}")
    plan = plan_of(found[0].base.first.profile)
    methods = plan.methods if plan else {}
    arms = {name.partition(".")[0]: method.arm for name, method in methods.items() if method.task}
    orders = by_order(found)
    missing: dict[str, list[str]] = {}
    for order in dict.fromkeys([*planned_orders(plan), *orders]):
        here = {course.method: course for course in orders.get(order, [])}
        words = [str(label) for name, label in arms.items() if name not in here]
        words += [
            f"{course.label} ({len(course.tasks)} of {len(order)} tasks)"
            for course in here.values()
            if not course.done
        ]
        missing.setdefault(_apart(words), []).append(path(order))
    for gone, names in missing.items():
        where = f", {_apart(names)}" if len(missing) > 1 else ""
        told += [f"Not on record to the end{where}: {gone}."] if gone else []
    return [f"**What this leaves out.** {' '.join(told)}"] if told else []


def _apart(words: Iterable[str]) -> str:
    """Distinct names that may hold commas."""
    return "; ".join(dict.fromkeys(words))


def path(order: Sequence[str]) -> str:
    """An order of tasks in words."""
    return ", then ".join(order)


def beside(records: Sequence[Record]) -> list[str]:
    """Methods beside each other, each pair in each order; none that is under way.

    Each memory beside LoRA and full finetuning, and each arm beside that whose first stage it has.
    """
    return [
        f"*{path(order)}*: {_against(course, other)}"
        for order, found in by_order(courses(records)).items()
        for course, other in _pairs([course for course in found if course.done])
    ]


def _pairs(found: Sequence[Course]) -> Iterator[tuple[Course, Course]]:
    for course in found:
        for other in found:
            reference = course.last.first.selection and other.method in REFERENCES
            if course is not other and (reference or other.method == course.begun):
                yield course, other


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
    bag = "a bag of words trained on each task alone"
    return {bag if "a bag of" in name else name: value for name, value in floors.items()}


def task_floors(records: Sequence[Record]) -> dict[str, Baselines]:
    """What was kept of each task's floors."""
    found: dict[str, Baselines] = {}
    for record in records:
        exam = record.data.exam
        own = {} if exam is None else {exam.name: record.baselines}
        found |= own | record.task_baselines
    return found


def by_order(found: Sequence[Course]) -> dict[tuple[str, ...], list[Course]]:
    """Courses by the order that they are on."""
    orders: dict[tuple[str, ...], list[Course]] = {}
    for course in found:
        orders.setdefault(course.order, []).append(course)
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
    numbers = found.text(1, sign=True, unit="points") if found.bounded else found.reason
    return f"{found.verdict().told(more, less, what)} ({numbers})"


def measures_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row an arm and order: the measures of continual learning, and the drift at the end.

    Arms that are under way have none.
    """
    rows = []
    for order, found in by_order(courses(records)).items():
        for course in (course for course in found if course.done):
            row = {"Order": " → ".join(order), "Method": course.label}
            for name, interval in measures(course).items():
                row[MEASURES[name]] = number(interval, 1, sign=name in ("learned", "backward"))
            seeds = str(course.seeds) if course.seeds > 1 else "1 (questions only)"
            rows.append(row | _drifts(course) | {"Seeds": seeds})
    return pd.DataFrame(rows).fillna(DASH)


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
    """One row a stage: the accuracy on every task, in per cent with its interval.

    Of arms that are under way as far as they go.
    """
    rows = []
    for course in courses(records):
        for stage in range(len(course.tasks) + 1):
            row = {
                "Order": " → ".join(course.order),
                "Method": course.label,
                "After": course.tasks[stage - 1] if stage else "base model",
            }
            row |= {task: number(course.accuracy(stage, task), 1) for task in sorted(course.order)}
            rows.append(row)
    return pd.DataFrame(rows).fillna(DASH)


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
