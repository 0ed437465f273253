"""Figures of single runs and sweeps: exam accuracy, learning rates, training loss."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.typing import ColorType

from ...study.profiles import Profile
from ...study.records.record import Record
from ..analysis.arms import Arm, arm_name, group_arms, method_rank
from ..analysis.captions import (
    baseline_sentence,
    seeds_sentence,
    setting_sentence,
)
from ..analysis.effects import level
from ..analysis.floors import close_ones, floors_of
from ..analysis.interval import Interval
from ..analysis.rates import equal_gain_rates
from ..measures import EXAM
from ..text import CROWDED, listed, rate_text
from .axes import beside, log_scale, name_levels
from .labels import Label, label_ends, place_labels
from .style import (
    DASHES,
    GREY,
    Figure,
    method_colours,
    method_family,
    new_figure,
    shade,
    study_dashes,
    study_shapes,
    styled,
    text_colour,
    told_apart,
)


@styled
def exam_accuracy(records: Sequence[Record]) -> Figure:
    """Exam accuracy (%) of every arm with its interval, beside its floors (`tasks.floors`).

    Raises ValueError if no record holds the exam.
    """
    arms = [arm for arm in group_arms(records) if arm.has(EXAM)]
    if not arms:
        raise ValueError(f"records hold no run with {EXAM}")
    levels = {arm: level(arm, EXAM) for arm in arms}
    shapes = study_shapes(arm.where for arm in arms)
    names = list(dict.fromkeys(arm_name(arm, arms) for arm in arms))
    colours = method_colours(arm.first.method for arm in arms)
    figure = new_figure(1.3 + (0.24 + 0.18 * len(shapes)) * len(names) + 0.25 * (len(shapes) > 1))
    ax = figure.subplots()
    for arm, interval in levels.items():
        studies = list(shapes)
        shift = 0.7 / len(studies) * (studies.index(arm.where) - (len(studies) - 1) / 2)
        y, colour = names.index(arm_name(arm, arms)) + shift, colours[arm.first.method]
        ax.plot([interval.low, interval.high], [y, y], color=colour, linewidth=2, alpha=0.6)
        ax.plot(
            interval.value,
            y,
            shapes[arm.where],
            color=colour,
            markersize=8,
            markeredgecolor="white",
            label=f"study {arm.where}",
        )
        beside(ax, (interval.high, y), f"{interval.value:.1f}", text_colour(colour))
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.margins(x=0.08, y=0.5 / max(len(names), 1))
    _draw_floors(ax, arms)
    ax.set_xlabel("exam accuracy (%)")
    ax.grid(axis="x")
    if len(shapes) > 1:
        handles = [
            ax.plot([], [], shape, color=GREY, label=f"study {study}")[0]
            for study, shape in shapes.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    caption = (
        f"Exam accuracy of each method. {setting_sentence(arms)} {seeds_sentence(arms)} "
        f"{baseline_sentence(arms)}"
    )
    alt = "Dot plot of exam accuracy. " + " ".join(
        f"{arm_name(arm, arms)} in study {arm.where}: {interval.value:.1f} %, interval "
        f"{interval.low:.1f} to {interval.high:.1f} %."
        for arm, interval in levels.items()
    )
    alt += f" Dashed lines without a language model: {listed(_floors(arms))} %."
    return Figure(figure, caption, alt)


def _floors(arms: Sequence[Arm]) -> dict[str, float]:
    """What is had without a language model, in per cent, by its name and number."""
    kept = [
        floors_of(baselines)
        for baselines in {arm.where: arm.first.baselines for arm in arms}.values()
    ]
    short = {
        f"{name.removeprefix('a ').removeprefix('the ')} {value:.1f}": value
        for floors in kept
        for name, value in floors.items()
    }
    return short


def _draw_floors(ax: Axes, arms: Sequence[Arm]) -> None:
    """A line for each floor, named above the panel; close ones in one line of text."""
    floors = _floors(arms)
    for value in floors.values():
        ax.axvline(value, color=GREY, linewidth=1, linestyle="--", zorder=1)
    low, high = ax.get_xlim()
    for rank, (value, text) in enumerate(close_ones(floors, 0.1 * (high - low))):
        ax.annotate(
            text,
            (value, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3 + 12 * rank),
            textcoords="offset points",
            ha="left" if value < (low + high) / 2 else "right",
            color=GREY,
            size=8.5,
        )


@styled
def learning_rate_sweep(records: Sequence[Record], profile: Profile | None = None) -> Figure:
    """Exam accuracy (%) against learning rate, one line a method, one rate of each ringed.

    It is the one that `profile` has, or without a profile the one that `equal_gain_rates` chooses.
    Many methods are drawn a few a panel. Raises ValueError if no trained run holds the exam, or all
    of them diverged.
    """
    held = [arm for arm in group_arms(records) if arm.has(EXAM)]
    levels = {arm: level(arm, EXAM) for arm in held}
    arms = [arm for arm in held if levels[arm].known]
    lost = [arm_name(arm, held) for arm in held if not levels[arm].known]
    trained = [arm for arm in arms if not arm.is_base]
    if not trained:
        raise ValueError(f"records hold no trained run with {EXAM}")
    chosen = equal_gain_rates(records) if profile is None else _own_rates(profile, trained)
    panels = told_apart(list(dict.fromkeys(arm.first.method for arm in trained)))
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(4.4 if rows == 1 else 3.4 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax in grid[len(panels) :]:
        ax.axis("off")
    log_scale(grid[0], "x")
    shown = [[arm for arm in trained if arm.first.method in methods] for methods in panels]
    for ax, members in zip(grid, shown, strict=False):
        _rate_lines(ax, members, levels, chosen)
        _base_lines(ax, arms, levels)
        for value in _floors(trained).values():
            ax.axhline(value, color=GREY, linewidth=1, linestyle=":", zorder=1)
        ax.margins(x=0.12, y=0.12)
        ax.grid()
    for ax in grid[max(0, len(panels) - columns) : len(panels)]:
        ax.set_xlabel("learning rate")
        ax.xaxis.set_tick_params(labelbottom=True)
    for ax in grid[::columns]:
        ax.set_ylabel("exam accuracy (%)")
    for ax in grid[columns - 1 : len(panels) : columns]:
        name_levels(ax, _floors(trained))
    figure.set_layout_engine("constrained", w_pad=0.18)  # inches; room for the names
    for ax, members in zip(grid, shown, strict=False):
        _name_rate_lines(ax, members, levels)
    ringed = ", ".join(
        f"{_label_of(method, trained)} {rate_text(rate)}"
        for method, rate in sorted(chosen.items(), key=lambda item: method_rank(item[0]))
    )
    rings = (
        "the chosen rates, each the lowest that learns as much, within one standard error, as the "
        "method that learns least does at its best"
        if profile is None
        else f"the rates of the profile {profile.name}"
    )
    marked = f"; rings mark {rings}: {ringed}" if ringed else ""
    caption = (
        f"Exam accuracy against learning rate{marked}. "
        f"{f'Diverged, so not drawn: {listed(lost)}. ' if lost else ''}"
        f"{setting_sentence(trained)} {seeds_sentence(arms)} {baseline_sentence(arms)}"
    )
    alt = "Line plot of exam accuracy against learning rate. " + " ".join(
        f"{line[0].first.label}: "
        + ", ".join(f"{levels[a].value:.1f} % at {rate_text(a.rate)}" for a in line)
        + "."
        for line in _rates_of(trained).values()
    )
    alt += f" Dotted lines without a language model: {listed(_floors(trained))} %."
    return Figure(figure, caption, alt)


def _own_rates(profile: Profile, arms: Sequence[Arm]) -> dict[str, float]:
    """The learning rate that a profile has for each method that was run at it and at others."""
    own = {}
    for (_, name), line in _rates_of(arms).items():
        rate = profile.methods[name].learning_rate if name in profile.methods else None
        if len(line) == 1 or not isinstance(rate, float):
            continue
        if any(math.isclose(arm.rate, rate) for arm in line):
            own[name] = rate
    return own


def _rates_of(arms: Sequence[Arm]) -> dict[tuple[str, str], list[Arm]]:
    """Arms by their study and method, in the order of their learning rates."""
    lines: dict[tuple[str, str], list[Arm]] = {}
    for arm in arms:
        lines.setdefault((arm.where, arm.first.method), []).append(arm)
    return lines


def _rate_lines(
    ax: Axes, arms: Sequence[Arm], levels: dict[Arm, Interval], chosen: dict[str, float]
) -> None:
    """A line a method and study through its rates, each with its interval; rings where chosen."""
    colours = method_colours(arm.first.method for arm in levels)
    shapes = study_shapes(arm.where for arm in levels if not arm.is_base)
    for (study, method), line in _rates_of(arms).items():
        rates, values = [arm.rate for arm in line], [levels[arm].value for arm in line]
        colour = colours[method]
        ax.plot(
            rates, values, f"{shapes[study]}-", color=colour, markersize=6, markeredgecolor="white"
        )
        for arm in line:
            ax.plot([arm.rate] * 2, [levels[arm].low, levels[arm].high], color=colour, alpha=0.4)
            if chosen.get(method) is not None and math.isclose(arm.rate, chosen[method]):
                ax.plot(
                    arm.rate, levels[arm].value, "o", markersize=13, markerfacecolor="none",
                    markeredgecolor=colour, markeredgewidth=1.5,
                )  # fmt: skip


def _base_lines(ax: Axes, arms: Sequence[Arm], levels: dict[Arm, Interval]) -> None:
    """A dashed line where each study's base model is."""
    bases = [arm for arm in arms if arm.is_base]
    for rank, value in enumerate(dict.fromkeys(levels[arm].value for arm in bases)):
        ax.axhline(value, color=GREY, linewidth=1, linestyle="--", zorder=1)
        ax.annotate(
            f"{bases[0].first.label} {value:.1f}",
            (0.3 * rank, value),
            xycoords=("axes fraction", "data"),
            xytext=(4, 3),
            textcoords="offset points",
            color=GREY,
            size=8.5,
        )


def _name_rate_lines(ax: Axes, arms: Sequence[Arm], levels: dict[Arm, Interval]) -> None:
    """Write each method's name once, at the rate at which it learns most in its first study."""
    colours = method_colours(arm.first.method for arm in levels)
    lines = _rates_of(arms)
    labels: dict[str, Label] = {}
    for (_, method), line in lines.items():
        best = max(line, key=lambda arm: levels[arm].value)
        label = Label(best.rate, levels[best].value, best.first.label, colours[method])
        labels.setdefault(method, label)
    boxes = [(arm.rate, levels[arm].low, arm.rate, levels[arm].high) for arm in arms]
    marks = [(arm.rate, levels[arm].value) for arm in arms]
    drawn = [[(arm.rate, levels[arm].value) for arm in line] for line in lines.values()]
    place_labels(ax, list(labels.values()), marks, boxes, drawn, clear=8)


def _label_of(method: str, arms: Sequence[Arm]) -> str:
    return next((arm.first.label for arm in arms if arm.first.method == method), method)


@styled
def training_loss(records: Sequence[Record]) -> Figure:
    """Training loss (nats a token) against optimizer step, a running mean over a twentieth.

    A method with several learning rates gets a panel of its own, with a line a rate; many methods
    get a panel a family, large families several. Of several studies the first is drawn solid.
    Raises ValueError if no record holds a training log.
    """
    arms = [arm for arm in group_arms(records) if arm.first.training_log]
    if not arms:
        raise ValueError("records hold no training_log")
    methods = list(dict.fromkeys(arm.first.method for arm in arms))
    sweep = any(arm_name(arm, arms) != arm.first.label for arm in arms)
    titles = {arm: arm.first.label for arm in arms} if sweep else dict.fromkeys(arms, "")
    if not sweep and len(methods) > CROWDED:
        titles = {arm: _family(arm.first.method, methods) for arm in arms}
    panels = [[a for a in arms if titles[a] == title] for title in dict.fromkeys(titles.values())]
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(4.2 if rows == 1 else 3.1 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax in grid[len(panels) :]:
        ax.axis("off")
    ends = [_loss_panel(ax, panel, arms, sweep) for ax, panel in zip(grid, panels, strict=False)]
    for ax, panel in zip(grid, panels, strict=False):
        ax.set_title(titles[panel[0]])
    for ax in grid[max(0, len(panels) - columns) : len(panels)]:
        ax.set_xlabel("optimizer step")
        ax.xaxis.set_tick_params(labelbottom=True)
    for ax in grid[::columns]:
        ax.set_ylabel("training loss (nats a token)")
    label_ends(list(zip(grid, ends, strict=False)))
    smoothed = "" if sweep else "; faint: every logged step of the first seed"
    dashes = study_dashes(arm.where for arm in arms)
    further = "".join(
        f"; {DASHES[dash]}: study {where}" for where, dash in list(dashes.items())[1:]
    )
    caption = (
        "Training loss, a running mean over a twentieth of the logged steps"
        f"{smoothed}{further}. {setting_sentence(arms)}"
    )
    alt = "Line plot of training loss. " + " ".join(
        f"{arm_name(arm, arms)}: from {_smooth(arm)[1][0]:.2f} to {_smooth(arm)[1][-1]:.2f}."
        for arm in arms
    )
    return Figure(figure, caption, alt)


def _family(method: str, methods: Sequence[str]) -> str:
    """The family of a method, with its part of it where a family is too large for one panel."""
    family = method_family(method)
    parts = told_apart([other for other in methods if method_family(other) == family])
    place = next(i for i, part in enumerate(parts, 1) if method in part)
    return family if len(parts) == 1 else f"{family} ({place} of {len(parts)})"


def _smooth(arm: Arm) -> tuple[np.ndarray, np.ndarray]:
    """Steps and running mean of the first seed's loss."""
    steps = np.array([entry.step for entry in arm.first.training_log])
    loss = np.array([entry.loss for entry in arm.first.training_log])
    window = max(1, len(loss) // 20)
    kernel = np.ones(window)
    return steps, np.convolve(loss, kernel, "same") / np.convolve(
        np.ones(len(loss)), kernel, "same"
    )


def _loss_panel(ax: Axes, panel: Sequence[Arm], arms: Sequence[Arm], sweep: bool) -> list[Label]:
    """Draw the arms of one panel; returns a label for a line's end, for each name one."""
    colours = method_colours(arm.first.method for arm in arms)
    dashes = study_dashes(arm.where for arm in arms)
    ax.grid(axis="y")
    labels: dict[str, Label] = {}
    for rank, arm in enumerate(panel):
        colour: ColorType = colours[arm.first.method]
        steps, loss = _smooth(arm)
        raw = [entry.loss for entry in arm.first.training_log]
        if not sweep:
            ax.plot(steps, raw, color=colour, alpha=0.18, linewidth=0.8)
        if sweep:
            colour = shade(colour, 1 - 0.6 * (len(panel) - 1 - rank) / len(panel))
        ax.plot(steps, loss, dashes[arm.where], color=colour)
        finite = np.flatnonzero(np.isfinite(loss))
        if len(finite):
            name = f"lr {rate_text(arm.rate)}" if sweep else arm_name(arm, arms)
            labels.setdefault(name, Label(steps[finite[-1]], loss[finite[-1]], name, colour))
    return list(labels.values())
