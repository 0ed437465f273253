"""The paper's figure beside ours: exam gain against perplexity change, published and measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...study.records.record import Record
from ..analysis.effects import change, level
from ..analysis.floors import floors_of
from ..analysis.interval import Interval
from ..figures.axes import bars, name_levels, spread_axis, widen
from ..figures.labels import Label, place_labels
from ..figures.style import (
    FAINT,
    GREY,
    Figure,
    mark_style,
    method_colours,
    method_shapes,
    new_figure,
    styled,
)
from ..text import CROWDED, listed, signed
from .arms import arms_of, label_of, paper_order
from .published import Published


@dataclass(frozen=True)
class Point:
    """One arm in one panel: its gain in points and its change of perplexity in per cent."""

    method: str
    label: str
    gain: Interval
    drift: Interval


@styled
def published_against_measured(
    studies: Mapping[str, Sequence[Record]], published: Published
) -> Figure:
    """Exam gain (points) against perplexity change (%): a panel as published, one a study.

    studies: records by `profile/study`. A study without a base run, or without a trained arm that
    has both measurements, has no panel, and the caption says so. Dotted lines are the exam's
    floors (`tasks.floors`) as gains over the base model. Axes differ between panels.
    """
    panels = {published.paper: _published_points(published)}
    floors: dict[str, dict[str, float]] = {published.paper: {}}
    empty = []
    for where, records in studies.items():
        points = _measured_points(records)
        panels |= {where: points} if points else {}
        floors |= {where: _floors(records)} if points else {}
        empty += [] if points else [where]
    shown = {point.method: point.label for points in panels.values() for point in points}
    methods = paper_order(list(shown), published)
    rows, odd = (len(panels) + 1) // 2, len(panels) % 2
    below = 0.0 if odd else 0.4 + 0.2 * (len(methods) // 4 + 1)
    figure = new_figure((4.0 if rows == 1 else 3.9 * rows) + below)
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for ax, (title, points) in zip(grid, panels.items(), strict=False):
        _panel(ax, title, points, floors[title], title == published.paper)
    handles = _handles(methods, shown)
    style: dict[str, Any] = {
        "handles": handles,
        "frameon": False,
        "fontsize": 9,
        "handletextpad": 0.3,
    }
    if odd:  # the last cell is free
        grid[-1].axis("off")
        grid[-1].legend(loc="center", ncols=1 if len(handles) < 11 else 2, **style)
    else:
        figure.legend(loc="outside lower center", ncols=4, **style)
    figure.set_layout_engine("constrained", w_pad=0.1)  # inches; room for the names of lines
    for ax, points in zip(grid, panels.values(), strict=False):
        _names(ax, points)
    caption = (
        "What was learned against what was forgotten, as published "
        f"({published.paper}) and in the studies on record here. Up is more learned, right is "
        "more forgotten, and the grey dot at the origin is the base model. Methods of a family "
        "share a hue. Axes differ: compare the order and the shape, not the lengths. Lines "
        "through our marks are 95 % intervals; the paper gives none."
    )
    if len(panels) > 1:
        caption += " Dotted lines: what needs no language model, in points from the base model."
    if empty:
        caption += f" Without a trained arm to draw: {listed(empty)}."
    return Figure(figure, caption, _alt(panels, floors))


def _published_points(published: Published) -> list[Point]:
    points = []
    for method in published.arms:
        gain = published.change(method, "base", "exam_accuracy")
        drift = published.change(method, "base", "prose_perplexity")
        if method != "base" and gain is not None and drift is not None:
            given = (Interval(value, math.nan, math.nan, 1) for value in (gain, drift))
            points.append(Point(method, label_of(method, {}), *given))
    return points


def _measured_points(records: Sequence[Record]) -> list[Point]:
    arms = arms_of(records)
    base = arms.get("base")
    points = []
    for method, arm in arms.items():
        if base is None or arm.is_base:
            continue
        if not all(a.has(m) for a in (arm, base) for m in ("exam_accuracy", "prose_perplexity")):
            continue
        point = Point(
            method, arm.first.label, change(arm, base, "exam_accuracy"),
            change(arm, base, "prose_perplexity"),
        )  # fmt: skip
        if point.gain.known and point.drift.known:
            points.append(point)
    return points


def _floors(records: Sequence[Record]) -> dict[str, float]:
    """What needs no language model, in points above the base model on record."""
    base = arms_of(records)["base"]
    before = level(base, "exam_accuracy").value
    return {
        name.removeprefix("a ").removeprefix("the "): value - before
        for name, value in floors_of(base.first.baselines).items()
    }


def _panel(
    ax: Axes, title: str, points: Sequence[Point], floors: dict[str, float], first: bool
) -> None:
    colours = method_colours(point.method for point in points)
    marks = method_shapes(point.method for point in points)
    ax.axhline(0, color=FAINT, linewidth=1, zorder=1)
    ax.axvline(0, color=FAINT, linewidth=1, zorder=1)
    for value in floors.values():
        ax.axhline(value, color=GREY, linewidth=1, linestyle=":", zorder=1)
    for point in points:
        colour = colours[point.method]
        bars(ax, point.drift, point.gain, colour)
        mark = mark_style(marks[point.method])
        ax.plot(point.drift.value, point.gain.value, color=colour, **mark)
    ax.plot(0, 0, color=colours["base"], **mark_style(marks["base"]))
    ax.set_title(f"Published: {title}" if first else f"Measured: {title}")
    ax.set(xlabel="perplexity change (%)", ylabel="exam gain (points)")
    ax.margins(0.14)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    widen(ax, 0.5, "x")
    widen(ax, 2.0, "y")
    spread_axis(ax, [point.drift for point in points], 8)
    name_levels(ax, floors, near=0.12, width=9)


def _handles(methods: Sequence[str], names: Mapping[str, str]) -> list[Line2D]:
    """The mark of every method with its name, in the paper's order, the base first."""
    colours, marks = method_colours(methods), method_shapes(methods)
    shown = [("base", "Base"), *((method, names[method]) for method in methods)]
    return [
        Line2D([], [], color=colours[method], label=label, **mark_style(marks[method]))
        for method, label in shown
    ]


def _names(ax: Axes, points: Sequence[Point]) -> None:
    """Names beside the marks, unless there are too many."""
    if len(points) > CROWDED:
        return
    colours = method_colours(point.method for point in points)
    labels = [
        Label(p.drift.value, p.gain.value, p.label, colours[p.method])
        for p in sorted(points, key=lambda point: -point.gain.value)
    ]
    left, right = ax.get_xlim()
    lines = []
    for p in points:
        if p.drift.bounded:
            lines.append((p.drift.low, p.gain.value, p.drift.high, p.gain.value))
        if p.gain.bounded:
            lines.append((p.drift.value, p.gain.low, p.drift.value, p.gain.high))
    place_labels(ax, labels, [(0.0, 0.0)], [(left, 0.0, right, 0.0), *lines])


def _alt(panels: Mapping[str, Sequence[Point]], floors: Mapping[str, Mapping[str, float]]) -> str:
    """Every point and every dotted line in words."""
    parts = ["Scatter plots of exam gain against the change of perplexity."]
    for title, points in panels.items():
        told = "; ".join(
            f"{p.label} {signed(p.gain.value, 1)} points at {signed(p.drift.value, 1)} %"
            for p in points
        )
        parts.append(f"{title}: {told}.")
        if floors[title]:
            lines = listed(f"{name} {signed(gain, 1)}" for name, gain in floors[title].items())
            parts.append(f"Without a language model: {lines} points.")
    return " ".join(parts)
