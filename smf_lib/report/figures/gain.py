"""The main figure: what each method learned against what it forgot."""

from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...study.records.record import MetricName, Record
from ..analysis.arms import Arm, arm_name, base_of, group_arms
from ..analysis.captions import baseline_sentence, seeds_sentence, setting_sentence
from ..analysis.effects import change, drift, level
from ..analysis.floors import highest_floor
from ..analysis.interval import Interval
from ..measures import EXAM, Measure, drift_measures
from ..text import CROWDED, MANY, listed, signed
from .axes import bars, spread_axis, widen
from .labels import Label, place_labels
from .style import (
    FAINT,
    GREY,
    MARKERS,
    Figure,
    mark_style,
    method_colours,
    method_shapes,
    new_figure,
    study_shapes,
    styled,
)


@styled
def gain_against_forgetting(records: Sequence[Record]) -> Figure:
    """Exam gain (points) against drift, one panel a probe, one mark an arm.

    Several learning rates of a method are joined in their order, starting at the base model.
    Studies differ in the shape of the mark; many methods are told apart by it, named in a legend,
    and studies then differ in the filling. Of very many, no intervals are drawn. Raises ValueError
    if no trained run has both the exam and a probe, ResultsError if a study has no base run.
    """
    arms = [arm for arm in group_arms(records) if arm.has(EXAM)]
    trained = [arm for arm in arms if not arm.is_base]
    probes = drift_measures(records, drawn=True)
    panels = {m: shown for m, shown in probes.items() if any(arm.has(m) for arm in trained)}
    if not panels:
        raise ValueError(f"records hold no trained run with {EXAM} and a forgetting probe")
    gains = {arm: change(arm, base_of(arm, arms), EXAM) for arm in trained}
    shapes = study_shapes(arm.where for arm in arms)
    crowded = _methods(trained) > CROWDED
    marks = method_shapes(arm.first.method for arm in trained) if crowded else {}
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = new_figure((4.4 if rows == 1 else 3.6 * rows) + (1.3 if crowded else 0))
    cells = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    grid, spare = cells[: len(panels)], cells[len(panels) :]
    drifts = {}
    for ax, (metric, measure) in zip(grid, panels.items(), strict=True):
        shown = [arm for arm in trained if arm.has(metric)]
        drifts[metric] = {arm: drift(arm, base_of(arm, arms), metric) for arm in shown}
        _gain_panel(ax, measure, gains, drifts[metric], shapes, marks)
    widen(grid[0], 4.0, "y")
    for ax in grid[::columns]:
        ax.set_ylabel("exam gain (points)")
    if len(spare):
        _reading_guide(spare[0], arms, shapes, crowded)
    elif len(panels) > 2:
        guide = "Upper left is best: up is more learned, right is more forgotten"
        figure.suptitle(guide, size=9.5, color=GREY)
    if len(shapes) > 1 and not crowded and not len(spare):
        _shape_legend(figure, shapes)
    if crowded:
        _method_legend(figure, arms)
        return Figure(figure, *_words(arms, gains, drifts, panels))
    for ax, metric in zip(grid, panels, strict=True):
        _name_marks(ax, gains, drifts[metric], _base_label(arms))
    return Figure(figure, *_words(arms, gains, drifts, panels))


def _methods(arms: Iterable[Arm]) -> int:
    """How many methods these arms have."""
    return len({arm.first.method for arm in arms})


def _words(
    arms: Sequence[Arm],
    gains: dict[Arm, Interval],
    drifts: dict[MetricName, dict[Arm, Interval]],
    panels: dict[MetricName, Measure],
) -> tuple[str, str]:
    """Caption and alternative text; of a sweep the alternative text gives the best rates."""
    best: dict[tuple[str, str], Arm] = {}
    for arm, gain in gains.items():
        held = best.setdefault((arm.where, arm.first.method), arm)
        if gain.value > gains[held].value:
            best[arm.where, arm.first.method] = arm
    sweep = len(gains) > len(best)
    joined = (
        " Lines start at the base model and join the learning rates of a method in their order."
    )
    lost = [a for a in gains if any(a in d and not d[a].known for d in drifts.values())]
    methods = _methods(gains)
    left_out = f" Intervals of {methods} methods would hide the marks; the tables hold them."
    diverged = f" Diverged, so not drawn: {listed(arm_name(a, arms) for a in lost)}."
    caption = (
        "What was learned against what was forgotten. Up is more learned, right is more "
        f"forgotten; the base model is at the origin.{joined if sweep else ''}"
        f"{diverged if lost else ''}{left_out if methods > MANY else ''} "
        f"{setting_sentence(arms)} {seeds_sentence(arms) if methods <= MANY else ''} "
        f"{baseline_sentence(arms)}"
    ).replace("  ", " ")
    against = listed(measure.drift_axis for measure in panels.values())
    alt = f"Scatter plots of exam gain against {against}. "
    alt += "At the learning rate of highest gain: " if sweep else ""
    alt += " ".join(
        _arm_sentence(arm, arms, gains[arm], {m: drifts[m].get(arm) for m in drifts})
        for arm in best.values()
    )
    return caption, alt


def _gain_panel(
    ax: Axes,
    measure: Measure,
    gains: dict[Arm, Interval],
    drifts: dict[Arm, Interval],
    shapes: dict[str, str],
    marks: dict[str, str],
) -> None:
    """Marks, intervals, zero lines and sweep lines of one probe."""
    colours = method_colours(arm.first.method for arm in gains)
    ax.axhline(0, color=FAINT, linewidth=1, zorder=1)
    ax.axvline(0, color=FAINT, linewidth=1, zorder=1)
    for arm, interval in drifts.items():
        if not interval.known:
            continue
        x, y = interval.value, gains[arm].value
        colour = colours[arm.first.method]
        if _methods(gains) <= MANY:
            bars(ax, interval, gains[arm], colour)
        ax.plot(x, y, color=colour, **_mark(arm, shapes, marks, colour))
    for method, points in _sweep_lines(gains, drifts):
        xs, ys = zip(*points, strict=True)
        ax.plot(xs, ys, color=colours[method], linewidth=0.9, alpha=0.7, zorder=2)
    ax.plot(0, 0, "o", color=colours["base"], markersize=7, markeredgecolor="white", zorder=5)
    ax.set(title=measure.panel, xlabel=measure.drift_axis)
    ax.margins(0.12)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    widen(ax, measure.least_span, "x")
    known = [interval for interval in drifts.values() if interval.known]
    spread_axis(ax, known, 8 if marks else 20)


def _mark(arm: Arm, shapes: dict[str, str], marks: dict[str, str], colour: str) -> dict:
    """The arm's mark: shaped by study, or, with many methods, by method and filled by study."""
    if not marks:
        return mark_style(MARKERS[0]) | {"marker": shapes[arm.where]}
    style = mark_style(marks[arm.first.method])
    if list(shapes).index(arm.where):
        style |= {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.3}
    return style


def _sweep_lines(
    gains: dict[Arm, Interval], drifts: dict[Arm, Interval]
) -> list[tuple[str, list[tuple[float, float]]]]:
    """Method and corners of each sweep of two learning rates or more, from the base model on."""
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for arm, interval in drifts.items():
        if interval.known:
            line = lines.setdefault((arm.where, arm.first.method), [(0.0, 0.0)])
            line.append((interval.value, gains[arm].value))
    return [(method, points) for (_, method), points in lines.items() if len(points) > 2]


def _base_label(arms: Sequence[Arm]) -> str:
    bases = [arm.first.label for arm in arms if arm.is_base]
    return bases[0] if bases else "base"


def _name_marks(
    ax: Axes, gains: dict[Arm, Interval], drifts: dict[Arm, Interval], base_label: str
) -> None:
    """Write each method's name once, at its point of highest gain in the first study."""
    colours = method_colours(arm.first.method for arm in gains)
    known = {arm: interval for arm, interval in drifts.items() if interval.known}
    best: dict[str, Arm] = {}
    for arm in known:
        held = best.get(arm.first.method)
        if held is None or (held.where == arm.where and gains[arm].value > gains[held].value):
            best[arm.first.method] = arm
    labels = [Label(0, 0, base_label, colours["base"])] + [
        Label(known[arm].value, gains[arm].value, arm.first.label, colours[arm.first.method])
        for arm in sorted(best.values(), key=lambda arm: -gains[arm].value)
    ]
    marks = [(known[arm].value, gains[arm].value) for arm in known]
    left, right = ax.get_xlim()
    boxes: list[tuple[float, float, float, float]] = [(left, 0, right, 0)]
    for arm, across in known.items():
        up = gains[arm]
        if across.bounded:
            boxes.append((across.low, up.value, across.high, up.value))
        if up.bounded:
            boxes.append((across.value, up.low, across.value, up.high))
    lines = [points for _, points in _sweep_lines(gains, drifts)]
    place_labels(ax, labels, marks, boxes, lines)


def _reading_guide(ax: Axes, arms: Sequence[Arm], shapes: dict[str, str], crowded: bool) -> None:
    """In the cell that an odd number of panels leaves free: how to read them, and each mark."""
    ax.axis("off")
    chance = listed(f"{100 * arm.first.baselines.chance:.0f} %" for arm in arms)
    majority = listed(f"{100 * arm.first.baselines.majority:.0f} %" for arm in arms)
    bases = [level(arm, EXAM).value for arm in arms if arm.is_base]
    tops = [highest_floor(arm.first.baselines) for arm in arms]
    highest = listed(f"{value:.0f} % ({name})" for name, value in tops)
    told = (
        f"The base model answers {listed(f'{v:.0f} %' for v in bases)} of the exam, guessing "
        f"{chance}, the option most often right in training {majority}. The most that is had "
        f"without a language model is {highest}."
    ).replace(" %", "\N{NO-BREAK SPACE}%")
    lines = [
        ("Upper left is best", "bold", 0.0),
        ("up: learned more", "normal", 0.09),
        ("right: forgot more", "normal", 0.08),
        ("", "normal", 0.06),
        *((line, "normal", 0.08) for line in wrap(told, 38)),
    ]
    place: dict[str, Any] = {"transform": ax.transAxes, "color": GREY, "size": 9.5}
    top = 0.93
    for text, weight, space in lines:
        top -= space
        ax.text(0.12, top, text, weight=weight, **place)
    if len(shapes) > 1:
        top -= 0.06
        for rank, (name, shape) in enumerate(shapes.items()):
            top -= 0.09
            filling = "white" if crowded and rank else GREY
            ax.plot(
                0.14, top + 0.018, "o" if crowded else shape, transform=ax.transAxes, color=GREY,
                markersize=7, markerfacecolor=filling, clip_on=False,
            )  # fmt: skip
            ax.text(0.19, top, f"study {name}", **place)


def _shape_legend(figure: Canvas, shapes: dict[str, str]) -> None:
    """The mark of each study, below figures that have no cell to spare."""
    handles = [
        Line2D([], [], marker=shape, linestyle="", color=GREY, label=f"study {name}")
        for name, shape in shapes.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)


def _method_legend(figure: Canvas, arms: Sequence[Arm]) -> None:
    """The mark of each method, below the panels."""
    colours = method_colours(arm.first.method for arm in arms)
    names = {arm.first.method: arm.first.label for arm in arms}
    marks = method_shapes(names)
    handles = [
        Line2D([], [], color=colours[method], label=label, **mark_style(marks[method]))
        for method, label in names.items()
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9,
        columnspacing=1.2, handletextpad=0.3,
    )  # fmt: skip


def _arm_sentence(
    arm: Arm, arms: Sequence[Arm], gain: Interval, drifts: dict[MetricName, Interval | None]
) -> str:
    """One sentence on an arm for readers who do not see the figure."""
    parts = [f"the exam gain is {signed(gain.value, 1)} points"]
    for metric, interval in drifts.items():
        if interval is not None and interval.known:
            parts.append(arm.measure(metric).told(interval.value))
    several = len({other.where for other in arms}) > 1
    study = f" in study {arm.where}" if several else ""
    return f"{arm_name(arm, arms)}{study}: {', '.join(parts)}."
