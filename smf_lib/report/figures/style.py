"""What all figures share: style, colours, marks, and the result type.

Colours are those of Okabe and Ito, which readers with any common colour vision can tell apart,
darkened a little where they carry text.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Canvas
from matplotlib.typing import ColorType

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

Drawn = ParamSpec("Drawn")

from ..text import CROWDED, as_html

WIDTH = 8.0
DPI = 160
GREY = "#5f5f5f"
FAINT = "#c8c8c8"
# Methods of one family share a hue; within a family the mark tells the rule.
COLOURS = {
    "base": "#6e6e6e",
    "full": "#d55e00",
    "lora": "#e69f00",
    "smf-kl": "#0072b2",
    "smf-tfidf": "#56b4e9",
    "smf-random": "#004c78",
    "smf-all": "#7fa8c9",
    "additive-kl": "#009e73",
    "additive-tfidf": "#5cc4a5",
    "additive-s-kl": "#00664a",
    "additive-s-tfidf": "#8fb8a9",
    "replacement-kl": "#cc79a7",
    "replacement-tfidf": "#e0a8c6",
    "retrofit-additive": "#33493f",
    "retrofit-replacement": "#8a4a70",
    "osf": "#a5aa00",
    "ia3": "#767a00",
    "ln-tuning": "#c6c94a",
}
FURTHER = ("#8c564b", "#7f3c8d", "#00868b", "#b22222", "#b3b3b3", "#5b3a29", "#4b4bb0")
RULE_MARKERS = {
    "smf-tfidf": "s", "smf-random": "X", "smf-all": "P",
    "additive-tfidf": "s", "additive-s-kl": "D", "additive-s-tfidf": "v", "replacement-tfidf": "s",
    "retrofit-additive": "^", "retrofit-replacement": "^", "ia3": "s", "ln-tuning": "D",
}  # fmt: skip
FAMILIES = {
    "smf-": "Memory that starts at zero", "additive-": "Additive memory after stage 1",
    "replacement-": "Replacement memory after stage 1", "retrofit-": "Stage 1",
}  # fmt: skip
DASHES = {"-": "solid", "--": "dashed", ":": "dotted"}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SHAPES = (*MARKERS, "*", "p", "<", "h", ">")  # with FURTHER, enough for 84 further methods
STYLE: dict[RcKeyType, Any] = {
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
    "text.parse_math": False,  # a `$` in a method's label is a dollar
}


@dataclass(frozen=True)
class Figure:
    """A drawn figure with its caption and its text for readers who do not see it.

    In a notebook it shows as an image with that text and the caption below. `drawn_by` names the
    function that drew it, as `smf_lib/report/figures/curves.py:passes:120` (file, name, line).
    """

    fig: Canvas
    caption: str
    alt: str
    drawn_by: str = ""

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
            f'<figure data-drawn-by="{as_html(self.drawn_by)}">'
            f'<img src="data:image/png;base64,{data}" alt="{as_html(self.alt)}" '
            f'style="max-width:100%"><figcaption>{as_html(self.caption)}</figcaption></figure>'
        )


def styled(draw: Callable[Drawn, Figure]) -> Callable[Drawn, Figure]:
    """Run a drawing function under the shared style, leaving matplotlib's settings as they are.

    The figure is told which function drew it.
    """
    file = "/".join(draw.__module__.split(".")) + ".py"
    by = f"{file}:{draw.__name__}:{draw.__code__.co_firstlineno}"

    @functools.wraps(draw)
    def wrapper(*args: Drawn.args, **kwargs: Drawn.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return replace(draw(*args, **kwargs), drawn_by=by)

    return wrapper


def new_figure(height: float) -> Canvas:
    """An empty figure as wide as a page; height in inches."""
    figure = Canvas(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_of(ax: Axes) -> Canvas:
    """The figure that axes of `new_figure` lie in."""
    return cast("Canvas", ax.figure)


def method_colours(methods: Iterable[str]) -> dict[str, str]:
    """A colour a method: fixed for the study's methods, in order of name for further ones."""
    further = sorted(set(methods) - COLOURS.keys())
    extra = {name: FURTHER[i % len(FURTHER)] for i, name in enumerate(further)}
    return COLOURS | extra


def method_shapes(methods: Iterable[str]) -> dict[str, str]:
    """A mark a method: it tells those of one family apart, and further ones of one colour."""
    further = sorted(set(methods) - COLOURS.keys())
    extra = {name: SHAPES[i // len(FURTHER) % len(SHAPES)] for i, name in enumerate(further)}
    return dict.fromkeys(COLOURS, SHAPES[0]) | RULE_MARKERS | extra


def told_apart(methods: Sequence[str]) -> list[Sequence[str]]:
    """Methods in groups, within which colours tell them apart: all of them, or a few at a time."""
    if len(methods) <= CROWDED:
        return [methods]
    return [methods[i : i + len(FURTHER)] for i in range(0, len(methods), len(FURTHER))]


def mark_style(shape: str) -> dict[str, Any]:
    """How a mark of this shape is drawn where marks tell methods apart."""
    size = {"X": 8, "P": 8, "^": 8, "v": 8, "D": 6.2, "*": 11, "p": 8, "h": 8}.get(shape, 7)
    return {
        "marker": shape, "linestyle": "", "markersize": size, "markeredgecolor": "white",
        "markeredgewidth": 0.7, "zorder": 4,
    }  # fmt: skip


def method_family(method: str) -> str:
    """The family that a method belongs to, by its name."""
    for start, family in FAMILIES.items():
        if method.startswith(start):
            return family
    return "Without a memory"


def study_shapes(studies: Iterable[str]) -> dict[str, str]:
    """A shape of mark a study, in the order in which they are first named."""
    names = list(dict.fromkeys(studies))
    return {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(names)}


def study_dashes(studies: Iterable[str]) -> dict[str, str]:
    """A line style for each study, in their order; the last one serves all that are left."""
    styles = list(DASHES)
    named = enumerate(dict.fromkeys(studies))
    return {study: styles[min(place, len(styles) - 1)] for place, study in named}


def text_colour(colour: ColorType) -> tuple[float, float, float]:
    """`colour` dark enough to be read as text on white (WCAG contrast of 4.5 or more)."""
    red, green, blue = to_rgb(colour)
    while _contrast_with_white((red, green, blue)) < 4.5:
        red, green, blue = 0.95 * red, 0.95 * green, 0.95 * blue
    return red, green, blue


def ink_on(colour: ColorType) -> str:
    """Black or white, whichever is read better on `colour` (a WCAG contrast of 4.5 or more)."""
    return "white" if _contrast_with_white(to_rgb(colour)) > 21**0.5 else "black"  # 21: of the two


def _contrast_with_white(rgb: Sequence[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 1.05 / (luminance + 0.05)


def shade(colour: ColorType, strength: float) -> tuple[float, float, float]:
    """`colour` mixed with white; strength 1 leaves it as it is, 0 gives white."""
    red, green, blue = (1 - strength * (1 - channel) for channel in to_rgb(colour))
    return red, green, blue
