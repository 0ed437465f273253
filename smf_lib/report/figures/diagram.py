"""A drawing of the product-key lookup (Lample et al., 2019), from query to value rows."""

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from .style import COLOURS, GREY, Figure, new_figure, styled

FIRST = COLOURS["lora"]
SECOND = COLOURS["smf-tfidf"]
READ = COLOURS["smf-kl"]
CHOSEN = COLOURS["full"]
PALE = "#f1f1f1"
KEYS = 6
TOP_FIRST, TOP_SECOND = (1, 3), (0, 4)
BEST = ((1, 0), (1, 4))  # the best pair, and one that shares a sub-key with it
TRAINED = ((1, 4),)


@styled
def memory_diagram() -> Figure:
    """Query halves, two lists of sub-keys, candidate pairs, rows read, rows updated."""
    figure = new_figure(5.0)
    figure.set_layout_engine("none")
    ax = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    ax.set(xlim=(0, 16), ylim=(0, 10))
    ax.axis("off")
    _query(ax)
    _sub_keys(ax, 3.6, 5.55, FIRST, TOP_FIRST, "first sub-keys")
    _sub_keys(ax, 3.6, 1.35, SECOND, TOP_SECOND, "second sub-keys")
    _arrow(ax, (1.75, 6.2), (3.45, 7.0))
    _arrow(ax, (1.75, 3.6), (3.45, 2.8))
    _grid(ax)
    _arrow(ax, (6.2, 7.0), (7.35, 6.3))
    _arrow(ax, (6.2, 2.8), (7.35, 3.6))
    _values(ax)
    _output(ax)
    _steps(ax)
    caption = (
        "A product-key lookup, drawn with 6 sub-keys a half and the best 2 of each. The query is "
        "cut in two halves, and each half is compared with its own short list of sub-keys. The "
        f"best of both lists make {len(TOP_FIRST) * len(TOP_SECOND)} candidate pairs, and a pair "
        f"names a row among {KEYS * KEYS}. The best {len(BEST)} pairs are read: the output is "
        "their value rows weighted by softmax. Sparse finetuning changes only selected rows."
    )
    alt = (
        "Diagram, from left to right: a query cut into two halves; each half points to its own "
        "list of six sub-keys, of which two are marked; a six by six grid where the marked "
        "sub-keys meet in four cells, two of them filled; two rows of the value table that "
        "these cells name, one of them marked as selected for the update; their weighted sum as "
        "output."
    )
    return Figure(figure, caption, alt)


def _box(ax: Axes, x: float, y: float, width: float, height: float, **style) -> None:
    ax.add_patch(
        Rectangle((x, y), width, height, **({"edgecolor": "white", "linewidth": 1.2} | style))
    )


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], **style) -> None:
    settings = {"color": GREY, "linewidth": 1.2, "arrowstyle": "-|>", "mutation_scale": 11}
    ax.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **(settings | style)))


def _text(ax: Axes, x: float, y: float, text: str, **style) -> None:
    ax.text(
        x, y, text, **({"ha": "center", "va": "center", "size": 10, "color": "#333333"} | style)
    )


def _query(ax: Axes) -> None:
    """The query as a column of cells, upper half and lower half in their colours."""
    for row in range(8):
        colour = FIRST if row >= 4 else SECOND
        _box(ax, 1.0, 2.9 + 0.5 * row, 0.6, 0.5, facecolor=colour)
    _text(ax, 1.3, 7.35, "query")
    _text(ax, 0.65, 5.9, "first half", rotation=90, size=9)
    _text(ax, 0.65, 3.9, "second half", rotation=90, size=9)


def _sub_keys(ax: Axes, x: float, y: float, colour: str, top: tuple[int, ...], title: str) -> None:
    """A list of sub-keys; the best ones are filled and named by their score's rank."""
    for key in range(KEYS):
        best = key in top
        row = y + 0.5 * (KEYS - 1 - key)
        _box(ax, x, row, 1.7, 0.45, facecolor=colour if best else PALE)
        _text(
            ax,
            x + 0.85,
            row + 0.22,
            f"sub-key {key + 1}",
            size=8.5,
            color="#222222" if best else "#777777",
        )
        if best:
            _text(ax, x + 1.82, row + 0.22, "top", size=8.5, ha="left")
    _text(ax, x + 0.85, y + 3.3, title)


def _grid(ax: Axes) -> None:
    """All pairs of sub-keys; candidates are outlined, the best of them filled."""
    x, y, cell = 7.5, 3.35, 0.52
    for first in range(KEYS):
        for second in range(KEYS):
            pair = (first, second)
            candidate = first in TOP_FIRST and second in TOP_SECOND
            colour = READ if pair in BEST else (PALE if not candidate else "#cfe3f1")
            _box(ax, x + cell * second, y + cell * (KEYS - 1 - first), cell, cell, facecolor=colour)
    for first in TOP_FIRST:
        _box(ax, x - 0.14, y + cell * (KEYS - 1 - first) + 0.06, 0.1, cell - 0.12, facecolor=FIRST)
    for second in TOP_SECOND:
        _box(ax, x + cell * second + 0.06, y - 0.14, cell - 0.12, 0.1, facecolor=SECOND)
    _text(ax, x + 3 * cell, y + KEYS * cell + 0.35, "all pairs")
    _text(ax, x + 3 * cell, y - 0.5, "candidates: top x top", size=9)


def _values(ax: Axes) -> None:
    """The value table, a row a pair; rows read are coloured, rows selected outlined."""
    x, y, width, height = 11.9, 1.75, 1.6, 0.19
    cell, grid_x, grid_y = 0.52, 7.5, 3.35
    pairs = [(first, second) for first in range(KEYS) for second in range(KEYS)]
    tops = {pair: y + height * (len(pairs) - 1 - index) for index, pair in enumerate(pairs)}
    for pair, row in tops.items():
        colour = READ if pair in BEST else PALE
        _box(ax, x, row, width, height, facecolor=colour, linewidth=0.6)
    for pair in BEST:
        row = tops[pair]
        start = (grid_x + cell * (pair[1] + 1), grid_y + cell * (KEYS - 1 - pair[0]) + cell / 2)
        _arrow(ax, start, (x - 0.06, row + height / 2), color=READ, linewidth=1.0)
        _text(
            ax,
            x + width + 0.12,
            row + height / 2,
            f"pair {pair[0] + 1}, {pair[1] + 1}",
            ha="left",
            size=8.5,
        )
        if pair in TRAINED:
            _box(
                ax,
                x,
                row,
                width,
                height,
                facecolor="none",
                edgecolor=CHOSEN,
                linewidth=2.2,
                zorder=3,
            )
    _text(ax, x + width / 2, y + height * len(pairs) + 0.3, f"{len(pairs)} value rows")


def _output(ax: Axes) -> None:
    """The weighted sum of the rows read."""
    _arrow(ax, (13.65, 5.3), (14.55, 5.3))
    ax.add_patch(
        FancyBboxPatch(
            (14.65, 4.9),
            1.1,
            0.8,
            boxstyle="round,pad=0.05",
            facecolor="white",
            edgecolor=READ,
            linewidth=1.4,
        )
    )
    _text(ax, 15.2, 5.3, "output", size=9.5)
    _text(ax, 15.2, 3.3, "softmax-\nweighted sum", size=8.5, va="center")


def _steps(ax: Axes) -> None:
    """What happens in each column, and the key of the two marks."""
    _box(ax, 7.4, 0.95, 0.45, 0.3, facecolor=READ)
    _text(ax, 8.0, 1.1, "read for this token", ha="left", size=9)
    _box(ax, 7.4, 0.4, 0.45, 0.3, facecolor=READ, edgecolor=CHOSEN, linewidth=2.2)
    _text(
        ax,
        8.0,
        0.55,
        "read and selected: only such rows are changed by training",
        ha="left",
        size=9,
    )
    for x, text in (
        (1.3, "1 split"),
        (4.45, "2 score each half"),
        (9.06, "3 combine"),
        (12.7, "4 read rows"),
        (15.2, "5 add up"),
    ):
        _text(ax, x, 9.55, text, weight="bold", color=GREY)
