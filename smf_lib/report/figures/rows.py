"""Figures about memory rows: how often each is read, and which ones a selection rule picks.

All functions take plain arrays of one layer: counts are reads a row, rows are row numbers.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from .axes import log_scale
from .labels import Label, place_labels
from .style import COLOURS, FURTHER, GREY, Figure, new_figure, styled

TASK = "#222222"
RULE_COLOURS = {  # a rule has the colour of the method that trains by it
    **{rule: COLOURS[f"smf-{rule}"] for rule in ("kl", "tfidf", "random", "all")},
    "count": FURTHER[0],
}


def rule_colours(rules: Sequence[str]) -> dict[str, str]:
    """A colour a rule: fixed for the usual names (`kl`, `KL`, `smf-kl`), else in their order."""
    colours, spare = {}, iter((*FURTHER[1:], *FURTHER))
    for rule in rules:
        key = "".join(filter(str.isalnum, rule.lower())).removeprefix("smf")
        colours[rule] = RULE_COLOURS.get(key) or next(spare)
    return colours


def _counts(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Counts (M,) as float64. Raises ValueError unless one-dimensional, >= 0 and not all zero."""
    counts = np.asarray(values, dtype=np.float64)
    if counts.ndim != 1 or counts.size == 0 or (counts < 0).any() or counts.sum() == 0:
        raise ValueError(
            f"{name} must hold one read count >= 0 for each row and not only zeros; "
            f"its shape is {counts.shape}"
        )
    return counts


def _rows(rows: ArrayLike, size: int, rule: str) -> NDArray[np.int64]:
    """Row numbers as int64. Raises ValueError if one lies outside the table."""
    numbers = np.asarray(rows, dtype=np.int64).ravel()
    if numbers.size and (numbers.min() < 0 or numbers.max() >= size):
        raise ValueError(f"rule {rule!r} picks a row outside 0 to {size - 1}")
    return numbers


@styled
def read_frequency(
    background_counts: ArrayLike,
    task_counts: ArrayLike,
    picked: Mapping[str, ArrayLike] | None = None,
) -> Figure:
    """Reads a row, most read first, both axes logarithmic, with the rows that rules pick.

    background_counts, task_counts: (M,) reads of each row of one layer. picked: row numbers by
    rule; they are marked on the task's curve. Raises ValueError for counts that do not fit.
    """
    background = _counts(background_counts, "background_counts")
    task = _counts(task_counts, "task_counts")
    if background.shape != task.shape:
        raise ValueError(f"background_counts has {background.size} rows, task_counts {task.size}")
    marked = {r: _rows(rows, task.size, r) for r, rows in (picked or {}).items()}
    marked = {r: rows[task[rows] > 0] for r, rows in marked.items()}  # others have no rank
    figure = new_figure(4.2 + 0.22 * len(marked))
    heights = [4.2, 0.22 * len(marked)] if marked else [1]
    grid = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)
    ax = grid[0, 0]
    log_scale(ax, "xy")
    ax.set_ylabel("reads of the row")
    grid[-1, 0].set_xlabel("rank of the row, most read first")
    order = np.argsort(-task, kind="stable")
    rank = np.empty(task.size, dtype=np.int64)
    rank[order] = np.arange(1, task.size + 1)
    labels, marks = [], []
    for counts, name, colour in ((background, "background", GREY), (task, "task", TASK)):
        ordered = np.sort(counts[counts > 0])[::-1]
        ax.plot(np.arange(1, ordered.size + 1), ordered, color=colour, linewidth=1.6)
        at = ordered.size // 8 if name == "task" else ordered.size // 3
        labels.append(Label(at + 1, ordered[at], name, colour))
        steps = np.unique(np.geomspace(1, ordered.size, 60).astype(int))
        marks += [(step, ordered[step - 1]) for step in steps]
    ax.grid()
    if marked:
        _strips(grid[1, 0], {r: rank[rows] for r, rows in marked.items()})
    low = min(background[background > 0].min(), task[task > 0].min())
    ax.set_ylim(low * 0.7, max(background.max(), task.max()) * 2)
    ax.set_xlim(0.8, task.size * 1.3)
    place_labels(ax, labels, marks)
    ranks = " ".join(
        f"The median row picked by {rule} is number {np.median(rank[rows]):.0f} of {task.size} "
        "in the task's order."
        for rule, rows in marked.items()
        if rows.size
    )
    strips = " Strips: where the rows picked by each rule stand in the task's order."
    strips = strips if marked else ""
    caption = (
        "How often each memory row is read, in the background text and in the task, each sorted "
        f"by itself.{strips} {_never(background, task)} {ranks}"
    ).strip()
    top = max(1, task.size // 100)
    alt = (
        "Two falling curves of reads against rank on logarithmic axes. The most read 1 % of rows "
        f"take {_percent(_share(background, top))} of the background's reads and "
        f"{_percent(_share(task, top))} of the task's. {ranks}"
    ).strip()
    return Figure(figure, caption, alt)


def _strips(ax: Axes, ranks: Mapping[str, NDArray[np.int64]]) -> None:
    """A row of ticks a rule, one at the rank of each row that it picks."""
    colours = rule_colours(list(ranks))
    for height, (rule, places) in enumerate(ranks.items()):
        ax.vlines(places, height - 0.36, height + 0.36, color=colours[rule], alpha=0.45, lw=0.9)
    ax.set_yticks(range(len(ranks)), list(ranks))
    ax.set_ylim(len(ranks) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines.left.set_visible(False)


def _never(background: NDArray[np.float64], task: NDArray[np.float64]) -> str:
    return (
        f"Of {task.size:,} rows the background never reads {(background == 0).sum():,}, "
        f"the task {(task == 0).sum():,}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _share(counts: NDArray[np.float64], top: int) -> float:
    """Share of all reads that the `top` most read rows take."""
    return float(np.sort(counts)[::-1][:top].sum() / counts.sum())


@styled
def read_shares(
    background_counts: ArrayLike, task_counts: ArrayLike, picked: Mapping[str, ArrayLike]
) -> Figure:
    """Task share p of each row's reads against its smoothed background share q, by rule.

    One panel a rule, its rows coloured. q is add-one smoothed, as in the KL score. Rows that the
    task never reads are not drawn. Raises ValueError for counts or rows that do not fit.
    """
    background = _counts(background_counts, "background_counts")
    task = _counts(task_counts, "task_counts")
    if background.shape != task.shape:
        raise ValueError(f"background_counts has {background.size} rows, task_counts {task.size}")
    if not picked:
        raise ValueError("picked={} names no rule; give row numbers for at least one")
    p, q = task / task.sum(), (background + 1) / (background + 1).sum()
    columns = min(3, len(picked))
    rows = -(-len(picked) // columns)
    figure = new_figure(3.3 * rows if columns > 1 else 4.4)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    colours = rule_colours(list(picked))
    read = task > 0
    facts = []
    for ax, (rule, chosen) in zip(grid.ravel(), picked.items(), strict=False):
        chosen = _rows(chosen, task.size, rule)
        inside = np.zeros(task.size, dtype=bool)
        inside[chosen] = True
        log_scale(ax, "xy")
        other, mine = read & ~inside, read & inside
        ax.plot(q[other], p[other], ".", color="#bdbdbd", markersize=2.5, rasterized=True)
        ax.plot(q[mine], p[mine], ".", color=colours[rule], markersize=3.5, rasterized=True)
        ends = [min(q.min(), p[read].min()), max(q.max(), p.max())]
        ax.plot(ends, ends, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
        ax.set_title(rule)
        facts.append(
            f"{rule} picks {chosen.size:,} rows with {_percent(p[inside].sum())} of the task's "
            f"reads and {_percent(q[inside].sum())} of the background's."
        )
    for ax in grid.ravel()[len(picked) :]:
        ax.axis("off")
    for ax in grid[-1]:
        ax.set_xlabel("background share q")
    for ax in grid[:, 0]:
        ax.set_ylabel("task share p")
    caption = (
        "Each dot is a memory row: its share of the task's reads against its share of the "
        "background's. Coloured rows are picked by the rule; on the dashed line both shares are "
        f"equal. {' '.join(facts)}"
    )
    alt = f"Scatter plots of task share against background share, a panel a rule. {' '.join(facts)}"
    return Figure(figure, caption, alt)


@styled
def overlap_heatmap(picked: Mapping[str, ArrayLike]) -> Figure:
    """Share of one rule's rows that another rule picks too, every rule against every other.

    picked: row numbers by rule. Raises ValueError with fewer than two rules or an empty rule.
    """
    sets = {rule: set(np.asarray(rows).ravel().tolist()) for rule, rows in picked.items()}
    empty = [rule for rule, rows in sets.items() if not rows]
    if len(sets) < 2 or empty:
        raise ValueError(
            f"picked needs two rules or more with rows; got {list(sets)}, without rows: {empty}"
        )
    names = list(sets)
    shares = np.array([[len(sets[a] & sets[b]) / len(sets[a]) for b in names] for a in names])
    figure = new_figure(1.4 + 0.62 * len(names))
    ax = figure.subplots()
    sns.heatmap(
        shares,
        ax=ax,
        cmap="Blues",
        vmin=0,
        vmax=1,
        cbar=False,
        annot=[[_percent(share) for share in row] for row in shares],
        fmt="",
        annot_kws={"size": 11},
        xticklabels=names,
        yticklabels=[f"{name} ({len(sets[name]):,})" for name in names],
    )
    ax.set(xlabel="are also picked by", ylabel="of the rows picked by")
    ax.tick_params(length=0, labelrotation=0)
    pairs = [
        f"{len(sets[a] & sets[b]):,} rows are picked by both {a} and {b}"
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]
    caption = (
        "How much the rules agree: the share of the rows of the rule on the left that the rule "
        "below picks too; in brackets the number of rows."
    )
    return Figure(figure, caption, f"Heat map of overlap between rules. {'; '.join(pairs)}.")


@styled
def hub_rows(counts: Mapping[str, ArrayLike]) -> Figure:
    """Share of reads that the most read rows take, against the share of rows.

    counts: (M,) reads by name, for example `background` and `task`. The dashed line is what
    equal use of all rows would give. Raises ValueError for counts that do not fit.
    """
    if not counts:
        raise ValueError("counts={} names no curve; give the reads of at least one text")
    figure = new_figure(4.4)
    ax = figure.subplots()
    even = np.geomspace(0.01, 100, 200)
    ax.plot(even, even, color=GREY, linewidth=0.9, linestyle="--")
    colours = dict(zip(counts, (GREY, TASK, *FURTHER), strict=False))
    labels, marks, facts = [Label(30, 30, "equal use", GREY)], [], []
    marks += list(zip(even[::4], even[::4], strict=True))
    for place, (name, values) in enumerate(counts.items()):
        reads = _counts(values, name)
        share = 100 * np.cumsum(np.sort(reads)[::-1]) / reads.sum()
        percent = 100 * np.arange(1, reads.size + 1) / reads.size
        ax.plot(percent, share, color=colours[name])
        at = int(np.searchsorted(percent, 0.5 * 3**place).clip(0, reads.size - 1))
        labels.append(Label(percent[at], share[at], name, colours[name]))
        picks = np.unique(np.geomspace(1, reads.size, 50).astype(int)) - 1
        marks += list(zip(percent[picks], share[picks], strict=True))
        top = max(1, round(reads.size / 100))
        facts.append(
            f"{name}: the top 1 % of rows take {_percent(_share(reads, top))} of the reads, "
            f"half of the reads go to {np.searchsorted(share, 50) + 1:,} of "
            f"{reads.size:,} rows"
        )
    log_scale(ax, "x")
    ax.set(xlabel="most read rows (% of all rows)", ylabel="share of reads (%)")
    smallest = min(100 / np.size(values) for values in counts.values())
    ax.set(xlim=(smallest, 100), ylim=(0, 103))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.grid()
    place_labels(ax, labels, marks)
    caption = f"How much reading falls on few rows (hubs). {'; '.join(facts)}."
    return Figure(figure, caption, f"Rising curves of the share of reads. {'; '.join(facts)}.")
