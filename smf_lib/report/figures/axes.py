"""What several figures do with an axis: least spans, intervals, values beside marks, scales."""

import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation
from matplotlib.typing import ColorType

from ..analysis.floors import close_ones
from ..analysis.interval import Interval
from .style import GREY

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class _Powers(LogFormatterSciNotation):
    """matplotlib's labels of a logarithmic axis, as 10⁻³ and not as TeX (see `style.STYLE`)."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        label = super().__call__(x, pos).replace(r"\times", "×")
        label = re.sub(r"\\mathdefault\{(.*)\}", r"\1", label.replace("$", ""))
        return re.sub(r"\^\{(.*?)\}", lambda m: m[1].translate(SUPERSCRIPTS), label)


def log_scale(ax: Axes, axes: str) -> None:
    """Make axes logarithmic ("x", "y" or "xy"), with powers of ten as labels."""
    for name in axes:
        (ax.set_xscale if name == "x" else ax.set_yscale)("log")
        axis = ax.xaxis if name == "x" else ax.yaxis
        axis.set_major_formatter(_Powers())
        axis.set_minor_formatter(_Powers(labelOnlyBase=False))


def widen(ax: Axes, span: float, axis: str) -> None:
    """Show at least `span` on an axis, so that rounding noise is not blown up."""
    low, high = ax.get_xlim() if axis == "x" else ax.get_ylim()
    room = max(0.0, span - (high - low)) / 2
    (ax.set_xlim if axis == "x" else ax.set_ylim)(low - room, high + room)


def bars(ax: Axes, across: Interval, up: Interval, colour: str) -> None:
    """The 95 % intervals of a mark in both directions, where they are known."""
    style: dict[str, Any] = {"color": colour, "linewidth": 1.3, "alpha": 0.55, "zorder": 3}
    if across.bounded:
        ax.plot([across.low, across.high], [up.value] * 2, **style)
    if up.bounded:
        ax.plot([across.value] * 2, [up.low, up.high], **style)


def spread_axis(ax: Axes, drifts: Sequence[Interval], ratio: float = 20) -> None:
    """Make the axis logarithmic beyond the noise, if a few large drifts hide all others.

    ratio: how many times the median the largest drift must be.
    """
    sizes = sorted(abs(interval.value) for interval in drifts)
    if len(sizes) < 3 or not sizes[-1] > ratio * sizes[len(sizes) // 2] > 0:
        return
    noise = sorted(interval.high - interval.low for interval in drifts)[len(drifts) // 2] / 2
    scale = max(sizes[len(sizes) // 2], noise)
    threshold = 10.0 ** round(math.log10(scale))
    low, high = ax.get_xlim()
    below = any(end < 0 for interval in drifts for end in (interval.value, interval.low))
    ax.set_xscale("symlog", linthresh=threshold)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlim(min(low, -threshold) if below else -0.2 * threshold, 1.15 * high)
    title = ax.get_xlabel().removesuffix(")")
    ax.set_xlabel(f"{title}; log beyond {threshold:g})", size=9.5)


def name_levels(ax: Axes, levels: dict[str, float], near: float = 0.2, width: int = 40) -> None:
    """Write the names of horizontal lines at the right of a panel, close ones in one place.

    levels: place on the axis by name. near: share of the axis within which lines are close. width:
    characters after which a name goes on below.
    """
    low, high = ax.get_ylim()
    for value, text in close_ones(levels, near * (high - low)):
        names = text.replace("best rule that learns nothing", "best rule").split(", ")
        ax.annotate(
            "\n".join(textwrap.fill(name, width) for name in reversed(names)),
            (1.0, value),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=GREY,
            size=7.5,
        )


def beside(ax: Axes, point: tuple[float, float], text: str, colour: ColorType = "#333333") -> None:
    """Write a value to the right of a bar's end or a mark, at (x, y) in data units."""
    style: dict[str, Any] = {"va": "center", "size": 9, "color": colour}
    ax.annotate(text, point, xytext=(5, 0), textcoords="offset points", **style)
