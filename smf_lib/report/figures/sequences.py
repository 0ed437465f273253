"""The figure of sequences: what each method knows of each task, after each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ..analysis.floors import highest_floor
from ..analysis.frontier import NotOnRecord
from ..analysis.sequence_findings import (
    NOTHING,
    by_order,
    floors_words,
    path,
    seeds_words,
    task_floors,
)
from ..analysis.sequences import Course, compared
from ..text import listed
from .style import GREY, Figure, ink_on, new_figure, styled

ACROSS = 2  # panels beside each other: one has the width of a phone
MAP = colormaps["RdBu"]
INK = "#222222"
LEAST = 10.0  # points of gain that have the full colour at least: noise is to look like noise


@styled
def task_matrices(found: Sequence[Course], order: int = 0) -> Figure:
    """For each method a matrix, task by time: the accuracy, coloured by the gain over the base.

    found: courses of one study; order: which of their orders of tasks. Each task has a scale of
    colours, up to the most that any method gained or lost on it; figures of all orders share them.
    A last column, without colour, has the highest of each task's floors (`tasks.floors`).

    Raises:
        NotOnRecord: no course.
        ValueError: an order that is not there.
    """
    if not found:
        raise NotOnRecord(NOTHING)
    orders = by_order(found)
    if not 0 <= order < len(orders):
        raise ValueError(f"order={order!r} must be from 0 to {len(orders) - 1}")
    tasks, shown = list(orders.items())[order]
    averages = {course: compared("average", course).value for course in shown if course.done}
    shown = sorted(shown, key=lambda course: (not course.done, -averages.get(course, 0.0)))
    levels = {course: _levels(course) for course in found}
    most = dict.fromkeys((task for course in found for task in course.order), LEAST)
    for course, level in levels.items():
        for task, gains in zip(course.order, np.abs(level - level[:, :1])):
            most[task] = max(most[task], float(gains.max()))
    kept = task_floors([record for course in shown for record in course.last.records])
    tops = {task: highest_floor(kept[task]) for task in tasks if task in kept}
    down = -(-len(shown) // ACROSS)
    figure = new_figure((0.85 + 0.3 * len(tasks)) * down)
    for place, course in enumerate(shown, 1):
        title = course.label
        if course.done:
            title += f": average {averages[course]:.0f} %"
        ax = figure.add_subplot(down, ACROSS, place)
        _panel(ax, course, title, levels[course], most)
        _floors(ax, course, {task: height for task, (_, height) in tops.items()})
    part = "" if len(averages) == len(shown) else " Empty columns are not on record yet."
    caption = (
        "Accuracy in per cent on each task (rows) of the base model and after each task (columns), "
        f"learned in the order {path(tasks)}. Blue: above the base model, red: below it, each task "
        "on its own scale. A frame: the task was trained just then; right of it is what is left "
        f"of it.{part} Methods by their average at the end, the best first ({seeds_words(shown)}, "
        f"study {shown[0].base.where}). At the right, in grey: the highest of what needs no "
        f"language model; on average over tasks: {floors_words(shown, tasks)}."
    )
    alt = f"A matrix of task by time for each of {len(shown)} methods."
    ranked = [course for course in shown if course.done]
    if ranked:
        first, last = ranked[0], ranked[-1]
        alt += (
            f" Average accuracy at the end: {first.label} {averages[first]:.1f} per cent, the "
            f"most, and {last.label} {averages[last]:.1f}, the least."
        )
    if tops:
        told = listed(f"{task} {height:.1f} ({name})" for task, (name, height) in tops.items())
        alt += f" The most that is had without a language model: {told} per cent."
    return Figure(figure, caption, alt)


def _levels(course: Course) -> np.ndarray:
    """Accuracies in per cent, (tasks of the order, 1 + stages on record)."""
    stages = range(len(course.tasks) + 1)
    return np.array(
        [[course.accuracy(stage, task).value for stage in stages] for task in course.order]
    )


def _panel(
    ax: Axes, course: Course, title: str, levels: np.ndarray, most: Mapping[str, float]
) -> None:
    tasks, columns = course.order, len(course.order) + 1
    scale = np.array([[most[task]] for task in tasks])
    shades = MAP(0.5 + (levels - levels[:, :1]) / (2 * scale))
    ax.imshow(shades, aspect="auto")
    for row, column in np.ndindex(*levels.shape):
        ink = ink_on(shades[row, column, :3])
        ax.text(
            column, row, f"{levels[row, column]:.0f}", ha="center", va="center", size=10, color=ink
        )
    for place in range(len(course.tasks)):
        corner = (place + 0.5, place - 0.5)
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, color=INK, linewidth=1.8, clip_on=False))
    ax.set_title(title, size=9.5)
    ax.set_xlim(-0.5, columns - 0.5)
    ax.set_xticks(range(columns), ["base", *(f"after\n{task}" for task in tasks)])
    ax.set_yticks(range(len(tasks)), tasks)
    ax.tick_params(length=0, labelsize=9)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _floors(ax: Axes, course: Course, heights: Mapping[str, float]) -> None:
    """A column of numbers at the right of a panel: what needs no language model, in per cent."""
    place = len(course.order) + 1
    for row, task in enumerate(course.order):
        if task in heights:
            style: dict[str, Any] = {"ha": "center", "va": "center", "size": 10, "color": GREY}
            ax.text(place, row, f"{heights[task]:.0f}", **style)
    if heights:
        ax.set_xlim(right=place + 0.5)
        names = [label.get_text() for label in ax.get_xticklabels()]
        ax.set_xticks(range(place + 1), [*names, "without\na model"])
