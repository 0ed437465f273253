"""Tasks learned one after another: what was kept of each, from records alone.

acc(u, h) is the accuracy on task h after stage u, and acc(0, h) that of the base model. With U
tasks, numbered in the order in which they were learned:

- average accuracy: the mean over h of acc(U, h);
- learned: the mean over h of acc(h, h) - acc(0, h), what each task gained when it was trained;
- backward transfer (Lopez-Paz and Ranzato, arXiv 1706.08840, section 2): the mean over h < U of
  acc(U, h) - acc(h, h); negative where later tasks cost earlier ones;
- forgetting (Chaudhry et al., arXiv 1801.10112, section 3): the mean over h < U of
  max over 0 < u < U of acc(u, h), less acc(U, h).

Intervals are over seeds and items (`stats`): the seeds of one arm are runs that go on from one
another and so are paired within it; seeds of two arms are independent; the questions are the same
for all. The maximum in forgetting is taken for each seed, which lifts it a little. With one seed
they are over questions alone.

A study may be on record in part: an arm's way is followed as far as it goes, and the measures are
of ways that have come to the end of their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...study.metrics import task_metric
from ...study.profiles import Profile, load_profile
from ...study.records.record import Record
from ...study.records.results import ResultsError
from ..measures import EXAM
from .arms import Arm
from .interval import Interval
from .stats import (
    Array,
    Estimate,
    accuracy_interval,
    combine,
    interval_of,
    spread_of_seeds,
)

MEASURES = {
    "average": "Average accuracy (%)",
    "learned": "Learned when trained (points)",
    "backward": "Backward transfer (points)",
    "forgetting": "Forgetting (points)",
}


@dataclass(frozen=True, eq=False)
class Course:
    """An arm's way through tasks in one order: its runs after each stage, of the same seeds.

    Attributes:
        method: what the profile calls the arm.
        label: its name in figures and tables.
        tasks: the tasks that it has learned, in their order.
        order: all tasks of the order that it is on; more than `tasks` as long as it is under way.
        base: the model before the first.
        stages: the runs after each task.
    """

    method: str
    label: str
    tasks: tuple[str, ...]
    order: tuple[str, ...]
    base: Arm
    stages: tuple[Arm, ...]

    @property
    def last(self) -> Arm:
        """The runs after the last task."""
        return self.stages[-1]

    @property
    def done(self) -> bool:
        """Whether all tasks of the order are learned."""
        return self.tasks == self.order

    @property
    def begun(self) -> str:
        """The arm whose first stage it has: its own, or that of another from which it goes on."""
        return self.stages[0].first.method.partition(".")[0]

    @property
    def seeds(self) -> int:
        """How many seeds went so far."""
        return len(self.last.records)

    def items(self, stage: int, task: str) -> Array:
        """Outcomes on a task after so many stages, float64 (seeds, questions)."""
        arm = self.base if stage == 0 else self.stages[stage - 1]
        return arm.items(metric_of(arm.first, task))

    def accuracy(self, stage: int, task: str) -> Interval:
        """Accuracy on a task after so many stages, in per cent."""
        return accuracy_interval(self.items(stage, task)).scaled(100)


def metric_of(record: Record, task: str) -> str:
    """The metric of a record that holds the accuracy on a task.

    Raises:
        ResultsError: the record has none.
    """
    exam = record.data.exam
    metric = EXAM if exam is not None and exam.name == task else task_metric(task)
    if metric not in record.metrics:
        raise ResultsError(f"run {record.run_id!r} was not measured on the task {task!r}")
    return metric


def courses(records: Iterable[Record]) -> list[Course]:
    """Every arm's way through every order, as far as it is on record.

    Orders come as the profile has them, and are left out as long as no arm has two stages of one.
    Records of one study; runs that belong to no sequence are left out but for the base model.
    """
    records = list(records)
    bases = [record for record in records if record.kind == "base"]
    by_run = {(r.method, r.seed): r for r in records if r.settings["method"].get("task")}
    ways: dict[tuple[str, tuple[str, ...]], dict[int, list[Record]]] = {}
    for (method, seed), record in by_run.items():
        tasks = _tasks(record)
        chain = [record]
        while (start := chain[0].settings["method"].get("start")) is not None:
            if (start, seed) not in by_run:
                break
            chain.insert(0, by_run[start, seed])
        if len(chain) == len(tasks):
            ways.setdefault((method.partition(".")[0], tasks), {})[seed] = chain
    found: list[Course] = []
    for order in _orders([tasks for _, tasks in ways], records) if bases else []:
        on_it = []
        for arm in dict.fromkeys(arm for arm, _ in ways):
            begun = [t for a, t in ways if a == arm and order[: len(t)] == t]
            if begun:
                tasks = max(begun, key=len)
                chains = [chain for _, chain in sorted(ways[arm, tasks].items())]
                stages = tuple(Arm(tuple(stage)) for stage in zip(*chains))
                label = chains[0][-1].settings["method"].get("arm") or arm
                on_it.append(Course(arm, label, tasks, order, Arm((bases[0],)), stages))
        if any(len(course.tasks) > 1 for course in on_it):
            found += on_it
    return found


def plan_of(profile: str) -> Profile | None:
    """The profile as it stands today; None where it is not here."""
    try:
        return load_profile(profile)
    except ValueError:
        return None


def planned_orders(plan: Profile | None) -> list[tuple[str, ...]]:
    """The orders of several tasks that a profile has."""
    return [tuple(tasks) for tasks in (plan.sequences if plan else ()) if len(tasks) > 1]


def _orders(ways: Sequence[tuple[str, ...]], records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Orders of which ways are a part: the profile's, then the longest of ways that have others."""
    orders = planned_orders(plan_of(records[0].profile)) if records else []
    longest = [
        way for way in ways
        if not any(len(o) > len(way) and o[: len(way)] == way for o in (*orders, *ways))
    ]  # fmt: skip
    return list(dict.fromkeys([*orders, *longest]))


def _tasks(record: Record) -> tuple[str, ...]:
    method = record.settings["method"]
    return (*method.get("learned", ()), method["task"])


def measures(course: Course) -> dict[str, Interval]:
    """The measures of the module for one course: per cent and points, each with its interval."""
    return {name: compared(name, course) for name in MEASURES}


def compared(measure: str, course: Course, other: Course | None = None) -> Interval:
    """A measure of a course, or how much it is above that of another course of the same order.

    Raises:
        ResultsError: courses of other orders, or under way.
    """
    for way in (course, other):
        if way is not None and not way.done:
            raise ResultsError(
                f"{way.label} has learned {len(way.tasks)} of {len(way.order)} tasks"
            )
    if other is not None and other.tasks != course.tasks:
        raise ResultsError(f"{course.label} and {other.label} learned in other orders")
    terms = [(1.0, _items(measure, course))]
    if other is not None:
        terms.append((-1.0, _items(measure, other)))
    questions = sum(items.shape[1] for items in terms[0][1])
    seeds = min(course.seeds, other.seeds if other else course.seeds)
    return interval_of(_mean_over_tasks(terms), questions, seeds).scaled(100)


def _items(measure: str, course: Course) -> list[Array]:
    """A measure's items, (seeds, questions) of each task that it is a mean over."""
    last, found = len(course.tasks), []
    for place, task in enumerate(course.tasks, 1):
        end, own = course.items(last, task), course.items(place, task)
        if measure == "average":
            found.append(end)
        elif measure == "learned":
            found.append(own - course.items(0, task))
        elif place < last and measure == "backward":
            found.append(end - own)
        elif place < last:
            earlier = np.stack([course.items(stage, task) for stage in range(1, last)])
            best = earlier.mean(-1).argmax(0)  # of each seed
            found.append(earlier[best, np.arange(len(best))] - end)
    return found


def _mean_over_tasks(terms: Sequence[tuple[float, Sequence[Array]]]) -> Estimate:
    """The sum of weight * mean over tasks of the mean over items, with its two parts of variance.

    Tasks have questions of their own, so their variances over items add; a seed's luck may be
    shared by its tasks, so it is the mean over tasks that varies from seed to seed.
    """
    tasks = len(terms[0][1])
    parts = [
        combine([(weight / tasks, items[number]) for weight, items in terms])
        for number in range(tasks)
    ]
    means = [weight * np.mean([x.mean(-1) for x in items], 0) for weight, items in terms]
    over_seeds, freedom = spread_of_seeds(means)
    fewest = min(items[number].shape[1] for _, items in terms for number in range(tasks))
    return Estimate(
        sum(part.value for part in parts),
        np.stack([np.sum([part.variances[0] for part in parts], 0), over_seeds]),
        np.stack([np.asarray(fewest - 1.0), freedom]),
    )
