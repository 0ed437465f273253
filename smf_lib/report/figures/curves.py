"""Whole curves of gain and drift: the main figure of the frontier, and small ones beside it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ...study.records.record import Record
from ...study.records.results import ResultsError
from ..analysis.ablations import Factor
from ..analysis.arms import Arm, group_arms
from ..analysis.captions import setting_sentence
from ..analysis.effects import change, level
from ..analysis.equal_gain import Curve, drift_of
from ..analysis.floors import close_ones, floors_of
from ..analysis.frontier import Frontier, NotOnRecord, ratio_text
from ..analysis.interval import Interval, Verdict
from ..measures import DIVERGENCE, EXAM
from ..text import listed, points_text, signed
from .labels import Label, label_beside, label_ends
from .style import FAINT, GREY, Figure, method_colours, new_figure, styled, text_colour

STEPS = 25  # gains at which a band is computed


@styled
def gain_and_divergence(
    frontier: Frontier,
    names: Sequence[str],
    at: float,
    references: Sequence[str] = (),
    own: Sequence[Record] = (),
) -> Figure:
    """Divergence from the base (nats a token, log axis) against exam gain (points), a line a curve.

    names: the curves that are drawn. references: those of them whose drift at a gain of `at` points
    is written as a multiple of that of the first. own: runs of another study of the same exam,
    of which those of the drawn methods are stars.

    Raises NotOnRecord if no curve of these names is there.
    """
    shown = _there(frontier, names)
    colours = method_colours(frontier.curves)
    figure = new_figure(5.2)
    ax = figure.subplots()
    labels = [_curve(ax, frontier, name, colours[name]) for name in shown]
    for name in shown:
        _band(ax, frontier.measured()[name], colours[name])
    _log_axis(ax)
    own = [run for run in own if run.kind == "base" or run.method in shown]
    points, told = _own_points(frontier, own)
    for method, gain, drift in points:
        ax.plot(
            [gain.low, gain.high], [drift, drift], color=colours.get(method, GREY), linewidth=1.2,
            alpha=0.6, zorder=5,
        )  # fmt: skip
        ax.plot(
            gain.value, drift, "*", color=colours.get(method, GREY), markersize=15,
            markeredgecolor="black", markeredgewidth=0.9, zorder=6,
        )  # fmt: skip
    if points:
        ax.annotate(
            f"\N{BLACK STAR} study {own[0].profile}/{own[0].study}", (0.99, 0.02), size=10,
            xycoords="axes fraction", ha="right", va="bottom", color=GREY,
        )  # fmt: skip
    ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
    ax.set_xlabel("exam gain over the base model (points): more is better", size=11)
    ax.set_ylabel("KL from the base model (nats a token): less is better", size=11)
    _at_line(ax, at)
    floors = _floors(ax, frontier)
    ax.grid(axis="y")
    label_ends([(ax, labels)], size=11)
    _compared(ax, frontier, shown[0], references, at)
    drifts = {name: frontier.drift(name, at) for name in shown if name in frontier.reached(at)}
    stars = f" Stars are {told}." if points else ""
    caption = (
        "What was learned against what was forgotten, along whole curves: each dot is a learning "
        "rate, lower right is best. Bands are 95 % intervals of the divergence at each gain, over "
        "questions and sequences, and over seeds where a curve has several, for comparing curves: "
        "what moves all of them alike is left out. At zero gain stands the base model, whose "
        f"divergence is zero.{floors}{stars}{_unconfirmed(frontier, shown[0], references, at)} "
        f"{setting_sentence(frontier.arms)}"
    )
    alt = (
        "Line plot of KL divergence on a logarithmic axis against exam gain. "
        + " ".join(_told_curve(frontier, name) for name in shown)
        + f" At a gain of {at:g} points: "
        + "; ".join(f"{frontier.label(name)} {found.value:.3g}" for name, found in drifts.items())
        + " nats a token."
    )
    return Figure(figure, caption, alt)


def _unconfirmed(frontier: Frontier, first: str, others: Sequence[str], at: float) -> str:
    """Which multiples beside the line the divergence on prose does not tell from one."""
    found = [
        frontier.label(name)
        for name in others
        if frontier.beside((first, name), at)[1].decided
        and frontier.by_divergence((first, name), at) is Verdict.LEVEL
    ]
    if not found:
        return ""
    return (
        " Multiples are of the divergence on the base model's own text; by that on prose "
        f"{frontier.label(first)} is {Verdict.LEVEL} from {listed(found)}."
    )


@styled
def beside_references(
    frontier: Frontier, names: Sequence[str], references: Sequence[str], at: float
) -> Figure:
    """Each curve of `names` in a panel of its own, with the references in grey behind it.

    Raises NotOnRecord if none of them is there.
    """
    behind = [name for name in references if name in frontier.measured()]
    shown = _there(frontier, names)
    colours = method_colours(frontier.curves)
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(0.5 + 2.6 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax in grid[len(shown) :]:
        ax.axis("off")
    grey: dict[Axes, list[Label]] = {}
    for ax, name in zip(grid, shown, strict=False):
        grey[ax] = [replace(_curve(ax, frontier, other, FAINT), colour=GREY) for other in behind]
        _curve(ax, frontier, name, colours[name])
        ax.axvline(at, color=GREY, linewidth=0.8, linestyle=":")
        ax.set_title(frontier.label(name), size=10, color=text_colour(colours[name]))
    _log_axis(grid[0])
    _shared_labels(grid, len(shown), columns)
    _room_at_the_right(grid[0], max(map(len, map(frontier.label, behind)), default=0), columns)
    for ax, labels in grey.items():
        label_beside(ax, labels, "right", size=7.5)
    caption = (
        "Every other method, each in a panel of its own, with those of the main figure in grey. "
        f"The dotted line is at {points_text(at)} points. {setting_sentence(frontier.arms)}"
    )
    alt = "Small line plots of KL divergence against exam gain. " + " ".join(
        _told_curve(frontier, name) for name in shown
    )
    return Figure(figure, caption, alt)


@styled
def passes(frontier: Frontier, pairs: Sequence[tuple[str, str]], at: float) -> Figure:
    """One pass over the questions beside several, a panel a method.

    pairs: curves with fewer and with more passes (`ablations.passes`). Raises NotOnRecord without
    any.
    """
    if not pairs:
        raise NotOnRecord(f"Study {frontier.where} has no method with several passes.")
    colours = method_colours(frontier.curves)
    figure = new_figure(3.5)
    grid = figure.subplots(1, len(pairs), sharex=True, sharey=True, squeeze=False).ravel()
    told = []
    named: dict[Axes, list[Label]] = {}
    for ax, (one, more) in zip(grid, pairs, strict=True):
        epochs = [_passes(frontier, name) for name in (one, more)]
        ends = [
            (_curve(ax, frontier, name, colours[one], linestyle=style), passed)
            for name, style, passed in zip((one, more), ("-", "--"), epochs, strict=True)
        ]
        named[ax] = [
            replace(label, text=f"{passed} pass" + ("es" if passed > 1 else ""))
            for label, passed in ends
        ]
        ax.axvline(at, color=GREY, linewidth=0.8, linestyle=":")
        ax.set_title(frontier.label(one), size=10.5)
        told += [_told_curve(frontier, name) for name in (one, more)]
    _log_axis(grid[0])
    _shared_labels(grid, len(pairs), len(pairs))
    _room_at_the_right(grid[0], len("3 passes"), len(pairs))
    for ax, labels in named.items():
        label_beside(ax, labels, "right")
    caption = (
        "One pass over the training questions (solid) and several at lower rates (dashed). If "
        "reading again is a better way to learn more than a higher rate, the dashed line lies "
        f"lower. {setting_sentence(frontier.arms)}"
    )
    return Figure(figure, caption, "Line plots of KL divergence against gain. " + " ".join(told))


@styled
def ablations(frontier: Frontier, factors: Sequence[Factor], at: float) -> Figure:
    """Drift at equal gain relative to the reference setting, a panel a factor.

    Raises NotOnRecord if no variant reaches the gain.
    """
    drawn = [factor for factor in factors if any(v.ratio.known for v in factor.others)]
    if not drawn:
        raise NotOnRecord(f"Study {frontier.where} has no variant beside its reference to draw.")
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = new_figure(0.4 + 2.5 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax in grid[len(drawn) :]:
        ax.axis("off")
    for ax, factor in zip(grid, drawn, strict=False):
        ax.axhline(1, color=FAINT, linewidth=1, zorder=1)
        for place, variant in enumerate(factor.variants):
            ratio, colour = variant.ratio, GREY if variant.is_reference else "#0072b2"
            if not ratio.known:
                begins, once = (ratio.reason.startswith(word) for word in ("begins", "one"))
                words = "one rate only" if once else "begins higher" if begins else "out of reach"
                ax.annotate(
                    words, (place, 0.04), xycoords=("data", "axes fraction"), rotation=90,
                    ha="center", va="bottom", size=7.5, color=GREY,
                )  # fmt: skip
                continue
            if ratio.bounded:
                ax.plot([place] * 2, [ratio.low, ratio.high], color=colour, alpha=0.55)
            shape = "s" if variant.is_reference else "o"
            ax.plot(place, ratio.value, shape, color=colour, markersize=6.5)
        ax.set_title(factor.title, size=10)
        values = [variant.value for variant in factor.variants]
        long = max(map(len, values)) > 8
        ax.set_xticks(range(len(values)), values, size=8, rotation=25 if long else 0)
        if long:
            for tick in ax.get_xticklabels():
                tick.set_ha("right")
        ax.set_xlim(-0.6, len(values) - 0.4)
        ax.grid(axis="y")
    grid[0].set_yscale("log")
    low, high = grid[0].get_ylim()
    grid[0].set_ylim(max(low, 0.02), min(high, 50))
    grid[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    grid[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    grid[0].yaxis.set_minor_formatter(NullFormatter())
    for ax in grid[::columns]:
        ax.set_ylabel("times the reference's KL", size=9)
    caption = (
        f"Drift at {points_text(at)} points of gain, as a multiple of that of the reference "
        "setting (grey square), one factor a panel: below 1 is better. Lines are 95 % intervals "
        "over questions and sequences, and over seeds where there are several; a point without "
        "one lies too near the end of its curve. "
        f"{setting_sentence(frontier.arms)}"
    )
    alt = "Dot plots of relative drift. " + " ".join(
        f"{factor.title}: "
        + ", ".join(f"{v.value} {ratio_text(v.ratio)}" for v in factor.variants if v.ratio.known)
        + "."
        for factor in drawn
    )
    return Figure(figure, caption, alt)


def _there(frontier: Frontier, names: Sequence[str]) -> list[str]:
    """The curves of these names that can be drawn."""
    shown = [name for name in dict.fromkeys(names) if name in frontier.measured()]
    if not shown:
        raise NotOnRecord(
            f"Nothing to draw: study {frontier.where} has no curve of "
            f"{listed(names) or 'other methods'} (two learning rates or more)."
        )
    return shown


def _curve(ax: Axes, frontier: Frontier, name: str, colour: str, linestyle: str = "-") -> Label:
    """Dots and the line through them; returns the label of the dot with the largest gain."""
    curve = frontier.measured()[name]
    gains, drifts = 100 * curve.gains[0], curve.back(curve.heights[0])
    ax.plot(
        gains, drifts, "o", linestyle=linestyle, color=colour, markersize=5.5,
        markeredgecolor="white", markeredgewidth=0.7, linewidth=1.9, zorder=3,
    )  # fmt: skip
    end = int(np.argmax(gains))
    return Label(gains[end], drifts[end], frontier.label(name), colour)


def _band(ax: Axes, curve: Curve, colour: str) -> None:
    """The 95 % interval of the drift at each gain, where there is one."""
    heights = np.linspace(curve.lowest, curve.highest, STEPS)
    found = [drift_of(curve, at) for at in heights]
    low, high = np.array([(i.low, i.high) if i.bounded else (np.nan,) * 2 for i in found]).T
    ax.fill_between(100 * heights, low, high, color=colour, alpha=0.18, linewidth=0, zorder=1.2)


def _log_axis(ax: Axes) -> None:
    """A logarithmic axis of drifts, with plain numbers, not made wider than bands need."""
    ax.set_yscale("log")
    drawn = [np.asarray(line.get_ydata()) for line in ax.lines if line.get_marker() == "o"]
    lines = np.concatenate(drawn)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, lines.min() / 3), min(high, 3 * lines.max()))
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(value, 0)))


def _shared_labels(grid: NDArray[Any], panels: int, columns: int) -> None:
    """Names of the axes at the left and at the lowest panel of each column."""
    for ax in grid[:panels:columns]:
        ax.set_ylabel("KL from the base", size=9)
    for ax in grid[max(0, panels - columns) : panels]:
        ax.set_xlabel("exam gain (points)", size=9)
        ax.xaxis.set_tick_params(labelbottom=True)


def _room_at_the_right(ax: Axes, letters: int, columns: int) -> None:
    """Room for words of so many letters beside the last points, in one of several columns."""
    low, high = ax.get_xlim()
    ax.set_xlim(right=high + 0.0095 * letters * columns * (high - low))


def _at_line(ax: Axes, at: float) -> None:
    ax.axvline(at, color=GREY, linewidth=1.1, linestyle="--", zorder=2)
    ax.annotate(
        f"equal gain: {points_text(at)} points", (at, 1.0), xycoords=("data", "axes fraction"),
        xytext=(0, 3), textcoords="offset points", ha="center", size=10, color="#333333",
    )  # fmt: skip


def _compared(
    ax: Axes, frontier: Frontier, first: str, references: Sequence[str], at: float
) -> None:
    """Where the line of equal gain is crossed, and how many times the first's drift that is."""
    reached = frontier.reached(at)
    if first not in reached:
        return
    labels = []
    for name in (name for name in (first, *references) if name in reached):
        height = frontier.drift(name, at).value
        ax.plot(
            at, height, "o", markersize=7.5, markeredgewidth=1.5, markeredgecolor="#333333",
            markerfacecolor="white", zorder=5,
        )  # fmt: skip
        if name != first:
            times = frontier.ratio((name, first), at).value
            words = f"{times:.2g} \N{MULTIPLICATION SIGN} {frontier.label(first)}"
            labels.append(Label(at, height, words, "#333333"))
    halo = [withStroke(linewidth=3, foreground="white")]
    label_beside(ax, labels, "left", size=11, weight="bold", path_effects=halo)


def _floors(ax: Axes, frontier: Frontier) -> str:
    """Mark the base model, and what needs no language model where it gains; says so in words."""
    ax.axvline(0, color=FAINT, linewidth=1.1, zorder=1)
    place: dict[str, Any] = {
        "textcoords": "offset points",
        "xycoords": ("data", "axes fraction"),
        "color": GREY,
    }
    ax.annotate("base model", (0, 0.0), xytext=(4, 5), size=9, **place)
    below = 0
    before = level(frontier.start, EXAM).value
    floors = {
        title: value - before for title, value in floors_of(frontier.start.first.baselines).items()
    }
    left, right = ax.get_xlim()
    inside = {title: value for title, value in floors.items() if left < value < right}
    for value in inside.values():
        ax.axvline(value, color=GREY, linewidth=0.9, linestyle=":", zorder=1)
    for value, text in close_ones(inside, 0.02 * (right - left)):
        below -= 13
        ax.annotate(text, (value, 1.0), xytext=(4, below), size=9, **place)
    told = listed(f"{title} {signed(value, 1)}" for title, value in floors.items())
    return f" On the same scale, without a language model: {told} points."


def _own_points(
    frontier: Frontier, records: Sequence[Record]
) -> tuple[list[tuple[str, Interval, float]], str]:
    """Method, gain and drift of each run of another study, and what study that is."""
    arms = [arm for arm in group_arms(records) if arm.has(EXAM)] if records else []
    base = next((arm for arm in arms if arm.is_base), None)
    found, used = [], []
    for arm in arms:
        if base is None or arm.is_base or not arm.has(DIVERGENCE):
            continue
        try:
            gain, drift = change(arm, base, EXAM), change(arm, base, DIVERGENCE)
        except ResultsError:
            continue
        if _same_exam(frontier, base) and gain.known and drift.known and drift.value > 0:
            found.append((arm.curve, gain, drift.value))
            used.append(arm)
    exam = used[0].first.data.exam if used else None
    if exam is None:
        return [], ""
    return found, (
        f"runs of study {used[0].where} with 95 % intervals of their gain ({exam.rows} questions, "
        f"{listed(arm.first.label for arm in used)})"
    )


def _same_exam(frontier: Frontier, base: Arm) -> bool:
    """Whether another study asks the same exam: its name, model and what the model can answer."""
    pair = frontier.start.first, base.first
    exams = {record.data.exam.name for record in pair if record.data.exam}
    if not len(exams) == len({record.model.sha256 for record in pair}) == 1:
        return False
    one, other = level(frontier.start, EXAM), level(base, EXAM)
    return one.low <= other.high and other.low <= one.high


def _passes(frontier: Frontier, name: str) -> int:
    return frontier.curves[name].first.settings["training"]["epochs"]


def _told_curve(frontier: Frontier, name: str) -> str:
    """A curve for readers who do not see it."""
    curve = frontier.measured()[name]
    points = zip(100 * curve.gains[0], curve.back(curve.heights[0]), strict=True)
    told = ", ".join(f"{signed(gain, 1)} points at {drift:.2g}" for gain, drift in points)
    return f"{frontier.label(name)}: {told}."
