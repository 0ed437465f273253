"""The main figure: what each method learned against what it forgot."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .figstyle import (
    FAINT,
    GREY,
    Figure,
    Label,
    method_colours,
    new_figure,
    place_labels,
    study_shapes,
    styled,
)
from .record import MetricName, Record
from .stats import Interval
from .summary import (
    DRIFT_METRICS,
    Arm,
    arm_name,
    base_of,
    baseline_sentence,
    change,
    drift,
    group_arms,
    level,
    listed,
    seeds_sentence,
    setting_sentence,
)

DRIFT_TITLES = {
    "prose_perplexity": ("Prose", "perplexity change (%)"),
    "knowledge_accuracy": ("General knowledge", "accuracy lost (points)"),
    "self_kl": ("Its own text", "KL from the base (nats a token)"),
}


@styled
def gain_against_forgetting(records: Sequence[Record]) -> Figure:
    """Exam gain (points) against drift, one panel a probe, one mark an arm.

    Several learning rates of a method are joined in their order, starting at the base model.
    Studies differ in the shape of the mark. Raises ValueError if no trained run has both the
    exam and a probe, ResultsError if a study has no base run.
    """
    arms = [arm for arm in group_arms(records) if arm.has("exam_accuracy")]
    trained = [arm for arm in arms if not arm.is_base]
    panels = [m for m in DRIFT_METRICS if any(arm.has(m) for arm in trained)]
    if not panels:
        raise ValueError("records hold no trained run with exam_accuracy and a forgetting probe")
    gains = {arm: change(arm, base_of(arm, arms), "exam_accuracy") for arm in trained}
    shapes = study_shapes(arm.first.study for arm in arms)
    rows, columns = (1, len(panels)) if len(panels) < 3 else (2, 2)
    figure = new_figure(4.2 if rows == 1 else 7.2)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    drifts = {}
    for ax, metric in zip(grid, panels, strict=False):
        shown = [arm for arm in trained if arm.has(metric)]
        drifts[metric] = {arm: drift(arm, base_of(arm, arms), metric) for arm in shown}
        _gain_panel(ax, metric, gains, drifts[metric], shapes)
    for ax in grid[::columns]:
        ax.set_ylabel("exam gain (points)")
    if len(panels) == 3:
        _reading_guide(grid[3], arms, shapes)
    for ax, metric in zip(grid, panels, strict=False):
        _name_marks(ax, gains, drifts[metric], _base_label(arms))
    sweep = len(trained) > len({(arm.first.study, arm.first.method) for arm in trained})
    joined = " Lines join the learning rates of a method in their order." if sweep else ""
    caption = (
        f"What was learned against what was forgotten. Up is more learned, right is more "
        f"forgotten; the base model is at the origin.{joined} {setting_sentence(arms)} "
        f"{seeds_sentence(arms)} {baseline_sentence(arms)}"
    )
    alt = f"Scatter plots of exam gain against {listed(DRIFT_TITLES[m][1] for m in panels)}. "
    alt += " ".join(
        _arm_sentence(arm, arms, gains[arm], {m: drifts[m].get(arm) for m in panels})
        for arm in trained
    )
    return Figure(figure, caption, alt)


def _gain_panel(
    ax: Axes,
    metric: MetricName,
    gains: dict[Arm, Interval],
    drifts: dict[Arm, Interval],
    shapes: dict[str, str],
) -> None:
    """Marks, intervals, zero lines and sweep lines of one probe."""
    colours = method_colours(arm.first.method for arm in gains)
    ax.axhline(0, color=FAINT, linewidth=1, zorder=1)
    ax.axvline(0, color=FAINT, linewidth=1, zorder=1)
    lines: dict[tuple, list[tuple[float, float]]] = {}
    for arm, interval in drifts.items():
        if not interval.known:
            continue
        x, y = interval.value, gains[arm].value
        colour = colours[arm.first.method]
        _bars(ax, interval, gains[arm], colour)
        ax.plot(
            x,
            y,
            shapes[arm.first.study],
            color=colour,
            markersize=7,
            markeredgecolor="white",
            markeredgewidth=0.7,
            zorder=4,
        )
        lines.setdefault((arm.first.study, arm.first.method), [(0, 0)]).append((x, y))
    for (_, method), points in lines.items():
        if len(points) > 2:
            ax.plot(
                *zip(*points, strict=True),
                color=colours[method],
                linewidth=0.9,
                alpha=0.7,
                zorder=2,
            )
    ax.plot(0, 0, "o", color=colours["base"], markersize=7, markeredgecolor="white", zorder=5)
    title, label = DRIFT_TITLES[metric]
    ax.set(title=title, xlabel=label)
    ax.margins(0.12)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    _spread_axis(ax, [interval.value for interval in drifts.values() if interval.known])


def _bars(ax: Axes, across: Interval, up: Interval, colour: str) -> None:
    """The 95 % intervals of a mark in both directions, where they are known."""
    style = {"color": colour, "linewidth": 1.3, "alpha": 0.55, "zorder": 3}
    if across.bounded:
        ax.plot([across.low, across.high], [up.value] * 2, **style)
    if up.bounded:
        ax.plot([across.value] * 2, [up.low, up.high], **style)


def _spread_axis(ax: Axes, values: Sequence[float]) -> None:
    """Use an axis that is linear near zero and logarithmic beyond, if one scale hides most."""
    sizes = sorted(abs(value) for value in values)
    if len(sizes) < 3 or not sizes[-1] > 25 * sizes[len(sizes) // 2] > 0:
        return
    threshold = 10 ** math.floor(math.log10(sizes[len(sizes) // 2]))
    ax.set_xscale("symlog", linthresh=threshold)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, -threshold), high)


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
        if held is None or (
            held.first.study == arm.first.study and gains[arm].value > gains[held].value
        ):
            best[arm.first.method] = arm
    labels = [Label(0, 0, base_label, colours["base"])] + [
        Label(known[arm].value, gains[arm].value, arm.first.label, colours[arm.first.method])
        for arm in sorted(best.values(), key=lambda arm: -gains[arm].value)
    ]
    marks = [(known[arm].value, gains[arm].value) for arm in known]
    boxes = []
    for arm, across in known.items():
        up = gains[arm]
        if across.bounded:
            boxes.append((across.low, up.value, across.high, up.value))
        if up.bounded:
            boxes.append((across.value, up.low, across.value, up.high))
    place_labels(ax, labels, marks, boxes)


def _reading_guide(ax: Axes, arms: Sequence[Arm], shapes: dict[str, str]) -> None:
    """The fourth cell of three panels: how to read them, and the mark of each study."""
    ax.axis("off")
    lines = [
        ("Upper left is best:", "bold"),
        ("up = learned more,", "normal"),
        ("right = forgot more.", "normal"),
    ]
    top = 0.92
    for text, weight in lines:
        ax.text(0.12, top, text, transform=ax.transAxes, weight=weight, color=GREY)
        top -= 0.085
    chance = listed(f"{100 * arm.first.baselines.chance:.0f} %" for arm in arms)
    majority = listed(f"{100 * arm.first.baselines.majority:.0f} %" for arm in arms)
    bases = [level(arm, "exam_accuracy").value for arm in arms if arm.is_base]
    facts = [f"Exam: base model {listed(f'{value:.0f} %' for value in bases)},"]
    facts += [f"guessing {chance}, most frequent {majority}."]
    for text in facts:
        top -= 0.02
        ax.text(0.12, top, text, transform=ax.transAxes, color=GREY, size=9)
        top -= 0.065
    if len(shapes) > 1:
        for study, shape in shapes.items():
            top -= 0.09
            ax.plot(0.15, top + 0.015, shape, transform=ax.transAxes, color=GREY, markersize=7)
            ax.text(0.21, top, f"study {study}", transform=ax.transAxes, color=GREY, size=9)


def _arm_sentence(
    arm: Arm, arms: Sequence[Arm], gain: Interval, drifts: dict[MetricName, Interval | None]
) -> str:
    """One sentence on an arm for readers who do not see the figure."""
    units = {
        "prose_perplexity": ("perplexity changed by {:+.1f} %", 1),
        "knowledge_accuracy": ("knowledge accuracy changed by {:+.1f} points", -1),
        "self_kl": ("KL is {:.3f} nats a token", 1),
    }
    parts = [f"the exam gain is {gain.value:+.1f} points"]
    for metric, interval in drifts.items():
        if interval is not None and interval.known:
            text, sign = units[metric]
            parts.append(text.format(sign * interval.value))
    several = len({other.first.study for other in arms}) > 1
    study = f" in study {arm.first.study}" if several else ""
    return f"{arm_name(arm, arms)}{study}: {', '.join(parts)}."
