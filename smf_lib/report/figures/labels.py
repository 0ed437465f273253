"""Labels written beside points and lines of a figure so that they do not overlap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from matplotlib.typing import ColorType
from numpy.typing import NDArray

from .style import figure_of, text_colour

SIZE = 9


@dataclass(frozen=True)
class Label:
    """Text to be put beside the point (x, y), given in data units."""

    x: float
    y: float
    text: str
    colour: ColorType


DIRECTIONS = (
    (1, 0.35),
    (1, -0.35),
    (-1, 0.35),
    (-1, -0.35),
    (0, 1),
    (0, -1),
    (1, 1),
    (1, -1),
    (-1, 1),
    (-1, -1),
    (1, 2),
    (1, -2),
    (-1, 2),
    (-1, -2),
)
DISTANCES = (7, 13, 21, 31, 43, 57, 73, 91)


def place_labels(
    ax: Axes,
    labels: Sequence[Label],
    marks: Sequence[tuple[float, float]] = (),
    boxes: Sequence[tuple[float, float, float, float]] = (),
    lines: Sequence[Sequence[tuple[float, float]]] = (),
    clear: float = 5,
) -> list[Annotation]:
    """Write each label near its point without covering other labels, marks or error bars.

    Positions around the point are tried from near to far; the first free one is taken, and a
    thin line joins label and point when they are apart. marks: further points to keep clear.
    boxes: rectangles (x0, y0, x1, y1) in data units, such as error bars. lines: the corners of
    lines to keep clear. clear: radius of a mark in points. The figure's layout is fixed by this
    call, so all axes must be complete. Returns the annotations.
    """
    figure = figure_of(ax)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    to_pixels = ax.transData.transform
    scale = figure.dpi / 72
    frame = ax.get_window_extent()
    taken = [_around(to_pixels(mark), clear * scale) for mark in marks]
    taken += [_around(to_pixels((label.x, label.y)), clear * scale) for label in labels]
    for x0, y0, x1, y1 in boxes:
        (left, bottom), (right, top) = to_pixels((x0, y0)), to_pixels((x1, y1))
        taken.append((left - 1, bottom - 1, right + 1, top + 1))
    taken += [_around(dot, 2 * scale) for line in lines for dot in _dots(to_pixels(line), scale)]
    placed = []
    for label in labels:
        anchor = to_pixels((label.x, label.y))
        text = ax.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            size=SIZE,
            color=text_colour(label.colour),
            annotation_clip=False,
            zorder=6,
        )
        extent = text.get_window_extent()
        offset, box = _free_place(anchor, extent.width, extent.height, taken, frame, scale)
        text.set_position((offset[0] / scale, offset[1] / scale))
        taken.append(box.extents)
        if _gap(anchor, box) > (clear + 5) * scale:
            _leader(ax, label, box)
        placed.append(text)
    return placed


def _around(centre: NDArray[np.float64], radius: float) -> tuple[float, float, float, float]:
    """A square as (x0, y0, x1, y1)."""
    x, y = centre
    return (x - radius, y - radius, x + radius, y + radius)


def _dots(corners: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Points every 4 points of length along a line given by its corners in pixels (n, 2)."""
    lengths = np.hypot(*np.diff(corners, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    places = np.arange(0, along[-1] + 1e-9, 4 * scale)
    return np.stack([np.interp(places, along, corners[:, axis]) for axis in (0, 1)], axis=1)


def _gap(point: NDArray[np.float64], box: Bbox) -> float:
    """Distance in pixels from a point to the nearest side of a box."""
    dx = max(box.x0 - point[0], 0, point[0] - box.x1)
    dy = max(box.y0 - point[1], 0, point[1] - box.y1)
    return (dx * dx + dy * dy) ** 0.5


def _leader(ax: Axes, label: Label, box: Bbox) -> None:
    """A thin line from the point to the nearest place of its label's box."""
    x, y = ax.transData.transform((label.x, label.y))
    end = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
    ex, ey = ax.transData.inverted().transform(end)
    style: dict[str, Any] = {"color": label.colour, "linewidth": 0.7, "alpha": 0.7, "zorder": 1.5}
    ax.plot([label.x, ex], [label.y, ey], clip_on=False, scalex=False, scaley=False, **style)


def _free_place(
    anchor: NDArray[np.float64],
    width: float,
    height: float,
    taken: Sequence[Sequence[float]],
    frame: Bbox,
    scale: float,
) -> tuple[tuple[float, float], Bbox]:
    """Offset in pixels and box of the best place for a text of this size around `anchor`."""
    obstacles = np.asarray(taken).reshape(-1, 4)
    best = (math.inf, (0.0, 0.0), Bbox.unit())
    for distance in DISTANCES:
        for across, up in DIRECTIONS:
            dx = {1: 0, 0: -width / 2, -1: -width}[across] + across * distance * scale
            dy = up * distance * scale - height / 2
            x, y = anchor[0] + dx, anchor[1] + dy
            box = np.array([x - 2, y - 1, x + width + 2, y + height + 1])
            outside = (width + 4) * (height + 2) - _shared_area(box, np.array([frame.extents]))
            cost = _shared_area(box, obstacles) + 2 * outside
            if cost < best[0] - 1e-6:
                best = (cost, (dx, dy), Bbox.from_extents(*box))
        if best[0] <= 1e-6:
            break
    return best[1], best[2]


def _shared_area(box: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Summed area that `box` (x0, y0, x1, y1) shares with each of `others` (n, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return float(np.prod(np.clip(high - low, 0, None), axis=1).sum())


def label_ends(
    panels: Sequence[tuple[Axes, Sequence[Label]]], size: float = SIZE
) -> list[Annotation]:
    """Write the labels of lines in a column at each panel's right edge, none over another.

    A thin line joins each label to the end of its line, at the label's (x, y). The figure's
    layout makes room for the texts and is then fixed. Returns the annotations.
    """
    ordered = [(ax, sorted(labels, key=lambda label: label.y)) for ax, labels in panels]
    written = [[_end_text(ax, label, size) for label in labels] for ax, labels in ordered]
    figure = figure_of(panels[0][0])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    scale = figure.dpi / 72
    for (ax, labels), texts in zip(ordered, written, strict=True):
        edge = ax.get_window_extent().x1
        starts = [ax.transData.transform((label.x, label.y)) for label in labels]
        heights = _spread([y / scale for _, y in starts], size + 3)
        for label, text, (x, y), height in zip(labels, texts, starts, heights, strict=True):
            text.set_position((16, height - y / scale))
            points = [(x, y), (edge + 3 * scale, y), (edge + 14 * scale, height * scale)]
            xs, ys = zip(*ax.transData.inverted().transform(points), strict=True)
            style: dict[str, Any] = {"color": label.colour, "linewidth": 0.7, "alpha": 0.7}
            ax.plot(xs, ys, clip_on=False, scalex=False, scaley=False, **style)
    return [text for texts in written for text in texts]


def _end_text(ax: Axes, label: Label, size: float) -> Annotation:
    """The label's text beside the right edge at the height of its line's end."""
    return ax.annotate(
        label.text,
        (1, label.y),
        xycoords=("axes fraction", "data"),
        xytext=(16, 0),
        textcoords="offset points",
        va="center",
        size=size,
        color=text_colour(label.colour),
    )


def label_beside(
    ax: Axes, labels: Sequence[Label], side: str, size: float = SIZE, **style: Any
) -> list[Annotation]:
    """Write labels to the left or right of points, moved up or down so that none is on another.

    side: "left" or "right". The figure's layout is fixed by this call. Returns the annotations.
    """
    figure = figure_of(ax)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    scale = figure.dpi / 72
    ordered = sorted(labels, key=lambda label: label.y)
    heights = [ax.transData.transform((label.x, label.y))[1] / scale for label in ordered]
    return [
        ax.annotate(
            label.text,
            (label.x, label.y),
            xytext=(-9 if side == "left" else 5, place - height),
            textcoords="offset points",
            ha="right" if side == "left" else "left",
            va="center",
            size=size,
            color=text_colour(label.colour),
            zorder=7,
            **style,
        )
        for label, height, place in zip(ordered, heights, _spread(heights, size + 4), strict=True)
    ]


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Sorted heights moved as little as needed (least squares) to lie `gap` or more apart."""
    blocks: list[list[float]] = []
    for index, height in enumerate(heights):
        blocks.append([height - index * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            mean, size = blocks.pop()
            other, more = blocks.pop()
            blocks.append([(mean * size + other * more) / (size + more), size + more])
    starts = [mean for mean, size in blocks for _ in range(int(size))]
    return [start + index * gap for index, start in enumerate(starts)]
