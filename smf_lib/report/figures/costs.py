"""What each method costs: time, memory, parameters changed, bytes on disk."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from ...study.records.record import Record
from ..analysis.arms import Arm, arm_name, group_arms, method_rank
from ..text import count, duration, listed, memory, size
from .axes import beside, log_scale
from .style import Figure, method_colours, new_figure, styled

LOG_RATIO = 20


PANELS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("train_seconds", "training time", duration),
    ("peak_memory_bytes", "peak memory", memory),
    ("updated_parameters", "parameters changed", count),
    ("saved_bytes", "size on disk", size),
)


@styled
def cost(records: Sequence[Record]) -> Figure:
    """Bars of training time, peak memory, changed parameters and saved bytes, mean over seeds.

    An axis is logarithmic where values differ by more than a factor of 20, and says so. The
    base model costs nothing and is left out. Raises ValueError if no trained run is given.
    """
    arms = [arm for arm in group_arms(records) if not arm.is_base]
    arms.sort(key=lambda arm: (*method_rank(arm.first.method), arm.first.learning_rate))
    if not arms:
        raise ValueError("records hold no trained run, so there is no cost to draw")
    several = len({arm.where for arm in arms}) > 1
    names = [arm_name(a, arms) + (f"\n{a.where}" if several else "") for a in arms]
    figure = new_figure(1.6 + 2 * 0.32 * len(arms) + 0.8)
    grid = figure.subplots(2, 2, sharey=True).ravel()
    for ax, (field, title, words) in zip(grid, PANELS, strict=True):
        values = [arm.mean_cost(field) for arm in arms]
        _bar_panel(ax, arms, values, title, words)
        ax.set_yticks(range(len(arms)), names)
    grid[0].invert_yaxis()
    machines = listed(
        f"{a.first.hardware.gpu or a.first.hardware.cpu}, {a.first.hardware.cores} cores"
        for a in arms
    )
    caption = (
        f"Cost of each method on {machines}; study {listed(a.where for a in arms)}. "
        "Time and memory are those of training "
        "alone. A panel marked log scale has a logarithmic axis that does not start at zero."
    )
    alt = "Bar charts of cost. " + " ".join(
        f"{name}: "
        + ", ".join(f"{title} {words(arm.mean_cost(field))}" for field, title, words in PANELS)
        + "."
        for name, arm in zip(names, arms, strict=True)
    )
    return Figure(figure, caption, alt)


def _bar_panel(
    ax: Axes,
    arms: Sequence[Arm],
    values: Sequence[float],
    title: str,
    words: Callable[[float], str],
) -> None:
    """Horizontal bars with the value written at each end."""
    colours = method_colours(arm.first.method for arm in arms)
    positive = [value for value in values if value > 0]
    logarithmic = bool(positive) and max(positive) > LOG_RATIO * min(positive)
    low, high = 0.0, max(positive, default=1.0)
    if logarithmic:
        log_scale(ax, "x")
        low = 10.0 ** np.floor(np.log10(min(positive) / 2))
        ax.set_xlim(low, high * (high / low) ** 0.32)
    else:
        ax.set_xlim(0, 1.32 * high)
    for row, (arm, value) in enumerate(zip(arms, values, strict=True)):
        end = max(value, low)
        ax.barh(row, end - low, left=low, height=0.62, color=colours[arm.first.method])
        beside(ax, (end, row), words(value))
    ax.set_title(f"{title} (log scale)" if logarithmic else title)
    if not logarithmic:
        ax.set_xticks([])
        ax.spines.bottom.set_visible(False)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    ax.tick_params(axis="y", length=0)
