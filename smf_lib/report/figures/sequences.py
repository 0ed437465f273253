"""The figure of sequences: what each method knows of each task, after each task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ..analysis.frontier import NotOnRecord
from ..analysis.sequence_findings import NOTHING, by_order, floors_words, seeds_words
from ..analysis.sequences import Course, compared
from .style import Figure, new_figure, styled

ACROSS = 4  # panels beside each other
MAP = "RdBu"


@styled
def task_matrices(found: Sequence[Course], order: int = 0) -> Figure:
    """For each method a matrix, task by time: the accuracy, coloured by the gain over the base.

    found: courses of one study; order: which of the orders of tasks, in which they are recorded.

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
    shown = sorted(shown, key=lambda course: -compared("average", course).value)
    levels = {course: _levels(course) for course in shown}
    gains = {course: level[:, 1:] - level[:, :1] for course, level in levels.items()}
    most = max(1.0, *(float(np.abs(gain).max()) for gain in gains.values()))
    down = -(-len(shown) // ACROSS)
    figure = new_figure(0.6 + 1.75 * down)
    grid = figure.subplots(down, ACROSS, squeeze=False)
    for place, ax in enumerate(grid.flat):
        if place >= len(shown):
            ax.set_axis_off()
            continue
        course = shown[place]
        _panel(ax, course, levels[course], most, place % ACROSS == 0)
    first, last = shown[0], shown[-1]
    names = ", then ".join(tasks)
    caption = (
        f"Accuracy in per cent on each task (rows) after each task (columns; first the base "
        f"model), learned in the order {names}. Blue: above the base model, red: below it. A "
        "frame: the task was trained just then; right of it is what is left of it. Methods by "
        f"their average at the end, the best first ({seeds_words(shown)}, study "
        f"{first.base.where}). Without a language model, on average: {floors_words(shown, tasks)}."
    )
    alt = (
        f"A matrix of task by time for each of {len(shown)} methods. Average accuracy at the end: "
        f"{first.label} {compared('average', first).value:.1f} per cent, the most, and "
        f"{last.label} {compared('average', last).value:.1f}, the least."
    )
    return Figure(figure, caption, alt)


def _levels(course: Course) -> np.ndarray:
    """Accuracies in per cent, (tasks, 1 + stages)."""
    stages = range(len(course.tasks) + 1)
    return np.array(
        [[course.accuracy(stage, task).value for stage in stages] for task in course.tasks]
    )


def _panel(ax: Axes, course: Course, levels: np.ndarray, most: float, named: bool) -> None:
    gain = levels - levels[:, :1]
    ax.imshow(gain, cmap=MAP, vmin=-most, vmax=most, aspect="auto")
    for row, column in np.ndindex(*levels.shape):
        dark = abs(gain[row, column]) > 0.6 * most
        ax.text(
            column, row, f"{levels[row, column]:.0f}", ha="center", va="center", size=8.5,
            color="white" if dark else "#222222",
        )  # fmt: skip
    for task in range(len(course.tasks)):
        frame = Rectangle(
            (task + 0.5, task - 0.5), 1, 1, fill=False, color="#222222", linewidth=1.6
        )
        ax.add_patch(frame)
    ax.set_title(course.label, size=8.5)
    ax.set_xticks(range(levels.shape[1]), ["base", *(str(n) for n in range(1, levels.shape[1]))])
    ax.set_yticks(range(len(course.tasks)), course.tasks if named else [""] * len(course.tasks))
    ax.tick_params(length=0, labelsize=8)
    for spine in ax.spines.values():
        spine.set_visible(False)
