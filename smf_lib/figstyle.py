"""What all figures share: style, colours, marks, labels that do not overlap, and the result type.

Colours are those of Okabe and Ito, which readers with any common colour vision can tell apart,
darkened a little where they carry text.
"""

import base64
import functools
import html
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Canvas
from matplotlib.transforms import Bbox

from .summary import METHOD_ORDER

WIDTH = 8.0
DPI = 160
GREY = "#5f5f5f"
FAINT = "#c8c8c8"
COLOURS = {
    "base": "#6e6e6e",
    "full": "#d55e00",
    "lora": "#e69f00",
    "smf-kl": "#0072b2",
    "smf-tfidf": "#56b4e9",
}
FURTHER = ("#009e73", "#cc79a7", "#7f3c8d", "#a5aa00", "#8c564b", "#00868b", "#b22222")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.7,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "lines.linewidth": 1.4,
}


@dataclass(frozen=True)
class Figure:
    """A drawn figure with its caption and its text for readers who do not see it.

    In a notebook it shows as an image with that text and the caption below.
    """

    fig: Canvas
    caption: str
    alt: str

    def png(self) -> bytes:
        """The figure as PNG."""
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.fig.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write the PNG to `path`."""
        path = Path(path)
        path.write_bytes(self.png())
        return path

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.png()).decode()
        return (
            f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}" '
            f'style="max-width:100%"><figcaption>{html.escape(self.caption)}</figcaption></figure>'
        )


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function under the shared style, leaving matplotlib's settings as they are."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def new_figure(height: float) -> Canvas:
    """An empty figure as wide as a page; height in inches."""
    figure = Canvas(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def method_colours(methods: Iterable[str]) -> dict[str, str]:
    """A colour a method: fixed for the study's methods, in order of name for further ones."""
    further = sorted(set(methods) - set(METHOD_ORDER))
    extra = {name: FURTHER[i % len(FURTHER)] for i, name in enumerate(further)}
    return COLOURS | extra


def study_shapes(studies: Iterable[str]) -> dict[str, str]:
    """A shape of mark a study, in the order in which they are first named."""
    names = list(dict.fromkeys(studies))
    return {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(names)}


def text_colour(colour: str) -> tuple[float, float, float]:
    """`colour` dark enough to be read as text on white (WCAG contrast of 4.5 or more)."""
    rgb = to_rgb(colour)
    while _contrast_with_white(rgb) < 4.5:
        rgb = tuple(0.95 * channel for channel in rgb)
    return rgb


def _contrast_with_white(rgb: Sequence[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 1.05 / (luminance + 0.05)


@dataclass(frozen=True)
class Label:
    """Text to be put beside the point (x, y), given in data units."""

    x: float
    y: float
    text: str
    colour: str


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
    size: float = 9,
) -> list:
    """Write each label near its point without covering other labels, marks or error bars.

    Positions around the point are tried from near to far; the first free one is taken, and a
    thin line joins label and point when they are apart. marks: further points to keep clear.
    boxes: rectangles (x0, y0, x1, y1) in data units, such as error bars. The figure's layout is
    fixed by this call, so all axes must be complete. Returns the annotations.
    """
    figure = ax.figure
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    to_pixels = ax.transData.transform
    scale = figure.dpi / 72
    frame = ax.get_window_extent()
    taken = [_around(to_pixels(mark), 5 * scale) for mark in marks]
    taken += [_around(to_pixels((label.x, label.y)), 5 * scale) for label in labels]
    for x0, y0, x1, y1 in boxes:
        (left, bottom), (right, top) = to_pixels((x0, y0)), to_pixels((x1, y1))
        taken.append(Bbox.from_extents(left - 1, bottom - 1, right + 1, top + 1))
    placed = []
    for label in labels:
        anchor = to_pixels((label.x, label.y))
        text = ax.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            size=size,
            color=text_colour(label.colour),
            annotation_clip=False,
            zorder=6,
        )
        extent = text.get_window_extent(figure.canvas.get_renderer())
        offset, box = _free_place(anchor, extent.width, extent.height, taken, frame, scale)
        text.set_position((offset[0] / scale, offset[1] / scale))
        taken.append(box)
        if max(abs(box.x0 - anchor[0]), abs(box.y0 - anchor[1])) and _gap(anchor, box) > 14 * scale:
            _leader(ax, label, box)
        placed.append(text)
    return placed


def _around(centre: Sequence[float], radius: float) -> Bbox:
    x, y = centre
    return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)


def _gap(point: Sequence[float], box: Bbox) -> float:
    """Distance in pixels from a point to the nearest side of a box."""
    dx = max(box.x0 - point[0], 0, point[0] - box.x1)
    dy = max(box.y0 - point[1], 0, point[1] - box.y1)
    return (dx * dx + dy * dy) ** 0.5


def _leader(ax: Axes, label: Label, box: Bbox) -> None:
    """A thin line from the point to the nearest place of its label's box."""
    x, y = ax.transData.transform((label.x, label.y))
    end = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
    ex, ey = ax.transData.inverted().transform(end)
    ax.plot(
        [label.x, ex],
        [label.y, ey],
        color=FAINT,
        linewidth=0.8,
        zorder=1.5,
        clip_on=False,
        scalex=False,
        scaley=False,
    )


def _free_place(
    anchor: Sequence[float],
    width: float,
    height: float,
    taken: Sequence[Bbox],
    frame: Bbox,
    scale: float,
) -> tuple[tuple[float, float], Bbox]:
    """Offset in pixels and box of the best place for a text of this size around `anchor`."""
    best = None
    for step, distance in enumerate(DISTANCES):
        for rank, (across, up) in enumerate(DIRECTIONS):
            dx = {1: 0, 0: -width / 2, -1: -width}[across] + across * distance * scale
            dy = up * distance * scale - height / 2
            x, y = anchor[0] + dx, anchor[1] + dy
            box = Bbox.from_extents(x - 2, y - 1, x + width + 2, y + height + 1)
            overlap = sum(_shared_area(box, other) for other in taken)
            outside = box.width * box.height - _shared_area(box, frame)
            cost = (overlap + 2 * outside, 10 * step + rank)
            if best is None or cost < best[0]:
                best = (cost, (dx, dy), box)
        if best is not None and best[0][0] <= 1e-6:
            break
    return best[1], best[2]


def _shared_area(first: Bbox, second: Bbox) -> float:
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    return max(width, 0) * max(height, 0)
